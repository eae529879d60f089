//! Recipe files (TOML): unknown keys are refused, every complaint names file, line and key.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::config::{self, Written};
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
/// Config, with all that is wrong, each as `file:line:column: what is wrong`.
pub(super) fn parse<T: DeserializeOwned + JsonSchema>(
    text: &str,
    file: &Path,
) -> Result<Written<T>> {
    Written::parse(text, &file.display().to_string()).map_err(|error| error.with_hint(HINT))
}

/// A recipe, and the folder its relative paths start from.
pub(super) struct Recipe<T> {
    pub(super) written: Written<T>,
    pub(super) base_dir: PathBuf,
}

/// Reads a recipe. One that has any of the sections `others` is meant for `command` instead.
///
/// # Errors
/// As [`read`] and [`parse`]; Config, naming the other command, and for a pipeline file.
pub(super) fn open<T: DeserializeOwned + JsonSchema>(
    file: &Path,
    others: &[&str],
    command: &str,
) -> Result<Recipe<T>> {
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
        None => Ok(Recipe { written: parse(&text, file)?, base_dir }),
        Some(key) => Err(Error::config(format!(
            "{} has [{key}]: it is a recipe for `scalingnote {command}`",
            file.display()
        ))),
    }
}

/// Refuses, before any work, options that cannot work (`found`), and files that are not there where `is_read` says of
/// the section of their key that the command reads it.
///
/// # Errors
/// All of it in one error, each with its place; of the kind of the first.
pub(super) fn check<T>(
    written: &Written<T>,
    mut found: Vec<(String, Error)>,
    missing: Vec<(String, Error)>,
    is_read: impl Fn(&str) -> bool,
) -> Result<()> {
    let section = |key: &str| is_read(key.split('.').next().unwrap_or_default());
    found.extend(missing.into_iter().filter(|(key, _)| section(key)));
    written.refuse(&found)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{DistillOptions, TrainOptions};

    const RECIPE: &str = "steps = 3\n[tower]\nmodel = \"x\"\npooling = \"mean\"\n[query]\n\
        [method]\nkind = \"full\"\n[[pairs]]\npath = \"p\"\n";

    fn error(text: &str) -> String {
        let error = parse::<TrainOptions>(text, Path::new("r.toml")).err().unwrap();
        assert_eq!((error.kind(), error.hint()), (ErrorKind::Config, Some(HINT)));
        error.to_string()
    }

    #[test]
    fn unknown_keys_are_refused_wherever_they_stand() {
        assert!(parse::<TrainOptions>(RECIPE, Path::new("r.toml")).is_ok());
        for (good, bad, expected) in [
            ("steps", "stepz", "r.toml:1:1: unknown key `stepz` at the top; did you mean `steps`?"),
            ("model =", "modle =", "r.toml:3:1: unknown key `modle` in [tower]"),
            ("path =", "paht =", "unknown key `paht` in [pairs.0]; did you mean `path`?"),
            ("\"full\"", "\"full\"\nrank = 4", "unknown key `rank` in [method]; known are"),
            ("\"full\"", "\"lora\"\nrang = 4", "unknown key `rang`"),
            (
                "[query]",
                "[query]\n[query.method]\nkind = \"lora\"\nrang = 4",
                "unknown key `rang` in [query.method]",
            ),
            ("steps = 3", "steps = x", "r.toml:1:"),
            ("steps = 3", "steps = \"x\"", "r.toml:1:9: `steps` must be an integer"),
        ] {
            let found = error(&RECIPE.replace(good, bad));
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn options_that_cannot_work_are_told_at_once_each_with_its_place() {
        let mut recipe = RECIPE.to_owned() + "temperature = 5e-4\n";
        for (good, bad) in [
            ("steps = 3", "steps = 0\ntemperature = 0.0"),
            ("[query]", "[query]\nlearning_rate = 1e-3"),
            ("\"full\"", "\"lora\"\nrank = 0"),
        ] {
            recipe = recipe.replace(good, bad);
        }
        let written = parse::<TrainOptions>(&recipe, Path::new("r.toml")).unwrap();
        let refused = check(&written, written.options.faults(), Vec::new(), |_| true).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
        assert_eq!(
            refused.to_string(),
            "5 problems in the configuration\n  r.toml:1:9: `steps`: must be above 0\n  \
             r.toml:2:15: `temperature`: must be in 0.001..=1000\n  \
             r.toml:7:17: `query.learning_rate`: needs a query side with parameters of its own; \
             set query.layers or query.method\n  \
             r.toml:10:8: `method.rank`: must be above 0\n  \
             r.toml:13:15: `pairs.0.temperature`: must be in 0.001..=1000"
        );
        // Without the file, one error names the same keys.
        let refused = written.options.validate().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
        for said in ["steps must be above 0", "method.rank must be", "; pairs.0.temperature must"] {
            assert!(refused.to_string().contains(said), "{refused}");
        }
    }

    #[test]
    fn a_key_of_a_choice_may_have_its_default() {
        let recipe = "[teacher]\nmodel = \"x\"\npooling = \"mean\"\n[student]\nkind = \"bert\"\npath = \"p\"\n\
            refit_queries = 0\nfit_queries = 16384\n[[pairs]]\npath = \"p\"\n";
        let read = |text: &str| parse::<DistillOptions>(text, Path::new("r.toml"));
        assert!(read(recipe).is_ok());
        let found = read(&recipe.replace("refit_queries", "refit_querys")).err().unwrap();
        assert!(found.to_string().contains("unknown key `refit_querys` in [student]"), "{found}");
    }
}
