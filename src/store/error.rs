//! Turns a store's error into ours: its kind, what was asked of which root, and what to check.

use std::error::Error as StdError;

use object_store::client::HttpError;

use super::cloud;
use crate::error::{Error, ErrorKind, kind_of_io};

/// Environment variables whose values must never be shown.
const SECRETS: [&str; 11] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
];

/// `operation` on `key` of the root `uri` failed with `cause`.
pub(super) fn from_store(
    operation: &str,
    key: &str,
    uri: &str,
    cause: &object_store::Error,
) -> Error {
    let text = chain(cause);
    let kind = kind_of(cause);
    let (kind, advice) = cloud::advice(kind, status(&text), &text, uri, system(cause));
    let place = if key.is_empty() { uri.to_owned() } else { format!("{key} in {uri}") };
    Error::new(kind, format!("cannot {operation} {place}{advice}")).with_source(describe(cause))
}

/// An object of the corpus could not be read. What is missing or refused is the input's fault, not the store's.
pub fn unreadable(uri: &str, cause: &object_store::Error) -> Error {
    let error = from_store("read", "", uri, cause);
    let message = match error.kind() {
        ErrorKind::NotFound => format!("{uri} does not exist"),
        ErrorKind::Corrupt | ErrorKind::Unsupported => error.message().to_owned(),
        _ => return error,
    };
    Error::input(message).with_source(describe(cause))
}

/// The kind of an error of a library that reads through a store (Parquet, Arrow): the store's or the operating
/// system's error inside decides; without one it is `otherwise`.
pub fn kind_of_foreign(cause: &(dyn StdError + 'static), otherwise: ErrorKind) -> ErrorKind {
    for error in links(cause) {
        if let Some(store) = error.downcast_ref::<object_store::Error>() {
            return kind_of(store);
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            // A buffered writer hides the store's error in one of the operating system's.
            let hidden = io.get_ref().and_then(|inner| inner.downcast_ref::<object_store::Error>());
            return hidden.map_or_else(|| kind_of_io(io), kind_of);
        }
    }
    otherwise
}

/// An error and what caused it, outermost first.
fn links<'a>(
    cause: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(cause), |error| (**error).source())
}

fn kind_of(cause: &object_store::Error) -> ErrorKind {
    use object_store::Error as Store;
    match cause {
        Store::NotFound { .. } => ErrorKind::NotFound,
        Store::AlreadyExists { .. } => ErrorKind::Conflict,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => ErrorKind::Input,
        Store::InvalidPath { .. } => ErrorKind::Corrupt,
        Store::NotSupported { .. } | Store::NotImplemented { .. } => ErrorKind::Unsupported,
        Store::UnknownConfigurationKey { .. } => ErrorKind::Config,
        Store::JoinError { .. } => ErrorKind::Internal,
        _ => kind_of_chain(cause),
    }
}

/// The operating system's error inside. An answer that breaks off is the connection's end of file, not a file's.
fn system(cause: &object_store::Error) -> Option<&std::io::Error> {
    links(cause).take_while(|error| !error.is::<HttpError>()).find_map(<dyn StdError>::downcast_ref)
}

/// Generic errors: by the operating system's error or the HTTP status inside.
fn kind_of_chain(cause: &object_store::Error) -> ErrorKind {
    if let Some(io) = system(cause) {
        return kind_of_io(io);
    }
    let text = chain(cause);
    // Read beyond its end, an object is shorter than its reader was told: no attempt makes it longer. The store's own
    // error type for it is private.
    if text.contains("Wanted range starting at") {
        return ErrorKind::Corrupt;
    }
    match status(&text) {
        Some(416) => ErrorKind::Corrupt,
        Some(507) => ErrorKind::Resource,
        Some(408 | 409 | 412 | 423 | 425 | 429 | 500..) | None => ErrorKind::Transient,
        Some(_) => ErrorKind::Input,
    }
}

/// S3 answers 409 to a conditional create beside another one that is not decided yet: neither won nor lost.
pub(super) fn is_undecided(cause: &object_store::Error) -> bool {
    matches!(cause, object_store::Error::AlreadyExists { .. })
        && ["ConditionalRequestConflict", "OperationAborted"]
            .iter()
            .any(|code| chain(cause).contains(code))
}

/// The HTTP status named in an error's text: the store's own error type for it is private.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The whole cause as one line without secrets: an S3 or Azure answer is cut to its code and message.
pub(super) fn describe(cause: &object_store::Error) -> String {
    let mut text = chain(cause);
    if let Some(code) = between(&text, "<Code>", "</Code>") {
        let message = between(&text, "<Message>", "</Message>").unwrap_or_default();
        let status = status(&text).map(|status| format!("{status} ")).unwrap_or_default();
        text = format!("{status}{code}: {message}");
    }
    text = text.replace(['\n', '\r'], " ");
    for name in SECRETS {
        if let Ok(value) = std::env::var(name)
            && value.len() >= 4
        {
            text = text.replace(&value, "[secret]");
        }
    }
    // A shared access signature travels in the query of a URL.
    while let Some(signature) = between(&text, "sig=", "&").filter(|found| *found != "[secret]") {
        text = text.replace(&format!("sig={signature}"), "sig=[secret]");
    }
    text.chars().take(600).collect()
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(open)?;
    let end = rest.find(close).or_else(|| rest.find(char::is_whitespace)).unwrap_or(rest.len());
    Some(&rest[..end])
}

fn chain(cause: &object_store::Error) -> String {
    let mut text = cause.to_string();
    for error in links(cause).skip(1) {
        let next = error.to_string();
        // Most of the store's errors already print their source.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpErrorKind;

    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn kinds_follow_status_and_io() {
        let non_2xx = |code| generic(&format!("Server returned non-2xx status code: {code}: "));
        for (code, kind) in [
            ("429 Too Many Requests", ErrorKind::Transient),
            ("503 Slow Down", ErrorKind::Transient),
            ("412 Precondition Failed", ErrorKind::Transient),
            ("416 Range Not Satisfiable", ErrorKind::Corrupt),
            ("507 Insufficient Storage", ErrorKind::Resource),
            ("400 Bad Request", ErrorKind::Input),
        ] {
            assert_eq!(kind_of(&non_2xx(code)), kind, "{code}");
        }
        assert_eq!(kind_of(&generic("connection reset")), ErrorKind::Transient);
        let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let cut = HttpError::new(HttpErrorKind::Unknown, cut);
        let cut = object_store::Error::Generic { store: "S3", source: Box::new(cut) };
        assert_eq!(kind_of(&cut), ErrorKind::Transient, "an answer that was cut off");
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full =
            object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(full) };
        let error = from_store("put", "runs/a/plan.json", "file:///data", &full);
        assert_eq!(error.kind(), ErrorKind::Resource);
        assert!(error.to_string().contains("runs/a/plan.json in file:///data"), "{error}");
    }

    #[tokio::test]
    async fn an_object_that_is_too_short_is_no_passing_fault() {
        use object_store::{ObjectStore, ObjectStoreExt};
        let folder = tempfile::tempdir().unwrap();
        let local = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let stores: [Box<dyn ObjectStore>; 2] =
            [Box::new(object_store::memory::InMemory::new()), Box::new(local)];
        for store in stores {
            let key = object_store::path::Path::from("empty");
            store.put(&key, bytes::Bytes::new().into()).await.unwrap();
            let cause = store.get_range(&key, 0..8).await.unwrap_err();
            assert_eq!(kind_of(&cause), ErrorKind::Corrupt, "{cause:?}");
        }
    }

    #[test]
    fn an_answer_is_cut_to_code_and_message_and_signatures_go() {
        let answer = generic(
            "status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
             <Message>not your key</Message><StringToSign>abc</StringToSign></Error>",
        );
        assert_eq!(describe(&answer), "403 SignatureDoesNotMatch: not your key");
        let sas = describe(&generic("GET https://x/y?sp=r&sig=abc%3D&se=2030 failed"));
        assert!(!sas.contains("abc%3D") && sas.contains("sig=[secret]"), "{sas}");
        let last = describe(&generic("GET https://x/y?sig=abcdef failed"));
        assert!(!last.contains("abcdef"), "{last}");
    }
}
