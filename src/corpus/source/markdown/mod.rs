//! Markdown notes, as Obsidian, Hugo, Jekyll and people write them: a file is a row.
//!
//! A [`note`] becomes one JSON object, and the reader of JSON makes columns and batches of it: so declared types, columns
//! that come and go, and rejected rows are as there. Every value of the front matter is text as it is written, whatever
//! YAML would make of `no`, `007` or `1.10`; `schema` declares what is more.

mod fault;
mod front;
mod note;
mod rows;
mod yaml;

pub(super) use rows::{learn, options, read};
