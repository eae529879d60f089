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
        let data = Self { pairs, texts, held_out };
        data.check_apart(options, base_dir)?;
        Ok(data)
    }

    /// Refuses training texts that are in a set that the tower is, or will be, judged on.
    fn check_apart(&self, options: &TrainOptions, base_dir: &Path) -> Result<()> {
        for path in &options.judged {
            let set = RetrievalSet::open(&RetrievalSetOptions::new(place(path, base_dir)?))?;
            let mut judged: HashSet<String> = HashSet::new();
            for document in &set.documents {
                judged.insert(normalized(&document.render()));
                judged.insert(normalized(&document.text));
            }
            judged.extend(set.queries.iter().map(|query| normalized(&query.text)));
            judged.remove("");
            self.check_without(options, &judged)
                .context(|| format!("nothing of {} may be trained on (judged)", path.display()))?;
        }
        for (set, source) in self.held_out.iter().zip(&options.validation.sets) {
            let queries = set.pairs.iter().map(|pair| normalized(&pair.query)).collect();
            self.check_without(options, &queries).context(|| {
                format!("no query of {} may be trained on (validation.sets)", source.path.display())
            })?;
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
    use crate::train::tests_support::{pairs_file, silent, tiny_options, tiny_pairs};

    #[tokio::test]
    async fn nothing_judged_is_trained_on() {
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
}
