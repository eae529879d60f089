//! Who signs what is published, and signing what was published before.

use std::sync::Arc;

use super::manifest::{manifest_hash, numbers, parse, sign};
use crate::error::{Error, Result, found};
use crate::store::layout::{self, Key};
use crate::store::{Root, SIGNING_KEY, SIGNING_KEY_FILE, SigningKey};

/// The key that whatever is published next is signed with; `None` where nothing is signed.
///
/// # Errors
/// Config where readers would not trust what is published: as [`crate::store::Keys::signer`], and where the newest
/// snapshot is signed and there is no key to go on with.
pub async fn signer(root: &Root) -> Result<Option<Arc<SigningKey>>> {
    if root.keys().signer()?.is_some() {
        return Ok(root.keys().signing.clone());
    }
    let Some(number) = numbers(root).await?.pop() else { return Ok(None) };
    match signed_by(root, number).await?.first() {
        None => Ok(None),
        Some(by) => Err(Error::config(format!(
            "snapshot {number} in {} is signed (key {by}), and readers may ask for that: set {} to the file of the private \
             key, or {} to the key itself",
            root.uri(),
            SIGNING_KEY_FILE,
            SIGNING_KEY
        ))),
    }
}

/// The ids of the keys that signed this manifest. It is not checked.
pub async fn signed_by(root: &Root, number: u64) -> Result<Vec<String>> {
    let Some(bytes) = found(root.get(&layout::manifest(number)).await)? else {
        return Ok(Vec::new());
    };
    let own = manifest_hash(&bytes);
    let listed = root.list(layout::SIGNATURES).await?;
    let by = listed.iter().filter_map(|object| match layout::parse(&object.key)? {
        Key::Signature { number: of, manifest, by } if of == number && manifest == own => Some(by),
        _ => None,
    });
    Ok(by.collect())
}

/// Signs snapshots that are published already: this one, or every one. They are read whether or not somebody trusted
/// signed them before: who runs this vouches for them. Returns the numbers.
///
/// # Errors
/// Config without a signing key; NotFound; Corrupt for a manifest that is not whole.
pub async fn sign_published(root: &Root, number: Option<u64>) -> Result<Vec<u64>> {
    let Some(with) = root.keys().signing.as_deref() else {
        return Err(Error::config(format!(
            "there is no key to sign with; set {} to the file of the private key",
            SIGNING_KEY_FILE
        )));
    };
    let chosen = match number {
        Some(number) => vec![number],
        None => numbers(root).await?,
    };
    for &number in &chosen {
        let bytes = root.get(&layout::manifest(number)).await?;
        parse(&bytes, number)?;
        sign(root, number, &bytes, with).await?;
    }
    Ok(chosen)
}
