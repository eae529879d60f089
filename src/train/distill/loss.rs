//! How far a student's vectors are from the teacher's.

use candle_core::{D, Result as CandleResult, Tensor};
use candle_nn::ops::log_softmax;

use crate::train::model::decoder::normalize;

/// `mse_weight * mean |s - t|^2 + cosine_weight * mean (1 - cos(s, t))`, and the mean cosine, out of the graph.
pub(super) fn distillation_loss(
    student: &Tensor,
    teacher: &Tensor,
    mse_weight: f64,
    cosine_weight: f64,
) -> CandleResult<(Tensor, Tensor)> {
    let square = (student - teacher)?.sqr()?.sum(1)?.mean(0)?;
    let cosine = (normalize(student)? * normalize(teacher)?)?.sum(1)?.mean(0)?;
    let mean = cosine.detach();
    let loss = ((square * mse_weight)? + ((1.0 - cosine)? * cosine_weight)?)?;
    Ok((loss, mean))
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
    let spread =
        |rows: &Tensor| log_softmax(&(scores(rows, others, temperature)? + &own)?, D::Minus1);
    divergence(&spread(teacher)?, &spread(student)?)
}

/// How a student searches the documents, `[m, dimensions]`: `score_weight` times how far its distribution over them is from the
/// teacher's, as in [`score_loss`], and `own_weight` times the mean of `-log q(own document)`, where a row has one among them.
pub(super) fn search_loss(
    student: &Tensor,
    teacher: &Tensor,
    documents: &Tensor,
    own: &[Option<usize>],
    (score_weight, own_weight): (f64, f64),
    temperature: f64,
) -> CandleResult<Tensor> {
    let spread = |rows: &Tensor| log_softmax(&scores(rows, documents, temperature)?, D::Minus1);
    let given = spread(student)?;
    let loss = (divergence(&spread(teacher)?, &given)? * score_weight)?;
    let column = |values: Vec<f32>| Tensor::from_vec(values, (own.len(), 1), given.device());
    let at: Vec<u32> = own.iter().map(|own| own.unwrap_or(0) as u32).collect();
    let at = Tensor::from_vec(at, (own.len(), 1), given.device())?;
    let known = column(own.iter().map(|own| f32::from(u8::from(own.is_some()))).collect())?;
    let found = (given.gather(&at, 1)? * known)?.sum(0)?.squeeze(0)?;
    loss - (found * (own_weight / own.len() as f64))?
}

/// Cosines over the temperature, `others` being of unit length.
fn scores(rows: &Tensor, others: &Tensor, temperature: f64) -> CandleResult<Tensor> {
    normalize(rows)?.matmul(&others.t()?)? / temperature
}

/// The mean over rows of `KL(wanted || given)`, both as logarithms.
fn divergence(wanted: &Tensor, given: &Tensor) -> CandleResult<Tensor> {
    (wanted.exp()? * (wanted - given)?)?.sum(1)?.mean(0)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

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
    fn a_search_is_compared_and_its_own_document_wanted() {
        let t = |v: Vec<f32>, n| Tensor::from_vec(v, (n, 2), &Device::Cpu).unwrap();
        let (teacher, documents) = (t(vec![1., 0., 1., 0.], 2), t(vec![1., 0., 0., 1.], 2));
        let student = Var::from_tensor(&t(vec![0., 2., 1., 0.], 2)).unwrap();
        let of = |own: &[Option<usize>], weights| {
            let loss = search_loss(&student, &teacher, &documents, own, weights, 1.0);
            loss.unwrap()
        };
        let value = |loss: &Tensor| loss.to_scalar::<f32>().unwrap();
        let e = 1f32.exp();
        // The first row has the scores turned round, the second has them right.
        let turned = (e - 1.0) / (e + 1.0) / 2.0;
        assert!((value(&of(&[None, None], (1.0, 1.0))) - turned).abs() < 1e-6);
        // -log softmax of 0 beside 1, and of 1 beside 0.
        let (far, near) = ((1.0 + e).ln(), (1.0 + 1.0 / e).ln());
        let both = of(&[Some(0), Some(0)], (0.0, 1.0));
        assert!((value(&both) - (far + near) / 2.0).abs() < 1e-6);
        let one = of(&[None, Some(0)], (2.0, 3.0));
        assert!((value(&one) - (2.0 * turned + 3.0 * near / 2.0)).abs() < 1e-5);
        // Down the gradient the first row turns to its own document.
        let gradients = both.backward().unwrap();
        let slope = gradients.get(&student).unwrap().to_vec2::<f32>().unwrap();
        assert!(slope[0][0] < -0.01, "{slope:?}");
    }

    #[test]
    fn the_loss_is_the_papers() {
        let t = |v: Vec<f32>| Tensor::from_vec(v, (2, 2), &Device::Cpu).unwrap();
        let (student, teacher) = (t(vec![2., 0., 0., 1.]), t(vec![1., 0., 1., 0.]));
        let (loss, cosine) = distillation_loss(&student, &teacher, 2.0, 3.0).unwrap();
        // Squared distances 1 and 2; cosines 1 and 0.
        assert!((loss.to_scalar::<f32>().unwrap() - (2.0 * 1.5 + 3.0 * 0.5)).abs() < 1e-6);
        assert!((cosine.to_scalar::<f32>().unwrap() - 0.5).abs() < 1e-6);
    }
}
