//! A store that shows another repository than the one that its user means. A slot for a public key proves nothing of who
//! made it: who saw the repository before, or knows its fingerprint, must find out, and the right slot must still be found.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use seawall_engine::audit::Trail;
use seawall_engine::backup::backup;
use seawall_engine::crypto::passphrase::Cost;
use seawall_engine::crypto::sign::SigningKey;
use seawall_engine::crypto::wrap::{self, DataSecretKey};
use seawall_engine::crypto::{Secret32, object_hash};
use seawall_engine::error::Error;
use seawall_engine::format::log::{Act, KeyChange, MemberRecord};
use seawall_engine::format::marker::Marker;
use seawall_engine::format::names::{MARKER, slot_object};
use seawall_engine::format::slot::{self, KeyRing, Lock, Role, Unlock};
use seawall_engine::ids::{MemberId, ObjectHash, RepositoryId, SlotId};
use seawall_engine::keys;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::repo::log::initialise;
use seawall_engine::store::Store;
use seawall_engine::store::local::LocalStore;

use crate::place::{Place, options, paths};

/// A repository with a key for an identity, and that identity.
struct Scene {
    place: Place,
    identity: DataSecretKey,
    fingerprint: ObjectHash,
}

impl Scene {
    fn new() -> Self {
        Self::with(Role::Owner)
    }

    /// With a key of this role for the identity.
    fn with(role: Role) -> Self {
        let (place, repository) = Place::new();
        fs::write(place.source().join("file"), b"content").unwrap();
        let (identity, public) = wrap::generate();
        keys::add(&repository, role, &Lock::Recipient(public), "anna").unwrap();
        let fingerprint = repository.fingerprint();
        Self { place, identity, fingerprint }
    }

    fn root(&self) -> std::path::PathBuf {
        self.place.directory.path().join("repository")
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::create(&self.root()).unwrap())
    }

    fn open(&self, cache: bool, expected: Option<ObjectHash>) -> Result<Repository, Error> {
        let cache = cache.then(|| self.place.directory.path().join("cache"));
        Repository::open_expected(self.store(), &Unlock::Identity(self.identity.clone()), cache, expected)
    }

    /// Puts another repository into the place, which opens with the same identity; gives its fingerprint.
    fn substitute(&self, id: Option<RepositoryId>) -> ObjectHash {
        fs::rename(self.root(), self.place.directory.path().join("kept")).unwrap();
        let (store, public) = (self.store(), self.identity.public());
        let Some(id) = id else {
            let theirs = Unlock::KeyFile(Secret32::random());
            let repository = Repository::init(store, &[(theirs, "evil".to_owned())], None).unwrap();
            keys::add(&repository, Role::Owner, &Lock::Recipient(public), "anna").unwrap();
            return repository.fingerprint();
        };
        let (ring, marker) = (KeyRing::generate(id), Marker::new(id, false).encode());
        plant(&*store, &ring, SlotId([1; 16]), &self.identity);
        let public_key = SigningKey::from_seed(&ring.signing_seed).public();
        let member = MemberRecord {
            id: ring.member,
            public_key,
            role: Role::Owner,
            label: "anna".into(),
            wrap_public: None,
            slot: None,
            slot_hash: None,
        };
        let fingerprint = initialise(&*store, &ring, object_hash(&marker), member, 0).unwrap();
        store.put(MARKER, &marker).unwrap();
        fingerprint
    }

    /// What the audit trail finds.
    fn trail(&self, cache: bool) -> Vec<&'static str> {
        let cache = cache.then(|| self.place.directory.path().join("cache"));
        let (store, unlock) = (self.store(), Unlock::Identity(self.identity.clone()));
        let trail = Trail::open(&*store, &unlock, cache.as_deref(), None).unwrap();
        let report = trail.follow(&Silent, &mut |_| true).unwrap();
        report.findings.iter().filter(|finding| finding.is_damage()).map(|finding| finding.kind).collect()
    }

    fn put_back(&self) {
        fs::remove_dir_all(self.root()).unwrap();
        fs::rename(self.place.directory.path().join("kept"), self.root()).unwrap();
    }
}

/// Stores a slot with this ring that the identity opens: what it takes is the public key.
fn plant(store: &dyn Store, ring: &KeyRing, id: SlotId, identity: &DataSecretKey) {
    let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let sealed = slot::seal(ring, &Lock::Recipient(identity.public()), &id, "planted", 0, cost).unwrap();
    store.delete(&slot_object(&id)).unwrap();
    store.put(&slot_object(&id), &sealed).unwrap();
}

fn logs(cache: &Path) -> Vec<Vec<u8>> {
    let mut found: Vec<_> = fs::read_dir(cache).unwrap().map(|item| item.unwrap().path().join("log")).collect();
    found.sort();
    found.iter().filter_map(|path| fs::read(path).ok()).collect()
}

#[test]
fn another_repository_in_the_place_is_told_to_who_saw_the_right_one() {
    for same_id in [true, false] {
        let scene = Scene::new();
        assert_eq!(scene.open(true, None).unwrap().rollback(), None);
        let id = scene.place.open(false).id();
        let evil = scene.substitute(same_id.then_some(id));
        let cache = scene.place.directory.path().join("cache");
        let seen = logs(&cache);
        for _ in 0..2 {
            assert_eq!((scene.trail(true), scene.trail(false)), (vec!["substituted"], vec![]), "same id {same_id}");
            let opened = scene.open(true, None).unwrap();
            assert_eq!((opened.fingerprint(), opened.snapshots().len()), (evil, 0), "it reads what is there");
            let told = opened.rollback().expect("it is told");
            assert!(told.contains("seen"), "{told}");
            let refused = backup(&opened, options(paths(&scene.place.source())), &Silent);
            assert!(matches!(refused, Err(Error::Rollback(_))), "same id {same_id}: {refused:?}");
            drop(opened);
            assert!(seen.iter().all(|log| logs(&cache).contains(log)), "what was seen is kept");
        }
        // Without having seen it nobody can know; who knows the fingerprint can.
        assert_eq!(scene.open(false, None).unwrap().rollback(), None);
        for cache in [false, true] {
            let refused = scene.open(cache, Some(scene.fingerprint)).err().unwrap();
            assert!(matches!(refused, Error::Substituted(_)), "same id {same_id}: {refused}");
        }
        scene.put_back();
        let right = scene.open(true, None).unwrap();
        assert_eq!((right.rollback(), right.fingerprint()), (None, scene.fingerprint));
        assert!(scene.trail(true).is_empty());
        drop(scene.open(false, Some(scene.fingerprint)).unwrap());
    }
}

/// Disks that take turns at one place, each with a repository that this user made, are no substitution; and another one is
/// taken for the right one once its fingerprint is named.
#[test]
fn repositories_that_are_known_may_take_turns() {
    let scene = Scene::new();
    drop(scene.open(true, None).unwrap());
    fs::rename(scene.root(), scene.place.directory.path().join("kept")).unwrap();
    let slots = [(Unlock::Identity(scene.identity.clone()), "second".to_owned())];
    let cache = scene.place.directory.path().join("cache");
    drop(Repository::init(scene.store(), &slots, Some(cache)).unwrap());
    assert_eq!(scene.open(true, None).unwrap().rollback(), None);
    scene.put_back();
    assert!(scene.trail(true).is_empty(), "it is known, though another one was here last");
    assert_eq!(scene.open(true, None).unwrap().rollback(), None);
    let other = scene.substitute(None);
    assert!(scene.open(true, None).unwrap().rollback().is_some());
    assert_eq!(scene.open(true, Some(other)).unwrap().rollback(), None);
    assert_eq!(scene.open(true, None).unwrap().rollback(), None, "it is known now");
}

/// A key of this role that is not yet in the repository, its slot, and what an owner says of it.
fn newcomer(owner: &Repository, role: Role, lock: &Lock, label: &str) -> (KeyRing, Vec<u8>, MemberRecord) {
    let ring = owner.keys().for_member(role, 0, owner.keys().data_secret.as_ref().unwrap());
    let id = SlotId(seawall_engine::crypto::random());
    let sealed = slot::seal(&ring, lock, &id, label, 0, Cost { memory_kib: 8, passes: 1, lanes: 1 }).unwrap();
    let record = MemberRecord {
        id: ring.member,
        public_key: SigningKey::from_seed(&ring.signing_seed).public(),
        role,
        label: label.into(),
        wrap_public: Some(*ring.wrap_public().as_bytes()),
        slot: Some(id),
        slot_hash: None,
    };
    (ring, sealed, record)
}

/// Admits a member as the first versions did, without the hash of its slot.
fn admit_unhashed(owner: &Repository, role: Role, lock: &Lock, label: &str) -> (KeyRing, SlotId) {
    let (ring, sealed, record) = newcomer(owner, role, lock, label);
    let id = record.slot.unwrap();
    owner.append(&mut |_| Ok(Act::Key(KeyChange::Admit(record.clone())))).unwrap();
    owner.store().put(&slot_object(&id), &sealed).unwrap();
    (ring, id)
}

/// What somebody can plant who has this ring: in the name of the victim and of others with a seed that is not theirs, and
/// in its own name with the true seed.
fn plants(own: &KeyRing, victim: &KeyRing, owner: &KeyRing) -> Vec<KeyRing> {
    let seed = Secret32::random;
    let in_name_of = |other: &KeyRing| KeyRing {
        role: other.role,
        member: other.member,
        signing_seed: seed(),
        data_secret: own.data_secret.clone().filter(|_| other.role != Role::Member),
        ..own.clone()
    };
    vec![
        in_name_of(victim),
        in_name_of(owner),
        KeyRing { id_key: seed(), ..own.clone() },
        KeyRing { role: Role::Owner, ..own.clone() },
        own.clone(),
    ]
}

/// A reader, or one that was removed, plants slots for a public key with the true keys of the repository: whoever opened
/// one would write entries that count for nothing, or what nobody can read, or believe what the reader says.
#[test]
fn a_ring_that_is_not_its_members_is_passed_over() {
    for (role, removed) in [(Role::Owner, true), (Role::Member, false)] {
        let scene = Scene::with(role);
        let owner = scene.place.open(false);
        let right = scene.open(false, None).unwrap().keys().clone();
        let theirs = Unlock::KeyFile(Secret32::random());
        keys::add(&owner, Role::Reader, &theirs.lock().unwrap(), "mallory").unwrap();
        let own = Repository::open(scene.store(), &theirs, None).unwrap().keys().clone();
        let mine = slot_of(&owner, "mallory");
        if removed {
            keys::remove(&owner, keys::find(&keys::list(&owner).unwrap(), "mallory").unwrap()).unwrap();
        }
        for ring in plants(&own, &right, owner.keys()) {
            for slot in [SlotId([0; 16]), mine] {
                plant(owner.store(), &ring, slot, &scene.identity);
                for cache in [false, true] {
                    assert_eq!(*scene.open(cache, None).unwrap().keys(), right);
                }
                owner.store().delete(&slot_object(&slot)).unwrap();
            }
        }
        plant(owner.store(), &plants(&own, &right, owner.keys())[0], SlotId([0; 16]), &scene.identity);
        let opened = scene.open(true, None).unwrap();
        let before = opened.snapshots().len();
        backup(&opened, options(paths(&scene.place.source())), &Silent).unwrap();
        assert_eq!(scene.open(false, None).unwrap().snapshots().len(), before + 1, "it counts");
        // In the right slot's place nothing helps, and nothing is opened.
        let place = slot_of(&owner, "anna");
        for ring in plants(&own, &right, owner.keys()) {
            plant(owner.store(), &ring, place, &scene.identity);
            assert_eq!(scene.open(false, None).err().unwrap().code(), "damaged");
        }
    }
}

/// Members whose slots' hashes the log does not have: what tells nothing is refused, and a key that is added anew helps.
#[test]
fn of_two_members_that_an_identity_opens_none_is_guessed() {
    let (place, owner) = Place::new();
    let (identity, public) = wrap::generate();
    let (right, _) = admit_unhashed(&owner, Role::Member, &Lock::Recipient(public), "anna");
    let theirs = Unlock::KeyFile(Secret32::random());
    let (own, mine) = admit_unhashed(&owner, Role::Reader, &theirs.lock().unwrap(), "mallory");
    let scene = Scene { place, identity, fingerprint: owner.fingerprint() };
    assert_eq!(*scene.open(false, None).unwrap().keys(), right, "a repository of the first versions");
    for ring in plants(&own, &right, owner.keys()) {
        plant(owner.store(), &ring, SlotId([0; 16]), &scene.identity);
        assert_eq!(*scene.open(false, None).unwrap().keys(), right, "not the slot that the log names");
    }
    plant(owner.store(), &own, mine, &scene.identity);
    let refused = scene.open(false, None).err().unwrap();
    assert!(refused.code() == "damaged" && refused.to_string().contains("key add"), "{refused}");
    keys::add(&owner, Role::Member, &Lock::Recipient(public), "anna anew").unwrap();
    let opened = scene.open(false, None).unwrap();
    assert_eq!(opened.state().active(&opened.keys().member).unwrap().label, "anna anew");
}

fn slot_of(repository: &Repository, label: &str) -> SlotId {
    let keys = keys::list(repository).unwrap();
    keys::find(&keys, label).unwrap().slot.clone().unwrap().0
}

/// Slots that somebody planted beside the right one: with keys of their own, and, by a member, with the true log key.
#[test]
fn planted_slots_do_not_hide_the_right_one() {
    let scene = Scene::new();
    let owner = scene.place.open(false);
    let right = scene.open(false, None).unwrap().keys().member;
    let foreign = KeyRing::generate(owner.id());
    let unknown = KeyRing { member: MemberId([7; 16]), ..owner.keys().clone() };
    // Slots are tried in the order of their ids; the first byte decides.
    for (first, ring) in [(0, &foreign), (1, &unknown), (0xFE, &foreign), (0xFF, &unknown)] {
        let mut id = [first; 16];
        id[1] = 0xFF;
        plant(owner.store(), ring, SlotId(id), &scene.identity);
    }
    for cache in [false, true] {
        let opened = scene.open(cache, None).unwrap();
        assert_eq!((opened.keys().member, opened.rollback()), (right, None));
        backup(&opened, options(paths(&scene.place.source())), &Silent).unwrap();
    }
    let ring = Repository::open_ring(&*scene.store(), &Unlock::Identity(scene.identity.clone())).unwrap();
    assert_eq!(ring.log_key, owner.keys().log_key, "the audit trail opens too");
    // Where nothing but planted slots opens, the reason is told.
    let slots = keys::list(&owner).unwrap();
    let (own, _) = keys::find(&slots, "anna").unwrap().slot.clone().unwrap();
    scene.store().delete(&slot_object(&own)).unwrap();
    let refused = scene.open(false, None).err().unwrap();
    assert_eq!(refused.code(), "damaged", "{refused}");
}
