//! How good the towers are by pairs that are held out: nDCG of every source on its own, each query against its
//! documents and others of its source.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::batch::Batches;
use super::data::TrainData;
use super::input::{Side, TrainInput};
use super::options::TrainOptions;
use super::step::Model;
use crate::dataset::{Pair, PairSet, SplitMix64};
use crate::error::Result;
use crate::kernel::dot;
use crate::train::report::ValidationRecord;
use crate::train::tensors::numbers;

/// The number of a source that has no options of its own.
const NO_SOURCE: u32 = u32::MAX;

/// What is looked at.
pub(super) struct Dev<'a> {
    parts: Vec<Part<'a>>,
}

/// One source.
struct Part<'a> {
    name: String,
    source: u32,
    queries: Vec<&'a str>,
    documents: Vec<&'a str>,
    /// Columns that answer each query, its own document's first.
    answers: Vec<Vec<usize>>,
}

impl<'a> Dev<'a> {
    /// The held-out pairs of the training sources, and the sets that are held out whole.
    pub(super) fn new(data: &'a TrainData, options: &TrainOptions, batches: &Batches<'_>) -> Self {
        let name = |path: &Path| {
            path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        };
        let room = options.validation.documents;
        let mut parts = Vec::new();
        let pair = |at: &u32| &data.pairs.pairs[*at as usize];
        let sources: HashSet<u32> = batches.held_out.iter().map(|at| pair(at).source).collect();
        let mut sources: Vec<u32> = sources.into_iter().collect();
        sources.sort_unstable();
        for source in sources {
            let own = batches.held_out.iter().map(pair).filter(|pair| pair.source == source);
            let source_name = options.pairs.get(source as usize).map(|one| name(&one.path));
            let others = data.pairs.pairs.iter().filter(|pair| pair.source == source);
            let mut others: Vec<u32> = others.map(|pair| pair.document).collect();
            SplitMix64::new(options.seed ^ 0x4445_5600).shuffle(&mut others);
            let name = source_name.unwrap_or_else(|| "pairs".to_owned());
            parts.push(Part::new(name, source, &data.pairs, own, others, room));
        }
        for (set, source) in data.held_out.iter().zip(&options.validation.sets) {
            let mut others: Vec<u32> = (0..set.documents.len() as u32).collect();
            SplitMix64::new(options.seed ^ 0x4445_5601).shuffle(&mut others);
            let own = set.pairs.iter();
            parts.push(Part::new(name(&source.path), NO_SOURCE, set, own, others, room));
        }
        Self { parts }
    }

    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// A look after this many steps.
    pub(super) fn look(
        &self,
        model: &Model,
        input: &TrainInput<'_>,
        options: &TrainOptions,
        step: u64,
    ) -> Result<ValidationRecord> {
        let chunk = options.activation_tokens;
        let (mut loss, mut first, mut queries) = (0.0, 0.0, 0);
        let mut ndcg = BTreeMap::new();
        for (at, part) in self.parts.iter().enumerate() {
            let embed = |number, side, texts: &[&str]| -> Result<Vec<f32>> {
                let ids: Vec<Vec<u32>> = texts
                    .iter()
                    .map(|text| (input.tokenize)(side, part.source, text))
                    .collect::<Result<_>>()?;
                numbers(&model.encode(number, &ids, chunk)?)
            };
            let asked = embed(0, Side::Query, &part.queries)?;
            let known = embed(1, Side::Document, &part.documents)?;
            let width = known.len() / part.documents.len();
            let mut gain = 0.0;
            for (query, answers) in asked.chunks_exact(width).zip(&part.answers) {
                let scores: Vec<f32> =
                    known.chunks_exact(width).map(|document| dot(query, document)).collect();
                gain += ndcg_10(&scores, answers);
                let (nats, is_first) = contrast(&scores, answers, options.temperature);
                loss += nats;
                first += f64::from(u8::from(is_first));
            }
            queries += part.queries.len();
            let name = match ndcg.contains_key(&part.name) {
                true => format!("{} ({})", part.name, at + 1),
                false => part.name.clone(),
            };
            ndcg.insert(name, gain / part.queries.len() as f64);
        }
        let score = ndcg.values().sum::<f64>() / ndcg.len() as f64;
        let (loss, accuracy) = ((loss / queries as f64) as f32, (first / queries as f64) as f32);
        Ok(ValidationRecord { step, loss, accuracy, score, ndcg })
    }
}

impl<'a> Part<'a> {
    /// `others` are documents to tell the pairs' own from; documents that answer one of the queries come first, and all
    /// of them; then as many others as there is `room` for.
    fn new(
        name: String,
        source: u32,
        set: &'a PairSet,
        pairs: impl Iterator<Item = &'a Pair>,
        others: Vec<u32>,
        room: usize,
    ) -> Self {
        let mut columns: BTreeMap<u32, usize> = BTreeMap::new();
        let (mut queries, mut answers, mut documents) = (Vec::new(), Vec::new(), Vec::new());
        let mut column = |document: u32| {
            *columns.entry(document).or_insert_with(|| {
                documents.push(set.documents[document as usize].as_str());
                documents.len() - 1
            })
        };
        let pairs: Vec<&Pair> = pairs.collect();
        for pair in &pairs {
            queries.push(pair.query.as_str());
            answers.push(vec![column(pair.document)]);
        }
        for (pair, columns) in pairs.iter().zip(&mut answers) {
            let known = set.answers(&pair.query).iter();
            let other = known.map(|document| column(*document));
            let own = columns[0];
            columns.extend(other.filter(|column| *column != own));
        }
        for document in others {
            if column(document) + 1 >= room {
                break;
            }
        }
        Self { name, source, queries, documents, answers }
    }
}

/// Binary nDCG@10 of a query whose `answers` are these columns.
fn ndcg_10(scores: &[f32], answers: &[usize]) -> f64 {
    let gain = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let rank_of = |answer: usize| {
        let before = |(at, score): (usize, &f32)| {
            *score > scores[answer] || (*score == scores[answer] && at < answer)
        };
        match scores[answer].is_nan() {
            // A vector that is not a number finds nothing.
            true => usize::MAX,
            false => scores.iter().enumerate().filter(|one| before(*one)).count(),
        }
    };
    let found: f64 =
        answers.iter().map(|answer| rank_of(*answer)).filter(|rank| *rank < 10).map(gain).sum();
    found / (0..answers.len().min(10)).map(gain).sum::<f64>()
}

/// InfoNCE of the first answer against all that answers nothing, in nats, and whether it scores highest among them.
fn contrast(scores: &[f32], answers: &[usize], temperature: f64) -> (f64, bool) {
    let own = f64::from(scores[answers[0]]);
    let others = scores.iter().enumerate().filter(|(at, _)| !answers.contains(at));
    let ahead: Vec<f64> =
        others.map(|(_, score)| (f64::from(*score) - own) / temperature).collect();
    // Out of the sum, whose terms may be beyond all numbers at a low temperature.
    let most = ahead.iter().copied().fold(0.0, f64::max);
    let sum = (-most).exp() + ahead.iter().map(|ahead| (ahead - most).exp()).sum::<f64>();
    (most + sum.ln(), ahead.iter().all(|ahead| *ahead <= 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::PairSource;
    use crate::train::contrast::options::Order;
    use crate::train::tests_support::{tiny_data, tiny_options};

    #[test]
    fn measures_are_the_formula() {
        // Answers at ranks 2 and 4.
        let scores = [0.1, 0.9, 0.4, 0.8, 0.3];
        let exact = (1.0 / 3f64.log2() + 1.0 / 5f64.log2()) / (1.0 + 1.0 / 3f64.log2());
        assert!((ndcg_10(&scores, &[3, 4]) - exact).abs() < 1e-12);
        assert_eq!(ndcg_10(&[0.5; 20], &[0]), 1.0);
        assert_eq!(ndcg_10(&[0.5; 20], &[19]), 0.0);
        let (nats, is_first) = contrast(&scores, &[3, 1], 0.5);
        let others = [0.1f64, 0.4, 0.3].map(|score| ((score - 0.8) / 0.5).exp());
        assert!((nats - (1.0 + others.iter().sum::<f64>()).ln()).abs() < 1e-6);
        assert!(is_first && !contrast(&scores, &[2], 0.5).1);
        let (nats, is_first) = contrast(&[-1.0, 1.0], &[0], 1e-3);
        assert!((nats - 2000.0).abs() < 1e-6 && !is_first, "{nats}");
        let none = [f32::NAN; 20];
        assert_eq!(ndcg_10(&none, &[0]), 0.0);
        assert!(contrast(&none, &[0], 0.5).0.is_nan());
    }

    #[test]
    fn every_source_is_looked_at_on_its_own_with_others_of_it() {
        let (mut data, mut options) = (tiny_data(), tiny_options());
        for (at, pair) in data.pairs.pairs.iter_mut().enumerate() {
            pair.source = (at % 3) as u32;
        }
        options.pairs = ["a", "b", "x/a"].map(PairSource::new).to_vec();
        options.order = Order::BySource;
        options.validation.documents = 9;
        let mut set = PairSet::default();
        let documents = [set.intern("one".into()), set.intern("two".into())];
        for document in documents {
            let query = ["q?", "Q"][document as usize].to_owned();
            let (negatives, margins) = (vec![], vec![]);
            set.push(Pair { query, document, negatives, margins, weight: 1.0, source: 0 });
        }
        data.held_out = vec![set];
        options.validation.sets = vec![PairSource::new("dev")];
        let batches = Batches::new(&data, &options).unwrap();
        let dev = Dev::new(&data, &options, &batches);
        assert_eq!(dev.parts.len(), 4);
        for part in &dev.parts[..3] {
            assert_eq!((part.queries.len(), part.documents.len()), (2, 9), "{}", part.name);
            assert_eq!(part.answers, [[0], [1]]);
        }
        let last = &dev.parts[3];
        assert_eq!((last.source, last.documents.len()), (NO_SOURCE, 2));
        assert_eq!(last.answers, [[0, 1], [1, 0]], "both answer both");
    }
}
