//! Segments of which a member says something false: that they have a published one's name, or more records than they have.

use seawall_engine::crypto::sign::SigningKey;
use seawall_engine::crypto::{envelope, object_hash};
use seawall_engine::error::Error;
use seawall_engine::format::log::{self, Act, LogEntry, SegmentRecord};
use seawall_engine::format::names::{SegmentName, log_object};
use seawall_engine::ids::{ChunkId, ObjectHash, SessionId, SnapshotId};
use seawall_engine::monitor::Silent;
use seawall_engine::reindex::{ReindexReport, reindex};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::verify::Read;

use crate::damage::check;
use crate::hand::craft;
use crate::hostile::{Ground, single};
use crate::place::noise;
use crate::prune::{run, thorough};
use crate::session::record;

/// Puts an act of this member's at the end of the log, as a client that heeds no rule.
fn force(ground: &Ground, repository: &Repository, act: Act) {
    repository.refresh().unwrap();
    let (state, ring) = (repository.state(), repository.keys());
    let (number, previous) = (state.next, state.head);
    let entry = LogEntry { number, previous, repository: ring.repository, member: ring.member, time_ms: 0, act };
    let sealed = log::seal(&entry, &ring.log_key, &SigningKey::from_seed(&ring.signing_seed));
    ground.store.put(&log_object(number), &sealed).unwrap();
}

/// A COMMIT that gives these segments other hashes, and adopts the sessions that wrote them.
fn rename(ground: &Ground, root: ChunkId, segments: &[SegmentRecord]) -> Act {
    let false_one = |(number, segment): (usize, &SegmentRecord)| {
        let hash = ObjectHash([0xE0 + u8::try_from(number).unwrap(); 32]);
        SegmentRecord { hash, ..segment.clone() }
    };
    let mut adopted: Vec<SessionId> = segments.iter().map(|segment| segment.name.session).collect();
    adopted.dedup();
    assert!(ground.member().keys().data_secret.is_none());
    Act::Commit {
        session: SessionId([0xE5; 16]),
        segments: segments.iter().enumerate().map(false_one).collect(),
        snapshot: Box::new(record(root)),
        adopted,
    }
}

/// A member gives the names of published segments to false ones. An owner who lists what is lost anew retires names: nothing
/// of the sound ones goes.
#[test]
fn a_false_segment_of_a_published_name_counts_for_nothing() {
    let ground = Ground::new();
    let plains = [noise(1, 100_000), noise(2, 100_000)];
    let good: Vec<SnapshotId> =
        plains.iter().map(|plain| craft(&ground.owner(), |hand| single(hand, "/good", plain))).collect();
    let member = ground.member();
    let segments = member.segments();
    force(&ground, &member, rename(&ground, ground.root(good[0]), &segments));
    let owner = ground.owner();
    assert_eq!((owner.segments(), owner.snapshots().len()), (segments, 2));
    assert!(owner.state().voids[0].1.contains("published before"), "{:?}", owner.state().voids);
    assert_eq!(check(&owner, Read::All).damage, []);
    assert_eq!(reindex(&owner, false, &Silent).unwrap(), ReindexReport::default());
    assert_eq!(run(&ground.owner(), &thorough()).unwrap().problems, 0);
    for (id, plain) in good.iter().zip(&plains) {
        ground.assert_reads(*id, &[("/good", plain)], "after all of it");
    }
}

/// What the log can't keep out: a false segment under a name that a running prune is about to publish. `verify` calls the
/// false one lost and reads through the other; listing anew takes over what the sound one lists, and leaves its object.
#[test]
fn a_sound_segment_goes_nowhere_with_a_false_one_of_its_name() {
    let ground = Ground::new();
    let plain = noise(1, 100_000);
    let good = craft(&ground.owner(), |hand| single(hand, "/good", &plain));
    let owner = ground.owner();
    let (old, key) = (owner.segments().remove(0), owner.keys().index_key.clone());
    // What a prune writes when it merges segments.
    let name = SegmentName { session: SessionId([0xC0; 16]), counter: 0 };
    let sealed = ground.store.get(&old.name.object(), None).unwrap();
    let sealed = envelope::seal(&key, &name.object(), &envelope::open(&key, &old.name.object(), &sealed).unwrap());
    ground.store.put(&name.object(), &sealed).unwrap();
    let merged = SegmentRecord { name, hash: object_hash(&sealed), bytes: sealed.len() as u64, ..old.clone() };
    force(&ground, &ground.member(), rename(&ground, ground.root(good), std::slice::from_ref(&merged)));
    let remap = Act::Remap {
        session: Some(name.session),
        segments: vec![merged.clone()],
        retired: vec![old.name],
        gone: Vec::new(),
    };
    owner.append(&mut |_| Ok(remap.clone())).unwrap();
    assert_eq!(owner.segments().iter().map(|it| it.name).collect::<Vec<_>>(), [name, name], "the scene");

    let found = check(&ground.owner(), Read::All);
    assert_eq!(found.damage, [], "nothing is lost by it");
    assert_eq!(found.harmless.iter().map(|it| it.object.clone()).collect::<Vec<_>>(), [name.object()]);
    assert!(matches!(run(&ground.owner(), &thorough()), Err(Error::Damaged(_))));
    for dry_run in [true, false] {
        let report = reindex(&ground.owner(), dry_run, &Silent).unwrap();
        assert_eq!((report.lost, report.namesakes, report.packs), (vec![name], 1, 0));
        assert_eq!((report.records, report.number.is_some()), (merged.records, !dry_run));
        assert!(ground.store.head(&name.object()).is_ok(), "something sound lies there");
    }
    assert_eq!(check(&ground.owner(), Read::All).damage, []);
    ground.assert_reads(good, &[("/good", &plain)], "listed anew");
    run(&ground.owner(), &thorough()).unwrap();
    ground.assert_reads(good, &[("/good", &plain)], "after a prune");
}

/// A member claims that its segment has more records than there are numbers. It counts as damaged until it is written anew.
#[test]
fn a_segment_that_claims_more_records_than_it_has_is_not_taken() {
    let ground = Ground::new();
    let plain = noise(1, 100_000);
    let good = craft(&ground.owner(), |hand| single(hand, "/good", &plain));
    let member = ground.member();
    let old = member.segments().remove(0);
    let key = &member.keys().index_key;
    let name = SegmentName { session: SessionId([0xC1; 16]), counter: 0 };
    let sealed = ground.store.get(&old.name.object(), None).unwrap();
    let sealed = envelope::seal(key, &name.object(), &envelope::open(key, &old.name.object(), &sealed).unwrap());
    ground.store.put(&name.object(), &sealed).unwrap();
    let segment = SegmentRecord { name, hash: object_hash(&sealed), records: u64::MAX, bytes: sealed.len() as u64 };
    let snapshot = Box::new(record(ground.root(good)));
    let commit = Act::Commit { session: name.session, segments: vec![segment], snapshot, adopted: Vec::new() };
    force(&ground, &member, commit);
    let directory = tempfile::tempdir().unwrap();
    for cache in [None, Some(directory.path().to_owned())] {
        let owner = Repository::open(ground.store.clone(), &ground.owner, cache).unwrap();
        let Err(Error::Damaged(damaged)) = run(&owner, &thorough()) else { panic!("prune took it") };
        assert!(damaged.object == name.object() && damaged.why.contains("as many records"), "{damaged}");
        assert!(damaged.why.contains("repair --index"), "{damaged}");
    }
    assert_eq!(reindex(&ground.owner(), false, &Silent).unwrap().lost, [name]);
    assert_eq!(check(&ground.owner(), Read::All).damage, []);
    assert_eq!(run(&ground.owner(), &thorough()).unwrap().problems, 0);
    ground.assert_reads(good, &[("/good", &plain)], "after a prune");
}
