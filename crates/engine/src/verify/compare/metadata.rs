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
