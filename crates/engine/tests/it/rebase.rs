//! Bases that are kept for their dependants alone go, where that saves enough; whatever happens meanwhile, nothing is lost.

use std::fs;
use std::sync::Arc;

use seawall_engine::error::Error;
use seawall_engine::forget::forget;
use seawall_engine::ids::SnapshotId;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::{Planned, PruneOptions, prune};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;

use crate::beside::{At, Between};
use crate::place::noise;
use crate::prune::{Scene, crash_everywhere, patient, run, thorough};

/// Files, each of one chunk, and bytes of all of them. Half of each is that of every version, so a difference takes half of it.
const FILES: u64 = 10;
const BYTES: usize = 600_000;

fn write(scene: &Scene, number: u64) {
    for file in 0..FILES {
        let half = |seed| noise(seed + 1_000 * file, BYTES / FILES as usize / 2);
        scene.write(&format!("data {file}"), &[half(1), half(100 + number)].concat());
    }
}

/// Files in so many versions, each stored against the first, whose snapshot is forgotten.
fn star(dependants: u64) -> (Arc<MemoryStore>, Scene, SnapshotId) {
    let (store, mut scene) = Scene::new();
    scene.write("other", &noise(7, 20_000));
    let ids: Vec<SnapshotId> = (0..=dependants)
        .map(|number| {
            write(&scene, number);
            scene.backup()
        })
        .collect();
    let owner = scene.open();
    let all = BYTES as u64 * (2 + dependants) / 2;
    assert!((all..all * 11 / 10).contains(&store.total_bytes()), "{} for {dependants}", store.total_bytes());
    forget(&owner, &ids[..1], "test").unwrap();
    (store, scene, ids[0])
}

/// Bytes of blobs that snapshots need, and of all.
fn bytes(scene: &Scene) -> (u64, u64) {
    let planned = run(&scene.open(), &PruneOptions { dry_run: true, rebase: false, ..thorough() }).unwrap().planned;
    (planned.live_bytes, planned.bytes)
}

/// What a star takes afterwards, in halves of a version, and how many chunks were stored anew.
#[test]
fn a_base_goes_where_few_depend_on_it() {
    for (dependants, halves, is_rebased) in [(1, 2, true), (2, 3, true), (4, 6, false), (6, 8, false)] {
        let (_, scene, _) = star(dependants);
        let dry = run(&scene.open(), &PruneOptions { dry_run: true, ..thorough() }).unwrap();
        let expected = if is_rebased { FILES * dependants } else { 0 };
        assert_eq!(dry.planned.rebased_chunks, expected, "{dependants}: {dry:?}");
        let before = bytes(&scene);
        let report = run(&scene.open(), &thorough()).unwrap();
        assert_eq!(report.rebased_chunks, dry.planned.rebased_chunks, "{dependants}");
        assert_eq!(report.rebased_bytes > 0, is_rebased);
        let (needed, all) = bytes(&scene);
        assert_eq!(needed, all, "nothing else is left");
        let expected = halves * BYTES as u64 / 2;
        assert!((expected..expected * 11 / 10).contains(&all), "{dependants}: {before:?} to {all}");
        assert_eq!(scene.check() as u64, dependants);
        let again = run(&scene.open(), &thorough()).unwrap();
        assert_eq!((again.rebased_chunks, again.condemned_packs, again.planned.rebased_chunks), (0, 0, 0));
    }
}

#[test]
fn a_base_stays_where_that_was_asked_or_nothing_may_be_stored_again() {
    for options in [
        PruneOptions { rebase: false, ..thorough() },
        PruneOptions { max_rewrite_bytes: Some(0), ..thorough() },
        PruneOptions { max_rewrite_bytes: Some(50_000), ..thorough() },
    ] {
        let (_, scene, _) = star(1);
        let report = run(&scene.open(), &options).unwrap();
        assert_eq!(report.rebased_chunks, 0);
        let (needed, _) = bytes(&scene);
        assert!(needed > BYTES as u64 * 3 / 2, "{needed}");
        scene.check();
    }
}

/// A snapshot that reaches the base is a reason to keep it, and one that was forgotten can come back with it.
#[test]
fn a_base_that_a_snapshot_reaches_stays_and_a_forgotten_one_comes_back() {
    let (_, mut scene, first) = star(1);
    run(&scene.open(), &patient()).unwrap();
    seawall_engine::undelete::undelete(&scene.open(), &[first], &Silent).unwrap();
    assert_eq!(scene.check(), 2);
    let report = run(&scene.open(), &thorough()).unwrap();
    assert_eq!(report.rebased_chunks, 0, "the base is needed again");
    assert_eq!(scene.check(), 2);
    write(&scene, 9);
    scene.backup();
    assert_eq!(scene.check(), 3);
}

/// What was stored anew is the base of later versions.
#[test]
fn a_later_version_is_stored_against_what_was_stored_anew() {
    let (store, mut scene, _) = star(1);
    run(&scene.open(), &thorough()).unwrap();
    let before = store.total_bytes();
    write(&scene, 2);
    scene.backup();
    let added = store.total_bytes() - before;
    assert!(added < BYTES as u64 * 6 / 10, "{added}");
    assert_eq!(scene.check(), 2);
}

#[test]
fn a_crash_at_any_write_while_chunks_are_stored_anew_loses_nothing() {
    for dependants in [1, 2] {
        let (store, scene, _) = star(dependants);
        crash_everywhere(&scene, &store, &|repository| run(repository, &thorough()).map(drop), &|here| {
            run(&here.open(), &thorough()).unwrap();
            run(&here.open(), &thorough()).unwrap();
            let (needed, all) = bytes(here);
            let expected = (1 + dependants) * BYTES as u64 / 2;
            assert!(needed == all && all < expected * 11 / 10, "{needed} of {all}");
        });
    }
}

/// A damaged base or dependant: what can't be read is not stored anew, and keeps its base.
#[test]
fn what_can_not_be_read_is_left_as_it_is() {
    let (store, scene, _) = star(1);
    let mut packs = Vec::new();
    store.list("pack/", &mut |object| packs.push(object.name.to_string())).unwrap();
    packs.sort();
    let mut damaged = 0;
    for pack in &packs {
        let whole = store.get(pack, None).unwrap();
        if whole.len() < BYTES / 2 {
            continue;
        }
        let copy = store.copy();
        let mut bytes = whole.to_vec();
        bytes[200_000] ^= 1;
        copy.delete(pack).unwrap();
        copy.create(pack, &bytes).unwrap();
        damaged += 1;
        let here = Scene {
            directory: tempfile::tempdir().unwrap(),
            unlock: scene.unlock.clone(),
            store: Arc::new(copy),
            known: scene.known.clone(),
        };
        fs::create_dir(here.source()).unwrap();
        let options = PruneOptions { max_unused: seawall_engine::prune::MaxUnused::Bytes(u64::MAX), ..thorough() };
        assert_eq!(run(&here.open(), &options).unwrap().rebased_chunks, FILES - 1, "{pack}");
        let (needed, _) = self::bytes(&here);
        let expected = BYTES as u64 + BYTES as u64 / FILES / 2;
        assert!((expected..expected * 11 / 10).contains(&needed), "{needed}");
    }
    assert!(damaged >= 2, "{packs:?}");
}

/// A star of one dependant, and a snapshot that needs nothing of it; and that dependant's.
fn ending() -> (Arc<MemoryStore>, Scene, SnapshotId) {
    let (store, mut scene, _) = star(1);
    let dependant = scene.open().snapshots()[0].record.id;
    scene.write("other", &noise(8, 20_000));
    for file in 0..FILES {
        fs::remove_file(scene.source().join(format!("data {file}"))).unwrap();
    }
    scene.backup();
    (store, scene, dependant)
}

/// Between the plan of a prune and its work everything of the star is forgotten, and another prune deletes it.
#[test]
fn a_prune_goes_on_where_another_one_was_faster() {
    let (_, scene, dependant) = ending();
    let (slow, fast) = (scene.open(), scene.open());
    let mut planned = None;
    let mut meanwhile = |plan: &Planned| {
        planned = Some(plan.rebased_chunks);
        forget(&fast, &[dependant], "test").unwrap();
        assert!(run(&fast, &thorough()).unwrap().deleted_packs > 0);
    };
    let report = prune(&slow, &thorough(), &mut meanwhile, &Silent).unwrap();
    assert_eq!((planned, report.rebased_chunks, report.problems), (Some(FILES), 0, 0), "{report:?}");
    assert_eq!(scene.check(), 1);
    let (needed, all) = bytes(&scene);
    assert!(needed == all && all < 30_000, "{needed} of {all}");
}

/// The same before each call of the prune to the store. It ends well, or is told that the other one fenced it.
#[test]
fn a_prune_beside_a_forget_and_a_faster_prune_ends_well() {
    for operation in 0.. {
        let (store, mut scene, dependant) = ending();
        let fast = scene.open();
        let job = Box::new(move || {
            forget(&fast, &[dependant], "test").unwrap();
            run(&fast, &thorough()).unwrap();
        });
        let between = Arc::new(Between::new(store, At::Operation(operation), job));
        let slow = Repository::open(between.clone(), &scene.unlock, None).unwrap();
        match run(&slow, &thorough()) {
            Ok(report) => assert_eq!(report.problems, 0, "before {operation}: {report:?}"),
            Err(Error::Refused(_)) => {}
            Err(error) => panic!("before {operation}: {error}"),
        }
        if !between.is_over() {
            assert!(operation > 50, "{operation}");
            return;
        }
        scene.known.remove(&dependant);
        assert_eq!(scene.check(), 1, "before {operation}");
    }
}
