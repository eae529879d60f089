//! The run report in a few lines of text.

use std::fmt;

use super::run::{Outcome, RunReport};
use crate::observe::{Stage, format};
use crate::snapshot::GateOutcome;
use crate::stage::{AdaptOutcome, AdaptSummary};

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => f.write_str("not finished"),
            Self::Published { snapshot } => write!(f, "published snapshot {snapshot}"),
            Self::NothingToDo { snapshot: Some(snapshot) } => {
                write!(f, "nothing to do: snapshot {snapshot} is up to date")
            }
            Self::NothingToDo { snapshot: None } => f.write_str("nothing to do"),
            Self::Planned => f.write_str("planned only"),
            Self::NotPublished => f.write_str("built, not published as asked"),
            Self::GateRefused => f.write_str("refused by a gate"),
            Self::LostTo { snapshot } => {
                write!(f, "another publisher was first with snapshot {snapshot}")
            }
        }
    }
}

/// Seconds of encoding from which their estimate is shown.
const WORTH_A_LINE: f64 = 5.0;

impl RunReport {
    /// How long encoding will take, in a line; `None` where no device was tried, or there is no time to read it.
    pub(crate) fn estimate(&self, speed: Option<f64>) -> Option<String> {
        let planned = self.stages.iter().find_map(|stage| stage.planned)?;
        let (seconds, speed) = (planned.seconds?, speed?);
        if seconds < WORTH_A_LINE {
            return None;
        }
        Some(format!(
            "encoding {}, {}, takes about {} at {} tokens/s on each of: {}",
            format::counted(planned.texts, "text"),
            format::counted(planned.tokens, "token"),
            format::seconds(seconds),
            format::rate(speed),
            self.config.devices.join(", ")
        ))
    }
}

/// The few lines that `scalingnote run` prints at the end.
impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let corpus = &self.corpus;
        writeln!(f, "{}", self.outcome)?;
        writeln!(
            f,
            "  notes    {} ({} new, {} changed, {} unchanged, {} deleted)",
            format::count(corpus.notes),
            format::count(corpus.notes_new),
            format::count(corpus.notes_changed),
            format::count(corpus.notes_unchanged),
            format::count(corpus.notes_deleted)
        )?;
        let left_out = corpus.rejections.total() + corpus.duplicates + corpus.quarantined;
        if left_out > 0 {
            writeln!(
                f,
                "  left out {} rejected, {}, {} quarantined",
                format::count(corpus.rejections.total()),
                format::counted(corpus.duplicates, "duplicate"),
                format::count(corpus.quarantined)
            )?;
        }
        if let Some(encode) = self.stages.iter().find(|stage| stage.stage == Stage::Encode) {
            write!(
                f,
                "  encoded  {}, {} in {}",
                format::counted(encode.actual.texts, "text"),
                format::counted(encode.actual.tokens, "token"),
                format::seconds(encode.actual.seconds)
            )?;
            match self.tokens_per_second() {
                Some(speed) => writeln!(f, " ({} tokens/s)", format::rate(speed))?,
                None => writeln!(f)?,
            }
        }
        for executor in &self.executors {
            writeln!(f, "  executor {executor}")?;
        }
        let reused = self.reuse.from_parent + self.reuse.from_elsewhere;
        if reused > 0 {
            writeln!(
                f,
                "  reused   {}; {} inserted, {} rebuilt",
                format::counted(reused, "vector"),
                format::count(self.vectors_inserted),
                format::counted(self.shards_rebuilt, "shard")
            )?;
        }
        if let Some(recall) = &self.recall {
            writeln!(
                f,
                "  recall   {:.3} at {} (95% interval {:.3} to {:.3}, {})",
                recall.mean,
                recall.k,
                recall.low,
                recall.high,
                format::counted(recall.queries.into(), "query")
            )?;
        }
        if let Some(adapted) = &self.query_tower {
            writeln!(f, "  queries  {adapted}")?;
        }
        if let Some(evaluation) = &self.evaluation {
            writeln!(f, "  asked    {evaluation}")?;
        }
        let failed = |gates: &[GateOutcome], f: &mut fmt::Formatter<'_>| {
            for gate in gates.iter().filter(|gate| !gate.passed) {
                let mark = if gate.overridden.is_some() { "overridden" } else { "REFUSED" };
                writeln!(f, "  gate     {} {mark}: {}", gate.gate, gate.detail)?;
            }
            Ok(())
        };
        failed(&self.gates, f)?;
        if let Some(backfill) = &self.backfill {
            writeln!(f, "  next     {backfill}")?;
            if let Some(evaluation) = &backfill.evaluation {
                writeln!(f, "  asked    {evaluation}")?;
            }
            failed(&backfill.gates, f)?;
        }
        writeln!(
            f,
            "  wrote    {} in {}",
            format::bytes(self.bytes_written),
            format::seconds(self.seconds)
        )
    }
}

/// An adaptation in a line.
impl fmt::Display for AdaptSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, learnt, new_texts, texts, steps, steps_left, seconds, judged, .. } =
            self;
        match outcome {
            AdaptOutcome::Adapted => {
                let (learnt, steps) =
                    (format::counted(*learnt, "text"), format::counted(*steps, "step"));
                let seconds = format::seconds(*seconds);
                write!(f, "query tower adapted to {learnt} in {steps} ({seconds}")?;
                match steps_left {
                    0 => f.write_str(")")?,
                    left => write!(f, "; the next run takes {left} more)")?,
                }
            }
            AdaptOutcome::Kept => {
                write!(f, "adapted query tower kept: {new_texts} of {texts} texts are new")?;
            }
            AdaptOutcome::Refused => {
                f.write_str("query tower stays: adapted, it would find less")?
            }
            AdaptOutcome::TooFew => {
                f.write_str("query tower stays: too few texts to learn from")?
            }
        }
        let Some(judged) = judged else { return Ok(()) };
        write!(
            f,
            "; held-out texts find their note: {} (before {}, the LLM {})",
            format::share(judged.now.hit_at_10),
            format::share(judged.before.hit_at_10),
            format::share(judged.llm.hit_at_10)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_matters() {
        let report = RunReport {
            outcome: Outcome::NothingToDo { snapshot: Some(4) },
            gates: vec![GateOutcome {
                gate: "recall".into(),
                passed: false,
                detail: "0.91, at least 0.95".into(),
                overridden: None,
            }],
            ..RunReport::default()
        };
        let text = report.to_string();
        assert!(text.starts_with("nothing to do: snapshot 4 is up to date\n"), "{text}");
        assert!(text.contains("recall REFUSED: 0.91"), "{text}");
        let back: RunReport = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(back, report);
    }
}
