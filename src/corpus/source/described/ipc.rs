//! Looks over an Arrow IPC file before DataFusion reads it: its reader takes every length in it at its word.
//!
//! Format: <https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format>.

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::FileDecoder;
use arrow::ipc::{Block, Footer, root_as_footer, root_as_message};
use object_store::ObjectStoreExt;

use crate::corpus::session::kind_of_store;
use crate::corpus::source::file::SourceFile;
use crate::error::{Error, Result};

const MAGIC: &[u8; 6] = b"ARROW1";
/// What stands before the length of a message.
const ONES: u64 = 0xffff_ffff;
/// Length and magic number at the end.
const TAIL: u64 = 10;

/// A file that is whole.
pub(super) struct Checked {
    pub(super) is_stream: bool,
    /// The names of its columns as it has them.
    pub(super) columns: Vec<String>,
}

/// Checks that whatever a file or a stream of messages claims lies in the file.
///
/// # Errors
/// Input, naming the file, where it is damaged or cut off.
pub(super) async fn check(file: &SourceFile) -> Result<Checked> {
    let is_stream = !read(file, 0..6).await?.starts_with(MAGIC);
    let columns = match is_stream {
        true => check_stream(file).await?,
        false => check_file(file).await?,
    };
    Ok(Checked { is_stream, columns })
}

/// A stream: messages one after the other, each with its length, its head and its body.
async fn check_stream(file: &SourceFile) -> Result<Vec<String>> {
    let size = file.meta.size;
    let wrong = || {
        Error::input(format!("{} is no whole stream of Arrow messages; write it again", file.url))
    };
    let (mut at, mut columns) = (0, Vec::new());
    while at < size {
        if size - at < 8 {
            return Err(wrong());
        }
        let prefix = read(file, at..at + 8).await?;
        let length = match le(&prefix[..4]) {
            ONES => le(&prefix[4..]),
            // Before Arrow 0.15 there were no ones; nobody writes that any more.
            _ => return Err(wrong()),
        };
        if length == 0 {
            return Ok(columns);
        }
        let head = at + 8..at + 8 + length;
        if head.end > size {
            return Err(wrong());
        }
        let bytes = read(file, head.clone()).await?;
        let message = root_as_message(&bytes).ok();
        if let Some(schema) = message.and_then(|message| message.header_as_schema()) {
            columns = names(schema);
        }
        let body = message.and_then(|message| u64::try_from(message.bodyLength()).ok());
        at = body
            .and_then(|body| head.end.checked_add(body))
            .filter(|end| *end <= size)
            .ok_or_else(wrong)?;
    }
    Ok(columns)
}

fn names(schema: arrow::ipc::Schema<'_>) -> Vec<String> {
    let fields = schema.fields().into_iter().flatten();
    fields.filter_map(|field| field.name()).map(str::to_owned).collect()
}

fn le(four: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// A file: every block that the footer names lies in it, and so does every message.
async fn check_file(file: &SourceFile) -> Result<Vec<String>> {
    let size = file.meta.size;
    let wrong = |what: &str| {
        Error::input(format!("{} is no whole Arrow IPC file: {what}; write it again", file.url))
    };
    if size < 8 + TAIL {
        return Err(wrong("it is too short"));
    }
    let start = read(file, 0..8).await?;
    let end = read(file, size - TAIL..size).await?;
    let first = read(file, 8..16).await?;
    let first = u32::from_le_bytes([first[4], first[5], first[6], first[7]]);
    if u64::from(first) > size {
        return Err(wrong("its first message is longer than the file"));
    }
    if !start.starts_with(MAGIC) || !end.ends_with(MAGIC) {
        return Err(wrong("it does not begin and end with `ARROW1`"));
    }
    let footer = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let at = (size - TAIL)
        .checked_sub(footer)
        .filter(|at| *at >= 8)
        .ok_or_else(|| wrong("its footer is longer than the file"))?;
    let footer = read(file, at..size - TAIL).await?;
    let footer = root_as_footer(&footer).map_err(|_| wrong("its footer is damaged"))?;
    let dictionaries: Vec<Block> = footer.dictionaries().into_iter().flatten().copied().collect();
    let batches = footer.recordBatches().ok_or_else(|| wrong("its footer names no batches"))?;
    for block in dictionaries.iter().chain(batches) {
        let lies_in = || {
            let (start, head) = (block.offset(), block.metaDataLength());
            let start = u64::try_from(start).ok().filter(|start| *start >= 8)?;
            let head = u64::try_from(head).ok().filter(|head| *head >= 8)?;
            let body = u64::try_from(block.bodyLength()).ok()?;
            let end = start.checked_add(head)?.checked_add(body)?;
            (end <= at).then_some((start, head))
        };
        let (start, head) = lies_in().ok_or_else(|| wrong("a block lies outside of it"))?;
        let prefix = read(file, start..start + 8).await?;
        let (first, second) = prefix.split_at(4);
        // Since Arrow 0.15 the length stands after four bytes of ones.
        let length = if le(first) == ONES { le(second) + 8 } else { le(first) + 4 };
        if length > head {
            return Err(wrong("a message is longer than its block"));
        }
    }
    // Where the file cannot be opened as one, DataFusion tries it as a stream and takes `ARROW1` for a length.
    open_as_file(file, &footer, &dictionaries).await.map_err(|_| wrong("its footer is damaged"))?;
    Ok(footer.schema().map(names).unwrap_or_default())
}

/// What a reader of files does first: the schema, then every dictionary.
async fn open_as_file(
    file: &SourceFile,
    footer: &Footer<'_>,
    dictionaries: &[Block],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let schema = footer.schema().ok_or("no schema")?;
    if !schema.endianness().equals_to_target_endianness() {
        return Err("the other byte order".into());
    }
    let mut decoder = FileDecoder::new(Arc::new(fb_to_schema(schema)), footer.version());
    for block in dictionaries {
        let start = u64::try_from(block.offset())?;
        let size = u64::try_from(block.metaDataLength())? + u64::try_from(block.bodyLength())?;
        let bytes = read(file, start..start + size).await?;
        decoder.read_dictionary(block, &Buffer::from(bytes))?;
    }
    Ok(())
}

async fn read(file: &SourceFile, range: std::ops::Range<u64>) -> Result<bytes::Bytes> {
    file.store.get_range(&file.meta.location, range).await.map_err(|cause| {
        Error::new(kind_of_store(&cause), format!("{} cannot be read", file.url)).with_source(cause)
    })
}
