//! The run report as one self-contained HTML page: no script, no network, light and dark.

use minijinja::{Environment, Output, State, UndefinedBehavior, Value, context};

use super::backfill::BackfillState;
use super::charts::{bar_chart, interval_chart, line_chart};
use super::run::{Outcome, RunReport};
use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::format::{self, escape_html};

impl RunReport {
    /// The page of `runs/<run>/report.html`. Everything that came from outside is escaped.
    ///
    /// # Errors
    /// Internal, where the template does not fit the report.
    pub fn to_html(&self) -> Result<String> {
        let backfill = self.backfill.as_ref().map(|backfill| {
            let class = match backfill.state {
                BackfillState::Switched { .. } => "good",
                BackfillState::Growing => "soft",
                BackfillState::RolledBack => "warn",
                BackfillState::Refused => "bad",
            };
            let asked = backfill.evaluation.as_ref().map(ToString::to_string);
            context! { class, asked, text => backfill.to_string() }
        });
        let class = match self.outcome {
            Outcome::Published { .. } | Outcome::NothingToDo { .. } => "good",
            Outcome::GateRefused | Outcome::Unfinished => "bad",
            Outcome::LostTo { .. } | Outcome::Planned | Outcome::NotPublished => "warn",
        };
        let recall = self.recall.map(|recall| {
            let label = "Recall with its 95% interval";
            interval_chart(label, recall.low, recall.mean, recall.high, self.recall_min)
        });
        let charts = context! {
            lengths => self.lengths_chart().map(Value::from_safe_string),
            throughput => self.throughput_chart().map(Value::from_safe_string),
            recall => recall.map(Value::from_safe_string),
        };
        let values = context! {
            run => self,
            outcome => context! { class, text => self.outcome.to_string() },
            tokens_per_second => self.tokens_per_second(),
            rejected => self.corpus.rejections.total(),
            charts,
            query_tower => self.query_tower.as_ref().map(ToString::to_string),
            asked => self.evaluation.as_ref().map(ToString::to_string),
            backfill,
        };
        render("page.html", include_str!("page.html"), values)
    }

    fn lengths_chart(&self) -> Option<String> {
        let mut from = 0u64;
        let bar = |bucket: &super::LengthBucket| {
            let texts = format::count(bucket.texts);
            let tip = format!("{from} to {} tokens: {texts} texts", bucket.up_to);
            from = u64::from(bucket.up_to) + 1;
            (format!("\u{2264}{}", bucket.up_to), bucket.texts, tip)
        };
        let bars: Vec<_> = self.lengths.iter().map(bar).collect();
        (!bars.is_empty()).then(|| bar_chart("Histogram of text lengths in tokens", &bars))
    }

    fn throughput_chart(&self) -> Option<String> {
        let points: Vec<_> =
            self.throughput.iter().map(|s| (s.seconds, s.tokens_per_second)).collect();
        (!points.is_empty()).then(|| line_chart("Tokens per second over time", &points))
    }
}

/// A page from its template.
///
/// # Errors
/// Internal, where the template does not fit the values.
pub(super) fn render(name: &str, template: &str, values: Value) -> Result<String> {
    let failed = || format!("writing {name}");
    page_templates()?.render_named_str(name, template, values).or_error(ErrorKind::Internal, failed)
}

/// What every page is made with: templates that may include `page.css` and import from `tables.html`, and escape all values.
///
/// # Errors
/// Internal, where a template is wrong.
pub(crate) fn page_templates() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_formatter(write_escaped);
    environment.add_filter("percent", |share: f64| format!("{:.1}%", 100.0 * share));
    environment.add_filter("count", format::count);
    environment.add_filter("bytes", format::bytes);
    let known =
        |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), text);
    environment.add_filter("seconds", move |value: Option<f64>| known(value, format::seconds));
    environment.add_filter("rate", move |value: Option<f64>| known(value, format::rate));
    environment.add_filter("share", |part: u64, whole: u64| match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1}%", 100.0 * part as f64 / whole as f64),
    });
    for (part, text) in
        [("page.css", include_str!("page.css")), ("tables.html", include_str!("tables.html"))]
    {
        let failed = || format!("reading {part}");
        environment.add_template(part, text).or_error(ErrorKind::Internal, failed)?;
    }
    Ok(environment)
}

fn write_escaped(
    out: &mut Output<'_>,
    _: &State<'_, '_>,
    value: &Value,
) -> std::result::Result<(), minijinja::Error> {
    match value.is_safe() {
        true => out.write_str(&value.to_string())?,
        false => out.write_str(&escape_html(&value.to_string()))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::GateOutcome;

    #[test]
    fn nothing_gets_out_of_its_cell() {
        let gate = GateOutcome {
            gate: "</td><script>".into(),
            passed: true,
            detail: String::new(),
            overridden: None,
        };
        let html = RunReport { gates: vec![gate], ..RunReport::default() }.to_html().unwrap();
        assert!(html.contains("<td>&lt;/td&gt;&lt;script&gt;</td>"), "{html}");
        assert!(!html.contains("<script>"));
    }
}
