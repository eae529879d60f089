//! `scalingnote distill --export`: the student, small enough to be shipped.

use std::path::Path;

use clap::Args;

use crate::exec::learn::{PackRequest, Packed};
use crate::observe::format;
use crate::train::PackOptions;

/// How the student is packed.
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// Bits per weight in the layers, 2 to 8.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "export")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=8))]
    bits: u32,
    /// Bits per weight in the table of token embeddings.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "export")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=8))]
    table_bits: u32,
    /// Keep only the N tokens that are most frequent in the recipe's pairs; others are read as
    /// unknown. Defaults to all tokens.
    #[arg(long, value_name = "N", requires = "export")]
    tokens: Option<usize>,
    /// Where to get the tokenizer, for the message shown if it is missing (it is not copied).
    #[arg(long, value_name = "TEXT", requires = "export")]
    tokenizer_from: Option<String>,
}

impl PackArgs {
    pub(super) fn request(self) -> PackRequest {
        let Self { bits, table_bits, tokens, tokenizer_from } = self;
        let packing = PackOptions { bits, table_bits, tokenizer_from, ..PackOptions::default() };
        PackRequest { packing, tokens }
    }
}

pub(super) fn summary(answer: &Packed, target: &Path) -> String {
    let mut text =
        format!("packed into {:.1} MB: {}\n", answer.bytes as f64 / 1e6, target.display());
    if let (Some(tokens), Some(share)) = (answer.tokens_kept, answer.share_kept) {
        let tokens = format::counted(tokens as u64, "token");
        text += &format!("  {tokens} kept, {:.2}% of those in the pairs\n", 100.0 * share);
    }
    text + &format!(
        "  cosine to the student before, over {}: mean {:.5}, least {:.5}\n",
        format::counted(answer.queries as u64, "query"),
        answer.mean_cosine,
        answer.least_cosine
    )
}
