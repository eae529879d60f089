//! The models: on this machine, or on a hub that answers.

use std::sync::Arc;

use super::check::{Check, blocking};
use crate::config::Pipeline;
use crate::error::ErrorKind;
use crate::exec::context::check_query_tower;
use crate::exec::machine::memory;
use crate::observe::{Reporter, format};
use crate::tower::{Tower, TowerOptions};

pub(super) async fn checks(pipeline: &Pipeline, reporter: &Arc<dyn Reporter>) -> Vec<Check> {
    let mut checks = Vec::new();
    let here = one("tower", &pipeline.tower, pipeline, reporter, &mut checks).await;
    if let Some(query) = &pipeline.query.tower {
        let query_here = one("query tower", query, pipeline, reporter, &mut checks).await;
        // They were made for each other, or not; that takes the files of both.
        if here && query_here {
            checks.push(match check_query_tower(pipeline, reporter).await {
                Ok(_) => Check::fine("towers", "queries and notes are encoded into one space"),
                Err(error) => Check::failed("towers", &error),
            });
        }
    }
    if let Some(next) = &pipeline.next {
        one("next tower", &next.tower, pipeline, reporter, &mut checks).await;
    }
    checks
}

/// Looks for one model; whether it is here.
async fn one(
    name: &str,
    options: &TowerOptions,
    pipeline: &Pipeline,
    reporter: &Arc<dyn Reporter>,
    checks: &mut Vec<Check>,
) -> bool {
    let model = &options.model;
    let tower = match Tower::resolve_here(options, &pipeline.base_dir, reporter).await {
        Ok(Some(tower)) => tower,
        Ok(None) => {
            checks.push(away(name, options, pipeline).await);
            return false;
        }
        Err(error) => {
            checks.push(Check::failed(name, &error));
            return false;
        }
    };
    let needed = tower.memory(pipeline.encode.token_budget as usize);
    let found = format!(
        "{model} is here: {}, {} parameters, about {} of memory",
        tower.family(),
        format::count(tower.parameters()),
        format::bytes(needed)
    );
    let is_on_processor = pipeline.encode.devices.iter().any(|device| device.starts_with("cpu"));
    let memory = blocking(memory).await.ok().flatten();
    let free = memory.map(|memory| memory.free).filter(|_| is_on_processor);
    checks.push(match free {
        Some(free) if free < needed => Check::wrong(
            name,
            format!("{found}, and {} are free", format::bytes(free)),
            "free some, lower encode.token_budget, or take a smaller model or arithmetic (bf16, int8)",
            ErrorKind::Resource,
        ),
        _ => Check::fine(name, found),
    });
    true
}

/// A hub's model that is not here.
async fn away(name: &str, options: &TowerOptions, pipeline: &Pipeline) -> Check {
    let model = &options.model;
    match options.commit(&pipeline.base_dir).await {
        Ok(Some(commit)) => Check::fine(
            name,
            format!(
                "{model} is not here yet; the hub answers, and the first run fetches commit {commit}"
            ),
        ),
        Ok(None) => Check::wrong(
            name,
            format!("{model} is not on this machine, and the hub does not answer for it"),
            "look at its name, at the network and its proxy, at HF_ENDPOINT and HF_HUB_OFFLINE, and for a closed model at \
             HF_TOKEN; or name a folder that holds the model",
            ErrorKind::NotFound,
        ),
        Err(error) => Check::failed(name, &error),
    }
}
