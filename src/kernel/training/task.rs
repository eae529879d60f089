//! How much of a loop one task of the thread pool takes.

/// Rows.
pub const ROWS: usize = 64;

/// Numbers, where there are no rows.
pub const NUMBERS: usize = 1 << 15;
