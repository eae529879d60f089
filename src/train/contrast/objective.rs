//! What stage 1 makes small: InfoNCE over in-batch and hard negatives, with known and likely false negatives left out, and
//! how far the scores of a batch are from a teacher's.

use candle_core::{D, DType, Result as CandleResult, Tensor};
use candle_nn::ops::log_softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::model::decoder::normalize;
use crate::train::options::{self, check_temperature};

/// Large enough to vanish in a softmax; minus infinity would turn into NaN.
const HIDDEN: f32 = -1e9;

/// Terms of the loss. Each is a mean over the rows of the batch, times its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossOptions {
    /// Weight of InfoNCE (its temperature is the recipe's `temperature`).
    pub contrast_weight: f64,
    /// Contrast every document with the queries of the batch, too: half the term each.
    pub both_directions: bool,
    /// A negative that the teacher scores higher than the positive less this is taken for an answer and left out; hard
    /// negatives that were mined with scores are judged by those even without a teacher. Default: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guide_margin: Option<f64>,
    /// Weight of the Kullback-Leibler divergence of the student's scores of the batch's documents for each query from the
    /// teacher's.
    pub score_weight: f64,
    /// Both sides' cosines are divided by it before they become distributions.
    pub score_temperature: f64,
    /// Weight of the same over the scores of all texts of the batch for each text, its own left out.
    pub gram_weight: f64,
    /// Its temperature.
    pub gram_temperature: f64,
    /// Numbers of leading dimensions that are to be vectors of their own (Matryoshka representation learning): the loss is
    /// the mean over these cuts and the whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matryoshka: Vec<u32>,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self {
            contrast_weight: 1.0,
            both_directions: false,
            guide_margin: None,
            score_weight: 0.0,
            score_temperature: options::temperature(),
            gram_weight: 0.0,
            gram_temperature: options::temperature(),
            matryoshka: Vec::new(),
        }
    }
}

impl LossOptions {
    /// Whether a term compares with a teacher.
    pub(super) fn has_teacher_terms(&self) -> bool {
        self.score_weight > 0.0 || self.gram_weight > 0.0
    }

    pub(super) fn validate(&self, teacher: bool) -> Result<()> {
        let weights = [self.contrast_weight, self.score_weight, self.gram_weight];
        if !weights.iter().all(|w| w.is_finite() && *w >= 0.0) || weights.iter().sum::<f64>() == 0.0
        {
            return Err(Error::config("the weights of loss must not be negative, nor all 0"));
        }
        check_temperature(self.score_temperature, "loss.score_temperature")?;
        check_temperature(self.gram_temperature, "loss.gram_temperature")?;
        if self.guide_margin.is_some_and(|margin| !(0.0..=2.0).contains(&margin)) {
            return Err(Error::config("loss.guide_margin must be in 0..=2"));
        }
        if self.has_teacher_terms() && !teacher {
            return Err(Error::config(
                "loss.score_weight and loss.gram_weight compare with a teacher; name one in [teacher]",
            ));
        }
        if self.matryoshka.contains(&0) {
            return Err(Error::config("loss.matryoshka must be above 0"));
        }
        Ok(())
    }
}

/// One contrastive batch: `queries` rows against `candidates` columns.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Contrast {
    /// Column of each query's own document.
    pub(super) positive: Vec<u32>,
    /// Per query the columns that also answer it, so they must not count as negatives.
    pub(super) masked: Vec<Vec<u32>>,
    /// Weight of each query; 1 is the mean over everything that is trained on, not over the batch.
    pub(super) weights: Vec<f32>,
    /// What each query's cosines are divided by.
    pub(super) temperatures: Vec<f32>,
    /// Number of columns.
    pub(super) candidates: usize,
}

/// What the vectors of a batch are compared with.
#[derive(Clone, Copy)]
pub(super) struct Objective<'a> {
    pub(super) options: &'a LossOptions,
    pub(super) contrast: &'a Contrast,
    /// The teacher's unit vectors of the same texts.
    pub(super) teacher: Option<&'a Tensor>,
}

impl Objective<'_> {
    /// The loss of unit vectors, queries before documents, `[texts, dimensions]`, and the share of queries whose own document
    /// scores highest; in a batch without queries the share of texts whose nearest other text is the teacher's.
    pub(super) fn loss(&self, vectors: &Tensor) -> CandleResult<(Tensor, f32)> {
        let (mut loss, accuracy) = self.whole(vectors)?;
        for cut in &self.options.matryoshka {
            let part = normalize(&vectors.narrow(1, 0, *cut as usize)?)?;
            loss = (loss + self.whole(&part)?.0)?;
        }
        Ok(((loss / (1 + self.options.matryoshka.len()) as f64)?, accuracy))
    }

    fn whole(&self, vectors: &Tensor) -> CandleResult<(Tensor, f32)> {
        let (options, rows) = (self.options, self.contrast.positive.len());
        let zero = Tensor::zeros((), DType::F32, vectors.device())?;
        let (mut loss, mut accuracy) = (zero, 0.0);
        let columns = vectors.dim(0)? - rows;
        let scores = |all: &Tensor| -> CandleResult<Tensor> {
            all.narrow(0, 0, rows)?.matmul(&all.narrow(0, rows, columns)?.t()?)
        };
        if rows > 0 {
            let taught = self.teacher.map(scores).transpose()?;
            let own = scores(vectors)?;
            let (contrast, hits) = self.contrast(&own, taught.as_ref())?;
            accuracy = hits;
            if options.contrast_weight > 0.0 {
                loss = (loss + (contrast * options.contrast_weight)?)?;
            }
            if let Some(taught) = taught.filter(|_| options.score_weight > 0.0) {
                let weights = Tensor::from_slice(&self.contrast.weights, rows, own.device())?;
                let far = (divergence(&taught, &own, options.score_temperature)? * weights)?;
                loss = (loss + (far.mean(0)? * options.score_weight)?)?;
            }
        }
        if let Some(teacher) = self.teacher.filter(|_| options.gram_weight > 0.0) {
            let hidden =
                (Tensor::eye(rows + columns, DType::F32, vectors.device())? * f64::from(HIDDEN))?;
            let among = |all: &Tensor| all.matmul(&all.t()?)? + &hidden;
            let (taught, own) = (among(teacher)?, among(vectors)?);
            let far = divergence(&taught, &own, options.gram_temperature)?.mean(0)?;
            loss = (loss + (far * options.gram_weight)?)?;
            if rows == 0 {
                accuracy = share_alike(&best(&own)?, &best(&taught)?);
            }
        }
        Ok((loss, accuracy))
    }

    /// InfoNCE of `[queries, documents]` cosines, and the share of queries whose own document scores highest.
    fn contrast(&self, scores: &Tensor, taught: Option<&Tensor>) -> CandleResult<(Tensor, f32)> {
        let Contrast { positive, masked, temperatures, .. } = self.contrast;
        let (rows, columns) = scores.dims2()?;
        // Whether a column is an answer of a row beside its positive, as far as it is known.
        let mut answers = vec![false; rows * columns];
        for (row, masked) in masked.iter().enumerate() {
            masked.iter().for_each(|column| answers[row * columns + *column as usize] = true);
        }
        if let (Some(margin), Some(taught)) = (self.options.guide_margin, taught) {
            let taught = taught.to_vec2::<f32>()?;
            for (row, taught) in taught.iter().enumerate() {
                let limit = taught[positive[row] as usize] - margin as f32;
                for (column, score) in taught.iter().enumerate() {
                    answers[row * columns + column] |= *score > limit;
                }
            }
        }
        let device = scores.device();
        let term = |logits: Tensor, own: &[u32], hidden: Vec<f32>| -> CandleResult<_> {
            let shape = logits.dims2()?;
            let temperatures = Tensor::from_slice(temperatures, (rows, 1), device)?;
            let logits = logits.broadcast_div(&temperatures)?;
            let logits = (logits + Tensor::from_vec(hidden, shape, device)?)?;
            let log = log_softmax(&logits, D::Minus1)?;
            let own = log.gather(&Tensor::from_slice(own, (rows, 1), device)?, 1)?.squeeze(1)?;
            let weights: Vec<f32> =
                self.contrast.weights.iter().map(|w| -w / rows as f32).collect();
            Ok(((own * Tensor::from_vec(weights, rows, device)?)?.sum_all()?, logits))
        };
        let hidden = |is_hidden: bool| if is_hidden { HIDDEN } else { 0.0 };
        let mask = (0..rows * columns)
            .map(|at| hidden(answers[at] && positive[at / columns] as usize != at % columns))
            .collect();
        let (mut loss, logits) = term(scores.clone(), positive, mask)?;
        let accuracy = share_alike(&best(&logits)?, positive);
        if self.options.both_directions {
            // Row i: the document of query i against all queries.
            let own = Tensor::from_slice(positive, rows, device)?;
            let turned = scores.t()?.contiguous()?.index_select(&own, 0)?;
            let mask = (0..rows * rows)
                .map(|at| {
                    let (row, other) = (at / rows, at % rows);
                    let document = positive[row];
                    let answer = answers[other * columns + document as usize];
                    hidden(row != other && (answer || positive[other] == document))
                })
                .collect();
            let all: Vec<u32> = (0..rows as u32).collect();
            loss = ((loss + term(turned, &all, mask)?.0)? * 0.5)?;
        }
        Ok((loss, accuracy))
    }
}

/// `KL(softmax(taught / t) || softmax(own / t))` of every row.
fn divergence(taught: &Tensor, own: &Tensor, temperature: f64) -> CandleResult<Tensor> {
    let log = |scores: &Tensor| log_softmax(&(scores / temperature)?, D::Minus1);
    let (wanted, given) = (log(taught)?, log(own)?);
    (wanted.exp()? * (wanted - given)?)?.sum(1)
}

/// The column with the highest score of every row.
fn best(scores: &Tensor) -> CandleResult<Vec<u32>> {
    scores.argmax(1)?.to_dtype(DType::U32)?.to_vec1()
}

fn share_alike(a: &[u32], b: &[u32]) -> f32 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f32 / a.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn contrast() -> Contrast {
        Contrast {
            positive: vec![0, 1],
            masked: vec![vec![2], vec![]],
            weights: vec![0.5, 1.5],
            temperatures: vec![1.0, 1.0],
            candidates: 3,
        }
    }

    fn vectors() -> Var {
        let rows = vec![1f32, 0., 0., 1., 1., 0., 0., 1., 1., 0.];
        Var::from_vec(rows, (5, 2), &Device::Cpu).unwrap()
    }

    fn value(options: &LossOptions, contrast: &Contrast, teacher: Option<&Tensor>) -> f32 {
        let (loss, _) = Objective { options, contrast, teacher }.loss(&vectors()).unwrap();
        loss.to_scalar().unwrap()
    }

    #[test]
    fn masked_candidates_do_not_count() {
        let (options, mut contrast) = (LossOptions::default(), contrast());
        let objective = Objective { options: &options, contrast: &contrast, teacher: None };
        let vectors = vectors();
        let (loss, hits) = objective.loss(&vectors).unwrap();
        let e = 1f32.exp();
        let (first, second) = (-(e / (e + 1.0)).ln(), -(e / (e + 2.0)).ln());
        let expected = (0.5 * first + 1.5 * second) / 2.0;
        assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
        assert_eq!(hits, 1.0);
        let grads = loss.backward().unwrap();
        assert!(grads.get(&vectors).unwrap().to_vec2::<f32>().unwrap()[0][0].is_finite());
        contrast.masked[0].clear();
        assert!(value(&options, &contrast, None) > expected);
    }

    /// A source's weight counts in a batch that holds no other source.
    #[test]
    fn a_batch_of_light_pairs_has_a_light_loss() {
        let (options, mut contrast) = (LossOptions::default(), contrast());
        contrast.weights = vec![1.0; 2];
        let whole = value(&options, &contrast, None);
        contrast.weights = vec![0.25; 2];
        assert!((value(&options, &contrast, None) - 0.25 * whole).abs() < 1e-6);
    }

    #[test]
    fn the_teacher_takes_likely_answers_out() {
        // The teacher finds the second query's own document and the third document alike.
        let rows = vec![1f32, 0., 0., 1., 1., 0., 0., 1., 0., 1.];
        let teacher = Tensor::from_vec(rows, (5, 2), &Device::Cpu).unwrap();
        let mut options = LossOptions { guide_margin: Some(0.05), ..LossOptions::default() };
        let mut contrast = contrast();
        contrast.weights = vec![0.0, 1.0];
        let e = 1f32.exp();
        let two = |a: f32, b: f32| -(a / (a + b)).ln() / 2.0;
        assert!((value(&options, &contrast, Some(&teacher)) - two(e, 1.0)).abs() < 1e-6);
        // Per-query temperatures; and documents against queries, where the other query is a negative.
        contrast.temperatures[1] = 0.5;
        assert!((value(&options, &contrast, Some(&teacher)) - two(e * e, 1.0)).abs() < 1e-6);
        options.both_directions = true;
        assert!((value(&options, &contrast, Some(&teacher)) - two(e * e, 1.0)).abs() < 1e-6);
    }

    #[test]
    fn weights_without_a_teacher_are_refused() {
        let options = LossOptions { gram_weight: 1.0, ..LossOptions::default() };
        assert!(options.validate(true).is_ok());
        assert!(options.validate(false).unwrap_err().to_string().contains("[teacher]"));
    }
}
