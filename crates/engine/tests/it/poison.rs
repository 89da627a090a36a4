//! A member publishes a segment that tells a false place of a chunk, in a sound pack of somebody else. Whoever holds that
//! chunk leans on it, and his file is lost; `verify` finds it, and the next backup stores the chunk again.

use std::sync::Arc;

use seawall_engine::backup::backup;
use seawall_engine::crypto::{Secret32, envelope, object_hash, random};
use seawall_engine::format::log::{Act, SegmentRecord};
use seawall_engine::format::names::SegmentName;
use seawall_engine::format::pack::{BlobKind, BlobRecord};
use seawall_engine::format::segment::{Location, SegmentBuilder};
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::{ChunkId, SessionId};
use seawall_engine::keys;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::verify::Read;

use crate::damage::check;
use crate::hostile::audit;
use crate::place::noise;
use crate::prune::{Scene, patient, run, thorough};
use crate::session::record;

/// An owner's repository with a pack, and a member.
struct Ground {
    scene: Scene,
    store: Arc<MemoryStore>,
    member: Unlock,
}

impl Ground {
    fn new() -> Self {
        let (store, mut scene) = Scene::new();
        let member = Unlock::KeyFile(Secret32::random());
        keys::add(&scene.open(), Role::Member, &member.lock().unwrap(), "member").unwrap();
        for number in 0..5 {
            scene.write(&format!("file {number}"), &noise(number, 90_000));
        }
        scene.backup();
        Self { scene, store, member }
    }

    /// All places that the index tells of chunks of data.
    fn places(&self) -> Vec<(ChunkId, Location)> {
        places(&self.scene.open())
    }

    /// The chunks that a backup of the source would store now, found out elsewhere.
    fn chunks_to_come(&self) -> Vec<(ChunkId, Location)> {
        let elsewhere = Repository::open(Arc::new(self.store.copy()), &self.scene.unlock, None).unwrap();
        backup(&elsewhere, self.scene.small(), &Silent).unwrap();
        let known = self.places();
        places(&elsewhere).into_iter().filter(|(id, _)| !known.iter().any(|(it, _)| it == id)).collect()
    }

    /// The member commits a snapshot, and with it a segment that says this.
    fn publish(&mut self, lies: &[(ChunkId, Location)]) {
        let member = Repository::open(self.store.clone(), &self.member, None).unwrap();
        let mut builder = SegmentBuilder::new();
        for (id, location) in lies {
            let Location { offset, sealed_len, plain_len, codec, base, .. } = *location;
            let blob = BlobRecord { id: *id, offset, sealed_len, plain_len, codec, base };
            builder.push(location.pack, BlobKind::Data, &blob);
        }
        let name = SegmentName { session: SessionId(random()), counter: 0 };
        let sealed = envelope::seal(&member.keys().index_key, &name.object(), &builder.finish());
        self.store.put(&name.object(), &sealed).unwrap();
        let (records, bytes) = (lies.len() as u64, sealed.len() as u64);
        let segment = SegmentRecord { name, hash: object_hash(&sealed), records, bytes };
        let first = &member.snapshots()[0].record;
        let snapshot = Box::new(record(first.root));
        self.scene.known.insert(snapshot.id, self.scene.known[&first.id].clone());
        let commit = Act::Commit { session: name.session, segments: vec![segment], snapshot, adopted: Vec::new() };
        member.append(&mut |_| Ok(commit.clone())).unwrap();
    }

    /// What the log knows of damage: packs that are lost, and single chunks.
    fn recorded(&self) -> (usize, Vec<ChunkId>) {
        let state = self.scene.open().state();
        let damage = &state.standing.damage;
        let lost = damage.values().filter(|damage| damage.lost).count();
        (lost, damage.values().flat_map(|damage| damage.chunks.iter().copied()).collect())
    }
}

fn places(repository: &Repository) -> Vec<(ChunkId, Location)> {
    let mut places = Vec::new();
    let each = &mut |id, location: Location| places.extend((location.kind == BlobKind::Data).then_some((id, location)));
    repository.each_location(each).unwrap();
    places
}

/// Where the lie puts the chunk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// Where another chunk lies.
    OfAnother,
    /// Where no blob begins.
    Between,
    /// Behind the end of the pack.
    Beyond,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// An owner's prune put all segments into one.
    Merged,
    /// Somebody who read the chunk had it recorded.
    Recorded,
}

#[test]
fn a_false_place_in_a_sound_pack_is_found_and_mended() {
    for place in [Place::OfAnother, Place::Between, Place::Beyond] {
        for before in [Before::Nothing, Before::Merged, Before::Recorded] {
            is_found_and_mended(place, before);
        }
    }
}

fn is_found_and_mended(place: Place, before: Before) {
    let case = format!("{place:?}, {before:?}");
    let mut ground = Ground::new();
    let victim = ground.places()[0].1;
    ground.scene.write("victim", &noise(50, 80_000));
    let to_come = ground.chunks_to_come();
    let offset = match place {
        Place::OfAnother => victim.offset,
        Place::Between => victim.offset + 16,
        Place::Beyond => 100_000_000,
    };
    let lie = |(id, true_place): &(ChunkId, Location)| {
        (*id, Location { offset, plain_len: true_place.plain_len, codec: 0, base: None, ..victim })
    };
    ground.publish(&to_come.iter().map(lie).collect::<Vec<_>>());
    ground.scene.backup();
    let stored = ground.places();
    assert!(to_come.iter().all(|(id, _)| stored.iter().filter(|(it, _)| it == id).count() == 1), "{case}: it leans");
    let chunks: Vec<ChunkId> = to_come.iter().map(|(id, _)| *id).collect();
    match before {
        Before::Nothing => {}
        Before::Merged => {
            for number in 0..9 {
                ground.scene.write("changing", &noise(100 + number, 5_000));
                ground.scene.backup();
            }
            run(&ground.scene.open(), &patient()).unwrap();
            assert!(ground.scene.open().segments().len() < 3, "{case}: the scene");
        }
        Before::Recorded => {
            let damaged: Vec<_> = chunks.iter().map(|id| (victim.pack, *id)).collect();
            ground.scene.open().append(&mut |_| Ok(audit(&[], &damaged, &[]))).unwrap();
        }
    }
    for round in 0..2 {
        let report = check(&ground.scene.open(), Read::All);
        let hit: Vec<&String> = report.damage.iter().flat_map(|damage| &damage.paths).collect();
        assert!(!hit.is_empty() && hit.iter().all(|path| path.ends_with("/victim")), "{case} {round}: {report:?}");
        let (lost, mut damaged) = ground.recorded();
        damaged.sort();
        let mut wanted = chunks.clone();
        wanted.sort();
        assert_eq!((lost, damaged), (0, wanted), "{case} {round}: the pack is sound but for these");
    }
    ground.scene.backup();
    assert!(ground.scene.check() >= 3, "{case}: it was stored again");
    let report = check(&ground.scene.open(), Read::All);
    assert_eq!(report.damage, [], "{case}");
    for _ in 0..3 {
        run(&ground.scene.open(), &thorough()).unwrap();
        assert!(ground.scene.check() >= 3, "{case}: after a prune");
    }
    assert_eq!(check(&ground.scene.open(), Read::All).damage, [], "{case}");
}

/// Beyond the end of the blobs is seen without reading data; the pack does not count as lost for it.
#[test]
fn a_place_behind_the_blobs_does_not_make_the_pack_lost() {
    let mut ground = Ground::new();
    let (_, victim) = ground.places()[0];
    let missing = ChunkId([9; 32]);
    ground.publish(&[(missing, Location { offset: 100_000_000, ..victim })]);
    for read in [Read::Nothing, Read::All] {
        let report = check(&ground.scene.open(), read.clone());
        assert!(report.damage.iter().all(|damage| damage.snapshots.is_empty()), "{read:?}: {report:?}");
        assert_eq!(ground.recorded(), (0, vec![missing]), "{read:?}");
    }
    assert_eq!(check(&ground.scene.open(), Read::All).damage, [], "nobody needs that chunk");
}

/// A false place of a chunk that the pack has elsewhere costs nobody anything: readers try each place.
#[test]
fn a_false_place_beside_the_right_one_is_no_damage() {
    let mut ground = Ground::new();
    let (id, right) = ground.places()[0];
    ground.publish(&[(id, Location { offset: right.offset + 16, ..right })]);
    for _ in 0..2 {
        let report = check(&ground.scene.open(), Read::All);
        assert_eq!((report.damage, report.harmless, report.undecided), (Vec::new(), Vec::new(), 0));
        assert_eq!(ground.recorded(), (0, Vec::new()));
    }
    assert_eq!(ground.scene.check(), 2);
}
