//! How long the encoded texts are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stage::length_bucket;

/// Texts whose length lies above the previous bucket's `up_to` and at most at this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LengthBucket {
    /// Largest token count of the bucket.
    pub up_to: u32,
    /// Texts in it.
    pub texts: u64,
}

/// Puts texts into buckets, from the first bucket to the longest that holds a text, empty ones between included.
/// `lengths` are token counts and how many texts have them.
pub(super) fn length_buckets<'a>(
    lengths: impl IntoIterator<Item = (&'a u32, &'a u64)>,
) -> Vec<LengthBucket> {
    let mut counts = BTreeMap::new();
    for (&tokens, texts) in lengths {
        *counts.entry(length_bucket(tokens)).or_default() += texts;
    }
    let Some(&longest) = counts.keys().next_back() else { return Vec::new() };
    let mut buckets = Vec::new();
    let mut tokens = 16;
    loop {
        let up_to = length_bucket(tokens);
        let texts = counts.get(&up_to).copied().unwrap_or(0);
        buckets.push(LengthBucket { up_to, texts });
        if up_to >= longest {
            return buckets;
        }
        tokens = up_to + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_lengths() {
        let all = [0, 1, 16, 17, 128, 129, 192, 193, 512, 513, u32::MAX].map(|tokens| (tokens, 1));
        let small = [(40, 2), (300, 1)];
        let of = |lengths: &[(u32, u64)]| length_buckets(lengths.iter().map(|(at, n)| (at, n)));
        let ends: Vec<u32> = of(&small).iter().map(|bucket| bucket.up_to).collect();
        assert_eq!(ends, [16, 32, 64, 128, 192, 256, 384]);
        let buckets = of(&[&all[..], &small].concat());
        assert_eq!(buckets.iter().map(|bucket| bucket.texts).sum::<u64>(), 14);
        assert_eq!(buckets[0], LengthBucket { up_to: 16, texts: 3 });
        assert_eq!(buckets.last().map(|bucket| bucket.up_to), Some(u32::MAX));
        assert!(buckets.windows(2).all(|pair| pair[0].up_to < pair[1].up_to));
        assert_eq!(of(&[]), []);
    }
}
