//! Owner, mode, attributes, flags and times of one restored thing.
//!
//! The order matters and is kept here: owner before mode (changing the owner drops set-id bits) and before
//! capabilities (it drops them too), everything before the times. Append-only and immutable are put on by [`lock`]
//! at the very end of a restore, because nothing can be changed after them.
//!
//! What can't be done is a loss, collected in words in [`Losses`], never an abort. Everything acts on an open handle.
//! POSIX ACLs and file capabilities are attributes like all others; their numeric ids are restored as they were.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Group, User};
use rustix::fs::{AtFlags, Gid, IFlags, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::directory::{Inherits, Standing};
use crate::clock::Timestamp;
use crate::entry::{Entry, Kind};
use crate::stages::metadata::RESTORABLE_FLAGS;

/// Inode flags that are restored: those that a snapshot keeps.
const RESTORABLE: IFlags = IFlags::from_bits_retain(RESTORABLE_FLAGS);
/// Flags after which a thing can't be changed any more.
const LOCKS: IFlags = IFlags::APPEND.union(IFlags::IMMUTABLE);
/// Those that can be put on at any time.
const RESTORABLE_ALWAYS: IFlags = IFlags::from_bits_retain(RESTORABLE_FLAGS & !LOCKS.bits());
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const SET_ID_BITS: u32 = 0o6000;

/// By what an owner is found on this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnerBy {
    /// The recorded numbers.
    #[default]
    Number,
    /// The recorded names; the number where the name was not recorded or is unknown here.
    Name,
}

/// Finds owners, and remembers names that were looked up.
#[derive(Debug)]
pub struct Owners {
    by: OwnerBy,
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
}

impl Owners {
    /// Owners found by number or by name.
    #[must_use]
    pub fn new(by: OwnerBy) -> Self {
        Self { by, users: Mutex::default(), groups: Mutex::default() }
    }

    /// Numeric user and group that `entry` shall have here.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> (u32, u32) {
        if self.by == OwnerBy::Number {
            return (entry.uid, entry.gid);
        }
        let user = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        let group = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        (
            look_up(&self.users, entry.user.as_deref(), user).unwrap_or(entry.uid),
            look_up(&self.groups, entry.group.as_deref(), group).unwrap_or(entry.gid),
        )
    }
}

fn look_up(
    known: &Mutex<HashMap<String, Option<u32>>>,
    name: Option<&str>,
    ask: impl Fn(&str) -> Option<u32>,
) -> Option<u32> {
    let name = name?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = known.get(name) {
        return *number;
    }
    let number = ask(name);
    known.insert(name.to_owned(), number);
    number
}

/// What could not be restored of one thing, in words.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Losses(Vec<String>);

impl Losses {
    /// True if everything was restored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All losses as one text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("not restored: {}", self.0.join("; "))
    }

    fn add(&mut self, what: impl std::fmt::Display, error: &dyn std::fmt::Display) {
        self.0.push(format!("{what} ({error})"));
    }
}

/// What a thing may carry that the snapshot does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strays {
    /// This run made it: at most what its directory hands down.
    Inherited(Inherits),
    /// It stood there before: anything.
    Any,
}

/// A handle that metadata is put on.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    /// A regular file or directory that is open for reading or writing.
    Open(BorrowedFd<'a>),
    /// Anything else, opened with `O_PATH`; reached through `/proc/self/fd` where the system has no better way.
    Place(BorrowedFd<'a>),
}

impl Object<'_> {
    fn change_owner(self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self {
            Self::Open(handle) => rustix::fs::fchown(handle, uid, gid),
            Self::Place(handle) => rustix::fs::chownat(handle, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    fn change_mode(self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(handle) => rustix::fs::fchmod(handle, mode),
            Self::Place(handle) => rustix::fs::chmod(place(handle), mode),
        }
    }

    fn set_attribute(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(handle) => rustix::fs::fsetxattr(handle, name, value, XattrFlags::empty()),
            Self::Place(handle) => rustix::fs::setxattr(place(handle), name, value, XattrFlags::empty()),
        }
    }

    fn remove_attribute(self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(handle) => rustix::fs::fremovexattr(handle, name),
            Self::Place(handle) => rustix::fs::removexattr(place(handle), name),
        }
    }

    fn attribute(self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        grown(|buffer| match self {
            Self::Open(handle) => rustix::fs::fgetxattr(handle, name, buffer),
            Self::Place(handle) => rustix::fs::getxattr(place(handle), name, buffer),
        })
    }

    fn attribute_names(self) -> Result<Vec<Vec<u8>>, Errno> {
        let list = grown(|buffer| match self {
            Self::Open(handle) => rustix::fs::flistxattr(handle, buffer),
            Self::Place(handle) => rustix::fs::listxattr(place(handle), buffer),
        });
        match list {
            Ok(list) => Ok(list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()),
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn set_modified(self, mtime: Timestamp) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
        };
        match self {
            Self::Open(handle) => rustix::fs::futimens(handle, &times),
            Self::Place(handle) => rustix::fs::utimensat(handle, c"", &times, AtFlags::EMPTY_PATH),
        }
    }
}

fn place(handle: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Reads something whose length is not known before; it may grow between two calls.
fn grown(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's limit for a value and for a list of names.
            Err(Errno::RANGE) if buffer.len() < 64 << 10 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Puts the metadata of `entry` on `object`, which now is as `standing` says; all but append-only and immutable.
pub fn apply(object: Object<'_>, entry: &Entry, standing: &Standing, strays: Strays, owners: &Owners) -> Losses {
    let mut losses = Losses::default();
    let owned = apply_owner(object, owners.of(entry), standing, &mut losses);
    if !matches!(entry.kind, Kind::Symlink(_)) {
        apply_mode(object, entry, standing, owned, &mut losses);
    }
    remove_strays(object, entry, strays, &mut losses);
    apply_attributes(object, entry, strays, &mut losses);
    if let Object::Open(handle) = object {
        let inherited = !matches!(strays, Strays::Inherited(inherits) if !inherits.flags);
        let wanted = IFlags::from_bits_retain(entry.flags) & RESTORABLE_ALWAYS;
        if inherited || !wanted.is_empty() {
            change_flags(handle, RESTORABLE, wanted, &mut losses);
        }
    }
    // Why: the system gives some nanosecond values above a second a meaning of their own ("now", "leave alone").
    if entry.mtime.nanos >= 1_000_000_000 {
        losses.add("modification time", &"nanoseconds out of range");
    } else if (standing.mtime != entry.mtime || strays != Strays::Any)
        && let Err(error) = object.set_modified(entry.mtime)
    {
        losses.add("modification time", &error);
    }
    losses
}

/// Returns whether the owner is now as wanted.
fn apply_owner(object: Object<'_>, (uid, gid): (u32, u32), standing: &Standing, losses: &mut Losses) -> bool {
    if (uid, gid) == (standing.uid, standing.gid) {
        return true;
    }
    if uid == u32::MAX || gid == u32::MAX {
        losses.add(format_args!("owner {uid}:{gid}"), &"not an owner");
        return false;
    }
    let Err(error) = object.change_owner(Some(uid), Some(gid)) else { return true };
    // Why: a user may not give a file away, but may give it to a group of his own.
    if gid != standing.gid {
        let _ = object.change_owner(None, Some(gid));
    }
    losses.add(format_args!("owner {uid}:{gid}"), &error);
    false
}

fn apply_mode(object: Object<'_>, entry: &Entry, standing: &Standing, owned: bool, losses: &mut Losses) {
    let mut wanted = entry.mode & 0o7777;
    // Why: a set-id program of another owner than recorded would run with rights that nobody meant.
    if !owned && !entry.is_directory() && wanted & SET_ID_BITS != 0 {
        losses.add("set-id bits", &"the owner differs");
        wanted &= !SET_ID_BITS;
    }
    // Why: the change of owner before this may have dropped set-id bits.
    if wanted == standing.mode && wanted & SET_ID_BITS == 0 {
        return;
    }
    if let Err(error) = object.change_mode(wanted) {
        losses.add(format_args!("mode {wanted:04o}"), &error);
    } else if wanted & SET_ID_BITS != 0 && mode_now(object).is_ok_and(|mode| mode != wanted) {
        losses.add("set-group-id bit", &"not allowed for this group");
    }
}

fn mode_now(object: Object<'_>) -> Result<u32, Errno> {
    let (Object::Open(handle) | Object::Place(handle)) = object;
    Ok(rustix::fs::fstat(handle)?.st_mode & 0o7777)
}

fn remove_strays(object: Object<'_>, entry: &Entry, strays: Strays, losses: &mut Losses) {
    let names = match strays {
        Strays::Inherited(Inherits { acl: false, .. }) => return,
        Strays::Inherited(_) if matches!(entry.kind, Kind::Symlink(_)) => return,
        Strays::Inherited(_) => Ok(vec![ACL_ACCESS.to_vec(), ACL_DEFAULT.to_vec()]),
        Strays::Any => object.attribute_names(),
    };
    let names = match names {
        Ok(names) => names,
        Err(error) => return losses.add("removal of extended attributes", &error),
    };
    for name in names.iter().filter(|name| is_removable(name) && !entry.xattrs.iter().any(|(own, _)| own == *name)) {
        match object.remove_attribute(name) {
            // A regular file has no default ACL, so there is none to remove.
            Ok(()) | Err(Errno::NODATA | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(error) => losses.add(format_args!("removal of {}", name.escape_ascii()), &error),
        }
    }
}

/// Labels that the kernel's security modules keep by themselves, and views that a file system makes up, stay.
fn is_removable(name: &[u8]) -> bool {
    match name {
        ACL_ACCESS | ACL_DEFAULT | b"security.capability" => true,
        _ => !name.starts_with(b"system.") && !name.starts_with(b"security."),
    }
}

fn apply_attributes(object: Object<'_>, entry: &Entry, strays: Strays, losses: &mut Losses) {
    for (name, value) in &entry.xattrs {
        if strays == Strays::Any && object.attribute(name).is_ok_and(|present| present == *value) {
            continue;
        }
        if let Err(error) = object.set_attribute(name, value) {
            losses.add(format_args!("attribute {}", name.escape_ascii()), &error);
        }
    }
}

/// True if `object` has other metadata than `entry` wants, times aside.
#[must_use]
pub fn differs(object: Object<'_>, entry: &Entry, standing: &Standing, owners: &Owners) -> bool {
    let symlink = matches!(entry.kind, Kind::Symlink(_));
    if owners.of(entry) != (standing.uid, standing.gid) || (!symlink && entry.mode & 0o7777 != standing.mode) {
        return true;
    }
    let Ok(names) = object.attribute_names() else { return true };
    names.iter().any(|name| is_removable(name) && !entry.xattrs.iter().any(|(own, _)| own == name))
        || entry.xattrs.iter().any(|(name, value)| object.attribute(name).as_ref() != Ok(value))
        || matches!(object, Object::Open(handle) if flags_differ(handle, entry))
}

/// False where the file system has no flags: then there are none to lose.
fn flags_differ(handle: BorrowedFd<'_>, entry: &Entry) -> bool {
    let wanted = IFlags::from_bits_retain(entry.flags);
    rustix::fs::ioctl_getflags(handle).is_ok_and(|present| (present ^ wanted).intersects(RESTORABLE))
}

/// Puts append-only and immutable on, where `entry` has them.
#[must_use]
pub fn lock(handle: BorrowedFd<'_>, entry: &Entry) -> Losses {
    let mut losses = Losses::default();
    change_flags(handle, LOCKS, IFlags::from_bits_retain(entry.flags) & LOCKS, &mut losses);
    losses
}

/// True if `entry` has a flag that [`lock`] puts on.
#[must_use]
pub fn has_locks(entry: &Entry) -> bool {
    IFlags::from_bits_retain(entry.flags).intersects(LOCKS)
}

/// Takes append-only and immutable off, so that a thing may be changed or replaced.
///
/// # Errors
/// When the system refuses.
pub fn unlock(handle: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::ioctl_getflags(handle)?;
    if flags.intersects(LOCKS) {
        rustix::fs::ioctl_setflags(handle, without(flags, LOCKS))?;
    }
    Ok(())
}

/// Takes a name of a thing away by `act` while append-only and immutable are off it. They are put back if it has a name still:
/// others of its names may lie anywhere.
///
/// # Errors
/// When the system refuses, or what `act` fails with.
pub fn without_locks(handle: BorrowedFd<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let flags = rustix::fs::ioctl_getflags(handle)?;
    if !flags.intersects(LOCKS) {
        return act();
    }
    rustix::fs::ioctl_setflags(handle, without(flags, LOCKS))?;
    let result = act();
    if rustix::fs::fstat(handle)?.st_nlink > 0 {
        rustix::fs::ioctl_setflags(handle, flags)?;
    }
    result
}

/// `flags` less those of `mask`. Why not `!`: that would also drop flags that have no name here.
fn without(flags: IFlags, mask: IFlags) -> IFlags {
    IFlags::from_bits_retain(flags.bits() & !mask.bits())
}

/// Sets the flags of `mask` to those of `wanted`; one by one where the system refuses them together.
fn change_flags(handle: BorrowedFd<'_>, mask: IFlags, wanted: IFlags, losses: &mut Losses) {
    let present = match rustix::fs::ioctl_getflags(handle) {
        Ok(present) => present,
        Err(_) if wanted.is_empty() => return,
        Err(error) => return losses.add(format_args!("flags {wanted:?}"), &error),
    };
    let complete = without(present, mask) | wanted;
    if complete == present || rustix::fs::ioctl_setflags(handle, complete).is_ok() {
        return;
    }
    let mut reached = present;
    for place in 0..u32::BITS {
        let flag = (complete ^ present) & IFlags::from_bits_retain(1 << place);
        if flag.is_empty() {
            continue;
        }
        match rustix::fs::ioctl_setflags(handle, reached ^ flag) {
            Ok(()) => reached ^= flag,
            Err(error) => losses.add(format_args!("flag {flag:?}"), &error),
        }
    }
}

/// Turns copy-on-write off, where `entry` wants it: only an empty file takes that flag.
pub fn prepare_empty(handle: BorrowedFd<'_>, entry: &Entry) {
    if IFlags::from_bits_retain(entry.flags).contains(IFlags::NOCOW)
        && let Ok(present) = rustix::fs::ioctl_getflags(handle)
    {
        // What fails here is tried again, and reported, with the other flags.
        let _ = rustix::fs::ioctl_setflags(handle, present | IFlags::NOCOW);
    }
}

/// What things made in the directory `handle` would get from it.
#[must_use]
pub(super) fn inherits(handle: BorrowedFd<'_>) -> Inherits {
    let acl = rustix::fs::fgetxattr_query(handle, ACL_DEFAULT).is_ok_and(|length| length > 0);
    let flags = rustix::fs::ioctl_getflags(handle).is_ok_and(|flags| flags.intersects(RESTORABLE_ALWAYS));
    Inherits { acl, flags }
}

/// Takes off a new directory what it was handed down, so that nothing in it inherits in turn.
pub(super) fn disinherit(handle: BorrowedFd<'_>, inherits: Inherits) -> io::Result<()> {
    if inherits.acl {
        for name in [ACL_DEFAULT, ACL_ACCESS] {
            match rustix::fs::fremovexattr(handle.as_fd(), name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    if inherits.flags {
        change_flags(handle, RESTORABLE_ALWAYS, IFlags::empty(), &mut Losses::default());
    }
    Ok(())
}
