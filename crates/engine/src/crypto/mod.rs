//! Cryptography: secrets in memory, hashes and key derivation, and the few ways in which the stored format uses them.
//!
//! It knows keys and bytes, not objects: what is sealed, under which name, is decided in [`crate::format`]. Every
//! primitive comes from a library (aws-lc-rs, blake3, hpke, argon2); here stand only the compositions of
//! docs/format.md §2, one file each.
//!
//! Invariants: a secret is overwritten when it is dropped and never printed; no key is used for two purposes (each
//! derivation has its own info string); what does not authenticate is never handed out.

pub mod blob;
pub mod envelope;
pub mod passphrase;
pub mod shamir;
pub mod sign;
pub mod wrap;

use std::fmt;

use aws_lc_rs::{constant_time, hkdf as library};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{ChunkId, ObjectHash};
use crate::simulation;

/// Length of an AES-GCM tag in bytes.
pub const TAG_BYTES: usize = 16;

/// A secret of 32 bytes. Overwritten on drop; compared in constant time; printed as `Secret32(..)`.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret32([u8; 32]);

impl Secret32 {
    /// Takes a secret's bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a secret from exactly 32 bytes; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// A fresh random secret.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// The secret's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret32(..)")
    }
}

impl PartialEq for Secret32 {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret32 {}

/// `N` bytes from the system's random generator.
///
/// Why not from aws-lc-rs: it seeds a generator of its own with the system's bytes and with how long instructions take,
/// which costs every process 20 ms, most of what a backup of nothing takes.
///
/// # Panics
/// When the system has no randomness to give: going on would make keys that can be guessed.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if !simulation::fill(&mut bytes) {
        fill_from_system(&mut bytes);
    }
    bytes
}

fn fill_from_system(bytes: &mut [u8]) {
    let mut done = 0;
    while done < bytes.len() {
        // Why without flags: before the system's generator is seeded, this waits.
        match getrandom(&mut bytes[done..], GetRandomFlags::empty()) {
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => panic!("the system's random generator does not work: {error}"),
        }
    }
}

/// HKDF-SHA-256 (RFC 5869), 32 bytes of output. The parts of `info` are concatenated: only the last one may vary in
/// length, so that no two purposes meet.
#[must_use]
pub fn hkdf(ikm: &[u8], salt: &[u8], info: &[&[u8]]) -> Secret32 {
    let extracted = library::Salt::new(library::HKDF_SHA256, salt).extract(ikm);
    let mut output = Secret32([0; 32]);
    extracted
        .expand(info, library::HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut output.0))
        .expect("32 bytes are within HKDF's limit");
    output
}

/// Plain BLAKE3-256 of a stored object.
#[must_use]
pub fn object_hash(bytes: &[u8]) -> ObjectHash {
    ObjectHash(blake3::hash(bytes).into())
}

/// The key that names chunks.
#[derive(Debug, Clone)]
pub struct IdKey(Secret32);

impl IdKey {
    /// Takes the repository's id key.
    #[must_use]
    pub fn new(key: &Secret32) -> Self {
        Self(key.clone())
    }

    /// The name of a chunk: BLAKE3-256, keyed, of its plain bytes.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(blake3::keyed_hash(self.0.as_bytes(), plain).into())
    }
}

#[cfg(test)]
mod tests;
