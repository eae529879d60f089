//! A student made small enough to be shipped: matrices of few bits, a table without the tokens nobody types, and its
//! tokenizer named by hash instead of copied.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};

use candle_core::Device;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::{PACKED_KEY, Packed};
use crate::train::files::{Stored, cannot, read_small, serialize, write};
use crate::train::tensors::{half_bytes, numbers};
use crate::types::Digest256;

const MODULES: &str = "modules.json";
const TABLES: [&str; 2] = ["embeddings.word_embeddings.weight", "model.embed_tokens.weight"];

/// How small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOptions {
    /// Bits of an element of the layers' matrices, 2 to 8.
    pub bits: u32,
    /// Bits of an element of the embedding table.
    pub table_bits: u32,
    /// Elements that share a scale.
    pub group: usize,
    /// Where the tokenizer comes from, for the message where it is missing.
    pub tokenizer_from: Option<String>,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { bits: 8, table_bits: 5, group: 64, tokenizer_from: None }
    }
}

/// A tokenizer's vocabulary, for choosing which rows of the table stay.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// Number of the unknown token.
    pub unknown: usize,
    /// Tokens that stay whatever the texts say: those that were added (they mark beginnings and ends) and the ASCII
    /// characters.
    always: Vec<usize>,
    size: usize,
}

impl Vocabulary {
    /// Reads a `tokenizer.json` that knows an unknown token.
    ///
    /// # Errors
    /// Input for another kind of tokenizer: only one with an unknown token has a row for what is left out.
    pub fn read(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let bytes = read_small(path)?;
        let definition: Value = serde_json::from_slice(&bytes).or_error(ErrorKind::Input, named)?;
        let vocab = definition["model"]["vocab"].as_object();
        let unknown = definition["model"]["unk_token"].as_str();
        let (Some(vocab), Some(unknown)) = (vocab, unknown) else {
            return Err(Error::input(
                "its tokenizer has no unknown token, so every token's row is needed; keep them all",
            )
            .context(named()));
        };
        let number = |value: &Value| value.as_u64().and_then(|id| usize::try_from(id).ok());
        let missing =
            || Error::input(format!("the unknown token {unknown} is not in the vocabulary"));
        let unknown = vocab.get(unknown).and_then(number).ok_or_else(missing)?;
        let character = |token: &str| {
            let bare = token.strip_prefix("##").unwrap_or(token);
            bare.len() == 1 && bare.is_ascii()
        };
        let characters =
            vocab.iter().filter(|(token, _)| character(token)).filter_map(|(_, id)| number(id));
        let added = definition["added_tokens"].as_array().into_iter().flatten();
        let added = added.filter_map(|token| number(&token["id"]));
        let always = characters.chain(added).chain([unknown]).collect();
        let size = vocab.values().filter_map(number).max().map_or(0, |largest| largest + 1);
        Ok(Self { unknown, always, size })
    }

    /// Which tokens stay: the most frequent ones of `counts` (by token number), `tokens` in all with those that always
    /// stay. Also gives the share of the counted tokens that stay.
    pub fn keep(&self, counts: &[u64], tokens: usize) -> (Vec<bool>, f64) {
        let mut keep = vec![false; self.size.max(counts.len())];
        for id in self.always.iter().filter(|id| **id < self.size) {
            keep[*id] = true;
        }
        let mut left = tokens.saturating_sub(keep.iter().filter(|keep| **keep).count());
        let mut by_count: Vec<usize> = (0..counts.len()).filter(|id| counts[*id] > 0).collect();
        by_count.sort_unstable_by_key(|id| (std::cmp::Reverse(counts[*id]), *id));
        for id in by_count {
            if left == 0 {
                break;
            }
            left -= usize::from(!keep[id]);
            keep[id] = true;
        }
        let total: u64 = counts.iter().sum();
        let kept: u64 = counts.iter().zip(&keep).filter(|(_, k)| **k).map(|(count, _)| count).sum();
        (keep, kept as f64 / total.max(1) as f64)
    }
}

/// Packs the student in `source` (what [`distill`](fn@super::distill) wrote) into `target`: `model.safetensors` and
/// `config.json`, which names the tokenizer by its SHA-256; the tokenizer is not copied. `keep` says which rows of the
/// table stay, and the number of the row that the others read as. Gives the bytes written.
///
/// # Errors
/// NotFound or Input about the source; Config for bits out of range; Resource about the target.
pub fn pack_student(
    source: &Path,
    target: &Path,
    options: &PackOptions,
    keep: Option<(&[bool], usize)>,
    tokenizer: &Path,
) -> Result<u64> {
    if !(2..=8).contains(&options.bits)
        || !(2..=8).contains(&options.table_bits)
        || options.group == 0
    {
        return Err(Error::config("bits must be in 2..=8 and a group must not be empty"));
    }
    let weights = source.join("model.safetensors");
    let named = || weights.display().to_string();
    let tensors = candle_core::safetensors::load(&weights, &Device::Cpu)
        .map_err(|e| Error::input(format!("cannot read {}: {e}", weights.display())))?;
    let mut packed = BTreeMap::new();
    let mut stored: BTreeMap<String, Stored> = BTreeMap::new();
    for (name, tensor) in &tensors {
        let values = numbers(tensor).context(named)?;
        let [rows, width] = match tensor.dims() {
            [rows, width] if name.ends_with(".weight") => [*rows, *width],
            shape => {
                stored.insert(name.clone(), (Dtype::F16, shape.to_vec(), half_bytes(&values)));
                continue;
            }
        };
        let table = TABLES.contains(&name.as_str());
        // A table may have more rows than the tokenizer has tokens; nobody asks for those.
        let rows_kept = keep.filter(|_| table).map(|(keep, row)| {
            let mut keep = keep.to_vec();
            keep.resize(rows.max(keep.len()), false);
            (keep, row)
        });
        if rows_kept.as_ref().is_some_and(|(keep, _)| keep.len() > rows) {
            return Err(Error::input(format!(
                "the tokenizer has more tokens than the table has {rows} rows"
            )));
        }
        let bits = if table { options.table_bits } else { options.bits };
        let missing = rows_kept.as_ref().map(|(_, row)| *row);
        let description = Packed { shape: [rows, width], bits, group: options.group, missing };
        let parts = description
            .pack(&values, rows_kept.as_ref().map(|(keep, _)| keep.as_slice()))
            .context(|| name.clone())?;
        let count = parts.scales.len() / description.groups();
        stored.insert(name.clone(), (Dtype::U8, vec![count, description.row_bytes()], parts.bits));
        let scales = parts.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let shape = vec![count, description.groups()];
        stored.insert(format!("{name}.scales"), (Dtype::F16, shape, scales));
        if missing.is_some() {
            stored.insert(format!("{name}.kept"), (Dtype::U8, vec![parts.kept.len()], parts.kept));
        }
        packed.insert(name.clone(), description);
    }
    let text = serde_json::to_string(&packed).context(|| "packed weights")?;
    let metadata = HashMap::from([(PACKED_KEY.to_owned(), text)]);
    let data = serialize(&stored, Some(metadata)).context(|| "packed weights")?;
    let io = cannot("write", target);
    std::fs::create_dir_all(target).map_err(io)?;
    let config = config(source, options, tokenizer)?;
    write(&target.join("model.safetensors"), &data)?;
    write(&target.join("config.json"), &config)?;
    Ok((data.len() + config.len()) as u64 + copy_modules(source, target)?)
}

/// Copies what stands behind the pooling of a student that has such modules; gives the bytes written.
fn copy_modules(source: &Path, target: &Path) -> Result<u64> {
    let list = source.join(MODULES);
    if !list.exists() {
        return Ok(0);
    }
    let text = read_small(&list)?;
    let modules: Vec<Value> =
        serde_json::from_slice(&text).or_error(ErrorKind::Input, || list.display().to_string())?;
    let mut written = text.len() as u64;
    let folders = modules.iter().filter_map(|module| module["path"].as_str());
    for folder in folders.filter(|folder| !folder.is_empty()) {
        let mut parts = Path::new(folder).components();
        if !parts.all(|part| matches!(part, Component::Normal(_))) {
            let message = format!("{} names {folder}, which is not in its folder", list.display());
            return Err(Error::input(message));
        }
        let into = target.join(folder);
        std::fs::create_dir_all(&into).map_err(cannot("write", &into))?;
        for name in ["config.json", "model.safetensors"] {
            let (from, to) = (source.join(folder).join(name), into.join(name));
            if from.exists() {
                written += std::fs::copy(&from, &to).map_err(cannot("write", &to))?;
            }
        }
    }
    write(&target.join(MODULES), &text)?;
    Ok(written)
}

/// The source's configuration, with the tokenizer's hash.
fn config(source: &Path, options: &PackOptions, tokenizer: &Path) -> Result<String> {
    let path = source.join("config.json");
    let mut config: Value = serde_json::from_slice(&read_small(&path)?)
        .or_error(ErrorKind::Input, || path.display().to_string())?;
    let mut named = json!({ "sha256": Digest256::of(&read_small(tokenizer)?).to_hex() });
    if let Some(from) = &options.tokenizer_from {
        named["from"] = from.clone().into();
    }
    config["scalingnote"]["tokenizer"] = named;
    let text = serde_json::to_string_pretty(&config).context(|| "config.json")?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_tokens_and_those_that_mark_something_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let definition = json!({
            "added_tokens": [{"id": 0, "content": "[PAD]"}, {"id": 1, "content": "[UNK]"}],
            "model": {"unk_token": "[UNK]", "vocab": {
                "[PAD]": 0, "[UNK]": 1, "often": 2, "seldom": 3, "never": 4, "##s": 5, "中": 6}},
        });
        std::fs::write(&path, definition.to_string()).unwrap();
        let vocabulary = Vocabulary::read(&path).unwrap();
        assert_eq!(vocabulary.unknown, 1);
        let (keep, share) = vocabulary.keep(&[0, 0, 90, 10, 0, 0, 0], 4);
        assert_eq!(keep, [true, true, true, false, false, true, false]);
        assert!((share - 0.9).abs() < 1e-12);
        let (keep, share) = vocabulary.keep(&[0, 0, 90, 10, 0, 0, 0], 100);
        assert_eq!((keep.iter().filter(|keep| **keep).count(), share), (5, 1.0));
        std::fs::write(&path, "{\"model\":{\"vocab\":{}}}").unwrap();
        let error = Vocabulary::read(&path).unwrap_err();
        assert!(error.to_string().contains("no unknown token"), "{error}");
    }
}
