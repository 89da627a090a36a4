//! What a client makes of the log that it saw before, and of objects that are too long to be entries.

use std::path::PathBuf;

use super::*;
use crate::crypto::Secret32;
use crate::format::log::KeyChange;
use crate::format::slot::{Role, Unlock};
use crate::repo::{Candidate, Repository};
use crate::store::memory::MemoryStore;
use crate::store::simulated::SimulatedStore;

struct Scene {
    store: Arc<SimulatedStore>,
    owner: Unlock,
    cache: tempfile::TempDir,
    repository: Repository,
}

impl Scene {
    /// Three entries, all of them in the cache.
    fn new() -> Self {
        let (store, owner) = (Arc::new(SimulatedStore::new()), Unlock::KeyFile(Secret32::random()));
        let cache = tempfile::tempdir().unwrap();
        let slots = [(owner.clone(), "owner".to_owned())];
        let repository = Repository::init(store.clone(), &slots, Some(cache.path().into())).unwrap();
        let scene = Self { store, owner, cache, repository };
        scene.add("a");
        scene.add("b");
        scene
    }

    fn add(&self, label: &str) {
        let own = self.repository.keys();
        let ring = own.for_member(Role::Member, 0, own.data_secret.as_ref().unwrap());
        let lock = Unlock::KeyFile(Secret32::random()).lock().unwrap();
        let record = Candidate::seal(&ring, &lock, label).unwrap().record;
        self.repository.append(&mut |_| Ok(Act::Key(KeyChange::Admit(record.clone())))).unwrap();
    }

    fn cached(&self) -> PathBuf {
        self.cache.path().join(self.repository.id().to_string()).join("log")
    }

    /// How the log went back, and how many entries were read.
    fn open(&self) -> (Option<String>, u64) {
        let opened = Repository::open(self.store.clone(), &self.owner, Some(self.cache.path().into())).unwrap();
        (opened.rollback(), opened.log_entries())
    }

    fn stored(&self, number: u64) -> Vec<u8> {
        self.store.get(&log_object(number), None).unwrap()
    }
}

fn records(entries: &[(u64, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(entries.iter().all(|(number, entry)| encode_cached(*number, true, entry, &mut bytes)));
    bytes
}

/// The store shows the same id and another log, sealed under keys of its own: what was seen does not open under them.
#[test]
fn a_log_that_was_seen_under_another_key_is_told_and_kept() {
    let (scene, other) = (Scene::new(), Scene::new());
    let (first, foreign) = (scene.stored(0), other.stored(0));
    let whole = fs::read(scene.cached()).unwrap();
    for cached in [fs::read(other.cached()).unwrap(), records(&[(0, &first), (1, &foreign)])] {
        fs::write(scene.cached(), &cached).unwrap();
        let (rollback, entries) = scene.open();
        assert!(rollback.unwrap().contains("not the one that was seen before"));
        assert_eq!(entries, 3);
        let opened = Repository::open(scene.store.clone(), &scene.owner, Some(scene.cache.path().into())).unwrap();
        let refused = opened.append(&mut |_| unreachable!("refused before anybody is asked what"));
        assert_eq!(refused.unwrap_err().code(), "rollback");
        assert_eq!(fs::read(scene.cached()).unwrap(), cached, "it is the only witness");
        let seen = seen_before(&Cache::new(Some(scene.cache.path()), &opened.id()), opened.id(), opened.keys());
        assert!(seen.is_err());
    }
    fs::write(scene.cached(), whole).unwrap();
    assert_eq!(scene.open(), (None, 3));
}

#[test]
fn two_entries_that_were_seen_at_one_number_are_told() {
    let scene = Scene::new();
    let entries: Vec<Vec<u8>> = (0..3).map(|number| scene.stored(number)).collect();
    let twice = records(&[(0, &entries[0]), (1, &entries[1]), (1, &entries[1]), (2, &entries[2])]);
    fs::write(scene.cached(), twice).unwrap();
    assert_eq!(scene.open(), (None, 3), "two processes saw the same");
    let split = records(&[(0, &entries[0]), (1, &entries[1]), (1, &entries[2])]);
    fs::write(scene.cached(), split).unwrap();
    assert!(scene.open().0.unwrap().contains("two entries were seen"));
}

/// What a crash, a full disk or another process left is no reason to suspect the store, and heals.
#[test]
fn a_torn_cache_is_no_rollback_and_is_mended() {
    let scene = Scene::new();
    let whole = fs::read(scene.cached()).unwrap();
    let entries: Vec<Vec<u8>> = (0..3).map(|number| scene.stored(number)).collect();
    let first = records(&[(0, &entries[0])]);
    let mut rotten = whole.clone();
    rotten[first.len() + 40] ^= 1;
    let torn_between = [&whole[..first.len() + 50], &records(&[(1, &entries[1]), (2, &entries[2])])[..]].concat();
    let gap = records(&[(0, &entries[0]), (2, &entries[2])]);
    let cases = [
        whole[..whole.len() - 1].to_vec(),
        whole[..first.len() + 3].to_vec(),
        whole[..10].to_vec(),
        vec![0; 4],
        rotten,
        torn_between,
        gap,
    ];
    for (case, cached) in cases.into_iter().enumerate() {
        fs::write(scene.cached(), cached).unwrap();
        assert_eq!(scene.open(), (None, 3), "case {case}");
        let mended = fs::read(scene.cached()).unwrap();
        match decode_cached(&mended, scene.repository.id(), scene.repository.keys()) {
            Cached::Log { state, length, .. } => assert_eq!((state.next, length), (3, mended.len()), "case {case}"),
            other => panic!("case {case}: {other:?}"),
        }
    }
}

/// The store may hold anything under the next number: it is not loaded, and told.
#[test]
fn an_object_that_is_too_long_is_not_loaded() {
    let scene = Scene::new();
    let huge = vec![0; usize::try_from(ENTRY_BYTES_MAX).unwrap() + (16 << 20)];
    scene.store.objects().replace(&log_object(3), &huge);
    drop(huge);
    let before = scene.store.operations().bytes_read;
    let refused = scene.repository.refresh().unwrap_err();
    assert!(matches!(&refused, Error::Damaged(Damaged { object, .. }) if *object == log_object(3)), "{refused}");
    assert!(scene.store.operations().bytes_read - before <= ENTRY_BYTES_MAX + 1);
    let store = MemoryStore::new();
    for (object, bytes_max) in [("seawall", 10_u64), ("key/00", 0)] {
        store.replace(object, &[1; 11]);
        assert!(matches!(read_object(&store, object, bytes_max), Err(Error::Damaged(_))), "{object}");
        store.replace(object, &vec![1; usize::try_from(bytes_max).unwrap()]);
        assert_eq!(read_object(&store, object, bytes_max).unwrap().len() as u64, bytes_max, "{object}");
    }
}

/// A key ring whose seed is not its member's, as somebody can plant one: what it signed would count for nothing.
#[test]
fn a_ring_that_does_not_sign_as_its_member_writes_nothing() {
    let scene = Scene::new();
    let ring = KeyRing { signing_seed: Secret32::random(), ..scene.repository.keys().clone() };
    let act = || Act::Fence { sessions: Vec::new() };
    let mut log = Log::open(&*scene.store, ring.repository, &ring, Cache::new(None, &ring.repository)).unwrap();
    assert_eq!(log.append(&*scene.store, &ring, 0, &mut |_| Ok(act())).unwrap_err().code(), "damaged");
    assert_eq!(log.try_append(&*scene.store, &ring, 0, 3, act()).unwrap_err().code(), "damaged");
    assert_eq!(scene.open(), (None, 3), "nothing was written");
    assert!(log.try_append(&*scene.store, scene.repository.keys(), 0, 3, act()).unwrap());
}

/// Who put an older copy there himself is told what to remove, and that helps.
#[test]
fn a_rollback_says_what_ends_it() {
    let scene = Scene::new();
    scene.store.delete(&log_object(2)).unwrap();
    let opened = Repository::open(scene.store.clone(), &scene.owner, Some(scene.cache.path().into())).unwrap();
    let refused = opened.refuse_after_rollback().unwrap_err().to_string();
    let seen = scene.cached().parent().unwrap().to_owned();
    assert!(refused.contains(&format!("remove {}", seen.display())), "{refused}");
    fs::remove_dir_all(seen).unwrap();
    assert_eq!(scene.open(), (None, 2));
}
