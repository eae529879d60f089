//! What each executor of a cluster did for a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format;

/// An executor is a straggler below this share of the median speed.
const STRAGGLER: f64 = 0.5;

/// One executor's share of a run so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExecutorProgress {
    /// Its name in the cluster: host and a number of its own.
    pub executor: String,
    /// Where it computes: `cpu`, `cuda:0`.
    pub device: String,
    /// Tasks that it finished.
    pub tasks: u64,
    /// Tasks that it began although an executor had begun them before.
    pub retries: u64,
    /// Texts that it encoded.
    pub texts: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Seconds in which it had a task.
    pub busy_seconds: f64,
    /// Tokens per second while it had texts to encode; absent before the first.
    pub tokens_per_second: Option<f64>,
    /// The current task, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Whether it encodes at less than half of the median speed.
    pub straggler: bool,
}

impl ExecutorProgress {
    /// Marks the stragglers.
    pub fn mark_stragglers(executors: &mut [Self]) {
        let mut speeds: Vec<f64> =
            executors.iter().filter_map(|executor| executor.tokens_per_second).collect();
        speeds.sort_by(f64::total_cmp);
        let middle = speeds.len() / 2;
        let median = match speeds.len() {
            0 | 1 => return,
            even if even % 2 == 0 => (speeds[middle - 1] + speeds[middle]) / 2.0,
            _ => speeds[middle],
        };
        for executor in executors {
            executor.straggler =
                executor.tokens_per_second.is_some_and(|speed| speed < STRAGGLER * median);
        }
    }
}

/// `node-1: 845 tok/s, busy 12s, 3 tasks, 1 retry, straggler`.
impl std::fmt::Display for ExecutorProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): ", self.executor, self.device)?;
        if let Some(speed) = self.tokens_per_second {
            write!(f, "{} tok/s, ", format::rate(speed))?;
        }
        write!(f, "busy {}, ", format::seconds(self.busy_seconds))?;
        write!(f, "{} {}", self.tasks, if self.tasks == 1 { "task" } else { "tasks" })?;
        match self.retries {
            0 => {}
            1 => f.write_str(", 1 retry")?,
            retries => write!(f, ", {retries} retries")?,
        }
        if self.straggler {
            f.write_str(", straggler")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executors(speeds: &[Option<f64>]) -> Vec<ExecutorProgress> {
        let of = |&tokens_per_second| ExecutorProgress {
            tokens_per_second,
            ..ExecutorProgress::default()
        };
        let mut all: Vec<_> = speeds.iter().map(of).collect();
        ExecutorProgress::mark_stragglers(&mut all);
        all
    }

    #[test]
    fn stragglers_are_slower_than_half_of_the_median() {
        let marked = |speeds: &[Option<f64>]| -> Vec<bool> {
            executors(speeds).iter().map(|executor| executor.straggler).collect()
        };
        assert_eq!(marked(&[Some(1.0)]), [false]);
        assert_eq!(marked(&[Some(100.0), Some(20.0)]), [false, true]);
        assert_eq!(
            marked(&[Some(100.0), Some(90.0), None, Some(49.0), Some(40.0), Some(95.0)]),
            [false, false, false, false, true, false]
        );
    }

    #[test]
    fn a_line_for_people() {
        let mut executor = ExecutorProgress {
            executor: "node-1".into(),
            device: "cuda:0".into(),
            tasks: 1,
            busy_seconds: 12.0,
            ..ExecutorProgress::default()
        };
        assert_eq!(executor.to_string(), "node-1 (cuda:0): busy 12s, 1 task");
        (executor.retries, executor.straggler, executor.tokens_per_second) = (2, true, Some(845.0));
        assert_eq!(
            executor.to_string(),
            "node-1 (cuda:0): 845 tok/s, busy 12s, 1 task, 2 retries, straggler"
        );
    }
}
