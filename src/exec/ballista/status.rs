//! Statuses: what each executor has done for a run so far, kept under the root, where the driver looks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::ExecutorProgress;
use crate::store::Root;
use crate::store::layout::{self, Key};

/// One executor's status for one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Status {
    pub executor: String,
    pub device: String,
    /// Every task that it began, in order.
    pub began: Vec<Began>,
    /// Tasks that it finished.
    pub finished: u64,
    /// The current task.
    pub task: Option<String>,
    pub texts: u64,
    pub tokens: u64,
    pub busy_seconds: f64,
    /// Seconds in which it had a task of `encode`.
    pub encode_seconds: f64,
    /// What the driver should report.
    pub warnings: Vec<String>,
    /// What ended a task with an error, the last one.
    pub failure: Option<Failure>,
}

/// The start of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Began {
    pub task: String,
    /// Milliseconds since 1970 by the executor's clock.
    pub at: i64,
}

/// Why a task failed; the driver ends with the same kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub task: String,
    pub at: i64,
    pub kind: String,
    pub message: String,
    /// The key of the pipeline file whose value is at fault: the driver has the file.
    pub key: Option<String>,
}

impl Failure {
    pub fn new(task: &str, error: &Error) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        let (task, kind) = (task.to_owned(), format!("{:?}", error.kind()));
        Self { task, at: now(), kind, message, key: error.key().map(str::to_owned) }
    }

    pub fn error(&self, executor: &str) -> Error {
        let kind = ErrorKind::ALL.into_iter().find(|kind| format!("{kind:?}") == self.kind);
        let kind = kind.unwrap_or(ErrorKind::Internal);
        let error = Error::new(kind, self.message.clone()).context(format!("executor {executor}"));
        match &self.key {
            Some(key) => error.of_key(key.clone()),
            None => error,
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// All statuses of a run as they were seen last.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    statuses: BTreeMap<String, (u64, Status)>,
    /// Warnings of each that were passed on.
    told: BTreeMap<String, usize>,
}

impl Statuses {
    /// Reads what is new. True where anything was.
    ///
    /// # Errors
    /// What the store says.
    pub async fn look(&mut self, root: &Root, run: &str) -> Result<bool> {
        let mut newest: BTreeMap<String, (u64, &str)> = BTreeMap::new();
        let listed = root.list(&layout::executor_statuses(run)).await?;
        for object in &listed {
            let Some(Key::ExecutorStatus { executor, number, .. }) = layout::parse(&object.key)
            else {
                continue;
            };
            let entry = newest.entry(executor).or_insert((number, &object.key));
            *entry = (*entry).max((number, &object.key));
        }
        let mut any = false;
        for (executor, (number, key)) in newest {
            if self.statuses.get(&executor).is_some_and(|(seen, _)| *seen >= number) {
                continue;
            }
            let bytes = match root.get(key).await {
                Ok(bytes) => bytes,
                // Its successor is there by now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let status = serde_json::from_slice(&bytes)
                .or_error(ErrorKind::Corrupt, || format!("executor status {key} cannot be read"))?;
            self.statuses.insert(executor, (number, status));
            any = true;
        }
        Ok(any)
    }

    fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.statuses.values().map(|(_, status)| status)
    }

    /// Texts and tokens that all executors have encoded.
    pub fn encoded(&self) -> (u64, u64) {
        self.statuses()
            .fold((0, 0), |(texts, tokens), status| (texts + status.texts, tokens + status.tokens))
    }

    /// Tasks that all executors have finished.
    pub fn finished(&self) -> u64 {
        self.statuses().map(|status| status.finished).sum()
    }

    /// The failures that are in the statuses, to tell later ones from.
    pub fn failures(&self) -> BTreeSet<(String, i64)> {
        let failure =
            |status: &Status| Some((status.executor.clone(), status.failure.as_ref()?.at));
        self.statuses().filter_map(failure).collect()
    }

    /// The error that a task failed with last, but for those in `known`. Clocks of executors may differ.
    pub fn failure(&self, known: &BTreeSet<(String, i64)>) -> Option<Error> {
        let failures =
            self.statuses().filter_map(|status| Some((status, status.failure.as_ref()?)));
        let new = failures
            .filter(|(status, failure)| !known.contains(&(status.executor.clone(), failure.at)));
        // A transient failure that was got over is not what ended a job.
        let last = new.max_by_key(|(_, failure)| {
            (failure.kind != format!("{:?}", ErrorKind::Transient), failure.at)
        });
        last.map(|(status, failure)| failure.error(&status.executor))
    }

    /// Warnings that were not given out before.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let mut fresh = Vec::new();
        for (executor, (_, status)) in &self.statuses {
            let told = self.told.entry(executor.clone()).or_default();
            fresh.extend(status.warnings.iter().skip(*told).cloned());
            *told = status.warnings.len();
        }
        fresh
    }

    /// For people: by name, stragglers marked.
    pub fn progress(&self) -> Vec<ExecutorProgress> {
        let mut begins: Vec<(&Began, &str)> = self
            .statuses()
            .flat_map(|status| status.began.iter().map(|began| (began, status.executor.as_str())))
            .collect();
        begins.sort_by_key(|(began, _)| began.at);
        let mut seen = BTreeSet::new();
        let mut retries: BTreeMap<&str, u64> = BTreeMap::new();
        for (began, executor) in begins {
            if !seen.insert(began.task.as_str()) {
                *retries.entry(executor).or_default() += 1;
            }
        }
        let mut executors: Vec<ExecutorProgress> = self
            .statuses()
            .map(|status| ExecutorProgress {
                executor: status.executor.clone(),
                device: status.device.clone(),
                tasks: status.finished,
                retries: retries.get(status.executor.as_str()).copied().unwrap_or(0),
                texts: status.texts,
                tokens: status.tokens,
                busy_seconds: status.busy_seconds,
                tokens_per_second: (status.tokens > 0 && status.encode_seconds > 0.0)
                    .then(|| status.tokens as f64 / status.encode_seconds),
                task: status.task.clone(),
                straggler: false,
            })
            .collect();
        ExecutorProgress::mark_stragglers(&mut executors);
        executors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(executor: &str, began: &[(&str, i64)]) -> Status {
        let began = began.iter().map(|&(task, at)| Began { task: task.to_owned(), at }).collect();
        Status { executor: executor.to_owned(), began, ..Status::default() }
    }

    const RUN: &str = "20260101T000000Z-0badcafe";

    async fn put(root: &Root, number: u64, status: &Status) {
        let key = layout::executor_status(RUN, &status.executor, number);
        root.put(&key, serde_json::to_vec(status).unwrap().into()).await.unwrap();
    }

    #[tokio::test]
    async fn the_newest_state_counts_and_a_second_begin_is_a_retry() {
        let root = Root::in_memory();
        let mut statuses = Statuses::default();
        assert!(!statuses.look(&root, RUN).await.unwrap());
        let warned = Status { warnings: vec!["late".to_owned()], ..status("a", &[("t1", 10)]) };
        put(&root, 1, &warned).await;
        statuses.look(&root, RUN).await.unwrap();
        assert_eq!((statuses.take_warnings().len(), statuses.take_warnings().len()), (1, 0));
        put(&root, 2, &Status { tokens: 50, encode_seconds: 2.0, ..status("a", &[("t1", 10)]) })
            .await;
        put(&root, 1, &Status { finished: 1, ..status("b", &[("t2", 11), ("t1", 30)]) }).await;
        assert!(statuses.look(&root, RUN).await.unwrap());
        assert!(!statuses.look(&root, RUN).await.unwrap(), "nothing is new");
        let progress = statuses.progress();
        assert_eq!(progress.iter().map(|e| e.retries).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((progress[0].tokens_per_second, progress[1].tasks), (Some(25.0), 1));
        assert_eq!(statuses.encoded(), (0, 50));
    }

    #[tokio::test]
    async fn a_failure_comes_back_with_its_kind() {
        let root = Root::in_memory();
        let mut statuses = Statuses::default();
        let failure = |kind: ErrorKind, at| {
            let failure = Failure::new("t", &Error::new(kind, "disk is full").of_key("a.b"));
            Some(Failure { at, ..failure })
        };
        put(&root, 1, &Status { failure: failure(ErrorKind::Resource, 10), ..status("a", &[]) })
            .await;
        put(&root, 1, &Status { failure: failure(ErrorKind::Transient, 20), ..status("b", &[]) })
            .await;
        statuses.look(&root, RUN).await.unwrap();
        let error = statuses.failure(&BTreeSet::new()).unwrap();
        assert_eq!(error.kind(), ErrorKind::Resource, "what can be got over does not hide it");
        assert_eq!(error.to_string(), "executor a: disk is full");
        assert_eq!(error.key(), Some("a.b"));
        let known = BTreeSet::from([("a".to_owned(), 10)]);
        assert_eq!(statuses.failure(&known).unwrap().kind(), ErrorKind::Transient);
        assert!(statuses.failure(&statuses.failures()).is_none());
        for kind in ErrorKind::ALL {
            assert_eq!(failure(kind, 0).unwrap().error("a").kind(), kind);
        }
    }
}
