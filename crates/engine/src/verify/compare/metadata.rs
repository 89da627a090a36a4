//! Metadata of one name, as the snapshot has it and as it is: the differences in words.

use std::fmt::Write;

use super::CompareOptions;
use crate::clock::Timestamp;
use crate::entry::{Entry, Kind};

/// FS_APPEND_FL and FS_IMMUTABLE_FL of linux/fs.h: only root may set them.
const PRIVILEGED_FLAGS: u32 = 0x20 | 0x10;

/// What a kind is called.
pub(super) fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::File(_) => "a file",
        Kind::Directory => "a directory",
        Kind::Symlink(_) => "a symbolic link",
        Kind::Fifo => "a named pipe",
        Kind::Socket => "a socket",
        Kind::CharDevice(..) => "a character device",
        Kind::BlockDevice(..) => "a block device",
    }
}

/// Compares everything but content and links.
pub(super) fn differences(expected: &Entry, actual: &Entry, options: &CompareOptions<'_>) -> Vec<String> {
    if std::mem::discriminant(&expected.kind) != std::mem::discriminant(&actual.kind) {
        return vec![format!("{} instead of {}", kind_name(&actual.kind), kind_name(&expected.kind))];
    }
    let mut found = Vec::new();
    let mut differ = |what: String| found.push(what);
    match (&expected.kind, &actual.kind) {
        (Kind::Symlink(expected), Kind::Symlink(actual)) if expected != actual => {
            differ(format!("leads to {:?} instead of {:?}", lossy(actual), lossy(expected)));
        }
        (Kind::CharDevice(..) | Kind::BlockDevice(..), _) if expected.kind != actual.kind => {
            differ("another device number".to_owned());
        }
        (Kind::File(_), _) if expected.size != actual.size => {
            differ(format!("{} bytes instead of {}", actual.size, expected.size));
        }
        _ => {}
    }
    if expected.mode != actual.mode {
        differ(format!("mode {:04o} instead of {:04o}", actual.mode, expected.mode));
    }
    if options.owner && (expected.uid, expected.gid) != (actual.uid, actual.gid) {
        differ(format!("owner {}:{} instead of {}:{}", actual.uid, actual.gid, expected.uid, expected.gid));
    }
    if expected.mtime != actual.mtime {
        differ(format!("modified at {} instead of {}", time(actual.mtime), time(expected.mtime)));
    }
    let counted = if options.owner { u32::MAX } else { !PRIVILEGED_FLAGS };
    if (expected.flags ^ actual.flags) & counted != 0 {
        differ(format!("inode flags {:#x} instead of {:#x}", actual.flags, expected.flags));
    }
    differ_in_xattrs(expected, actual, options.owner, &mut differ);
    found
}

fn differ_in_xattrs(expected: &Entry, actual: &Entry, privileged: bool, differ: &mut dyn FnMut(String)) {
    let counted = |(name, _): &&(Vec<u8>, Vec<u8>)| {
        privileged || !(name.starts_with(b"security.") || name.starts_with(b"trusted."))
    };
    for attribute in expected.xattrs.iter().filter(counted) {
        match actual.xattrs.iter().find(|(name, _)| *name == attribute.0) {
            None => differ(format!("extended attribute {} is missing", lossy(&attribute.0))),
            Some(other) if other.1 != attribute.1 => {
                differ(format!("extended attribute {} has another value", lossy(&attribute.0)));
            }
            Some(_) => {}
        }
    }
    for (name, _) in actual.xattrs.iter().filter(counted) {
        if !expected.xattrs.iter().any(|(known, _)| known == name) {
            differ(format!("extended attribute {} is not in the snapshot", lossy(name)));
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn time(time: Timestamp) -> String {
    let mut text = String::new();
    let _ = write!(text, "{}.{:09}", time.seconds, time.nanos);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Content;
    use crate::units::MIB;

    fn entry(kind: Kind) -> Entry {
        Entry {
            kind,
            mode: 0o644,
            uid: 1,
            gid: 2,
            user: None,
            group: None,
            mtime: Timestamp { seconds: 5, nanos: 7 },
            ctime: Timestamp::default(),
            btime: None,
            size: 3,
            inode: 1,
            links: None,
            xattrs: vec![(b"security.x".to_vec(), b"1".to_vec()), (b"user.y".to_vec(), b"2".to_vec())],
            flags: 0x40,
            table: None,
        }
    }

    #[test]
    fn every_difference_is_named_and_root_only_ones_only_where_asked_for() {
        let file = || entry(Kind::File(Content::Inline(b"abc".to_vec())));
        type Change = fn(&mut Entry);
        // What changes; how often it is named where what only root can restore counts, and where not.
        let cases: [(Change, [usize; 2], &str); 17] = [
            (|_| {}, [0, 0], ""),
            (|entry| entry.kind = Kind::Directory, [1, 1], "a directory instead of a file"),
            (|entry| entry.kind = Kind::File(Content::Extents(Vec::new())), [0, 0], ""),
            (|entry| entry.size = 4, [1, 1], "4 bytes instead of 3"),
            (|entry| entry.mode = 0o4755, [1, 1], "mode 4755 instead of 0644"),
            (|entry| entry.uid = 9, [1, 0], "owner 9:2 instead of 1:2"),
            (|entry| entry.gid = 9, [1, 0], "owner 1:9 instead of 1:2"),
            (|entry| entry.mtime.nanos = 8, [1, 1], "modified at 5.000000008 instead of 5.000000007"),
            (|entry| entry.flags = 0, [1, 1], "inode flags 0x0 instead of 0x40"),
            (|entry| entry.flags = 0x50, [1, 0], "inode flags 0x50 instead of 0x40"),
            (|entry| entry.xattrs[0].1 = b"9".to_vec(), [1, 0], "security.x has another value"),
            (|entry| entry.xattrs[1].1 = b"9".to_vec(), [1, 1], "user.y has another value"),
            (|entry| drop(entry.xattrs.remove(1)), [1, 1], "user.y is missing"),
            (|entry| entry.xattrs.push((b"trusted.z".to_vec(), Vec::new())), [1, 0], "trusted.z is not in"),
            (|entry| entry.ctime.seconds = 1, [0, 0], ""),
            (|entry| entry.inode = 77, [0, 0], ""),
            (|entry| entry.btime = Some(Timestamp::default()), [0, 0], ""),
        ];
        for (change, counts, what) in cases {
            let mut actual = file();
            change(&mut actual);
            for (owner, count) in [true, false].into_iter().zip(counts) {
                let options = CompareOptions { threads: 1, budget_bytes: MIB, filter: None, owner };
                let found = differences(&file(), &actual, &options);
                assert_eq!(found.len(), count, "{what}, root: {owner}: {found:?}");
                assert!(found.iter().all(|found| found.contains(what)), "{what}: {found:?}");
            }
        }
    }

    #[test]
    fn links_and_devices() {
        let options = CompareOptions { threads: 1, budget_bytes: MIB, filter: None, owner: true };
        for (expected, actual, count) in [
            (Kind::Symlink(b"a".to_vec()), Kind::Symlink(b"a".to_vec()), 0),
            (Kind::Symlink(b"a".to_vec()), Kind::Symlink(b"b".to_vec()), 1),
            (Kind::CharDevice(1, 3), Kind::CharDevice(1, 3), 0),
            (Kind::CharDevice(1, 3), Kind::CharDevice(1, 5), 1),
            (Kind::CharDevice(1, 3), Kind::BlockDevice(1, 3), 1),
            (Kind::Fifo, Kind::Socket, 1),
        ] {
            assert_eq!(differences(&entry(expected.clone()), &entry(actual), &options).len(), count, "{expected:?}");
        }
    }
}
