//! An open directory of the target, and what can be done with one name in it.
//!
//! Invariants: a [`Name`] is one component that is neither `.` nor `..`; every system call here takes a directory
//! handle and such a name, with flags that refuse to follow a link. So whatever the tree or somebody who changes the
//! target meanwhile puts in the way, a call acts in that directory or fails. The one path that is resolved freely is
//! the target itself, where the user named it; one that a snapshot names is walked down like all else.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{metadata, temporary};
use crate::clock::Timestamp;

/// Bytes of directory entries that one system call may return.
const LISTING_BUFFER_BYTES: usize = 64 << 10;

/// One component of a path: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks one component.
    ///
    /// # Errors
    /// `InvalidInput` for anything that is not exactly one name.
    pub fn new(bytes: &'a [u8]) -> io::Result<Self> {
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"));
        }
        Ok(Self(bytes))
    }

    /// The bytes of the name.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Which inode something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The file system's device number.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
}

/// What stands in the target under a name.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Which inode.
    pub identity: Identity,
    /// Its type.
    pub kind: FileType,
    /// Permission bits (07777).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Number of names.
    pub links: u64,
    /// Size in bytes.
    pub size: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Last modification.
    pub mtime: Timestamp,
}

impl Standing {
    /// True for a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }
}

impl From<Stat> for Standing {
    fn from(stat: Stat) -> Self {
        Self {
            identity: Identity { device: stat.st_dev, inode: stat.st_ino },
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            #[allow(clippy::useless_conversion, reason = "the width differs between architectures")]
            links: stat.st_nlink.into(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            rdev: stat.st_rdev,
            mtime: Timestamp { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        }
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    handle: OwnedFd,
    identity: Identity,
    fresh: bool,
    inherits: Inherits,
}

/// What stands on the way down to a directory.
#[derive(Debug)]
pub struct Obstacle {
    /// Where.
    pub place: PathBuf,
    /// True for a symbolic link.
    pub link: bool,
    /// What the system said.
    pub error: io::Error,
}

/// What new things in a directory get from it without asking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inherits {
    /// A default ACL.
    pub acl: bool,
    /// Inode flags.
    pub flags: bool,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Directory {
    /// Opens the target itself. Links in the user's own path are followed.
    ///
    /// # Errors
    /// When it is no directory or can't be opened.
    pub fn open_root(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::existing(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// Opens the directory at an absolute path, from the root down, and follows no link. With `make` missing directories are
    /// made; without it, `None` tells that one is missing.
    ///
    /// # Errors
    /// With the place at which a link or something else stands, or that can't be made or opened.
    pub fn open_without_links(path: &Path, make: bool) -> Result<Option<Self>, Obstacle> {
        let at = |place: &Path, error: Errno| Obstacle { place: place.to_owned(), link: false, error: error.into() };
        // Why O_PATH: on the way down a user needs no right to list.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut place = PathBuf::from("/");
        let mut handle = rustix::fs::open(&place, flags, Mode::empty()).map_err(|error| at(&place, error))?;
        for component in path.components() {
            let name = match component {
                Component::RootDir => continue,
                Component::Normal(name) => name,
                _ => return Err(at(path, Errno::INVAL)),
            };
            place.push(name);
            let open = || rustix::fs::openat(&handle, name, flags, Mode::empty());
            let opened = match open() {
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => match rustix::fs::mkdirat(&handle, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(error) => Err(error),
                },
                opened => opened,
            };
            let is_link = || {
                let stat = rustix::fs::statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW);
                stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
            };
            let opened = opened.map_err(|error| Obstacle { link: is_link(), ..at(&place, error) })?;
            handle = opened;
        }
        let opened = rustix::fs::openat(&handle, c".", DIRECTORY, Mode::empty()).map_err(|error| at(&place, error))?;
        Self::existing(opened).map(Some).map_err(|error| Obstacle { place, link: false, error })
    }

    /// Opens the existing directory `name`.
    ///
    /// # Errors
    /// `NotADirectory` or `FilesystemLoop` where something else, such as a link, stands there.
    pub fn open(&self, name: Name<'_>) -> io::Result<Self> {
        Self::existing(open_beneath(&self.handle, name, ResolveFlags::empty())?)
    }

    /// Opens the directory `name` if it lies on the same mount as this one.
    ///
    /// # Errors
    /// `CrossesDevices` where another file system, or another part of this one, is mounted on it.
    pub fn open_same_mount(&self, name: Name<'_>) -> io::Result<Self> {
        let directory = Self::existing(open_beneath(&self.handle, name, ResolveFlags::NO_XDEV)?)?;
        if directory.identity.device == self.identity.device { Ok(directory) } else { Err(Errno::XDEV.into()) }
    }

    /// Makes the directory `name`, open to nobody else yet, free of what it would inherit.
    ///
    /// # Errors
    /// `AlreadyExists` where something stands there, or whatever the system says.
    pub fn create(&self, name: Name<'_>) -> io::Result<Self> {
        rustix::fs::mkdirat(&self.handle, name.0, Mode::RWXU)?;
        let handle = open_beneath(&self.handle, name, ResolveFlags::empty())?;
        metadata::disinherit(handle.as_fd(), self.inherits)?;
        let identity = Standing::from(rustix::fs::fstat(&handle)?).identity;
        Ok(Self { handle, identity, fresh: true, inherits: Inherits::default() })
    }

    /// Opens the directory that holds this one, if it is still the one expected.
    pub(super) fn parent_as(&self, expected: Rung) -> io::Result<Self> {
        let handle = rustix::fs::openat(&self.handle, c"..", DIRECTORY, Mode::empty())?;
        // Why: `..` is the one name that leads upwards. It is taken only if it ends where we came from.
        if Standing::from(rustix::fs::fstat(&handle)?).identity != expected.identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the directory was moved meanwhile"));
        }
        Ok(Self { handle, identity: expected.identity, fresh: expected.fresh, inherits: expected.inherits })
    }

    pub(super) fn rung(&self) -> Rung {
        Rung { identity: self.identity, fresh: self.fresh, inherits: self.inherits }
    }

    fn existing(handle: OwnedFd) -> io::Result<Self> {
        let identity = Standing::from(rustix::fs::fstat(&handle)?).identity;
        let inherits = metadata::inherits(handle.as_fd());
        Ok(Self { handle, identity, fresh: false, inherits })
    }

    /// The handle.
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Which inode it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// True if this run made it: nothing that this run did not make stands in it.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// What new things in it inherit.
    #[must_use]
    pub fn inherits(&self) -> Inherits {
        self.inherits
    }

    /// Lets things be made in a directory that stood there before: takes append-only and immutable off, and gives its
    /// owner the rights to it. Its own metadata is put on later. What can't be done shows when something is made.
    pub fn make_writable(&self) {
        let _ = metadata::unlock(self.handle());
        if let Ok(standing) = self.own_standing()
            && standing.mode & 0o700 != 0o700
            && standing.uid == rustix::process::geteuid().as_raw()
        {
            let _ = rustix::fs::fchmod(&self.handle, Mode::from_raw_mode(standing.mode | 0o700));
        }
    }

    /// What stands under `name`, itself and not what it may point to.
    ///
    /// # Errors
    /// When the system can't say.
    pub fn standing(&self, name: Name<'_>) -> io::Result<Option<Standing>> {
        match rustix::fs::statat(&self.handle, name.0, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory's own state.
    ///
    /// # Errors
    /// When the system can't say.
    pub fn own_standing(&self) -> io::Result<Standing> {
        Ok(rustix::fs::fstat(&self.handle)?.into())
    }

    /// Opens the regular file or directory `name` for reading, without waiting for a pipe's other end.
    ///
    /// # Errors
    /// `FilesystemLoop` for a link, or whatever the system says.
    pub fn open_for_metadata(&self, name: Name<'_>) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, name.0, flags, Mode::empty())?)
    }

    /// Removes the name of something that is not a directory.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn unlink(&self, name: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.handle, name.0, AtFlags::empty())?)
    }

    /// Removes the empty directory `name`.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn remove_directory(&self, name: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.handle, name.0, AtFlags::REMOVEDIR)?)
    }

    /// Moves `from` over `to` in this directory: whoever looks sees the old or the new, never neither. Where the old one
    /// is immutable or append-only, the flag is taken off first; other names of it have it again afterwards.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn rename(&self, from: Name<'_>, to: Name<'_>) -> io::Result<()> {
        let rename = || Ok(rustix::fs::renameat(&self.handle, from.0, &self.handle, to.0)?);
        match rename() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => self.without_locks(to, rename),
            result => result,
        }
    }

    /// Takes the name `name` away by `act` while append-only and immutable are off what it names. What has other names gets
    /// them back. Anything but a regular file or directory is not even opened: opening a device may set it going.
    ///
    /// # Errors
    /// When the system refuses, or what `act` fails with.
    pub fn without_locks(&self, name: Name<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self.standing(name)? {
            Some(Standing { kind: FileType::RegularFile | FileType::Directory, .. }) => {
                metadata::without_locks(self.open_for_metadata(name)?.as_fd(), act)
            }
            _ => act(),
        }
    }

    /// Gives `original`, a name in `from`, the second name `name` here. A symbolic link gets a name itself.
    ///
    /// # Errors
    /// `AlreadyExists` where something stands under `name`.
    pub fn link(&self, from: &Self, original: Name<'_>, name: Name<'_>) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from.handle, original.0, &self.handle, name.0, AtFlags::empty())?)
    }

    /// Calls `make` with temporary names until one is free.
    ///
    /// # Errors
    /// What `make` fails with, other than that the name is taken.
    pub fn with_temporary_name<T>(&self, mut make: impl FnMut(Name<'_>) -> io::Result<T>) -> io::Result<(Vec<u8>, T)> {
        loop {
            let name = temporary::next_name();
            match make(Name(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(made) => return Ok((name, made)),
            }
        }
    }

    /// All names in the directory, in ascending order of bytes.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn names(&self) -> io::Result<Listing> {
        let (mut arena, mut places) = (Vec::new(), Vec::new());
        self.each_name(|name| {
            places.push((arena.len(), arena.len() + name.len()));
            arena.extend_from_slice(name);
        })?;
        places.sort_unstable_by(|a, b| arena[a.0..a.1].cmp(&arena[b.0..b.1]));
        Ok(Listing { arena, places, next: 0 })
    }

    /// Gives each name in the directory, in the order of the file system.
    pub(super) fn each_name(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        // Why: a handle of its own, so that the position in the directory is nobody else's.
        let handle = rustix::fs::openat(&self.handle, c".", DIRECTORY, Mode::empty())?;
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BUFFER_BYTES];
        let mut entries = RawDir::new(handle, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                each(name);
            }
        }
        Ok(())
    }
}

/// What is needed to open a directory again as the one it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rung {
    identity: Identity,
    fresh: bool,
    inherits: Inherits,
}

/// Sorted names of a directory, consumed from the front.
#[derive(Debug)]
pub struct Listing {
    arena: Vec<u8>,
    places: Vec<(usize, usize)>,
    next: usize,
}

impl Listing {
    /// The first name that is left.
    #[must_use]
    pub fn first(&self) -> Option<&[u8]> {
        self.places.get(self.next).map(|&(start, end)| &self.arena[start..end])
    }

    /// Drops the first name that is left.
    pub fn advance(&mut self) {
        self.next += 1;
    }
}

/// Opens the directory `name` beneath `parent` without following anything. One component and `O_NOFOLLOW` already say
/// so; `openat2` lets the kernel say it too, where it is new enough (5.6) and no sandbox forbids the call.
fn open_beneath(parent: &OwnedFd, name: Name<'_>, more: ResolveFlags) -> io::Result<OwnedFd> {
    static UNAVAILABLE: AtomicBool = AtomicBool::new(false);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | more;
    if !UNAVAILABLE.load(Ordering::Relaxed) {
        match rustix::fs::openat2(parent, name.0, DIRECTORY, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => UNAVAILABLE.store(true, Ordering::Relaxed),
            Err(Errno::AGAIN) => {}
            result => return Ok(result?),
        }
    }
    Ok(rustix::fs::openat(parent, name.0, DIRECTORY, Mode::empty())?)
}
