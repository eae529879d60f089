//! Everything that this program reads and did not just write itself, each as a target: hand it bytes, and it either
//! takes them or says clearly why not. Shared by the mutation tests (`tests/it/house/hostile.rs`) and the fuzzer.

mod corpora;
mod dialects;
pub mod files;
pub mod llama;
mod models;
mod mutate;
mod prepared;
mod sql;
mod stored;
mod watch;

pub use models::write_model;
pub use mutate::mutated;
pub use watch::{Watch, largest_request, reset_largest_request};

use scalingnote::error::{ErrorKind, Result};

/// Stands in texts of the seeds: no error may repeat it.
pub const CANARY: &str = "zanzibarquicksilver";

/// Something that reads bytes from outside.
pub trait Target: Send {
    /// Valid inputs to start from.
    fn seeds(&self) -> Vec<Vec<u8>>;
    /// Reads `data` in the place of the valid bytes, as far as the program would.
    fn read(&mut self, data: &[u8]) -> Result<()>;
    /// What an error must say at least one of: the file, or the table or key that stands for it.
    fn names(&self) -> Vec<String>;
}

/// Names of all targets.
pub const KINDS: &[&str] = &[
    "pipeline",
    "manifest",
    "plan",
    "part-receipt",
    "encode-receipt",
    "build-receipt",
    "part",
    "ids",
    "prepared",
    "usearch",
    "sidecar",
    "gguf",
    "safetensors",
    "model-config",
    "tokenizer",
    "adapter",
    "adapter-config",
    "parquet",
    "jsonl",
    "json",
    "csv",
    "csv-dialects",
    "arrow",
    "avro",
    "md",
    "pairs",
    "retrieval-set",
    "documents",
    "condition",
    "query",
];

/// A target by its name.
pub fn target(kind: &str) -> Box<dyn Target> {
    match kind {
        "gguf" | "safetensors" | "model-config" | "tokenizer" | "adapter" | "adapter-config" => {
            Box::new(models::Model::new(kind))
        }
        "parquet" | "jsonl" | "json" | "csv" | "arrow" | "avro" | "md" => {
            Box::new(corpora::Table::new(kind))
        }
        "csv-dialects" => Box::new(dialects::Dialects::new()),
        "pipeline" | "pairs" | "retrieval-set" | "documents" => Box::new(corpora::File::new(kind)),
        "condition" => Box::new(sql::Condition::new()),
        "query" => Box::new(sql::Query::new()),
        _ => Box::new(stored::Stored::new(kind)),
    }
}

/// Most that one allocation may take for an input of `size` bytes: buffers of fixed size and what the input itself
/// can fill. An input of a few kilobytes that makes the program ask for more was believed without a check.
pub fn allowed_request(size: usize) -> usize {
    (96 << 20) + 64 * size
}

/// Reads `data` and judges what came of it. Returns whether it was taken.
///
/// # Panics
/// Where an error is a bug of the program, does not name its file, or repeats a text.
pub fn fuzz_one(target: &mut dyn Target, data: &[u8]) -> bool {
    reset_largest_request();
    let outcome = target.read(data);
    let largest = largest_request();
    assert!(
        largest <= allowed_request(data.len()),
        "{largest} bytes were asked for at once to read {} bytes",
        data.len()
    );
    let Err(error) = outcome else { return true };
    let shown = format!("{error:?}");
    assert_ne!(error.kind(), ErrorKind::Internal, "a bug, not a broken file: {shown}");
    assert!(!shown.contains(CANARY), "an error repeats a text: {shown}");
    let names = target.names();
    assert!(
        error.kind() == ErrorKind::Config || names.iter().any(|name| shown.contains(name)),
        "the error names none of {names:?}: {shown}"
    );
    false
}

/// The runtime of all targets.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).max_blocking_threads(8).enable_all().build().unwrap()
    });
    runtime.block_on(future)
}
