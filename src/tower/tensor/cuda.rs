//! One stream a device, and the page-locked memory that it copies from and to.
//!
//! Everything of a tower happens on the device's own stream, in order. cudarc's tracking of every buffer by events is
//! therefore off ([`one_stream`]), and with it what cudarc knows of page-locked memory: events of our own say when a
//! copy is over.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::CudaStorage;
pub(super) use candle_core::cuda_backend::cudarc::driver::CudaEvent as Event;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaStream, DeviceRepr, DriverError, HostSlice, PinnedHostSlice, SyncOnDrop,
    ValidAsZeroBits, result, sys,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Error, Result, Storage, Tensor};

use super::staging::{Read, Upload};

/// Switches off that every call of the device waits for and records the events of its buffers, which costs as much host
/// time as the call.
fn one_stream(device: &CudaDevice) {
    // SAFETY: tensors of this device are made, used and freed on its one stream, in order, and none is copied straight to
    // another GPU: candle's `to_device` does that on the other's stream, and nobody would wait for it before memory is
    // freed.
    unsafe { device.disable_event_tracking() }
}

/// Buffers that come back when their batch is done.
type Spare = Arc<Mutex<Vec<PinnedHostSlice<f32>>>>;

/// Page-locked memory, which the device copies from and to without the processor.
pub(super) struct Pinned {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    spare: Spare,
}

impl Pinned {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        one_stream(device);
        let stream = device.cuda_stream();
        keep_freed_memory(stream.context()).map_err(Error::wrap)?;
        Ok(Self { device: device.clone(), stream, spare: Spare::default() })
    }

    /// What the stream has reached. Waiting for it sleeps: the processor has texts to tokenise.
    pub(super) fn event(&self) -> Result<Event> {
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        self.stream.record_event(Some(flags)).map_err(Error::wrap)
    }

    /// As [`Pinned::event`], behind a copy whose host memory must outlive it.
    fn after_copy(&self) -> Result<Event> {
        self.event().inspect_err(|_| {
            let _broken = self.stream.synchronize();
        })
    }

    pub(super) fn land(&self, states: &Tensor, begun: Event) -> Result<Copied> {
        let states = states.contiguous()?;
        let count = states.elem_count();
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = match spare.filter(|buffer| buffer.len() >= count) {
            Some(buffer) => buffer,
            None => allocate(self.stream.context(), count).map_err(Error::wrap)?,
        };
        let (storage, layout) = states.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("states are on no CUDA device");
        };
        let slice = storage.as_cuda_slice::<f32>()?.slice(start..end);
        let mut part = Part(&mut buffer.as_mut_slice().map_err(Error::wrap)?[..count]);
        self.stream.memcpy_dtoh(&slice, &mut part).map_err(Error::wrap)?;
        let done = self.after_copy()?;
        let spare = Arc::clone(&self.spare);
        Ok(Copied { buffer: Some(buffer), count, begun, done, spare })
    }
}

impl Upload for Pinned {
    type Block = PinnedHostSlice<u32>;
    type Copied = Tensor;
    type Read = Event;

    fn block(&self, words: usize) -> Result<Self::Block> {
        allocate(self.stream.context(), words).map_err(Error::wrap)
    }

    fn room(block: &Self::Block) -> usize {
        block.len()
    }

    fn copy(&self, block: &mut Self::Block, words: &[u32]) -> Result<(Tensor, Event)> {
        let part = &mut block.as_mut_slice().map_err(Error::wrap)?[..words.len()];
        part.copy_from_slice(words);
        let copied = self.stream.clone_htod(&Part(part)).map_err(Error::wrap)?;
        let read = self.after_copy()?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(copied, self.device.clone()));
        Ok((Tensor::from_storage(storage, words.len(), BackpropOp::none(), false), read))
    }
}

impl Read for Event {
    fn is_over(&self) -> Result<bool> {
        self.try_is_complete().map_err(Error::wrap)
    }

    fn wait(&self) -> Result<()> {
        self.synchronize().map_err(Error::wrap)
    }
}

/// States that the device copies into page-locked memory.
pub(crate) struct Copied {
    buffer: Option<PinnedHostSlice<f32>>,
    count: usize,
    begun: Event,
    done: Event,
    spare: Spare,
}

impl Copied {
    /// The states, and the seconds that the device was at them.
    pub(super) fn wait(mut self) -> Result<(Vec<f32>, f64)> {
        self.done.synchronize().map_err(Error::wrap)?;
        let Some(buffer) = self.buffer.take() else { candle_core::bail!("copied before") };
        let states = buffer.as_slice().map_err(Error::wrap)?[..self.count].to_vec();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        let milliseconds = self.begun.elapsed_ms(&self.done).map_err(Error::wrap)?;
        Ok((states, f64::from(milliseconds) / 1e3))
    }
}

impl Drop for Copied {
    /// A batch that nobody waits for: its memory is not freed under the copy.
    fn drop(&mut self) {
        if self.buffer.is_some() {
            let _broken = self.done.synchronize();
        }
    }
}

/// A part of page-locked memory that no copy is at: a copy goes by the length of the host's side, and waits for
/// nothing.
struct Part<'a, T>(&'a mut [T]);

impl<T> HostSlice<T> for Part<'_, T> {
    fn len(&self) -> usize {
        self.0.len()
    }

    unsafe fn stream_synced_slice<'a>(&'a self, _: &'a CudaStream) -> (&'a [T], SyncOnDrop<'a>) {
        (self.0, SyncOnDrop::Record(None))
    }

    unsafe fn stream_synced_mut_slice<'a>(
        &'a mut self,
        _: &'a CudaStream,
    ) -> (&'a mut [T], SyncOnDrop<'a>) {
        (self.0, SyncOnDrop::Record(None))
    }
}

fn allocate<T: DeviceRepr + ValidAsZeroBits>(
    context: &Arc<CudaContext>,
    count: usize,
) -> std::result::Result<PinnedHostSlice<T>, DriverError> {
    // SAFETY: the memory is unset, which is a value of any `T` that may be all zero bits (u32 and f32 here);
    // what is read was written before. Without flags it is cached, so that reading it is fast.
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
