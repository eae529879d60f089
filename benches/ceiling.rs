//! What this machine can do at most: multiply-adds by element type, out of registers and as a large product, and
//! bytes read from memory. Each figure is the best of many short runs on all threads at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Operations a second (a multiply-add is two) and bytes a second.
pub fn measure(threads: usize) -> Value {
    json!({
        "f32_gemm_flops": gemm(threads),
        "registers": registers(threads),
        "read_bytes_per_s": together(threads, read),
    })
}

/// The sum of what the threads reach at the same time.
fn together(threads: usize, work: fn() -> f64) -> f64 {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(0.)).sum()
    })
}

/// Seconds of the fastest of up to this many runs, none of which begins after five seconds.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let end = Instant::now() + Duration::from_secs(5);
    let mut best = f64::MAX;
    for _ in 0..runs {
        let begun = Instant::now();
        run();
        best = best.min(begun.elapsed().as_secs_f64());
        if Instant::now() > end {
            break;
        }
    }
    best
}

/// f32 products by the `gemm` crate: one product on all threads, and one on each; the better counts.
fn gemm(threads: usize) -> f64 {
    fn product(parallelism: gemm::Parallelism) -> f64 {
        const N: usize = 1536;
        let data = || (0..N * N).map(|i| (i % 1000) as f32 * 1e-3 - 0.5).collect::<Vec<f32>>();
        let (a, b, mut c) = (data(), data(), vec![0f32; N * N]);
        let n = N as isize;
        let seconds = best(12, || {
            // SAFETY: three N x N matrices, rows N elements apart.
            unsafe {
                gemm::gemm(
                    N,
                    N,
                    N,
                    c.as_mut_ptr(),
                    1,
                    n,
                    false,
                    a.as_ptr(),
                    1,
                    n,
                    b.as_ptr(),
                    1,
                    n,
                    0f32,
                    1f32,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        });
        2. * (N * N * N) as f64 / seconds
    }
    let apart = together(threads, || product(gemm::Parallelism::None));
    product(gemm::Parallelism::Rayon(threads)).max(apart)
}

/// Bytes a second that a thread adds up out of memory far larger than any cache.
fn read() -> f64 {
    let data = vec![1u64; 1 << 25];
    let seconds = best(8, || {
        let sum = data.iter().fold(0u64, |sum, x| sum.wrapping_add(*x));
        std::hint::black_box(sum);
    });
    size_of_val(data.as_slice()) as f64 / seconds
}

/// Multiply-adds with operands in registers: what the execution units allow, whatever the memory.
#[cfg(target_arch = "x86_64")]
fn registers(threads: usize) -> Value {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const STEPS: usize = 1 << 14;
    /// Independent sums: enough to hide the latency of any of the instructions.
    const SUMS: usize = 12;

    macro_rules! rate {
        ($features:literal, $zero:expr, $step:expr, $operations:literal) => {{
            #[target_feature(enable = $features)]
            fn run() {
                let x = black_box($zero);
                let mut sums = [x; SUMS];
                for _ in 0..STEPS {
                    for sum in &mut sums {
                        *sum = $step(*sum, x);
                    }
                }
                black_box(sums);
            }
            fn rate() -> f64 {
                // SAFETY: called only where the features were found.
                let seconds = best(200, || unsafe { run() });
                ($operations * SUMS * STEPS) as f64 / seconds
            }
            together(threads, rate)
        }};
    }

    let mut found = serde_json::Map::new();
    if is_x86_feature_detected!("avx512f") {
        let f32 = rate!("avx512f", _mm512_setzero_ps(), |s, x| _mm512_fmadd_ps(x, x, s), 32);
        found.insert("f32".into(), f32.into());
        if is_x86_feature_detected!("avx512bf16") {
            let bf16 = rate!(
                "avx512f,avx512bf16",
                _mm512_setzero_ps(),
                |s, x| {
                    // SAFETY: both are 64 plain bytes.
                    let x = unsafe { std::mem::transmute::<__m512, __m512bh>(x) };
                    _mm512_dpbf16_ps(s, x, x)
                },
                64
            );
            found.insert("bf16".into(), bf16.into());
        }
        if is_x86_feature_detected!("avx512vnni") {
            let int8 = rate!(
                "avx512f,avx512vnni",
                _mm512_setzero_si512(),
                |s, x| _mm512_dpbusd_epi32(s, x, x),
                128
            );
            found.insert("int8".into(), int8.into());
        }
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let f32 = rate!("avx2,fma", _mm256_setzero_ps(), |s, x| _mm256_fmadd_ps(x, x, s), 16);
        found.insert("f32".into(), f32.into());
    }
    Value::Object(found)
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_threads: usize) -> Value {
    json!({})
}
