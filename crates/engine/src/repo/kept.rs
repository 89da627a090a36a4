//! Files of the local cache that are mapped and looked things up in: index segments and directories.
//!
//! Each ends with the BLAKE3 of what is before it, keyed with the hash by which the caller knows it. What this process has
//! just written lies in the page cache as it was written; of any other file nobody knows what happened to it since, so
//! [`Kept::is_whole`] holds it against that checksum, once.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::ids::ObjectHash;
use crate::repo::cache::write_atomically;
use crate::repo::map::Bytes;
use crate::units::MIB;

/// Length of the checksum at the end.
const CHECKSUM_BYTES: usize = 32;
/// A file is read in pieces of this length to be held against its checksum.
const CHECK_BYTES: usize = MIB;

/// The bytes of such a file, or of one that would be, where there is no cache.
pub(crate) struct Kept {
    bytes: Bytes,
    /// The file that is mapped and was not written by this process.
    file: Option<Unproven>,
}

struct Unproven {
    key: ObjectHash,
    path: PathBuf,
    /// Device and inode: another process may have put a file of its own there.
    inode: (u64, u64),
    is_whole: OnceLock<bool>,
}

impl Kept {
    /// Bytes in memory.
    pub(crate) fn owned(bytes: Vec<u8>) -> Self {
        Self { bytes: Bytes::Owned(bytes), file: None }
    }

    /// Maps a file that is there; none where that can't be.
    pub(crate) fn open(path: &Path, key: &ObjectHash) -> Option<Self> {
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let bytes = Bytes::map(&file, CHECKSUM_BYTES).ok()?;
        let inode = (metadata.dev(), metadata.ino());
        let file = Unproven { key: *key, path: path.to_path_buf(), inode, is_whole: OnceLock::new() };
        Some(Self { bytes, file: Some(file) })
    }

    /// Writes what `produce` gives to `path` and maps it; none where that can't be. Not made durable: the checksum tells
    /// what a power cut left.
    pub(crate) fn write(
        path: &Path,
        key: &ObjectHash,
        produce: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> Option<Self> {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        let written = write_atomically(path, |file| {
            produce(&mut |block| {
                hasher.update(block);
                file.write_all(block)
            })?;
            file.write_all(hasher.finalize().as_bytes())
        });
        written.ok()?;
        Some(Self { file: None, ..Self::open(path, key)? })
    }

    /// True where the bytes are those that were put there. The file is read, not the map, so that its pages do not count
    /// as this process's memory.
    pub(crate) fn is_whole(&self) -> bool {
        let check = |file: &Unproven| file.check(self.bytes.len()).unwrap_or(false);
        self.file.as_ref().is_none_or(|file| *file.is_whole.get_or_init(|| check(file)))
    }

    /// Lets go of the memory that mapped pages take. They come back from the page cache, or the disk, when asked for.
    pub(crate) fn release(&self) {
        self.bytes.release();
    }
}

/// Bytes of mapped files that are in this process's memory now, those of its program among them; 0 where the system
/// does not tell.
pub(crate) fn mapped_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(2).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Unproven {
    fn check(&self, length: usize) -> io::Result<bool> {
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != self.inode {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.key.0);
        let mut piece = vec![0; CHECK_BYTES.min(length)];
        let mut left = length;
        while left > 0 {
            let now = left.min(piece.len());
            file.read_exact(&mut piece[..now])?;
            hasher.update(&piece[..now]);
            left -= now;
        }
        let mut checksum = [0; CHECKSUM_BYTES];
        file.read_exact(&mut checksum)?;
        Ok(hasher.finalize() == checksum)
    }
}
