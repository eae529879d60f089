//! Small files that describe themselves and stand for much: what one of them may take is bounded by the memory limit,
//! not by its rows. Each is read by a process of its own, which says how much memory it took at most.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Int8Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StringViewBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArrayType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::Corpus;
use crate::house::hostile::targets::files::{AVRO_SYNC, avro_bytes, avro_header, avro_long};

/// The memory limit leaves 16 MiB for a batch.
const LIMIT_MIB: u64 = 64;
/// What a process may take in all, in MiB.
const MOST: u64 = 220;
const PEAK: &str = "peak MiB: ";

/// Ids 0 and 1, in turns.
fn ids(rows: usize) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|id| id % 2)))
}

fn notes(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let id = ids(columns[0].1.len());
    RecordBatch::try_from_iter([("id", id)].into_iter().chain(columns)).unwrap()
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// So many rows with one text, in a dictionary.
fn alike(rows: usize, bytes: usize) -> ArrayRef {
    let values = Arc::new(StringArray::from(vec![text(bytes)]));
    let keys = Int32Array::from(vec![0; rows]);
    Arc::new(DictionaryArray::<Int32Type>::try_new(keys, values).unwrap())
}

fn viewed(rows: usize, bytes: usize) -> ArrayRef {
    let mut builder = StringViewBuilder::new();
    let block = builder.append_block(text(bytes).into_bytes().into());
    for _ in 0..rows {
        builder.try_append_view(block, 0, bytes as u32).unwrap();
    }
    Arc::new(builder.finish())
}

/// 2,048 long texts among short ones, at every so many rows.
fn long_texts(every: usize) -> RecordBatch {
    let (short, long) = (text(1), text(MIB / 64));
    let is_long = |row: &usize| row.is_multiple_of(every) && row / every < 2_048;
    let texts = (0..100_000).map(|row| if is_long(&row) { &long } else { &short });
    notes(vec![("title", Arc::new(StringArray::from_iter_values(texts)))])
}

fn texts(rows: usize, bytes: usize) -> ArrayRef {
    Arc::new(StringArray::from(vec![text(bytes); rows]))
}

fn zstd() -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(1).unwrap();
    WriterProperties::builder().set_compression(Compression::ZSTD(level))
}

fn parquet(batch: RecordBatch, by: WriterPropertiesBuilder) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(by.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

/// A column of a megabyte a value, all of which are null.
fn wide_nulls() -> Vec<u8> {
    let schema = "message m { required int64 id; required binary title (UTF8);
        optional fixed_len_byte_array(1000000) wide; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let ids: Vec<i64> = (0..4_000).map(|id| id % 2).collect();
    let titles = vec![ByteArray::from("a title"); ids.len()];
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&titles, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let levels = vec![0; ids.len()];
    column.typed::<FixedLenByteArrayType>().write_batch(&[], Some(&levels), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    out
}

/// A note with a list of so many nulls.
fn long_list(members: usize) -> RecordBatch {
    let item = Arc::new(Field::new_list_field(DataType::Int8, true));
    let values = Arc::new(Int8Array::new_null(members));
    let list = ListArray::new(item, OffsetBuffer::from_lengths([members]), values, None);
    notes(vec![("title", texts(1, 3)), ("list", Arc::new(list))])
}

fn arrow(batch: &RecordBatch, packed: Option<CompressionType>, is_stream: bool) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(packed).unwrap();
    let (mut out, schema) = (Vec::new(), batch.schema());
    if is_stream {
        let mut writer = StreamWriter::try_new_with_options(&mut out, &schema, options).unwrap();
        writer.write(batch).unwrap();
        writer.finish().unwrap();
    } else {
        let mut writer = FileWriter::try_new_with_options(&mut out, &schema, options).unwrap();
        writer.write(batch).unwrap();
        writer.finish().unwrap();
    }
    out
}

/// A packed buffer that claims to be a petabyte.
fn absurd() -> Vec<u8> {
    let batch = notes(vec![("title", texts(1, 54_321))]);
    let mut file = arrow(&batch, Some(CompressionType::ZSTD), false);
    let length = 54_321_u64.to_le_bytes();
    // The offsets in front of the text have the same number in them.
    let at = file.windows(8).rposition(|eight| eight == length).unwrap();
    file[at..at + 8].copy_from_slice(&(1_u64 << 50).to_le_bytes());
    file
}

/// A container of blocks with a row each, whose list is as long as it says.
fn avro(rows: usize, bytes: usize, nulls: i64) -> Vec<u8> {
    let list = serde_json::json!({"type": "array", "items": "null"});
    let field = |name: &str, of| serde_json::json!({"name": name, "type": of});
    let fields = [field("id", "long".into()), field("title", "string".into()), field("list", list)];
    let mut out = avro_header(&fields, "zstandard");
    let text = text(bytes);
    for row in 0..rows {
        let mut block = Vec::new();
        avro_long(row as i64 % 2, &mut block);
        avro_bytes(text.as_bytes(), &mut block);
        if nulls > 0 {
            avro_long(nulls, &mut block);
        }
        avro_long(0, &mut block);
        avro_long(1, &mut out);
        avro_bytes(&zstd_of(&block), &mut out);
        out.extend(AVRO_SYNC);
    }
    out
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

const MIB: usize = 1 << 20;

/// Each file, and whether its notes can be read.
fn bombs() -> Vec<(&'static str, Vec<u8>, bool)> {
    let plain = || zstd().set_dictionary_enabled(false);
    let delta = plain().set_column_encoding("title".into(), Encoding::DELTA_BYTE_ARRAY);
    let (packed, lz4) = (Some(CompressionType::ZSTD), Some(CompressionType::LZ4_FRAME));
    let huge = notes(vec![("title", texts(1, 150 * MIB))]);
    let dictionary = notes(vec![("title", alike(4_000, MIB / 4))]);
    let fewer = notes(vec![("title", alike(1_000, MIB / 4))]);
    let views = notes(vec![("title", viewed(1_000, MIB / 4))]);
    let rows = notes(vec![("title", texts(300, MIB))]);
    vec![
        ("page.parquet", parquet(huge.clone(), plain()), false),
        ("dictionary.parquet", parquet(dictionary.clone(), zstd()), true),
        ("delta.parquet", parquet(dictionary, delta.clone()), true),
        // Half a kB a row, but for some neighbours.
        ("skewed.parquet", parquet(long_texts(1), zstd()), false),
        ("skewed-delta.parquet", parquet(long_texts(1), delta), false),
        ("spread.parquet", parquet(long_texts(40), zstd()), true),
        ("list.parquet", parquet(long_list(20_000_000), zstd()), false),
        ("nulls.parquet", wide_nulls(), true),
        // A page a row.
        ("rows.parquet", parquet(rows.clone(), plain().set_write_batch_size(1)), true),
        ("buffer.arrow", arrow(&huge, packed, false), false),
        ("buffer-stream.arrow", arrow(&huge, packed, true), false),
        ("buffer-lz4.arrow", arrow(&huge, lz4, false), false),
        ("absurd.arrow", absurd(), false),
        ("dictionary.arrow", arrow(&fewer, None, false), true),
        ("views.arrow", arrow(&views, None, true), true),
        ("block.avro", avro(1, 150 * MIB, 0), false),
        ("list.avro", avro(1, 1, 1 << 40), false),
        ("rows.avro", avro(300, MIB, 0), true),
    ]
}

#[test]
fn a_small_file_takes_no_more_memory_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (name, bytes, is_readable) in bombs() {
        assert!(bytes.len() < 4 * MIB, "{name} has {} bytes", bytes.len());
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["corpus::bombs::child", "--exact", "--nocapture", "--test-threads=1"])
            .env("SCALINGNOTE_BOMB", &path)
            .env("MALLOC_ARENA_MAX", "2")
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let peak = said.split(PEAK).nth(1).and_then(|peak| peak.split_whitespace().next());
        let peak: Option<u64> = peak.and_then(|peak| peak.parse().ok());
        let is_small = peak.is_some_and(|peak| peak < MOST);
        let parts = match is_readable {
            true => vec!["notes: 2"],
            false => vec![name, "MiB of memory at once", "corpus.memory_limit_mib"],
        };
        let is_told = parts.iter().all(|part| said.contains(part));
        println!("{name}: {peak:?} MiB at most");
        if !output.status.success() || !is_small || !is_told {
            failures.push(format!("{name}: {peak:?} MiB, {}\n{said}", output.status));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n---\n"));
}

/// The process that reads; without its environment it is not a test.
#[test]
fn child() {
    let Ok(path) = std::env::var("SCALINGNOTE_BOMB") else { return };
    let path = Path::new(&path);
    // A machine should not go down with it.
    let most = libc::rlimit { rlim_cur: 6 << 30, rlim_max: 6 << 30 };
    // SAFETY: `most` lives through the call, which only reads it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &most) }, 0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let sql = "SELECT id AS note_id, max(title) AS title FROM notes GROUP BY id";
    let sql = match name.split('.').next() {
        Some("list") => {
            "SELECT id AS note_id, title FROM notes WHERE array_length(list) > 0".to_owned()
        }
        Some("nulls") => sql.replace(" GROUP", " WHERE wide IS NULL GROUP"),
        _ => sql.to_owned(),
    };
    let mut corpus = Corpus::new(path.to_str().unwrap(), &sql);
    corpus.options.memory_limit_mib = LIMIT_MIB;
    match runtime.block_on(corpus.prepare()) {
        Ok(outcome) => println!("notes: {}", outcome.rows_read),
        Err(error) => println!("{error}"),
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("{PEAK}{}", kib / 1024);
}

/// Pages that a condition rules out are not fetched, and those that are left are weighed one by one.
#[tokio::test]
async fn pages_of_a_column_are_read_alone() {
    let rows = 20_000;
    let titles = StringArray::from_iter_values((0..rows).map(|row| format!("title {}", row % 7)));
    let ids = Int64Array::from_iter_values(0..rows);
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(ids) as ArrayRef),
        ("title", Arc::new(titles) as ArrayRef),
    ]);
    let small = zstd().set_data_page_row_count_limit(100).set_write_batch_size(100);
    let file = parquet(batch.unwrap(), small);
    let sql = "SELECT id AS note_id, title FROM notes WHERE id IN (7, 12345) OR id > 19998";
    let corpus = Corpus::new("notes.parquet", sql).write("notes.parquet", &file);
    let found = corpus.texts().await;
    let expected = [(7, 0), (12_345, 12_345 % 7), (19_999, 19_999 % 7)];
    let expected = expected.map(|(id, title)| (format!("i:{id}"), format!("title {title}")));
    assert_eq!(found.len(), 3);
    assert!(expected.iter().all(|note| found.contains(note)), "{found:?}");
}
