//! A crash at any operation on the store loses no committed snapshot, and the next run simply succeeds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use seawall_engine::backup::backup;
use seawall_engine::crypto::Secret32;
use seawall_engine::format::slot::Unlock;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Fault, Plan, SimulatedStore};

use crate::place::{files_of, noise, options, paths};

type Files = BTreeMap<PathBuf, Vec<u8>>;

struct Scene {
    directory: tempfile::TempDir,
    unlock: Unlock,
    first: Files,
    second: Files,
}

impl Scene {
    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn write(&self, files: &Files) {
        let _ = fs::remove_dir_all(self.source());
        for (path, bytes) in files {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join("source").join(name);
        let first: Files =
            [(file("a/small"), b"tiny".to_vec()), (file("b"), noise(1, 200_000)), (file("c"), noise(2, 6_000_000))]
                .into();
        let mut second = first.clone();
        second.insert(file("b"), noise(3, 250_000));
        second.insert(file("d/new"), noise(4, 5_000_000));
        Self { directory, unlock: Unlock::KeyFile(Secret32::random()), first, second }
    }

    fn cache(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.path().join(name))
    }

    /// A store with the first version committed.
    fn committed(&self) -> MemoryStore {
        self.write(&self.first);
        let store = Arc::new(SimulatedStore::new());
        let slots = [(self.unlock.clone(), "test".to_owned())];
        let repository = Repository::init(store.clone(), &slots, None).unwrap();
        backup(&repository, options(paths(&self.source())), &Silent).unwrap();
        store.objects().copy()
    }

    /// Every snapshot in the log comes back whole.
    fn check(&self, store: &Arc<SimulatedStore>) -> usize {
        let repository = Repository::open(store.clone(), &self.unlock, None).unwrap();
        let snapshots = repository.snapshots();
        for (number, snapshot) in snapshots.iter().enumerate() {
            let wanted = if number == 0 { &self.first } else { &self.second };
            assert_eq!(&files_of(&repository, &snapshot.record.root), wanted, "snapshot {number}");
        }
        snapshots.len()
    }
}

#[test]
fn a_crash_at_any_write_loses_nothing_and_the_next_run_takes_over() {
    let scene = Scene::new();
    let base = scene.committed();
    scene.write(&scene.second);
    let mut adopted = 0;
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::FailBefore, Fault::FailAfter] {
        for number in 0.. {
            let store = Arc::new(SimulatedStore::over(base.copy(), Plan::default().write(number, fault)));
            let cache = scene.cache(&format!("cache-{fault:?}-{number}"));
            let repository = Repository::open(store.clone(), &scene.unlock, cache.clone()).unwrap();
            let result = backup(&repository, options(paths(&scene.source())), &Silent);
            let ended = result.is_ok() && !store.crashed();
            drop(repository);
            store.reboot();
            let snapshots = scene.check(&store);
            assert!(result.is_err() || snapshots == 2, "{fault:?} at write {number}: committed but not there");
            let again = Repository::open(store.clone(), &scene.unlock, cache).unwrap();
            let report = backup(&again, options(paths(&scene.source())), &Silent).unwrap();
            adopted += report.adopted.len();
            assert_eq!(scene.check(&store), snapshots + 1);
            if ended && store.operations().writes() > 0 && number > 12 {
                break;
            }
        }
    }
    assert!(adopted > 0, "no crashed session was ever adopted");
}
