//! The envelope of docs/format.md §2.1: a byte string sealed under a purpose key for one object name, in blocks of
//! 1 MiB, so that it can be opened as a stream in bounded memory.
//!
//! Invariants: the key is derived from a random salt and the name, so nonces may count from 0 and an envelope does not
//! open under another name; the header is authenticated with every block; the total length follows from the header, so
//! blocks can't be dropped, added or reordered; nothing of a block is handed out before its tag was checked.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{Secret32, TAG_BYTES, hkdf, random};
use crate::error::{Damaged, Error};

/// Length of the envelope's header in bytes.
pub const HEADER_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"SWSEAL01";
const BLOCK_BYTES: usize = 1 << 20;
const INFO: &[u8] = b"seawall v1 seal ";

/// Length in bytes of the envelope around `plain_len` bytes.
#[must_use]
pub const fn sealed_len(plain_len: usize) -> usize {
    HEADER_BYTES + plain_len + TAG_BYTES * block_count(plain_len)
}

/// Seals `plain` under a purpose key for the object `name`.
#[must_use]
pub fn seal(key: &Secret32, name: &str, plain: &[u8]) -> Vec<u8> {
    seal_with_salt(key, name, plain, &random())
}

/// As [`seal`], with a salt that the caller guarantees to be fresh. Tests fix it to compare bytes.
#[must_use]
pub(crate) fn seal_with_salt(key: &Secret32, name: &str, plain: &[u8], salt: &[u8; 32]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(sealed_len(plain.len()));
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(salt);
    sealed.extend_from_slice(&(plain.len() as u64).to_le_bytes());
    let cipher = Cipher::new(key, name, &sealed);
    let blocks = block_count(plain.len());
    for number in 0..blocks {
        let start = sealed.len();
        sealed.extend_from_slice(block(plain, number));
        let (nonce, aad) = cipher.context(number, blocks);
        let tag = cipher
            .key
            .seal_in_place_separate_tag(nonce, aad, &mut sealed[start..])
            .expect("a block is within AES-GCM's limit");
        sealed.extend_from_slice(tag.as_ref());
    }
    sealed
}

/// Opens an envelope. Allocates no more than `sealed.len()` bytes.
///
/// # Errors
/// [`Damaged`] for anything that [`seal`] did not make with this key and name, a wrong key included.
pub fn open(key: &Secret32, name: &str, sealed: &[u8]) -> Result<Vec<u8>, Damaged> {
    let parts = Parts::split(name, sealed)?;
    let cipher = Cipher::new(key, name, parts.header);
    let mut plain = vec![0; parts.plain_len];
    for (number, target) in plain.chunks_mut(BLOCK_BYTES).enumerate() {
        parts.open_block(&cipher, name, number, target)?;
    }
    if parts.plain_len == 0 {
        parts.open_block(&cipher, name, 0, &mut [])?;
    }
    Ok(plain)
}

/// Opens an envelope block by block: `write` gets the plain bytes in order, at most 1 MiB at a time. A caller that can
/// meet damage half-way must be able to abandon what it has written.
///
/// # Errors
/// [`Error::Damaged`] as for [`open`], and whatever `write` fails with.
pub fn open_stream(
    key: &Secret32,
    name: &str,
    sealed: &[u8],
    write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let parts = Parts::split(name, sealed)?;
    let cipher = Cipher::new(key, name, parts.header);
    let mut buffer = vec![0; parts.plain_len.min(BLOCK_BYTES)];
    for number in 0..block_count(parts.plain_len) {
        let target = &mut buffer[..block_range(parts.plain_len, number).len()];
        parts.open_block(&cipher, name, number, target)?;
        write(target)?;
    }
    Ok(())
}

const fn block_count(plain_len: usize) -> usize {
    if plain_len == 0 { 1 } else { plain_len.div_ceil(BLOCK_BYTES) }
}

fn block_range(plain_len: usize, number: usize) -> std::ops::Range<usize> {
    let start = number * BLOCK_BYTES;
    start..plain_len.min(start + BLOCK_BYTES)
}

fn block(plain: &[u8], number: usize) -> &[u8] {
    &plain[block_range(plain.len(), number)]
}

/// The derived key with the header that every block authenticates.
struct Cipher {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
}

impl Cipher {
    fn new(purpose: &Secret32, name: &str, header: &[u8]) -> Self {
        let header: [u8; HEADER_BYTES] = header.try_into().expect("the caller cut the header to its length");
        let derived = hkdf(purpose.as_bytes(), &header[8..40], &[INFO, name.as_bytes()]);
        Self { key: aes_key(&derived), header }
    }

    fn context(&self, number: usize, blocks: usize) -> (Nonce, Aad<[u8; HEADER_BYTES + 9]>) {
        let number_bytes = (number as u64).to_le_bytes();
        let mut aad = [0; HEADER_BYTES + 9];
        aad[..HEADER_BYTES].copy_from_slice(&self.header);
        aad[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&number_bytes);
        aad[HEADER_BYTES + 8] = u8::from(number + 1 == blocks);
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number_bytes);
        (Nonce::assume_unique_for_key(nonce), Aad::from(aad))
    }
}

/// An AES-256-GCM key with its schedule.
pub(super) fn aes_key(key: &Secret32) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("the key has 32 bytes"))
}

/// An envelope whose lengths were checked against each other.
struct Parts<'a> {
    header: &'a [u8],
    blocks: &'a [u8],
    plain_len: usize,
}

impl<'a> Parts<'a> {
    fn split(name: &str, sealed: &'a [u8]) -> Result<Self, Damaged> {
        let Some((header, blocks)) = sealed.split_at_checked(HEADER_BYTES) else {
            return Err(Damaged::new(name, 0, "shorter than an envelope's header"));
        };
        if !header.starts_with(MAGIC) {
            return Err(Damaged::new(name, 0, "not an envelope"));
        }
        let claimed = u64::from_le_bytes(header[40..48].try_into().expect("eight bytes"));
        // Why first: a length beyond the object's own would overflow the arithmetic below.
        let plain_len = usize::try_from(claimed).ok().filter(|&len| len <= blocks.len());
        match plain_len {
            Some(plain_len) if sealed_len(plain_len) == sealed.len() => Ok(Self { header, blocks, plain_len }),
            _ => Err(Damaged::new(name, 40, "the length in the envelope does not fit the object's")),
        }
    }

    fn open_block(&self, cipher: &Cipher, name: &str, number: usize, target: &mut [u8]) -> Result<(), Damaged> {
        let start = number * (BLOCK_BYTES + TAG_BYTES);
        let (ciphertext, tag) = self.blocks[start..start + target.len() + TAG_BYTES].split_at(target.len());
        let (nonce, aad) = cipher.context(number, block_count(self.plain_len));
        cipher.key.open_separate_gather(nonce, aad, ciphertext, tag, target).map_err(|_| {
            Damaged::new(name, (HEADER_BYTES + start) as u64, "does not authenticate: changed, or another key")
        })
    }
}
