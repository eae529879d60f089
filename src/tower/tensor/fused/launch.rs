//! Starts the kernels of `kernels.cu`.

use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::driver::{
    CudaView, DeviceRepr, LaunchConfig, PushKernelArg, sys::CUdeviceptr,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{CudaStorage, Error, Layout, Result, Storage, Tensor, bail};

use super::element::range;

/// An input of an operation.
type Input<'a> = (&'a CudaStorage, &'a Layout);

const SOURCE: &str = include_str!("kernels.cu");
/// The oldest that CUDA 13 compiles for: nothing in the source needs more, and the driver compiles it for the card.
const ARCHITECTURE: &str = "compute_75";
const THREADS: u32 = 256;

/// The kernels as PTX, compiled once a process.
fn ptx() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let made = PTX.get_or_init(|| {
        let options = CompileOptions { arch: Some(ARCHITECTURE), ..CompileOptions::default() };
        let made = compile_ptx_with_opts(SOURCE, options).map_err(|error| format!("{error:?}"))?;
        Ok(made.to_src())
    });
    match made {
        Ok(ptx) => Ok(ptx),
        Err(error) => bail!("the fused kernels do not compile (NVRTC): {error}"),
    }
}

/// Elements of the three types that the kernels have.
trait Kernel: CudaDType + DeviceRepr {
    const NAME: &'static str;
    /// Elements in 16 bytes, which a thread reads at once.
    const PACK: usize;
}

impl Kernel for f32 {
    const NAME: &'static str = "f32";
    const PACK: usize = 4;
}

impl Kernel for half::f16 {
    const NAME: &'static str = "f16";
    const PACK: usize = 8;
}

impl Kernel for half::bf16 {
    const NAME: &'static str = "bf16";
    const PACK: usize = 8;
}

macro_rules! by_element {
    ($storage:expr, $function:ident($($argument:expr),*)) => {
        match &$storage.slice {
            CudaStorageSlice::F32(_) => $function::<f32>($($argument),*),
            CudaStorageSlice::F16(_) => $function::<half::f16>($($argument),*),
            CudaStorageSlice::BF16(_) => $function::<half::bf16>($($argument),*),
            _ => bail!("a fused step computes in f32, f16 or bf16"),
        }
    };
}

fn view<'a, T: CudaDType>((storage, layout): Input<'a>) -> Result<CudaView<'a, T>> {
    let (start, end) = range(layout)?;
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// Elements that can be read at once: 1 where the inputs do not begin at a multiple of 16 bytes or are not as wide.
fn pack<T: Kernel>(width: usize, inputs: &[Input<'_>]) -> usize {
    let whole = |n: usize| n.is_multiple_of(T::PACK);
    let aligned = inputs.iter().all(|(_, layout)| whole(layout.start_offset()));
    if whole(width) && aligned { T::PACK } else { 1 }
}

fn blocks(threads: u64) -> Result<LaunchConfig> {
    let Ok(blocks @ 0..=0x7fff_ffff) = u32::try_from(threads.div_ceil(u64::from(THREADS))) else {
        bail!("{threads} threads are more than a launch has");
    };
    let grid_dim = (blocks, 1, 1);
    Ok(LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 })
}

/// `activation` is its number in the kernel.
pub(super) fn gated(
    input: Input<'_>,
    rows: usize,
    width: usize,
    activation: u32,
) -> Result<CudaStorage> {
    fn typed<T: Kernel>(
        input: Input<'_>,
        rows: usize,
        width: usize,
        activation: u32,
    ) -> Result<CudaStorage> {
        let device = &input.0.device;
        let pack = pack::<T>(width, &[input]);
        let name = format!("gated_{}_{pack}", T::NAME);
        let kernel = device.get_or_load_custom_func(&name, "scalingnote", ptx()?)?;
        let x = view::<T>(input)?;
        // SAFETY: the kernel writes every element.
        let mut out = unsafe { device.alloc::<T>(rows * width) }?;
        let (rows, width) = (rows as u64, (width / pack) as u64);
        if rows * width > 0 {
            let config = blocks(rows * width)?;
            let mut call = kernel.builder();
            call.arg(&x).arg(&mut out).arg(&rows).arg(&width).arg(&activation);
            // SAFETY: arguments as the kernel declares them; x has 2 rows width packs, out half of that, and threads
            // beyond do nothing.
            unsafe { call.launch(config) }.map_err(Error::wrap)?;
        }
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
    by_element!(input.0, typed(input, rows, width, activation))
}

/// `inputs` are the product and its bias, `activation` is its number in the kernel.
pub(super) fn activated(
    inputs: [Input<'_>; 2],
    rows: usize,
    width: usize,
    activation: u32,
) -> Result<CudaStorage> {
    fn typed<T: Kernel>(
        inputs: [Input<'_>; 2],
        rows: usize,
        width: usize,
        activation: u32,
    ) -> Result<CudaStorage> {
        let device = &inputs[0].0.device;
        let pack = pack::<T>(width, &inputs);
        let name = format!("activated_{}_{pack}", T::NAME);
        let kernel = device.get_or_load_custom_func(&name, "scalingnote", ptx()?)?;
        let [x, bias] = inputs.map(view::<T>);
        let (x, bias) = (x?, bias?);
        // SAFETY: the kernel writes every element.
        let mut out = unsafe { device.alloc::<T>(rows * width) }?;
        let (rows, width) = (rows as u64, (width / pack) as u64);
        if rows * width > 0 {
            let config = blocks(rows * width)?;
            let mut call = kernel.builder();
            call.arg(&x).arg(&bias).arg(&mut out).arg(&rows).arg(&width).arg(&activation);
            // SAFETY: arguments as the kernel declares them; x and out have rows width packs, bias a row, and threads
            // beyond do nothing.
            unsafe { call.launch(config) }.map_err(Error::wrap)?;
        }
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
    by_element!(inputs[0].0, typed(inputs, rows, width, activation))
}

/// `inputs` are x, its change and the table of the norm, which is the kernel's name and epsilon.
pub(super) fn add_norm(
    inputs: [Input<'_>; 3],
    rows: usize,
    width: usize,
    norm: (&str, f32),
) -> Result<CudaStorage> {
    fn typed<T: Kernel>(
        inputs: [Input<'_>; 3],
        rows: usize,
        width: usize,
        (step, epsilon): (&str, f32),
    ) -> Result<CudaStorage> {
        let device = &inputs[0].0.device;
        let pack = pack::<T>(width, &inputs);
        let name = format!("{step}_{}_{pack}", T::NAME);
        let kernel = device.get_or_load_custom_func(&name, "scalingnote", ptx()?)?;
        let [x, change, table] = inputs.map(view::<T>);
        let (x, change, table) = (x?, change?, table?);
        // SAFETY: the kernel writes every element.
        let mut out = unsafe { device.alloc::<T>(2 * rows * width) }?;
        let (rows, width) = (rows as u64, (width / pack) as u32);
        if rows > 0 {
            // A block a row.
            let config = blocks(rows * u64::from(THREADS))?;
            let mut call = kernel.builder();
            call.arg(&x).arg(&change).arg(&table).arg(&mut out).arg(&rows).arg(&width);
            call.arg(&epsilon);
            // SAFETY: arguments as the kernel declares them; x and change have rows width packs, the table a row or
            // three, as its shape was checked to have, out twice as many as x.
            unsafe { call.launch(config) }.map_err(Error::wrap)?;
        }
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
    by_element!(inputs[0].0, typed(inputs, rows, width, norm))
}

/// `sizes` are heads, key/value heads and their width; `factors` epsilon, and what queries are multiplied by.
pub(super) fn turn(
    sizes: [usize; 3],
    factors: [f32; 2],
    qkv: Input<'_>,
    tables: (Input<'_>, Input<'_>),
    norms: Option<&Tensor>,
    tokens: usize,
) -> Result<CudaStorage> {
    fn typed<T: Kernel>(
        [heads, kv_heads, head_dim]: [usize; 3],
        [epsilon, scale]: [f32; 2],
        qkv: Input<'_>,
        (angles, positions): (Input<'_>, Input<'_>),
        norms: Option<Input<'_>>,
        tokens: usize,
    ) -> Result<CudaStorage> {
        let device = &qkv.0.device;
        let name = format!("turn_{}", T::NAME);
        let kernel = device.get_or_load_custom_func(&name, "scalingnote", ptx()?)?;
        let (x, angles, positions) =
            (view::<T>(qkv)?, view::<f32>(angles)?, view::<u32>(positions)?);
        let norms = norms.map(view::<f32>).transpose()?;
        let turned = heads + kv_heads;
        // SAFETY: the kernel writes every element.
        let mut out = unsafe { device.alloc::<T>(tokens * turned * head_dim) }?;
        let (count, wide) = (tokens as u64, head_dim as u32);
        let (q, kv) = (heads as u32, kv_heads as u32);
        if tokens > 0 {
            // A warp a head.
            let config = blocks(32 * (tokens * turned) as u64)?;
            let mut call = kernel.builder();
            call.arg(&x).arg(&angles).arg(&positions);
            let none: CUdeviceptr = 0;
            match &norms {
                Some(norms) => call.arg(norms),
                None => call.arg(&none),
            };
            call.arg(&mut out).arg(&count).arg(&q).arg(&kv).arg(&wide);
            call.arg(&epsilon).arg(&scale);
            // SAFETY: arguments as the kernel declares them, their sizes checked by the caller; every position is below
            // the rows of `angles`, which reach to the longest sequence that the tower takes.
            unsafe { call.launch(config) }.map_err(Error::wrap)?;
        }
        Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
    let guard = norms.map(Tensor::storage_and_layout);
    let norms = match &guard {
        None => None,
        Some((storage, layout)) => match &**storage {
            Storage::Cuda(storage) => Some((storage, *layout)),
            _ => bail!("the norms of heads are on another device"),
        },
    };
    by_element!(qkv.0, typed(sizes, factors, qkv, tables, norms, tokens))
}
