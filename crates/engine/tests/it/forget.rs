//! Forgetting and holding through the log, by each role; and what would stay stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use seawall_engine::backup::{Source, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::Content;
use seawall_engine::error::Error;
use seawall_engine::forget::{forget, hold, store_times, weigh};
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::monitor::Silent;
use seawall_engine::prune::PruneOptions;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;

use crate::hand::{craft, extent_of};
use crate::hostile::{Ground, single};
use crate::place::{noise, options};
use crate::prune::{Change, Scene, run, thorough};

fn snapshot(repository: &Repository, text: &str) -> SnapshotId {
    let source = Source::Stream {
        name: b"file".to_vec(),
        reader: Box::new(std::io::Cursor::new(text.to_owned())),
        finish: Box::new(|| Ok(())),
    };
    backup(repository, options(source), &Silent).unwrap().snapshot.unwrap().id
}

fn repository() -> (Arc<MemoryStore>, Unlock, Repository) {
    let (store, unlock) = (Arc::new(MemoryStore::new()), Unlock::KeyFile(Secret32::random()));
    let repository = Repository::init(store.clone(), &[(unlock.clone(), String::new())], None).unwrap();
    (store, unlock, repository)
}

fn ids(repository: &Repository) -> Vec<SnapshotId> {
    repository.snapshots().iter().map(|snapshot| snapshot.record.id).collect()
}

#[test]
fn what_is_forgotten_is_gone_for_everybody_and_what_is_held_stays() {
    let (store, unlock, repository) = repository();
    let all: Vec<_> = ["a", "b", "c"].iter().map(|text| snapshot(&repository, text)).collect();
    hold(&repository, &all[1..2], "audit 7", false).unwrap();
    let refused = forget(&repository, &all[..2], "test").unwrap_err();
    assert!(matches!(&refused, Error::Held(text) if text.contains("audit 7")), "{refused}");
    assert_eq!(ids(&repository), all, "all or none");
    assert_eq!(forget(&repository, &all[..1], "keep-last 2").unwrap(), [5]);
    let other = Repository::open(store, &unlock, None).unwrap();
    assert_eq!(ids(&other), all[1..]);
    assert_eq!(other.state().forgotten[&all[0]].reason, "keep-last 2");
    assert!(matches!(hold(&other, &all[1..2], "other", true), Err(Error::NotFound(_))));
    hold(&other, &all[1..2], "audit 7", true).unwrap();
    forget(&other, &all[1..2], "").unwrap();
    assert!(matches!(forget(&repository, &all[1..2], ""), Err(Error::NotFound(_))), "somebody was faster");
    assert_eq!(ids(&other), all[2..]);
}

#[test]
fn the_times_are_the_stores() {
    let (_, _, repository) = repository();
    let before = Timestamp::now();
    for text in ["a", "b", "c", "d"] {
        snapshot(&repository, text);
    }
    let times = store_times(&repository, &[1, 2, 4]).unwrap();
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
    assert!(times.values().all(|time| time.seconds >= before.seconds - 1), "{times:?}");
    assert!(store_times(&repository, &[9]).is_err());
}

#[test]
fn what_stays_is_weighed_as_a_prune_leaves_it() {
    let (store, mut scene) = Scene::new();
    for round in 0..6 {
        scene.change(0, Change::Version(0, round));
        scene.change(1, Change::Version(1, round / 2));
        scene.change(2, Change::Noise(u64::from(round / 3)));
        scene.change(3, Change::Sparse(u64::from(round % 2)));
        scene.backup();
    }
    let repository = scene.open();
    let all = ids(&repository);
    // What more snapshots need is never less, and nothing is weighed for none.
    let weight = |gone: &BTreeSet<SnapshotId>| weigh(&repository, gone, &Silent).unwrap();
    let nothing = weight(&all.iter().copied().collect());
    assert_eq!((nothing.snapshots, nothing.stored_bytes, nothing.chunks), (0, 0, 0));
    let mut gone = BTreeSet::new();
    let mut before = weight(&gone);
    assert_eq!((before.snapshots, before.missing), (6, 0));
    for id in [all[3], all[0], all[4], all[1], all[2]] {
        gone.insert(id);
        let after = weight(&gone);
        assert!(after.stored_bytes <= before.stored_bytes && after.chunks <= before.chunks, "{before:?} {after:?}");
        assert_eq!(scene.open().snapshots().len(), 6, "weighing changes nothing");
        before = after;
    }
    assert!(before.base_chunks > 0 && before.base_bytes > 0, "{before:?}");
    for id in [all[3], all[0], all[4], all[1], all[2]] {
        let weight = weigh(&repository, &BTreeSet::from([id]), &Silent).unwrap();
        forget(&repository, &[id], "test").unwrap();
        let dry = run(&repository, &PruneOptions { dry_run: true, ..thorough() }).unwrap();
        assert_eq!(dry.planned.live_bytes, weight.stored_bytes, "{weight:?}");
        // Why: what is stored anew without its base would take another size.
        run(&repository, &PruneOptions { rebase: false, ..thorough() }).unwrap();
        let left = run(&repository, &PruneOptions { dry_run: true, ..thorough() }).unwrap();
        assert_eq!((left.planned.bytes, left.planned.live_bytes), (weight.stored_bytes, weight.stored_bytes));
        assert!(store.total_bytes() > weight.stored_bytes);
        assert_eq!(weigh(&repository, &BTreeSet::new(), &Silent).unwrap(), weight);
    }
    scene.check();
}

/// A chunk that a live snapshot needs is damage, whatever else was forgotten; of a forgotten one it is told.
#[test]
fn what_a_live_snapshot_lacks_was_not_forgotten() {
    let ground = Ground::new();
    let plain = noise(1, 100_000);
    let other = craft(&ground.owner(), |hand| single(hand, "/other", &plain));
    let missing = ChunkId([7; 32]);
    craft(&ground.owner(), |hand| hand.leaf(&[("/lost", Content::Extents(vec![extent_of(missing, 10)]), 10)]).id);
    let roots: Vec<ChunkId> = ground.owner().snapshots().iter().map(|snapshot| snapshot.record.root).collect();
    let (early, stale, owner) = (ground.owner(), ground.owner(), ground.owner());
    forget(&owner, &[other], "too old").unwrap();
    run(&owner, &PruneOptions { despite_missing: true, ..thorough() }).unwrap();
    let chunk = owner.id_key().chunk_id(&plain);
    for reader in [&early, &owner] {
        // Nothing is said before anything is read.
        assert!(matches!(reader.read_chunk(&chunk), Err(Error::Damaged(_))));
        assert_eq!(reader.tree(&roots[1]).entries().filter_map(Result::ok).count(), 1);
        assert!(matches!(reader.read_chunk(&missing), Err(Error::Damaged(_))));
    }
    // One that was opened before, and one whose log has the snapshot no more, as after a refresh between two of a list.
    for reader in [stale, ground.owner()] {
        let told = reader.tree(&roots[0]).entries().find_map(Result::err);
        assert!(matches!(&told, Some(Error::NotFound(why)) if why.contains("too old")), "{told:?}");
    }
}
