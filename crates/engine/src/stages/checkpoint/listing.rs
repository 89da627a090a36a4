//! What lies in a checkpoint at one moment: names, sizes, times and inodes, to be compared with another moment.
//!
//! Links are not followed: a snapshot keeps the link, not what it leads to. Nothing but directories is opened here.
//!
//! A network file system keeps what it heard of a file for seconds, so that two looks might be one answer while another
//! machine writes. Each look asks the server, for a directory before its names are read.
//!
//! Invariants: entries ascend by path; a listing has at most [`ENTRIES_MAX`].

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::walk::{Device, Stat, StatKind};
use crate::clock::Timestamp;

/// A checkpoint of more entries is refused: each takes about 200 bytes.
pub const ENTRIES_MAX: usize = 1 << 18;
/// Directories of checkpoints are not nested deeper.
const DEPTH_MAX: usize = 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}

/// One entry as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Relative to the checkpoint; empty for the checkpoint itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: SeenKind,
    /// Length of a file in bytes; 0 for others.
    pub size: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Inode, and the device that it is on.
    pub inode: (u64, Device),
}

impl Seen {
    fn look(place: &Path, path: PathBuf) -> io::Result<Self> {
        let stat = Stat::of_path_now(place)?;
        let kind = match stat.kind {
            StatKind::File => SeenKind::File,
            StatKind::Directory => SeenKind::Directory,
            StatKind::Symlink => SeenKind::Link,
            _ => SeenKind::Other,
        };
        let size = if kind == SeenKind::File { stat.size } else { 0 };
        Ok(Self { path, kind, size, mtime: stat.mtime, ctime: stat.ctime, inode: (stat.inode, stat.device) })
    }

    /// The path as text; what is no text matches no pattern.
    pub(super) fn text(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// The last component of the path.
    pub(super) fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// All of a checkpoint at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    entries: Vec<Seen>,
}

impl Listing {
    /// Looks at a directory and all below, or at a single file.
    ///
    /// # Errors
    /// When something vanishes meanwhile or can't be looked at, or there is too much.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        let top = Seen::look(path, PathBuf::new())?;
        let is_directory = top.kind == SeenKind::Directory;
        listing.entries.push(top);
        if is_directory {
            listing.descend(path, Path::new(""), 0)?;
        }
        listing.entries.sort_unstable_by(|left, right| left.path.cmp(&right.path));
        Ok(listing)
    }

    fn descend(&mut self, directory: &Path, relative: &Path, depth: usize) -> io::Result<()> {
        for item in fs::read_dir(directory)? {
            let item = item?;
            if self.entries.len() >= ENTRIES_MAX || depth >= DEPTH_MAX {
                return Err(io::Error::other(format!(
                    "more than {ENTRIES_MAX} entries, or nested deeper than {DEPTH_MAX}"
                )));
            }
            let path = relative.join(item.file_name());
            let seen = Seen::look(&item.path(), path.clone())?;
            let is_directory = seen.kind == SeenKind::Directory;
            self.entries.push(seen);
            if is_directory {
                self.descend(&item.path(), &path, depth + 1)?;
            }
        }
        Ok(())
    }

    /// All entries, ascending by path.
    #[must_use]
    pub fn entries(&self) -> &[Seen] {
        &self.entries
    }

    /// The regular files.
    pub fn files(&self) -> impl Iterator<Item = &Seen> {
        self.entries.iter().filter(|entry| entry.kind == SeenKind::File)
    }

    /// The regular file of this path.
    #[must_use]
    pub fn file(&self, path: impl AsRef<Path>) -> Option<&Seen> {
        let place = self.entries.binary_search_by(|entry| entry.path.as_path().cmp(path.as_ref())).ok()?;
        Some(&self.entries[place]).filter(|entry| entry.kind == SeenKind::File)
    }

    /// Length of all files in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The newest time of anything in it.
    #[must_use]
    pub fn changed(&self) -> Timestamp {
        self.entries.iter().map(|entry| entry.mtime.max(entry.ctime)).max().unwrap_or_default()
    }

    /// The first path that is not the same in both.
    #[must_use]
    pub fn difference(&self, later: &Self) -> Option<PathBuf> {
        let length = self.entries.len().max(later.entries.len());
        (0..length).find_map(|place| match (self.entries.get(place), later.entries.get(place)) {
            (before, now) if before == now => None,
            // Why the smaller: it is the one that the other listing lacks.
            (Some(before), Some(now)) => Some(before.path.clone().min(now.path.clone())),
            (before, now) => before.or(now).map(|entry| entry.path.clone()),
        })
    }

    /// Stands for the files' names, sizes and modification times: a copy that keeps times has the same, and a step that was
    /// written anew has another. 32 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self, name: &Path) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(name.as_os_str().as_bytes());
        for file in self.files() {
            let path = file.path.as_os_str().as_bytes();
            hasher.update(&u64::try_from(path.len()).unwrap_or(u64::MAX).to_le_bytes()).update(path);
            hasher.update(&file.size.to_le_bytes());
            hasher.update(&file.mtime.seconds.to_le_bytes()).update(&file.mtime.nanos.to_le_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(what: &str, act: impl FnOnce(&Path), path: Option<&str>, same_fingerprint: bool) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("inner")).unwrap();
        fs::write(root.join("inner/b"), b"bytes").unwrap();
        fs::write(root.join("a"), b"bytes").unwrap();
        let before = Listing::of(root).unwrap();
        // Why: the clock of a file system is coarse; a change counts only from its next tick on.
        let probe = folder.path().with_extension("probe");
        while {
            fs::write(&probe, b"x").unwrap();
            Listing::of(&probe).unwrap().changed() <= before.changed()
        } {}
        fs::remove_file(probe).unwrap();
        act(root);
        let after = Listing::of(root).unwrap();
        let found = before.difference(&after);
        assert_eq!(found.is_some(), path.is_some(), "{what}: {found:?}");
        if let Some(path) = path.filter(|path| !path.is_empty()) {
            // Why not the first: the directory above has changed too where a name came or went.
            assert!(before.entries.iter().chain(&after.entries).any(|entry| entry.path == Path::new(path)), "{what}");
        }
        let name = Path::new("step-1");
        assert_eq!(before.fingerprint(name) == after.fingerprint(name), same_fingerprint, "{what}");
        assert_ne!(before.fingerprint(name), before.fingerprint(Path::new("step-2")));
    }

    #[test]
    fn every_change_is_seen() {
        let epoch = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let touch = |path: PathBuf| fs::File::options().write(true).open(path).unwrap().set_modified(epoch(5)).unwrap();
        change("nothing", |_| {}, None, true);
        change("a byte more", |root| fs::write(root.join("a"), b"bytes!").unwrap(), Some("a"), false);
        change("another time", |root| touch(root.join("inner/b")), Some("inner/b"), false);
        change("a new file", |root| fs::write(root.join("inner/c"), b"").unwrap(), Some("inner/c"), false);
        change("a new directory", |root| fs::create_dir(root.join("more")).unwrap(), Some("more"), true);
        change("one file less", |root| fs::remove_file(root.join("a")).unwrap(), Some("a"), false);
        change(
            "a mode",
            |root| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
                fs::set_permissions(root.join("a"), mode).unwrap();
            },
            Some("a"),
            true,
        );
        let copy = |root: &Path| {
            let time = fs::metadata(root.join("a")).unwrap().modified().unwrap();
            fs::write(root.join("new"), b"bytes").unwrap();
            fs::File::options().write(true).open(root.join("new")).unwrap().set_modified(time).unwrap();
            fs::rename(root.join("new"), root.join("a")).unwrap();
        };
        change("another inode with the same name, size and time", copy, Some("a"), true);
    }
}
