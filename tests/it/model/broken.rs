//! The search can fail: each wrong decision, made by the real code because its store lies to it, is found.

use std::sync::Arc;
use std::time::Duration;

use super::core;
use super::lies::Lie;
use super::scene::{Bounds, Scene};

/// Which rule the search says is broken where the processes are told this wrongly.
#[track_caller]
fn finds(mut scene: Scene, lies: &[&[Lie]], bounds: Bounds, rule: &str) {
    scene.lies = lies.iter().map(|lies| lies.to_vec()).collect();
    let outcome = scene.search(bounds, Duration::from_secs(60));
    let finding = outcome.finding.unwrap_or_else(|| panic!("{}: {rule} is not found", scene.name));
    assert!(finding.broken.starts_with(rule), "{rule}: {finding}");
    println!("{}: found after {} executions: {}", scene.name, outcome.executions, finding.broken);
}

const ONE_TURN: Bounds = Bounds { turns: Some(1), faults: 0, jumps: 0 };
const TWO_TURNS: Bounds = Bounds { turns: Some(2), faults: 0, jumps: 0 };

#[test]
fn a_bucket_that_ignores_conditions_is_found() {
    let lie: &[Lie] = &[Lie::Overwrites];
    finds(core::two_publishers(), &[lie, lie], ONE_TURN, "nothing is overwritten");
}

#[test]
fn a_gc_that_does_not_look_for_publishers_is_found() {
    let gc: &[Lie] = &[Lie::Blind("leases/commit-")];
    finds(core::publisher_and_gc(), &[&[], gc], TWO_TURNS, "a snapshot is whole or absent");
}

#[test]
fn a_publisher_that_does_not_wait_for_a_gc_is_found() {
    let publisher: &[Lie] = &[Lie::Blind("leases/gc-")];
    finds(core::publisher_and_gc(), &[publisher, &[]], TWO_TURNS, "a snapshot is whole or absent");
}

#[test]
fn a_publisher_that_does_not_look_again_is_found() {
    let publisher: &[Lie] = &[Lie::StillThere];
    finds(core::publisher_and_gc(), &[publisher, &[]], ONE_TURN, "a snapshot is whole or absent");
}

#[test]
fn a_gc_that_does_not_look_for_readers_is_found() {
    let gc: &[Lie] = &[Lie::Blind("leases/reader-")];
    let scene = core::reader_publisher_gc();
    finds(scene, &[&[], &[], gc], ONE_TURN, "what a reader reads stays");
}

#[test]
fn a_run_that_takes_over_at_once_is_found() {
    let mut scene = core::two_runs();
    (scene.apart, scene.jumps, scene.faults) = (true, Vec::new(), Vec::new());
    // It neither sees how old the lease is nor, afterwards, that there are two.
    let hasty: &[Lie] = &[Lie::Ages("leases/run-"), Lie::Ages("leases/beat-")];
    finds(scene, &[&[], hasty], ONE_TURN, "a live run is not taken over");
}

#[test]
fn a_gc_without_a_grace_time_is_found() {
    // What a scheduler's tasks have written is young, and no lease protects it.
    let scene = super::runs::tasks_and_gc();
    let hasty: &[Lie] = &[
        Lie::Ages("embeddings/"),
        Lie::Ages("indexes/"),
        Lie::Ages("runs/"),
        Lie::Ages("prepared/"),
    ];
    finds(scene, &[&[], hasty], ONE_TURN, "nothing fails without a fault");
}

#[test]
fn a_purge_without_tombstones_is_found() {
    let purge: &[Lie] = &[Lie::ForgetsPurged];
    finds(super::purges::purge_then_run(), &[purge, &[]], ONE_TURN, "what is purged stays away");
}

#[test]
fn a_purge_that_deletes_nothing_is_found() {
    let purge: &[Lie] = &[Lie::Keeps];
    finds(super::purges::purge_then_run(), &[purge, &[]], ONE_TURN, "a purge leaves nothing");
}

#[test]
fn a_lost_acknowledgement_that_is_taken_for_a_failure_is_found() {
    let mut scene = core::two_publishers();
    // What it reads back afterwards is hidden from it: the snapshot and its own lease.
    scene.faults = vec![super::scene::Fault::Unheard];
    scene.after = Arc::new(super::after::settled);
    let bounds = Bounds { turns: Some(0), faults: 1, jumps: 0 };
    finds(scene, &[&[Lie::Deaf("snapshots/")], &[]], bounds, "who published is told so");
}
