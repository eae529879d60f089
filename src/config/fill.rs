//! What a pipeline leaves to its models, filled in from their files.

use super::origin::Origin;
use super::resolve::Resolved;
use crate::tower::{Tower, TowerOptions};

/// A tower that a pipeline names.
#[derive(Debug, Clone)]
pub struct Named {
    /// The section that names the model.
    pub section: &'static str,
    /// The section that its prompts are set in: queries have their own.
    pub prompts: &'static str,
    /// What is asked of it.
    pub options: TowerOptions,
}

impl Resolved {
    /// The towers of the pipeline, those of `[next]` after it. Where the document tower encodes queries too, it is
    /// there twice.
    pub fn towers(&self) -> Vec<Named> {
        let after = self.pipeline.after_next();
        let pipelines = [
            (Some(&self.pipeline), "tower", "query.tower", "query"),
            (after.as_ref(), "next.tower", "next.query.tower", "next.query"),
        ];
        let mut towers = Vec::new();
        for (pipeline, document, own, query) in pipelines {
            let Some(pipeline) = pipeline else { continue };
            let options = pipeline.tower.clone();
            towers.push(Named { section: document, prompts: document, options });
            // The prompts of a query tower are in its own section, else in that of queries.
            let (section, prompts) = match pipeline.query.tower {
                Some(_) => (own, own),
                None => (document, query),
            };
            towers.push(Named { section, prompts, options: pipeline.query_tower() });
        }
        towers
    }

    /// Fills in what a tower's options left to its model; the pipeline means the same afterwards.
    pub fn fill(&mut self, named: &Named, tower: &Tower) {
        for understood in tower.understood() {
            let is_prompt = understood.key.starts_with("prompt_");
            let section = if is_prompt { named.prompts } else { named.section };
            if self.set(section, understood.key, tower.options()) && understood.by != "default" {
                let path = format!("{section}.{}", understood.key);
                let origin = Origin::Model(understood.by.clone());
                self.pipeline.origins.by_key.insert(path, origin);
            }
        }
    }

    /// Copies one option of a tower into a section; false where something is there already.
    fn set(&mut self, section: &str, key: &str, from: &TowerOptions) -> bool {
        let pipeline = &mut self.pipeline;
        let (query, tower) = match section.strip_prefix("next.") {
            None => (&mut pipeline.query, &mut pipeline.tower),
            Some(_) => match &mut pipeline.next {
                None => return false,
                Some(next) => (&mut next.query, &mut next.tower),
            },
        };
        if section.ends_with("query") {
            return match key {
                "prompt_prefix" => fill(&mut query.prompt_prefix, &from.prompt_prefix),
                "prompt_suffix" => fill(&mut query.prompt_suffix, &from.prompt_suffix),
                _ => false,
            };
        }
        let own = section.ends_with("query.tower");
        let Some(tower) = (if own { query.tower.as_mut() } else { Some(tower) }) else {
            return false;
        };
        match key {
            "pooling" => fill(&mut tower.pooling, &from.pooling),
            "prompt_prefix" => fill(&mut tower.prompt_prefix, &from.prompt_prefix),
            "prompt_suffix" => fill(&mut tower.prompt_suffix, &from.prompt_suffix),
            "max_tokens" => fill(&mut tower.max_tokens, &from.max_tokens),
            "normalize" => fill(&mut tower.normalize, &from.normalize),
            _ => false,
        }
    }
}

fn fill<T: Clone>(place: &mut Option<T>, value: &Option<T>) -> bool {
    let empty = place.is_none();
    if empty {
        place.clone_from(value);
    }
    empty
}
