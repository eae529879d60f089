//! A dense matrix of vectors: the one shape in which embeddings travel between modules.

use crate::error::{Error, Result};

/// `[rows, dimensions]`, row-major f32.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embeddings {
    dimensions: usize,
    data: Vec<f32>,
}

impl Embeddings {
    /// An empty matrix with room for `rows` rows.
    pub fn with_capacity(dimensions: usize, rows: usize) -> Self {
        Self { dimensions, data: Vec::with_capacity(dimensions * rows) }
    }

    /// Takes `data` of length `rows * dimensions`.
    ///
    /// # Errors
    /// Internal, if the length is not a multiple of `dimensions`.
    pub fn from_vec(dimensions: usize, data: Vec<f32>) -> Result<Self> {
        if dimensions == 0 || !data.len().is_multiple_of(dimensions) {
            return Err(Error::internal(format!(
                "{} values do not make rows of {dimensions} dimensions",
                data.len()
            )));
        }
        Ok(Self { dimensions, data })
    }

    /// Appends one row.
    ///
    /// # Panics
    /// If `row.len() != dimensions`: a programming error.
    pub fn push(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.dimensions, "row length");
        self.data.extend_from_slice(row);
    }

    /// Elements of one row.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.dimensions).unwrap_or(0)
    }

    /// True where there is no row.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Row `at`.
    ///
    /// # Panics
    /// If `at >= len()`.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.data[at * self.dimensions..(at + 1) * self.dimensions]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dimensions.max(1))
    }

    /// A copy of the first `most` rows.
    #[must_use]
    pub fn first(&self, most: usize) -> Self {
        let end = most.min(self.len()) * self.dimensions;
        Self { dimensions: self.dimensions, data: self.data[..end].to_vec() }
    }

    /// The values, row-major.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_lengths() {
        let mut m = Embeddings::with_capacity(2, 2);
        assert!(m.is_empty());
        m.push(&[1., 2.]);
        m.push(&[3., 4.]);
        assert_eq!((m.len(), m.row(1)), (2, &[3., 4.][..]));
        assert_eq!(m.rows().len(), 2);
        assert_eq!((m.first(1).as_slice(), m.first(9)), (&[1., 2.][..], m));
        assert!(Embeddings::from_vec(3, vec![0.; 4]).is_err());
    }
}
