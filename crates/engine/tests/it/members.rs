//! A member's backup without the data key: incremental by the local cache; without it everything is read, nothing stored
//! twice.

use std::fs;
use std::sync::{Arc, Mutex};

use seawall_engine::backup::{BackupOptions, ParentUse, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::format::names::slot_object;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::keys;
use seawall_engine::monitor::{Monitor, Problem, Silent};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use crate::beside::{At, Between};
use crate::place::{noise, options, paths, stored_files};

#[test]
fn a_member_reads_what_changed_and_stores_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (source, cache) = (directory.path().join("source"), Some(directory.path().join("cache")));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("old"), noise(1, 300_000)).unwrap();
    let (owner, member) = (Unlock::KeyFile(Secret32::random()), Unlock::KeyFile(Secret32::random()));
    let store = Arc::new(MemoryStore::new());
    let repository = Repository::init(store.clone(), &[(owner, "owner".into())], None).unwrap();
    keys::add(&repository, Role::Member, &member.lock().unwrap(), "host").unwrap();
    // Why later: a file that changed just before a run is read again by the next.
    let later = || Timestamp { seconds: Timestamp::now().seconds + 60, nanos: 0 };
    let run = |cache| {
        let opened = Repository::open(store.clone(), &member, cache).unwrap();
        assert!(!opened.can_read_data());
        backup(&opened, BackupOptions { time: later(), ..options(paths(&source)) }, &Silent).unwrap()
    };
    assert_eq!(run(cache.clone()).bytes_read, 300_000);
    fs::write(source.join("new"), noise(2, 5_000)).unwrap();
    let second = run(cache);
    assert_eq!((second.bytes_read, second.files_new, second.files_unchanged), (5_000, 1, 1));
    let without = run(None);
    assert_eq!((without.bytes_read, without.bytes_new), (305_000, 0));
    assert!(matches!(without.parent, ParentUse::Unreadable(_)), "{:?}", without.parent);
}

/// One host, one cache, and keys of several members by turns: what an owner signed and what the same key signed is taken over,
/// and with every key the snapshot holds what the source has.
#[test]
fn a_host_whose_key_changes_is_never_wrong_and_reads_no_more_than_it_must() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (source, cache) = (root.join("source"), root.join("cache"));
    fs::create_dir(&source).unwrap();
    let plain = noise(1, 300_000);
    fs::write(source.join("file"), &plain).unwrap();
    let unlocks: [Unlock; 3] = std::array::from_fn(|_| Unlock::KeyFile(Secret32::random()));
    let store = Arc::new(MemoryStore::new());
    let repository = Repository::init(store.clone(), &[(unlocks[0].clone(), "owner".into())], None).unwrap();
    for (unlock, name) in unlocks[1..].iter().zip(["one", "two"]) {
        keys::add(&repository, Role::Member, &unlock.lock().unwrap(), name).unwrap();
    }
    let (owner, one, two) = (0, 1, 2);
    // Who makes each snapshot, the snapshot from which that is taken over, and whether anything is read.
    let turns = [
        (owner, None, true),
        (owner, Some(0), false),
        (one, Some(1), false),
        (owner, Some(1), false),
        (one, Some(3), false),
        (one, Some(4), false),
        // The list of what it may take over gave way to another's, and it can't read the snapshot back.
        (two, Some(3), true),
        (two, Some(6), false),
        (one, Some(5), true),
        (two, Some(7), true),
    ];
    let mut made: Vec<_> = Vec::new();
    for (turn, (who, parent, is_read)) in turns.into_iter().enumerate() {
        let opened = Repository::open(store.clone(), &unlocks[who], Some(cache.clone())).unwrap();
        let report = backup(&opened, options(paths(&source)), &Silent).unwrap();
        assert_eq!(stored_files(&repository, &report)[&source.join("file")], plain, "turn {turn}");
        let wanted = match parent.map(|parent: usize| made[parent]) {
            None => ParentUse::None,
            Some(id) if is_read => ParentUse::Unreadable(id),
            Some(id) => ParentUse::TakenOver(id),
        };
        let read = if is_read { 300_000 } else { 0 };
        assert_eq!((report.parent, report.bytes_read), (wanted, read), "turn {turn}");
        made.push(report.snapshot.unwrap().id);
    }
}

/// Two runs remove an owner each, at once. A third owner has no slot, so one of the two must stay.
#[test]
fn of_two_that_remove_owners_at_once_one_is_refused() {
    let unlock = || Unlock::KeyFile(Secret32::random());
    let (first, store) = (unlock(), Arc::new(MemoryStore::new()));
    let repository = Repository::init(store.clone(), &[(first.clone(), "first".into())], None).unwrap();
    for label in ["second", "ghost"] {
        keys::add(&repository, Role::Owner, &unlock().lock().unwrap(), label).unwrap();
    }
    let remove = |repository: &Repository, label: &str| {
        let keys = keys::list(repository).unwrap();
        keys::remove(repository, keys::find(&keys, label).unwrap())
    };
    let all = keys::list(&repository).unwrap();
    let (ghost, _) = keys::find(&all, "ghost").unwrap().slot.clone().unwrap();
    store.delete(&slot_object(&ghost)).unwrap();
    let job = Box::new(move || assert!(remove(&repository, "second").unwrap().is_some()));
    let between = Arc::new(Between::new(store.clone(), At::LogEntry(0), job));
    let other = Repository::open(between, &first, None).unwrap();
    assert_eq!(remove(&other, "first").unwrap_err().code(), "refused");
    assert_eq!(Repository::open(store, &first, None).unwrap().revoked(), None);
}

/// Objects of which a problem was told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Monitor for Told {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem.subject);
    }
}

/// A slot of which any byte changed is damage, also where only its label or time did; one that is gone is a problem, as a
/// `key add` that was interrupted leaves the same.
#[test]
fn verify_names_slots_that_are_not_those_of_the_log() {
    let store = Arc::new(MemoryStore::new());
    let first = [(Unlock::KeyFile(Secret32::random()), "first".to_owned())];
    let repository = Repository::init(store.clone(), &first, None).unwrap();
    keys::add(&repository, Role::Owner, &Unlock::KeyFile(Secret32::random()).lock().unwrap(), "second").unwrap();
    let all = keys::list(&repository).unwrap();
    let object = slot_object(&keys::find(&all, "second").unwrap().slot.clone().unwrap().0);
    let right = store.get(&object, None).unwrap();
    let found = || {
        let told = Told::default();
        let options = VerifyOptions { read: Read::All, record: true, threads: 1, budget_bytes: MIB };
        let report = verify(&repository, &options, &told).unwrap();
        let damaged: Vec<String> = report.damage.into_iter().map(|damage| damage.object).collect();
        (damaged, told.0.into_inner().unwrap())
    };
    assert_eq!(found(), (vec![], vec![]));
    for place in [0, 200, right.len() - 1] {
        let mut bytes = right.clone();
        bytes[place] ^= 1;
        store.delete(&object).unwrap();
        store.put(&object, &bytes).unwrap();
        assert_eq!(found(), (vec![object.clone()], vec![]), "byte {place}");
    }
    store.delete(&object).unwrap();
    assert_eq!(found(), (vec![], vec![object.clone()]));
    keys::remove(&repository, keys::find(&keys::list(&repository).unwrap(), "second").unwrap()).unwrap();
    assert_eq!(found(), (vec![], vec![]));
}
