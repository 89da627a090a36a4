//! Properties of all objects: what is written is read back; a sealed object that was changed anywhere is refused;
//! decoders survive any bytes.

use std::collections::BTreeMap;

mod acts;
mod tables;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

use super::golden::*;
use super::log::{self, Act, Opened};
use super::marker::Marker;
use super::names::{PackName, log_object};
use super::node::{self, LeafWriter, Node};
use super::pack::{self, BlobKind, BlobRecord, PackWriter};
use super::segment::{Location, SegmentBuilder, SegmentView};
use super::session;
use super::slot::{self, Lock, Role, Unlock};
use crate::buffer::Buffer;
use crate::clock::Timestamp;
use crate::crypto::{envelope, object_hash};
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup, TableRef, TreeKey};
use crate::error::Error;
use crate::ids::{ChunkId, SessionId};

// Generators.

fn chunk_id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn extents() -> impl Strategy<Value = Vec<Extent>> {
    let hole = any::<u64>().prop_map(|length| Extent::Hole { length });
    let chunk = (chunk_id(), 0..=8u32 << 20).prop_map(|(id, length)| Extent::Chunk { id, length });
    vec(prop_oneof![3 => chunk, 1 => hole], 0..6).prop_map(|mut extents| {
        extents.dedup_by(|right, left| matches!((left, right), (Extent::Hole { .. }, Extent::Hole { .. })));
        extents
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let indirect = (1..4u8, chunk_id(), 0..=8u32 << 20);
    prop_oneof![
        vec(any::<u8>(), 0..40).prop_map(|bytes| Kind::File(Content::Inline(bytes))),
        extents().prop_map(|extents| Kind::File(Content::Extents(extents))),
        indirect.prop_map(|(depth, id, length)| Kind::File(Content::Indirect { depth, id, length })),
        Just(Kind::Directory),
        vec(any::<u8>(), 0..40).prop_map(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice(major, minor)),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice(major, minor)),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let owner = (any::<u32>(), any::<u32>(), option::of("[a-zé]{0,9}"), option::of("[a-zé]{0,9}"));
    let times = (timestamp(), timestamp(), option::of(timestamp()));
    let inode = (any::<u64>(), any::<u64>(), option::of(any::<(u32, u64)>()), any::<u32>());
    let xattrs = vec((vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20)), 0..3);
    let table = option::of((chunk_id(), 0..=8u32 << 20).prop_map(|(id, length)| TableRef { id, length }));
    (kind(), 0..=0o7777u32, owner, times, inode, xattrs, table).prop_map(
        |(kind, mode, (uid, gid, user, group), (mtime, ctime, btime), (size, inode, links, flags), xattrs, table)| {
            let links = links.map(|(device, inode)| LinkGroup { device, inode });
            let table = table.filter(|_| matches!(kind, Kind::File(_)));
            Entry { kind, mode, uid, gid, user, group, mtime, ctime, btime, size, inode, links, xattrs, flags, table }
        },
    )
}

/// A tree of few different names, so that keys share much.
fn tree() -> impl Strategy<Value = BTreeMap<TreeKey, Entry>> {
    let name = prop_oneof![
        Just(b"a".to_vec()),
        Just(b"...".to_vec()),
        Just(vec![0xff, 1]),
        "[a-c]{1,3}".prop_map(String::into_bytes)
    ];
    let key = vec(name, 0..5).prop_map(|components| TreeKey(components.join(&0)));
    btree_map(key, entry(), 0..20)
}

/// Changes of bytes that leave most of them as they were.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    // Heads of arrays, maps and strings that claim much, beside any bytes.
    let heads = vec![
        vec![0x9b, 0, 0, 1, 0, 0, 0, 0, 0],
        vec![0xbb; 9],
        vec![0x5b; 9],
        vec![0x9f],
        vec![0xbf],
        vec![0xff],
        vec![0x9b; 9],
    ];
    let inserted = prop_oneof![proptest::sample::select(heads), vec(any::<u8>(), 1..9)];
    prop_oneof![
        any::<(Index, u8)>().prop_map(|(place, byte)| Change::Set(place, byte)),
        (any::<Index>(), 0..8u8).prop_map(|(place, bit)| Change::Flip(place, bit)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), inserted).prop_map(|(place, bytes)| Change::Insert(place, bytes)),
        (any::<Index>(), 1..40usize).prop_map(|(place, count)| Change::Remove(place, count)),
    ]
}

fn changed(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        match change {
            Change::Set(place, byte) => *place.get_mut(&mut bytes) = *byte,
            Change::Flip(place, bit) => *place.get_mut(&mut bytes) ^= 1 << bit,
            Change::Cut(place) => bytes.truncate(place.index(bytes.len())),
            Change::Insert(place, new) => {
                let at = place.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(place, count) => {
                let at = place.index(bytes.len());
                let end = bytes.len().min(at + count);
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

// What is written is read back.

proptest! {
    #[test]
    fn leaves_round_trip(tree in tree()) {
        let entries: Vec<_> = tree.into_iter().collect();
        prop_assert_eq!(node::decode_node(&leaf(&entries)).unwrap(), Node::Leaf(entries));
    }

    #[test]
    fn single_entries_round_trip(tree in tree()) {
        let mut bytes = Vec::new();
        tree.iter().for_each(|(key, entry)| node::encode_single(key, entry, &mut bytes));
        let mut rest = bytes.as_slice();
        for (key, entry) in tree {
            prop_assert_eq!(node::decode_single(&mut rest).unwrap(), (key, entry));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn extents_round_trip(extents in extents()) {
        prop_assert_eq!(node::decode_extents(&node::encode_extents(&extents)).unwrap(), extents);
    }

    #[test]
    fn packs_round_trip(payloads in vec((chunk_id(), option::of(chunk_id()), vec(any::<u8>(), 0..300)), 0..20)) {
        let mut writer = PackWriter::new(PACK, BlobKind::Tree, REPOSITORY, pack_cipher(), Buffer::default());
        let body = |base: &Option<ChunkId>, payload: &[u8]| {
            let codec = if base.is_some() { 2 } else { 0 };
            let base: &[u8] = base.as_ref().map_or(&[], |id| id.as_bytes());
            [&[codec, 0, 0, 0, 9, 0, 0, 0], base, payload].concat()
        };
        payloads.iter().for_each(|(id, base, payload)| { writer.push(id, &body(base, payload)); });
        let (bytes, written) = writer.finish(&index_key());
        let trailer = pack::check_pack(&PACK, &bytes).unwrap();
        let footer = &bytes[trailer.footer().start as usize..trailer.footer().end as usize];
        let records = pack::decode_footer(&index_key(), &PACK, footer).unwrap();
        prop_assert!(trailer.fits(&records));
        prop_assert_eq!(&records, &written);
        for (record, (id, base, payload)) in records.iter().zip(&payloads) {
            let start = record.offset as usize;
            let mut blob = bytes[start..start + 48 + record.sealed_len as usize].to_vec();
            let place = pack::open_blob(&pack_cipher(), &PACK, 0, &mut blob, id).unwrap();
            prop_assert_eq!(&blob[place], body(base, payload));
            prop_assert_eq!((record.id, record.base), (*id, *base));
        }
    }

    #[test]
    fn segments_agree_with_a_map(
        ids in vec(spread_and_near_ids(), 0..300),
        others in vec(spread_and_near_ids(), 0..20),
    ) {
        let mut builder = SegmentBuilder::new();
        let mut model = BTreeMap::new();
        for (number, id) in (0u32..).zip(&ids) {
            let pack = PackName { session: SessionId([(number % 3) as u8; 16]), counter: u64::from(number % 5) };
            let base = (number % 4 == 0).then_some(ChunkId([(number % 7) as u8; 32]));
            let codec = if base.is_some() { 2 } else { 3 };
            let (offset, sealed_len, plain_len) = (64 + number, 24 + number, number);
            let blob = BlobRecord { id: *id, offset, sealed_len, plain_len, codec, base };
            let kind = if number % 2 == 0 { BlobKind::Data } else { BlobKind::Tree };
            builder.push(pack, kind, &blob);
            model.entry(*id).or_insert(Location { pack, offset, sealed_len, plain_len, codec, kind, base });
        }
        let bytes = builder.finish();
        let view = SegmentView::parse(&bytes).unwrap();
        view.check().unwrap();
        prop_assert_eq!(view.len(), model.len());
        for id in ids.iter().chain(&others) {
            prop_assert_eq!(view.find(id), model.get(id).copied());
        }
        let listed: Vec<_> = (0..view.len()).map(|index| view.record(index).unwrap()).collect();
        prop_assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
    }
}

/// Ids as hashes are, few different ones, and ones that share their first bytes, which interpolation has to bear.
fn spread_and_near_ids() -> impl Strategy<Value = ChunkId> {
    let few = any::<u8>().prop_map(|byte| ChunkId([byte; 32]));
    let near = any::<([u8; 2], [u8; 2])>().prop_map(|(middle, tail)| {
        let mut id = [0x42; 32];
        id[7..9].copy_from_slice(&middle);
        id[30..].copy_from_slice(&tail);
        ChunkId(id)
    });
    prop_oneof![chunk_id(), few, near]
}

// What was sealed and then changed is refused.

/// Calls `refused` with every version of `sealed` that has one bit flipped, is cut short or has a byte more.
fn every_damage(sealed: &[u8], mut refused: impl FnMut(&[u8]) -> bool) {
    for place in 0..sealed.len() {
        for bit in 0..8 {
            let mut bytes = sealed.to_vec();
            bytes[place] ^= 1 << bit;
            assert!(refused(&bytes), "bit {bit} of byte {place} was flipped");
        }
        assert!(refused(&sealed[..place]), "cut to {place} bytes");
    }
    assert!(refused(&[sealed, &[0]].concat()), "one byte more");
    assert!(!refused(sealed), "unchanged");
}

#[test]
fn damaged_envelopes_are_refused() {
    for plain in [&b""[..], b"twelve bytes"] {
        let sealed = envelope::seal(&log_key(), "name", plain);
        every_damage(&sealed, |bytes| envelope::open(&log_key(), "name", bytes).is_err());
        every_damage(&sealed, |bytes| envelope::open_stream(&log_key(), "name", bytes, &mut |_| Ok(())).is_err());
    }
}

#[test]
fn damaged_log_entries_are_refused() {
    let sealed = log::seal(&init_entry(), &log_key(), &signer());
    every_damage(&sealed, |bytes| log::open(0, bytes, &log_key()).is_err());
    assert!(log::open(1, &sealed, &log_key()).is_err(), "another number");
    assert!(log::open(0, &sealed, &index_key()).is_err(), "another key");
}

#[test]
fn damaged_packs_are_refused() {
    let (sealed, records) = sealed_pack();
    every_damage(&sealed, |bytes| pack::check_pack(&PACK, bytes).is_err());
    let other = PackName { counter: 8, ..PACK };
    assert!(pack::check_pack(&other, &sealed).is_err(), "another name");
    let trailer = pack::check_pack(&PACK, &sealed).unwrap();
    let footer = &sealed[trailer.footer().start as usize..trailer.footer().end as usize];
    every_damage(footer, |bytes| pack::decode_footer(&index_key(), &PACK, bytes).is_err());
    assert!(pack::decode_footer(&index_key(), &other, footer).is_err(), "another pack's footer");
    let first = &sealed[64..records[1].offset as usize];
    every_damage(first, |bytes| {
        pack::open_blob(&pack_cipher(), &PACK, 64, &mut bytes.to_vec(), &records[0].id).is_err()
    });
    let opened = pack::open_blob(&pack_cipher(), &PACK, 64, &mut first.to_vec(), &records[1].id);
    assert!(opened.is_err(), "another chunk's blob");
}

#[test]
fn a_damaged_slot_never_gives_other_keys() {
    let unlock = Unlock::KeyFile(secret(0x55));
    let ring = ring(Role::Reader);
    let sealed = slot::seal(&ring, &unlock.lock().unwrap(), &SLOT, "", 0, SMALL_COST).unwrap();
    // The last byte is the creation time, which is for people only.
    let (kept, time) = sealed.split_at(sealed.len() - 1);
    every_damage(kept, |bytes| {
        let bytes = [bytes, time].concat();
        !matches!(slot::open(&bytes, &SLOT, &unlock, &REPOSITORY), Ok(Some(_)))
    });
    assert!(
        slot::open(&sealed, &crate::ids::SlotId([0; 16]), &unlock, &REPOSITORY).unwrap().is_none(),
        "another slot's name"
    );
}

#[test]
fn who_has_the_log_key_cannot_change_what_another_signed() {
    let sealed = log::seal(&commit_entry(), &log_key(), &signer());
    let plain = envelope::open(&log_key(), &log_object(1), &sealed).unwrap();
    let mut decoded = 0;
    every_damage(&plain, |bytes| match resealed(bytes) {
        Opened::Entry(opened) => {
            decoded += 1;
            !opened.verify(&signer().public())
        }
        Opened::Malformed(_) => true,
    });
    assert!(decoded > 1_000, "most flipped bits still decode: {decoded}");
}

/// What is read of these plain bytes at number 1, sealed by somebody with the log key.
fn resealed(plain: &[u8]) -> Opened {
    log::open(1, &envelope::seal(&log_key(), &log_object(1), plain), &log_key()).unwrap()
}

#[test]
fn acts_of_the_future_are_named() {
    let sealed = |act: u8| {
        let mut plain = vec![0x88, 0x01, 0x58, 0x20];
        plain.extend([7; 32]);
        plain.extend(
            [[0x50].as_slice(), &[1; 16], &[0x50], &[2; 16], &[0x00, act, 0xa1, 0x00, 0x01, 0x58, 0x40], &[0; 64]]
                .concat(),
        );
        plain
    };
    for (act, name) in [(9, "a CHECKPOINT"), (12, "an act number 12"), (23, "an act number 23")] {
        match resealed(&sealed(act)) {
            Opened::Entry(opened) => assert_eq!(opened.act, Err(name.to_owned())),
            other => panic!("{other:?}"),
        }
    }
}

// Decoders survive any bytes.

/// Runs every decoder of plain bytes on `bytes`; for the sealed objects, as a member who has the keys could store it.
fn decode_everything(bytes: &[u8]) {
    if let Ok(Node::Leaf(entries)) = node::decode_node(bytes) {
        // What is accepted can be written again, and means the same.
        assert_eq!(node::decode_node(&leaf(&entries)).unwrap(), Node::Leaf(entries));
    }
    if let Ok(extents) = node::decode_extents(bytes) {
        assert_eq!(node::decode_extents(&node::encode_extents(&extents)).unwrap(), extents);
    }
    if let Ok((key, entry)) = node::decode_single(&mut &*bytes) {
        LeafWriter::new().push(&key, &entry);
    }
    if let Ok(view) = SegmentView::parse(bytes) {
        let sound = view.check().is_ok();
        for number in 0..120u32 {
            let id = ChunkId(object_hash(&number.to_le_bytes()).0);
            let found = view.find(&id);
            assert!(!sound || found.is_some() == (0..view.len()).any(|index| view.record(index).unwrap().0 == id));
        }
        assert!((0..=view.len()).filter_map(|index| view.record(index)).count() <= view.len());
        assert!(view.packs().count() <= bytes.len());
    }
    let _ = Marker::decode(bytes);
    let _ = session::decode(&SESSION, 3, bytes);
    let _ = slot::describe(bytes, &SLOT);
    let _ = slot::open(bytes, &SLOT, &Unlock::KeyFile(secret(0x55)), &REPOSITORY);
    let _ = slot::parse_key_file(&String::from_utf8_lossy(bytes));
    let _ = pack::decode_header(&PACK, bytes);
    let _ = pack::decode_trailer(&PACK, bytes.len() as u64, bytes);
    let _ = pack::check_pack(&PACK, bytes);
    let _ = pack::open_blob(&pack_cipher(), &PACK, 0, &mut bytes.to_vec(), &ChunkId([0xA1; 32]));
    let _ = envelope::open(&log_key(), "a", bytes);
    let _ = log::open(1, &envelope::seal(&log_key(), &log_object(1), bytes), &log_key());
    let footer = envelope::seal(&index_key(), &PACK.footer(), bytes);
    if let Ok(records) = pack::decode_footer(&index_key(), &PACK, &footer) {
        let end = |record: &BlobRecord| u64::from(record.offset) + 48 + u64::from(record.sealed_len);
        assert!(records.iter().all(|record| end(record) <= crate::units::PACK_BYTES_MAX));
    }
    let _ = slot::tests::open_ring(bytes);
}

/// Plain bytes of every object.
fn plain_objects() -> Vec<Vec<u8>> {
    let (sealed, _) = sealed_pack();
    let trailer = pack::check_pack(&PACK, &sealed).unwrap();
    let footer = &sealed[trailer.footer().start as usize..trailer.footer().end as usize];
    let commit = log::seal(&commit_entry(), &log_key(), &signer());
    let extents = [Extent::Hole { length: 1 << 20 }, Extent::Chunk { id: ChunkId([1; 32]), length: 5 }];
    let child =
        |first: &str, id| node::Child { first: TreeKey(first.into()), id: ChunkId([id; 32]), entries: 3, bytes: 9 };
    let ring = ring(Role::Owner);
    let lock = Lock::KeyFile(secret(0x55));
    vec![
        leaf(&entries()),
        node::encode_inner(2, &[child("", 1), child("usr", 2)]),
        node::encode_extents(&extents),
        segment_bytes(),
        Marker::new(REPOSITORY, true).encode(),
        session::encode(SESSION, 3, &[1; 32], &[2; 48]),
        slot::seal(&ring, &lock, &SLOT, "kit", 99, SMALL_COST).unwrap(),
        slot::tests::ring_bytes(&ring),
        envelope::open(&index_key(), &PACK.footer(), footer).unwrap(),
        envelope::open(&log_key(), &log_object(1), &commit).unwrap(),
        sealed,
    ]
}

#[test]
fn every_prefix_of_every_object_is_survived() {
    for object in plain_objects() {
        (0..=object.len()).for_each(|length| decode_everything(&object[..length]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn changed_objects_are_survived(
        object in proptest::sample::select(plain_objects()),
        changes in vec(change(), 1..4),
    ) {
        decode_everything(&changed(&object, &changes));
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200)) {
        decode_everything(&bytes);
    }
}

// Particular refusals.

#[test]
fn nodes_refuse_what_no_tree_has() {
    let item = |shared: u8, rest: &[u8]| {
        let mut item = vec![0xa2, 0x00, shared, 0x01, 0x40 | rest.len() as u8];
        item.extend_from_slice(rest);
        item
    };
    let node = |items: &[Vec<u8>]| [vec![0x82, 0x00, 0x80 | items.len() as u8], items.concat()].concat();
    assert!(node::decode_node(&node(&[item(0, b"a"), item(0, b"b"), item(1, b"\0c")])).is_ok());
    for (name, items) in [
        ("equal keys", vec![item(0, b"a"), item(0, b"a")]),
        ("descending keys", vec![item(0, b"b"), item(0, b"a")]),
        ("more shared than there was", vec![item(0, b"a"), item(2, b"b")]),
        ("an empty component", vec![item(0, b"a\0\0b")]),
        ("an empty component at the end", vec![item(0, b"a\0")]),
        ("an empty component at the start", vec![item(0, b"\0a")]),
        ("an empty component over the seam", vec![item(0, b"a\0b"), item(2, b"\0c")]),
        ("the parent", vec![item(0, b"a\0..\0b")]),
        ("the parent over the seam", vec![item(0, b"a\0.!"), item(3, b".")]),
        ("the directory itself", vec![item(0, b".")]),
        ("a slash", vec![item(0, b"a/b")]),
        ("two kinds of content", vec![[vec![0xa3, 0x01, 0x41, b'a', 0x12, 0x41, 1, 0x13, 0x80]].concat()]),
        ("a link target of a file", vec![vec![0xa2, 0x01, 0x41, b'a', 0x11, 0x41, b'b']]),
        ("a mode with other bits", vec![vec![0xa2, 0x01, 0x41, b'a', 0x03, 0x19, 0x10, 0x00]]),
        ("descending fields", vec![vec![0xa2, 0x03, 0x01, 0x01, 0x41, b'a']]),
        ("a field twice", vec![vec![0xa2, 0x01, 0x41, b'a', 0x01, 0x41, b'b']]),
        ("a device without number", vec![vec![0xa2, 0x01, 0x41, b'a', 0x02, 0x05]]),
        ("too many nanoseconds", vec![vec![0xa2, 0x01, 0x41, b'a', 0x08, 0x82, 0x00, 0x1a, 0x3b, 0x9a, 0xca, 0x00]]),
    ] {
        assert!(node::decode_node(&node(&items)).is_err(), "{name}");
    }
    let unknown_field = [0xa2, 0x01, 0x41, b'a', 0x18, 0x63, 0x82, 0x01, 0xa1, 0x00, 0x00].to_vec();
    assert!(node::decode_node(&node(&[unknown_field])).is_ok(), "unknown fields are skipped");
}

#[test]
fn keys_that_can_be_stored() {
    let of = |bytes: &[u8]| node::is_storable(&TreeKey(bytes.to_vec()));
    assert!(of(b"") && of(b"a\0...") && of(b"\xff") && of(&vec![b'a'; node::KEY_BYTES_MAX]));
    assert!(!of(b"..") && !of(b"a\0/") && !of(&vec![b'a'; node::KEY_BYTES_MAX + 1]));
}

#[test]
fn long_shared_keys_do_not_multiply() {
    // One key of 64 KiB whose bytes thousands of entries share: 11 bytes each stored, 64 KiB each in memory.
    let mut items = vec![0x82, 0x00, 0x99, 0x20, 0x00, 0xa1, 0x01, 0x59, 0xff, 0x00];
    items.extend(vec![b'a'; 0xff00]);
    for number in 0..0x1fffu32 {
        items.extend([0xa2, 0x00, 0x19, 0xff, 0x00, 0x01, 0x44]);
        items.extend(format!("{number:04x}").into_bytes());
    }
    // Why not unwrap_err: it would print half a gigabyte of keys.
    let Err(damaged) = node::decode_node(&items) else { panic!("decoded") };
    assert!(damaged.why.contains("a key that no entry can have"), "{damaged}");
    let mut writer = LeafWriter::new();
    let long = TreeKey(vec![b'a'; node::KEY_BYTES_MAX - 4]);
    let mut pushed = 0u32;
    while !writer.is_full() {
        let name = format!("{pushed:04}");
        writer.push(&TreeKey([long.0.as_slice(), name.as_bytes()].concat()), &plain_entry(Kind::Directory));
        pushed += 1;
    }
    assert!(matches!(node::decode_node(&writer.take()), Ok(Node::Leaf(entries)) if entries.len() == pushed as usize));
}

#[test]
fn holes_in_a_row_become_one() {
    let hole = |length| Extent::Hole { length };
    let chunk = Extent::Chunk { id: ChunkId([1; 32]), length: 3 };
    let encoded = node::encode_extents(&[hole(1), hole(2), chunk, hole(u64::MAX), hole(5)]);
    assert_eq!(node::decode_extents(&encoded).unwrap(), [hole(3), chunk, hole(u64::MAX)]);
    assert!(node::decode_extents(&[0x82, 0x01, 0x02]).is_err());
}

#[test]
fn broken_clocks_of_file_systems_can_be_stored() {
    let mtime = Timestamp { seconds: 3, nanos: u32::MAX };
    let mut bytes = Vec::new();
    let entry = Entry { mtime, mode: 0o100_644, ..plain_entry(Kind::Fifo) };
    node::encode_single(&TreeKey(b"a".to_vec()), &entry, &mut bytes);
    let (_, read) = node::decode_single(&mut bytes.as_slice()).unwrap();
    assert_eq!((read.mtime, read.mode), (Timestamp { seconds: 3, nanos: 999_999_999 }, 0o644));
}

#[test]
fn markers_say_why_they_are_refused() {
    let text = |change: &dyn Fn(&mut Marker)| {
        let mut marker = Marker::new(REPOSITORY, false);
        change(&mut marker);
        Marker::decode(&marker.encode()).unwrap_err()
    };
    assert!(matches!(text(&|marker| marker.format = 2), Error::Unsupported(_)));
    assert!(
        matches!(text(&|marker| marker.required = vec!["tape".into()]), Error::Unsupported(text) if text.contains("tape"))
    );
    assert!(matches!(text(&|marker| drop(marker.suites.insert("aead".into(), "rot13".into()))), Error::Unsupported(_)));
    assert!(matches!(text(&|marker| drop(marker.suites.remove("kdf"))), Error::Damaged(_)));
    assert!(matches!(Marker::decode(b"{\"format\": 2, \"new\": 1}"), Err(Error::Unsupported(_))));
    assert!(matches!(Marker::decode(b"not json"), Err(Error::Damaged(_))));
}

#[test]
fn log_numbers_and_the_chain_belong_together() {
    let sealed = log::seal(&commit_entry(), &log_key(), &signer());
    let mut plain = envelope::open(&log_key(), &log_object(1), &sealed).unwrap();
    plain[1] = 2;
    assert!(matches!(resealed(&plain), Opened::Malformed(why) if why.contains("another number")));
    let mut entry = commit_entry();
    let Act::Commit { segments, .. } = &mut entry.act else { panic!("a commit") };
    segments[0].name.counter = 10_000_000_000;
    let sealed = log::seal(&entry, &log_key(), &signer());
    let Opened::Entry(opened) = log::open(1, &sealed, &log_key()).unwrap() else { panic!("an entry") };
    assert!(opened.verify(&signer().public()) && opened.act.is_err(), "no object has that name");
}
