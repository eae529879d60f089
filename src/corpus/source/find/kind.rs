//! Format and compression of a file, from its ending.

use datafusion::datasource::file_format::file_compression_type::FileCompressionType;

use crate::corpus::options::TableFormat;
use crate::error::{Error, Result};

/// Endings that say that a file is Markdown.
const NOTES: [&str; 4] = ["md", "markdown", "mdown", "mkd"];

/// Endings of files that hold data which no reader here understands, and the way out.
const FOREIGN: [(&[&str], &str); 6] = [
    (&NOTES, "set format = \"markdown\""),
    (&["xlsx", "xls", "ods"], "export it as CSV"),
    (&["orc", "lance", "h5", "hdf5", "rds", "sav", "dta"], "export it as Parquet"),
    (&["sqlite", "sqlite3", "db"], "set format = \"sqlite\""),
    (&["duckdb"], "export the table as Parquet or CSV"),
    (&["tar", "tgz", "7z", "rar", "jar"], "unpack it into a folder and name that"),
];

/// Endings of Markdown: a vault has images and much else beside its notes.
const MARKDOWN: [&str; 5] = ["md", "markdown", "mdown", "mkd", "txt"];

/// Format and compression of a file, from its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::corpus::source) struct FileKind {
    pub(in crate::corpus::source) format: TableFormat,
    pub(in crate::corpus::source) compression: FileCompressionType,
    /// `.tsv`: the separator is a tab unless the options say otherwise.
    pub(in crate::corpus::source) tabs: bool,
}

impl FileKind {
    /// `None` for a name whose ending says nothing, unless the format is given.
    ///
    /// # Errors
    /// Unsupported for a compression that cannot be read.
    pub(super) fn of(name: &str, explicit: Option<TableFormat>) -> Result<Option<Self>> {
        let lower = name.to_ascii_lowercase();
        let (stem, compression) = match lower.rsplit_once('.') {
            Some((stem, "gz" | "gzip")) => (stem, FileCompressionType::GZIP),
            Some((stem, "zst" | "zstd")) => (stem, FileCompressionType::ZSTD),
            Some((_, ending @ ("bz2" | "xz" | "zip" | "lz4" | "br" | "tgz"))) => {
                return Err(Error::unsupported(format!(
                    "{name}: .{ending} cannot be read; use .gz or .zst"
                )));
            }
            _ => (lower.as_str(), FileCompressionType::UNCOMPRESSED),
        };
        let ending = ending(stem);
        let known = match ending {
            "parquet" | "pq" => Some(TableFormat::Parquet),
            "jsonl" | "ndjson" | "json" => Some(TableFormat::Jsonl),
            "csv" | "tsv" => Some(TableFormat::Csv),
            "arrow" | "ipc" | "feather" => Some(TableFormat::Arrow),
            "avro" => Some(TableFormat::Avro),
            _ => None,
        };
        let Some(format) = explicit.or(known) else { return Ok(None) };
        let streams = matches!(format, TableFormat::Csv | TableFormat::Jsonl);
        if compression.is_compressed() && !streams {
            return Err(Error::unsupported(format!(
                "{name}: only CSV and JSON lines may be compressed as a whole; {format:?} compresses inside"
            )));
        }
        Ok(Some(Self { format, compression, tabs: ending == "tsv" }))
    }

    /// Whether a file of a folder belongs to a table of this kind. Where the format is given any does, but of Markdown.
    pub(super) fn takes(self, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        self.format != TableFormat::Markdown || MARKDOWN.contains(&ending(&lower))
    }
}

/// Whether the ending says that a file is Markdown.
pub(super) fn is_markdown(name: &str) -> bool {
    NOTES.contains(&ending(&name.to_ascii_lowercase()))
}

fn ending(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, ending)| ending)
}

/// What to do with a file whose ending no reader knows.
pub(super) fn way_out(name: &str) -> &'static str {
    let lower = name.to_ascii_lowercase();
    let name = lower.strip_suffix(".gz").or(lower.strip_suffix(".zst")).unwrap_or(&lower);
    let foreign = FOREIGN.iter().find(|(endings, _)| endings.contains(&ending(name)));
    foreign.map_or("set format to parquet, jsonl, csv, arrow, avro or markdown", |(_, way_out)| {
        *way_out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn endings_name_format_and_compression() {
        let of = |name| FileKind::of(name, None);
        let kind = of("Notes.JSONL.gz").unwrap().unwrap();
        assert_eq!(
            (kind.format, kind.compression),
            (TableFormat::Jsonl, FileCompressionType::GZIP)
        );
        for (endings, format) in [
            (&["parquet", "pq"][..], TableFormat::Parquet),
            (&["jsonl", "ndjson", "json", "json.gz", "ndjson.zst"], TableFormat::Jsonl),
            (&["csv", "tsv", "tsv.gz", "csv.zstd", "csv.gzip"], TableFormat::Csv),
            (&["arrow", "ipc", "feather"], TableFormat::Arrow),
            (&["avro"], TableFormat::Avro),
        ] {
            for ending in endings {
                let kind = FileKind::of(&format!("a.{ending}"), None).unwrap().unwrap();
                assert_eq!(kind.format, format, "{ending}");
            }
        }
        assert!(of("a.tsv").unwrap().unwrap().tabs);
        assert_eq!(of("README.md").unwrap(), None);
        assert_eq!(of("a.csv.xz").unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(of("a.parquet.zst").unwrap_err().kind(), ErrorKind::Unsupported);
        let kind = FileKind::of("dump", Some(TableFormat::Csv)).unwrap().unwrap();
        assert_eq!(kind.format, TableFormat::Csv);
    }

    #[test]
    fn the_way_out_fits_the_ending() {
        assert_eq!(way_out("Notes.XLSX"), "export it as CSV");
        assert_eq!(way_out("notes.tar.gz"), "unpack it into a folder and name that");
        assert!(way_out("dump").starts_with("set format"));
    }
}
