//! How long texts are, in a report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Texts whose length lies above the previous bucket's `up_to` and at most at this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LengthBucket {
    /// Largest token count of the bucket.
    pub up_to: u32,
    /// Texts in it.
    pub texts: u64,
}

/// Counts texts by token count: buckets end at 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, ...
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LengthHistogram(std::collections::BTreeMap<u32, u64>);

impl LengthHistogram {
    /// Without texts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `texts` texts of `tokens` tokens.
    pub fn add(&mut self, tokens: u32, texts: u64) {
        *self.0.entry(Self::up_to(tokens)).or_default() += texts;
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        for (up_to, texts) in &other.0 {
            *self.0.entry(*up_to).or_default() += texts;
        }
    }

    /// Upper end of the bucket that holds so many tokens.
    pub fn up_to(tokens: u32) -> u32 {
        if tokens <= 128 {
            return tokens.max(16).next_power_of_two();
        }
        // Two buckets to an octave: 2^n * 1.5 and 2^(n + 1).
        let Some(top) = tokens.checked_next_power_of_two() else { return u32::MAX };
        let middle = top / 4 * 3;
        if tokens <= middle { middle } else { top }
    }

    /// Every bucket from the first to the longest that holds a text, empty ones between included.
    pub fn buckets(&self) -> Vec<LengthBucket> {
        let Some(&longest) = self.0.keys().next_back() else { return Vec::new() };
        let mut buckets = Vec::new();
        let mut tokens = 16;
        loop {
            let up_to = Self::up_to(tokens);
            let texts = self.0.get(&up_to).copied().unwrap_or(0);
            buckets.push(LengthBucket { up_to, texts });
            if up_to >= longest {
                return buckets;
            }
            tokens = up_to + 1;
        }
    }
}
