//! Rows of a head on their way into its buffers and out again, rotated by their positions.

/// The rotary angles of positions from 0 on: cosines and sines `[positions, half]`.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
    /// Half a head's width.
    pub half: usize,
}

impl Angles<'_> {
    /// Copies rows `from_row` apart to rows `to_row` apart, rotated.
    #[inline(never)]
    pub fn rotate(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize) {
        self.turn(from, from_row, to, to_row, 1.0);
    }

    /// The transpose of [`Angles::rotate`].
    #[inline(never)]
    pub fn unrotate(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize) {
        self.turn(from, from_row, to, to_row, -1.0);
    }

    #[inline(always)]
    fn turn(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize, way: f32) {
        let half = self.half;
        for (at, (x, y)) in from.chunks(from_row).zip(to.chunks_mut(to_row)).enumerate() {
            let angles = at * half..(at + 1) * half;
            let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
            for i in 0..half {
                y[i] = x[i] * cos[i] - way * x[i + half] * sin[i];
                y[i + half] = x[i + half] * cos[i] + way * x[i] * sin[i];
            }
        }
    }
}

/// Copies the first `count` elements of rows `from_row` apart to rows `to_row` apart.
#[inline(never)]
pub fn copy_rows(from: &[f32], from_row: usize, to: &mut [f32], to_row: usize, count: usize) {
    for (from, to) in from.chunks(from_row).zip(to.chunks_mut(to_row)) {
        to[..count].copy_from_slice(&from[..count]);
    }
}
