//! What the file system says of one name: the answer of statx, in our own types.
//!
//! Symbolic links are never followed and automount points never triggered. Only the fields that a snapshot keeps, or
//! that change detection needs, are asked for.
//!
//! Invariant: `attributes` uses the bit values of FS_IOC_GETFLAGS; the four that statx knows have equal values there.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use crate::clock::Timestamp;

/// A file system: the device number that statx gives, as (major, minor).
pub type Device = (u32, u32);

/// What kind of object a name is, before anything of it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Metadata of one name as statx gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind of object.
    pub kind: StatKind,
    /// Permission bits including set-id and sticky (07777).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Size in bytes, as the file system gives it (directories and devices: without meaning).
    pub size: u64,
    /// Allocated space in blocks of 512 bytes.
    pub blocks: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth time where the file system has one.
    pub btime: Option<Timestamp>,
    /// Inode number.
    pub inode: u64,
    /// The file system it lies on: major, minor.
    pub device: Device,
    /// Number of names of the inode.
    pub links: u32,
    /// Device number of a character or block device: major, minor.
    pub rdev: Device,
    /// Of the inode flags those that statx reports: compressed, immutable, append-only, nodump.
    pub attributes: u32,
}

impl Stat {
    /// Asks for `name` in `directory`; a symbolic link is described itself.
    pub(crate) fn of_name(directory: impl AsFd, name: &CStr) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        Ok(Self::from_statx(&statx(directory, name, flags, wanted_fields())?))
    }

    /// Asks for a path as it is on the server now, where a network file system would answer from what it heard a while
    /// ago. Costs a round trip there.
    pub(crate) fn of_path_now(path: &Path) -> Result<Self, Errno> {
        Ok(Self::from_statx(&statx(rustix::fs::CWD, path, now_flags(), wanted_fields())?))
    }

    /// Asks for an open file or directory.
    pub(crate) fn of_open(file: impl AsFd) -> Result<Self, Errno> {
        Ok(Self::from_statx(&statx(file, c"", AtFlags::EMPTY_PATH, wanted_fields())?))
    }

    /// True where the file occupies less space than it is long, so that looking for holes is worth the calls.
    /// A compressing file system gives a false yes, which costs two calls.
    #[must_use]
    pub fn may_have_holes(&self) -> bool {
        // 512: the unit of `blocks` on Linux, whatever the block size of the file system.
        self.kind == StatKind::File && self.blocks.saturating_mul(512) < self.size
    }

    /// True if both describe the same inode.
    #[must_use]
    pub fn same_inode(&self, other: &Self) -> bool {
        self.inode == other.inode && self.device == other.device
    }

    /// The same for the same modification time, whatever the file system chose: for a simulation that repeats a run.
    #[cfg(feature = "simulation")]
    fn plain(self) -> Self {
        let is_directory = self.kind == StatKind::Directory;
        let mtime = if is_directory { Timestamp::default() } else { self.mtime };
        let inode = (mtime.seconds.unsigned_abs() << 30 | u64::from(mtime.nanos)) + 1;
        Self { mtime, ctime: mtime, btime: None, inode, device: (0, 1), ..self }
    }

    #[cfg(feature = "simulation")]
    fn from_statx(raw: &Statx) -> Self {
        let stat = Self::as_told(raw);
        if crate::simulation::has_plain_stat() { stat.plain() } else { stat }
    }

    #[cfg(not(feature = "simulation"))]
    fn from_statx(raw: &Statx) -> Self {
        Self::as_told(raw)
    }

    fn as_told(raw: &Statx) -> Self {
        let known = StatxAttributes::COMPRESSED
            | StatxAttributes::IMMUTABLE
            | StatxAttributes::APPEND
            | StatxAttributes::NODUMP;
        Self {
            kind: kind_of(FileType::from_raw_mode(raw.stx_mode.into())),
            mode: u32::from(raw.stx_mode) & 0o7777,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            size: raw.stx_size,
            blocks: raw.stx_blocks,
            mtime: timestamp(raw.stx_mtime),
            ctime: timestamp(raw.stx_ctime),
            btime: (raw.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| timestamp(raw.stx_btime)),
            inode: raw.stx_ino,
            device: (raw.stx_dev_major, raw.stx_dev_minor),
            links: raw.stx_nlink,
            rdev: (raw.stx_rdev_major, raw.stx_rdev_minor),
            // The four bits lie below 2^7, so nothing is cut off.
            attributes: (raw.stx_attributes & known).bits() as u32,
        }
    }
}

fn now_flags() -> AtFlags {
    AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_FORCE_SYNC
}

fn wanted_fields() -> StatxFlags {
    StatxFlags::TYPE
        | StatxFlags::MODE
        | StatxFlags::NLINK
        | StatxFlags::UID
        | StatxFlags::GID
        | StatxFlags::MTIME
        | StatxFlags::CTIME
        | StatxFlags::INO
        | StatxFlags::SIZE
        | StatxFlags::BLOCKS
        | StatxFlags::BTIME
}

fn kind_of(file_type: FileType) -> StatKind {
    match file_type {
        FileType::Directory => StatKind::Directory,
        FileType::Symlink => StatKind::Symlink,
        FileType::Fifo => StatKind::Fifo,
        FileType::Socket => StatKind::Socket,
        FileType::CharacterDevice => StatKind::CharDevice,
        FileType::BlockDevice => StatKind::BlockDevice,
        // Linux has no eighth kind.
        FileType::RegularFile | FileType::Unknown => StatKind::File,
    }
}

fn timestamp(raw: StatxTimestamp) -> Timestamp {
    Timestamp { seconds: raw.tv_sec, nanos: raw.tv_nsec }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers from its clients' memory is not to be had in a test; what is asked for is.
    #[test]
    fn a_look_at_a_checkpoint_asks_the_server() {
        assert!(now_flags().contains(AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW));
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert_eq!(Stat::of_path_now(&link).unwrap().kind, StatKind::Symlink);
        assert_eq!(Stat::of_path_now(&folder.path().join("missing")).unwrap_err(), Errno::NOENT);
    }
}
