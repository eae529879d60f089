//! Ranked lists in TREC's run format, for `trec_eval` and similar tools.

use std::fmt::Write as _;

use super::measures::{Run, rank_order};

/// One line a document: `query Q0 document rank score system`, best first, ties as `trec_eval` breaks them. White
/// space in ids and in the name becomes `_`, since the format has no quotes.
pub fn trec_run(run: &Run, system: &str) -> String {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join("_");
    let system = plain(system);
    let mut text = String::new();
    for (query, ranking) in run {
        let mut ranked: Vec<_> = ranking.iter().collect();
        ranked.sort_unstable_by(|a, b| rank_order(a.1, &a.0, b.1, &b.0));
        let query = plain(query);
        for (rank, (document, score)) in (1..).zip(ranked) {
            let _ = writeln!(text, "{query} Q0 {} {rank} {score} {system}", plain(document));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_ranked() {
        let list = |all: &[(&str, f32)]| all.iter().map(|(id, s)| ((*id).to_owned(), *s)).collect();
        let run = Run::from([
            ("q 2".to_owned(), list(&[("a", 0.25)])),
            ("q1".to_owned(), list(&[("a", 0.5), ("b", 0.75), ("c", 0.5)])),
        ]);
        let expected = "q_2 Q0 a 1 0.25 my_tower\nq1 Q0 b 1 0.75 my_tower\nq1 Q0 c 2 0.5 my_tower\n\
                        q1 Q0 a 3 0.5 my_tower\n";
        assert_eq!(trec_run(&run, "my tower"), expected);
    }
}
