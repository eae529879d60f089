//! Files of options that are not a pipeline, recipes above all: every problem of one at once, each with its place.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::check::{Schema, check};
use super::document::{Node, parse_file};
use super::origin::Origin;
use super::problem::Problems;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Options with where in their file they stand.
pub(crate) struct Written<T> {
    pub(crate) options: T,
    name: String,
    root: Node,
}

impl<T: DeserializeOwned + JsonSchema> Written<T> {
    /// Reads a text; `name` is how messages call its file.
    ///
    /// # Errors
    /// Config that lists every problem with its place.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self> {
        let mut problems = Problems::new(name);
        let mut root = parse_file(text, &mut problems);
        // What the parser could not read would only be reported again as missing.
        problems.result()?;
        let schema = schemars::schema_for!(T).to_value();
        check(&mut root, Schema::new(&schema), "", &mut problems);
        problems.result()?;
        // The check has found what serde would find; this is the net below it.
        let options = serde_json::from_value(root.to_json())
            .or_error(ErrorKind::Config, || format!("{name} is not what is read here"))?;
        Ok(Self { options, name: name.to_owned(), root })
    }
}

impl<T> Written<T> {
    /// Refuses what was found wrong with the values of keys, all of it at once, each at its place; without a key it is of
    /// the whole file.
    ///
    /// # Errors
    /// Of the kind of the first.
    pub(crate) fn refuse(&self, found: &[(String, Error)]) -> Result<()> {
        let Some((_, first)) = found.first() else { return Ok(()) };
        let mut problems = Problems::new(&self.name);
        for (key, error) in found {
            let said = error.to_string();
            if key.is_empty() {
                problems.push(Origin::Default, said);
                continue;
            }
            // Some errors begin with the option, which the key ends in.
            let option = format!("{} ", key.rsplit('.').next().unwrap_or(key));
            let said = said.strip_prefix(option.as_str()).unwrap_or(&said);
            problems.push(self.root.origin_of(key), format!("`{key}`: {said}"));
        }
        Err(problems.error(first.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::TrainOptions;

    const RECIPE: &str = "steps = 3\n[tower]\nmodel = \"x\"\npooling = \"mean\"\n[query]\n\
        [method]\nkind = \"full\"\n[[pairs]]\npath = \"p\"\n";

    fn problems(text: &str) -> String {
        let read = Written::<TrainOptions>::parse(text, "r.toml");
        read.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_problem_is_told_at_once_in_the_order_of_the_file() {
        assert_eq!(problems(RECIPE), "");
        assert_eq!(
            problems(""),
            "4 problems in the configuration\n  r.toml:1:1: section [tower] is missing\n  \
             r.toml:1:1: section [query] is missing\n  r.toml:1:1: section [[pairs]] is missing\n  \
             r.toml:1:1: section [method] is missing"
        );
        let wrong = RECIPE
            .replace("model =", "modle =")
            .replace("\"full\"", "\"lora\"\nrang = 4\nalpha = \"x\"")
            .replace("path = \"p\"", "path = 5");
        assert_eq!(
            problems(&wrong),
            "4 problems in the configuration\n  \
             r.toml:3:1: unknown key `modle` in [tower]; did you mean `model`?\n  \
             r.toml:8:1: unknown key `rang` in [method]; did you mean `rank`?\n  \
             r.toml:9:9: `method.alpha` must be a number, not a string\n  \
             r.toml:11:8: `pairs.0.path` must be a string in quotes, not an integer"
        );
    }

    #[test]
    fn a_choice_is_named_by_its_key() {
        for (kind, said) in [
            ("", "key `kind` is missing in [method]: `lora` or `full`"),
            ("kind = 3", "`method.kind` must be `lora` or `full` in quotes, not an integer"),
            ("kind = \"ful\"", "not `ful`; did you mean `full`?"),
        ] {
            let found = problems(&RECIPE.replace("kind = \"full\"", kind));
            assert!(found.contains(said), "{found}");
        }
        let found = problems(
            &RECIPE.replace("[method]\nkind = \"full\"\n", "").replace("steps = 3", "method = 3"),
        );
        assert_eq!(found, "r.toml:1:10: `method` must be a table, not an integer");
    }

    #[test]
    fn what_is_wrong_with_values_has_their_places() {
        let written = Written::<TrainOptions>::parse(RECIPE, "r.toml").unwrap();
        assert!(written.refuse(&[]).is_ok());
        let wrong = |key: &str, said: &'static str| (key.to_owned(), Error::not_found(said));
        let found = [
            wrong("", "this cannot work"),
            wrong("pairs.0.path", "it is not there"),
            wrong("tower.model", "model \"x\" is not there"),
        ];
        let error = written.refuse(&found).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "3 problems with what the configuration names\n  r.toml:3:9: `tower.model`: \"x\" is not there\n  \
             r.toml:9:8: `pairs.0.path`: it is not there\n  r.toml: this cannot work"
        );
    }
}
