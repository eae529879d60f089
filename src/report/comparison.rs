//! What changes for the same queries from one snapshot to another, as a page.

use minijinja::context;

use super::page::render;
use crate::error::Result;
use crate::stage::Comparison;

impl Comparison {
    /// The same as a page.
    ///
    /// # Errors
    /// Internal, where the template does not fit.
    pub fn to_html(&self) -> Result<String> {
        render("comparison.html", include_str!("comparison.html"), context! { it => self })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::search::Hit;
    use crate::stage::Asked;

    #[test]
    fn the_page_escapes_what_comes_from_outside() {
        let hit = |id: &str| Hit {
            rank: 1,
            score: 1.0,
            note_id: json!(id),
            chunk: 0,
            stored: Map::new(),
        };
        let bad = Asked {
            id: "<script>".to_owned(),
            text: Some("<i>".to_owned()),
            hits: [vec![hit("<b>")], vec![hit("x")]],
            crossed: None,
        };
        let found = Comparison::of([1, 2], ["a".into(), "b".into()], 4, None, &[bad]);
        let page = found.to_html().unwrap();
        for escaped in ["&lt;script&gt;", "&lt;b&gt;", "&lt;i&gt;"] {
            assert!(page.contains(escaped), "{escaped} in {page}");
        }
        assert!(!page.contains("<script>") && !page.contains("http"));
    }
}
