//! TFRecord: records of a length, its checksum, the data, their checksum.
//!
//! Records are too many for a layout, so [`Records`] gives them one by one, with both checksums. A file is one of these if
//! the checksum of its first length is right: four bytes that chance does not get right. Where that is wrong, its name may
//! still say so ([`Named::by`]).

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

/// Whether these bytes, which a file begins with, are the head of a record.
pub(crate) fn begins(head: &[u8]) -> bool {
    head.first_chunk().and_then(length).is_some()
}

/// Whether these bytes begin as gzip and zlib do, with which TensorFlow may compress a whole file of records.
pub(crate) fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b, 8])
        || matches!(head, [0x78, flags, ..] if (u16::from(b'x') << 8 | u16::from(*flags)).is_multiple_of(31))
}

/// What a file of records is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// Records that are written once: `train.tfrecord`, `train.tfrecord-00000-of-00008`.
    Data,
    /// The log of a run, to which is written until the run ends: `events.out.tfevents.` and more.
    Log,
}

impl Named {
    /// By a file's own name; none where it says nothing of records.
    pub(crate) fn by(name: &[u8]) -> Option<Self> {
        if name.starts_with(b"events.out.tfevents.") {
            return Some(Self::Log);
        }
        let name = std::str::from_utf8(name).ok()?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let stem = match name.rsplit_once("-of-").and_then(|(before, of)| Some((before.rsplit_once('-')?, of))) {
            Some(((stem, number), of)) if is_number(number) && is_number(of) => stem,
            _ => name,
        };
        let ending = stem.rsplit_once('.')?.1;
        matches!(ending, "tfrecord" | "tfrecords" | "tfrec").then_some(Self::Data)
    }
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
    fn names_of_records() {
        for (name, named) in [
            ("a.tfrecord", Some(Named::Data)),
            ("a.b.tfrecords", Some(Named::Data)),
            ("a-train.tfrecord-00003-of-00010", Some(Named::Data)),
            ("a-1-of-2.tfrec", Some(Named::Data)),
            ("events.out.tfevents.1700000000.host.7.0.v2", Some(Named::Log)),
            ("tfrecord", None),
            ("a.tfrecord.gz", None),
            ("a.tfrecord-3-of-x", None),
            ("a.tfrecord-index", None),
            ("model-00001-of-00002.bin", None),
        ] {
            assert_eq!(Named::by(name.as_bytes()), named, "{name}");
        }
        assert_eq!(Named::by(b"\xff.tfrecord"), None);
    }

    #[test]
    fn heads_of_records_and_of_compressed_ones() {
        assert!(begins(&record(b"one")) && !begins(&record(b"one")[..11]) && !begins(&[0; 12]));
        assert!(is_compressed(&[0x1f, 0x8b, 8, 0]) && is_compressed(&[0x78, 0x9c, 1]) && is_compressed(&[0x78, 1]));
        assert!(!is_compressed(&[0x78, 0, 0]) && !is_compressed(&[]) && !is_compressed(&record(b"one")));
    }

    #[test]
    fn a_length_that_leads_out_ends_it() {
        let length = u64::MAX.to_le_bytes();
        let head = [&length[..], &crc::masked(crc32c::crc32c(&length)).to_le_bytes(), &[0; 20]].concat();
        assert_eq!(Records::new(&&head[..]).count(), 0);
    }
}
