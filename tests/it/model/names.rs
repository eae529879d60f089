//! Names for what is random: two executions of one schedule call the same object the same.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The random parts of keys, named by who wrote them first and which one it was.
#[derive(Default)]
pub struct Names {
    known: HashMap<String, String>,
    count: HashMap<Option<usize>, u32>,
}

impl Names {
    /// The key with every random part named. `by` writes it, where somebody does.
    pub fn of(&mut self, key: &str, by: Option<usize>) -> String {
        let mut name = String::with_capacity(key.len());
        for piece in pieces(key) {
            match piece {
                Piece::Plain(text) => name.push_str(text),
                Piece::Random(text) => {
                    let known = self.known.get(text).cloned().unwrap_or_else(|| {
                        let count = self.count.entry(by).or_default();
                        *count += 1;
                        let named = match by {
                            Some(by) => format!("<{by}.{count}>"),
                            None => format!("<{count}>"),
                        };
                        self.known.insert(text.to_owned(), named.clone());
                        named
                    });
                    name.push_str(&known);
                }
            }
        }
        name
    }
}

/// The key without its random parts and without the numbers of attempts.
pub fn shape(key: &str) -> String {
    let mut shape = String::with_capacity(key.len());
    for piece in pieces(key) {
        match piece {
            Piece::Plain(text) if key.starts_with("leases/") => {
                shape.extend(text.chars().filter(|c| !c.is_ascii_digit()));
            }
            Piece::Plain(text) => shape.push_str(text),
            Piece::Random(_) => shape.push('*'),
        }
    }
    shape
}

pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

enum Piece<'a> {
    Plain(&'a str),
    Random(&'a str),
}

/// Ids of runs anywhere, and of leases in their folder.
fn pieces(key: &str) -> Vec<Piece<'_>> {
    let leases = key.starts_with("leases/");
    let (mut pieces, mut plain, mut at) = (Vec::new(), 0, 0);
    while at < key.len() {
        let starts = at == 0 || matches!(key.as_bytes()[at - 1], b'/' | b'-');
        let length = match &key[at..] {
            rest if starts && is_run(rest) => 25,
            rest if starts && leases && is_id(rest) => 16,
            _ => {
                at += 1;
                continue;
            }
        };
        pieces.push(Piece::Plain(&key[plain..at]));
        pieces.push(Piece::Random(&key[at..at + length]));
        at += length;
        plain = at;
    }
    pieces.push(Piece::Plain(&key[plain..]));
    pieces
}

/// `20261123T075000Z-4f2a9c1e`
fn is_run(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 25 && bytes[8] == b'T' && bytes[15] == b'Z' && bytes[16] == b'-'
}

fn is_id(text: &str) -> bool {
    let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() >= 16
        && text.as_bytes()[..16].iter().all(hex)
        && !text.as_bytes().get(16).is_some_and(u8::is_ascii_alphanumeric)
}

#[test]
fn random_parts_are_named() {
    let mut names = Names::default();
    let lease = "leases/commit-0123456789abcdef.json";
    assert_eq!(names.of(lease, Some(1)), "leases/commit-<1.1>.json");
    assert_eq!(names.of(lease, Some(0)), "leases/commit-<1.1>.json");
    assert_eq!(
        names.of("leases/run-00000000000000000001.json", Some(0)),
        "leases/run-00000000000000000001.json"
    );
    let run = "20261123T075000Z-4f2a9c1e";
    assert_eq!(names.of(&format!("runs/{run}/plan.json"), Some(1)), "runs/<1.2>/plan.json");
    assert_eq!(
        shape(&format!("leases/beat-{run}-00000000000000000007.json")),
        "leases/beat-*-.json"
    );
    let plain = "indexes/0123456789abcdef/00000/x.f16";
    assert_eq!((names.of(plain, None).as_str(), shape(plain).as_str()), (plain, plain));
}
