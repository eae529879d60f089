//! What stage 1 makes small: InfoNCE over in-batch and hard negatives, with known and likely false negatives left out, and
//! how far the scores of a batch are from a teacher's.

use std::iter;

use candle_core::{D, DType, Result as CandleResult, Tensor};
use candle_nn::ops::log_softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::train::faults::Faults;
use crate::train::model::decoder::normalize;
use crate::train::options;

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

    /// Values that cannot work, with or without a teacher, by key.
    pub(super) fn faults(&self, teacher: bool) -> Vec<(String, Error)> {
        let mut faults = Faults::default();
        let taught = [("score_weight", self.score_weight), ("gram_weight", self.gram_weight)];
        faults.weights([("contrast_weight", self.contrast_weight), taught[0], taught[1]]);
        faults.temperature("score_temperature", self.score_temperature);
        faults.temperature("gram_temperature", self.gram_temperature);
        let margin = self.guide_margin.is_none_or(|margin| (0.0..=2.0).contains(&margin));
        faults.require(margin, "guide_margin", "must be in 0..=2");
        for (key, weight) in taught {
            let said = "compares with a teacher; name one in [teacher]";
            faults.require(teacher || weight <= 0.0, key, said);
        }
        for (at, cut) in self.matryoshka.iter().enumerate() {
            faults.require(*cut > 0, format!("matryoshka.{at}"), "must be above 0");
        }
        faults.0
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
    /// scores highest; in a batch without queries the share of texts whose nearest other text is the teacher's. Both are
    /// tensors without dimensions, and nothing is read back for them.
    pub(super) fn loss(&self, vectors: &Tensor) -> CandleResult<(Tensor, Tensor)> {
        let (mut loss, accuracy) = self.whole(vectors)?;
        for cut in &self.options.matryoshka {
            let part = normalize(&vectors.narrow(1, 0, *cut as usize)?)?;
            loss = (loss + self.whole(&part)?.0)?;
        }
        Ok(((loss / (1 + self.options.matryoshka.len()) as f64)?, accuracy))
    }

    fn whole(&self, vectors: &Tensor) -> CandleResult<(Tensor, Tensor)> {
        let (options, rows) = (self.options, self.contrast.positive.len());
        let zero = Tensor::zeros((), DType::F32, vectors.device())?;
        let (mut loss, mut accuracy) = (zero.clone(), zero);
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
                accuracy = share_alike(&own.argmax(1)?, &taught.argmax(1)?)?;
            }
        }
        Ok((loss, accuracy))
    }

    /// InfoNCE of `[queries, documents]` cosines, and the share of queries whose own document scores highest.
    fn contrast(&self, scores: &Tensor, taught: Option<&Tensor>) -> CandleResult<(Tensor, Tensor)> {
        let Contrast { positive, temperatures, weights, .. } = self.contrast;
        let (rows, device) = (positive.len(), scores.device());
        let positive = Tensor::from_slice(positive, rows, device)?;
        let answers = self.answers(&positive, scores.dim(1)?, taught)?;
        let temperatures = Tensor::from_slice(temperatures, (rows, 1), device)?;
        let weights: Vec<f32> = weights.iter().map(|w| -w / rows as f32).collect();
        let weights = Tensor::from_vec(weights, rows, device)?;
        let term = |scores: &Tensor, own: &Tensor, answers: &Tensor| -> CandleResult<_> {
            let logits = (scores.broadcast_div(&temperatures)? + hidden(answers, own)?)?;
            let log = log_softmax(&logits, D::Minus1)?;
            let own = log.gather(&own.unsqueeze(1)?, 1)?.squeeze(1)?;
            Ok(((own * &weights)?.sum_all()?, logits))
        };
        let (mut loss, logits) = term(scores, &positive, &answers)?;
        let accuracy = share_alike(&logits.argmax(1)?, &positive)?;
        if self.options.both_directions {
            // Row i: the document of query i against all queries.
            let turned = |all: &Tensor| all.t()?.contiguous()?.index_select(&positive, 0);
            let own = Tensor::arange(0u32, rows as u32, device)?;
            loss = ((loss + term(&turned(scores)?, &own, &turned(&answers)?)?.0)? * 0.5)?;
        }
        Ok((loss, accuracy))
    }

    /// 1 where a column is an answer of a row, as far as it is known, its `positive` among them; else 0: `[rows, columns]`.
    fn answers(
        &self,
        positive: &Tensor,
        columns: usize,
        taught: Option<&Tensor>,
    ) -> CandleResult<Tensor> {
        let (rows, device) = (positive.dim(0)?, positive.device());
        let Contrast { positive: own, masked, .. } = self.contrast;
        // Every row lists as many: its positive fills it up.
        let most = 1 + masked.iter().map(Vec::len).max().unwrap_or(0);
        let mut listed: Vec<u32> = Vec::with_capacity(rows * most);
        for (own, masked) in own.iter().zip(masked) {
            listed.extend(masked);
            listed.extend(iter::repeat_n(*own, most - masked.len()));
        }
        let listed = Tensor::from_vec(listed, (rows, most), device)?;
        let ones = Tensor::ones((rows, most), DType::F32, device)?;
        let none = Tensor::zeros((rows, columns), DType::F32, device)?;
        let answers = none.scatter(&listed, &ones, 1)?;
        let (Some(margin), Some(taught)) = (self.options.guide_margin, taught) else {
            return Ok(answers);
        };
        let limit = (taught.gather(&positive.unsqueeze(1)?, 1)? - margin)?;
        answers.maximum(&taught.broadcast_gt(&limit)?.to_dtype(DType::F32)?)
    }
}

/// What takes `answers`, `[rows, columns]`, out of a softmax: [`HIDDEN`] where they are 1, but for each row's `own` column,
/// else 0.
fn hidden(answers: &Tensor, own: &Tensor) -> CandleResult<Tensor> {
    let seen = Tensor::zeros((own.dim(0)?, 1), DType::F32, own.device())?;
    (answers * f64::from(HIDDEN))?.scatter(&own.unsqueeze(1)?, &seen, 1)
}

/// `KL(softmax(taught / t) || softmax(own / t))` of every row.
fn divergence(taught: &Tensor, own: &Tensor, temperature: f64) -> CandleResult<Tensor> {
    let log = |scores: &Tensor| log_softmax(&(scores / temperature)?, D::Minus1);
    let (wanted, given) = (log(taught)?, log(own)?);
    (wanted.exp()? * (wanted - given)?)?.sum(1)
}

/// The share of rows in which two lists of columns agree.
fn share_alike(a: &Tensor, b: &Tensor) -> CandleResult<Tensor> {
    let alike = a.eq(b)?.to_dtype(DType::F32)?.sum_all()?;
    // Divided by their number: times its inverse, the share of all rows could be a little less than 1.
    alike / Tensor::full(a.elem_count() as f32, (), a.device())?
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
        assert_eq!(hits.to_scalar::<f32>().unwrap(), 1.0);
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
        assert!(options.faults(true).is_empty());
        let [(key, error)] = &options.faults(false)[..] else { panic!("one fault") };
        assert_eq!(key, "gram_weight");
        assert!(error.to_string().contains("[teacher]"), "{error}");
    }
}
