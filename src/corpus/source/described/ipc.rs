//! Looks over an Arrow IPC file before DataFusion reads it: its reader takes every length in it at its word, also those
//! that packed buffers claim to unpack to.
//!
//! Format: <https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format>.

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::FileDecoder;
use arrow::ipc::{Block, CompressionType, Footer, Message, root_as_footer, root_as_message};
use object_store::ObjectStoreExt;

use super::refusal::too_large;
use super::unpack::{Failed, Packing};
use crate::corpus::source::file::SourceFile;
use crate::error::{Error, Result};
use crate::store::unreadable;

const MAGIC: &[u8; 6] = b"ARROW1";
/// What is before the length of a message.
const ONES: u64 = 0xffff_ffff;
/// Length and magic number at the end.
const TAIL: u64 = 10;

/// A file that is whole.
pub(super) struct Checked {
    pub(super) is_stream: bool,
    /// The names of its columns as it has them.
    pub(super) columns: Vec<String>,
}

/// Checks that whatever a file or a stream of messages claims is in the file, and that what it packs unpacks to at most
/// `room` bytes at once: each batch, and all dictionaries.
///
/// # Errors
/// Input, naming the file, where it is damaged, cut off, or too large.
pub(super) async fn check(file: &SourceFile, room: u64) -> Result<Checked> {
    let is_stream = !read(file, 0..6).await?.starts_with(MAGIC);
    let columns = match is_stream {
        true => check_stream(file, room).await?,
        false => check_file(file, room).await?,
    };
    Ok(Checked { is_stream, columns })
}

/// A stream: messages one after the other, each with its length, its head and its body.
async fn check_stream(file: &SourceFile, room: u64) -> Result<Vec<String>> {
    let size = file.meta.size;
    let wrong = || {
        Error::input(format!(
            "{} is not a complete stream of Arrow messages; write it again",
            file.url
        ))
    };
    let (mut at, mut columns, mut dictionaries) = (0, Vec::new(), 0_u64);
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
        if let Some(message) = message {
            check_unpacked(file, &message, head.end, room, &mut dictionaries).await?;
        }
    }
    Ok(columns)
}

/// Checks what the body of a message unpacks to; it begins at this place of the file.
async fn check_unpacked(
    file: &SourceFile,
    message: &Message<'_>,
    body: u64,
    room: u64,
    dictionaries: &mut u64,
) -> Result<()> {
    let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
    let is_dictionary = dictionary.is_some();
    let batch = dictionary.or_else(|| message.header_as_record_batch());
    let Some((batch, packed)) = batch.and_then(|batch| Some((batch, batch.compression()?))) else {
        return Ok(());
    };
    let is_lz4 = packed.codec() == CompressionType::LZ4_FRAME;
    let buffers = batch.buffers().into_iter().flatten();
    let place = |buffer: &arrow::ipc::Buffer| {
        let start = body.checked_add(u64::try_from(buffer.offset()).ok()?)?;
        let end = start.checked_add(u64::try_from(buffer.length()).ok()?)?;
        (end <= file.meta.size && end - start >= 8).then_some(start..end)
    };
    // Those that are elsewhere are for the reader to refuse.
    let places: Vec<_> = buffers.filter_map(place).collect();
    let lengths: Vec<_> = places.iter().map(|place| place.start..place.start + 8).collect();
    let lengths = file.store.get_ranges(&file.meta.location, &lengths).await;
    let lengths = lengths.map_err(|cause| unreadable(file.url.as_str(), &cause))?;
    let mut sum = 0_u64;
    for (place, length) in places.into_iter().zip(lengths) {
        let length = length.first_chunk().map_or(0, |eight| i64::from_le_bytes(*eight));
        // Less than nothing: it is not packed.
        let Ok(length) = u64::try_from(length) else { continue };
        sum = sum.saturating_add(length);
        let packed = place.end - place.start;
        if is_lz4 && packed.saturating_mul(255) > room && sum <= room {
            let bytes = read(file, place.start + 8..place.end).await?;
            if Packing::Lz4Frame.check(&bytes, room) == Err(Failed::Large) {
                sum = sum.max(room + 1);
            }
        }
    }
    if is_dictionary {
        *dictionaries = dictionaries.saturating_add(sum);
        sum = *dictionaries;
    }
    match sum > room {
        true => Err(too_large(file.url.as_str(), sum)),
        false => Ok(()),
    }
}

fn names(schema: arrow::ipc::Schema<'_>) -> Vec<String> {
    let fields = schema.fields().into_iter().flatten();
    fields.filter_map(|field| field.name()).map(str::to_owned).collect()
}

fn le(four: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// A file: every block that the footer names is in it, and so does every message.
async fn check_file(file: &SourceFile, room: u64) -> Result<Vec<String>> {
    let size = file.meta.size;
    let wrong = |what: &str| {
        Error::input(format!(
            "{} is not a complete Arrow IPC file: {what}; write it again",
            file.url
        ))
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
    let mut unpacked = 0;
    for block in dictionaries.iter().chain(batches) {
        let lies_in = || {
            let (start, head) = (block.offset(), block.metaDataLength());
            let start = u64::try_from(start).ok().filter(|start| *start >= 8)?;
            let head = u64::try_from(head).ok().filter(|head| *head >= 8)?;
            let body = u64::try_from(block.bodyLength()).ok()?;
            let end = start.checked_add(head)?.checked_add(body)?;
            (end <= at).then_some((start, head))
        };
        let (start, head) = lies_in().ok_or_else(|| wrong("a block is outside of it"))?;
        let prefix = read(file, start..start + 8).await?;
        let (first, second) = prefix.split_at(4);
        // Since Arrow 0.15 the length stands after four bytes of ones.
        let length = if le(first) == ONES { le(second) + 8 } else { le(first) + 4 };
        if length > head {
            return Err(wrong("a message is longer than its block"));
        }
        let begin = if le(first) == ONES { start + 8 } else { start + 4 };
        let message = read(file, begin..start + length.max(begin - start)).await?;
        if let Ok(message) = root_as_message(&message) {
            check_unpacked(file, &message, start + head, room, &mut unpacked).await?;
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
    let bytes = file.store.get_range(&file.meta.location, range).await;
    bytes.map_err(|cause| unreadable(file.url.as_str(), &cause))
}
