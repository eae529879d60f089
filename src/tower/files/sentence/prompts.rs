//! `config_sentence_transformers.json`: prompts by name, and how vectors are compared.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Card, Said, named, read};
use crate::error::{Error, Result, ResultExt};

const CONFIG: &str = "config_sentence_transformers.json";
/// The prompts that sentence-transformers' `encode_query` and `encode_document` look for, the first that is there.
const OF_QUERIES: &[&str] = &["query"];
const OF_DOCUMENTS: &[&str] = &["document", "passage", "corpus"];

impl Card {
    pub(super) fn read_prompts(&mut self, folder: &Path) -> Result<()> {
        let Some(fields) = read(folder, CONFIG)? else { return Ok(()) };
        self.take(&fields).context(named(folder, CONFIG))
    }

    fn take(&mut self, fields: &Map<String, Value>) -> Result<()> {
        let none = Map::new();
        let prompts = match fields.get("prompts") {
            None | Some(Value::Null) => &none,
            Some(Value::Object(prompts)) => prompts,
            Some(_) => return Err(Error::corrupt("prompts is not an object")),
        };
        let text = |name: &str| match prompts.get(name) {
            None => Ok(None),
            Some(Value::String(prompt)) => {
                Ok(Some(Said { value: prompt.clone(), by: format!("{CONFIG}, prompt {name:?}") }))
            }
            Some(_) => Err(Error::corrupt(format!("the prompt {name:?} is not a text"))),
        };
        let default = match fields.get("default_prompt_name").and_then(Value::as_str) {
            None => None,
            Some(name) => Some(text(name)?.ok_or_else(|| {
                Error::corrupt(format!(
                    "default_prompt_name is {name:?}, which is not one of the prompts"
                ))
            })?),
        };
        let first = |names: &[&str]| {
            let found =
                names.iter().map(|name| text(name)).find(|found| !matches!(found, Ok(None)));
            found.unwrap_or_else(|| Ok(default.clone()))
        };
        self.query_prompt = first(OF_QUERIES)?;
        self.document_prompt = first(OF_DOCUMENTS)?;
        match fields.get("similarity_fn_name").and_then(Value::as_str) {
            // Unit length changes no cosine, and makes it the inner product.
            None | Some("cosine") => {
                self.normalize = Some(Said { value: true, by: CONFIG.to_owned() });
            }
            Some("dot") => {}
            Some(other) => {
                let unit = self.normalize.as_ref().is_some_and(|said| said.value);
                // Of unit vectors the nearest are the same by either distance.
                if !(other == "euclidean" && unit) {
                    return Err(Error::unsupported(format!(
                        "similarity_fn_name {other:?} is not supported (cosine and dot are)"
                    )));
                }
            }
        }
        Ok(())
    }
}
