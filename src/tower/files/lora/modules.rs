//! Which modules a configuration means: names, ends of names, or regular expressions of Python, read as PEFT reads
//! them.

use fancy_regex::Regex;
use serde_json::Value;

use crate::error::{Error, Result};

/// The way out of nearly every refusal.
pub(super) const MERGE: &str = "merge it into its model with PEFT (merge_and_unload, save_pretrained) and name the \
     result as `model`, without `adapter`";

/// What PEFT calls all linear layers but the last.
const ALL_LINEAR: &str = "all-linear";

/// `target_modules` or `exclude_modules`.
pub(super) enum Modules {
    /// Names or ends of names.
    Listed(Vec<String>),
    /// The expression fits the whole name.
    Fitting(Regex),
    AllLinear,
}

impl Modules {
    /// # Errors
    /// Unsupported for an expression that is not read here; Corrupt for a value of a wrong type.
    pub(super) fn new(value: &Value, key: &str) -> Result<Self> {
        match value {
            Value::Array(all) => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let names: Option<_> = all.iter().map(text).collect();
                let names = names.ok_or_else(|| {
                    Error::corrupt(format!("{key} lists something else than texts"))
                })?;
                Ok(Self::Listed(names))
            }
            Value::String(text)
                if text.eq_ignore_ascii_case(ALL_LINEAR) && key.starts_with("target") =>
            {
                Ok(Self::AllLinear)
            }
            Value::String(text) => {
                Ok(Self::Fitting(expression(text, key, |text| format!("(?:{text})"))?))
            }
            _ => Err(Error::corrupt(format!("{key} is neither a text nor a list"))),
        }
    }

    /// Whether they name a module itself, not by the end of its name.
    pub(super) fn name(&self, module: &str) -> bool {
        matches!(self, Self::Listed(names) if names.iter().any(|name| name == module))
    }

    /// Whether a module is one of them.
    pub(super) fn hold(&self, module: &str) -> bool {
        let ends = |name: &String| {
            let rest = module.strip_suffix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        match self {
            Self::Listed(names) => names.iter().any(ends),
            Self::Fitting(expression) => fits(expression, module),
            Self::AllLinear => module.rsplit('.').next() != Some("lm_head"),
        }
    }
}

/// `layers_to_transform` and `layers_pattern`: the layers that ends of names count in.
pub(super) struct Layers {
    numbers: Vec<f64>,
    /// Each finds a layer's number behind the name of the list of layers.
    places: Vec<Regex>,
}

impl Layers {
    pub(super) fn new(numbers: Vec<f64>, pattern: Option<&Value>) -> Result<Self> {
        let key = "layers_pattern";
        let names = match pattern {
            None => Vec::new(),
            Some(Value::String(one)) if one.is_empty() => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(list) => match Modules::new(list, key)? {
                Modules::Listed(names) => names,
                _ => Vec::new(),
            },
        };
        // Where layers are the first part of a name, nothing is before them.
        let place =
            |name: &str| expression(name, key, |name| format!(r"(?:.*\.)?{name}\.(\d+)\..*"));
        let places = match names.is_empty() {
            true => vec![place("[^.]*")?],
            false => names.iter().map(|name| place(name)).collect::<Result<_>>()?,
        };
        Ok(Self { numbers, places })
    }

    /// Whether a module is in one of them.
    pub(super) fn hold(&self, module: &str) -> bool {
        let number =
            |place: &Regex| place.captures(module).ok().flatten()?.get(1)?.as_str().parse().ok();
        let found: Option<u32> = self.places.iter().find_map(number);
        self.numbers.is_empty()
            || found.is_some_and(|found| self.numbers.contains(&f64::from(found)))
    }
}

/// Whether an expression fits a module's name. One that is not done after a million steps fits nothing.
pub(super) fn fits(expression: &Regex, module: &str) -> bool {
    expression.is_match(module).unwrap_or(false)
}

/// A regular expression of Python, as a part of another, that fits a whole name.
///
/// # Errors
/// Unsupported for what means nothing here, or perhaps something else.
pub(super) fn expression(text: &str, key: &str, whole: impl Fn(&str) -> String) -> Result<Regex> {
    let compiled = means_the_same(text).then(|| Regex::new(&format!(r"\A(?:{})\z", whole(text))));
    compiled.and_then(std::result::Result::ok).ok_or_else(|| {
        Error::unsupported(format!(
            "{key} has the regular expression {text:?}, which is not read here; write the modules' names out, or {MERGE}"
        ))
    })
}

/// Whether every construct of an expression is known to be the same in Python and here.
fn means_the_same(text: &str) -> bool {
    let mut rest = text.chars().peekable();
    let mut class = None;
    while let Some(c) = rest.next() {
        let next = rest.peek().copied();
        match (c, class) {
            ('\\', _) => {
                let Some(escaped) = rest.next() else { return false };
                let letter = "AbBdDsSwWZnrt".contains(escaped) || ('1'..='9').contains(&escaped);
                let mark = escaped.is_ascii_punctuation() && !"<>".contains(escaped);
                if !(letter || mark) {
                    return false;
                }
                class = class.map(|length: usize| length + 1);
            }
            // A bracket that comes first is text.
            (']', Some(length)) if length > 0 => class = None,
            // Sets of sets are not Python's.
            ('[', Some(_)) => return false,
            ('&' | '-' | '~' | '|', Some(_)) if next == Some(c) => return false,
            ('^', Some(0)) => {}
            (_, Some(length)) => class = Some(length + 1),
            ('[', None) => class = Some(0),
            ('(', None) if next == Some('?') => {
                let opened: String = rest.clone().skip(1).take(2).collect();
                let known = [":", "=", "!", "<=", "<!", "P<", "P=", "i)", "i:"];
                if !known.iter().any(|known| opened.starts_with(known)) {
                    return false;
                }
            }
            ('{', None) if !next.is_some_and(|next| next.is_ascii_digit()) => return false,
            _ => {}
        }
    }
    class.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `re.fullmatch` of Python 3.12 says.
    #[test]
    fn expressions_fit_as_in_python() {
        let module = "model.layers.11.self_attn.v_proj";
        for (text, fitting) in [
            (".*v_proj", true),
            ("v_proj", false),
            (r".*\.(q|v)_proj", true),
            (r".*\.(q|k)_proj", false),
            (r"model\.layers\.(1[0-9]|2[0-3])\.self_attn\.[qv]_proj", true),
            (r"model\.layers\.([0-9])\.self_attn\.[qv]_proj", false),
            ("^(?!.*visual).*(?:q_proj|v_proj)$", true),
            ("^(?!.*self_attn).*(?:q_proj|v_proj)$", false),
            (r".*(?<=self_attn\.)v_proj", true),
            (r"(?i).*V_PROJ", true),
            (r".*layers\.(?P<n>\d)(?P=n)\..*", true),
            ("model|.*v_proj", true),
            ("model|.*k_proj", false),
            (r".*\.\d{2}\.[^.]+\.v_proj\Z", true),
            (r".*[]v]_proj", true),
            (r".*[\w\-]+", true),
            ("", false),
        ] {
            let found = Modules::new(&text.into(), "target_modules").unwrap().hold(module);
            assert_eq!(found, fitting, "{text}");
        }
    }

    #[test]
    fn what_may_mean_something_else_is_refused() {
        for text in [
            "(v_proj",
            "*",
            r"\p{L}",
            r".*\<v_proj",
            "[[a-z]]",
            "[a-z&&[^v]]",
            "a{,3}",
            "x{",
            r"\K",
            "(?R)",
            "(?x) v",
            "(?U)a",
            "(?(1)a|b)",
            r"\x{41}",
            r"a\",
            "[a",
            r"\h",
            r"\0",
        ] {
            let said = Modules::new(&text.into(), "target_modules")
                .err()
                .unwrap_or_else(|| panic!("{text}"));
            let said = said.to_string();
            assert!(said.contains("target_modules") && said.contains("merge_and_unload"), "{said}");
        }
    }

    #[test]
    fn layers_are_found_behind_their_list() {
        for (pattern, module, held) in [
            (Value::Null, "model.layers.1.mlp.up_proj", true),
            (Value::Null, "layers.1.mlp.up_proj", true),
            (Value::Null, "model.layers.11.mlp.up_proj", false),
            (Value::Null, "lm_head", false),
            ("layers".into(), "model.layers.1.mlp.up_proj", true),
            ("h".into(), "model.layers.1.mlp.up_proj", false),
            (vec!["h", "layers"].into(), "model.layers.1.mlp.up_proj", true),
            ("(?:h|layers)".into(), "model.layers.1.mlp.up_proj", true),
        ] {
            let given = (!pattern.is_null()).then_some(&pattern);
            let layers = Layers::new(vec![0.0, 1.0], given).unwrap();
            assert_eq!(layers.hold(module), held, "{pattern} {module}");
        }
        assert!(Layers::new(Vec::new(), None).unwrap().hold("lm_head"));
    }
}
