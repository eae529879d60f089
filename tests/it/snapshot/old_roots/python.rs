//! The Python package of `schemas/python` answers from old roots as the program of then did.

use serde_json::json;

use super::{Asked, OldRoot, ROOTS};
use crate::fixture::python;

#[tokio::test(flavor = "multi_thread")]
async fn the_python_package_answers_as_the_program_of_then() {
    let Some(python) = python::with("numpy, pyarrow, usearch") else { return };
    for name in ROOTS {
        let old = OldRoot::copy(name);
        let text = std::fs::read_to_string(old.path().join("answers.json")).unwrap();
        let asked: Vec<Asked> = serde_json::from_str(&text).unwrap();
        for number in old.numbers() {
            let asked: Vec<&Asked> =
                asked.iter().filter(|asked| asked.answer["snapshot"] == number).collect();
            let manifest = scalingnote::snapshot::read(&old.open(), number).await.unwrap();
            let encoder = old.encoder(&manifest).await;
            let query = |asked: &&Asked| {
                let arguments: Vec<&str> = asked.arguments.iter().map(String::as_str).collect();
                let (exact, filter) = match arguments[..] {
                    [] => (false, None),
                    ["--exact"] => (true, None),
                    ["--where", "lang = 'en'"] => (false, Some(json!(["lang", "en"]))),
                    _ => panic!("{arguments:?}"),
                };
                let vector = encoder.encode(&asked.text).unwrap();
                let k = asked.answer["hits"].as_array().unwrap().len();
                json!({"vector": vector, "k": k, "exact": exact, "where": filter})
            };
            let queries: Vec<_> = asked.iter().map(query).collect();
            let found = python::search(&python, &old.path().join("root"), number, &queries);
            assert_eq!(found.len(), 6, "snapshot {number} of {name}");
            for (theirs, asked) in found.iter().zip(asked) {
                python::assert_same_hits(theirs, &asked.answer["hits"], 1e-5);
            }
        }
    }
}
