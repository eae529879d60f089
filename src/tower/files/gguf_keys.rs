//! GGUF metadata that belongs to an architecture.

use crate::error::{Error, Result};
use crate::tower::files::gguf::Gguf;

/// The metadata of one architecture.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) architecture: &'a str,
}

impl Keys<'_> {
    pub(super) fn key(self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A positive whole number, `None` where the key is absent.
    pub(super) fn optional(self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        let Some(value) = self.gguf.integer(&key)? else { return Ok(None) };
        let value = usize::try_from(value).ok().filter(|value| *value > 0);
        value.map(Some).ok_or_else(|| self.gguf.wrong(&key, "a positive whole number"))
    }

    /// The same, which has to be there.
    pub(super) fn needed(self, name: &str) -> Result<usize> {
        self.optional(name)?.ok_or_else(|| self.absent(name))
    }

    /// A number that has to be there.
    pub(super) fn float(self, name: &str) -> Result<f64> {
        self.gguf.float(&self.key(name))?.ok_or_else(|| self.absent(name))
    }

    fn absent(self, name: &str) -> Error {
        Error::corrupt(format!("it has no {}", self.key(name)))
    }

    pub(super) fn refuse_experts(self) -> Result<()> {
        match self.gguf.integer(&self.key("expert_count"))? {
            Some(1..) => Err(Error::unsupported("mixtures of experts are not supported")),
            _ => Ok(()),
        }
    }
}
