//! Forget, prune and undelete: what is live restores, what is not goes, and a crash at any point loses nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seawall_engine::backup::{BackupOptions, BackupReport, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::error::{Error, Result};
use seawall_engine::forget::forget;
use seawall_engine::format::log::Act;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::SnapshotId;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::{MaxUnused, Planned, PruneOptions, PruneReport, prune};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Fault, Plan, SimulatedStore};
use seawall_engine::undelete::undelete;
use seawall_engine::units::MIB;

use crate::place::{assert_whole, files_of, noise, options, paths};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A source, and what each snapshot of it must give back.
struct Scene {
    directory: tempfile::TempDir,
    unlock: Unlock,
    store: Arc<dyn Store>,
    known: BTreeMap<SnapshotId, Files>,
}

/// Deletes at once and leaves nothing that nobody needs.
fn thorough() -> PruneOptions {
    PruneOptions {
        window: Duration::ZERO,
        orphans: Duration::ZERO,
        max_unused: MaxUnused::Bytes(0),
        pack_bytes: 4 * MIB,
        ..PruneOptions::default()
    }
}

/// Condemns, and deletes nothing for a day.
fn patient() -> PruneOptions {
    let day = Duration::from_secs(86_400);
    PruneOptions { window: day, orphans: day, ..thorough() }
}

fn run(repository: &Repository, options: &PruneOptions) -> Result<PruneReport> {
    prune(repository, options, &mut |_| {}, &Silent)
}

impl Scene {
    fn on(store: Arc<dyn Store>) -> Self {
        let scene = Self {
            directory: tempfile::tempdir().unwrap(),
            unlock: Unlock::KeyFile(Secret32::random()),
            store,
            known: BTreeMap::new(),
        };
        fs::create_dir(scene.source()).unwrap();
        Repository::init(scene.store.clone(), &[(scene.unlock.clone(), "test".to_owned())], None).unwrap();
        scene
    }

    fn new() -> (Arc<MemoryStore>, Self) {
        let store = Arc::new(MemoryStore::new());
        (store.clone(), Self::on(store))
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn open(&self) -> Repository {
        Repository::open(self.store.clone(), &self.unlock, None).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.source().join(name), bytes).unwrap();
    }

    fn files(&self) -> Files {
        let files = fs::read_dir(self.source()).unwrap().map(|item| item.unwrap().path());
        files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }

    fn small(&self) -> BackupOptions {
        BackupOptions { budget_bytes: 32 * MIB, ..options(paths(&self.source())) }
    }

    fn note(&mut self, report: &BackupReport) -> SnapshotId {
        let id = report.snapshot.as_ref().unwrap().id;
        self.known.insert(id, self.files());
        id
    }

    fn backup(&mut self) -> SnapshotId {
        let report = backup(&self.open(), self.small(), &Silent).unwrap();
        self.note(&report)
    }

    /// Every live snapshot gives back what it must, and verify finds nothing.
    fn check(&self) -> usize {
        let fresh = self.open();
        for snapshot in fresh.snapshots() {
            let id = snapshot.record.id;
            assert_eq!(&files_of(&fresh, &snapshot.record.root), &self.known[&id], "snapshot {id}");
        }
        assert_whole(&fresh);
        fresh.snapshots().len()
    }

    fn objects(&self, prefix: &str) -> u64 {
        let mut count = 0;
        self.store.list(prefix, &mut |_| count += 1).unwrap();
        count
    }
}

#[test]
fn what_only_a_forgotten_snapshot_needs_goes_and_the_rest_stays() {
    let (store, mut scene) = Scene::new();
    scene.write("shared", &noise(1, 3 * MIB));
    scene.write("old", &noise(2, 5 * MIB));
    let first = scene.backup();
    fs::remove_file(scene.source().join("old")).unwrap();
    scene.write("new", &noise(3, MIB));
    scene.backup();
    let before = store.total_bytes();
    let repository = scene.open();
    forget(&repository, &[first], "test").unwrap();
    let report = run(&repository, &thorough()).unwrap();
    assert!(report.planned.unused_packs + report.planned.rewritten_packs > 0, "{report:?}");
    assert!(store.total_bytes() + 4 * MIB as u64 <= before, "{before} to {}", store.total_bytes());
    assert_eq!(scene.check(), 1);
    let again = run(&repository, &thorough()).unwrap();
    assert_eq!((again.condemned_packs, again.deleted_packs), (0, 0), "nothing is left to do");
}

#[test]
fn when_everything_is_forgotten_nearly_nothing_is_left() {
    let (_, mut scene) = Scene::new();
    for round in 0..3 {
        scene.write("file", &noise(round, 2 * MIB));
        scene.write("log", &noise(9, 100_000 * (1 + round as usize)));
        scene.backup();
    }
    let repository = scene.open();
    let all: Vec<SnapshotId> = repository.snapshots().iter().map(|snapshot| snapshot.record.id).collect();
    forget(&repository, &all, "test").unwrap();
    run(&repository, &thorough()).unwrap();
    assert_eq!(["pack/", "index/", "session/"].map(|prefix| scene.objects(prefix)), [0, 0, 0]);
    assert_eq!(scene.check(), 0);
    scene.backup();
    assert_eq!(scene.check(), 1);
}
