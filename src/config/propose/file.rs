//! A pipeline file with comments, for somebody who reads one for the first time.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::columns::Proposal;
use crate::corpus::{RESERVED_COLUMNS, TableOptions, TableSample, quoted};
use crate::observe::format;
use crate::types::Pooling;

/// Columns of the query that mean something by their names.
const OWN: [&str; 6] = ["note_id", "title", "body", "topics", "updated_at", "deleted"];

/// Where things are, as the file is to say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The table.
    pub table: TableOptions,
    /// The tower's model.
    pub model: String,
    /// Its pooling, where somebody said it.
    pub pooling: Option<Pooling>,
    /// The root.
    pub root: String,
    /// The program's arguments that led to the file, for its first line.
    pub made_by: String,
}

/// The columns of the query and what is made of them.
struct Query {
    /// Each column's expression and its name in the output.
    columns: Vec<(String, String)>,
    template: String,
    stored: Vec<String>,
    /// Names of columns of the files that are used.
    used: BTreeSet<String>,
}

/// The text of a pipeline file.
pub fn pipeline_file(sample: &TableSample, proposal: &Proposal, place: &Place) -> String {
    let Query { columns, template, stored, used } = query(sample, proposal);
    let columns: Vec<String> = columns
        .iter()
        .map(|(sql, name)| match sql == name {
            true => format!("    {sql}"),
            false => format!("    {sql} AS {name}"),
        })
        .collect();
    let sql = format!("SELECT\n{}\nFROM {}\n", columns.join(",\n"), quoted(&place.table.name));
    let left: Vec<String> = sample
        .columns
        .iter()
        .filter(|column| !used.contains(&column.name))
        .map(|column| format!("{} ({})", column.sql, column.type_name))
        .collect();
    let files = if sample.files == 1 { "file" } else { "files" };
    let mut text = format!(
        "# {}\n# Made to be changed: `scalingnote config check` says whether it is still right, `scalingnote plan` what a run would\n\
         # do and cost, `scalingnote run` does it. `scalingnote config show` prints every key that is left out here.\n\
         # Relative paths start at this file's folder. Credentials come from the environment, never from a file.\n\n\
         version = 2 # of this file's format\n\n\
         # The notes: {} {files}, {}.\n[corpus]\n\
         # Any SQL that DataFusion understands. note_id is required and tells notes apart; title, body, topics, updated_at and\n\
         # deleted mean what they say; every other column can be used in `template` and `stored_columns`.\n",
        comment(&format!("Made by `scalingnote init {}`.", place.made_by)),
        format::count(sample.files as u64),
        format::bytes(sample.bytes),
    );
    if !left.is_empty() {
        let _ = writeln!(text, "# Not used: {}.", comment(&left.join(", ")));
    }
    let _ = writeln!(text, "sql = {}", several_lines(&sql));
    text += "# The text that is encoded (minijinja). A note is encoded again only when this text changes.\n";
    let _ = writeln!(text, "template = {}", one_line(&template));
    text += "# Shown with hits and usable in conditions (`search --where`); not encoded.\n";
    let stored: Vec<String> = stored.iter().map(|name| one_line(name)).collect();
    let _ = writeln!(text, "stored_columns = [{}]", stored.join(", "));
    text += "# \"full\": a note that the query no longer returns is deleted. \"delta\": the query returns changes only.\n\
             mode = \"full\"\n\
             # Rows without an id or without text; more than this many stop a run.\n\
             max_rejected = 0\n\n[[corpus.tables]]\n";
    let _ = writeln!(text, "name = {} # in the SQL", one_line(&place.table.name));
    let _ = writeln!(text, "uri = {}", one_line(&place.table.uri));
    if let Some(format) = place.table.format {
        let _ = writeln!(text, "format = {}", one_line(&crate::config::word(&format)));
    }
    text += "\n# The document tower: a Hugging Face repo, a folder, a .safetensors or .gguf file. Pooling, prompts and longest text are\n\
             # as the model's own files say; `scalingnote tower` shows them. A change here encodes every note again.\n[tower]\n";
    let _ = writeln!(text, "model = {}", one_line(&place.model));
    match place.pooling {
        Some(pooling) => text += &format!("pooling = {}\n", one_line(pooling.name())),
        None => text += "# pooling = \"mean\" # where the model's files do not say it\n",
    }
    text += "# revision = \"<commit>\" # pin a repo, so that nobody's push makes it another tower\n\
             # arithmetic = \"bf16\" # f32 (the default), bf16, f16 (GPUs), int8 (processors)\n\n\
             # [encode]\n# devices = [\"cpu\"] # or [\"cuda:0\", \"cuda:1\"]\n\n\
             # [chunking] # long notes become several vectors; without this section they are cut\n# window_tokens = 400\n# overlap_tokens = 50\n\n\
             # Everything is stored under this root: a folder, or s3://, gs://, az://.\n[publish]\n";
    let _ = writeln!(text, "root = {}", one_line(&place.root));
    text
}

fn query(sample: &TableSample, proposal: &Proposal) -> Query {
    let mut query = Query {
        columns: Vec::new(),
        template: String::new(),
        stored: Vec::new(),
        used: BTreeSet::new(),
    };
    let mut taken: BTreeSet<String> = OWN.iter().map(|name| (*name).to_owned()).collect();
    taken.extend(RESERVED_COLUMNS.iter().map(|name| (*name).to_owned()));
    let sql = |name: &str| {
        let known = sample.columns.iter().find(|column| column.name == name);
        known.map_or_else(|| quoted(name), |column| column.sql.clone())
    };
    let mut push = |query: &mut Query, name: &str, called: Option<&str>| -> String {
        let called = called.map_or_else(|| free_name(name, &mut taken), str::to_owned);
        query.used.insert(name.to_owned());
        query.columns.push((sql(name), quoted(&called)));
        called
    };
    push(&mut query, &proposal.id, Some("note_id"));
    let mut lines = Vec::new();
    if let Some(title) = &proposal.title {
        push(&mut query, title, Some("title"));
        query.stored.push("title".to_owned());
        lines.push("{{ title }}".to_owned());
    }
    for (at, name) in proposal.texts.iter().enumerate() {
        let called = push(&mut query, name, (at == 0).then_some("body"));
        lines.push(format!("{{{{ {called} }}}}"));
    }
    query.template = lines.join("\n");
    if let Some(topics) = &proposal.topics {
        push(&mut query, topics, Some("topics"));
        query.template += "{% if topics %}\n{{ topics | join(', ') }}{% endif %}";
    }
    let times = [(&proposal.updated_at, "updated_at"), (&proposal.deleted, "deleted")];
    for (name, called) in times {
        if let Some(name) = name {
            push(&mut query, name, Some(called));
        }
    }
    for name in &proposal.stored {
        // What the query returns already under a name of its own need not be returned twice.
        let known = [
            (&proposal.title, "title"),
            (&proposal.topics, "topics"),
            (&proposal.updated_at, "updated_at"),
        ];
        let known = known.into_iter().find(|(column, _)| column.as_ref() == Some(name));
        let called = match known {
            Some((_, called)) => called.to_owned(),
            None => push(&mut query, name, None),
        };
        if !query.stored.contains(&called) {
            query.stored.push(called);
        }
    }
    query
}

/// A name for an output column that neither SQL nor a template has to quote, and that no other column has.
fn free_name(name: &str, taken: &mut BTreeSet<String>) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let plain: String = name.chars().map(letter).collect();
    let plain = plain.trim_matches('_');
    let begins = plain.starts_with(|c: char| c.is_ascii_alphabetic());
    let base = match begins && !taken.contains(plain) {
        true => plain.to_owned(),
        false => format!("note_{plain}"),
    };
    let mut called = base.clone();
    let mut number = 2;
    while !taken.insert(called.clone()) {
        called = format!("{base}_{number}");
        number += 1;
    }
    called
}

/// A TOML string on one line; its strings are JSON's.
fn one_line(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A TOML string over several lines, as it is read best.
fn several_lines(text: &str) -> String {
    let literal = !text.contains("'''") && text.chars().all(|c| c == '\n' || !c.is_control());
    if literal { format!("'''\n{text}'''") } else { one_line(text) }
}

/// What may be in a comment: a name from a file must not end it.
fn comment(text: &str) -> String {
    format::printable(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::resolve_text;
    use crate::corpus::{ColumnShape, SampledColumn};

    /// A table whose columns are called so.
    fn sample(names: &[&str]) -> TableSample {
        let column = |name: &&str| SampledColumn {
            name: (*name).to_owned(),
            sql: quoted(name),
            type_name: "string".to_owned(),
            shape: ColumnShape::Text,
            filled: 3,
            distinct: 3,
            mean_chars: 50.0,
            iso_dates: false,
        };
        TableSample { columns: names.iter().map(column).collect(), rows: 3, files: 2, bytes: 3_000 }
    }

    #[test]
    fn whatever_columns_are_called_the_file_is_right() {
        let names =
            ["a\n[tower]\nmodel='x'", "it's '''", "2nd", "Text", "text", "\"q\"", "löng", "order"];
        let sample = sample(&names);
        let proposal = Proposal {
            id: names[0].to_owned(),
            title: Some(names[1].to_owned()),
            texts: names[2..6].iter().map(|name| (*name).to_owned()).collect(),
            stored: names[1..7].iter().map(|name| (*name).to_owned()).collect(),
            ..Proposal::default()
        };
        let place = Place {
            table: TableOptions::new("notes", "a \"b\"\\c\n.csv"),
            model: "fake:8".to_owned(),
            pooling: Some(Pooling::Mean),
            root: "out".to_owned(),
            made_by: "x\nversion = 1".to_owned(),
        };
        let text = pipeline_file(&sample, &proposal, &place);
        let none = Vec::<(String, String)>::new();
        let pipeline = resolve_text(&text, "x.toml", Path::new("/x"), none, &[])
            .unwrap_or_else(|error| panic!("{error:?}\n{text}"))
            .pipeline;
        assert_eq!(pipeline.corpus.tables[0].uri, place.table.uri);
        assert_eq!(pipeline.tower.model, "fake:8");
        let stored: BTreeSet<_> = pipeline.corpus.stored_columns.iter().collect();
        assert_eq!(stored.len(), pipeline.corpus.stored_columns.len(), "{stored:?}");
        assert!(
            pipeline.corpus.template.starts_with("{{ title }}\n{{ body }}\n{{ note_text }}"),
            "{text}"
        );
    }
}
