//! Tests of directories: they say what the segments say, however they are spoilt.

use std::sync::Arc;

use super::*;
use crate::format::log::SegmentRecord;
use crate::format::names::{PackName, SegmentName};
use crate::format::pack::{BlobKind, BlobRecord};
use crate::format::segment::{SegmentBuilder, SegmentView};
use crate::ids::SessionId;
use crate::repo::cache::Cache;
use crate::repo::index::Index;

/// The chunk with this number: ids of tens of them begin with the same eight bytes.
fn id(number: u32) -> ChunkId {
    let mut id = *blake3::hash(&(number / 10).to_le_bytes()).as_bytes();
    id[8..].copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[8..]);
    ChunkId(id)
}

/// A segment that lists these chunks.
fn segment(number: u8, chunks: impl Iterator<Item = u32>) -> Arc<Segment> {
    let plain = plain(number, chunks);
    let records = SegmentView::parse(&plain).unwrap().len() as u64;
    let hash = ObjectHash(*blake3::hash(&plain).as_bytes());
    let name = SegmentName { session: SessionId([number; 16]), counter: 0 };
    let record = SegmentRecord { name, hash, records, bytes: plain.len() as u64 };
    Arc::new(Segment::keep(&Cache::default(), record, plain).unwrap())
}

fn plain(number: u8, chunks: impl Iterator<Item = u32>) -> Vec<u8> {
    let pack = PackName { session: SessionId([number; 16]), counter: 1 };
    let mut builder = SegmentBuilder::new();
    for (place, chunk) in chunks.enumerate() {
        let offset = 64 + place as u32 * 100;
        let blob = BlobRecord { id: id(chunk), offset, sealed_len: 52, plain_len: 30, codec: 0, base: None };
        builder.push(pack, BlobKind::Data, &blob);
    }
    builder.finish()
}

fn segments() -> Vec<Arc<Segment>> {
    // Every third chunk is in several of them.
    (0..30u8).map(|number| segment(number, (0..4000).filter(|chunk| chunk % (u32::from(number) + 2) == 0))).collect()
}

fn directory(segments: &[Arc<Segment>], path: Option<&Path>) -> Arc<Directory> {
    let segments: Vec<&Segment> = segments.iter().map(|segment| &**segment).collect();
    let name = name(segments.iter().map(|segment| segment.record().hash));
    let built = Directory::build(&segments, path, &name).unwrap();
    Arc::new(path.map_or(built, |path| Directory::open(path, &name).unwrap()))
}

fn index(segments: &[Arc<Segment>]) -> Index {
    let mut index = Index::default();
    segments.iter().for_each(|segment| index.push(Arc::clone(segment)));
    index
}

fn assert_same(with: &Index, without: &Index) {
    for chunk in 0..4100 {
        let found: Vec<Found> = with.copies(&id(chunk)).collect();
        assert_eq!(found, without.copies(&id(chunk)).collect::<Vec<_>>(), "{chunk}");
        assert!(found.is_sorted_by(|a, b| a.segment > b.segment));
        assert_eq!(found.is_empty(), (2..32).all(|number| chunk >= 4000 || chunk % number != 0), "{chunk}");
    }
}

#[test]
fn look_ups_find_the_same_with_and_without_directories() {
    let place = tempfile::tempdir().unwrap();
    let all = segments();
    let mut without = index(&all);
    let mut with = without.clone();
    // Some segments are in two, some in none.
    let directories = [
        directory(&all[3..20], Some(&place.path().join("a"))),
        directory(&all[15..25], None),
        directory(&all[..0], None),
    ];
    assert!(directories.iter().all(|directory| directory.is_whole()));
    with.use_directories(directories);
    assert_eq!(with.directories().count(), 2, "one that covers nothing is of no use");
    assert_eq!(with.uncovered_without(|_| false).len(), 3 + 5);
    assert_eq!(with.uncovered_without(|_| true).len(), 30);
    assert_same(&with, &without);
    // Segments come and go.
    for gone in [0, 7, 19] {
        with.drop_segment(&all[gone].record().hash);
        without.drop_segment(&all[gone].record().hash);
    }
    for index in [&mut with, &mut without] {
        index.push(segment(40, 0..4000));
        index.drop_first(2);
    }
    assert_eq!(with.segments().len(), 26);
    for chunk in 0..4100 {
        assert!(with.copies(&id(chunk)).eq(without.copies(&id(chunk))), "{chunk}");
    }
}

#[test]
fn what_is_spoilt_is_seen_and_gives_no_wrong_record() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("directory");
    let all = segments();
    let name = name(all.iter().map(|segment| segment.record().hash));
    drop(directory(&all, Some(&path)));
    let good = std::fs::read(&path).unwrap();
    let without = index(&all);
    let mut opened = 0;
    for place in (0..good.len()).step_by(997) {
        let mut bytes = good.clone();
        bytes[place] ^= 0x81;
        std::fs::write(&path, bytes).unwrap();
        let Some(spoilt) = Directory::open(&path, &name) else { continue };
        assert!(!spoilt.is_whole(), "{place}");
        opened += 1;
        let mut with = without.clone();
        with.use_directories([Arc::new(spoilt)]);
        for chunk in (0..4100).step_by(7) {
            let known: Vec<Found> = without.copies(&id(chunk)).collect();
            assert!(with.copies(&id(chunk)).all(|found| known.contains(&found)), "{place}");
        }
    }
    assert!(opened > 100, "{opened}");
    for length in 0..300 {
        std::fs::write(&path, &good[..length]).unwrap();
        assert!(Directory::open(&path, &name).is_none(), "{length}");
    }
}

#[test]
fn a_segment_out_of_order_is_not_sound() {
    let sound = segment(1, 0..100);
    assert!(sound.is_sound());
    let mut plain = plain(1, 0..100);
    let (first, second) = (64 + 24, 64 + 24 + 56);
    let (a, b) = plain.split_at_mut(second);
    a[first..first + 32].swap_with_slice(&mut b[..32]);
    let spoilt = Segment::keep(&Cache::default(), sound.record().clone(), plain).unwrap();
    assert!(!spoilt.is_sound());
}
