//! From unit vectors to index elements: the calibrated i8 scale and the other element types.

use half::{bf16, f16};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use usearch::b1x8;

use super::options::{IndexOptions, Quantization};
use super::rows::unit;
use crate::error::{Error, Result};
use crate::kernel::dot;
use crate::types::Embeddings;

/// The frozen i8 scale of one (space, options).
///
/// A unit vector `x` becomes `q = clamp(round(x * s), -127, 127)` with `s = max(scale, 127 / max|x|)`:
/// every vector uses all 127 levels (cosine does not see a factor), and elements above the ceiling
/// `127 / scale`, the outlier dimensions of LLM embeddings, are clipped instead of squeezing the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Smallest multiplier from f32 to i8, 127 / (clipping ceiling); 1.0 for other quantisations.
    pub scale: f32,
    /// Vectors it was fitted on.
    pub sample: u64,
    /// Share of elements clipped on that sample.
    pub clipped: f64,
}

impl Calibration {
    /// The i8 form of a unit vector (round half to even) and how many of its elements were clipped.
    pub fn quantize(&self, unit: &[f32], out: &mut Vec<i8>) -> usize {
        let peak = unit.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        let scale = if peak > 0.0 { self.scale.max(127.0 / peak) } else { self.scale };
        out.clear();
        out.extend(unit.iter().map(|x| (x * scale).round_ties_even().clamp(-127.0, 127.0) as i8));
        // The peak itself may land a rounding error above 127: only half a step more is a clip.
        if peak * scale < 127.5 {
            0
        } else {
            unit.iter().filter(|x| x.abs() * scale >= 127.5).count()
        }
    }

    pub(super) fn check(&self, options: &IndexOptions) -> Result<()> {
        if self.scale.is_finite() && self.scale > 0.0 {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "the calibrated scale for {:?} is {}; it must be finite and above 0: calibrate again",
            options.quantization, self.scale
        )))
    }
}

/// One vector as the index stores it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Code {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// Stored form and the same numbers as f32: the crate takes no bfloat16.
    Bf16(Vec<bf16>, Vec<f32>),
    I8(Vec<i8>),
    B1(Vec<u8>),
}

/// Turns unit vectors into [`Code`]s, reusing one buffer.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    calibration: Calibration,
    code: Code,
    /// Elements clipped so far.
    pub clipped: u64,
}

impl Encoder {
    pub fn new(options: &IndexOptions, calibration: &Calibration) -> Self {
        let code = match options.quantization {
            Quantization::F32 => Code::F32(Vec::new()),
            Quantization::Bf16 => Code::Bf16(Vec::new(), Vec::new()),
            Quantization::F16 => Code::F16(Vec::new()),
            Quantization::I8 => Code::I8(Vec::new()),
            Quantization::B1 => Code::B1(Vec::new()),
        };
        Self { calibration: calibration.clone(), code, clipped: 0 }
    }

    /// Encodes one unit vector; the result lives until the next call.
    pub fn encode(&mut self, unit: &[f32]) -> &Code {
        match &mut self.code {
            Code::F32(out) => {
                out.clear();
                out.extend_from_slice(unit);
            }
            Code::Bf16(out, wide) => {
                // Rounded here, so that usearch's own cast is exact and cannot truncate.
                out.clear();
                out.extend(unit.iter().map(|x| bf16::from_f32(*x)));
                wide.clear();
                wide.extend(out.iter().map(|x| x.to_f32()));
            }
            Code::F16(out) => {
                out.clear();
                out.extend(unit.iter().map(|x| f16::from_f32(*x)));
            }
            Code::I8(out) => self.clipped += self.calibration.quantize(unit, out) as u64,
            Code::B1(out) => {
                out.clear();
                out.extend(unit.chunks(8).map(|eight| {
                    let bits = eight.iter().enumerate();
                    bits.fold(0u8, |byte, (at, x)| byte | u8::from(*x > 0.0) << at)
                }));
            }
        }
        &self.code
    }
}

impl Code {
    /// The bytes as stored in the index (on a little-endian machine): equal bytes are one point of the graph.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(x) => bytemuck::cast_slice(x),
            Self::F16(x) => bytemuck::cast_slice(x),
            Self::Bf16(x, _) => bytemuck::cast_slice(x),
            Self::I8(x) => bytemuck::cast_slice(x),
            Self::B1(x) => x,
        }
    }

    /// Inserts this vector into a graph; the error is usearch's own text.
    pub fn add_to(&self, index: &usearch::Index, key: u64) -> Result<(), String> {
        match self {
            Self::F32(x) | Self::Bf16(_, x) => index.add(key, x),
            Self::F16(x) => index.add(key, halves(x)),
            Self::I8(x) => index.add(key, x),
            Self::B1(x) => index.add(key, b1x8::from_u8s(x)),
        }
        .map_err(|cause| cause.to_string())
    }

    /// The `count` nearest by usearch: keys and distances, nearest first. With `passes` among the keys that pass; the walk
    /// also leads through those that do not.
    pub fn search(
        &self,
        index: &usearch::Index,
        count: usize,
        passes: Option<impl Fn(u64) -> bool>,
    ) -> Result<(Vec<u64>, Vec<f32>), String> {
        match self {
            Self::F32(x) | Self::Bf16(_, x) => nearest(index, x, count, passes),
            Self::F16(x) => nearest(index, halves(x), count, passes),
            Self::I8(x) => nearest(index, x, count, passes),
            Self::B1(x) => nearest(index, b1x8::from_u8s(x), count, passes),
        }
    }
}

fn nearest<T: usearch::VectorType>(
    index: &usearch::Index,
    vector: &[T],
    count: usize,
    passes: Option<impl Fn(u64) -> bool>,
) -> Result<(Vec<u64>, Vec<f32>), String> {
    let found = match passes {
        None => index.search(vector, count),
        Some(passes) => index.filtered_search(vector, count, passes),
    };
    found.map(|found| (found.keys, found.distances)).map_err(|cause| cause.to_string())
}

fn halves(x: &[f16]) -> &[usearch::f16] {
    usearch::f16::from_i16s(bytemuck::cast_slice(x))
}

/// Cosine that a usearch distance of this quantisation stands for.
pub(super) fn cosine_of(quantization: Quantization, distance: f32, dimensions: usize) -> f32 {
    match quantization {
        // Two random hyperplanes part two vectors with probability angle / pi (Charikar 2002).
        Quantization::B1 => (std::f32::consts::PI * distance / dimensions as f32).cos(),
        _ => 1.0 - distance,
    }
}

/// Most vectors that a fit looks at, taken evenly from the sample.
const FIT_VECTORS: usize = 2_048;
/// Of those, how many also serve as queries.
const FIT_QUERIES: usize = 128;
/// Nearest neighbours per query whose order a fit tries to keep.
const FIT_NEIGHBOURS: usize = 100;

/// Fits the scale on a sample of vectors: the clipping ceiling under which i8 cosines follow the exact
/// ones best among each query's near neighbours, where the ranking is decided.
///
/// # Errors
/// Input for an empty sample, or one with a non-finite or zero vector, naming its row.
pub fn calibrate(sample: &Embeddings, options: &IndexOptions) -> Result<Calibration> {
    options.check()?;
    if sample.is_empty() {
        return Err(Error::input(
            "the sample to calibrate on is empty; it needs at least one vector",
        ));
    }
    let rows = sample.len() as u64;
    let plain = Calibration { scale: 1.0, sample: rows, clipped: 0.0 };
    let step = sample.len().div_ceil(FIT_VECTORS);
    let mut units = Embeddings::with_capacity(sample.dimensions(), sample.len() / step + 1);
    for (at, row) in sample.rows().enumerate().step_by(step) {
        let row = unit(row).map_err(|what| {
            Error::input(format!("row {at} of the sample to calibrate on {what}"))
        })?;
        units.push(&row);
    }
    if options.quantization != Quantization::I8 {
        return Ok(plain);
    }
    let mut best: Option<(f64, Calibration)> = None;
    let fit = Fit::new(&units);
    for ceiling in ceilings(&units) {
        let candidate = Calibration { scale: 127.0 / ceiling, ..plain.clone() };
        let (loss, clipped) = fit.loss(&units, &candidate);
        // From the widest ceiling down; a narrower one has to be clearly better, so noise cannot pick it.
        if best.as_ref().is_none_or(|(least, _)| loss < least * 0.98) {
            best = Some((loss, Calibration { clipped, ..candidate }));
        }
    }
    best.map(|(_, found)| found).ok_or_else(|| Error::internal("no clipping ceiling was tried"))
}

/// Ceilings to try, widest first: the largest element seen, then ever lower quantiles of |x|.
fn ceilings(units: &Embeddings) -> Vec<f32> {
    let mut sizes: Vec<f32> = units.as_slice().iter().map(|x| x.abs()).collect();
    sizes.sort_unstable_by(f32::total_cmp);
    let last = sizes.len() - 1;
    let mut ceilings: Vec<f32> = [0.0, 1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2]
        .iter()
        .map(|above: &f64| sizes[last - (above * last as f64) as usize])
        .filter(|ceiling| *ceiling > 0.0)
        .collect();
    ceilings.dedup();
    ceilings
}

/// The exact side of a fit: each query's near neighbours and their cosines.
struct Fit(Vec<(usize, Vec<(usize, f32)>)>);

impl Fit {
    fn new(units: &Embeddings) -> Self {
        let step = units.len().div_ceil(FIT_QUERIES).max(1);
        let near = |query: usize| {
            let mut all: Vec<(usize, f32)> = (0..units.len())
                .filter(|other| *other != query)
                .map(|other| (other, dot(units.row(query), units.row(other))))
                .collect();
            all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(FIT_NEIGHBOURS);
            all
        };
        Self((0..units.len()).step_by(step).map(|query| (query, near(query))).collect())
    }

    /// How far the i8 cosines are from a straight line over the exact ones, summed over queries (a shift or
    /// a factor changes no ranking), and the share of elements clipped.
    fn loss(&self, units: &Embeddings, calibration: &Calibration) -> (f64, f64) {
        let mut clipped = 0usize;
        let mut codes = Embeddings::with_capacity(units.dimensions(), units.len());
        let mut code = Vec::new();
        for row in units.rows() {
            clipped += calibration.quantize(row, &mut code);
            let wide: Vec<f32> = code.iter().map(|q| f32::from(*q)).collect();
            // A vector that rounds to zero throughout stays zero: its cosines are then all wrong, as in use.
            codes.push(&unit(&wide).unwrap_or(wide));
        }
        let mut loss = 0f64;
        for (query, near) in &self.0 {
            let pairs: Vec<(f64, f64)> = near
                .iter()
                .map(|(other, exact)| {
                    (f64::from(*exact), f64::from(dot(codes.row(*query), codes.row(*other))))
                })
                .collect();
            loss += unexplained(&pairs);
        }
        (loss, clipped as f64 / units.as_slice().len() as f64)
    }
}

/// 1 - r^2 of a linear fit: 0 where the two agree but for a shift and a factor, 1 where nothing is kept.
fn unexplained(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len().max(1) as f64;
    let mean_x = pairs.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = pairs.iter().map(|(_, y)| y).sum::<f64>() / n;
    let (mut xx, mut yy, mut xy) = (0f64, 0f64, 0f64);
    for (x, y) in pairs {
        let (x, y) = (x - mean_x, y - mean_y);
        (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
    }
    if xx <= 0.0 {
        0.0
    } else if yy <= 0.0 || xy <= 0.0 {
        1.0
    } else {
        1.0 - xy * xy / (xx * yy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(quantization: Quantization) -> IndexOptions {
        IndexOptions { quantization, ..IndexOptions::default() }
    }

    /// Deterministic vectors; `outlier` is added to the first element.
    fn sample(rows: usize, dimensions: usize, outlier: f32) -> Embeddings {
        let mut state = 7u64;
        let data: Vec<f32> = (0..rows * dimensions)
            .map(|at| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let noise = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                noise + if at % dimensions == 0 { outlier } else { 0.0 }
            })
            .collect();
        Embeddings::from_vec(dimensions, data).unwrap()
    }

    #[test]
    fn every_vector_uses_the_full_range_and_keeps_its_signs() {
        let calibration = Calibration { scale: 127.0, sample: 1, clipped: 0.0 };
        let mut code = Vec::new();
        assert_eq!(calibration.quantize(&[0.01, -0.005, 0.0], &mut code), 0);
        assert_eq!(code, [127, -64, 0]);
        let narrow = Calibration { scale: 254.0, ..calibration };
        assert_eq!(narrow.quantize(&[1.0, 0.25, -0.1], &mut code), 1);
        assert_eq!(code, [127, 64, -25]);
    }

    #[test]
    fn an_even_spread_is_not_clipped_and_an_outlier_dimension_is() {
        let even = calibrate(&sample(500, 64, 0.0), &options(Quantization::I8)).unwrap();
        assert!(even.clipped < 1e-3, "{even:?}");
        let outlier = calibrate(&sample(500, 64, 40.0), &options(Quantization::I8)).unwrap();
        assert!((0.01..0.02).contains(&outlier.clipped), "one dimension in 64: {outlier:?}");
        assert!(outlier.scale > 10.0 * even.scale.min(127.0), "{outlier:?} {even:?}");
    }

    #[test]
    fn other_quantisations_have_no_scale_and_bad_samples_are_named() {
        let calibration = calibrate(&sample(10, 8, 0.0), &options(Quantization::F16)).unwrap();
        assert_eq!((calibration.scale, calibration.sample), (1.0, 10));
        let bad = Embeddings::from_vec(2, vec![1.0, 0.0, f32::NAN, 0.0]).unwrap();
        let error = calibrate(&bad, &options(Quantization::I8)).unwrap_err();
        assert!(error.to_string().contains("row 1"), "{error}");
        assert!(calibrate(&Embeddings::default(), &options(Quantization::I8)).is_err());
    }

    #[test]
    fn signs_pack_from_the_lowest_bit() {
        let calibration = Calibration { scale: 1.0, sample: 0, clipped: 0.0 };
        let mut encoder = Encoder::new(&options(Quantization::B1), &calibration);
        let code = encoder.encode(&[1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]).clone();
        assert_eq!(code, Code::B1(vec![0b101, 1]));
    }
}
