//! The licence that a model's authors state. Nothing depends on it: what cannot be read says nothing.

use std::io::Read;
use std::path::Path;

use crate::store::named::open_regular;
use crate::tower::files::gguf::Gguf;
use crate::types::Sourced;

/// A repository's page, which begins with what is told to programs.
pub(crate) const PAGE: &str = "README.md";
/// Front matter that is longer is none.
const MAX_PAGE: u64 = 64 << 10;

/// Of a folder or a repository: `license` in the front matter of its README.md.
pub(crate) fn of_folder(folder: &Path) -> Option<Sourced<String>> {
    let mut page = Vec::new();
    open_regular(&folder.join(PAGE)).ok()?.take(MAX_PAGE).read_to_end(&mut page).ok()?;
    let value = front_matter(&String::from_utf8_lossy(&page))?;
    Some(Sourced { value, by: PAGE.to_owned() })
}

/// Of a GGUF file.
pub(crate) fn of_gguf(gguf: &Gguf) -> Option<Sourced<String>> {
    const KEY: &str = "general.license";
    let value = gguf.string(KEY).ok()??.trim();
    (!value.is_empty()).then(|| Sourced { value: value.to_owned(), by: KEY.to_owned() })
}

/// `license`, one or a list of them; of one called `other` its name.
fn front_matter(page: &str) -> Option<String> {
    let mut lines = page.lines();
    if lines.next()?.trim() != "---" {
        return None;
    }
    let lines: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let plain = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    let listed = |key: &str| {
        let at = lines.iter().position(|line| line.starts_with(key))?;
        let here = plain(&lines[at][key.len()..]);
        let items = here.trim_start_matches('[').trim_end_matches(']').split(',').map(plain);
        let below = lines[at + 1..].iter().map_while(|line| line.trim_start().strip_prefix("- "));
        let all: Vec<String> = match here.is_empty() {
            true => below.map(plain).collect(),
            false => items.collect(),
        };
        Some(all.join(", ")).filter(|all| !all.is_empty())
    };
    let licence = listed("license:")?;
    match listed("license_name:") {
        Some(name) if licence == "other" => Some(name),
        _ => Some(licence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_states_its_licence_in_its_front_matter() {
        for (page, licence) in [
            ("---\nlicense: apache-2.0\ntags:\n- x\n---\n# Model\n", Some("apache-2.0")),
            ("---\ntags: [a]\nlicense: 'mit'\n---", Some("mit")),
            ("---\nlicense:\n- mit\n- cc-by-4.0\nlanguage: en\n---", Some("mit, cc-by-4.0")),
            ("---\nlicense: [mit, gpl-3.0]\n---", Some("mit, gpl-3.0")),
            ("---\nlicense: other\nlicense_name: gemma\n---", Some("gemma")),
            ("---\r\nlicense: gemma\r\n---\r\n", Some("gemma")),
            ("---\ntags: [a]\n---\nlicense: mit\n", None),
            ("license: mit\n", None),
            ("---\nlicense:\n---\n", None),
            ("", None),
        ] {
            assert_eq!(front_matter(page).as_deref(), licence, "{page}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_folder(folder.path()), None);
        std::fs::write(folder.path().join(PAGE), "---\nlicense: mit\n---\n").unwrap();
        let found = of_folder(folder.path()).unwrap();
        assert_eq!((found.value.as_str(), found.by.as_str()), ("mit", "README.md"));
    }
}
