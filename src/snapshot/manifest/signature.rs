//! Signed manifests: an Ed25519 signature of a manifest's bytes is stored under `signatures/`, and a root that trusts
//! keys reads no manifest without one of theirs.
//!
//! The manifest names every other file by its hash, so the signature covers the whole snapshot. It is put before the
//! manifest, under a name that holds the manifest's own hash: a signed snapshot is never seen without it, and what a
//! lost race leaves behind signs nothing. It is the bare 64 bytes, so that `openssl pkeyutl -verify -rawin` can check
//! it.
//!
//! A signature says who published. It does not say when: an older signed manifest, or one of another root with the
//! same key, is as good. So readers only ever move to greater numbers, and each root should have a key of its own.

use crate::error::{Error, Result, found};
use crate::store::layout;
use crate::store::{PublicKey, Root, SigningKey};
use crate::types::Digest256;

fn key(number: u64, manifest: &[u8], by: &PublicKey) -> String {
    layout::signature(number, &hash(manifest), &by.id())
}

/// How signatures call a manifest: the start of its hash.
pub(in crate::snapshot) fn hash(manifest: &[u8]) -> String {
    Digest256::of(manifest).to_hex()[..16].to_owned()
}

/// Stores the signature of manifest `number` with these bytes.
pub(in crate::snapshot) async fn sign(
    root: &Root,
    number: u64,
    manifest: &[u8],
    with: &SigningKey,
) -> Result<()> {
    // The same key signs the same bytes in the same way: what is there already is this.
    root.put_if_absent(&key(number, manifest, with.public()), with.sign(manifest).into())
        .await
        .map(drop)
        .map_err(|error| error.context(format!("storing the signature of snapshot {number}")))
}

/// Whether the root trusts manifest `number` with these bytes.
///
/// # Errors
/// Corrupt where the root trusts keys and none of them signed it.
pub(super) async fn check(root: &Root, number: u64, manifest: &[u8]) -> Result<()> {
    let trusted = &root.keys().trusted;
    let mut wrong = String::new();
    for by in trusted {
        let name = key(number, manifest, by);
        match found(root.get(&name).await)? {
            Some(signature) if by.verifies(manifest, &signature) => return Ok(()),
            Some(_) => wrong = format!(" ({name} is not its signature)"),
            None => {}
        }
    }
    if trusted.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = trusted.iter().map(PublicKey::id).collect();
    Err(Error::corrupt(format!(
        "snapshot {number} in {} is not signed by a trusted key ({}){wrong}; if it is known to be right, \
         `scalingnote snapshot sign` signs it with the private key",
        root.uri(),
        ids.join(", ")
    )))
}
