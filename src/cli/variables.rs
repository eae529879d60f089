//! Environment variables that look like ours and are not used: a misspelt one would be missed a day later.

use super::commands::command;
use super::terminal::logging;
use crate::config::{ENV_PREFIX, nearest};
use crate::store::{SIGNING_KEY, SIGNING_KEY_FILE};

/// What to say of the variables of `names` that are near one of ours.
pub(super) fn unread(names: impl Iterator<Item = String>) -> Vec<String> {
    let known = known();
    let mut said: Vec<String> = names
        .filter(|name| !name.starts_with(ENV_PREFIX) && !known.contains(name))
        .filter_map(|name| {
            let own = name.strip_prefix(PREFIX)?;
            let meant = match own.contains("__") {
                true => format!("{ENV_PREFIX}{own}"),
                false => {
                    let short = known.iter().map(|known| known[PREFIX.len()..].to_lowercase());
                    let short: Vec<String> = short.collect();
                    let near = nearest(own, short.iter().map(String::as_str))?;
                    format!("{PREFIX}{}", near.to_uppercase())
                }
            };
            Some(format!("environment variable {name} is not used; did you mean {meant}?"))
        })
        .collect();
    said.sort();
    said
}

const PREFIX: &str = "SCALINGNOTE_";

/// The variables of flags, and those without a flag.
fn known() -> Vec<String> {
    fn of(command: &clap::Command, found: &mut Vec<String>) {
        let variables = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
        found.extend(variables.map(str::to_owned));
        command.get_subcommands().for_each(|inner| of(inner, found));
    }
    let mut found = [logging::FILTER, SIGNING_KEY, SIGNING_KEY_FILE].map(str::to_owned).to_vec();
    of(&command(), &mut found);
    found.retain(|name| name.starts_with(PREFIX));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told() {
        let said = |name: &str| unread(std::iter::once(name.to_owned())).pop();
        for (name, meant) in [
            ("SCALINGNOTE_METRIC_FILE", "SCALINGNOTE_METRICS_FILE"),
            ("SCALINGNOTE_PROGRES", "SCALINGNOTE_PROGRESS"),
            ("SCALINGNOTE_CORPUS__MODE", "SCALINGNOTE__CORPUS__MODE"),
        ] {
            let told = format!("environment variable {name} is not used; did you mean {meant}?");
            assert_eq!(said(name), Some(told));
        }
        for name in ["SCALINGNOTE_PYTHON", "SCALINGNOTE_LOG", "SCALINGNOTE__TOWER__X", "HOME"] {
            assert_eq!(said(name), None, "{name}");
        }
        assert!(known().iter().all(|name| said(name).is_none()));
    }
}
