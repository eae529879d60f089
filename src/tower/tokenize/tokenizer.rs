//! Text to token ids, exactly as the tower wants them.
//!
//! What is identity here, beside the tokenizer's own definition: prompt prefix, text and prompt suffix are
//! tokenised apart and joined, so that a cut never touches the suffix. Where the model's own words count
//! ([`crate::tower::Defaults::Model`]), what follows the prefix's last special token is one text with the note, as its
//! authors tokenise it. The tokens that the model's own post-processor adds (begin of text, end of text) are before
//! the prefix and after the suffix. Special tokens are recognised in the prompt only: in a note, `<|im_end|>` is
//! ordinary text, so no note can end itself, unless the options ask for it ([`crate::tower::SpecialTokens`]).

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::fake;
use crate::tower::files::disk::read_small;
use crate::tower::tokenize::plain::without_special;
use crate::tower::tokenize::safe_cut::{cut_after, safe_to_cut};
use crate::tower::{Defaults, SpecialTokens, TowerOptions};
use crate::types::{Digest256, Pooling, hash_json};

mod chunks;

const MAX_DEFINITION: u64 = 256 << 20;
/// Bytes tried first for each token wanted: more than English or code needs, and than CJK's.
const BYTES_PER_TOKEN: usize = 8;
/// Shorter texts are tokenised whole.
const LEAST_CUT: usize = 4 << 10;

/// A tokenised text, prompt included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the text was cut to fit `max_tokens`.
    pub truncated: bool,
}

/// A tokenizer before the tower's options: its `tokenizer.json` and the ids around every text.
pub(crate) struct Definition {
    pub(crate) json: Value,
    /// Ids before every text that the definition's post-processor does not add itself.
    pub(crate) before: Vec<u32>,
    /// Ids after every text, likewise.
    pub(crate) after: Vec<u32>,
    /// End of sequence.
    pub(crate) eos: Option<u32>,
    /// Texts are lower-cased first.
    pub(crate) lower_case: bool,
    /// Ids around every text in the place of those that the post-processor adds.
    pub(crate) around: Option<(Vec<u32>, Vec<u32>)>,
    /// A text that is too long loses its beginning, the prompt's included, and not its end.
    pub(crate) keeps_end: bool,
}

impl Definition {
    /// Reads a `tokenizer.json`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let json = serde_json::from_slice(&read_small(path, MAX_DEFINITION)?)
            .or_error(ErrorKind::Corrupt, || format!("{} is not JSON", path.display()))?;
        Ok(Self::new(json))
    }

    /// What a `tokenizer.json` alone says.
    pub(crate) fn new(json: Value) -> Self {
        let (before, after) = (Vec::new(), Vec::new());
        Self { json, before, after, eos: None, lower_case: false, around: None, keeps_end: false }
    }
}

/// Turns texts into token ids exactly as the tower wants them. Cheap to clone, one per thread.
#[derive(Clone)]
pub struct TowerTokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    /// Before the text: what the model demands, then the prompt's prefix, or what of it is not one with the text.
    head: Vec<u32>,
    /// What of the prompt's prefix is tokenised as one with the text, and its tokens by themselves.
    lead: String,
    lead_tokens: usize,
    /// Where a text that is too long loses its beginning: the tokens of the prompt's prefix before `lead`, lost first.
    front: Option<Vec<u32>>,
    /// After the text: the prompt's suffix, what the model demands, the end of sequence.
    tail: Vec<u32>,
    /// Tokens left for `front`, lead and text.
    room: usize,
    digest: Digest256,
}

enum Engine {
    Model {
        tokenizer: Box<Tokenizer>,
        cuttable: bool,
        lower_case: bool,
        vocab_size: usize,
        /// Where it comes from, for errors.
        named: String,
    },
    Fake,
}

impl TowerTokenizer {
    /// Sets up a model's tokenizer. `vocab_size` is the number of rows of its embedding.
    pub(crate) fn new(
        mut definition: Definition,
        options: &TowerOptions,
        vocab_size: usize,
    ) -> Result<Self> {
        // Cutting is ours, and packing needs no padding; neither is part of what a token means.
        if let Some(fields) = definition.json.as_object_mut() {
            fields.insert("truncation".into(), Value::Null);
            fields.insert("padding".into(), Value::Null);
        }
        if definition.json["model"]["dropout"].as_f64().is_some_and(|dropout| dropout > 0.0) {
            return Err(Error::unsupported(
                "the tokenizer drops merges at random (model.dropout); set it to null",
            ));
        }
        let text = definition.json.to_string();
        let tokenizer = Tokenizer::from_bytes(text.as_bytes());
        let mut tokenizer =
            tokenizer.or_error(ErrorKind::Input, || "the tokenizer's definition cannot be read")?;
        let (mut before, mut after) = match definition.around.take() {
            Some(around) => around,
            None => added_by_post_processor(&tokenizer)?,
        };
        // The processor's work is done here; left in, it would trim the offsets of chunks.
        tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        before.splice(0..0, definition.before.iter().copied());
        after.extend(&definition.after);
        let eos = definition.eos.filter(|_| options.pooling() == Pooling::Eos);
        let mut identity = serde_json::json!({
            "definition": definition.json, "before": before, "after": after, "eos": eos,
        });
        let lower_case = definition.lower_case && !lowers(&definition.json["normalizer"]);
        if lower_case {
            identity["lower_case"] = true.into();
        }
        if definition.keeps_end {
            identity["keeps_end"] = true.into();
        }
        if options.special_tokens == SpecialTokens::Control {
            identity["special_tokens"] = "control".into();
        }
        let digest = hash_json(&identity)?;
        let piece =
            |text: &str| -> Result<Vec<u32>> { Ok(encode(&tokenizer, text)?.get_ids().to_vec()) };
        let named = options.tokenizer.as_ref().unwrap_or(&options.model).clone();
        let mut head = before;
        let (apart, lead) = match options.defaults {
            Defaults::None => (options.prompt_prefix(), ""),
            Defaults::Model => behind_special(&tokenizer, options.prompt_prefix()),
        };
        let mut front = piece(apart)?;
        if !definition.keeps_end {
            head.append(&mut front);
        }
        let lead_tokens = piece(lead)?.len();
        let mut tail = piece(options.prompt_suffix())?;
        tail.extend(after);
        if options.pooling() == Pooling::Eos {
            let eos = eos.ok_or_else(|| {
                Error::config(
                    "pooling is `eos`, but neither the model nor its tokenizer names an end-of-sequence \
                     token; take `last-token` or `mean`",
                )
            })?;
            if tail.last() != Some(&eos) {
                tail.push(eos);
            }
        }
        if let Some(id) = head.iter().chain(&tail).find(|id| **id as usize >= vocab_size) {
            return Err(beyond(*id, vocab_size, &named));
        }
        // Together with the text the lead may take a token more or less than alone; the cut counts what it really
        // takes.
        let movable = front.len() + lead_tokens;
        let room = room(options, head.len() + movable + tail.len())? + movable;
        let lead = lead.to_owned();
        if options.special_tokens == SpecialTokens::Text {
            tokenizer.set_encode_special_tokens(true);
            if let Some(model) = without_special(&definition.json)? {
                tokenizer.with_model(model);
            }
        }
        let cuttable = safe_to_cut(&definition.json);
        let tokenizer = Box::new(tokenizer);
        let engine = Engine::Model { tokenizer, cuttable, lower_case, vocab_size, named };
        let front = definition.keeps_end.then_some(front);
        let inner = Inner { engine, head, lead, lead_tokens, front, tail, room, digest };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The fake tower's tokenizer: words, long ones in pieces.
    pub(crate) fn fake(options: &TowerOptions) -> Result<Self> {
        let ids = |text: &str| fake::pieces(text).map(|piece| fake::id(&text[piece])).collect();
        let head: Vec<u32> = ids(options.prompt_prefix());
        let mut tail: Vec<u32> = ids(options.prompt_suffix());
        if options.pooling() == Pooling::Eos {
            tail.push(fake::EOS);
        }
        let room = room(options, head.len() + tail.len())?;
        let digest = Digest256::of(fake::TOKENIZER.as_bytes());
        let (engine, lead) = (Engine::Fake, String::new());
        let front = None;
        let inner = Inner { engine, head, lead, lead_tokens: 0, front, tail, room, digest };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// prefix + text + suffix (+ eos for [`Pooling::Eos`]), cut to `max_tokens` by dropping tokens from the
    /// end of the text, or from the beginning of prefix and text where the model's files say so
    /// (`truncation_side`). Very long texts are cut safely before tokenising, with the same result.
    ///
    /// # Errors
    /// Input, if the text has no token at all, or one that the model has no embedding for.
    pub fn tokenize(&self, text: &str) -> Result<Tokenized> {
        let inner = &*self.inner;
        let (body, truncated) = match &inner.front {
            None => inner.body(text, inner.room)?,
            Some(front) => inner.ending(front, text)?,
        };
        // Of a text with a lead the tokens are not known apart; one that may have none is asked alone.
        let movable = inner.movable();
        let bare = movable > 0 && body.len() <= movable;
        if body.is_empty() || (bare && inner.spans(text)?.is_empty()) {
            return Err(Error::input("the text has no tokens"));
        }
        let mut ids = Vec::with_capacity(inner.head.len() + body.len() + inner.tail.len());
        ids.extend(&inner.head);
        ids.extend(body);
        ids.extend(&inner.tail);
        Ok(Tokenized { ids, truncated })
    }

    /// Whether a prompt is tokenised as one with the text.
    pub fn joins(&self) -> bool {
        !self.inner.lead.is_empty()
    }

    /// SHA-256 of the tokenizer's canonical definition: no file name, no key order, no prompt.
    pub fn digest(&self) -> Digest256 {
        self.inner.digest
    }
}

fn room(options: &TowerOptions, overhead: usize) -> Result<usize> {
    match (options.max_tokens() as usize).checked_sub(overhead) {
        Some(room) if room > 0 => Ok(room),
        _ => Err(Error::config(format!(
            "max_tokens is {}, but the prompt alone takes {overhead} tokens and leaves no room for the \
             text; raise max_tokens or shorten the prompt",
            options.max_tokens()
        ))),
    }
}

fn beyond(id: u32, vocab_size: usize, named: &str) -> Error {
    Error::input(format!(
        "token {id} is beyond the model's {vocab_size} embeddings: the tokenizer of {named} does not \
         belong to the model"
    ))
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<tokenizers::Encoding> {
    tokenizer.encode_fast(text, false).or_error(ErrorKind::Input, || "the text cannot be tokenised")
}

/// Splits a prompt behind its last special token: what follows is ordinary text.
fn behind_special<'a>(tokenizer: &Tokenizer, prompt: &'a str) -> (&'a str, &'a str) {
    let added = tokenizer.get_added_tokens_decoder();
    let special = added.values().filter(|token| token.special && !token.content.is_empty());
    let ends = special.filter_map(|token| {
        let end = prompt.rfind(&token.content)? + token.content.len();
        Some(if token.rstrip { prompt.len() - prompt[end..].trim_start().len() } else { end })
    });
    prompt.split_at(ends.max().unwrap_or(0))
}

/// Whether a tokenizer's normalizer lower-cases.
fn lowers(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        Some("Lowercase") => true,
        Some("BertNormalizer") => normalizer["lowercase"] == true,
        Some("Sequence") => {
            normalizer["normalizers"].as_array().is_some_and(|all| all.iter().any(lowers))
        }
        _ => false,
    }
}

/// The ids that the post-processor puts around a text.
fn added_by_post_processor(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    let failed = || "the tokenizer cannot tokenise";
    let bare = tokenizer.encode("a", false).or_error(ErrorKind::Input, failed)?;
    let full = tokenizer.encode("a", true).or_error(ErrorKind::Input, failed)?;
    let (bare, full) = (bare.get_ids(), full.get_ids());
    let at = (0..=full.len().saturating_sub(bare.len()))
        .find(|at| full[*at..].starts_with(bare))
        .ok_or_else(|| {
        Error::unsupported("the tokenizer's post-processor rewrites the text's own tokens")
    })?;
    Ok((full[..at].to_vec(), full[at + bare.len()..].to_vec()))
}

impl Inner {
    /// Tokens of the prompt that stand with the text, by themselves.
    fn movable(&self) -> usize {
        self.front.as_ref().map_or(0, Vec::len) + self.lead_tokens
    }

    /// A text as the tokenizer gets it.
    fn prepared<'a>(&self, text: &'a str, lower_case: bool) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        if !self.lead.is_empty() {
            text = Cow::Owned(format!("{}{}", self.lead, text.trim_end()));
        }
        if lower_case { Cow::Owned(text.to_lowercase()) } else { text }
    }

    /// The first `limit` tokens of the text behind its lead, and whether there are more.
    fn body(&self, text: &str, limit: usize) -> Result<(Vec<u32>, bool)> {
        let mut ids = match &self.engine {
            Engine::Model { tokenizer, cuttable, lower_case, .. } => {
                let text = &*self.prepared(text, *lower_case);
                let mut bytes = limit.saturating_mul(BYTES_PER_TOKEN).max(LEAST_CUT);
                loop {
                    let cut =
                        if *cuttable && bytes < text.len() { cut_after(text, bytes) } else { None };
                    let ids =
                        encode(tokenizer, &text[..cut.unwrap_or(text.len())])?.get_ids().to_vec();
                    match cut {
                        // Not yet known to be longer than the limit: look further.
                        Some(at) if ids.len() <= limit => bytes = at.saturating_mul(2),
                        _ => break ids,
                    }
                }
            }
            Engine::Fake => {
                let pieces = fake::pieces(text).take(limit.saturating_add(1));
                pieces.map(|piece| fake::id(&text[piece])).collect()
            }
        };
        let truncated = ids.len() > limit;
        ids.truncate(limit);
        self.check(&ids)?;
        Ok((ids, truncated))
    }

    /// As many of the last tokens of `front`, lead and text as there is room for, and whether there are more.
    fn ending(&self, front: &[u32], text: &str) -> Result<(Vec<u32>, bool)> {
        let Engine::Model { tokenizer, cuttable, lower_case, .. } = &self.engine else {
            return self.body(text, self.room);
        };
        let text = &*self.prepared(text, *lower_case);
        let mut bytes = self.room.saturating_mul(BYTES_PER_TOKEN).max(LEAST_CUT);
        let mut ids = loop {
            let from = text.len().saturating_sub(bytes);
            let cut = if *cuttable && from > 0 { cut_after(text, from) } else { None };
            let ids = encode(tokenizer, &text[cut.unwrap_or(0)..])?.get_ids().to_vec();
            match cut {
                // Not yet known to be longer than the room: look further back.
                Some(_) if ids.len() <= self.room => bytes = bytes.saturating_mul(2),
                Some(_) => break ids,
                None => break [front, &ids].concat(),
            }
        };
        let over = ids.len().saturating_sub(self.room);
        ids.drain(..over);
        self.check(&ids)?;
        Ok((ids, over > 0))
    }

    /// Refuses what the model has no embedding for.
    fn check(&self, ids: &[u32]) -> Result<()> {
        let Engine::Model { vocab_size, named, .. } = &self.engine else { return Ok(()) };
        let beyond_it = ids.iter().find(|id| **id as usize >= *vocab_size);
        beyond_it.map_or(Ok(()), |id| Err(beyond(*id, *vocab_size, named)))
    }
}

#[cfg(test)]
mod tests;
