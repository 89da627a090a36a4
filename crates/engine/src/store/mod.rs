//! Bytes by name. A store knows no format; the engine needs seven verbs of it.
//!
//! Invariants that the engine rests on, proved for each store by [`conformance`]: `create` is atomic put-if-absent;
//! what `create` or `put` acknowledged is durable and complete; a reader never sees a part of an object. A write that
//! fails may still have taken place (a lost answer, a failed flush of the directory): its outcome is unknown until the
//! name is looked up again.

pub mod conformance;
pub mod local;
pub mod memory;
pub mod simulated;

use std::io;
use std::ops::Range;

use rustix::io::Errno;

use crate::clock::Timestamp;

/// What a store can fail with.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object does not exist.
    #[error("{0} is not in the store")]
    Missing(String),
    /// The store is full or over its quota.
    #[error("{what}: the store is full ({source})")]
    Full {
        /// What was tried, with the object.
        what: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// Permission denied or read-only.
    #[error("{what}: permission denied ({source})")]
    Denied {
        /// What was tried, with the object.
        what: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// A name that no object can have.
    #[error("{0:?} is not an object name")]
    BadName(String),
    /// Anything else.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the object.
        what: String,
        /// The operating system's error.
        source: io::Error,
    },
}

impl StoreError {
    /// Stable machine-readable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Full { .. } => "store-full",
            Self::Denied { .. } => "store-denied",
            Self::BadName(_) => "bad-name",
            Self::Io { .. } => "store-io",
        }
    }

    /// True where the operating system says that the medium failed (EIO): a bad sector, or a disk that is gone.
    #[must_use]
    pub fn is_bad_medium(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(Errno::IO.raw_os_error()))
    }

    /// Sorts an operating system error on `what` into the variant that a caller acts on.
    pub fn from_io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { what, source },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied { what, source },
            _ => Self::Io { what, source },
        }
    }
}

/// Outcome of [`Store::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was stored.
    Created,
    /// An object of that name was there already; nothing was changed.
    AlreadyThere,
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Full name.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// When the store says it was written.
    pub modified: Timestamp,
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `create` is atomic among all clients.
    pub atomic_create: bool,
    /// `get` with a range reads only that range.
    pub ranged_get: bool,
}

/// Bytes by name. Names are `/`-separated components of `[a-z0-9]`, as docs/format.md §1 lists them.
pub trait Store: Send + Sync {
    /// Where it is, for people (no secrets).
    fn location(&self) -> String;

    /// Reads an object, or the given byte range of it.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none. A range that reaches beyond the end gives what is there.
    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError>;

    /// As [`Self::get`], for who wants the bytes and does not ask whether the disk still has them: what the system holds in
    /// memory anyway may come from there.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn get_remembered(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.get(name, range)
    }

    /// Writes an object whose name nobody else uses. When it returns, the object is durable.
    ///
    /// # Errors
    /// When it could not be stored whole; then nobody sees a part of it.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Atomic put-if-absent. When it returns `Created`, the object is durable.
    ///
    /// # Errors
    /// When it could not be stored whole.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError>;

    /// Length and time of an object.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none.
    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError>;

    /// Calls `each` for every object whose name begins with `prefix` (a whole number of components, ending in `/`, or
    /// empty), in no particular order. A hint, never an authority.
    ///
    /// # Errors
    /// When the store can't be listed.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError>;

    /// Deletes an object; deleting one that is not there succeeds.
    ///
    /// # Errors
    /// When the store refuses.
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// What this store can do.
    fn capabilities(&self) -> Capabilities;
}

/// Longest object name in bytes.
pub const NAME_BYTES_MAX: usize = 200;
/// Most components of an object name.
pub const NAME_COMPONENTS_MAX: usize = 8;

/// Refuses what docs/format.md §1 does not allow as an object's name: so no store ever sees `..`, an empty component or
/// a character that some file system or bucket treats specially.
///
/// # Errors
/// [`StoreError::BadName`].
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let short = name.len() <= NAME_BYTES_MAX && name.split('/').count() <= NAME_COMPONENTS_MAX;
    if short && name.split('/').all(is_component) { Ok(()) } else { Err(StoreError::BadName(name.to_owned())) }
}

/// Refuses what is not a whole number of components: a prefix is empty, or a name followed by `/`.
///
/// # Errors
/// [`StoreError::BadName`].
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    match prefix.strip_suffix('/') {
        None if prefix.is_empty() => Ok(()),
        Some(name) if check_name(name).is_ok() => Ok(()),
        _ => Err(StoreError::BadName(prefix.to_owned())),
    }
}

/// True for one component of a name: `[a-z0-9]+`.
pub(crate) fn is_component(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The part of `range` that an object of `length` bytes has: what a store reads for a `get`.
pub(crate) fn clip(range: Option<Range<u64>>, length: u64) -> Range<u64> {
    let Some(range) = range else { return 0..length };
    let start = range.start.min(length);
    start..range.end.clamp(start, length)
}
