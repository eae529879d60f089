//! What types cannot say: values that make no sense, alone or together.

use std::collections::BTreeSet;

use super::document::Node;
use super::pipeline::Pipeline;
use super::problem::Problems;
use super::query::QueryOptions;
use crate::corpus::{CorpusMode, RESERVED_COLUMNS, check_sql, check_template_length};
use crate::error::{Error, deep};
use crate::stage::ChunkingOptions;
use crate::tower::TowerOptions;

/// Reports every value of `pipeline` that makes no sense, at its place in `root`.
pub(super) fn validate(pipeline: &Pipeline, root: &Node, problems: &mut Problems) {
    let mut check = Check { root, problems };
    corpus(pipeline, &mut check);
    tower(&pipeline.tower, "tower", &mut check);
    encode(pipeline, &mut check);
    index(pipeline, &mut check);
    if let Some(options) = &pipeline.chunking {
        chunking(options, "chunking", &pipeline.tower, "tower", &mut check);
    }
    gates(pipeline, &mut check);
    evaluation(pipeline, &mut check);
    publish(pipeline, &mut check);
    check.require(
        pipeline.storage.request_timeout_seconds != Some(0),
        "storage.request_timeout_seconds",
        "must be above 0",
    );
    query(&pipeline.query, "query", pipeline.corpus.mode, &mut check);
    next(pipeline, &mut check);
}

struct Check<'a> {
    root: &'a Node,
    problems: &'a mut Problems,
}

impl Check<'_> {
    fn bad(&mut self, path: &str, message: impl AsRef<str>) {
        let message = format!("`{path}` {}", message.as_ref());
        self.problems.push(self.root.origin_of(path), message);
    }

    fn require(&mut self, fine: bool, path: &str, message: impl AsRef<str>) {
        if !fine {
            self.bad(path, message);
        }
    }

    fn percent(&mut self, value: f64, path: &str) {
        self.require((0.0..=100.0).contains(&value), path, "must be a percentage of 0 to 100");
    }
}

fn corpus(pipeline: &Pipeline, check: &mut Check<'_>) {
    let corpus = &pipeline.corpus;
    check.require(
        !corpus.tables.is_empty(),
        "corpus.tables",
        "is empty; add [[corpus.tables]] with `name` and `uri`",
    );
    let mut names = BTreeSet::new();
    for (at, table) in corpus.tables.iter().enumerate() {
        let path = |key: &str| format!("corpus.tables.{at}.{key}");
        let mut characters = table.name.chars();
        let is_name = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
        check.require(
            is_name,
            &path("name"),
            "must be letters, digits and `_`, as the SQL names it",
        );
        let fresh = names.insert(table.name.to_lowercase());
        check.require(
            fresh,
            &path("name"),
            format!("is `{}`, which another table is called too", table.name),
        );
        check.require(!table.uri.trim().is_empty(), &path("uri"), "is empty");
        let is_only = corpus.mode == CorpusMode::Full || corpus.tables.len() == 1;
        check.require(
            table.changed_at.is_none() || is_only,
            &path("changed_at"),
            "needs this to be the only table, with corpus.mode = \"delta\"; a view of the database can join several",
        );
        check.require(
            table.delimiter.is_ascii() && !matches!(table.delimiter, '"' | '\n' | '\r'),
            &path("delimiter"),
            "must be an ASCII character other than quotes and line ends",
        );
    }
    match check_sql(&corpus.sql) {
        _ if corpus.sql.trim().is_empty() => {
            check.bad("corpus.sql", "is empty; select at least `note_id` and one text column");
        }
        Err(error) => {
            let why = error.message().trim_start_matches("corpus.sql: ");
            check.bad("corpus.sql", format!("cannot be parsed: {why}"));
        }
        Ok(()) => {}
    }
    template(&corpus.template, "corpus.template", check);
    let mut columns = BTreeSet::new();
    for (at, column) in corpus.stored_columns.iter().enumerate() {
        let path = format!("corpus.stored_columns.{at}");
        check.require(!column.is_empty(), &path, "is empty");
        check.require(
            !RESERVED_COLUMNS.contains(&column.as_str()),
            &path,
            format!("names `{column}`, which every stored file has already"),
        );
        check.require(columns.insert(column), &path, format!("names `{column}` a second time"));
    }
    check.require(
        corpus.memory_limit_mib >= 64,
        "corpus.memory_limit_mib",
        "must be at least 64; below that DataFusion cannot even sort",
    );
    check.require(
        (1..=1 << 20).contains(&corpus.share_mib),
        "corpus.share_mib",
        "must be 1 to 1048576",
    );
}

fn template(source: &str, path: &str, check: &mut Check<'_>) {
    if source.trim().is_empty() {
        return check.bad(path, "is empty; e.g. \"{{ title }}\\n{{ body }}\"");
    }
    if let Err(error) = check_template_length(source) {
        let why = error.message().trim_start_matches("corpus.template: ");
        return check.bad(path, why);
    }
    // Whether it reads a column, or what is wrong with it.
    let compiled = deep(|| {
        let mut environment = minijinja::Environment::new();
        environment.add_template("template", source).map_err(|error| {
            let line = error.line().map_or_else(String::new, |line| format!(" in its line {line}"));
            let detail = error.detail().unwrap_or("syntax error");
            Error::config(format!("does not compile{line}: {detail}"))
        })?;
        let template = environment.get_template("template");
        Ok(template.map_or(true, |template| !template.undeclared_variables(false).is_empty()))
    });
    match compiled {
        Ok(true) => {}
        Ok(false) => check.bad(
            path,
            "names no column, so every note would have the same text; e.g. \"{{ title }}\\n{{ body }}\"",
        ),
        Err(error) => check.bad(path, error.message()),
    }
}

fn tower(tower: &TowerOptions, section: &str, check: &mut Check<'_>) {
    let path = |key: &str| format!("{section}.{key}");
    check.require(
        !tower.model.trim().is_empty(),
        &path("model"),
        "is empty; name a .gguf or .safetensors file, a directory or a Hugging Face repo",
    );
    if let Some(dimensions) = tower.model.strip_prefix("fake:") {
        check.require(
            // `?tokens_per_second=<n>` may follow; the tower reads it.
            dimensions.split('?').next().is_some_and(|d| d.parse::<u32>().is_ok_and(|d| d > 0)),
            &path("model"),
            "must be `fake:<dimensions>` with a number of at least 1",
        );
    }
    check.require(
        tower.dimensions != Some(0),
        &path("dimensions"),
        "must be at least 1; leave it out to keep all",
    );
    check.require(
        tower.max_tokens() >= 1,
        &path("max_tokens"),
        "must be at least 1, the prompt included",
    );
}

fn encode(pipeline: &Pipeline, check: &mut Check<'_>) {
    let encode = &pipeline.encode;
    if let Err(error) = encode.devices() {
        check.problems.push(check.root.origin_of("encode.devices"), error.message());
    }
    let mut cards = BTreeSet::new();
    for (at, device) in encode.devices.iter().enumerate() {
        check.require(
            !device.starts_with("cuda:") || cards.insert(device),
            &format!("encode.devices.{at}"),
            format!("names `{device}` a second time; one worker fills a card"),
        );
    }
    check.require(encode.threads <= 4096, "encode.threads", "must be at most 4096; 0 means all");
    check.require(encode.token_budget >= 1, "encode.token_budget", "must be at least 1");
    check.require(encode.part_tokens != Some(0), "encode.part_tokens", "must be at least 1");
    check.require(encode.part_texts >= 1, "encode.part_texts", "must be at least 1");
}

fn index(pipeline: &Pipeline, check: &mut Check<'_>) {
    let index = &pipeline.index;
    for (key, value, least, most, usual) in [
        ("connectivity", index.connectivity, 2, 512, 16),
        ("expansion_add", index.expansion_add, 1, 65_536, 128),
        ("expansion_search", index.expansion_search, 1, 65_536, 64),
    ] {
        check.require(
            (least..=most).contains(&value),
            &format!("index.{key}"),
            format!("must be {least} to {most}; {usual} is usual"),
        );
    }
    check.require(
        index.rescore <= 1000,
        "index.rescore",
        "must be at most 1000; 0 switches it off",
    );
    check.require(
        index.shards.is_none_or(|shards| (1..=65_536).contains(&shards)),
        "index.shards",
        "must be 1 to 65536; leave it out for the default",
    );
    check.require(
        (0.0..=100.0).contains(&index.rebuild_churn_percent),
        "index.rebuild_churn_percent",
        "must lie between 0 (every changed shard is rebuilt) and 100",
    );
    check.require(
        index.memory_limit_mib.is_none_or(|limit| limit >= 64),
        "index.memory_limit_mib",
        "must be at least 64; leave it out for 80% of what is free",
    );
    if index.quantization.is_of_bits()
        && pipeline.tower.dimensions.is_some_and(|dimensions| dimensions % 8 != 0)
    {
        check.bad(
            "index.quantization",
            "is `b1` or `b1r`, which need `tower.dimensions` divisible by 8",
        );
    }
}

/// `chunking` at `path` for the tower at `tower_path`.
fn chunking(
    chunking: &ChunkingOptions,
    path: &str,
    tower: &TowerOptions,
    tower_path: &str,
    check: &mut Check<'_>,
) {
    let (window, overlap) = (format!("{path}.window_tokens"), format!("{path}.overlap_tokens"));
    check.require(chunking.window_tokens >= 1, &window, "must be at least 1");
    check.require(
        chunking.overlap_tokens < chunking.window_tokens.max(1),
        &overlap,
        format!("must be less than `{window}` ({})", chunking.window_tokens),
    );
    check.require(
        tower.max_tokens.is_none_or(|most| chunking.window_tokens <= most),
        &window,
        format!("must be at most `{tower_path}.max_tokens` ({})", tower.max_tokens()),
    );
}

fn gates(pipeline: &Pipeline, check: &mut Check<'_>) {
    let gates = &pipeline.gates;
    check.require(
        (0.0..=1.0).contains(&gates.recall_min),
        "gates.recall_min",
        "must be 0 to 1 (0.95 means 95%)",
    );
    check.percent(gates.max_count_drop_percent, "gates.max_count_drop_percent");
    check.percent(gates.max_rejected_percent, "gates.max_rejected_percent");
    check.percent(gates.max_quarantined_percent, "gates.max_quarantined_percent");
    check.require(
        gates.max_count_growth_percent.is_none_or(|growth| growth.is_finite() && growth >= 0.0),
        "gates.max_count_growth_percent",
        "must be 0 or more",
    );
    check.require((0.0..=2.0).contains(&gates.max_drift), "gates.max_drift", "must be 0 to 2");
    let asked = pipeline.evaluation.as_ref();
    let is_judged = asked.is_some_and(|asked| asked.set.is_some());
    let is_asked = is_judged || asked.is_some_and(|asked| asked.queries.is_some());
    for (key, limit, fits, needs) in [
        ("gates.max_ndcg_drop", gates.max_ndcg_drop, is_judged, "`evaluation.set`"),
        (
            "gates.max_top1_change",
            gates.max_top1_change,
            is_asked,
            "`evaluation.queries` or `evaluation.set`",
        ),
    ] {
        let Some(limit) = limit else { continue };
        check.require((0.0..=1.0).contains(&limit), key, "must be 0 to 1 (0.01 means a hundredth)");
        check.require(fits, key, format!("needs {needs}: the queries that are asked"));
    }
}

fn evaluation(pipeline: &Pipeline, check: &mut Check<'_>) {
    let Some(evaluation) = &pipeline.evaluation else { return };
    check.require(
        evaluation.set.is_some() || evaluation.queries.is_some(),
        "evaluation",
        "asks nothing; name a judged `set`, or `queries`",
    );
    let stored = &pipeline.corpus.stored_columns;
    check.require(
        evaluation.by.as_ref().is_none_or(|by| stored.contains(by)),
        "evaluation.by",
        "must be one of `corpus.stored_columns`",
    );
    if let Err(error) = pipeline.evaluation_device()
        && evaluation.device.is_some()
    {
        check.problems.push(check.root.origin_of("evaluation.device"), error.message());
    }
}

fn publish(pipeline: &Pipeline, check: &mut Check<'_>) {
    let root = &pipeline.publish.root;
    check.require(!root.trim().is_empty(), "publish.root", "is empty; name a path or a URI");
    if let Some((scheme, _)) = root.split_once("://") {
        const SCHEMES: [&str; 9] =
            ["file", "memory", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss"];
        check.require(
            SCHEMES.contains(&scheme),
            "publish.root",
            format!("starts with `{scheme}://`; known are file, s3, gs, az and a plain path"),
        );
    }
    if let Some(endpoint) = &pipeline.storage.endpoint {
        let known = endpoint.starts_with("http://") || endpoint.starts_with("https://");
        check.require(known, "storage.endpoint", "must start with `http://` or `https://`");
        check.require(
            !(endpoint.starts_with("http://") && pipeline.storage.allow_http == Some(false)),
            "storage.allow_http",
            "is false, but `storage.endpoint` is unencrypted",
        );
    }
    check.require(
        pipeline.retention.snapshots >= 1,
        "retention.snapshots",
        "must be at least 1, or gc would delete what readers have open",
    );
}

fn query(query: &QueryOptions, path: &str, mode: CorpusMode, check: &mut Check<'_>) {
    if let Some(adapt) = &query.adapt {
        let path = format!("{path}.adapt");
        check.require(
            query.tower.is_some(),
            &path,
            format!(
                "needs [{}.tower]: the small tower that is adapted",
                path.trim_end_matches(".adapt")
            ),
        );
        check.require(
            mode == CorpusMode::Full,
            &path,
            "needs `corpus.mode = \"full\"`: a delta does not hold the notes that it reads",
        );
        for (key, message) in adapt.problems() {
            check.bad(&format!("{path}.{key}"), message);
        }
    }
    let Some(query_tower) = &query.tower else { return };
    tower(query_tower, &format!("{path}.tower"), check);
    for (key, set) in [
        ("prompt_prefix", query.prompt_prefix.is_some()),
        ("prompt_suffix", query.prompt_suffix.is_some()),
    ] {
        check.require(
            !set,
            &format!("{path}.{key}"),
            format!("has no use beside [{path}.tower]; set `{path}.tower.{key}`"),
        );
    }
}

fn next(pipeline: &Pipeline, check: &mut Check<'_>) {
    let (Some(next), Some(after)) = (&pipeline.next, pipeline.after_next()) else { return };
    tower(&next.tower, "next.tower", check);
    if let Some(source) = &next.template {
        template(source, "next.template", check);
    }
    if let Some(options) = &after.chunking {
        let path = if next.chunking.is_some() { "next.chunking" } else { "chunking" };
        chunking(options, path, &next.tower, "next.tower", check);
    }
    query(&next.query, "next.query", pipeline.corpus.mode, check);
    check.require(
        pipeline.corpus.mode == CorpusMode::Full,
        "next",
        "needs `corpus.mode = \"full\"`: a delta does not hold the notes that are to be encoded again",
    );
    // One text may be as long as that: with less, a run might encode nothing.
    let least = u64::from(next.tower.max_tokens());
    check.require(
        next.tokens_per_run.is_none_or(|tokens| tokens >= least),
        "next.tokens_per_run",
        format!("must be at least `next.tower.max_tokens` ({least}); leave it out for no limit"),
    );
    check.require(
        next.minutes_per_run != Some(0),
        "next.minutes_per_run",
        "must be at least 1; leave it out to use the time until the deadline",
    );
    check.require(
        !pipeline.index.quantization.is_of_bits()
            || next.tower.dimensions.is_none_or(|dimensions| dimensions % 8 == 0),
        "next.tower.dimensions",
        "must be divisible by 8 with `index.quantization` = `b1` or `b1r`",
    );
}
