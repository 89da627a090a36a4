//! Repair: packs that only parity keeps readable are stored anew; what is lost for good is listed, and snapshots without it
//! take the place of those that lost it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use seawall_engine::backup::backup;
use seawall_engine::entry::TreeKey;
use seawall_engine::error::Error;
use seawall_engine::forget::{forget, hold};
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::format::parity::Parity;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::SnapshotId;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::{MaxUnused, PruneOptions, prune};
use seawall_engine::repair::{
    Dropped, LOST_PATHS, Loss, REPAIRED_FROM, REPAIRED_PLACE, drop_lost, losses, replace, was_forgotten_for_loss,
};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Fault, Plan, SimulatedStore};
use seawall_engine::verify::Read;

use crate::beside::{At, Between};
use crate::damage::check;
use crate::failing::Failing;
use crate::hand::craft_like;
use crate::parity::{Files, Scene, hit, run};
use crate::place::files_of;

/// Every path that is lost, by snapshot; `None` for a part of a tree.
fn lost(repository: &Repository) -> (BTreeMap<SnapshotId, BTreeSet<Option<PathBuf>>>, u64) {
    let mut lost: BTreeMap<SnapshotId, BTreeSet<Option<PathBuf>>> = BTreeMap::new();
    let count = losses(repository, &Silent, &mut |snapshot, loss| {
        let path = match loss {
            Loss::File(key) | Loss::Table(key) => Some(key.to_path()),
            Loss::Part(..) => None,
        };
        let is_part = path.is_none();
        assert!(lost.entry(snapshot.record.id).or_default().insert(path) || is_part, "told once");
    });
    (lost, count.unwrap())
}

#[test]
fn damaged_packs_with_parity_are_stored_anew() {
    let scene = Scene::new(Parity::of_share(0.02));
    for pack in scene.packs() {
        let store = scene.copy();
        hit(&store, &pack, 100, run(&store, &pack));
        let owner = scene.open(&store);
        assert_eq!(check(&owner, Read::All).mended.len(), 1);
        let report = replace(&owner, &[pack], &Silent).unwrap();
        assert_eq!((report.packs, report.problems), (1, 0), "{pack}");
        assert!(report.chunks > 0 && report.bytes_stored > 0, "{pack}");

        let after = check(&scene.open(&store), Read::All);
        assert_eq!((after.damage.len(), after.mended.len(), after.harmless.len()), (0, 0, 1), "{pack}");
        assert_eq!(replace(&owner, &[], &Silent).unwrap().packs, 0);

        // Nothing needs the old one any more, and a prune takes it away.
        let without = Arc::new(store.copy());
        without.delete(&pack.object()).unwrap();
        scene.assert_restores("without it", &scene.open(&without));
        let options = PruneOptions { window: std::time::Duration::ZERO, ..PruneOptions::default() };
        prune(&owner, &options, &mut |_| {}, &Silent).unwrap();
        assert!(!store.names().contains(&pack.object()), "{pack}");
        scene.assert_restores("pruned", &scene.open(&store));
        let clean = check(&scene.open(&store), Read::All);
        assert_eq!((clean.damage.len(), clean.harmless.len()), (0, 0), "{pack}");
    }
}

/// A pack of which something can't be read stays in use as it is: nothing calls it lost.
#[test]
fn a_pack_that_can_not_be_read_stays() {
    let scene = Scene::new(None);
    let pack = scene.data_pack();
    let store = scene.copy();
    hit(&store, &pack, 150, 1);
    let owner = scene.open(&store);
    let report = replace(&owner, &[pack], &Silent).unwrap();
    assert_eq!((report.packs, report.problems), (0, 1));
    assert!(owner.state().standing.damage.is_empty());
}

/// A crash at every write of the replacement: snapshots restore at any time, and the next run ends the work.
#[test]
fn a_replacement_may_stop_anywhere() {
    let scene = Scene::new(Parity::of_share(0.02));
    let pack = scene.data_pack();
    for write in 0.. {
        let objects = scene.copy();
        hit(&objects, &pack, 100, run(&objects, &pack));
        let store = Arc::new(SimulatedStore::over(objects.copy(), Plan::default()));
        let owner = Repository::open(store.clone(), &scene.owner, None).unwrap();
        store.set_plan(Plan::crash_at_write(write));
        let outcome = replace(&owner, &[pack], &Silent);
        let crashed = store.crashed();
        let left = Arc::new(store.objects().copy());
        scene.assert_restores(&format!("write {write}"), &scene.open(&left));
        assert_eq!(check(&scene.open(&left), Read::All).damage, [], "write {write}");
        if !crashed {
            assert_eq!(outcome.unwrap().packs, 1);
            assert!(write >= 4, "key, pack, segment and two entries: {write}");
            return;
        }
        assert!(outcome.is_err());
        assert_eq!(replace(&scene.open(&left), &[pack], &Silent).unwrap().packs, 1, "write {write}");
        left.delete(&pack.object()).unwrap();
        scene.assert_restores("without it", &scene.open(&left));
    }
}

/// Another operation, whole, before each write of the replacement: live snapshots restore, and where the old pack is called
/// lost, they do so without it.
#[test]
fn a_replacement_beside_others() {
    let scene = Scene::new(Parity::of_share(0.02));
    let pack = scene.data_pack();
    for verb in ["prune", "rewrite", "backup", "forget", "replace"] {
        for write in 0.. {
            let case = format!("{verb} before write {write}");
            let store = scene.copy();
            hit(&store, &pack, 100, run(&store, &pack));
            let (other, options) = (scene.open(&store), scene.options());
            let (first, second) = (scene.snapshots[0].0, scene.snapshots[1].0);
            let job = move || match verb {
                "backup" => drop(backup(&other, options, &Silent).unwrap()),
                "forget" => drop(forget(&other, &[first], "test").unwrap()),
                "replace" => drop(replace(&other, &[pack], &Silent).unwrap()),
                _ => {
                    let window = std::time::Duration::ZERO;
                    let max_unused = if verb == "prune" { MaxUnused::Share(0.5) } else { MaxUnused::Bytes(0) };
                    forget(&other, &[second], "test").unwrap();
                    let options = PruneOptions { window, orphans: window, max_unused, ..PruneOptions::default() };
                    prune(&other, &options, &mut |_| {}, &Silent).unwrap();
                }
            };
            let between = Arc::new(Between::new(store.clone(), At::Write(write), Box::new(job)));
            let owner = Repository::open(between.clone(), &scene.owner, None).unwrap();
            match replace(&owner, &[pack], &Silent) {
                Ok(_) | Err(Error::Refused(_)) => {}
                Err(error) => panic!("{case}: {error}"),
            }
            let after = scene.open(&store);
            assert_eq!(check(&after, Read::All).damage, [], "{case}");
            if after.state().standing.damage.contains_key(&pack) {
                store.delete(&pack.object()).unwrap();
            }
            for snapshot in after.snapshots() {
                let known = scene.snapshots.iter().find(|(id, ..)| *id == snapshot.record.id);
                let Some((_, root, files)) = known else { continue };
                assert!(files_of(&scene.open(&store), root) == *files, "{case}");
            }
            if !between.is_over() {
                assert!(write >= 5, "{case}");
                break;
            }
        }
    }
}

/// What a snapshot has that can still be read.
fn readable(repository: &Repository, record: &SnapshotRecord, files: &Files) -> Files {
    let mut readable = Files::new();
    for path in files.keys() {
        let key = TreeKey::from_path(path).unwrap();
        let Ok(Some(entry)) = repository.tree(&record.root).get(&key) else { continue };
        let seawall_engine::entry::Kind::File(content) = &entry.kind else { continue };
        let whole = repository.extents(content).all(|extent| match extent {
            Ok(seawall_engine::entry::Extent::Chunk { id, .. }) => repository.read_chunk(&id).is_ok(),
            Ok(_) => true,
            Err(_) => false,
        });
        if whole {
            readable.insert(path.clone(), files[path].clone());
        }
    }
    readable
}

#[test]
fn what_is_lost_is_listed_and_dropped() {
    let scene = Scene::new(None);
    let mut hit_snapshots = 0;
    for pack in scene.packs() {
        let store = scene.copy();
        store.delete(&pack.object()).unwrap();
        let owner = scene.open(&store);
        check(&owner, Read::Nothing);
        let (listed, count) = lost(&owner);
        assert!(count > 0, "{pack}");
        let records: BTreeMap<SnapshotId, (SnapshotRecord, u64)> =
            owner.snapshots().into_iter().map(|it| (it.record.id, (it.record, it.number))).collect();
        let left: BTreeMap<SnapshotId, Files> =
            scene.snapshots.iter().map(|(id, _, files)| (*id, readable(&owner, &records[id].0, files))).collect();
        for (id, _, files) in &scene.snapshots {
            let lacks: BTreeSet<Option<PathBuf>> =
                files.keys().filter(|path| !left[id].contains_key(*path)).cloned().map(Some).collect();
            let told = listed.get(id).cloned().unwrap_or_default();
            assert!(told.contains(&None) || told == lacks, "{pack}: {id}: {told:?} {lacks:?}");
        }

        let dropped = drop_lost(&owner, "test", &Silent).unwrap();
        assert_eq!(dropped.iter().map(|it| it.old).collect::<BTreeSet<_>>(), listed.keys().copied().collect());
        assert_eq!(dropped.iter().map(|it| it.lost).sum::<u64>(), count, "{pack}");
        hit_snapshots += dropped.len();
        let after = scene.open(&store);
        assert_eq!(lost(&after), (BTreeMap::new(), 0), "{pack}");
        assert_eq!(check(&after, Read::All).damage, [], "{pack}");
        for Dropped { old, new, lost } in dropped {
            assert!(after.state().snapshot(&old).is_none() && after.state().forgotten.contains_key(&old));
            let Some(new) = new else {
                assert!(left[&old].is_empty(), "{pack}: not everything was lost");
                continue;
            };
            let snapshot = after.state().snapshot(&new).unwrap().clone();
            assert!(files_of(&after, &snapshot.record.root) == left[&old], "{pack}: {old}");
            assert_eq!(snapshot.record.files, left[&old].len() as u64);
            let (record, number) = &records[&old];
            assert_eq!(snapshot.record.time, record.time);
            let labels: BTreeMap<String, String> = snapshot.record.labels.into_iter().collect();
            assert_eq!(labels[REPAIRED_FROM], old.to_string());
            assert_eq!(labels[REPAIRED_PLACE], number.to_string());
            assert_eq!(labels[LOST_PATHS], lost.to_string());
            assert_eq!(snapshot.record.problems, record.problems + lost, "{pack}: what it lacks is a problem of it");
        }
    }
    assert!(hit_snapshots >= 4, "{hit_snapshots}");
}

/// A checkpoint that lacks something is not whole any more, and says why; one that was never whole, or is none, says what it
/// said; and the FORGET of the old one is told from one that somebody wanted.
#[test]
fn what_is_left_of_a_checkpoint_is_incomplete() {
    let scene = Scene::new(None);
    let store = scene.copy();
    let owner = scene.open(&store);
    let live = owner.snapshots().pop().unwrap();
    let state = |value: &str| ("checkpoint.state".to_owned(), value.to_owned());
    let old = [
        vec![state("complete"), ("checkpoint.step".to_owned(), "7".to_owned())],
        vec![state("incomplete"), ("checkpoint.reason".to_owned(), "forced".to_owned())],
        vec![("loss".to_owned(), "1".to_owned())],
    ]
    .map(|labels| craft_like(&owner, &SnapshotRecord { labels, ..live.record.clone() }, |_| live.record.root));
    forget(&owner, &[live.record.id], "not wanted").unwrap();
    store.delete(&scene.data_pack().object()).unwrap();
    check(&owner, Read::Nothing);
    let dropped = drop_lost(&owner, "test", &Silent).unwrap();
    let after = scene.open(&store).state();
    for (old, is_checkpoint) in old.into_iter().zip([true, true, false]) {
        let Dropped { new, lost, .. } = dropped.iter().find(|it| it.old == old).expect("it lost something");
        assert!(*lost > 0);
        let labels = &after.snapshot(&new.expect("something is left")).unwrap().record.labels;
        let told =
            |name: &str| labels.iter().filter(|(label, _)| label == name).map(|(_, value)| value).collect::<Vec<_>>();
        let reason = format!("paths that the repository lost, left out by a repair: {lost}");
        let expected =
            if is_checkpoint { ["incomplete", &reason].map(|it| vec![it.to_owned()]) } else { [vec![], vec![]] };
        for (name, expected) in ["checkpoint.state", "checkpoint.reason"].into_iter().zip(expected) {
            assert_eq!(told(name), expected.iter().collect::<Vec<_>>(), "{labels:?}");
        }
        assert!(was_forgotten_for_loss(&after.forgotten[&old]));
    }
    assert!(!was_forgotten_for_loss(&after.forgotten[&live.record.id]));
}

/// What the sources still have is not lost: the next backup stores it again, and nothing is left to drop.
#[test]
fn nothing_is_lost_after_healing() {
    let scene = Scene::new(None);
    let data = scene.data_pack();
    let store = scene.copy();
    store.delete(&data.object()).unwrap();
    let owner = scene.open(&store);
    check(&owner, Read::Nothing);
    assert!(lost(&owner).1 > 0);
    // The first snapshot's table and one small file are no more in the source.
    backup(&owner, scene.options(), &Silent).unwrap();
    let (listed, _) = lost(&owner);
    assert!(!listed.contains_key(&scene.snapshots[1].0), "{listed:?}");
}

#[test]
fn a_held_snapshot_is_left_alone_and_with_it_all_others() {
    let scene = Scene::new(None);
    let store = scene.copy();
    let owner = scene.open(&store);
    hold(&owner, &[scene.snapshots[1].0], "case", false).unwrap();
    store.delete(&scene.data_pack().object()).unwrap();
    check(&owner, Read::Nothing);
    let entries = owner.log_entries();
    assert!(matches!(drop_lost(&owner, "test", &Silent), Err(Error::Held(_))));
    assert_eq!(owner.log_entries(), entries);
    hold(&owner, &[scene.snapshots[1].0], "case", true).unwrap();
    assert!(!drop_lost(&owner, "test", &Silent).unwrap().is_empty());
}

#[test]
fn only_an_owner_repairs() {
    let scene = Scene::new(None);
    let store: Arc<MemoryStore> = scene.copy();
    let owner = scene.open(&store);
    for role in [Role::Reader, Role::Member] {
        let unlock = Unlock::KeyFile(seawall_engine::crypto::Secret32::random());
        seawall_engine::keys::add(&owner, role, &unlock.lock().unwrap(), role.name()).unwrap();
        let other = Repository::open(store.clone(), &unlock, None).unwrap();
        assert!(matches!(drop_lost(&other, "test", &Silent), Err(Error::NotAllowed(_))));
        assert!(matches!(replace(&other, &scene.packs(), &Silent), Err(Error::NotAllowed(_))));
        assert_eq!(losses(&other, &Silent, &mut |_, _| {}).is_ok(), role == Role::Reader);
    }
}

/// A store that does not answer drops nothing.
#[test]
fn a_store_that_fails_is_no_loss() {
    let scene = Scene::new(None);
    for pack in scene.packs() {
        let objects = scene.copy();
        objects.delete(&pack.object()).unwrap();
        check(&scene.open(&objects), Read::Nothing);
        let open = || {
            let store = Arc::new(SimulatedStore::over(objects.copy(), Plan::default()));
            let owner = Repository::open(store.clone(), &scene.owner, None).unwrap();
            (store, owner)
        };
        let (store, owner) = open();
        let opened = store.operations().total();
        let all = losses(&owner, &Silent, &mut |_, _| {}).unwrap();
        let operations = store.operations().total() - opened;
        let mut failed = 0;
        for operation in 0..operations {
            let (store, owner) = open();
            // Why more than one: a reader tries again. Counting begins anew with a plan.
            let faults = operation..operation + 50;
            store.set_plan(faults.fold(Plan::default(), |plan, number| plan.operation(number, Fault::FailBefore)));
            let mut told = 0;
            let outcome =
                losses(&owner, &Silent, &mut |_, loss| told += if let Loss::Part(_, n) = loss { n } else { 1 });
            match outcome {
                Ok(count) => assert_eq!(count, all, "{pack}, operation {operation}"),
                Err(Error::Store(_)) => failed += 1,
                Err(other) => panic!("{pack}, operation {operation}: {other}"),
            }
            assert!(told <= all, "{pack}, operation {operation}");
        }
        assert!(failed * 2 > operations, "{pack}: {failed} of {operations} operations, {all} lost");
    }
}

/// While a segment is lost, or the store does not give it, nobody knows what is lost: nothing is listed, and nothing dropped.
#[test]
fn while_a_segment_can_not_be_opened_nothing_is_dropped() {
    let scene = Scene::new(None);
    for segment in scene.open(&scene.copy()).segments() {
        let object = segment.name.object();
        let is_whole = |case: &str, store: &Arc<MemoryStore>, entries: u64| {
            let after = scene.open(store);
            assert_eq!((after.snapshots().len(), after.log_entries()), (2, entries), "{case}: {object}");
        };
        let store = scene.copy();
        store.delete(&object).unwrap();
        let owner = scene.open(&store);
        let entries = owner.log_entries();
        let refusals = [losses(&owner, &Silent, &mut |_, _| {}).err(), drop_lost(&owner, "test", &Silent).err()];
        for refusal in refusals {
            let Some(Error::Damaged(damaged)) = refusal else { panic!("{refusal:?}") };
            assert!(damaged.object == object && damaged.why.contains("repair --index"), "{damaged}");
        }
        is_whole("lost", &store, entries);

        let store = scene.copy();
        let failing = Failing::new(store.clone(), &object, u64::MAX);
        let owner = Repository::open(failing.clone(), &scene.owner, None).unwrap();
        for refusal in [losses(&owner, &Silent, &mut |_, _| {}).err(), drop_lost(&owner, "test", &Silent).err()] {
            assert!(matches!(refusal, Some(Error::Store(_))), "{refusal:?}");
        }
        // Whoever reads is told why as well.
        let roots = scene.snapshots.iter().map(|(_, root, _)| owner.read_chunk(root).err());
        let told: Vec<_> = roots.flatten().collect();
        assert!(!told.is_empty() && told.iter().all(|error| matches!(error, Error::Store(_))), "{told:?}");
        failing.set(0);
        assert!(drop_lost(&owner, "test", &Silent).unwrap().is_empty());
        is_whole("not given", &store, entries);
    }
}

/// The source is looked at only to be sure that the scene has what these tests are about.
#[test]
fn the_scene_has_a_pack_that_both_snapshots_need() {
    let scene = Scene::new(None);
    assert!(fs::read_dir(scene.source()).unwrap().count() > 200);
    assert_eq!(scene.snapshots.len(), 2);
    assert!(scene.packs().len() >= 4, "{:?}", scene.packs());
}
