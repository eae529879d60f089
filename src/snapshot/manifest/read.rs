//! Reading manifests: nothing is trusted before version, number, hash and paths are checked.

use super::format::{MANIFEST_VERSION, Manifest};
use super::signature;
use crate::error::{Error, ErrorKind, Result, ResultExt, UPGRADE, unless, unreadable};
use crate::store::{Root, layout};
use crate::types::hash_json;

/// The newest manifest, `None` in an empty root. Checked as in [`read`].
pub async fn newest(root: &Root) -> Result<Option<Manifest>> {
    // A gc may delete what was listed, but only where there is a newer one by now.
    let mut attempts = 0;
    loop {
        let Some(number) = numbers(root).await?.pop() else { return Ok(None) };
        match load(root, number).await {
            Err(error) if error.kind() == ErrorKind::NotFound && attempts < 3 => attempts += 1,
            other => return other.map(Some),
        }
    }
}

/// Numbers looked for beyond the last known one where a root does not list: a gc may have taken those between.
const AHEAD: u64 = 16;

/// The greatest number there is. A web server that does not list its files is asked for `from` and the numbers after it one
/// by one.
///
/// # Errors
/// Unsupported for such a server where there is no `from`.
pub async fn newest_number(root: &Root, from: Option<u64>) -> Result<Option<u64>> {
    match (numbers(root).await, from) {
        (Err(error), Some(from)) if error.kind() == ErrorKind::Unsupported => {
            let (mut newest, mut next) = (None, from);
            while let Some(number) = first_there(root, next).await? {
                (newest, next) = (Some(number), number + 1);
            }
            Ok(newest)
        }
        (numbers, _) => Ok(numbers?.pop()),
    }
}

async fn first_there(root: &Root, from: u64) -> Result<Option<u64>> {
    for number in from..=from + AHEAD {
        if root.size(&layout::manifest(number)).await?.is_some() {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// The manifest with this number: of a known version, under its own number, with content that matches its hash
/// and names only legal paths.
///
/// # Errors
/// NotFound names the numbers there are; Corrupt; Unsupported for a newer format.
pub async fn read(root: &Root, number: u64) -> Result<Manifest> {
    match load(root, number).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Ok(numbers) = numbers(root).await else { return Err(error) };
            let there = ranges(&numbers);
            let there = if there.is_empty() { "no snapshots".to_owned() } else { there };
            Err(Error::not_found(format!(
                "snapshot {number} does not exist in {}, which has {there}",
                root.uri()
            )))
        }
        other => other,
    }
}

/// All snapshot numbers, ascending.
pub async fn numbers(root: &Root) -> Result<Vec<u64>> {
    // A web server lists by an index page or by WebDAV; most do neither unless told to.
    let page = root.index_page(layout::SNAPSHOTS).await;
    let page = unless(page, |error| error.kind() == ErrorKind::Unsupported)?.flatten();
    let numbers = layout::manifest_numbers_in(&page.unwrap_or_default());
    if !numbers.is_empty() {
        return Ok(numbers);
    }
    let listed = root.list(layout::SNAPSHOTS).await.map_err(|error| {
        if !root.is_read_only() {
            return error.context("looking for snapshots");
        }
        Error::unsupported(format!(
            "{} does not list its snapshots, neither by an index page of {}/ nor by WebDAV; name the \
             snapshot's number (for a search: --snapshot N) or let the server list (nginx: autoindex on)",
            root.uri(),
            layout::SNAPSHOTS
        ))
        .with_source(error)
    })?;
    Ok(listed.iter().filter_map(|object| layout::manifest_number(&object.key)).collect())
}

/// The way out of a damaged manifest. No command helps: even a rollback reads the newest one first.
const RESTORE: &str = "restore the file from a backup or from a copy of the root; without one, move it away: if it was \
    the newest, the snapshot before it is served then, which `scalingnote snapshot verify ROOT` checks";

async fn load(root: &Root, number: u64) -> Result<Manifest> {
    let key = layout::manifest(number);
    let bytes = root.get(&key).await?;
    signature::check(root, number, &bytes).await?;
    let parsed = parse(&bytes, number).map_err(|error| match error.kind() {
        ErrorKind::Corrupt => error.with_hint(RESTORE),
        _ => error,
    });
    parsed.context(|| format!("reading {key} in {}", root.uri()))
}

/// Parses and checks the bytes of manifest `number`.
pub(in crate::snapshot) fn parse(bytes: &[u8], number: u64) -> Result<Manifest> {
    /// Read first, so that a newer format is told apart from a damaged one.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let broken = |cause| unreadable(cause, "the manifest", "the manifest is not valid");
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(broken)?;
    if versioned.version != MANIFEST_VERSION {
        let way_out = match versioned.version > MANIFEST_VERSION {
            true => UPGRADE,
            false => "use the release that wrote it",
        };
        return Err(Error::unsupported(format!(
            "the manifest has format version {}, this program reads {MANIFEST_VERSION}: {way_out}",
            versioned.version
        )));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(broken)?;
    if manifest.number != number {
        return Err(Error::corrupt(format!(
            "the manifest says number {}, its name {number}",
            manifest.number
        )));
    }
    let hash = hash_json(&manifest.content)?;
    if hash != manifest.content_hash {
        return Err(Error::corrupt(format!(
            "the content has hash {}, the manifest says {}: it was altered",
            hash.short(),
            manifest.content_hash.short()
        )));
    }
    manifest.content.validate()?;
    manifest.purged.validate()?;
    Ok(manifest)
}

/// `1, 3..7, 9` for people.
fn ranges(numbers: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let shown = parts.iter().map(|&(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}..{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_well() {
        assert_eq!(ranges(&[1, 3, 4, 5, 7, 8]), "1, 3..5, 7, 8");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn garbage_and_newer_formats_are_told_apart() {
        for newer in ["{\"version\":2}", "{\"version\":1,\"steps_left\":3}"] {
            let error = parse(newer.as_bytes(), 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(UPGRADE) && error.hint().is_none(), "{error}");
        }
        assert_eq!(parse(b"{\"version\":1}", 1).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(parse(b"\xff\x00", 1).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
