//! Which texts meet in which step: a function of the seed and the step number alone, so that a resumed run sees
//! what an uninterrupted one would have seen.

use std::collections::{HashMap, HashSet};

use super::data::TrainData;
use super::objective::Contrast;
use super::options::{Order, TrainOptions};
use super::order::Turns;
use crate::dataset::{Pair, PairSet, SplitMix64, normalized};
use crate::error::{Error, Result};

/// Draws batches from the sources of a run.
pub(super) struct Batches<'a> {
    data: &'a TrainData,
    options: &'a TrainOptions,
    /// What batches are drawn from.
    groups: Vec<Group>,
    turns: Turns,
    /// Positions of the held-out pairs; their documents differ from each other.
    pub(super) held_out: Vec<u32>,
    training: usize,
    /// Mean weight of the training pairs.
    weight: f32,
    warnings: Vec<String>,
}

/// Members that meet each other: the pairs of a source or of all, or plain texts.
struct Group {
    /// The number of the plain texts' source.
    texts: Option<usize>,
    members: Vec<u32>,
    /// Members of a batch.
    batch: usize,
    /// Members in the order of an epoch.
    epoch: Option<(u64, Vec<u32>)>,
}

impl Group {
    fn batches(&self) -> u64 {
        (self.members.len() / self.batch) as u64
    }
}

/// One batch: positions of pairs, columns of documents, and how they contrast.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) pairs: Vec<u32>,
    /// Numbers of documents, each with the source that it is there for.
    pub(super) documents: Vec<(u32, u32)>,
    /// Plain texts: their source, and which of it.
    pub(super) texts: Option<(usize, Vec<u32>)>,
    pub(super) contrast: Contrast,
}

impl Batch {
    /// The texts of a batch with the number of their source (plain texts' behind the pairs'): queries, then documents.
    pub(super) fn shown<'d>(
        &self,
        data: &'d TrainData,
        options: &TrainOptions,
    ) -> [Vec<(u32, &'d str)>; 2] {
        let PairSet { pairs, documents, .. } = &data.pairs;
        if let Some((source, texts)) = &self.texts {
            let number = (options.pairs.len() + source) as u32;
            let all = &data.texts.sources[*source];
            let texts = texts.iter().map(|at| (number, all[*at as usize].as_str())).collect();
            return match options.texts[*source].as_queries {
                true => [texts, Vec::new()],
                false => [Vec::new(), texts],
            };
        }
        let query = |at: &u32| {
            let pair = &pairs[*at as usize];
            (pair.source, pair.query.as_str())
        };
        let document = |(at, source): &(u32, u32)| (*source, documents[*at as usize].as_str());
        [self.pairs.iter().map(query).collect(), self.documents.iter().map(document).collect()]
    }
}

impl<'a> Batches<'a> {
    pub(super) fn new(data: &'a TrainData, options: &'a TrainOptions) -> Result<Self> {
        let (held_out, training) = split(&data.pairs, options);
        let pairs = &data.pairs.pairs;
        let (size, mut warnings) = (options.batch_pairs, Vec::new());
        let mut wanted = Vec::new();
        let mut groups = Vec::new();
        let mut add = |share, texts, members: Vec<u32>, batch| {
            wanted.push(share);
            groups.push(Group { texts, members, batch, epoch: None });
        };
        match options.order {
            Order::Mixed if training.len() < size => {
                return Err(Error::config(format!(
                    "{} training pairs (after {} held out) do not fill a batch of {size}",
                    training.len(),
                    held_out.len(),
                )));
            }
            Order::Mixed => add(None, None, training.clone(), size),
            Order::BySource => {
                for (at, source) in options.pairs.iter().enumerate() {
                    let own = |pair: &&u32| pairs[**pair as usize].source as usize == at;
                    let members: Vec<u32> = training.iter().filter(own).copied().collect();
                    let name = source.path.display();
                    match members.len() {
                        // A pair without another is contrasted with nothing.
                        0 | 1 => warnings.push(format!(
                            "pairs {name}: {} left for training, nothing of it is trained on",
                            members.len()
                        )),
                        few if few < size => {
                            warnings
                                .push(format!("pairs {name}: batches of {few}, it has no more"));
                            add(source.share, None, members, few);
                        }
                        _ => add(source.share, None, members, size),
                    }
                }
            }
        }
        for (at, (texts, source)) in data.texts.sources.iter().zip(&options.texts).enumerate() {
            // As many texts as a batch of pairs has.
            let batch = (2 * size).min(texts.len());
            add(source.share, Some(at), (0..texts.len() as u32).collect(), batch);
        }
        let batches: Vec<u64> = groups.iter().map(Group::batches).collect();
        if batches.iter().sum::<u64>() == 0 {
            return Err(Error::config("no source has two pairs to contrast with each other"));
        }
        let weights: f32 = training.iter().map(|at| pairs[*at as usize].weight).sum();
        let batches = Self {
            data,
            options,
            turns: Turns::new(&wanted, &batches),
            groups,
            held_out,
            training: training.len(),
            weight: (weights / training.len().max(1) as f32).max(f32::MIN_POSITIVE),
            warnings,
        };
        batches.check_negatives(&training)
    }

    fn check_negatives(mut self, training: &[u32]) -> Result<Self> {
        let count = self.options.hard_negatives;
        if count == 0 {
            return Ok(self);
        }
        let with = |count: usize| {
            let enough =
                |at: &&u32| self.negatives(&self.data.pairs.pairs[**at as usize]).len() >= count;
            training.iter().filter(enough).count()
        };
        if with(1) == 0 {
            return Err(Error::config(format!(
                "hard_negatives is {count}, but no training pair has any; mine them first (`scalingnote mine`, if need be with a \
                 larger --margin) or set it to 0",
            )));
        }
        let (all, enough) = (training.len(), with(count));
        if enough < all {
            self.warnings.push(format!(
                "{} of {all} training pairs have fewer than {count} hard negatives; they are trained with what they have",
                all - enough,
            ));
        }
        Ok(self)
    }

    /// Up to this many training pairs, drawn with the seed.
    pub(super) fn some(&self, most: usize) -> Vec<u32> {
        let pairs = self.groups.iter().filter(|group| group.texts.is_none());
        let mut some: Vec<u32> = pairs.flat_map(|group| group.members.iter().copied()).collect();
        SplitMix64::new(self.options.seed ^ 0x534F_4D45).shuffle(&mut some);
        some.truncate(most);
        some
    }

    /// What people should know about the sources.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Pairs that are trained on.
    pub(super) fn training_pairs(&self) -> usize {
        self.training
    }

    /// Steps after which every source has shown all it has, but for what does not fill a batch.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.groups.iter().map(Group::batches).sum()
    }

    /// The batch of a step.
    pub(super) fn batch(&mut self, step: u64) -> Batch {
        let (at, before) = self.turns.turn(step);
        let group = &mut self.groups[at];
        let (epoch, place) = (before / group.batches(), (before % group.batches()) as usize);
        if group.epoch.as_ref().is_none_or(|(now, _)| *now != epoch) {
            let mut order = group.members.clone();
            let own = epoch.wrapping_mul(0x9E37_79B9) ^ (at as u64) << 48;
            SplitMix64::new(self.options.seed.wrapping_add(own)).shuffle(&mut order);
            group.epoch = Some((epoch, order));
        }
        let order = group.epoch.as_ref().map(|(_, order)| order.as_slice()).unwrap_or_default();
        let members = order[place * group.batch..][..group.batch].to_vec();
        if let Some(source) = group.texts {
            return Batch { texts: Some((source, members)), ..Batch::default() };
        }
        let mut rng = SplitMix64::new(self.options.seed ^ step.wrapping_mul(0xA076_1D64_78BD_642F));
        self.contrast(members, self.options.hard_negatives, &mut rng)
    }

    /// A pair's negatives, except those that mining found to be likely answers.
    fn negatives(&self, pair: &Pair) -> Vec<u32> {
        let limit = self.options.loss.guide_margin.map_or(f32::INFINITY, |margin| -margin as f32);
        let scored = |at: usize| pair.margins.get(at).is_none_or(|score| *score <= limit);
        let numbered = pair.negatives.iter().enumerate();
        numbered.filter(|(at, _)| scored(*at)).map(|(_, document)| *document).collect()
    }

    /// A document that occurs twice is one column, so it is never its own negative; columns known to answer a
    /// query are masked for it.
    fn contrast(&self, pairs: Vec<u32>, negatives: usize, rng: &mut SplitMix64) -> Batch {
        let mut columns: HashMap<u32, u32> = HashMap::new();
        let mut documents = Vec::new();
        let mut column = |document: u32, source: u32| {
            *columns.entry(document).or_insert_with(|| {
                documents.push((document, source));
                documents.len() as u32 - 1
            })
        };
        let set = &self.data.pairs;
        let pair = |at: &u32| &set.pairs[*at as usize];
        let positive: Vec<u32> =
            pairs.iter().map(|at| column(pair(at).document, pair(at).source)).collect();
        for at in &pairs {
            let mut own = self.negatives(pair(at));
            rng.shuffle(&mut own);
            for document in own.into_iter().take(negatives) {
                column(document, pair(at).source);
            }
        }
        let masked = pairs
            .iter()
            .zip(&positive)
            .map(|(at, positive)| {
                let answers = set.answers(&pair(at).query).iter();
                let mut masked: Vec<u32> = answers
                    .filter_map(|document| columns.get(document).copied())
                    .filter(|column| column != positive)
                    .collect();
                masked.sort_unstable();
                masked
            })
            .collect();
        let temperature = |at: &u32| {
            let own = self.options.pairs.get(pair(at).source as usize);
            own.and_then(|source| source.temperature).unwrap_or(self.options.temperature) as f32
        };
        let contrast = Contrast {
            positive,
            masked,
            weights: pairs.iter().map(|at| pair(at).weight / self.weight).collect(),
            temperatures: pairs.iter().map(temperature).collect(),
            candidates: documents.len(),
        };
        Batch { pairs, documents, texts: None, contrast }
    }
}

/// Positions of the held-out pairs, and of those that are trained on: none of them shares a document or a query with
/// one that is held out. Every source gives as many as another, but not more than a fifth of what it has.
fn split(set: &PairSet, options: &TrainOptions) -> (Vec<u32>, Vec<u32>) {
    let wanted = options.validation.pairs;
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    set.pairs.iter().for_each(|pair| *sizes.entry(pair.source).or_default() += 1);
    let each = wanted.div_ceil(sizes.len().max(1));
    let mut room: HashMap<u32, usize> =
        sizes.into_iter().map(|(source, size)| (source, each.min(size / 5))).collect();
    let mut shuffled: Vec<u32> = (0..set.pairs.len() as u32).collect();
    SplitMix64::new(options.seed ^ 0x5641_4C49).shuffle(&mut shuffled);
    let (mut documents, mut queries) = (HashSet::new(), HashSet::new());
    let mut held_out = Vec::new();
    for at in shuffled {
        let pair = &set.pairs[at as usize];
        let room = room.entry(pair.source).or_default();
        if held_out.len() < wanted && *room > 0 && documents.insert(pair.document) {
            *room -= 1;
            queries.insert(normalized(&pair.query));
            held_out.push(at);
        }
    }
    let free = |at: &u32| {
        let pair = &set.pairs[*at as usize];
        !documents.contains(&pair.document) && !queries.contains(&normalized(&pair.query))
    };
    let training = (0..set.pairs.len() as u32).filter(free).collect();
    (held_out, training)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{PairSource, TextSource};
    use crate::train::tests_support::{tiny_data, tiny_options};

    #[test]
    fn an_epoch_holds_every_training_pair_once_and_no_held_out_document() {
        let data = tiny_data();
        let options = tiny_options();
        let mut batches = Batches::new(&data, &options).unwrap();
        let document = |at: u32| data.pairs.pairs[at as usize].document;
        let held: HashSet<u32> = batches.held_out.iter().map(|at| document(*at)).collect();
        assert_eq!(held.len(), options.validation.pairs);
        let steps = batches.steps_per_epoch();
        let mut seen = HashSet::new();
        for step in 0..steps {
            for at in batches.batch(step).pairs {
                assert!(seen.insert(at) && !held.contains(&document(at)));
            }
        }
        assert!(batches.training_pairs() - seen.len() < options.batch_pairs);
        let second = batches.batch(steps).pairs;
        assert_ne!(second, batches.batch(0).pairs);
        assert_eq!(second, Batches::new(&data, &options).unwrap().batch(steps).pairs);
    }

    /// The pairs' sources: 40 of source 0, 15 of source 1, 4 of source 2, 1 of source 3.
    fn four_sources() -> (TrainData, TrainOptions) {
        let (mut data, mut options) = (tiny_data(), tiny_options());
        for (at, pair) in data.pairs.pairs.iter_mut().enumerate() {
            pair.source = [40, 55, 59].iter().filter(|end| at >= **end).count() as u32;
        }
        options.pairs = ["a", "b", "c", "d"].map(PairSource::new).to_vec();
        options.order = Order::BySource;
        options.validation.pairs = 0;
        (data, options)
    }

    #[test]
    fn small_sources_are_trained_on_and_it_is_said_of_what_is_not() {
        let (data, options) = four_sources();
        let mut batches = Batches::new(&data, &options).unwrap();
        let mut seen = HashMap::new();
        for step in 0..batches.steps_per_epoch() {
            let pairs = batches.batch(step).pairs;
            let source = |at: &u32| data.pairs.pairs[*at as usize].source;
            assert!(pairs.iter().all(|at| source(at) == source(&pairs[0])), "of one source");
            *seen.entry(source(&pairs[0])).or_insert(0) += pairs.len();
        }
        assert_eq!(seen, HashMap::from([(0, 40), (1, 8), (2, 4)]));
        let warnings = batches.warnings();
        assert!(warnings[0].contains("c: batches of 4"), "{warnings:?}");
        assert!(warnings[1].contains("d: 1 left for training"), "{warnings:?}");
    }

    #[test]
    fn shares_and_temperatures_are_the_sources_own() {
        let (mut data, mut options) = four_sources();
        options.pairs[2].share = Some(0.25);
        options.pairs[2].temperature = Some(0.5);
        options.texts = vec![TextSource { share: Some(0.5), ..TextSource::new("t") }];
        data.texts.sources = vec![(0..30).map(|at| at.to_string()).collect()];
        let mut batches = Batches::new(&data, &options).unwrap();
        let (mut texts, mut third) = (0, 0);
        for step in 0..40 {
            let batch = batches.batch(step);
            if let Some((source, own)) = &batch.texts {
                assert_eq!((*source, own.len(), batch.pairs.len()), (0, 16, 0));
                texts += 1;
            } else if data.pairs.pairs[batch.pairs[0] as usize].source == 2 {
                assert_eq!(batch.contrast.temperatures, [0.5; 4]);
                third += 1;
            } else {
                assert_eq!(batch.contrast.temperatures, [0.1; 8]);
            }
        }
        assert_eq!((texts, third), (20, 10));
    }

    #[test]
    fn weights_are_relative_to_all_pairs_not_to_the_batch() {
        let (mut data, options) = four_sources();
        data.pairs
            .pairs
            .iter_mut()
            .filter(|pair| pair.source == 0)
            .for_each(|pair| pair.weight = 0.25);
        let mut batches = Batches::new(&data, &options).unwrap();
        let mean = (40.0 * 0.25 + 20.0) / 60.0;
        for step in 0..5 {
            let batch = batches.batch(step);
            let weight = data.pairs.pairs[batch.pairs[0] as usize].weight;
            let far = batch.contrast.weights.iter().map(|own| (own - weight / mean).abs());
            assert!(far.fold(0.0, f32::max) < 1e-6);
        }
    }

    #[test]
    fn equal_documents_share_a_column_and_other_answers_are_masked() {
        let mut data = tiny_data();
        let mut pairs = std::mem::take(&mut data.pairs.pairs);
        // Pair 1 asks what pair 0 asks and is answered by another document; pair 2 shares pair 0's document.
        pairs[1].query = format!("{}?", pairs[0].query.to_uppercase());
        pairs[2].document = pairs[0].document;
        pairs.into_iter().for_each(|pair| data.pairs.push(pair));
        let mut options = tiny_options();
        options.validation.pairs = 0;
        let batches = Batches::new(&data, &options).unwrap();
        let batch = batches.contrast(vec![0, 1, 2, 3], 0, &mut SplitMix64::new(0));
        assert_eq!(batch.contrast.positive, [0, 1, 0, 2]);
        assert_eq!(batch.contrast.masked, [vec![1], vec![0], vec![], vec![]]);
        assert_eq!(batch.contrast.candidates, 3);
        // Held out, a query takes all that asks the same with it.
        let pair = |at: &u32| &data.pairs.pairs[*at as usize];
        for seed in 0..20 {
            let options = TrainOptions { seed, ..tiny_options() };
            let (held_out, training) = split(&data.pairs, &options);
            if held_out.contains(&0) {
                assert!(!training.contains(&1) && !training.contains(&2), "seed {seed}");
            }
            let held: Vec<u32> = held_out.iter().map(|at| pair(at).document).collect();
            assert!(training.iter().all(|at| !held.contains(&pair(at).document)));
        }
    }

    #[test]
    fn mined_negatives_that_score_as_answers_are_passed_over() {
        let mut data = tiny_data();
        data.pairs.pairs.iter_mut().for_each(|pair| pair.margins = vec![-0.04]);
        let mut options = tiny_options();
        options.hard_negatives = 1;
        let documents = |options: &TrainOptions| {
            Batches::new(&data, options).map(|mut batches| batches.batch(0).documents.len())
        };
        assert_eq!(documents(&options).unwrap(), 16);
        options.loss.guide_margin = Some(0.05);
        assert!(documents(&options).unwrap_err().to_string().contains("no training pair has any"));
    }
}
