//! The only way out of the engine to a user interface: progress, problems, and the wish to stop.

use std::path::Path;

/// What a run is doing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Opening the repository.
    Opening,
    /// Walking and storing sources.
    BackingUp,
    /// Checking structure.
    VerifyingStructure,
    /// Reading stored data back.
    VerifyingData,
    /// Writing files.
    Restoring,
    /// Applying directories' metadata, links and flags.
    Finishing,
    /// Comparing a restored tree with its snapshot.
    Comparing,
    /// Finding what snapshots need.
    Marking,
    /// Storing again what is needed of packs that go.
    Rewriting,
    /// Removing objects.
    Removing,
}

/// Counters of a run, as far as it got. All grow only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files finished.
    pub files_done: u64,
    /// Files known so far (0 where unknown).
    pub files_known: u64,
    /// Plain bytes finished.
    pub bytes_done: u64,
    /// Plain bytes known so far (0 where unknown).
    pub bytes_known: u64,
    /// Bytes written to, or read from, the store.
    pub bytes_stored: u64,
}

/// Trouble with one path or object: data, not an abort. It goes into the report and makes the exit code 3 (or 13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path or object name, lossy where it is not UTF-8.
    pub subject: String,
    /// What went wrong, in words.
    pub what: String,
    /// Stable code: `unreadable`, `unwritable`, `vanished`, `changed`, `metadata`, `damaged`, `missing`, `skipped`,
    /// `rollback`, `mended` (damaged, and given back by parity), `put-back` (an entry of the log), `incomplete` (a checkpoint),
    /// `too-many` (tensors).
    pub code: &'static str,
}

impl Problem {
    /// A problem with a path.
    pub fn path(path: &Path, code: &'static str, what: impl Into<String>) -> Self {
        Self { subject: path.to_string_lossy().into_owned(), what: what.into(), code }
    }
}

/// Receives progress and problems. Called from many threads, often: implementations return quickly.
pub trait Monitor: Sync {
    /// A phase begins.
    fn phase(&self, _phase: Phase) {}
    /// New counters.
    fn progress(&self, _progress: Progress) {}
    /// A file or object is being worked on.
    fn current(&self, _path: &Path) {}
    /// One problem.
    fn problem(&self, _problem: Problem) {}
    /// A remark that is not a problem (an adopted session, an overlap with another run).
    fn note(&self, _text: &str) {}
    /// True if totals are worth a second walk of the source, so that progress can name an end.
    fn wants_totals(&self) -> bool {
        false
    }
    /// True once the user wants to stop; the run then ends with [`crate::error::Error::Interrupted`].
    fn stopped(&self) -> bool {
        false
    }
}

/// A monitor that ignores everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Monitor for Silent {}
