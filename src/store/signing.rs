//! Ed25519 keys: who may publish, and whom readers trust.
//!
//! Keys are PEM as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them. The private key comes
//! from the environment alone; it is never printed, stored or sent to another process.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::named::read_text;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::Digest256;

/// The environment variable that holds the private key.
pub const SIGNING_KEY: &str = "SCALINGNOTE_SIGNING_KEY";
/// The environment variable that names the file of the private key.
pub const SIGNING_KEY_FILE: &str = "SCALINGNOTE_SIGNING_KEY_FILE";

/// What is before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Largest key file that is read.
const MAX_KEY: u64 = 1 << 20;

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.id()).finish()
    }
}

impl PublicKey {
    /// Every key of a PEM text; at least one. `name` is how messages call it.
    ///
    /// # Errors
    /// Config where there is none, or one of another kind than Ed25519.
    pub fn all_in(pem: &str, name: &str) -> Result<Vec<Self>> {
        let wrong = |what: &str| {
            Error::config(format!(
                "{name} {what}; a public key is what `openssl pkey -in key.pem -pubout` writes for an Ed25519 key"
            ))
        };
        let keys: Vec<Self> = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes())
            .map(|key| {
                let key = key.map_err(|_| wrong("is not valid PEM"))?;
                let bytes = key.as_ref().strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
                bytes.map(Self).ok_or_else(|| wrong("holds a key that is not Ed25519"))
            })
            .collect::<Result<_>>()?;
        if keys.is_empty() {
            return Err(wrong("holds no public key"));
        }
        Ok(keys)
    }

    /// Its name in signatures' file names and in messages: the start of the key's SHA-256.
    pub fn id(&self) -> String {
        Digest256::of(&self.0).to_hex()[..16].to_owned()
    }

    /// Whether `signature` is this key's for `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

/// A key that manifests are signed with.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public.id()).finish()
    }
}

impl SigningKey {
    /// The key of a PEM text (PKCS #8). `name` is how messages call it; what it holds is never repeated.
    ///
    /// # Errors
    /// Config where it holds no Ed25519 key that is not encrypted.
    pub fn from_pem(pem: &str, name: &str) -> Result<Self> {
        let wrong = || {
            Error::config(format!(
                "{name} holds no unencrypted Ed25519 private key in PEM; `openssl genpkey -algorithm ed25519 -out key.pem` \
                 makes one"
            ))
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| wrong())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|_| wrong())?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| wrong())?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    /// The key that the environment holds or names; `None` where it does neither.
    ///
    /// # Errors
    /// Config for both at once, a file that cannot be read, and as [`SigningKey::from_pem`].
    pub fn from_env() -> Result<Option<Self>> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        match (variable(SIGNING_KEY), variable(SIGNING_KEY_FILE)) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Error::config(format!(
                "both {SIGNING_KEY} and {SIGNING_KEY_FILE} are set; keep one of them"
            ))),
            (Some(pem), None) => Self::from_pem(&pem, SIGNING_KEY).map(Some),
            (None, Some(file)) => {
                let named = format!("{file} (named by {SIGNING_KEY_FILE})");
                let pem = read_text(Path::new(&file), MAX_KEY)
                    .or_error(ErrorKind::Config, || format!("reading {named}"))?;
                Self::from_pem(&pem, &named).map(Some)
            }
        }
    }

    /// The key that checks what this one signs.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The 64 bytes of the signature; the same for the same message each time.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// The keys of one root, in this process.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Whose manifests are read; with none, every manifest is.
    pub trusted: Vec<PublicKey>,
    /// What manifests are signed with.
    pub signing: Option<Arc<SigningKey>>,
}

impl Keys {
    /// Trusts the keys in these files, and signs with the key in the environment.
    ///
    /// # Errors
    /// Config for a file that cannot be read or holds no such key.
    pub fn load(files: &[impl AsRef<Path>]) -> Result<Self> {
        let mut trusted = Vec::new();
        for file in files {
            let name = file.as_ref().display().to_string();
            let pem = read_text(file.as_ref(), MAX_KEY)
                .or_error(ErrorKind::Config, || format!("reading the public key {name}"))?;
            trusted.extend(PublicKey::all_in(&pem, &name)?);
        }
        Ok(Self { trusted, signing: SigningKey::from_env()?.map(Arc::new) })
    }

    /// The key to sign with, `None` where nothing is signed.
    ///
    /// # Errors
    /// Config where readers would not trust what is published: keys are trusted, and there is none to sign with, or
    /// another one.
    pub fn signer(&self) -> Result<Option<&SigningKey>> {
        let Some(signing) = self.signing.as_deref() else {
            if self.trusted.is_empty() {
                return Ok(None);
            }
            return Err(Error::config(format!(
                "`publish.public_keys` is set, so what is published must be signed: set {SIGNING_KEY_FILE} to the file of \
                 the private key, or {SIGNING_KEY} to the key itself"
            )));
        };
        if !self.trusted.is_empty() && !self.trusted.contains(signing.public()) {
            return Err(Error::config(format!(
                "the signing key in the environment ({}) is none of `publish.public_keys` ({}): readers would refuse what \
                 it signs; add its public key there first",
                signing.public().id(),
                self.trusted.iter().map(PublicKey::id).collect::<Vec<_>>().join(", ")
            )));
        }
        Ok(Some(signing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by openssl 3 for this test.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIBUJBOJMLYwvaHhlkssWIiFtNgDWO5RNZt7UH4sg590L\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAA1ROkqlTyeV9mv+SnE/DN6Np12Wp/6X624Q+jgqbMCA=\n-----END PUBLIC KEY-----\n";
    const OTHER: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAsRNvWI3PaEMhukqBvBciNPlJowR7/CmXGvk1/pXhQa0=\n-----END PUBLIC KEY-----\n";
    /// Of the bytes `manifest`, by `openssl pkeyutl -sign -rawin`.
    const SIGNATURE: &str = "57a538b946712b13dd269d55e715f54075cd38d7e95d0a9bb7fbaf64f818639f4d9a82e0a30531609eb40cf4e1a6741982a5d1a2b33b773495a9fcbd1f189008";

    #[test]
    fn signs_and_checks_as_openssl_does() {
        let key = SigningKey::from_pem(PRIVATE, "key").unwrap();
        let public = PublicKey::all_in(PUBLIC, "pub").unwrap();
        assert_eq!(public, [key.public().clone()]);
        let signature = key.sign(b"manifest");
        let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, SIGNATURE);
        assert!(public[0].verifies(b"manifest", &signature));
        assert!(!public[0].verifies(b"manifesT", &signature));
        assert!(!public[0].verifies(b"manifest", &signature[..63]));
        let two = PublicKey::all_in(&format!("{OTHER}{PUBLIC}"), "pub").unwrap();
        assert_eq!(two.len(), 2);
        assert!(!two[0].verifies(b"manifest", &signature));
    }

    #[test]
    fn other_keys_are_refused_without_being_shown() {
        let rsa = "-----BEGIN PUBLIC KEY-----\nMDwwDQYJKoZIhvcNAQEBBQADKwAwKAIhAKx4\n-----END PUBLIC KEY-----\n";
        for (pem, piece) in [
            (rsa, "not Ed25519"),
            (PRIVATE, "holds no public key"),
            ("", "holds no public key"),
            ("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", "not valid PEM"),
        ] {
            let error = PublicKey::all_in(pem, "x.pem").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(piece), "{error}");
        }
        let body = "MC4CAQAwBQYDK2VwBCIEIBUJBOJMLYwvaHhlkssWIiFtNgDWO5RNZt7UH4sg590L";
        let encrypted = PRIVATE.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let cut = PRIVATE.replace(body, &body[..32]);
        for pem in [PUBLIC, &encrypted, &cut, "x"] {
            let error = SigningKey::from_pem(pem, "x.pem").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!format!("{error:?}").contains(&body[..32]), "{error:?}");
        }
    }

    #[test]
    fn what_readers_would_not_believe_is_not_signed() {
        let key = Arc::new(SigningKey::from_pem(PRIVATE, "key").unwrap());
        let own = PublicKey::all_in(PUBLIC, "pub").unwrap();
        let other = PublicKey::all_in(OTHER, "pub").unwrap();
        let signer = |trusted: &[PublicKey], signing: Option<&Arc<SigningKey>>| {
            let keys = Keys { trusted: trusted.to_vec(), signing: signing.cloned() };
            keys.signer().map(|signer| signer.is_some()).map_err(|error| error.kind())
        };
        assert_eq!(signer(&[], None), Ok(false));
        assert_eq!(signer(&[], Some(&key)), Ok(true));
        assert_eq!(signer(&own, Some(&key)), Ok(true));
        assert_eq!(signer(&own, None), Err(ErrorKind::Config));
        assert_eq!(signer(&other, Some(&key)), Err(ErrorKind::Config));
    }
}
