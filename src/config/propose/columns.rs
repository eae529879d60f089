//! Which column is what.

use crate::config::nearest;
use crate::corpus::{ColumnShape, SampledColumn, TableSample};
use crate::error::{Error, Result};

/// Names that columns with a meaning often have, the likeliest first, as [`plain`] has them.
const IDS: [&str; 8] = ["noteid", "id", "docid", "documentid", "uuid", "guid", "key", "slug"];
const ID_ENDINGS: [&str; 3] = ["id", "url", "path"];
const TITLES: [&str; 6] = ["title", "name", "headline", "heading", "subject", "synopsis"];
const BODIES: [&str; 10] = [
    "body",
    "text",
    "content",
    "contents",
    "description",
    "abstract",
    "markdown",
    "note",
    "message",
    "answer",
];
const TOPICS: [&str; 6] = ["topics", "tags", "keywords", "labels", "categories", "topic"];
const UPDATED: [&str; 8] = [
    "updatedat",
    "modifiedat",
    "lastmodified",
    "modified",
    "updated",
    "mtime",
    "lastedited",
    "changedat",
];
const DELETED: [&str; 3] = ["deleted", "isdeleted", "removed"];
const LABELS: [&str; 9] =
    ["url", "link", "lang", "language", "category", "kind", "type", "author", "source"];
/// Labels that are stored without being asked for.
const MOST_LABELS: usize = 3;

/// What somebody decided already, by the names of columns; what is left out is proposed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// What identifies a note.
    pub id: Option<String>,
    /// The title.
    pub title: Option<String>,
    /// The texts, in their order; with any, nothing is proposed for title and texts.
    pub texts: Vec<String>,
    /// The topics.
    pub topics: Option<String>,
    /// When a note was changed last.
    pub updated_at: Option<String>,
    /// What is shown with hits, beside the title.
    pub stored: Vec<String>,
}

/// Which column is what, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    /// What identifies a note.
    pub id: String,
    /// The title.
    pub title: Option<String>,
    /// The texts, in their order; empty where the title is all there is.
    pub texts: Vec<String>,
    /// The topics.
    pub topics: Option<String>,
    /// When a note was changed last.
    pub updated_at: Option<String>,
    /// Whether a note is deleted.
    pub deleted: Option<String>,
    /// What is shown with hits, beside the title.
    pub stored: Vec<String>,
}

/// Decides what is open.
///
/// # Errors
/// Usage for a chosen column that is not there; Input where no column can be the id, or none is text.
pub fn propose(sample: &TableSample, choices: &Choices) -> Result<Proposal> {
    let all = &sample.columns;
    let chosen = |name: &Option<String>| name.as_ref().map(|name| find(sample, name)).transpose();
    let id = match chosen(&choices.id)? {
        Some(id) => id,
        None => id_of(sample)?,
    };
    let open = |column: &&SampledColumn| column.name != id.name;
    let named = |names: &[&str], fits: &dyn Fn(&SampledColumn) -> bool| {
        names.iter().find_map(|name| {
            all.iter().filter(open).find(|column| plain(&column.name) == *name && fits(column))
        })
    };
    let is_text = |column: &SampledColumn| column.shape == ColumnShape::Text && column.filled > 0;
    let title = match chosen(&choices.title)? {
        None if choices.texts.is_empty() => named(&TITLES, &is_text),
        chosen => chosen,
    };
    let mut texts = Vec::new();
    for name in &choices.texts {
        texts.push(find(sample, name)?);
    }
    if choices.texts.is_empty() {
        let longest = || {
            let left = all.iter().filter(open).filter(|column| is_text(column));
            let left = left.filter(|column| title.is_none_or(|title| title.name != column.name));
            left.max_by(|a, b| a.mean_chars.total_cmp(&b.mean_chars))
        };
        // A column of labels beside a title adds nothing to the text.
        let worth = |column: &&SampledColumn| title.is_none() || column.mean_chars >= 30.0;
        let is_body = |column: &SampledColumn| {
            is_text(column) && title.is_none_or(|title| title.name != column.name)
        };
        texts.extend(named(&BODIES, &is_body).or_else(|| longest().filter(worth)));
    }
    if title.is_none() && texts.is_empty() {
        return Err(Error::input(format!(
            "no column holds text; name those that do with --text. The columns are {}",
            listed(sample)
        )));
    }
    let is_topics = |column: &SampledColumn| {
        matches!(column.shape, ColumnShape::Text | ColumnShape::Texts) && column.filled > 0
    };
    let topics = match chosen(&choices.topics)? {
        None => named(&TOPICS, &is_topics),
        chosen => chosen,
    };
    let is_time = |column: &SampledColumn| column.shape == ColumnShape::Time || column.iso_dates;
    let updated_at = match chosen(&choices.updated_at)? {
        None => named(&UPDATED, &is_time),
        chosen => chosen,
    };
    let deleted = named(&DELETED, &|column| column.shape == ColumnShape::Flag);
    let mut stored = Vec::new();
    for name in &choices.stored {
        stored.push(find(sample, name)?);
    }
    if choices.stored.is_empty() {
        let taken = |column: &SampledColumn| {
            let mut roles = [title, topics].into_iter().flatten().chain(texts.iter().copied());
            roles.any(|role| role.name == column.name)
        };
        let label = |name: &&str| named(&[*name], &|column| column.filled > 0 && !taken(column));
        stored = LABELS.iter().filter_map(label).take(MOST_LABELS).collect();
    }
    let owned = |column: &SampledColumn| column.name.clone();
    Ok(Proposal {
        id: owned(id),
        title: title.map(owned),
        texts: texts.into_iter().map(owned).collect(),
        topics: topics.map(owned),
        updated_at: updated_at.map(owned),
        deleted: deleted.map(owned),
        stored: stored.into_iter().map(owned).collect(),
    })
}

/// A name without what people spell differently: `Note_ID` and `note-id` are `noteid`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn find<'a>(sample: &'a TableSample, name: &str) -> Result<&'a SampledColumn> {
    sample.columns.iter().find(|column| column.name == name).ok_or_else(|| {
        let names = sample.columns.iter().map(|column| column.name.as_str());
        let near = nearest(name, names).map(|near| format!("; did you mean `{near}`?"));
        Error::usage(format!(
            "there is no column `{name}`{} The columns are {}",
            near.unwrap_or_else(|| ".".to_owned()),
            listed(sample)
        ))
    })
}

/// The column that identifies a note: of those that differ in every row the one whose name says so.
fn id_of(sample: &TableSample) -> Result<&SampledColumn> {
    let fits = |column: &&SampledColumn| {
        matches!(column.shape, ColumnShape::Text | ColumnShape::Integer)
            && column.filled == sample.rows
            && column.distinct == sample.rows
    };
    let columns = || sample.columns.iter().filter(fits);
    let named = |name: &&str| columns().find(|column| plain(&column.name) == **name);
    let ending = |end: &&str| columns().find(|column| plain(&column.name).ends_with(*end));
    let found = IDS.iter().find_map(named).or_else(|| ID_ENDINGS.iter().find_map(ending));
    found.ok_or_else(|| {
        Error::input(format!(
            "no column looks like an id that differs in each row; name one with --id, or make one in the SQL \
             (`sha256(url) AS note_id`). The columns are {}",
            listed(sample)
        ))
    })
}

fn listed(sample: &TableSample) -> String {
    let of = |column: &SampledColumn| format!("`{}` ({})", column.name, column.type_name);
    sample.columns.iter().map(of).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn column(name: &str, shape: ColumnShape, distinct: usize, mean_chars: f64) -> SampledColumn {
        SampledColumn {
            name: name.to_owned(),
            sql: name.to_owned(),
            type_name: "string".to_owned(),
            shape,
            filled: 10,
            distinct,
            mean_chars,
            iso_dates: false,
        }
    }

    fn sample(columns: Vec<SampledColumn>) -> TableSample {
        TableSample { columns, rows: 10, files: 1, bytes: 1 }
    }

    #[test]
    fn columns_are_known_by_name_and_content() {
        use ColumnShape::{Flag, Integer, Text, Texts, Time};
        let found = sample(vec![
            column("Author", Text, 3, 9.0),
            column("CWE-ID", Integer, 10, 3.0),
            column("Name", Text, 10, 20.0),
            column("Remarks", Text, 10, 300.0),
            column("Tags", Texts, 5, 10.0),
            column("modified", Time, 10, 19.0),
            column("deleted", Flag, 2, 4.0),
        ]);
        let proposal = propose(&found, &Choices::default()).unwrap();
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(
            proposal,
            Proposal {
                id: "CWE-ID".to_owned(),
                title: some("Name"),
                texts: vec!["Remarks".to_owned()],
                topics: some("Tags"),
                updated_at: some("modified"),
                deleted: some("deleted"),
                stored: vec!["Author".to_owned()],
            }
        );
        let choices =
            Choices { id: some("Name"), texts: vec!["Author".into()], ..Default::default() };
        let chosen = propose(&found, &choices).unwrap();
        assert_eq!((chosen.id.as_str(), chosen.title), ("Name", None));
        assert_eq!(chosen.texts, ["Author"]);
    }

    #[test]
    fn what_cannot_be_proposed_is_asked_for_by_its_flag() {
        let told = |columns, choices: &Choices| propose(&sample(columns), choices).unwrap_err();
        let text = || column("text", ColumnShape::Text, 10, 40.0);
        // Two notes share this id.
        let error =
            told(vec![column("id", ColumnShape::Integer, 9, 1.0), text()], &Choices::default());
        assert!(error.kind() == ErrorKind::Input && error.message().contains("--id"), "{error}");
        let id = || column("id", ColumnShape::Integer, 10, 1.0);
        let error = told(vec![id()], &Choices::default());
        assert!(error.message().contains("--text"), "{error}");
        let wrong = Choices { title: Some("txet".to_owned()), ..Choices::default() };
        let error = told(vec![id(), text()], &wrong);
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.message().contains("did you mean `text`?"), "{error}");
    }
}
