//! A table of files as one process found it and learnt its columns, for others that read parts of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow::ipc::writer::StreamWriter;
use chrono::DateTime;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::file::SourceFile;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// A table of files, found and learnt once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinnedTable {
    /// Its name in the SQL.
    pub name: String,
    /// All its files, in order.
    pub files: Vec<PinnedFile>,
    /// The columns of the files, of the types that all of them have in common: Arrow's message of a schema, in hex.
    pub schema: String,
    /// Rows that a batch may have.
    pub batch_rows: usize,
    /// CSV whose quotes are text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unquoted: bool,
}

/// A file as it was found; it must not change before the last task has read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Where it is, without anything secret.
    pub uri: String,
    /// The same in its store.
    pub location: String,
    /// Its name, with the folders between the fixed part of the table's `uri` and it.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Last modification, RFC 3339.
    pub modified: String,
    /// Entity tag, if the store gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The columns that its folders give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<(String, Option<String>)>,
}

impl PinnedFile {
    pub(super) fn of(file: &SourceFile) -> Self {
        Self {
            uri: file.url.to_string(),
            location: file.meta.location.to_string(),
            path: file.path.clone(),
            size: file.meta.size,
            modified: file.meta.last_modified.to_rfc3339(),
            etag: file.meta.e_tag.clone(),
            folders: file.partitions.clone(),
        }
    }

    /// The file of a table again, in the store that it was found in.
    pub(super) fn again(&self, table: &str, store: &Arc<dyn ObjectStore>) -> Result<SourceFile> {
        let wrong = || format!("a file of table `{table}` in the plan");
        let url = Url::parse(&self.uri).or_error(ErrorKind::Corrupt, wrong)?;
        let location = ObjectPath::parse(&self.location).or_error(ErrorKind::Corrupt, wrong)?;
        let modified = DateTime::parse_from_rfc3339(&self.modified);
        let meta = ObjectMeta {
            location,
            last_modified: modified.or_error(ErrorKind::Corrupt, wrong)?.into(),
            size: self.size,
            e_tag: self.etag.clone(),
            version: None,
        };
        Ok(SourceFile {
            table: table.to_owned(),
            url,
            store: Arc::clone(store),
            meta,
            path: self.path.clone(),
            partitions: self.folders.clone(),
        })
    }
}

/// A pinned table, and which of its files are read here.
pub(in crate::corpus) struct Pinned<'a> {
    pub(in crate::corpus) table: &'a PinnedTable,
    pub(in crate::corpus) read: BTreeSet<usize>,
}

impl Pinned<'_> {
    pub(super) fn schema(&self) -> Result<Schema> {
        let wrong = || format!("the columns of table `{}` in the plan", self.table.name);
        let bytes = hex::decode(&self.table.schema).or_error(ErrorKind::Corrupt, wrong)?;
        try_schema_from_ipc_buffer(&bytes).or_error(ErrorKind::Corrupt, wrong)
    }
}

pub(super) fn written(schema: &SchemaRef) -> Result<String> {
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, schema)
        .map_err(|e| Error::internal("writing the columns of a table").with_source(e))?;
    Ok(hex::encode(bytes))
}
