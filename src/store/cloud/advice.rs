//! What to check when a store refuses: by the code that it names, else by the status.

use std::io;

use super::redirect::ELSEWHERE;
use crate::error::{self, ErrorKind};

/// Codes and texts of stores, what they mean for the caller, and the way out. The first that occurs counts.
const KNOWN: [(&[&str], ErrorKind, &str); 13] = [
    (&["Too many open files"], ErrorKind::Resource, error::TOO_MANY_FILES),
    (
        &[ELSEWHERE],
        ErrorKind::Input,
        "a root's files come from the host that was named and from no other; name that other host if it is to be trusted",
    ),
    (
        &["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"],
        ErrorKind::Input,
        "there is no such bucket; check its name, and that the endpoint and the account are the right ones",
    ),
    (
        &["RequestTimeTooSkewed", "RequestExpired", "Request date header too old"],
        ErrorKind::Input,
        "the clock of this machine is wrong by more than the store allows; set it (NTP) and run again",
    ),
    (
        &[
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "IllegalLocationConstraint",
            "incorrectly configured region",
            "status code: 301",
            "status code: 307",
        ],
        ErrorKind::Input,
        "the bucket is in another region; set storage.region or AWS_REGION to it",
    ),
    (
        &["ExpiredToken", "TokenRefreshRequired"],
        ErrorKind::Input,
        "the session's credentials have expired; get new ones",
    ),
    (
        &["InvalidAccessKeyId", "InvalidClientTokenId"],
        ErrorKind::Input,
        "the store does not know this access key",
    ),
    (
        &["SignatureDoesNotMatch"],
        ErrorKind::Input,
        "the secret does not fit the access key, or a proxy alters requests",
    ),
    (
        &["169.254.169.254", "metadata.google.internal", "computeMetadata"],
        ErrorKind::Input,
        "no credentials were found in the environment, and this machine has no role of a cloud",
    ),
    (
        &["AuthenticationFailed", "InvalidToken", "InvalidAuthenticationInfo"],
        ErrorKind::Input,
        "the credentials were not accepted (a wrong clock has the same effect)",
    ),
    (
        &["AccountProblem", "AccountIsDisabled", "InvalidObjectState", "KMS."],
        ErrorKind::Input,
        "the account or the bucket does not allow it; its console says why",
    ),
    (
        &["dns error", "Connection refused", "tcp connect error", "connection refused"],
        ErrorKind::Transient,
        "the server cannot be reached; check storage.endpoint or the endpoint of the environment, and the network",
    ),
    (
        &["operation timed out", "request timed out", "deadline has elapsed"],
        ErrorKind::Transient,
        "the store did not answer in time; run again, or raise storage.request_timeout_seconds",
    ),
];

/// The kind that the store's answer has in the end, and `: what to check`.
pub fn advice(
    kind: ErrorKind,
    status: Option<u16>,
    text: &str,
    uri: &str,
    system: Option<&io::Error>,
) -> (ErrorKind, String) {
    let scheme = uri.split_once("://").map_or("", |(scheme, _)| scheme);
    let remote = !matches!(scheme, "" | "file" | "memory");
    let known = KNOWN.iter().find(|(codes, ..)| codes.iter().any(|code| text.contains(code)));
    if let Some((_, kind, way_out)) = known.filter(|_| remote) {
        return match kind {
            ErrorKind::Input if !scheme.starts_with("http") => {
                (*kind, format!(": {way_out}; {}", credentials(scheme)))
            }
            _ => (*kind, format!(": {way_out}")),
        };
    }
    // Of a full disk more can be said here.
    if let Some(way_out) = system.filter(|io| !error::is_full(io)).and_then(error::way_out) {
        return (kind, format!(": {way_out}"));
    }
    let way_out = match kind {
        // A folder where a file should be, say: the system's own text is plain.
        ErrorKind::Input if system.is_some_and(|io| io.kind() != io::ErrorKind::PermissionDenied) => {
            String::new()
        }
        ErrorKind::Input if status == Some(401) => {
            format!(": the credentials were not accepted; {}", credentials(scheme))
        }
        ErrorKind::Input => format!(": access was refused; {}", credentials(scheme)),
        ErrorKind::Unsupported if !remote && system.is_some() => {
            ": two runs could overwrite each other's snapshots there; take a folder of another file system, or a bucket".to_owned()
        }
        ErrorKind::Resource => {
            ": the disk or quota is full; free a little space, let `snapshot gc` free the rest (--dry-run shows what), and run again".to_owned()
        }
        ErrorKind::Transient => ": a transient failure of the store; run again".to_owned(),
        ErrorKind::NotFound => ": there is no such object".to_owned(),
        ErrorKind::Conflict => ": the object exists already and is never overwritten".to_owned(),
        _ => String::new(),
    };
    (kind, way_out)
}

fn credentials(scheme: &str) -> &'static str {
    match scheme {
        "s3" | "s3a" => {
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, the region, and the bucket's policy"
        }
        "gs" => "check GOOGLE_APPLICATION_CREDENTIALS and the roles on the bucket",
        "az" | "abfs" | "abfss" | "azure" | "adl" => {
            "check AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or the managed identity, and its roles"
        }
        "http" | "https" => "check that the server lets this client read",
        _ => "check the owner and mode of the file, if it is there, and of the folders above it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of_io;

    #[test]
    fn only_a_folder_that_refuses_access_is_told_so() {
        for (number, says) in [
            (libc::EACCES, "owner and mode"),
            (libc::EPERM, "owner and mode"),
            (libc::EMFILE, "ulimit -n"),
            (libc::EROFS, "read-only"),
            (libc::ESTALE, "mount"),
            (libc::ENOSPC, "full"),
            (libc::EDQUOT, "full"),
            (libc::ENAMETOOLONG, "longer"),
            (libc::EISDIR, ""),
        ] {
            let cause = io::Error::from_raw_os_error(number);
            let told = advice(kind_of_io(&cause), None, "", "file:///data", Some(&cause)).1;
            assert!(told.contains(says), "{cause}: {told}");
            assert_eq!(
                told.contains("owner and mode"),
                says == "owner and mode",
                "{cause}: {told}"
            );
        }
    }

    #[test]
    fn answers_of_stores_name_what_to_check() {
        let advise = |kind, text: &str| advice(kind, None, text, "s3://notes/root", None);
        for (text, expected) in [
            ("404 <Code>NoSuchBucket</Code>", "no such bucket"),
            ("403 <Code>RequestTimeTooSkewed</Code>", "clock"),
            (
                "400 <Code>AuthorizationHeaderMalformed</Code> expecting 'eu-west-1'",
                "storage.region",
            ),
            ("status code: 301 <Code>PermanentRedirect</Code>", "storage.region"),
            ("403 <Code>ExpiredToken</Code>", "expired"),
            ("403 <Code>InvalidAccessKeyId</Code>", "access key"),
            ("403 <Code>SignatureDoesNotMatch</Code>", "secret"),
            ("PUT http://169.254.169.254/latest/api/token", "no credentials were found"),
        ] {
            let (kind, way_out) = advise(ErrorKind::Transient, text);
            assert_eq!(kind, ErrorKind::Input, "{text}");
            assert!(
                way_out.contains(expected) && way_out.contains("AWS_ACCESS_KEY_ID"),
                "{way_out}"
            );
        }
        let (kind, way_out) = advise(ErrorKind::Transient, "dns error: no such host");
        assert_eq!(kind, ErrorKind::Transient);
        assert!(way_out.contains("storage.endpoint"), "{way_out}");
        let refused = Some(403);
        let azure =
            advice(ErrorKind::Input, refused, "AuthenticationFailed", "az://notes/root", None);
        assert!(azure.1.contains("clock") && azure.1.contains("AZURE_STORAGE"), "{azure:?}");
        // A note about an object may hold such words; a folder has no such codes.
        let local = advice(ErrorKind::NotFound, None, "NoSuchBucket", "file:///data", None);
        assert_eq!(local.0, ErrorKind::NotFound);
        let (kind, way_out) = advise(ErrorKind::Transient, "tcp open error: Too many open files");
        assert_eq!(kind, ErrorKind::Resource);
        assert!(way_out.contains("ulimit -n"), "{way_out}");
    }
}
