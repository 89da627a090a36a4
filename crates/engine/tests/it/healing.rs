//! Healing: a pack, a session's key or a segment is damaged, `verify` tells the log, and the next backup of the unchanged
//! source stores again what was lost. After that every live snapshot that the source still covers restores, bit for bit.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use seawall_engine::backup::{BackupReport, backup};
use seawall_engine::crypto::Secret32;
use seawall_engine::forget::forget;
use seawall_engine::format::names::PackName;
use seawall_engine::format::pack::{BlobKind, decode_header};
use seawall_engine::format::segment::Location;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::keys;
use seawall_engine::monitor::{Monitor, Silent};
use seawall_engine::repo::{Committed, Repository, Session};
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Damage, Read, VerifyReport};
use tempfile::TempDir;

use crate::damage::{Action, act, check, lines};
use crate::place::{files_of, noise, options, paths};

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// How often a test is tried while others change directories above its source.
const ATTEMPTS_MAX: usize = 40;

/// A repository whose two live snapshots are of the source as it is now, and the source. An older state of it was
/// forgotten: what was encoded against its chunks and nodes still needs those.
struct Scene {
    directory: TempDir,
    store: MemoryStore,
    owner: Unlock,
    member: Unlock,
    snapshots: Vec<(SnapshotId, ChunkId)>,
    files: Files,
    /// Times of the directories above the source.
    above: Vec<[i64; 4]>,
}

/// A directory of this process under which only this process writes, and above which hardly anybody does: not in the
/// system's temporary directory, which every other test changes. It stays while any test of this process runs, as making
/// and removing it changes what is above those of other processes.
fn quiet_place() -> Arc<TempDir> {
    static SHARED: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let made = tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")));
        let made = Arc::new(made.unwrap());
        *shared = Arc::downgrade(&made);
        made
    })
}

impl Scene {
    /// Runs a test on a scene that all tests share. Why perhaps again: a tree has the directories above its sources too,
    /// and a node that was lost is stored again only if all its entries are as they were. Somebody else may change one of
    /// those directories meanwhile.
    fn with(test: impl Fn(&Self)) {
        static SHARED: Mutex<Weak<Scene>> = Mutex::new(Weak::new());
        let place = quiet_place();
        for _ in 0..ATTEMPTS_MAX {
            let scene = {
                let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
                let known = shared.upgrade().filter(|scene| scene.is_fresh());
                known.unwrap_or_else(|| {
                    let made = Arc::new(Self::make(&place));
                    *shared = Arc::downgrade(&made);
                    made
                })
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| test(&scene)));
            if scene.is_fresh() {
                return outcome.unwrap_or_else(|panic| resume_unwind(panic));
            }
        }
        panic!("somebody keeps changing a directory above {}", place.path().display());
    }

    /// True if nothing above the source has changed since the first backup.
    fn is_fresh(&self) -> bool {
        self.above == Self::times_above(&self.source())
    }

    fn times_above(source: &std::path::Path) -> Vec<[i64; 4]> {
        let times = |path: &std::path::Path| {
            let metadata = fs::metadata(path).unwrap();
            [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()]
        };
        source.ancestors().map(times).collect()
    }

    fn make(place: &TempDir) -> Self {
        let directory = tempfile::tempdir_in(place.path()).unwrap();
        fs::create_dir(directory.path().join("cache")).unwrap();
        let (owner, member) = (Unlock::KeyFile(Secret32::random()), Unlock::KeyFile(Secret32::random()));
        let store = Arc::new(MemoryStore::new());
        let cache = Some(directory.path().join("cache"));
        let repository = Repository::init(store.clone(), &[(owner.clone(), String::new())], cache).unwrap();
        keys::add(&repository, Role::Member, &member.lock().unwrap(), "member").unwrap();
        let mut scene = Self {
            directory,
            store: MemoryStore::new(),
            owner,
            member,
            snapshots: Vec::new(),
            files: Files::new(),
            above: Vec::new(),
        };
        scene.fill();
        let first = scene.backup(&repository).snapshot.unwrap().id;
        scene.change();
        scene.above = Self::times_above(&scene.source());
        for _ in 0..2 {
            let record = scene.backup(&repository).snapshot.unwrap();
            scene.snapshots.push((record.id, record.root));
        }
        forget(&repository, &[first], "test").unwrap();
        scene.files = files_of(&repository, &scene.snapshots[0].1);
        scene.store = store.copy();
        scene
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    /// Several tree nodes, several packs, a list of extents that is a chunk of its own.
    fn fill(&self) {
        let source = self.source();
        fs::create_dir(&source).unwrap();
        for number in 0..300 {
            fs::write(source.join(format!("small {number:03}")), noise(number, 400)).unwrap();
        }
        for number in 0..3 {
            fs::write(source.join(format!("big {number}")), noise(1000 + number, 3 * MIB / 2)).unwrap();
        }
        fs::write(source.join("table"), lines(30_000)).unwrap();
        let holes = fs::File::create(source.join("holes")).unwrap();
        (0..200).for_each(|piece| holes.write_all_at(&noise(3000 + piece, 100), piece << 17).unwrap());
    }

    fn change(&self) {
        let mut table = lines(30_000);
        table.splice(350_000..350_010, *b"changed");
        fs::write(self.source().join("table"), table).unwrap();
        fs::write(self.source().join("small 150"), b"changed").unwrap();
    }

    fn backup(&self, repository: &Repository) -> BackupReport {
        let mut options = options(paths(&self.source()));
        options.budget_bytes = 16 * MIB;
        backup(repository, options, &Silent).unwrap()
    }

    fn open(&self, store: &Arc<MemoryStore>, unlock: &Unlock) -> Repository {
        Repository::open(store.clone(), unlock, None).unwrap()
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        self.store.names().into_iter().filter(|name| name.starts_with(prefix)).collect()
    }

    /// The live snapshots and the newest one, read by somebody who has no cache.
    fn assert_restores(&self, case: &str, store: &Arc<MemoryStore>) {
        let repository = self.open(store, &self.owner);
        for snapshot in repository.snapshots() {
            assert!(files_of(&repository, &snapshot.record.root) == self.files, "{case}: {}", snapshot.record.id);
        }
    }

    /// Damages, verifies twice, backs up with `unlock`, verifies: all is well.
    fn heals(
        &self,
        case: &str,
        store: &Arc<MemoryStore>,
        unlock: &Unlock,
    ) -> (VerifyReport, BackupReport, VerifyReport) {
        let owner = self.open(store, &self.owner);
        let found = check(&owner, Read::All);
        assert!(!found.damage.is_empty(), "{case}: nothing was found");
        assert_eq!(owner.log_entries(), 6 + found.entries_appended, "{case}");
        let again = check(&self.open(store, &self.owner), Read::All);
        assert_eq!(again.entries_appended, 0, "{case}: the same damage is no news");
        let hit = |report: &VerifyReport| report.damage.iter().filter(|damage| !damage.snapshots.is_empty()).count();
        assert_eq!(hit(&again), hit(&found), "{case}: what is lost stays lost until a backup");
        assert_eq!(hit(&check(&owner, Read::Nothing)), hit(&found), "{case}: known damage is not forgotten");

        let report = self.backup(&self.open(store, unlock));
        for read in [Read::Nothing, Read::All] {
            let clean = check(&self.open(store, &self.owner), read.clone());
            assert_eq!(clean.damage, Vec::<Damage>::new(), "{case}: {read:?}");
        }
        self.assert_restores(case, store);
        let clean = check(&self.open(store, &self.owner), Read::All);
        (found, report, clean)
    }
}

const ACTIONS: [Action; 7] = [
    Action::Delete,
    Action::Empty,
    Action::TruncateToHalf,
    Action::Flip(100),
    Action::Flip(500),
    Action::FlipFooter,
    Action::FlipTrailer,
];

fn damage_every_pack(scene: &Scene, unlock: &Unlock) {
    let mut mended = 0;
    for pack in scene.names("pack/") {
        for action in ACTIONS {
            let case = format!("{action:?} {pack}");
            let store = Arc::new(scene.store.copy());
            assert!(act(&store, action, &pack, ""));
            let (found, report, clean) = scene.heals(&case, &store, unlock);
            assert_eq!(found.entries_appended, 1, "{case}");
            let is_hit = found.damage.iter().any(|damage| !damage.snapshots.is_empty());
            assert!(!is_hit || report.chunks_mended > 0, "{case}: {report:?}");
            let harmless: Vec<&String> = clean.harmless.iter().map(|damage| &damage.object).collect();
            assert_eq!(harmless, [&pack], "{case}: it is still named");
            mended += report.chunks_mended;
        }
    }
    assert!(mended > 100, "{mended}");
}

#[test]
fn every_pack_that_is_damaged_is_stored_again() {
    Scene::with(|scene| damage_every_pack(scene, &scene.owner));
}

/// Who may add but not read must look at every file that may be hit.
#[test]
fn a_member_heals_too() {
    Scene::with(|scene| damage_every_pack(scene, &scene.member));
}

/// The scene must have what the tests above are about.
#[test]
fn the_scene_has_bases_lists_and_several_packs() {
    Scene::with(|scene| {
        let repository = scene.open(&Arc::new(scene.store.copy()), &scene.owner);
        let mut with_base = [0, 0];
        let each = &mut |_, location: Location| {
            if location.base.is_some() {
                with_base[usize::from(location.kind == BlobKind::Tree)] += 1;
            }
        };
        repository.each_location(each).unwrap();
        assert!(with_base[0] > 0 && with_base[1] > 0, "{with_base:?}");
        let kinds = scene.names("pack/").into_iter().map(|name| {
            decode_header(&PackName::parse(&name).unwrap(), &scene.store.get(&name, None).unwrap()).unwrap().kind
        });
        let (data, tree): (Vec<_>, Vec<_>) = kinds.partition(|kind| *kind == BlobKind::Data);
        assert!(data.len() >= 3 && tree.len() >= 2, "{} {}", data.len(), tree.len());
    });
}

/// With the cache of the run that stored it all, which knows every file of the parent.
#[test]
fn a_client_with_a_cache_heals_too() {
    Scene::with(|scene| {
        for pack in scene.names("pack/") {
            let store = Arc::new(scene.store.copy());
            let cache = tempfile::tempdir().unwrap();
            let open = || Repository::open(store.clone(), &scene.owner, Some(cache.path().to_path_buf())).unwrap();
            scene.backup(&open());
            act(&store, Action::Delete, &pack, "");
            check(&open(), Read::Nothing);
            scene.backup(&open());
            assert_eq!(check(&open(), Read::All).damage, [], "{pack}");
            scene.assert_restores(&pack, &store);
        }
    });
}

#[test]
fn packs_of_a_lost_session_are_stored_again() {
    Scene::with(|scene| {
        for session in scene.names("session/") {
            for action in [Action::Delete, Action::FlipLast] {
                let case = format!("{action:?} {session}");
                let store = Arc::new(scene.store.copy());
                act(&store, action, &session, "");
                let (_, _, clean) = scene.heals(&case, &store, &scene.owner);
                let harmless: Vec<&String> = clean.harmless.iter().map(|damage| &damage.object).collect();
                assert_eq!(harmless, [&session], "{case}");
            }
        }
    });
}

/// What only a lost segment lists is not found, and so stored again.
#[test]
fn what_a_lost_segment_listed_is_stored_again() {
    Scene::with(|scene| {
        for segment in scene.names("index/") {
            let store = Arc::new(scene.store.copy());
            act(&store, Action::Delete, &segment, "");
            let owner = scene.open(&store, &scene.owner);
            if check(&owner, Read::All).damage.is_empty() {
                continue;
            }
            scene.backup(&owner);
            let clean = check(&scene.open(&store, &scene.owner), Read::All);
            assert_eq!(clean.damage, [], "{segment}");
            assert!(clean.harmless.iter().any(|damage| damage.object == segment), "{segment}: {:?}", clean.harmless);
            scene.assert_restores(&segment, &store);
        }
    });
}

/// A long file's list of extents is listed in another segment than its data. Where the latter is lost, the file is not
/// taken over unseen from the snapshot before.
#[test]
fn what_a_lost_segment_listed_of_a_long_file_is_stored_again() {
    for told in [false, true] {
        let (store, mut scene) = crate::prune::Scene::new();
        let pieces: Vec<Vec<u8>> = (0..200).map(|piece| noise(3000 + piece, 4096)).collect();
        for (number, piece) in pieces.iter().enumerate() {
            scene.write(&format!("{number}"), piece);
        }
        scene.backup();
        let of_data = store.names().into_iter().find(|name| name.starts_with("index/")).unwrap();
        (0..pieces.len()).for_each(|number| fs::remove_file(scene.source().join(number.to_string())).unwrap());
        let long = fs::File::create(scene.source().join("long")).unwrap();
        (0u64..).zip(&pieces).for_each(|(number, piece)| long.write_all_at(piece, number << 17).unwrap());
        drop(long);
        let before = scene.backup();
        store.delete(&of_data).unwrap();
        if told {
            assert!(!check(&scene.open(), Read::Nothing).damage.is_empty());
        }
        let notes = Notes::default();
        let report = backup(&scene.open(), scene.small(), &notes).unwrap();
        assert!(report.bytes_read > 0, "the file is read again: {report:?}");
        assert!(notes.0.lock().unwrap().iter().any(|note| note.contains("index segments that can't be opened: 1;")));
        let fresh = scene.open();
        // Why the newest: in the one before it the directories above the source may have had other times.
        let newest = report.snapshot.unwrap().root;
        assert!(files_of(&fresh, &newest) == scene.known[&before], "told: {told}");
    }
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Monitor for Notes {
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// A pack that was not to be had for a while is whole again: the log is told, and nothing is stored twice any more.
#[test]
fn a_pack_that_comes_back_is_sound_again() {
    Scene::with(|scene| {
        for pack in scene.names("pack/") {
            let store = Arc::new(scene.store.copy());
            let bytes = store.get(&pack, None).unwrap();
            store.delete(&pack).unwrap();
            let owner = scene.open(&store, &scene.owner);
            assert!(!check(&owner, Read::Nothing).damage.is_empty());
            store.replace(&pack, &bytes);
            let report = check(&owner, Read::All);
            assert_eq!((report.damage.len(), report.entries_appended), (0, 1), "{pack}");
            assert!(owner.state().standing.damage.is_empty(), "{pack}");
            assert_eq!(scene.backup(&owner).chunks_mended, 0, "{pack}");
        }
    });
}

/// A check of all data that finds nothing is on record; one that was not to record leaves the log alone.
#[test]
fn the_log_knows_of_a_clean_check_of_all_data() {
    Scene::with(|scene| {
        let owner = scene.open(&Arc::new(scene.store.copy()), &scene.owner);
        let before = owner.log_entries();
        check(&owner, Read::Nothing);
        assert_eq!(owner.log_entries(), before);
        check(&owner, Read::All);
        assert_eq!(owner.log_entries(), before + 1);
        crate::place::assert_whole(&owner);
        assert_eq!(owner.log_entries(), before + 1);
    });
}

/// A node of the forgotten snapshot is damaged: no live tree has it, but nodes of live trees are encoded against it. A
/// check that reads only trees meets those, and must name the base.
#[test]
fn a_damaged_base_is_named_and_not_what_needs_it() {
    Scene::with(|scene| {
        let repository = scene.open(&Arc::new(scene.store.copy()), &scene.owner);
        let mut bases = Vec::new();
        let each = &mut |_, location: Location| {
            bases.extend(location.base.filter(|_| location.kind == BlobKind::Tree));
        };
        repository.each_location(each).unwrap();
        bases.sort();
        bases.dedup();
        assert!(!bases.is_empty());
        for base in bases {
            let store = Arc::new(scene.store.copy());
            let location = repository.locate(&base).unwrap();
            let mut bytes = store.get(&location.pack.object(), None).unwrap();
            // Behind the blob's header of 48 bytes.
            bytes[usize::try_from(location.offset).unwrap() + 60] ^= 4;
            store.replace(&location.pack.object(), &bytes);
            let owner = scene.open(&store, &scene.owner);
            assert!(!check(&owner, Read::Nothing).damage.is_empty());
            let state = owner.state();
            let damage = &state.standing.damage[&location.pack];
            assert!(damage.lost || damage.chunks.contains(&base), "{base}: {damage:?}");
            assert_eq!(state.standing.damage.len(), 1, "{base}: what needs it lies in a sound pack");
            scene.backup(&owner);
            assert_eq!(check(&owner, Read::Nothing).damage, [], "{base}");
            scene.assert_restores("a base", &store);
        }
    });
}

/// Damage that is found while a backup runs (rule W2): it looks again at what it leaned on, and at what it took over
/// unseen.
#[test]
fn damage_that_is_found_before_the_commit() {
    Scene::with(|scene| {
        let newest = scene.snapshots[1];
        for unseen in [false, true] {
            let store = Arc::new(scene.store.copy());
            let writer = scene.open(&store, &scene.owner);
            let session = Session::begin(&writer, MIB).unwrap();
            if unseen {
                assert!(session.rest_on(&newest.0));
            } else {
                assert!(session.contains(&newest.1));
            }
            let pack = writer.locate(&newest.1).unwrap().pack;
            store.delete(&pack.object()).unwrap();
            check(&scene.open(&store, &scene.owner), Read::Nothing);
            let record = &mut |_| unreachable!("nothing is committed");
            assert!(matches!(session.commit(record).unwrap(), Committed::Again), "unseen: {unseen}");
            assert!(!session.contains(&newest.1), "it is to be stored again");
            assert!(!session.rest_on(&newest.0), "every chunk has to be looked at");
        }
    });
}

/// Once a backup has looked at every chunk, the next ones may rest on it again, though the damaged pack is still there.
#[test]
fn nothing_is_taken_over_unseen_until_a_backup_has_mended_it() {
    Scene::with(|scene| {
        let store = Arc::new(scene.store.copy());
        let owner = scene.open(&store, &scene.owner);
        let newest = scene.snapshots[1].0;
        assert!(Session::begin(&owner, MIB).unwrap().rest_on(&newest));
        store.delete(&scene.names("pack/")[0]).unwrap();
        check(&owner, Read::Nothing);
        assert!(!Session::begin(&owner, MIB).unwrap().rest_on(&newest));
        let mended = scene.backup(&owner).snapshot.unwrap().id;
        assert!(Session::begin(&owner, MIB).unwrap().rest_on(&mended), "the damage is there, but this one knew of it");
        assert!(!owner.state().standing.damage.is_empty());
    });
}

/// A few damaged blobs are named one by one; with very many the pack counts as lost, so that entries stay bounded.
#[test]
fn many_damaged_blobs_are_one_lost_pack() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..1_200 {
        fs::write(directory.path().join(format!("{number}")), noise(number, 5_000)).unwrap();
    }
    let unlock = Unlock::KeyFile(Secret32::random());
    let whole = Arc::new(MemoryStore::new());
    let repository = Repository::init(whole.clone(), &[(unlock.clone(), String::new())], None).unwrap();
    backup(&repository, options(paths(directory.path())), &Silent).unwrap();
    let mut packs: BTreeMap<PackName, Vec<u32>> = BTreeMap::new();
    let each = &mut |_, location: Location| packs.entry(location.pack).or_default().push(location.offset);
    repository.each_location(each).unwrap();
    let (pack, places) = packs.into_iter().max_by_key(|(_, places)| places.len()).unwrap();
    assert!(places.len() > 1_100, "{}", places.len());
    for (number, is_lost) in [(1, false), (7, false), (1_000, false), (1_001, true), (places.len(), true)] {
        let store = Arc::new(whole.copy());
        let mut bytes = store.get(&pack.object(), None).unwrap();
        // Behind the blob's header of 48 bytes.
        places.iter().take(number).for_each(|place| bytes[usize::try_from(*place).unwrap() + 60] ^= 4);
        store.replace(&pack.object(), &bytes);
        let repository = Repository::open(store, &unlock, None).unwrap();
        assert_eq!(check(&repository, Read::All).entries_appended, 1);
        let damage = repository.state().standing.damage[&pack].clone();
        assert_eq!((damage.lost, damage.chunks.len()), (is_lost, if is_lost { 0 } else { number }), "{number}");
        let report = backup(&repository, options(paths(directory.path())), &Silent).unwrap();
        let mended = if is_lost { places.len() } else { number };
        assert_eq!(report.chunks_mended, mended as u64, "{number}: no more than that is stored again");
    }
}
