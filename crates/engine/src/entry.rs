//! The tree's entries: metadata and content of one path.
//!
//! A path is kept as a *tree key*: its components joined with NUL (absolute, without the leading slash; the root
//! directory is the empty key). NUL sorts below every byte that a name may hold, so comparing keys as bytes compares
//! paths component by component, and a directory comes directly before what it holds.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;
use crate::ids::ChunkId;

/// A path inside a snapshot, as NUL-joined components.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreeKey(pub Vec<u8>);

impl TreeKey {
    /// The key of an absolute path. `.` components and doubled slashes vanish; `None` where the path is relative, has
    /// a `..` component or a NUL.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Self> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.first() != Some(&b'/') || bytes.contains(&0) {
            return None;
        }
        let mut key = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return None,
                _ => {}
            }
            if !key.is_empty() {
                key.push(0);
            }
            key.extend_from_slice(component);
        }
        Some(Self(key))
    }

    /// The absolute path of the key.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        bytes.push(b'/');
        bytes.extend(self.0.iter().map(|&byte| if byte == 0 { b'/' } else { byte }));
        PathBuf::from(OsStr::from_bytes(&bytes))
    }

    /// The components, from the root down. The root has none.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == 0).filter(|component| !component.is_empty())
    }

    /// The last component; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// The key of the entry `name` in this directory.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        let mut key = Vec::with_capacity(self.0.len() + 1 + name.len());
        key.extend_from_slice(&self.0);
        if !key.is_empty() {
            key.push(0);
        }
        key.extend_from_slice(name);
        Self(key)
    }

    /// The directory that holds this entry; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == 0).unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// True if `self` is `ancestor` or lies below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        ancestor.0.is_empty()
            || (self.0.starts_with(&ancestor.0) && (self.0.len() == ancestor.0.len() || self.0[ancestor.0.len()] == 0))
    }

    /// Number of components; 0 for the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }
}

/// The bytes with each run of digits as one `0`: what the files of a run's checkpoints have in common.
pub(crate) fn without_digits(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'0'..=b'9' if kept.last() == Some(&b'0') => {}
            b'0'..=b'9' => kept.push(b'0'),
            other => kept.push(other),
        }
    }
    kept
}

/// What kind of file system object an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with its content.
    File(Content),
    /// A directory.
    Directory,
    /// A symbolic link and its target, as bytes.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A Unix socket (the name only).
    Socket,
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
}

/// A piece of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A chunk of `length` plain bytes.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Its plain length in bytes.
        length: u32,
    },
    /// A hole: `length` bytes that read as zero and occupy no space.
    Hole {
        /// Length in bytes.
        length: u64,
    },
}

impl Extent {
    /// Plain length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Chunk { length, .. } => u64::from(*length),
            Self::Hole { length } => *length,
        }
    }
}

/// A regular file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The bytes themselves, for tiny files.
    Inline(Vec<u8>),
    /// The extents in order.
    Extents(Vec<Extent>),
    /// The id of a chunk that holds a list of extents (`depth` 1), or a list of such lists (`depth` 2 and more).
    Indirect {
        /// How many list levels lie below, at least 1.
        depth: u8,
        /// The topmost list.
        id: ChunkId,
        /// Plain length of the topmost list in bytes.
        length: u32,
    },
}

/// Metadata and content of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Kind, with content, link target or device number.
    pub kind: Kind,
    /// Permission bits including set-id and sticky (07777).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Owner's name where the system knew one.
    pub user: Option<String>,
    /// Group's name where the system knew one.
    pub group: Option<String>,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of the inode; not restorable, used for change detection.
    pub ctime: Timestamp,
    /// Birth time where the file system has one; not restorable.
    pub btime: Option<Timestamp>,
    /// Size in bytes (regular files: plain length of the content; symlinks: length of the target; else 0).
    pub size: u64,
    /// Inode number, used for change detection.
    pub inode: u64,
    /// Set where the inode had several names.
    pub links: Option<LinkGroup>,
    /// Extended attributes of all namespaces, sorted by name. POSIX ACLs and file capabilities are among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Inode flags as FS_IOC_GETFLAGS gives them, only the restorable ones (append-only, immutable, nodump, ...).
    pub flags: u32,
    /// Where the file's tensor table lies; files only. It is no part of the file: who loses it loses statistics.
    pub table: Option<TableRef>,
}

/// The chunk that holds a file's tensor table (docs/format.md §9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRef {
    /// The chunk, of kind tree.
    pub id: ChunkId,
    /// Its plain length in bytes.
    pub length: u32,
}

/// Names of one inode in a snapshot: entries with an equal group were hard links of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkGroup {
    /// Which of the walk's file systems, counted in order of first appearance.
    pub device: u32,
    /// Inode number.
    pub inode: u64,
}

impl Entry {
    /// True for directories.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }

    /// True for regular files.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File(_))
    }
}
