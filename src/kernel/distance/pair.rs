//! The distance of two stored rows, neither of them prepared: what another program's builder calls.

use half::{bf16, f16};

use super::{Element, Instructions, Lane, Task, inverse};
use crate::lanes::dot;

/// Elements that are opened to f32 at a time.
const OPENED: usize = 64;

/// The distance of two rows as they are stored, as [`super::distances`] says it up to rounding.
///
/// # Panics
/// Where the rows differ in length.
pub fn between(on: Instructions, element: Element, a: &[u8], b: &[u8]) -> f32 {
    assert_eq!(a.len(), b.len(), "rows of two lengths");
    #[cfg(target_arch = "x86_64")]
    if element == Element::I8 && on != Instructions::Portable {
        // SAFETY: the rows are of one length, and all but `Portable` have AVX2.
        return cosine(unsafe { super::x86::products(a, b) });
    }
    on.run(element, Between { element, a, b })
}

/// The distance by what [`products`] gives.
#[inline(always)]
fn cosine([both, first, second]: [i32; 3]) -> f32 {
    (1. - both as f32 * (inverse(first) * inverse(second))).max(0.)
}

/// The sums of the products of two rows of 8-bit integers, and of the squares of each, in one pass.
#[inline(always)]
fn products(a: &[u8], b: &[u8]) -> [i32; 3] {
    let mut sums = [0; 3];
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (i32::from(*x as i8), i32::from(*y as i8));
        for (sum, product) in sums.iter_mut().zip([x * y, x * x, y * y]) {
            *sum += product;
        }
    }
    sums
}

struct Between<'a> {
    element: Element,
    a: &'a [u8],
    b: &'a [u8],
}

impl Task for Between<'_> {
    type Output = f32;

    /// Plain Rust, which the compiler makes vectors of: the lane only says for which instructions.
    #[inline(always)]
    fn run<L: Lane>(self) -> f32 {
        let (a, b) = (self.a, self.b);
        match self.element {
            Element::F32 => inner(a, b, f32::from_le_bytes),
            Element::F16 => inner(a, b, |two| f16::from_le_bytes(two).to_f32()),
            Element::Bf16 => inner(a, b, |two| bf16::from_le_bytes(two).to_f32()),
            Element::I8 => cosine(products(a, b)),
            Element::B1 | Element::Signs => {
                let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
                let words = a.0.iter().zip(b.0);
                let apart = |(x, y): (&[u8; 8], &[u8; 8])| {
                    (u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y)).count_ones()
                };
                let rest = a.1.iter().zip(b.1).map(|(x, y)| (x ^ y).count_ones());
                (words.map(apart).sum::<u32>() + rest.sum::<u32>()) as f32
            }
        }
    }
}

#[inline(always)]
fn inner<const N: usize>(a: &[u8], b: &[u8], open: impl Fn([u8; N]) -> f32) -> f32 {
    let (a, b) = (a.as_chunks::<N>().0, b.as_chunks::<N>().0);
    let mut sum = 0.;
    let mut opened = [[0f32; OPENED]; 2];
    for (a, b) in a.chunks(OPENED).zip(b.chunks(OPENED)) {
        for (to, from) in opened.iter_mut().zip([a, b]) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = open(*from));
        }
        sum += dot(&opened[0][..a.len()], &opened[1][..b.len()]);
    }
    1. - sum
}
