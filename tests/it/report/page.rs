//! The run report's page: self-contained, well formed, and closed to whatever a corpus brings in.

use scalingnote::corpus::Rejections;
use scalingnote::index::Recall;
use scalingnote::observe::Stage;
use scalingnote::report::{
    Amounts, ConfigSummary, CorpusCounts, LengthBucket, Outcome, PlannedAmounts, RunReport,
    StageReport, ThroughputSample,
};
use scalingnote::snapshot::GateOutcome;

const HOSTILE: &str = "<script>alert('x')</script>\"'&\u{0}\u{7}</td></style>]]>";

fn report(text: &str) -> RunReport {
    let (texts, tokens, bytes) = (399, 40_000, 1 << 20);
    let trial = PlannedAmounts { texts, tokens, seconds: Some(61.5), bytes };
    let no_trial = PlannedAmounts { seconds: None, ..trial };
    let stage = |stage, planned| StageReport {
        stage,
        planned,
        actual: Amounts { texts, tokens, seconds: 70.0, bytes },
    };
    let gate = |passed, overridden: Option<&str>| GateOutcome {
        gate: text.to_owned(),
        passed,
        detail: text.to_owned(),
        overridden: overridden.map(str::to_owned),
    };
    RunReport {
        run: text.to_owned(),
        program: text.to_owned(),
        host: text.to_owned(),
        outcome: Outcome::Published { snapshot: 3 },
        config: ConfigSummary {
            pipeline: text.to_owned(),
            model: text.to_owned(),
            devices: vec![text.to_owned()],
            ..ConfigSummary::default()
        },
        corpus: CorpusCounts {
            notes: 399,
            rejections: Rejections {
                by_reason: [(text.to_owned(), 2)].into(),
                samples: vec![text.to_owned()],
            },
            quarantined_samples: vec![text.to_owned()],
            ..CorpusCounts::default()
        },
        stages: vec![
            stage(Stage::Prepare, None),
            stage(Stage::Encode, Some(trial)),
            stage(Stage::Build, Some(no_trial)),
        ],
        throughput: (1..=30u64)
            .map(|at| ThroughputSample {
                seconds: at as f64,
                tokens: at * 650,
                tokens_per_second: 600.0 + (at % 7) as f64 * 20.0,
            })
            .collect(),
        lengths: [16, 32, 64, 128]
            .into_iter()
            .map(|up_to| LengthBucket { up_to, texts: u64::from(up_to) * 3 })
            .collect(),
        recall: Some(Recall { k: 10, queries: 200, mean: 0.987, low: 0.981, high: 0.992 }),
        recall_min: Some(0.95),
        gates: vec![gate(true, None), gate(false, None), gate(false, Some(text))],
        warnings: vec![text.to_owned()],
        ..RunReport::default()
    }
}

/// Checks that tags nest, attributes are quoted and no bare `&` or `<` is left. Returns the tags.
fn parse(html: &str) -> Vec<String> {
    let mut rest = html.strip_prefix("<!DOCTYPE html>\n").expect("a doctype");
    let (mut open, mut seen): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    while let Some(at) = rest.find('<') {
        let before = &rest[..at];
        if open.last().is_none_or(|tag| tag != "style") {
            for entity in before.match_indices('&') {
                let tail = &before[entity.0..];
                let fine = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
                assert!(fine.iter().any(|name| tail.starts_with(name)), "bare & in {before}");
            }
            assert!(!before.contains('>'), "bare > in {before}");
        }
        let mut quoted = false;
        let end = rest[at..]
            .find(|c| {
                quoted ^= c == '"';
                c == '>' && !quoted
            })
            .expect("every tag ends")
            + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name: String = tag.chars().take_while(|c| !c.is_whitespace()).collect();
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "tags nest");
            continue;
        }
        let attributes = tag[name.len()..].trim_end_matches('/');
        assert_eq!(attributes.matches('"').count() % 2, 0, "attributes are quoted: {tag}");
        seen.push(name.trim_end_matches('/').to_owned());
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    seen
}

#[test]
fn the_page_is_well_formed_and_shows_everything() {
    let html = report("quiet").to_html().unwrap();
    let tags = parse(&html);
    let count = |name: &str| tags.iter().filter(|tag| *tag == name).count();
    assert_eq!(count("svg"), 3, "histogram, throughput, recall");
    assert_eq!(count("rect"), 4, "one bar a bucket");
    assert_eq!(count("script") + count("link") + count("img") + count("iframe"), 0);
    for piece in [
        "published snapshot 3",
        "0.9870, 95% interval 0.9810 to 0.9920 over 200 queries",
        "prefers-color-scheme:dark",
        ">planned<",
        ">1m 02s<",
        ">overridden<",
        ">refused<",
        "65 to 128 tokens: 384 texts",
    ] {
        assert!(html.contains(piece), "{piece}");
    }
    for outside in ["http://", "https://", "url(", "@import", "src="] {
        assert!(!html.contains(outside), "{outside}: the page must stand alone");
    }
}

#[test]
fn nothing_from_outside_gets_out_of_its_place() {
    let tame: Vec<String> = parse(&report("tame").to_html().unwrap());
    let html = report(HOSTILE).to_html().unwrap();
    assert_eq!(parse(&html), tame, "the same tags whatever the texts are");
    assert!(!html.contains("<script") && !html.contains('\u{0}'));
    assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)"));
}

#[test]
fn an_empty_report_is_a_page_too() {
    let report = RunReport::default();
    let tags = parse(&report.to_html().unwrap());
    assert!(!tags.contains(&"svg".to_owned()), "no chart without data");
    let back: RunReport = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!(back, report);
    // An older report without a field still reads.
    assert_eq!(serde_json::from_str::<RunReport>("{\"run\":\"x\"}").unwrap().run, "x");
}
