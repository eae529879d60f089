//! What `train`, `mine`, `distill` and `evaluate` refuse, leave out or notice: data, options, checkpoints, students
//! that broke.

use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{DISTILL, RECIPE, STUDENT, folder, pipeline_of_teacher};

fn write(path: &Path, name: &str, text: &str) {
    std::fs::write(path.join(name), text).unwrap();
}

fn pairs(path: &Path) -> Vec<Value> {
    let lines = std::fs::read_to_string(path.join("pairs.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write_pairs(path: &Path, name: &str, pairs: &[Value]) {
    let lines: Vec<String> = pairs.iter().map(Value::to_string).collect();
    write(path, name, &(lines.join("\n") + "\n"));
}

/// Where the tensors of a safetensors file begin, after its length and its header.
fn tensors_at(file: &[u8]) -> usize {
    8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
}

/// A finished or half-finished run must not be taken for one of other negatives, weights or a starting adapter that has
/// changed.
#[test]
fn a_run_is_resumed_only_where_all_that_decides_it_is_the_same() {
    let folder = folder();
    let path = folder.path();
    let with = |key: &str, value: Value| {
        let mut all = pairs(path);
        all.iter_mut().for_each(|pair| pair[key] = value.clone());
        all
    };
    let recipe = RECIPE
        .replace("pairs.jsonl", "mined.jsonl")
        .replace("steps = 6", "steps = 2\nhard_negatives = 1");
    write(path, "mined.toml", &recipe);
    write_pairs(path, "mined.jsonl", &with("negatives", json!(["a stranger"])));
    expect(path, 0, "train mined.toml --out run");
    expect(path, 0, "train mined.toml --out run");
    let mut weighed = with("negatives", json!(["a stranger"]));
    weighed[3]["weight"] = json!(5.0);
    for changed in [with("negatives", json!(["another stranger"])), weighed] {
        write_pairs(path, "mined.jsonl", &changed);
        let (_, stderr) = expect(path, 2, "train mined.toml --out run");
        assert!(stderr.contains("belongs to a run with another recipe, other pairs"), "{stderr}");
    }
    // The adapter to start from, under the same name.
    expect(path, 0, "train recipe.toml --out round1");
    let next =
        RECIPE.replace("model = \"model\"", "model = \"model\"\nadapter = \"round1/adapter\"");
    write(path, "next.toml", &next);
    expect(path, 0, "train next.toml --out next");
    let adapter = path.join("round1/adapter/adapter_model.safetensors");
    std::fs::copy(path.join("next/adapter/adapter_model.safetensors"), adapter).unwrap();
    let (_, stderr) = expect(path, 2, "train next.toml --out next");
    assert!(stderr.contains("another model or adapter to start from"), "{stderr}");
    // One that is not what it would be trained further as.
    let file = path.join("round1/adapter/adapter_config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (key, value, said) in [
        (
            "init_lora_weights",
            json!("pissa"),
            "init_lora_weights is \"pissa\": the model's own weights were changed",
        ),
        ("target_modules", json!(["q_proj"]), "target_modules"),
    ] {
        let mut other = config.clone();
        other[key] = value;
        std::fs::write(&file, other.to_string()).unwrap();
        let (_, stderr) = expect(path, 1, "train next.toml --out third");
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn a_changed_bit_of_a_checkpoint_is_noticed() {
    let folder = folder();
    let path = folder.path();
    expect(path, 0, "train recipe.toml --out run");
    let file = path.join("run/checkpoint.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let header = tensors_at(&whole);
    // One in a parameter or a moment near the beginning, one in the last.
    for at in [header + 40, whole.len() - 2] {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        std::fs::write(&file, changed).unwrap();
        for line in ["train recipe.toml --out run", "train recipe.toml --out run --export out"] {
            let (_, stderr) = expect(path, 1, line);
            assert!(stderr.contains("is damaged; delete it to start again"), "{line}\n{stderr}");
        }
    }
    assert!(!path.join("out").exists());
}

/// A step whose loss is still a number may leave parameters that are none.
#[test]
fn training_that_breaks_ends_with_an_error_and_writes_nothing() {
    let folder = folder();
    let path = folder.path();
    let broken = |recipe: &str, steps: &str| {
        recipe
            .replace(steps, "steps = 1")
            .replace("learning_rate = 5e-3", "learning_rate = 1e38")
            .replace("learning_rate = 3e-3", "learning_rate = 1e38")
    };
    expect(path, 0, "train recipe.toml --out round1");
    write(path, "wild.toml", &broken(RECIPE, "steps = 6"));
    write(path, "wild-distill.toml", &broken(DISTILL, "steps = 30"));
    for (line, result) in [
        ("train wild.toml --out wild", "wild/adapter"),
        ("distill wild-distill.toml --out wild-student", "wild-student/student"),
    ] {
        let (_, stderr) = expect(path, 1, line);
        assert!(
            stderr.contains("no longer finite") && stderr.contains("optimizer.learning_rate"),
            "{line}\n{stderr}"
        );
        assert!(!path.join(result).exists(), "{line}");
    }
}

#[test]
fn options_that_cannot_work_are_refused_before_the_work() {
    let folder = folder();
    let path = folder.path();
    expect(path, 0, "train recipe.toml --out round1");
    for (field, value) in [
        ("learning_rate", "-1.0"),
        ("beta1", "1.0"),
        ("beta2", "-1.0"),
        ("epsilon", "0.0"),
        ("weight_decay", "-1.0"),
        ("final_share", "5.0"),
        ("clip_norm", "0.0"),
    ] {
        for (command, recipe) in [("train", RECIPE), ("distill", DISTILL)] {
            let plain: String = recipe
                .lines()
                .filter(|l| !l.starts_with("learning_rate"))
                .map(|l| format!("{l}\n"))
                .collect();
            let wrong = plain.replace("[optimizer]", &format!("[optimizer]\n{field} = {value}"));
            write(path, "wrong.toml", &wrong);
            let (_, stderr) = expect(path, 2, &format!("{command} wrong.toml --out wrong"));
            assert!(
                stderr.contains(&format!("`optimizer.{field}`: must")),
                "{command} {field}\n{stderr}"
            );
        }
    }
    let temperature = "temperature`: must be in 0.001..=1000";
    for (command, recipe, place, change, message) in [
        ("train", RECIPE, "temperature = 0.1", "temperature = 1e-30", temperature),
        (
            "train",
            RECIPE,
            "rank = 4",
            "rank = 100000",
            "method.rank is 100000, above the model's 32",
        ),
        (
            "train",
            RECIPE,
            "seed = 3",
            "seed = 3\nhard_negatives = 2",
            "no training pair has any; mine them first",
        ),
        (
            "train",
            RECIPE,
            "path = \"pairs.jsonl\"",
            "path = \"pairs.jsonl\"\nlimit = 0",
            "limit of pairs",
        ),
        ("distill", DISTILL, "seed = 2", "seed = 2\nscore_temperature = 0.0", temperature),
        (
            "distill",
            DISTILL,
            "seed = 2",
            "seed = 2\nscore_weight = -1.0",
            "`score_weight`: must be a number of 0 or more",
        ),
        (
            "distill",
            DISTILL,
            "layers = 1",
            "layers = 1\ntrain_embedding = true",
            "did you mean `train_embeddings`?",
        ),
    ] {
        assert!(recipe.contains(place), "{place}");
        write(path, "wrong.toml", &recipe.replace(place, change));
        let (_, stderr) = expect(path, 2, &format!("{command} wrong.toml --out wrong"));
        assert!(stderr.contains(message), "{change}\n{stderr}");
    }
    // A recipe for another command, and a folder that is a file.
    write(path, "distill.toml", DISTILL);
    write(path, "day.toml", "version = 2\n[corpus]\n[tower]\n[publish]\nroot = \"root\"\n");
    for (line, message) in [
        ("train distill.toml --out x", "it is a recipe for `scalingnote distill`"),
        ("mine distill.toml --out x", "it is a recipe for `scalingnote distill`"),
        ("distill day.toml --out x", "day.toml is a pipeline file"),
        ("distill recipe.toml --out x", "it is a recipe for `scalingnote train`"),
        ("train recipe.toml --out distill.toml", "distill.toml is a file; --out names a folder"),
        ("distill distill.toml --out recipe.toml", "recipe.toml is a file"),
        ("mine recipe.toml --out m --margin nan", "margin must be above 0 and at most 1"),
        ("mine recipe.toml --out m --margin 5", "margin must be above 0 and at most 1"),
        ("mine recipe.toml --out m --keep 0", "keep must be above 0"),
        ("evaluate fake.toml set --per-query none/q.tsv", "none/q.tsv cannot be written"),
        ("evaluate fake.toml set --run set", "set cannot be written"),
    ] {
        let (_, stderr) = expect(path, 2, line);
        assert!(stderr.contains(message), "{line}\n{stderr}");
    }
    assert!(!path.join("m").exists() && !path.join("wrong").exists() && !path.join("x").exists());
}

#[test]
fn pairs_that_are_none_are_named_or_left_out() {
    let folder = folder();
    let path = folder.path();
    let good = pairs(path);
    let recipe = |pairs: &str| RECIPE.replace("path = \"pairs.jsonl\"", pairs);
    // Nothing is trained on an empty text; what is left is what was there before.
    let mut more = good.clone();
    more.extend([json!({"query": "a", "text": ""}), json!({"query": "  ", "text": "b"})]);
    write_pairs(path, "more.jsonl", &more);
    write(path, "more.toml", &recipe("path = \"more.jsonl\""));
    let whole = json_of(path, "train recipe.toml --out whole --json");
    let report = json_of(path, "train more.toml --out more --json");
    assert_eq!(report["steps"][5]["loss"], whole["steps"][5]["loss"]);
    let (_, stderr) = expect(path, 0, "train more.toml --out more");
    assert!(stderr.contains("2 of 32 pairs have no query or no text"), "{stderr}");
    expect(path, 0, "mine more.toml --out mined --margin 1");
    write_pairs(path, "none.jsonl", &[json!({"query": "a", "text": ""})]);
    write(path, "none.toml", &recipe("path = \"none.jsonl\""));
    let (_, stderr) = expect(path, 1, "train none.toml --out none");
    assert!(stderr.contains("no pair has both a query and a text"), "{stderr}");

    let bad = |line: &str| {
        let first = good[0].to_string();
        write(path, "bad.jsonl", &format!("{first}\n{line}\n"));
        write(path, "bad.toml", &recipe("path = \"bad.jsonl\""));
        expect(path, 1, "train bad.toml --out bad").1
    };
    for (line, message) in [
        (r#"{"query": "a", "text": "b", "secret": []}"#, "it has another field"),
        (r#"{"query": "a"}"#, "missing field `text`"),
        (r#"{"query": "a", "text": "secret", "weight": "secret"}"#, "a value is of a wrong type"),
        (r#"{"query": "a", "text": "secret""#, "not JSON"),
        (r#"{"query": "a", "text": "b", "weight": 1e300}"#, "weight must be a number"),
    ] {
        let stderr = bad(line);
        assert!(
            stderr.contains("bad.jsonl, line 2") && stderr.contains(message),
            "{line}\n{stderr}"
        );
        assert!(!stderr.contains("secret"), "{stderr}");
    }
    // A byte order mark is not a part of the first line.
    let lines = std::fs::read_to_string(path.join("pairs.jsonl")).unwrap();
    write(path, "mark.jsonl", &format!("\u{feff}{lines}"));
    write(path, "mark.toml", &recipe("path = \"mark.jsonl\""));
    expect(path, 0, "train mark.toml --out mark");
    // A weight that is not a number does not become 1.
    let sql = "path = \"pairs.jsonl\"\nsql = \"SELECT query, text, 'heavy' AS weight FROM pairs\"";
    write(path, "heavy.toml", &recipe(sql));
    let (_, stderr) = expect(path, 1, "train heavy.toml --out heavy");
    assert!(stderr.contains("`weight` of the pairs holds a text that is not a number"), "{stderr}");
    // No weight at all is 1, as ever.
    let sql = sql.replace("'heavy'", "NULL");
    write(path, "null.toml", &recipe(&sql));
    let report = json_of(path, "train null.toml --out null --json");
    assert_eq!(report["training_pairs"], whole["training_pairs"]);
    // Of several folders with files of the same names, the one that is wrong is told.
    std::fs::create_dir(path.join("beir")).unwrap();
    std::fs::copy(path.join("set/corpus.jsonl"), path.join("beir/corpus.jsonl")).unwrap();
    std::fs::copy(path.join("set/queries.jsonl"), path.join("beir/queries.jsonl")).unwrap();
    write(path, "beir/qrels.tsv", "q0\tnowhere\t1\n");
    write(path, "beir.toml", &recipe("path = \"beir\""));
    let (_, stderr) = expect(path, 1, "train beir.toml --out beir-run");
    for piece in [
        "beir holds no training pair",
        "beir: judgements of documents that the corpus lacks: 1",
        "line 1: \"nowhere\"",
    ] {
        assert!(stderr.contains(piece), "{stderr}");
    }
    // With others it is told, and training goes on.
    let others = std::fs::read_to_string(path.join("set/qrels.tsv")).unwrap();
    write(path, "beir/qrels.tsv", &format!("{others}q0\tnowhere\t1\n"));
    let (_, stderr) = expect(path, 0, "train beir.toml --out beir-run");
    assert!(stderr.contains("beir: judgements of documents that the corpus lacks: 1"), "{stderr}");
}

/// No gate asks the query tower, so one that gives NaN would be published and every search would fail.
#[test]
fn a_query_tower_that_broke_is_not_published() {
    let folder = folder();
    let path = folder.path();
    expect(path, 0, "train recipe.toml --out round1");
    write(path, "distill.toml", DISTILL);
    expect(path, 0, "distill distill.toml --out student");
    write(
        path,
        "p.toml",
        &pipeline_of_teacher().replace("[query]\nprompt_prefix = \"? \"\n", STUDENT),
    );
    let weights = path.join("student/student/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let header = tensors_at(&whole);
    let mut broken = whole.clone();
    broken[header..].chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&f32::NAN.to_le_bytes()));
    std::fs::write(&weights, broken).unwrap();
    let (_, stderr) = expect(path, 1, "run p.toml");
    assert!(stderr.contains("gives no usable vector"), "{stderr}");
    assert!(!path.join("root/snapshots").exists() && !path.join("root/embeddings").exists());
    // Nor where a scheduler had the tasks done elsewhere.
    let plan = json_of(path, "plan p.toml --brief");
    let plan = plan["plan_key"].as_str().unwrap();
    for stage in ["encode", "calibrate", "build"] {
        expect(path, 0, &format!("task p.toml --plan {plan} --stage {stage}"));
    }
    let (_, stderr) = expect(path, 1, &format!("publish p.toml --plan {plan}"));
    assert!(stderr.contains("gives no usable vector"), "{stderr}");
    assert!(!path.join("root/snapshots").exists());
    std::fs::write(&weights, whole).unwrap();
    expect(path, 0, &format!("publish p.toml --plan {plan}"));

    // The check of a file says what a run would.
    expect(path, 0, "config check p.toml");
    let other = std::fs::read_to_string(path.join("p.toml")).unwrap();
    write(path, "other.toml", &other.replace("adapter = \"round1/adapter\"\n", ""));
    let (_, stderr) = expect(path, 2, "config check other.toml");
    assert!(stderr.contains("distilled from another tower"), "{stderr}");
}

/// The comparison that cannot be made is refused before the documents are encoded.
#[test]
fn an_evaluation_says_at_once_that_it_cannot_be_compared() {
    let folder = folder();
    let path = folder.path();
    let mut answer = json_of(path, "evaluate fake.toml set --json");
    answer["rows"][0]["per_query"].as_array_mut().unwrap().pop();
    write(path, "other.json", &answer.to_string());
    let (_, stderr) = expect(path, 1, "evaluate fake.toml set --compare other.json --vectors v");
    assert!(stderr.contains("did not judge the same queries"), "{stderr}");
    assert!(!path.join("v").exists());
}
