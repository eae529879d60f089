//! Text to token ids, exactly as the tower wants them.
//!
//! What is identity here, beside the tokenizer's own definition: prompt prefix, text and prompt suffix are
//! tokenised apart and joined, so that a cut never touches the suffix. Where the model's own words count
//! ([`crate::tower::Defaults::Model`]), what follows the prefix's last special token is one text with the note, as its authors
//! tokenise it. The tokens that the model's own post-processor adds (begin of text, end of text) stand
//! before the prefix and after the suffix. Special tokens are recognised in the prompt only: in
//! a note, `<|im_end|>` is ordinary text, so no note can end itself.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::fake;
use crate::tower::files::disk::read_small;
use crate::tower::tokenize::safe_cut::{cut_after, safe_to_cut};
use crate::tower::{Defaults, TowerOptions};
use crate::types::{Digest256, Pooling, hash_json};

const MAX_DEFINITION: u64 = 256 << 20;
/// Bytes tried first for each token wanted: more than English or code needs, and than CJK's.
const BYTES_PER_TOKEN: usize = 8;
/// Shorter texts are tokenised whole.
const LEAST_CUT: usize = 4 << 10;
/// Bytes whose token offsets are computed at a time.
const SEGMENT: usize = 64 << 10;

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
}

impl Definition {
    /// Reads a `tokenizer.json`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let json = serde_json::from_slice(&read_small(path, MAX_DEFINITION)?)
            .or_error(ErrorKind::Corrupt, || format!("{} is no JSON", path.display()))?;
        let (before, after) = (Vec::new(), Vec::new());
        Ok(Self { json, before, after, eos: None, lower_case: false, around: None })
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
    /// After the text: the prompt's suffix, what the model demands, the end of sequence.
    tail: Vec<u32>,
    /// Tokens left for the text.
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
        let digest = hash_json(&identity)?;
        let piece =
            |text: &str| -> Result<Vec<u32>> { Ok(encode(&tokenizer, text)?.get_ids().to_vec()) };
        let named = options.tokenizer.as_ref().unwrap_or(&options.model).clone();
        let mut head = before;
        let (apart, lead) = match options.defaults {
            Defaults::None => (options.prompt_prefix(), ""),
            Defaults::Model => behind_special(&tokenizer, options.prompt_prefix()),
        };
        head.extend(piece(apart)?);
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
        // Together with the text the lead may take a token more or less than alone; the cut counts what it really takes.
        let room = room(options, head.len() + lead_tokens + tail.len())? + lead_tokens;
        let lead = lead.to_owned();
        tokenizer.set_encode_special_tokens(true);
        let cuttable = safe_to_cut(&definition.json);
        let tokenizer = Box::new(tokenizer);
        let engine = Engine::Model { tokenizer, cuttable, lower_case, vocab_size, named };
        Ok(Self { inner: Arc::new(Inner { engine, head, lead, lead_tokens, tail, room, digest }) })
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
        let inner = Inner { engine, head, lead, lead_tokens: 0, tail, room, digest };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// prefix + text + suffix (+ eos for [`Pooling::Eos`]), cut to `max_tokens` by dropping tokens from the
    /// end of the text. Very long texts are cut safely before tokenising, with the same result.
    ///
    /// # Errors
    /// Input, if the text has no token at all, or one that the model has no embedding for.
    pub fn tokenize(&self, text: &str) -> Result<Tokenized> {
        let inner = &*self.inner;
        let (body, truncated) = inner.body(text, inner.room)?;
        // Of a text with a lead the tokens are not known apart; one that may have none is asked alone.
        let bare = !inner.lead.is_empty() && body.len() <= inner.lead_tokens;
        if body.is_empty() || (bare && inner.spans(text)?.is_empty()) {
            return Err(Error::input("the text has no tokens"));
        }
        let mut ids = Vec::with_capacity(inner.head.len() + body.len() + inner.tail.len());
        ids.extend(&inner.head);
        ids.extend(body);
        ids.extend(&inner.tail);
        Ok(Tokenized { ids, truncated })
    }

    /// Tokens of the prompt, and of what the model demands around every text.
    pub fn overhead(&self) -> u32 {
        (self.inner.head.len() + self.inner.lead_tokens + self.inner.tail.len()) as u32
    }

    /// Byte ranges of windows of at most `window` text tokens that overlap by `overlap` tokens, in order,
    /// on character boundaries, covering every token; one range where the text fits. A window
    /// ends before a word where one begins in its last quarter.
    ///
    /// # Errors
    /// Config, if `window` is 0 or not above `overlap`.
    pub fn chunks(&self, text: &str, window: u32, overlap: u32) -> Result<Vec<Range<usize>>> {
        if overlap >= window {
            return Err(Error::config(format!(
                "an overlap of {overlap} tokens does not fit a window of {window}"
            )));
        }
        let (window, overlap) = (window as usize, overlap as usize);
        let spans = self.inner.spans(text)?;
        let mut chunks: Vec<Range<usize>> = Vec::new();
        let (mut first, mut last_end) = (0, 0);
        while spans.len() - first > window {
            let end = self.inner.window_end(text, &spans, first, window)?;
            if end <= last_end {
                // The window gave way so far that it would add nothing: overlap less.
                first = next_start(&spans, first, last_end, (last_end - first) / 2);
                continue;
            }
            chunks.push(start_of(&spans, first)..spans[end - 1].end);
            last_end = end;
            first = next_start(&spans, first, end, overlap);
        }
        match chunks.last_mut() {
            Some(last) if first == spans.len() => last.end = text.len(),
            _ => chunks.push(start_of(&spans, first)..text.len()),
        }
        Ok(chunks)
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

/// The first window begins where the text does, even before what has no token.
fn start_of(spans: &[Range<usize>], first: usize) -> usize {
    if first == 0 { 0 } else { spans[first].start }
}

/// Whether token `at` begins a character of its own.
fn whole(spans: &[Range<usize>], at: usize) -> bool {
    at == 0 || at >= spans.len() || spans[at].start >= spans[at - 1].end
}

/// Where the next window begins: `overlap` tokens back, on a character of its own, always further on.
fn next_start(spans: &[Range<usize>], first: usize, end: usize, overlap: usize) -> usize {
    let mut start = end.saturating_sub(overlap).max(first + 1);
    while start > first + 1 && !whole(spans, start) {
        start -= 1;
    }
    // The window began with a character of several tokens: go over it.
    while !whole(spans, start) {
        start += 1;
    }
    start
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
        "token {id} lies beyond the model's {vocab_size} embeddings: the tokenizer of {named} does not \
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

/// Whether a tokenizer's normalizer lower-cases by itself.
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
    /// The first `limit` tokens of the text behind its lead, and whether there are more.
    fn body(&self, text: &str, limit: usize) -> Result<(Vec<u32>, bool)> {
        let (mut ids, limits) = match &self.engine {
            Engine::Model { tokenizer, cuttable, lower_case, vocab_size, named } => {
                let mut text = Cow::Borrowed(text);
                if !self.lead.is_empty() {
                    text = Cow::Owned(format!("{}{}", self.lead, text.trim_end()));
                }
                if *lower_case {
                    text = Cow::Owned(text.to_lowercase());
                }
                let text = &*text;
                let mut bytes = limit.saturating_mul(BYTES_PER_TOKEN).max(LEAST_CUT);
                loop {
                    let cut =
                        if *cuttable && bytes < text.len() { cut_after(text, bytes) } else { None };
                    let ids =
                        encode(tokenizer, &text[..cut.unwrap_or(text.len())])?.get_ids().to_vec();
                    match cut {
                        // Not yet known to be longer than the limit: look further.
                        Some(at) if ids.len() <= limit => bytes = at.saturating_mul(2),
                        _ => break (ids, Some((*vocab_size, named))),
                    }
                }
            }
            Engine::Fake => {
                let pieces = fake::pieces(text).take(limit.saturating_add(1));
                (pieces.map(|piece| fake::id(&text[piece])).collect(), None)
            }
        };
        let truncated = ids.len() > limit;
        ids.truncate(limit);
        if let Some((vocab_size, named)) = limits
            && let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size)
        {
            return Err(beyond(*id, vocab_size, named));
        }
        Ok((ids, truncated))
    }

    /// Byte range of every token of the text, on character boundaries. Tokens of one character share
    /// its range.
    fn spans(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let Engine::Model { tokenizer, cuttable, .. } = &self.engine else {
            return Ok(fake::pieces(text).collect());
        };
        let mut spans: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        // Piece by piece: an encoding takes many times the memory of its text.
        while at < text.len() {
            let rest = &text[at..];
            let cut = if *cuttable { cut_after(rest, SEGMENT) } else { None };
            let length = cut.unwrap_or(rest.len());
            let encoding = tokenizer
                .encode(&rest[..length], false)
                .or_error(ErrorKind::Input, || "the text cannot be tokenised")?;
            for (start, end) in encoding.get_offsets() {
                let start = text.floor_char_boundary(at + start);
                let start = start.max(spans.last().map_or(0, |last| last.start));
                spans.push(start..text.ceil_char_boundary(at + end).max(start));
            }
            at += length;
        }
        Ok(spans)
    }

    /// One past the last token of the window that begins at `first`.
    fn window_end(
        &self,
        text: &str,
        spans: &[Range<usize>],
        first: usize,
        window: usize,
    ) -> Result<usize> {
        let begins_word = |at: usize| {
            whole(spans, at) && text[spans[at].start..].starts_with(char::is_whitespace)
        };
        let full = first + window;
        let early = (full - window / 4).max(first + 1);
        let mut end = (early..=full).rev().find(|at| begins_word(*at)).unwrap_or(full);
        loop {
            while end > first + 1 && !whole(spans, end) {
                end -= 1;
            }
            // A part's own tokens need not be the part of the whole's tokens: count, and give way.
            let part = &text[start_of(spans, first)..spans[end - 1].end];
            if end == first + 1 || !self.body(part, window + self.lead_tokens)?.1 {
                return Ok(end);
            }
            end -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
