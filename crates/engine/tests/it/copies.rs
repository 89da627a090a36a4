//! Chunks with several copies of which one is encoded against a base: a copy also leaves when its base does, so nobody
//! gives up that base before the copy that stays was read.

use std::sync::Arc;

use seawall_engine::entry::Content;
use seawall_engine::forget::forget;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::segment::Location;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::monitor::Silent;
use seawall_engine::prune::{MaxUnused, PruneOptions};
use seawall_engine::repo::Repository;
use seawall_engine::store::simulated::{Plan, SimulatedStore};
use seawall_engine::undelete::undelete;
use seawall_engine::units::MIB;

use crate::hand::{craft, extent_of};
use crate::hostile::{Ground, audit, single};
use crate::place::noise;
use crate::prune::{patient, run, thorough};

/// A chunk that is stored against a base which only another snapshot reaches. Its pack holds much else that is needed.
struct Scene {
    ground: Ground,
    base: Vec<u8>,
    plain: Vec<u8>,
    kept: Vec<Vec<u8>>,
    /// The chunk's id.
    id: ChunkId,
    of_base: SnapshotId,
    good: SnapshotId,
    /// A member and an owner that do not know of the chunk yet.
    evil: Repository,
    early: Repository,
}

impl Scene {
    fn new() -> Self {
        Self::beside(None)
    }

    /// The base's pack has this too, which the good snapshot needs.
    fn beside(beside: Option<Vec<u8>>) -> Self {
        let beside_bytes = beside.as_ref().map_or(0, Vec::len) as u64;
        let ground = Ground::new();
        let base = noise(1, 200_000);
        let plain = [&base[..100_000], &noise(2, 100_000)].concat();
        let kept: Vec<Vec<u8>> = (10..13).map(|seed| noise(seed, MIB)).collect();
        let of_base = craft(&ground.owner(), |hand| {
            beside.iter().for_each(|bytes| {
                hand.put(BlobKind::Data, bytes);
            });
            single(hand, "/base", &base)
        });
        let (evil, early) = (ground.member(), ground.owner());
        let key = early.id_key();
        let (base_id, id) = (key.chunk_id(&base), key.chunk_id(&plain));
        let good = craft(&ground.owner(), |hand| {
            assert!(hand.store_as(BlobKind::Data, &id, &plain, Some((&base_id, &base))));
            let keep = Content::Extents(kept.iter().map(|bytes| hand.extent(bytes)).collect());
            let beside = Content::Extents(beside.iter().map(|bytes| hand.extent(bytes)).collect());
            hand.leaf(&[
                ("/beside", beside, beside_bytes),
                file("/good", id, plain.len()),
                ("/keep", keep, 3 * MIB as u64),
            ])
            .id
        });
        let scene = Self { ground, base, plain, kept, id, of_base, good, evil, early };
        let places = scene.places();
        assert!(matches!(places[..], [Location { base: Some(it), .. }] if it == base_id), "the scene: {places:?}");
        scene
    }

    /// Stores another chunk under the chunk's id, plain or against one that the good snapshot needs.
    fn poison(&self, has_base: bool) {
        craft(&self.evil, |hand| {
            let base = &self.kept[0];
            let mut poison = base.clone();
            poison[1000] ^= 1;
            let base_id = self.evil.id_key().chunk_id(base);
            let base = has_base.then_some((&base_id, base.as_slice()));
            assert!(hand.store_as(BlobKind::Data, &self.id, &poison, base));
            single(hand, "/evil", b"nothing much, but more than goes inline")
        });
        assert_eq!(self.places().len(), 2, "the scene");
    }

    /// Where the copies of the chunk are.
    fn places(&self) -> Vec<Location> {
        places(&self.ground, &self.id)
    }

    fn assert_reads(&self, case: &str) {
        self.ground.assert_reads(self.good, &[("/good", &self.plain), ("/keep", &self.kept.concat())], case);
    }
}

fn places(ground: &Ground, chunk: &ChunkId) -> Vec<Location> {
    let mut places = Vec::new();
    ground.owner().each_location(&mut |id, location| places.extend((id == *chunk).then_some(location))).unwrap();
    places
}

fn file(path: &str, chunk: ChunkId, length: usize) -> (&str, Content, u64) {
    (path, Content::Extents(vec![extent_of(chunk, length)]), length as u64)
}

/// Leaves packs alone of which little is not needed, as one does without options.
fn usual() -> PruneOptions {
    PruneOptions { max_unused: MaxUnused::Share(0.05), ..thorough() }
}

/// No pack of the good copy leaves, only its base does.
#[test]
fn a_base_does_not_leave_for_a_poisoned_copy_of_what_needs_it() {
    for (has_base, rebase, batch_reads) in
        [(false, true, 10), (true, true, 10), (false, false, 10), (true, false, 10), (false, true, 1), (true, true, 1)]
    {
        let case = format!("poison with base: {has_base}, rebase: {rebase}, at once: {batch_reads}");
        let scene = Scene::new();
        let owner = scene.ground.owner();
        forget(&owner, &[scene.of_base], "test").unwrap();
        scene.poison(has_base);
        let options = PruneOptions { rebase, batch_reads, ..usual() };
        let report = run(&owner, &options).unwrap();
        scene.assert_reads(&case);
        assert_eq!(report.problems, 1, "{case}: it is found: {report:?}");
        for round in 0..3 {
            scene.assert_reads(&format!("{case}, {round}"));
            run(&owner, &options).unwrap();
        }
        let last = run(&owner, &options).unwrap();
        assert_eq!((last.condemned_packs, last.problems), (0, 0), "{case}: it comes to an end");
    }
}

/// A prune stored the chunk anew and was killed; then the disk lost what it had stored.
#[test]
fn a_base_does_not_leave_for_a_copy_that_rotted_since_a_killed_prune() {
    let scene = Scene::new();
    forget(&scene.ground.owner(), &[scene.of_base], "test").unwrap();
    let base_id = scene.early.id_key().chunk_id(&scene.base);
    let (mut write, mut played) = (0, 0);
    loop {
        let store = Arc::new(SimulatedStore::over(scene.ground.store.copy(), Plan::crash_at_write(write)));
        let killed = run(&Repository::open(store.clone(), &scene.ground.owner, None).unwrap(), &usual()).is_err();
        store.reboot();
        let ground = scene.ground.over(store.objects().copy());
        let alone = places(&ground, &scene.id).into_iter().find(|place| place.base.is_none());
        if let Some(anew) = alone.filter(|_| killed && !places(&ground, &base_id).is_empty()) {
            ground.flip(&anew);
            let state = ground.owner().state();
            let is_condemned = |place: &Location| state.standing.condemned.contains_key(&place.pack);
            if !places(&ground, &base_id).iter().all(is_condemned) {
                played += 1;
                let case = format!("killed before write {write}");
                let report = run(&ground.owner(), &usual()).unwrap();
                ground.assert_reads(scene.good, &[("/good", &scene.plain)], &case);
                assert_eq!(report.problems, 1, "{case}: {report:?}");
                run(&ground.owner(), &usual()).unwrap();
                ground.assert_reads(scene.good, &[("/good", &scene.plain)], &format!("{case}, once more"));
            }
        }
        if !killed {
            break;
        }
        write += 1;
    }
    assert!(played > 0, "a prune publishes what it stores anew before it condemns");
}

/// Both copies are called damaged, one of them in error. What may be mended has its base still.
#[test]
fn a_copy_that_is_called_damaged_keeps_its_base_where_no_other_is_sound() {
    for has_base in [false, true] {
        let scene = Scene::new();
        let owner = scene.ground.owner();
        forget(&owner, &[scene.of_base], "test").unwrap();
        scene.poison(has_base);
        let damaged: Vec<_> = scene.places().iter().map(|place| (place.pack, scene.id)).collect();
        owner.append(&mut |_| Ok(audit(&[], &damaged, &[]))).unwrap();
        for round in 0..2 {
            run(&owner, &usual()).unwrap();
            scene.assert_reads(&format!("poison with base: {has_base}, prune {round}"));
        }
    }
}

/// Chunk and base are condemned; then a member stores its own copy, which nobody has condemned. With the good copy its base
/// comes back.
#[test]
fn an_undelete_brings_back_the_bases_of_all_copies() {
    for has_base in [false, true] {
        let scene = Scene::new();
        let owner = scene.ground.owner();
        // What the poison is stored against stays.
        craft(&owner, |hand| single(hand, "/kept", &scene.kept[0]));
        forget(&owner, &[scene.of_base, scene.good], "test").unwrap();
        run(&owner, &PruneOptions { rebase: false, ..patient() }).unwrap();
        let base_id = owner.id_key().chunk_id(&scene.base);
        let is_condemned = |id: &ChunkId| {
            owner.refresh().unwrap();
            let condemned = &owner.state().standing.condemned;
            places(&scene.ground, id).iter().any(|place| place.base.is_none() && condemned.contains_key(&place.pack))
        };
        assert!(is_condemned(&base_id), "the scene");
        scene.poison(has_base);
        undelete(&owner, &[scene.good], &Silent).unwrap();
        for round in 0..3 {
            run(&owner, &usual()).unwrap();
            scene.assert_reads(&format!("poison with base: {has_base}, prune {round}"));
        }
    }
}

/// Of two copies with bases the one stays whose base a snapshot reaches, in whatever order segments list them.
#[test]
fn merging_segments_does_not_change_which_copy_stays() {
    let scene = Scene::beside(Some(noise(4, 50_000)));
    let near = [&scene.plain[..190_000], &noise(3, 10_000)].concat();
    craft(&scene.early, |hand| {
        let near_id = hand.put(BlobKind::Data, &near);
        assert!(hand.store_as(BlobKind::Data, &scene.id, &scene.plain, Some((&near_id, &near))));
        hand.leaf(&[file("/near", near_id, near.len())]).id
    });
    let owner = scene.ground.owner();
    forget(&owner, &[scene.of_base], "test").unwrap();
    for seed in 20..30 {
        craft(&scene.ground.owner(), |hand| single(hand, "/more", &noise(seed, 1_000)));
    }
    let options = PruneOptions { max_unused: MaxUnused::Bytes(u64::MAX), rebase: false, ..thorough() };
    let planned = || run(&owner, &PruneOptions { dry_run: true, ..options.clone() }).unwrap().planned.live_bytes;
    let before = planned();
    for round in 0..2 {
        let report = run(&owner, &options).unwrap();
        assert_eq!(report.segments_after < report.segments_before, round == 0, "the scene: {report:?}");
        assert_eq!(planned(), before, "after merge {round}");
    }
    assert!(scene.places().iter().all(|place| place.base.is_some()) && scene.places().len() == 2, "the scene");
    scene.assert_reads("after segments were merged");
}
