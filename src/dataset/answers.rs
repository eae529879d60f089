//! Which documents answer a query, over everything that the sources hold.

use std::collections::HashMap;

/// Documents that answer a query, by the query's normalised text.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(HashMap<String, Vec<u32>>);

impl Answers {
    pub(super) fn add(&mut self, query: &str, document: u32) {
        let known = self.0.entry(normalized(query)).or_default();
        if !known.contains(&document) {
            known.push(document);
        }
    }

    pub(super) fn of(&self, query: &str) -> &[u32] {
        self.0.get(&normalized(query)).map_or(&[], Vec::as_slice)
    }

    /// Gives documents other numbers; those that `renumber` refuses are gone.
    pub(super) fn renumber(&mut self, mut renumber: impl FnMut(&mut u32) -> bool) {
        self.0.values_mut().for_each(|documents| documents.retain_mut(&mut renumber));
    }
}

/// Marks between words that say nothing; others (`C++`, `-l`) are part of a word.
const PUNCTUATION: &str = "?!.,;:\"'`()[]{}…“”‘’「」『』《》（）【】。，、？！；：";

/// A text as two people who mean the same may both have typed it: lower case, its words apart by single spaces, without
/// punctuation around or between them. A text of punctuation alone is itself.
pub fn normalized(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || PUNCTUATION.contains(c));
    let words = words.filter(|word| !word.is_empty());
    let mut joined = String::with_capacity(text.len());
    for word in words {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.extend(word.chars().flat_map(char::to_lowercase));
    }
    if joined.is_empty() { text.trim().to_owned() } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_and_spaces_do_not_tell_queries_apart() {
        assert_eq!(normalized(" What is (are)  Ébola? "), "what is are ébola");
        assert_eq!(normalized("In C++, or C#?"), "in c++ or c#");
        assert_eq!(normalized("宫保鸡丁 的做法。"), "宫保鸡丁 的做法");
        assert_eq!(normalized(" ?! "), "?!");
        let mut answers = Answers::default();
        answers.add("What is gout?", 3);
        answers.add("what is gout", 5);
        answers.add("What is gout?", 3);
        assert_eq!(answers.of("WHAT IS GOUT"), [3, 5]);
        answers.renumber(|document| {
            *document -= 3;
            *document > 0
        });
        assert_eq!(answers.of("what is gout"), [2]);
        assert!(answers.of("gout").is_empty());
    }
}
