//! From everything that was found to the files that are read: of one kind, not empty, with the same Hive folders.

use std::collections::BTreeSet;

use super::found::{Found, Passed, Search};
use super::kind::{FileKind, way_out};
use super::partitions::{check_same, partitions};
use crate::corpus::options::{TableFormat, TableOptions};
use crate::corpus::source::file::SourceFile;
use crate::error::{Error, Result};
use crate::observe::Reporter;

/// The files of a table, by path; all must be of one kind, since a table has one reader. Warns of what is passed over.
pub(super) fn select(
    table: &TableOptions,
    search: Search,
    reporter: &dyn Reporter,
) -> Result<(Vec<SourceFile>, FileKind)> {
    let mut all = search.files;
    all.sort_by(|a, b| {
        a.meta.location.as_ref().as_bytes().cmp(b.meta.location.as_ref().as_bytes())
    });
    let markers = folder_markers(&all, table.format);
    let (mut unknown, mut empty) = (Passed::default(), Passed::default());
    let mut kind = None;
    let mut files: Vec<SourceFile> = Vec::new();
    for found in all {
        let kind_of = FileKind::of(&found.name, table.format)?;
        let Some(this) = kind_of.filter(|kind| search.named || kind.takes(&found.name)) else {
            // Nothing in it could be a note.
            if found.meta.size > 0 || search.named {
                unknown.add(found.url.as_str());
            }
            continue;
        };
        if found.meta.size == 0 {
            if !markers.contains(found.meta.location.as_ref()) {
                empty.add(found.url.as_str());
            }
            continue;
        }
        let file = source_file(table, found)?;
        if let Some(first) = files.first() {
            if kind != Some(this) {
                return Err(Error::input(format!(
                    "{} and {} differ in format or compression; make them two tables and UNION ALL them in corpus.sql",
                    first.url, file.url
                )));
            }
            check_same((&first.url, &first.partitions), (&file.url, &file.partitions))?;
        }
        kind = Some(this);
        files.push(file);
    }
    let Some(kind) = kind else { return Err(nothing(table, search.named, &unknown, &empty)) };
    let told = [
        (unknown, "files without a known ending"),
        (empty, "empty files"),
        (search.hidden, "names that begin with `.` or `_` (name them in a glob if they are data)"),
        (search.special, "pipes, sockets or devices"),
    ];
    for (passed, what) in told {
        if let Some(told) = passed.told() {
            reporter.warn(format!("table `{}`: skipped {what}: {told}", table.name));
        }
    }
    Ok((files, kind))
}

fn source_file(table: &TableOptions, found: Found) -> Result<SourceFile> {
    let partitions = partitions(&found.folders, &found.url)?;
    let path = found.folders.iter().chain([&found.name]).map(String::as_str);
    let path = path.collect::<Vec<_>>().join("/");
    Ok(SourceFile {
        table: table.name.clone(),
        url: found.url,
        store: found.store,
        meta: found.meta,
        path,
        partitions,
    })
}

/// Empty objects that stand for folders of a bucket: consoles and Hadoop put them there. Only where the format is given
/// could one be taken for data.
fn folder_markers(files: &[Found], format: Option<TableFormat>) -> BTreeSet<String> {
    if format.is_none() {
        return BTreeSet::new();
    }
    let is_folder = |at: &str| {
        let below = format!("{at}/");
        let next = files.partition_point(|file| file.meta.location.as_ref() < below.as_str());
        files.get(next).is_some_and(|file| file.meta.location.as_ref().starts_with(&below))
    };
    let empty = files.iter().filter(|file| file.meta.size == 0);
    let at = empty.map(|file| file.meta.location.as_ref());
    at.filter(|at| at.ends_with("_$folder$") || is_folder(at)).map(str::to_owned).collect()
}

/// The error of a table of which nothing is left.
fn nothing(table: &TableOptions, named: bool, unknown: &Passed, empty: &Passed) -> Error {
    let uri = table.shown_uri();
    let name = unknown.first.rsplit('/').next().unwrap_or_default();
    Error::input(match (unknown.told(), empty.told()) {
        _ if named && empty.count == 1 => {
            format!("it holds no rows: {} is empty", empty.first)
        }
        (None, Some(told)) => format!("{uri} holds only empty files: {told}"),
        (Some(_), None) if named || unknown.count == 1 => {
            format!("{} has no known ending; {}", unknown.first, way_out(name))
        }
        (Some(told), _) => {
            format!("{uri} holds no file with a known ending ({told}); {}", way_out(name))
        }
        (None, None) => format!("{uri} holds no file with notes"),
    })
}
