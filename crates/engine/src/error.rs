//! The error of the engine. A variant exists only where somebody acts differently; the text says what failed and on what.

use std::io;
use std::path::PathBuf;

use crate::store::StoreError;

/// Result with the engine's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Stored bytes are not what they must be. Made by decoders; never a panic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object} is damaged at byte {offset}: {why}")]
pub struct Damaged {
    /// Name of the stored object, or of the structure where the object's name is not known yet.
    pub object: String,
    /// Offset inside the object, in bytes (0 where the whole object is meant).
    pub offset: u64,
    /// What is wrong.
    pub why: String,
}

impl Damaged {
    /// Damage of `object` at `offset` bytes.
    pub fn new(object: impl Into<String>, offset: u64, why: impl Into<String>) -> Self {
        Self { object: object.into(), offset, why: why.into() }
    }
}

/// What can go wrong in the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No repository at that place.
    #[error("no repository at {0}")]
    NoRepository(String),
    /// A repository is there already.
    #[error("a repository is already at {0}")]
    RepositoryExists(String),
    /// The repository needs a newer program.
    #[error("{0}")]
    Unsupported(String),
    /// No key slot opens with the key that was given.
    #[error(
        "the key does not open this repository: it is the wrong one or was removed, or its slot (or the marker \
             `seawall`) is damaged"
    )]
    WrongKey,
    /// Recovery shares are too few, or not of this repository.
    #[error("{0}")]
    Shares(String),
    /// The key opens the repository but does not allow this act.
    #[error("this key may not {0}")]
    NotAllowed(&'static str),
    /// Another owner operation is under way, or a second writer met a single-writer repository.
    #[error("refused: {0}")]
    Refused(String),
    /// A snapshot is held.
    #[error("{0}")]
    Held(String),
    /// Stored bytes are damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The store shows an older or different log than the one seen before.
    #[error("rollback: {0}")]
    Rollback(String),
    /// The store shows another repository than the one that is wanted.
    #[error("substituted: {0}")]
    Substituted(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file system operation failed on a path.
    #[error("{path}: {what}: {source}")]
    File {
        /// The path (lossy only when shown).
        path: PathBuf,
        /// What was tried, as in "cannot open".
        what: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// Nothing matches what was asked for (a snapshot, a path).
    #[error("{0}")]
    NotFound(String),
    /// The request does not make sense.
    #[error("{0}")]
    Usage(String),
    /// What was to be kept as one changed while it was read, or could not be read whole; nothing was committed.
    #[error("{0}")]
    Changed(String),
    /// The user interrupted the run.
    #[error("interrupted")]
    Interrupted,
    /// A command that was run as a source failed.
    #[error("{0}")]
    Command(String),
}

impl Error {
    /// A file system error on `path`.
    pub fn file(path: impl Into<PathBuf>, what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::File { path: path.into(), what, source: source.into() }
    }

    /// True for what tells that stored bytes are damaged or missing. All else (a connection that broke, a right that is
    /// not there, an interruption) tells only that they could not be read now.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Store(StoreError::Missing(_)))
    }

    /// Stable machine-readable code, used in `--json` output and by the exit code table.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRepository(_) => "no-repository",
            Self::RepositoryExists(_) => "repository-exists",
            Self::Unsupported(_) => "unsupported",
            Self::WrongKey => "wrong-key",
            Self::Shares(_) => "shares",
            Self::NotAllowed(_) => "not-allowed",
            Self::Refused(_) => "refused",
            Self::Held(_) => "held",
            Self::Damaged(_) => "damaged",
            Self::Rollback(_) => "rollback",
            Self::Substituted(_) => "substituted",
            Self::Store(error) => error.code(),
            Self::File { .. } => "file",
            Self::NotFound(_) => "not-found",
            Self::Usage(_) => "usage",
            Self::Changed(_) => "changed",
            Self::Interrupted => "interrupted",
            Self::Command(_) => "command",
        }
    }
}
