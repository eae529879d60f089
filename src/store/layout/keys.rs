//! The table of all keys: each row is a kind of object, the function that makes its key, and how the key is spelled.

use std::fmt;
use std::str::FromStr;

use super::super::key;
use super::shape::{is_adapt_task, is_build_task, is_encode_task, is_hash, is_run};
use crate::types::SpaceId;

// What a text field is: the shape of its name.
/// The id of a run.
type Run = String;
/// 16 hex digits.
type Hash = String;
/// The id of an encode task.
type EncodeTask = String;
/// The id of a build task.
type BuildTask = String;
/// The id of an adapt task.
type AdaptTask = String;
/// A name that somebody gave to himself.
type Name = String;

macro_rules! keys {
    ($($(#[$doc:meta])* $kind:ident = $make:ident($($field:ident: $of:ident),*) $spelled:literal;)*) => {
        /// Everything that may be under a root, with what its key says.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the fields are named in the spelling")]
        pub enum Key {
            $($(#[$doc])* #[doc = concat!("`", $spelled, "`")] $kind { $($field: $of),* },)*
        }

        $($(#[$doc])* #[doc = concat!("`", $spelled, "`")]
        pub fn $make($($field: given!($of)),*) -> String {
            format!($spelled)
        })*

        impl fmt::Display for Key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$kind { $($field),* } => write!(f, $spelled),)*
                }
            }
        }

        /// What `key` names: the inverse of every function that makes one. `None` for whatever they do not make, at
        /// any other place or spelled in any other way: it is somebody else's.
        pub fn parse(key: &str) -> Option<Key> {
            key::check(key).ok()?;
            $({
                fn read(mut texts: Vec<&str>) -> Option<Key> {
                    Some(Key::$kind { $($field: read!($of texts.pop()?)),* })
                }
                // A number is spelled in one way only: `snapshots/7.json` is not ours.
                let found = texts($spelled, key).and_then(read);
                if found.as_ref().is_some_and(|found| found.to_string() == key) {
                    return found;
                }
            })*
            None
        }

        /// One key of each kind.
        #[cfg(test)]
        fn one_of_each(random: &mut rand::rngs::StdRng) -> Vec<Key> {
            vec![$(Key::$kind { $($field: sample!($of random)),* }),*]
        }
    };
}

/// What the function that makes a key is given for a field.
macro_rules! given {
    (SpaceId) => {
        &SpaceId
    };
    (u32) => {
        u32
    };
    (u64) => {
        u64
    };
    (ReportName) => {
        ReportName
    };
    (LeaseKind) => {
        LeaseKind
    };
    ($text:ident) => {
        &str
    };
}

/// A field from its text.
macro_rules! read {
    (SpaceId $text:expr) => {
        SpaceId(shaped(is_hash, $text)?)
    };
    (Run $text:expr) => {
        shaped(is_run, $text)?
    };
    (Hash $text:expr) => {
        shaped(is_hash, $text)?
    };
    (EncodeTask $text:expr) => {
        shaped(is_encode_task, $text)?
    };
    (BuildTask $text:expr) => {
        shaped(is_build_task, $text)?
    };
    (AdaptTask $text:expr) => {
        shaped(is_adapt_task, $text)?
    };
    ($of:ident $text:expr) => {
        $text.parse().ok()?
    };
}

#[cfg(test)]
macro_rules! sample {
    (SpaceId $random:expr) => {
        SpaceId(tests::hash($random))
    };
    (Run $random:expr) => {
        tests::run($random)
    };
    (Hash $random:expr) => {
        tests::hash($random)
    };
    (EncodeTask $random:expr) => {
        tests::task("encode", $random)
    };
    (BuildTask $random:expr) => {
        tests::task("build", $random)
    };
    (AdaptTask $random:expr) => {
        format!("adapt-{}", tests::hash($random))
    };
    (Name $random:expr) => {
        tests::name($random)
    };
    (ReportName $random:expr) => {
        ReportName(rand::Rng::random_range($random, 1..=ReportName::MOST))
    };
    (LeaseKind $random:expr) => {
        LeaseKind::ALL[rand::Rng::random_range($random, 0..3)]
    };
    ($number:ident $random:expr) => {
        rand::Rng::random::<$number>($random) >> rand::Rng::random_range($random, 0..32)
    };
}

keys! {
    /// Prepared notes of one shard (gone after retention).
    Prepared = prepared(run: Run, shard: u32) "prepared/{run}/{shard:05}.parquet";
    /// Rows that one task read, of every shard, until each shard's are gathered; attempts have files of their own.
    Rows = rows(run: Run, share: u32, attempt: Hash) "prepared/{run}/{share:05}-{attempt}.rows";
    /// The receipt that says which attempt of the rows of a share counts.
    RowsReceipt = rows_receipt(run: Run, share: u32) "prepared/{run}/{share:05}.rows.json";
    /// The receipt of the prepared notes of one shard, gathered from all shares.
    ShardReceipt = shard_receipt(run: Run, shard: u32) "prepared/{run}/{shard:05}.shard.json";
    /// Where the already stored vectors of one shard are.
    Located = located(run: Run, shard: u32) "prepared/{run}/{shard:05}.located.parquet";
    /// Newly encoded vectors; `hash` is the start of the file's SHA-256, so attempts that differ cannot clash.
    Part = part(space: SpaceId, shard: u32, part: Hash, hash: Hash)
        "embeddings/{space}/{shard:05}/{part}-{hash}.parquet";
    /// The receipt that says which attempt of a part counts.
    PartReceipt = part_receipt(space: SpaceId, shard: u32, part: Hash)
        "embeddings/{space}/{shard:05}/{part}.receipt.json";
    /// The receipt of an encode task: which parts hold its texts.
    EncodeReceipt = encode_receipt(space: SpaceId, shard: u32, task: EncodeTask)
        "embeddings/{space}/{shard:05}/{task}.task.json";
    /// One attempt's usearch file of an index.
    Index = index(options: Hash, shard: u32, index: Hash, hash: Hash)
        "indexes/{options}/{shard:05}/{index}-{hash}.usearch";
    /// One attempt's f16 vectors of an index.
    Sidecar = sidecar(options: Hash, shard: u32, index: Hash, hash: Hash)
        "indexes/{options}/{shard:05}/{index}-{hash}.f16";
    /// The receipt of an index.
    IndexReceipt = index_receipt(options: Hash, shard: u32, index: Hash)
        "indexes/{options}/{shard:05}/{index}.receipt.json";
    /// An ids file (key -> note, place of the vector, stored columns), named by its own hash.
    Ids = ids_file(options: Hash, shard: u32, ids: Hash)
        "indexes/{options}/{shard:05}/{ids}.ids.parquet";
    /// A file of the keys of an index that no longer count, named by its own hash.
    Removed = removed_file(options: Hash, shard: u32, removed: Hash)
        "indexes/{options}/{shard:05}/{removed}.removed.parquet";
    /// The receipt of a build task: the finished shard.
    BuildReceipt = build_receipt(options: Hash, shard: u32, task: BuildTask)
        "indexes/{options}/{shard:05}/{task}.task.json";
    /// The frozen quantisation scale of a space under one set of index options.
    Calibration = calibration(options: Hash, space: SpaceId)
        "indexes/{options}/calibration-{space}.json";
    /// The weights of a query tower that was adapted to the corpus; `tower` is the start of its fingerprint, and the
    /// folder is one that any program can load a model from.
    TowerWeights = tower_weights(tower: Hash) "towers/{tower}/model.safetensors";
    /// Its configuration.
    TowerConfig = tower_config(tower: Hash) "towers/{tower}/config.json";
    /// Its tokenizer.
    TowerTokenizer = tower_tokenizer(tower: Hash) "towers/{tower}/tokenizer.json";
    /// What it read: notes and hashes of texts.
    TowerTexts = tower_texts(tower: Hash, hash: Hash) "towers/{tower}/{hash}.texts.json";
    /// The receipt of an adapt task.
    AdaptReceipt = adapt_receipt(task: AdaptTask) "towers/{task}.task.json";
    /// The plan of one run.
    Plan = plan(run: Run) "runs/{run}/plan.json";
    /// How the corpus of one run is read in shares, before there is a plan.
    SharesPlan = shares_plan(run: Run) "runs/{run}/shares.json";
    /// The report of one run.
    Report = report(run: Run, name: ReportName) "runs/{run}/{name}.json";
    /// The same as a page.
    ReportPage = report_page(run: Run, name: ReportName) "runs/{run}/{name}.html";
    /// The receipt that says how a cluster reads the corpus of a run: in the shares of which attempt, or as one task.
    ReadingReceipt = reading_receipt(run: Run) "runs/{run}/reading.json";
    /// The receipt of a cluster's preparation of a run: which attempt's plan counts.
    PreparedReceipt = prepared_receipt(run: Run) "runs/{run}/prepared.json";
    /// The receipt of the check before anything is encoded on a cluster.
    CheckedReceipt = checked_receipt(run: Run) "runs/{run}/checked.json";
    /// What an executor of a cluster did so far: the highest number counts. It is not called `.json`: gc reads those of
    /// a run, and these come and go.
    ExecutorStatus = executor_status(run: Run, executor: Name, number: u64)
        "runs/{run}/executors/{executor}@{number:010}.book";
    /// The manifest of a snapshot: put-if-absent is the one commit point.
    Manifest = manifest(number: u64) "snapshots/{number:020}.json";
    /// The signature of a manifest, which is named by its hash, by one key.
    Signature = signature(number: u64, manifest: Hash, by: Hash) "signatures/{number:020}-{manifest}-{by}.sig";
    /// The lease of the `number`th run: put-if-absent. A run that takes over from a dead one takes the next number.
    RunLease = run_lease(number: u64) "leases/run-{number:020}.json";
    /// The `number`th heartbeat of a run.
    Beat = beat(run: Name, number: u64) "leases/beat-{run}-{number:020}.json";
    /// A reader that asks gc to keep its snapshot; each renewal takes the next `number`.
    ReaderLease = reader_lease(snapshot: u64, id: Hash, number: u64)
        "leases/reader-{snapshot:020}-{id}-{number:010}.json";
    /// A commit or a gc batch, for a moment; gone when done, as all leases.
    Lease = lease(kind: LeaseKind, id: Hash) "leases/{kind}-{id}.json";
}

/// The texts of the fields, the last first, where `key` is spelled like this.
fn texts<'a>(spelled: &str, key: &'a str) -> Option<Vec<&'a str>> {
    if !key.starts_with(spelled.split('{').next()?) {
        return None;
    }
    let mut pieces = spelled.rsplit('}');
    let mut rest = key.strip_suffix(pieces.next()?)?;
    let mut texts = Vec::new();
    for piece in pieces {
        let (before, _) = piece.split_once('{')?;
        let (left, text) = rest.rsplit_once(before)?;
        // Ids and hashes have neither dots nor slashes in them.
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if text.is_empty() || !plain {
            return None;
        }
        texts.push(text);
        rest = left;
    }
    rest.is_empty().then_some(texts)
}

fn shaped(is_shaped: fn(&str) -> bool, text: &str) -> Option<String> {
    is_shaped(text).then(|| text.to_owned())
}

/// Which report of a run, from 1: a step that a scheduler repeats leaves one of its own each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportName(pub u32);

impl ReportName {
    /// The last that is kept.
    pub const MOST: u32 = 100;
}

impl fmt::Display for ReportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 1 { f.write_str("report") } else { write!(f, "report-{}", self.0) }
    }
}

impl FromStr for ReportName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = match text.strip_prefix("report-") {
            Some(number) => number.parse().map_err(drop)?,
            None if text == "report" => 1,
            None => return Err(()),
        };
        if (1..=Self::MOST).contains(&number) { Ok(Self(number)) } else { Err(()) }
    }
}

/// What a short lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseKind {
    /// A publish.
    Commit,
    /// A batch of a gc.
    Gc,
    /// A look at the store's clock, or at whether it creates conditionally.
    Probe,
}

impl fmt::Display for LeaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "commit",
            Self::Gc => "gc",
            Self::Probe => "probe",
        })
    }
}

impl LeaseKind {
    const ALL: [Self; 3] = [Self::Commit, Self::Gc, Self::Probe];
}

impl FromStr for LeaseKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    pub(super) fn name(random: &mut StdRng) -> String {
        let letters = b"0123456789abcdefXYZ_-";
        let mut letter = || char::from(letters[random.random_range(0..letters.len())]);
        (0..16).map(|_| letter()).collect()
    }

    pub(super) fn hash(random: &mut StdRng) -> String {
        format!("{:016x}", random.random::<u64>())
    }

    pub(super) fn run(random: &mut StdRng) -> String {
        let (day, time) = (random.random_range(0..100_000_000), random.random_range(0..1_000_000));
        let mut run = format!("{day:08}T{time:06}Z-{:08x}", random.random::<u32>());
        for _ in 0..random.random_range(0..3) {
            run.push_str(&match random.random() {
                true => "-next".to_owned(),
                false => format!("-{:08x}", random.random::<u32>()),
            });
        }
        run
    }

    pub(super) fn task(stage: &str, random: &mut StdRng) -> String {
        let shard = random.random::<u32>() >> random.random_range(0..32);
        let share = match stage == "encode" && random.random() {
            true => format!("-{}", random.random::<u32>()),
            false => String::new(),
        };
        format!("{stage}-{shard:05}-{}{share}", hash(random))
    }

    /// Pieces of keys, put together at random.
    fn nearly() -> impl Strategy<Value = String> {
        let pieces = "prepared embeddings indexes towers runs snapshots signatures leases executors / / / / - @ . .. # + \u{e9} \
            report plan reading checked calibration .json .html .parquet .located .ids .removed .sig .book .usearch .f16 .receipt \
            .task run- beat- reader- gc- a1 7 00007 0000000007 00000000000000000007 99999999999999999999 \
            0123456789abcdef 20261123T075000Z-4f2a9c1e -next -0badcafe encode- build- adapt- model.safetensors .texts -00007- #2024 %23 S";
        let piece = prop::sample::select(pieces.split_whitespace().collect::<Vec<_>>());
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_key_parses_back(seed: u64) {
            for key in one_of_each(&mut StdRng::seed_from_u64(seed)) {
                prop_assert_eq!(parse(&key.to_string()), Some(key));
            }
        }

        #[test]
        fn what_parses_is_spelled_in_one_way(any in ".{0,60}", near in nearly(), seed: u64, byte in 32u8..127) {
            let mut texts = vec![any, near];
            let random = &mut StdRng::seed_from_u64(seed);
            for key in one_of_each(random) {
                let mut text = key.to_string().into_bytes();
                let at = random.random_range(0..text.len());
                text[at] = byte;
                texts.extend(String::from_utf8(text));
            }
            for text in texts {
                if let Some(key) = parse(&text) {
                    prop_assert_eq!(key.to_string(), text);
                }
            }
        }
    }

    #[test]
    fn names_hold_dashes_where_they_do() {
        let space = SpaceId("5e5e5e5e5e5e5e5e".to_owned());
        let (run, task) = ("20260101T000000Z-0badcafe-next", "encode-00007-0123456789abcdef");
        assert_eq!(parse(&beat(run, 7)), Some(Key::Beat { run: run.to_owned(), number: 7 }));
        assert_eq!(
            parse(&encode_receipt(&space, 7, task)),
            Some(Key::EncodeReceipt { space, shard: 7, task: task.to_owned() })
        );
        assert_eq!(
            parse(&executor_status(run, "node-1-0a", 7)),
            Some(Key::ExecutorStatus {
                run: run.to_owned(),
                executor: "node-1-0a".to_owned(),
                number: 7
            })
        );
        assert!(
            executor_status(run, "a", 9) < executor_status(run, "a", 10)
                && manifest(9) < manifest(10)
        );
    }

    #[test]
    fn nothing_else_is_ours() {
        let foreign = "snapshots snapshots/42.json snapshots/+0000000000000000042.json \
            snapshots/00000000000000000042.json/x prepared/R/7.parquet prepared/R/00007.csv prepared/../00007.parquet \
            prepared/mine/00007.parquet prepared/R/00007.parquet#1 runs/R/report-1.json runs/R/report-0.json \
            runs/R/report-02.json runs/R/report-2024.json runs/R/report#2024 runs/R/plan.json#2024 runs/R/notes.json \
            runs/R/plan.json.bak runs/r/plan.json runs/2024/report.json runs/R-old/plan.json runs/R/PLAN.json \
            runs/R/executors/a@7.book runs/R/x/plan.json embeddings/H/00003/part.parquet embeddings/H/00003/H.parquet \
            embeddings/H/3/H-H.parquet embeddings/s/00003/H-H.parquet embeddings/H/00003/a.b-c.parquet \
            embeddings/H/00003/H-Hx.parquet embeddings/H/00003/build-00003-H.task.json indexes/H/00003/i.usearch \
            indexes/H/00003/encode-00003-H.task.json indexes/H/calibration-.json indexes/H/calibration-s.json \
            towers/H towers/s/config.json towers/H/model.gguf towers/H/texts.json towers/adapt-s.task.json \
            towers/H/adapt-H.task.json leases/run-7.json leases/gc-.json leases/gc-mine.json leases/other-H.json leases/reader-\u{e9} \
            below/runs/R/plan.json below/snapshots/00000000000000000042.json";
        let (run, hash) = ("20260101T000000Z-0badcafe", "0123456789abcdef");
        for key in foreign.split_whitespace().chain([""]) {
            let key = key.replace('R', run).replace('H', hash);
            assert_eq!(parse(&key), None, "{key}");
        }
        let ours = "runs/R/report-100.json prepared/R/00007.parquet embeddings/H/00003/H-H.parquet leases/gc-H.json \
            embeddings/H/00003/encode-00003-H-77.task.json indexes/H/00003/build-00003-H.task.json \
            towers/H/model.safetensors towers/H/H.texts.json towers/adapt-H.task.json";
        for key in ours.split_whitespace() {
            let key = key.replace('R', run).replace('H', hash);
            assert_eq!(parse(&key).map(|parsed| parsed.to_string()), Some(key));
        }
    }
}
