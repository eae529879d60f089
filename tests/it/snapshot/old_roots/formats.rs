//! What a program of 0.1.0 meets where a newer one went on: its reader refuses a field that it does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::{OldRoot, ROOTS, fixture};
use crate::fixture::files::walk;

/// A schema of 0.1.0.
struct Schema(Value);

impl Schema {
    fn read(name: &str) -> Self {
        let path = fixture().join(format!("schemas/{name}.schema.json"));
        Self(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    /// Places in `value` that a reader of this schema refuses: fields that it does not know.
    fn unknown(&self, value: &Value) -> Vec<String> {
        self.unknown_in(value, &self.0, "")
    }

    /// The same against one of its definitions.
    fn unknown_as(&self, definition: &str, value: &Value) -> Vec<String> {
        self.unknown_in(value, &self.0["$defs"][definition], definition)
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
            Some(name) => self.resolved(&self.0["$defs"][name]),
            None => schema,
        }
    }

    fn unknown_in(&self, value: &Value, schema: &Value, at: &str) -> Vec<String> {
        let schema = self.resolved(schema);
        assert!(schema.is_object() || *schema == Value::Bool(true), "{at}: {schema}");
        if let Some(branches) = schema.get("anyOf").or(schema.get("oneOf")) {
            let fitting =
                branches.as_array().unwrap().iter().filter(|branch| self.fits(value, branch));
            let found = fitting.map(|branch| self.unknown_in(value, branch, at));
            return found
                .min_by_key(Vec::len)
                .unwrap_or_else(|| vec![format!("{at}: another type")]);
        }
        match value {
            Value::Array(items) => {
                let items = items.iter().filter(|_| schema["items"].is_object());
                items
                    .flat_map(|item| self.unknown_in(item, &schema["items"], &format!("{at}[]")))
                    .collect()
            }
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| {
                    let at = format!("{at}.{name}");
                    match (&schema["properties"][name], &schema["additionalProperties"]) {
                        (Value::Null, Value::Bool(false)) => vec![at],
                        (Value::Null, other) if other.is_object() => {
                            self.unknown_in(value, other, &at)
                        }
                        // Its reader passes over such a field.
                        (Value::Null, _) => Vec::new(),
                        (known, _) => self.unknown_in(value, known, &at),
                    }
                };
                fields.iter().flat_map(field).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the JSON type is the schema's, as far as it names one.
    fn fits(&self, value: &Value, schema: &Value) -> bool {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is = |name: &Value| name == kind || (name == "integer" && kind == "number");
        match &self.resolved(schema)["type"] {
            Value::Null => true,
            Value::Array(names) => names.iter().any(is),
            name => is(name),
        }
    }
}

/// Files of one sort in a root; manifests and plans have schemas, and a lease is gone when its command ends.
fn sort_of(key: &str) -> Option<&'static str> {
    let (top, _) = key.split_once('/')?;
    let ending = |end: &str| key.ends_with(end);
    Some(match top {
        "prepared" if ending(".located.parquet") => "located",
        "prepared" => "prepared",
        "embeddings" if ending(".receipt.json") => "part receipt",
        "embeddings" if ending(".task.json") => "encode receipt",
        "embeddings" => "part",
        "indexes" if key.contains("/calibration-") => "calibration",
        "indexes" if ending(".receipt.json") => "index receipt",
        "indexes" if ending(".task.json") => "build receipt",
        "indexes" if ending(".ids.parquet") => "ids",
        "indexes" if ending(".removed.parquet") => "removed",
        "indexes" if ending(".f16") => "sidecar",
        _ => return None,
    })
}

/// What the files of each sort in some roots are made of: the fields of JSON, the columns of Parquet, the head of a sidecar.
/// Parts and sidecars say their dimensions, so towers of the same sizes must have made them.
fn makings(roots: &[PathBuf]) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut found: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    let keys = |root: &PathBuf| {
        let key = |file: String| Path::new(&file).strip_prefix(root).unwrap().to_owned();
        walk(root).into_iter().map(key).map(|key| (root.clone(), key)).collect::<Vec<_>>()
    };
    for (root, key) in roots.iter().flat_map(keys) {
        let bytes = std::fs::read(root.join(&key)).unwrap();
        let key = key.to_str().unwrap();
        let Some(sort) = sort_of(key) else { continue };
        let found = found.entry(sort).or_default();
        if key.ends_with(".json") {
            fields("", &serde_json::from_slice(&bytes).unwrap(), found);
        } else if key.ends_with(".parquet") {
            let reader =
                ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
            let columns = reader.schema().fields().iter();
            let columns: Vec<_> =
                columns.map(|c| (c.name(), c.data_type(), c.is_nullable())).collect();
            found.insert(format!("{columns:?}"));
        } else {
            found.insert(format!("{:?}", &bytes[..16]));
        }
    }
    found
}

/// Every field with the type of its value; a number as a name is data.
fn fields(at: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => {
            items.iter().for_each(|item| fields(&format!("{at}[]"), item, found))
        }
        Value::Object(map) => {
            for (name, value) in map {
                let name = if name.parse::<u64>().is_ok() { "*" } else { name };
                fields(&format!("{at}.{name}"), value, found);
            }
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

/// Goes through the days of a root again, in a root of its own.
fn again(name: &'static str) -> OldRoot {
    let new = OldRoot::copy(name);
    std::fs::remove_dir_all(new.path().join("root")).unwrap();
    let run = |day: u32, pipeline: &str| {
        new.write_day(day);
        new.json(0, &["run", pipeline]);
    };
    run(1, "pipeline.toml");
    if name == "i8" {
        (2..=4).for_each(|day| run(day, "pipeline.toml"));
    } else {
        new.json(0, &["purge", "root", "--note-id", "s:notes/07"]);
        run(2, "pipeline.toml");
        run(2, "next.toml");
    }
    let back = ["snapshot", "rollback", "root", "3", "--reason", "again"];
    assert!(new.command().args(back).output().unwrap().status.success());
    new
}

#[test]
fn the_same_days_write_nothing_that_its_reader_refuses() {
    let (manifest_schema, plan_schema) = (Schema::read("manifest"), Schema::read("plan"));
    let written = makings(&ROOTS.map(|name| fixture().join(name).join("root")));
    for name in ROOTS {
        let (old, new) = (OldRoot::copy(name), again(name));
        assert_eq!(new.numbers(), old.numbers());
        for number in new.numbers() {
            let (then, now) = (old.manifest(number), new.manifest(number));
            assert_eq!(
                now["version"], 1,
                "a version for what cannot be said otherwise, not for this"
            );
            assert_eq!(manifest_schema.unknown(&now), [""; 0]);
            let content = &now["content"];
            assert_eq!(
                plan_schema.unknown_as("IndexOptions", &content["index"]["options"]),
                [""; 0]
            );
            for tower in content["query_towers"].as_array().unwrap() {
                assert_eq!(plan_schema.unknown_as("TowerOptions", &tower["options"]), [""; 0]);
            }
            for same in ["space_id", "notes", "vectors", "shard_count", "stored_columns"] {
                assert_eq!(content[same], then["content"][same], "{same} of snapshot {number}");
            }
            assert_eq!(segments(content), segments(&then["content"]), "snapshot {number}");
        }
        let mut plans = 0;
        for file in walk(&new.path().join("root/runs")).iter().filter(|f| f.ends_with("/plan.json"))
        {
            let plan: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            // It knows a plan of another version for what it is; one of its own it reads.
            if plan["version"] == 2 {
                // One that was made after a purge it is meant to refuse: its tasks do not look for a purge.
                let unknown = plan_schema.unknown(&plan);
                let others = unknown.into_iter().filter(|field| !field.ends_with("spec.purged"));
                assert_eq!(others.collect::<Vec<_>>(), [""; 0]);
            }
            plans += 1;
        }
        assert!(plans >= 2, "{plans} plans");
        for (sort, now) in makings(&[new.path().join("root")]) {
            // Hashes of a part's pieces: its runs refuse such receipts, its readers of snapshots never look at one.
            let hashes = |field: &&String| {
                ["part receipt", "encode receipt"].contains(&sort) && field.contains(".pieces.")
            };
            let added: Vec<_> = now.difference(&written[sort]).filter(|f| !hashes(f)).collect();
            assert!(added.is_empty(), "{name}, {sort}: {added:?}");
        }
    }
}

/// Vectors and removed vectors of every segment.
fn segments(content: &Value) -> Vec<Value> {
    let gone = |segment: &Value| segment["removed"]["vectors"].clone();
    let of = |shard: &Value| {
        let deltas = shard["deltas"].as_array().into_iter().flatten();
        let deltas = deltas.map(|delta| serde_json::json!([delta["vectors"], gone(delta)]));
        serde_json::json!([shard["vectors"], gone(shard), deltas.collect::<Vec<_>>()])
    };
    content["shards"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn the_check_sees_a_new_field_wherever_it_is() {
    let schema = Schema::read("manifest");
    let manifest = OldRoot::copy("i8").manifest(3);
    assert_eq!(schema.unknown(&manifest), [""; 0]);
    for (place, at) in [
        ("", ".new"),
        ("/content", ".content.new"),
        ("/content/shards/0", ".content.shards[].new"),
        ("/content/shards/1/removed", ".content.shards[].removed.new"),
        ("/content/shards/0/deltas/0/index", ".content.shards[].deltas[].index.new"),
        ("/provenance/gates/0", ".provenance.gates[].new"),
    ] {
        let mut changed = manifest.clone();
        let Some(object) = changed.pointer_mut(place) else { panic!("{place}") };
        object["new"] = 1.into();
        assert_eq!(schema.unknown(&changed), [at]);
    }
}
