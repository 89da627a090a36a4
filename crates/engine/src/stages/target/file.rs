//! One regular file on its way into the target.
//!
//! Its pieces come in any order and from several threads; nothing is opened before the first one comes. Whoever brings
//! the last piece finishes it: length, metadata, name. Invariants: an existing file is never written to, only replaced
//! by renaming a complete one over it; nor does a large file show under its name before it is complete; a file that
//! fails, or that is dropped unfinished, leaves nothing behind. Descriptors are bounded: above the limit a file that
//! waits for more pieces is closed and opened again later.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::directory::{Directory, Identity, Name, Standing};
use super::metadata::{self, Losses, Object, Owners, Strays};
use crate::entry::{Entry, TreeKey};

/// A new file of more bytes than this is written under a temporary name first.
const VISIBLE_BYTES_MAX: u64 = 1 << 20;

/// Counts open files, so that those that wait can be closed in time.
#[derive(Debug)]
pub struct OpenFiles {
    now: AtomicUsize,
    max: usize,
}

impl OpenFiles {
    /// At most `max` waiting files stay open.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { now: AtomicUsize::new(0), max })
    }
}

/// An open file that is counted.
#[derive(Debug)]
struct Counted {
    handle: OwnedFd,
    files: Arc<OpenFiles>,
}

impl Counted {
    fn new(handle: OwnedFd, files: &Arc<OpenFiles>) -> Self {
        files.now.fetch_add(1, Ordering::Relaxed);
        Self { handle, files: Arc::clone(files) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.files.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to be written.
#[derive(Debug)]
pub struct FilePlan {
    /// Its path in the snapshot; the last component is its name.
    pub key: TreeKey,
    /// Its metadata. The content in here is not looked at.
    pub entry: Entry,
    /// Where it goes.
    pub directory: Arc<Directory>,
    /// True if something stands there that shall be replaced.
    pub replace: bool,
}

/// A regular file that is being written.
#[derive(Debug)]
pub struct TargetFile {
    plan: FilePlan,
    files: Arc<OpenFiles>,
    pending: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Set once the file exists: how it was made.
    made: Option<Made>,
    /// The open handle; a file that exists may be closed meanwhile.
    handle: Option<Counted>,
    /// End of the farthest piece so far, in bytes.
    end: u64,
    /// True once it failed or was finished: no more pieces are taken.
    closed: bool,
}

#[derive(Debug, Clone)]
struct Made {
    standing: Standing,
    temporary: Option<Vec<u8>>,
}

impl TargetFile {
    /// A file that nobody has begun to write. The caller holds the first claim on it (see [`Self::claim`]).
    #[must_use]
    pub fn new(plan: FilePlan, files: &Arc<OpenFiles>) -> Arc<Self> {
        Arc::new(Self { plan, files: Arc::clone(files), pending: AtomicUsize::new(1), state: Mutex::default() })
    }

    /// Its path in the snapshot.
    #[must_use]
    pub fn key(&self) -> &TreeKey {
        &self.plan.key
    }

    /// The directory it goes into.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.plan.directory
    }

    /// Its metadata.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.plan.entry
    }

    /// Announces one more piece.
    pub fn claim(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that one announced piece was brought, or given up. True for the last: the caller then calls
    /// [`Self::finish`].
    #[must_use]
    pub fn release(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Writes a piece at `offset` bytes. Does nothing once the file failed.
    ///
    /// # Errors
    /// When it can't be written; the file has then failed and left nothing behind.
    pub fn write(&self, piece: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Ok(());
        }
        let result = self.write_piece(&mut state, piece, offset);
        if result.is_err() {
            self.abandon(&mut state);
        }
        result
    }

    /// Gives the file up. True if it had not failed before: the caller then reports why.
    pub fn fail(&self) -> bool {
        let mut state = self.lock();
        let first = !state.closed;
        self.abandon(&mut state);
        first
    }

    /// Length, metadata and name, after the last piece. `None` if it failed before.
    ///
    /// # Errors
    /// When it can't be completed; it has then left nothing behind.
    pub fn finish(&self, owners: &Owners) -> io::Result<Option<(Identity, Losses)>> {
        let mut state = self.lock();
        if state.closed {
            return Ok(None);
        }
        match self.complete(&mut state, owners) {
            Ok(done) => {
                state.closed = true;
                state.handle = None;
                Ok(Some(done))
            }
            Err(error) => {
                self.abandon(&mut state);
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_piece(&self, state: &mut State, mut piece: &[u8], mut offset: u64) -> io::Result<()> {
        self.open(state)?;
        let handle = &state.handle.as_ref().expect("it was opened above").handle;
        while !piece.is_empty() {
            match rustix::io::pwrite(handle, piece, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    piece = &piece[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        state.end = state.end.max(offset);
        if self.pending.load(Ordering::Relaxed) > 1 && self.files.now.load(Ordering::Relaxed) > self.files.max {
            state.handle = None;
        }
        Ok(())
    }

    fn complete(&self, state: &mut State, owners: &Owners) -> io::Result<(Identity, Losses)> {
        self.open(state)?;
        let handle = &state.handle.as_ref().expect("it was opened above").handle;
        if state.end < self.plan.entry.size {
            rustix::fs::ftruncate(handle, self.plan.entry.size)?;
        }
        let made = state.made.as_ref().expect("it was made when it was opened");
        let strays = Strays::Inherited(self.plan.directory.inherits());
        let losses = metadata::apply(Object::Open(handle.as_fd()), &self.plan.entry, &made.standing, strays, owners);
        if let Some(temporary) = &made.temporary {
            self.take_name(Name::new(temporary)?)?;
        }
        Ok((made.standing.identity, losses))
    }

    fn take_name(&self, temporary: Name<'_>) -> io::Result<()> {
        let (directory, name) = (&self.plan.directory, Name::new(self.plan.key.name())?);
        if self.plan.replace {
            return directory.rename(temporary, name);
        }
        let handle = directory.handle();
        match rustix::fs::renameat_with(handle, temporary.bytes(), handle, name.bytes(), RenameFlags::NOREPLACE) {
            // Some file systems can't rename without replacing.
            Err(Errno::INVAL | Errno::NOSYS) => directory.rename(temporary, name),
            result => Ok(result?),
        }
    }

    /// Makes the file, or opens it again.
    fn open(&self, state: &mut State) -> io::Result<()> {
        if state.handle.is_some() {
            return Ok(());
        }
        let handle = match &state.made {
            Some(made) => self.reopen(made)?,
            None => {
                let (handle, temporary) = self.make()?;
                let standing = rustix::fs::fstat(&handle)?.into();
                metadata::prepare_empty(handle.as_fd(), &self.plan.entry);
                state.made = Some(Made { standing, temporary });
                handle
            }
        };
        state.handle = Some(Counted::new(handle, &self.files));
        Ok(())
    }

    fn make(&self) -> io::Result<(OwnedFd, Option<Vec<u8>>)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = self.plan.directory.handle();
        // Why 0600: until the owner is right, nobody else may read the content.
        let make = |name: Name<'_>| Ok(rustix::fs::openat(directory, name.bytes(), flags, Mode::RUSR | Mode::WUSR)?);
        if self.plan.replace || self.plan.entry.size > VISIBLE_BYTES_MAX {
            let (name, handle) = self.plan.directory.with_temporary_name(make)?;
            Ok((handle, Some(name)))
        } else {
            Ok((make(Name::new(self.plan.key.name())?)?, None))
        }
    }

    fn reopen(&self, made: &Made) -> io::Result<OwnedFd> {
        let name = Name::new(made.temporary.as_deref().unwrap_or(self.plan.key.name()))?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(self.plan.directory.handle(), name.bytes(), flags, Mode::empty())?;
        if Standing::from(rustix::fs::fstat(&handle)?).identity != made.standing.identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was replaced while it was restored"));
        }
        Ok(handle)
    }

    /// Removes what was made of an unfinished file.
    fn abandon(&self, state: &mut State) {
        state.handle = None;
        if !state.closed
            && let Some(made) = &state.made
        {
            let name = made.temporary.as_deref().unwrap_or(self.plan.key.name());
            // A remnant that can't be removed is harmless: the file is reported as failed in any case.
            let _ = Name::new(name).and_then(|name| self.plan.directory.unlink(name));
        }
        state.closed = true;
    }
}

impl Drop for TargetFile {
    fn drop(&mut self) {
        let mut state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.abandon(&mut state);
    }
}
