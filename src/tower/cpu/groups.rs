//! A batch cut into groups of whole sequences, each taken through a model by one thread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tower::tokenize::batch::balance;

/// The threads that a device's number means; 0: all of the machine.
pub(super) fn threads(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        wanted => wanted,
    }
}

/// What becomes of a batch's sequences.
pub(super) struct Batch<'a> {
    pub(super) sequences: &'a [&'a [u32]],
    /// Tokens of a group, about the most.
    pub(super) group_tokens: usize,
    /// Elements of a row of the result.
    pub(super) width: usize,
}

impl Batch<'_> {
    /// The rows of all sequences in their order: `rows(sequence)` of each, `[rows, width]`. `forward` gives those of a
    /// group, `cost(length)` says how much work a sequence is; each workspace is a thread's.
    pub(super) fn run<W: Send>(
        &self,
        workspaces: &mut [W],
        cost: impl Fn(usize) -> u64,
        rows: impl Fn(&[u32]) -> usize + Sync,
        forward: impl for<'w> Fn(&'w mut W, &[&[u32]]) -> &'w [f32] + Sync,
    ) -> Vec<f32> {
        let (sequences, width) = (self.sequences, self.width);
        // First element that each sequence fills.
        let mut starts = Vec::with_capacity(sequences.len());
        let mut end = 0;
        for sequence in sequences {
            starts.push(end);
            end += rows(sequence) * width;
        }
        let mut result = vec![0.; end];
        let groups = self.groups(workspaces.len(), cost);
        let next = AtomicUsize::new(0);
        let shared = Mutex::new(result.as_mut_slice());
        let work = |workspace: &mut W| {
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                let members: Vec<&[u32]> = group.iter().map(|at| sequences[*at]).collect();
                let found = forward(workspace, &members);
                // A poisoned lock means that another worker panicked, and its panic is what the caller sees.
                let Ok(mut shared) = shared.lock() else { return };
                let mut from = 0;
                for at in group {
                    let count = rows(sequences[*at]) * width;
                    shared[starts[*at]..starts[*at] + count]
                        .copy_from_slice(&found[from..from + count]);
                    from += count;
                }
            }
        };
        let workers = workspaces.len().min(groups.len());
        if let [workspace] = &mut workspaces[..workers] {
            work(workspace);
        } else {
            std::thread::scope(|scope| {
                for workspace in &mut workspaces[..workers] {
                    scope.spawn(|| work(workspace));
                }
            });
        }
        result
    }

    /// Groups of about equal cost, a multiple of the threads.
    fn groups(&self, threads: usize, cost: impl Fn(usize) -> u64) -> Vec<Vec<usize>> {
        let tokens: usize = self.sequences.iter().map(|sequence| sequence.len()).sum();
        let count = threads * tokens.div_ceil(threads * self.group_tokens).max(1);
        let costs: Vec<u64> = self.sequences.iter().map(|sequence| cost(sequence.len())).collect();
        let mut groups = balance(&costs, count);
        groups.retain(|group| !group.is_empty());
        groups
    }
}
