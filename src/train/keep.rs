//! The parameters of the best looks: files beside the checkpoint, of which the best one, or their mean, is exported.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::files::{cannot, save_tensors};
use super::optimizer::AdamW;
use super::report::ValidationRecord;
use super::tensors::tensor_error;
use crate::error::{Error, Result, ResultExt};

/// A look whose parameters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Steps taken before it.
    pub(super) step: u64,
    score: f64,
    loss: f32,
}

impl Kept {
    fn of(look: &ValidationRecord) -> Self {
        Self { step: look.step, score: look.score, loss: look.loss }
    }

    /// The better one first: by score, of equal ones by loss, of those the earlier.
    fn order(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.loss.total_cmp(&other.loss)).then(self.step.cmp(&other.step))
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("best-{:08}.safetensors", self.step))
    }
}

/// Keeps the parameters of a look, if it is one of the `most` best; those before step `from` are none. `kept` is in order,
/// the best first.
pub(super) fn offer(
    kept: &mut Vec<Kept>,
    look: &ValidationRecord,
    most: usize,
    from: u64,
    optimizer: &AdamW,
    folder: &Path,
) -> Result<()> {
    let own = Kept::of(look);
    if own.step < from {
        return Ok(());
    }
    kept.retain(|one| one.step != own.step);
    kept.push(own);
    kept.sort_by(Kept::order);
    kept.truncate(most);
    if kept.contains(&own) {
        let values: Vec<(String, Tensor)> = optimizer
            .slots
            .iter()
            .map(|slot| (slot.name.clone(), slot.var.as_detached_tensor()))
            .collect();
        std::fs::create_dir_all(folder).map_err(cannot("write", folder))?;
        save_tensors(&own.path(folder), &values, false, None)?;
    }
    Ok(())
}

/// Removes parameters that are not kept any more: only once a checkpoint that does not name them is written.
pub(super) fn sweep(kept: &[Kept], folder: &Path) -> Result<()> {
    let io = cannot("read", folder);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ours = name.starts_with("best-") && name.ends_with(".safetensors");
        if is_ours && kept.iter().all(|one| one.path(folder) != path) {
            std::fs::remove_file(&path).map_err(cannot("remove", &path))?;
        }
    }
    Ok(())
}

/// How many looks in a row, up to the last, were not the best so far.
pub(super) fn looks_since_best(looks: &[ValidationRecord]) -> u64 {
    let best = looks.iter().enumerate().min_by(|a, b| Kept::of(a.1).order(&Kept::of(b.1)));
    best.map_or(0, |(at, _)| (looks.len() - 1 - at) as u64)
}

/// Puts the parameters of the best look into the optimizer, or the mean of all that are kept where `judge` finds it better.
/// Gives the steps of those that went into them: none where nothing is kept.
pub(super) fn put_best(
    kept: &[Kept],
    optimizer: &AdamW,
    folder: &Path,
    mut judge: impl FnMut() -> Result<ValidationRecord>,
) -> Result<Vec<u64>> {
    let Some(best) = kept.first() else { return Ok(Vec::new()) };
    if kept.len() > 1 {
        put(kept, optimizer, folder)?;
        let mean = judge()?;
        if mean.loss.is_finite() && Kept::of(&mean).order(best) == Ordering::Less {
            return Ok(kept.iter().map(|one| one.step).collect());
        }
    }
    put(&kept[..1], optimizer, folder)?;
    Ok(vec![best.step])
}

/// Puts into the optimizer what [`put_best`] gave these `steps` for, or without that the parameters of the best look. Where
/// nothing is kept, the optimizer stays as it is.
pub(super) fn put_again(
    kept: &[Kept],
    steps: &[u64],
    optimizer: &AdamW,
    folder: &Path,
) -> Result<()> {
    let are_all = kept.iter().map(|one| one.step).eq(steps.iter().copied());
    match kept {
        [] => Ok(()),
        all if are_all => put(all, optimizer, folder),
        [best, ..] => put(std::slice::from_ref(best), optimizer, folder),
    }
}

/// Puts the mean of what is kept into the optimizer.
fn put(kept: &[Kept], optimizer: &AdamW, folder: &Path) -> Result<()> {
    let files = kept
        .iter()
        .map(|one| {
            let path = one.path(folder);
            candle_core::safetensors::load(&path, &candle_core::Device::Cpu).map_err(|e| {
                Error::corrupt(format!(
                    "cannot read {}, which the checkpoint names: {e}",
                    path.display()
                ))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    for slot in &optimizer.slots {
        let values =
            files.iter().map(|file| file.get(&slot.name)).collect::<Option<Vec<&Tensor>>>();
        let values = values
            .filter(|values| values.iter().all(|value| value.dims() == slot.var.dims()))
            .ok_or_else(|| Error::corrupt(format!("no {} among the best parameters", slot.name)))?;
        let mean = || {
            let sum = values[1..].iter().try_fold(values[0].clone(), |sum, value| sum + *value)?;
            slot.var.set(&(sum / values.len() as f64)?.to_device(slot.var.device())?)
        };
        mean().map_err(tensor_error).context(|| folder.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{Device, Var};

    use super::*;
    use crate::train::options::OptimizerOptions;

    #[test]
    fn the_best_are_kept_and_their_mean_where_it_is_better() {
        let dir = tempfile::tempdir().unwrap();
        let var = Var::from_vec(vec![0f32], 1, &Device::Cpu).unwrap();
        let adam =
            AdamW::new(vec![("w".into(), var.clone())], OptimizerOptions::default()).unwrap();
        let set = |value: f32| var.set(&Tensor::new(&[value], &Device::Cpu).unwrap()).unwrap();
        let value = || var.to_vec1::<f32>().unwrap()[0];
        let look = |step, score, loss| {
            let (accuracy, ndcg) = (0.0, BTreeMap::new());
            ValidationRecord { step, loss, accuracy, score, ndcg }
        };
        let looks = [
            look(0, 0.99, 0.0),
            look(1, 0.3, 1.0),
            look(2, 0.5, 1.0),
            look(3, 0.5, 0.5),
            look(4, 0.4, 0.1),
        ];
        let mut kept = Vec::new();
        for look in &looks {
            set(look.step as f32);
            offer(&mut kept, look, 2, 1, &adam, dir.path()).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        sweep(&kept, dir.path()).unwrap();
        assert_eq!(kept.iter().map(|one| one.step).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!((looks_since_best(&looks), looks_since_best(&looks[1..])), (4, 1));
        let put = |score| put_best(&kept, &adam, dir.path(), || Ok(look(9, score, 0.0))).unwrap();
        assert_eq!((put(0.6), value()), (vec![3, 2], 2.5));
        assert_eq!((put(0.2), value()), (vec![3], 3.0));
        let broken = put_best(&kept, &adam, dir.path(), || Ok(look(9, 0.6, f32::NAN))).unwrap();
        assert_eq!((broken, value()), (vec![3], 3.0));
        assert!(put_best(&[], &adam, dir.path(), || unreachable!()).unwrap().is_empty());
        // Later, what it was found to be.
        let again = |kept: &[Kept], steps: &[u64]| {
            put_again(kept, steps, &adam, dir.path()).unwrap();
            value()
        };
        assert_eq!([again(&kept, &[3, 2]), again(&kept, &[3]), again(&kept, &[])], [2.5, 3.0, 3.0]);
        set(7.0);
        assert_eq!(again(&[], &[]), 7.0);
        std::fs::remove_file(kept[0].path(dir.path())).unwrap();
        let lost = put_best(&kept, &adam, dir.path(), || Ok(look(9, 0.6, 0.0))).unwrap_err();
        assert!(lost.to_string().contains("best-00000003"), "{lost}");
    }
}
