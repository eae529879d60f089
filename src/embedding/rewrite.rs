//! A part without some of its rows: for notes that must be forgotten. Vectors are copied, not computed.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;

use super::columns::TextColumns;
use super::object::{Without, altered, open};
use super::read::begin;
use super::write::{Finished, cuts, properties, store};
use super::{PartReceipt, RECEIPT_VERSION};
use crate::error::{ErrorKind, Result, ResultExt, shielded_async};
use crate::store::{FileRef, Root, parquet_error};
use crate::types::{Digest256, Hasher256, NoteId, TextHash};

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Keep,
    /// It goes.
    Drop,
    /// It stays, and from now on says that it was encoded for this note.
    For(NoteId),
}

/// What a rewrite made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The new part; `None` where no row stayed.
    pub part: Option<PartReceipt>,
    /// New row of each old row; `None` where it was dropped.
    pub rows: Vec<Option<u32>>,
}

/// Writes a copy of `old` whose rows had the fate that `fate` decides from (tagged note id, text hash), and its
/// receipt. `old` itself stays where it is. Doing it again finds what was done. Memory: a batch of rows.
///
/// # Errors
/// NotFound; Corrupt where the part is not what its receipt says.
pub async fn rewrite_part(
    root: &Root,
    old: &PartReceipt,
    fate: &(dyn Fn(&str, &TextHash) -> Fate + Sync),
) -> Result<Rewritten> {
    let what = || format!("part file {}", old.file.path);
    shielded_async(ErrorKind::Corrupt, what, rewrite(root, old, fate)).await
}

async fn rewrite(
    root: &Root,
    old: &PartReceipt,
    fate: &(dyn Fn(&str, &TextHash) -> Fate + Sync),
) -> Result<Rewritten> {
    let key = old.file.path.as_str();
    let opened = Box::pin(open(root, old, Without::HashAll)).await?;
    let builder = Box::pin(begin(opened, key)).await?;
    let schema = Arc::clone(builder.schema());
    let entries = builder.metadata().file_metadata().key_value_metadata().cloned();
    // The writer adds the Arrow schema itself.
    let entries = entries.unwrap_or_default().into_iter().filter(|e| e.key != "ARROW:schema");
    let full = || "writing a part to the folder for temporary files (TMPDIR)";
    let spooled = tempfile::NamedTempFile::new().or_error(ErrorKind::Resource, full)?;
    let out = std::io::BufWriter::new(spooled.as_file());
    let properties = properties(old.dimensions, old.vector_type, entries.collect())?;
    let mut writer =
        ArrowWriter::try_new(out, schema, Some(properties)).or_error(ErrorKind::Resource, full)?;
    let failed = |cause| parquet_error(format!("reading part file {key}"), cause);
    let mut stream = builder.with_batch_size(1024).build().map_err(failed)?;
    let (mut rows, mut kept, mut tokens) = (Vec::new(), 0u32, 0u64);
    let mut identity = Hasher256::new();
    identity.field(&old.space.0).field("rewritten").field(old.file.sha256.0);
    while let Some(batch) = stream.try_next().await.map_err(failed)? {
        let (batch, keep) = decide(&batch, key, fate)?;
        for stays in keep.values().iter() {
            rows.push(stays.then_some(kept));
            kept += u32::from(stays);
        }
        let batch = filter_record_batch(&batch, &keep).context(|| "leaving rows out of a part")?;
        let columns = TextColumns::of(&batch, key)?;
        for row in 0..columns.len() {
            identity.field(columns.note(row)).raw(columns.hash(row).0);
            tokens += u64::from(columns.tokens(row));
        }
        writer.write(&batch).or_error(ErrorKind::Resource, full)?;
    }
    if rows.len() as u64 != old.rows {
        return Err(altered(key, format_args!("has not the {} rows of its receipt", old.rows)));
    }
    let cuts = cuts(&writer.close().or_error(ErrorKind::Resource, full)?);
    if kept == 0 {
        return Ok(Rewritten { part: None, rows });
    }
    let receipt = PartReceipt {
        version: RECEIPT_VERSION,
        space: old.space.clone(),
        shard: old.shard,
        part: identity.finish().short(),
        // Filled in when the file is stored.
        file: FileRef { path: String::new(), size: 0, sha256: Digest256([0; 32]) },
        rows: u64::from(kept),
        tokens,
        vector_type: old.vector_type,
        dimensions: old.dimensions,
        pieces: None,
    };
    let part = store(root, Finished { receipt, file: spooled, cuts }).await?;
    Ok(Rewritten { part: Some(part), rows })
}

/// The batch with its note ids changed, and which of its rows stay.
fn decide(
    batch: &RecordBatch,
    key: &str,
    fate: &(dyn Fn(&str, &TextHash) -> Fate + Sync),
) -> Result<(RecordBatch, BooleanArray)> {
    let columns = TextColumns::of(batch, key)?;
    let mut keep = Vec::with_capacity(columns.len());
    let mut notes: Vec<String> = Vec::with_capacity(columns.len());
    for row in 0..columns.len() {
        let note = columns.note(row);
        let fate = fate(note, &columns.hash(row));
        keep.push(fate != Fate::Drop);
        notes.push(match fate {
            Fate::For(other) => other.to_string(),
            _ => note.to_owned(),
        });
    }
    let mut all = batch.columns().to_vec();
    let renamed = batch.schema().index_of("note_id").and_then(|at| {
        all[at] = Arc::new(StringArray::from(notes));
        RecordBatch::try_new(batch.schema(), all)
    });
    let renamed =
        renamed.or_error(ErrorKind::Corrupt, || format!("changing note ids of part file {key}"))?;
    Ok((renamed, BooleanArray::from(keep)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::{EncodedText, list_parts, read_text_hashes, read_vectors, write_part};
    use crate::types::{EmbeddingSpace, Embeddings, VectorType};

    fn space() -> EmbeddingSpace {
        EmbeddingSpace { dimensions: 4, ..crate::types::space() }
    }

    #[tokio::test]
    async fn rows_go_vectors_stay_and_doing_it_again_changes_nothing() {
        let root = Root::in_memory();
        let texts: Vec<EncodedText> = (0..3000i64)
            .map(|id| EncodedText {
                text_hash: Digest256::of(&id.to_le_bytes()),
                note_id: NoteId::Int(id),
                token_count: 2,
                truncated: id % 2 == 0,
            })
            .collect();
        let mut vectors = Embeddings::with_capacity(4, texts.len());
        (0..texts.len()).for_each(|at| vectors.push(&[at as f32, 1.0, 2.0, 3.0]));
        let (space, no) = (space(), serde_json::json!({}));
        for vector_type in [VectorType::F32, VectorType::F16] {
            let texts = match vector_type {
                VectorType::F32 => &texts[..],
                VectorType::F16 => &texts[1..2048],
            };
            let mut some = Embeddings::with_capacity(4, texts.len());
            texts.iter().for_each(|text| match text.note_id {
                NoteId::Int(id) => some.push(vectors.row(id as usize)),
                NoteId::Str(_) => unreachable!(),
            });
            let old = write_part(&root, &space, 3, vector_type, texts, &some, &no).await.unwrap();
            let fate = |note: &str, _: &TextHash| match note {
                "i:7" | "i:1500" => Fate::Drop,
                "i:8" => Fate::For(NoteId::Str("other".into())),
                _ => Fate::Keep,
            };
            let new = rewrite_part(&root, &old, &fate).await.unwrap();
            let part = new.part.clone().unwrap();
            assert_eq!(part.rows, old.rows - 2);
            assert_eq!(part.tokens, old.tokens - 4);
            assert_eq!(new, rewrite_part(&root, &old, &fate).await.unwrap());
            let hashes = read_text_hashes(&root, &part).await.unwrap();
            let first = usize::from(vector_type == VectorType::F16);
            for (row, to) in new.rows.iter().enumerate() {
                let id = row + first;
                let Some(to) = to else {
                    assert!(id == 7 || id == 1500, "{id}");
                    continue;
                };
                assert_eq!(hashes[*to as usize], texts[row].text_hash);
            }
            let last = read_vectors(&root, &part.file.path, &[part.rows as u32 - 1]).await.unwrap();
            assert_eq!(last.row(0), some.row(some.len() - 1));
            assert!(list_parts(&root, &old.space, Some(3)).await.unwrap().contains(&part));
            let bytes = root.get(&part.file.path).await.unwrap();
            let has = |word: &[u8]| bytes.windows(word.len()).any(|at| at == word);
            assert!(has(b"scalingnote.embedding_space") && !has(b"i:1500"));
        }
    }

    #[tokio::test]
    async fn a_part_of_nothing_but_the_note_is_not_replaced() {
        let root = Root::in_memory();
        let text = EncodedText {
            text_hash: Digest256::of(b"x"),
            note_id: NoteId::Int(1),
            token_count: 1,
            truncated: false,
        };
        let vectors = Embeddings::from_vec(4, vec![1.0; 4]).unwrap();
        let no = serde_json::json!({});
        let old =
            write_part(&root, &space(), 0, VectorType::F32, &[text], &vectors, &no).await.unwrap();
        let gone = rewrite_part(&root, &old, &|_, _| Fate::Drop).await.unwrap();
        assert_eq!(gone, Rewritten { part: None, rows: vec![None] });
        // The same text for another note: another part, although its texts are the same.
        let other = |_: &str, _: &TextHash| Fate::For(NoteId::Int(2));
        let renamed = rewrite_part(&root, &old, &other).await.unwrap().part.unwrap();
        assert_ne!((&renamed.part, &renamed.file.path), (&old.part, &old.file.path));
    }
}
