//! Finds secrets that somebody wrote into a config file: they belong into the environment.

use super::document::{Node, Value};
use super::origin::{ENV_PREFIX, Origin};
use super::problem::Problems;

/// Environment variables that take secrets, and the key names (lower case) that hold them.
const KEYS: [(&str, &[&str]); 12] = [
    ("AWS_ACCESS_KEY_ID", &["access_key", "access_key_id", "aws_access_key_id"]),
    (
        "AWS_SECRET_ACCESS_KEY",
        &["secret", "secret_key", "secret_access_key", "aws_secret_access_key"],
    ),
    ("AWS_SESSION_TOKEN", &["session_token", "aws_session_token"]),
    ("AZURE_STORAGE_ACCOUNT_KEY", &["account_key", "azure_storage_account_key"]),
    ("AZURE_STORAGE_SAS_TOKEN", &["sas_token"]),
    ("AZURE_STORAGE_CLIENT_SECRET", &["client_secret"]),
    ("GOOGLE_SERVICE_ACCOUNT_KEY", &["service_account_key"]),
    ("GOOGLE_SERVICE_ACCOUNT", &["service_account"]),
    ("HF_TOKEN", &["hf_token"]),
    ("HF_TOKEN (models) or AWS_SESSION_TOKEN (S3)", &["token"]),
    (
        "PGPASSWORD, MYSQL_PASSWORD, or the variable of that service",
        &["api_key", "password", "passwd"],
    ),
    ("AWS_*, AZURE_* or GOOGLE_*", &["credential", "credentials"]),
];

/// The way out for a key that holds a secret; `None` for any other key.
pub(super) fn advice(key: &str) -> Option<String> {
    let key = key.to_lowercase().replace('-', "_");
    let (variable, _) = KEYS.iter().find(|(_, names)| names.contains(&key.as_str()))?;
    Some(format!(
        "`{key}` is a secret, which a configuration must not hold; remove it and set {variable} in the environment"
    ))
}

/// True for a value that looks like a credential. The value is never repeated in a message.
fn is_secret(text: &str) -> bool {
    let word = |prefix: &str, length: usize, upper_only: bool| {
        let belongs =
            |c: &char| c.is_ascii_alphanumeric() && !(upper_only && c.is_ascii_lowercase());
        text.match_indices(prefix).any(|(at, _)| {
            let starts = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            starts && text[at + prefix.len()..].chars().take_while(belongs).count() >= length
        })
    };
    let user_info = text.split_once("://").is_some_and(|(scheme, rest)| {
        !matches!(scheme, "abfs" | "abfss")
            && rest.split('/').next().is_some_and(|host| host.contains('@'))
    });
    user_info
        || is_signed(text)
        || text.contains("-----BEGIN ")
        || word("AKIA", 16, true)
        || word("ASIA", 16, true)
        || word("hf_", 30, false)
}

/// Whether a text holds a signed address: who has it may read what it names.
pub(super) fn is_signed(text: &str) -> bool {
    let parts = ["Signature=", "X-Amz-Credential=", "?sig=", "&sig="];
    text.contains("://") && parts.iter().any(|part| text.contains(part))
}

/// The variable that sets a key of the pipeline.
pub(super) fn variable(path: &str) -> String {
    format!("{ENV_PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

/// Whether a signed address may stand here: a table's, from the environment, which is the place of secrets.
fn may_be_signed(path: &str, origin: &Origin) -> bool {
    let table = path.strip_prefix("corpus.tables.").and_then(|rest| rest.strip_suffix(".uri"));
    matches!(origin, Origin::Env(_)) && table.is_some()
}

/// A value as it may be printed: a signed address without its query.
pub(super) fn shown(text: &str) -> Option<String> {
    let (address, _) = text.split_once('?').filter(|_| is_signed(text))?;
    Some(format!("{address}?[secret]"))
}

/// Reports every string under `node` that looks like a credential. Free text (SQL, the template)
/// is looked at too: a signed URL is as bad there.
pub(super) fn find(node: &Node, path: &str, problems: &mut Problems) {
    match &node.value {
        Value::String(text) if is_signed(text) && may_be_signed(path, &node.origin) => {}
        Value::String(text) if is_secret(text) => {
            let signed = Origin::Env(String::new());
            let way_out = if is_signed(text) && may_be_signed(path, &signed) {
                format!("set {} in the environment to the signed address", variable(path))
            } else {
                "use the environment (AWS_*, AZURE_*, GOOGLE_*, HF_TOKEN, PGPASSWORD, MYSQL_PASSWORD)".to_owned()
            };
            problems.push(
                node.origin.clone(),
                format!("`{path}` holds a credential; remove it and {way_out}"),
            );
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                find(item, &format!("{path}.{at}"), problems);
            }
        }
        Value::Table(entries) => {
            for entry in entries {
                let dot = if path.is_empty() { "" } else { "." };
                find(&entry.node, &format!("{path}{dot}{}", entry.key), problems);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_told_from_ordinary_text() {
        for secret in [
            "s3://user:pass@bucket/x",
            "https://host/blob?sv=1&sig=abc",
            "https://bucket.s3.amazonaws.com/n.csv?AWSAccessKeyId=x&Signature=abc&Expires=1",
            "https://storage.googleapis.com/b/o?X-Goog-Signature=abc",
            "AKIAIOSFODNN7EXAMPLE",
            "x hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
            "-----BEGIN PRIVATE KEY-----",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for plain in [
            "s3://bucket/a@b",
            "select 'AKIA' from notes",
            "org/hf_model",
            "mail me@example.org",
            "abfss://container@account.dfs.core.windows.net/x",
        ] {
            assert!(!is_secret(plain), "{plain}");
        }
        assert!(advice("max_tokens").is_none());
        assert!(advice("Secret-Key").unwrap().contains("AWS_SECRET_ACCESS_KEY"));
    }
}
