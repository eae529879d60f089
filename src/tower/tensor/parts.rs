//! Which sequences and queries attention takes at once.

use std::ops::Range;

use crate::kernel::Window;

/// Lengths of groups are multiples of this, the width that matrix units like.
const GRAIN: usize = 8;
/// Up to this length a group holds any shorter sequence: padding is cheaper than another launch.
const SHORT: usize = 32;
/// Queries that share one product of a window's keys, at least.
const BLOCK: usize = 64;

/// Blocks of queries of a sequence, each with the keys that any of them sees: one block of all, or of `at_once` if that is
/// fewer, where the window leaves little out.
pub(super) fn blocks(
    window: Window,
    length: usize,
    at_once: usize,
) -> Vec<(Range<usize>, Range<usize>)> {
    let wide = window.before.max(window.after).max(BLOCK);
    let all = wide.saturating_add(window.most(length)) >= length;
    let rows = if all { length } else { wide }.min(at_once);
    let block = |start: usize| {
        let end = length.min(start + rows);
        (start..end, window.keys(start, length).start..window.keys(end - 1, length).end)
    };
    (0..length).step_by(rows).map(block).collect()
}

/// Groups sequences so that each wastes at most about a quarter on padding and has at most `scores` scores a head.
/// Returns lengths and members, every sequence once, longest first.
pub(super) fn group(lengths: &[usize], scores: usize) -> Vec<(usize, Vec<usize>)> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(lengths[*at]), *at));
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for at in order {
        let length = lengths[at].next_multiple_of(GRAIN);
        match groups.last_mut() {
            Some((longest, rows))
                if (*longest <= SHORT || length * 4 >= *longest * 3)
                    && (rows.len() + 1) * *longest * *longest <= scores =>
            {
                rows.push(at);
            }
            _ => groups.push((length, vec![at])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_hold_every_query_once_with_all_its_keys(
            before in 0usize..300, after in 0usize..300, length in 1usize..2_000,
            at_once in 1usize..3_000,
        ) {
            let window = Window { before, after };
            let mut next = 0;
            for (queries, keys) in blocks(window, length, at_once) {
                prop_assert!(queries.len() <= at_once);
                prop_assert_eq!(queries.start, next);
                next = queries.end;
                for query in queries {
                    let seen = window.keys(query, length);
                    prop_assert!(keys.start <= seen.start && seen.end <= keys.end);
                }
                prop_assert!(keys.len() <= before + after + 1 + before.max(after).max(BLOCK));
            }
            prop_assert_eq!(next, length);
        }

        #[test]
        fn groups_hold_every_sequence_once_and_little_padding(
            lengths in prop::collection::vec(1usize..600, 1..120), scores in 1usize..2_000_000,
        ) {
            let groups = group(&lengths, scores);
            let mut seen: Vec<usize> = Vec::new();
            for (length, rows) in &groups {
                prop_assert!(rows.len() == 1 || rows.len() * length * length <= scores);
                for row in rows {
                    let own = lengths[*row];
                    prop_assert!(own <= *length);
                    prop_assert!(*length <= SHORT || own.next_multiple_of(GRAIN) * 4 >= *length * 3);
                }
                seen.extend(rows);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
