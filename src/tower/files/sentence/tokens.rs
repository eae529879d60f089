//! What is said of texts before they are tokens: the longest, lower case, the tokens around them.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Card, Said, named, read};
use crate::error::{Error, Result, ResultExt};

const TOKENIZER: &str = "tokenizer_config.json";
/// The package looks for these, the first that is there.
const TEXTS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];
/// Tokenizers whose code puts tokens around a text by these flags, whatever `tokenizer.json` says.
const BY_FLAGS: [&str; 4] =
    ["LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"];

/// Which tokens `tokenizer_config.json` puts around every text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddedTokens {
    /// One that begins it.
    pub(crate) bos: bool,
    /// One that ends it.
    pub(crate) eos: bool,
}

impl Card {
    pub(super) fn read_tokens(&mut self, folder: &Path, positions: usize) -> Result<()> {
        for name in TEXTS {
            if let Some(fields) = read(folder, name)? {
                self.take_texts(&fields, name).context(named(folder, name))?;
                break;
            }
        }
        if let Some(fields) = read(folder, TOKENIZER)? {
            self.take_tokenizer(&fields, positions).context(named(folder, TOKENIZER))?;
        }
        Ok(())
    }

    fn take_texts(&mut self, fields: &Map<String, Value>, name: &str) -> Result<()> {
        self.lower_case = fields.get("do_lower_case") == Some(&Value::Bool(true));
        match fields.get("max_seq_length") {
            None | Some(Value::Null) => {}
            Some(length) => {
                let length = length.as_u64().and_then(|length| u32::try_from(length).ok());
                let length = length.filter(|length| *length > 0);
                let value =
                    length.ok_or_else(|| Error::corrupt("max_seq_length is not a length"))?;
                self.max_tokens = Some(Said { value, by: name.to_owned() });
            }
        }
        Ok(())
    }

    fn take_tokenizer(&mut self, fields: &Map<String, Value>, positions: usize) -> Result<()> {
        self.keeps_end = match fields.get("truncation_side").and_then(Value::as_str) {
            None => None,
            Some("left") => Some(true),
            Some("right") => Some(false),
            Some(other) => {
                return Err(Error::corrupt(format!(
                    "truncation_side is {other:?}, which is neither left nor right"
                )));
            }
        };
        if let Some(code) = fields.get("auto_map").filter(|map| !map.is_null()) {
            return Err(Error::unsupported(format!(
                "auto_map is set: the tokenizer is Python code of the model's own ({code}), which is not run here; with defaults = \
                 \"none\" its tokenizer.json alone counts"
            )));
        }
        let class = fields.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        if BY_FLAGS.contains(&class.trim_end_matches("Fast")) {
            let flag = |key: &str| fields.get(key).and_then(Value::as_bool);
            // What these classes do unless told otherwise.
            let bos = flag("add_bos_token").unwrap_or(true);
            let eos = flag("add_eos_token").unwrap_or(false);
            self.tokens = Some(AddedTokens { bos, eos });
        }
        // As the package does where its own file names no length. A tokenizer without a limit says 1e30.
        if self.max_tokens.is_none()
            && let Some(length) = fields.get("model_max_length").and_then(Value::as_f64)
            && length >= 1.0
        {
            let value = (length.min(positions as f64)).min(f64::from(u32::MAX)) as u32;
            self.max_tokens = Some(Said { value, by: TOKENIZER.to_owned() });
        }
        Ok(())
    }
}
