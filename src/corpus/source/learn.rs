//! Learns the columns of text files: one pass over every file, then types by declaration, by the newest snapshot, or by
//! the values seen.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use futures::{StreamExt, TryStreamExt};

use super::file::SourceFile;
use super::named::Named;
use super::reading::Reading;
use super::text::{BadRow, BadRows, Column, Learned};
use super::types::{Conflict, Place, Seen};
use super::{bytes, csv, json, markdown};
use crate::corpus::names::{called, listed, shown, toml_key};
use crate::corpus::options::{TableOptions, TypeRule};
use crate::corpus::outcome::{Rejections, class, of_class};
use crate::corpus::session::BATCH_ROWS;
use crate::error::{Error, Result};

/// What stands against a column. It counts only where a query reads the column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Complaint {
    /// The column cannot be read so.
    Refused(String),
    /// It is read, perhaps not as somebody meant it.
    Warned(String),
}

/// Which text format; CSV with a tab as its separator where the file's ending says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Csv { tabs: bool },
    Json,
    Markdown,
}

/// A table of text files whose columns are known.
pub(super) struct TextTable {
    pub(super) files: Arc<[SourceFile]>,
    compression: FileCompressionType,
    options: TableOptions,
    syntax: Syntax,
    /// Of CSV.
    dialect: Option<csv::Dialect>,
    /// Columns in the file's order (CSV) or by name.
    columns: Vec<Column>,
    /// By file.
    bad: Vec<BadRows>,
    longest_row: usize,
    rows: u64,
    /// Only its start was read.
    is_cut: bool,
    /// JSON: where each file is one object, the field in which it seems to hold the rows.
    wrapped: Option<String>,
}

/// The result of learning.
pub(super) struct Typed {
    pub(super) table: TextTable,
    /// By place of the column.
    pub(super) complaints: Vec<(usize, Complaint)>,
}

impl TextTable {
    /// Reads every file once, or the start of some.
    ///
    /// # Errors
    /// Input for files that cannot be read as the options say; Config for a declared column that is not there.
    pub(super) async fn learn(
        options: &TableOptions,
        syntax: Syntax,
        files: Arc<[SourceFile]>,
        compression: FileCompressionType,
        reading: &Reading<'_>,
    ) -> Result<Typed> {
        let Reading { before, typing, .. } = *reading;
        let (rule, depth, pinned) = (typing.rule, typing.depth, typing.pinned);
        let longest_row = typing.room.row;
        let (sample, most) = depth.of_files(files.len());
        let options = &*match syntax {
            Syntax::Markdown => markdown::options(options),
            _ => Cow::Borrowed(options),
        };
        let chosen: Option<Vec<usize>> = match pinned {
            Some(pinned) => Some(pinned.read.iter().copied().collect()),
            None => sample,
        };
        let some = chosen.as_ref().map(|chosen| {
            chosen.iter().filter_map(|at| files.get(*at).cloned()).collect::<Vec<SourceFile>>()
        });
        let read = some.as_deref().unwrap_or(&files[..]);
        let (dialect, learned) = match syntax {
            Syntax::Csv { tabs } => {
                let mut dialect = csv::Dialect::of(options, tabs)?.with_longest(longest_row);
                dialect.most = most;
                if pinned.is_some_and(|pinned| pinned.table.unquoted) {
                    dialect = dialect.without_quotes();
                }
                let (dialect, learned) =
                    csv::learn_files(read, compression, options, dialect, rule).await?;
                (Some(dialect), learned)
            }
            Syntax::Json | Syntax::Markdown => {
                let each = (syntax, compression, rule, (longest_row, most));
                (None, learn_rows(read, options, each).await?)
            }
        };
        let rows = learned.iter().map(|next| next.rows).sum();
        let is_sampled = pinned.is_none() && read.len() < files.len();
        let is_cut = is_sampled || learned.iter().any(|next| next.is_cut);
        let (all, given) = (Arc::clone(&files), options.clone());
        let table = move |columns, bad, wrapped| Self {
            files: all,
            compression,
            options: given,
            syntax,
            dialect,
            columns,
            bad,
            longest_row,
            rows,
            is_cut,
            wrapped,
        };
        // Nothing is known of the rows of files that were not read.
        let mut bad: Vec<BadRows> = files.iter().map(|_| BadRows::default()).collect();
        let place = |at: usize| chosen.as_ref().map_or(at, |chosen| chosen[at]);
        if let Some(pinned) = pinned {
            let column = |field: &FieldRef| Column {
                name: field.name().clone(),
                data_type: field.data_type().clone(),
                declared: options.schema.get(field.name()).cloned(),
            };
            let columns = pinned.schema()?.fields().iter().map(column).collect();
            for (at, learned) in learned.into_iter().enumerate() {
                bad[place(at)] = learned.bad;
            }
            return Ok(Typed { table: table(columns, bad, None), complaints: Vec::new() });
        }
        let mut seen: Named<Seen> = Named::default();
        let is_empty = learned.iter().all(|next| next.is_empty);
        for (at, next) in learned.into_iter().enumerate() {
            for (name, values) in next.columns {
                // No limit: each file has kept to its own.
                if let Some(known) = seen.entry(&name, usize::MAX) {
                    known.merge(values);
                }
            }
            bad[place(at)] = next.bad;
        }
        let mut seen = seen.into_entries();
        if seen.is_empty() && (is_empty || rows > 0) {
            return Err(no_rows(&files, &bad));
        }
        let is_wrapper = syntax == Syntax::Json && rows == read.len() as u64;
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        let by_column = seen.iter().all(|(_, values)| values.is_object_with("0"));
        if is_wrapper
            && rows > 0
            && (by_column || matches!(*names, ["columns", "data"] | ["columns", "data", "index"]))
        {
            return Err(Error::input(format!(
                "{} holds columns, not rows, as pandas writes them; write it with to_json(..., orient=\"records\")",
                files.first().map_or("it", |file| file.url.as_str())
            )));
        }
        let wrapped = seen.iter().find(|(_, values)| is_wrapper && values.is_list_of_objects());
        let wrapped = wrapped.map(|(name, _)| name.clone());
        let mut complaints = Vec::new();
        match dialect {
            Some(_) => {
                declared_columns_are_there(options, seen.iter().map(|(name, _)| name.as_str()))?;
            }
            // A field that no row happens to have is not a slip: a day may have none.
            None => {
                let before = before.filter(|_| rows == 0);
                for name in
                    options.schema.keys().chain(before.into_iter().flat_map(|known| known.keys()))
                {
                    if seen.iter().all(|(known, _)| known != name) {
                        seen.push((name.clone(), Seen::default()));
                    }
                }
                seen.sort_by(|a, b| a.0.cmp(&b.0));
            }
        }
        // Fields of JSON are not texts: its rows name them all.
        let fits = match syntax {
            Syntax::Csv { .. } => shown(seen.iter().map(|(name, _)| name.as_str())),
            Syntax::Json | Syntax::Markdown => |_: &str| true,
        };
        let mut columns = Vec::new();
        for (at, (name, values)) in seen.into_iter().enumerate() {
            let typing = Typing {
                options,
                files: read,
                rule,
                name: &name,
                called: called(&name, at, fits),
                key: if fits(&name) { toml_key(&name) } else { "NAME".to_owned() },
                seen: &values,
                rows,
            };
            let before = before.and_then(|known| known.get(&name));
            let (data_type, complaint) = typing.decide(syntax, before.map(String::as_str));
            complaints.extend(complaint.map(|complaint| (at, complaint)));
            columns.push(Column { data_type, declared: options.schema.get(&name).cloned(), name });
        }
        Ok(Typed { table: table(columns, bad, wrapped), complaints })
    }

    /// What to do where a query misses a column.
    pub(super) fn hint(&self) -> Option<String> {
        let name = self.wrapped.as_ref()?;
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let path = match plain && !name.starts_with(|c: char| c.is_ascii_digit()) {
            true => format!(".{name}[]"),
            false => format!(".[{}][]", serde_json::Value::from(name.as_str())),
        };
        let table = &self.options.name;
        Some(format!(
            "table `{table}` is one object whose field `{name}` is a list of objects: if those are the rows, make lines of them, \
             e.g. with jq -c '{path}' FILE > {table}.jsonl"
        ))
    }

    /// Whether nothing says which columns the table has: a list of JSON without items.
    pub(super) fn is_open(&self) -> bool {
        self.dialect.is_none() && self.rows == 0
    }

    /// Whether only its start was read.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether its first line names its columns, all of them.
    pub(super) fn has_header(&self) -> bool {
        self.dialect.is_some()
    }

    /// Whether the options say of which type a column is.
    pub(super) fn is_declared(&self, column: &str) -> bool {
        self.options.schema.contains_key(column)
    }

    /// Whether its quotes are text.
    pub(super) fn is_unquoted(&self) -> bool {
        self.dialect.is_some_and(|dialect| !dialect.has_quotes())
    }

    /// The table's own columns.
    pub(super) fn schema(&self) -> Schema {
        let field = |column: &Column| Field::new(&column.name, column.data_type.clone(), true);
        Schema::new(self.columns.iter().map(field).collect::<Vec<_>>())
    }

    /// The rows of all files that cannot be read.
    pub(super) fn rejected(&self, into: &mut Rejections) {
        for (file, bad) in self.files.iter().zip(&self.bad) {
            let rows = bad.first.iter().map(|row| told(file, row));
            into.add_rows(&bad.reasons, rows);
        }
    }

    /// The number of a file's row, from 1, of those that can be read the `nth`, from 0.
    pub(super) fn row_number(&self, file: usize, nth: u64) -> u64 {
        self.bad[file].rows.iter().fold(nth, |row, bad| row + u64::from(*bad <= row)) + 1
    }

    /// Reads the columns at these places of one file, batch by batch, until `emit` wants no more.
    /// False where it did not.
    pub(super) async fn read(
        self: &Arc<Self>,
        at: usize,
        places: &[usize],
        mut emit: impl FnMut(RecordBatch) -> Result<bool> + Send + 'static,
    ) -> Result<bool> {
        let table = Arc::clone(self);
        let places = places.to_vec();
        let encoding = self.options.encoding;
        bytes::read(&self.files[at], self.compression, encoding, move |reader| {
            let mut wanted = true;
            let mut emit = |batch| {
                wanted = emit(batch)?;
                Ok(wanted)
            };
            let bad = &table.bad[at];
            match table.dialect {
                Some(dialect) => {
                    let columns: Vec<(usize, Column)> =
                        places.iter().map(|at| (*at, table.columns[*at].clone())).collect();
                    let options = &table.options;
                    csv::read(reader, dialect, options, &columns, bad, BATCH_ROWS, &mut emit)?;
                }
                None => {
                    let columns: Vec<Column> =
                        places.iter().map(|at| table.columns[*at].clone()).collect();
                    let longest = table.longest_row;
                    match table.syntax {
                        Syntax::Markdown => {
                            let (options, seen) = (&table.options, (&*columns, bad));
                            let path = &table.files[at].path;
                            markdown::read(reader, path, options, seen, longest, &mut emit)?;
                        }
                        _ => json::read(reader, &columns, bad, longest, &mut emit)?,
                    }
                }
            }
            Ok(wanted)
        })
        .await
    }
}

/// How many files are read at once: each takes a core.
const FILES: usize = 4;

async fn learn_rows(
    files: &[SourceFile],
    options: &TableOptions,
    (syntax, compression, rule, (longest_row, most)): (
        Syntax,
        FileCompressionType,
        TypeRule,
        (usize, u64),
    ),
) -> Result<Vec<Learned>> {
    let table = Arc::new(options.clone());
    let each = files.iter().cloned().enumerate().map(|(at, file)| {
        let table = Arc::clone(&table);
        async move {
            let path = file.path.clone();
            bytes::read(&file, compression, table.encoding, move |reader| match syntax {
                Syntax::Markdown => markdown::learn(reader, &path, &table, at, rule, longest_row),
                _ => json::learn_start(reader, &table, at, rule, longest_row, most),
            })
            .await
        }
    });
    futures::stream::iter(each).buffered(FILES).try_collect().await
}

/// Why a table has no columns: there is nothing in its files, or none of their rows can be read.
fn no_rows(files: &[SourceFile], bad: &[BadRows]) -> Error {
    let first = files.iter().zip(bad).find_map(|(file, bad)| Some(told(file, bad.first.first()?)));
    Error::input(match (first, files.first()) {
        (Some(first), _) => format!("none of its rows can be read, e.g. {first}"),
        (None, Some(file)) => format!("it holds no rows, and so no columns: {} is empty", file.url),
        (None, None) => "it has no files".to_owned(),
    })
}

fn told(file: &SourceFile, row: &BadRow) -> String {
    format!("{} line {}: {}: {}", file.url, row.line, row.place, row.reason)
}

/// Config error where `schema` names a column that no file has.
pub(super) fn declared_columns_are_there<'a>(
    options: &TableOptions,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<()> {
    let missing = options.schema.keys().find(|name| names.clone().all(|known| known != *name));
    missing.map_or(Ok(()), |name| {
        Err(Error::config(format!(
            "schema declares a column `{name}`, which the files do not have; they have {}",
            listed(&names.collect::<Vec<_>>()),
        ))
        .of_key(format!("schema.{name}")))
    })
}

/// One column's way to its type.
struct Typing<'a> {
    options: &'a TableOptions,
    files: &'a [SourceFile],
    rule: TypeRule,
    name: &'a str,
    /// In messages.
    called: String,
    /// In advice for the pipeline file.
    key: String,
    seen: &'a Seen,
    /// Of the whole table.
    rows: u64,
}

impl Typing<'_> {
    /// The type: as declared, else as the newest snapshot had it, else as the values are.
    fn decide(&self, syntax: Syntax, before: Option<&str>) -> (DataType, Option<Complaint>) {
        if let Some(declared) = self.options.schema.get(self.name) {
            let absent = (matches!(syntax, Syntax::Json | Syntax::Markdown)
                && self.rows > 0
                && self.seen.is_empty())
            .then(|| {
                Complaint::Warned(format!(
                    "field `{}`, which the schema of table `{}` declares, is in no row",
                    self.name, self.options.name
                ))
            });
            return (declared.data_type(), absent);
        }
        let found = match syntax {
            Syntax::Csv { .. } => self.seen.csv_type(self.rule),
            Syntax::Json | Syntax::Markdown => match self.seen.json_type(self.rule, self.name) {
                Ok(found) => found,
                Err(conflict) => return (DataType::Utf8, Some(self.mixed(&conflict))),
            },
        };
        if self.rule == TypeRule::Guessed {
            let complaint = self.seen.first_respelled(&found).map(|place| self.respelled(place));
            return (found, complaint);
        }
        let Some((was, known)) = before.and_then(|was| Some((was, of_class(was)?))) else {
            return (found, None);
        };
        match (&known, &found) {
            _ if known == found => (found, None),
            // Text has room for every value, and no value has every type.
            (_, DataType::Null)
            | (DataType::Utf8, DataType::Boolean | DataType::Int64 | DataType::Float64) => {
                (known, None)
            }
            _ => {
                let place = self.seen.first_beside(&known).map_or_else(String::new, |place| {
                    format!("; {} holds another value", self.place(place))
                });
                let now = class(&found);
                let message = format!(
                    "{} of table `{}` is {now} now, but was {was} when the newest snapshot was made{place}; \
                     correct the value, or declare what is meant: schema = {{ {} = \"string\" }}, which keeps every \
                     value as it is written",
                    self.called, self.options.name, self.key,
                );
                (found, Some(Complaint::Refused(message)))
            }
        }
    }

    fn place(&self, place: Place) -> String {
        let file = self.files.get(place.file).map_or("a file", |file| file.url.as_str());
        format!("{file} line {}", place.line)
    }

    fn respelled(&self, place: Place) -> Complaint {
        Complaint::Warned(format!(
            "{} of table `{}` is read as numbers, and some are not printed as the file writes them, e.g. in {}: \
             ids and texts that differ there may be one here; to keep them as they are written, declare \
             schema = {{ {} = \"string\" }} for the table, or set version = 2 (scalingnote config upgrade)",
            self.called,
            self.options.name,
            self.place(place),
            self.key,
        ))
    }

    fn mixed(&self, conflict: &Conflict) -> Complaint {
        let Conflict { field, one, other } = conflict;
        let scalars = [one.0, other.0].iter().all(|what| !matches!(*what, "a list" | "an object"));
        let way_out = match scalars && field == self.name {
            true => format!(
                "declare schema = {{ {} = \"string\" }} for the table if they are one kind of text",
                self.key
            ),
            false => "write it in one way, or make them two tables".to_owned(),
        };
        Complaint::Refused(format!(
            "field `{field}` of table `{}` is {} in {} but {} in {}; {way_out}",
            self.options.name,
            one.0,
            self.place(one.1),
            other.0,
            self.place(other.1),
        ))
    }
}
