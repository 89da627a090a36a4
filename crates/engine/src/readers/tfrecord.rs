//! TFRecord: records of a length, its checksum, the data, their checksum.
//!
//! Records are too many for a layout, so [`Records`] gives them one by one, with both checksums. A file is one of these if
//! the checksum of its first length is right: four bytes that chance does not get right.

use std::ops::Range;

use super::crc;
use super::input::ReadAt;
use super::layout::{Check, CheckKind};

/// Bytes before the data of a record: length, checksum.
const HEAD_BYTES: u64 = 12;
/// Bytes after it.
const FOOT_BYTES: u64 = 4;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// All of it, lengths and checksums included.
    pub range: Range<u64>,
    /// The checksum of its length, which was right, and that of its data, which was not looked at.
    pub checks: [Check; 2],
}

/// The records of a file, in order. Ends at the end, where the file can't be read, and where a length has a wrong
/// checksum or leads out of the file: [`Self::position`] tells then how far it came.
pub struct Records<'a> {
    file: &'a dyn ReadAt,
    at: u64,
}

impl<'a> Records<'a> {
    /// From the file's start.
    pub fn new(file: &'a dyn ReadAt) -> Self {
        Self { file, at: 0 }
    }

    /// Where the next record begins; the file's length when all were given.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let begin = self.at.checked_add(HEAD_BYTES)?;
        if begin > self.file.length() {
            return None;
        }
        let mut head = [0; HEAD_BYTES as usize];
        self.file.read_at(self.at, &mut head).ok()?;
        let end = begin.checked_add(length(&head)?)?;
        let next = end.checked_add(FOOT_BYTES).filter(|&next| next <= self.file.length())?;
        let mut foot = [0; FOOT_BYTES as usize];
        self.file.read_at(end, &mut foot).ok()?;
        let check =
            |range, expected, name: &str| Check { range, kind: CheckKind::MaskedCrc32c, expected, name: name.into() };
        let stored = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let checks =
            [check(self.at..self.at + 8, stored, "length"), check(begin..end, u32::from_le_bytes(foot), "data")];
        let range = self.at..next;
        self.at = next;
        Some(Record { range, checks })
    }
}

/// The length that a record begins with; none where its checksum is wrong.
fn length(head: &[u8; HEAD_BYTES as usize]) -> Option<u64> {
    let (length, checksum) = head.split_first_chunk::<8>()?;
    let right = checksum == crc::masked(crc32c::crc32c(length)).to_le_bytes();
    right.then(|| u64::from_le_bytes(*length))
}

/// Whether a file begins with a record.
pub(super) fn recognises(file: &dyn ReadAt) -> bool {
    Records::new(file).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u64).to_le_bytes();
        let sum = |bytes| crc::masked(crc32c::crc32c(bytes)).to_le_bytes();
        [&length[..], &sum(&length), data, &sum(data)].concat()
    }

    #[test]
    fn records_until_damage() {
        let whole = [record(b"one"), record(b""), record(b"three")].concat();
        let file = &whole[..];
        let mut records = Records::new(&file);
        let ranges: Vec<_> = records.by_ref().map(|record| record.range).collect();
        assert_eq!(ranges, [0..19, 19..35, 35..56]);
        assert_eq!(records.position(), 56);
        for (at, records) in [(0, 0), (19, 1), (30, 1), (35, 2), (45, 2), (16, 3), (50, 3)] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(Records::new(&&bytes[..]).count(), records, "byte {at} is wrong");
        }
        assert_eq!(Records::new(&&whole[..55]).count(), 2, "cut inside the last");
    }

    #[test]
    fn a_length_that_leads_out_ends_it() {
        let length = u64::MAX.to_le_bytes();
        let head = [&length[..], &crc::masked(crc32c::crc32c(&length)).to_le_bytes(), &[0; 20]].concat();
        assert_eq!(Records::new(&&head[..]).count(), 0);
    }
}
