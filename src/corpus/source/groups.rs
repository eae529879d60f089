//! What is read of files one after the other, beside others.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::SourceFile;

/// A file of a table, by place; or those row groups of a Parquet file that begin in a range of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// The file.
    pub file: usize,
    /// The bytes; absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Range<u64>>,
}

impl Extent {
    /// All of a file.
    pub(in crate::corpus) fn whole(file: usize) -> Self {
        Self { file, bytes: None }
    }

    /// A file of `size` bytes in pieces of about the same size, none larger than `most`.
    pub(super) fn cut(file: usize, size: u64, most: u64) -> Vec<Self> {
        let most = most.max(1);
        let count = size.div_ceil(most);
        if count < 2 {
            return vec![Self::whole(file)];
        }
        let step = size.div_ceil(count);
        let starts = (0..size).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        let piece = |start: u64| Self { file, bytes: Some(start..size.min(start + step)) };
        starts.map(piece).collect()
    }

    pub(super) fn size(&self, files: &[SourceFile]) -> u64 {
        self.bytes.as_ref().map_or(files[self.file].meta.size, |bytes| bytes.end - bytes.start)
    }
}

/// These extents, in order, in groups of about the same size: of about so many bytes, if that is less.
pub(super) fn shares(files: &[SourceFile], extents: &[Extent], bytes: u64) -> Vec<Vec<Extent>> {
    let count = sum(files, extents).div_ceil(bytes.max(1));
    groups(files, extents, usize::try_from(count).unwrap_or(usize::MAX))
}

fn sum(files: &[SourceFile], extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.size(files)).sum()
}

/// These extents, in order, in at most this many groups of about the same size.
pub(super) fn groups(files: &[SourceFile], extents: &[Extent], count: usize) -> Vec<Vec<Extent>> {
    let share = sum(files, extents).div_ceil(count.max(1) as u64).max(1);
    let mut groups: Vec<Vec<Extent>> = Vec::new();
    let mut filled = 0;
    for extent in extents {
        match groups.last_mut() {
            Some(group) if filled < share => group.push(extent.clone()),
            _ => {
                groups.push(vec![extent.clone()]);
                filled = 0;
            }
        }
        filled += extent.size(files);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_file_are_all_of_it_once() {
        for (size, most) in [(0, 1), (1, 1), (10, 3), (10, 10), (10, 11), (1000, 7), (7, 0)] {
            let pieces = Extent::cut(3, size, most);
            assert!(pieces.iter().all(|piece| piece.file == 3));
            let ranges: Vec<_> = pieces.into_iter().filter_map(|piece| piece.bytes).collect();
            if ranges.is_empty() {
                assert!(size <= most.max(1), "{size} by {most}");
                continue;
            }
            let mut end = 0;
            for range in ranges {
                assert!(range.start == end && range.end > end && range.end - end <= most.max(1));
                end = range.end;
            }
            assert_eq!(end, size);
        }
    }
}
