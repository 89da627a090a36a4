//! Extended attributes and inode flags of one found name.
//!
//! Attributes of all namespaces that the process may see are read as raw bytes; POSIX ACLs
//! (`system.posix_acl_access`, `system.posix_acl_default`) and file capabilities (`security.capability`) are among them.
//! Linux before 6.13 has no call for attributes of a name in an open directory, so what can't be opened (links, pipes,
//! sockets, devices, unreadable files) is reached through /proc/self/fd.
//!
//! Lists and values that grow between two calls are asked for again with more room, up to a limit.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{IFlags, fgetxattr, flistxattr, ioctl_getflags, lgetxattr, llistxattr};
use rustix::io::Errno;

use super::{Found, Names, Problem};

/// Name and value of an extended attribute.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// The inode flags (FS_IOC_GETFLAGS) that a snapshot keeps: those that say how a file is to be treated and that a
/// restore can set again. Left out: what describes the state on this one disk (extents, inline data, hashed
/// directory, encrypted, verity), what needs a setting of the file system (casefold, project inheritance, DAX), and
/// what no current file system acts on (secure removal, undelete, no tail merging).
pub const RESTORABLE_FLAGS: u32 = IFlags::APPEND
    .union(IFlags::IMMUTABLE)
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::SYNC)
    .union(IFlags::DIRSYNC)
    .union(IFlags::NOCOW)
    .union(IFlags::COMPRESSED)
    .union(IFlags::JOURNALING)
    .union(IFlags::TOPDIR)
    .bits()
    | NO_COMPRESSION;

/// FS_NOCOMP_FL of linux/fs.h: never compress (btrfs).
const NO_COMPRESSION: u32 = 0x400;

/// First try: enough for nearly everything that exists.
const ROOM_BYTES: usize = 1 << 10;
/// Linux limits a list and a value to 64 KiB each; a file system may go beyond, but not for ever.
const ROOM_BYTES_MAX: usize = 16 << 20;

/// How the attributes are reached.
pub(super) enum Reached<'a> {
    /// Through an open file or directory.
    Open(BorrowedFd<'a>),
    /// By a path that leads through /proc to the open directory above.
    Named(CString),
}

impl Reached<'_> {
    /// By its name in the open directory.
    pub(super) fn by_name(found: &Found) -> Self {
        let mut path = format!("/proc/self/fd/{}/", found.directory.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(found.name());
        Self::Named(CString::new(path).expect("a component of a tree key holds no NUL"))
    }

    fn list(&self, room: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(file) => flistxattr(file, room),
            Self::Named(path) => llistxattr(path, room),
        }
    }

    fn get(&self, name: &CStr, room: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(file) => fgetxattr(file, name, room),
            Self::Named(path) => lgetxattr(path, name, room),
        }
    }
}

/// All extended attributes, sorted by name. What cannot be read goes to the problems.
pub(super) fn read_xattrs(
    found: &Found,
    reached: &Reached<'_>,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Vec<Xattr> {
    // Why: nearly nothing has attributes, so the list is asked for into the stack.
    let mut room = [0; ROOM_BYTES];
    let list = match reached.list(&mut room) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Vec::new(),
        Ok(length) => Ok(room[..length].to_vec()),
        Err(Errno::RANGE) => grow(|room| reached.list(room)),
        Err(error) => Err(error),
    };
    let list = match list {
        Ok(list) => list,
        Err(error) => {
            problems.extend(list_problem(found, reached, names, error));
            return Vec::new();
        }
    };
    let mut attributes = Vec::new();
    for name in list.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match read_value(reached, name, &mut room) {
            Ok(value) => attributes.push((name.to_bytes().to_vec(), value)),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => problems.push(metadata_problem(
                found,
                format!("extended attribute {}: {}", name.to_string_lossy(), io::Error::from(error)),
            )),
        }
    }
    attributes.sort_unstable();
    attributes
}

fn read_value(reached: &Reached<'_>, name: &CStr, room: &mut [u8]) -> Result<Vec<u8>, Errno> {
    match reached.get(name, room) {
        Ok(length) => Ok(room[..length].to_vec()),
        Err(Errno::RANGE) => grow(|room| reached.get(name, room)),
        Err(error) => Err(error),
    }
}

/// Asks again with four times the room as long as the system says that it does not suffice.
pub(super) fn grow(mut ask: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut room = vec![0; ROOM_BYTES * 4];
    loop {
        match ask(&mut room) {
            Ok(length) => {
                room.truncate(length);
                return Ok(room);
            }
            Err(Errno::RANGE) if room.len() < ROOM_BYTES_MAX => room = vec![0; room.len() * 4],
            Err(error) => return Err(error),
        }
    }
}

/// The problem of a list that could not be had. A missing /proc is told once a run, not for every link.
fn list_problem(found: &Found, reached: &Reached<'_>, names: &Names, error: Errno) -> Option<Problem> {
    let by_name = matches!(reached, Reached::Named(_));
    if by_name && matches!(error, Errno::NOENT | Errno::NOTDIR) && !Path::new("/proc/self/fd").exists() {
        let told = names.told_no_proc.swap(true, Ordering::Relaxed);
        return (!told).then(|| {
            metadata_problem(
                found,
                "extended attributes of links, devices, pipes, sockets and unreadable files are not read: \
                 /proc is not mounted"
                    .to_owned(),
            )
        });
    }
    Some(metadata_problem(found, format!("extended attributes: {}", io::Error::from(error))))
}

/// The flags to keep, masked with [`RESTORABLE_FLAGS`]; 0 where the file system has none.
pub(super) fn read_flags(found: &Found, file: BorrowedFd<'_>, problems: &mut Vec<Problem>) -> u32 {
    match ioctl_getflags(file) {
        Ok(flags) => flags.bits() & RESTORABLE_FLAGS,
        Err(Errno::NOTTY | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => 0,
        Err(error) => {
            problems.push(metadata_problem(found, format!("inode flags: {}", io::Error::from(error))));
            found.stat.attributes & RESTORABLE_FLAGS
        }
    }
}

fn metadata_problem(found: &Found, what: String) -> Problem {
    Problem::path(&found.key.to_path(), "metadata", what)
}
