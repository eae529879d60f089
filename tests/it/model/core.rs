//! Scenes of what everything rests on: commits, gc, rollback, leases of runs and of readers.

use std::sync::Arc;

use scalingnote::error::Result;
use scalingnote::snapshot::{
    self, CommitOutcome, Protected, ReaderLease, Retention, RollbackOutcome, RunLease, Taken,
    commit, newest,
};
use scalingnote::store::Root;
use scalingnote::store::layout::{self, Key};

use super::after::{self, settled};
use super::process::{Body, Seat, body, failed};
use super::rules::Rules;
use super::scene::{Fault, Scene, Still};
use super::store::Seen;
use super::world::{Objects, Told, World};
use crate::fixture::support::{provenance, publish, tiny};

/// Keeps nothing that it need not keep.
pub const STRICT: Retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };

/// What is in a store after `work`.
pub fn prologue<F: Future<Output = ()>>(work: impl FnOnce(Root) -> F) -> Objects {
    let world = World::new(Objects::new(), Vec::new(), Rules::default(), false, false);
    let root = Seen { world: Arc::clone(&world), process: None }.root();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(work(root));
    let state = world.lock();
    state.objects.clone()
}

/// A scene without faults.
pub fn scene(name: &'static str, objects: Objects, processes: Vec<Body>) -> Scene {
    let rules = Rules::new(1, &objects);
    Scene {
        name,
        objects,
        processes,
        lies: Vec::new(),
        faults: Vec::new(),
        jumps: Vec::new(),
        still: None,
        fine: true,
        apart: false,
        rules,
        one_run: false,
        after: Arc::new(settled),
    }
}

/// Snapshots of these contents, and files that nothing names.
pub fn snapshots(contents: &'static [&'static str], unnamed: &'static [&'static str]) -> Objects {
    prologue(|root| async move {
        let mut parent = None;
        for content in contents {
            let content = tiny(&root, content).await.unwrap();
            parent = Some(publish(&root, parent.as_ref(), content, "before").await);
        }
        for content in unnamed {
            tiny(&root, content).await.unwrap();
        }
    })
}

pub fn told(outcome: Result<CommitOutcome>) -> Told {
    match outcome {
        Ok(CommitOutcome::Committed(manifest)) => Told::Published(manifest.number),
        Ok(CommitOutcome::LostTo(_)) => Told::Nothing,
        Ok(CommitOutcome::Blocked { by }) => Told::Failed(format!("blocked by {by}")),
        Err(error) => failed(&error),
    }
}

/// What a process calls its run.
pub fn run_of(process: usize) -> String {
    format!("run of {process}")
}

/// Publishes a content of its own on top of what is the newest.
pub fn publisher(tag: &'static str) -> Body {
    body(move |Seat { root, me, .. }| async move {
        let publishing = async {
            let parent = newest(&root).await?;
            let content = tiny(&root, tag).await?;
            commit(&root, parent.as_ref(), content, Vec::new(), provenance(&run_of(me))).await
        };
        told(publishing.await)
    })
}

pub fn collector(retention: Retention) -> Body {
    body(move |Seat { root, world, .. }| {
        let retention = retention.clone();
        async move {
            let (now, nobody) = (world.now(), Protected::default());
            match snapshot::gc(&root, &retention, now, false, &nobody).await {
                Ok(report) => Told::Did(format!("deleted {}", report.deleted.len())),
                Err(error) => failed(&error),
            }
        }
    })
}

pub fn roller(to: u64) -> Body {
    body(move |Seat { root, me, .. }| async move {
        match snapshot::rollback(&root, to, provenance(&run_of(me))).await {
            Ok(RollbackOutcome::Committed(manifest)) => Told::Published(manifest.number),
            Ok(RollbackOutcome::AlreadyServed(_) | RollbackOutcome::LostTo(_)) => Told::Nothing,
            Err(error) => failed(&error),
        }
    })
}

/// Reads every file of the newest snapshot under a lease.
pub fn reader() -> Body {
    body(|Seat { root, me, world }| async move {
        let reading = async {
            let Some(newest) = newest(&root).await? else { return Ok(Told::Nothing) };
            let lease = ReaderLease::take(&root, newest.number).await?;
            let own = |key: &String| {
                matches!(layout::parse(key),
                Some(Key::ReaderLease { snapshot, .. }) if snapshot == newest.number)
            };
            let key = world.lock().objects.keys().find(|key| own(key)).cloned();
            world.lock().rules.reads.extend(key.clone());
            for file in newest.content.files() {
                if root.size(&file.path).await? != Some(file.size) {
                    let lacks = format!("reader {me} misses {}", file.path);
                    world.lock().rules.breaks("readers see whole snapshots only", lacks);
                }
            }
            world.lock().rules.reads.retain(|lease| Some(lease) != key.as_ref());
            lease.release().await;
            Ok(Told::Did(format!("read {}", newest.number)))
        };
        reading.await.unwrap_or_else(|error| failed(&error))
    })
}

/// Takes the lease of runs, works, gives a sign of life, and ends.
pub fn worker() -> Body {
    body(|Seat { root, me, world }| async move {
        let run = format!("20260101T000000Z-{:08x}", rand::random::<u32>());
        let lease = match RunLease::take(&root, &run).await {
            Ok(Taken::Ours(lease)) => lease,
            Ok(Taken::Busy(_)) => return Told::Nothing,
            Err(error) => return failed(&error),
        };
        let working = async {
            {
                let mut state = world.lock();
                let ours = state.objects.iter().find_map(|(key, object)| {
                    let Some(Key::RunLease { number }) = layout::parse(key) else { return None };
                    let text = String::from_utf8_lossy(&object.bytes);
                    text.contains(&run).then_some(number)
                });
                let state = &mut *state;
                if let Some(number) = ours {
                    state.rules.holds(number, me, &state.objects, state.now);
                }
            }
            lease.beat().await?;
            lease.check().await
        };
        let worked = working.await;
        lease.release().await;
        worked.map_or_else(|error| failed(&error), |()| Told::Did("worked".to_owned()))
    })
}

/// Two publishers of different contents.
pub fn two_publishers() -> Scene {
    let mut scene =
        scene("two publishers", snapshots(&["one"], &[]), vec![publisher("a"), publisher("b")]);
    scene.faults = vec![Fault::Unheard, Fault::Fails, Fault::Dies];
    scene.after = Arc::new(|end| {
        settled(end)?;
        let published = |told: &&Told| matches!(told, Told::Published(_));
        match end.told.iter().filter(published).count() {
            0 if end.faults == 0 => Err("of two publishers one wins: none did".to_owned()),
            _ => Ok(()),
        }
    });
    scene
}

/// The same where reads fail too.
pub fn two_publishers_in_bad_weather() -> Scene {
    let mut scene = two_publishers();
    scene.name = "two publishers in bad weather";
    scene.faults = vec![Fault::Unread];
    scene
}

/// A publisher that takes up a file that nothing names, beside a gc.
pub fn publisher_and_gc() -> Scene {
    let objects = snapshots(&["one", "two"], &["three"]);
    let mut scene =
        scene("a publisher and a gc", objects, vec![publisher("three"), collector(STRICT)]);
    scene.faults = vec![Fault::Unheard, Fault::Fails, Fault::Dies];
    scene
}

/// A rollback beside a gc that is about to delete what it goes back to.
pub fn rollback_and_gc() -> Scene {
    let objects = snapshots(&["one", "two", "three"], &[]);
    let mut scene = scene("a rollback and a gc", objects, vec![roller(1), collector(STRICT)]);
    scene.faults = vec![Fault::Unheard, Fault::Dies];
    scene.after = Arc::new(after::unless_gone);
    scene
}

/// A rollback beside a publisher.
pub fn rollback_and_publisher() -> Scene {
    let objects = snapshots(&["one", "two"], &[]);
    let mut scene = scene("a rollback and a publisher", objects, vec![roller(1), publisher("a")]);
    scene.faults = vec![Fault::Unheard, Fault::Dies];
    scene
}

/// A reader beside a publisher and a gc.
pub fn reader_publisher_gc() -> Scene {
    let objects = snapshots(&["one"], &[]);
    let processes = vec![reader(), publisher("two"), collector(STRICT)];
    let mut scene = scene("a reader, a publisher and a gc", objects, processes);
    scene.after = Arc::new(after::unless_gone);
    scene
}

/// Two runs that want the lease; one may die or stand still.
pub fn two_runs() -> Scene {
    let mut scene = scene("two leases of runs", Objects::new(), vec![worker(), worker()]);
    scene.faults = vec![Fault::Unheard, Fault::Dies];
    scene.jumps = vec![6 * 60];
    scene
}

/// Two gcs and a publisher.
pub fn two_gcs_and_publisher() -> Scene {
    let objects = snapshots(&["one", "two"], &["three"]);
    let processes = vec![publisher("three"), collector(STRICT), collector(STRICT)];
    let mut scene = scene("two gcs and a publisher", objects, processes);
    scene.after = Arc::new(after::unless_gone);
    scene
}

/// A publisher and a gc that stand still for longer than a lease lasts, but not in the middle of a request.
pub fn standing_publisher_and_gc() -> Scene {
    let mut scene = publisher_and_gc();
    scene.name = "a publisher and a gc that stand still";
    scene.faults = Vec::new();
    scene.jumps = vec![16 * 60];
    scene.apart = true;
    scene.after = Arc::new(after::unless_late);
    scene
}

/// The same on machines that stand still: not all of their clocks go on.
pub fn still_machines(still: Still) -> Scene {
    let mut scene = standing_publisher_and_gc();
    scene.name = match still {
        Still::Suspended => "a publisher and a gc on machines that are suspended",
        Still::Paused => "a publisher and a gc on machines that are paused",
    };
    scene.still = Some(still);
    scene
}

/// A publisher that stands still until a gc has taken away both its files and the snapshot of its number.
pub fn late_publisher() -> Scene {
    let objects = snapshots(&["one"], &["late"]);
    let processes =
        vec![publisher("late"), publisher("two"), publisher("three"), collector(STRICT)];
    let mut scene = scene("a publisher that comes late", objects, processes);
    scene.jumps = vec![16 * 60];
    scene.apart = true;
    scene.after = Arc::new(after::unless_late);
    scene
}
