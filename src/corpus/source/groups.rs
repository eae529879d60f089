//! Files that are read one after the other, beside others.

use super::file::SourceFile;

/// These files, by place, in at most this many groups of about the same size.
pub(super) fn groups(files: &[SourceFile], places: &[usize], count: usize) -> Vec<Vec<usize>> {
    let total: u64 = places.iter().map(|at| files[*at].meta.size).sum();
    let share = total.div_ceil(count.max(1) as u64).max(1);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0;
    for at in places {
        match groups.last_mut() {
            Some(group) if filled < share => group.push(*at),
            _ => {
                groups.push(vec![*at]);
                filled = 0;
            }
        }
        filled += files[*at].meta.size;
    }
    groups
}
