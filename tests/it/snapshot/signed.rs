//! Signed manifests, from the key to the watcher.

use std::path::Path;
use std::sync::Arc;

use scalingnote::error::ErrorKind;
use scalingnote::search::{SnapshotWatcher, WatchOptions};
use scalingnote::snapshot::{
    Protected, Retention, commit, gc, newest, read, rollback, sign_published, signed_by,
};
use scalingnote::store::{Keys, PublicKey, Root, SigningKey, layout};

use super::{keys, local};
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::support::{notes, provenance, publish, store_content, tiny, unit_vectors};

// Made for these tests.
const KEY_A: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIMmAZMuVIzA1hm/wh8sm2NRMpVxQNTl//2+3CqCNqDLK\n-----END PRIVATE KEY-----\n";
const PUBLIC_A: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAXsAMwTEUh53pS/SbwWU993iKUzcq0IBbasgkYkxEqKk=\n-----END PUBLIC KEY-----\n";
const KEY_B: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIN9o5963BWMny4DkOPCmgAr6TznzS3qef9H8gasHSfJx\n-----END PRIVATE KEY-----\n";
const PUBLIC_B: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA0Q0Q1Kha1cr3bAs0DMcmN7Adx7vgVjKyiCymdCj8Aw4=\n-----END PUBLIC KEY-----\n";

fn keys_of(trusted: &str, signing: Option<&str>) -> Keys {
    let trusted = match trusted {
        "" => Vec::new(),
        pem => PublicKey::all_in(pem, "trusted").unwrap(),
    };
    let signing = signing.map(|pem| Arc::new(SigningKey::from_pem(pem, "signing").unwrap()));
    Keys { trusted, signing }
}

fn signatures(keys: &std::collections::BTreeSet<String>) -> Vec<u64> {
    let all = keys.iter().filter(|key| key.ends_with(".sig"));
    all.map(|key| layout::snapshot_of(key).unwrap()).collect()
}

fn watch(root: &Root) -> SnapshotWatcher {
    let options = WatchOptions {
        every: std::time::Duration::from_millis(1),
        cache: Path::new("/nonexistent").to_owned(),
        in_place: true,
        tower: None,
        first: None,
    };
    SnapshotWatcher::new(root.clone(), options).unwrap()
}

#[tokio::test]
async fn a_watcher_takes_over_only_what_its_key_signed() {
    let (folder, plain) = local();
    let signer = plain.clone().with_keys(keys_of("", Some(KEY_A)));
    let reader = plain.clone().with_keys(keys_of(PUBLIC_A, None));
    let content = async |seed| store_content(&plain, &notes(&unit_vectors(60, 8, seed)), 2).await;

    let first = publish(&signer, None, content(1).await, "one").await;
    let watcher = watch(&reader);
    assert!(watcher.look().await.unwrap());

    // Somebody else publishes: with no key, then with another.
    let without = commit(&plain, Some(&first), content(2).await, Vec::new(), provenance("two"));
    let refused = without.await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config, "the chain is signed: {refused}");
    let other = plain.clone().with_keys(keys_of("", Some(KEY_B)));
    let second = publish(&other, Some(&first), content(2).await, "two").await;
    let error = watcher.look().await.unwrap_err();
    assert!(error.to_string().contains("not signed by a trusted key"), "{error}");
    assert_eq!(watcher.status().number, Some(1));
    assert_eq!(newest(&reader).await.unwrap_err().kind(), ErrorKind::Corrupt);

    // A signature that was taken from elsewhere, or damaged, is none.
    let forged = layout::manifest(2);
    let bytes = plain.get(&forged).await.unwrap();
    let key = keys_of(PUBLIC_A, None).trusted.remove(0);
    let hash = scalingnote::types::Digest256::of(&bytes).to_hex();
    let name = layout::signature(2, &hash[..16], &key.id());
    let own = layout::signature(
        1,
        &scalingnote::types::Digest256::of(&plain.get(&layout::manifest(1)).await.unwrap())
            .to_hex()[..16],
        &key.id(),
    );
    let taken = plain.get(&own).await.unwrap();
    plain.put_if_absent(&name, taken).await.unwrap();
    let error = read(&reader, 2).await.unwrap_err().to_string();
    assert!(error.contains(&format!("{name} is not its signature")), "{error}");
    std::fs::remove_file(folder.path().join(&name)).unwrap();

    // The owner looks into it and vouches for it.
    assert_eq!(sign_published(&signer, Some(2)).await.unwrap(), [2]);
    assert_eq!(signed_by(&plain, 2).await.unwrap().len(), 2);
    let looked = watch(&reader);
    assert!(looked.look().await.unwrap());
    assert_eq!(looked.status().number, Some(second.number));
    // One bit of the manifest that its hash does not cover.
    let path = folder.path().join(layout::manifest(2));
    let altered =
        std::fs::read_to_string(&path).unwrap().replace("\"run\": \"two\"", "\"run\": \"tvo\"");
    std::fs::write(&path, altered).unwrap();
    read(&plain, 2).await.unwrap();
    assert_eq!(read(&reader, 2).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn rollbacks_are_signed_and_signatures_go_with_their_snapshots() {
    let (_folder, plain) = local();
    let root = plain.with_keys(keys_of(PUBLIC_A, Some(KEY_A)));
    let first = publish(&root, None, tiny(&root, "one").await.unwrap(), "a").await;
    publish(&root, Some(&first), tiny(&root, "two").await.unwrap(), "b").await;
    rollback(&root, 1, provenance("back")).await.unwrap();
    assert_eq!(signatures(&keys(&root).await), [1, 2, 3]);
    let retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };
    let now = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    let left_over = layout::signature(9, "0123456789abcdef", "0123456789abcdef");
    root.put(&left_over, vec![0; 64].into()).await.unwrap();
    let report = gc(&root, &retention, now, false, &Protected::default()).await.unwrap();
    assert_eq!(report.deleted_snapshots, [1, 2]);
    assert_eq!(signatures(&keys(&root).await), [3]);
    assert_eq!(newest(&root).await.unwrap().unwrap().number, 3);
}

#[test]
fn the_program_signs_checks_and_changes_keys() {
    let place = Place::new();
    let notes = |count| place.write_notes(0..count, |at| format!("word number {at}"));
    notes(30);
    for (name, text) in
        [("a.pem", KEY_A), ("a.pub", PUBLIC_A), ("b.pem", KEY_B), ("b.pub", PUBLIC_B)]
    {
        place.write(name, text);
    }
    let file = |keys: &str| {
        let text = PipelineFile { root: "root", ..PipelineFile::default() }.text();
        place.write("p.toml", format!("{text}public_keys = [{keys}]\n"));
    };
    let with = |key: &str, code: i32, line: &str, piece: &str| {
        let output = place.command(line).env("SCALINGNOTE_SIGNING_KEY_FILE", key).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}\n{said}");
        assert!(said.contains(piece), "{line}: no {piece:?} in\n{said}");
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    };
    // Told before any work, with nothing written.
    file("'a.pub'");
    place.says(2, "run p.toml", &["`publish.public_keys` is set", "SCALINGNOTE_SIGNING_KEY_FILE"]);
    with("b.pem", 2, "run p.toml", "none of `publish.public_keys`");
    with("a.pub", 2, "run p.toml", "holds no unencrypted Ed25519 private key");
    with("gone.pem", 2, "run p.toml", "gone.pem (named by SCALINGNOTE_SIGNING_KEY_FILE)");
    assert!(!place.path("root").join("runs").exists());
    file("'p.toml'");
    with("a.pem", 2, "run p.toml", "holds no public key");

    // Begun without, then signed.
    file("");
    place.expect(0, "run p.toml");
    file("'a.pub'");
    place.says(1, "search p.toml word", &["not signed by a trusted key", "snapshot sign"]);
    with("a.pem", 0, "snapshot sign root", "snapshot 1 is signed by key");
    place.says(0, "search p.toml word", &["note_id"]);
    place.says(0, "snapshot show p.toml", &["signed by"]);
    place.says(0, "search root word --public-key a.pub", &["note_id"]);
    place.says(1, "search root word --public-key b.pub", &["not signed by a trusted key"]);
    place.expect(0, "snapshot verify root --public-key a.pub");
    place.says(2, "search root word --public-key p.toml", &["holds no public key"]);

    // A new key: readers trust both, the old snapshot gets the new signature, readers drop the old key.
    file("'a.pub', 'b.pub'");
    notes(31);
    with("b.pem", 0, "run p.toml", "snapshot 2");
    with("b.pem", 0, "snapshot sign p.toml", "2 snapshots (1 to 2) are signed");
    file("'b.pub'");
    with("b.pem", 0, "snapshot rollback p.toml 1 --reason again", "snapshot 3");
    with("b.pem", 0, "purge p.toml --note-id i:7", "");
    place.says(0, "search p.toml word", &["note_id"]);
    // What the purge deleted left no signature.
    let names = std::fs::read_dir(place.path("root/signatures")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 1, "{names:?}");
    // Whoever has no key does not break the chain without a word.
    file("");
    notes(32);
    place.says(2, "run p.toml", &["snapshot 4", "is signed (key "]);
}
