//! What is searched, and what a search says.

use std::fmt;
use std::sync::Arc;

use scalingnote::store::Root;

use super::lies::Lie;
use super::ops::Done;
use super::process::Body;
use super::rules::Rules;
use super::store::Seen;
use super::world::{Objects, Told, World};

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Times that a process which could go on has to wait for another, but where time passed; `None`: as often as
    /// possible.
    pub turns: Option<u8>,
    /// Requests that fail or whose answer is lost, and processes that die.
    pub faults: u8,
    /// Times that time passes.
    pub jumps: u8,
}

/// What may go wrong with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The acknowledgement of a write is lost.
    Unheard,
    /// A write fails.
    Fails,
    /// A read or a listing fails.
    Unread,
    /// The process dies.
    Dies,
}

/// How a machine stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Still {
    /// As a laptop that is shut: it knows afterwards.
    Suspended,
    /// As a virtual machine that is moved: it does not.
    Paused,
}

/// Says what is broken, if anything is.
pub type Judge = dyn Fn(&End) -> Result<(), String> + Send + Sync;

/// What is searched.
pub struct Scene {
    pub name: &'static str,
    /// What is in the store at the start.
    pub objects: Objects,
    pub processes: Vec<Body>,
    /// What each process is told wrongly.
    pub lies: Vec<Vec<Lie>>,
    pub faults: Vec<Fault>,
    /// Seconds that may pass at once.
    pub jumps: Vec<i64>,
    /// Whether a process' machine may stand still meanwhile.
    pub still: Option<Still>,
    /// Reads of files are steps of their own.
    pub fine: bool,
    /// Every process runs on a machine of its own.
    pub apart: bool,
    pub rules: Rules,
    /// All processes are steps of one run.
    pub one_run: bool,
    /// What must hold when all have ended.
    pub after: Arc<Judge>,
}

/// How an execution ended.
pub struct End {
    pub told: Vec<Told>,
    pub world: Arc<World>,
    /// Whether anything was made to fail.
    pub faults: u8,
    /// All processes are steps of one run.
    pub one_run: bool,
}

impl End {
    /// The store as it is.
    pub fn root(&self) -> Root {
        Seen { world: Arc::clone(&self.world), process: None }.root()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Go(u8, Done),
    Kill(u8),
    Pass(i64, Option<u8>),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Go(process, Done::Fully) => write!(f, "{process}"),
            Self::Go(process, Done::Unheard) => write!(f, "{process}?"),
            Self::Go(process, Done::NotAtAll) => write!(f, "{process}!"),
            Self::Kill(process) => write!(f, "x{process}"),
            Self::Pass(seconds, None) => write!(f, "+{seconds}"),
            Self::Pass(seconds, Some(process)) => write!(f, "+{seconds}z{process}"),
        }
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// `rule: what`.
    pub broken: String,
    /// The schedule.
    pub schedule: String,
    /// What happened, a line a step.
    pub trace: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nschedule: {}\n{}", self.broken, self.schedule, self.trace.join("\n"))
    }
}

/// What a search came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Executions begun, those that turned back included.
    pub executions: u64,
    /// Executions in which all processes ended.
    pub whole: u64,
    /// Steps of the store.
    pub steps: u64,
    /// Executions that did not go the same way again, and were given up.
    pub astray: u64,
    /// States seen.
    pub states: u64,
    /// Whether all within the bounds was searched.
    pub complete: bool,
    pub finding: Option<Finding>,
}
