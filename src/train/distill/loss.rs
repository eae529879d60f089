//! How far a student's vectors are from the teacher's.

use candle_core::{D, Result as CandleResult, Tensor};
use candle_nn::ops::log_softmax;

use crate::train::model::decoder::normalize;

/// `mse_weight * mean |s - t|^2 + cosine_weight * mean (1 - cos(s, t))`, and the mean cosine.
pub(super) fn distillation_loss(
    student: &Tensor,
    teacher: &Tensor,
    mse_weight: f64,
    cosine_weight: f64,
) -> CandleResult<(Tensor, f32)> {
    let square = (student - teacher)?.sqr()?.sum(1)?.mean(0)?;
    let cosine = (normalize(student)? * normalize(teacher)?)?.sum(1)?.mean(0)?;
    let value = cosine.to_scalar::<f32>()?;
    let loss = ((square * mse_weight)? + ((1.0 - cosine)? * cosine_weight)?)?;
    Ok((loss, value))
}

/// `mean KL(p || q)`: p and q are how `teacher` and `student`, `[n, dimensions]`, each spread over `others`,
/// `[m, dimensions]`, by the softmax of their cosines to them over the temperature. Row i's own text is number `first + i` of
/// the others and left out: at a low temperature it would take almost all of what the teacher spreads, and say nothing.
pub(super) fn score_loss(
    student: &Tensor,
    teacher: &Tensor,
    others: &Tensor,
    first: usize,
    temperature: f64,
) -> CandleResult<Tensor> {
    let (rows, columns) = (teacher.dim(0)?, others.dim(0)?);
    let mut own = vec![0f32; rows * columns];
    (0..rows).for_each(|row| own[row * columns + first + row] = -1e9);
    let own = Tensor::from_vec(own, (rows, columns), teacher.device())?;
    let spread = |rows: &Tensor| {
        let scores = (normalize(rows)?.matmul(&others.t()?)? / temperature)?;
        log_softmax(&(scores + &own)?, D::Minus1)
    };
    let (wanted, given) = (spread(teacher)?, spread(student)?);
    (wanted.exp()? * (wanted - given)?)?.sum(1)?.mean(0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn scores_are_compared_as_distributions() {
        let t = |v: Vec<f32>, n| Tensor::from_vec(v, (n, 2), &Device::Cpu).unwrap();
        let teacher = t(vec![1., 0.], 1);
        // Its own text last.
        let others = t(vec![1., 0., 0., 1., 1., 0.], 3);
        let of = |student: Vec<f32>| {
            let loss = score_loss(&t(student, 1), &teacher, &others, 2, 1.0).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        // A student's length does not count.
        assert!(of(vec![3., 0.]).abs() < 1e-6);
        // Scores turned round: (e - 1) / (e + 1) * 1, whatever the own text would score.
        let e = 1f32.exp();
        assert!((of(vec![0., 2.]) - (e - 1.0) / (e + 1.0)).abs() < 1e-6);
    }

    /// At the temperature that is used, a text's own column holds nearly all of the teacher's mass: with it in, a student
    /// that has every other score wrong has hardly a loss.
    #[test]
    fn a_texts_own_column_is_left_out() {
        let t = |v: Vec<f32>, n| Tensor::from_vec(v, (n, 3), &Device::Cpu).unwrap();
        let teacher = t(vec![1., 0., 0., 0.5, 0.866, 0., 0.5, 0., 0.866], 3);
        // As near to its own text, but the two others have changed places in its eyes.
        let student = t(vec![0.97, -0.2, 0.13], 1);
        let own = teacher.narrow(0, 0, 1).unwrap();
        let loss = score_loss(&student, &own, &teacher, 0, 0.05).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap() > 1.0, "{loss}");
    }

    #[test]
    fn the_loss_is_the_papers() {
        let t = |v: Vec<f32>| Tensor::from_vec(v, (2, 2), &Device::Cpu).unwrap();
        let (student, teacher) = (t(vec![2., 0., 0., 1.]), t(vec![1., 0., 1., 0.]));
        let (loss, cosine) = distillation_loss(&student, &teacher, 2.0, 3.0).unwrap();
        // Squared distances 1 and 2; cosines 1 and 0.
        assert!((loss.to_scalar::<f32>().unwrap() - (2.0 * 1.5 + 3.0 * 0.5)).abs() < 1e-6);
        assert!((cosine - 0.5).abs() < 1e-6);
    }
}
