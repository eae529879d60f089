//! Finds secrets that somebody wrote into a config file: they belong into the environment.

use super::document::{Node, Value};
use super::problem::Problems;

/// Key names (lower case) that hold secrets, and the environment variable that takes them.
const KEYS: [(&str, &str); 22] = [
    ("access_key", "AWS_ACCESS_KEY_ID"),
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret", "AWS_SECRET_ACCESS_KEY"),
    ("secret_key", "AWS_SECRET_ACCESS_KEY"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("session_token", "AWS_SESSION_TOKEN"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("account_key", "AZURE_STORAGE_ACCOUNT_KEY"),
    ("azure_storage_account_key", "AZURE_STORAGE_ACCOUNT_KEY"),
    ("sas_token", "AZURE_STORAGE_SAS_TOKEN"),
    ("client_secret", "AZURE_STORAGE_CLIENT_SECRET"),
    ("service_account_key", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    ("service_account", "GOOGLE_SERVICE_ACCOUNT"),
    ("hf_token", "HF_TOKEN"),
    ("token", "HF_TOKEN (models) or AWS_SESSION_TOKEN (S3)"),
    ("api_key", "the variable of that service"),
    ("password", "the variable of that service"),
    ("passwd", "the variable of that service"),
    ("credential", "AWS_*, AZURE_* or GOOGLE_*"),
    ("credentials", "AWS_*, AZURE_* or GOOGLE_*"),
];

/// The way out for a key that holds a secret; `None` for any other key.
pub(super) fn advice(key: &str) -> Option<String> {
    let key = key.to_lowercase().replace('-', "_");
    let (_, variable) = KEYS.iter().find(|(name, _)| *name == key)?;
    Some(format!(
        "`{key}` is a secret, which a configuration must not hold; remove it and set {variable} in the environment"
    ))
}

/// True for a value that looks like a credential. The value is never repeated in a message.
fn is_secret(text: &str) -> bool {
    let word = |prefix: &str, length: usize, upper_only: bool| {
        text.match_indices(prefix).any(|(at, _)| {
            let starts = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            let run = text[at + prefix.len()..]
                .chars()
                .take_while(|c| {
                    if upper_only {
                        c.is_ascii_uppercase() || c.is_ascii_digit()
                    } else {
                        c.is_ascii_alphanumeric()
                    }
                })
                .count();
            starts && run >= length
        })
    };
    let user_info = text.split_once("://").is_some_and(|(scheme, rest)| {
        !matches!(scheme, "abfs" | "abfss")
            && rest.split('/').next().is_some_and(|host| host.contains('@'))
    });
    let signed = text.contains("://")
        && ["X-Amz-Signature=", "X-Amz-Credential=", "?sig=", "&sig="]
            .iter()
            .any(|part| text.contains(part));
    user_info
        || signed
        || text.contains("-----BEGIN ")
        || word("AKIA", 16, true)
        || word("ASIA", 16, true)
        || word("hf_", 30, false)
}

/// Reports every string under `node` that looks like a credential. Free text (SQL, the template)
/// is looked at too: a signed URL is as bad there.
pub(super) fn find(node: &Node, path: &str, problems: &mut Problems) {
    match &node.value {
        Value::String(text) if is_secret(text) => problems.push(
            node.origin.clone(),
            format!(
                "`{path}` holds a credential; remove it and use the environment (AWS_*, AZURE_*, GOOGLE_*, HF_TOKEN)"
            ),
        ),
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
