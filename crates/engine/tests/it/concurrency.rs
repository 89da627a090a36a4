//! The table of docs/concurrency.md: backups, readers and verify beside each other in one repository.
//!
//! Each thread opens the repository for itself, as another process would. What they meet is left to chance, in many
//! rounds; what must hold afterwards is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use seawall_engine::backup::{BackupReport, backup};
use seawall_engine::crypto::Secret32;
use seawall_engine::error::Error;
use seawall_engine::format::slot::Unlock;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::repo::cache::Cache;
use seawall_engine::repo::log::Log;
use seawall_engine::store::Store;
use seawall_engine::store::local::LocalStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use crate::place::{Place, files_of, noise, options, paths, stored_files};

const WRITERS: u64 = 3;
const ROUNDS: u64 = 4;

fn assert_sound(repository: &Repository) {
    let options = VerifyOptions { read: Read::All, record: false, threads: 1, budget_bytes: 64 * MIB };
    assert_eq!(verify(repository, &options, &Silent).unwrap().damage, []);
}

/// A writer's files: some are the same for all writers of a round, so that several store the same new chunks.
fn write_files(directory: &Path, writer: u64, round: u64) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("shared"), noise(round, 400_000)).unwrap();
    fs::write(directory.join("own"), noise(100 + writer, 300_000)).unwrap();
    fs::write(directory.join("tiny"), round.to_le_bytes()).unwrap();
}

/// Backs up a directory that changes, each time through another opening of the repository.
fn write_rounds(place: &Place, writer: u64) -> Vec<BackupReport> {
    let directory = place.source().join(writer.to_string());
    let rounds = (0..ROUNDS).map(|round| {
        write_files(&directory, writer, round);
        let report = backup(&place.open(writer == 0), options(paths(&directory)), &Silent).unwrap();
        assert_eq!(stored_files(&place.open(false), &report)[&directory.join("shared")], noise(round, 400_000));
        report
    });
    rounds.collect()
}

#[test]
fn backups_readers_and_verify_do_not_disturb_each_other() {
    let (place, repository) = Place::new();
    let writing = AtomicBool::new(true);
    let reports = thread::scope(|scope| {
        let place = &place;
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write_rounds(place, writer))).collect();
        let reader = scope.spawn(|| {
            while writing.load(Ordering::Relaxed) {
                // Opened before all backups: it learns of their chunks only by reading the log again.
                repository.refresh().unwrap();
                for snapshot in repository.snapshots() {
                    assert_eq!(files_of(&repository, &snapshot.record.root).len(), 3);
                }
            }
        });
        let checker = scope.spawn(|| {
            while writing.load(Ordering::Relaxed) {
                assert_sound(&place.open(false));
            }
        });
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        // Why before a writer's failure is passed on: the others would go on for ever.
        writing.store(false, Ordering::Relaxed);
        let reports: Vec<BackupReport> = ended.into_iter().flat_map(Result::unwrap).collect();
        reader.join().unwrap();
        checker.join().unwrap();
        reports
    });
    let repository = place.open(false);
    assert_eq!(u64::try_from(repository.snapshots().len()).unwrap(), WRITERS * ROUNDS);
    assert!(repository.snapshots().is_sorted_by(|a, b| a.number < b.number));
    for report in &reports {
        assert_eq!((report.problems, stored_files(&repository, report).len()), (0, 3));
    }
    assert_sound(&repository);
}

#[test]
fn one_of_two_inits_wins() {
    for _ in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::create(&directory.path().join("repository")).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let unlocks: Vec<_> = (0..4).map(|_| Unlock::KeyFile(Secret32::random())).collect();
        let made: Vec<_> = thread::scope(|scope| {
            let init = |unlock| {
                let store = Arc::clone(&store);
                move || Repository::init(store, &[(unlock, "test".to_owned())], None).map(drop)
            };
            let threads: Vec<_> = unlocks.iter().cloned().map(|unlock| scope.spawn(init(unlock))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
        for (unlock, made) in unlocks.iter().zip(&made) {
            // Refused: it saw that the other one was at it.
            assert!(matches!(made, Ok(()) | Err(Error::RepositoryExists(_) | Error::Refused(_))), "{made:?}");
            assert_eq!(Repository::open(Arc::clone(&store), unlock, None).is_ok(), made.is_ok());
        }
    }
}

/// Every file below a directory, with its bytes.
fn all_files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for item in fs::read_dir(directory).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            files.extend(all_files(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

/// Who saw more is told, may read what the store shows, and may not write: the store and the cached log stay as they are.
fn assert_rolled_back(place: &Place, snapshots: usize, why: &str) {
    let repository = place.open(true);
    let cached_log = place.directory.path().join("cache").join(repository.id().to_string()).join("log");
    let stored = || (all_files(&place.directory.path().join("repository")), fs::read(&cached_log).unwrap());
    let before = stored();
    for _ in 0..2 {
        let repository = place.open(true);
        assert!(repository.rollback().unwrap().contains(why), "{:?}", repository.rollback());
        assert_eq!(repository.snapshots().len(), snapshots, "{why}");
        for snapshot in repository.snapshots() {
            assert_eq!(files_of(&repository, &snapshot.record.root).len(), 3, "{why}");
        }
        assert_sound(&repository);
        repository.refresh().unwrap();
        let refused = backup(&repository, options(paths(&place.source())), &Silent);
        assert!(matches!(refused, Err(Error::Rollback(_))), "{why}: {refused:?}");
        let cache = Cache::new(Some(&place.directory.path().join("cache")), &repository.id());
        let (store, ring) = (repository.store(), repository.keys());
        let mut log = Log::open(store, repository.id(), ring, cache).unwrap();
        let appended = log.append(store, ring, 0, &mut |_| unreachable!("refused before anybody is asked what"));
        assert!(matches!(appended, Err(Error::Rollback(_))), "{why}: {appended:?}");
        assert!(stored() == before, "{why}: nothing is written");
    }
}

#[test]
fn a_log_that_goes_back_is_read_and_not_written_by_whoever_saw_more() {
    let (place, repository) = Place::new();
    write_files(&place.source(), 0, 0);
    backup(&repository, options(paths(&place.source())), &Silent).unwrap();
    drop(repository);
    assert_eq!(place.open(true).rollback(), None);
    let last = place.directory.path().join("repository/log").join(format!("{:020}", 1));
    let seen = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    assert_rolled_back(&place, 0, "the log ends before");
    // Who never saw more can't know: another valid end of the log is taken for the only one.
    backup(&place.open(false), options(paths(&place.source())), &Silent).unwrap();
    assert_ne!(fs::read(&last).unwrap(), seen);
    assert_rolled_back(&place, 1, "is not the entry that was seen before");
    fs::write(&last, seen).unwrap();
    let again = place.open(true);
    assert_eq!((again.rollback(), again.snapshots().len()), (None, 1));
    backup(&again, options(paths(&place.source())), &Silent).unwrap();
}
