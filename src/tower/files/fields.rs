//! Fields of a `config.json`, each checked for what it is, with the error that names it.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::kernel::Activation;

/// The fields of a `config.json`, or of an object in it. A null is an absent field.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// `model_type`; empty where there is none.
    pub(super) fn family(self) -> &'a str {
        self.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// A whole number, 0 included.
    pub(super) fn whole(self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|value| usize::try_from(value).ok());
        let wrong = || Error::corrupt(format!("{key} is {value}, which is not a whole number"));
        number.map(Some).ok_or_else(wrong)
    }

    /// A positive whole number.
    pub(super) fn positive(self, key: &str) -> Result<Option<usize>> {
        match self.whole(key)? {
            Some(0) => Err(Error::corrupt(format!("{key} is 0, which is not positive"))),
            number => Ok(number),
        }
    }

    /// A positive whole number that has to be there.
    pub(super) fn count(self, key: &str) -> Result<usize> {
        self.first(&[key])
    }

    /// The same under the first of `keys` that is there.
    pub(super) fn first(self, keys: &[&str]) -> Result<usize> {
        for key in keys {
            if let Some(number) = self.positive(key)? {
                return Ok(number);
            }
        }
        Err(Error::corrupt(format!("it has no {}", keys.join(" or "))))
    }

    /// A number.
    pub(super) fn number(self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Error::corrupt(format!("{key} is {value}, which is not a number"));
        value.as_f64().map(Some).ok_or_else(wrong)
    }

    /// True or false.
    pub(super) fn flag(self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Error::corrupt(format!("{key} is {value}, neither true nor false"));
        value.as_bool().map(Some).ok_or_else(wrong)
    }

    /// An object.
    pub(super) fn object(self, key: &str) -> Result<Option<Self>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Error::corrupt(format!("{key} is not an object"));
        value.as_object().map(|object| Some(Self(object))).ok_or_else(wrong)
    }

    /// Refuses a field that is set to anything but `wanted`.
    pub(super) fn refuse_unless(self, key: &str, wanted: impl Into<Value>) -> Result<()> {
        let wanted = wanted.into();
        match self.get(key) {
            Some(found) if !same(found, &wanted) => Err(Error::unsupported(format!(
                "{key} = {found} is not supported in the family {} (only {wanted} is)",
                self.family()
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses weights that their makers quantised.
    pub(super) fn refuse_quantised(self) -> Result<()> {
        self.get("quantization_config").map_or(Ok(()), |found| {
            Err(Error::unsupported(format!(
                "quantization_config is {found}: its weights are quantised in a way that cannot be read here"
            )))
        })
    }

    /// The activation under `key`, GELU where it is absent.
    pub(super) fn activation(self, key: &str) -> Result<Activation> {
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

/// 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a == b)
}
