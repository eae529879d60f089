//! Long texts in windows of this many tokens.

use std::ops::Range;

use super::{Engine, Inner, TowerTokenizer};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::fake;
use crate::tower::tokenize::safe_cut::cut_after;

/// Bytes whose token offsets are computed at a time.
const SEGMENT: usize = 64 << 10;

impl TowerTokenizer {
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
}

impl Inner {
    /// Byte range of every token of the text, on character boundaries. Tokens of one character share
    /// its range.
    pub(super) fn spans(&self, text: &str) -> Result<Vec<Range<usize>>> {
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
