//! Ed25519 signatures of log entries (RFC 8032).

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::Secret32;

/// Length of a signature in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// A member's signing key.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// The key pair that a member's 32-byte seed determines.
    #[must_use]
    pub fn from_seed(seed: &Secret32) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed.as_bytes()).expect("any 32 bytes are an Ed25519 seed"))
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs the concatenation of `parts`.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(&parts.concat()).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// True if `signature` is `public`'s over the concatenation of `parts`.
#[must_use]
pub fn verify(public: &[u8; 32], parts: &[&[u8]], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(&parts.concat(), signature).is_ok()
}
