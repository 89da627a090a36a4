//! Forget, prune and undelete: what is live restores, what is not goes, and a crash at any point loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use seawall_engine::backup::{BackupOptions, BackupReport, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::error::{Error, Result};
use seawall_engine::forget::{forget, weigh};
use seawall_engine::format::log::Act;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::SnapshotId;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::{MaxUnused, PruneOptions, PruneReport, prune};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Fault, Plan, SimulatedStore};
use seawall_engine::undelete::undelete;
use seawall_engine::units::MIB;

use crate::place::{assert_whole, files_of, noise, options, paths};

pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A source, and what each snapshot of it must give back.
pub struct Scene {
    pub directory: tempfile::TempDir,
    pub unlock: Unlock,
    pub store: Arc<dyn Store>,
    pub known: BTreeMap<SnapshotId, Files>,
}

/// Deletes at once and leaves nothing that nobody needs.
pub fn thorough() -> PruneOptions {
    PruneOptions {
        window: Duration::ZERO,
        orphans: Duration::ZERO,
        max_unused: MaxUnused::Bytes(0),
        pack_bytes: 4 * MIB,
        ..PruneOptions::default()
    }
}

/// Condemns, and deletes nothing for a day.
pub fn patient() -> PruneOptions {
    let day = Duration::from_secs(86_400);
    PruneOptions { window: day, orphans: day, ..thorough() }
}

pub fn run(repository: &Repository, options: &PruneOptions) -> Result<PruneReport> {
    prune(repository, options, &mut |_| {}, &Silent)
}

impl Scene {
    pub fn on(store: Arc<dyn Store>) -> Self {
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

    pub fn new() -> (Arc<MemoryStore>, Self) {
        let store = Arc::new(MemoryStore::new());
        (store.clone(), Self::on(store))
    }

    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub fn open(&self) -> Repository {
        Repository::open(self.store.clone(), &self.unlock, None).unwrap()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.source().join(name), bytes).unwrap();
    }

    pub fn files(&self) -> Files {
        let files = fs::read_dir(self.source()).unwrap().map(|item| item.unwrap().path());
        files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }

    pub fn small(&self) -> BackupOptions {
        BackupOptions { budget_bytes: 32 * MIB, ..options(paths(&self.source())) }
    }

    fn note(&mut self, report: &BackupReport) -> SnapshotId {
        let id = report.snapshot.as_ref().unwrap().id;
        self.known.insert(id, self.files());
        id
    }

    pub fn backup(&mut self) -> SnapshotId {
        let report = backup(&self.open(), self.small(), &Silent).unwrap();
        self.note(&report)
    }

    /// Every live snapshot gives back what it must, and verify finds nothing.
    pub fn check(&self) -> usize {
        let fresh = self.open();
        for snapshot in fresh.snapshots() {
            let id = snapshot.record.id;
            assert_eq!(&files_of(&fresh, &snapshot.record.root), &self.known[&id], "snapshot {id}");
        }
        assert_whole(&fresh);
        fresh.snapshots().len()
    }

    pub fn objects(&self, prefix: &str) -> u64 {
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

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// Changes the file with this number in this way, then backs up.
    Backup(u8, Change),
    /// Forgets one of the live snapshots.
    Forget(usize),
    /// Brings one of the forgotten snapshots back.
    Undelete(usize),
    /// Prunes with these options.
    Prune { now: bool, left: u64, batch: usize, rewrite: Option<u64> },
}

#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// Bytes that others may have too.
    Noise(u64),
    /// A version of bytes that many have: worth encoding against each other.
    Version(u64, u8),
    /// A version that shares half of its bytes with the others, so that the base of few does not pay.
    Half(u64),
    /// So many pieces between holes that the list of extents is a chunk of its own.
    Sparse(u64),
    Remove,
}

fn bytes(change: Change) -> Option<Vec<u8>> {
    match change {
        Change::Noise(seed) => Some(noise(seed, 300_000)),
        Change::Version(seed, edits) => {
            let mut bytes = noise(100 + seed, 60_000);
            for edit in 0..usize::from(edits) {
                bytes[edit * 7_000..edit * 7_000 + 5].copy_from_slice(b"other");
            }
            Some(bytes)
        }
        Change::Half(seed) => Some([noise(300, 30_000), noise(301 + seed, 30_000)].concat()),
        Change::Sparse(seed) => Some(noise(200 + seed, 720_000)),
        Change::Remove => None,
    }
}

impl Scene {
    pub fn change(&self, file: u8, change: Change) {
        let path = self.source().join(file.to_string());
        let _ = fs::remove_file(&path);
        let Some(bytes) = bytes(change) else { return };
        if !matches!(change, Change::Sparse(_)) {
            fs::write(path, bytes).unwrap();
            return;
        }
        let target = fs::File::create(path).unwrap();
        for (number, tooth) in (0u64..).zip(bytes.chunks(4096)) {
            std::os::unix::fs::FileExt::write_all_at(&target, tooth, number * 16_384).unwrap();
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => (0..6u64).prop_map(Change::Noise),
        4 => (0..2u64, 0..8u8).prop_map(|(seed, edits)| Change::Version(seed, edits)),
        2 => (0..4u64).prop_map(Change::Half),
        1 => (0..2u64).prop_map(Change::Sparse),
        1 => Just(Change::Remove),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let prune = (any::<bool>(), prop::sample::select(vec![0, 200_000, u64::MAX]), 1..4usize, any::<bool>());
    prop_oneof![
        5 => (0..4u8, change()).prop_map(|(file, change)| Step::Backup(file, change)),
        3 => any::<usize>().prop_map(Step::Forget),
        1 => any::<usize>().prop_map(Step::Undelete),
        3 => prune.prop_map(|(now, left, batch, limited)| {
            Step::Prune { now, left, batch, rewrite: limited.then_some(100_000) }
        }),
    ]
}

/// Plays a history; after every step everything live restores. `open` is one repository that sees the whole history.
fn play(steps: &[Step]) {
    let (_, mut scene) = Scene::new();
    let owner = scene.open();
    // Which forgotten snapshots must be able to come back: those that no deletion has followed.
    let mut forgotten: Vec<(SnapshotId, bool)> = Vec::new();
    for step in steps {
        match step {
            Step::Backup(file, change) => {
                scene.change(*file, *change);
                scene.backup();
            }
            Step::Forget(which) => {
                owner.refresh().unwrap();
                let live = owner.snapshots();
                if !live.is_empty() {
                    let id = live[which % live.len()].record.id;
                    let weight = weigh(&owner, &BTreeSet::from([id]), &Silent).unwrap();
                    forget(&owner, &[id], "test").unwrap();
                    let dry = run(&owner, &PruneOptions { dry_run: true, ..thorough() }).unwrap();
                    assert_eq!(dry.planned.live_bytes, weight.stored_bytes);
                    forgotten.push((id, true));
                }
            }
            Step::Undelete(which) if !forgotten.is_empty() => {
                let number = which % forgotten.len();
                let (id, must) = forgotten[number];
                match undelete(&owner, &[id], &Silent) {
                    Ok(_) => drop(forgotten.remove(number)),
                    Err(Error::NotFound(why)) => assert!(!must, "{why}"),
                    Err(other) => panic!("{other}"),
                }
            }
            Step::Undelete(_) => {}
            Step::Prune { now, left, batch, rewrite } => {
                let options = PruneOptions {
                    max_unused: MaxUnused::Bytes(*left),
                    batch_packs: *batch,
                    batch_reads: *batch,
                    max_rewrite_bytes: *rewrite,
                    ..if *now { thorough() } else { patient() }
                };
                let report = run(&owner, &options).unwrap();
                assert_eq!(report.problems, 0);
                if report.deleted_packs > 0 {
                    forgotten.iter_mut().for_each(|(_, must)| *must = false);
                }
            }
        }
        scene.check();
    }
    owner.refresh().unwrap();
    let all: Vec<SnapshotId> = owner.snapshots().iter().map(|snapshot| snapshot.record.id).collect();
    if !all.is_empty() {
        forget(&owner, &all, "test").unwrap();
    }
    run(&owner, &thorough()).unwrap();
    run(&owner, &thorough()).unwrap();
    assert_eq!(["pack/", "index/", "session/"].map(|prefix| scene.objects(prefix)), [0, 0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_history_what_is_live_restores(steps in vec(step(), 1..25)) {
        play(&steps);
    }
}

/// Crashes at every write of `work`, once before and once after it; each time everything live restores, and `finish`
/// does the rest.
pub fn crash_everywhere(
    scene: &Scene,
    base: &MemoryStore,
    work: &dyn Fn(&Repository) -> Result<()>,
    finish: &dyn Fn(&Scene),
) {
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::FailBefore, Fault::FailAfter] {
        for number in 0.. {
            let store = Arc::new(SimulatedStore::over(base.copy(), Plan::default()));
            let here = Scene {
                directory: tempfile::tempdir().unwrap(),
                unlock: scene.unlock.clone(),
                store: store.clone(),
                known: scene.known.clone(),
            };
            let repository = here.open();
            store.set_plan(Plan::default().write(number, fault));
            let outcome = work(&repository);
            let ended = store.operations().writes() <= number;
            store.reboot();
            assert!(!ended || outcome.is_ok(), "{outcome:?}");
            here.check();
            finish(&here);
            here.check();
            if ended {
                break;
            }
            assert!(number < 200, "it never ends");
        }
    }
}

pub fn forgetful_scene() -> (Arc<MemoryStore>, Scene, SnapshotId) {
    let (store, mut scene) = Scene::new();
    for edits in 0..4 {
        scene.change(1, Change::Version(1, edits));
        scene.change(2, Change::Noise(u64::from(edits) / 2));
        scene.change(3, Change::Sparse(0));
        scene.backup();
    }
    let owner = scene.open();
    let old: Vec<SnapshotId> = owner.snapshots()[..2].iter().map(|snapshot| snapshot.record.id).collect();
    forget(&owner, &old, "test").unwrap();
    (store, scene, old[0])
}

#[test]
fn a_crash_at_any_write_of_a_prune_loses_nothing_and_the_next_one_goes_on() {
    let (store, scene, _) = forgetful_scene();
    let few = PruneOptions { batch_packs: 2, ..thorough() };
    crash_everywhere(&scene, &store, &|repository| run(repository, &few).map(drop), &|here| {
        run(&here.open(), &few).unwrap();
        let owner = here.open();
        let rest: Vec<SnapshotId> = owner.snapshots().iter().map(|snapshot| snapshot.record.id).collect();
        here.check();
        forget(&owner, &rest, "test").unwrap();
        run(&owner, &few).unwrap();
        run(&owner, &few).unwrap();
        assert_eq!(["pack/", "index/", "session/"].map(|prefix| here.objects(prefix)), [0, 0, 0]);
    });
}

/// For each entry that condemns packs the whole index is judged, so there must not be one for each batch.
#[test]
fn many_batches_go_with_few_entries() {
    let (_, mut scene) = Scene::new();
    let ids: Vec<SnapshotId> = (0..40)
        .map(|number| {
            scene.write(&format!("kept {number}"), &noise(number, 20_000));
            scene.write("changing", &noise(1_000 + number, 20_000));
            scene.backup()
        })
        .collect();
    let owner = scene.open();
    forget(&owner, &ids[..39], "test").unwrap();
    let before = owner.state().next;
    let report = run(&owner, &PruneOptions { batch_packs: 1, ..thorough() }).unwrap();
    assert!(report.condemned_packs > 70 && report.rewritten_chunks >= 40, "the scene: {report:?}");
    let entries = owner.state().next - before;
    assert!(entries < 30, "{entries} entries for {} packs", report.condemned_packs);
    scene.check();
}

#[test]
fn a_crash_at_any_write_of_an_undelete_loses_nothing() {
    let (store, scene, old) = forgetful_scene();
    run(&scene.open(), &patient()).unwrap();
    crash_everywhere(&scene, &store, &|repository| undelete(repository, &[old], &Silent).map(drop), &|here| {
        let owner = here.open();
        if !owner.snapshots().iter().any(|snapshot| snapshot.record.id == old) {
            undelete(&owner, &[old], &Silent).unwrap();
        }
        here.check();
        run(&owner, &thorough()).unwrap();
        assert_eq!(here.open().snapshots().len(), 3);
    });
}

#[test]
fn what_is_held_or_not_there_refuses_the_whole_forget() {
    let (_, mut scene) = Scene::new();
    let ids: Vec<SnapshotId> = (0..3)
        .map(|edits| {
            scene.change(1, Change::Version(1, edits));
            scene.backup()
        })
        .collect();
    let owner = scene.open();
    let hold = |release| Act::Hold { snapshots: vec![ids[1]], label: "audit".into(), release };
    owner.append(&mut |_| Ok(hold(false))).unwrap();
    let refused = forget(&owner, &ids, "test");
    assert!(matches!(&refused, Err(Error::Held(why)) if why.contains("audit") && why.contains(&ids[1].to_string())));
    assert!(matches!(forget(&owner, &[], "test"), Err(Error::Usage(_))));
    assert!(matches!(forget(&owner, &[SnapshotId([7; 16])], "test"), Err(Error::NotFound(_))));
    run(&owner, &thorough()).unwrap();
    assert_eq!(scene.check(), 3);
    owner.append(&mut |_| Ok(hold(true))).unwrap();
    forget(&owner, &ids, "test").unwrap();
    assert!(matches!(forget(&owner, &ids[..1], "test"), Err(Error::NotFound(why)) if why.contains("already")));
    assert_eq!(scene.check(), 0);
}

#[test]
fn a_tree_that_cannot_be_read_stops_the_prune_before_anything_is_condemned() {
    let (copy, scene, _) = forgetful_scene();
    let owner = scene.open();
    // Every tree pack loses its blobs, all headers apart.
    for name in copy.names().into_iter().filter(|name| name.starts_with("pack/")) {
        let mut bytes = copy.get(&name, None).unwrap();
        if bytes[8] == 1 {
            bytes[64 + 48..].iter_mut().take(40).for_each(|byte| *byte ^= 1);
            copy.replace(&name, &bytes);
        }
    }
    let before = (owner.log_entries(), copy.names());
    let stopped = run(&owner, &thorough());
    let newest = owner.snapshots()[0].record.id.to_string();
    assert!(matches!(&stopped, Err(Error::Damaged(damaged)) if damaged.why.contains(&newest)), "{stopped:?}");
    assert_eq!((owner.log_entries(), copy.names()), before);
}

#[test]
fn a_dry_run_tells_what_a_run_does_and_does_nothing() {
    let (store, scene, _) = forgetful_scene();
    let owner = scene.open();
    let before = (owner.log_entries(), store.names());
    let dry = run(&owner, &PruneOptions { dry_run: true, ..patient() }).unwrap();
    assert_eq!((owner.log_entries(), store.names()), before);
    let done = run(&owner, &patient()).unwrap();
    assert_eq!(dry.planned, done.planned);
    assert!(done.condemned_packs > 0);
    assert_eq!(done.condemned_packs, done.planned.unused_packs + done.planned.rewritten_packs);
    assert_eq!(done.rewritten_bytes, done.planned.stored_again_bytes);
    assert_eq!((done.deleted_packs, done.waiting_packs), (0, done.condemned_packs));
    assert!(done.waiting_until > Some(Timestamp::now()));
    let later = PruneOptions { time: Timestamp { seconds: Timestamp::now().seconds + 90_000, nanos: 0 }, ..patient() };
    assert_eq!(run(&owner, &later).unwrap().deleted_packs, done.condemned_packs, "the window has passed");
    scene.check();
}

#[test]
fn what_may_stay_unneeded_is_a_limit_and_so_is_what_is_stored_again() {
    for (max_unused, max_rewrite_bytes) in
        [(MaxUnused::Share(1.0), None), (MaxUnused::Bytes(u64::MAX), None), (MaxUnused::Bytes(0), Some(0))]
    {
        let (_, scene, _) = forgetful_scene();
        let report = run(&scene.open(), &PruneOptions { max_unused, max_rewrite_bytes, ..thorough() }).unwrap();
        assert_eq!((report.rewritten_bytes, report.planned.rewritten_packs), (0, 0));
        assert!(report.planned.left_bytes > 0, "{report:?}");
    }
    let (_, scene, _) = forgetful_scene();
    let report = run(&scene.open(), &thorough()).unwrap();
    assert_eq!(report.planned.left_bytes, 0, "{report:?}");
    assert!(report.rewritten_bytes > 0);
}

#[test]
fn with_a_chunk_its_base_comes_back() {
    let (_, mut scene) = Scene::new();
    let mut made = Vec::new();
    for change in [Change::Version(1, 0), Change::Version(1, 3), Change::Noise(1)] {
        scene.change(1, change);
        made.push(scene.backup());
    }
    let owner = scene.open();
    let mut based = 0;
    owner.each_location(&mut |_, location| based += u32::from(location.base.is_some())).unwrap();
    assert!(based > 0, "the scene: the second version is stored against the first");
    forget(&owner, &made[..2], "test").unwrap();
    run(&owner, &patient()).unwrap();
    undelete(&owner, &made[1..2], &Silent).unwrap();
    assert_eq!(scene.check(), 2);
    run(&owner, &thorough()).unwrap();
    assert_eq!(scene.check(), 2);
}
