//! What is understood of a tower, as one record: for the manifest, `scalingnote tower` and `config show`.

use crate::tower::Tower;
use crate::types::{Digest256, ModelCard, Sourced};

impl Tower {
    /// What the model is and how it is used, each value with its source.
    pub fn card(&self) -> ModelCard {
        let options = self.options();
        let space = self.space(Digest256::of(b""));
        ModelCard {
            model: options.model.clone(),
            revision: options.revision.clone(),
            family: self.family().to_owned(),
            family_by: self.family_by().to_owned(),
            parameters: self.parameters(),
            dimensions: self.dimensions(),
            pooling: self.sourced("pooling", options.pooling()),
            modules: space.modules,
            normalize: self.sourced("normalize", options.normalize()),
            prompt_prefix: self.sourced("prompt_prefix", options.prompt_prefix().to_owned()),
            prompt_suffix: self.sourced("prompt_suffix", options.prompt_suffix().to_owned()),
            max_tokens: self.sourced("max_tokens", options.max_tokens()),
            licence: self.licence().cloned(),
        }
    }

    fn sourced<T>(&self, key: &str, value: T) -> Sourced<T> {
        let understood = self.understood().iter().find(|understood| understood.key == key);
        let by = understood.map_or_else(|| "set".to_owned(), |understood| understood.by.clone());
        Sourced { value, by }
    }
}
