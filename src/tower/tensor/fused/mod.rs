//! Steps of a layer between its products, each one pass over memory: a GPU is otherwise busy with reading and writing
//! what the next step reads again.
//!
//! Every step is an operation of candle with two implementations of the same formula, in f32 between one reading and
//! one rounding: for the processor here, for GPUs in `kernels.cu`, which NVIDIA's run-time compiler makes for the
//! present card when it is first needed.

mod add_norm;
mod element;
mod gated;
mod heads;
#[cfg(feature = "cuda")]
mod launch;

pub(super) use add_norm::{NormKind, add_norm};
pub(super) use gated::{activated, gated};
pub(super) use heads::{Heads, Turned};

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use candle_core::{DType, Device, Tensor};

    use super::gated::number;
    use super::*;
    use crate::kernel::Activation;
    use crate::tower::testing::close;

    const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    fn random(mean: f32, shape: &[usize]) -> Tensor {
        Tensor::randn(mean, 1f32, shape, &Device::Cpu).unwrap()
    }

    fn bytes(tensor: &Tensor) -> Vec<u8> {
        let tensor = tensor.flatten_all().unwrap();
        match tensor.dtype() {
            DType::U32 => bytemuck::cast_slice(&tensor.to_vec1::<u32>().unwrap()).to_vec(),
            DType::F32 => bytemuck::cast_slice(&tensor.to_vec1::<f32>().unwrap()).to_vec(),
            DType::F16 => bytemuck::cast_slice(&tensor.to_vec1::<half::f16>().unwrap()).to_vec(),
            _ => bytemuck::cast_slice(&tensor.to_vec1::<half::bf16>().unwrap()).to_vec(),
        }
    }

    /// The GPU's source, compiled for the processor.
    struct Kernels(tempfile::TempDir);

    impl Kernels {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let source = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src/tower/tensor/fused/on_processor.cpp");
            let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
            let built = Command::new(compiler)
                .args(["-std=c++17", "-O1", "-w", "-o"])
                .args([folder.path().join("kernels"), source])
                .output()
                .unwrap();
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            Self(folder)
        }

        /// What a kernel makes of `inputs`, of as many elements as `like` and of its type.
        fn run(&self, arguments: String, inputs: &[&Tensor], like: &Tensor) -> Tensor {
            let mut running = Command::new(self.0.path().join("kernels"))
                .args(arguments.split(' '))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let given: Vec<u8> = inputs.iter().flat_map(|input| bytes(input)).collect();
            running.stdin.take().unwrap().write_all(&given).unwrap();
            let output = running.wait_with_output().unwrap();
            assert!(output.status.success(), "{arguments}: {}", output.status);
            Tensor::from_raw_buffer(&output.stdout, like.dtype(), like.dims(), &Device::Cpu)
                .unwrap()
        }
    }

    fn name(dtype: DType) -> String {
        format!("{dtype:?}").to_lowercase()
    }

    #[test]
    fn the_source_for_gpus_computes_the_same() {
        let kernels = Kernels::new();
        for dtype in DTYPES {
            let (name, whole) = (name(dtype), if dtype == DType::F32 { 4 } else { 8 });
            // One rounding apart at most: sums are in another order.
            let tolerance = match dtype {
                DType::F32 => 1e-5,
                DType::F16 => 2e-3,
                _ => 1.6e-2,
            };
            let as_dtype = |tensor: Tensor| tensor.to_dtype(dtype).unwrap();
            for pack in [1, whole] {
                // More than a block has threads, and rows that end within one.
                let (rows, width) = (3, 20 * 8);
                let x = as_dtype(random(0., &[rows, 2 * width]));
                use Activation::{Gelu, GeluTanh, Relu, Silu};
                for activation in [Silu, GeluTanh, Gelu, Relu] {
                    let expected = gated(&x, activation).unwrap();
                    let (packs, function) = (width / pack, number(activation));
                    let arguments = format!("gated {name} {pack} {rows} {packs} {function}");
                    close(&kernels.run(arguments, &[&x], &expected), &expected, tolerance);
                }

                let [x, change] = [0., 0.].map(|mean| as_dtype(random(mean, &[2, width])));
                let bias = as_dtype(random(0., &[width]));
                for activation in [Silu, GeluTanh, Gelu, Relu] {
                    let expected = activated(&x, &bias, activation).unwrap();
                    let (packs, function) = (width / pack, number(activation));
                    let arguments = format!("activated {name} {pack} 2 {packs} {function}");
                    close(&kernels.run(arguments, &[&x, &bias], &expected), &expected, tolerance);
                }

                for (kind, number, shape) in
                    [(NormKind::Rms, 0, vec![width]), (NormKind::Layer, 1, vec![3, width])]
                {
                    let table = as_dtype(random(1., &shape));
                    let (sum, normal) = add_norm(&x, &change, &table, (kind, 1e-5)).unwrap();
                    let expected = Tensor::stack(&[&sum, &normal], 0).unwrap();
                    let arguments =
                        format!("add_norm {name} {pack} 2 {} 1e-5 {number}", width / pack);
                    let found = kernels.run(arguments, &[&x, &change, &table], &expected);
                    close(&found, &expected, tolerance);
                    close(&found.get(0).unwrap(), &sum, 0.);
                }
            }
            // Heads narrower and wider than a warp.
            for (head_dim, normal) in [(6, false), (6, true), (80, false), (80, true)] {
                let heads = Heads { heads: 4, kv_heads: 2, head_dim, epsilon: 1e-6, scale: 0.25 };
                let qkv = as_dtype(random(0., &[3, 8 * head_dim]));
                let angles = random(0., &[4, head_dim]);
                let positions = Tensor::new(&[0u32, 3, 1], &Device::Cpu).unwrap();
                let norms = random(1., &[2, head_dim]);
                let norms = normal.then_some(&norms);
                let turned = heads.turn(&qkv, &angles, &positions, norms).unwrap();
                let parts = [turned.q, turned.k].map(|part| part.flatten_all().unwrap());
                let expected = Tensor::cat(&parts, 0).unwrap();
                let arguments =
                    format!("turn {name} {} 3 4 2 {head_dim} 1e-6 0.25", u8::from(normal));
                let mut inputs = vec![&qkv, &angles, &positions];
                inputs.extend(norms);
                close(&kernels.run(arguments, &inputs, &expected), &expected, tolerance);
            }
        }
    }
}
