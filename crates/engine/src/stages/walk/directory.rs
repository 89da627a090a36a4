//! Open directories and their lists of names.
//!
//! A [`Directory`] is an open descriptor that later stages use to reach the names in it, one component at a time, so
//! that no path is ever resolved twice, none is too long, and no symbolic link that somebody swaps in is followed.
//! A [`Listing`] holds the names of one directory, sorted as bytes, in one block of memory: about 8 bytes an entry
//! beside the names themselves.
//!
//! Neither decides what is walked; that is the walker's business.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;

use super::stat::{Device, Stat};

/// An open directory. The descriptor closes when the last user drops it.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    device: Device,
    inode: u64,
}

/// What an opened directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its names will be listed; needs read permission.
    List,
    /// Only known names in it will be reached; needs search permission.
    Reach,
}

impl Directory {
    /// Opens the root directory, to reach names in it.
    pub(super) fn root() -> Result<Self, Errno> {
        Self::open_at(CWD, c"/", Purpose::Reach)
    }

    /// Opens the directory `name` in `parent`; never through a symbolic link.
    pub(super) fn open_at(parent: impl AsFd, name: &CStr, purpose: Purpose) -> Result<Self, Errno> {
        let descriptor = match purpose {
            Purpose::List => open_quietly(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?,
            Purpose::Reach => openat(&parent, name, BASE_FLAGS | OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?,
        };
        let stat = Stat::of_open(&descriptor)?;
        Ok(Self { descriptor, device: stat.device, inode: stat.inode })
    }

    /// File system and inode, to know the directory again.
    pub(super) fn identity(&self) -> (Device, u64) {
        (self.device, self.inode)
    }

    /// The file system that it lies on.
    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Reads all names into a sorted listing, through `buffer` (whose capacity is what one call may fill). Where
    /// reading fails midway, what was read comes with the error.
    pub(super) fn list(&self, buffer: &mut Vec<u8>) -> (Listing, Option<Errno>) {
        let mut listing = Listing::default();
        buffer.clear();
        let error = listing.read(self, buffer.spare_capacity_mut()).err();
        listing.sort();
        (listing, error)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

const BASE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// Opens `name` without following a link, without waiting (for a pipe's other end) and, where the system allows it
/// (own files, or root), without touching its access time.
pub(crate) fn open_quietly(parent: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | BASE_FLAGS | OFlags::NONBLOCK;
    match openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(&parent, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// Names of one directory in ascending byte order.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Per name: a byte for the kind that the directory claims, the length of the name (2 bytes), the name, NUL.
    arena: Vec<u8>,
    /// Where in the arena each entry begins, in the order of names.
    order: Vec<u32>,
}

/// One name of a listing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'a> {
    /// The name.
    pub name: &'a CStr,
    /// Whether the directory claims that it is a directory; `None` where it does not say. Only a hint.
    pub directory: Option<bool>,
}

const HINT_UNKNOWN: u8 = 0;
const HINT_DIRECTORY: u8 = 1;
const HINT_OTHER: u8 = 2;

impl Listing {
    /// Number of names.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The name at a place below [`Self::len`].
    pub(super) fn get(&self, place: usize) -> Listed<'_> {
        let start = self.order[place];
        let name = CStr::from_bytes_with_nul(with_nul_at(&self.arena, start)).expect("pushed from a CStr");
        let directory = match self.arena[start as usize] {
            HINT_DIRECTORY => Some(true),
            HINT_OTHER => Some(false),
            _ => None,
        };
        Listed { name, directory }
    }

    /// True if the name is in the listing.
    pub(super) fn contains(&self, name: &CStr) -> bool {
        self.order.binary_search_by(|&start| name_at(&self.arena, start).cmp(name.to_bytes())).is_ok()
    }

    /// Keeps only the names that `keep` says yes to.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        let arena = &self.arena;
        self.order.retain(|&start| keep(name_at(arena, start)));
    }

    /// Adds the names that are not there yet.
    pub(super) fn add_missing<'n>(&mut self, names: impl Iterator<Item = &'n CStr>) -> Result<(), Errno> {
        let missing: Vec<&CStr> = names.filter(|name| !self.contains(name)).collect();
        for name in &missing {
            self.push(name, HINT_UNKNOWN)?;
        }
        if !missing.is_empty() {
            self.sort();
        }
        Ok(())
    }

    fn read(&mut self, directory: &Directory, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Errno> {
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let hint = match entry.file_type() {
                FileType::Unknown => HINT_UNKNOWN,
                FileType::Directory => HINT_DIRECTORY,
                _ => HINT_OTHER,
            };
            if !matches!(entry.file_name().to_bytes(), b"" | b"." | b"..") {
                self.push(entry.file_name(), hint)?;
            }
        }
        Ok(())
    }

    /// Fails with EOVERFLOW where the names of one directory take more than 4 GiB (some 100 million).
    fn push(&mut self, name: &CStr, hint: u8) -> Result<(), Errno> {
        let start = u32::try_from(self.arena.len()).map_err(|_| Errno::OVERFLOW)?;
        let length = u16::try_from(name.to_bytes().len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.arena.push(hint);
        self.arena.extend_from_slice(&length.to_le_bytes());
        self.arena.extend_from_slice(name.to_bytes_with_nul());
        self.order.push(start);
        Ok(())
    }

    fn sort(&mut self) {
        let Self { arena, order } = self;
        order.sort_unstable_by(|&left, &right| name_at(arena, left).cmp(name_at(arena, right)));
        // Why: a file system that lists a name twice while it changes must not break the strict order.
        order.dedup_by(|later, earlier| name_at(arena, *later) == name_at(arena, *earlier));
    }
}

/// The name of the entry that begins at `start` in an arena.
fn name_at(arena: &[u8], start: u32) -> &[u8] {
    let name = with_nul_at(arena, start);
    &name[..name.len() - 1]
}

fn with_nul_at(arena: &[u8], start: u32) -> &[u8] {
    let entry = &arena[start as usize + 1..];
    let length = usize::from(u16::from_le_bytes([entry[0], entry[1]]));
    &entry[2..2 + length + 1]
}
