//! Offline embedding and index-building pipeline with LLM document towers (ScalingNote, arXiv 2411.15766).
//!
//! This page is the architecture; the README says how to use the program.
//!
//! ```text
//! note corpus --DataFusion--> shards --candle LLM tower, one per device--> embedding Parquet
//!     --usearch--> quantised index shards --gates--> versioned snapshot --> serving picks it up
//! ```
//!
//! # From a program
//!
//! [`config::Pipeline`] is what a pipeline file says, [`store::Root`] where everything is stored, [`exec`] runs it,
//! [`search::Snapshot`] answers queries, [`search::SnapshotWatcher`] keeps the newest snapshot open, [`exec::learn`]
//! trains, distils and judges towers, and every failure is an [`error::Error`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use scalingnote::config::resolve_text;
//! use scalingnote::error::Error;
//! use scalingnote::exec::{self, RunContext, RunOptions};
//! use scalingnote::observe::{Reporter, Silent};
//! use scalingnote::search::{QueryEncoder, Snapshot};
//! use scalingnote::snapshot;
//! use scalingnote::store::Root;
//! use scalingnote::types::Cancel;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Error> {
//!     let folder = tempfile::tempdir().expect("a temporary folder");
//!     let notes = "{\"id\": 1, \"text\": \"use after free\"}\n{\"id\": 2, \"text\": \"weak password\"}\n";
//!     std::fs::write(folder.path().join("notes.jsonl"), notes).expect("the notes are written");
//!     let pipeline = r#"
//!         version = 2
//!         corpus.sql = "SELECT id AS note_id, text FROM notes"
//!         corpus.template = "{{ text }}"
//!         corpus.tables = [{ name = "notes", uri = "notes.jsonl" }]
//!         tower = { model = "fake:16", pooling = "mean" } # a stand-in for an LLM
//!         publish.root = "index"
//!     "#;
//!     let pipeline = resolve_text(pipeline, "notes.toml", folder.path(), [], &[])?.pipeline;
//!
//!     // Prepare, encode, build, publish: snapshot 1.
//!     let root = Root::open(&pipeline.publish.root)?;
//!     let reporter: Arc<dyn Reporter> = Arc::new(Silent);
//!     let cancel = Cancel::new();
//!     let context = RunContext { pipeline, root: root.clone(), reporter: reporter.clone(), cancel };
//!     let report = exec::run(&context, &RunOptions::default()).await?;
//!     assert_eq!(report.corpus.notes, 2);
//!     assert_eq!(snapshot::newest(&root).await?.map(|manifest| manifest.number), Some(1));
//!
//!     // Search it with the tower that it names.
//!     let opened = Snapshot::open(&root, None, folder.path()).await?;
//!     let device = "cpu".parse()?;
//!     let towers = QueryEncoder::load(&root, opened.manifest(), None, folder.path(), &device, &reporter);
//!     let query = towers.await?.encode("weak password")?;
//!     let hits = opened.search_vector(&query, 1, false)?;
//!     assert_eq!(hits[0].note_id.to_string(), "i:2");
//!     Ok(())
//! }
//! ```
//!
//! # Layers
//!
//! What is linked here is the library's interface. The other modules are public for this package's own program, tests and benches
//! alone, and change without notice; `make docs` renders their pages, too.
//!
//! Imports go down only, never sideways inside a layer; `tests/it/house/layers.rs` holds the code to this table and to
//! the fences in its last column.
//!
//! | layer | modules | only here |
//! |---|---|---|
//! | L7 | [`cli`]: prints, parses flags, draws progress | clap, indicatif |
//! | L6 | [`exec`]: runs tasks, in process, one envelope for a scheduler, or on a Ballista cluster (feature `cluster`); [`serve`]: the reference service | |
//! | L5 | [`config`]: composes the typed options of all stages; [`report`]: what a plan would do and a run did, for people and monitors | |
//! | L4 | [`stage`]: typed options + envelope -> receipt | |
//! | L3 | [`search`], [`train`], [`evaluate`] | |
//! | L2 | [`corpus`], [`tower`], [`embedding`], [`index`], [`snapshot`], [`dataset`] | datafusion, candle, usearch |
//! | L1 | [`store`], [`observe`], [`schema`], `kernel` (arithmetic on slices, compiled for each instruction set) | gemm |
//! | L0 | [`error`], [`types`] | |
//!
//! # The one mechanism: plan once, execute envelopes
//!
//! [`stage::plan`] resolves the configuration, runs one DataFusion job that writes each shard's prepared notes,
//! compares them with the newest snapshot and with every stored part, and lays out [`stage::Envelope`]s: encode tasks,
//! one calibration, build tasks. An envelope is JSON; it holds no handle and no secret. Every driver gives envelopes to
//! [`stage::execute`], and nothing else runs a task. A task stores its files under names that end in their own hash,
//! then puts a receipt, if absent, at a path derived from what the task is. A task whose receipt exists does nothing.
//! So resuming after any crash is running again, and retries are safe. [`stage::publish`] judges the gates and commits
//! one manifest by put-if-absent: the only moment at which readers see anything.
//!
//! # What a vector is, and when it is made
//!
//! An [`types::EmbeddingSpace`] is everything that decides what a vector means. A vector is reused wherever (space,
//! hash of the rendered text) is the same: under another note id, in another shard, after a crash, in a later run.
//! Parts are never rewritten; a snapshot's ids files say which part and row each live vector is in.
//!
//! A new tower is filled beside the old one: a night's back-fill is an ordinary plan of the next space, cut to a budget
//! ([`stage::Backfill`]); the plan that has nothing left to cut also builds, and publishing it is the switch.
//!
//! # Where to read next
//!
//! - `store::layout` names every path under the root; `schemas/` are the published contracts.
//! - [`stage`]: one folder per step: plan, encode, build, publish, and purge; below them what they share.
//! - [`tower`]: weight files on one side, the packed decoder on the other, [`tower::DecoderConfig`] between them.
//! - [`index`]: quantise, build, audit, repair, measure; `index::format` reads usearch's file without usearch.

#![warn(missing_docs)]
// Rooms behind the interface have `doc(hidden)`, unless `make docs` asks for all of them. Rustdoc then checks private items of
// theirs and loses what they link to: `make docs` is the check.
#![cfg_attr(not(rooms), allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links))]

// L0
pub mod error;
pub mod types;
// L1
pub(crate) use scalingnote_kernel as kernel;
pub mod observe;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod schema;
pub mod store;
// L2
#[cfg_attr(not(rooms), doc(hidden))]
pub mod corpus;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod dataset;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod embedding;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod index;
pub mod snapshot;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod tower;
// L3
#[cfg_attr(not(rooms), doc(hidden))]
pub mod evaluate;
pub mod search;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod train;
// L4
#[cfg_attr(not(rooms), doc(hidden))]
pub mod stage;
// L5
pub mod config;
pub mod report;
// L6
pub mod exec;
pub mod serve;
// L7
#[cfg_attr(not(rooms), doc(hidden))]
pub mod cli;
