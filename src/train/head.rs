//! A linear map behind the pooling, as sentence-transformers' modules.

use std::path::Path;

use candle_core::Tensor;
use serde_json::{Value, json};

use super::files::{cannot, save_tensors, write, write_json};
use crate::error::Result;
use crate::types::Pooling;

/// Writes `weight` `[outputs, inputs]`, and a bias `[outputs]`, into `folder`: `Normalize`, `Dense`, `Normalize`; numbers as
/// f16. It is what `tower.head` names; with a pooling, `folder` has the model, and the modules are all of it.
///
/// # Errors
/// Those of the disk.
pub(super) fn write_modules(
    folder: &Path,
    pooling: Option<Pooling>,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<()> {
    let [outputs, inputs] = [weight.dims()[0], weight.dims()[1]];
    let mut kinds = vec!["Normalize", "Dense", "Normalize"];
    if pooling.is_some() {
        kinds.splice(..0, ["Transformer", "Pooling"]);
    }
    let mut modules = Vec::new();
    for (idx, kind) in kinds.into_iter().enumerate() {
        let path = match kind {
            "Transformer" => String::new(),
            _ => format!("{idx}_{kind}"),
        };
        let of_its_own = folder.join(&path);
        std::fs::create_dir_all(&of_its_own).map_err(cannot("write", &of_its_own))?;
        match (kind, pooling) {
            ("Transformer", _) => {}
            ("Pooling", Some(pooling)) => {
                let config =
                    json!({ "embedding_dimension": inputs, "pooling_mode": mode(pooling) });
                write_json(&of_its_own, "config.json", &config)?;
            }
            ("Dense", _) => {
                let config = json!({
                    "in_features": inputs,
                    "out_features": outputs,
                    "bias": bias.is_some(),
                    "activation_function": "torch.nn.modules.linear.Identity",
                });
                write_json(&of_its_own, "config.json", &config)?;
                let bias = bias.map(|bias| ("linear.bias".to_owned(), bias.clone()));
                let weight = ("linear.weight".to_owned(), weight.clone());
                let tensors: Vec<_> = [weight].into_iter().chain(bias).collect();
                save_tensors(&of_its_own.join("model.safetensors"), &tensors, true, None)?;
            }
            _ => write(&of_its_own.join("config.json"), "{}\n")?,
        }
        let class = format!("sentence_transformers.models.{kind}");
        modules.push(json!({"idx": idx, "name": idx.to_string(), "path": path, "type": class}));
    }
    // Last: a folder without it is not a head.
    write_json(folder, "modules.json", &Value::from(modules))
}

/// What sentence-transformers calls it. The token that ends a text is the last one.
fn mode(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::LastToken | Pooling::Eos => "lasttoken",
        Pooling::Mean => "mean",
        Pooling::Cls => "cls",
        Pooling::Max => "max",
        Pooling::MeanSqrtLen => "mean_sqrt_len_tokens",
        Pooling::WeightedMean => "weightedmean",
    }
}
