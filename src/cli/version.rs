//! What `--version` says.

use crate::kernel;

/// The release, the commit, the features and the kernels of this processor; `-V` says the release alone.
///
/// It is kept until the program ends, once: clap takes a text of its own only with a feature that nothing else needs.
pub(super) fn long(commit: Option<&str>) -> &'static str {
    let named = [
        ("cuda", cfg!(feature = "cuda")),
        ("flash-attn", cfg!(feature = "flash-attn")),
        ("cluster", cfg!(feature = "cluster")),
        ("delta", cfg!(feature = "delta")),
        ("databases", cfg!(feature = "databases")),
    ];
    let built: Vec<&str> = named.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let features = if built.is_empty() { "none".to_owned() } else { built.join(", ") };
    let kernels = kernel::chosen().map(|(what, by)| format!("{what} by {by}")).join("; ");
    let said = format!(
        "{}\ncommit:   {}\nfeatures: {features}\nkernels:  {kernels}",
        env!("CARGO_PKG_VERSION"),
        commit.filter(|commit| !commit.is_empty()).unwrap_or("not known: built without `make`"),
    );
    said.leak()
}
