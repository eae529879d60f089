//! Fields of a `config.json`, each with the error that names it.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::kernel::Activation;

/// The fields of an encoder's `config.json`. A null is an absent field.
pub(super) struct Fields<'a> {
    pub(super) family: &'a str,
    pub(super) fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// A whole number, 0 included; `None` where it is absent.
    pub(super) fn whole(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|value| usize::try_from(value).ok());
        let wrong = || Error::corrupt(format!("{key} is {value}, which is no whole number"));
        number.map(Some).ok_or_else(wrong)
    }

    /// A whole number under the first of `keys` that is there.
    pub(super) fn count(&self, keys: &[&str]) -> Result<usize> {
        for key in keys {
            if let Some(number) = self.whole(key)? {
                return Ok(number);
            }
        }
        Err(Error::corrupt(format!("it has no {}", keys.join(" or "))))
    }

    /// A number, `default` where it is absent.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value
            .as_f64()
            .ok_or_else(|| Error::corrupt(format!("{key} is {value}, which is no number")))
    }

    /// True or false, `default` where it is absent.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value
            .as_bool()
            .ok_or_else(|| Error::corrupt(format!("{key} is {value}, neither true nor false")))
    }

    /// Refuses a field that is set to anything but one of `wanted`.
    pub(super) fn refuse_unless(&self, key: &str, wanted: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(found) if !wanted.contains(found) => {
                let wanted: Vec<String> = wanted.iter().map(Value::to_string).collect();
                Err(Error::unsupported(format!(
                    "{key} = {found} is not supported in the family {} (only {} is)",
                    self.family,
                    wanted.join(" or ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// The activation under `key`, GELU where it is absent.
    pub(super) fn activation(&self, key: &str) -> Result<Activation> {
        let Some(value) = self.get(key) else { return Ok(Activation::Gelu) };
        Ok(match value.as_str() {
            Some("gelu" | "gelu_python") => Activation::Gelu,
            Some(
                "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate"
                | "geluapproximate",
            ) => Activation::GeluTanh,
            Some("relu") => Activation::Relu,
            Some("silu" | "swish") => Activation::Silu,
            _ => {
                return Err(Error::unsupported(format!(
                    "{key} = {value} is not supported (gelu, gelu_new, gelu_pytorch_tanh, relu and silu are)"
                )));
            }
        })
    }
}
