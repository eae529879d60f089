//! The table of families in `benches/README.md` against what is opened.

use std::collections::BTreeMap;

use crate::tower::files::config::FAMILIES;
use crate::tower::files::encoder;
use crate::tower::files::{gguf_config, gguf_encoder};

/// Rows of the table: the family, and whether it is under GGUF as one.
fn table() -> BTreeMap<String, bool> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("### Families\n").expect("the section is there");
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 8, "{row}");
        let gguf = cells[4];
        assert!(["yes", "no"].contains(&gguf), "{row}");
        let families = cells[1].split(", ").map(|name| name.trim_matches('`').to_owned());
        families.map(|family| (family, gguf == "yes")).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn the_table_has_the_families_that_are_opened() {
    let table = table();
    let mut opened: Vec<&str> = FAMILIES.into_iter().chain(encoder::families()).collect();
    opened.sort_unstable();
    assert_eq!(table.keys().collect::<Vec<_>>(), opened, "benches/README.md, Families");
    let gguf: Vec<&str> =
        table.iter().filter(|(_, gguf)| **gguf).map(|(family, _)| family.as_str()).collect();
    let mut read: Vec<&str> = gguf_config::ARCHITECTURES
        .into_iter()
        .chain(gguf_encoder::ARCHITECTURES)
        .map(|architecture| match architecture {
            "llama-embed" => "llama",
            "gemma3" | "gemma-embedding" => "gemma3_text",
            "nomic-bert" => "nomic_bert",
            same => same,
        })
        // Its files say `llama`: the converter stores them as such.
        .chain(["mistral"])
        .collect();
    read.sort_unstable();
    read.dedup();
    assert_eq!(gguf, read, "benches/README.md, Families, GGUF");
}
