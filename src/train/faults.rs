//! What is wrong with options: all of it at once, each by the dotted key that it is written under.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// What was found so far.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<(String, Error)>);

impl Faults {
    /// Adds what is wrong with a key, if anything is.
    pub(super) fn add(&mut self, key: impl Into<String>, checked: Result<()>) {
        self.0.extend(checked.err().map(|error| (key.into(), error)));
    }

    /// Adds a Config error, unless the value is `fine`; `said` follows the key.
    pub(super) fn require(
        &mut self,
        fine: bool,
        key: impl Into<String>,
        said: impl Into<Cow<'static, str>>,
    ) {
        if !fine {
            self.add(key, Err(Error::config(said)));
        }
    }

    /// Adds what was found in a section, by keys that start there; the empty key is the section.
    pub(super) fn within<K: AsRef<str>>(&mut self, section: &str, found: Vec<(K, Error)>) {
        let key = |key: &str| match key {
            "" => section.to_owned(),
            key => format!("{section}.{key}"),
        };
        self.0.extend(found.into_iter().map(|(own, error)| (key(own.as_ref()), error)));
    }

    /// Refuses a number that is none, endless, or not above 0.
    pub(super) fn positive(&mut self, key: &str, value: f64) {
        self.require(value.is_finite() && value > 0.0, key, "must be a number above 0");
    }

    /// The same for a softmax's temperature: below a thousandth, cosines lead out of what f32 can tell apart.
    pub(super) fn temperature(&mut self, key: impl Into<String>, value: f64) {
        self.require((1e-3..=1e3).contains(&value), key, "must be in 0.001..=1000");
    }

    /// Refuses weights of a loss that are negative or no numbers, and all that are 0 together.
    pub(super) fn weights(&mut self, weights: [(&str, f64); 3]) {
        for (key, weight) in weights {
            self.require(weight.is_finite() && weight >= 0.0, key, "must be a number of 0 or more");
        }
        let [(first, _), (second, _), (third, _)] = weights;
        let any = weights.iter().any(|(_, weight)| *weight != 0.0);
        self.require(any, first, format!("must be above 0, or {second} or {third}"));
    }
}

/// One error that names every key, for who has no file to show; of the kind of the first.
pub(super) fn refuse(found: &[(String, Error)]) -> Result<()> {
    let Some((_, first)) = found.first() else { return Ok(()) };
    let said: Vec<String> = found.iter().map(|(key, error)| format!("{key} {error}")).collect();
    Err(Error::new(first.kind(), said.join("; ")))
}
