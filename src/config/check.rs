//! Checks the tree against the JSON Schema of the types: unknown and missing keys, wrong types,
//! wrong names. One walk finds all of them, each with its place.

use serde_json::Value as Json;

use super::document::{Entry, Node, Value};
use super::origin::Origin;
use super::problem::{Problems, nearest, one_of};
use super::secret;

/// A schema with what `$ref` resolves in.
#[derive(Clone, Copy)]
pub(super) struct Schema<'a> {
    root: &'a Json,
    at: &'a Json,
}

impl<'a> Schema<'a> {
    pub(super) fn new(root: &'a Json) -> Self {
        Self { root, at: root }.expand()
    }

    fn with(self, at: &'a Json) -> Self {
        Self { root: self.root, at }.expand()
    }

    /// Follows `$ref` and takes the branch of an `Option` that is not null.
    fn expand(mut self) -> Self {
        // Depth is bounded: schemas of plain structs do not refer in circles.
        for _ in 0..16 {
            if let Some(reference) = self.at.get("$ref").and_then(Json::as_str) {
                let pointer = reference.trim_start_matches('#');
                match self.root.pointer(pointer) {
                    Some(target) => self.at = target,
                    None => return self,
                }
            } else if let [branch] = self.branches()[..] {
                self.at = branch;
            } else {
                return self;
            }
        }
        self
    }

    /// Those of an `anyOf` that are not null.
    fn branches(self) -> Vec<&'a Json> {
        let all = self.at.get("anyOf").and_then(Json::as_array).into_iter().flatten();
        all.filter(|branch| branch.get("type") != Some(&Json::from("null"))).collect()
    }

    /// Of several branches the one that is a table.
    fn table(self) -> Option<Self> {
        let mut branches = self.branches().into_iter().map(|branch| self.with(branch));
        branches.find(|branch| branch.types() == ["object"])
    }

    /// A key of its own, or any key of a map.
    fn property(self, key: &str) -> Option<Self> {
        let own = self.at.get("properties").and_then(|all| all.get(key));
        let any = || self.at.get("additionalProperties").filter(|of| of.is_object());
        Some(self.with(own.or_else(any)?))
    }

    fn keys(self) -> impl Iterator<Item = &'a str> {
        let properties = self.at.get("properties").and_then(Json::as_object);
        properties.into_iter().flat_map(|map| map.keys().map(String::as_str))
    }

    fn items(self) -> Option<Self> {
        Some(self.with(self.at.get("items")?))
    }

    /// The schema at a path; numbers are array positions.
    pub(super) fn descend(self, path: &[&str]) -> Result<Self, (usize, Option<&'a str>)> {
        let mut schema = self;
        for (depth, part) in path.iter().enumerate() {
            let next = if part.parse::<usize>().is_ok() && schema.items().is_some() {
                schema.items()
            } else {
                schema.property(part)
            };
            schema = next.ok_or_else(|| (depth, nearest(part, schema.keys())))?;
        }
        Ok(schema)
    }

    /// True where only a string fits: an override needs no quotes then.
    pub(super) fn is_string(self) -> bool {
        self.names().is_some() || self.types() == ["string"]
    }

    /// True where an array fits.
    pub(super) fn is_array(self) -> bool {
        self.types() == ["array"]
    }

    /// A choice of tables that one of their keys tells apart (`kind = "lora"`): that key, and the table of each name.
    fn choices(self) -> Option<(&'a str, Vec<(&'a str, Self)>)> {
        let (mut key, mut choices) = (None, Vec::new());
        for branch in self.at.get("oneOf")?.as_array()? {
            let properties = branch.get("properties")?.as_object()?;
            let mut constants = properties.iter();
            let (tag, name) =
                constants.find_map(|(tag, of)| Some((tag.as_str(), of.get("const")?.as_str()?)))?;
            key = Some(tag);
            choices.push((name, self.with(branch)));
        }
        Some((key?, choices))
    }

    /// True where only a table fits.
    fn is_table(self) -> bool {
        self.types() == ["object"] || self.choices().is_some()
    }

    fn types(self) -> Vec<&'a str> {
        let of = |value: &'a Json| value.as_str().filter(|name| *name != "null");
        match self.at.get("type") {
            Some(Json::Array(names)) => names.iter().filter_map(of).collect(),
            Some(name) => of(name).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// What fits, for people.
    pub(super) fn wanted(self) -> String {
        let names = self.types().into_iter().map(|name| match name {
            "boolean" => "true or false",
            "integer" => "an integer",
            "number" => "a number",
            "string" => "a string in quotes",
            "array" => "an array",
            "object" => "a table",
            other => other,
        });
        names.collect::<Vec<_>>().join(" or ")
    }

    /// The allowed names of an enum.
    fn names(self) -> Option<Vec<&'a str>> {
        if let Some(names) = self.at.get("enum").and_then(Json::as_array) {
            return Some(names.iter().filter_map(Json::as_str).collect());
        }
        let branches = self.branches();
        if !branches.is_empty() {
            let names = branches.iter().filter_map(|branch| branch.get("const")?.as_str());
            return Some(names.collect());
        }
        let mut all = Vec::new();
        for branch in self.at.get("oneOf")?.as_array()? {
            match (branch.get("const"), branch.get("enum")) {
                (Some(name), _) => all.extend(name.as_str()),
                (_, Some(names)) => all.extend(names.as_array()?.iter().filter_map(Json::as_str)),
                _ => return None,
            }
        }
        Some(all)
    }
}

/// Reports everything in `node` that does not fit `schema`, and takes out every key that it does not know: the other
/// values are to be looked at all the same.
pub(super) fn check(node: &mut Node, schema: Schema<'_>, path: &str, problems: &mut Problems) {
    let is_table = matches!(node.value, Value::Table(_));
    if let Some(table) = schema.table().filter(|_| is_table) {
        return check(node, table, path, problems);
    }
    if let Some(names) = schema.names() {
        return check_name(node, &names, path, problems);
    }
    if let Some((key, choices)) = schema.choices() {
        return check_choice(node, key, &choices, path, problems);
    }
    match &mut node.value {
        Value::Table(entries) if schema.types() == ["object"] => {
            check_table(entries, &node.origin, schema, path, problems);
        }
        Value::Array(items) if schema.is_array() => {
            if let Some(item_schema) = schema.items() {
                for (at, item) in items.iter_mut().enumerate() {
                    check(item, item_schema, &format!("{path}.{at}"), problems);
                }
            }
        }
        scalar => check_scalar(scalar, &node.origin, schema, path, problems),
    }
}

fn check_name(node: &Node, names: &[&str], path: &str, problems: &mut Problems) {
    let allowed = one_of(names.iter().copied());
    let message = match &node.value {
        Value::String(name) if names.contains(&name.as_str()) => return,
        Value::String(name) => {
            let hint = nearest(name, names.iter().copied())
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            format!("`{path}` must be {allowed}, not `{}`{hint}", shorten(name))
        }
        other => format!("`{path}` must be {allowed} in quotes, not {}", other.type_name()),
    };
    problems.push(node.origin.clone(), message);
}

fn check_choice(
    node: &mut Node,
    key: &str,
    choices: &[(&str, Schema<'_>)],
    path: &str,
    problems: &mut Problems,
) {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    if !matches!(node.value, Value::Table(_)) {
        let message = format!("`{path}` must be a table, not {}", node.value.type_name());
        return problems.push(node.origin.clone(), message);
    }
    let Some(named) = node.at(key) else {
        let message = format!("key `{key}` is missing in [{path}]: {}", one_of(names));
        return problems.push(node.origin.clone(), message);
    };
    let is_named = |name: &str| matches!(&named.value, Value::String(text) if text == name);
    match choices.iter().find(|(name, _)| is_named(name)).map(|(_, chosen)| *chosen) {
        Some(chosen) => check(node, chosen, path, problems),
        None => check_name(named, &names, &format!("{path}.{key}"), problems),
    }
}

fn check_table(
    entries: &mut Vec<Entry>,
    origin: &Origin,
    schema: Schema<'_>,
    path: &str,
    problems: &mut Problems,
) {
    let dot = if path.is_empty() { "" } else { "." };
    let section = if path.is_empty() { "at the top".into() } else { format!("in [{path}]") };
    let mut misspelt = Vec::new();
    entries.retain_mut(|entry| {
        let known = schema.property(&entry.key);
        if let Some(inner) = known {
            check(&mut entry.node, inner, &format!("{path}{dot}{}", entry.key), problems);
        } else {
            misspelt.extend(nearest(&entry.key, schema.keys()));
            let message = secret::advice(&entry.key)
                .unwrap_or_else(|| unknown(&entry.key, &section, path, schema));
            problems.push(entry.key_origin.clone(), message);
        }
        known.is_some()
    });
    let required = schema.at.get("required").and_then(Json::as_array);
    for key in required.into_iter().flatten().filter_map(Json::as_str) {
        // A misspelt key was reported where it stands.
        if !entries.iter().any(|entry| entry.key == key) && !misspelt.contains(&key) {
            let inner = schema.property(key).filter(|_| path.is_empty());
            let message = match inner {
                Some(inner) if inner.is_table() => format!("section [{key}] is missing"),
                Some(inner) if inner.items().is_some_and(Schema::is_table) => {
                    format!("section [[{key}]] is missing")
                }
                _ => format!("key `{key}` is missing {section}"),
            };
            problems.push(origin.clone(), message);
        }
    }
}

/// An unknown key: the nearest key here, or the section that has a key of that very name.
fn unknown(key: &str, section: &str, path: &str, schema: Schema<'_>) -> String {
    if let Some(near) = nearest(key, schema.keys()) {
        return format!("unknown key `{key}` {section}; did you mean `{near}`?");
    }
    let root = Schema::new(schema.root);
    let elsewhere = root.keys().find(|name| {
        *name != path && root.property(name).is_some_and(|inner| inner.property(key).is_some())
    });
    match elsewhere {
        Some(name) => format!("unknown key `{key}` {section}; it belongs in [{name}]"),
        None => format!("unknown key `{key}` {section}; known are {}", one_of(schema.keys())),
    }
}

fn check_scalar(
    value: &Value,
    origin: &Origin,
    schema: Schema<'_>,
    path: &str,
    problems: &mut Problems,
) {
    let types = schema.types();
    let fitting: &[&str] = match value {
        Value::Bool(_) => &["boolean"],
        Value::Integer(_) => &["integer", "number"],
        Value::Float(_) => &["number"],
        Value::String(_) => &["string"],
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => &[],
    };
    let limit = |key| schema.at.get(key).and_then(Json::as_i64);
    let message = match value {
        _ if types.is_empty() => return,
        _ if !fitting.iter().any(|name| types.contains(name)) => {
            format!("must be {}, not {}", schema.wanted(), value.type_name())
        }
        Value::Integer(number) => {
            let most = match schema.at.get("format").and_then(Json::as_str) {
                Some("uint32") => Some(i64::from(u32::MAX)),
                _ => limit("maximum"),
            };
            match (limit("minimum"), most) {
                (Some(least), _) if *number < least => {
                    format!("must be at least {least}, not {number}")
                }
                (_, Some(most)) if *number > most => {
                    format!("must be at most {most}, not {number}")
                }
                _ => return,
            }
        }
        Value::Float(number) if !number.is_finite() => "must be a finite number".to_owned(),
        Value::String(text) if [limit("minLength"), limit("maxLength")] == [Some(1); 2] => {
            match text.chars().count() {
                1 => return,
                length => format!("must be one character, not {length}"),
            }
        }
        _ => return,
    };
    problems.push(origin.clone(), format!("`{path}` {message}"));
}

fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(40).collect();
    if out.len() < text.len() {
        out.push('\u{2026}');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::document::parse_file;
    use super::super::pipeline::Pipeline;
    use super::*;

    fn problems(text: &str) -> String {
        let schema = Pipeline::json_schema();
        let mut problems = Problems::new("p.toml");
        let mut node = parse_file(text, &mut problems);
        check(&mut node, Schema::new(&schema), "", &mut problems);
        problems.list.retain(|problem| !problem.message.contains("missing"));
        problems.result().err().map(|error| error.to_string()).unwrap_or_default()
    }

    /// Section, line, and what is said of it, after the file's name.
    const WRONG: &str = r#"
[tower] | model = 5 | 2:9: `tower.model` must be a string in quotes, not an integer
[tower] | pooling = "men" | 2:11: `tower.pooling` must be `last-token`, `mean`, `eos`, `cls`, `max`, `mean-sqrt-len` or `weighted-mean`, not `men`; did you mean `mean`?
[tower] | max_tokens = -1 | 2:14: `tower.max_tokens` must be at least 0, not -1
[tower] | max_tokens = 4294967296 | 2:14: `tower.max_tokens` must be at most 4294967295, not 4294967296
[tower] | normalize = 1 | 2:13: `tower.normalize` must be true or false, not an integer
[tower] | dimensions = 1.5 | 2:14: `tower.dimensions` must be an integer, not a float
[encode] | devices = "cpu" | 2:11: `encode.devices` must be an array, not a string
[encode] | devices = [1] | 2:12: `encode.devices.0` must be a string in quotes, not an integer
[gates] | recall_min = nan | 2:14: `gates.recall_min` must be a finite number
[[corpus.tables]] | delimiter = "::" | 2:13: `corpus.tables.0.delimiter` must be one character, not 2
 | corpus = 3 | 2:10: `corpus` must be a table, not an integer
[chunking] | window = 5 | 2:1: unknown key `window` in [chunking]; did you mean `window_tokens`?
[corpus] | pooling = "mean" | 2:1: unknown key `pooling` in [corpus]; it belongs in [tower]
[storage] | secret_access_key = "x" | 2:1: `secret_access_key` is a secret, which a configuration must not hold; remove it and set AWS_SECRET_ACCESS_KEY in the environment
"#;

    #[test]
    fn every_type_that_serde_refuses_is_refused_with_its_place() {
        for case in WRONG.trim_start_matches('\n').lines() {
            let (text, said) = case.rsplit_once(" | ").unwrap();
            assert_eq!(problems(&text.replacen(" | ", "\n", 1)), format!("p.toml:{said}"));
        }
        assert_eq!(problems("[gates]\nrecall_min = 1\nmax_drift = 0.5"), "");
    }
}
