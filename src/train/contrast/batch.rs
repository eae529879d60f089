//! Which pairs meet in which step: a function of the seed and the step number alone, so that a resumed run sees
//! what an uninterrupted one would have seen.

use std::collections::{HashMap, HashSet};

use super::loss::Contrast;
use super::options::{Order, TrainOptions};
use crate::dataset::{PairSet, SplitMix64};
use crate::error::{Error, Result};

/// Draws batches from a set of pairs.
pub(super) struct Batches<'a> {
    set: &'a PairSet,
    training: Vec<u32>,
    /// Held-out pairs, in a fixed order; their documents differ from each other.
    pub(super) held_out: Vec<u32>,
    /// Documents that answer a query text, over all pairs.
    answers: HashMap<&'a str, Vec<u32>>,
    batch: usize,
    negatives: usize,
    order: Order,
    seed: u64,
    epoch: Option<(u64, Vec<Vec<u32>>)>,
}

/// One batch: positions of pairs, numbers of documents, and how they contrast.
pub(super) struct Batch {
    pub(super) pairs: Vec<u32>,
    pub(super) documents: Vec<u32>,
    pub(super) contrast: Contrast,
}

impl<'a> Batches<'a> {
    pub(super) fn new(set: &'a PairSet, options: &TrainOptions) -> Result<Self> {
        let mut shuffled: Vec<u32> = (0..set.pairs.len() as u32).collect();
        SplitMix64::new(options.seed ^ 0x5641_4C49).shuffle(&mut shuffled);
        let mut held_documents = HashSet::new();
        let mut held_out = Vec::new();
        for at in &shuffled {
            if held_out.len() == options.validation.pairs {
                break;
            }
            if held_documents.insert(set.pairs[*at as usize].document) {
                held_out.push(*at);
            }
        }
        let training: Vec<u32> = (0..set.pairs.len() as u32)
            .filter(|at| !held_documents.contains(&set.pairs[*at as usize].document))
            .collect();
        let mut answers: HashMap<&str, Vec<u32>> = HashMap::new();
        for pair in &set.pairs {
            answers.entry(&pair.query).or_default().push(pair.document);
        }
        let batches = Self {
            set,
            training,
            held_out,
            answers,
            batch: options.batch_pairs,
            negatives: options.hard_negatives,
            order: options.order,
            seed: options.seed,
            epoch: None,
        };
        if batches.epoch_of(0).is_empty() {
            return Err(Error::config(format!(
                "{} training pairs (after {} held out) do not fill a batch of {}",
                batches.training.len(),
                batches.held_out.len(),
                batches.batch
            )));
        }
        if batches.negatives > 0 && batches.with_negatives(1) == 0 {
            return Err(Error::config(format!(
                "hard_negatives is {}, but no training pair has any; mine them first (`scalingnote mine`, if need be with a larger \
                 --margin) or set it to 0",
                batches.negatives
            )));
        }
        Ok(batches)
    }

    /// Training pairs that have at least so many hard negatives.
    fn with_negatives(&self, count: usize) -> usize {
        let enough = |at: &&u32| self.set.pairs[**at as usize].negatives.len() >= count;
        self.training.iter().filter(enough).count()
    }

    /// What to say where pairs have fewer hard negatives than are to be taken.
    pub(super) fn fewer_negatives(&self) -> Option<String> {
        let (all, enough) = (self.training.len(), self.with_negatives(self.negatives));
        (enough < all).then(|| {
            format!(
                "{} of {all} training pairs have fewer than {} hard negatives; they are trained with what they have",
                all - enough,
                self.negatives
            )
        })
    }

    /// Pairs that are trained on.
    pub(super) fn training_pairs(&self) -> usize {
        self.training.len()
    }

    /// Steps of one epoch.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.epoch_of(0).len() as u64
    }

    fn epoch_of(&self, epoch: u64) -> Vec<Vec<u32>> {
        let mut rng = SplitMix64::new(self.seed.wrapping_add(epoch.wrapping_mul(0x9E37_79B9)));
        let mut groups: Vec<Vec<u32>> = match self.order {
            Order::Mixed => vec![self.training.clone()],
            Order::BySource => {
                let mut groups: Vec<Vec<u32>> = Vec::new();
                for &at in &self.training {
                    let source = self.set.pairs[at as usize].source as usize;
                    if groups.len() <= source {
                        groups.resize(source + 1, Vec::new());
                    }
                    groups[source].push(at);
                }
                groups
            }
        };
        let mut batches = Vec::new();
        for group in &mut groups {
            rng.shuffle(group);
            batches.extend(group.chunks_exact(self.batch).map(<[u32]>::to_vec));
        }
        if groups.len() > 1 {
            rng.shuffle(&mut batches);
        }
        batches
    }

    /// The batch of a step.
    pub(super) fn batch(&mut self, step: u64) -> Batch {
        let per_epoch = self.steps_per_epoch_cached();
        let (epoch, at) = (step / per_epoch, step % per_epoch);
        if self.epoch.as_ref().is_none_or(|(cached, _)| *cached != epoch) {
            self.epoch = Some((epoch, self.epoch_of(epoch)));
        }
        let pairs = self.epoch.as_ref().map(|(_, b)| b[at as usize].clone()).unwrap_or_default();
        let mut rng = SplitMix64::new(self.seed ^ step.wrapping_mul(0xA076_1D64_78BD_642F));
        self.contrast(pairs, self.negatives, &mut rng)
    }

    fn steps_per_epoch_cached(&self) -> u64 {
        // Every epoch has as many batches: shuffling changes their content only.
        match &self.epoch {
            Some((_, batches)) => batches.len() as u64,
            None => self.steps_per_epoch(),
        }
    }

    /// The held-out pairs as one batch.
    pub(super) fn validation(&self) -> Batch {
        self.contrast(self.held_out.clone(), 0, &mut SplitMix64::new(0))
    }

    /// A document that occurs twice is one column, so it is never its own negative; columns known to answer a
    /// query are masked for it.
    fn contrast(&self, pairs: Vec<u32>, negatives: usize, rng: &mut SplitMix64) -> Batch {
        let mut columns: HashMap<u32, u32> = HashMap::new();
        let mut documents = Vec::new();
        let mut column = |document: u32| {
            *columns.entry(document).or_insert_with(|| {
                documents.push(document);
                documents.len() as u32 - 1
            })
        };
        let pair = |at: &u32| &self.set.pairs[*at as usize];
        let positive: Vec<u32> = pairs.iter().map(|at| column(pair(at).document)).collect();
        for at in &pairs {
            let mut own = pair(at).negatives.clone();
            rng.shuffle(&mut own);
            for document in own.into_iter().take(negatives) {
                column(document);
            }
        }
        let masked = pairs
            .iter()
            .zip(&positive)
            .map(|(at, positive)| {
                let answers = self.answers.get(pair(at).query.as_str());
                let mut masked: Vec<u32> = answers
                    .into_iter()
                    .flatten()
                    .filter_map(|document| columns.get(document).copied())
                    .filter(|column| column != positive)
                    .collect();
                masked.sort_unstable();
                masked.dedup();
                masked
            })
            .collect();
        let weights = pairs.iter().map(|at| pair(at).weight).collect();
        let candidates = documents.len();
        Batch { pairs, documents, contrast: Contrast { positive, masked, weights, candidates } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests_support::{tiny_options, tiny_pairs};

    #[test]
    fn an_epoch_holds_every_training_pair_once_and_no_held_out_document() {
        let set = tiny_pairs();
        let options = tiny_options();
        let mut batches = Batches::new(&set, &options).unwrap();
        let held: HashSet<u32> =
            batches.held_out.iter().map(|at| set.pairs[*at as usize].document).collect();
        assert_eq!(held.len(), options.validation.pairs);
        let steps = batches.steps_per_epoch();
        let mut seen = HashSet::new();
        for step in 0..steps {
            for at in batches.batch(step).pairs {
                assert!(seen.insert(at) && !held.contains(&set.pairs[at as usize].document));
            }
        }
        assert!(batches.training_pairs() - seen.len() < options.batch_pairs);
        let second = batches.batch(steps).pairs;
        assert_ne!(second, batches.batch(0).pairs);
        assert_eq!(second, Batches::new(&set, &options).unwrap().batch(steps).pairs);
    }

    #[test]
    fn equal_documents_share_a_column_and_other_answers_are_masked() {
        let mut set = tiny_pairs();
        // Pair 1 asks what pair 0 asks and is answered by another document; pair 2 shares pair 0's document.
        set.pairs[1].query = set.pairs[0].query.clone();
        set.pairs[2].document = set.pairs[0].document;
        let mut options = tiny_options();
        options.validation.pairs = 0;
        let batches = Batches::new(&set, &options).unwrap();
        let batch = batches.contrast(vec![0, 1, 2, 3], 0, &mut SplitMix64::new(0));
        assert_eq!(batch.contrast.positive, [0, 1, 0, 2]);
        assert_eq!(batch.contrast.masked, [vec![1], vec![0], vec![], vec![]]);
        assert_eq!(batch.contrast.candidates, 3);
    }
}
