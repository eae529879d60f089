//! The keys of a pipeline file that say where something is.

use std::borrow::Cow;
use std::path::Path;

use super::document::Node;
use super::pipeline::Pipeline;
use super::problem::Problems;
use crate::store::named::expand_text;
use crate::tower::TowerOptions;

/// Puts the home folder in the place of `~` where this process alone uses a path, and reports every path that cannot be
/// meant, at its place in `root`.
///
/// Paths of a tower keep their `~`: plans and snapshots record them, and the reader's home folder may be another one.
pub(super) fn expand(pipeline: &mut Pipeline, base: &Path, root: &Node, problems: &mut Problems) {
    let mut check = |path: &str, text: &str| match expand_text(text, base) {
        Ok(Cow::Owned(expanded)) => Some(expanded),
        Ok(Cow::Borrowed(_)) => None,
        Err(error) => {
            problems.push(root.origin_of(path), format!("`{path}`: {}", error.message()));
            None
        }
    };
    if let Some(expanded) = check("publish.root", &pipeline.publish.root) {
        pipeline.publish.root = expanded;
    }
    for (at, file) in pipeline.publish.public_keys.iter_mut().enumerate() {
        if let Some(expanded) = check(&format!("publish.public_keys.{at}"), file) {
            *file = expanded;
        }
    }
    if let Some(evaluation) = &mut pipeline.evaluation {
        for (key, place) in [("set", &mut evaluation.set), ("queries", &mut evaluation.queries)] {
            let path = format!("evaluation.{key}");
            if let Some(expanded) = place.as_ref().and_then(|place| check(&path, place)) {
                *place = Some(expanded);
            }
        }
        check("evaluation.qrels", &evaluation.qrels);
    }
    for (at, table) in pipeline.corpus.tables.iter_mut().enumerate() {
        if let Some(expanded) = check(&format!("corpus.tables.{at}.uri"), &table.uri) {
            table.uri = expanded;
        }
    }
    let mut tower = |section: &str, tower: &TowerOptions| {
        let TowerOptions { model, tokenizer, adapter, head, .. } = tower;
        let places = [("tokenizer", tokenizer), ("adapter", adapter), ("head", head)];
        let places = places.map(|(key, place)| (key, place.as_ref()));
        for (key, place) in [("model", Some(model))].into_iter().chain(places) {
            place.and_then(|place| check(&format!("{section}.{key}"), place));
        }
    };
    tower("tower", &pipeline.tower);
    pipeline.query.tower.iter().for_each(|query| tower("query.tower", query));
    if let Some(next) = &pipeline.next {
        tower("next.tower", &next.tower);
        next.query.tower.iter().for_each(|query| tower("next.query.tower", query));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use crate::config::{Pipeline, resolve_text};

    const FILE: &str = "version = 2\n[corpus]\nsql = 'select note_id, body from a'\n\
        template = '{{ body }}'\n[[corpus.tables]]\nname = 'a'\nuri = 'a.csv'\n[tower]\n\
        model = 'fake:8'\npooling = 'mean'\n[query.tower]\nmodel = 'fake:8'\npooling = 'mean'\n\
        [next.tower]\nmodel = 'fake:8'\npooling = 'mean'\n[next.query.tower]\nmodel = 'fake:8'\n\
        pooling = 'mean'\n[evaluation]\nset = 'judged'\n[publish]\nroot = 'out'\n";

    /// Keys that hold text but no path. Every other text key is a path, and must expand `~`.
    const OTHER: &[&str] = &[
        "sql",
        "template",
        "name",
        "revision",
        "prompt_prefix",
        "prompt_suffix",
        "endpoint",
        "region",
        "device",
        // What a database calls it, and columns.
        "table",
        "changed_at",
        "by",
        // How text files are written.
        "quote",
        "escape",
        "comment",
        "null",
        "timestamp",
    ];

    /// Dotted paths of all keys that take any text; arrays have their first item.
    fn texts(schema: &Json, at: &Json, path: &str, found: &mut Vec<String>) {
        if let Some(target) = at["$ref"].as_str() {
            return texts(schema, schema.pointer(&target[1..]).unwrap(), path, found);
        }
        for branch in at["anyOf"].as_array().into_iter().flatten() {
            texts(schema, branch, path, found);
        }
        if let Some(properties) = at["properties"].as_object() {
            for (key, inner) in properties {
                let dot = if path.is_empty() { "" } else { "." };
                texts(schema, inner, &format!("{path}{dot}{key}"), found);
            }
        }
        if at["items"]["$ref"].is_string() {
            texts(schema, &at["items"], &format!("{path}.0"), found);
        }
        let types = |value: &Json| value == "string" || value[0] == "string";
        if types(&at["type"]) && at.get("enum").is_none() && at.get("maxLength").is_none() {
            found.push(path.to_owned());
        }
    }

    #[test]
    fn every_key_with_a_path_knows_the_home_folder() {
        let schema = Pipeline::json_schema();
        let mut keys = Vec::new();
        texts(&schema, &schema, "", &mut keys);
        let is_place = |key: &&String| !OTHER.contains(&key.rsplit('.').next().unwrap_or_default());
        let places: Vec<&String> = keys.iter().filter(is_place).collect();
        assert!(places.len() >= 14, "{places:?}");
        let resolve = |key: &str, value: &str| {
            resolve_text(FILE, "p.toml", "/none".as_ref(), [], &[format!("{key}={value}")])
        };
        for key in places {
            for (value, piece) in [("~bob/x", "user `bob`"), ("file://~/x", "no home folder")] {
                let error = resolve(key, value).unwrap_err().to_string();
                assert!(error.contains(&format!("--set {key}: `{value}`: ")), "{key}: {error}");
                assert!(error.contains(piece), "{key}: {error}");
            }
            resolve(key, "./~/x").unwrap();
        }
    }

    #[test]
    fn a_root_and_a_table_lie_where_the_home_folder_is() {
        let home = std::env::var("HOME").expect("tests run with a home folder");
        let set = ["publish.root=~/index", "corpus.tables.0.uri=~/notes/*.csv", "tower.model=~/m"];
        let set = set.map(str::to_owned);
        let pipeline = resolve_text(FILE, "p.toml", "/none".as_ref(), [], &set).unwrap().pipeline;
        assert_eq!(pipeline.publish.root, format!("{home}/index"));
        assert_eq!(pipeline.corpus.tables[0].uri, format!("{home}/notes/*.csv"));
        assert_eq!(pipeline.tower.model, "~/m");
    }
}
