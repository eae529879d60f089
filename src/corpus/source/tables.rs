//! Finds the files of every table, registers the tables, and watches that the files do not change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::avro::AvroFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::file::{REQUESTS, SourceFile};
use super::infer;
use crate::corpus::options::{TableFormat, TableOptions};
use crate::corpus::session::error;
use crate::error::{Error, Result, ResultExt};
use crate::observe::{Event, Reporter};
use crate::store::named::expand_text;
use crate::store::{StorageOptions, open_store, unreadable};

const GLOB: [char; 3] = ['*', '?', '['];

/// Registers every table under its name and returns all files, by table and name.
pub(in crate::corpus) async fn register(
    context: &SessionContext,
    tables: &[TableOptions],
    base_dir: &Path,
    storage: &StorageOptions,
    reporter: &dyn Reporter,
) -> Result<Vec<SourceFile>> {
    let mut stores = Stores { storage, open: BTreeMap::new() };
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    for table in tables {
        if table.name.is_empty() || !names.insert(&table.name) {
            return Err(Error::config(format!(
                "corpus.tables: `{}` names no table or two tables; give each a name of its own",
                table.name
            )));
        }
        let doing = || format!("table `{}`", table.name);
        let files = find(table, base_dir, &mut stores, context).await.context(doing)?;
        let (files, kind) = one_kind(table, files, reporter).context(doing)?;
        let provider = provider(context, table, &files, kind).await.context(doing)?;
        context
            .register_table(TableReference::bare(table.name.as_str()), Arc::new(provider))
            .map_err(|e| error(e, "registering a table"))?;
        all.extend(files);
    }
    Ok(all)
}

/// Format and compression of a file, from its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileKind {
    pub(super) format: TableFormat,
    pub(super) compression: FileCompressionType,
    /// `.tsv`: the separator is a tab unless the options say otherwise.
    pub(super) tabs: bool,
}

impl FileKind {
    fn of(name: &str, explicit: Option<TableFormat>) -> Result<Option<Self>> {
        let lower = name.to_ascii_lowercase();
        let (stem, compression) = match lower.rsplit_once('.') {
            Some((stem, "gz" | "gzip")) => (stem, FileCompressionType::GZIP),
            Some((stem, "zst" | "zstd")) => (stem, FileCompressionType::ZSTD),
            Some((_, ending @ ("bz2" | "xz" | "zip" | "lz4" | "br"))) => {
                return Err(Error::unsupported(format!(
                    "{name}: .{ending} cannot be read; use .gz or .zst"
                )));
            }
            _ => (lower.as_str(), FileCompressionType::UNCOMPRESSED),
        };
        let ending = stem.rsplit_once('.').map_or("", |(_, ending)| ending);
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
}

/// All files must be of one kind: a table has one reader.
fn one_kind(
    table: &TableOptions,
    found: Vec<SourceFile>,
    reporter: &dyn Reporter,
) -> Result<(Vec<SourceFile>, FileKind)> {
    let mut files = Vec::new();
    let mut kind: Option<(FileKind, Url)> = None;
    let mut skipped = Vec::new();
    let single = found.len() == 1;
    for file in found {
        let name = file.meta.location.filename().unwrap_or_default();
        let Some(this) = FileKind::of(name, table.format)? else {
            skipped.push(file.url.to_string());
            continue;
        };
        match &kind {
            None => kind = Some((this, file.url.clone())),
            Some((first, _)) if *first == this => {}
            Some((_, url)) => {
                return Err(Error::input(format!(
                    "{url} and {} differ in format or compression; make them two tables and UNION ALL them in corpus.sql",
                    file.url
                )));
            }
        }
        files.push(file);
    }
    let Some((kind, _)) = kind else {
        return Err(Error::input(if single {
            format!(
                "{} has no known ending; set format to parquet, jsonl, csv, arrow or avro",
                skipped[0]
            )
        } else {
            format!("{} holds no file with a known ending; set format", table.uri)
        }));
    };
    if let Some(first) = skipped.first() {
        reporter.event(Event::Warning {
            message: format!(
                "table `{}`: skipped {} files without a known ending, e.g. {first}",
                table.name,
                skipped.len()
            ),
        });
    }
    Ok((files, kind))
}

/// The stores seen so far, by scheme and host.
struct Stores<'a> {
    storage: &'a StorageOptions,
    open: BTreeMap<String, Arc<dyn ObjectStore>>,
}

impl Stores<'_> {
    fn local(&mut self) -> Arc<dyn ObjectStore> {
        let store = self.open.entry("file://".to_owned());
        Arc::clone(store.or_insert_with(|| Arc::new(LocalFileSystem::new())))
    }

    /// The store of a URI, registered with DataFusion.
    fn remote(&mut self, url: &Url, context: &SessionContext) -> Result<Arc<dyn ObjectStore>> {
        let base = url[..url::Position::BeforePath].to_owned();
        if let Some(store) = self.open.get(&base) {
            return Ok(Arc::clone(store));
        }
        let (store, path) = open_store(url, self.storage)?;
        if ObjectPath::from_url_path(url.path()).ok().as_ref() != Some(&path) {
            return Err(Error::unsupported(format!(
                "{url}: write the bucket as the host, e.g. s3://bucket/path"
            )));
        }
        let registered = Url::parse(&base)
            .map_err(|e| Error::config(format!("{url} is no URI")).with_source(e))?;
        context.register_object_store(&registered, Arc::clone(&store));
        self.open.insert(base, Arc::clone(&store));
        Ok(store)
    }
}

async fn find(
    table: &TableOptions,
    base_dir: &Path,
    stores: &mut Stores<'_>,
    context: &SessionContext,
) -> Result<Vec<SourceFile>> {
    let uri = expand_text(&table.uri, base_dir)?;
    let mut files = match uri.split_once("://") {
        Some(("file", _)) => {
            let url = Url::parse(&uri)
                .map_err(|e| Error::config(format!("{} is no URI", table.uri)).with_source(e))?;
            let path = url
                .to_file_path()
                .map_err(|()| Error::config(format!("{url} names no local file")))?;
            local_files(&path, &table.uri)?
        }
        Some(_) => return remote_files(table, stores, context).await,
        None => local_files(&base_dir.join(&*uri), &table.uri)?,
    };
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Err(Error::input(format!(
            "{} matches no file (relative paths start from {})",
            table.uri,
            base_dir.display()
        )));
    }
    let store = stores.local();
    let heads = files.into_iter().map(|path| {
        let store = Arc::clone(&store);
        async move {
            let url = Url::from_file_path(&path)
                .map_err(|()| Error::input(format!("{} is no absolute path", path.display())))?;
            let location = ObjectPath::from_url_path(url.path())
                .map_err(|e| Error::input(format!("{url}")).with_source(e))?;
            let meta = store.head(&location).await.map_err(|e| unreadable(url.as_str(), &e))?;
            Ok(SourceFile { table: table.name.clone(), url, store, meta })
        }
    });
    futures::stream::iter(heads).buffered(REQUESTS).try_collect().await
}

/// Absolute paths of the files that a local path, directory or glob names.
fn local_files(path: &Path, uri: &str) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::io(e, format!("{uri} cannot be read"));
    let mut files = Vec::new();
    // A name with a `*` in it that exists is meant as it stands.
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => walk(path, &mut files).map_err(failed)?,
        Ok(_) => files.push(path.to_owned()),
        Err(_) if path.to_string_lossy().contains(GLOB) => {
            let pattern =
                path.to_str().ok_or_else(|| Error::config(format!("{uri} is not UTF-8")))?;
            let options = glob::MatchOptions {
                require_literal_separator: true,
                require_literal_leading_dot: true,
                ..glob::MatchOptions::new()
            };
            let matches = glob::glob_with(pattern, options)
                .map_err(|e| Error::config(format!("{uri} is no valid glob")).with_source(e))?;
            for found in matches {
                let found = found.map_err(|e| failed(e.into()))?;
                if found.is_file() {
                    files.push(found);
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::input(format!("{} does not exist", path.display())));
        }
        Err(e) => return Err(failed(e)),
    }
    files.iter().map(|file| file.canonicalize().map_err(failed)).collect()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if hidden(&name) {
            continue;
        }
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Markers such as `_SUCCESS` and hidden files are no data.
fn hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_')
}

async fn remote_files(
    table: &TableOptions,
    stores: &mut Stores<'_>,
    context: &SessionContext,
) -> Result<Vec<SourceFile>> {
    // `?` of a glob would start a query string.
    let escaped = table.uri.replace('?', "%3F");
    let url = Url::parse(&escaped)
        .map_err(|e| Error::config(format!("{} is no URI", table.uri)).with_source(e))?;
    let store = stores.remote(&url, context)?;
    let base = Url::parse(&url[..url::Position::BeforePath])
        .map_err(|e| Error::config(format!("{url} is no URI")).with_source(e))?;
    let full = ObjectPath::from_url_path(url.path())
        .map_err(|e| Error::config(format!("{url}")).with_source(e))?;
    let web = matches!(url.scheme(), "http" | "https");
    let pattern = full.as_ref().contains(GLOB).then(|| glob::Pattern::new(full.as_ref()));
    let mut metas = Vec::new();
    if pattern.is_none() && !url.path().ends_with('/') {
        match store.head(&full).await {
            Ok(meta) => metas.push(meta),
            // A web server has no folders that a name without `/` could mean.
            Err(object_store::Error::NotFound { .. }) if !web => {}
            Err(e) => return Err(unreadable(url.as_str(), &e)),
        }
    }
    if metas.is_empty() && web {
        return Err(Error::config(format!(
            "{} is no single file; a web server does not list its files: make each one a table and UNION ALL them",
            table.uri
        )));
    }
    if metas.is_empty() {
        let pattern = pattern
            .transpose()
            .map_err(|e| Error::config(format!("{url} is no valid glob")).with_source(e))?;
        let fixed = full.parts().take_while(|part| !part.as_ref().contains(GLOB));
        let prefix: ObjectPath = match &pattern {
            Some(_) => fixed.collect(),
            None => full.clone(),
        };
        let options =
            glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        let mut listing = store.list(Some(&prefix));
        while let Some(meta) = listing.try_next().await.map_err(|e| unreadable(url.as_str(), &e))? {
            let below = meta.location.prefix_match(&prefix);
            let data = below.is_some_and(|mut parts| parts.all(|part| !hidden(part.as_ref())));
            let fits =
                pattern.as_ref().is_none_or(|p| p.matches_with(meta.location.as_ref(), options));
            if data && fits && meta.size > 0 {
                metas.push(meta);
            }
        }
    }
    metas.sort_by(|a, b| a.location.cmp(&b.location));
    if metas.is_empty() {
        return Err(Error::input(format!("{} matches no object", table.uri)));
    }
    metas
        .into_iter()
        .map(|meta| {
            let mut url = base.clone();
            url.set_path(meta.location.as_ref());
            Ok(SourceFile { table: table.name.clone(), url, store: Arc::clone(&store), meta })
        })
        .collect()
}

async fn provider(
    context: &SessionContext,
    table: &TableOptions,
    files: &[SourceFile],
    kind: FileKind,
) -> Result<ListingTable> {
    let delimiter = match table.delimiter {
        ',' if kind.tabs => b'\t',
        other => u8::try_from(other).ok().filter(u8::is_ascii).ok_or_else(|| {
            Error::config(format!("delimiter {other:?} must be one ASCII character"))
        })?,
    };
    let format: Arc<dyn FileFormat> = match kind.format {
        TableFormat::Parquet => {
            // The format has options of its own, which its schemas are inferred with.
            let options = context.state().default_table_options().parquet;
            Arc::new(ParquetFormat::default().with_options(options))
        }
        TableFormat::Arrow => Arc::new(ArrowFormat),
        TableFormat::Avro => Arc::new(AvroFormat),
        TableFormat::Jsonl => {
            Arc::new(JsonFormat::default().with_file_compression_type(kind.compression))
        }
        TableFormat::Csv => Arc::new(
            CsvFormat::default()
                .with_has_header(table.has_header)
                .with_delimiter(delimiter)
                // Notes have line breaks. The price: a file is read by one thread.
                .with_newlines_in_values(true)
                .with_file_compression_type(kind.compression),
        ),
    };
    let schema: SchemaRef = match kind.format {
        TableFormat::Jsonl => infer::json(files, kind.compression).await?,
        TableFormat::Csv => {
            infer::csv(files, kind.compression, delimiter, table.has_header).await?
        }
        _ => infer::own(context, files, kind.format, &format).await?,
    };
    let urls = files
        .iter()
        .map(|file| ListingTableUrl::try_new(file.url.clone(), None))
        .collect::<datafusion::error::Result<Vec<_>>>()
        .map_err(|e| error(e, "naming files"))?;
    let config = ListingTableConfig::new_with_multi_paths(urls)
        .with_listing_options(ListingOptions::new(format).with_file_extension(""))
        .with_schema(schema);
    ListingTable::try_new(config).map_err(|e| error(e, "opening the table"))
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
        assert!(of("a.tsv").unwrap().unwrap().tabs);
        assert_eq!(of("README.md").unwrap(), None);
        assert_eq!(of("a.csv.xz").unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(of("a.parquet.zst").unwrap_err().kind(), ErrorKind::Unsupported);
        let kind = FileKind::of("dump", Some(TableFormat::Csv)).unwrap().unwrap();
        assert_eq!(kind.format, TableFormat::Csv);
    }

    #[test]
    fn directories_and_globs_skip_markers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["a.csv", "b.csv", "_SUCCESS", ".hidden.csv", "sub/c.csv"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let count = |uri: &str| local_files(&dir.path().join(uri), uri).map(|f| f.len());
        assert_eq!(count("").unwrap(), 3);
        assert_eq!(count("*.csv").unwrap(), 2);
        assert_eq!(count("**/*.csv").unwrap(), 3);
        assert_eq!(count("b.csv").unwrap(), 1);
        assert_eq!(count("nope.csv").unwrap_err().kind(), ErrorKind::Input);
    }
}
