//! The products of a small decoder's layers alone, by class of arithmetic, beside one large f32 product: what the kernels make
//! of this machine without anything else that a tower does. Every thread works for itself, and its processor time counts, so
//! that other jobs disturb the figures little.
//!
//! usage: cargo bench -p scalingnote-kernel --bench kernels [-- --threads N --rounds N --rows N --shapes]

use std::time::Instant;

use scalingnote_kernel::{
    Activation, Activations, Format, Isa, Linear, Matrix, Target, Then, View, product,
};

type Failure = Box<dyn std::error::Error>;

/// SmolLM2-135M's widths.
const HIDDEN: usize = 576;
const MIDDLE: usize = 1536;
const KV: usize = 384;
/// Weights enough to leave the third-level cache, as those of a tower do.
const LAYERS: usize = 6;
/// Side of the large product.
const LARGE: usize = 1536;

/// A layer's products, and the multiply-adds of a row in each.
const PRODUCTS: [(&str, usize); 5] = [
    ("q", HIDDEN * HIDDEN),
    ("kv", KV * HIDDEN),
    ("o", HIDDEN * HIDDEN),
    ("gate and up", 2 * MIDDLE * HIDDEN),
    ("down", MIDDLE * HIDDEN),
];

fn layer(format: Format, seed: usize) -> [Linear; 5] {
    let matrix = |n: usize, k: usize, at: usize| -> Matrix {
        let value = |i: usize| ((i + seed) * 7919 + at) % 2003;
        format.matrix((0..n * k).map(|i| value(i) as f32 * 1e-4 - 0.1).collect(), k)
    };
    let stack = |n, k, at| Linear::stack(format, &[&matrix(n, k, at)], n, k);
    let gate = [&matrix(MIDDLE, HIDDEN, 3), &matrix(MIDDLE, HIDDEN, 4)];
    [
        stack(HIDDEN, HIDDEN, 0),
        stack(KV, HIDDEN, 1),
        stack(HIDDEN, HIDDEN, 2),
        Linear::gate_up(format, Activation::Silu, gate, MIDDLE, HIDDEN),
        stack(HIDDEN, MIDDLE, 5),
    ]
}

/// Seconds of this thread on a processor.
#[cfg(target_os = "linux")]
fn seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a clock that every thread has is written to a value of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(not(target_os = "linux"))]
fn seconds() -> f64 {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// What a thread measures: the least seconds of the large product, and of each layer's products by class.
struct Measured {
    large: f64,
    classes: Vec<[f64; 5]>,
}

fn measure(
    isa: Isa,
    classes: &[(Format, Vec<[Linear; 5]>)],
    rows: usize,
    rounds: usize,
) -> Measured {
    let value = |i: usize| (i * 31 % 997) as f32 / 498. - 1.;
    let x: Vec<f32> = (0..(rows * MIDDLE).max(LARGE * LARGE)).map(value).collect();
    let (mut y, mut a) = (vec![0f32; x.len()], Activations::default());
    let mut found = Measured { large: f64::MAX, classes: vec![[f64::MAX; 5]; classes.len()] };
    for _ in 0..rounds {
        let begun = seconds();
        let to = Target { data: &mut y, stride: LARGE, accumulate: false };
        let of = View::rows(&x, LARGE);
        product(to, (LARGE, LARGE, LARGE), 1., of, of, false);
        found.large = found.large.min(seconds() - begun);
        for ((_, layers), least) in classes.iter().zip(&mut found.classes) {
            for products in layers {
                for (at, (product, least)) in products.iter().zip(least.iter_mut()).enumerate() {
                    let begun = seconds();
                    // Keys and values take what was packed for the queries.
                    if at != 1 {
                        product.prepare(isa, &x, rows, None, &mut a);
                    }
                    product.apply(isa, &mut a, rows, &mut y, Then::Store);
                    *least = least.min(seconds() - begun);
                }
            }
        }
    }
    found
}

fn main() -> Result<(), Failure> {
    let (mut threads, mut rounds, mut rows, mut shapes) =
        (std::thread::available_parallelism()?.get(), 10, 384, false);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || -> Result<usize, Failure> {
            Ok(given.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--threads" => threads = number()?,
            "--rounds" => rounds = number()?,
            "--rows" => rows = number()?,
            "--shapes" => shapes = true,
            // What cargo itself adds.
            "--bench" => {}
            _ => return Err(format!("{argument} is no option of this bench").into()),
        }
    }
    let isa = Isa::best();
    let int8 = Format::int8(isa).first().copied().ok_or("no format of 8-bit integers")?;
    let formats = [Format::F32(isa), Format::best_bf16(isa), int8];
    let classes = formats.map(|f| (f, (0..LAYERS).map(|seed| layer(f, seed)).collect::<Vec<_>>()));
    let begun = Instant::now();
    let all: Vec<Measured> = std::thread::scope(|scope| {
        let started: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| measure(isa, &classes, rows, rounds))).collect();
        started.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    // Threads together: the sum of what each reaches.
    let rate = |multiplies: usize, seconds: &dyn Fn(&Measured) -> f64| -> f64 {
        all.iter().map(|of| 2e-9 * multiplies as f64 / seconds(of)).sum()
    };
    let large = rate(LARGE * LARGE * LARGE, &|of| of.large);
    let wall = begun.elapsed().as_secs_f64();
    println!(
        "{rows} rows, {threads} threads, {rounds} rounds, {wall:.0} s; G operations a second of processor time"
    );
    println!("{:<24} {large:>6.1}  to f32  to the large product", "one large f32 product");
    let whole = |class: usize| {
        let multiplies = PRODUCTS.iter().map(|(_, multiplies)| rows * multiplies).sum();
        rate(multiplies, &|of| of.classes[class].iter().sum())
    };
    for (class, (format, _)) in classes.iter().enumerate() {
        let speed = whole(class);
        let (to_f32, to_large) = (speed / whole(0), speed / large);
        println!("{:<24} {speed:>6.1} {to_f32:>6.2}x {to_large:>6.2}x", format!("{format:?}"));
        for (at, (name, multiplies)) in PRODUCTS.iter().enumerate().filter(|_| shapes) {
            let speed = rate(rows * multiplies, &|of| of.classes[class][at]);
            println!("    {name:<20} {speed:>6.1}");
        }
    }
    Ok(())
}
