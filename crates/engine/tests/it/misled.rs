//! What misleads a client about what there is: a cache that a power cut spoilt, a log entry or a segment that the store
//! lost. Nothing that a snapshot needs goes because of it, and it is told.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use seawall_engine::backup::backup;
use seawall_engine::error::Error;
use seawall_engine::forget::forget;
use seawall_engine::format::names::log_object;
use seawall_engine::format::pack::decode_trailer;
use seawall_engine::format::parity::Parity;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::PruneOptions;
use seawall_engine::reindex::reindex;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::{ObjectInfo, Store};
use seawall_engine::undelete::undelete;
use seawall_engine::units::MIB;
use seawall_engine::verify::Read;

use crate::beside::{At, Between};
use crate::damage::check;
use crate::failing::Failing;
use crate::parity;
use crate::place::{files_of, noise};
use crate::prune::{Scene, patient, run, thorough};

/// Several snapshots, of which the first is forgotten; its packs are partly needed.
pub fn scene() -> (Arc<MemoryStore>, Scene) {
    let (store, mut scene) = Scene::new();
    for number in 0..40 {
        scene.write(&format!("file {number}"), &noise(number, 60_000));
    }
    let first = scene.backup();
    for number in 0..20 {
        scene.write(&format!("file {number}"), &noise(100 + number, 60_000));
    }
    scene.backup();
    scene.write("last", &noise(500, 2 * MIB));
    scene.backup();
    forget(&scene.open(), &[first], "test").unwrap();
    (store, scene)
}

fn cached(scene: &Scene) -> Repository {
    open_with_cache(scene, "cache")
}

fn open_with_cache(scene: &Scene, name: &str) -> Repository {
    Repository::open(scene.store.clone(), &scene.unlock, Some(scene.directory.path().join(name))).unwrap()
}

fn cached_segments(scene: &Scene) -> Vec<PathBuf> {
    let repository = cached(scene);
    let directory = scene.directory.path().join("cache").join(repository.id().to_string()).join("segments");
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|item| item.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}

/// Ways to spoil a file of which the length stays.
fn spoil(path: &PathBuf, way: usize) -> bool {
    let mut bytes = fs::read(path).unwrap();
    let length = bytes.len();
    // Header, packs' names, records, filter, checksum.
    let places =
        [64..length, 64..88, 88..200, length / 2..length / 2 + 1, length - 64..length - 32, length - 32..length];
    let Some(place) = places.get(way) else { return false };
    let is_flip = place.len() == 1;
    bytes[place.clone()].iter_mut().for_each(|byte| *byte = if is_flip { *byte ^ 0x40 } else { 0 });
    fs::write(path, bytes).unwrap();
    true
}

#[test]
fn a_spoilt_cache_misleads_neither_backup_nor_prune_nor_readers() {
    let mut way = 0;
    loop {
        let (_, mut scene) = scene();
        let files = cached_segments(&scene);
        if !files.iter().all(|path| spoil(path, way)) {
            break;
        }
        let repository = cached(&scene);
        for snapshot in repository.snapshots() {
            assert_eq!(files_of(&repository, &snapshot.record.root), scene.known[&snapshot.record.id], "way {way}");
        }
        files.iter().for_each(|path| assert!(spoil(path, way)));
        let report = run(&cached(&scene), &thorough()).unwrap();
        assert_eq!(report.problems, 0, "way {way}");
        assert_eq!(scene.check(), 2, "way {way}");
        for path in cached_segments(&scene) {
            assert!(spoil(&path, way));
        }
        let report = backup(&cached(&scene), scene.small(), &Silent).unwrap();
        let id = report.snapshot.unwrap().id;
        scene.known.insert(id, scene.files());
        assert_eq!(scene.check(), 3, "way {way}");
        way += 1;
    }
    assert!(way > 4);
}

/// While somebody whose cache is spoilt reads, a prune retires and removes all segments that he knows, before any of his
/// calls: those in their place are found. Why that way to spoil it: the reader misses a chunk, and only then looks at the cache.
#[test]
fn a_reader_with_a_spoilt_cache_finds_what_a_prune_moves_meanwhile() {
    for operation in 0.. {
        let (_, scene) = scene();
        for path in cached_segments(&scene) {
            assert!(spoil(&path, 3));
        }
        let pruner = scene.open();
        let job = Box::new(move || {
            for _ in 0..2 {
                run(&pruner, &thorough()).unwrap();
            }
        });
        let between = Arc::new(Between::new(scene.store.clone(), At::Operation(operation), job));
        let cache = Some(scene.directory.path().join("cache"));
        let reader = Repository::open(between.clone(), &scene.unlock, cache).unwrap();
        for snapshot in reader.snapshots() {
            let files = files_of(&reader, &snapshot.record.root);
            assert_eq!(files, scene.known[&snapshot.record.id], "before call {operation}");
        }
        if !between.is_over() {
            assert!(operation > 10);
            break;
        }
    }
}

fn cached_in(scene: &Scene, folder: &str) -> Vec<PathBuf> {
    let place = scene.directory.path().join("cache").join(scene.open().id().to_string()).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(place).unwrap().map(|item| item.unwrap().path()).collect();
    files.sort();
    files
}

/// So many segments that a writer makes a directory over them.
fn many_segments() -> Scene {
    let (_, mut scene) = Scene::new();
    for number in 0..20 {
        scene.write(&format!("file {number}"), &noise(number, 20_000));
        scene.write("changing", &noise(100 + number, 20_000));
        scene.backup();
    }
    scene
}

fn backup_with_cache(scene: &mut Scene) {
    let report = backup(&cached(scene), scene.small(), &Silent).unwrap();
    scene.known.insert(report.snapshot.unwrap().id, scene.files());
}

#[test]
fn many_segments_get_a_directory_and_prune_leaves_none_of_what_it_retired() {
    let mut scene = many_segments();
    drop(cached(&scene));
    assert!(cached_in(&scene, "directories").is_empty(), "a reader needs none");
    backup_with_cache(&mut scene);
    let first = cached_in(&scene, "directories");
    assert_eq!(first.len(), 1);
    scene.write("more", &noise(500, 20_000));
    backup_with_cache(&mut scene);
    assert_eq!(cached_in(&scene, "directories"), first, "one more segment is asked itself");
    for number in 0..17 {
        scene.write("more", &noise(600 + number, 20_000));
        scene.backup();
    }
    backup_with_cache(&mut scene);
    let second = cached_in(&scene, "directories");
    assert!(second.len() == 1 && second != first, "the first was taken up: {second:?}");
    let oldest: Vec<_> = cached(&scene).snapshots().iter().take(15).map(|snapshot| snapshot.record.id).collect();
    forget(&cached(&scene), &oldest, "test").unwrap();
    let report = run(&cached(&scene), &thorough()).unwrap();
    assert!(report.segments_after < 5 && report.problems == 0, "{report:?}");
    assert!(cached_in(&scene, "directories").is_empty());
    assert_eq!(cached_in(&scene, "segments").len() as u64, report.segments_after);
    assert_eq!(scene.check(), 25);
}

#[test]
fn a_spoilt_directory_misleads_nobody() {
    // Header, hashes of segments, entries, buckets, checksum, all of it.
    let spoil: [fn(&mut Vec<u8>); 9] = [
        |bytes| bytes[8] ^= 1,
        |bytes| bytes[16] ^= 1,
        |bytes| bytes[30] ^= 1,
        |bytes| bytes[24 + 20 * 32..].fill(0),
        |bytes| bytes[24 + 20 * 32..].fill(0xff),
        |bytes| bytes[24 + 20 * 32..].chunks_exact_mut(16).for_each(|entry| entry[12] ^= 1),
        |bytes| bytes.truncate(1000),
        |bytes| bytes.extend([0; 16]),
        |bytes| bytes.reverse(),
    ];
    for (way, spoil) in spoil.iter().enumerate() {
        let mut scene = many_segments();
        backup_with_cache(&mut scene);
        let oldest = scene.open().snapshots()[0].record.id;
        forget(&scene.open(), &[oldest], "test").unwrap();
        let spoil_all = || {
            for path in cached_in(&scene, "directories") {
                let mut bytes = fs::read(&path).unwrap();
                spoil(&mut bytes);
                fs::write(&path, bytes).unwrap();
            }
        };
        assert_eq!(cached_in(&scene, "directories").len(), 1);
        spoil_all();
        let repository = cached(&scene);
        for snapshot in repository.snapshots() {
            assert_eq!(files_of(&repository, &snapshot.record.root), scene.known[&snapshot.record.id], "way {way}");
        }
        drop(repository);
        backup_with_cache(&mut scene);
        let report = run(&cached(&scene), &PruneOptions { window: patient().window, ..thorough() }).unwrap();
        assert_eq!(report.problems, 0, "way {way}");
        assert_eq!(scene.check(), 21, "way {way}");
    }
}

#[test]
fn a_lost_entry_is_not_taken_for_the_end_of_the_log() {
    let (store, scene) = scene();
    let entries = scene.open().log_entries();
    assert_eq!(entries, 5);
    // One entry, or all but the last: the probe behind the end sees only the first kind.
    for lost in [vec![1], vec![2], vec![3], vec![1, 2], vec![2, 3], vec![1, 2, 3]] {
        let holed = Arc::new(store.copy());
        lost.iter().for_each(|number| holed.delete(&log_object(*number)).unwrap());
        let before = holed.names();
        let repository = Repository::open(holed.clone(), &scene.unlock, None).unwrap();
        assert_eq!(repository.log_entries(), lost[0]);
        assert_eq!(repository.rollback().is_some(), lost.len() == 1, "{lost:?}");
        let refused = |error: Error| match error {
            Error::Rollback(why) => assert!(why.contains("later entries exist"), "{why}"),
            other => panic!("{lost:?}: {other}"),
        };
        refused(run(&repository, &thorough()).unwrap_err());
        if let Some(snapshot) = repository.snapshots().first() {
            refused(forget(&repository, &[snapshot.record.id], "test").unwrap_err());
        }
        let packs =
            |names: &[String]| names.iter().filter(|name| name.starts_with("pack/")).cloned().collect::<Vec<_>>();
        assert_eq!(packs(&holed.names()), packs(&before), "{lost:?}");
        refused(backup(&repository, scene.small(), &Silent).unwrap_err());
        let lost_nothing = before.iter().all(|name| holed.names().contains(name));
        assert!(lost_nothing && !holed.names().contains(&log_object(lost[0])), "{lost:?}");
    }
}

#[test]
fn a_lost_segment_stops_prune_and_undelete_until_its_packs_are_listed_anew() {
    let (store, mut scene) = scene();
    let segments = scene.open().segments();
    assert!(segments.len() >= 3);
    for (number, segment) in segments.iter().enumerate() {
        for (damaged, is_cached) in [(false, false), (false, true), (true, false), (true, true)] {
            let copy = Arc::new(store.copy());
            let object = segment.name.object();
            scene.store = copy.clone();
            let cache = is_cached.then(|| format!("cache {number} {damaged}"));
            drop(cache.as_ref().map(|name| open_with_cache(&scene, name)));
            copy.delete(&object).unwrap();
            if damaged {
                copy.replace(&object, &noise(7, 1000));
            }
            list_anew(&scene, &copy, &object, cache.as_deref());
        }
    }
}

fn list_anew(scene: &Scene, store: &MemoryStore, object: &str, cache: Option<&str>) {
    let bare = scene.open();
    let forgotten = bare.forgotten()[0].snapshot.record.id;
    for refusal in [run(&bare, &thorough()).err(), undelete(&bare, &[forgotten], &Silent).err()] {
        let Some(Error::Damaged(damaged)) = &refusal else { panic!("{refusal:?}") };
        assert!(damaged.object.contains(object) || damaged.object == "index segment", "{damaged}");
        assert!(damaged.why.contains("repair --index"), "{damaged}");
    }
    let repository = cache.map_or_else(|| scene.open(), |name| open_with_cache(scene, name));
    let told = reindex(&repository, true, &Silent).unwrap();
    assert_eq!((told.lost.len(), told.number), (1, None));
    let report = reindex(&repository, false, &Silent).unwrap();
    assert_eq!((report.lost, report.records, report.unreadable), (told.lost, told.records, 0));
    assert_eq!(report.cached, u64::from(cache.is_some()));
    assert!(report.number.is_some() && !store.names().contains(&object.to_owned()));
    assert_eq!(scene.check(), 2);
    assert_eq!(reindex(&scene.open(), false, &Silent).unwrap().lost, []);
    undelete(&scene.open(), &[forgotten], &Silent).unwrap();
    assert_eq!(scene.check(), 3);
    forget(&scene.open(), &[forgotten], "test").unwrap();
    run(&scene.open(), &thorough()).unwrap();
    assert_eq!(scene.check(), 2);
}

/// Nothing is retired while a footer can't be read: the next run lists all.
#[test]
fn a_store_that_fails_while_packs_are_listed_anew_changes_nothing() {
    let (store, mut scene) = scene();
    for segment in scene.open().segments() {
        let copy = Arc::new(store.copy());
        copy.delete(&segment.name.object()).unwrap();
        let all =
            reindex(&Repository::open(Arc::new(copy.copy()), &scene.unlock, None).unwrap(), true, &Silent).unwrap();
        let mut met = 0;
        for fails in 0.. {
            // Each GET of a pack in turn.
            let copy = Arc::new(copy.copy());
            let passing = Failing::after(copy.clone(), "pack/", fails);
            let owner = Repository::open(passing, &scene.unlock, None).unwrap();
            let before = copy.names();
            match reindex(&owner, false, &Silent) {
                Err(Error::Store(_)) => {
                    assert_eq!(owner.log_entries(), 5, "GET {fails}");
                    assert!(before.iter().all(|name| copy.names().contains(name)), "GET {fails}");
                    met += 1;
                }
                outcome => {
                    assert_eq!(outcome.unwrap().records, all.records);
                    break;
                }
            }
            scene.store = copy;
            assert_eq!(reindex(&scene.open(), false, &Silent).unwrap().records, all.records, "GET {fails}");
            assert_eq!(scene.check(), 2, "GET {fails}");
        }
        assert!(met >= 3 * all.packs, "{met} for {} packs", all.packs);
    }
}

/// A pack that was not there when its segment's others were listed anew is listed by a later run, once it is back; what no
/// snapshot needs is not.
#[test]
fn listing_anew_can_be_done_again() {
    let (store, mut scene) = scene();
    let newest = scene.open().segments().pop().unwrap();
    let packs: Vec<String> =
        store.names().into_iter().filter(|name| name.starts_with(&format!("pack/{}/", newest.name.session))).collect();
    assert!(packs.len() >= 2);
    for pack in &packs {
        let copy = Arc::new(store.copy());
        scene.store = copy.clone();
        let bytes = copy.get(pack, None).unwrap();
        copy.delete(&newest.name.object()).unwrap();
        copy.delete(pack).unwrap();
        assert!(reindex(&scene.open(), false, &Silent).unwrap().packs > 0);
        assert!(!check(&scene.open(), Read::Nothing).damage.is_empty(), "{pack} is needed");
        copy.put(pack, &bytes).unwrap();
        let again = reindex(&scene.open(), false, &Silent).unwrap();
        assert_eq!((again.lost.len(), again.packs, again.unreadable), (0, 1, 0), "{pack}");
        assert!(again.number.is_some());
        assert_eq!(scene.check(), 2, "{pack}");
        assert_eq!(reindex(&scene.open(), false, &Silent).unwrap().number, None, "nothing is left to list");
        run(&scene.open(), &thorough()).unwrap();
        assert_eq!(scene.check(), 2, "{pack}");
    }
    // What a prune has removed and somebody puts back, and what a run that never ended has left.
    let copy = Arc::new(store.copy());
    scene.store = copy.clone();
    let before: Vec<(String, Vec<u8>)> =
        copy.names().into_iter().map(|name| (name.clone(), copy.get(&name, None).unwrap())).collect();
    assert!(run(&scene.open(), &thorough()).unwrap().deleted_packs > 0);
    for (name, bytes) in before.iter().filter(|(name, _)| name.starts_with("pack/") && copy.head(name).is_err()) {
        copy.put(name, bytes).unwrap();
        copy.put(&format!("pack/{}{}", "0f".repeat(16), &name[37..]), bytes).unwrap();
    }
    let report = reindex(&scene.open(), false, &Silent).unwrap();
    assert_eq!((report.packs, report.number), (0, None), "{report:?}");
}

/// The list of a pack whose footer, header or end is damaged comes from its parity, or from its blobs.
#[test]
fn packs_with_damaged_footers_are_listed_anew() {
    for parity in [None, Parity::of_share(0.02)] {
        let scene = parity::Scene::new(parity);
        for pack in scene.packs() {
            let bytes = scene.copy().get(&pack.object(), None).unwrap();
            let trailer = decode_trailer(&pack, bytes.len() as u64, &bytes).unwrap();
            let footer = usize::try_from(trailer.footer().start).unwrap();
            for place in [8, footer, footer + 60, bytes.len() - 64, bytes.len() - 40] {
                let case = format!("{pack}, byte {place}, parity {}", parity.is_some());
                let store = scene.copy();
                scene.open(&store).segments().iter().for_each(|it| store.delete(&it.name.object()).unwrap());
                parity::hit(&store, &pack, place, 1);
                let report = reindex(&scene.open(&store), false, &Silent).unwrap();
                assert_eq!((report.packs, report.unreadable), (scene.packs().len() as u64, 0), "{case}");
                scene.assert_restores(&case, &scene.open(&store));
            }
        }
    }
}

/// A blob without its footer and with a flipped bit is all that stays unlisted of its pack.
#[test]
fn what_can_be_listed_of_a_damaged_pack_is() {
    let scene = parity::Scene::new(None);
    let pack = scene.data_pack();
    let store = scene.copy();
    scene.open(&store).segments().iter().for_each(|it| store.delete(&it.name.object()).unwrap());
    let whole = reindex(&scene.open(&Arc::new(store.copy())), true, &Silent).unwrap();
    let bytes = store.get(&pack.object(), None).unwrap();
    let trailer = decode_trailer(&pack, bytes.len() as u64, &bytes).unwrap();
    parity::hit(&store, &pack, usize::try_from(trailer.footer().start).unwrap() + 60, 1);
    parity::hit(&store, &pack, 150, 1);
    let other = Arc::new(store.copy());
    let report = reindex(&scene.open(&store), false, &Silent).unwrap();
    assert_eq!((report.records, report.unreadable), (whole.records - 1, 1), "{report:?}");
    // Where not even the first blob is to be found, nothing is.
    parity::hit(&other, &pack, 64, 1);
    let none = reindex(&scene.open(&other), false, &Silent).unwrap();
    assert_eq!((none.packs, none.unreadable), (whole.packs - 1, 1), "{none:?}");
}

#[test]
fn while_needed_chunks_are_in_no_list_nothing_is_removed() {
    let (_, mut scene) = scene();
    let newest = scene.open().snapshots().pop().unwrap();
    // The last backup's segment is lost, and so is one of its data packs: its chunks can't be listed anew.
    let record = scene.open().segments().pop().unwrap();
    scene.store.delete(&record.name.object()).unwrap();
    let mut packs = Vec::new();
    scene
        .store
        .list(&format!("pack/{}/", record.name.session), &mut |info| packs.push((info.length, info.name)))
        .unwrap();
    let (_, largest) = packs.into_iter().max().unwrap();
    scene.store.delete(&largest).unwrap();
    reindex(&scene.open(), false, &Silent).unwrap();
    let before: u64 = ["pack/", "index/", "session/"].map(|prefix| scene.objects(prefix)).iter().sum();
    let refused = run(&scene.open(), &thorough()).unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("--despite-missing")), "{refused}");
    let dry = run(&scene.open(), &PruneOptions { dry_run: true, ..thorough() }).unwrap();
    assert_eq!(dry.problems, 1);
    assert_eq!(["pack/", "index/", "session/"].map(|prefix| scene.objects(prefix)).iter().sum::<u64>(), before);
    // What is listed nowhere stays, even for who goes on.
    scene.store.put("pack/00000000000000000000000000000001/0000000000", b"orphan").unwrap();
    let report = run(&scene.open(), &PruneOptions { despite_missing: true, ..thorough() }).unwrap();
    assert_eq!(report.orphans, 0);
    assert!(report.deleted_packs > 0);
    // The next backup stores the lost chunks again.
    let id = newest.record.id;
    scene.backup();
    run(&scene.open(), &thorough()).unwrap();
    assert!(scene.known.contains_key(&id));
    assert_eq!(scene.check(), 3);
}

/// A prune goes on though a chunk is in no list. While it stores others anew, a backup stores that chunk again, below the
/// same tree node.
#[test]
fn what_a_backup_heals_beside_a_prune_that_goes_on_stays() {
    let (_, mut scene) = Scene::new();
    // Each of one chunk, of which half changes: the base of one version alone does not pay.
    let write = |scene: &Scene, version: u64| {
        for file in 0..10 {
            let half = |seed| noise(1_000 * file + seed, 30_000);
            scene.write(&format!("version {file}"), &[half(1), half(version)].concat());
        }
    };
    write(&scene, 2);
    let first = scene.backup();
    write(&scene, 3);
    scene.backup();
    scene.write("lost", &noise(4, 300_000));
    scene.backup();
    let record = scene.open().segments().pop().unwrap();
    scene.store.delete(&record.name.object()).unwrap();
    let mut packs = Vec::new();
    let each = &mut |info: ObjectInfo| packs.push((info.length, info.name));
    scene.store.list(&format!("pack/{}/", record.name.session), each).unwrap();
    scene.store.delete(&packs.into_iter().max().unwrap().1).unwrap();
    reindex(&scene.open(), false, &Silent).unwrap();
    forget(&scene.open(), &[first], "test").unwrap();

    // Before the entry that publishes what is stored anew.
    let (late, options) = (scene.open(), scene.small());
    let healed = Arc::new(Mutex::new(None));
    let told = Arc::clone(&healed);
    let job = Box::new(move || *told.lock().unwrap() = backup(&late, options, &Silent).unwrap().snapshot);
    let between = Arc::new(Between::new(scene.store.clone(), At::LogEntry(0), job));
    let owner = Repository::open(between, &scene.unlock, None).unwrap();
    let report = run(&owner, &PruneOptions { despite_missing: true, ..thorough() }).unwrap();
    assert!(report.rebased_chunks > 0 && report.problems == 1, "the scene: {report:?}");
    let healed = healed.lock().unwrap().take().expect("the backup ran");
    scene.known.insert(healed.id, scene.files());
    assert_eq!(scene.check(), 3);
    assert_eq!(run(&scene.open(), &thorough()).unwrap().problems, 0);
    assert_eq!(scene.check(), 3);
}
