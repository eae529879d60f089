//! The base-level graph of a saved index: reachability, repair, and duplicates.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Write};
use std::path::Path;

use super::format::{FREE_KEY, GRAPH_HEAD, HEAD, Layout, NODE_HEAD};
use super::sidecar::map_file;
use crate::error::{Error, Result, ResultExt};

/// Reachability of every node of a saved index: walks the level-0 graph breadth first from the entry point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Nodes stored.
    pub nodes: u64,
    /// Keys of nodes that no walk reaches.
    pub orphans: Vec<u64>,
}

/// Audits a saved index file.
///
/// # Errors
/// Corrupt where the file is not a whole usearch index; otherwise what reading it says.
pub fn audit(index: &Path) -> Result<Audit> {
    let bytes = map_file(index)?;
    let checked = || format!("auditing {}", index.display());
    let layout = Layout::parse(&bytes).context(checked)?;
    let walk = Walk::from_entry(&layout, &bytes);
    Ok(Audit { nodes: layout.size as u64, orphans: walk.orphans(&layout, &bytes) })
}

/// Which slots a breadth-first walk has reached.
pub(in crate::index) struct Walk {
    reached: Vec<bool>,
    queue: VecDeque<u32>,
}

impl Walk {
    pub fn from_entry(layout: &Layout, bytes: &[u8]) -> Self {
        let mut walk = Self { reached: vec![false; layout.size], queue: VecDeque::new() };
        if layout.size > 0 {
            walk.extend(layout, bytes, layout.entry);
        }
        walk
    }

    fn extend(&mut self, layout: &Layout, bytes: &[u8], from: u32) {
        if !std::mem::replace(&mut self.reached[from as usize], true) {
            self.queue.push_back(from);
        }
        while let Some(slot) = self.queue.pop_front() {
            for to in layout.links(bytes, slot as usize) {
                if !std::mem::replace(&mut self.reached[to as usize], true) {
                    self.queue.push_back(to);
                }
            }
        }
    }

    /// Keys of what was not reached, by slot; removed nodes do not count.
    pub fn orphans(&self, layout: &Layout, bytes: &[u8]) -> Vec<u64> {
        let unreached = self.reached.iter().enumerate().filter(|(_, reached)| !**reached);
        unreached.map(|(slot, _)| layout.key(bytes, slot)).filter(|key| *key != FREE_KEY).collect()
    }
}

/// Links every unreachable node in again and returns how many there were.
///
/// An orphan keeps its own links; what it lacks is one that leads to it. It gets one from the nearest
/// reachable node with room: its own neighbours first (they lie nearest first), then theirs. That adds
/// no orphan elsewhere, as remove + add can, and needs no distance. Deterministic: by slot.
pub(in crate::index) fn repair(layout: &Layout, bytes: &mut [u8]) -> Result<u64> {
    let mut walk = Walk::from_entry(layout, bytes);
    let found = walk.orphans(layout, bytes).len() as u64;
    for slot in 0..layout.size {
        if walk.reached[slot] || layout.key(bytes, slot) == FREE_KEY {
            continue;
        }
        let host = host_for(layout, bytes, &walk, slot).ok_or_else(|| {
            Error::internal(format!(
                "no node of the graph has room for a link to the unreachable node {slot}; rebuild with a \
                 higher connectivity than {}",
                layout.connectivity
            ))
        })?;
        layout.add_link(bytes, host, slot as u32);
        walk.extend(layout, bytes, slot as u32);
    }
    Ok(found)
}

/// The first reachable node with room on a breadth-first walk from `orphan`; any such node if that walk
/// never meets one.
fn host_for(layout: &Layout, bytes: &[u8], walk: &Walk, orphan: usize) -> Option<usize> {
    let fits = |slot: usize| walk.reached[slot] && layout.links(bytes, slot).len() < layout.base;
    let mut seen = HashSet::from([orphan]);
    let mut queue = VecDeque::from([orphan]);
    while let Some(slot) = queue.pop_front() {
        if fits(slot) {
            return Some(slot);
        }
        for to in layout.links(bytes, slot) {
            if seen.insert(to as usize) {
                queue.push_back(to as usize);
            }
        }
    }
    (0..layout.size).find(|slot| fits(*slot))
}

/// A vector that equals one already in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct Duplicate {
    /// Its key.
    pub key: u64,
    /// Slot of the equal vector.
    pub of: u32,
}

/// How many duplicates one node links to.
const FAN_OUT: usize = 2;

/// Writes the index `bytes` again with `duplicates` added as further slots, in the order given.
///
/// usearch itself must not insert them: equal vectors are each other's nearest neighbours, fill each
/// other's lists and wall themselves and what lies behind them off (50 groups of 100 copies among
/// 20,000 GloVe vectors cut recall@10 from 0.94 to 0.70). Here the copies of a vector hang below it as
/// a binary tree, and each also links to the neighbours of the vector, so that a search that enters
/// the group also leaves it.
pub(in crate::index) fn splice(
    layout: &Layout,
    bytes: &[u8],
    duplicates: &[Duplicate],
    out: &mut impl Write,
) -> io::Result<()> {
    // Positions in the list of duplicates, by the slot they equal.
    let mut groups: HashMap<u32, Vec<usize>> = HashMap::new();
    for (at, duplicate) in duplicates.iter().enumerate() {
        groups.entry(duplicate.of).or_default().push(at);
    }
    let total = layout.size + duplicates.len();
    let rows = u32::try_from(total).map_err(|_| io::Error::other("more than 2^32 vectors"))?;
    out.write_all(&rows.to_le_bytes())?;
    out.write_all(&bytes[4..layout.head])?;
    for duplicate in duplicates {
        out.write_all(layout.vector(bytes, duplicate.of as usize))?;
    }
    let mut head = bytes[layout.head..layout.head + HEAD + GRAPH_HEAD].to_vec();
    head[17..25].copy_from_slice(&((total - layout.deleted) as u64).to_le_bytes());
    head[HEAD..HEAD + 8].copy_from_slice(&(total as u64).to_le_bytes());
    out.write_all(&head)?;
    let levels = layout.head + HEAD + GRAPH_HEAD;
    out.write_all(&bytes[levels..levels + 2 * layout.size])?;
    out.write_all(&vec![0; 2 * duplicates.len()])?;
    for slot in 0..layout.size {
        let (start, end) =
            (layout.node(slot), layout.node(slot) + node_length(layout, bytes, slot));
        match groups.get(&(slot as u32)) {
            None => out.write_all(&bytes[start..end])?,
            Some(members) => {
                let mut node = bytes[start..end].to_vec();
                let links = tree_links(layout, bytes, slot, members, None, layout.size);
                put_links(layout, &mut node, &links);
                out.write_all(&node)?;
            }
        }
    }
    for (at, duplicate) in duplicates.iter().enumerate() {
        let members = groups.get(&duplicate.of).map_or(&[][..], Vec::as_slice);
        let place = members.binary_search(&at).ok();
        let links = tree_links(layout, bytes, duplicate.of as usize, members, place, layout.size);
        let mut node = vec![0; layout.node_bytes(0)];
        node[..8].copy_from_slice(&duplicate.key.to_le_bytes());
        put_links(layout, &mut node, &links);
        out.write_all(&node)?;
    }
    Ok(())
}

fn node_length(layout: &Layout, bytes: &[u8], slot: usize) -> usize {
    let at = layout.node(slot) + 8;
    layout.node_bytes(usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])))
}

/// Links of member `place` of a group (`None`: the vector itself): its children in the tree, the vector,
/// then the vector's own links while there is room.
fn tree_links(
    layout: &Layout,
    bytes: &[u8],
    of: usize,
    members: &[usize],
    place: Option<usize>,
    first_slot: usize,
) -> Vec<u32> {
    // Numbered from 0 for the vector itself, node i has the children 2i+1 and 2i+2; member m is node m+1.
    let node = place.map_or(0, |place| place + 1);
    let children = (0..FAN_OUT).filter_map(|child| members.get(FAN_OUT * node + child));
    let mut links: Vec<u32> = children.map(|member| (first_slot + member) as u32).collect();
    if place.is_some() {
        links.push(of as u32);
    }
    links.extend(layout.links(bytes, of));
    links.truncate(layout.base);
    links
}

fn put_links(layout: &Layout, node: &mut [u8], links: &[u32]) {
    let list = &mut node[NODE_HEAD..NODE_HEAD + 4 + 4 * layout.base];
    list.fill(0);
    list[..4].copy_from_slice(&(links.len() as u32).to_le_bytes());
    for (at, link) in links.iter().enumerate() {
        list[4 + 4 * at..8 + 4 * at].copy_from_slice(&link.to_le_bytes());
    }
}
