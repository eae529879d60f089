//! What is added to the scores of attention by the distance between a key and a query.

/// Lanes of two vectors, the widest block of queries.
const BLOCK: usize = 32;

/// A number for every head and distance, laid out so that those of neighbouring queries lie side by side.
pub struct DistanceBias {
    /// `[heads][stride]`: the number of distance `positions - 1 - i` at `i`.
    table: Vec<f32>,
    stride: usize,
    positions: usize,
}

impl DistanceBias {
    /// For sequences of at most `positions`; `of(head, distance)` is the number of a key that stands `distance` behind its
    /// query, negative before it.
    pub fn new(heads: usize, positions: usize, of: impl Fn(usize, isize) -> f32) -> Self {
        // A block may hold queries beyond the sequence, whose results nobody reads.
        let stride = 2 * positions + BLOCK;
        let mut table = vec![0.; heads * stride];
        for (head, row) in table.chunks_exact_mut(stride).enumerate() {
            for (at, to) in row[..2 * positions].iter_mut().enumerate() {
                *to = of(head, positions as isize - 1 - at as isize);
            }
        }
        Self { table, stride, positions }
    }

    /// What is added for `key` and the queries from position `first` on.
    ///
    /// # Panics
    /// Where a position is not below the number of positions.
    #[inline(always)]
    pub(super) fn row(&self, head: usize, first: usize, key: usize) -> &[f32] {
        assert!(first < self.positions && key < self.positions, "a position within the table");
        &self.table[head * self.stride + first + self.positions - 1 - key..][..BLOCK]
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::simd::Isa;
    use super::super::super::window::Window;
    use super::super::attention::{Attention, Heads, Scratch, Span};
    use super::*;

    const HEADS: usize = 2;
    const DIM: usize = 6;
    const WIDTH: usize = HEADS * DIM;

    fn value(i: usize) -> f32 {
        ((i * 7919 % 4093) as f32 - 2046.) / 1500.
    }

    fn number(head: usize, distance: isize) -> f32 {
        (distance as f32 * 0.3 + head as f32).sin() * 2.
    }

    /// Attention of one query of a sequence of `len`, in f64.
    fn exact(
        q: &[f32],
        kv: &[f32],
        len: usize,
        window: Window,
        at: usize,
        head: usize,
    ) -> Vec<f64> {
        let row =
            |key: usize, part: usize| &kv[key * 2 * WIDTH + part * WIDTH + head * DIM..][..DIM];
        let q = &q[at * WIDTH + head * DIM..][..DIM];
        let weight = |key: usize| -> f64 {
            let score: f64 = q.iter().zip(row(key, 0)).map(|(q, k)| f64::from(q * k)).sum();
            (score + f64::from(number(head, key as isize - at as isize))).exp()
        };
        let keys = window.keys(at, len);
        let sum: f64 = keys.clone().map(weight).sum();
        let one =
            |d: usize| keys.clone().map(|key| weight(key) * f64::from(row(key, 1)[d])).sum::<f64>();
        (0..DIM).map(|d| one(d) / sum).collect()
    }

    #[test]
    fn scores_are_biased_by_distance() {
        let positions = 90;
        let bias = DistanceBias::new(HEADS, positions, number);
        for (len, isa) in [1, 33, 90]
            .into_iter()
            .flat_map(|n| Isa::available().into_iter().map(move |isa| (n, isa)))
        {
            for window in [Window::FULL, Window { before: 9, after: 9 }] {
                let q: Vec<f32> = (0..len * WIDTH).map(value).collect();
                let kv: Vec<f32> = (0..len * 2 * WIDTH).map(|i| value(i + 77)).collect();
                let mut out = vec![0.; len * WIDTH];
                let attention = Attention {
                    q: &q,
                    kv: &kv,
                    out: &mut out,
                    spans: &[Span { start: 0, len, query_start: 0, queries: len }],
                    heads: Heads { heads: HEADS, kv_heads: HEADS, dim: DIM },
                    window,
                    scratch: &mut Scratch::default(),
                };
                attention.apply_with(isa, Some(&bias));
                for (at, found) in out.chunks_exact(DIM).enumerate() {
                    let expected = exact(&q, &kv, len, window, at / HEADS, at % HEADS);
                    for (a, b) in found.iter().zip(expected) {
                        assert!(
                            (f64::from(*a) - b).abs() < 1e-5,
                            "{isa:?} {len} {window:?}: {a} and {b}"
                        );
                    }
                }
            }
        }
    }
}
