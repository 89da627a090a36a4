//! An `init` that is stopped at any point: the same call goes on, and another one is told what to remove.

use std::sync::Arc;

use seawall_engine::crypto::passphrase::Cost;
use seawall_engine::crypto::sign::SigningKey;
use seawall_engine::crypto::{Secret32, object_hash, wrap};
use seawall_engine::error::{Error, Result};
use seawall_engine::format::log::MemberRecord;
use seawall_engine::format::marker::Marker;
use seawall_engine::format::names::{MARKER, slot_object};
use seawall_engine::format::slot::{self, KeyRing, Lock, Role, Unlock};
use seawall_engine::ids::{RepositoryId, SlotId};
use seawall_engine::keys;
use seawall_engine::repo::Repository;
use seawall_engine::repo::log::initialise;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Fault, Plan, SimulatedStore};

use crate::beside::{At, Between};

fn unlocks(count: usize) -> Vec<(Unlock, String)> {
    (0..count).map(|number| (Unlock::KeyFile(Secret32::random()), format!("key {number}"))).collect()
}

fn init(store: Arc<dyn Store>, slots: &[(Unlock, String)]) -> Result<Repository> {
    Repository::init(store, slots, None)
}

/// Every key opens the repository as an owner, each by one slot, and the log is sound.
fn assert_made(store: &Arc<dyn Store>, slots: &[(Unlock, String)], case: &str) {
    for (unlock, _) in slots {
        let opened = Repository::open(store.clone(), unlock, None).unwrap();
        let usable: Vec<_> = keys::list(&opened).unwrap().into_iter().filter(|key| key.is_usable()).collect();
        let labels: Vec<&str> = usable.iter().filter(|key| key.member.is_some()).map(|key| key.label()).collect();
        let wanted: Vec<&str> = slots.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, wanted, "{case}");
    }
}

#[test]
fn an_interrupted_init_goes_on_with_the_same_keys() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for write in 0.. {
            let case = format!("{fault:?} {write}");
            let (store, slots) = (Arc::new(SimulatedStore::new()), unlocks(3));
            store.set_plan(Plan::default().write(write, fault));
            let first = init(store.clone(), &slots);
            if !store.crashed() {
                first.unwrap();
                assert!(write > 5);
                break;
            }
            store.reboot();
            let (is_made, has_log) =
                (store.head(MARKER).is_ok(), store.objects().names().iter().any(|it| it.starts_with("log/")));
            let strange = init(Arc::new(SimulatedStore::over(store.objects().copy(), Plan::default())), &unlocks(1));
            match strange.err() {
                None => assert!(!has_log, "{case}"),
                Some(Error::RepositoryExists(_)) => assert!(is_made, "{case}"),
                Some(Error::Refused(why)) => assert!(has_log && !is_made && why.contains("`log/` and `key/`"), "{why}"),
                Some(other) => panic!("{case}: {other}"),
            }
            match init(store.clone(), &slots) {
                Ok(made) => assert!(made.snapshots().is_empty()),
                Err(error) => assert!(is_made && matches!(error, Error::RepositoryExists(_)), "{case}: {error}"),
            }
            let store: Arc<dyn Store> = store;
            assert_made(&store, &slots, &case);
        }
    }
}

/// What the refusal says to remove is all that is in the way.
#[test]
fn what_was_left_with_a_lost_key_is_removed_by_hand() {
    let store = Arc::new(MemoryStore::new());
    drop(init(store.clone(), &unlocks(2)).unwrap());
    store.delete(MARKER).unwrap();
    let slots = unlocks(1);
    assert_eq!(init(store.clone(), &slots).err().unwrap().code(), "refused");
    let left = store.names();
    let in_the_way = left.iter().filter(|name| name.starts_with("log/") || name.starts_with("key/"));
    in_the_way.for_each(|name| store.delete(name).unwrap());
    init(store.clone(), &slots).unwrap();
    let store: Arc<dyn Store> = store;
    assert_made(&store, &slots, "anew");
}

/// A store that lays an `init` of its own before that of its victim: its slot opens with the victim's identity, and the
/// keys in it are the store's.
#[test]
fn what_somebody_laid_for_a_public_key_is_not_taken_up() {
    let (store, (identity, public)) = (Arc::new(MemoryStore::new()), wrap::generate());
    // The id with which slots are tried whose repository is not known.
    let ring = KeyRing::generate(RepositoryId([0; 16]));
    let id = SlotId([0; 16]);
    let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let sealed = slot::seal(&ring, &Lock::Recipient(public), &id, "identity file", 0, cost).unwrap();
    store.put(&slot_object(&id), &sealed).unwrap();
    let member = MemberRecord {
        id: ring.member,
        public_key: SigningKey::from_seed(&ring.signing_seed).public(),
        role: Role::Owner,
        label: "identity file".into(),
        wrap_public: Some(*ring.wrap_public().as_bytes()),
        slot: Some(id),
        slot_hash: Some(object_hash(&sealed)),
    };
    let marker = object_hash(&Marker::new(ring.repository, false).encode());
    initialise(&*store, &ring, marker, member, 0).unwrap();
    let before = store.names();
    let identity = (Unlock::Identity(identity), "identity file".to_owned());
    for slots in [vec![identity.clone()], [unlocks(1), vec![identity]].concat()] {
        assert_eq!(init(store.clone(), &slots).err().unwrap().code(), "refused");
        assert_eq!(store.names(), before);
    }
}

/// A key file takes up what was left, and finds the way in of the identity that was given with it.
#[test]
fn an_identity_beside_a_key_file_keeps_its_slot() {
    let store = Arc::new(MemoryStore::new());
    let slots = [unlocks(1), vec![(Unlock::Identity(wrap::generate().0), "identity file".to_owned())]].concat();
    drop(init(store.clone(), &slots).unwrap());
    store.delete(MARKER).unwrap();
    let before = store.names().len();
    drop(init(store.clone(), &slots).unwrap());
    assert_eq!(store.names().len(), before + 1, "the marker alone");
    let store: Arc<dyn Store> = store;
    assert_made(&store, &slots, "with an identity");
}

/// Where there is more than an `init` leaves, nothing is finished: a marker that went missing is another matter.
#[test]
fn a_repository_that_lost_its_marker_is_left_alone() {
    let (store, slots) = (Arc::new(MemoryStore::new()), unlocks(1));
    drop(init(store.clone(), &slots).unwrap());
    store.delete(MARKER).unwrap();
    store.put("pack/00000000000000000000000000000001/0000000000", b"pack").unwrap();
    let before = store.names();
    assert_eq!(init(store.clone(), &slots).err().unwrap().code(), "repository-exists");
    assert_eq!(store.names(), before);
}

/// The same call twice, the second between any two steps of the first: it is one repository.
#[test]
fn two_inits_with_the_same_keys_at_once_make_one_repository() {
    for operation in 0.. {
        let (store, slots) = (Arc::new(MemoryStore::new()), unlocks(1));
        let (other, same) = (store.clone(), slots.clone());
        let job = Box::new(move || drop(init(other, &same)));
        let between = Arc::new(Between::new(store.clone(), At::Operation(operation), job));
        let made = init(between.clone(), &slots);
        let is_over = between.is_over();
        if let Err(error) = &made {
            assert!(matches!(error, Error::RepositoryExists(_) | Error::Refused(_)), "{operation}: {error}");
        }
        let opened = Repository::open(store.clone(), &slots[0].0, None).unwrap();
        if let Ok(made) = made {
            assert_eq!(made.fingerprint(), opened.fingerprint(), "{operation}");
        }
        if !is_over {
            assert!(operation > 5);
            break;
        }
    }
}
