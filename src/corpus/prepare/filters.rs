//! Filters of templates that leave numbers what they are, where those of the template language round them.

use minijinja::value::Rest;
use minijinja::{Error, ErrorKind, State, Value};

/// The filter `int` without its guesses: it uses a float where a text has a point in it, and turns a float that
/// no integer of 128 bits holds into another number.
pub(super) fn int(state: &State, value: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(number) = digits.parse::<i128>()
        {
            return Ok(Value::from(number));
        }
    }
    let float = match value.as_str() {
        Some(text) => text.parse().ok(),
        None if value.is_integer() => None,
        None => f64::try_from(value.clone()).ok(),
    };
    // The limit itself is 2^127.
    match float {
        Some(float) if float.is_nan() || float.abs() >= i128::MAX as f64 => {
            Err(Error::new(ErrorKind::InvalidOperation, "no whole number of at most 128 bits"))
        }
        _ => minijinja::filters::int(state, value),
    }
}

/// The filter `format`, whose `%s` gives a float six digits, with all of them.
pub(super) fn format(state: &State, spec: &Value, args: Rest<Value>) -> Result<Value, Error> {
    let mut args = args.0;
    for at in texts(spec.as_str().unwrap_or_default()) {
        if let Some(arg) = args.get_mut(at)
            && arg.is_number()
        {
            *arg = Value::from(arg.to_string());
        }
    }
    minijinja::filters::format(state, spec, Rest(args))
}

/// Which arguments a format prints as text. Those that it names (`%(title)s`) are not counted.
fn texts(spec: &str) -> Vec<usize> {
    let (mut found, mut next) = (Vec::new(), 0);
    let mut rest = spec.chars();
    while rest.by_ref().any(|c| c == '%') {
        for c in rest.by_ref() {
            match c {
                // A width or precision that is an argument itself.
                '*' => next += 1,
                '-' | '+' | ' ' | '#' | '.' | '0'..='9' | 'h' | 'l' | 'L' => {}
                's' => {
                    found.push(next);
                    next += 1;
                    break;
                }
                '%' => break,
                '(' => return Vec::new(),
                _ => {
                    next += 1;
                    break;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_format_are_counted() {
        assert_eq!(texts("%s"), [0]);
        assert_eq!(texts("%d%% of %-5s and %.2f, %*s"), [1, 4]);
        assert_eq!(texts("100%"), [0; 0]);
        assert_eq!(texts("%(name)s"), [0; 0]);
    }
}
