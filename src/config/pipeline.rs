//! The typed configuration: one struct composed of every stage's options.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::next::NextOptions;
use super::origin::Origins;
use super::query::QueryOptions;
use super::version::PipelineVersion;
use crate::corpus::{CorpusInput, CorpusOptions, refuse_tables_in_root};
use crate::error::{Error, Result};
use crate::observe::Reporter;
use crate::snapshot::Retention;
use crate::stage::{BuildOptions, ChunkingOptions, EncodeOptions, EvaluationOptions, GateOptions};
use crate::store::{Keys, Root, StorageOptions};
use crate::tower::{DeviceSpec, TowerOptions};
use crate::types::Cancel;

/// A whole pipeline: notes in, published snapshot out. Made by [`crate::config::resolve`].
///
/// Relative paths start at the directory of the config file; `~/` at the start of a path is the home folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Version of this format.
    #[schemars(with = "u32")]
    pub version: PipelineVersion,
    /// Where notes come from and how a note becomes text.
    pub corpus: CorpusOptions,
    /// The document tower.
    pub tower: TowerOptions,
    /// The tower that is to take over; its vectors are made over many runs while `[tower]` goes on publishing.
    #[serde(default)]
    pub next: Option<NextOptions>,
    /// How texts are encoded.
    #[serde(default)]
    pub encode: EncodeOptions,
    /// How indexes are built.
    #[serde(default)]
    pub index: BuildOptions,
    /// Cuts long notes into windows; without this section a note is one text.
    #[serde(default)]
    pub chunking: Option<ChunkingOptions>,
    /// What a snapshot must satisfy to be published.
    #[serde(default)]
    pub gates: GateOptions,
    /// Queries that every build is asked before it is published.
    #[serde(default)]
    pub evaluation: Option<EvaluationOptions>,
    /// Where the snapshots go.
    pub publish: PublishOptions,
    /// How long snapshots and run files stay.
    #[serde(default)]
    pub retention: Retention,
    /// How object stores are reached.
    #[serde(default)]
    pub storage: StorageOptions,
    /// How queries are encoded.
    #[serde(default)]
    pub query: QueryOptions,
    /// The directory that relative paths start from: that of the config file.
    #[serde(skip)]
    pub base_dir: PathBuf,
    /// The config file; empty where the configuration came from none.
    #[serde(skip)]
    pub file: PathBuf,
    /// Where its values came from.
    #[serde(skip)]
    pub origins: Origins,
}

/// Where snapshots are published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishOptions {
    /// Root under which everything is stored: a path, `file://`, `s3://bucket/prefix`, `gs://`, `az://`.
    pub root: String,
    /// Files with the Ed25519 public keys (PEM) of who may publish. With any, manifests that none of them signed are not
    /// read, and what is published is signed: SCALINGNOTE_SIGNING_KEY_FILE names the file of the private key, or
    /// SCALINGNOTE_SIGNING_KEY holds it.
    #[serde(default)]
    pub public_keys: Vec<String>,
}

impl Pipeline {
    /// The root, with its keys; nothing is asked of the network.
    ///
    /// # Errors
    /// As [`Root::open_with`] and [`Keys::load`].
    pub fn open_root(&self) -> Result<Root> {
        let root = Root::open_with(&self.publish.root, &self.storage)?;
        Ok(root.with_keys(Keys::load(&self.publish.public_keys)?))
    }

    /// Refuses a root in which a table of this pipeline is.
    ///
    /// # Errors
    /// Input, with the place of the key.
    pub(crate) async fn refuse_tables_in(&self, root: &Root) -> Result<()> {
        let Self { corpus, base_dir, storage, .. } = self;
        self.origins.placed(refuse_tables_in_root(corpus, base_dir, storage, root).await)
    }

    /// The corpus, and what it is read with.
    pub(crate) fn corpus_input<'a>(
        &'a self,
        reporter: &'a Arc<dyn Reporter>,
        cancel: &'a Cancel,
    ) -> CorpusInput<'a> {
        let Self { corpus: options, base_dir, storage, .. } = self;
        CorpusInput { options, base_dir, storage, reporter, cancel }
    }

    /// The tower that encodes queries: the query tower if there is one, else the document tower
    /// with the query's prompt.
    pub fn query_tower(&self) -> TowerOptions {
        let QueryOptions { tower, prompt_prefix, prompt_suffix, adapt: _ } = self.query.clone();
        let tower = tower.unwrap_or_else(|| self.tower.clone());
        TowerOptions {
            prompt_prefix: prompt_prefix.or(tower.prompt_prefix),
            prompt_suffix: prompt_suffix.or(tower.prompt_suffix),
            ..tower
        }
        .for_queries()
    }

    /// Where the queries of `[evaluation]` are encoded.
    ///
    /// # Errors
    /// Config, naming the key.
    pub fn evaluation_device(&self) -> Result<DeviceSpec> {
        match self.evaluation.as_ref().and_then(|evaluation| evaluation.device.as_ref()) {
            Some(device) => device.parse().map_err(|error: Error| {
                Error::config(format!("evaluation.device: {}", error.message()))
            }),
            None => Ok(self.encode.devices()?.swap_remove(0)),
        }
    }

    /// This pipeline as it will be once `[next]` has taken over; `None` without `[next]`.
    pub fn after_next(&self) -> Option<Self> {
        let next = self.next.as_ref()?;
        let mut after = self.clone();
        after.tower = next.tower.clone();
        after.corpus.template.clone_from(next.template.as_ref().unwrap_or(&self.corpus.template));
        after.origins = self.origins.after_next();
        after.chunking = next.chunking.or(self.chunking);
        after.query = next.query.clone();
        after.next = None;
        Some(after)
    }
}

/// A root or path as it is used: relative local paths start at `base`; URIs stay.
pub(super) fn absolute(root: &str, base: &Path) -> String {
    if root.contains("://") || root.is_empty() || Path::new(root).is_absolute() {
        return root.to_owned();
    }
    let mut path = PathBuf::from(base);
    for part in Path::new(root).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if path.file_name().is_some() => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_roots_start_at_the_config_file() {
        let base = Path::new("/etc/pipelines");
        assert_eq!(absolute("../data/./root", base), "/etc/data/root");
        assert_eq!(absolute("root", base), "/etc/pipelines/root");
        assert_eq!(absolute("/srv/root", base), "/srv/root");
        assert_eq!(absolute("s3://bucket/x", base), "s3://bucket/x");
    }
}
