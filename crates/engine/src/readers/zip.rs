//! Zip archives, as far as readers need them: which members there are, and where the bytes of stored ones lie.
//!
//! Read from the end: the end record, or its 64-bit form right before it, tells where the directory is. Nothing is
//! unpacked; members that are compressed or encrypted are listed and have no place. An archive may begin inside a
//! file, behind other archives: its offsets count from its own beginning, which follows from where its directory ends.
//!
//! Invariants: an archive and its members lie inside the input; at most [`ENTRIES_MAX`] members, and a directory of at
//! most [`DIRECTORY_BYTES_MAX`].

use std::ops::Range;

use super::input::Input;
use super::layout::{Builder, CheckKind, NAME_BYTES_MAX};
use crate::units::MIB;

/// Further members are not looked at.
const ENTRIES_MAX: usize = 1 << 19;
/// A longer directory is not read, in bytes.
const DIRECTORY_BYTES_MAX: u64 = 64 * MIB as u64;

const END_BYTES: u64 = 22;
const END64_BYTES: u64 = 56;
const LOCATOR_BYTES: u64 = 20;
const COMMENT_BYTES_MAX: u64 = 0xffff;
const END_MAGIC: [u8; 4] = *b"PK\x05\x06";
const END64_MAGIC: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_MAGIC: [u8; 4] = *b"PK\x06\x07";
const ENTRY_MAGIC: [u8; 4] = *b"PK\x01\x02";
const LOCAL_MAGIC: [u8; 4] = *b"PK\x03\x04";
/// Id of the extra field that holds 64-bit sizes.
const EXTRA_64: u16 = 1;

/// Whether a file that begins so may be an archive.
pub(super) fn recognises(head: &[u8]) -> bool {
    head.starts_with(&LOCAL_MAGIC) || head.starts_with(&END_MAGIC)
}

/// Where an archive lies in its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archive {
    /// From its first member to the end of its comment.
    pub range: Range<u64>,
    directory: Range<u64>,
    entries: u64,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path in the archive.
    pub name: String,
    /// CRC-32 of its content.
    pub crc: u32,
    /// Its content in the input; none where it is compressed or encrypted.
    pub content: Option<Range<u64>>,
    /// Where its own header begins in the input.
    pub start: u64,
}

impl Archive {
    /// The archive that ends at `end`, a comment behind it included.
    pub fn ending_at(input: &Input, end: u64) -> Option<Self> {
        let last = end.checked_sub(END_BYTES)?;
        let at = match is_end(input, last, end) {
            true => last,
            false => find_end(input, end)?,
        };
        let record: [u8; END_BYTES as usize] = input.array(at)?;
        let (mut entries, mut size, mut offset) =
            (u64::from(u16_at(&record, 10)), u64::from(u32_at(&record, 12)), u64::from(u32_at(&record, 16)));
        let mut directory_end = at;
        if let Some((at64, large)) = end64(input, at) {
            (entries, size, offset) = (u64_at(&large, 32), u64_at(&large, 40), u64_at(&large, 48));
            directory_end = at64;
        }
        let directory = directory_end.checked_sub(size)?..directory_end;
        let start = directory.start.checked_sub(offset)?;
        Some(Self { range: start..end, directory, entries })
    }

    /// Its members, in the directory's order.
    pub fn entries(&self, input: &Input) -> Option<Vec<Entry>> {
        if self.directory.end - self.directory.start > DIRECTORY_BYTES_MAX {
            return None;
        }
        let mut stream = input.stream(self.directory.clone())?;
        let mut entries = Vec::new();
        while entries.len() < ENTRIES_MAX && (entries.len() as u64) < self.entries {
            let fixed: [u8; 46] = stream.array()?;
            if !fixed.starts_with(&ENTRY_MAGIC) {
                return None;
            }
            let [name_bytes, extra_bytes, comment_bytes] = [28, 30, 32].map(|at| u64::from(u16_at(&fixed, at)));
            let mut name = stream.text(name_bytes, COMMENT_BYTES_MAX)?;
            let extra = stream.bytes(extra_bytes, COMMENT_BYTES_MAX)?;
            stream.skip(comment_bytes)?;
            name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
            name.shrink_to_fit();
            entries.push(self.entry(input, name, &fixed, &extra)?);
        }
        Some(entries)
    }

    fn entry(&self, input: &Input, name: String, fixed: &[u8; 46], extra: &[u8]) -> Option<Entry> {
        let mut large = extra_64(extra).chunks_exact(8).map(|bytes| u64_at(bytes, 0));
        let mut field = |at| match u32_at(fixed, at) {
            u32::MAX => large.next(),
            small => Some(u64::from(small)),
        };
        // Why: the order in which the extra field holds those that did not fit.
        let (plain, packed, offset) = (field(24)?, field(20)?, field(42)?);
        let start = self.range.start.checked_add(offset)?;
        let stored = u16_at(fixed, 10) == 0 && u16_at(fixed, 8) & 1 == 0 && plain == packed;
        let content = if stored { self.content(input, start, plain) } else { None };
        Some(Entry { name, crc: u32_at(fixed, 16), content, start })
    }

    /// The content lies behind the member's own header, whose extra field is not that of the directory.
    fn content(&self, input: &Input, start: u64, bytes: u64) -> Option<Range<u64>> {
        let local: [u8; 30] = input.array(start)?;
        let [name, extra] = [26, 28].map(|at| u64::from(u16_at(&local, at)));
        let begin = start.checked_add(30 + name + extra)?;
        let end = begin.checked_add(bytes)?;
        (local.starts_with(&LOCAL_MAGIC) && end <= self.directory.start).then_some(begin..end)
    }
}

impl Entry {
    /// Tells the builder where the member begins, and of its checksum. A checksum of 0 is none: torch writes that when
    /// told not to compute it.
    pub fn add(&self, input: &Input, builder: &mut Builder) {
        builder.boundary(input.start().saturating_add(self.start));
        let Some(content) = &self.content else { return };
        let (start, end) = (input.start() + content.start, input.start() + content.end);
        builder.boundary(start);
        if self.crc != 0 {
            builder.check(&self.name, CheckKind::Crc32, start..end, self.crc);
        }
    }
}

/// Whether an end record at `at` has a comment that reaches just to `end`.
fn is_end(input: &Input, at: u64, end: u64) -> bool {
    let record: Option<[u8; END_BYTES as usize]> = input.array(at);
    record
        .is_some_and(|record| record.starts_with(&END_MAGIC) && at + END_BYTES + u64::from(u16_at(&record, 20)) == end)
}

/// Looks for an end record before a comment.
fn find_end(input: &Input, end: u64) -> Option<u64> {
    let start = end.saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    let tail = input.bytes(start..end, END_BYTES + COMMENT_BYTES_MAX)?;
    let mut places = (0..tail.len().saturating_sub(END_BYTES as usize)).rev();
    let place = places.find(|&at| {
        let comment = tail.len() - at - END_BYTES as usize;
        tail[at..].starts_with(&END_MAGIC) && usize::from(u16_at(&tail, at + 20)) == comment
    })?;
    Some(start + place as u64)
}

/// The 64-bit end record right before its locator, which is right before the end record at `end`.
fn end64(input: &Input, end: u64) -> Option<(u64, [u8; END64_BYTES as usize])> {
    let locator: [u8; 4] = input.array(end.checked_sub(LOCATOR_BYTES)?)?;
    let at = end.checked_sub(LOCATOR_BYTES + END64_BYTES)?;
    let record: [u8; END64_BYTES as usize] = input.array(at)?;
    (locator == LOCATOR_MAGIC && record.starts_with(&END64_MAGIC)).then_some((at, record))
}

/// The values of the 64-bit extra field.
fn extra_64(mut extra: &[u8]) -> &[u8] {
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let length = usize::from(u16_at(head, 2)).min(rest.len());
        if u16_at(head, 0) == EXTRA_64 {
            return &rest[..length];
        }
        extra = &rest[length..];
    }
    &[]
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::layout::Format;
    use super::*;

    /// An archive of one stored member, with 64-bit records where asked for, and a comment.
    fn archive(large: bool, comment: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (name, content) = (b"a/data/0", b"content");
        let local_extra = [0x46, 0x42, 5, 0, b'Z', b'Z', b'Z', b'Z', b'Z'];
        let header = |sizes: [u32; 2], extra: usize| {
            let mut fixed = [0_u8; 20];
            fixed[8..12].copy_from_slice(&sizes[0].to_le_bytes());
            fixed[12..16].copy_from_slice(&sizes[1].to_le_bytes());
            fixed[16] = 8;
            fixed[18] = extra as u8;
            fixed
        };
        bytes.extend_from_slice(&LOCAL_MAGIC);
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&header([7, 7], local_extra.len()));
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&local_extra);
        bytes.extend_from_slice(content);
        let directory = bytes.len() as u64;
        let extra: Vec<u8> = match large {
            true => [&[9, 9, 1, 0, 5, 1, 0, 24, 0][..], &[7, 0, 0, 0, 0, 0, 0, 0].repeat(2), &[0; 8]].concat(),
            false => Vec::new(),
        };
        let small = if large { u32::MAX } else { 7 };
        bytes.extend_from_slice(&ENTRY_MAGIC);
        bytes.extend_from_slice(&[0; 8]);
        let mut fixed = header([small, small], extra.len());
        fixed[4..8].copy_from_slice(&77_u32.to_le_bytes());
        bytes.extend_from_slice(&fixed);
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(&(if large { u32::MAX } else { 0 }).to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&extra);
        let size = bytes.len() as u64 - directory;
        if large {
            bytes.extend_from_slice(&END64_MAGIC);
            bytes.extend_from_slice(&[0; 28]);
            [1, size, directory].iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            bytes.extend_from_slice(&LOCATOR_MAGIC);
            bytes.extend_from_slice(&[0; 16]);
        }
        bytes.extend_from_slice(&END_MAGIC);
        bytes.extend_from_slice(&[0, 0, 0, 0, 1, 0, 1, 0]);
        let [size, directory] = [size, directory].map(|value| if large { u32::MAX } else { value as u32 });
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&directory.to_le_bytes());
        bytes.extend_from_slice(&(comment.len() as u16).to_le_bytes());
        bytes.extend_from_slice(comment.as_bytes());
        bytes
    }

    #[test]
    fn members_are_found_wherever_the_archive_begins() {
        for large in [false, true] {
            for (before, comment) in [("", ""), ("other bytes", ""), ("x", "a comment PK\x05\x06")] {
                let bytes = [before.as_bytes(), &archive(large, comment)].concat();
                let allowance = Cell::new(1 << 20);
                let file = &bytes[..];
                let input = Input::new(&file, &allowance);
                let archive = Archive::ending_at(&input, bytes.len() as u64).unwrap();
                assert_eq!(archive.range.start, before.len() as u64);
                let entries = archive.entries(&input).unwrap();
                let content = entries[0].content.clone().unwrap();
                assert_eq!(&bytes[content.start as usize..content.end as usize], b"content");
                assert_eq!((entries.len(), entries[0].name.as_str(), entries[0].crc), (1, "a/data/0", 77));
            }
        }
    }

    #[test]
    fn a_checksum_of_zero_is_none() {
        for (crc, checks) in [(0, 0), (5, 1)] {
            let allowance = Cell::new(1 << 20);
            let file = &[0; 20][..];
            let input = Input::new(&file, &allowance);
            let mut builder = Builder::new(Format::Zip, 20);
            Entry { name: "m".into(), crc, content: Some(10..20), start: 3 }.add(&input, &mut builder);
            let layout = builder.finish();
            assert_eq!((layout.checks.len(), layout.boundaries), (checks, vec![3, 10]));
        }
    }
}
