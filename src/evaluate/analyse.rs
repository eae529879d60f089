//! English analysis for BM25: lower case, alphanumeric words, Lucene's stop words, Porter stems.

use super::porter;

/// Lucene's default English stop words.
const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it",
    "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these",
    "they", "this", "to", "was", "will", "with",
];

/// The terms of a text in order, as BM25 counts them. A possessive `'s` is dropped.
pub fn analyse_english(text: &str) -> Vec<String> {
    text.to_lowercase()
        .replace("'s ", " ")
        .replace("’s ", " ")
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty() && !STOP_WORDS.contains(word))
        .map(porter::stem)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_stems() {
        assert_eq!(
            analyse_english("The brewer's ales, fermented at 12°C!"),
            ["brewer", "al", "ferment", "12", "c"]
        );
    }
}
