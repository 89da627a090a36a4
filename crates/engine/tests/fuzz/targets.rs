//! What is fuzzed: every decoder of bytes from outside, and of files that this program kept on the local disk, as one
//! function each, with valid bytes to begin from.
//!
//! Shared by `fuzz/` (coverage-guided, needs a nightly toolchain) and `fuzz_smoke.rs` (seeded mutation, plain stable). A
//! target may not panic, whatever it is given; where it accepts the bytes, it checks what must hold for the result.
//! Sealed objects are fuzzed inside their seal: the bytes are sealed under a known key first, or authentication would
//! turn every one away.

#![expect(clippy::unwrap_used, reason = "a panic is how a target reports")]

mod checkpoints;
mod readers;

use seawall_engine::backup::models::rewritten;
use seawall_engine::buffer::Buffer;
use seawall_engine::clock::Timestamp;
use seawall_engine::codec::{BodyHeader, Cast, Decoder, Effort, Encoder, Hint, NumberKind};
use seawall_engine::crypto::passphrase::Cost;
use seawall_engine::crypto::sign::SigningKey;
use seawall_engine::crypto::wrap::DataSecretKey;
use seawall_engine::crypto::{Secret32, blob::PackCipher, envelope, object_hash};
use seawall_engine::entry::{Content, Entry, Extent, Kind, TableRef, TreeKey};
use seawall_engine::format::log::{Act, BlobDamage, Grant, KeyChange, LogEntry, MemberRecord, Opened, SegmentRecord};
use seawall_engine::format::marker::Marker;
use seawall_engine::format::names::{self, PackName, SegmentName};
use seawall_engine::format::node::{self, Child, LeafWriter, Node};
use seawall_engine::format::pack::{self, BlobKind, PackWriter};
use seawall_engine::format::parity::{Parity, mend};
use seawall_engine::format::segment::{SegmentBuilder, SegmentView};
use seawall_engine::format::slot::{self, KeyRing, Lock, Role, Share, SharedSecret, SlotInfo, SlotKind, Unlock};
use seawall_engine::format::snapshot::SnapshotRecord;
use seawall_engine::format::{log, session};
use seawall_engine::ids::{ChunkId, MemberId, ObjectHash, RepositoryId, SessionId, SlotId, SnapshotId};
use seawall_engine::repo;
use seawall_engine::repo::directory::DirectoryView;
use seawall_engine::repo::log::Cached;
use seawall_engine::repo::parent::{self, EntriesFile};
use seawall_engine::units::CHUNK_BYTES_MAX;

/// One thing to fuzz.
pub struct Target {
    /// Its name, also in `fuzz/`.
    pub name: &'static str,
    /// Takes any bytes; panics only if something is wrong.
    pub run: fn(&[u8]),
    /// Bytes that `run` accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "cached_entries", run: cached_entries, seeds: cached_entry_seeds },
    Target { name: "cached_directory", run: cached_directory, seeds: directories },
    Target { name: "cached_log", run: cached_log, seeds: cached_log_seeds },
    Target { name: "checkpoint", run: checkpoints::look, seeds: checkpoints::trees },
    Target { name: "codec_decode", run: codec_decode, seeds: bodies },
    Target { name: "codec_encode", run: codec_encode, seeds: plains },
    Target { name: "envelope", run: envelope_open, seeds: envelopes },
    Target { name: "extents", run: extents, seeds: extent_lists },
    Target { name: "identity_file", run: identity_file, seeds: identity_files },
    Target { name: "key_file", run: key_file, seeds: key_files },
    Target { name: "log_entry", run: log_entry, seeds: log_entries },
    Target { name: "marker", run: marker, seeds: || vec![Marker::new(RepositoryId([1; 16]), false).encode()] },
    Target { name: "models", run: models, seeds: model_lists },
    Target { name: "names", run: object_names, seeds: object_name_seeds },
    Target { name: "node", run: tree_node, seeds: nodes },
    Target { name: "ocdbt", run: checkpoints::parts, seeds: checkpoints::stores },
    Target { name: "pack", run: whole_pack, seeds: || vec![packed().0] },
    Target { name: "pack_footer", run: pack_footer, seeds: footers },
    Target { name: "pack_parity", run: pack_parity, seeds: packs_with_parity },
    Target { name: "pickle", run: readers::pickle, seeds: readers::pickles },
    Target { name: "place", run: place, seeds: places },
    Target { name: "readers", run: readers::read, seeds: readers::files },
    Target { name: "segment", run: index_segment, seeds: segments },
    Target { name: "session", run: session_record, seeds: || vec![session::encode(SESSION, 0, &[1; 32], &[2; 48])] },
    Target { name: "share_file", run: share_file, seeds: share_files },
    Target { name: "slot", run: key_slot, seeds: slots },
    Target { name: "tensor_table", run: readers::tensor_table, seeds: readers::tensor_tables },
];

const SESSION: SessionId = SessionId([3; 16]);
const PACK: PackName = PackName { session: SESSION, counter: 0 };
const SLOT: SlotId = SlotId([4; 16]);

fn key() -> Secret32 {
    Secret32::new([5; 32])
}

fn text() -> Vec<u8> {
    (0..400).flat_map(|n| format!("line {n} of a text with numbers {}\n", n * n).into_bytes()).collect()
}

fn plains() -> Vec<Vec<u8>> {
    let numbers = (0..4000u32).flat_map(|n| (1.0 + (n.wrapping_mul(0x9e37_79b9) >> 8) as f32).to_le_bytes()).collect();
    let noise = (0..900u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).rotate_left(9).to_le_bytes()).collect();
    // What a hint says, before numbers.
    let hinted = [&[4, 0, 4, 0, 16], &steps()[0].0[..]].concat();
    vec![text(), numbers, noise, vec![7; 5000], hinted]
}

fn bodies() -> Vec<Vec<u8>> {
    let base = text();
    let mut encoder = Encoder::new(Effort::Balanced);
    let mut bodies: Vec<Vec<u8>> = plains().iter().map(|plain| encoded(&mut encoder, plain, None)).collect();
    for (plain, base) in steps() {
        bodies.push(encoded(&mut encoder, &plain, Some(&base)));
    }
    let changed = [&base[..5000], b"something new", &base[4000..]].concat();
    bodies.push(encoded(&mut encoder, &changed, Some(&base)));
    bodies.extend(bodies_by_scale());
    bodies
}

/// Four elements in rows of two, alone and as a difference (docs/format.md §6.2.3). Why by hand: no encoder makes them so short.
fn bodies_by_scale() -> [Vec<u8>; 2] {
    let piece = |bytes: &[u8]| [&[1, bytes.len() as u8, 0, 0, 0], bytes].concat();
    let scales = |rows, columns| [vec![1, 0, 0, 0, 2, 0, 0, 0], piece(rows), piece(columns)].concat();
    let alone = [
        vec![7, 2, 1, 0, 10, 0, 0, 0, 2],
        scales(&[1, 3], &[1, 0]),
        [[2, 0], [1, 254], [0, 0], [0, 255]].iter().flat_map(|bytes| piece(bytes)).collect(),
        vec![0xaa, 0xbb],
    ];
    let against = [
        [&[4, 2, 0, 0, 8, 0, 0, 0][..], &[6; 32], &[3, 4, 8, 0, 0, 0, 0, 0]].concat(),
        scales(&[9, 1], &[4, 4]),
        [6, 8, 4, 2, 0, 0, 0, 0].iter().flat_map(|&byte| piece(&[byte])).collect(),
    ];
    [alone.concat(), against.concat()]
}

/// Numbers with those that they were before, as FP32 and as bytes of any kind, and a cast with what was cast.
fn steps() -> Vec<(Vec<u8>, Vec<u8>)> {
    let weight = |n: u32| (f64::from(n.wrapping_mul(0x9e37_79b9) >> 8) / 1e9 - 0.008) as f32;
    let step = |n: u32| weight(n) + (n % 7) as f32 * 1e-8;
    let old: Vec<u8> = (0..3000).flat_map(|n| weight(n).to_le_bytes()).collect();
    let new: Vec<u8> = (0..3000).flat_map(|n| step(n).to_le_bytes()).collect();
    let mut cast = Vec::new();
    assert!(Cast::Bf16.apply(&old, &mut cast));
    vec![(new, old.clone()), (cast, old)]
}

fn encoded(encoder: &mut Encoder, plain: &[u8], base: Option<&[u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    encoder.encode(plain, None, base.map(|base| (&ChunkId([6; 32]), base)), &mut body);
    body
}

fn codec_decode(data: &[u8]) {
    let mut decoder = Decoder::new();
    for base in [&text(), &steps()[0].1, &Vec::new()] {
        let mut out = Vec::new();
        if decoder.decode(data, Some(base), &mut out).is_ok() {
            let (header, _) = BodyHeader::parse(data).unwrap();
            assert_eq!(out.len(), header.plain_len as usize);
        }
        assert!(out.capacity() <= CHUNK_BYTES_MAX);
    }
}

fn codec_encode(data: &[u8]) {
    let base = text();
    let mut out = Vec::new();
    for (effort, base) in [(Effort::Balanced, None), (Effort::Fast, Some(&base[..]))] {
        let body = encoded(&mut Encoder::new(effort), data, base);
        assert!(body.len() <= data.len() + 8);
        Decoder::new().decode(&body, base, &mut out).unwrap();
        assert!(out == data);
    }
    // The first bytes say what a hint may say, the next where a base is cut out of the rest and changed.
    let Some((&[width, head, kind, from, change], rest)) = data.split_first_chunk() else { return };
    let kinds = [NumberKind::Integer, NumberKind::F8E4m3, NumberKind::F16, NumberKind::Bf16, NumberKind::F32];
    let hint = Hint { width, head, kind: kinds[usize::from(kind) % kinds.len()], row: (change > 64).then_some(64) };
    let mut base = rest[usize::from(from).min(rest.len())..].to_vec();
    base.iter_mut().step_by(usize::from(change).max(1)).for_each(|byte| *byte = byte.wrapping_add(1));
    for effort in [Effort::Fast, Effort::Balanced, Effort::Dense] {
        let mut body = Vec::new();
        Encoder::new(effort).encode(rest, Some(&hint), Some((&ChunkId([6; 32]), &base)), &mut body);
        assert!(body.len() <= rest.len() + 8);
        Decoder::new().decode(&body, Some(&base), &mut out).unwrap();
        assert!(out == rest);
    }
}

fn envelopes() -> Vec<Vec<u8>> {
    [0, 1, 3000].iter().map(|&length| envelope::seal(&key(), "name", &vec![1; length])).collect()
}

fn envelope_open(data: &[u8]) {
    if let Ok(plain) = envelope::open(&key(), "name", data) {
        assert!(plain.len() < data.len());
    }
}

/// An entry of act COMMIT, with everything that it can hold.
fn commit() -> Act {
    let time = Timestamp { seconds: 1_700_000_000, nanos: 5 };
    let snapshot = SnapshotRecord {
        id: SnapshotId([7; 16]),
        time,
        host: "host".into(),
        user: "user".into(),
        paths: vec![b"/data".to_vec(), b"/\xff".to_vec()],
        tags: vec!["nightly".into()],
        root: ChunkId([8; 32]),
        entries: 3,
        files: 2,
        bytes: 1 << 40,
        labels: vec![("run".into(), "17".into())],
        program: "0.1.0".into(),
        problems: 0,
        parent: Some(SnapshotId([9; 16])),
        bytes_read: 5,
        bytes_stored: 6,
        duration_ms: 7,
    };
    let segment = SegmentRecord {
        name: SegmentName { session: SESSION, counter: 0 },
        hash: ObjectHash([1; 32]),
        records: 10,
        bytes: 1000,
    };
    Act::Commit { session: SESSION, segments: vec![segment], snapshot: Box::new(snapshot), adopted: vec![SESSION] }
}

/// A sealed entry of the only member.
fn sealed_entry(number: u64, previous: Option<ObjectHash>, act: Act) -> Vec<u8> {
    let (repository, member) = (RepositoryId([1; 16]), MemberId([2; 16]));
    let entry = LogEntry { number, previous, repository, member, time_ms: -1, act };
    log::seal(&entry, &key(), &SigningKey::from_seed(&key()))
}

fn log_entries() -> Vec<Vec<u8>> {
    let plain = |act| {
        let sealed = sealed_entry(1, Some(ObjectHash([2; 32])), act);
        envelope::open(&key(), &names::log_object(1), &sealed).unwrap()
    };
    std::iter::once(commit()).chain(other_acts()).map(plain).collect()
}

/// One of every act but INIT and COMMIT, with everything that it can hold.
fn other_acts() -> Vec<Act> {
    let pack = PackName { session: SESSION, counter: 7 };
    let (packs, snapshots, session) = (vec![pack], vec![SnapshotId([7; 16])], Some(SESSION));
    let name = SegmentName { session: SESSION, counter: 0 };
    let segments = vec![SegmentRecord { name, hash: ObjectHash([1; 32]), records: 10, bytes: 1000 }];
    let member = MemberRecord {
        id: MemberId([3; 16]),
        public_key: [4; 32],
        role: Role::Reader,
        label: "reader".into(),
        wrap_public: Some([5; 32]),
        slot: Some(SLOT),
        slot_hash: Some(ObjectHash([6; 32])),
    };
    let grants = vec![Grant { member: MemberId([2; 16]), encapsulated: [6; 32], ciphertext: [7; 48] }];
    let damaged = vec![BlobDamage { pack, chunk: ChunkId([8; 32]) }];
    vec![
        Act::Forget { snapshots: snapshots.clone(), reason: "keep-last 3".into() },
        Act::Hold { snapshots: snapshots.clone(), label: "case".into(), release: true },
        Act::Audit { depth: 2, bytes: 1 << 40, lost: packs.clone(), damaged, sound: packs.clone() },
        Act::Condemn { packs: packs.clone(), session, segments: segments.clone() },
        Act::Fence { sessions: vec![SESSION] },
        Act::Remap { session, segments, retired: vec![name], gone: packs.clone() },
        Act::Key(KeyChange::Admit(member)),
        Act::Key(KeyChange::Revoke(MemberId([3; 16]))),
        Act::Key(KeyChange::Rotate { data_public: [9; 32], generation: 1, grants }),
        Act::Undelete { snapshots, packs: packs.clone() },
        Act::Delete { packs },
    ]
}

fn log_entry(data: &[u8]) {
    let sealed = envelope::seal(&key(), &names::log_object(1), data);
    match log::open(1, &sealed, &key()).expect("it is sealed under its name and key") {
        Opened::Entry(opened) => {
            assert_eq!(opened.frame.number, 1);
            let _ = opened.verify(&SigningKey::from_seed(&key()).public());
        }
        Opened::Malformed(why) => assert!(!why.is_empty()),
    }
}

/// What the cached log needs of a key ring: the log key.
fn ring() -> KeyRing {
    KeyRing { log_key: key(), ..KeyRing::generate(RepositoryId([1; 16])) }
}

/// INIT and a commit that follows it, sealed.
fn chain() -> [Vec<u8>; 2] {
    let public_key = SigningKey::from_seed(&key()).public();
    let member = MemberRecord {
        id: MemberId([2; 16]),
        public_key,
        role: Role::Owner,
        label: "label".into(),
        wrap_public: None,
        slot: None,
        slot_hash: None,
    };
    let act = Act::Init { marker: ObjectHash([3; 32]), member, data_public: [4; 32], generation: 0 };
    let first = sealed_entry(0, None, act);
    let second = sealed_entry(1, Some(object_hash(&first)), commit());
    [first, second]
}

fn cached_records(records: &[(u64, &[u8])]) -> Vec<u8> {
    let mut cached = Vec::new();
    assert!(records.iter().all(|(number, entry)| repo::log::encode_cached(*number, true, entry, &mut cached)));
    cached
}

/// Three entries of two segments, in one bucket and in two.
fn directories() -> Vec<Vec<u8>> {
    let entries = [(7u64, 0u32, 1u32), (7, 1, 0), (u64::MAX, 1, 1)];
    let with = |bits: u32, firsts: &[u32]| {
        let mut bytes = b"SWDIR001".to_vec();
        bytes.extend(3u64.to_le_bytes());
        bytes.extend([2u32.to_le_bytes(), bits.to_le_bytes()].concat());
        bytes.extend([[1; 32], [2; 32]].concat());
        for (key, segment, record) in entries {
            bytes.extend(key.to_le_bytes());
            bytes.extend([segment.to_le_bytes(), record.to_le_bytes()].concat());
        }
        bytes.extend(firsts.iter().flat_map(|first| first.to_le_bytes()));
        bytes
    };
    vec![with(0, &[0, 3]), with(1, &[0, 2, 3])]
}

fn cached_directory(data: &[u8]) {
    let Some(view) = DirectoryView::parse(data) else { return };
    assert!(view.covers().count() * 32 + view.len() * 16 < data.len());
    for key in [0, 7, u64::MAX] {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&u64::to_be_bytes(key));
        assert!(view.find(&ChunkId(id)).count() <= view.len());
    }
}

fn cached_log_seeds() -> Vec<Vec<u8>> {
    let [first, second] = &chain();
    let records = [(0, &first[..]), (1, &second[..])];
    let open = |number: usize| {
        let name = names::log_object(number as u64);
        envelope::open(&key(), &name, records[number].1).unwrap()
    };
    // Two processes may both have added an entry.
    let twice = [records[0], records[0], records[1], records[1]];
    vec![cached_records(&records), cached_records(&twice), open(0), open(1)]
}

/// The bytes as the cache's file, and as the plain bytes of an entry in it: what is there is trusted as signed.
fn cached_log(data: &[u8]) {
    let replayed = |cached: &[u8]| match repo::log::decode_cached(cached, RepositoryId([1; 16]), &ring()) {
        Cached::Log { state, last, length } => {
            assert!(state.next > 0 && state.head.is_some() && !last.is_empty() && length <= cached.len());
            assert!(state.snapshots.len() as u64 <= state.next);
            Some(state.next)
        }
        Cached::Nothing | Cached::Foreign(_) => None,
    };
    replayed(data);
    let [first, _] = &chain();
    let sealed = [0, 1].map(|number| envelope::seal(&key(), &names::log_object(number), data));
    replayed(&cached_records(&[(0, &sealed[0])]));
    replayed(&cached_records(&[(0, first), (1, &sealed[1])]));
    // A torn end costs only what is torn.
    let mut torn = cached_records(&[(0, first)]);
    torn.extend_from_slice(&cached_records(&[(1, data)])[..19 + data.len()]);
    assert_eq!(replayed(&torn), Some(1));
}

fn cached_entry_seeds() -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    for (path, kind) in [("", Kind::Directory), ("a", Kind::File(Content::Inline(b"inline bytes".to_vec())))] {
        node::encode_single(&TreeKey(path.as_bytes().to_vec()), &entry(kind), &mut entries);
    }
    let time = parent::encode_time(Timestamp { seconds: 1_700_000_000, nanos: 5 });
    let file = [time.as_slice(), &entries, &entries].map(|plain| parent::encode_block(plain).unwrap()).concat();
    // As a whole file, as the plain bytes of a block, and as plain length and stored bytes of one.
    let stored = &parent::encode_block(&entries).unwrap()[16..];
    vec![file, [&(entries.len() as u32).to_le_bytes(), stored].concat(), entries, time]
}

/// The bytes as a file, as plain and as stored bytes of a block behind a good first one, and as a first block.
fn cached_entries(data: &[u8]) {
    let read = |file: &[u8]| EntriesFile::read(file).map(|(entries, _)| entries.count());
    read(data);
    read(&parent::encode_block(data).unwrap());
    let time = parent::encode_block(&parent::encode_time(Timestamp::default())).unwrap();
    let begun = |block: &[u8]| read(&[&time, block].concat()).unwrap();
    let mut rest = data;
    let whole = std::iter::from_fn(|| node::decode_single(&mut rest).ok()).count();
    assert_eq!(begun(&parent::encode_block(data).unwrap()), whole);
    if let Some((plain_length, stored)) = data.split_first_chunk::<4>() {
        let length = (stored.len() as u32).to_le_bytes();
        begun(&[plain_length, &length, &object_hash(stored).0[..8], stored].concat());
    }
}

fn marker(data: &[u8]) {
    if let Ok(marker) = Marker::decode(data) {
        Marker::decode(&marker.encode()).unwrap();
    }
}

/// A list without its hash: it gets the right one, and the hash of it all once more.
fn models(data: &[u8]) {
    let list = [data, &object_hash(data).0].concat();
    let Some(written) = rewritten(&list) else { return };
    assert_eq!(rewritten(&written).unwrap(), written);
    assert!(written.len() <= list.len(), "a path that is there twice is written once");
    let mut changed = written;
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(rewritten(&changed), None);
}

fn model_lists() -> Vec<Vec<u8>> {
    let set = |mark: u8, path: &str| [&[mark; 16][..], &(path.len() as u32).to_le_bytes(), path.as_bytes()].concat();
    let roots = |count: u32| [&b"SWMODEL2"[..], &count.to_le_bytes(), &vec![9; 32 * count as usize]].concat();
    let sets = [set(1, "models/base"), set(2, ""), set(1, "models/tuned")].concat();
    let lists = vec![roots(0), roots(2), [roots(0), sets.clone()].concat(), [roots(1), sets].concat()];
    lists.iter().for_each(|list| assert!(rewritten(&[&list[..], &object_hash(list).0].concat()).is_some()));
    lists
}

/// A line that remembers a place is read as it was written, and nothing else is.
fn place(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some((repository, fingerprint)) = repo::place::parse(text) {
        assert!(repo::place::line(repository, fingerprint).eq_ignore_ascii_case(text));
    }
}

fn places() -> Vec<Vec<u8>> {
    let line = repo::place::line(RepositoryId([1; 16]), ObjectHash([0xfe; 32]));
    assert_eq!(repo::place::parse(&line), Some((RepositoryId([1; 16]), ObjectHash([0xfe; 32]))));
    vec![line.into_bytes()]
}

fn object_name_seeds() -> Vec<Vec<u8>> {
    [PACK.object(), names::log_object(7), names::slot_object(&SLOT), names::session_object(&SESSION, 1)]
        .map(String::into_bytes)
        .to_vec()
}

fn object_names(data: &[u8]) {
    let Ok(name) = std::str::from_utf8(data) else { return };
    // What is accepted is the one way to write it, or two names would mean one object.
    assert!(PackName::parse(name).is_none_or(|pack| pack.object() == name));
    assert!(SegmentName::parse(name).is_none_or(|segment| segment.object() == name));
    assert!(names::parse_log(name).is_none_or(|number| names::log_object(number) == name));
    assert!(names::parse_slot(name).is_none_or(|slot| names::slot_object(&slot) == name));
    assert!(names::parse_session(name).is_none_or(|(id, generation)| names::session_object(&id, generation) == name));
}

fn entry(kind: Kind) -> Entry {
    let time = Timestamp { seconds: -5, nanos: 999_999_999 };
    Entry {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        user: Some("user".into()),
        group: None,
        mtime: time,
        ctime: time,
        btime: Some(time),
        size: 12,
        inode: 99,
        links: None,
        xattrs: vec![(b"user.note".to_vec(), b"value".to_vec())],
        flags: 0,
        table: None,
    }
}

fn nodes() -> Vec<Vec<u8>> {
    let mut leaf = LeafWriter::new();
    let extents = vec![Extent::Chunk { id: ChunkId([1; 32]), length: 12 }, Extent::Hole { length: 1 << 33 }];
    let indirect = Content::Indirect { depth: 1, id: ChunkId([2; 32]), length: 300 };
    for (path, kind) in [
        ("", Kind::Directory),
        ("a", Kind::File(Content::Inline(b"inline bytes".to_vec()))),
        ("b", Kind::File(Content::Extents(extents))),
        ("c", Kind::File(indirect)),
        ("d", Kind::File(Content::Inline(b"with a table".to_vec()))),
        ("link", Kind::Symlink(b"../elsewhere".to_vec())),
        ("pipe", Kind::Fifo),
        ("tty", Kind::CharDevice(4, 1)),
    ] {
        let table = (path == "d").then_some(TableRef { id: ChunkId([4; 32]), length: 500 });
        leaf.push(&TreeKey(path.as_bytes().to_vec()), &Entry { table, ..entry(kind) });
    }
    let child = |first: &[u8]| Child { first: TreeKey(first.to_vec()), id: ChunkId([3; 32]), entries: 9, bytes: 10 };
    vec![leaf.take(), node::encode_inner(1, &[child(b""), child(b"k"), child(b"k\0l")]), LeafWriter::new().take()]
}

fn tree_node(data: &[u8]) {
    match node::decode_node(data) {
        Ok(Node::Leaf(entries)) => {
            assert!(entries.is_sorted_by(|left, right| left.0 < right.0));
            let mut writer = LeafWriter::new();
            entries.iter().for_each(|(key, entry)| {
                writer.push(key, entry);
            });
            assert_eq!(node::decode_node(&writer.take()).unwrap(), Node::Leaf(entries));
        }
        Ok(Node::Inner { level, children }) => {
            assert!(level > 0 && children.is_sorted_by(|left, right| left.first < right.first));
            assert_eq!(
                node::decode_node(&node::encode_inner(level, &children)).unwrap(),
                Node::Inner { level, children }
            );
        }
        Err(_) => {}
    }
    let mut rest = data;
    while let Ok((key, entry)) = node::decode_single(&mut rest) {
        let mut again = Vec::new();
        node::encode_single(&key, &entry, &mut again);
        assert_eq!(node::decode_single(&mut &again[..]).unwrap(), (key, entry));
    }
}

fn extent_lists() -> Vec<Vec<u8>> {
    let list = [Extent::Chunk { id: ChunkId([1; 32]), length: 4096 }, Extent::Hole { length: 1 << 40 }];
    vec![node::encode_extents(&list), node::encode_extents(&[])]
}

fn extents(data: &[u8]) {
    if let Ok(list) = node::decode_extents(data) {
        assert!(list.len() <= data.len());
        assert_eq!(node::decode_extents(&node::encode_extents(&list)).unwrap(), list);
    }
}

/// A pack of some blobs, and the records of its footer.
fn packed() -> (Vec<u8>, Vec<pack::BlobRecord>) {
    packed_with(None)
}

fn packed_with(parity: Option<Parity>) -> (Vec<u8>, Vec<pack::BlobRecord>) {
    let cipher = PackCipher::new(&key(), &PACK);
    let writer = PackWriter::new(PACK, BlobKind::Data, RepositoryId([1; 16]), cipher, Buffer::default());
    let mut writer = writer.with_parity(parity);
    for (number, body) in bodies().iter().enumerate() {
        writer.push(&ChunkId([number as u8; 32]), body);
    }
    let (bytes, records) = writer.finish(&key());
    (bytes.to_vec(), records)
}

fn whole_pack(data: &[u8]) {
    let _ = pack::decode_header(&PACK, data);
    let _ = pack::decode_trailer(&PACK, data.len() as u64, data);
    let Ok(trailer) = pack::check_pack(&PACK, data) else { return };
    let footer = trailer.footer();
    let _ = pack::decode_footer(&key(), &PACK, &data[footer.start as usize..footer.end as usize]);
}

/// With little parity and with much, and the latter cut behind its first table.
fn packs_with_parity() -> Vec<Vec<u8>> {
    let mut packs: Vec<Vec<u8>> = [0.02, 0.5].iter().map(|share| packed_with(Parity::of_share(*share)).0).collect();
    let parity_len = pack::check_pack(&PACK, &packs[1]).unwrap().parity_len as usize;
    packs.push(packs[1][..packs[1].len() - parity_len / 2].to_vec());
    packs
}

/// As it is, and once more with the hashes of all heads made right, so that their numbers are looked at.
fn pack_parity(data: &[u8]) {
    let mut bytes = data.to_vec();
    for round in 0..2 {
        if let Ok(mended) = mend(&PACK, &bytes) {
            assert!(mended.held_bytes() <= bytes.len());
            assert!(mended.footer().end <= bytes.len() as u64);
            mended.apply(0, &mut bytes.clone());
        }
        if round == 1 {
            return;
        }
        let found = bytes.windows(8).enumerate().filter(|(_, window)| window == b"SWPARI01");
        let heads: Vec<usize> = found.map(|(place, _)| place).filter(|place| place + 64 <= bytes.len()).collect();
        for head in heads {
            seal_head(&mut bytes, head);
        }
    }
}

fn seal_head(bytes: &mut [u8], head: usize) {
    let field = |at: usize| u32::from_le_bytes(bytes[head + at..head + at + 4].try_into().unwrap()) as usize;
    let table = field(20).checked_mul(field(16)).and_then(|parity| parity.checked_add(field(12)));
    let table = table.and_then(|shards| bytes.get(head + 64..(head + 64).checked_add(shards.checked_mul(16)?)?));
    if let Some(hash) = table.map(object_hash) {
        bytes[head + 32..head + 48].copy_from_slice(&hash.as_bytes()[..16]);
    }
    let hash = object_hash(&bytes[head..head + 48]);
    bytes[head + 48..head + 64].copy_from_slice(&hash.as_bytes()[..16]);
}

fn footers() -> Vec<Vec<u8>> {
    let (bytes, _) = packed();
    let footer = pack::check_pack(&PACK, &bytes).unwrap().footer();
    let sealed = &bytes[footer.start as usize..footer.end as usize];
    vec![envelope::open(&key(), &footer_name(), sealed).unwrap()]
}

fn footer_name() -> String {
    format!("{}#footer", PACK.object())
}

fn pack_footer(data: &[u8]) {
    let sealed = envelope::seal(&key(), &footer_name(), data);
    if let Ok(records) = pack::decode_footer(&key(), &PACK, &sealed) {
        assert!(records.is_sorted_by(|left, right| u64::from(left.offset) < u64::from(right.offset)));
    }
}

fn segments() -> Vec<Vec<u8>> {
    let mut builder = SegmentBuilder::new();
    packed().1.iter().for_each(|record| builder.push(PACK, BlobKind::Data, record));
    vec![builder.finish(), SegmentBuilder::new().finish()]
}

fn index_segment(data: &[u8]) {
    let Ok(view) = SegmentView::parse(data) else { return };
    let _ = view.check();
    view.packs().for_each(drop);
    for index in 0..view.len().min(64) {
        if let Some((id, _)) = view.record(index) {
            let _ = view.find(&id);
        }
    }
    for byte in [0, 3, 0x80, 0xff] {
        let _ = view.find(&ChunkId([byte; 32]));
    }
    assert!(view.record(view.len()).is_none());
}

fn session_record(data: &[u8]) {
    let _ = session::decode(&SESSION, 0, data);
}

fn slots() -> Vec<Vec<u8>> {
    let ring = KeyRing::generate(RepositoryId([1; 16]));
    let cheap = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let (shared, _) = SharedSecret::generate(2, 3).unwrap();
    let unlocks =
        [Unlock::KeyFile(key()), Unlock::Passphrase(b"passphrase".to_vec().into()), Unlock::Identity(identity())];
    let locks = unlocks.iter().map(|unlock| unlock.lock().unwrap()).chain([Lock::Shares(shared)]);
    locks.map(|lock| slot::seal(&ring, &lock, &SLOT, "label", 1_700_000_000, cheap).unwrap()).collect()
}

/// With a key file only: a passphrase slot may ask for a gigabyte and a minute, which is refused elsewhere.
fn key_slot(data: &[u8]) {
    let repository = RepositoryId([1; 16]);
    let _ = slot::open(data, &SLOT, &Unlock::KeyFile(key()), &repository);
    let _ = slot::open(data, &SLOT, &Unlock::Identity(identity()), &repository);
    if let Ok(SlotInfo { kind: SlotKind::Shares { set, needed, .. }, .. }) = slot::describe(data, &SLOT) {
        let share = |number| Share { set, needed, number, value: key() };
        let _ = slot::open(data, &SLOT, &Unlock::Shares((0..=needed).map(share).collect()), &repository);
    }
}

fn identity() -> DataSecretKey {
    DataSecretKey::from_bytes([0x48; 32])
}

fn identity_files() -> Vec<Vec<u8>> {
    let text = slot::identity_text(&identity());
    vec![
        slot::public_key_text(&identity().public()).into(),
        format!("{}# a remark\n", *text).into(),
        text.as_bytes().into(),
    ]
}

fn identity_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(identity) = slot::parse_identity(text) {
        assert_eq!(slot::parse_identity(&slot::identity_text(&identity)), Some(identity));
    }
    if let Some(public) = slot::parse_public_key(text) {
        assert_eq!(slot::parse_public_key(&slot::public_key_text(&public)), Some(public));
    }
}

fn share_files() -> Vec<Vec<u8>> {
    let share = Share { set: [1; 16], needed: 3, number: 5, value: key() };
    vec![share.text().as_bytes().to_vec(), format!("{}# a remark\n", &*share.text()).into()]
}

fn share_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(share) = Share::parse(text) {
        assert_eq!(Share::parse(&share.text()), Some(share));
    }
}

fn key_files() -> Vec<Vec<u8>> {
    let text = slot::key_file_text(&key());
    let remarks = format!("{}\r\n# a remark\r\n\r\n#\u{e9}\n  \n", text.trim_end().replace('\n', "\r\n"));
    vec![text.as_bytes().into(), remarks.into_bytes(), text.trim_end().into()]
}

fn key_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(secret) = slot::parse_key_file(text) {
        let again = slot::parse_key_file(&slot::key_file_text(&secret)).unwrap();
        assert_eq!(again.as_bytes(), secret.as_bytes());
    }
}
