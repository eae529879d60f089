//! The one error type: what kind of failure, what happened, where, and why.
//!
//! A message is lower case, has no full stop, names the file, field or note, and says the way out.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

mod deep;
mod newer;
mod shield;
mod system;

pub use deep::{deep, deep_async, no_thread};
pub(crate) use newer::{UPGRADE, unreadable};
pub use shield::{broken, shielded, shielded_async};
pub use system::kind_of_io;
pub(crate) use system::{TOO_MANY_FILES, is_full, way_out, way_out_of};

/// What kind of failure this is. The kind alone decides the exit code and whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is wrong; nothing was started.
    Config,
    /// The command line is wrong; nothing was started.
    Usage,
    /// The input (corpus, model, tokenizer) cannot be used as it is.
    Input,
    /// Something that was named does not exist.
    NotFound,
    /// Stored bytes are not what was written: truncated, altered, or of an unknown version.
    Corrupt,
    /// The format, family or store feature is not supported.
    Unsupported,
    /// Memory, disk or another resource does not suffice.
    Resource,
    /// Another writer won; the message says who.
    Conflict,
    /// Another run of the same root is in progress; the message says which.
    Busy,
    /// A publish gate refused the snapshot.
    GateRefused,
    /// A transient failure: running again may succeed.
    Transient,
    /// The deadline was reached; the work done so far is kept and running again resumes it.
    Deadline,
    /// The user cancelled; the work done so far is kept and running again resumes it.
    Cancelled,
    /// A bug in this program.
    Internal,
}

impl ErrorKind {
    /// All of them.
    #[cfg(any(test, feature = "cluster"))]
    pub(crate) const ALL: [Self; 14] = [
        Self::Config,
        Self::Usage,
        Self::Input,
        Self::NotFound,
        Self::Corrupt,
        Self::Unsupported,
        Self::Resource,
        Self::Conflict,
        Self::Busy,
        Self::GateRefused,
        Self::Transient,
        Self::Deadline,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The process exit code: an interface that schedulers rely on.
    ///
    /// 1 permanent, 2 usage or configuration, 3 gate refused, 75 run again, 130 cancelled.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config | Self::Usage => 2,
            Self::GateRefused => 3,
            Self::Transient | Self::Deadline | Self::Conflict | Self::Busy => 75,
            Self::Cancelled => 130,
            Self::Input
            | Self::NotFound
            | Self::Corrupt
            | Self::Unsupported
            | Self::Resource
            | Self::Internal => 1,
        }
    }
}

/// A boxed foreign error.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The error of every fallible function of this crate.
///
/// ```
/// use scalingnote::error::{ErrorKind, Result};
/// use scalingnote::store::Root;
///
/// # #[tokio::main]
/// # async fn main() -> Result<()> {
/// let root = Root::open("memory://empty")?;
/// let error = root.get("snapshots/7.json").await.unwrap_err().context("opening the newest snapshot");
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// // For people, with everything that was being done; for programs, what to do about it.
/// assert!(error.to_string().contains("snapshots/7.json"));
/// assert!(!error.is_retryable());
/// assert_eq!(error.kind().exit_code(), 1);
/// # Ok(())
/// # }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    /// Innermost first.
    context: Vec<Cow<'static, str>>,
    source: Option<Source>,
    hint: Option<&'static str>,
    /// Of the pipeline file, by its dotted path.
    key: Option<Cow<'static, str>>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of one kind with a message that names the thing and the way out.
macro_rules! constructors {
    ($($name:ident = $kind:ident;)*) => {
        $(
            #[doc = concat!("[`ErrorKind::", stringify!($kind), "`].")]
            pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self::new(ErrorKind::$kind, message)
            }
        )*
    };
}

impl Error {
    /// An error of `kind` with a message that names the thing and the way out.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let (message, context) = (message.into(), Vec::new());
        Self(Box::new(Inner { kind, message, context, source: None, hint: None, key: None }))
    }

    constructors! {
        config = Config;
        usage = Usage;
        input = Input;
        not_found = NotFound;
        corrupt = Corrupt;
        unsupported = Unsupported;
        resource = Resource;
        conflict = Conflict;
        refused = GateRefused;
        transient = Transient;
        internal = Internal;
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says where to look up what is allowed here. Only who knows what kind of file is wrong can say that. Flags belong here
    /// and not into the message: a command that lacks them does not show the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: &'static str) -> Self {
        self.0.hint = Some(hint);
        self
    }

    /// Says what was being done, outermost last added.
    #[must_use]
    pub fn context(mut self, context: impl Into<Cow<'static, str>>) -> Self {
        self.0.context.push(context.into());
        self
    }

    /// Names the key of the pipeline file whose value is at fault: who has the file says where it stands. The key that
    /// was named first, nearest to the fault, stays.
    #[must_use]
    pub(crate) fn of_key(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.0.key.get_or_insert_with(|| key.into());
        self
    }

    /// Says in which section the key is that [`Error::of_key`] named; it is `key` where none was named.
    #[must_use]
    pub(crate) fn of_key_in(mut self, section: &str, key: &str) -> Self {
        let named = self.0.key.take();
        self.of_key(format!("{section}.{}", named.as_deref().unwrap_or(key)))
    }

    /// The key of the pipeline file whose value is at fault.
    pub(crate) fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// Says where the key stands, once.
    pub(crate) fn at(mut self, place: String) -> Self {
        self.0.key = None;
        self.context(place)
    }

    /// What it says once more, without its cause: for an error that others hold, too.
    pub(crate) fn again(&self) -> Self {
        let mut again = Self::new(self.kind(), self.to_string());
        again.0.key.clone_from(&self.0.key);
        again
    }

    /// What an I/O error means, with it as the source, and the way out where that is known.
    pub fn io(cause: std::io::Error, message: impl Into<Cow<'static, str>>) -> Self {
        let mut message = message.into();
        if let Some(way_out) = way_out(&cause) {
            message = format!("{message}: {way_out}").into();
        }
        Self::new(kind_of_io(&cause), message).with_source(cause)
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message alone, without context or source.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where to look up what is allowed, if the code that found the error knows.
    pub fn hint(&self) -> Option<&'static str> {
        self.0.hint
    }

    /// What it says and its hint, for a report that has no line of its own for that.
    pub(crate) fn told(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self}; {hint}"),
            None => self.to_string(),
        }
    }

    /// True where running the same thing again may succeed.
    pub fn is_retryable(&self) -> bool {
        self.kind().exit_code() == 75
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.0.context.iter().rev() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Turns foreign errors into [`Error`] and adds context, lazily.
pub trait ResultExt<T> {
    /// Wraps a foreign error, or keeps ours, under `kind` with `message`.
    ///
    /// An [`Error`] passed through keeps its own kind and gains the message as context.
    fn or_error<M: Into<Cow<'static, str>>>(
        self,
        kind: ErrorKind,
        message: impl FnOnce() -> M,
    ) -> Result<T>;

    /// Says what was being done. A foreign error becomes [`ErrorKind::Internal`]: prefer
    /// [`ResultExt::or_error`] for those.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Source>> ResultExt<T> for std::result::Result<T, E> {
    fn or_error<M: Into<Cow<'static, str>>>(
        self,
        kind: ErrorKind,
        message: impl FnOnce() -> M,
    ) -> Result<T> {
        self.map_err(|foreign| match foreign.into().downcast::<Error>() {
            Ok(ours) => ours.context(message()),
            Err(source) => Error::new(kind, message()).with_source(source),
        })
    }

    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.or_error(ErrorKind::Internal, message)
    }
}

/// `None` in place of an error that `excused` accepts.
pub(crate) fn unless<T>(
    result: Result<T>,
    excused: impl FnOnce(&Error) -> bool,
) -> Result<Option<T>> {
    match result {
        Err(error) if excused(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// `None` where what was asked for does not exist.
pub(crate) fn found<T>(result: Result<T>) -> Result<Option<T>> {
    unless(result, |error| error.kind() == ErrorKind::NotFound)
}

/// The error of a file or folder that cannot be written.
pub fn not_written(path: &Path, cause: std::io::Error) -> Error {
    Error::io(cause, format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_outermost_first_and_keeps_the_kind() {
        let inner: Result<()> = Err(Error::corrupt("footer of part a.parquet is cut off"));
        let outer = inner
            .or_error(ErrorKind::Internal, || "reading shard 3")
            .context(|| "encoding")
            .unwrap_err();
        assert_eq!(outer.kind(), ErrorKind::Corrupt);
        assert_eq!(
            outer.to_string(),
            "encoding: reading shard 3: footer of part a.parquet is cut off"
        );
    }

    #[test]
    fn the_key_nearest_to_the_fault_stays_and_is_told_once() {
        let mut error = Error::config("no such column").of_key("schema.a").of_key("other");
        error = error.of_key_in("corpus.tables.2", "uri").again();
        assert_eq!(error.key(), Some("corpus.tables.2.schema.a"));
        error = error.at("p.toml:3:7".to_owned());
        assert_eq!((error.key(), &*error.to_string()), (None, "p.toml:3:7: no such column"));
        let unnamed = Error::input("gone").of_key_in("corpus.tables.0", "uri");
        assert_eq!(unnamed.key(), Some("corpus.tables.0.uri"));
    }

    #[test]
    fn a_foreign_error_becomes_the_source() {
        let io = std::io::Error::other("disk on fire");
        let error = Err::<(), _>(io).or_error(ErrorKind::Transient, || "reading x").unwrap_err();
        assert!(error.is_retryable());
        assert!(format!("{error:?}").ends_with("reading x: disk on fire"));
    }
}
