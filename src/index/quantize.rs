//! From unit vectors to index elements: the calibrated i8 scale, sign codes and the other element types.

use half::{bf16, f16};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use usearch::b1x8;

use super::fit::{self, Fit};
use super::options::{IndexOptions, Quantization};
use super::rows::unit;
use super::signs::{SignCodes, Turn, pack_signs};
use crate::error::{Error, Result};
use crate::kernel::distance::{Element, Query};
use crate::kernel::dot;
use crate::types::Embeddings;

/// The frozen i8 scale and sign codes of one (space, options).
///
/// A unit vector `x` becomes `q = clamp(round(x * s), -127, 127)` with `s = max(scale, 127 / max|x|)`:
/// every vector uses all 127 levels (cosine does not see a factor), and elements above the ceiling
/// `127 / scale`, the outlier dimensions of LLM embeddings, are clipped instead of squeezing the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Smallest multiplier from f32 to i8, 127 / (clipping ceiling), also of the codes by which a graph of `b1r` is
    /// linked; 1.0 for other quantisations.
    pub scale: f32,
    /// Vectors it was fitted on.
    pub sample: u64,
    /// Share of elements clipped on that sample.
    pub clipped: f64,
    /// How `b1r` makes bits; absent for other quantisations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signs: Option<SignCodes>,
}

impl Calibration {
    /// Where there is nothing to fit on.
    pub fn without_sample(options: &IndexOptions, dimensions: usize) -> Self {
        let turned = options.quantization == Quantization::B1r;
        let signs = turned.then(|| SignCodes::unfitted(dimensions));
        Self { scale: 1.0, sample: 0, clipped: 0.0, signs }
    }

    /// Whether vectors get the same codes.
    pub fn encodes_as(&self, other: &Self) -> bool {
        self.scale == other.scale && self.signs == other.signs
    }

    /// What is done to a vector before its signs are taken, where that is more than nothing.
    pub(super) fn turn(&self, options: &IndexOptions) -> Option<Turn> {
        let signs = self.signs.as_ref().filter(|_| options.quantization == Quantization::B1r);
        signs.map(Turn::new)
    }

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

    pub(super) fn check(&self, options: &IndexOptions, dimensions: usize) -> Result<()> {
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(Error::corrupt(format!(
                "the calibrated scale for {:?} is {}; it must be finite and above 0: calibrate again",
                options.quantization, self.scale
            )));
        }
        let turned = options.quantization == Quantization::B1r;
        if turned && !self.signs.as_ref().is_some_and(|signs| signs.is_of(dimensions)) {
            return Err(Error::corrupt(format!(
                "the calibration has no sign codes of {dimensions} dimensions, which {:?} needs: calibrate again",
                options.quantization
            )));
        }
        Ok(())
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
    turn: Option<Turn>,
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
            Quantization::B1 | Quantization::B1r => Code::B1(Vec::new()),
        };
        let turn = calibration.turn(options);
        Self { calibration: calibration.clone(), turn, code, clipped: 0 }
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
            Code::B1(out) => match &mut self.turn {
                Some(turn) => pack_signs(turn.centred(unit), out),
                None => pack_signs(unit, out),
            },
        }
        &self.code
    }

    /// Makes a unit vector the query of a walk over codes that are measured as `element`.
    pub fn ask(&mut self, unit: &[f32], element: Element, query: &mut Query) {
        match &mut self.turn {
            Some(turn) => turn.ask(unit, query),
            None => query.set(element, unit.len(), self.encode(unit).bytes()),
        }
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
    let mut plain = Calibration { scale: 1.0, sample: rows, clipped: 0.0, signs: None };
    let step = sample.len().div_ceil(fit::VECTORS);
    let mut units = Embeddings::with_capacity(sample.dimensions(), sample.len() / step + 1);
    for (at, row) in sample.rows().enumerate().step_by(step) {
        let row = unit(row).map_err(|what| {
            Error::input(format!("row {at} of the sample to calibrate on {what}"))
        })?;
        units.push(&row);
    }
    if !matches!(options.quantization, Quantization::I8 | Quantization::B1r) {
        return Ok(plain);
    }
    let fit = Fit::new(&units);
    // Its graph is linked by i8 codes, which are fitted as well.
    if options.quantization == Quantization::B1r {
        plain.signs = Some(SignCodes::fit(&fit, &units));
    }
    let mut best: Option<(f64, Calibration)> = None;
    for ceiling in ceilings(&units) {
        let candidate = Calibration { scale: 127.0 / ceiling, ..plain.clone() };
        let (loss, clipped) = loss(&fit, &units, &candidate);
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

/// How far i8 cosines among near neighbours are from following the exact ones, and the share of elements clipped.
fn loss(fit: &Fit, units: &Embeddings, calibration: &Calibration) -> (f64, f64) {
    let mut clipped = 0usize;
    let mut codes = Embeddings::with_capacity(units.dimensions(), units.len());
    let mut code = Vec::new();
    for row in units.rows() {
        clipped += calibration.quantize(row, &mut code);
        let wide: Vec<f32> = code.iter().map(|q| f32::from(*q)).collect();
        // A vector that rounds to zero throughout stays zero: its cosines are then all wrong, as in use.
        codes.push(&unit(&wide).unwrap_or(wide));
    }
    let loss = fit.loss(|query, other| dot(codes.row(query), codes.row(other)));
    (loss, clipped as f64 / units.as_slice().len() as f64)
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
        let calibration = Calibration { scale: 127.0, sample: 1, clipped: 0.0, signs: None };
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
    fn sign_codes_are_fitted_where_they_are_used_and_must_be_of_the_vectors() {
        let b1r = options(Quantization::B1r);
        let fitted = calibrate(&sample(300, 24, 0.3), &b1r).unwrap();
        assert!(fitted.check(&b1r, 24).is_ok() && fitted.scale > 1.0, "{fitted:?}");
        assert!(fitted.check(&b1r, 23).is_err());
        let none = Calibration { signs: None, ..fitted.clone() };
        assert!(
            none.check(&b1r, 24).is_err() && none.check(&options(Quantization::I8), 24).is_ok()
        );
        assert!(!none.encodes_as(&fitted));
        let stored = serde_json::to_string(&fitted).unwrap();
        assert_eq!(serde_json::from_str::<Calibration>(&stored).unwrap(), fitted);
        assert!(!serde_json::to_string(&none).unwrap().contains("signs"));
        assert!(Calibration::without_sample(&b1r, 7).check(&b1r, 7).is_ok());
    }
}
