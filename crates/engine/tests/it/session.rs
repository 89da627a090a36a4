//! The commit waits for every chunk that somebody claimed, and says why storing failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use seawall_engine::backup::backup;
use seawall_engine::clock::Timestamp;
use seawall_engine::codec::{Effort, Encoder};
use seawall_engine::crypto::{Secret32, random};
use seawall_engine::error::Error;
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::monitor::Silent;
use seawall_engine::repo::{Committed, Repository, Session};
use seawall_engine::store::StoreError;
use seawall_engine::store::simulated::{Fault, Plan, SimulatedStore};
use seawall_engine::units::MIB;

use crate::place::{noise, options, paths};

fn repository() -> (Arc<SimulatedStore>, Unlock, Repository) {
    let (store, unlock) = (Arc::new(SimulatedStore::new()), Unlock::KeyFile(Secret32::random()));
    let repository = Repository::init(store.clone(), &[(unlock.clone(), "test".to_owned())], None).unwrap();
    (store, unlock, repository)
}

fn store(repository: &Repository, session: &Session<'_>, plain: &[u8]) -> Result<(), Error> {
    let mut body = Vec::new();
    Encoder::new(Effort::Fast).encode(plain, None, None, &mut body);
    session.store(BlobKind::Data, &repository.id_key().chunk_id(plain), plain.len(), &body)
}

pub fn record(root: ChunkId) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId(random()),
        time: Timestamp::now(),
        host: "host".into(),
        user: "user".into(),
        paths: Vec::new(),
        tags: Vec::new(),
        root,
        entries: 0,
        files: 0,
        bytes: 0,
        labels: Vec::new(),
        program: "test".into(),
        problems: 0,
        parent: None,
        bytes_read: 0,
        bytes_stored: 0,
        duration_ms: 0,
    }
}

/// Runs `work` while two writer threads make packs durable.
pub fn with_writers<T>(session: &Session<'_>, work: impl FnOnce() -> T) -> T {
    let (end, ended) = crossbeam_channel::bounded(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
        }
        let result = work();
        drop(end);
        result
    })
}

#[test]
fn the_commit_waits_for_a_chunk_that_another_thread_claimed() {
    let (objects, unlock, repository) = repository();
    let session = Session::begin(&repository, 4 * MIB).unwrap();
    let plain = noise(1, 100_000);
    let id = repository.id_key().chunk_id(&plain);
    assert!(session.claim(&id), "nobody has it");
    assert!(!session.claim(&id), "the first one stores it");
    assert!(session.contains(&id), "whoever meets it now relies on that");
    let (begun, stored) = (AtomicBool::new(false), AtomicBool::new(false));
    with_writers(&session, || {
        thread::scope(|scope| {
            scope.spawn(|| {
                while !begun.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                // Why: gives a commit that does not wait the time to show it.
                thread::sleep(Duration::from_millis(100));
                stored.store(true, Ordering::SeqCst);
                store(&repository, &session, &plain).unwrap();
            });
            begun.store(true, Ordering::SeqCst);
            let committed = session.commit(&mut |totals| {
                assert!(stored.load(Ordering::SeqCst), "committed before the claimed chunk was stored");
                assert_eq!(totals.chunks, 1);
                record(id)
            });
            assert!(matches!(committed.unwrap(), Committed::Done(1, _)));
        });
    });
    let fresh = Repository::open(objects, &unlock, None).unwrap();
    assert_eq!(fresh.read_chunk(&id).unwrap(), plain);
}

#[test]
fn a_chunk_that_could_not_be_stored_is_never_committed() {
    // Write 0 is the session's key, write 1 the first pack, write 2 the second, write 3 the segment.
    for (number, chunks) in [(0, 1), (1, 1), (2, 60), (3, 60)] {
        let (objects, unlock, repository) = repository();
        objects.set_plan(Plan::default().write(number, Fault::FailBefore));
        let session = Session::begin(&repository, 4 * MIB).unwrap();
        let committed = with_writers(&session, || {
            for chunk in 0..chunks {
                let plain = noise(chunk, 100_000);
                assert!(session.claim(&repository.id_key().chunk_id(&plain)));
                // Why: once a writer has failed, so does this; the commit must not wait for ever then.
                let _ = store(&repository, &session, &plain);
            }
            session.commit(&mut |_| record(ChunkId([0; 32])))
        });
        let first = session.take_failure().or(committed.err()).expect("the commit must fail");
        assert_eq!(first.code(), "store-io", "write {number}: {first}");
        assert_eq!(Repository::open(objects, &unlock, None).unwrap().log_entries(), 1);
    }
}

#[test]
fn a_full_store_is_the_reason_that_a_backup_gives() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..24 {
        std::fs::write(directory.path().join(format!("{number}")), noise(number, MIB)).unwrap();
    }
    let (objects, unlock, repository) = repository();
    let room = objects.objects().total_bytes() + 9 * MIB as u64;
    objects.set_plan(Plan { capacity_bytes: Some(room), ..Plan::default() });
    let result = backup(&repository, options(paths(directory.path())), &Silent);
    assert!(matches!(result, Err(Error::Store(StoreError::Full { .. }))), "{result:?}");
    objects.set_plan(Plan::default());
    assert_eq!(Repository::open(objects.clone(), &unlock, None).unwrap().snapshots().len(), 0);
    assert_eq!(backup(&repository, options(paths(directory.path())), &Silent).unwrap().files_new, 24);
}
