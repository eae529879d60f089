//! The operations of a store as values, and what they answer.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, PutResult, Result};
use serde_json::{Map, Value};

use scalingnote::store::layout::{self, Folder};

use super::names::{hash, shape};

pub enum Op {
    Put { key: String, bytes: Bytes, create: bool },
    Get { key: String, options: GetOptions },
    Delete { key: String },
    List { prefix: String },
}

pub enum Reply {
    Put(Result<PutResult>),
    Get(Result<GetResult>),
    Delete(Result<()>),
    List(Result<Vec<ObjectMeta>>),
}

/// How far an operation gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Done {
    Fully,
    /// It is done, and its acknowledgement is lost.
    Unheard,
    /// It fails before anything is done.
    NotAtAll,
}

impl Op {
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Get { key, .. } | Self::Delete { key } => key,
            Self::List { prefix } => prefix,
        }
    }

    pub fn verb(&self) -> &'static str {
        match self {
            Self::Put { create: true, .. } => "create",
            Self::Put { .. } => "put",
            Self::Get { options, .. } if options.head => "look up",
            Self::Get { .. } => "get",
            Self::Delete { .. } => "delete",
            Self::List { .. } => "list",
        }
    }

    /// The same for what is asked again, by another name.
    pub fn shape(&self) -> u64 {
        hash(&(self.verb(), shape(self.key())))
    }

    pub fn writes(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete { .. })
    }

    /// Whether it publishes or deletes: such a request is done, or has failed, long before a lease goes stale.
    pub fn lasts(&self) -> bool {
        match self {
            Self::Put { key, .. } => layout::manifest_number(key).is_some(),
            Self::Delete { key } => layout::folder(key) != Some(Folder::Leases),
            Self::Get { .. } | Self::List { .. } => false,
        }
    }

    /// Whether others may be let in before it. What a file holds is the same whenever it is read: that belongs to the
    /// step before it.
    pub fn matters(&self) -> bool {
        let key = self.key();
        match self {
            Self::List { .. } | Self::Delete { .. } | Self::Put { .. } => true,
            Self::Get { options, .. } => {
                let shared =
                    matches!(layout::folder(key), Some(Folder::Leases | Folder::Snapshots))
                        || layout::is_receipt(key);
                shared || (options.head && layout::is_file(key))
            }
        }
    }

    /// The answer of a store that fails.
    pub fn broken(&self) -> Reply {
        let text = format!("injected: status code: 503 Slow Down ({} {})", self.verb(), self.key());
        let error = Error::Generic { store: "model", source: text.into() };
        match self {
            Self::Put { .. } => Reply::Put(Err(error)),
            Self::Get { .. } => Reply::Get(Err(error)),
            Self::Delete { .. } => Reply::Delete(Err(error)),
            Self::List { .. } => Reply::List(Err(error)),
        }
    }
}

pub fn stored() -> Reply {
    Reply::Put(Ok(PutResult { e_tag: None, version: None }))
}

pub fn exists(key: &str) -> Reply {
    Reply::Put(Err(Error::AlreadyExists { path: key.to_owned(), source: "it exists".into() }))
}

pub fn missing(key: &str) -> Reply {
    Reply::Get(Err(Error::NotFound { path: key.to_owned(), source: "it is not there".into() }))
}

pub fn meta(key: &str, bytes: &Bytes, modified: DateTime<Utc>) -> ObjectMeta {
    let (location, size) = (Path::from(key), bytes.len() as u64);
    ObjectMeta { location, last_modified: modified, size, e_tag: None, version: None }
}

pub fn found(key: &str, bytes: Bytes, modified: DateTime<Utc>, options: &GetOptions) -> Reply {
    let meta = meta(key, &bytes, modified);
    let range = match &options.range {
        None => 0..meta.size,
        Some(range) => match range.as_range(meta.size) {
            Ok(range) => range,
            Err(cause) => {
                return Reply::Get(Err(Error::Generic { store: "model", source: Box::new(cause) }));
            }
        },
    };
    let piece = bytes.slice(range.start as usize..range.end as usize);
    let payload = GetResultPayload::Stream(futures::stream::iter([Ok(piece)]).boxed());
    Reply::Get(Ok(GetResult { payload, meta, range, attributes: Default::default() }))
}

/// The JSON object at `key` with a change, where it is in `folder` and is changed.
pub fn edited(
    bytes: &Bytes,
    key: &str,
    folder: &str,
    edit: impl FnOnce(&mut Map<String, Value>) -> bool,
) -> Bytes {
    if !key.starts_with(folder) {
        return bytes.clone();
    }
    let parsed = serde_json::from_slice(bytes);
    if let Ok(Value::Object(mut object)) = parsed
        && edit(&mut object)
    {
        return Value::Object(object).to_string().into();
    }
    bytes.clone()
}
