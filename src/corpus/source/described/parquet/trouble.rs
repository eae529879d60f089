//! Why a column chunk is not decoded.

use parquet::errors::ParquetError;

/// What is wrong with a file.
pub(super) type Broken = &'static str;

/// Why a column chunk is not decoded.
pub(super) enum Trouble {
    Broken(Broken),
    /// It would take so many bytes at once, or more.
    Large(u64),
    Reader(ParquetError),
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<ParquetError> for Trouble {
    fn from(error: ParquetError) -> Self {
        Self::Reader(error)
    }
}
