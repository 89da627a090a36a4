//! What all passes and threads of one restore share: the options in their checked form, the counters, the first names
//! of hard links, and the one place where problems, and the error that ends a run, arrive.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::clear;
use super::guard::Guard;
use super::origin::Origin;
use super::selection::{Selection, Whole};
use super::{ACTIONS_MAX, Act, Action, RestoreOptions, RestoreReport};
use crate::clock;
use crate::entry::{LinkGroup, TreeKey};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Problem, Progress};
use crate::stages::target::metadata::{Losses, Owners};
use crate::stages::target::{Directory, Identity, OpenFiles, TargetFile};

/// Files that wait for more pieces stay open up to this number.
const OPEN_FILES_MAX: usize = 256;

/// Counters; they become the report.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) files: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) unchanged: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) deleted: AtomicU64,
    pub(super) problems: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// The first name of a group of hard links, and its inode once it is in place.
#[derive(Debug)]
pub(super) struct FirstName {
    pub(super) key: TreeKey,
    pub(super) identity: Option<Identity>,
}

#[derive(Debug, Default)]
struct Planned {
    actions: Vec<Action>,
    total: u64,
}

/// One restore.
pub(super) struct Run<'a> {
    pub(super) origin: &'a dyn Origin,
    pub(super) options: &'a RestoreOptions,
    pub(super) selection: Selection,
    pub(super) guard: Guard,
    /// Set if things may be deleted.
    pub(super) whole: Option<Whole>,
    pub(super) owners: Owners,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) tally: Tally,
    pub(super) started: Instant,
    /// How long it took until only optimizers' states were left.
    pub(super) weights: OnceLock<Duration>,
    monitor: &'a dyn Monitor,
    known: (u64, u64),
    links: Mutex<HashMap<LinkGroup, FirstName>>,
    planned: Mutex<Planned>,
    /// At which directory the tree could not be read, each time.
    gaps: Mutex<Vec<usize>>,
    stop: AtomicBool,
    fatal: Mutex<Option<Error>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(origin: &'a dyn Origin, options: &'a RestoreOptions, monitor: &'a dyn Monitor) -> Result<Self> {
        let whole = if options.delete { Some(Whole::new(origin.sources())?) } else { None };
        let everything = options.from.0.is_empty() && options.include.is_empty() && options.exclude.is_empty();
        Ok(Self {
            origin,
            options,
            selection: Selection::new(&options.include, &options.exclude)?,
            guard: Guard::new(&options.guarded),
            whole,
            owners: Owners::new(options.owner),
            open_files: OpenFiles::new(OPEN_FILES_MAX),
            tally: Tally::default(),
            started: clock::monotonic(),
            weights: OnceLock::new(),
            monitor,
            known: origin.totals().filter(|_| everything).unwrap_or_default(),
            links: Mutex::default(),
            planned: Mutex::default(),
            gaps: Mutex::default(),
            stop: AtomicBool::new(false),
            fatal: Mutex::default(),
        })
    }

    /// Says beforehand if the disk is clearly too small; holes and hard links may make it enough all the same.
    pub(super) fn note_space(&self, target: &Directory) {
        let Ok(space) = rustix::fs::fstatvfs(target.handle()) else { return };
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if self.known.1 > free {
            self.note(&format!("the snapshot holds {} bytes, the target has {free} bytes free", self.known.1));
        }
    }

    pub(super) fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    pub(super) fn note(&self, text: &str) {
        self.monitor.note(text);
    }

    pub(super) fn current(&self, key: &TreeKey) {
        self.monitor.current(&key.to_path());
    }

    pub(super) fn problem(&self, key: &TreeKey, code: &'static str, what: impl Into<String>) {
        add(&self.tally.problems, 1);
        self.monitor.problem(Problem::path(&key.to_path(), code, what));
    }

    /// Reports what could not be restored of one thing, if there is anything.
    pub(super) fn report_losses(&self, key: &TreeKey, losses: &Losses) {
        if !losses.is_empty() {
            self.problem(key, "metadata", losses.text());
        }
    }

    /// Something could not be written: the run's end if that will be so for everything, else a problem.
    pub(super) fn unwritable(&self, key: &TreeKey, what: &'static str, error: io::Error) {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::ReadOnlyFilesystem];
        if full.contains(&error.kind()) {
            self.abort(Error::file(key.to_path(), what, error));
        } else {
            self.problem(key, "unwritable", format!("{what}: {error}"));
        }
    }

    /// Ends the run; the first error counts.
    pub(super) fn abort(&self, error: Error) {
        lock(&self.fatal).get_or_insert(error);
        self.stop.store(true, Ordering::Release);
    }

    /// Lets the other threads give up what they have.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.monitor.stopped()
    }

    /// # Errors
    /// The error that ended the run, or [`Error::Interrupted`].
    pub(super) fn check_stopped(&self) -> Result<()> {
        if self.is_stopped() { Err(lock(&self.fatal).take().unwrap_or(Error::Interrupted)) } else { Ok(()) }
    }

    pub(super) fn links(&self) -> MutexGuard<'_, HashMap<LinkGroup, FirstName>> {
        lock(&self.links)
    }

    /// Remembers the inode that a first name got.
    pub(super) fn placed(&self, key: &TreeKey, group: Option<LinkGroup>, identity: Identity) {
        let Some(group) = group else { return };
        if let Some(first) = self.links().get_mut(&group).filter(|first| first.key == *key) {
            first.identity = Some(identity);
        }
    }

    /// A part of the tree can't be read: a problem, and all passes must find it at the same place.
    ///
    /// # Errors
    /// `error`, where an earlier pass could read that part.
    pub(super) fn gap(&self, first_pass: bool, number: usize, directories: usize, error: Error) -> Result<()> {
        let mut gaps = lock(&self.gaps);
        if !first_pass {
            return if gaps.get(number) == Some(&directories) { Ok(()) } else { Err(error) };
        }
        gaps.push(directories);
        add(&self.tally.problems, 1);
        let (subject, code) =
            (error.to_string(), if matches!(error, Error::Damaged(_)) { "damaged" } else { "missing" });
        let what = "a part of the tree can't be read; what it names is not restored".to_owned();
        self.monitor.problem(Problem { subject, what, code });
        Ok(())
    }

    /// One claim on a file is done; whoever has the last one finishes the file.
    pub(super) fn release(&self, file: &TargetFile) {
        if !file.release() {
            return;
        }
        match file.finish(&self.owners, &|here, key| clear::give_place(self, here, key)) {
            Ok(Some((identity, losses))) => {
                add(&self.tally.files, 1);
                self.placed(file.key(), file.entry().links, identity);
                self.report_losses(file.key(), &losses);
            }
            Ok(None) => {}
            Err(error) => self.unwritable(file.key(), "cannot write", error),
        }
    }

    /// Lists an action of a dry run.
    pub(super) fn plan(&self, act: Act, key: &TreeKey) {
        let mut planned = lock(&self.planned);
        planned.total += 1;
        if planned.actions.len() < ACTIONS_MAX {
            planned.actions.push(Action { act, path: key.to_path() });
        }
    }

    pub(super) fn progress(&self) {
        self.monitor.progress(Progress {
            files_done: load(&self.tally.files) + load(&self.tally.unchanged) + load(&self.tally.skipped),
            files_known: self.known.0,
            bytes_done: load(&self.tally.bytes),
            bytes_known: self.known.1,
            bytes_stored: load(&self.tally.bytes_fetched),
        });
    }

    pub(super) fn into_report(self, duration: Duration) -> RestoreReport {
        let planned = self.planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        RestoreReport {
            files: load(&self.tally.files),
            directories: load(&self.tally.directories),
            others: load(&self.tally.others),
            bytes: load(&self.tally.bytes),
            unchanged: load(&self.tally.unchanged),
            skipped: load(&self.tally.skipped),
            deleted: load(&self.tally.deleted),
            actions: planned.actions,
            actions_total: planned.total,
            problems: load(&self.tally.problems),
            duration,
            weights_duration: self.weights.get().copied(),
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
