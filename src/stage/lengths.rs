//! How long texts are, in buckets: they end at 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, ... tokens.

/// Upper end of the bucket that holds this many tokens.
pub(crate) fn length_bucket(tokens: u32) -> u32 {
    if tokens <= 128 {
        return tokens.max(16).next_power_of_two();
    }
    // Two buckets to an octave: 2^n * 1.5 and 2^(n + 1).
    let Some(top) = tokens.checked_next_power_of_two() else { return u32::MAX };
    let middle = top / 4 * 3;
    if tokens <= middle { middle } else { top }
}
