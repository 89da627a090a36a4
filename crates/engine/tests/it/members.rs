//! A member's backup without the data key: incremental by the local cache; without it everything is read, nothing stored
//! twice.

use std::fs;
use std::sync::Arc;

use seawall_engine::backup::{BackupOptions, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::format::names::slot_object;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::keys;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;

use crate::beside::{At, Between};
use crate::place::{noise, options, paths};

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
