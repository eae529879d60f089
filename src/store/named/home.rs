//! `~/` at the start of a path is the home folder, wherever a person writes a path: this is the one place that says so.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// A path with the home folder in the place of `~`; any other path as it is. `base` is where a relative path starts: a
/// folder that is really named `~` may be there.
///
/// # Errors
/// Config for `~user`, for `$HOME`, where `HOME` names no folder, and where `~` is in `base`.
pub fn expand<'a>(path: &'a Path, base: &Path) -> Result<Cow<'a, Path>> {
    expand_with(path, base, std::env::var_os("HOME"))
}

/// [`expand`] for a text that may also be a URI, which stays as it is.
///
/// # Errors
/// As [`expand`]; Config for a `file://` URI that starts at `~`, and for `s3:/bucket` and `s3//bucket`, which would be
/// folders here.
pub fn expand_text<'a>(text: &'a str, base: &Path) -> Result<Cow<'a, str>> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let tail = rest.trim_start_matches('/');
        let first = tail.split('/').next().unwrap_or_default();
        if scheme.eq_ignore_ascii_case("file") && is_special(first) {
            return Err(Error::config(format!(
                "`{text}`: a URI knows no home folder; write `{tail}` without `{scheme}://`, or file:// and the whole path"
            )));
        }
        return Ok(Cow::Borrowed(text));
    }
    let cuts = [text.split_once("//"), text.split_once(':')];
    let mut cuts = cuts.into_iter().flatten();
    if let Some((scheme, rest)) = cuts.find(|(scheme, _)| SCHEMES.contains(scheme)) {
        // Of a file's URI the host is left out.
        let host = if scheme == "file" && rest.starts_with('/') { "/" } else { "" };
        let rest = rest.trim_start_matches('/');
        return Err(Error::config(format!(
            "`{text}`: a URI has `://`; write `{scheme}://{host}{rest}`, or `./{text}` for a folder of that name"
        )));
    }
    match expand(Path::new(text), base)? {
        Cow::Borrowed(_) => Ok(Cow::Borrowed(text)),
        Cow::Owned(path) => path.into_os_string().into_string().map(Cow::Owned).map_err(|_| {
            Error::config(format!(
                "`{text}`: the home folder's name is not Unicode; write the path out"
            ))
        }),
    }
}

/// What stands before the `://` of a URI.
const SCHEMES: [&str; 12] =
    ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https", "file", "memory"];

/// What a shell would replace at the start of a path.
fn is_special(first: &str) -> bool {
    first.starts_with('~') || matches!(first, "$HOME" | "${HOME}")
}

fn expand_with<'a>(path: &'a Path, base: &Path, home: Option<OsString>) -> Result<Cow<'a, Path>> {
    let mut parts = path.components();
    let Some(Component::Normal(first)) = parts.next() else { return Ok(Cow::Borrowed(path)) };
    let Some(name) = first.to_str().filter(|name| is_special(name)) else {
        return Ok(Cow::Borrowed(path));
    };
    let rest = parts.as_path();
    let literal = base.join(first);
    let exists = literal.symlink_metadata().is_ok();
    let shown = path.display();
    // `~backup.csv`, which is there, is a file whose name starts so.
    if name != "~" && exists && rest.as_os_str().is_empty() && literal.is_file() {
        return Ok(Cow::Borrowed(path));
    }
    let or_literal = match exists {
        true => format!(", or `./{shown}` for the one in {}, where `{name}` is", folder(base)),
        false => String::new(),
    };
    if name.starts_with('$') {
        return Err(Error::config(format!(
            "`{shown}`: variables are not filled in here; write `~/` for the home folder{or_literal}"
        )));
    }
    if name != "~" {
        return Err(Error::config(format!(
            "`{shown}`: `{name}` would be the home folder of the user `{}`, which is not looked up; write the path out{}",
            &name[1..],
            if exists { or_literal } else { format!(", or `./{shown}` if it is called that") }
        )));
    }
    let home = home.map(PathBuf::from).filter(|home| home.is_absolute()).ok_or_else(|| {
        Error::config(format!(
            "`{shown}`: `~` is the home folder, and HOME is not set to one (to an absolute path); set it, or write the path \
             out{or_literal}"
        ))
    })?;
    let meant = if rest.as_os_str().is_empty() { home } else { home.join(rest) };
    if exists {
        return Err(Error::config(format!(
            "`{shown}` may mean two places: {}, and the one under `~` itself, which is in {}; write `{0}` or `./{shown}`",
            meant.display(),
            folder(base),
        )));
    }
    Ok(Cow::Owned(meant))
}

fn folder(base: &Path) -> String {
    match base.as_os_str().is_empty() {
        true => "this folder".to_owned(),
        false => base.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn of(path: &str, base: &Path) -> Result<PathBuf> {
        expand_with(Path::new(path), base, Some("/home/me".into())).map(Cow::into_owned)
    }

    #[track_caller]
    fn refused(path: &str, base: &Path, pieces: &[&str]) {
        let error = of(path, base).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for piece in pieces {
            assert!(error.message().contains(piece), "no {piece} in {error}");
        }
    }

    #[test]
    fn only_a_tilde_at_the_start_is_the_home_folder() {
        let base = tempfile::tempdir().unwrap();
        for (written, meant) in [
            ("~", "/home/me"),
            ("~/", "/home/me"),
            ("~/index", "/home/me/index"),
            // The second slash does not make it absolute.
            ("~//etc/index", "/home/me/etc/index"),
            ("~/a*/~/b", "/home/me/a*/~/b"),
            ("./~/index", "./~/index"),
            ("a/~/index", "a/~/index"),
            ("/~/index", "/~/index"),
            ("../~", "../~"),
            ("notes~", "notes~"),
            ("$notes/x", "$notes/x"),
            ("", ""),
        ] {
            assert_eq!(of(written, base.path()).unwrap(), Path::new(meant), "{written}");
        }
        refused("~bob/index", base.path(), &["`~bob/index`", "user `bob`", "`./~bob/index`"]);
        refused("~bob", base.path(), &["user `bob`"]);
        refused("$HOME/index", base.path(), &["`$HOME/index`", "`~/`"]);
        refused("${HOME}/index", base.path(), &["variables"]);
    }

    #[test]
    fn what_is_really_called_so_is_named_and_refused() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("~")).unwrap();
        std::fs::create_dir(base.path().join("~bob")).unwrap();
        std::fs::write(base.path().join("~notes.csv"), "").unwrap();
        let place = base.path().to_str().unwrap();
        refused("~/index", base.path(), &["/home/me/index", place, "`./~/index`"]);
        refused("~", base.path(), &["`/home/me`", "`./~`"]);
        refused("~bob/x", base.path(), &["user `bob`", "`./~bob/x`", place]);
        assert_eq!(of("~notes.csv", base.path()).unwrap(), Path::new("~notes.csv"));
        assert_eq!(of("./~/index", base.path()).unwrap(), Path::new("./~/index"));
    }

    #[test]
    fn without_a_home_folder_nothing_is_guessed() {
        for home in [None, Some(""), Some("."), Some("~")] {
            let found = expand_with(Path::new("~/x"), Path::new("/none"), home.map(Into::into));
            assert!(found.unwrap_err().message().contains("HOME"), "{home:?}");
            let plain = expand_with(Path::new("x"), Path::new("/none"), home.map(Into::into));
            assert_eq!(plain.unwrap(), Path::new("x"));
        }
    }

    #[test]
    fn uris_know_no_home_folder() {
        let none = Path::new("/none");
        for uri in ["s3://bucket/~/x", "file:///data/~/x", "https://host/~me/x", "memory://~"] {
            assert_eq!(expand_text(uri, none).unwrap(), uri);
        }
        for uri in ["file://~/x", "file:///~/x", "FILE://~", "file://$HOME/x", "file://~bob/x"] {
            let error = expand_text(uri, none).unwrap_err();
            assert!(error.message().contains("a URI knows no home folder"), "{error}");
        }
    }

    #[test]
    fn a_uri_with_a_sign_left_out_is_not_a_folder() {
        let none = Path::new("/none");
        for text in ["s3:/bucket/x", "s3//bucket/x", "s3:bucket/x"] {
            let error = expand_text(text, none).unwrap_err();
            assert!(error.message().contains("write `s3://bucket/x`"), "{error}");
        }
        let error = expand_text("file:/data/notes", none).unwrap_err();
        assert!(error.message().contains("write `file:///data/notes`"), "{error}");
        for text in ["./s3:/bucket/x", "s3/x", "notes//x", "a:b", "/s3//x", "s3"] {
            assert_eq!(expand_text(text, none).unwrap(), text);
        }
    }
}
