//! One regular file on its way into the target.
//!
//! Its pieces come in any order and from several threads; nothing is opened before the first one comes. Whoever brings
//! the last piece finishes it: length, metadata, name. Invariants: an existing file is never written to, only replaced
//! by renaming a complete one over it; nor does a large file show under its name before it is complete; a file that
//! fails, or that is dropped unfinished, leaves nothing behind. Descriptors are bounded: above the limit a file that
//! waits for more pieces is closed and opened again later.
//!
//! A large file goes past the page cache ([`super::direct`]), as far as its file system allows. Invariant: while a direct
//! write of a file is under way nothing of it is written through the cache.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::direct::{self, Blocks, DIRECT_FILE_BYTES_MIN, Scratch};
use super::directory::{Directory, Identity, Name, Standing};
use super::metadata::{self, Losses, Object, Owners, Strays};
use super::temporary;
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
    /// True if that is a directory, which has to be cleared first.
    pub clears: bool,
}

/// A regular file that is being written.
#[derive(Debug)]
pub struct TargetFile {
    plan: FilePlan,
    files: Arc<OpenFiles>,
    pending: AtomicUsize,
    /// Shared by those who write; whoever turns from direct to cached writes is alone. Taken before `state`.
    writing: RwLock<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Set once the file exists: how it was made.
    made: Option<Made>,
    /// The open handle; a file that exists may be closed meanwhile.
    handle: Option<Arc<Counted>>,
    /// The second handle, for direct writes.
    direct: Direct,
    /// What could not be written directly yet.
    blocks: Blocks,
    /// End of the farthest piece so far, in bytes.
    end: u64,
    /// True once it failed or was finished: no more pieces are taken.
    closed: bool,
}

/// Whether a file goes past the page cache.
#[derive(Debug, Default)]
enum Direct {
    /// That shows when the next piece comes.
    #[default]
    Untried,
    Open(Arc<Counted>),
    /// It is too short, or its file system refuses.
    No,
}

/// How one piece goes on its way.
enum Way<'p> {
    Cached(Arc<Counted>),
    Direct(Arc<Counted>, direct::Run<'p>),
    /// From here on the file goes through the cache.
    NoLonger(direct::Run<'p>),
}

impl State {
    /// Closes the handles; the next piece opens them again.
    fn close(&mut self) {
        self.handle = None;
        if let Direct::Open(_) = self.direct {
            self.direct = Direct::Untried;
        }
    }
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
        let state = State::default();
        Arc::new(Self {
            plan,
            files: Arc::clone(files),
            pending: AtomicUsize::new(1),
            writing: RwLock::default(),
            state: state.into(),
        })
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

    /// True if it goes past the page cache, where its file system allows.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.plan.entry.size >= DIRECT_FILE_BYTES_MIN
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

    /// Writes a piece at `offset` bytes; no byte may come twice. Does nothing once the file failed.
    ///
    /// # Errors
    /// When it can't be written; the file has then failed and left nothing behind.
    pub fn write(&self, piece: &[u8], offset: u64, scratch: &mut Scratch) -> io::Result<()> {
        let result = self.write_shared(piece, offset, scratch).and_then(|rest| match rest {
            Some(run) => self.leave_direct(&run),
            None => Ok(()),
        });
        result.or_else(|error| if self.fail() { Err(error) } else { Ok(()) })
    }

    /// Gives the file up. True if it had not failed before: the caller then reports why.
    pub fn fail(&self) -> bool {
        let mut state = self.lock();
        let first = !state.closed;
        self.abandon(&mut state);
        first
    }

    /// Length, metadata and name, after the last piece. `None` if it failed before. Where a directory has to be cleared for it,
    /// `clear` is called when all else is done.
    ///
    /// # Errors
    /// When it can't be completed; it has then left nothing behind.
    pub fn finish(
        &self,
        owners: &Owners,
        clear: &dyn Fn(&Arc<Directory>, &TreeKey) -> io::Result<()>,
    ) -> io::Result<Option<(Identity, Losses)>> {
        let mut state = self.lock();
        if state.closed {
            return Ok(None);
        }
        match self.complete(&mut state, owners, clear) {
            Ok(done) => {
                state.closed = true;
                state.close();
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

    /// Writes a piece beside others. Gives what is to be written through the cache, where direct writes must end.
    fn write_shared<'p>(
        &self,
        piece: &'p [u8],
        offset: u64,
        scratch: &mut Scratch,
    ) -> io::Result<Option<direct::Run<'p>>> {
        let _shared = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        let Some(way) = self.way(piece, offset)? else { return Ok(None) };
        let rest = match way {
            Way::Cached(handle) => {
                direct::write_all(&handle.handle, piece, offset)?;
                None
            }
            Way::Direct(handle, run) => match scratch.write(&handle.handle, &run) {
                Ok(()) => None,
                Err(error) if direct::is_refusal(error) => Some(run),
                Err(error) => return Err(error.into()),
            },
            Way::NoLonger(run) => Some(run),
        };
        if self.pending.load(Ordering::Relaxed) > 1 && self.files.now.load(Ordering::Relaxed) > self.files.max {
            let mut state = self.lock();
            state.close();
        }
        Ok(rest)
    }

    /// Opens what is needed and decides. `None` once the file failed.
    fn way<'p>(&self, piece: &'p [u8], offset: u64) -> io::Result<Option<Way<'p>>> {
        let mut state = self.lock();
        if state.closed {
            return Ok(None);
        }
        let handle = self.open(&mut state)?;
        state.end = state.end.max(offset + piece.len() as u64);
        if let Direct::Untried = state.direct {
            state.direct = self.try_direct(&state, &handle);
        }
        let Direct::Open(direct) = &state.direct else { return Ok(Some(Way::Cached(handle))) };
        let direct = Arc::clone(direct);
        let run = state.blocks.cut(piece, offset);
        Ok(Some(if state.blocks.are_too_many() { Way::NoLonger(run) } else { Way::Direct(direct, run) }))
    }

    /// Opens a second handle, for direct writes. Why not one for both: the flag counts for all threads that write.
    fn try_direct(&self, state: &State, handle: &Counted) -> Direct {
        let size = self.plan.entry.size;
        let Some(made) = state.made.as_ref().filter(|_| self.is_large()) else { return Direct::No };
        // Why the length now: writes within a file may run beside each other, those that lengthen it may not.
        match self.reopen(made, OFlags::DIRECT) {
            Ok(direct) if rustix::fs::ftruncate(&handle.handle, size).is_ok() => {
                Direct::Open(Arc::new(Counted::new(direct, &self.files)))
            }
            _ => Direct::No,
        }
    }

    /// Ends direct writes of this file and writes `run`, and what waits, through the cache.
    fn leave_direct(&self, run: &direct::Run<'_>) -> io::Result<()> {
        let _alone = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        if state.closed {
            return Ok(());
        }
        let handle = self.open(&mut state)?;
        state.direct = Direct::No;
        self.write_waiting(&mut state, &handle)?;
        let mut offset = run.offset;
        for part in run.parts() {
            direct::write_all(&handle.handle, part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Writes the blocks that wait through the cache; none of them beyond the file's end.
    fn write_waiting(&self, state: &mut State, handle: &Counted) -> io::Result<()> {
        for (offset, block) in state.blocks.take() {
            let length = self.plan.entry.size.saturating_sub(offset).min(block.len() as u64);
            let length = usize::try_from(length).expect("at most a block");
            direct::write_all(&handle.handle, &block[..length], offset)?;
        }
        Ok(())
    }

    fn complete(
        &self,
        state: &mut State,
        owners: &Owners,
        clear: &dyn Fn(&Arc<Directory>, &TreeKey) -> io::Result<()>,
    ) -> io::Result<(Identity, Losses)> {
        let handle = self.open(state)?;
        self.write_waiting(state, &handle)?;
        let handle = &handle.handle;
        if state.end < self.plan.entry.size {
            rustix::fs::ftruncate(handle, self.plan.entry.size)?;
        }
        let made = state.made.as_ref().expect("it was made when it was opened");
        let strays = Strays::Inherited(self.plan.directory.inherits());
        let losses = metadata::apply(Object::Open(handle.as_fd()), &self.plan.entry, &made.standing, strays, owners);
        if let Some(temporary) = &made.temporary {
            if self.plan.clears {
                clear(&self.plan.directory, &self.plan.key)?;
            }
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

    /// Makes the file, or opens it again, unless it is open.
    fn open(&self, state: &mut State) -> io::Result<Arc<Counted>> {
        if let Some(handle) = &state.handle {
            return Ok(Arc::clone(handle));
        }
        let handle = match &state.made {
            Some(made) => {
                let handle = self.reopen(made, OFlags::empty())?;
                if made.temporary.is_some() {
                    temporary::hold_again(&handle);
                }
                handle
            }
            None => {
                let (handle, temporary) = self.make()?;
                let standing = rustix::fs::fstat(&handle)?.into();
                metadata::prepare_empty(handle.as_fd(), &self.plan.entry);
                state.made = Some(Made { standing, temporary });
                handle
            }
        };
        let handle = Arc::new(Counted::new(handle, &self.files));
        state.handle = Some(Arc::clone(&handle));
        Ok(handle)
    }

    fn make(&self) -> io::Result<(OwnedFd, Option<Vec<u8>>)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = self.plan.directory.handle();
        // Why 0600: until the owner is right, nobody else may read the content.
        let make = |name: Name<'_>| -> io::Result<OwnedFd> {
            Ok(rustix::fs::openat(directory, name.bytes(), flags, Mode::RUSR | Mode::WUSR)?)
        };
        if self.plan.replace || self.plan.entry.size > VISIBLE_BYTES_MAX {
            let make = |name: Name<'_>| {
                let handle = make(name)?;
                temporary::hold(&handle).map(|()| handle)
            };
            let (name, handle) = self.plan.directory.with_temporary_name(make)?;
            Ok((handle, Some(name)))
        } else {
            Ok((make(Name::new(self.plan.key.name())?)?, None))
        }
    }

    fn reopen(&self, made: &Made, more: OFlags) -> io::Result<OwnedFd> {
        let name = Name::new(made.temporary.as_deref().unwrap_or(self.plan.key.name()))?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
        let handle = rustix::fs::openat(self.plan.directory.handle(), name.bytes(), flags, Mode::empty())?;
        if Standing::from(rustix::fs::fstat(&handle)?).identity != made.standing.identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was replaced while it was restored"));
        }
        Ok(handle)
    }

    /// Removes what was made of an unfinished file.
    fn abandon(&self, state: &mut State) {
        state.close();
        state.blocks.take();
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

#[cfg(test)]
mod tests;
