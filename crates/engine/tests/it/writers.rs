//! Two writers on one store, each with a view of its own: whatever is committed is whole, and neither hurts the other.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use seawall_engine::backup::{BackupOptions, BackupReport, backup};
use seawall_engine::crypto::Secret32;
use seawall_engine::error::Result;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::ChunkId;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Plan, RandomFailures, SimulatedStore};
use seawall_engine::store::{Capabilities, Created, ObjectInfo, Store, StoreError};
use seawall_engine::units::MIB;

use crate::place::{assert_restores, assert_same, assert_whole, noise, options, paths};

/// A machine's own connection to a shared store; it is gone after so many writes, while others go on.
struct Connection {
    store: Arc<dyn Store>,
    writes_left: AtomicI64,
}

impl Connection {
    fn alive(&self, cost: i64) -> Result<(), StoreError> {
        if self.writes_left.fetch_sub(cost, Ordering::SeqCst) - cost >= 0 {
            return Ok(());
        }
        self.writes_left.store(-1, Ordering::SeqCst);
        Err(StoreError::from_io("connecting", std::io::ErrorKind::NotConnected.into()))
    }
}

impl Store for Connection {
    fn location(&self) -> String {
        self.store.location()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.alive(0).and_then(|()| self.store.get(name, range))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.alive(1).and_then(|()| self.store.put(name, bytes))
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.alive(1).and_then(|()| self.store.create(name, bytes))
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.alive(0).and_then(|()| self.store.head(name))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.alive(0).and_then(|()| self.store.list(prefix, each))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.alive(1).and_then(|()| self.store.delete(name))
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}

struct Scene {
    directory: tempfile::TempDir,
    unlock: Unlock,
}

impl Scene {
    fn new(store: Arc<dyn Store>) -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap(), unlock: Unlock::KeyFile(Secret32::random()) };
        Repository::init(store, &[(scene.unlock.clone(), "test".to_owned())], None).unwrap();
        scene
    }

    /// One writer's repository; those with the same cache are of one user on one machine.
    fn open(&self, store: Arc<dyn Store>, cache: &str) -> Repository {
        Repository::open(store, &self.unlock, Some(self.directory.path().join(cache))).unwrap()
    }

    fn source(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, source: &str, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.source(source)).unwrap();
        fs::write(self.source(source).join(name), bytes).unwrap();
    }

    /// Some files of its own and some that every source has.
    fn fill(&self, source: &str, seed: u64) {
        for number in 0..12 {
            self.write(source, &format!("own {number}"), &noise(seed * 100 + number, 150_000));
            self.write(source, &format!("shared {number}"), &noise(number, 300_000));
            self.write(source, &format!("tiny {number}"), format!("{seed} {number}").as_bytes());
        }
        self.write(source, "long", &noise(seed + 50, 5 * MIB));
    }

    /// What anybody who opens the store now sees: as many snapshots, all whole.
    fn check(&self, store: Arc<dyn Store>, snapshots: usize) -> Repository {
        let fresh = Repository::open(store, &self.unlock, None).unwrap();
        assert_whole(&fresh);
        assert_eq!(fresh.snapshots().len(), snapshots);
        assert_eq!(fresh.log_entries(), 1 + snapshots as u64);
        fresh
    }

    fn restores(&self, repository: &Repository, report: &BackupReport, source: &str) {
        let (root, number) = (report.snapshot.as_ref().unwrap().root, report.number);
        let target = self.source(&format!("restored {source} {number}"));
        assert_restores(repository, &root, &self.source(source), &target);
    }
}

fn small(source: &Path) -> BackupOptions {
    BackupOptions { budget_bytes: 32 * MIB, ..options(paths(source)) }
}

/// Runs both at once and gives what each returned.
fn both<T: Send>(first: impl FnOnce() -> T + Send, second: impl FnOnce() -> T + Send) -> (T, T) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            start.wait();
            second()
        });
        start.wait();
        (first(), other.join().unwrap())
    })
}

#[test]
fn parallel_backups_of_the_same_and_of_other_sources() {
    // Whether the two have one cache, and whether they have one source.
    for (case, (one_cache, one_source)) in
        [(true, true), (true, false), (false, true), (false, false)].iter().enumerate()
    {
        let store = Arc::new(MemoryStore::new());
        let scene = Scene::new(store.clone());
        let names = ["left", if *one_source { "left" } else { "right" }];
        let caches = ["cache", if *one_cache { "cache" } else { "other cache" }];
        let writers = caches.map(|cache| scene.open(store.clone(), cache));
        let mut reports = Vec::new();
        for round in 0..3 {
            scene.fill("left", round);
            scene.fill("right", 10 + round);
            let run = |at: usize| backup(&writers[at], small(&scene.source(names[at])), &Silent).unwrap();
            let (left, right) = both(|| run(0), || run(1));
            let fresh = scene.check(store.clone(), 2 * (reports.len() / 2 + 1));
            for (report, name) in [(&left, names[0]), (&right, names[1])] {
                let root = report.snapshot.as_ref().unwrap().root;
                assert_same(&fresh, &root, &scene.source(name), &scene.source(name));
            }
            reports.extend([left, right]);
        }
        let numbers: BTreeSet<u64> = reports.iter().map(|report| report.number).collect();
        assert_eq!(numbers, (1..=6).collect(), "case {case}: every commit has a number of its own");
        let fresh = scene.check(store, 6);
        for (report, name) in reports.iter().zip(names.iter().cycle()) {
            // The older ones too, which are not what the source is now.
            scene.restores(&fresh, report, name);
        }
    }
}

#[test]
fn backups_in_turn_see_each_other_after_their_own_commit() {
    let store = Arc::new(MemoryStore::new());
    let scene = Scene::new(store.clone());
    let writers = [scene.open(store.clone(), "a"), scene.open(store.clone(), "b")];
    scene.fill("source", 1);
    let mut stored = Vec::new();
    for round in 0..3 {
        for (at, writer) in writers.iter().enumerate() {
            scene.write("source", "edited", &noise(round * 2 + at as u64, 400_000));
            let report = backup(writer, small(&scene.source("source")), &Silent).unwrap();
            let fresh = scene.check(store.clone(), stored.len() + 1);
            scene.restores(&fresh, &report, "source");
            stored.push(report.bytes_new);
        }
    }
    // The second writer had not seen the first one's commit; then each knows all but the other's newest.
    assert!(stored[0] > 5 * MIB as u64 && stored[1] > 5 * MIB as u64, "{stored:?}");
    assert!(stored[2..].iter().all(|&bytes| bytes < MIB as u64), "{stored:?}");
}

#[test]
fn one_dies_at_any_write_and_the_other_is_not_hurt() {
    let (mut died, mut adopted) = (0, 0);
    for writes in 0..9 {
        let store = Arc::new(MemoryStore::new());
        let scene = Scene::new(store.clone());
        scene.fill("left", 1);
        scene.fill("right", 2);
        let connection = Arc::new(Connection { store: store.clone(), writes_left: AtomicI64::new(writes) });
        let (dying, living) = (scene.open(connection, "left cache"), scene.open(store.clone(), "right cache"));
        let run = |repository: &Repository, name: &str| backup(repository, small(&scene.source(name)), &Silent);
        let (left, right) = both(|| run(&dying, "left"), || run(&living, "right"));
        drop(dying);
        let right = right.unwrap();
        died += u64::from(left.is_err());
        let before = 1 + usize::from(left.is_ok());
        scene.restores(&scene.check(store.clone(), before), &right, "right");
        let again = run(&scene.open(store.clone(), "left cache"), "left").unwrap();
        // A run that died before its first pack has left nothing to adopt.
        assert!(again.adopted.len() <= usize::from(left.is_err()), "after {writes} writes");
        adopted += again.adopted.len();
        scene.restores(&scene.check(store, before + 1), &again, "left");
    }
    assert!(died >= 4, "only {died} of the runs died");
    assert!(adopted >= 3, "only {adopted} of {died} were adopted");
}

#[test]
fn whatever_fails_by_chance_what_was_acknowledged_is_there() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..10 {
        let store = Arc::new(SimulatedStore::new());
        let scene = Scene::new(store.clone());
        scene.fill("left", 1);
        scene.fill("right", 2);
        let (left, right) = (scene.open(store.clone(), "cache"), scene.open(store.clone(), "cache"));
        store.set_plan(Plan { random: Some(RandomFailures { seed, per_mille: 60 }), ..Plan::default() });
        let run = |repository: &Repository, name: &str| backup(repository, small(&scene.source(name)), &Silent);
        let (left, right) = both(|| run(&left, "left"), || run(&right, "right"));
        store.reboot();
        let fresh = Repository::open(store.clone(), &scene.unlock, None).unwrap();
        assert_whole(&fresh);
        let committed: BTreeSet<_> = fresh.snapshots().iter().map(|snapshot| snapshot.record.id).collect();
        for (result, name) in [(left, "left"), (right, "right")] {
            let Ok(report) = result else {
                bad += 1;
                continue;
            };
            good += 1;
            assert!(committed.contains(&report.snapshot.as_ref().unwrap().id), "seed {seed}: {name} was acknowledged");
            scene.restores(&fresh, &report, name);
        }
        let again = run(&scene.open(store.clone(), "cache"), "left").unwrap();
        scene.restores(&scene.check(store, committed.len() + 1), &again, "left");
    }
    assert!(good > 0 && bad > 0, "{good} good and {bad} failed runs");
}

/// One chunk: noise with `edits` places changed, so that versions are worth encoding against each other.
fn version(edits: usize) -> Vec<u8> {
    let mut bytes = noise(9, 60_000);
    for edit in 0..edits {
        bytes[edit * 10_000..edit * 10_000 + 5].copy_from_slice(b"other");
    }
    bytes
}

#[test]
fn a_chunk_that_one_stored_with_a_base_and_the_other_without_can_be_a_base() {
    let store = Arc::new(MemoryStore::new());
    let scene = Scene::new(store.clone());
    // Both open before either commits, and learn of the other's commits only at their own: as sessions that overlap.
    let (left, right) = (scene.open(store.clone(), "a"), scene.open(store.clone(), "b"));
    let run = |repository: &Repository, name: &str, edits: usize| {
        scene.write(name, "file", &version(edits));
        backup(repository, small(&scene.source(name)), &Silent).unwrap()
    };
    let id = |edits: usize| left.id_key().chunk_id(&version(edits));
    run(&left, "left", 1);
    run(&right, "right", 2);
    run(&left, "left", 2);
    let newest = run(&right, "right", 3);

    let fresh = scene.check(store, 4);
    let bases = |wanted: ChunkId| {
        let mut bases = Vec::new();
        let mut each = |id, location: seawall_engine::format::segment::Location| {
            bases.extend((id == wanted).then_some(location.base));
        };
        fresh.each_location(&mut each).unwrap();
        bases
    };
    assert_eq!(bases(id(2)), [None, Some(id(1))], "the scene: alone first, then against the first version");
    assert_eq!(bases(id(3)), [Some(id(2))], "the scene: the newest version needs the one that is there twice");
    assert_eq!(fresh.read_chunk(&id(3)).unwrap(), version(3));
    scene.restores(&fresh, &newest, "right");
}
