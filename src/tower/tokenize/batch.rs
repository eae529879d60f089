//! Batches of sequences of similar length within a token budget.

/// Groups sequences into batches of similar length whose token sum stays within `budget` (a longer single
/// sequence gets a batch of its own). Deterministic: by length descending, then by position. Returns positions.
pub fn pack(lengths: &[u32], budget: u32) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(lengths[*at]), *at));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0u64;
    for at in order {
        let length = u64::from(lengths[at]).max(1);
        match batches.last_mut() {
            Some(batch) if length <= room => batch.push(at),
            _ => {
                batches.push(vec![at]);
                room = u64::from(budget);
            }
        }
        room = room.saturating_sub(length);
    }
    batches
}

/// Splits sequences into `parts` groups of about equal cost, longest first to the lightest group, each group in
/// ascending order. Deterministic; a group may be empty where there are fewer sequences than parts.
pub(crate) fn balance(costs: &[u64], parts: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(costs[*at]), *at));
    let mut groups = vec![(0u64, Vec::new()); parts.max(1)];
    for at in order {
        if let Some(group) = groups.iter_mut().min_by_key(|(cost, _)| *cost) {
            group.0 += costs[at];
            group.1.push(at);
        }
    }
    groups
        .into_iter()
        .map(|(_, mut group)| {
            group.sort_unstable();
            group
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn batches_hold_neighbours_in_length() {
        assert_eq!(pack(&[3, 9, 3, 5, 20], 8), [vec![4], vec![1], vec![3, 0], vec![2]]);
        assert!(pack(&[], 8).is_empty());
    }

    proptest! {
        #[test]
        fn every_sequence_once_within_budget(
            lengths in prop::collection::vec(0u32..600, 0..200), budget in 1u32..2000,
        ) {
            let batches = pack(&lengths, budget);
            let mut seen: Vec<usize> = batches.concat();
            for batch in &batches {
                let sum: u32 = batch.iter().map(|at| lengths[*at]).sum();
                prop_assert!(!batch.is_empty() && (sum <= budget || batch.len() == 1));
                prop_assert!(batch.windows(2).all(|pair| lengths[pair[0]] >= lengths[pair[1]]));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }

        #[test]
        fn groups_are_balanced(costs in prop::collection::vec(1u64..600, 0..200), parts in 1usize..9) {
            let groups = balance(&costs, parts);
            let mut seen: Vec<usize> = groups.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..costs.len()).collect::<Vec<_>>());
            let sums: Vec<u64> =
                groups.iter().map(|group| group.iter().map(|at| costs[*at]).sum()).collect();
            let spread = sums.iter().max().unwrap() - sums.iter().min().unwrap();
            prop_assert!(spread <= costs.iter().copied().max().unwrap_or(0));
        }
    }
}
