//! What must hold when all processes have ended.

use std::collections::BTreeMap;

use scalingnote::store::layout::{self, Folder};

use super::scene::End;
use super::world::Told;

/// Whoever published was told so, and nobody else; every number and every run counts once; no lease is left.
pub fn settled(end: &End) -> Result<(), String> {
    let state = end.world.lock();
    let rules = &state.rules;
    for (me, told) in end.told.iter().enumerate() {
        let of_me = |number: &u64| rules.published[number].iter().any(|by| by.process == Some(me));
        let own = rules.published.keys().copied().find(of_me);
        let counts = |number: u64| rules.counts(number);
        match told {
            Told::Published(number) => {
                let published = rules.published.get(number);
                let is_own = own == Some(*number);
                // Two steps of one plan may both be told.
                let is_shared = end.one_run && published.is_some();
                if !is_own && !is_shared {
                    return Err(format!("what was acknowledged is published: {me}, {number}"));
                }
            }
            // A purge that stopped after its commit is asked for again, and goes on.
            Told::Again(_) if rules.purges.contains(&me) => {}
            Told::Nothing | Told::Failed(_) | Told::Again(_)
                if own.is_some_and(counts) && !end.one_run =>
            {
                let says_so = |text: &String| {
                    let said = ["not known whether", "is published, but", "is in place"];
                    said.iter().any(|said| text.contains(said))
                };
                let unsure =
                    matches!(told, Told::Again(text) | Told::Failed(text) if says_so(text));
                if !unsure {
                    return Err(format!("who published is told so: {me}"));
                }
            }
            Told::Failed(_) if end.faults == 0 => {
                return Err(format!("nothing fails without a fault: {me}"));
            }
            _ => {}
        }
    }
    let mut runs: BTreeMap<&str, u64> = BTreeMap::new();
    for (number, all) in &rules.published {
        if all.windows(2).any(|two| two[0].run != two[1].run) && rules.counts(*number) {
            return Err(format!("a number is used once: {number}"));
        }
        for by in all.iter().filter(|by| by.process.is_some()) {
            if runs.insert(&by.run, *number).is_some_and(|other| other != *number) {
                return Err(format!("a run publishes once: {}, {number}", by.run));
            }
        }
    }
    let left = state.objects.keys().find(|key| layout::folder(key) == Some(Folder::Leases));
    match left {
        Some(lease) if end.faults == 0 => Err(format!("leases are released: {lease} is left")),
        _ => Ok(()),
    }
}

/// [`settled`], where what somebody asked for may be gone.
pub fn unless_gone(end: &End) -> Result<(), String> {
    forgives(end, &["NotFound"])
}

/// [`settled`], where somebody stood still for so long that others cleared up behind it.
pub fn unless_late(end: &End) -> Result<(), String> {
    let late = end.told.iter().any(|told| !matches!(told, Told::Published(_) | Told::Did(_)));
    match settled(end) {
        Err(broken) if broken.starts_with("leases are released") && late => Ok(()),
        judged => judged.or_else(|broken| forgiven(end, broken, &["NotFound", "is gone from"])),
    }
}

/// [`settled`], where errors that say one of these are expected without a fault.
pub fn forgives(end: &End, texts: &[&str]) -> Result<(), String> {
    settled(end).or_else(|broken| forgiven(end, broken, texts))
}

fn forgiven(end: &End, broken: String, texts: &[&str]) -> Result<(), String> {
    let expected = |told: &Told| match told {
        Told::Failed(text) => texts.iter().any(|expected| text.contains(expected)),
        _ => true,
    };
    match broken.starts_with("nothing fails") && end.told.iter().all(expected) {
        true => Ok(()),
        false => Err(broken),
    }
}
