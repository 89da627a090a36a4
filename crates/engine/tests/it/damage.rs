//! Damage: action x object. Whatever happens to one stored object, opening or verifying names it, the report has just
//! the snapshots and paths that can't be read any more, and everything else still reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use seawall_engine::backup::backup;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::{Content, Entry, Extent, Kind, TreeKey};
use seawall_engine::error::Error;
use seawall_engine::format::names::{MARKER, PackName, log_object};
use seawall_engine::format::pack::{BlobKind, decode_header, decode_trailer};
use seawall_engine::format::segment::Location;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Damage, Read, VerifyOptions, VerifyReport, verify};

use crate::place::{noise, options, paths};

type Files = BTreeMap<TreeKey, Vec<u8>>;

/// A repository with two snapshots of one source, the second sharing most with the first.
struct Scene {
    store: MemoryStore,
    unlock: Unlock,
    snapshots: Vec<(SnapshotId, ChunkId, Files)>,
}

pub fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|line| format!("{{\"line\":{line},\"half\":{}}}\n", line / 2).into_bytes()).collect()
}

impl Scene {
    fn get() -> &'static Self {
        static SCENE: OnceLock<Scene> = OnceLock::new();
        SCENE.get_or_init(Self::make)
    }

    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let unlock = Unlock::KeyFile(Secret32::random());
        let store = Arc::new(MemoryStore::new());
        let slots = [(unlock.clone(), "test".to_owned())];
        let repository = Repository::init(store.clone(), &slots, None).unwrap();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        // Enough small files for several tree nodes, enough data for several packs, and a table to be stored against
        // its old version.
        for number in 0..600 {
            fs::write(source.join(format!("small {number:03}")), noise(number, 400)).unwrap();
        }
        for number in 0..3 {
            fs::write(source.join(format!("big {number}")), noise(1000 + number, 3 * MIB / 2)).unwrap();
        }
        fs::write(source.join("table"), lines(60_000)).unwrap();
        // So many holes that the list of extents is a chunk of its own.
        let holes = fs::File::create(source.join("holes")).unwrap();
        (0..200).for_each(|piece| holes.write_all_at(&noise(3000 + piece, 100), piece << 17).unwrap());
        let mut scene = Self { store: MemoryStore::new(), unlock, snapshots: Vec::new() };
        scene.backup(&repository, &source);
        let mut table = lines(60_000);
        table.splice(700_000..700_010, *b"changed");
        fs::write(source.join("table"), table).unwrap();
        fs::write(source.join("new"), noise(2000, MIB / 4)).unwrap();
        fs::write(source.join("small 300"), b"changed").unwrap();
        scene.backup(&repository, &source);
        scene.store = store.copy();
        scene
    }

    fn backup(&mut self, repository: &Repository, source: &std::path::Path) {
        let mut options = options(paths(source));
        options.budget_bytes = 16 * MIB;
        let report = backup(repository, options, &Silent).unwrap();
        let record = report.snapshot.unwrap();
        let entries = repository.tree(&record.root).entries().map(Result::unwrap);
        let files = entries.filter_map(|(key, entry)| Some((key, read(repository, &entry)?))).collect();
        self.snapshots.push((record.id, record.root, files));
    }

    /// The stored objects by what they are.
    fn names(&self, prefix: &str) -> Vec<String> {
        self.store.names().into_iter().filter(|name| name.starts_with(prefix)).collect()
    }

    fn packs(&self, kind: BlobKind) -> Vec<String> {
        let is_kind = |name: &String| {
            let bytes = self.store.get(name, None).unwrap();
            decode_header(&PackName::parse(name).unwrap(), &bytes).unwrap().kind == kind
        };
        self.names("pack/").into_iter().filter(is_kind).collect()
    }

    fn open(&self, store: MemoryStore) -> Result<Repository, Error> {
        Repository::open(Arc::new(store), &self.unlock, None)
    }

    /// What can't be read any more, by snapshot.
    fn lost(&self, repository: &Repository) -> BTreeMap<SnapshotId, BTreeSet<String>> {
        let mut lost: BTreeMap<SnapshotId, BTreeSet<String>> = BTreeMap::new();
        for (id, root, files) in &self.snapshots {
            // Behind a damaged node the iterator goes on.
            let entries: BTreeMap<TreeKey, Entry> = repository.tree(root).entries().filter_map(Result::ok).collect();
            for (key, bytes) in files {
                match entries.get(key).and_then(|entry| read(repository, entry)) {
                    Some(found) => assert!(found == *bytes, "{} came back changed", key.to_path().display()),
                    None => {
                        lost.entry(*id).or_default().insert(key.to_path().to_string_lossy().into_owned());
                    }
                }
            }
        }
        lost
    }
}

/// The content of a file; none where it can't be read.
fn read(repository: &Repository, entry: &Entry) -> Option<Vec<u8>> {
    let Kind::File(content) = &entry.kind else { return None };
    if let Content::Inline(bytes) = content {
        return Some(bytes.clone());
    }
    let mut bytes = Vec::new();
    for extent in repository.extents(content) {
        match extent.ok()? {
            Extent::Chunk { id, .. } => bytes.extend(repository.read_chunk(&id).ok()?),
            Extent::Hole { length } => bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0),
        }
    }
    Some(bytes)
}

pub fn check(repository: &Repository, read: Read) -> VerifyReport {
    verify(repository, &VerifyOptions { read, record: true, threads: 2, budget_bytes: 16 * MIB }, &Silent).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Delete,
    Empty,
    TruncateToHalf,
    TruncateByOne,
    /// Flips a bit so many thousandths of the length from the start.
    Flip(usize),
    FlipLast,
    FlipFooter,
    FlipTrailer,
    Swap,
}

const ACTIONS: [Action; 11] = [
    Action::Delete,
    Action::Empty,
    Action::TruncateToHalf,
    Action::TruncateByOne,
    Action::Flip(0),
    Action::Flip(300),
    Action::Flip(600),
    Action::FlipLast,
    Action::FlipFooter,
    Action::FlipTrailer,
    Action::Swap,
];

/// Damages `name`, with `other` as the object to swap with. False where the action does not apply.
pub fn act(store: &MemoryStore, action: Action, name: &str, other: &str) -> bool {
    let mut bytes = store.get(name, None).unwrap();
    let last = bytes.len() - 1;
    let footer = PackName::parse(name).map(|pack| decode_trailer(&pack, bytes.len() as u64, &bytes).unwrap().footer());
    match action {
        Action::Delete => {
            store.delete(name).unwrap();
            return true;
        }
        Action::Empty => bytes.clear(),
        Action::TruncateToHalf => bytes.truncate(last / 2),
        Action::TruncateByOne => bytes.truncate(last),
        Action::Flip(thousandths) => bytes[last * thousandths / 1000] ^= 4,
        Action::FlipLast => bytes[last] ^= 4,
        Action::FlipFooter => match footer {
            Some(footer) => bytes[usize::try_from(footer.start).unwrap() + 60] ^= 4,
            None => return false,
        },
        Action::FlipTrailer => match footer {
            Some(footer) => bytes[usize::try_from(footer.end).unwrap() + 1] ^= 4,
            None => return false,
        },
        Action::Swap => {
            let other_bytes = store.get(other, None).unwrap();
            store.replace(other, &bytes);
            bytes = other_bytes;
        }
    }
    store.replace(name, &bytes);
    true
}

/// The damage must name the object and have just what is lost. `also` is the object it was swapped with.
fn check_report(
    case: &str,
    scene: &Scene,
    repository: &Repository,
    report: &VerifyReport,
    object: &str,
    also: Option<&str>,
) {
    let named: Vec<&str> = report.damage.iter().map(|damage| damage.object.as_str()).collect();
    assert!(named.contains(&object), "{case}: {named:?}");
    assert!(named.iter().all(|name| *name == object || Some(*name) == also), "{case}: {named:?} besides {object}");
    assert!(report.damage.iter().all(|damage| !damage.what.is_empty()), "{case}");
    let lost = scene.lost(repository);
    let reported: BTreeSet<SnapshotId> = report.damage.iter().flat_map(|damage| damage.snapshots.clone()).collect();
    assert_eq!(reported, lost.keys().copied().collect(), "{case}: snapshots");
    let all_lost: BTreeSet<String> = lost.values().flatten().cloned().collect();
    let paths: BTreeSet<String> = report.damage.iter().flat_map(|damage| damage.paths.clone()).collect();
    let counted: u64 = report.damage.iter().map(|damage| damage.paths_count).sum();
    let in_nodes = report.damage.iter().any(|damage| damage.paths_count > damage.paths.len() as u64);
    if in_nodes {
        assert!(counted >= all_lost.len() as u64, "{case}: {counted} of {}", all_lost.len());
    } else {
        let only_files: BTreeSet<String> = paths.iter().filter(|path| all_lost.contains(*path)).cloned().collect();
        assert_eq!(only_files, all_lost, "{case}: paths");
        assert_eq!(paths, all_lost, "{case}: nothing else is called lost");
    }
}

fn matrix(what: &str, objects: &[String], other: &str) {
    let scene = Scene::get();
    for object in objects {
        for action in ACTIONS {
            let case = format!("{what}: {action:?} {object}");
            let other = if other == object { &objects[0] } else { other };
            if action == Action::Swap && other == object {
                continue;
            }
            let store = scene.store.copy();
            if !act(&store, action, object, other) {
                continue;
            }
            let repository = scene.open(store).unwrap_or_else(|error| panic!("{case}: {error}"));
            let report = check(&repository, Read::All);
            let also = (action == Action::Swap).then_some(other);
            check_report(&case, scene, &repository, &report, object, also);
        }
    }
}

#[test]
fn a_sound_repository_verifies() {
    let scene = Scene::get();
    let repository = scene.open(scene.store.copy()).unwrap();
    assert!(scene.packs(BlobKind::Data).len() >= 3 && scene.packs(BlobKind::Tree).len() >= 2);
    for read in [Read::Nothing, Read::Sample(0.3), Read::All] {
        let report = check(&repository, read.clone());
        assert_eq!(report.damage, Vec::<Damage>::new(), "{read:?}");
        assert_eq!((report.snapshots, report.orphans), (2, 0));
        assert_eq!(report.packs, scene.names("pack/").len() as u64);
        assert_eq!(report.segments, scene.names("index/").len() as u64);
        assert!(report.nodes >= 5 && report.entries > 600, "{report:?}");
        let all: u64 = scene.names("pack/").iter().map(|name| scene.store.head(name).unwrap().length).sum();
        match read {
            Read::Nothing => assert_eq!((report.packs_read, report.bytes_read), (0, 0)),
            Read::All => assert_eq!((report.packs_read, report.bytes_read), (report.packs, all)),
            _ => assert!(report.bytes_read >= all * 3 / 10 && report.bytes_read <= all, "{report:?}"),
        }
    }
    assert!(scene.lost(&repository).is_empty());
}

#[test]
fn only_the_named_packs_are_read() {
    let scene = Scene::get();
    let repository = scene.open(scene.store.copy()).unwrap();
    let pack = PackName::parse(&scene.packs(BlobKind::Data)[1]).unwrap();
    let report = check(&repository, Read::Packs(vec![pack]));
    assert_eq!((report.packs_read, report.damage.len()), (1, 0));
    assert_eq!(report.bytes_read, scene.store.head(&pack.object()).unwrap().length);
}

#[test]
fn data_packs() {
    let packs = Scene::get().packs(BlobKind::Data);
    matrix("data pack", &packs, &packs[1]);
}

#[test]
fn tree_packs() {
    let scene = Scene::get();
    matrix("tree pack", &scene.packs(BlobKind::Tree), &scene.packs(BlobKind::Data)[0]);
}

#[test]
fn segments() {
    let segments = Scene::get().names("index/");
    matrix("segment", &segments, &segments[1]);
}

#[test]
fn session_keys() {
    let sessions = Scene::get().names("session/");
    matrix("session key", &sessions, &sessions[1]);
}

/// Without these the repository does not open; the error says which.
#[test]
fn marker_slot_and_log() {
    let scene = Scene::get();
    let slot = scene.names("key/").remove(0);
    let first = log_object(0);
    for object in [MARKER, &slot, &first, &log_object(1), &log_object(2)] {
        for action in ACTIONS {
            let store = scene.store.copy();
            let is_log_hole = action == Action::Delete && object == log_object(1);
            let is_log_end = action == Action::Delete && object == log_object(2);
            if !act(&store, action, object, &first) || (action == Action::Swap && object == first) {
                continue;
            }
            let opened = scene.open(store);
            match (opened, action) {
                (Ok(repository), _) if is_log_hole => {
                    let report = check(&repository, Read::Nothing);
                    assert!(report.damage.iter().any(|damage| damage.object == object), "{report:?}");
                }
                // The log is shorter, which only one who has seen it longer can tell: see the next test.
                (Ok(repository), _) if is_log_end => assert_eq!(repository.snapshots().len(), 1),
                // The time when the slot was made, which is for people only.
                (Ok(_), Action::FlipLast) if object == slot => {}
                (Ok(_), _) => panic!("{action:?} {object}: it opened"),
                (Err(Error::NoRepository(_)), Action::Delete) if object == MARKER => {}
                (Err(Error::WrongKey), _) if object == slot => {}
                (Err(error), Action::Swap) => {
                    let text = error.to_string();
                    assert!(text.contains(object) || text.contains(&first), "Swap {object}: {error}");
                }
                (Err(error), _) => assert!(error.to_string().contains(object), "{action:?} {object}: {error}"),
            }
        }
    }
}

/// One that was open before, or has a cache, sees more.
#[test]
fn what_vanishes_while_the_repository_is_open() {
    let scene = Scene::get();
    for object in [MARKER.to_owned(), log_object(0), log_object(1), log_object(2)] {
        for action in [Action::Delete, Action::Flip(500), Action::Empty] {
            let directory = tempfile::tempdir().unwrap();
            let store = Arc::new(scene.store.copy());
            let repository =
                Repository::open(store.clone(), &scene.unlock, Some(directory.path().to_path_buf())).unwrap();
            act(&store, action, &object, "");
            let report = check(&repository, Read::Nothing);
            let damage = report.damage.iter().find(|damage| damage.object == object);
            let damage = damage.unwrap_or_else(|| panic!("{action:?} {object}: {:?}", report.damage));
            assert_eq!(damage.snapshots.len(), 2, "nobody else can open it: {damage:?}");
        }
    }
    let segment = scene.names("index/").remove(0);
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(scene.store.copy());
    let repository = Repository::open(store.clone(), &scene.unlock, Some(directory.path().to_path_buf())).unwrap();
    store.delete(&segment).unwrap();
    let report = check(&repository, Read::Nothing);
    let damage = report.damage.iter().find(|damage| damage.object == segment).unwrap();
    assert!(!damage.snapshots.is_empty(), "without the cache its chunks are lost: {damage:?}");
}

#[test]
fn the_structure_alone_shows_missing_short_and_torn_packs() {
    let scene = Scene::get();
    for pack in scene.names("pack/") {
        for action in
            [Action::Delete, Action::Empty, Action::TruncateToHalf, Action::TruncateByOne, Action::FlipTrailer]
        {
            let store = scene.store.copy();
            act(&store, action, &pack, "");
            let repository = scene.open(store).unwrap();
            let report = check(&repository, Read::Nothing);
            check_report(&format!("{action:?} {pack}"), scene, &repository, &report, &pack, None);
        }
    }
}

/// Two writers that did not see each other store the same chunks twice. Losing either copy hits nobody: the other is read.
#[test]
fn chunks_that_are_stored_twice() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), noise(1, MIB)).unwrap();
    let unlock = Unlock::KeyFile(Secret32::random());
    let store = Arc::new(MemoryStore::new());
    let first = Repository::init(store.clone(), &[(unlock.clone(), String::new())], None).unwrap();
    let second = Repository::open(store.clone(), &unlock, None).unwrap();
    let mut scene = Scene { store: MemoryStore::new(), unlock, snapshots: Vec::new() };
    scene.backup(&first, &source);
    scene.backup(&second, &source);
    scene.store = store.copy();
    let packs = scene.packs(BlobKind::Data);
    assert_eq!(packs.len(), 2, "both stored the file");
    for pack in &packs {
        let store = scene.store.copy();
        act(&store, Action::Delete, pack, "");
        let repository = scene.open(store).unwrap();
        let report = check(&repository, Read::All);
        check_report(pack, &scene, &repository, &report, pack, None);
        assert!(report.damage[0].snapshots.is_empty(), "{pack}: {:?}", report.damage);
    }
}

/// A new version that is stored against the old one is lost with it, though no tree of the new snapshot names the old.
#[test]
fn what_is_encoded_against_a_lost_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut table = lines(1500);
    fs::write(source.join("table"), &table).unwrap();
    let unlock = Unlock::KeyFile(Secret32::random());
    let store = Arc::new(MemoryStore::new());
    let repository = Repository::init(store.clone(), &[(unlock.clone(), String::new())], None).unwrap();
    let mut scene = Scene { store: MemoryStore::new(), unlock, snapshots: Vec::new() };
    scene.backup(&repository, &source);
    table[20_000] = b'!';
    fs::write(source.join("table"), &table).unwrap();
    scene.backup(&repository, &source);
    scene.store = store.copy();
    let mut with_base = Vec::new();
    let each = &mut |_, location: Location| with_base.extend(location.base.and_then(|base| repository.locate(&base)));
    repository.each_location(each).unwrap();
    let pack = with_base.first().expect("the second version has a base").pack;
    for read in [Read::Nothing, Read::All, Read::Packs(Vec::new())] {
        let store = scene.store.copy();
        act(&store, Action::Delete, &pack.object(), "");
        let repository = scene.open(store).unwrap();
        let report = check(&repository, read.clone());
        check_report(&format!("{read:?}"), &scene, &repository, &report, &pack.object(), None);
        assert_eq!(report.damage[0].snapshots.len(), 2, "{read:?}");
    }
}

/// So with tree nodes: the new snapshot's node is stored against the old one's, which only the old snapshot has.
#[test]
fn a_tree_node_is_lost_with_its_base() {
    let scene = Scene::get();
    let mut bases = Vec::new();
    let repository = scene.open(scene.store.copy()).unwrap();
    let each = &mut |id, location: Location| {
        let base = location.base.filter(|_| location.kind == BlobKind::Tree);
        bases.extend(base.map(|base| (id, base, repository.locate(&base).unwrap())));
    };
    repository.each_location(each).unwrap();
    assert!(!bases.is_empty(), "a changed node has a base");
    for (dependant, base, location) in bases {
        let pack = location.pack.object();
        let mut bytes = scene.store.get(&pack, None).unwrap();
        // Behind the blob's header of 48 bytes.
        bytes[usize::try_from(location.offset).unwrap() + 60] ^= 4;
        let store = scene.store.copy();
        store.replace(&pack, &bytes);
        let repository = scene.open(store).unwrap();
        assert!(repository.read_chunk(&base).is_err() && repository.read_chunk(&dependant).is_err());
        for read in [Read::Nothing, Read::All] {
            let report = check(&repository, read.clone());
            check_report(&format!("{read:?} {base}"), scene, &repository, &report, &pack, None);
            let damage = &report.damage[0];
            assert_eq!(damage.snapshots, [scene.snapshots[0].0, scene.snapshots[1].0], "{read:?} {base}");
            assert!(damage.what.contains("2 chunks are lost"), "{read:?} {base}: {damage:?}");
        }
    }
}

#[test]
fn what_no_commit_published_is_counted_and_no_damage() {
    let scene = Scene::get();
    let store = scene.store.copy();
    for kind in ["pack", "index"] {
        store.replace(&format!("{kind}/{}/0000000007", "ab".repeat(16)), b"left by a run that was interrupted");
    }
    let report = check(&scene.open(store).unwrap(), Read::All);
    assert_eq!((report.orphans, report.damage.len()), (2, 0));
}

#[test]
fn several_damaged_objects_are_all_named() {
    let scene = Scene::get();
    let store = scene.store.copy();
    let (data, tree) = (scene.packs(BlobKind::Data), scene.packs(BlobKind::Tree));
    act(&store, Action::Delete, &data[0], "");
    act(&store, Action::Flip(500), &data[1], "");
    act(&store, Action::TruncateByOne, &tree[0], "");
    let report = check(&scene.open(store).unwrap(), Read::All);
    let mut named: Vec<&String> = report.damage.iter().map(|damage| &damage.object).collect();
    let mut expected = vec![&data[0], &data[1], &tree[0]];
    named.sort();
    expected.sort();
    assert_eq!(named, expected);
}
