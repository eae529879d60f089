//! RoBERTa, XLM-RoBERTa, CamemBERT: BERT whose positions are counted from behind the padding token's id.

use super::bert;
use crate::error::{Error, Result};
use crate::tower::files::fields::Fields;
use crate::tower::model::encoder_config::{EncoderConfig, Learned, TensorNames};

const NAMES: TensorNames = TensorNames { prefix: "roberta.", ..bert::NAMES };

pub(super) fn read(fields: Fields<'_>) -> Result<EncoderConfig> {
    let padding = fields.whole("pad_token_id")?.unwrap_or(1);
    let config = EncoderConfig { names: &NAMES, ..bert::read(fields)? };
    counted_behind(config, padding)
}

/// The same encoder, whose first token has the position behind `padding`.
pub(super) fn counted_behind(config: EncoderConfig, padding: usize) -> Result<EncoderConfig> {
    let rows = config.max_positions;
    let id = u32::try_from(padding).ok().filter(|_| padding + 1 < rows);
    let id = id.ok_or_else(|| {
        Error::corrupt(format!("pad_token_id is {padding}, but there are {rows} positions"))
    })?;
    let learned = Learned { rows, offset: padding + 1, padding: Some(id) };
    Ok(EncoderConfig { learned: Some(learned), max_positions: rows - padding - 1, ..config })
}
