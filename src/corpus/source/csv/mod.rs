//! CSV files, and their relatives: separated by commas, tabs or semicolons, quoted or escaped or neither.

mod dialect;
mod files;
mod header;
mod learn;
mod read;
mod tokens;

pub(super) use dialect::{Dialect, check_options};
pub(super) use files::learn_files;
pub(super) use read::read;

#[cfg(test)]
mod tests;
