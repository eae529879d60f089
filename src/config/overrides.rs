//! Environment variables and `--set` flags laid over the file.

use super::check::Schema;
use super::document::{Entry, Node, Value, parse_value};
use super::origin::{ENV_PREFIX, Origin};
use super::problem::{Problems, one_of};
use super::secret;

/// Lays the variables with [`ENV_PREFIX`] over `root`, in the order of their names.
pub(super) fn apply_env(
    root: &mut Node,
    schema: Schema<'_>,
    env: impl IntoIterator<Item = (String, String)>,
    problems: &mut Problems,
) {
    let mut variables: Vec<_> =
        env.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    for (name, value) in variables {
        let origin = Origin::Env(name);
        let path = origin.key().unwrap_or_default().into_owned();
        apply(root, schema, &path, &value, origin, problems);
    }
}

/// Lays `section.key=value` assignments over `root`; a later one wins.
pub(super) fn apply_flags(
    root: &mut Node,
    schema: Schema<'_>,
    assignments: &[String],
    problems: &mut Problems,
) {
    for assignment in assignments {
        let Some((path, value)) = assignment.split_once('=') else {
            let advice = "write `--set section.key=value`, e.g. `--set tower.max_tokens=256`";
            problems.push(Origin::Flag(assignment.clone()), advice);
            continue;
        };
        // A trailing space may be meant (`prompt_prefix=query: `); one after the `=` is style.
        let (path, value) = (path.trim(), value.trim_start());
        apply(root, schema, path, value, Origin::Flag(path.to_owned()), problems);
    }
}

fn apply(
    root: &mut Node,
    schema: Schema<'_>,
    path: &str,
    text: &str,
    origin: Origin,
    problems: &mut Problems,
) {
    let parts: Vec<&str> = path.split('.').collect();
    if let Some(advice) = parts.last().and_then(|key| secret::advice(key)) {
        return problems.push(origin, advice);
    }
    let target = match schema.descend(&parts) {
        Ok(target) => target,
        Err((depth, near)) => {
            let before = parts[..depth].join(".");
            let part = parts[depth];
            if schema.descend(&parts[..depth]).is_ok_and(Schema::is_array) {
                let message = format!(
                    "`{before}` is a list, whose items are numbered from 0: write `{before}.0` for the first, not \
                     `{before}.{part}`"
                );
                return problems.push(origin, message);
            }
            let place = if before.is_empty() { String::new() } else { format!(" in [{before}]") };
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return problems.push(origin, format!("unknown key `{part}`{place}{hint}"));
        }
    };
    let placed = value_of(text, target, &origin).and_then(|value| {
        *parts.iter().try_fold(root, |node, part| child(node, part, &origin))? = value;
        Ok(())
    });
    if let Err(message) = placed {
        problems.push(origin, message);
    }
}

/// TOML, except that a string needs no quotes where only a string fits.
fn value_of(text: &str, target: Schema<'_>, origin: &Origin) -> Result<Node, String> {
    let parsed = parse_value(text.trim(), origin);
    if target.is_string() {
        return Ok(match parsed {
            Ok(node) if matches!(node.value, Value::String(_)) => node,
            _ => Node { value: Value::String(text.to_owned()), origin: origin.clone() },
        });
    }
    parsed.map_err(|_| {
        let example = if target.is_array() { ", e.g. [\"a\", \"b\"]" } else { "" };
        format!("the value must be {}{example}", target.wanted())
    })
}

/// The child of a table (made if missing) or of an array (must exist).
fn child<'a>(node: &'a mut Node, part: &str, origin: &Origin) -> Result<&'a mut Node, String> {
    // A scalar where the schema wants a table was written in the file: the check reports it there.
    if !matches!(node.value, Value::Table(_) | Value::Array(_)) {
        *node = Node::empty_table(origin.clone());
    }
    match &mut node.value {
        Value::Array(items) => {
            let known: Vec<String> = (0..items.len()).map(|at| at.to_string()).collect();
            let known = one_of(known.iter().map(String::as_str));
            part.parse::<usize>()
                .ok()
                .and_then(|at| items.get_mut(at))
                .ok_or_else(|| format!("there is no item `{part}` in this array; there is {known}"))
        }
        Value::Table(entries) => {
            let at = entries.iter().position(|entry| entry.key == part).unwrap_or_else(|| {
                entries.push(Entry {
                    key: part.to_owned(),
                    key_origin: origin.clone(),
                    node: Node::empty_table(origin.clone()),
                });
                entries.len() - 1
            });
            Ok(&mut entries[at].node)
        }
        _ => Err("a value cannot be set below a scalar".to_owned()),
    }
}
