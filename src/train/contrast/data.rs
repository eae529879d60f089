//! What a run of stage 1 reads: pairs, plain texts, more held-out sets.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::options::TrainOptions;
use crate::dataset::{PairSet, RetrievalSet, RetrievalSetOptions, TextSet, normalized};
use crate::error::{Error, Result, ResultExt};
use crate::observe::Reporter;
use crate::observe::format::counted;
use crate::train::files::place;
use crate::train::pairs::{keep_answered, open_pairs, open_texts};
use crate::types::Cancel;

/// The texts of a run.
#[derive(Debug, Clone, Default)]
pub struct TrainData {
    /// Pairs to train on, and to hold some out of.
    pub pairs: PairSet,
    /// Plain texts to train on.
    pub texts: TextSet,
    /// `validation.sets`, in their order.
    pub held_out: Vec<PairSet>,
}

impl TrainData {
    /// Reads every source. Relative paths start from `base_dir`.
    ///
    /// # Errors
    /// As [`open_pairs`]; Input where a text is one of a judged set's, or of a validation set's.
    pub async fn open(
        options: &TrainOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
        cancel: &Cancel,
    ) -> Result<Self> {
        let seed = options.seed;
        let mut pairs = open_pairs(&options.pairs, base_dir, seed, reporter, cancel).await?;
        keep_answered(&mut pairs, reporter)?;
        let texts = open_texts(&options.texts, base_dir, seed, reporter, cancel).await?;
        let mut held_out = Vec::with_capacity(options.validation.sets.len());
        for set in &options.validation.sets {
            let one = std::slice::from_ref(set);
            let mut set = open_pairs(one, base_dir, seed, reporter, cancel).await?;
            keep_answered(&mut set, reporter)?;
            held_out.push(set);
        }
        let mut data = Self { pairs, texts, held_out };
        data.keep_apart(options, base_dir, reporter)?;
        Ok(data)
    }

    /// Refuses training texts that are in a set that the tower is, or will be, judged on, and leaves its queries out of what
    /// the best checkpoint is chosen by.
    fn keep_apart(
        &mut self,
        options: &TrainOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<()> {
        for path in &options.judged {
            let set = RetrievalSet::open(&RetrievalSetOptions::new(place(path, base_dir)?))?;
            let mut judged: HashSet<String> = HashSet::new();
            for document in &set.documents {
                judged.insert(normalized(&document.render()));
                judged.insert(normalized(&document.text));
            }
            let asked: HashSet<String> =
                set.queries.iter().map(|query| normalized(&query.text)).collect();
            judged.extend(asked.iter().cloned());
            judged.remove("");
            self.check_without(options, &judged)
                .context(|| format!("nothing of {} may be trained on (judged)", path.display()))?;
            self.choose_without(options, &asked, path, reporter)?;
        }
        for (set, source) in self.held_out.iter().zip(&options.validation.sets) {
            let queries = set.pairs.iter().map(|pair| normalized(&pair.query)).collect();
            self.check_without(options, &queries).context(|| {
                format!("no query of {} may be trained on (validation.sets)", source.path.display())
            })?;
        }
        Ok(())
    }

    /// Leaves the queries that a judged set asks out of `validation.sets`: what is chosen by them would be judged by what
    /// it was chosen by, also where they are to find other documents.
    fn choose_without(
        &mut self,
        options: &TrainOptions,
        asked: &HashSet<String>,
        judged: &Path,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<()> {
        for (set, source) in self.held_out.iter_mut().zip(&options.validation.sets) {
            let before = set.pairs.len();
            set.pairs.retain(|pair| !asked.contains(&normalized(&pair.query)));
            let (left, source) = (set.pairs.len(), source.path.display());
            let judged = judged.display();
            if left == 0 {
                return Err(Error::input(format!(
                    "every query of {source} (validation.sets) is asked by {judged} (judged); name another set"
                )));
            }
            if left < before {
                let left_out = counted((before - left) as u64, "pair");
                reporter.warn(format!(
                    "{left_out} of {source} (validation.sets) left out: {judged} (judged) asks the same"
                ));
            }
        }
        Ok(())
    }

    fn check_without(&self, options: &TrainOptions, judged: &HashSet<String>) -> Result<()> {
        let is_judged = |text: &str| judged.contains(&normalized(text));
        let refuse = |count: usize, path: &Path| match count {
            0 => Ok(()),
            count => Err(Error::input(format!(
                "it has {} of {}",
                counted(count as u64, "text"),
                path.display()
            ))),
        };
        let documents: Vec<bool> =
            self.pairs.documents.iter().map(|text| is_judged(text)).collect();
        for (at, source) in options.pairs.iter().enumerate() {
            let own = self.pairs.pairs.iter().filter(|pair| pair.source as usize == at);
            let found = own.filter(|pair| {
                let mut shown = pair.negatives.iter().chain([&pair.document]);
                is_judged(&pair.query) || shown.any(|document| documents[*document as usize])
            });
            refuse(found.count(), &source.path)?;
        }
        for (texts, source) in self.texts.sources.iter().zip(&options.texts) {
            refuse(texts.iter().filter(|text| is_judged(text)).count(), &source.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{PairSource, TextSource};
    use crate::error::ErrorKind;
    use crate::observe::{Event, Recorder};
    use crate::train::tests_support::{pairs_file, silent, tiny_options, tiny_pairs};

    /// A folder with a judged set of one query, and a recipe that trains on other texts.
    fn judged() -> (tempfile::TempDir, TrainOptions) {
        let dir = tempfile::tempdir().unwrap();
        let set = dir.path().join("judged");
        std::fs::create_dir(&set).unwrap();
        let write = |name: &str, text: &str| std::fs::write(set.join(name), text).unwrap();
        write("corpus.jsonl", "{\"_id\":\"d\",\"title\":\"T\",\"text\":\"An answer.\"}\n");
        write("queries.jsonl", "{\"_id\":\"q\",\"text\":\"What is it?\"}\n");
        write("qrels.tsv", "q\td\t1\n");
        let mut options = tiny_options();
        options.pairs = vec![pairs_file(dir.path())];
        options.judged = vec!["judged".into()];
        (dir, options)
    }

    #[tokio::test]
    async fn nothing_judged_is_trained_on() {
        let (dir, mut options) = judged();
        let (reporter, cancel) = (silent(), Cancel::new());
        let open = async |options: &TrainOptions| {
            TrainData::open(options, dir.path(), &reporter, &cancel).await
        };
        assert!(open(&options).await.is_ok());
        for line in [
            "{\"query\":\"what is it\",\"text\":\"y\"}",
            "{\"query\":\"x\",\"text\":\"an ANSWER\"}",
            "{\"query\":\"x\",\"text\":\"y\",\"negatives\":[\"T an answer\"]}",
        ] {
            std::fs::write(dir.path().join("other.jsonl"), line).unwrap();
            let mut options = options.clone();
            options.pairs.push(PairSource::new("other.jsonl"));
            let error = open(&options).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
            assert!(error.to_string().contains("1 text of other.jsonl"), "{error}");
            assert!(error.to_string().contains("judged"), "{error}");
        }
        std::fs::write(dir.path().join("t.jsonl"), "{\"text\":\"What is it\"}").unwrap();
        let mut with_texts = options.clone();
        with_texts.texts = vec![TextSource::new("t.jsonl")];
        assert!(open(&with_texts).await.unwrap_err().to_string().contains("t.jsonl"));
        let query = &tiny_pairs().pairs[7].query;
        let line = format!("{{\"query\":\"{query}!\",\"text\":\"y\"}}");
        std::fs::write(dir.path().join("other.jsonl"), line).unwrap();
        options.validation.sets = vec![PairSource::new("other.jsonl")];
        let error = open(&options).await.unwrap_err().to_string();
        assert!(error.contains("validation.sets") && error.contains("pairs.jsonl"), "{error}");
    }

    #[tokio::test]
    async fn nothing_judged_chooses_what_is_exported() {
        let (dir, mut options) = judged();
        options.validation.sets = vec![PairSource::new("dev.jsonl")];
        let told = Arc::new(Recorder::default());
        let reporter: Arc<dyn Reporter> = told.clone();
        let open = async |lines: &str| {
            std::fs::write(dir.path().join("dev.jsonl"), lines).unwrap();
            TrainData::open(&options, dir.path(), &reporter, &Cancel::new()).await
        };
        // The same question, to find another text.
        let same = "{\"query\":\"what is it\",\"text\":\"a\"}\n";
        let data =
            open(&format!("{same}{{\"query\":\"another\",\"text\":\"b\"}}\n")).await.unwrap();
        let left: Vec<&str> =
            data.held_out[0].pairs.iter().map(|pair| pair.query.as_str()).collect();
        assert_eq!(left, ["another"]);
        let warned = told.events().into_iter().any(|(_, event)| {
            matches!(event, Event::Warning { message } if message.starts_with("1 pair of dev.jsonl"))
        });
        assert!(warned, "{:?}", told.events());
        let error = open(same).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains("every query of dev.jsonl"), "{error}");
    }
}
