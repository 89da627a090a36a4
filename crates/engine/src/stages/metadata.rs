//! From a found name to a tree entry: everything about it but a regular file's content.
//!
//! Owners' names come from the system's user database (NSS), extended attributes and inode flags from the object itself,
//! through an open descriptor where it can be opened without side effects (files and directories), else by its name in
//! the open directory above it. What cannot be read is a problem with the code `metadata`, never silence; the entry
//! is made with the rest.
//!
//! The metadata is that of `found.stat`. A caller that reads a file again because it changed sets `found.stat` to
//! [`stat_file`] first.

mod attributes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{OFlags, readlinkat};
use rustix::io::Errno;

pub use attributes::RESTORABLE_FLAGS;
use attributes::{Reached, Xattr, read_flags, read_xattrs};

use super::walk::{Device, Found, Stat, StatKind, open_quietly};
use crate::entry::{Content, Entry, Kind, LinkGroup};
use crate::error::{Error, Result};
use crate::monitor::Problem;

/// Names of users and groups, each asked for once in a run; also that there is none. Shared by threads.
#[derive(Debug, Default)]
pub struct Names {
    users: Mutex<HashMap<u32, Option<String>>>,
    groups: Mutex<HashMap<u32, Option<String>>>,
    /// Whether it was said that /proc is missing: once a run is enough.
    told_no_proc: AtomicBool,
}

impl Names {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Name of a user, if the system knows one.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<String> {
        cached(&self.users, uid, || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name))
    }

    /// Name of a group, if the system knows one.
    #[must_use]
    pub fn group(&self, gid: u32) -> Option<String> {
        cached(&self.groups, gid, || Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name))
    }
}

fn cached(map: &Mutex<HashMap<u32, Option<String>>>, id: u32, ask: impl FnOnce() -> Option<String>) -> Option<String> {
    if let Some(name) = lock(map).get(&id) {
        return name.clone();
    }
    // Why: asked without the lock, because a directory service may take its time.
    let name = ask();
    lock(map).insert(id, name.clone());
    name
}

fn lock(map: &Mutex<HashMap<u32, Option<String>>>) -> MutexGuard<'_, HashMap<u32, Option<String>>> {
    // A map that a panicking thread left behind is still a map.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives hard links their groups. Asked for every found name in walk order, so that file systems are numbered alike
/// in every run over an unchanged tree.
#[derive(Debug, Default)]
pub struct LinkTable {
    devices: Vec<Device>,
}

impl LinkTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The link group of an inode with several names; `None` for directories and for an only name.
    pub fn group(&mut self, stat: &Stat) -> Option<LinkGroup> {
        // Why: searched from the end, as a walk stays on one file system for long; there are few of them.
        let place = self.devices.iter().rposition(|&device| device == stat.device).unwrap_or_else(|| {
            self.devices.push(stat.device);
            self.devices.len() - 1
        });
        let device = u32::try_from(place).expect("a system has fewer than 2^32 file systems");
        (stat.links > 1 && stat.kind != StatKind::Directory).then_some(LinkGroup { device, inode: stat.inode })
    }
}

/// The entry of a found name. A regular file gets empty content; it is opened for its attributes if that is allowed.
///
/// # Errors
/// When the target of a symbolic link cannot be read: the name vanished, or became something else.
pub fn complete(found: &Found, names: &Names, link: Option<LinkGroup>, problems: &mut Vec<Problem>) -> Result<Entry> {
    let kind = kind_of(found)?;
    let opened = match found.stat.kind {
        StatKind::File => open_same(found, OFlags::empty()).ok(),
        StatKind::Directory => open_same(found, OFlags::DIRECTORY).ok(),
        _ => None,
    };
    let (reached, flags) = match &opened {
        Some(descriptor) => (Reached::Open(descriptor.as_fd()), read_flags(found, descriptor.as_fd(), problems)),
        // Why: what statx knows is all that can be had without opening.
        None => (Reached::by_name(found), found.stat.attributes & RESTORABLE_FLAGS),
    };
    let xattrs = read_xattrs(found, &reached, names, problems);
    Ok(entry(found, kind, names, link, (xattrs, flags)))
}

/// The entry of an open regular file, still without content.
pub fn complete_file(
    found: &Found,
    file: &File,
    names: &Names,
    link: Option<LinkGroup>,
    problems: &mut Vec<Problem>,
) -> Entry {
    let flags = read_flags(found, file.as_fd(), problems);
    let xattrs = read_xattrs(found, &Reached::Open(file.as_fd()), names, problems);
    entry(found, Kind::File(Content::Inline(Vec::new())), names, link, (xattrs, flags))
}

/// Opens a found regular file for reading: not through a link, not waiting on a pipe that took its place, and without
/// changing its access time where the system allows that.
///
/// # Errors
/// Of opening; [`io::ErrorKind::StaleNetworkFileHandle`] where the name now is another inode than the walk saw.
pub fn open_file(found: &Found) -> io::Result<File> {
    Ok(File::from(open_same(found, OFlags::empty())?))
}

/// The problem that a failed [`open_file`] or a failed reading means: `vanished`, `changed` or `unreadable`.
#[must_use]
pub fn read_problem(found: &Found, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::NotFound => "vanished",
        io::ErrorKind::StaleNetworkFileHandle => "changed",
        // A symbolic link took its place.
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => "changed",
        _ => "unreadable",
    };
    Problem::path(&found.key.to_path(), code, format!("cannot be read: {error}"))
}

/// Metadata of an open file as it is now, to see whether it changed while it was read.
///
/// # Errors
/// When the file system fails (a network file system that is gone).
pub fn stat_file(file: &File) -> io::Result<Stat> {
    Ok(Stat::of_open(file)?)
}

/// Opens a file or directory and makes sure that it is the inode that the walk saw.
fn open_same(found: &Found, flags: OFlags) -> io::Result<OwnedFd> {
    let descriptor = open_quietly(&found.directory, &c_name(found), OFlags::RDONLY | flags)?;
    let now = Stat::of_open(&descriptor)?;
    if now.kind != found.stat.kind || !now.same_inode(&found.stat) {
        return Err(Errno::STALE.into());
    }
    Ok(descriptor)
}

fn c_name(found: &Found) -> CString {
    CString::new(found.name()).expect("a component of a tree key holds no NUL")
}

fn kind_of(found: &Found) -> Result<Kind> {
    let (major, minor) = found.stat.rdev;
    Ok(match found.stat.kind {
        StatKind::File => Kind::File(Content::Inline(Vec::new())),
        StatKind::Directory => Kind::Directory,
        StatKind::Symlink => {
            let target = readlinkat(&found.directory, c_name(found), Vec::new())
                .map_err(|error| Error::file(found.key.to_path(), "cannot read the link", error))?;
            Kind::Symlink(target.into_bytes())
        }
        StatKind::Fifo => Kind::Fifo,
        StatKind::Socket => Kind::Socket,
        StatKind::CharDevice => Kind::CharDevice(major, minor),
        StatKind::BlockDevice => Kind::BlockDevice(major, minor),
    })
}

fn entry(found: &Found, kind: Kind, names: &Names, links: Option<LinkGroup>, attributes: (Vec<Xattr>, u32)) -> Entry {
    let stat = &found.stat;
    let size = match &kind {
        Kind::File(_) => stat.size,
        Kind::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    let (xattrs, flags) = attributes;
    Entry {
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        user: names.user(stat.uid),
        group: names.group(stat.gid),
        mtime: stat.mtime,
        ctime: stat.ctime,
        btime: stat.btime,
        size,
        inode: stat.inode,
        links,
        xattrs,
        flags,
        table: None,
    }
}
