//! Back-fill: one night's share of encoding everything for the tower that is to take over.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{Backfill, EncodeTask, Plan, Planned};
use crate::index::Recall;
use crate::observe::format;
use crate::snapshot::GateOutcome;

/// Makes an ordinary plan of the next space one night's back-fill of at most `limit` tokens: without its build tasks
/// where texts will still be missing afterwards.
pub fn tonight(planned: Planned, of: &str, limit: Option<u64>) -> Plan {
    let Planned { mut plan, texts, .. } = planned;
    let missing: Vec<u64> = plan.encode.iter().map(|task| task.shard.tokens_to_encode).collect();
    let tokens_missing = missing.iter().sum();
    let texts_missing: u64 = plan.encode.iter().map(|task| task.shard.texts_to_encode).sum();
    let limit = limit.unwrap_or(u64::MAX);
    let switches = tokens_missing <= limit;
    if !switches {
        let least = u64::from(plan.spec.tower.max_tokens);
        let shares = share_out(&missing, limit, plan.spec.encode.devices.len(), least);
        plan.encode = plan
            .encode
            .into_iter()
            .zip(shares)
            .filter(|(_, share)| *share > 0)
            .map(|(task, share)| shortened(task, share))
            .collect();
        plan.calibrate = None;
        plan.build.clear();
    }
    plan.backfill = Some(Backfill {
        of: of.to_owned(),
        texts,
        texts_stored: texts - texts_missing.min(texts),
        tokens_missing,
        tokens_tonight: plan.encode.iter().map(|task| task.shard.tokens_to_encode).sum(),
        switches,
    });
    plan
}

fn shortened(mut task: EncodeTask, tokens: u64) -> EncodeTask {
    let shard = &mut task.shard;
    if tokens < shard.tokens_to_encode {
        let part = |whole: u64| {
            let share = u128::from(whole) * u128::from(tokens);
            (share / u128::from(shard.tokens_to_encode)) as u64
        };
        let (texts, padding) = (part(shard.texts_to_encode).max(1), part(shard.padding_avoided));
        (shard.texts_to_encode, shard.padding_avoided) = (texts, padding);
        (shard.texts_truncated, shard.tokens_to_encode) = (part(shard.texts_truncated), tokens);
        task.token_limit = Some(tokens);
        // Another share of the same texts is another task.
        task.id = format!("{}-{tokens}", task.id);
    }
    task
}

/// How many of each shard's missing tokens are encoded tonight: shard after shard, so that parts are large, but at
/// least as many shards as there are devices. A share that is not the whole rest is at least `least`, which the
/// longest text has; less is left for tomorrow.
fn share_out(missing: &[u64], limit: u64, devices: usize, least: u64) -> Vec<u64> {
    let mut shares = vec![0; missing.len()];
    let mut left = limit;
    let even = (limit / devices.max(1) as u64).max(least);
    for most in [even, limit] {
        for (share, &missing) in shares.iter_mut().zip(missing) {
            let more = missing.min(most).saturating_sub(*share).min(left);
            if *share + more == missing || *share + more >= least {
                *share += more;
                left -= more;
            }
        }
    }
    shares
}

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
        match self.state {
            BackfillState::Growing => {}
            BackfillState::Switched { snapshot } => {
                return write!(
                    f,
                    "tower {model} took over with snapshot {snapshot}; move [next.tower] to [tower]"
                );
            }
            BackfillState::Refused => {
                return write!(f, "tower {model} is complete, but was refused by a gate");
            }
            BackfillState::RolledBack => {
                return write!(
                    f,
                    "tower {model} was rolled back and stays off; change [next.tower], remove [next], or \
                     move it to [tower] to publish it all the same"
                );
            }
        }
        // Rounded down: 100% is for nothing missing.
        let percent = if *texts == 0 { 100 } else { texts_stored * 100 / texts };
        let (stored, all) = (format::count(*texts_stored), format::count(*texts));
        write!(f, "tower {model} {percent}% ({stored} of {all} texts)")?;
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
    pub tokens_tonight: u64,
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
            summary.tokens_tonight = backfill.tokens_tonight;
            summary.switches = backfill.switches;
            let (missing, pace) = (backfill.tokens_missing, backfill.tokens_tonight);
            summary.progress.nights_left = (limited && pace > 0).then(|| missing.div_ceil(pace));
            let devices = plan.spec.encode.devices.len().max(1) as f64;
            summary.seconds_left = speed.map(|speed| missing as f64 / speed / devices);
        }
        summary
    }
}

impl fmt::Display for BackfillSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { progress, tokens_tonight: tokens, .. } = self;
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
            "next night: {} of {} missing tokens in {} tasks{speed}{}",
            format::count(*tokens),
            format::count(progress.tokens_missing),
            format::count(self.tasks),
            if self.switches { ", then the switch" } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_spend_the_budget_on_few_shards_and_every_device() {
        assert_eq!(share_out(&[500, 500, 500, 500], 800, 1, 10), [500, 300, 0, 0]);
        assert_eq!(share_out(&[500, 500, 500, 500], 800, 4, 10), [200, 200, 200, 200]);
        assert_eq!(share_out(&[5, 5, 500, 500], 800, 4, 10), [5, 5, 500, 290]);
        assert_eq!(
            share_out(&[500, 500], 501, 1, 10),
            [500, 0],
            "1 token may be too few for a text"
        );
        assert_eq!(share_out(&[500, 1], 501, 1, 10), [500, 1], "the whole rest always fits");
        assert_eq!(share_out(&[500, 500, 500], 10, 3, 10), [10, 0, 0]);
        for (limit, devices) in [(10, 1), (64, 3), (999, 2), (1_200, 9)] {
            let missing = [400, 0, 7, 300, 900];
            let shares = share_out(&missing, limit, devices, 10);
            assert!(shares.iter().sum::<u64>() <= limit);
            assert!(shares.iter().sum::<u64>() > limit - 10, "{limit}: {shares:?}");
            assert!(shares.iter().zip(missing).all(|(&s, m)| s == m || s == 0 || s >= 10));
        }
    }

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
