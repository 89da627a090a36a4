//! Tests of holes and positioned reads, on real files.

use std::fs::OpenOptions;

use super::*;
use crate::stages::fixture::{directory, skip};
use crate::stages::metadata::stat_file;

/// Far more than a block of any file system.
const PIECE: u64 = 1 << 20;

/// A file of `pieces` pieces with data in the given ones.
fn sparse(pieces: u64, data: &[u64]) -> (tempfile::TempDir, File) {
    let (held, root) = directory();
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(root.join("file")).unwrap();
    file.set_len(pieces * PIECE).unwrap();
    for piece in data {
        file.write_all_at(&vec![b'x'; PIECE as usize], piece * PIECE).unwrap();
    }
    (held, file)
}

/// Length, where data lies, and the ranges expected; all in pieces.
type Layout = (u64, &'static [u64], &'static [Range<u64>]);

#[test]
fn ranges_of_data_between_holes() {
    let table: &[Layout] = &[
        (0, &[], &[]),
        (4, &[], &[]),
        (3, &[0, 1, 2], std::slice::from_ref(&(0..3))),
        (6, &[0, 3, 4], &[0..1, 3..5]),
        (5, &[1, 4], &[1..2, 4..5]),
    ];
    for (pieces, data, expected) in table {
        let (_held, file) = sparse(*pieces, data);
        let stat = stat_file(&file).unwrap();
        if stat.size > 0 && data.is_empty() && !stat.may_have_holes() {
            return skip("the file system keeps no holes");
        }
        let ranges: Vec<_> =
            data_ranges(&file, stat.size).map(|range| range.start / PIECE..range.end / PIECE).collect();
        assert_eq!(&ranges, expected, "{pieces} pieces with data in {data:?}");
        assert_eq!(stat.may_have_holes(), (data.len() as u64) < *pieces);
    }
}

#[test]
fn ranges_keep_to_the_size_that_was_asked_for() {
    let (_held, file) = sparse(6, &[0, 3, 4]);
    let ranges = |size| data_ranges(&file, size).collect::<Vec<_>>();
    assert_eq!(ranges(PIECE / 2), std::slice::from_ref(&(0..PIECE / 2)));
    assert_eq!(ranges(2 * PIECE), std::slice::from_ref(&(0..PIECE)));
    assert_eq!(ranges(3 * PIECE + 1), [0..PIECE, 3 * PIECE..3 * PIECE + 1]);
    // Longer than the file is by now: what lies beyond its end counts as a hole, and reading will be short.
    assert_eq!(ranges(100 * PIECE), [0..PIECE, 3 * PIECE..5 * PIECE]);
}

#[test]
fn where_seeking_is_not_possible_everything_is_data() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(reader));
    assert_eq!(data_ranges(&pipe, 10).collect::<Vec<_>>(), std::slice::from_ref(&(0..10)));
}

#[test]
fn a_hundred_gib_hole_takes_no_time_and_no_memory() {
    let (_held, root) = directory();
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(root.join("file")).unwrap();
    file.set_len(100 << 30).unwrap();
    file.write_all_at(b"end", (100 << 30) - 3).unwrap();
    let ranges: Vec<_> = data_ranges(&file, 100 << 30).collect();
    assert_eq!(ranges.last().map(|range| range.end), Some(100 << 30));
    assert!(ranges.iter().map(|range| range.end - range.start).sum::<u64>() <= 1 << 20);
}

#[test]
fn a_short_file_is_told_from_an_error() {
    let (_held, file) = sparse(1, &[0]);
    let mut buffer = [0; 100];
    assert_eq!(read_at(&file, 0, &mut buffer).unwrap(), 100);
    assert_eq!(buffer, [b'x'; 100]);
    assert_eq!(read_at(&file, PIECE - 30, &mut buffer).unwrap(), 30);
    assert_eq!(read_at(&file, PIECE + 30, &mut buffer).unwrap(), 0);
    file.set_len(10).unwrap();
    assert_eq!(read_at(&file, 0, &mut buffer).unwrap(), 10);
    let (_held, root) = directory();
    let directory = File::open(root).unwrap();
    assert_eq!(read_at(&directory, 0, &mut buffer).unwrap_err().kind(), io::ErrorKind::IsADirectory);
}
