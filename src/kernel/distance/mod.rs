//! Distances of one prepared query from stored rows, for walks over a graph.
//!
//! ```text
//! let codes = Codes::new(Element::I8, dimensions, rows, &bytes, &inverse)?;   // rows one after the other, any alignment
//! let mut query = Query::default();
//! query.set(Element::I8, dimensions, code_bytes);                             // from bytes as they are stored
//! let mut out = vec![0.; slots.len()];
//! distances(Instructions::best(), &codes, &query, &slots, &mut out);          // one per slot
//! ```
//!
//! | element | row | distance |
//! |---|---|---|
//! | [`Element::F32`], [`Element::F16`], [`Element::Bf16`] | a unit vector | 1 - inner product |
//! | [`Element::I8`] | whole numbers, any length | 1 - cosine, from one integer product and [`inverse_lengths`] |
//! | [`Element::B1`] | bits, the first in the lowest of the first byte | bits that differ |
//! | [`Element::Signs`] | the same bits, set where a number is above 0 | [`Query::set_signs`] says it |
//!
//! Rows are laid out as in a usearch file: `row_bytes` each, no padding, no alignment; behind the last one at least
//! [`SLACK`] bytes must be readable, because vectors are loaded whole. Integer distances are the same on every
//! instruction set, those of floats differ by rounding. Inside this package a loop over a graph is a `Task`, compiled
//! with the lane of its element type inlined; `Far` is what it measures with.

mod lane;
mod pair;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

pub(super) use self::lane::Lane;
use self::lane::Measure;
pub use self::pair::between;
use super::prefetch::prefetch;

/// Readable bytes that must follow the last row.
pub const SLACK: usize = 64;
/// The most 8-bit integers of a row: so many products of a byte and a signed one fit 32 bits.
const MOST_INTEGERS: usize = 1 << 16;

/// Type of the elements of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers.
    I8,
    /// Bits.
    B1,
    /// Bits that are signs, against a query of 8-bit integers.
    Signs,
}

impl Element {
    /// Bytes of a row.
    pub fn row_bytes(self, dimensions: usize) -> usize {
        match self {
            Self::F32 => 4 * dimensions,
            Self::F16 | Self::Bf16 => 2 * dimensions,
            Self::I8 => dimensions,
            Self::B1 | Self::Signs => dimensions.div_ceil(8),
        }
    }
}

/// Rows of one length and element type.
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    element: Element,
    dimensions: usize,
    rows: usize,
    row_bytes: usize,
    bytes: &'a [u8],
    inverse: &'a [f32],
}

impl<'a> Codes<'a> {
    /// `rows` rows from the first of `bytes` on, and [`SLACK`] bytes more; `inverse` holds one over the length of each
    /// row for [`Element::I8`] and nothing otherwise. `None` where the sizes do not fit, or for sums of over 65,536
    /// integers.
    pub fn new(
        element: Element,
        dimensions: usize,
        rows: usize,
        bytes: &'a [u8],
        inverse: &'a [f32],
    ) -> Option<Self> {
        let row_bytes = element.row_bytes(dimensions);
        let needed = rows.checked_mul(row_bytes)?.checked_add(SLACK)?;
        let lengths = if element == Element::I8 { rows } else { 0 };
        let sums = !matches!(element, Element::I8 | Element::Signs) || dimensions <= MOST_INTEGERS;
        (sums && dimensions > 0 && needed <= bytes.len() && lengths == inverse.len())
            .then_some(Self { element, dimensions, rows, row_bytes, bytes, inverse })
    }

    /// Type of the elements.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Elements of a row.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The bytes of a row.
    pub fn row(&self, slot: u32) -> &'a [u8] {
        let at = slot as usize * self.row_bytes;
        &self.bytes[at..at + self.row_bytes]
    }
}

/// One over the length of every row of 8-bit integers; 0 for a row of zeros.
pub fn inverse_lengths(dimensions: usize, rows: &[u8]) -> Vec<f32> {
    struct Lengths<'a>(std::slice::ChunksExact<'a, u8>);
    impl Task for Lengths<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<L: Lane>(self) -> Vec<f32> {
            self.0.map(inverse_length).collect()
        }
    }
    let rows = rows.chunks_exact(dimensions.max(1));
    Instructions::best().run(Element::I8, Lengths(rows))
}

/// One over the length of a row of 8-bit integers; 0 for zeros.
#[inline(always)]
fn inverse_length(row: &[u8]) -> f32 {
    let square = |x: &u8| i32::from(*x as i8) * i32::from(*x as i8);
    inverse(row.iter().map(square).sum())
}

/// One over the length of a row with these squares in all; 0 for zeros.
#[inline(always)]
fn inverse(squares: i32) -> f32 {
    if squares == 0 { 0. } else { 1. / (squares as f32).sqrt() }
}

/// A query in the form that the lanes read: floats as f32, others as stored, zeros up to a multiple of 64 bytes.
#[derive(Debug, Clone, Default)]
pub struct Query {
    prepared: Vec<u8>,
    /// Sum of the 8-bit integers; for signs of the sizes of those below 0.
    sum: i32,
    /// One over the length of the 8-bit integers.
    inverse: f32,
    /// The distance of a row without bits, and how much nearer each unit of the sum is.
    line: (f32, f32),
}

impl Query {
    /// Takes the bytes of a row of this form as the query. 8-bit integers lie within -127..=127; of signs those that
    /// differ are counted.
    ///
    /// # Panics
    /// Where `row` has another length than a row of so many dimensions.
    pub fn set(&mut self, element: Element, dimensions: usize, row: &[u8]) {
        assert_eq!(row.len(), element.row_bytes(dimensions), "a query of another length");
        self.prepared.clear();
        let halves = row.as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two));
        let floats = |f: fn(u16) -> f32, to: &mut Vec<u8>| {
            halves.for_each(|bits| to.extend_from_slice(&f(bits).to_ne_bytes()));
        };
        match element {
            Element::Signs => {
                let sign = |at: usize| f32::from(row[at / 8] >> (at % 8) & 1) * 2. - 1.;
                let signs: Vec<f32> = (0..dimensions).map(sign).collect();
                return self.set_signs(&signs, dimensions as f32 / 2., 0.5);
            }
            Element::F16 => floats(|bits| f16::from_bits(bits).to_f32(), &mut self.prepared),
            Element::Bf16 => floats(|bits| bf16::from_bits(bits).to_f32(), &mut self.prepared),
            Element::F32 | Element::I8 | Element::B1 => self.prepared.extend_from_slice(row),
        }
        self.prepared.resize(self.prepared.len().next_multiple_of(64), 0);
        if element == Element::I8 {
            self.sum = row.iter().map(|x| i32::from(*x as i8)).sum();
            self.inverse = inverse_length(row);
        }
    }

    /// Takes numbers to multiply with rows of [`Element::Signs`]: the distance of a row with signs `s` (1 where its bit is
    /// set, -1 elsewhere) is `start - scale * (values . s)`, with the values rounded to 255 levels.
    pub fn set_signs(&mut self, values: &[f32], start: f32, scale: f32) {
        let peak = values.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        let level = if peak > 0. { peak / 127. } else { 1. };
        self.prepared.clear();
        let (mut sum, mut below) = (0, 0);
        self.prepared.extend(values.iter().map(|x| {
            let rounded = (x / level).round_ties_even() as i8;
            sum += i32::from(rounded);
            below -= i32::from(rounded.min(0));
            rounded as u8
        }));
        self.prepared.resize(self.prepared.len().next_multiple_of(64), 0);
        (self.sum, self.inverse) = (below, 0.);
        // values . s is twice the sum over set bits, less the sum of all.
        self.line = (start + scale * level * sum as f32, 2. * scale * level);
    }
}

/// Which instructions this machine has for distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// 512-bit vectors, with VNNI, VPOPCNTDQ and byte operations (Ice Lake, Zen 4 and later).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust, whatever the compiler makes of it (NEON on aarch64).
    Portable,
}

impl Instructions {
    /// All that this machine has, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("popcnt");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512vpopcntdq")
            {
                found.push(Self::Avx512);
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                found.push(Self::AvxVnni);
            }
            if avx2 {
                found.push(Self::Avx2);
            }
        }
        found.push(Self::Portable);
        found
    }

    /// The best.
    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self::Portable)
    }

    /// Runs a task compiled for these instructions and elements.
    pub(super) fn run<T: Task>(self, element: Element, task: T) -> T::Output {
        #[cfg(target_arch = "x86_64")]
        macro_rules! enter {
            ($features:literal, $f32:ident $f16:ident $bf16:ident $i8:ident $b1:ident $signs:ident) => {{
                #[target_feature(enable = $features)]
                fn enter<L: Lane, T: Task>(task: T) -> T::Output {
                    task.run::<L>()
                }
                // SAFETY: this value exists only where the features were found.
                unsafe {
                    match element {
                        Element::F32 => enter::<x86::$f32, T>(task),
                        Element::F16 => enter::<x86::$f16, T>(task),
                        Element::Bf16 => enter::<x86::$bf16, T>(task),
                        Element::I8 => enter::<x86::$i8, T>(task),
                        Element::B1 => enter::<$b1, T>(task),
                        Element::Signs => enter::<x86::$signs, T>(task),
                    }
                }
            }};
        }
        #[cfg(target_arch = "x86_64")]
        use {self::lane::PortableB1, self::x86::Avx512B1};
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => enter!(
                "avx512f,avx512bw,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt",
                Avx512F32 Avx512F16 Avx512Bf16 Avx512I8 Avx512B1 Avx512Signs
            ),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => enter!(
                "avxvnni,avx2,fma,f16c,popcnt",
                Avx2F32 Avx2F16 Avx2Bf16 AvxVnniI8 PortableB1 Avx2Signs
            ),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => enter!(
                "avx2,fma,f16c,popcnt",
                Avx2F32 Avx2F16 Avx2Bf16 Avx2I8 PortableB1 Avx2Signs
            ),
            Self::Portable => match element {
                Element::F32 => task.run::<lane::PortableF32>(),
                Element::F16 => task.run::<lane::PortableF16>(),
                Element::Bf16 => task.run::<lane::PortableBf16>(),
                Element::I8 => task.run::<lane::PortableI8>(),
                Element::B1 => task.run::<lane::PortableB1>(),
                Element::Signs => task.run::<lane::PortableSigns>(),
            },
        }
    }
}

/// A computation that measures distances, compiled for every lane.
pub(super) trait Task {
    /// What comes out.
    type Output;
    /// The body; implementations are `inline(always)`.
    fn run<L: Lane>(self) -> Self::Output;
}

/// Bytes that are all ones, then zeros: a mask of `n` bytes begins `n` before the middle.
static MASKS: [u8; 128] = {
    let mut masks = [0; 128];
    let mut at = 0;
    while at < 64 {
        masks[at] = 0xff;
        at += 1;
    }
    masks
};

/// Distances of one query from rows; made in a [`Task`] only.
#[derive(Clone, Copy)]
pub(super) struct Far<'a> {
    codes: Codes<'a>,
    query: &'a Query,
}

impl<'a> Far<'a> {
    /// # Panics
    /// Where the query is of another form than the rows.
    pub fn new(codes: Codes<'a>, query: &'a Query) -> Self {
        let each = match codes.element {
            Element::F32 | Element::F16 | Element::Bf16 => 4 * codes.dimensions,
            Element::I8 | Element::B1 => codes.row_bytes,
            Element::Signs => codes.dimensions,
        };
        assert_eq!(query.prepared.len(), each.next_multiple_of(64), "a query of another form");
        Self { codes, query }
    }

    /// Asks for a row before it is read.
    #[inline(always)]
    pub fn prefetch(&self, slot: u32) {
        prefetch(self.codes.bytes, slot as usize * self.codes.row_bytes, self.codes.row_bytes);
        prefetch(self.codes.inverse, slot as usize, 1);
    }

    /// # Panics
    /// Where the slot is beyond the rows.
    #[inline(always)]
    pub fn one<L: Lane>(&self, slot: u32) -> f32 {
        // SAFETY: `Lane` wants the instruction set, which is there below `Instructions::run`, as `Task` says.
        let [sum] = unsafe { self.sums::<L, 1>([slot]).map(|sum| L::total(sum)) };
        self.distance::<L>(sum, slot)
    }

    /// # Panics
    /// Where a slot is beyond the rows.
    #[inline(always)]
    pub fn four<L: Lane>(&self, slots: [u32; 4]) -> [f32; 4] {
        // SAFETY: as in `one`.
        let sums = unsafe { L::totals(self.sums::<L, 4>(slots)) };
        let [a, b, c, d] = slots;
        let of = |at: usize, slot| self.distance::<L>(sums[at], slot);
        [of(0, a), of(1, b), of(2, c), of(3, d)]
    }

    #[inline(always)]
    fn distance<L: Lane>(&self, sum: f32, slot: u32) -> f32 {
        match L::MEASURE {
            Measure::Inner => 1. - sum,
            Measure::Cosine => {
                let inverse = self.query.inverse * self.codes.inverse[slot as usize];
                (1. - sum * inverse).max(0.)
            }
            Measure::Hamming => sum,
            Measure::Signs => self.query.line.0 - self.query.line.1 * sum,
        }
    }

    /// # Safety
    /// The instruction set of the lane is there.
    #[inline(always)]
    unsafe fn sums<L: Lane, const N: usize>(&self, slots: [u32; N]) -> [L::Sum; N] {
        let codes = &self.codes;
        assert!(slots.iter().all(|slot| (*slot as usize) < codes.rows), "a slot beyond the rows");
        let steps = codes.row_bytes.div_ceil(L::ROW);
        let left = codes.row_bytes - (steps - 1) * L::ROW;
        // SAFETY: the caller vouches for the instruction set. Every slot is below `rows`, `Codes::new` saw `SLACK`
        // bytes behind the last row, and a step takes at most 64 bytes, so a step that begins in a row ends in `bytes`.
        // The query is as long as 64-byte steps over its elements need. A mask begins within the first 64 of 128 bytes.
        unsafe {
            let rows = slots.map(|slot| codes.bytes.as_ptr().add(slot as usize * codes.row_bytes));
            let query = self.query.prepared.as_ptr();
            let mut sums = [L::sum(-L::OFFSET * self.query.sum); N];
            let whole = if L::CUT && left < L::ROW { steps - 1 } else { steps };
            for step in 0..whole {
                let query = L::query(query.add(step * L::QUERY));
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = L::add(*sum, query, L::row(row.add(step * L::ROW)));
                }
            }
            if whole < steps {
                let query = L::query(query.add(whole * L::QUERY));
                let mask = L::row(MASKS.as_ptr().add(64 - left));
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = L::add(*sum, query, L::cut(L::row(row.add(whole * L::ROW)), mask));
                }
            }
            sums
        }
    }

    /// Distances of many rows, in groups of four.
    #[inline(always)]
    pub fn all<L: Lane>(&self, slots: &[u32], out: &mut [f32]) {
        let (fours, rest) = slots.as_chunks::<4>();
        let (out_fours, out_rest) = out.as_chunks_mut::<4>();
        for (four, out) in fours.iter().zip(out_fours) {
            *out = self.four::<L>(*four);
        }
        for (slot, out) in rest.iter().zip(out_rest) {
            *out = self.one::<L>(*slot);
        }
    }
}

/// Distances of the rows `slots` from the query, to the same places of `out`.
///
/// # Panics
/// Where a slot is beyond the rows, the query is of another form, or `out` is shorter than `slots`.
pub fn distances(on: Instructions, codes: Codes, query: &Query, slots: &[u32], out: &mut [f32]) {
    struct All<'a>(Far<'a>, &'a [u32], &'a mut [f32]);
    impl Task for All<'_> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lane>(self) {
            self.0.all::<L>(self.1, self.2);
        }
    }
    let out = &mut out[..slots.len()];
    on.run(codes.element, All(Far::new(codes, query), slots, out));
}

#[cfg(test)]
mod tests;
