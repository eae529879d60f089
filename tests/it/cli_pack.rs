//! A student packed to be shipped: small, near to what it was, and particular about its tokenizer.

use crate::claims::write_encoder;
use crate::cli_train::{expect, folder, json_of};

const DISTILL: &str = r#"batch = 8
steps = 20
seed = 2
[teacher]
model = "model"
pooling = "mean"
prompt_prefix = "? "
max_tokens = 32
[student]
kind = "bert"
path = "encoder"
max_tokens = 48
train_embeddings = true
[validation]
pairs = 4
every = 10
[[pairs]]
path = "pairs.jsonl"
"#;

#[test]
fn a_packed_student_answers_like_the_student() {
    let folder = folder();
    let path = folder.path();
    write_encoder(&path.join("encoder"));
    std::fs::write(path.join("distill.toml"), DISTILL).unwrap();
    let (_, stderr) = expect(path, 1, "distill distill.toml --out run --export small");
    assert!(stderr.contains("distil to the end first"), "{stderr}");
    expect(path, 0, "distill distill.toml --out run");
    let whole =
        json_of(path, "distill distill.toml --out run --export eight --table-bits 8 --json");
    let four = json_of(
        path,
        "distill distill.toml --out run --export four --bits 4 --tokens 29 --tokenizer-from a-wheel==1 --json",
    );
    let value = |answer: &serde_json::Value, key: &str| answer[key].as_f64().unwrap();
    assert!(
        value(&whole, "mean_cosine") > 0.9999 && value(&whole, "least_cosine") > 0.999,
        "{whole}"
    );
    let cosine = value(&four, "mean_cosine");
    assert!(cosine > 0.95 && cosine < value(&whole, "mean_cosine"), "{four}");
    // Single characters stay whatever is asked for, and the tiny tokenizer knows nothing else.
    assert_eq!((four["share_kept"].as_f64(), four["queries"].as_u64()), (Some(1.0), Some(30)));
    let size =
        |name: &str| std::fs::metadata(path.join(name).join("model.safetensors")).unwrap().len();
    assert!(size("eight") * 2 < size("run/student"), "{} {}", size("eight"), size("run/student"));
    assert!(size("four") < size("eight"));
    assert!(!path.join("four/tokenizer.json").exists());

    // Queries that are there for distillation alone have no document to count tokens of.
    std::fs::write(path.join("queries.jsonl"), "{\"query\": \"alone\", \"text\": \"\"}\n").unwrap();
    let more = format!("{DISTILL}[[pairs]]\npath = \"queries.jsonl\"\n");
    std::fs::write(path.join("more.toml"), more).unwrap();
    let counted = json_of(path, "distill more.toml --out run --export more --tokens 29 --json");
    assert_eq!(counted["queries"], 31);

    // It is a query tower like the student, and as particular about the document tower.
    let pair = |model: &str, tokenizer: &str| {
        format!(
            "[tower]\nmodel = \"model\"\npooling = \"mean\"\nmax_tokens = 32\n[query.tower]\nmodel = \"{model}\"\n\
             tokenizer = \"{tokenizer}\"\npooling = \"mean\"\nmax_tokens = 48\n"
        )
    };
    let entropy = |model: &str| {
        std::fs::write(path.join("pair.toml"), pair(model, "encoder/tokenizer.json")).unwrap();
        let answer = json_of(path, "evaluate pair.toml set --json");
        answer["rows"][0]["contrastive_entropy"].as_f64().unwrap()
    };
    let student = entropy("run/student");
    assert!((entropy("eight") - student).abs() < 0.02 * student);
    let (tokenizer, other) = (path.join("encoder/tokenizer.json"), path.join("other.json"));
    let text = std::fs::read_to_string(&tokenizer).unwrap().replace("\"z\":27", "\"Z\":27");
    std::fs::write(&other, text).unwrap();
    for (named, code, message) in [
        (
            "other.json",
            1,
            "is not the tokenizer that these weights were trained with (it is that of a-wheel==1)",
        ),
        ("none.json", 1, "name a tokenizer.json in `tokenizer` (it is that of a-wheel==1)"),
    ] {
        std::fs::write(path.join("pair.toml"), pair("four", named)).unwrap();
        let (_, stderr) = expect(path, code, "evaluate pair.toml set");
        assert!(stderr.contains(message), "{stderr}");
    }
    let cut = pair("four", "encoder/tokenizer.json").replacen(
        "max_tokens = 32\n",
        "max_tokens = 32\nlayers = 1\n",
        1,
    );
    std::fs::write(path.join("pair.toml"), cut).unwrap();
    let (_, stderr) = expect(path, 2, "evaluate pair.toml set");
    assert!(stderr.contains("(other layers)"), "{stderr}");
}
