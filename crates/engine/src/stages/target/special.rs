//! Symbolic links, pipes, sockets and device nodes.
//!
//! They have no content to wait for, so they are made complete in one go, and replace what stands there by a rename.
//! A link's target is written as it was recorded and never looked at. A device node gets exactly the recorded major and
//! minor number, or is refused. Once made, a thing is opened with `O_PATH`, which neither follows nor opens it, and its
//! metadata goes on through that handle.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, makedev};

use super::directory::{Directory, Identity, Name, Standing};
use super::metadata::{self, Losses, Object, Owners, Strays};
use crate::entry::{Entry, Kind};

/// The kernel keeps 12 bits of a major and 20 bits of a minor number and drops what is above.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// Makes `entry` under `name` with all its metadata; over what stands there, if there is a `clear`, which is called when
/// nothing is left to do but to take the name.
///
/// # Errors
/// When it can't be made; nothing is then left behind and what stood there still does.
pub fn make(
    directory: &Directory,
    name: Name<'_>,
    entry: &Entry,
    clear: Option<&dyn Fn() -> io::Result<()>>,
    owners: &Owners,
) -> io::Result<(Identity, Losses)> {
    let Some(clear) = clear else {
        create(directory, name, entry)?;
        let done = dress(directory, name, entry, owners);
        return done.inspect_err(|_| drop(directory.unlink(name)));
    };
    let (temporary, ()) = directory.with_temporary_name(|name| create(directory, name, entry))?;
    let temporary = Name::new(&temporary)?;
    let done = dress(directory, temporary, entry, owners);
    let done = done.and_then(|done| clear().and_then(|()| directory.rename(temporary, name)).map(|()| done));
    done.inspect_err(|_| drop(directory.unlink(temporary)))
}

/// If what stands under `name` is what `entry` describes, gives it the metadata of `entry`.
///
/// # Errors
/// When it can't be looked at.
pub fn adopt(
    directory: &Directory,
    name: Name<'_>,
    entry: &Entry,
    standing: &Standing,
    owners: &Owners,
) -> io::Result<Option<(Identity, Losses)>> {
    if !matches(directory, name, entry, standing)? {
        return Ok(None);
    }
    let handle = open(directory, name)?;
    let object = Object::Place(handle.as_fd());
    // Why: other names of it may lie outside the target; they must not change with it.
    if standing.links > 1 && metadata::differs(object, entry, standing, owners) {
        return Ok(None);
    }
    let losses = metadata::apply(object, entry, standing, Strays::Any, owners);
    Ok(Some((standing.identity, losses)))
}

/// True if what stands under `name` has the kind, and the link target or device number, of `entry`.
///
/// # Errors
/// When it can't be looked at.
pub fn matches(directory: &Directory, name: Name<'_>, entry: &Entry, standing: &Standing) -> io::Result<bool> {
    if standing.kind != file_type(&entry.kind) {
        return Ok(false);
    }
    Ok(match &entry.kind {
        Kind::Symlink(target) => {
            rustix::fs::readlinkat(directory.handle(), name.bytes(), Vec::new())?.as_bytes() == target.as_slice()
        }
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => standing.rdev == device(*major, *minor)?,
        _ => true,
    })
}

fn create(directory: &Directory, name: Name<'_>, entry: &Entry) -> io::Result<()> {
    let number = match &entry.kind {
        Kind::Symlink(target) => {
            return Ok(rustix::fs::symlinkat(target.as_slice(), directory.handle(), name.bytes())?);
        }
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => device(*major, *minor)?,
        _ => 0,
    };
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::fs::mknodat(directory.handle(), name.bytes(), file_type(&entry.kind), mode, number)?)
}

fn device(major: u32, minor: u32) -> io::Result<u64> {
    if major > MAJOR_MAX || minor > MINOR_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such device number can exist"));
    }
    Ok(makedev(major, minor))
}

fn dress(directory: &Directory, name: Name<'_>, entry: &Entry, owners: &Owners) -> io::Result<(Identity, Losses)> {
    let handle = open(directory, name)?;
    let standing = Standing::from(rustix::fs::fstat(&handle)?);
    if standing.kind != file_type(&entry.kind) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it was replaced while it was restored"));
    }
    let strays = Strays::Inherited(directory.inherits());
    let losses = metadata::apply(Object::Place(handle.as_fd()), entry, &standing, strays, owners);
    Ok((standing.identity, losses))
}

fn open(directory: &Directory, name: Name<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory.handle(), name.bytes(), flags, Mode::empty())?)
}

/// The system's word for an entry's kind.
#[must_use]
pub fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::File(_) => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice(..) => FileType::CharacterDevice,
        Kind::BlockDevice(..) => FileType::BlockDevice,
    }
}
