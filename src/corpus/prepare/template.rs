//! The text template: compiled once, rendered for every note.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use minijinja::value::Object;
use minijinja::{AutoEscape, Environment, ErrorKind as Jinja, UndefinedBehavior, Value};

use super::filters;
use crate::error::{Error, Result, deep};

const NAME: &str = "template";

/// What is wrong with the template itself.
fn wrong(what: impl Display) -> Error {
    Error::config(format!("corpus.template: {what}")).of_key("corpus.template")
}

/// Bytes of a template. Its compiler calls itself for every operator of a chain, and takes the square of their number.
const LONGEST: usize = 16 << 10;

/// Refuses a template that its compiler would be at for minutes.
///
/// # Errors
/// Config, with the limit.
pub fn check_template_length(source: &str) -> Result<()> {
    match source.len() > LONGEST {
        false => Ok(()),
        true => Err(wrong(format!(
            "has {} bytes; at most {LONGEST} are read: keep long texts in a column, which corpus.sql can add",
            source.len()
        ))),
    }
}

/// A compiled template and the columns that it reads.
pub(super) struct NoteTemplate {
    environment: Environment<'static>,
    variables: BTreeSet<String>,
}

impl NoteTemplate {
    /// Compiles the template. Config error naming the line where it is wrong. `exact`: whole numbers stay what they
    /// are whatever filter they go through.
    pub(super) fn compile(source: &str, exact: bool) -> Result<Self> {
        check_template_length(source)?;
        let compile = || {
            let mut environment = Environment::new();
            environment.set_undefined_behavior(UndefinedBehavior::Strict);
            environment.set_auto_escape_callback(|_| AutoEscape::None);
            environment.set_formatter(|out, state, value| {
                if value.is_none() {
                    return Ok(());
                }
                minijinja::escape_formatter(out, state, value)
            });
            if exact {
                environment.add_filter("int", filters::int);
                environment.add_filter("format", filters::format);
            }
            environment.add_template_owned(NAME, source.to_owned()).map_err(wrong)?;
            let globals: BTreeSet<String> =
                environment.globals().map(|(name, _)| name.to_owned()).collect();
            let template = environment.get_template(NAME).map_err(wrong)?;
            let variables = template.undeclared_variables(false).into_iter();
            let variables = variables.filter(|name| !globals.contains(name)).collect();
            Ok(Self { environment, variables })
        };
        deep(compile)
    }

    /// Names that the template reads from the row.
    pub(super) fn variables(&self) -> &BTreeSet<String> {
        &self.variables
    }

    /// Finds unknown filters, tests and functions before the corpus is read.
    pub(super) fn try_out(&self, row: Value) -> Result<()> {
        let Err(error) = self.run(row) else { return Ok(()) };
        match error.kind() {
            Jinja::UnknownFilter
            | Jinja::UnknownTest
            | Jinja::UnknownFunction
            | Jinja::TemplateNotFound
            | Jinja::SyntaxError => Err(wrong(error)),
            // Anything else may depend on the values, and these were made up.
            _ => Ok(()),
        }
    }

    /// The trimmed text of one row. The error says what and where, never the values.
    pub(super) fn render(&self, row: Value) -> Result<String> {
        let mut text = self.run(row).map_err(|e| {
            let line = e.line().map_or_else(String::new, |line| format!(" in line {line}"));
            Error::input(format!("template failed{line}: {}", e.kind()))
        })?;
        text.truncate(text.trim_end().len());
        let start = text.len() - text.trim_start().len();
        text.drain(..start);
        Ok(text)
    }

    fn run(&self, row: Value) -> std::result::Result<String, minijinja::Error> {
        self.environment.get_template(NAME)?.render(row)
    }
}

/// The values of one row under their column names.
#[derive(Debug)]
pub(super) struct RowContext {
    pub(super) names: Arc<[String]>,
    pub(super) values: Vec<Value>,
}

impl Object for RowContext {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        // A handful of names: a scan beats a map.
        let at = self.names.iter().position(|name| name == key)?;
        self.values.get(at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn row(values: &[(&str, Value)]) -> Value {
        Value::from_object(RowContext {
            names: values.iter().map(|(name, _)| (*name).to_owned()).collect(),
            values: values.iter().map(|(_, value)| value.clone()).collect(),
        })
    }

    #[test]
    fn nulls_print_nothing_and_html_stays() {
        let template = NoteTemplate::compile(
            "{{ title }}{% if body %}: {{ body }}{% endif %}{{ extra }}\n\n",
            true,
        )
        .unwrap();
        let names: Vec<_> = template.variables().iter().map(String::as_str).collect();
        assert_eq!(names, ["body", "extra", "title"]);
        let text = template
            .render(row(&[
                ("title", Value::from(" <b>")),
                ("body", Value::from("")),
                ("extra", Value::from(())),
            ]))
            .unwrap();
        assert_eq!(text, "<b>");
    }

    #[test]
    fn mistakes_are_found_before_the_run() {
        let error = NoteTemplate::compile("{{ title", true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        let template = NoteTemplate::compile("{{ title | shout }}", true).unwrap();
        let error = template.try_out(row(&[("title", Value::from("a"))])).unwrap_err();
        assert!(error.to_string().contains("shout"), "{error}");
        let template =
            NoteTemplate::compile("{% for i in range(2) %}{{ i }}{% endfor %}", true).unwrap();
        assert!(template.variables().is_empty(), "{:?}", template.variables());
    }

    #[test]
    fn a_hostile_template_is_an_error_or_compiles() {
        for part in [
            "a+",
            "- ",
            "not ",
            "a if a else ",
            "a|lower.b[1]() is defined and ",
            "a ** ",
            "(",
            "[",
            "{1:",
        ] {
            for (before, after) in [("{{ ", "a }}"), ("{% if ", "a %}{% endif %}")] {
                let room = LONGEST - before.len() - after.len();
                let chain = format!("{before}{}{after}", part.repeat(room / part.len()));
                match NoteTemplate::compile(&chain, true) {
                    Ok(template) => assert!(!template.variables().is_empty(), "{part}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{part}: {error}"),
                }
            }
        }
        for (open, close) in [
            ("{% if a %}", "{% endif %}"),
            ("{% for a in b %}", "{% endfor %}"),
            ("{% elif a %}", ""),
            ("{% with %}", "{% endwith %}"),
            ("{% filter lower %}", "{% endfilter %}"),
        ] {
            let count = (LONGEST - 30) / (open.len() + close.len());
            let nested = format!("{}{{{{ a }}}}{}", open.repeat(count), close.repeat(count));
            let nested = match close {
                "" => format!("{{% if a %}}{nested}{{% endif %}}"),
                _ => nested,
            };
            match NoteTemplate::compile(&nested, true) {
                Ok(template) => assert!(!template.variables().is_empty(), "{open}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{open}: {error}"),
            }
        }
        let long = "x".repeat(LONGEST + 1);
        let said = NoteTemplate::compile(&long, true).err().unwrap().to_string();
        assert!(said.contains("corpus.template") && said.contains("16384"), "{said}");
    }

    #[test]
    fn failures_do_not_quote_values() {
        let template = NoteTemplate::compile("{{ title + 1 }}", true).unwrap();
        let error = template.render(row(&[("title", Value::from("secret"))])).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
