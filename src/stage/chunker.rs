//! Cuts long notes by the tower's own tokens.

use std::ops::Range;
use std::sync::Arc;

use super::options::ChunkingOptions;
use crate::corpus::Chunker;
use crate::error::Result;
use crate::tower::TowerTokenizer;

struct TokenChunker {
    tokenizer: TowerTokenizer,
    options: ChunkingOptions,
}

/// Windows of so many tokens of the tower's tokenizer, which overlap.
pub(super) fn token_chunker(
    tokenizer: TowerTokenizer,
    options: ChunkingOptions,
) -> Arc<dyn Chunker> {
    Arc::new(TokenChunker { tokenizer, options })
}

impl Chunker for TokenChunker {
    fn chunks(&self, text: &str) -> Result<Vec<Range<usize>>> {
        self.tokenizer.chunks(text, self.options.window_tokens, self.options.overlap_tokens)
    }
}
