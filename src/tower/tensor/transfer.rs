//! Between the host's memory and the device's: one copy there for each batch, one copy back, neither of which the
//! other batches wait for.

use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};

use super::fault::fault;

/// Puts `more` behind `staged` and says where.
pub(super) fn words(staged: &mut Vec<u32>, more: impl Iterator<Item = u32>) -> Range<usize> {
    let start = staged.len();
    staged.extend(more);
    start..staged.len()
}

/// The copies of one decoder.
pub(super) struct Transfer {
    device: Device,
    #[cfg(feature = "cuda")]
    cuda: Option<Mutex<cuda::Pinned>>,
}

impl Transfer {
    pub(super) fn new(device: Device) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "cuda")]
            cuda: match &device {
                Device::Cuda(device) => Some(Mutex::new(cuda::Pinned::new(device)?)),
                _ => None,
            },
            device,
        })
    }

    /// `words` on the device, `[words]`.
    pub(super) fn upload(&self, words: Vec<u32>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            return cuda.lock().unwrap_or_else(PoisonError::into_inner).upload(&words);
        }
        let count = words.len();
        Tensor::from_vec(words, count, &self.device)
    }

    /// Starts the copy of f32 `states` back to the host.
    pub(super) fn land(&self, states: Tensor) -> Result<Landing> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            let cuda = cuda.lock().unwrap_or_else(PoisonError::into_inner);
            return cuda.land(&states).map(Landing::Pinned);
        }
        Ok(Landing::Tensor(states))
    }
}

/// States on their way to the host.
pub(crate) enum Landing {
    /// They are there.
    Tensor(Tensor),
    /// The device copies them when it comes to it.
    #[cfg(feature = "cuda")]
    Pinned(cuda::Copied),
}

impl Landing {
    /// Waits for this batch, not for those after it: its states, row-major.
    pub(crate) fn wait(self) -> crate::error::Result<Vec<f32>> {
        let states = match self {
            Self::Tensor(states) => states.flatten_all().and_then(|states| states.to_vec1()),
            #[cfg(feature = "cuda")]
            Self::Pinned(copied) => copied.wait(),
        };
        fault(states, "copying vectors from the device")
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::{Arc, Mutex, PoisonError};

    use candle_core::cuda_backend::CudaStorage;
    use candle_core::cuda_backend::cudarc::driver::{
        CudaContext, CudaStream, DeviceRepr, DriverError, HostSlice, PinnedHostSlice, SyncOnDrop,
        ValidAsZeroBits, result, sys,
    };
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, Error, Result, Storage, Tensor};

    /// Buffers that come back when their batch is done.
    type Spare = Arc<Mutex<Vec<PinnedHostSlice<f32>>>>;

    /// Page-locked memory, which the device copies from and to by itself.
    pub(super) struct Pinned {
        device: CudaDevice,
        /// Uploads overlap with the batch that is being computed; the driver's events order them before their use.
        uploads: Arc<CudaStream>,
        /// Two, in turn: one may still be read while the next batch is staged.
        staging: [Option<PinnedHostSlice<u32>>; 2],
        spare: Spare,
    }

    /// States that the device copies into page-locked memory.
    pub(crate) struct Copied {
        buffer: PinnedHostSlice<f32>,
        count: usize,
        spare: Spare,
    }

    impl Pinned {
        pub(super) fn new(device: &CudaDevice) -> Result<Self> {
            let context = Arc::clone(device.cuda_stream().context());
            keep_freed_memory(&context).map_err(Error::wrap)?;
            let uploads = context.new_stream().map_err(Error::wrap)?;
            let device = device.clone();
            Ok(Self { device, uploads, staging: [None, None], spare: Spare::default() })
        }

        pub(super) fn upload(&mut self, words: &[u32]) -> Result<Tensor> {
            self.staging.swap(0, 1);
            let buffer = self.staging[0].take().filter(|buffer| buffer.len() >= words.len());
            let mut buffer = match buffer {
                Some(buffer) => buffer,
                None => allocate(self.uploads.context(), words.len()).map_err(Error::wrap)?,
            };
            // Waits for the copy before last out of this buffer.
            buffer.as_mut_slice().map_err(Error::wrap)?[..words.len()].copy_from_slice(words);
            let used = Used { buffer: &mut buffer, count: words.len() };
            let copied = self.uploads.clone_htod(&used).map_err(Error::wrap)?;
            self.staging[0] = Some(buffer);
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(copied, self.device.clone()));
            Ok(Tensor::from_storage(storage, words.len(), BackpropOp::none(), false))
        }

        pub(super) fn land(&self, states: &Tensor) -> Result<Copied> {
            let states = states.contiguous()?;
            let count = states.elem_count();
            let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut buffer = match spare.filter(|buffer| buffer.len() >= count) {
                Some(buffer) => buffer,
                None => allocate(self.uploads.context(), count).map_err(Error::wrap)?,
            };
            let (storage, layout) = states.storage_and_layout();
            let (Storage::Cuda(storage), Some((start, end))) =
                (&*storage, layout.contiguous_offsets())
            else {
                candle_core::bail!("states lie on no CUDA device");
            };
            let slice = storage.as_cuda_slice::<f32>()?.slice(start..end);
            // In the order of the batch's own work, before that of the next.
            let mut used = Used { buffer: &mut buffer, count };
            self.device.memcpy_dtoh(&slice, &mut used)?;
            Ok(Copied { buffer, count, spare: Arc::clone(&self.spare) })
        }
    }

    impl Copied {
        pub(super) fn wait(self) -> Result<Vec<f32>> {
            let states = self.buffer.as_slice().map_err(Error::wrap)?[..self.count].to_vec();
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(self.buffer);
            Ok(states)
        }
    }

    /// The beginning of a buffer: a copy goes by the length of the host's side.
    struct Used<'a, T> {
        buffer: &'a mut PinnedHostSlice<T>,
        count: usize,
    }

    impl<T> HostSlice<T> for Used<'_, T> {
        fn len(&self) -> usize {
            self.count
        }

        unsafe fn stream_synced_slice<'a>(
            &'a self,
            stream: &'a CudaStream,
        ) -> (&'a [T], SyncOnDrop<'a>) {
            // SAFETY: the caller keeps what the trait asks for; a part of the buffer needs no more than the whole.
            let (whole, sync) = unsafe { self.buffer.stream_synced_slice(stream) };
            (&whole[..self.count], sync)
        }

        unsafe fn stream_synced_mut_slice<'a>(
            &'a mut self,
            stream: &'a CudaStream,
        ) -> (&'a mut [T], SyncOnDrop<'a>) {
            // SAFETY: as above.
            let (whole, sync) = unsafe { self.buffer.stream_synced_mut_slice(stream) };
            (&mut whole[..self.count], sync)
        }
    }

    fn allocate<T: DeviceRepr + ValidAsZeroBits>(
        context: &Arc<CudaContext>,
        count: usize,
    ) -> std::result::Result<PinnedHostSlice<T>, DriverError> {
        // SAFETY: the memory is unset, which is a value of any `T` that may be all zero bits (u32 and f32 here);
        // whoever takes a buffer writes what he reads. Without flags it is cached, so that reading it is fast.
        unsafe { context.alloc_pinned_with_flags(count.next_power_of_two(), 0) }
    }

    /// By default the driver gives freed memory back at every wait, and asks for it again at the next batch.
    fn keep_freed_memory(context: &CudaContext) -> std::result::Result<(), DriverError> {
        let mut all = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device is the context's own, its default pool lives as long as the device, and the attribute is
        // read as a u64 before the call returns.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device())?;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast())
        }
    }
}
