//! The training report: JSON for programs, one HTML page with curves for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{read_small_text, write};
use crate::error::{Result, ResultExt};

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// From 0. The losses are f32 as computed, so that JSON gives back their bits.
    pub step: u64,
    /// Contrastive loss of its batch, in nats.
    pub loss: f32,
    /// Share of queries whose own document scored highest in the batch.
    pub accuracy: f32,
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Pairs in the batch.
    pub pairs: usize,
    /// Tokens in the batch.
    pub tokens: usize,
    /// Tokens that went forward twice, for want of room (`activation_tokens`).
    #[serde(default)]
    pub repeated: usize,
    /// Wall time.
    pub seconds: f64,
}

/// One look at what is held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Steps taken before the look.
    pub step: u64,
    /// Contrastive loss, in nats.
    pub loss: f32,
    /// Share of queries whose own document scored highest.
    pub accuracy: f32,
    /// What decides which parameters are kept; higher is better. In stage 1 the mean of `ndcg`, in stage 2 the loss below 0.
    #[serde(default)]
    pub score: f64,
    /// nDCG@10 by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ndcg: BTreeMap<String, f64>,
}

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// The model that was started from.
    pub model: String,
    /// Pairs trained on in one epoch.
    pub training_pairs: usize,
    /// Trainable parameters.
    pub parameters: usize,
    /// Steps planned.
    pub planned_steps: u64,
    /// Wall time of all steps, over resumed runs.
    pub seconds: f64,
    /// Pairs per second.
    pub pairs_per_second: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Every step.
    pub steps: Vec<StepRecord>,
    /// Every look at the held-out pairs.
    pub validation: Vec<ValidationRecord>,
    /// Steps whose parameters were exported, as their mean where there are several; none before the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exported: Vec<u64>,
}

impl TrainReport {
    /// Writes `report.json` and `report.html`.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context(|| "training report")?;
        for (name, text) in [("report.json", json + "\n"), ("report.html", self.html())] {
            write(&directory.join(name), text)?;
        }
        Ok(())
    }

    /// What [`TrainReport::write`] left in `directory`, if it reads.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let text = read_small_text(&directory.join("report.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn html(&self) -> String {
        let curve = |f: fn(&StepRecord) -> f64| -> Vec<(f64, f64)> {
            self.steps.iter().map(|s| (s.step as f64, f(s))).collect()
        };
        let looks = |f: fn(&ValidationRecord) -> f64| -> Vec<(f64, f64)> {
            self.validation.iter().map(|v| (v.step as f64, f(v))).collect()
        };
        let model: String = self
            .model
            .chars()
            .map(|c| if matches!(c, '<' | '>' | '&' | '"') { '_' } else { c })
            .collect();
        let mut page = format!(
            "<!doctype html><meta charset=utf-8><title>Training report</title><style>body{{font:15px sans-serif;\
             max-width:50em;margin:2em auto}}svg{{width:100%;height:auto}}</style><h1>Training report</h1>\
             <p>{model}: {} of {} steps, {} trainable parameters, {} training pairs, {:.0} s, {:.2} pairs/s, {:.0} \
             tokens/s.</p>",
            self.steps.len(),
            self.planned_steps,
            self.parameters,
            self.training_pairs,
            self.seconds,
            self.pairs_per_second,
            self.tokens_per_second
        );
        page += &chart(
            "Contrastive loss (blue: batch, orange: held out)",
            &curve(|s| s.loss.into()),
            &looks(|v| v.loss.into()),
        );
        page += &chart(
            "Own document first (blue: batch, orange: held out)",
            &curve(|s| s.accuracy.into()),
            &looks(|v| v.accuracy.into()),
        );
        page += &chart("Held out: nDCG@10, mean of the sources", &[], &looks(|v| v.score));
        page += &chart("Gradient norm before clipping", &curve(|s| s.gradient_norm), &[]);
        page += &chart("Learning rate", &curve(|s| s.learning_rate), &[]);
        page
    }
}

/// Two lines over one axis as inline SVG.
fn chart(title: &str, first: &[(f64, f64)], second: &[(f64, f64)]) -> String {
    let all = || first.iter().chain(second);
    let (left, right) = all().fold((f64::MAX, f64::MIN), |(l, r), p| (l.min(p.0), r.max(p.0)));
    let top = all().fold(0f64, |t, p| t.max(p.1));
    if left > right || top <= 0.0 {
        return String::new();
    }
    let x = |v: f64| 50.0 + 640.0 * (v - left) / (right - left).max(1.0);
    let y = |v: f64| 190.0 - 170.0 * v / top;
    let mut svg = format!(
        "<h2>{title}</h2><svg viewBox='0 0 700 215'><path d='M50 20V190H690' fill=none stroke=#888 />\
         <text x=45 y=25 text-anchor=end font-size=11>{top:.3e}</text><text x=45 y=193 text-anchor=end font-size=11>0\
         </text><text x=50 y=207 font-size=11>{left}</text><text x=690 y=207 text-anchor=end font-size=11>{right}</text>"
    );
    for (line, colour) in [(first, "#36c"), (second, "#e70")] {
        let _ = write!(svg, "<polyline fill=none stroke={colour} points='");
        for (px, py) in line {
            let _ = write!(svg, "{:.1},{:.1} ", x(*px), y(*py));
        }
        svg += "' />";
    }
    svg + "</svg>"
}
