//! Early failures, while the walk still has many files: the command ends, with the first error, and the next run works.
//!
//! Nothing here waits for a time: a run that hangs is a test that does not end.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_engine::backup::{BackupOptions, backup};
use seawall_engine::crypto::Secret32;
use seawall_engine::error::Error;
use seawall_engine::format::slot::Unlock;
use seawall_engine::monitor::{Monitor, Problem, Silent};
use seawall_engine::repo::Repository;
use seawall_engine::store::StoreError;
use seawall_engine::store::simulated::{Plan, SimulatedStore};
use seawall_engine::units::MIB;

use crate::place::{assert_restores, assert_whole, noise, options, paths};

/// More than all queues between walk, workers and writers hold together.
const FILES: u64 = 3_000;

struct Scene {
    directory: tempfile::TempDir,
    store: Arc<SimulatedStore>,
    unlock: Unlock,
}

impl Scene {
    fn new() -> Self {
        let (directory, store) = (tempfile::tempdir().unwrap(), Arc::new(SimulatedStore::new()));
        let unlock = Unlock::KeyFile(Secret32::random());
        Repository::init(store.clone(), &[(unlock.clone(), "test".to_owned())], None).unwrap();
        let scene = Self { directory, store, unlock };
        for number in 0..FILES {
            let place = scene.directory.path().join(format!("source/{:02}", number % 40));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(number.to_string()), noise(number, 4_000)).unwrap();
        }
        // Shared by all workers, and longer than the budget lets them hold.
        fs::write(scene.directory.path().join("source/00/large"), noise(FILES, 12 * MIB)).unwrap();
        scene
    }

    fn open(&self) -> Repository {
        let cache = self.directory.path().join("cache");
        Repository::open(self.store.clone(), &self.unlock, Some(cache)).unwrap()
    }

    fn options(&self, threads: usize) -> BackupOptions {
        let source = paths(&self.directory.path().join("source"));
        BackupOptions { budget_bytes: 32 * MIB * threads, threads, ..options(source) }
    }

    /// The store is well again: a run commits, and everything comes back.
    fn assert_next_run_works(&self, threads: usize) {
        self.store.reboot();
        let repository = self.open();
        let report = backup(&repository, self.options(threads), &Silent).unwrap();
        assert_eq!((report.problems, report.snapshot.is_some()), (0, true));
        assert_whole(&repository);
        let target = self.directory.path().join("restored");
        let root = report.snapshot.unwrap().root;
        assert_restores(&repository, &root, &self.directory.path().join("source"), &target);
        fs::remove_dir_all(target).unwrap();
    }
}

fn failed_with(error: &Error) -> String {
    match error {
        Error::Store(StoreError::Io { what, source }) => format!("{what}: {source}"),
        other => panic!("not the store's error: {other:?}"),
    }
}

/// From one write on everything fails; the run ends with the words of the first failure.
#[test]
fn a_store_that_fails_early_ends_the_run_with_its_first_error() {
    // The session's key, the first pack, and a pack while others are on their way.
    for (first, what) in [(0, "writing session/"), (1, "writing pack/"), (2, "writing ")] {
        for threads in [1, 4] {
            let scene = Scene::new();
            scene.store.set_plan(Plan::crash_at_write(first));
            let repository = scene.open();
            let error = backup(&repository, scene.options(threads), &Silent).unwrap_err();
            let error = failed_with(&error);
            // Whatever comes after the first meets "has crashed". Of two threads that write at once, the second may tell first.
            let ends = if threads == 1 { "simulated crash" } else { "crash" };
            assert!(
                error.starts_with(what) && error.trim_end_matches("ed").ends_with(ends),
                "{threads} threads: {error}"
            );
            drop(repository);
            scene.store.reboot();
            assert_eq!(scene.open().snapshots().len(), 0);
            scene.assert_next_run_works(threads);
        }
    }
}

/// Removes the source when the first file is read, while the walk is still on its way.
struct Vanishing<'s> {
    source: &'s Path,
    begun: AtomicU64,
    problems: AtomicU64,
}

impl Monitor for Vanishing<'_> {
    fn current(&self, _: &Path) {
        if self.begun.fetch_add(1, Ordering::SeqCst) == 0 {
            fs::rename(self.source, self.source.with_extension("away")).unwrap();
            fs::remove_dir_all(self.source.with_extension("away")).unwrap();
        }
    }

    fn problem(&self, problem: Problem) {
        assert!(["vanished", "unreadable", "missing", "changed", "metadata"].contains(&problem.code), "{problem:?}");
        self.problems.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_source_that_vanishes_is_problems_and_no_hang() {
    for threads in [1, 4] {
        let scene = Scene::new();
        let source = scene.directory.path().join("source");
        let repository = scene.open();
        let monitor = Vanishing { source: &source, begun: AtomicU64::new(0), problems: AtomicU64::new(0) };
        let report = backup(&repository, scene.options(threads), &monitor).unwrap();
        let files = report.files_new + report.files_changed;
        assert!(report.problems > 0 && report.problems == monitor.problems.into_inner() && files < FILES);
        assert_whole(&repository);
        // Gone before it begins, it is an error; nothing is committed.
        let gone = backup(&repository, scene.options(threads), &Silent);
        assert!(gone.is_err(), "{gone:?}");
        assert_eq!(repository.snapshots().len(), 1);
        drop(repository);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("back"), b"again").unwrap();
        scene.assert_next_run_works(threads);
    }
}
