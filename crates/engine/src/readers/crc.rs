//! Embedded checksums: computed over a range of a file, piece by piece, and compared.
//!
//! A wrong checksum tells that the file is not what its writer wrote, or that the writer computed none; it is never a
//! reason not to store the file.

use std::io;

use super::input::ReadAt;
use super::layout::{Check, CheckKind};
use crate::units::KIB;

const BUFFER_BYTES: u64 = 256 * KIB as u64;
/// What TFRecord adds after it rotated a checksum (`crc32c.h` of TensorFlow).
const MASK: u32 = 0xa282_ead8;

/// A checksum that goes on with each piece.
#[derive(Debug, Clone)]
pub struct Checksum {
    kind: CheckKind,
    crc32: crc32fast::Hasher,
    crc32c: u32,
}

impl Checksum {
    /// Of no bytes yet.
    #[must_use]
    pub fn new(kind: CheckKind) -> Self {
        Self { kind, crc32: crc32fast::Hasher::new(), crc32c: 0 }
    }

    /// Goes on with the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self.kind {
            CheckKind::Crc32 => self.crc32.update(bytes),
            CheckKind::Crc32c | CheckKind::MaskedCrc32c => self.crc32c = crc32c::crc32c_append(self.crc32c, bytes),
        }
    }

    /// The checksum of all bytes so far, as the format stores it.
    #[must_use]
    pub fn value(&self) -> u32 {
        match self.kind {
            CheckKind::Crc32 => self.crc32.clone().finalize(),
            CheckKind::Crc32c => self.crc32c,
            CheckKind::MaskedCrc32c => masked(self.crc32c),
        }
    }
}

/// Whether a range has the checksum that the file says. Reads the range once, in pieces.
///
/// # Errors
/// Those of `file`.
pub fn holds(file: &dyn ReadAt, check: &Check) -> io::Result<bool> {
    let mut checksum = Checksum::new(check.kind);
    let mut at = check.range.start;
    let mut buffer = vec![0; check.range.end.saturating_sub(at).min(BUFFER_BYTES) as usize];
    while at < check.range.end {
        let length = (check.range.end - at).min(BUFFER_BYTES);
        let piece = &mut buffer[..length as usize];
        file.read_at(at, piece)?;
        checksum.update(piece);
        at += length;
    }
    Ok(checksum.value() == check.expected)
}

/// A CRC-32C as TFRecord stores it.
pub(super) fn masked(crc32c: u32) -> u32 {
    crc32c.rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the two polynomials: of the nine digits.
    #[test]
    fn known_values() {
        for (kind, value) in [
            (CheckKind::Crc32, 0xcbf4_3926),
            (CheckKind::Crc32c, 0xe306_9283),
            (CheckKind::MaskedCrc32c, masked(0xe306_9283)),
        ] {
            let mut checksum = Checksum::new(kind);
            [&b"1234"[..], b"", b"56789"].iter().for_each(|piece| checksum.update(piece));
            assert_eq!(checksum.value(), value, "{kind:?}");
        }
        assert_eq!(masked(0xe306_9283), 0xc78a_b0e5, "rotated right by 15, then added");
    }

    #[test]
    fn ranges_are_read_in_pieces() {
        let bytes: Vec<u8> = (0..2 * BUFFER_BYTES as u32 + 77).map(|n| (n * 7 + n / 251) as u8).collect();
        let range = 5..bytes.len() as u64 - 3;
        for kind in [CheckKind::Crc32, CheckKind::MaskedCrc32c] {
            let mut whole = Checksum::new(kind);
            whole.update(&bytes[5..bytes.len() - 3]);
            let check = Check { range: range.clone(), kind, expected: whole.value(), name: String::new() };
            assert!(holds(&&bytes[..], &check).unwrap());
            assert!(!holds(&&bytes[..], &Check { expected: check.expected ^ 1, ..check.clone() }).unwrap());
            assert!(holds(&&bytes[..9], &check).is_err());
        }
    }
}
