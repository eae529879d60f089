//! Recipe files (TOML): unknown keys are refused, every complaint names file, line and key.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::{self, Origin, nearest};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The text of a recipe and the folder its relative paths start from.
///
/// # Errors
/// Usage, naming the file.
pub(super) fn read(file: &Path) -> Result<(String, PathBuf)> {
    config::read(file, &file.display().to_string())
}

/// Where the keys of a recipe are listed.
const HINT: &str =
    "`scalingnote schema train` and `scalingnote schema distill` list every key of a recipe";

/// Reads TOML as `T`.
///
/// # Errors
/// Config, as `file:line:column: what is wrong`.
pub(super) fn parse<T: DeserializeOwned + Serialize>(text: &str, file: &Path) -> Result<T> {
    let wrong = |error: toml::de::Error| {
        let origin = error.span().map_or(Origin::Default, |span| Origin::at(text, span.start));
        let place = origin.place(&file.display().to_string());
        Error::config(format!("{place}: {}", near(error.message()))).with_hint(HINT)
    };
    let given: toml::Table = toml::from_str(text).map_err(wrong)?;
    let options: T = toml::from_str(text).map_err(wrong)?;
    // Serde lets unknown keys of a tagged choice (`kind = "full"`) pass; what it took, it also gives back, but for some
    // defaults. Those it reads all the same: no key is of this value.
    let given = serde_json::to_value(&given).context(|| "reading a recipe")?;
    let taken = serde_json::to_value(&options).context(|| "reading a recipe")?;
    let is_read = |path: &str| {
        let mut wrong = given.clone();
        let key = wrong.pointer_mut(&format!("/{}", path.replace('.', "/")));
        if let Some(value) = key {
            *value = json!({ "": {} });
        }
        serde_json::from_value::<T>(wrong).is_err()
    };
    match unknown(&given, &taken, "", &is_read) {
        None => Ok(options),
        Some((key, near)) => {
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let message = format!("{}: unknown key `{key}`{near}", file.display());
            Err(Error::config(message).with_hint(HINT))
        }
    }
}

/// Reads a recipe and the folder its relative paths start from. One that has any of the sections `others` is meant for
/// `command` instead.
///
/// # Errors
/// As [`read`] and [`parse`]; Config, naming the other command, and for a pipeline file.
pub(super) fn open<T: DeserializeOwned + Serialize>(
    file: &Path,
    others: &[&str],
    command: &str,
) -> Result<(T, PathBuf)> {
    let (text, base_dir) = read(file)?;
    let given: toml::Table = toml::from_str(&text).unwrap_or_default();
    if ["corpus", "publish"].iter().any(|key| given.contains_key(*key)) {
        return Err(Error::config(format!(
            "{} is a pipeline file, as `scalingnote run` takes it; this command takes a recipe",
            file.display()
        ))
        .with_hint(HINT));
    }
    match others.iter().find(|key| given.contains_key(**key)) {
        None => Ok((parse(&text, file)?, base_dir)),
        Some(key) => Err(Error::config(format!(
            "{} has [{key}]: it is a recipe for `scalingnote {command}`",
            file.display()
        ))),
    }
}

/// What serde says of an unknown key, with the nearest of those that it lists, if one is near, instead of all.
fn near(message: &str) -> String {
    let listed = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once("`, expected "))
        .map(|(key, names)| (key, names.split('`').skip(1).step_by(2)));
    match listed.and_then(|(key, names)| Some((key, nearest(key, names)?))) {
        Some((key, near)) => format!("unknown field `{key}`; did you mean `{near}`?"),
        None => message.to_owned(),
    }
}

/// A Config error of the library, with the file whose fields it names.
pub(super) fn naming<T>(file: &Path, result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::Config => {
            Err(error).context(|| file.display().to_string())
        }
        other => other,
    }
}

/// The first key of `given` that `taken` lacks and that is not read, as a dotted path, and the nearest key that is there.
fn unknown(
    given: &Value,
    taken: &Value,
    path: &str,
    is_read: &dyn Fn(&str) -> bool,
) -> Option<(String, Option<String>)> {
    match (given, taken) {
        (Value::Object(given), Value::Object(all)) => given.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match all.get(key) {
                Some(taken) => unknown(value, taken, &path, is_read),
                None if is_read(&path) => None,
                None => {
                    Some((path, nearest(key, all.keys().map(String::as_str)).map(str::to_owned)))
                }
            }
        }),
        (Value::Array(given), Value::Array(taken)) => {
            given.iter().zip(taken).enumerate().find_map(|(at, (given, taken))| {
                unknown(given, taken, &format!("{path}.{at}"), is_read)
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{DistillOptions, TrainOptions};

    const RECIPE: &str = "steps = 3\n[tower]\nmodel = \"x\"\npooling = \"mean\"\n[query]\n\
        [method]\nkind = \"full\"\n[[pairs]]\npath = \"p\"\n";

    fn error(text: &str) -> String {
        let error = parse::<TrainOptions>(text, Path::new("r.toml")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    }

    #[test]
    fn unknown_keys_are_refused_wherever_they_stand() {
        assert!(parse::<TrainOptions>(RECIPE, Path::new("r.toml")).is_ok());
        for (good, bad, expected) in [
            ("steps", "stepz", "r.toml:1:1: unknown field `stepz`; did you mean `steps`?"),
            ("model =", "modle =", "r.toml:3:1: unknown field `modle`"),
            ("path =", "paht =", "unknown field `paht`; did you mean `path`?"),
            ("\"full\"", "\"full\"\nrank = 4", "unknown field `rank`"),
            ("\"full\"", "\"lora\"\nrang = 4", "unknown field `rang`"),
            (
                "[query]",
                "[query]\n[query.method]\nkind = \"lora\"\nrang = 4",
                "unknown field `rang`",
            ),
            ("steps = 3", "steps = x", "r.toml:1:"),
            ("steps = 3", "steps = \"x\"", "r.toml:1:9: invalid type: string"),
        ] {
            let found = error(&RECIPE.replace(good, bad));
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn a_key_of_a_choice_may_have_its_default() {
        let recipe = "[teacher]\nmodel = \"x\"\npooling = \"mean\"\n[student]\nkind = \"bert\"\npath = \"p\"\n\
            refit_queries = 0\nfit_queries = 16384\n[[pairs]]\npath = \"p\"\n";
        let read = |text: &str| parse::<DistillOptions>(text, Path::new("r.toml"));
        read(recipe).unwrap();
        let found = read(&recipe.replace("refit_queries", "refit_querys")).unwrap_err();
        assert!(found.to_string().contains("unknown key `student.refit_querys`"), "{found}");
    }
}
