//! The table of docs/concurrency.md, cell by cell: one operation runs whole between any two steps of another.
//!
//! A step is one call on the store. The second operation runs right before a chosen step of the first, through a
//! connection of its own, as another host would. Afterwards everything that the log lists restores, verify finds nothing,
//! and a further prune changes nothing of that.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use seawall_engine::backup::{BackupOptions, Source, backup};
use seawall_engine::entry::{Extent, Kind};
use seawall_engine::error::Error;
use seawall_engine::forget::forget;
use seawall_engine::ids::SnapshotId;
use seawall_engine::monitor::{Monitor, Silent};
use seawall_engine::prune::{ORPHANS, PruneOptions};
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Plan, SimulatedStore};
use seawall_engine::store::{Capabilities, Created, ObjectInfo, Store, StoreError};
use seawall_engine::undelete::undelete;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use crate::place::{files_of, noise, options};
use crate::prune::{Change, Files, Scene, patient, run, thorough};

/// Before which call the other operation runs, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    Operation(u64),
    Write(u64),
    LogEntry(u64),
}

pub type Job = Box<dyn FnOnce() + Send>;

/// A connection to a store during whose work something else happens once.
pub struct Between {
    store: Arc<dyn Store>,
    at: At,
    operations: AtomicU64,
    writes: AtomicU64,
    entries: AtomicU64,
    job: Mutex<Option<Job>>,
}

impl Between {
    pub fn new(store: Arc<dyn Store>, at: At, job: Job) -> Self {
        let [operations, writes, entries] = std::array::from_fn(|_| AtomicU64::new(0));
        Self { store, at, operations, writes, entries, job: Mutex::new(Some(job)) }
    }

    /// True once the other operation has run.
    pub fn is_over(&self) -> bool {
        self.job.lock().unwrap().is_none()
    }

    fn step(&self, write: bool, name: &str) {
        let next = |counter: &AtomicU64, counts: bool| counts.then(|| counter.fetch_add(1, Ordering::SeqCst));
        let numbers = [
            next(&self.operations, true).map(At::Operation),
            next(&self.writes, write).map(At::Write),
            next(&self.entries, write && name.starts_with("log/")).map(At::LogEntry),
        ];
        if numbers.contains(&Some(self.at))
            && let Some(job) = self.job.lock().unwrap().take()
        {
            job();
        }
    }
}

impl Store for Between {
    fn location(&self) -> String {
        self.store.location()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.step(false, name);
        self.store.get(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.step(true, name);
        self.store.put(name, bytes)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.step(true, name);
        self.store.create(name, bytes)
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.step(false, name);
        self.store.head(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.step(false, prefix);
        self.store.list(prefix, each)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.step(true, name);
        self.store.delete(name)
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}

/// What runs beside each other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verb {
    Init,
    Backup,
    Reader,
    Verify,
    Forget,
    /// Only takes packs out of use.
    Condemn,
    /// Deletes at once.
    Prune,
    Undelete,
}

const ALL: [Verb; 8] =
    [Verb::Init, Verb::Backup, Verb::Reader, Verb::Verify, Verb::Forget, Verb::Condemn, Verb::Prune, Verb::Undelete];

/// What all operations of a test work on; the source stands as a snapshot had it that is forgotten and not pruned.
struct Ground {
    scene: Scene,
    base: Arc<MemoryStore>,
    /// Forgotten, and can come back.
    old: SnapshotId,
    /// Live; `forget` takes it.
    middle: SnapshotId,
    /// Live for ever.
    newest: SnapshotId,
    files: Files,
}

impl Ground {
    fn new() -> Self {
        let (base, mut scene) = Scene::new();
        let mut made = Vec::new();
        for number in 0..4u8 {
            scene.change(1, Change::Version(1, number));
            scene.change(2, Change::Noise(u64::from(number)));
            scene.change(3, Change::Sparse(u64::from(number / 2)));
            made.push(scene.backup());
        }
        let [old, dead, middle, newest] = made[..] else { unreachable!("four snapshots") };
        let owner = scene.open();
        // Why the prune between: what `old` alone has is condemned when the operations begin, what `dead` has is not.
        forget(&owner, &[old], "test").unwrap();
        run(&owner, &patient()).unwrap();
        forget(&owner, &[dead], "test").unwrap();
        scene.change(1, Change::Version(1, 1));
        scene.change(2, Change::Noise(1));
        scene.change(3, Change::Sparse(0));
        let files = scene.files();
        assert_eq!(files, scene.known[&dead], "a backup would like to lean on what nobody needs now");
        Self { scene, base, old, middle, newest, files }
    }

    fn open(&self, store: Arc<dyn Store>) -> Repository {
        Repository::open(store, &self.scene.unlock, None).unwrap()
    }

    fn backup_options(&self) -> BackupOptions {
        self.scene.small()
    }

    /// Runs a verb through a repository that may have been opened long before.
    fn perform(&self, verb: Verb, store: &Arc<dyn Store>, repository: &Repository) -> Result<(), Error> {
        match verb {
            Verb::Init => {
                let made = Repository::init(store.clone(), &[(self.scene.unlock.clone(), "other".to_owned())], None);
                assert!(matches!(made, Err(Error::RepositoryExists(_))));
                Ok(())
            }
            Verb::Backup => backup(repository, self.backup_options(), &Silent).map(drop),
            Verb::Reader => {
                let snapshots = repository.snapshots();
                let newest = snapshots.iter().find(|snapshot| snapshot.record.id == self.newest).unwrap();
                assert_eq!(files_of(repository, &newest.record.root), self.scene.known[&self.newest]);
                Ok(())
            }
            Verb::Verify => {
                let options = VerifyOptions { read: Read::All, record: false, threads: 1, budget_bytes: 64 * MIB };
                assert_eq!(verify(repository, &options, &Silent)?.damage, []);
                Ok(())
            }
            Verb::Forget => forget(repository, &[self.middle], "test").map(drop),
            Verb::Condemn => run(repository, &patient()).map(drop),
            Verb::Prune => run(repository, &at_once()).map(drop),
            Verb::Undelete => undelete(repository, &[self.old], &Silent).map(drop),
        }
    }

    /// Everything that the log lists restores; what the matrix added has the source's files.
    fn check(&self, store: &Arc<dyn Store>) {
        let fresh = self.open(store.clone());
        let known: BTreeMap<SnapshotId, Files> = fresh
            .snapshots()
            .iter()
            .map(|snapshot| snapshot.record.id)
            .map(|id| (id, self.scene.known.get(&id).unwrap_or(&self.files).clone()))
            .collect();
        let scene = Scene {
            directory: tempfile::tempdir().unwrap(),
            unlock: self.scene.unlock.clone(),
            store: store.clone(),
            known,
        };
        assert!(scene.check() > 0);
    }

    /// Runs `second` before one call of `first`; gives what came of both, and whether the call was ever made.
    fn beside(&self, first: Verb, second: Verb, at: At) -> bool {
        let store: Arc<dyn Store> = Arc::new(self.base.copy());
        let other = self.open(store.clone());
        let outcome: Arc<Mutex<Option<Result<(), Error>>>> = Arc::default();
        let (inner, inner_store) = (outcome.clone(), store.clone());
        // Why a thread-safe pointer to self: the job runs on whatever thread makes the call.
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::channel::<()>();
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                if receive.recv().is_ok() {
                    *inner.lock().unwrap() = Some(self.perform(second, &inner_store, &other));
                    done.send(()).unwrap();
                }
            });
            let job: Job = Box::new(move || {
                send.send(()).unwrap();
                // A failed assertion there shows when the threads are joined.
                let _ = wait.recv();
            });
            let connection: Arc<dyn Store> = Arc::new(Between::new(store.clone(), at, job));
            let repository = self.open(store.clone());
            drop(repository);
            let through = self.open_through(connection);
            let result = self.perform(first, &through.0, &through.1);
            allowed(first, second, &result);
        });
        let second_outcome = outcome.lock().unwrap().take();
        let Some(second_outcome) = second_outcome else { return false };
        allowed(second, first, &second_outcome);
        self.check(&store);
        let owner = self.open(store.clone());
        run(&owner, &thorough()).unwrap();
        self.check(&store);
        true
    }

    fn open_through(&self, store: Arc<dyn Store>) -> (Arc<dyn Store>, Repository) {
        (store.clone(), self.open(store))
    }
}

/// Deletes what is condemned at once, and leaves what a running backup stores alone.
fn at_once() -> PruneOptions {
    PruneOptions { orphans: ORPHANS, ..thorough() }
}

/// The outcomes that are no mistake.
fn allowed(verb: Verb, other: Verb, outcome: &Result<(), Error>) {
    let deletes = |verb| matches!(verb, Verb::Prune);
    let fine = match (verb, outcome) {
        (_, Ok(())) => true,
        // What it wanted to bring back was deleted, or is back already; or its snapshot is forgotten already.
        (Verb::Undelete, Err(Error::NotFound(_))) => deletes(other) || other == Verb::Undelete,
        (Verb::Forget, Err(Error::NotFound(_))) => other == Verb::Forget,
        // One may fence the session of the other, because it condemns packs that this has just written.
        (Verb::Condemn | Verb::Prune, Err(Error::Refused(_))) => matches!(other, Verb::Prune | Verb::Condemn),
        _ => false,
    };
    assert!(fine, "{verb:?} beside {other:?}: {outcome:?}");
}

fn cells(first: Verb) {
    let ground = Ground::new();
    for second in ALL {
        let mut met = 0;
        // Every write; and of the reads some, further and further apart.
        let reads = std::iter::successors(Some(0u64), |at| Some(at + 1 + at / 4)).map(At::Operation);
        for at in reads.take(24) {
            met += u64::from(ground.beside(first, second, at));
        }
        for at in (0..60).map(At::Write) {
            if !ground.beside(first, second, at) {
                break;
            }
            met += 1;
        }
        assert!(met > 3, "{first:?} beside {second:?}: only {met} places");
    }
}

#[test]
fn init_beside_all() {
    cells(Verb::Init);
}

#[test]
fn backup_beside_all() {
    cells(Verb::Backup);
}

#[test]
fn reader_beside_all() {
    cells(Verb::Reader);
}

#[test]
fn verify_beside_all() {
    cells(Verb::Verify);
}

#[test]
fn forget_beside_all() {
    cells(Verb::Forget);
}

#[test]
fn condemn_beside_all() {
    cells(Verb::Condemn);
}

#[test]
fn prune_beside_all() {
    cells(Verb::Prune);
}

#[test]
fn undelete_beside_all() {
    cells(Verb::Undelete);
}

/// Keeps what is remarked.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Monitor for Notes {
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Notes {
    fn has(&self, part: &str) -> bool {
        self.0.lock().unwrap().iter().any(|note| note.contains(part))
    }
}

/// What runs in the middle: on a repository that is opened then.
fn meanwhile(scene: &Scene, work: impl FnOnce(&Repository) + Send + 'static) -> Job {
    let (store, unlock) = (scene.store.clone(), scene.unlock.clone());
    Box::new(move || work(&Repository::open(store, &unlock, None).unwrap()))
}

fn prune_with(options: PruneOptions) -> impl FnOnce(&Repository) + Send + 'static {
    move |owner| {
        run(owner, &options).unwrap();
    }
}

impl Ground {
    /// Backs the source up through a connection on which `work` runs right before the commit's entry.
    fn backup_with(&self, scene: &Scene, options: BackupOptions, work: Job) -> (Result<(), Error>, Notes) {
        let store: Arc<dyn Store> = Arc::new(Between::new(scene.store.clone(), At::LogEntry(0), work));
        let repository = self.open(store);
        let notes = Notes::default();
        let outcome = backup(&repository, options, &notes).map(drop);
        self.check(&scene.store);
        (outcome, notes)
    }

    /// A copy of what stands, for one case.
    fn case(&self) -> Scene {
        Scene {
            directory: tempfile::tempdir().unwrap(),
            unlock: self.scene.unlock.clone(),
            store: Arc::new(self.base.copy()),
            known: self.scene.known.clone(),
        }
    }

    /// The files of one snapshot as one stream.
    fn stream(&self) -> Source {
        let bytes = self.files.values().flatten().copied().collect::<Vec<u8>>();
        Source::Stream { name: b"stream".to_vec(), reader: Box::new(Cursor::new(bytes)), finish: Box::new(|| Ok(())) }
    }
}

#[test]
fn a_backup_that_leaned_on_what_was_condemned_stores_it_again_or_looks_again() {
    let ground = Ground::new();
    let again = "looking through the sources again";
    for (options, walks) in [(patient(), false), (at_once(), true)] {
        let case = ground.case();
        let before = case.objects("pack/");
        let work = meanwhile(&case, prune_with(options));
        let (outcome, notes) = ground.backup_with(&case, ground.backup_options(), work);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(notes.has(again), walks);
        assert!(case.objects("pack/") > before || walks, "what was condemned is stored again");
        assert_eq!(case.open().snapshots().len(), 3);
    }
}

#[test]
fn a_stream_is_refused_where_what_it_leaned_on_was_deleted() {
    let ground = Ground::new();
    // A first stream, so that the second one leans on all of it.
    let first = backup(&ground.open(ground.scene.store.clone()), options(ground.stream()), &Silent).unwrap();
    let first = first.snapshot.unwrap().id;
    for (prune_options, ends_well) in [(patient(), true), (at_once(), false)] {
        let mut case = ground.case();
        forget(&case.open(), &[first], "test").unwrap();
        let work = meanwhile(&case, prune_with(prune_options));
        let store: Arc<dyn Store> = Arc::new(Between::new(case.store.clone(), At::LogEntry(0), work));
        let outcome = backup(&ground.open(store), options(ground.stream()), &Silent);
        assert_eq!(outcome.is_ok(), ends_well, "{outcome:?}");
        if let Ok(report) = outcome {
            let (id, root) = report.snapshot.map(|snapshot| (snapshot.id, snapshot.root)).unwrap();
            case.known.insert(id, files_of(&case.open(), &root));
            let whole: Vec<u8> = ground.files.values().flatten().copied().collect();
            assert_eq!(case.known[&id].values().next(), Some(&whole));
        }
        case.check();
    }
}

#[test]
fn a_parent_that_is_forgotten_meanwhile_does_not_take_its_content_along() {
    let ground = Ground::new();
    for (file, change) in [(1, Change::Version(1, 3)), (2, Change::Noise(3)), (3, Change::Sparse(1))] {
        ground.scene.change(file, change);
    }
    let ground = Ground { files: ground.scene.files(), ..ground };
    for deletes in [true, false] {
        let case = ground.case();
        // The second backup takes everything over from the first, lists of extents unseen.
        let parent = backup(&case.open(), ground.backup_options(), &Silent).unwrap().snapshot.unwrap().id;
        let (newest, options) = (ground.newest, if deletes { at_once() } else { patient() });
        let work = meanwhile(&case, move |owner| {
            forget(owner, &[newest, parent], "test").unwrap();
            run(owner, &options).unwrap();
        });
        let (outcome, notes) = ground.backup_with(&case, ground.backup_options(), work);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert!(notes.has("looking through the sources again"));
    }
}

#[test]
fn what_an_interrupted_backup_left_is_fenced_before_it_goes_and_nobody_commits_it_then() {
    let ground = Ground::new();
    ground.scene.change(4, Change::Noise(50));
    let ground = Ground { files: ground.scene.files(), ..ground };
    let simulated = Arc::new(SimulatedStore::over(ground.base.copy(), Plan::crash_at_write(3)));
    let case = Scene { store: simulated.clone(), ..ground.case() };
    let cache = case.directory.path().join("cache");
    let open = |store: Arc<dyn Store>| Repository::open(store, &case.unlock, Some(cache.clone())).unwrap();
    assert!(backup(&open(simulated.clone()), ground.backup_options(), &Silent).is_err());
    simulated.reboot();
    let work = meanwhile(&case, prune_with(thorough()));
    let store: Arc<dyn Store> = Arc::new(Between::new(simulated.clone(), At::LogEntry(0), work));
    let refused = backup(&open(store), ground.backup_options(), &Silent);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let report = backup(&open(simulated.clone()), ground.backup_options(), &Silent).unwrap();
    assert_eq!(report.adopted, [], "a fenced session is adopted by nobody");
    ground.check(&case.store);
}

#[test]
fn two_that_adopted_the_same_session_do_not_both_publish_it_after_a_prune() {
    let ground = Ground::new();
    ground.scene.change(4, Change::Noise(50));
    let ground = Ground { files: ground.scene.files(), ..ground };
    let simulated = Arc::new(SimulatedStore::over(ground.base.copy(), Plan::crash_at_write(3)));
    let case = Scene { store: simulated.clone(), ..ground.case() };
    let cache = case.directory.path().join("cache");
    let open = |store: Arc<dyn Store>| Repository::open(store, &case.unlock, Some(cache.clone())).unwrap();
    assert!(backup(&open(simulated.clone()), ground.backup_options(), &Silent).is_err());
    simulated.reboot();
    // Both have adopted; the first commits, its snapshot is forgotten and pruned; then the second wants to commit.
    let (first, small) = (open(simulated.clone()), ground.backup_options());
    let work: Job = Box::new(move || {
        let report = backup(&first, small, &Silent).unwrap();
        assert_eq!(report.adopted.len(), 1);
        forget(&first, &[report.snapshot.unwrap().id], "test").unwrap();
        run(&first, &at_once()).unwrap();
    });
    let store: Arc<dyn Store> = Arc::new(Between::new(simulated.clone(), At::LogEntry(0), work));
    let report = backup(&open(store), ground.backup_options(), &Silent).unwrap();
    assert_eq!(report.adopted, [], "what the other published is gone; it was stored again");
    ground.check(&case.store);
}

#[test]
fn segments_that_are_merged_under_a_running_backup_cost_nothing() {
    let ground = Ground::new();
    let mut case = ground.case();
    let names = ground.scene.source();
    for number in 0..12 {
        std::fs::write(names.join("many"), noise(900 + number, 50_000)).unwrap();
        let report = backup(&case.open(), ground.backup_options(), &Silent).unwrap();
        case.known.insert(report.snapshot.unwrap().id, ground.scene.files());
    }
    let ground = Ground { files: ground.scene.files(), ..ground };
    let before = case.objects("index/");
    let work = meanwhile(&case, prune_with(patient()));
    let store: Arc<dyn Store> = Arc::new(Between::new(case.store.clone(), At::LogEntry(0), work));
    let report = backup(&ground.open(store), ground.backup_options(), &Silent).unwrap();
    case.known.insert(report.snapshot.unwrap().id, ground.files.clone());
    assert!(case.objects("index/") + 8 < before, "{before} segments before, {} after", case.objects("index/"));
    case.check();
}

#[test]
fn what_was_deleted_does_not_come_back() {
    let ground = Ground::new();
    let case = ground.case();
    let owner = case.open();
    run(&owner, &thorough()).unwrap();
    let refused = undelete(&owner, &[ground.old], &Silent);
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    let live = undelete(&owner, &[ground.newest], &Silent);
    assert!(matches!(&live, Err(Error::NotFound(why)) if why.contains("not forgotten")), "{live:?}");
    case.check();
}

#[test]
fn a_reader_whose_snapshot_was_forgotten_and_pruned_is_told_so() {
    let ground = Ground::new();
    let case = ground.case();
    let reader = case.open();
    let (id, root) = (ground.middle, reader.snapshots()[0].record.root);
    assert_eq!(reader.snapshots()[0].record.id, id);
    let owner = case.open();
    let number = forget(&owner, &[id], "too old").unwrap()[0];
    run(&owner, &thorough()).unwrap();
    let mut told = Vec::new();
    for entry in reader.tree(&root).entries() {
        match entry {
            Ok((_, entry)) => {
                if let Kind::File(content) = &entry.kind {
                    let extents = reader.extents(content);
                    told.extend(extents.filter_map(|extent| match extent {
                        Ok(Extent::Chunk { id, .. }) => reader.read_chunk(&id).err(),
                        Ok(Extent::Hole { .. }) => None,
                        Err(error) => Some(error),
                    }));
                }
            }
            Err(error) => {
                told.push(error);
                break;
            }
        }
    }
    assert!(!told.is_empty());
    for error in told {
        let Error::NotFound(why) = &error else { panic!("{error:?}") };
        assert!(why.contains(&format!("entry {number}")) && why.contains("too old"), "{why}");
    }
}

#[test]
fn a_prune_that_stood_still_while_another_removed_what_it_had_stored_publishes_nothing_of_it() {
    let ground = Ground::new();
    let mut refused = 0;
    for number in 0..8 {
        let case = ground.case();
        // Of everything, also what the first one has stored and not published.
        let work = meanwhile(&case, prune_with(thorough()));
        let store: Arc<dyn Store> = Arc::new(Between::new(case.store.clone(), At::LogEntry(number), work));
        let few = PruneOptions { batch_packs: 2, ..patient() };
        match run(&ground.open(store), &few) {
            Ok(_) => {}
            Err(Error::Refused(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        ground.check(&case.store);
        run(&case.open(), &thorough()).unwrap();
        ground.check(&case.store);
    }
    assert!(refused > 0, "the scene: no prune ever met its own session fenced");
}
