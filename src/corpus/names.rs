//! Names of tables and columns in messages: how SQL wants them, and which may be shown at all.

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::keywords::{
    ALL_KEYWORDS, ALL_KEYWORDS_INDEX, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER,
    RESERVED_FOR_TABLE_ALIAS,
};

use crate::corpus::options::TableOptions;
use crate::observe::format::counted;

/// A name as SQL has to spell it: in quotes, unless it is lower case and no word of the language.
pub(crate) fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !is_reserved(name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Whether SQL takes the word for one of its own.
fn is_reserved(name: &str) -> bool {
    let Ok(at) = ALL_KEYWORDS.binary_search(&name.to_ascii_uppercase().as_str()) else {
        return false;
    };
    let reserved = [RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS];
    ALL_KEYWORDS_INDEX.get(at).is_some_and(|word| reserved.iter().any(|all| all.contains(word)))
}

/// A column's name as a key of TOML, whose strings are JSON's.
pub(super) fn toml_key(name: &str) -> String {
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if bare && !name.is_empty() {
        name.to_owned()
    } else {
        serde_json::Value::from(name).to_string()
    }
}

/// Which of these columns of one table may be shown. The header of a table without one is its first note: where one name
/// does not look like a name, only those are shown that could be no text.
pub(super) fn shown<'a>(names: impl IntoIterator<Item = &'a str>) -> fn(&str) -> bool {
    match names.into_iter().all(is_name) {
        true => is_name,
        false => is_word,
    }
}

/// What the column at a place of a table is called, where `fits` are those that may be shown.
pub(super) fn called(name: &str, at: usize, fits: fn(&str) -> bool) -> String {
    if fits(name) { format!("column `{name}`") } else { format!("column {}", at + 1) }
}

/// Longest name that is shown, in characters.
const LONGEST: usize = 64;
/// Most words of a name.
const MOST_WORDS: usize = 6;

/// `Größe (cm)`, and no sentence.
fn is_name(name: &str) -> bool {
    let fits = |c: char| {
        // A letter with its accent beside it is two characters to some programs.
        c.is_alphanumeric() || " _-.()/%#&+".contains(c) || ('\u{300}'..='\u{36f}').contains(&c)
    };
    name.trim() == name
        && !name.ends_with('.')
        && name.chars().any(char::is_alphabetic)
        && name.chars().all(fits)
        && name.chars().count() <= LONGEST
        && name.split(' ').count() <= MOST_WORDS
}

fn is_word(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.".contains(&b);
    !name.is_empty() && name.len() <= LONGEST && name.bytes().all(fits)
}

/// The columns that a query returns, as far as they may be shown: those of `SELECT *` may be a first note.
pub(super) fn listed(names: &[&str]) -> String {
    let fits = shown(names.iter().copied());
    let fitting: Vec<String> =
        names.iter().filter(|name| fits(name)).map(|name| format!("`{name}`")).collect();
    match (fitting.len(), names.len() - fitting.len()) {
        (0, _) => "no column with a plain name (has_header, delimiter?)".to_owned(),
        (_, 0) => fitting.join(", "),
        (_, hidden) => format!("{} and {hidden} that may not be shown", fitting.join(", ")),
    }
}

/// The name that is most like `name` among those that may be shown.
pub(super) fn nearest<'a>(name: &str, names: Vec<&'a str>) -> Option<&'a str> {
    let fits = shown(names.iter().copied());
    // `id` is what `note_id` is called elsewhere.
    let like = |other: &str| {
        let other = other.to_lowercase();
        let is_last_word = name.rsplit('_').next() == Some(other.as_str());
        strsim::jaro_winkler(&other, name) + f64::from(u8::from(is_last_word))
    };
    names.into_iter().filter(|name| fits(name)).max_by(|a, b| like(a).total_cmp(&like(b)))
}

/// The name that was probably meant, as SQL finds it.
fn meant<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = name.to_lowercase();
    let (likeness, near) = others
        .map(|other| (strsim::jaro_winkler(&name, &other.to_lowercase()), other))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.8).then(|| quoted(near))
}

fn did_you_mean(meant: Option<String>) -> String {
    match meant {
        Some(name) if name.starts_with('"') => format!(
            "; did you mean {name}, in double quotes? Without them a name is read in small letters"
        ),
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// The column that SQL names and no table has.
pub(super) fn absent(root: &DataFusionError) -> Option<&str> {
    match root {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => Some(&field.name),
            _ => None,
        },
        _ => None,
    }
}

/// What to say where SQL names a table or column that is not there; `None` where something else is wrong.
pub(super) fn missing(root: &DataFusionError, tables: &[TableOptions]) -> Option<String> {
    match root {
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                Some(missing_column(field, valid_fields, tables))
            }
            _ => None,
        },
        DataFusionError::Plan(text) if !tables.is_empty() => {
            let (name, _) = text.split_once("table '")?.1.split_once("' not found")?;
            // Catalog and schema are DataFusion's own.
            let name = name.strip_prefix("datafusion.public.").unwrap_or(name);
            Some(missing_table(name, tables))
        }
        _ => None,
    }
}

fn missing_table(name: &str, tables: &[TableOptions]) -> String {
    let names = || tables.iter().map(|table| table.name.as_str());
    let meant = did_you_mean(meant(name, names()));
    let all: Vec<String> = names().map(quoted).collect();
    format!("no table named {}{meant} (tables: {})", quoted(name), all.join(", "))
}

/// The table that columns are of, as far as that can be told.
fn owner<'a>(columns: &[Column], tables: &'a [TableOptions]) -> Option<&'a TableOptions> {
    if let [only] = tables {
        return Some(only);
    }
    let relation = columns.first()?.relation.as_ref()?;
    let same = columns.iter().all(|column| column.relation.as_ref() == Some(relation));
    tables.iter().find(|table| same && table.name == relation.table())
}

/// The named column, where the header of a file has it and spaces or another delimiter hide it. What is said of it is
/// what the SQL says itself.
fn disguised(name: &str, valid: &[Column], tables: &[TableOptions]) -> Option<String> {
    let table = owner(valid, tables);
    let of = table.map_or_else(String::new, |table| {
        format!(" of table {} ({})", quoted(&table.name), table.shown_uri())
    });
    let is_it = |part: &str| part.trim().eq_ignore_ascii_case(name);
    let is_spaced = |column: &&Column| column.name.trim() != column.name && is_it(&column.name);
    if let Some(spaced) = valid.iter().find(is_spaced) {
        return Some(format!(
            "no column named {}: the header{of} has it with spaces around it; take them out, or write it as {}",
            quoted(name),
            quoted(&spaced.name)
        ));
    }
    let [only] = valid else { return None };
    let given = table.map_or(',', |table| table.delimiter);
    let other = [',', ';', '\t', '|'].into_iter().find(|other| {
        *other != given && only.name.contains(*other) && only.name.split(*other).any(is_it)
    })?;
    Some(format!(
        "no column named {}: the header{of} is read as one column, in which it stands beside {}; is delimiter = {} meant, or \
         is the file of another format?",
        quoted(name),
        counted(only.name.matches(other).count() as u64, "other"),
        toml_text(other)
    ))
}

/// A character as TOML writes it.
fn toml_text(character: char) -> String {
    serde_json::Value::from(character.to_string()).to_string()
}

fn missing_column(field: &Column, valid: &[Column], tables: &[TableOptions]) -> String {
    if let Some(said) = disguised(&field.name, valid, tables) {
        return said;
    }
    let fits = |column: &&Column| {
        let table = valid.iter().filter(|other| other.relation == column.relation);
        shown(table.map(|other| other.name.as_str()))(&column.name)
    };
    let fitting: Vec<&Column> = valid.iter().filter(fits).collect();
    let meant = did_you_mean(meant(&field.name, fitting.iter().map(|column| column.name.as_str())));
    let name = quoted(&field.name);
    if fitting.is_empty() {
        let of = owner(valid, tables).map_or_else(String::new, |table| {
            format!(" in table {} ({})", quoted(&table.name), table.shown_uri())
        });
        return format!(
            "no column named {name}{of}, and none that looks like a name: is the table empty, or of another format, or \
             is its delimiter or has_header wrong?"
        );
    }
    let several = fitting.iter().any(|column| column.relation != fitting[0].relation);
    let all = fitting.iter().map(|column| match &column.relation {
        Some(table) if several => format!("{}.{}", quoted(table.table()), quoted(&column.name)),
        _ => quoted(&column.name),
    });
    let more = match valid.len() - fitting.len() {
        0 => String::new(),
        hidden => format!(
            "; {hidden} more have names that might be text of a note, as a missing header looks (has_header, delimiter)"
        ),
    };
    format!("no column named {name}{meant} (columns: {}{more})", all.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use datafusion::common::TableReference;

    use super::*;

    fn table(name: &str) -> TableOptions {
        serde_json::from_value(serde_json::json!({"name": name, "uri": "x"})).unwrap()
    }

    fn columns(names: &[&str]) -> Vec<Column> {
        names.iter().map(|name| Column::new(Some("notes"), *name)).collect()
    }

    #[test]
    fn a_table_that_is_not_there_is_told_from_those_that_are() {
        let tables = [table("Notes"), table("tags")];
        let said = |name: &str| {
            let text = format!("table 'datafusion.public.{name}' not found");
            missing(&DataFusionError::Plan(text), &tables).unwrap()
        };
        assert_eq!(
            said("notes"),
            "no table named notes; did you mean \"Notes\", in double quotes? Without them a name is read in small \
             letters (tables: \"Notes\", tags)"
        );
        assert!(said("tag").starts_with("no table named tag; did you mean tags? (tables:"));
        assert_eq!(said("x"), "no table named x (tables: \"Notes\", tags)");
        let other = DataFusionError::Plan("table function 'x' not found".to_owned());
        assert_eq!(missing(&other, &tables), None);
    }

    #[test]
    fn names_of_any_script_are_listed_with_how_to_quote_them() {
        let valid = columns(&["id", "Größe (cm)", "标题", "last name"]);
        let said = missing_column(&Column::from_name("größe (cm)"), &valid, &[]);
        assert_eq!(
            said,
            "no column named \"größe (cm)\"; did you mean \"Größe (cm)\", in double quotes? Without them a name is read in \
             small letters (columns: id, \"Größe (cm)\", \"标题\", \"last name\")"
        );
        let mut two = columns(&["id"]);
        two.push(Column::new(Some(TableReference::bare("Tags")), "Id"));
        let said = missing_column(&Column::from_name("x"), &two, &[]);
        assert_eq!(said, "no column named x (columns: notes.id, \"Tags\".\"Id\")");
    }

    #[test]
    fn a_column_that_spaces_or_a_delimiter_hide_is_found() {
        let tables = [table("notes")];
        let said =
            |names: &[&str]| missing_column(&Column::from_name("title"), &columns(names), &tables);
        assert_eq!(
            said(&["id", " title"]),
            "no column named title: the header of table notes (x) has it with spaces around it; take them out, or write it \
             as \" title\""
        );
        assert_eq!(
            said(&["id;title;body"]),
            "no column named title: the header of table notes (x) is read as one column, in which it stands beside 2 others; \
             is delimiter = \";\" meant, or is the file of another format?"
        );
        let note = said(&["4711;sick;de"]);
        assert!(note.contains("title in table notes (x), and none that looks"), "{note}");
        assert!(!note.contains("sick"), "{note}");
    }

    #[test]
    fn a_column_is_called_by_its_name_or_its_place() {
        let of = |names: &[&str]| {
            let fits = shown(names.iter().copied());
            let all: Vec<_> =
                names.iter().enumerate().map(|(at, name)| called(name, at, fits)).collect();
            all.join(", ")
        };
        assert_eq!(of(&["id", "last name"]), "column `id`, column `last name`");
        assert_eq!(of(&["4711", "Dear diary", "de"]), "column `4711`, column 2, column `de`");
    }

    #[test]
    fn the_first_note_of_a_table_without_header_is_not_listed() {
        let note = columns(&["4711", "Dear diary I feel sick", "de"]);
        let said = missing_column(&Column::from_name("id"), &note, &[]);
        assert!(!said.contains("diary") && said.contains("\"4711\", de; 1 more"), "{said}");
        let long = "today we went to the doctor again";
        for text in [long, "sick, very sick", "it's bad", " sick", "sick!", &"a".repeat(65)] {
            let said = missing_column(&Column::from_name("id"), &columns(&[text]), &[]);
            assert!(!said.contains(text) && said.contains("has_header"), "{said}");
        }
    }
}
