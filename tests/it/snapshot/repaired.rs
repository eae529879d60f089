//! Repair of adapted query towers: their files are not named by their hash.

use std::sync::Arc;

use serde_json::json;

use scalingnote::error::ErrorKind;
use scalingnote::observe::Silent;
use scalingnote::snapshot::{self, Content, RepairReport};
use scalingnote::stage::{self, PurgeRequest};
use scalingnote::store::{FileRef, Root, layout};
use scalingnote::types::{Cancel, NoteId};

use super::copied::with_tower;
use crate::fixture::support::{keys, publish};

async fn repair(root: &Root, dry_run: bool) -> RepairReport {
    snapshot::repair(root, dry_run, &Cancel::new(), &|_| {}).await.unwrap()
}

/// Puts other bytes in the place of a file.
async fn damage(root: &Root, key: &str) {
    root.delete(key).await.unwrap();
    root.put(key, "other".into()).await.unwrap();
}

fn files_of_tower(content: &Content) -> Vec<FileRef> {
    content.query_towers[0].adapted.as_ref().unwrap().files.clone()
}

/// The receipt of an adaptation that made these files.
async fn put_receipt(root: &Root, files: &[FileRef]) -> String {
    let key = layout::adapt_receipt("adapt-0123456789abcdef");
    let receipt = json!({"id": "adapt-0123456789abcdef", "tower": {"files": files}});
    root.put(&key, receipt.to_string().into()).await.unwrap();
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tower_with_a_damaged_file_goes_as_a_whole() {
    for at in 0..4 {
        let root = Root::in_memory();
        let content = with_tower(&root).await;
        let files = files_of_tower(&content);
        let manifest = publish(&root, None, content, "day 1").await;
        let receipt = put_receipt(&root, &files).await;
        let before = repair(&root, true).await;
        assert!(before.damaged.is_empty() && before.receipts.is_empty(), "{before:?}");
        let others = manifest.content.files().filter(|file| !file.path.starts_with("towers/"));
        assert_eq!(before.files, 4 + others.count() as u64);

        let key = &files[at].path;
        damage(&root, key).await;
        let problems = snapshot::verify_hashes(&root, &manifest, &|_| {}).await.unwrap();
        assert_eq!((problems.len(), &problems[0].path), (1, key));
        let looked = repair(&root, true).await;
        assert_eq!(looked.damaged, std::slice::from_ref(key));
        assert_eq!((looked.useless.len(), &looked.receipts[0]), (3, &receipt), "{looked:?}");
        assert!(keys(&root).await.contains(key), "a dry run deletes nothing");
        let done = repair(&root, false).await;
        assert_eq!(RepairReport { dry_run: true, ..done }, looked);
        let left = keys(&root).await;
        assert!(!left.iter().any(|key| key.starts_with("towers/")), "{left:?}");
        // The manifest names them still, and nothing else is to be done.
        let again = repair(&root, false).await;
        assert!(again.damaged.is_empty() && again.receipts.is_empty(), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tower_is_known_from_a_receipt_and_condemned_by_none_alone() {
    // No snapshot has it yet: the run was stopped after it had adapted it.
    let root = Root::in_memory();
    let files = files_of_tower(&with_tower(&root).await);
    put_receipt(&root, &files).await;
    damage(&root, &files[0].path).await;
    assert_eq!(repair(&root, true).await.damaged, [files[0].path.clone()]);

    // What is damaged is the receipt: the file is what the snapshot names.
    let root = Root::in_memory();
    let content = with_tower(&root).await;
    let mut files = files_of_tower(&content);
    publish(&root, None, content, "day 1").await;
    files[0].sha256 = files[1].sha256;
    put_receipt(&root, &files).await;
    assert!(repair(&root, true).await.damaged.is_empty());
}

/// The tower read note 8. Nobody can say so of a damaged list, so that its weights would stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_believes_no_damaged_list_of_what_a_tower_read() {
    let root = Root::in_memory();
    let content = with_tower(&root).await;
    let files = files_of_tower(&content);
    publish(&root, None, content, "day 1").await;
    let list = files.iter().find(|file| file.path.ends_with(".texts.json")).unwrap();
    damage(&root, &list.path).await;
    let request = PurgeRequest {
        root: &root,
        notes: &[NoteId::Int(8)],
        dry_run: false,
        reporter: Arc::new(Silent),
        cancel: Cancel::new(),
    };
    let error = stage::purge(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let said = error.to_string();
    assert!(said.contains(&list.path) && said.contains("snapshot repair"), "{said}");
}
