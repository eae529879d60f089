//! Between the host's memory and the device's: one copy there for each batch, one copy back. Both are in the order of
//! the batch's own work, so that nothing is read before it is there or written while it is read.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::fault::fault;
use super::staging::{Read, Staging, Upload};

/// Puts `more` behind `staged` and says where.
pub(super) fn words(staged: &mut Vec<u32>, more: impl Iterator<Item = u32>) -> Range<usize> {
    let start = staged.len();
    staged.extend(more);
    start..staged.len()
}

/// The copies of one tower.
pub(crate) struct Transfer(Way);

enum Way {
    /// A device that computes on the caller's thread.
    Here(Mutex<Staging<Here>>),
    #[cfg(feature = "cuda")]
    Cuda(Mutex<Staging<cuda::Pinned>>),
}

/// When a device began a batch.
pub(super) enum Begun {
    Here(Instant),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Event),
}

impl Transfer {
    pub(super) fn new(device: &Device) -> Result<Self> {
        Ok(Self(match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Way::Cuda(Mutex::new(Staging::new(cuda::Pinned::new(device)?))),
            _ => Way::Here(Mutex::new(Staging::new(Here(device.clone())))),
        }))
    }

    /// Notes that the device begins a batch once it has done everything before.
    pub(super) fn begin(&self) -> Result<Begun> {
        match &self.0 {
            Way::Here(_) => Ok(Begun::Here(Instant::now())),
            #[cfg(feature = "cuda")]
            Way::Cuda(staging) => Ok(Begun::Cuda(locked(staging).way().event()?)),
        }
    }

    /// `words` on the device, `[words]`.
    pub(super) fn upload(&self, words: &[u32]) -> Result<Tensor> {
        match &self.0 {
            Way::Here(staging) => locked(staging).upload(words),
            #[cfg(feature = "cuda")]
            Way::Cuda(staging) => locked(staging).upload(words),
        }
    }

    /// Starts the copy of f32 `states` back to the host.
    pub(super) fn land(&self, states: Tensor, begun: Begun) -> Result<Landing> {
        match (&self.0, begun) {
            #[cfg(feature = "cuda")]
            (Way::Cuda(staging), Begun::Cuda(begun)) => {
                locked(staging).way().land(&states, begun).map(Landing::Pinned)
            }
            (_, Begun::Here(begun)) => {
                let seconds = begun.elapsed().as_secs_f64();
                Ok(Landing::Tensor { states, seconds })
            }
            #[cfg(feature = "cuda")]
            (Way::Here(_), Begun::Cuda(_)) => candle_core::bail!("begun on another device"),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies at once.
pub(super) struct Here(Device);

impl Upload for Here {
    type Block = ();
    type Copied = Tensor;
    type Read = ();

    fn block(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn room((): &()) -> usize {
        usize::MAX
    }

    fn copy(&self, (): &mut (), words: &[u32]) -> Result<(Tensor, ())> {
        Ok((Tensor::from_slice(words, words.len(), &self.0)?, ()))
    }
}

impl Read for () {
    fn is_over(&self) -> Result<bool> {
        Ok(true)
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

/// States on their way to the host.
pub(crate) enum Landing {
    /// They are there.
    Tensor { states: Tensor, seconds: f64 },
    /// The device copies them when it comes to it.
    #[cfg(feature = "cuda")]
    Pinned(cuda::Copied),
}

impl Landing {
    /// Waits for this batch, not for those after it: its states, row-major, and how long the device was at it.
    pub(crate) fn wait(self) -> crate::error::Result<(Vec<f32>, f64)> {
        let states = match self {
            Self::Tensor { states, seconds } => {
                states.flatten_all().and_then(|states| Ok((states.to_vec1()?, seconds)))
            }
            #[cfg(feature = "cuda")]
            Self::Pinned(copied) => copied.wait(),
        };
        fault(states, "copying vectors from the device")
    }
}
