//! Encryption of the blobs of one pack (docs/format.md §6): AES-256-GCM under a key of the pack's own, in place.
//!
//! Invariant: a pack name is never used twice and a blob's number is its nonce, so a (key, nonce) pair encrypts once.
//! The caller keeps it by numbering the blobs of a pack upwards ([`crate::format::pack::PackWriter`] does).

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};

use super::envelope::aes_key;
use super::{Secret32, TAG_BYTES, hkdf};
use crate::format::names::PackName;

/// Length in bytes of the header in front of each blob, which the encryption authenticates.
pub const BLOB_HEADER_BYTES: usize = 48;
const INFO: &[u8] = b"seawall v1 pack ";

/// Seals and opens the blobs of one pack. Shared by threads.
pub struct PackCipher {
    key: LessSafeKey,
}

impl fmt::Debug for PackCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackCipher(..)")
    }
}

impl PackCipher {
    /// Derives the pack's key and makes its schedule: about a microsecond, so once a pack and not once a blob.
    #[must_use]
    pub fn new(session_key: &Secret32, pack: &PackName) -> Self {
        let derived = hkdf(session_key.as_bytes(), b"", &[INFO, pack.object().as_bytes()]);
        Self { key: aes_key(&derived) }
    }

    /// Encrypts `body` in place and gives the tag, which belongs behind it. `number` must be new in this pack.
    #[must_use]
    pub fn seal(&self, number: u32, header: &[u8; BLOB_HEADER_BYTES], body: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::from(header), body)
            .expect("a blob is within AES-GCM's limit");
        tag.as_ref().try_into().expect("a tag of AES-GCM is 16 bytes long")
    }

    /// Decrypts in place and gives the body without its tag; `None` where it does not authenticate. The bytes of
    /// `sealed` are then undefined.
    pub fn open<'a>(
        &self,
        number: u32,
        header: &[u8; BLOB_HEADER_BYTES],
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        self.key.open_in_place(nonce(number), Aad::from(header), sealed).ok()
    }
}

fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
