//! Packs with parity: damage of any part of one is given back when it is read, named by `verify`, and told once a pack.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use seawall_engine::backup::{BackupOptions, backup};
use seawall_engine::crypto::Secret32;
use seawall_engine::format::names::PackName;
use seawall_engine::format::pack::{check_pack, decode_trailer};
use seawall_engine::format::parity::Parity;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::monitor::{Monitor, Problem, Silent};
use seawall_engine::prune::{MaxUnused, PruneOptions, prune};
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use crate::damage::{check, lines};
use crate::place::{files_of, noise, options, paths};

pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A repository of two snapshots, the second with chunks that are encoded against those of the first.
pub struct Scene {
    directory: tempfile::TempDir,
    store: MemoryStore,
    pub owner: Unlock,
    pub snapshots: Vec<(SnapshotId, ChunkId, Files)>,
}

impl Scene {
    pub fn new(parity: Option<Parity>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let owner = Unlock::KeyFile(Secret32::random());
        let store = Arc::new(MemoryStore::new());
        let init = Repository::init(store.clone(), &[(owner.clone(), "owner".into())], None).unwrap();
        let mut scene = Self { directory, store: MemoryStore::new(), owner, snapshots: Vec::new() };
        fs::create_dir(scene.source()).unwrap();
        for number in 0..200 {
            scene.write(&format!("small {number:03}"), &noise(number, 300));
        }
        (0..2).for_each(|number| scene.write(&format!("big {number}"), &noise(1000 + number, 3 * MIB / 2)));
        scene.write("table", &lines(30_000));
        let repository = init.with_parity(parity);
        scene.backup(&repository);
        let mut table = lines(30_000);
        table.splice(350_000..350_010, *b"changed");
        scene.write("table", &table);
        scene.write("small 150", b"changed");
        scene.backup(&repository);
        scene.store = store.copy();
        scene
    }

    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.source().join(name), bytes).unwrap();
    }

    pub fn options(&self) -> BackupOptions {
        BackupOptions { budget_bytes: 16 * MIB, ..options(paths(&self.source())) }
    }

    fn backup(&mut self, repository: &Repository) {
        let snapshot = backup(repository, self.options(), &Silent).unwrap().snapshot.unwrap();
        let files = files_of(repository, &snapshot.root);
        self.snapshots.push((snapshot.id, snapshot.root, files));
    }

    /// A store with the same objects.
    pub fn copy(&self) -> Arc<MemoryStore> {
        Arc::new(self.store.copy())
    }

    pub fn open(&self, store: &Arc<MemoryStore>) -> Repository {
        Repository::open(store.clone(), &self.owner, None).unwrap()
    }

    pub fn packs(&self) -> Vec<PackName> {
        self.store.names().iter().filter_map(|name| PackName::parse(name)).collect()
    }

    /// The pack with the files' content: the longest.
    pub fn data_pack(&self) -> PackName {
        self.packs().into_iter().max_by_key(|pack| length(&self.store, pack)).unwrap()
    }

    pub fn assert_restores(&self, case: &str, repository: &Repository) {
        for (id, root, files) in &self.snapshots {
            assert!(files_of(repository, root) == *files, "{case}: {id}");
        }
    }
}

/// Damages a run of a pack's bytes.
pub fn hit(store: &MemoryStore, pack: &PackName, start: usize, length: usize) {
    let mut bytes = store.get(&pack.object(), None).unwrap();
    bytes.iter_mut().skip(start).take(length).for_each(|byte| *byte ^= 0xa5);
    store.replace(&pack.object(), &bytes);
}

/// The longest run of damage that parity of 2 % gives back in packs of any length: one shard and a byte.
pub fn run(store: &MemoryStore, pack: &PackName) -> usize {
    let bytes = store.get(&pack.object(), None).unwrap();
    let head = bytes.len() - 128;
    u32::from_le_bytes(bytes[head + 8..head + 12].try_into().unwrap()) as usize + 1
}

fn length(store: &MemoryStore, pack: &PackName) -> usize {
    usize::try_from(store.head(&pack.object()).unwrap().length).unwrap()
}

/// Places in a pack where its parts meet, and some within.
fn places(store: &MemoryStore, pack: &PackName) -> Vec<usize> {
    let bytes = store.get(&pack.object(), None).unwrap();
    let trailer = decode_trailer(pack, bytes.len() as u64, &bytes).unwrap();
    let run = run(store, pack);
    let (footer, end) = (trailer.footer_offset as usize, trailer.footer().end as usize);
    let mut places = vec![0, bytes.len() / 3, footer.saturating_sub(run), end.saturating_sub(run / 2), end];
    places.extend([bytes.len() - run - 100, bytes.len() - run, bytes.len() - 1]);
    places
}

/// What a monitor is told.
#[derive(Default)]
pub struct Told(pub Mutex<Vec<Problem>>);

impl Monitor for Told {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem);
    }
}

impl Told {
    fn codes(&self) -> Vec<(String, &'static str)> {
        self.0.lock().unwrap().iter().map(|problem| (problem.subject.clone(), problem.code)).collect()
    }
}

#[test]
fn damage_of_any_part_of_a_pack_is_given_back() {
    let scene = Scene::new(Parity::of_share(0.02));
    for pack in scene.packs() {
        for place in places(&scene.store, &pack) {
            let case = format!("{pack} at {place}");
            let store = scene.copy();
            hit(&store, &pack, place, run(&store, &pack));
            scene.assert_restores(&case, &scene.open(&store));
            let repository = scene.open(&store);
            let told = Told::default();
            let all = VerifyOptions { read: Read::All, record: true, threads: 2, budget_bytes: 16 * MIB };
            let report = verify(&repository, &all, &told).unwrap();
            assert_eq!((&report.damage[..], &report.harmless[..]), (&[][..], &[][..]), "{case}");
            assert_eq!(report.mended.iter().map(|it| &it.object).collect::<Vec<_>>(), [&pack.object()], "{case}");
            assert_eq!(told.codes(), [(pack.object(), "mended")], "{case}");
            assert_eq!(report.entries_appended, 0, "{case}: nothing is lost");
            let structure = check(&repository, Read::Nothing);
            assert_eq!((structure.damage.len(), structure.entries_appended), (0, 0), "{case}");
        }
    }
}

/// What was cut off at the end was parity.
#[test]
fn a_pack_that_was_cut_short_is_given_back() {
    let scene = Scene::new(Parity::of_share(0.02));
    for pack in scene.packs() {
        let bytes = scene.store.get(&pack.object(), None).unwrap();
        for cut in [1, 64, 200, run(&scene.store, &pack)] {
            let store = scene.copy();
            store.replace(&pack.object(), &bytes[..bytes.len() - cut]);
            let repository = scene.open(&store);
            let report = check(&repository, Read::All);
            assert_eq!((report.damage.len(), report.mended.len()), (0, 1), "{pack} without {cut}");
            scene.assert_restores("cut", &repository);
        }
    }
}

#[test]
fn more_damage_than_parity_gives_back_is_damage() {
    let scene = Scene::new(Parity::of_share(0.02));
    for pack in scene.packs() {
        let store = scene.copy();
        hit(&store, &pack, 0, length(&store, &pack) * 9 / 10);
        let repository = scene.open(&store);
        let report = check(&repository, Read::All);
        assert!(report.damage.iter().any(|damage| damage.object == pack.object()), "{pack}");
        assert_eq!((report.mended.len(), report.entries_appended), (0, 1), "{pack}");
        assert!(repository.mended_packs().lock().unwrap().is_empty());
    }
}

/// A pack that was damaged before it had parity, as it were: its parity says that it is as it was written, and so it is.
#[test]
fn a_pack_that_is_as_it_was_written_is_not_mended() {
    let scene = Scene::new(Parity::of_share(0.02));
    let packs = scene.packs();
    let store = scene.copy();
    // The objects change places: each is whole, and none is what its name says.
    let (first, second) = (packs[0].object(), packs[1].object());
    let (left, right) = (store.get(&first, None).unwrap(), store.get(&second, None).unwrap());
    store.replace(&first, &right);
    store.replace(&second, &left);
    let report = check(&scene.open(&store), Read::All);
    assert!(report.mended.is_empty());
    assert!(report.damage.len() >= 2, "{:?}", report.damage);
}

#[test]
fn a_restore_tells_of_each_damaged_pack_once() {
    let scene = Scene::new(Parity::of_share(0.02));
    let (_, root, _) = &scene.snapshots[0];
    let packs = scene.packs();
    let store = scene.copy();
    packs.iter().for_each(|pack| hit(&store, pack, 100, run(&store, pack)));
    let repository = scene.open(&store);
    let told = Told::default();
    let target = scene.directory.path().join("target");
    let options = RestoreOptions { target: target.clone(), threads: 2, ..RestoreOptions::default() };
    let report = restore(&repository, root, &options, &told).unwrap();
    let codes = told.codes();
    assert!(codes.len() >= 2 && codes.iter().all(|(_, code)| *code == "mended"), "{codes:?}");
    assert_eq!(report.problems, codes.len() as u64);
    let mut subjects: Vec<&String> = codes.iter().map(|(subject, _)| subject).collect();
    subjects.dedup();
    assert_eq!(subjects.len(), codes.len());
    let restored = target.join(scene.source().strip_prefix("/").unwrap());
    for (path, bytes) in &scene.snapshots[0].2 {
        let path = path.strip_prefix(scene.source()).unwrap();
        assert!(fs::read(restored.join(path)).unwrap() == *bytes, "{}", path.display());
    }
}

/// A prune that stores needed blobs of a damaged pack again takes them from its parity, and gives its own packs parity.
#[test]
fn a_prune_rewrites_what_parity_gives_back() {
    let scene = Scene::new(Parity::of_share(0.02));
    fs::remove_file(scene.source().join("big 1")).unwrap();
    for pack in scene.packs() {
        let store = scene.copy();
        // One byte in each of many pieces, so that needed blobs are among them; in turn in each group.
        (100..length(&store, &pack)).step_by(65 * 4096).for_each(|place| hit(&store, &pack, place, 1));
        let repository = scene.open(&store).with_parity(Parity::of_share(0.05));
        let old: Vec<SnapshotId> = scene.snapshots.iter().map(|(id, ..)| *id).collect();
        let root = backup(&repository, scene.options(), &Silent).unwrap().snapshot.unwrap().root;
        seawall_engine::forget::forget(&repository, &old, "test").unwrap();
        let options = PruneOptions {
            window: std::time::Duration::ZERO,
            max_unused: MaxUnused::Bytes(0),
            pack_bytes: MIB,
            ..PruneOptions::default()
        };
        let told = Told::default();
        let report = prune(&repository, &options, &mut |_| {}, &told).unwrap();
        assert_eq!(report.problems, 0, "{pack}: {:?}", told.0.lock().unwrap());
        assert!(report.rewritten_chunks > 0, "{pack}");
        let files = files_of(&scene.open(&store), &root);
        assert!(files.iter().all(|(path, bytes)| scene.snapshots[1].2[path] == *bytes), "{pack}");
        assert_eq!(files.len() + 1, scene.snapshots[1].2.len());
        for name in store.names().iter().filter_map(|name| PackName::parse(name)) {
            let bytes = store.get(&name.object(), None).unwrap();
            let trailer = decode_trailer(&name, bytes.len() as u64, &bytes).unwrap();
            assert!(trailer.parity_len > 0, "{name}");
        }
    }
}

/// Without being asked for, packs have none, as before.
#[test]
fn packs_have_no_parity_by_default() {
    let scene = Scene::new(None);
    for pack in scene.packs() {
        let bytes = scene.store.get(&pack.object(), None).unwrap();
        assert_eq!(check_pack(&pack, &bytes).unwrap().parity_len, 0);
        let store = scene.copy();
        hit(&store, &pack, 100, 1);
        let report = check(&scene.open(&store), Read::All);
        assert_eq!((report.damage.len(), report.mended.len()), (1, 0), "{pack}");
    }
}
