//! A store in a directory: each object is a file under its name.
//!
//! A write goes to a temporary file in `tmp/`, is flushed, becomes visible under its name by a hard link (which fails if
//! the name exists: the atomic put-if-absent), and the directory is flushed. File systems without hard links (vfat,
//! exfat, some FUSE) get `renameat2` with `RENAME_NOREPLACE` instead; where neither works, writing fails with an error.
//!
//! Invariants: a name shows nothing or the whole object; an acknowledged object is durable, and so are the directories
//! above it; a failed write leaves no object and no temporary. A killed process leaves temporaries behind: they are never
//! objects (their names have a `-`), hold a lock while their writer lives, and go with
//! [`LocalStore::sweep_temporaries`]. Everything is reached from one open descriptor of the root, so a file system that
//! is unmounted or replaced under a running process is not written past. Directories that become empty stay.

mod direct;

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{self, Advice, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::memory::other_bytes_there;
use super::{
    Capabilities, Created, NAME_COMPONENTS_MAX, ObjectInfo, Store, StoreError, check_name, check_prefix, clip,
    is_component,
};
use crate::clock::Timestamp;
use crate::units::MIB;

/// Where unfinished writes lie.
const TEMPORARIES: &str = "tmp";
/// Writeback starts after each piece of this length, so that little is left to wait for at the final flush. Measured for
/// 32 MiB on ext4: 15.7 ms with it, 23.0 ms without; pieces of 2 MiB the same, of 8 MiB slower.
const WRITEBACK_PIECE_BYTES: usize = 4 * MIB;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const READ_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Objects in a directory of a local file system.
#[derive(Debug)]
pub struct LocalStore {
    root: OwnedFd,
    path: PathBuf,
    /// True once the file system turned out to have no hard links.
    renames: AtomicBool,
    /// Directories that this process knows to exist durably. At most one entry a directory.
    settled: Mutex<HashSet<String>>,
    temporary_prefix: String,
    temporary_counter: AtomicU64,
}

impl LocalStore {
    /// Opens the store in `path`, making the directory and those above it (mode 0700) where they are missing.
    ///
    /// # Errors
    /// When a directory can't be made or opened.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let what = || format!("making {}", path.display());
        let missing: Vec<&Path> = path.ancestors().take_while(|part| !part.exists()).collect();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| StoreError::from_io(what(), error))?;
        for made in missing.iter().filter(|made| !made.as_os_str().is_empty()) {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            flush_directory(fs::CWD, parent).map_err(|error| StoreError::from_io(what(), error.into()))?;
        }
        Self::open(path)
    }

    /// Opens the store in an existing directory. Writes nothing.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such directory.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let root = fs::open(&path, READ_DIRECTORY, Mode::empty()).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => StoreError::Missing(path.display().to_string()),
            _ => StoreError::from_io(format!("opening {}", path.display()), error.into()),
        })?;
        // Why: pid and a keyed hash of nothing (64 random bits) keep apart the processes, and hosts, of a shared directory.
        let random = std::hash::RandomState::new().build_hasher().finish();
        Ok(Self {
            root,
            path,
            renames: AtomicBool::new(false),
            settled: Mutex::default(),
            temporary_prefix: format!("{TEMPORARIES}/w-{}-{random:016x}-", std::process::id()),
            temporary_counter: AtomicU64::new(0),
        })
    }

    /// Removes what writers that are gone left in `tmp/` and gives the number of files removed. A temporary whose writer
    /// lives, on this host or on another one that shares locks, is locked and stays.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn sweep_temporaries(&self) -> Result<u64, StoreError> {
        let directory = match fs::openat(&self.root, TEMPORARIES, READ_DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(0),
            Err(error) => return Err(self.error("reading", TEMPORARIES, error)),
        };
        let mut removed = 0;
        for item in Dir::read_from(&directory).map_err(|error| self.error("reading", TEMPORARIES, error))? {
            let item = item.map_err(|error| self.error("reading", TEMPORARIES, error))?;
            if !item.file_name().to_bytes().starts_with(b"w-") {
                continue;
            }
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let Ok(file) = fs::openat(&directory, item.file_name(), flags, Mode::empty()) else { continue };
            let dead = fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            if dead && fs::unlinkat(&directory, item.file_name(), AtFlags::empty()).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn error(&self, doing: &str, name: &str, error: impl Into<io::Error>) -> StoreError {
        StoreError::from_io(format!("{doing} {}", self.path.join(name).display()), error.into())
    }

    /// Opens an object for reading and gives its status.
    fn open_object(&self, name: &str) -> Result<(File, Stat), StoreError> {
        check_name(name)?;
        // Why: without NONBLOCK, a FIFO that somebody put in the place of an object would hold us for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = fs::openat(&self.root, name, flags, Mode::empty()).map_err(|error| self.missing_or(name, error))?;
        let stat = fs::fstat(&file).map_err(|error| self.error("reading", name, error))?;
        self.check_regular(name, &stat)?;
        Ok((File::from(file), stat))
    }

    fn missing_or(&self, name: &str, error: Errno) -> StoreError {
        match error {
            Errno::NOENT | Errno::NOTDIR => StoreError::Missing(name.to_owned()),
            _ => self.error("reading", name, error),
        }
    }

    fn check_regular(&self, name: &str, stat: &Stat) -> Result<(), StoreError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(()),
            FileType::Directory => Err(StoreError::Missing(name.to_owned())),
            _ => Err(self.error("reading", name, io::Error::other("not a regular file"))),
        }
    }

    /// The whole of a write but for the choice between `put` and `create`.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        check_name(name)?;
        let failed = |error: io::Error| self.error("writing", name, error);
        let directory = parent(name);
        self.settle(TEMPORARIES).map_err(failed)?;
        self.settle(directory).map_err(failed)?;
        let temporary = self.write_temporary(bytes).map_err(failed)?;
        let mut published = self.publish(&temporary, name);
        if matches!(published, Err(Errno::NOENT)) {
            // Somebody removed the directory since it was settled.
            self.forget_settled();
            self.settle(directory).map_err(failed)?;
            published = self.publish(&temporary, name);
        }
        let created = published.map_err(|error| failed(error.into()))?;
        drop(temporary);
        if created == Created::Created {
            flush_directory(&self.root, directory).map_err(|error| failed(error.into()))?;
        }
        Ok(created)
    }

    /// Writes and flushes a new locked temporary.
    fn write_temporary(&self, bytes: &[u8]) -> io::Result<Temporary<'_>> {
        let mut temporary = self.new_temporary()?;
        let written = temporary.fill(bytes);
        if written.is_err() {
            // Why: a process forked just now may hold the file open, and a full disk needs the space at once.
            let _ = temporary.file.set_len(0);
        }
        written.map(|()| temporary)
    }

    fn new_temporary(&self) -> io::Result<Temporary<'_>> {
        loop {
            let number = self.temporary_counter.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}{number}", self.temporary_prefix);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = match fs::openat(&self.root, name.as_str(), flags, FILE_MODE) {
                Err(Errno::NOENT) => {
                    self.forget_settled();
                    self.settle(TEMPORARIES)?;
                    continue;
                }
                opened => opened?,
            };
            let temporary = Temporary { store: self, name, file: File::from(file) };
            // A sweep may have taken the lock between our open and here, and removed the file: then take another name.
            // Where locks do not exist, a sweep can't take one either, so nothing is at risk.
            let taken = fs::flock(&temporary.file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
            if !taken && fs::fstat(&temporary.file)?.st_nlink > 0 {
                return Ok(temporary);
            }
        }
    }

    /// Makes a temporary visible under `name`, unless that exists.
    fn publish(&self, temporary: &Temporary<'_>, name: &str) -> Result<Created, Errno> {
        if !self.renames.load(Ordering::Relaxed) {
            match fs::linkat(&self.root, temporary.name.as_str(), &self.root, name, AtFlags::empty()) {
                Ok(()) => return Ok(Created::Created),
                // Why: a network file system that repeats a request whose answer was lost says EXIST for its own success.
                Err(Errno::EXIST) if self.is_under(temporary, name)? => return Ok(Created::Created),
                Err(Errno::EXIST) => return Ok(Created::AlreadyThere),
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(error),
            }
        }
        let renamed = fs::renameat_with(&self.root, temporary.name.as_str(), &self.root, name, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => {
                self.renames.store(true, Ordering::Relaxed);
                Ok(Created::Created)
            }
            Err(Errno::EXIST) => Ok(Created::AlreadyThere),
            Err(error) => Err(error),
        }
    }

    /// True if the object `name` is this very file. Why not by the number of its names: whoever copies the directory with hard
    /// links gives a temporary another name too.
    fn is_under(&self, temporary: &Temporary<'_>, name: &str) -> Result<bool, Errno> {
        let ours = fs::fstat(&temporary.file)?;
        match fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(theirs) => Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)),
            // It went meanwhile, and was not ours: nobody deletes what its writer has not acknowledged.
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that a directory exists and will still exist after a crash: makes it and those above it where missing
    /// and flushes each one's parent, once a process.
    fn settle(&self, directory: &str) -> io::Result<()> {
        if directory.is_empty() || self.lock_settled().contains(directory) {
            return Ok(());
        }
        self.settle(parent(directory))?;
        match fs::mkdirat(&self.root, directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Why: also when it existed: whoever made it may have died before flushing.
        flush_directory(&self.root, parent(directory))?;
        self.lock_settled().insert(directory.to_owned());
        Ok(())
    }

    fn lock_settled(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_settled(&self) {
        self.lock_settled().clear();
    }

    /// Reads a range of an object, past the page cache where it is long; `remembered` takes what that holds.
    fn read(&self, name: &str, range: Option<Range<u64>>, remembered: bool) -> Result<Vec<u8>, StoreError> {
        let (file, stat) = self.open_object(name)?;
        let range = clip(range, u64::try_from(stat.st_size).unwrap_or(0));
        let failed = |error: io::Error| self.error("reading", name, error);
        let length = usize::try_from(range.end - range.start).map_err(|error| failed(io::Error::other(error)))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|error| failed(io::Error::other(error)))?;
        let from_memory = remembered && direct::is_cached(&file, length, range.start);
        if from_memory || !direct::read(&file, &mut bytes, length, range.start) {
            bytes.resize(length, 0);
            file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
        }
        Ok(bytes)
    }

    /// Lists below the directory whose name is `prefix` (empty, or ending in `/`) and has `depth` components. Memory: one
    /// directory buffer a level.
    fn list_below(&self, prefix: &str, depth: usize, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        let failed = |error| self.error("listing", prefix, error);
        let shown = if prefix.is_empty() { "." } else { prefix };
        let directory = match fs::openat(&self.root, shown, READ_DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        for item in Dir::new(directory).map_err(failed)? {
            let item = item.map_err(failed)?;
            let Some(component) = item.file_name().to_str().ok().filter(|name| is_component(name)) else { continue };
            let name = format!("{prefix}{component}");
            let stat = match fs::statat(&self.root, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat.map_err(failed)?,
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => each(info(&name, &stat)),
                FileType::Directory if depth + 1 < NAME_COMPONENTS_MAX => {
                    self.list_below(&format!("{name}/"), depth + 1, each)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.read(name, range, false)
    }

    fn get_remembered(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.read(name, range, true)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.write(name, bytes)? {
            Created::Created => Ok(()),
            Created::AlreadyThere if self.get(name, None)? == bytes => {
                // Why: whoever wrote it may have died before this flush, and we acknowledge it now.
                flush_directory(&self.root, parent(name)).map_err(|error| self.error("writing", name, error))
            }
            Created::AlreadyThere => Err(self.error("writing", name, other_bytes_there())),
        }
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.write(name, bytes)
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        check_name(name)?;
        let stat = fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|error| self.missing_or(name, error))?;
        self.check_regular(name, &stat)?;
        Ok(info(name, &stat))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        check_prefix(prefix)?;
        self.list_below(prefix, prefix.matches('/').count(), each)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        match fs::unlinkat(&self.root, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => Ok(()),
            Err(error) => Err(self.error("deleting", name, error)),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_create: true, ranged_get: true }
    }
}

/// An unfinished write; its file goes when it is dropped (the object keeps the content by its own link).
struct Temporary<'a> {
    store: &'a LocalStore,
    name: String,
    file: File,
}

impl Temporary<'_> {
    fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        let direct = direct::write_blocks(&self.file, bytes);
        for (index, piece) in bytes[direct..].chunks(WRITEBACK_PIECE_BYTES).enumerate() {
            let offset = (direct + index * WRITEBACK_PIECE_BYTES) as u64;
            self.file.write_all_at(piece, offset)?;
            // Why: on Linux this advice starts writing dirty pages out without waiting, as sync_file_range does. A failure
            // costs only time. The pages are still dirty or under writeback, so they stay cached.
            let _ = fs::fadvise(&self.file, offset, NonZeroU64::new(piece.len() as u64), Advice::DontNeed);
        }
        self.file.sync_all()
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Why: it may have been renamed away; and what can't be removed now, a later sweep removes.
        let _ = fs::unlinkat(&self.store.root, self.name.as_str(), AtFlags::empty());
    }
}

/// The directory part of a name; empty for the root.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Makes the entries of a directory durable.
fn flush_directory(root: impl std::os::fd::AsFd, directory: impl AsRef<Path>) -> Result<(), Errno> {
    let directory = directory.as_ref();
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let opened = fs::openat(root, directory, READ_DIRECTORY, Mode::empty())?;
    match fs::fsync(&opened) {
        // Why: some network and FUSE file systems have no such flush; they make entries durable by themselves or not at all.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        flushed => flushed,
    }
}

fn info(name: &str, stat: &Stat) -> ObjectInfo {
    let modified = Timestamp { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    ObjectInfo { name: name.to_owned(), length: u64::try_from(stat.st_size).unwrap_or(0), modified }
}

#[cfg(test)]
mod tests;
