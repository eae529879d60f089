//! The Prometheus text format, version 0.0.4: written for a textfile collector, and single samples of it read back.

use std::fmt::Write as _;

/// Gauges of one source, all under the same labels, in the order they are added.
#[derive(Debug, Clone)]
pub struct Gauges {
    /// Labels of every sample.
    common: Vec<(&'static str, String)>,
    text: String,
}

impl Gauges {
    /// Without samples.
    pub fn new(common: Vec<(&'static str, String)>) -> Self {
        Self { common, text: String::new() }
    }

    /// Adds a gauge of one sample. `name` follows the conventions (`scalingnote_`, base units), `help` is one
    /// sentence. A value that is not finite is left out: nothing is known then.
    pub fn add(&mut self, name: &str, help: &str, value: f64) {
        self.add_by(name, help, "", [("", value)]);
    }

    /// Adds a gauge with one sample per value of the label `by`.
    pub fn add_by<'a>(
        &mut self,
        name: &str,
        help: &str,
        by: &'static str,
        samples: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let samples: Vec<_> = samples.into_iter().filter(|(_, value)| value.is_finite()).collect();
        if samples.is_empty() {
            return;
        }
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (label, value) in samples {
            let series = series(name, &self.common, by, label);
            let _ = writeln!(self.text, "{series} {value}");
        }
    }

    /// Adds a gauge of one sample, if need be the one that `earlier` (the text of an earlier file) has under this name:
    /// what is not known today stays as it was last known.
    pub fn add_or_keep(&mut self, name: &str, help: &str, value: Option<f64>, earlier: &str) {
        if let Some(value) = value.or_else(|| self.value_in(name, earlier)) {
            self.add(name, help, value);
        }
    }

    /// The value that `earlier` has for `name` under the common labels.
    pub fn value_in(&self, name: &str, earlier: &str) -> Option<f64> {
        let series = series(name, &self.common, "", "");
        earlier.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok())
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn series(name: &str, common: &[(&str, String)], by: &str, label: &str) -> String {
    let own = (!by.is_empty()).then_some((by, label));
    let labels = common.iter().map(|(name, value)| (*name, value.as_str())).chain(own);
    let labels: Vec<_> =
        labels.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if labels.is_empty() {
        return name.to_owned();
    }
    format!("{name}{{{}}}", labels.join(","))
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_escaped_and_read_back() {
        let mut gauges = Gauges::new(vec![("pipeline", "a\"b\\c\nd".to_owned())]);
        gauges.add("x_seconds", "Seconds\nof x.", 1.5e9);
        gauges.add_by("y", "Of y.", "stage", [("encode", 0.25), ("build", f64::NAN)]);
        gauges.add_by("z", "Of z.", "stage", [("encode", f64::INFINITY)]);
        let text = gauges.text();
        let labels = r#"pipeline="a\"b\\c\nd""#;
        assert_eq!(
            text,
            format!(
                "# HELP x_seconds Seconds\\nof x.\n# TYPE x_seconds gauge\nx_seconds{{{labels}}} 1500000000\n\
                 # HELP y Of y.\n# TYPE y gauge\ny{{{labels},stage=\"encode\"}} 0.25\n"
            )
        );
        assert_eq!(gauges.value_in("x_seconds", text), Some(1.5e9));
        assert_eq!(gauges.value_in("x", text), None, "a name is not found by its beginning");
        let other = Gauges::new(vec![("pipeline", "other".to_owned())]);
        assert_eq!(other.value_in("x_seconds", text), None, "another pipeline's value is not ours");
    }
}
