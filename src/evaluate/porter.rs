//! The Porter stemmer (Porter 1980), for words of lower-case ASCII letters.

/// The stem of `word`; words that are short or hold other characters come back as they are.
pub(super) fn stem(word: &str) -> String {
    if word.len() <= 2 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return word.to_owned();
    }
    let mut w = Word(word.as_bytes().to_vec());
    w.step_1();
    w.step_2_3(STEP_2);
    w.step_2_3(STEP_3);
    w.step_4();
    w.step_5();
    w.0.into_iter().map(char::from).collect()
}

const STEP_2: &[(&str, &str)] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("logi", "log"),
];

const STEP_3: &[(&str, &str)] = &[
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

const STEP_4: &[&str] = &[
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
];

struct Word(Vec<u8>);

impl Word {
    fn consonant(&self, at: usize) -> bool {
        match self.0[at] {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => at == 0 || !self.consonant(at - 1),
            _ => true,
        }
    }

    /// Vowel-consonant sequences in the first `end` letters.
    fn measure(&self, end: usize) -> usize {
        let kinds: Vec<bool> = (0..end).map(|at| self.consonant(at)).collect();
        kinds.windows(2).filter(|pair| !pair[0] && pair[1]).count()
    }

    fn has_vowel(&self, end: usize) -> bool {
        (0..end).any(|at| !self.consonant(at))
    }

    fn ends(&self, suffix: &str) -> Option<usize> {
        self.0.ends_with(suffix.as_bytes()).then(|| self.0.len() - suffix.len())
    }

    fn double_consonant(&self) -> bool {
        let n = self.0.len();
        n >= 2 && self.0[n - 1] == self.0[n - 2] && self.consonant(n - 1)
    }

    /// Consonant, vowel, consonant other than w, x, y, up to `end`.
    fn cvc(&self, end: usize) -> bool {
        end >= 3
            && self.consonant(end - 1)
            && !self.consonant(end - 2)
            && self.consonant(end - 3)
            && !matches!(self.0[end - 1], b'w' | b'x' | b'y')
    }

    fn replace(&mut self, start: usize, with: &str) {
        self.0.truncate(start);
        self.0.extend_from_slice(with.as_bytes());
    }

    fn step_1(&mut self) {
        if let Some(start) = self.ends("sses") {
            self.replace(start, "ss");
        } else if let Some(start) = self.ends("ies") {
            self.replace(start, "i");
        } else if self.ends("ss").is_none()
            && let Some(start) = self.ends("s")
        {
            self.replace(start, "");
        }
        if let Some(start) = self.ends("eed") {
            if self.measure(start) > 0 {
                self.replace(start, "ee");
            }
        } else if let Some(start) = self.ends("ed").or_else(|| self.ends("ing"))
            && self.has_vowel(start)
        {
            self.replace(start, "");
            let n = self.0.len();
            if ["at", "bl", "iz"].iter().any(|s| self.ends(s).is_some()) {
                self.0.push(b'e');
            } else if self.double_consonant() && !matches!(self.0[n - 1], b'l' | b's' | b'z') {
                self.0.pop();
            } else if self.measure(n) == 1 && self.cvc(n) {
                self.0.push(b'e');
            }
        }
        if let Some(start) = self.ends("y")
            && self.has_vowel(start)
        {
            self.replace(start, "i");
        }
    }

    fn step_2_3(&mut self, rules: &[(&str, &str)]) {
        // The longest suffix that matches decides, whether or not its condition holds.
        let longest =
            rules.iter().filter(|(s, _)| self.ends(s).is_some()).max_by_key(|(s, _)| s.len());
        if let Some((suffix, with)) = longest {
            let start = self.0.len() - suffix.len();
            if self.measure(start) > 0 {
                self.replace(start, with);
            }
        }
    }

    fn step_4(&mut self) {
        let longest = STEP_4.iter().filter(|s| self.ends(s).is_some()).max_by_key(|s| s.len());
        if let Some(suffix) = longest {
            let start = self.0.len() - suffix.len();
            let allowed =
                *suffix != "ion" || (start > 0 && matches!(self.0[start - 1], b's' | b't'));
            if allowed && self.measure(start) > 1 {
                self.replace(start, "");
            }
        }
    }

    fn step_5(&mut self) {
        if let Some(start) = self.ends("e") {
            let m = self.measure(start);
            if m > 1 || (m == 1 && !self.cvc(start)) {
                self.replace(start, "");
            }
        }
        let n = self.0.len();
        if self.double_consonant() && self.0[n - 1] == b'l' && self.measure(n - 1) > 1 {
            self.0.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn stems_of_the_paper() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("cats", "cat"),
            ("feed", "feed"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("motoring", "motor"),
            ("sing", "sing"),
            ("conflated", "conflat"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("happy", "happi"),
            ("sky", "sky"),
            ("relational", "relat"),
            ("conditional", "condit"),
            ("vietnamization", "vietnam"),
            ("sensibiliti", "sensibl"),
            ("triplicate", "triplic"),
            ("goodness", "good"),
            ("revival", "reviv"),
            ("replacement", "replac"),
            ("adoption", "adopt"),
            ("probate", "probat"),
            ("rate", "rate"),
            ("controll", "control"),
            ("roll", "roll"),
            ("generalizations", "gener"),
            ("oscillators", "oscil"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
        assert_eq!(stem("naïve"), "naïve");
    }
}
