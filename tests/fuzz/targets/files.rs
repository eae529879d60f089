//! Rows as files of every format.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use parquet::arrow::ArrowWriter;

/// What ends the header and every block of an Avro container.
pub const AVRO_SYNC: [u8; 16] = [7; 16];

pub fn csv(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    arrow::csv::Writer::new(&mut out).write(batch).unwrap();
    out
}

pub fn jsonl(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut out);
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    out
}

pub fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    out
}

pub fn ipc(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = arrow::ipc::writer::FileWriter::try_new(&mut out, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    out
}

/// The stream format, in which messages stand one after the other.
pub fn ipc_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut out, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    out
}

/// A whole number as Avro has it.
pub fn avro_long(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag > 0x7f {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// Bytes or a text as Avro has them.
pub fn avro_bytes(value: &[u8], out: &mut Vec<u8>) {
    avro_long(value.len() as i64, out);
    out.extend(value);
}

/// What an Avro container of notes starts with.
pub fn avro_header(fields: &[serde_json::Value], codec: &str) -> Vec<u8> {
    let schema = serde_json::json!({"type": "record", "name": "note", "fields": fields});
    let mut out = b"Obj\x01".to_vec();
    avro_long(2, &mut out);
    for (key, value) in [("avro.schema", schema.to_string()), ("avro.codec", codec.to_owned())] {
        avro_bytes(key.as_bytes(), &mut out);
        avro_bytes(value.as_bytes(), &mut out);
    }
    avro_long(0, &mut out);
    out.extend(AVRO_SYNC);
    out
}

/// An Avro container written by the book, not by the library that reads it: optional longs and strings.
pub fn avro(batch: &RecordBatch) -> Vec<u8> {
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|field| {
        let of = if *field.data_type() == DataType::Int64 { "long" } else { "string" };
        serde_json::json!({"name": field.name(), "type": ["null", of]})
    });
    let mut out = avro_header(&fields.collect::<Vec<_>>(), "null");
    let mut block = Vec::new();
    for row in 0..batch.num_rows() {
        for column in batch.columns() {
            avro_long(i64::from(column.is_valid(row)), &mut block);
            match column.data_type() {
                _ if column.is_null(row) => {}
                DataType::Int64 => {
                    avro_long(column.as_primitive::<Int64Type>().value(row), &mut block);
                }
                _ => avro_bytes(column.as_string::<i32>().value(row).as_bytes(), &mut block),
            }
        }
    }
    if batch.num_rows() > 0 {
        avro_long(batch.num_rows() as i64, &mut out);
        avro_bytes(&block, &mut out);
        out.extend(AVRO_SYNC);
    }
    out
}
