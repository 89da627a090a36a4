//! Compare: holds a restored directory against the snapshot that it came from.
//!
//! The directory is walked and the snapshot's tree read side by side, as two sorted sequences: what only one has is a
//! difference. Pairs go to worker threads, which compare metadata ([`metadata`]) and content ([`content`]): every chunk
//! of the snapshot is looked for at its place in the file by computing its keyed id over the file's bytes, so the
//! repository's data is not read again.
//!
//! Compared are kind, mode, owner, modification time, size, link target, device number, extended attributes (ACLs and
//! capabilities among them), inode flags, which names are links of one inode, holes, and content. Not compared: what a
//! restore can't set (inode number, times of the last inode change and of birth) and access times.

mod content;
mod metadata;
mod pairs;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::clock::monotonic;
use crate::entry::{Entry, TreeKey};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::monitor::{Monitor, Phase, Progress};
use crate::repo::Repository;
use crate::stages::metadata::Names;
use crate::stages::walk::Found;
use crate::units::MIB;

use content::{Piece, Worker};

/// A [`CompareReport`] lists so many differences at most.
pub const DIFFERENCES_MAX: usize = 1_000;
/// What a thread may hold: a chunk of the longest kind, twice.
const THREAD_BYTES: usize = 16 * MIB;
/// Pairs that wait for a thread; each may hold a file descriptor of its directory.
const WAITING_MAX: usize = 128;

/// Says which entries are expected.
pub type Filter<'f> = &'f (dyn Fn(&TreeKey) -> bool + Sync);

/// Options of [`compare`].
#[derive(Clone, Copy)]
pub struct CompareOptions<'f> {
    /// Threads that compare, at least 1.
    pub threads: usize,
    /// Bytes for everything in flight.
    pub budget_bytes: usize,
    /// Where it says no, an entry may be missing, and only its metadata is compared if it is there. None expects all.
    pub filter: Option<Filter<'f>>,
    /// Compare also what only root can restore: owners, attributes of the namespaces `security` and `trusted`, the flags
    /// append-only and immutable.
    pub owner: bool,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The path in the snapshot, lossy where it is not UTF-8.
    pub path: String,
    /// What is different there.
    pub what: String,
}

/// What [`compare`] found.
#[derive(Debug, Clone, Default)]
pub struct CompareReport {
    /// Entries that both have, compared.
    pub entries: u64,
    /// Files among them whose content was compared.
    pub files: u64,
    /// Plain bytes of those.
    pub bytes: u64,
    /// The differences in order of paths, at most [`DIFFERENCES_MAX`].
    pub differences: Vec<Difference>,
    /// How many differences there are.
    pub differences_count: u64,
    /// How long it took.
    pub duration: Duration,
}

/// What all threads share.
struct Compare<'a> {
    repository: &'a Repository,
    options: &'a CompareOptions<'a>,
    monitor: &'a dyn Monitor,
    names: Names,
    entries: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    differences: Mutex<Vec<Difference>>,
    differences_count: AtomicU64,
}

/// A name that both have.
struct Pair {
    /// Its path in the snapshot.
    key: TreeKey,
    entry: Entry,
    found: Found,
    /// Whether its content is compared.
    content: bool,
    /// Where a long file's pieces go. Every waiting pair holds it, so it closes when no more can come.
    pieces: crossbeam_channel::Sender<Piece>,
}

impl Compare<'_> {
    fn differ(&self, key: &TreeKey, what: impl Into<String>) {
        self.differences_count.fetch_add(1, Ordering::Relaxed);
        let mut differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        if differences.len() < DIFFERENCES_MAX {
            differences.push(Difference { path: key.to_path().to_string_lossy().into_owned(), what: what.into() });
        }
    }

    fn go_on(&self) -> Result<()> {
        if self.monitor.stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn progress(&self) {
        self.monitor.progress(Progress {
            files_done: self.files.load(Ordering::Relaxed),
            bytes_done: self.bytes.load(Ordering::Relaxed),
            ..Progress::default()
        });
    }
}

/// Compares `directory`, into which `from` of the tree `root` was restored, with that tree. Where `from` is a directory,
/// `directory` stands for it; anything else is expected in `directory` under its own name.
///
/// # Errors
/// [`Error::NotFound`] where the snapshot has no `from`, [`Error::File`] where the directory can't be walked, damage of
/// the snapshot's tree, [`Error::Interrupted`]. Differences are not errors.
pub fn compare(
    repository: &Repository,
    root: &ChunkId,
    from: &TreeKey,
    directory: &Path,
    options: &CompareOptions<'_>,
    monitor: &dyn Monitor,
) -> Result<CompareReport> {
    let started = monotonic();
    monitor.phase(Phase::Comparing);
    let compare = Compare {
        repository,
        options,
        monitor,
        names: Names::new(),
        entries: AtomicU64::new(0),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        differences: Mutex::new(Vec::new()),
        differences_count: AtomicU64::new(0),
    };
    let threads = options.threads.clamp(1, (options.budget_bytes / THREAD_BYTES).max(1));
    let (pairs, waiting_pairs) = crossbeam_channel::bounded::<Pair>(WAITING_MAX);
    let (pieces, waiting_pieces) = crossbeam_channel::bounded::<Piece>(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (pairs, pieces, compare) = (waiting_pairs.clone(), waiting_pieces.clone(), &compare);
            scope.spawn(move || Worker::new(compare).work(pairs, pieces));
        }
        drop((waiting_pairs, waiting_pieces));
        let place = pairs::Place { root: *root, from, directory };
        pairs::find_pairs(&compare, &place, &mut |key, entry, found, content| {
            let pair = Pair { key, entry, found, content, pieces: pieces.clone() };
            pairs.send(pair).expect("the workers take pairs until this end closes");
        })
        // The channels' sending ends drop here, which ends the workers.
        .map(|()| drop((pairs, pieces)))
    })?;
    let mut differences = compare.differences.into_inner().unwrap_or_else(PoisonError::into_inner);
    differences.sort_unstable();
    Ok(CompareReport {
        entries: compare.entries.into_inner(),
        files: compare.files.into_inner(),
        bytes: compare.bytes.into_inner(),
        differences,
        differences_count: compare.differences_count.into_inner(),
        duration: started.elapsed(),
    })
}
