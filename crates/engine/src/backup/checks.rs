//! Checksums that a file holds for parts of itself, compared while the file is read: what was torn or rotted before the
//! backup is found by it, and named.
//!
//! Pieces may come in any order; a checksum whose range does not come in one row is not looked at. A hole is zeros: what was
//! lost before the backup often is one. Records of a TFRecord file are followed from the first, and the file must end with one;
//! a log of a run need not, as it may be written still. Invariant: however many ranges overlap, each byte goes through at
//! most [`OPEN_MAX`] checksums.

mod nodes;

use std::ops::Range;

use nodes::Nodes;

use crate::entry::TreeKey;
use crate::readers::crc::Checksum;
use crate::readers::{Check, CheckKind, Format, Layout, ocdbt, tfrecord};
use crate::units::{KIB, MIB};

/// So many checksums go on at the same time at most.
const OPEN_MAX: usize = 4;
/// No longer hole is followed, in bytes: a lying header could ask for the checksum of exabytes. What goes on behind it is not looked at.
const HOLE_BYTES_MAX: u64 = (65_536 * MIB) as u64;
/// A hole goes through the checksums in pieces of this length, in bytes.
const ZEROS_BYTES: usize = 64 * KIB;
/// So many wrong ones are named.
const NAMED_MAX: usize = 20;

/// Compares the checksums of one file.
pub(crate) enum Checker<'l> {
    /// Those that the layout lists.
    Parts(Parts<'l>),
    /// Those before and behind each record.
    Records(Records),
    /// Those behind each node of a store of many files.
    Nodes(Nodes),
}

impl<'l> Checker<'l> {
    /// For the checksums of a file with this layout; none where it has none.
    pub(crate) fn new(layout: &'l Layout) -> Option<Self> {
        match layout.format {
            Format::TfRecord => Some(Self::Records(Records::default())),
            _ if layout.checks.is_empty() => None,
            _ => Some(Self::Parts(Parts { checks: &layout.checks, open: Vec::new(), wrong: Vec::new() })),
        }
    }

    /// For the checksums of a file whose name tells that it has some, wherever they lie.
    pub(crate) fn by_name(key: &TreeKey) -> Option<Self> {
        let mut names = key.0.rsplit(|&byte| byte == 0);
        let (name, folder) = (names.next()?, names.next().unwrap_or_default());
        if let Some(named) = tfrecord::Named::by(name) {
            let is_log = named == tfrecord::Named::Log;
            return Some(Self::Records(Records { is_log, ..Records::default() }));
        }
        ocdbt::store_file(folder, name).map(|file| Self::Nodes(Nodes::new(file)))
    }

    /// Goes on with the file's bytes at `offset`.
    pub(crate) fn update(&mut self, offset: u64, bytes: &[u8]) {
        match self {
            Self::Parts(parts) => parts.update(offset, bytes),
            Self::Records(records) => records.update(offset, bytes),
            Self::Nodes(nodes) => nodes.update(offset, bytes),
        }
    }

    /// A hole of `length` bytes lies at `offset`.
    pub(crate) fn hole(&mut self, offset: u64, length: u64) {
        if length > HOLE_BYTES_MAX || !self.asks_for(offset..offset + length) {
            if let Self::Records(records) = self {
                records.is_lost = true;
            }
            return;
        }
        let (zeros, mut at) = ([0; ZEROS_BYTES], offset);
        while at < offset + length {
            let part = usize::try_from(offset + length - at).unwrap_or(usize::MAX).min(zeros.len());
            self.update(at, &zeros[..part]);
            at += part as u64;
        }
    }

    /// Whether the bytes of this range, which come next, are in any checksum.
    fn asks_for(&self, range: Range<u64>) -> bool {
        match self {
            Self::Parts(parts) => parts.asks_for(range),
            Self::Records(records) => !records.is_lost,
            Self::Nodes(nodes) => !nodes.is_lost(),
        }
    }

    /// What the parts are called whose checksums are wrong; of many the first, and how many more.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let (mut names, count): (Vec<String>, usize) = match self {
            Self::Parts(parts) => {
                let named = parts.wrong.iter().take(NAMED_MAX).map(|&at| parts.checks[at].name.clone());
                (named.collect(), parts.wrong.len())
            }
            Self::Records(records) => records.wrong(),
            Self::Nodes(nodes) => nodes.wrong(),
        };
        if count > names.len() {
            names.push(format!("{} more", count - names.len()));
        }
        names
    }
}

/// Follows the records of a TFRecord file: length (8), its checksum (4), data, its checksum (4).
#[derive(Default)]
pub(crate) struct Records {
    /// Where the next bytes must lie; what comes out of order ends the comparison.
    next: u64,
    number: u64,
    /// What is there of the field that began last, where that is not data.
    field: Vec<u8>,
    /// Bytes of data that are still to come, with their checksum so far; none within a head.
    data: Option<(u64, Checksum)>,
    is_lost: bool,
    /// It may end anywhere.
    is_log: bool,
    wrong: Vec<String>,
    wrong_count: usize,
}

impl Records {
    /// What is wrong, when all bytes were there: names of some, and the number of all.
    fn wrong(&self) -> (Vec<String>, usize) {
        let (mut names, mut count) = (self.wrong.clone(), self.wrong_count);
        let is_whole = self.field.is_empty() && self.data.is_none();
        if !self.is_lost && !self.is_log && !is_whole {
            count += 1;
            if names.len() < NAMED_MAX {
                names.push(format!("record {}, inside which the file ends", self.number));
            }
        }
        (names, count)
    }

    fn update(&mut self, offset: u64, mut bytes: &[u8]) {
        self.is_lost |= offset != self.next;
        self.next = offset + bytes.len() as u64;
        while !self.is_lost && !bytes.is_empty() {
            match &mut self.data {
                Some((left, checksum)) if *left > 0 => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    checksum.update(&bytes[..length]);
                    *left -= length as u64;
                    bytes = &bytes[length..];
                }
                _ => {
                    let wanted = if self.data.is_some() { 4 } else { 12 };
                    let length = (wanted - self.field.len()).min(bytes.len());
                    self.field.extend_from_slice(&bytes[..length]);
                    bytes = &bytes[length..];
                    if self.field.len() == wanted {
                        self.field_ends();
                    }
                }
            }
        }
    }

    /// A head or a foot is there whole.
    fn field_ends(&mut self) {
        let field = std::mem::take(&mut self.field);
        match self.data.take() {
            None => {
                let (length, stored) = field.split_at(8);
                let mut checksum = Checksum::new(CheckKind::MaskedCrc32c);
                checksum.update(length);
                if checksum.value().to_le_bytes() == stored {
                    let length = length.try_into().map_or(0, u64::from_le_bytes);
                    self.data = Some((length, Checksum::new(CheckKind::MaskedCrc32c)));
                } else {
                    self.is_lost = true;
                    // Why not where only the name told of records: files of them may be compressed as a whole.
                    if self.number > 0 || !tfrecord::is_compressed(&field) {
                        self.is_wrong("the length of record");
                    }
                }
            }
            Some((_, checksum)) => {
                if checksum.value().to_le_bytes()[..] != field[..] {
                    self.is_wrong("record");
                }
                self.number += 1;
            }
        }
    }

    fn is_wrong(&mut self, what: &str) {
        self.wrong_count += 1;
        if self.wrong.len() < NAMED_MAX {
            self.wrong.push(format!("{what} {}", self.number));
        }
    }
}

/// Compares the checksums of parts.
pub(crate) struct Parts<'l> {
    checks: &'l [Check],
    open: Vec<(usize, u64, Checksum)>,
    wrong: Vec<usize>,
}

impl Parts<'_> {
    fn asks_for(&self, range: Range<u64>) -> bool {
        let first = self.checks.partition_point(|check| check.range.start < range.start);
        let begins = self.checks.get(first).is_some_and(|check| check.range.start < range.end);
        begins || self.open.iter().any(|(_, next, _)| *next == range.start)
    }

    fn update(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        self.open.retain(|(_, next, _)| *next == offset);
        let first = self.checks.partition_point(|check| check.range.start < offset);
        for (at, check) in self.checks.iter().enumerate().skip(first).take_while(|(_, check)| check.range.start < end) {
            if self.open.len() == OPEN_MAX {
                self.go_on(offset, bytes, check.range.start);
            }
            if self.open.len() < OPEN_MAX && !check.range.is_empty() {
                self.open.push((at, check.range.start, Checksum::new(check.kind)));
            }
        }
        self.go_on(offset, bytes, end);
    }

    /// Brings all open checksums up to `until`, and closes those that end there.
    fn go_on(&mut self, offset: u64, bytes: &[u8], until: u64) {
        let (checks, wrong) = (self.checks, &mut self.wrong);
        self.open.retain_mut(|(at, next, checksum)| {
            let check = &checks[*at];
            let end = check.range.end.min(until);
            if end > *next {
                let place = |at: u64| usize::try_from(at - offset).expect("inside these bytes");
                checksum.update(&bytes[place(*next)..place(end)]);
                *next = end;
            }
            let goes_on = *next < check.range.end;
            if !goes_on && checksum.value() != check.expected {
                wrong.push(*at);
            }
            goes_on
        });
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges may hold one")]
mod tests {
    use super::*;
    use crate::readers::{CheckKind, Format};

    fn layout(ranges: &[std::ops::Range<u64>], bytes: &[u8]) -> Layout {
        let checks = ranges.iter().map(|range| {
            let mut checksum = Checksum::new(CheckKind::Crc32);
            checksum.update(&bytes[range.start as usize..range.end as usize]);
            let name = format!("{range:?}");
            Check { range: range.clone(), kind: CheckKind::Crc32, expected: checksum.value(), name }
        });
        let (tensors, boundaries) = (Vec::new(), Vec::new());
        Layout { format: Format::Zip, tensors, strided: Vec::new(), checks: checks.collect(), boundaries, left_out: 0 }
    }

    fn wrong(layout: &Layout, bytes: &[u8], pieces: &[std::ops::Range<usize>]) -> Vec<String> {
        let mut checker = Checker::new(layout).unwrap();
        for piece in pieces {
            checker.update(piece.start as u64, &bytes[piece.clone()]);
        }
        checker.wrong()
    }

    #[test]
    fn a_flipped_byte_names_the_parts_that_cover_it() {
        let mut bytes: Vec<u8> = (0..200_u8).collect();
        let layout = layout(&[0..10, 5..50, 50..60, 60..60, 60..200], &bytes);
        let cuts: [&[std::ops::Range<usize>]; 4] =
            [&[0..200], &[0..7, 7..55, 55..200], &[50..200, 0..50], &[60..200, 0..60]];
        for cuts in cuts {
            assert_eq!(wrong(&layout, &bytes, cuts), [""; 0], "{cuts:?}");
        }
        bytes[7] ^= 1;
        for cuts in cuts {
            assert_eq!(wrong(&layout, &bytes, cuts), ["0..10", "5..50"], "{cuts:?}");
        }
        bytes[7] ^= 1;
        bytes[199] ^= 1;
        for cuts in cuts {
            assert_eq!(wrong(&layout, &bytes, cuts), ["60..200"], "{cuts:?}");
        }
    }

    #[test]
    fn a_part_that_comes_in_two_rows_is_not_judged() {
        let mut bytes = [3; 100];
        let layout = layout(&[10..90], &bytes);
        bytes[50] ^= 1;
        assert_eq!(wrong(&layout, &bytes, &[0..40, 60..100, 40..60]), [""; 0]);
        assert_eq!(wrong(&layout, &bytes, &[0..100]), ["10..90"]);
    }

    /// Feeds `bytes` with the range `hole`, which is zeros in them, as a hole.
    fn wrong_around(layout: &Layout, bytes: &[u8], hole: std::ops::Range<usize>) -> Vec<String> {
        let mut checker = Checker::new(layout).unwrap();
        checker.update(0, &bytes[..hole.start]);
        checker.hole(hole.start as u64, hole.len() as u64);
        checker.update(hole.end as u64, &bytes[hole.end..]);
        checker.wrong()
    }

    #[test]
    fn a_hole_counts_as_the_zeros_that_it_reads_as() {
        let mut bytes = vec![7; 300_000];
        bytes[10_000..200_000].fill(0);
        let hole = 10_000..200_000;
        let layout = layout(&[0..9_000, 5_000..100_000, 20_000..190_000, 150_000..250_000, 250_000..300_000], &bytes);
        assert_eq!(wrong_around(&layout, &bytes, hole.clone()), [""; 0]);
        // What was lost: these bytes were no zeros when the checksums were made.
        let mut made_of = bytes.clone();
        made_of[120_000] = 1;
        let lost = self::layout(&[5_000..100_000, 20_000..190_000, 110_000..250_000], &made_of);
        assert_eq!(wrong_around(&lost, &bytes, hole.clone()), ["20000..190000", "110000..250000"]);
        // What is wrong behind the hole, in a part that began before it.
        let whole = self::layout(&[5_000..300_000], &bytes);
        bytes[299_000] ^= 1;
        assert_eq!(wrong_around(&whole, &bytes, hole), ["5000..300000"]);
    }

    #[test]
    fn records_go_on_behind_a_hole() {
        let (tensors, checks, boundaries) = (Vec::new(), Vec::new(), Vec::new());
        let layout = Layout { format: Format::TfRecord, tensors, strided: Vec::new(), checks, boundaries, left_out: 0 };
        let mut bytes = [record(b"first"), record(&[0; 100_000]), record(b"last")].concat();
        let hole = 4_096..98_304;
        assert_eq!(wrong_around(&layout, &bytes, hole.clone()), [""; 0]);
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        assert_eq!(wrong_around(&layout, &bytes, hole.clone()), ["record 2"]);
        let mut lost = [record(b"first"), record(&[5; 100_000]), record(b"last")].concat();
        lost[hole.clone()].fill(0);
        assert_eq!(wrong_around(&layout, &lost, hole), ["record 1"]);
    }

    #[test]
    fn a_hole_of_exabytes_is_passed_over() {
        let bytes = [1; 64];
        let mut layout = layout(&[0..64], &bytes);
        layout.checks[0].range.end = u64::MAX / 2;
        let mut checker = Checker::new(&layout).unwrap();
        checker.update(0, &bytes);
        checker.hole(64, u64::MAX / 2 - 64);
        assert_eq!(checker.wrong(), [""; 0]);
    }

    #[test]
    fn overlaps_cost_no_more_than_a_few_passes() {
        let bytes = [1; 64];
        let layout = layout(&vec![0..64; 1000], &bytes);
        let mut parts = Parts { checks: &layout.checks, open: Vec::new(), wrong: Vec::new() };
        parts.update(0, &bytes[..32]);
        assert_eq!(parts.open.len(), OPEN_MAX);
    }

    fn record(data: &[u8]) -> Vec<u8> {
        let sum = |bytes: &[u8]| {
            let mut checksum = Checksum::new(CheckKind::MaskedCrc32c);
            checksum.update(bytes);
            checksum.value().to_le_bytes()
        };
        let length = (data.len() as u64).to_le_bytes();
        [&length[..], &sum(&length), data, &sum(data)].concat()
    }

    #[test]
    fn records_are_judged_one_by_one_however_they_are_cut() {
        let (tensors, checks, boundaries) = (Vec::new(), Vec::new(), Vec::new());
        let layout = Layout { format: Format::TfRecord, tensors, strided: Vec::new(), checks, boundaries, left_out: 0 };
        let records = [record(b"first"), record(b""), record(&[7; 1000]), record(b"last")];
        let starts = records.iter().scan(0, |end, record| Some(std::mem::replace(end, *end + record.len())));
        let starts: Vec<usize> = starts.collect();
        let whole = records.concat();
        for (flipped, expected) in [
            (None, vec![]),
            (Some(starts[0] + 12), vec!["record 0"]),
            (Some(starts[2] + 900), vec!["record 2"]),
            (Some(starts[3] - 1), vec!["record 2"]),
            (Some(starts[1] + 3), vec!["the length of record 1"]),
            (Some(starts[1] + 9), vec!["the length of record 1"]),
        ] {
            let mut bytes = whole.clone();
            flipped.into_iter().for_each(|at: usize| bytes[at] ^= 4);
            for length in [1, 5, 16, 2000] {
                let mut checker = Checker::new(&layout).unwrap();
                for (number, piece) in bytes.chunks(length).enumerate() {
                    checker.update((number * length) as u64, piece);
                }
                assert_eq!(checker.wrong(), expected, "{flipped:?} in pieces of {length}");
            }
        }
    }

    fn by_name(name: &str, bytes: &[u8]) -> Vec<String> {
        let mut checker = Checker::by_name(&TreeKey(name.as_bytes().to_vec())).unwrap();
        bytes.chunks(50).enumerate().for_each(|(number, piece)| checker.update(number as u64 * 50, piece));
        checker.wrong()
    }

    #[test]
    fn a_file_of_records_ends_with_one() {
        let whole = [record(b"first"), record(&[7; 100])].concat();
        let ends = whole.len();
        for (length, expected) in [
            (ends, vec![]),
            (21, vec![]),
            (0, vec![]),
            (ends - 1, vec!["record 1, inside which the file ends"]),
            (ends - 4, vec!["record 1, inside which the file ends"]),
            (40, vec!["record 1, inside which the file ends"]),
            (22, vec!["record 1, inside which the file ends"]),
            (7, vec!["record 0, inside which the file ends"]),
        ] {
            assert_eq!(by_name("a/b.tfrecord", &whole[..length]), expected, "{length}");
            assert_eq!(by_name("events.out.tfevents.17.host", &whole[..length]), [""; 0], "{length}");
        }
        let mut first = whole.clone();
        first[3] ^= 1;
        for name in ["b.tfrecord-00001-of-00002", "events.out.tfevents.17.host"] {
            assert_eq!(by_name(name, &first), ["the length of record 0"]);
            assert_eq!(by_name(name, &[0; 100]), ["the length of record 0"]);
        }
        assert_eq!(by_name("b.tfrecord", &[&[0x1f, 0x8b, 8][..], &[9; 100]].concat()), [""; 0]);
        // A hole that nothing follows.
        let mut checker = Checker::by_name(&TreeKey(b"b.tfrecord".to_vec())).unwrap();
        checker.update(0, &whole[..40]);
        checker.hole(40, HOLE_BYTES_MAX + 1);
        assert_eq!(checker.wrong(), [""; 0]);
    }

    #[test]
    fn of_many_wrong_ones_the_first_are_named() {
        let bytes = [0; 300];
        let mut layout = layout(&(0..100).map(|at| at..at + 1).collect::<Vec<_>>(), &bytes);
        layout.checks.iter_mut().for_each(|check| check.expected ^= 1);
        let mut checker = Checker::new(&layout).unwrap();
        checker.update(0, &bytes);
        let wrong = checker.wrong();
        assert_eq!((wrong.len(), wrong.last().unwrap().as_str()), (NAMED_MAX + 1, "80 more"));
    }
}
