//! What a run leaves behind: adapters that PEFT loads, weights that transformers loads, and on the query side the
//! embedding space it was trained for.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use serde_json::json;

use super::build::QUERY;
use super::options::TrainOptions;
use super::step::{Model, QueryTower, Tracked};
use crate::error::Result;
use crate::tower::{Exported, Tower};
use crate::train::files::{cannot, save_tensors, write_json};
use crate::train::optimizer::AdamW;
use crate::types::EmbeddingSpace;

/// Writes `adapter/` or `model/` and, where the query side has parameters of its own, `query-adapter/` or `query-model/`
/// into `output`. The query side carries the space of the document tower as exported here, so that no other document
/// tower's snapshot admits it; without `document` (in tests of the loop alone) it carries none.
pub(super) fn export(
    model: &Model,
    optimizer: &AdamW,
    options: &TrainOptions,
    document: Option<&Tower>,
    output: &Path,
    half: bool,
) -> Result<()> {
    let cut = options.tower.layers.is_some();
    let base = &options.tower.model;
    let own = |name: &&str| !name.starts_with(QUERY);
    let names = optimizer.slots.iter().map(|slot| slot.name.as_str());
    let exported = match &model.document.adapter {
        Some(adapter) => {
            let folder = output.join("adapter");
            adapter.export(&folder, base, half, cut, None)?;
            Exported::Adapter(folder)
        }
        None => {
            let folder = output.join("model");
            let names: Vec<&str> = names.clone().filter(own).collect();
            write_model(&model.document, optimizer, &names, &folder, half, None)?;
            Exported::Model(folder)
        }
    };
    let Some(query) = &model.query else { return Ok(()) };
    let space = document.map(|tower| tower.space_with(&exported)).transpose()?;
    let query = match query {
        QueryTower::Decoder(query) => query,
        QueryTower::Student { student, vars } => {
            return student.export(&output.join("query-model"), vars, space.as_ref());
        }
    };
    match &query.adapter {
        Some(adapter) => {
            let ours = space.map(|space| json!({ "teacher": space }).to_string());
            let ours = ours.map(|text| HashMap::from([("scalingnote".to_owned(), text)]));
            let cut = cut || options.query.layers.is_some();
            adapter.export(&output.join("query-adapter"), base, half, cut, ours)
        }
        None => {
            let names: Vec<&str> = names.filter(|name| !own(name)).collect();
            let folder = output.join("query-model");
            write_model(query, optimizer, &names, &folder, half, space.as_ref())
        }
    }
}

/// Writes `model.safetensors` and `config.json` of one side: the parameters of these names, and what was not trained.
fn write_model(
    side: &Tracked,
    optimizer: &AdamW,
    names: &[&str],
    folder: &Path,
    half: bool,
    teacher: Option<&EmbeddingSpace>,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(cannot("write", folder))?;
    let slots = optimizer.slots.iter().filter(|slot| names.contains(&slot.name.as_str()));
    let mut tensors: Vec<(String, Tensor)> = slots
        .map(|slot| {
            let name = slot.name.strip_prefix(QUERY).unwrap_or(&slot.name);
            (name.to_owned(), slot.var.as_detached_tensor())
        })
        .collect();
    tensors.extend(side.decoder.frozen());
    save_tensors(&folder.join("model.safetensors"), &tensors, half, None)?;
    let mut config = side.decoder.hugging_face_config();
    if half {
        config["torch_dtype"] = "float16".into();
    }
    if let Some(teacher) = teacher {
        config["scalingnote"] = json!({ "teacher": teacher });
    }
    write_json(folder, "config.json", &config)
}
