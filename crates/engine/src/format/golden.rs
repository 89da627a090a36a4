//! Golden bytes: every object for fixed inputs, compared with golden.txt, which golden.py made from docs/format.md
//! alone. What is compared is also read back, so old bytes stay readable.

pub(super) mod acts;
mod tables;

use std::collections::{HashMap, HashSet};

use zeroize::Zeroizing;

use super::log::{self, Act, LogEntry, MemberRecord, Opened, OpenedEntry, SegmentRecord, SnapshotRecord};
use super::marker::Marker;
use super::names::{PackName, SegmentName};
use super::node::{self, Child, LeafWriter, Node};
use super::pack::{self, BlobKind, BlobRecord, PackWriter};
use super::parity::Parity;
use super::segment::{SegmentBuilder, SegmentView};
use super::session;
use super::slot::{self, Contents, KeyRing, Role, SlotKind, Unlock};
use crate::buffer::Buffer;
use crate::clock::Timestamp;
use crate::crypto::blob::PackCipher;
use crate::crypto::passphrase::Cost;
use crate::crypto::sign::SigningKey;
use crate::crypto::wrap::{self, DataSecretKey};
use crate::crypto::{IdKey, Secret32, envelope, object_hash};
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup, TreeKey};
use crate::ids::{ChunkId, MemberId, ObjectHash, RepositoryId, SessionId, SlotId, SnapshotId};

pub(super) const REPOSITORY: RepositoryId = RepositoryId([0x10; 16]);
pub(super) const SESSION: SessionId = SessionId([0x20; 16]);
pub(super) const MEMBER: MemberId = MemberId([0x30; 16]);
pub(super) const SLOT: SlotId = SlotId([0x40; 16]);
pub(super) const PACK: PackName = PackName { session: SESSION, counter: 7 };
pub(super) const SMALL_COST: Cost = Cost { memory_kib: 64, passes: 2, lanes: 2 };
const SALT: [u8; 32] = [0x77; 32];
const SLOT_SALT: [u8; 16] = [0x66; 16];

pub(super) fn secret(byte: u8) -> Secret32 {
    Secret32::new([byte; 32])
}

pub(super) fn index_key() -> Secret32 {
    secret(3)
}

pub(super) fn log_key() -> Secret32 {
    secret(4)
}

pub(super) fn golden(name: &str) -> Vec<u8> {
    let rows = include_str!("golden.txt").lines().map(|line| line.split_once(' ').unwrap());
    let rows: HashMap<_, _> = rows.collect();
    let digits = rows[name].as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[track_caller]
fn check(name: &str, bytes: &[u8]) {
    let expected = golden(name);
    let differ = bytes.iter().zip(&expected).position(|(left, right)| left != right);
    assert!(bytes == expected, "{name}: {} bytes, expected {}, differ at {differ:?}", bytes.len(), expected.len());
}

#[test]
fn chunk_ids() {
    check("chunk-id", IdKey::new(&secret(1)).chunk_id(b"hello").as_bytes());
}

#[test]
fn envelopes() {
    let name = "log/00000000000000000012";
    check("envelope", &envelope::seal_with_salt(&log_key(), name, b"hello", &SALT));
    check("envelope-empty", &envelope::seal_with_salt(&log_key(), "a", b"", &SALT));
    let plain = [vec![0x61; 1 << 20], b"b".to_vec()].concat();
    let sealed = envelope::seal_with_salt(&log_key(), "a", &plain, &SALT);
    check("envelope-blocks-hash", object_hash(&sealed).as_bytes());
    assert_eq!(envelope::open(&log_key(), name, &golden("envelope")).unwrap(), b"hello");
    assert_eq!(envelope::open(&log_key(), "a", &golden("envelope-empty")).unwrap(), b"");
}

#[test]
fn marker() {
    let marker = Marker::new(REPOSITORY, false);
    check("marker", &marker.encode());
    assert_eq!(Marker::decode(&golden("marker")).unwrap(), marker);
}

pub(super) fn ring(role: Role) -> KeyRing {
    let data_secret = DataSecretKey::from_bytes([0x48; 32]);
    KeyRing {
        role,
        repository: REPOSITORY,
        member: MEMBER,
        id_key: secret(1),
        chunker_key: secret(2),
        index_key: index_key(),
        log_key: log_key(),
        data_public: data_secret.public(),
        data_secret: (role != Role::Member).then_some(data_secret),
        signing_seed: secret(5),
        generation: 3,
    }
}

#[test]
fn slots() {
    let passphrase = Unlock::Passphrase(Zeroizing::new("grüße".as_bytes().to_vec()));
    let key_file = Unlock::KeyFile(secret(0x55));
    for (name, role, unlock, other, label, created_seconds) in [
        ("slot-key-file", Role::Owner, &key_file, &passphrase, "kit", 1_800_000_000),
        ("slot-passphrase", Role::Member, &passphrase, &key_file, "", -1),
    ] {
        let ring = ring(role);
        let (kind, whole) = match unlock {
            Unlock::Passphrase(text) => (SlotKind::Passphrase(SMALL_COST), text.to_vec()),
            _ => (SlotKind::KeyFile, vec![0x55; 32]),
        };
        let key = slot::purpose_key(&kind, &whole, &SLOT_SALT, &REPOSITORY).unwrap();
        let contents = Contents { ring: &ring, kind, label, created_seconds };
        check(name, &contents.seal(&SLOT, &key, &SLOT_SALT, &SALT));
        let stored = golden(name);
        assert_eq!(slot::open(&stored, &SLOT, unlock, &REPOSITORY).unwrap(), Some(ring));
        assert_eq!(slot::open(&stored, &SLOT, other, &REPOSITORY).unwrap(), None);
        let info = slot::describe(&stored, &SLOT).unwrap();
        assert_eq!((info.role, info.label.as_str(), info.created_seconds), (role, label, created_seconds));
    }
}

#[test]
fn session_records() {
    let stored = golden("session");
    let record = session::decode(&SESSION, 3, &stored).unwrap();
    check("session", &session::encode(SESSION, 3, &record.encapsulated, &record.ciphertext));
    let secret_key = DataSecretKey::from_bytes([0x48; 32]);
    let open = |repository: &RepositoryId, session: &SessionId, generation| {
        wrap::open_session_key(&secret_key, repository, session, generation, &record.encapsulated, &record.ciphertext)
    };
    assert_eq!(open(&REPOSITORY, &SESSION, 3), Some(secret(6)));
    assert_eq!(open(&REPOSITORY, &SESSION, 4), None);
    assert_eq!(open(&RepositoryId([0; 16]), &SESSION, 3), None);
    assert_eq!(open(&REPOSITORY, &SessionId([0; 16]), 3), None);
}

pub(super) fn bodies() -> Vec<(ChunkId, Vec<u8>)> {
    let raw = [&[0, 0, 0, 0], &5u32.to_le_bytes()[..], b"hello"].concat();
    let constant = [&[5, 0, 0, 0], &1_000_000u32.to_le_bytes()[..], b"z"].concat();
    let based = [&[2, 0, 0, 0], &9u32.to_le_bytes()[..], &[0xC3; 32], b"not zstd"].concat();
    vec![(ChunkId([0xA1; 32]), raw), (ChunkId([0xB2; 32]), constant), (ChunkId([0x93; 32]), based)]
}

pub(super) fn pack_cipher() -> PackCipher {
    PackCipher::new(&secret(6), &PACK)
}

pub(super) fn sealed_pack() -> (Vec<u8>, Vec<BlobRecord>) {
    sealed_pack_with(None)
}

pub(super) fn sealed_pack_with(parity: Option<Parity>) -> (Vec<u8>, Vec<BlobRecord>) {
    let writer = PackWriter::new(PACK, BlobKind::Data, REPOSITORY, pack_cipher(), Buffer::default());
    let mut writer = writer.with_parity(parity);
    let pushed: Vec<_> = bodies().iter().map(|(id, body)| writer.push(id, body)).collect();
    assert_eq!(writer.count(), pushed.len());
    let (bytes, records) = writer.finish_with_salt(&index_key(), &SALT);
    assert_eq!(records, pushed);
    (bytes.to_vec(), records)
}

#[test]
fn packs() {
    let (bytes, records) = sealed_pack();
    check("pack", &bytes);
    assert_eq!(
        pack::decode_header(&PACK, &bytes).unwrap(),
        pack::Header { kind: BlobKind::Data, repository: REPOSITORY }
    );
    let trailer = pack::check_pack(&PACK, &bytes).unwrap();
    assert_eq!(pack::decode_trailer(&PACK, bytes.len() as u64, &bytes[bytes.len() - 64..]).unwrap(), trailer);
    let footer = &bytes[trailer.footer().start as usize..trailer.footer().end as usize];
    assert_eq!(pack::decode_footer(&index_key(), &PACK, footer).unwrap(), records);
    assert!(trailer.fits(&records) && !trailer.fits(&records[..2]));
    let expected: Vec<_> =
        bodies().iter().map(|(id, body)| (*id, body[0], u32::from_le_bytes(body[4..8].try_into().unwrap()))).collect();
    assert_eq!(records.iter().map(|record| (record.id, record.codec, record.plain_len)).collect::<Vec<_>>(), expected);
    assert_eq!(records.iter().map(|record| record.base).collect::<Vec<_>>(), [None, None, Some(ChunkId([0xC3; 32]))]);
    for (record, (id, body)) in records.iter().zip(bodies()) {
        let start = record.offset as usize;
        let mut blob = bytes[start..start + 48 + record.sealed_len as usize].to_vec();
        let place = pack::open_blob(&pack_cipher(), &PACK, u64::from(record.offset), &mut blob, &id).unwrap();
        assert_eq!(blob[place], body);
    }
}

pub(super) fn segment_bytes() -> Vec<u8> {
    let packs = [PACK, PackName { session: SessionId([0x21; 16]), counter: 0 }];
    let mut builder = SegmentBuilder::new();
    for n in 0..100u32 {
        let base = (n % 10 == 0).then_some(ChunkId([0xC3; 32]));
        let blob = BlobRecord {
            id: ChunkId(object_hash(&n.to_le_bytes()).0),
            offset: 64 + 1000 * n,
            sealed_len: 100 + n,
            plain_len: 200 + n,
            codec: if base.is_some() { 2 } else { 1 },
            base,
        };
        let second = (n % 2) as usize;
        builder.push(packs[second], [BlobKind::Data, BlobKind::Tree][second], &blob);
        // A later record of the same chunk does not count.
        builder.push(packs[0], BlobKind::Data, &BlobRecord { offset: 64, ..blob });
    }
    builder.finish()
}

#[test]
fn segments() {
    check("segment", &segment_bytes());
    let stored = golden("segment");
    let view = SegmentView::parse(&stored).unwrap();
    view.check().unwrap();
    assert_eq!(view.len(), 100);
    assert_eq!(view.packs().collect::<HashSet<_>>().len(), 2);
}

fn snapshot() -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId([0x50; 16]),
        time: Timestamp { seconds: 1_800_000_000, nanos: 999_999_999 },
        host: "node7".into(),
        user: "root".into(),
        paths: vec![b"/srv".to_vec(), b"/\xff".to_vec()],
        tags: vec!["a".into(), "b".into()],
        root: ChunkId([0xD4; 32]),
        entries: 10,
        files: 7,
        bytes: 1 << 40,
        labels: vec![("job".into(), "nightly".into())],
        program: "seawall 0.1.0".into(),
        problems: 1,
        parent: Some(SnapshotId([0x51; 16])),
        bytes_read: 5_000,
        bytes_stored: 4_000,
        duration_ms: 61_000,
    }
}

pub(super) fn signer() -> SigningKey {
    SigningKey::from_seed(&secret(5))
}

pub(super) fn init_entry() -> LogEntry {
    let member = MemberRecord {
        id: MEMBER,
        public_key: signer().public(),
        role: Role::Owner,
        label: "owner".into(),
        wrap_public: None,
        slot: None,
        slot_hash: None,
    };
    let act = Act::Init {
        marker: object_hash(&golden("marker")),
        member,
        data_public: *ring(Role::Owner).data_public.as_bytes(),
        generation: 0,
    };
    LogEntry { number: 0, previous: None, repository: REPOSITORY, member: MEMBER, time_ms: 1_800_000_000_123, act }
}

pub(super) fn commit_entry() -> LogEntry {
    let segment = |counter, hash, records, bytes| SegmentRecord {
        name: SegmentName { session: SESSION, counter },
        hash: ObjectHash([hash; 32]),
        records,
        bytes,
    };
    let act = Act::Commit {
        session: SESSION,
        segments: vec![segment(0, 0xE5, 100, 9_000), segment(1, 0xE6, 1, 200)],
        snapshot: Box::new(snapshot()),
        adopted: vec![SessionId([0x22; 16])],
    };
    let previous = Some(ObjectHash([0xF6; 32]));
    LogEntry { number: 1, previous, repository: REPOSITORY, member: MEMBER, time_ms: -1, act }
}

/// The golden entry with this name.
fn open_entry(number: u64, name: &str) -> OpenedEntry {
    match log::open(number, &golden(name), &log_key()).unwrap() {
        Opened::Entry(opened) => *opened,
        Opened::Malformed(why) => panic!("{name}: {why}"),
    }
}

#[test]
fn log_entries() {
    for (name, entry) in [("log-init", init_entry()), ("log-commit", commit_entry())] {
        check(name, &log::seal_with_salt(&entry, &log_key(), &signer(), &SALT));
        let opened = open_entry(entry.number, name);
        assert_eq!(opened.frame.with_act(opened.act.as_ref().unwrap()), entry);
        assert!(opened.verify(&signer().public()));
        assert!(!opened.verify(&SigningKey::from_seed(&secret(9)).public()));
    }
}

fn key(text: &[u8]) -> TreeKey {
    TreeKey(text.to_vec())
}

pub(super) fn plain_entry(kind: Kind) -> Entry {
    let zero = Timestamp::default();
    Entry {
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime: zero,
        ctime: zero,
        btime: None,
        size: 0,
        inode: 0,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
        table: None,
    }
}

fn time(seconds: i64, nanos: u32) -> Timestamp {
    Timestamp { seconds, nanos }
}

fn chunk(byte: u8, length: u32) -> Extent {
    Extent::Chunk { id: ChunkId([byte; 32]), length }
}

fn full_file() -> Entry {
    Entry {
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        user: Some("ada".into()),
        group: Some("users".into()),
        mtime: time(-5, 999_999_999),
        size: 5,
        inode: 77,
        links: Some(LinkGroup { device: 1, inode: 1 << 40 }),
        xattrs: vec![(b"security.capability".to_vec(), b"\x01\0".to_vec()), (b"user.\xff".to_vec(), Vec::new())],
        flags: 0x30,
        ..plain_entry(Kind::File(Content::Inline(b"hello".to_vec())))
    }
}

fn directory() -> Entry {
    Entry {
        mode: 0o755,
        mtime: time(1_700_000_000, 5),
        ctime: time(1_700_000_001, 6),
        btime: Some(time(1_699_999_999, 0)),
        inode: 2,
        ..plain_entry(Kind::Directory)
    }
}

/// One entry of every kind, with every field somewhere.
pub(super) fn entries() -> Vec<(TreeKey, Entry)> {
    let extents = vec![chunk(0xA1, 65_536), Extent::Hole { length: 4_194_304 }, chunk(0xA2, 4_464)];
    let indirect = Content::Indirect { depth: 2, id: ChunkId([0xA3; 32]), length: 7_000 };
    let with = |mode, size, kind| Entry { mode, size, ..plain_entry(kind) };
    vec![
        (key(b""), with(0o755, 0, Kind::Directory)),
        (key(b"bin"), directory()),
        (key(b"bin\0sh"), full_file()),
        (key(b"data"), Entry { inode: 3, ..with(0o600, 4_264_304, Kind::File(Content::Extents(extents))) }),
        (key(b"dev\0null"), with(0o666, 0, Kind::CharDevice(1, 3))),
        (key(b"dev\0sda"), with(0, 0, Kind::BlockDevice(8, 0))),
        (key(b"empty"), with(0, 0, Kind::File(Content::Extents(Vec::new())))),
        (key(b"huge"), with(0, 1 << 43, Kind::File(indirect))),
        (key(b"link"), with(0o777, 7, Kind::Symlink(b"bin/\xffsh".to_vec()))),
        (key(b"pipe"), with(0o644, 0, Kind::Fifo)),
        (key(b"sock"), with(0o700, 0, Kind::Socket)),
        (key(b"zero\xff"), with(0, 0, Kind::File(Content::Inline(Vec::new())))),
    ]
}

pub(super) fn leaf(entries: &[(TreeKey, Entry)]) -> Vec<u8> {
    let mut writer = LeafWriter::new();
    let lengths: usize = entries.iter().map(|(key, entry)| writer.push(key, entry)).sum();
    assert_eq!((writer.len(), writer.count()), (lengths, entries.len() as u64));
    writer.take()
}

#[test]
fn leaves() {
    check("leaf", &leaf(&entries()));
    check("leaf-empty", &leaf(&[]));
    assert_eq!(node::decode_node(&golden("leaf")).unwrap(), Node::Leaf(entries()));
    assert_eq!(node::decode_node(&golden("leaf-empty")).unwrap(), Node::Leaf(Vec::new()));
}

#[test]
fn inner_nodes() {
    let child = |first: &[u8], id, entries, bytes| Child { first: key(first), id: ChunkId([id; 32]), entries, bytes };
    let children = vec![child(b"", 0xA4, 700, 1 << 33), child(b"usr\0lib", 0xA5, 1, 0)];
    check("inner", &node::encode_inner(1, &children));
    let items: usize = children.iter().map(Child::encoded_len).sum();
    assert_eq!(items + 3, golden("inner").len());
    assert_eq!(node::decode_node(&golden("inner")).unwrap(), Node::Inner { level: 1, children });
}

#[test]
fn extent_lists() {
    let hole = |length| Extent::Hole { length };
    let extents = [chunk(0xA1, 65_536), hole(1 << 40), chunk(0xA2, 1), hole(7)];
    check("extents", &node::encode_extents(&extents));
    assert_eq!(node::decode_extents(&golden("extents")).unwrap(), extents);
}
