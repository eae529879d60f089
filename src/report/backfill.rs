//! How far the tower that is to take over is, for reports and plans.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::encode_seconds;
use crate::index::Recall;
use crate::observe::format;
use crate::snapshot::GateOutcome;
use crate::stage::{EvaluationReport, Plan};

/// Where a back-fill stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum BackfillState {
    /// Texts are missing.
    #[default]
    Growing,
    /// This run published the next tower.
    Switched {
        /// The first snapshot of its space.
        snapshot: u64,
    },
    /// Everything is there, but a gate refused the switch.
    Refused,
    /// The switch was taken back by `snapshot rollback`: nothing is done until the configuration changes.
    RolledBack,
}

/// The back-fill as a plan or a run leaves it. [`fmt::Display`] is one line for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BackfillReport {
    /// The tower that is to take over, as configured.
    pub model: String,
    /// Name of its embedding space.
    pub space: String,
    /// Where it stands.
    pub state: BackfillState,
    /// Distinct texts that it needs for the corpus of the day.
    pub texts: u64,
    /// Those that are stored.
    pub texts_stored: u64,
    /// Tokens that are still to be encoded.
    pub tokens_missing: u64,
    /// Tokens that this run encoded for it.
    pub tokens_encoded: u64,
    /// Wall seconds that this run spent on it.
    pub seconds: f64,
    /// Nights like this one that are still needed; `None` where that cannot be told.
    pub nights_left: Option<u64>,
    /// Why the switch was refused.
    pub refusal: Option<String>,
    /// Verdicts of the gates on the switch.
    pub gates: Vec<GateOutcome>,
    /// What the queries of `[evaluation]` found by the next tower, against that of now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationReport>,
    /// Pooled recall of its indexes.
    pub recall: Option<Recall>,
}

impl BackfillReport {
    /// At the beginning of a night.
    pub fn planned(plan: &Plan) -> Self {
        let mut report = Self {
            model: plan.spec.tower.model.clone(),
            space: plan.spec.space_id.to_string(),
            ..Self::default()
        };
        if let Some(backfill) = &plan.backfill {
            report.texts = backfill.texts;
            report.texts_stored = backfill.texts_stored;
            report.tokens_missing = backfill.tokens_missing;
        }
        report
    }

    /// Counts what was encoded; `pace` is the tokens of a night to come.
    pub fn encoded(&mut self, texts: u64, tokens: u64, pace: u64) {
        self.texts_stored = (self.texts_stored + texts).min(self.texts);
        self.tokens_missing = self.tokens_missing.saturating_sub(tokens);
        self.tokens_encoded = tokens;
        self.nights_left = (pace > 0).then(|| self.tokens_missing.div_ceil(pace));
    }
}

impl fmt::Display for BackfillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, texts, texts_stored, .. } = self;
        write!(f, "tower {model} ")?;
        match self.state {
            BackfillState::Growing => {}
            BackfillState::Switched { snapshot } => {
                return write!(
                    f,
                    "took over with snapshot {snapshot}; move [next.tower] to [tower]"
                );
            }
            BackfillState::Refused => return f.write_str("is complete, but was refused by a gate"),
            BackfillState::RolledBack => {
                return f.write_str(
                    "was rolled back and stays off; change [next.tower], remove [next], or move it to [tower] to \
                     publish it all the same",
                );
            }
        }
        // Rounded down: 100% is for nothing missing.
        let percent = if *texts == 0 { 100 } else { texts_stored * 100 / texts };
        let (stored, all) = (format::count(*texts_stored), format::counted(*texts, "text"));
        write!(f, "{percent}% ({stored} of {all})")?;
        match self.nights_left {
            _ if texts_stored == texts => write!(f, ", the switch is next"),
            Some(0 | 1) => write!(f, ", about 1 more night"),
            Some(nights) => write!(f, ", about {} more nights", format::count(nights)),
            None => Ok(()),
        }
    }
}

/// The back-fill in a plan's summary: a plan of its own, whose tasks run after the day's plan is published.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BackfillSummary {
    /// Where it stands; `nights_left` counts this night.
    #[serde(flatten)]
    pub progress: BackfillReport,
    /// Id of its run.
    pub run: String,
    /// Where its plan is stored, for `task --plan` and `publish --plan`; `None` where there is nothing to do.
    pub plan_key: Option<String>,
    /// Tokens per second of the first device with this tower; `None` where nothing was calibrated.
    pub tokens_per_second: Option<f64>,
    /// Estimated wall seconds on all devices until nothing is missing; `None` without a calibration.
    pub seconds_left: Option<f64>,
    /// Tokens that this night's tasks encode.
    // The name that files have had since 0.1.0.
    #[serde(rename = "tokens_tonight")]
    pub tokens_this_run: u64,
    /// Number of envelopes of this night.
    pub tasks: u64,
    /// Ids of the encode tasks.
    pub encode_tasks: Vec<String>,
    /// Id of the calibration; absent where this night does not end the back-fill.
    pub calibrate_task: Option<String>,
    /// Ids of the build tasks; none where this night does not end the back-fill.
    pub build_tasks: Vec<String>,
    /// Whether publishing this plan is the switch; else publishing it does nothing.
    pub switches: bool,
}

impl BackfillSummary {
    /// Of a stored plan; nights count only where a night has a budget.
    pub fn of(plan: &Plan, speed: Option<f64>, limited: bool) -> Self {
        let mut summary = Self {
            progress: BackfillReport::planned(plan),
            run: plan.spec.run.clone(),
            plan_key: Some(Plan::key(&plan.spec.run)),
            tokens_per_second: speed,
            tasks: plan.tasks() as u64,
            encode_tasks: plan.encode.iter().map(|task| task.id.clone()).collect(),
            calibrate_task: plan.calibrate.as_ref().map(|task| task.id.clone()),
            build_tasks: plan.build.iter().map(|task| task.id.clone()).collect(),
            ..Self::default()
        };
        if let Some(backfill) = &plan.backfill {
            summary.tokens_this_run = backfill.tokens_this_run;
            summary.switches = backfill.switches;
            let (missing, pace) = (backfill.tokens_missing, backfill.tokens_this_run);
            summary.progress.nights_left = (limited && pace > 0).then(|| missing.div_ceil(pace));
            summary.seconds_left = speed.map(|speed| encode_seconds(missing, speed, &plan.spec));
        }
        summary
    }
}

impl fmt::Display for BackfillSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, tokens_this_run: tokens, .. } = self;
        writeln!(f, "next {progress}")?;
        if progress.state != BackfillState::Growing {
            return Ok(());
        }
        let speed = match (self.tokens_per_second, self.seconds_left) {
            (Some(speed), Some(left)) => {
                let (speed, left) = (format::rate(speed), format::seconds(left));
                format!(", {left} for all at {speed} tokens/s a device")
            }
            _ => String::new(),
        };
        writeln!(
            f,
            "next night: {} of {} in {}{speed}{}",
            format::count(*tokens),
            format::counted(progress.tokens_missing, "missing token"),
            format::counted(self.tasks, "task"),
            if self.switches { ", then the switch" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line() {
        let mut report = BackfillReport {
            model: "m".into(),
            texts: 300_000,
            texts_stored: 100_000,
            tokens_missing: 20_000_000,
            ..BackfillReport::default()
        };
        report.encoded(12_000, 4_000_000, 4_000_000);
        assert_eq!(
            report.to_string(),
            "tower m 37% (112,000 of 300,000 texts), about 4 more nights"
        );
        report.encoded(0, 0, 0);
        assert_eq!(report.to_string(), "tower m 37% (112,000 of 300,000 texts)");
        report.encoded(187_999, 15_999_999, 4_000_000);
        assert!(report.to_string().starts_with("tower m 99% (299,999 of"), "{report}");
        report.encoded(1, 1, 4_000_000);
        assert_eq!(
            report.to_string(),
            "tower m 100% (300,000 of 300,000 texts), the switch is next"
        );
        report.state = BackfillState::Switched { snapshot: 9 };
        assert!(report.to_string().contains("took over with snapshot 9"));
    }
}
