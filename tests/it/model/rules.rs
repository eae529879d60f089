//! README's guarantees, checked after every operation of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use scalingnote::snapshot::Manifest;
use scalingnote::store::layout::{self, Key};

use super::world::{Object, Objects};

/// Seconds after its last sign of life in which nobody may take over from a run that lives.
const ALIVE: i64 = 5 * 60;
/// Seconds for which a reader's lease counts.
const READ: i64 = 15 * 60;

/// A manifest that was there.
#[derive(Clone)]
pub struct Published {
    /// Who wrote it; `None` for what was there at the start.
    pub process: Option<usize>,
    pub run: String,
}

/// A file of a manifest.
type Named = (String, u64);

/// What was seen so far, and the first rule that was broken.
#[derive(Clone, Default)]
pub struct Rules {
    /// Newest snapshots that a gc keeps.
    pub retained: usize,
    /// Processes that may delete any snapshot: purges.
    pub purges: BTreeSet<usize>,
    /// Files of manifests that are there: number -> what it names.
    manifests: BTreeMap<u64, Arc<Vec<Named>>>,
    /// Every object that was ever there: no name ever gets other bytes.
    ever: HashMap<String, Bytes>,
    /// Every manifest that was ever there.
    pub published: BTreeMap<u64, Vec<Published>>,
    /// Who was told that it has the lease of runs, by number.
    pub holders: BTreeMap<u64, usize>,
    /// Leases that readers were told to have.
    pub reads: BTreeSet<String>,
    pub broken: Option<String>,
}

impl Rules {
    pub fn new(retained: usize, objects: &Objects) -> Self {
        let mut rules = Self { retained, ..Self::default() };
        for (key, object) in objects {
            rules.ever.insert(key.clone(), object.bytes.clone());
            if let Some(number) = layout::manifest_number(key) {
                rules.appeared(None, number, &object.bytes);
            }
        }
        rules.check(objects, "at the start");
        rules
    }

    /// What an object once was.
    pub fn once(&self, key: &str) -> Option<Bytes> {
        self.ever.get(key).cloned()
    }

    /// Whether readers may be served this snapshot: one whose number a gc had freed, and which came late, is older than
    /// the newest, and nobody looks at it.
    pub fn counts(&self, number: u64) -> bool {
        let late = self.published.get(&number).is_some_and(|all| all.len() > 1);
        let newest = self.manifests.keys().next_back() == Some(&number);
        self.manifests.contains_key(&number) && (newest || !late)
    }

    pub fn breaks(&mut self, rule: &str, what: String) {
        self.broken.get_or_insert_with(|| format!("{rule}: {what}"));
    }

    fn appeared(&mut self, process: Option<usize>, number: u64, bytes: &Bytes) {
        let manifest: Manifest = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(cause) => return self.breaks("whole", format!("manifest {number}: {cause}")),
        };
        let files = manifest.content.files().map(|file| (file.path.clone(), file.size)).collect();
        self.manifests.insert(number, Arc::new(files));
        let published = Published { process, run: manifest.provenance.run };
        self.published.entry(number).or_default().push(published);
    }

    pub fn put(
        &mut self,
        process: Option<usize>,
        key: &str,
        objects: &Objects,
        before: Option<&Object>,
    ) {
        let Some(object) = objects.get(key) else { return };
        let bytes = object.bytes.clone();
        if before.is_some_and(|before| before.bytes != bytes) {
            self.breaks("nothing is overwritten", key.to_owned());
        }
        if let Some(number) = layout::manifest_number(key) {
            let newest = self.published.keys().next_back().copied().unwrap_or_default();
            // A number that a gc has freed may come again; whether it may stay is judged at the end.
            if number > newest + 1 {
                self.breaks("numbers are consecutive", format!("{number} after {newest}"));
            }
            self.appeared(process, number, &bytes);
            self.check(objects, key);
        }
        self.ever.insert(key.to_owned(), bytes);
    }

    /// A process was told that it has the lease `number`: of two that gave a sign of life only one may have one.
    pub fn holds(&mut self, number: u64, process: usize, objects: &Objects, now: i64) {
        let lives = |held: u64| {
            objects.get(&layout::run_lease(held)).is_some_and(|lease| alive(lease, objects, now))
        };
        let mut others = self.holders.keys().copied().filter(|held| *held != number);
        if let Some(held) = others.find(|held| lives(*held) && lives(number)) {
            self.breaks(TAKEN, format!("{process} has lease {number} while {held} is held"));
        }
        self.holders.insert(number, process);
    }

    /// A process died: its lease may be taken over.
    pub fn died(&mut self, process: usize) {
        self.holders.retain(|_, holder| *holder != process);
    }

    pub fn delete(
        &mut self,
        process: Option<usize>,
        (key, gone): (&str, &Object),
        objects: &Objects,
        now: i64,
    ) {
        if let Some(number) = layout::manifest_number(key) {
            self.manifests.remove(&number);
            self.may_go(process, number, objects, now);
        } else if let Some(Key::RunLease { number }) = layout::parse(key) {
            let holder = self.holders.remove(&number);
            if holder.is_some_and(|_| holder != process) && alive(gone, objects, now) {
                self.breaks(TAKEN, format!("{process:?} removes lease {number}, which is held"));
            }
        } else {
            self.check(objects, key);
        }
    }

    fn may_go(&mut self, process: Option<usize>, number: u64, objects: &Objects, now: i64) {
        let newer = self.manifests.range(number + 1..).count();
        if newer == 0 {
            return self.breaks("the newest snapshot stays", format!("{number} is deleted"));
        }
        if process.is_some_and(|process| self.purges.contains(&process)) {
            return;
        }
        if newer < self.retained && self.published[&number].len() < 2 {
            self.breaks(
                "what was published stays",
                format!("{number} of {newer} newer is deleted"),
            );
        }
        let read = objects.iter().any(|(key, lease)| {
            let reads = matches!(layout::parse(key),
                Some(Key::ReaderLease { snapshot, .. }) if snapshot == number);
            reads && now - lease.written < READ && self.reads.contains(key)
        });
        if read {
            self.breaks("what a reader reads stays", format!("{number} is deleted"));
        }
    }

    /// Every manifest that is there names files that are there.
    fn check(&mut self, objects: &Objects, at: &str) {
        let mut counting = self.manifests.iter().filter(|(number, _)| self.counts(**number));
        let lacks = counting.find_map(|(number, files)| {
            let lacks = files.iter().find(|(path, size)| {
                objects.get(path).is_none_or(|object| object.bytes.len() as u64 != *size)
            });
            lacks.map(|(path, _)| format!("snapshot {number} lacks {path} ({at})"))
        });
        if let Some(lacks) = lacks {
            self.breaks("a snapshot is whole or absent", lacks);
        }
    }
}

const TAKEN: &str = "a live run is not taken over";

/// Whether the lease of a run, or its last heartbeat, is young.
fn alive(lease: &Object, objects: &Objects, now: i64) -> bool {
    let holder: serde_json::Value = serde_json::from_slice(&lease.bytes).unwrap_or_default();
    let run = holder.get("run").and_then(|run| run.as_str());
    let beats = objects.iter().filter(|(key, _)| {
        matches!(layout::parse(key), Some(Key::Beat { run: of, .. }) if Some(of.as_str()) == run)
    });
    let last = beats.map(|(_, beat)| beat.written).fold(lease.written, i64::max);
    now - last < ALIVE
}
