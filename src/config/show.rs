//! Prints a resolved configuration with the origin of what is not in the file.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::defaults::of_version;
use super::models::ModelSaid;
use super::origin::Origin;
use super::resolve::Resolved;
use super::secret;
use crate::error::{ErrorKind, Result, ResultExt};

impl Resolved {
    /// TOML that reads back to the same pipeline, but for what the environment alone may hold; a comment names the
    /// origin of every value that the file does not hold.
    pub fn to_toml(&self) -> Result<String> {
        // Through JSON, which keeps the order of the struct's fields.
        let value = self.printable()?;
        let mut out = format!(
            "# {}, resolved; relative paths start at {}\n",
            self.file.display(),
            self.pipeline.base_dir.display()
        );
        for said in &self.models {
            let _ = writeln!(out, "# [{}] {}", said.section, line(said));
        }
        if let Json::Object(table) = &value {
            self.table(table, "", &mut out)?;
        }
        Ok(out)
    }

    /// JSON: `pipeline`, `base_dir`, `origins` by dotted path for every value that somebody set
    /// (`line 12`, `environment variable X`, `--set KEY`, `the model's 1_Pooling/config.json`), and `models` by the section
    /// that names one: its card, or null where its files are not here or cannot be read. What is not in `origins` has its
    /// default.
    pub fn to_json(&self) -> Result<String> {
        let by_key = &self.pipeline.origins.by_key;
        let is_item =
            |path: &str| path.rsplit_once('.').is_some_and(|(array, _)| by_key.contains_key(array));
        let origins: Map<String, Json> = by_key
            .iter()
            .filter(|(path, _)| !is_item(path))
            .map(|(path, origin)| (path.clone(), origin.to_string().into()))
            .collect();
        let models: Map<String, Json> = self
            .models
            .iter()
            .map(|said| (said.section.to_owned(), serde_json::json!(said.card.as_ref().ok())))
            .collect();
        let json = serde_json::json!({
            "file": self.file.display().to_string(),
            "base_dir": self.pipeline.base_dir.display().to_string(),
            "pipeline": self.printable()?,
            "origins": origins,
            "models": models,
        });
        let mut text = serde_json::to_string_pretty(&json)
            .or_error(ErrorKind::Internal, || "writing the resolved configuration")?;
        text.push('\n');
        Ok(text)
    }

    /// Everything but signatures.
    fn printable(&self) -> Result<Json> {
        let mut value = serde_json::to_value(&self.pipeline)
            .or_error(ErrorKind::Internal, || "writing the resolved configuration")?;
        // Left out where it is what the types have; a file of a newer version has another default.
        for section in ["tower", "query/tower", "next/tower", "next/query/tower"] {
            if let Some(Json::Object(tower)) = value.pointer_mut(&format!("/{section}")) {
                tower.entry("defaults").or_insert_with(|| "none".into());
            }
        }
        hide(&mut value);
        Ok(value)
    }

    fn table(&self, table: &Map<String, Json>, path: &str, out: &mut String) -> Result<()> {
        let join = |key: &str| if path.is_empty() { key.into() } else { format!("{path}.{key}") };
        // Scalars first: after a [header] everything belongs to it.
        for (key, value) in table {
            if value.is_null() || is_section(value) {
                continue;
            }
            let comment = match self.pipeline.origins.by_key.get(&join(key)) {
                Some(Origin::File { .. }) => String::new(),
                Some(origin) => format!("  # {origin}"),
                None if of_version(&join(key)) => {
                    format!("  # default of version {}", u32::from(self.pipeline.version))
                }
                None => "  # default".to_owned(),
            };
            let value = toml::Value::try_from(value)
                .or_error(ErrorKind::Internal, || format!("writing {key} as TOML"))?;
            let _ = writeln!(out, "{key} = {value}{comment}");
        }
        for (key, value) in table {
            let inner = join(key);
            match value {
                Json::Object(section) if section.values().any(|value| !value.is_null()) => {
                    let _ = writeln!(out, "\n[{inner}]");
                    self.table(section, &inner, out)?;
                }
                Json::Array(items) if is_section(value) => {
                    for (at, item) in items.iter().enumerate() {
                        let _ = writeln!(out, "\n[[{inner}]]");
                        if let Json::Object(section) = item {
                            self.table(section, &format!("{inner}.{at}"), out)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A model in a line: what decides a vector and has no key in the pipeline.
fn line(said: &ModelSaid) -> String {
    let card = match &said.card {
        Ok(card) => card,
        Err(why) => return format!("{}: {why}", said.model),
    };
    let mut line = format!(
        "{}: {}, {} parameters, {} dimensions ({})",
        said.model, card.family, card.parameters, card.dimensions, card.family_by
    );
    if !card.modules.is_empty() {
        let kinds: Vec<String> = card
            .modules
            .iter()
            .filter_map(|module| {
                Some(serde_json::to_value(module).ok()?["kind"].as_str()?.to_owned())
            })
            .collect();
        let _ = write!(line, "; behind the pooling {} ({})", kinds.join(", "), card.modules_by());
    }
    if let Some(licence) = &card.licence {
        let _ = write!(line, "; licence {} ({})", licence.value, licence.by);
    }
    line
}

fn hide(value: &mut Json) {
    match value {
        Json::String(text) => {
            if let Some(shown) = secret::shown(text) {
                *text = shown;
            }
        }
        Json::Array(items) => items.iter_mut().for_each(hide),
        Json::Object(entries) => entries.values_mut().for_each(hide),
        _ => {}
    }
}

/// A choice as it is written in a pipeline file.
pub(crate) fn word(choice: &impl serde::Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(Json::String(word)) => word,
        _ => String::new(),
    }
}

fn is_section(value: &Json) -> bool {
    match value {
        Json::Object(_) => true,
        Json::Array(items) => items.iter().any(Json::is_object),
        _ => false,
    }
}
