//! The keys of `[next]`: what is refused, and what the files that people copy say.

use scalingnote::config::resolve_text;
use scalingnote::error::ErrorKind;

use super::{NEXT, corpus, pipeline};

#[test]
fn a_budget_that_cannot_work_is_refused() {
    let corpus = corpus(1);
    let refused = |next: &str, set: &[&str]| {
        let error = pipeline(&corpus, "fake:16", next, set).expect_err("must be refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    for (set, message) in [
        (
            "next.tokens_per_run=0",
            "--set next.tokens_per_run: must be at least `next.tower.max_tokens` (32)",
        ),
        ("next.tokens_per_run=31", "--set next.tokens_per_run: must be at least"),
        ("next.minutes_per_run=0", "--set next.minutes_per_run: must be at least 1"),
        ("corpus.mode=delta", "`next` needs `corpus.mode = \"full\"`"),
        ("next.template=fixed", "--set next.template: names no column"),
        ("next.tower.model=", "--set next.tower.model: is empty"),
        ("next.tower.modle=x", "unknown key `modle` in [next.tower]"),
        ("next.token_per_run=99", "did you mean `tokens_per_run`?"),
        ("next.chunking.window_tokens=64", "must be at most `next.tower.max_tokens` (32)"),
        ("chunking.window_tokens=64", "must be at most `tower.max_tokens` (32)"),
    ] {
        let text = refused(NEXT, &[set]);
        assert!(text.contains(message), "{set}: {text}");
    }
    let missing = refused("[next]\ntokens_per_run = 5000\n", &[]);
    assert!(missing.contains("key `tower` is missing in [next]"), "{missing}");
    assert!(pipeline(&corpus, "fake:16", NEXT, &["next.minutes_per_run=240"]).is_ok());
}

/// The commented `[next]` of the files that people copy is right once it is uncommented.
#[test]
fn the_documented_keys_are_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    for (name, keys) in [("daily.toml", 5), ("quickstart.toml", 6)] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let mut uncommented = 0;
        let mut lines: Vec<&str> = text.lines().collect();
        let start = lines.iter().position(|line| *line == "# [next]").expect("a [next] section");
        for line in &mut lines[start..] {
            let Some(rest) = line.strip_prefix('#') else { break };
            *line = rest.trim_start();
            uncommented += usize::from(line.contains(" = "));
        }
        assert_eq!(uncommented, keys, "{name}");
        let resolved = resolve_text(&lines.join("\n"), name, &folder, [], &[]).unwrap();
        let next = resolved.pipeline.next.expect("a next tower");
        assert!(next.tokens_per_run.is_some());
        assert_ne!(resolved.pipeline.tower.model, next.tower.model);
    }
}
