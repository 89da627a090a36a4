//! Segments that list packs in part, as merging leaves them: what is lost with one of them is listed anew from the packs.

use std::sync::Arc;

use seawall_engine::crypto::{envelope, object_hash};
use seawall_engine::error::Error;
use seawall_engine::format::log::{Act, SegmentRecord};
use seawall_engine::format::names::SegmentName;
use seawall_engine::format::segment::{SegmentBuilder, SegmentView};
use seawall_engine::ids::SessionId;
use seawall_engine::monitor::Silent;
use seawall_engine::reindex::reindex;
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::verify::Read;

use crate::beside::{At, Between};
use crate::damage::check;
use crate::misled;
use crate::prune::{Scene, run, thorough};

/// Puts two segments in the place of each, every other record in the second. Gives the new ones.
fn divide(owner: &Repository, session: u8) -> Vec<SegmentRecord> {
    let (old, store, key) = (owner.segments(), owner.store(), &owner.keys().index_key);
    let session = SessionId([session; 16]);
    let mut new = Vec::new();
    for record in &old {
        let sealed = store.get(&record.name.object(), None).unwrap();
        let plain = envelope::open(key, &record.name.object(), &sealed).unwrap();
        let view = SegmentView::parse(&plain).unwrap();
        let mut halves = [SegmentBuilder::new(), SegmentBuilder::new()];
        for number in 0..view.len() {
            let (id, location) = view.record(number).unwrap();
            halves[number % 2].push(location.pack, location.kind, &location.record(id));
        }
        for half in halves.into_iter().filter(|half| !half.is_empty()) {
            let (name, records) = (SegmentName { session, counter: new.len() as u64 }, half.len() as u64);
            let sealed = envelope::seal(key, &name.object(), &half.finish());
            store.put(&name.object(), &sealed).unwrap();
            new.push(SegmentRecord { name, hash: object_hash(&sealed), records, bytes: sealed.len() as u64 });
        }
    }
    let retired: Vec<SegmentName> = old.iter().map(|record| record.name).collect();
    let (session, segments, gone) = (Some(session), new.clone(), Vec::new());
    let remap = Act::Remap { session, segments, retired, gone };
    owner.append(&mut |_| Ok(remap.clone())).unwrap();
    new
}

fn scene() -> (Arc<MemoryStore>, Scene, Vec<SegmentRecord>) {
    let (store, scene) = misled::scene();
    let segments = divide(&scene.open(), 0xD0);
    assert!(segments.len() >= 4);
    (store, scene, segments)
}

#[test]
fn packs_that_are_listed_in_part_are_listed_to_their_end() {
    let (store, mut scene, segments) = scene();
    for segment in &segments {
        let copy = Arc::new(store.copy());
        scene.store = copy.clone();
        copy.delete(&segment.name.object()).unwrap();
        let report = reindex(&scene.open(), false, &Silent).unwrap();
        assert_eq!((report.records, report.lost), (segment.records, vec![segment.name]));
        assert_eq!(scene.check(), 2);
        assert_eq!(check(&scene.open(), Read::All).damage, []);
        assert_eq!(reindex(&scene.open(), false, &Silent).unwrap().number, None, "nothing is left to list");
        run(&scene.open(), &thorough()).unwrap();
        assert_eq!(scene.check(), 2);
    }
}

/// As an earlier version of this program left it: the lost segment is retired, and what only it listed is in no list.
#[test]
fn what_a_list_lacks_is_found_where_nothing_is_lost_any_more() {
    let (store, mut scene, segments) = scene();
    for segment in &segments {
        let copy = Arc::new(store.copy());
        scene.store = copy.clone();
        let retired = vec![segment.name];
        let remap = Act::Remap { session: None, segments: Vec::new(), retired, gone: Vec::new() };
        scene.open().append(&mut |_| Ok(remap.clone())).unwrap();
        if check(&scene.open(), Read::Nothing).damage.is_empty() {
            continue;
        }
        let report = reindex(&scene.open(), false, &Silent).unwrap();
        assert_eq!((report.records, report.lost), (segment.records, Vec::new()));
        assert_eq!(check(&scene.open(), Read::All).damage, []);
        assert_eq!(scene.check(), 2);
    }
}

/// What is known of a pack that is listed in part may go with the segments that list it.
#[test]
fn nothing_is_listed_beside_segments_that_were_written_anew_meanwhile() {
    let (store, mut scene, segments) = scene();
    let copy = Arc::new(store.copy());
    copy.delete(&segments[0].name.object()).unwrap();
    scene.store = copy.clone();
    let other = scene.open();
    let retired: Vec<SegmentName> = segments[1..].iter().map(|record| record.name).collect();
    let job = move || {
        let remap = Act::Remap { session: None, segments: Vec::new(), retired: retired.clone(), gone: Vec::new() };
        other.append(&mut |_| Ok(remap.clone())).unwrap();
    };
    let between = Arc::new(Between::new(copy, At::LogEntry(0), Box::new(job)));
    let owner = Repository::open(between.clone(), &scene.unlock, None).unwrap();
    let refused = reindex(&owner, false, &Silent).unwrap_err();
    assert!(between.is_over());
    assert!(matches!(&refused, Error::Refused(why) if why.contains("run again")), "{refused}");
}
