//! What the versions of a pipeline file differ in: one table, from which defaults, `config check`, `config upgrade` and
//! the schema's text are made.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value as Json, json};

use super::origin::Origin;
use super::pipeline::Pipeline;
use super::version::PipelineVersion;
use crate::error::{ErrorKind, Result, ResultExt};

/// A default that version 2 changes.
struct Change {
    /// The key as a dotted path; `*` is every item of an array.
    key: &'static str,
    /// Version 1's value where a pipeline's JSON leaves it out.
    left_out: Option<&'static str>,
    /// Version 2's value at a place (a path that `key` matches) of a pipeline in which nobody sets it.
    then: fn(&Pipeline, &str) -> Json,
    /// Whether vectors mean something else afterwards, so that every text is encoded again.
    new_space: bool,
    /// What version 2's default is, and why.
    why: &'static str,
}

/// Everything that version 2 changes.
const CHANGES: &[Change] = &[
    Change {
        key: "corpus.types",
        left_out: None,
        then: |_, _| "exact".into(),
        new_space: false,
        why: "a column of CSV files or JSON lines is a number only if every value is printed as the file writes it; texts \
              that print otherwise so are encoded again",
    },
    Change {
        key: "encode.token_budget",
        left_out: None,
        // A processor gains nothing from a larger batch, and its memory would pay for it.
        then: |pipeline, _| match pipeline
            .encode
            .devices
            .iter()
            .all(|name| name.starts_with("cuda:"))
        {
            true => 65_536.into(),
            false => 4_096.into(),
        },
        new_space: false,
        why: "a GPU is not busy with 4096 tokens, so it is 65536 where every device is one",
    },
    Change {
        key: "index.builder",
        left_out: Some("usearch"),
        then: |_, _| "scalingnote".into(),
        new_space: false,
        why: "this program builds the graphs itself, faster, into the same files; every index is built again \
              once",
    },
    OF_THE_MODEL,
    Change { key: "query.tower.defaults", ..OF_THE_MODEL },
    Change { key: "next.tower.defaults", ..OF_THE_MODEL },
    Change { key: "next.query.tower.defaults", ..OF_THE_MODEL },
];

/// Of `tower.defaults`, and of every other tower's.
const OF_THE_MODEL: Change = Change {
    key: "tower.defaults",
    left_out: Some("none"),
    then: |_, _| "model".into(),
    new_space: true,
    why: "what the pipeline does not say of pooling, prompts, longest text and tokenisation is as the model's own files say, \
          and as in version 1 only where they say nothing",
};

/// A default that version 2 changes, at one place of one pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct DefaultChange {
    /// The key as a dotted path; numbers are array positions.
    pub key: String,
    /// Version 1's value, which holds now.
    pub now: Json,
    /// Version 2's value.
    pub then: Json,
    /// Whether version 2's value starts a new embedding space: every text is encoded again.
    pub new_space: bool,
    /// What version 2's default is, and why.
    pub why: &'static str,
}

impl fmt::Display for DefaultChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, now, then, new_space, why } = self;
        let cost =
            if *new_space { "every text is encoded again" } else { "the embedding space stays" };
        write!(f, "{key}: {now} in version 1, {then} in version 2 ({cost}); {why}")
    }
}

/// What version 2 changes in a pipeline of version 1 with these keys set.
///
/// # Errors
/// Internal.
pub(super) fn changes(
    pipeline: &Pipeline,
    origins: &BTreeMap<String, Origin>,
) -> Result<Vec<DefaultChange>> {
    match pipeline.version {
        PipelineVersion::V1 => differences(CHANGES, pipeline, origins),
        PipelineVersion::V2 => Ok(Vec::new()),
    }
}

/// Gives a pipeline, read with version 1's defaults, those of its own version.
///
/// # Errors
/// Internal.
pub(super) fn apply(pipeline: &mut Pipeline, origins: &BTreeMap<String, Origin>) -> Result<()> {
    if pipeline.version != PipelineVersion::V1 {
        *pipeline = with(pipeline, &differences(CHANGES, pipeline, origins)?)?;
    }
    Ok(())
}

/// Whether the versions differ in a key's default.
pub(super) fn of_version(path: &str) -> bool {
    CHANGES.iter().any(|change| change.key == path)
}

/// The pipeline with the new values.
fn with(pipeline: &Pipeline, changes: &[DefaultChange]) -> Result<Pipeline> {
    let mut json = to_json(pipeline)?;
    for change in changes {
        let path = format!("/{}", change.key.replace('.', "/"));
        let (section, key) = path.rsplit_once('/').unwrap_or(("", &path));
        if let Some(Json::Object(section)) = json.pointer_mut(section) {
            section.insert(key.to_owned(), change.then.clone());
        }
    }
    serde_json::from_value(json).or_error(ErrorKind::Internal, || "laying defaults over a pipeline")
}

fn to_json(pipeline: &Pipeline) -> Result<Json> {
    serde_json::to_value(pipeline).or_error(ErrorKind::Internal, || "writing a pipeline as JSON")
}

fn differences(
    table: &[Change],
    pipeline: &Pipeline,
    origins: &BTreeMap<String, Origin>,
) -> Result<Vec<DefaultChange>> {
    let json = to_json(pipeline)?;
    let mut found = Vec::new();
    for Change { key, left_out, then, new_space, why } in table {
        let left_out = left_out.map(Json::from);
        for (key, now) in places(&json, key, left_out.as_ref()) {
            let then = then(pipeline, &key);
            if !origins.contains_key(&key) && *now != then {
                let (now, new_space, why) = (now.clone(), *new_space, *why);
                found.push(DefaultChange { key, now, then, new_space, why });
            }
        }
    }
    Ok(found)
}

/// The places that a key of the table matches, with their values; none where a section on the way is absent. `left_out`
/// is the value of a key that the JSON does not show.
fn places<'a>(
    pipeline: &'a Json,
    key: &str,
    left_out: Option<&'a Json>,
) -> Vec<(String, &'a Json)> {
    let mut places = vec![(String::new(), pipeline)];
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let left_out = left_out.filter(|_| parts.peek().is_none());
        let mut inner = Vec::new();
        for (path, at) in places {
            let dot = if path.is_empty() { "" } else { "." };
            match at {
                Json::Array(items) if part == "*" => {
                    let items = items.iter().enumerate();
                    inner.extend(items.map(|(at, item)| (format!("{path}{dot}{at}"), item)));
                }
                Json::Object(keys) => {
                    let value = keys.get(part).or(left_out);
                    inner.extend(value.map(|value| (format!("{path}{dot}{part}"), value)));
                }
                _ => {}
            }
        }
        places = inner;
    }
    places
}

impl Pipeline {
    /// The JSON Schema of the config file.
    pub fn json_schema() -> Json {
        let mut schema = schemars::schema_for!(Self);
        schema.insert("title".to_owned(), "scalingnote pipeline".into());
        let mut schema = schema.to_value();
        let changes: Vec<String> =
            CHANGES.iter().map(|change| format!("`{}` ({})", change.key, change.why)).collect();
        schema["properties"]["version"] = json!({
            "type": "integer",
            "minimum": 1,
            "maximum": 2,
            "description": format!(
                "Version of this format, 1 or 2. Version 2 has other defaults: {}.",
                changes.join("; ")
            ),
        });
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve_text;
    use crate::types::Arithmetic;

    const FILE: &str = "version = 1\n[corpus]\nsql = 'select note_id, body from a'\n\
        template = '{{ body }}'\n[[corpus.tables]]\nname = 'a'\nuri = 'a.csv'\nhas_header = true\n\
        [[corpus.tables]]\nname = 'b'\nuri = 'b.csv'\n[tower]\nmodel = 'fake:8'\npooling = 'mean'\n\
        [publish]\nroot = 'out'\n";

    const fn to(key: &'static str, then: fn(&Pipeline, &str) -> Json) -> Change {
        Change { key, left_out: None, then, new_space: true, why: "a test" }
    }

    const TABLE: &[Change] = &[
        to("corpus.tables.*.has_header", |_, place| place.ends_with("0.has_header").into()),
        to("tower.arithmetic", |_, _| "bf16".into()),
        to("next.tower.arithmetic", |pipeline, _| match pipeline.tower.arithmetic {
            Arithmetic::Int8 => "f16".into(),
            _ => "f32".into(),
        }),
        to("index.connectivity", |_, _| 16.into()),
    ];

    const NEXT: &str = "[next.tower]\nmodel = 'fake:16'\npooling = 'mean'\n[publish]";

    const EVERY: &str = "[query.tower]\nmodel = 'fake:8'\npooling = 'mean'\n[next.query.tower]\n\
        model = 'fake:16'\npooling = 'mean'\n[next.tower]\nmodel = 'fake:16'\npooling = 'mean'\n[publish]";

    fn found(text: &str) -> (Pipeline, Vec<DefaultChange>) {
        let resolved = resolve_text(text, "p.toml", "/".as_ref(), [], &[]).unwrap();
        let pipeline = resolved.pipeline;
        let changes = differences(TABLE, &pipeline, &pipeline.origins.by_key).unwrap();
        (pipeline, changes)
    }

    #[test]
    fn only_places_that_are_there_and_that_nobody_sets_change() {
        let (_, changes) = found(FILE);
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["corpus.tables.1.has_header", "tower.arithmetic"]);
        assert_eq!((&changes[1].now, &changes[1].then), (&"f32".into(), &"bf16".into()));
        assert_eq!(
            changes[1].to_string(),
            "tower.arithmetic: \"f32\" in version 1, \"bf16\" in version 2 (every text is encoded again); a test"
        );
        let text = FILE.replace("[publish]", &format!("arithmetic = 'int8'\n{NEXT}"));
        let (pipeline, changes) = found(&text);
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["corpus.tables.1.has_header", "next.tower.arithmetic"]);
        let after = with(&pipeline, &changes).unwrap();
        assert_eq!(after.next.as_ref().map(|next| next.tower.arithmetic), Some(Arithmetic::F16));
        assert!(after.corpus.tables[0].has_header && !after.corpus.tables[1].has_header);
        assert_eq!(after.tower, pipeline.tower);
    }

    #[test]
    fn every_change_names_a_key_whose_values_a_file_can_hold() {
        let (pipeline, _) = found(&FILE.replace("[publish]", EVERY));
        let json = to_json(&pipeline).unwrap();
        for change in CHANGES {
            let left_out = change.left_out.map(Json::from);
            let places = places(&json, change.key, left_out.as_ref());
            assert!(!places.is_empty(), "{} is not a key", change.key);
            for (place, now) in places {
                assert!(toml::Value::try_from(now).is_ok(), "{place} cannot be written down");
                assert!(!change.why.is_empty() && !change.why.ends_with('.'));
            }
        }
    }
}
