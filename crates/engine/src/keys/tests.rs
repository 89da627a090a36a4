//! Adding, removing and renewing keys, also with a crash at every write.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::clock::Timestamp;
use crate::codec::{Effort, Encoder};
use crate::crypto::Secret32;
use crate::crypto::wrap;
use crate::format::log::SnapshotRecord;
use crate::format::names::{SESSIONS, parse_session, session_object};
use crate::format::pack::BlobKind;
use crate::format::slot::{SharedSecret, Unlock};
use crate::ids::{ChunkId, SnapshotId};
use crate::monitor::Silent;
use crate::repo::data_keys::{newest_public, store_session_key};
use crate::repo::{Committed, Session};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::simulated::{Fault, Plan, SimulatedStore};

fn key_file() -> Unlock {
    Unlock::KeyFile(Secret32::random())
}

fn open(store: &Arc<SimulatedStore>, unlock: &Unlock) -> Repository {
    Repository::open(store.clone(), unlock, None).unwrap()
}

fn made(unlock: &Unlock) -> (Arc<SimulatedStore>, Repository) {
    let store = Arc::new(SimulatedStore::new());
    let repository = Repository::init(store.clone(), &[(unlock.clone(), "first".into())], None).unwrap();
    (store, repository)
}

fn add_key(repository: &Repository, role: Role, label: &str) -> Unlock {
    let unlock = key_file();
    add(repository, role, &unlock.lock().unwrap(), label).unwrap();
    unlock
}

/// Stores one chunk and commits a snapshot whose root is that chunk.
fn write(repository: &Repository, text: &[u8]) -> Result<ChunkId> {
    let session = Session::begin(repository, 1 << 20)?;
    let id = fill(&session, repository, text)?;
    commit(&session, id)?;
    Ok(id)
}

fn fill(session: &Session<'_>, repository: &Repository, text: &[u8]) -> Result<ChunkId> {
    let id = repository.id_key().chunk_id(text);
    let mut body = Vec::new();
    Encoder::new(Effort::Balanced).encode(text, None, None, &mut body);
    assert!(session.claim(&id));
    session.store(BlobKind::Data, &id, text.len(), &body)?;
    Ok(id)
}

fn commit(session: &Session<'_>, root: ChunkId) -> Result<()> {
    let (stop, ended) = crossbeam_channel::bounded(0);
    let queue = session.writer_queue();
    std::thread::scope(|scope| {
        scope.spawn(|| session.write_packs(&queue, &ended));
        let committed = session.commit(&mut |_| record(root));
        drop(stop);
        assert!(matches!(committed?, Committed::Done(..)));
        Ok(())
    })
}

fn record(root: ChunkId) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId(crate::crypto::random()),
        time: Timestamp::default(),
        host: "host".into(),
        user: String::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        root,
        entries: 1,
        files: 1,
        bytes: 1,
        labels: Vec::new(),
        program: String::new(),
        problems: 0,
        parent: None,
        bytes_read: 0,
        bytes_stored: 0,
        duration_ms: 0,
    }
}

fn generations(store: &dyn Store) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    store.list(SESSIONS, &mut |info| found.extend(parse_session(&info.name).map(|(_, it)| it))).unwrap();
    found
}

#[test]
fn each_way_in_is_a_member_of_its_own() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let identity = Unlock::Identity(wrap::generate().0);
    add(&repository, Role::Reader, &identity.lock().unwrap(), "identity").unwrap();
    let member = add_key(&repository, Role::Member, "host");
    let (shared, shares) = SharedSecret::generate(2, 3).unwrap();
    add(&repository, Role::Owner, &Lock::Shares(shared), "board").unwrap();
    let id = write(&repository, b"hello").unwrap();

    let mut members = BTreeSet::new();
    for (unlock, role) in [
        (owner, Role::Owner),
        (identity, Role::Reader),
        (member, Role::Member),
        (Unlock::Shares(shares[1..].to_vec()), Role::Owner),
    ] {
        let opened = open(&store, &unlock);
        assert_eq!(opened.role(), role);
        assert!(members.insert(opened.keys().member), "{unlock:?}");
        match opened.read_chunk(&id) {
            Ok(bytes) => assert!(bytes == b"hello" && role != Role::Member),
            Err(error) => assert!(role == Role::Member && error.code() == "not-allowed", "{error}"),
        }
        write(&opened, opened.keys().member.as_bytes()).unwrap();
    }
    let too_few = Repository::open(store.clone(), &Unlock::Shares(shares[..1].to_vec()), None).err().unwrap();
    assert!(too_few.to_string().contains("1 more needed"), "{too_few}");
    let (_, foreign) = SharedSecret::generate(2, 3).unwrap();
    let foreign = Repository::open(store.clone(), &Unlock::Shares(foreign), None).err().unwrap();
    assert!(foreign.code() == "shares" && foreign.to_string().contains("no slot"), "{foreign}");

    let keys = list(&repository).unwrap();
    let labels: Vec<&str> = keys.iter().map(Key::label).collect();
    assert_eq!(labels, ["first", "identity", "host", "board"]);
    assert!(keys.iter().all(|key| key.is_usable() && key.member.is_some() && key.last_entry.is_some()));
    assert_eq!(keys.iter().filter(|key| key.is_own).count(), 1);
}

#[test]
fn several_ways_in_at_init_are_several_members() {
    let (first, second) = (key_file(), key_file());
    let store = Arc::new(SimulatedStore::new());
    let slots = [(first.clone(), "a".to_owned()), (second.clone(), "b".to_owned())];
    let repository = Repository::init(store.clone(), &slots, None).unwrap();
    assert_ne!(open(&store, &first).keys().member, open(&store, &second).keys().member);
    let keys = list(&repository).unwrap();
    assert!(keys.iter().all(|key| key.is_usable() && key.role() == Some(Role::Owner)) && keys.len() == 2);
    assert!(keys.iter().all(|key| key.member.as_ref().is_some_and(|(_, it)| it.record.wrap_public.is_some())));
}

#[test]
fn only_owners_change_keys() {
    let (store, repository) = made(&key_file());
    for role in [Role::Member, Role::Reader] {
        let other = open(&store, &add_key(&repository, role, role.name()));
        let added = add(&other, Role::Member, &key_file().lock().unwrap(), "x").err().unwrap();
        let removed = remove(&other, &list(&other).unwrap()[0]).err().unwrap();
        let rotated = rotate(&other, false, false, &Silent).err().unwrap();
        assert!([added, removed, rotated].iter().all(|error| error.code() == "not-allowed"));
    }
}

#[test]
fn a_removed_key_opens_nothing_and_its_copy_writes_nothing() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let unlock = add_key(&repository, Role::Owner, "laptop");
    let opened_before = open(&store, &unlock);
    let keys = list(&repository).unwrap();
    let entries = repository.log_entries();
    remove(&repository, find(&keys, "laptop").unwrap()).unwrap();
    assert_eq!(repository.log_entries(), entries + 1);
    assert_eq!(Repository::open(store.clone(), &unlock, None).err().unwrap().code(), "wrong-key");

    // It does not know yet; the log does.
    let refused = write(&opened_before, b"late").unwrap_err();
    assert_eq!(refused.code(), "not-allowed", "{refused}");
    assert_eq!(opened_before.revoked(), Some(entries));
    assert_eq!(Session::begin(&opened_before, 1 << 20).err().unwrap().code(), "not-allowed");
    assert_eq!(repository.snapshots().len(), 0);

    // Another key may take its label; removing is also possible by id, and again after a crash.
    let _ = add_key(&repository, Role::Reader, "laptop");
    let keys = list(&repository).unwrap();
    assert!(find(&keys, "laptop").unwrap().is_usable());
    let revoked = keys.iter().find(|key| key.revoked().is_some()).unwrap();
    assert_eq!(remove(&repository, revoked).unwrap(), None);
    assert!(matches!(find(&keys, "nobody"), Err(Error::NotFound(_))));
}

#[test]
fn the_last_owner_stays() {
    let (_, repository) = made(&key_file());
    let _ = add_key(&repository, Role::Reader, "reader");
    let keys = list(&repository).unwrap();
    assert_eq!(remove(&repository, &keys[0]).unwrap_err().code(), "refused");
    let _ = add_key(&repository, Role::Owner, "second");
    remove(&repository, &list(&repository).unwrap()[0]).unwrap();
}

#[test]
fn after_a_rotation_everybody_but_the_removed_reads_everything() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let (reader, removed) = (add_key(&repository, Role::Reader, "a"), add_key(&repository, Role::Reader, "b"));
    let kept = open(&store, &removed);
    let old = write(&repository, b"old").unwrap();
    let before = store.objects().copy();
    let unaware = open(&store, &reader);
    let keys = list(&repository).unwrap();
    remove(&repository, find(&keys, "b").unwrap()).unwrap();
    let rotated = rotate(&repository, false, false, &Silent).unwrap();
    assert_eq!((rotated.generation, rotated.wrapped, rotated.deleted), (1, 1, 1));
    assert_eq!(generations(&*store), BTreeSet::from([1]));
    // A reader that was open meanwhile finds out by itself.
    assert_eq!(unaware.read_chunk(&old).unwrap(), b"old");
    let new = write(&repository, b"new").unwrap();
    assert_eq!(generations(&*store), BTreeSet::from([1]));

    let late = add_key(&repository, Role::Reader, "late");
    for unlock in [owner, reader, late] {
        let opened = open(&store, &unlock);
        assert_eq!(opened.read_chunk(&old).unwrap(), b"old");
        assert_eq!(opened.read_chunk(&new).unwrap(), b"new");
    }
    // With a copy of its key ring it reads the old store, and of the new one nothing.
    assert_eq!(kept.read_chunk(&old).unwrap_err().code(), "not-allowed");
    for id in [&old, &new] {
        let refused = kept.read_chunk(id).unwrap_err();
        assert_eq!(refused.code(), "not-allowed", "{refused}");
    }
    let past = Repository::open(Arc::new(before), &removed, None).unwrap();
    assert_eq!(past.read_chunk(&old).unwrap(), b"old");
    assert_eq!(rotate(&repository, true, false, &Silent).unwrap().wrapped, 0);
    assert_eq!(rotate(&repository, false, false, &Silent).unwrap().generation, 2);
    assert_eq!(open(&store, &add_key(&repository, Role::Reader, "c")).read_chunk(&old).unwrap(), b"old");
}

/// A member's session begins before a rotation and commits after it.
#[test]
fn a_session_that_runs_through_a_rotation_follows_it() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let member = open(&store, &add_key(&repository, Role::Member, "host"));
    let session = Session::begin(&member, 1 << 20).unwrap();
    let id = fill(&session, &member, b"slow").unwrap();
    // Why deleted here: so only the session itself can put it there.
    rotate(&repository, false, false, &Silent).unwrap();
    let mut wrapped = Vec::new();
    store.list(SESSIONS, &mut |info| wrapped.push(info.name)).unwrap();
    assert_eq!(wrapped.len(), 1);
    store.delete(&wrapped[0]).unwrap();
    commit(&session, id).unwrap();
    assert_eq!(open(&store, &owner).read_chunk(&id).unwrap(), b"slow");
    assert_eq!(open(&store, &add_key(&repository, Role::Reader, "new")).read_chunk(&id).unwrap(), b"slow");
}

/// A crash at every write: whatever was stored reads at once with every key, and the next run finishes.
#[test]
fn a_rotation_that_was_interrupted_is_finished_by_the_next() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let reader = add_key(&repository, Role::Reader, "reader");
    let ids: Vec<ChunkId> = (0..3u8).map(|number| write(&repository, &[number; 9]).unwrap()).collect();
    let base: MemoryStore = store.objects().copy();
    let mut interrupted = 0;
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::FailBefore, Fault::FailAfter] {
        for number in 0.. {
            let store = Arc::new(SimulatedStore::over(base.copy(), Plan::default().write(number, fault)));
            let result = rotate(&open(&store, &owner), false, false, &Silent);
            let ended = result.is_ok() && !store.crashed();
            store.reboot();
            let reads = |unlock: &Unlock| {
                let opened = open(&store, unlock);
                ids.iter().zip(0u8..).all(|(id, number)| opened.read_chunk(id).unwrap() == [number; 9])
            };
            assert!(reads(&owner) && reads(&reader), "{fault:?} at write {number}");
            let resumed = rotate(&open(&store, &owner), true, false, &Silent).unwrap();
            assert!(resumed.number.is_none() && resumed.unreadable.is_empty());
            assert_eq!(generations(&*store), BTreeSet::from([resumed.generation]), "{fault:?} at write {number}");
            assert!(reads(&owner) && reads(&reader));
            let fresh = open(&store, &add_key(&open(&store, &owner), Role::Reader, "fresh"));
            assert_eq!(fresh.read_chunk(&ids[0]).unwrap(), [0; 9]);
            interrupted += u32::from(resumed.wrapped > 0);
            if ended {
                break;
            }
        }
    }
    assert!(interrupted > 3, "no rotation was interrupted in the middle");
}

/// Who knows the data public key puts another key under a session's name for the newest generation: the right key, in
/// the older one, is not deleted, and once the other is removed everything reads.
#[test]
fn a_planted_session_key_does_not_cost_the_right_one() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let id = write(&repository, b"precious").unwrap();
    let store = Arc::new(SimulatedStore::over(store.objects().copy(), Plan::default().write(1, Fault::CrashBefore)));
    assert!(rotate(&open(&store, &owner), false, false, &Silent).is_err());
    store.reboot();
    let (repository, mut session) = (open(&store, &owner), None);
    store.list(SESSIONS, &mut |info| session = parse_session(&info.name).map(|(session, _)| session)).unwrap();
    let (session, newest) = (session.unwrap(), newest_public(&repository.state()).unwrap());
    assert!(store_session_key(&repository, &session, (newest.0, &newest.1), &Secret32::random()).unwrap());
    for _ in 0..2 {
        let rotated = rotate(&open(&store, &owner), true, false, &Silent).unwrap();
        assert_eq!((rotated.unreadable, rotated.deleted), (vec![session], 0));
        assert_eq!(generations(&*store), BTreeSet::from([0, 1]));
    }
    store.delete(&session_object(&session, 1)).unwrap();
    assert_eq!(rotate(&open(&store, &owner), true, false, &Silent).unwrap().deleted, 1);
    assert_eq!(open(&store, &owner).read_chunk(&id).unwrap(), b"precious");
}

#[test]
fn an_unfinished_rotation_keeps_new_readers_out() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    for text in [b"a", b"b"] {
        write(&repository, text).unwrap();
    }
    let store = Arc::new(SimulatedStore::over(store.objects().copy(), Plan::default().write(1, Fault::CrashBefore)));
    rotate(&open(&store, &owner), false, false, &Silent).unwrap_err();
    store.reboot();
    let repository = open(&store, &owner);
    let lock = key_file().lock().unwrap();
    assert_eq!(add(&repository, Role::Reader, &lock, "reader").err().unwrap().code(), "refused");
    add(&repository, Role::Member, &lock, "member").unwrap();
    rotate(&repository, true, false, &Silent).unwrap();
    add(&repository, Role::Reader, &lock, "reader").unwrap();
}

/// Another owner may sign what he likes; a secret that does not fit the public key is not written with or read by.
#[test]
fn a_grant_that_does_not_fit_is_not_used() {
    let (store, repository) = made(&key_file());
    let reader = add_key(&repository, Role::Reader, "reader");
    let (public, (wrong, _)) = (wrap::generate().1, wrap::generate());
    let ring = Repository::open_ring(&*store, &reader).unwrap();
    let (encapsulated, ciphertext) = wrap::seal_grant(&ring.wrap_public(), &repository.id(), &ring.member, 1, &wrong);
    let grants = vec![crate::format::log::Grant { member: ring.member, encapsulated, ciphertext }];
    let act = || KeyChange::Rotate { data_public: *public.as_bytes(), generation: 1, grants: grants.clone() };
    repository.append(&mut |_| Ok(Act::Key(act()))).unwrap();
    let opened = open(&store, &reader);
    assert_eq!(opened.data_secret(&opened.state(), 1), None);
    assert!(opened.data_secret(&opened.state(), 0).is_some());
}

/// Owners of the first days have no key to wrap grants for.
#[test]
fn nobody_is_left_out_unasked() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let old = write(&repository, b"old").unwrap();
    let ring = repository.keys().for_member(Role::Reader, 0, repository.keys().data_secret.as_ref().unwrap());
    let unlock = key_file();
    let mut candidate = Candidate::seal(&ring, &unlock.lock().unwrap(), "ancient").unwrap();
    candidate.record.wrap_public = None;
    repository.append(&mut |_| Ok(Act::Key(KeyChange::Admit(candidate.record.clone())))).unwrap();
    candidate.store(&*store).unwrap();
    let refused = rotate(&repository, false, false, &Silent).unwrap_err();
    assert!(refused.to_string().contains("ancient"), "{refused}");
    assert_eq!(repository.state().generation(), 0);
    assert_eq!(rotate(&repository, false, true, &Silent).unwrap().left_out, ["ancient"]);
    assert_eq!(open(&store, &unlock).read_chunk(&old).unwrap_err().code(), "not-allowed");
    assert_eq!(open(&store, &owner).read_chunk(&old).unwrap(), b"old");
}

/// The admission is in the log before the slot is in the store.
#[test]
fn a_crash_while_adding_leaves_no_way_in_that_the_log_does_not_know() {
    let owner = key_file();
    let (store, _) = made(&owner);
    let base = store.objects().copy();
    for fault in [Fault::CrashBefore, Fault::CrashAfter] {
        for number in 0..3 {
            let store = Arc::new(SimulatedStore::over(base.copy(), Plan::default().write(number, fault)));
            let unlock = key_file();
            let added = add(&open(&store, &owner), Role::Owner, &unlock.lock().unwrap(), "new");
            store.reboot();
            if let Ok(opened) = Repository::open(store.clone(), &unlock, None) {
                assert!(opened.state().active(&opened.keys().member).is_some());
            } else {
                assert!(added.is_err());
            }
            let keys = list(&open(&store, &owner)).unwrap();
            assert!(keys.iter().all(|key| key.member.is_some()), "{fault:?} at write {number}");
        }
    }
}

/// A rotation was interrupted while one session's key is lost: that one keeps nobody out, as nobody reads what it wrote. The
/// others are named.
#[test]
fn a_lost_session_key_keeps_nobody_out() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    for text in [b"a", b"b"] {
        write(&repository, text).unwrap();
    }
    let store = Arc::new(SimulatedStore::over(store.objects().copy(), Plan::default().write(1, Fault::CrashBefore)));
    rotate(&open(&store, &owner), false, false, &Silent).unwrap_err();
    store.reboot();
    let repository = open(&store, &owner);
    let mut sessions = Vec::new();
    store.list(SESSIONS, &mut |info| sessions.extend(parse_session(&info.name))).unwrap();
    assert!(sessions.iter().all(|(_, generation)| *generation == 0) && sessions.len() == 2);
    store.objects().replace(&session_object(&sessions[0].0, 0), b"damaged");
    let lock = key_file().lock().unwrap();
    let refused = add(&repository, Role::Reader, &lock, "reader").err().unwrap().to_string();
    assert!(refused.contains(&sessions[1].0.to_string()) && !refused.contains(&sessions[0].0.to_string()), "{refused}");
    store.delete(&session_object(&sessions[1].0, 0)).unwrap();
    add(&repository, Role::Reader, &lock, "reader").unwrap();
}

/// Somebody who knows the data public key put another key, or no key at all, under a session's name for the newest
/// generation. The older one is there still, and with it all that the session wrote is read.
#[test]
fn a_reader_falls_back_to_the_older_key() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let id = write(&repository, b"precious").unwrap();
    let store = Arc::new(SimulatedStore::over(store.objects().copy(), Plan::default().write(1, Fault::CrashBefore)));
    rotate(&open(&store, &owner), false, false, &Silent).unwrap_err();
    store.reboot();
    let mut session = None;
    store.list(SESSIONS, &mut |info| session = parse_session(&info.name).map(|(session, _)| session)).unwrap();
    let (repository, session) = (open(&store, &owner), session.unwrap());
    let (generation, public) = newest_public(&repository.state()).unwrap();
    let object = session_object(&session, generation);
    assert!(store_session_key(&repository, &session, (generation, &public), &Secret32::random()).unwrap());
    assert_eq!(open(&store, &owner).read_chunk(&id).unwrap(), b"precious", "planted");
    for damaged in [&b"no record"[..], &[0; 5_000]] {
        store.objects().replace(&object, damaged);
        assert_eq!(open(&store, &owner).read_chunk(&id).unwrap(), b"precious", "{} bytes", damaged.len());
    }
    store.delete(&session_object(&session, 0)).unwrap();
    assert_eq!(open(&store, &owner).read_chunk(&id).unwrap_err().code(), "damaged");
}

/// What is left when a way in is taken away is counted by ways in, not by names: an owner without a slot is nobody.
#[test]
fn an_owner_without_a_slot_is_not_left() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let ghost = repository.keys().for_member(Role::Owner, 0, repository.keys().data_secret.as_ref().unwrap());
    let ghost = Candidate::seal(&ghost, &key_file().lock().unwrap(), "ghost").unwrap();
    repository.append(&mut |_| Ok(Act::Key(KeyChange::Admit(ghost.record.clone())))).unwrap();
    // A slot of somebody whom the log does not know, that says of itself that it is an owner's.
    let stranger = repository.keys().for_member(Role::Owner, 0, repository.keys().data_secret.as_ref().unwrap());
    Candidate::seal(&stranger, &key_file().lock().unwrap(), "stranger").unwrap().store(&*store).unwrap();
    let keys = list(&repository).unwrap();
    assert_eq!(remove(&repository, find(&keys, "first").unwrap()).unwrap_err().code(), "refused");
    // Its own slot is gone too: the key that is in use is all that is left.
    let (slot, _) = find(&keys, "first").unwrap().slot.clone().unwrap();
    store.delete(&slot_object(&slot)).unwrap();
    let keys = list(&repository).unwrap();
    assert_eq!(remove(&repository, find(&keys, "first").unwrap()).unwrap_err().code(), "refused");
    remove(&repository, find(&keys, "ghost").unwrap()).unwrap();
    let _ = add_key(&repository, Role::Owner, "second");
    remove(&repository, find(&list(&repository).unwrap(), "first").unwrap()).unwrap();
}

/// A rotation that LIST did not show the key of a crashed session leaves it behind. Whoever adopts the session stores its
/// key anew, or where it can't read that, leaves the session.
#[test]
fn an_adopted_session_follows_a_rotation() {
    for role in [Role::Owner, Role::Member] {
        let owner = key_file();
        let (store, repository) = made(&owner);
        let unlock = add_key(&repository, role, "host");
        let cache = tempfile::tempdir().unwrap();
        let opened = || Repository::open(store.clone(), &unlock, Some(cache.path().into())).unwrap();
        let (before, plain) = (opened(), b"left behind");
        let crashed = Session::begin(&before, 1 << 20).unwrap();
        let id = fill(&crashed, &before, plain).unwrap();
        let (stop, ended) = crossbeam_channel::bounded(0);
        std::thread::scope(|scope| {
            scope.spawn(|| crashed.write_packs(&crashed.writer_queue(), &ended));
            crashed.flush().unwrap();
            drop(stop);
        });
        let session = crashed.id();
        drop(crashed);
        let after = opened();
        let adopting = Session::begin(&after, 1 << 20).unwrap();
        assert_eq!(adopting.adopted(), [session]);
        let unwrapped = store.get(&session_object(&session, 0), None).unwrap();
        rotate(&repository, false, false, &Silent).unwrap();
        store.delete(&session_object(&session, 1)).unwrap();
        store.put(&session_object(&session, 0), &unwrapped).unwrap();
        if role == Role::Owner {
            commit(&adopting, id).unwrap();
            let late = open(&store, &add_key(&open(&store, &owner), Role::Reader, "late"));
            store.delete(&session_object(&session, 0)).unwrap();
            assert_eq!(late.read_chunk(&id).unwrap(), plain);
        } else {
            let committed = adopting.commit(&mut |_| record(id)).unwrap();
            assert!(matches!(committed, Committed::Again) && adopting.adopted().is_empty());
        }
    }
}

/// One byte of another owner's slot changed, or the slot is gone: that owner is not counted.
#[test]
fn an_owner_whose_slot_is_damaged_is_not_left() {
    for flipped in [Some(0), Some(200), Some(usize::MAX), None] {
        let owner = key_file();
        let (store, repository) = made(&owner);
        let _ = add_key(&repository, Role::Owner, "second");
        let object = slot_object(&find(&list(&repository).unwrap(), "second").unwrap().slot.clone().unwrap().0);
        let mut bytes = store.get(&object, None).unwrap();
        store.delete(&object).unwrap();
        if let Some(flipped) = flipped {
            let place = flipped.min(bytes.len() - 1);
            bytes[place] ^= 1;
            store.put(&object, &bytes).unwrap();
        }
        let keys = list(&repository).unwrap();
        let second = find(&keys, "second").unwrap();
        assert_eq!((second.is_damaged, second.is_usable()), (flipped.is_some(), false), "{flipped:?}");
        assert_eq!(remove(&repository, find(&keys, "first").unwrap()).unwrap_err().code(), "refused", "{flipped:?}");
        remove(&repository, second).unwrap();
        assert!(store.head(&object).is_err(), "it goes with its member");
        let _ = add_key(&repository, Role::Owner, "third");
        remove(&repository, find(&list(&repository).unwrap(), "first").unwrap()).unwrap();
    }
}

/// Another run stored a session's key for the new generation, and nobody knows that it made that durable: it is stored once
/// more before the older one goes.
#[test]
fn an_older_key_goes_only_after_the_newer_one_was_stored_by_the_same_run() {
    let owner = key_file();
    let (store, repository) = made(&owner);
    let id = write(&repository, b"text").unwrap();
    let mut first = Vec::new();
    store.list(SESSIONS, &mut |info| first.push(info.name)).unwrap();
    let older = store.get(&first[0], None).unwrap();
    rotate(&repository, false, false, &Silent).unwrap();
    store.put(&first[0], &older).unwrap();
    store.set_plan(Plan::default().write(0, Fault::CrashAfter));
    let _ = rotate(&repository, true, false, &Silent).unwrap_err();
    store.reboot();
    assert_eq!(store.get(&first[0], None).unwrap(), older, "the first write was not its deletion");
    assert_eq!(rotate(&open(&store, &owner), true, false, &Silent).unwrap().deleted, 1);
    assert_eq!(open(&store, &owner).read_chunk(&id).unwrap(), b"text");
}
