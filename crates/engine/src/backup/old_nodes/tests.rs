//! Look-ups in an old tree of three levels, against what the writer of the tree said of each node.

use std::sync::Arc;
use std::thread;

use super::*;
use crate::clock::Timestamp;
use crate::codec::{Effort, Encoder};
use crate::crypto::Secret32;
use crate::entry::{Content, Entry, Kind};
use crate::format::log::SnapshotRecord;
use crate::format::pack::BlobKind;
use crate::format::slot::Unlock;
use crate::ids::SnapshotId;
use crate::repo::Session;
use crate::repo::tree::{NewNode, TreeWriter};
use crate::store::simulated::SimulatedStore;
use crate::units::{KIB, MIB};

/// Level, first key and id of each node.
type Nodes = Vec<(u8, TreeKey, ChunkId)>;

/// Most leaves have one entry of this length.
const CONTENT_BYTES: usize = 60 * KIB;
const ENTRIES: u32 = 400;

fn entry() -> Entry {
    Entry {
        kind: Kind::File(Content::Inline(vec![7; CONTENT_BYTES])),
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        btime: None,
        size: CONTENT_BYTES as u64,
        inode: 1,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
        table: None,
    }
}

/// Keys so long that an inner node has no room for more than 130 of them.
fn key(number: u32) -> TreeKey {
    TreeKey(format!("{}\0{number:04}", ["x".repeat(250).as_str(); 8].join("\0")).into_bytes())
}

fn record(root: ChunkId) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId([1; 16]),
        time: Timestamp::default(),
        host: String::new(),
        user: String::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        root,
        entries: 0,
        files: 0,
        bytes: 0,
        labels: Vec::new(),
        program: String::new(),
        problems: 0,
        parent: None,
        bytes_read: 0,
        bytes_stored: 0,
        duration_ms: 0,
    }
}

/// Stores a tree; gives its root and all its nodes.
fn store(repository: &Repository) -> (ChunkId, Nodes) {
    let session = Session::begin(repository, 16 * MIB).unwrap();
    let (end, ended) = crossbeam_channel::bounded(0);
    let mut nodes = Nodes::new();
    let mut encoder = Encoder::new(Effort::Fast);
    let mut body = Vec::new();
    let mut writer = TreeWriter::new(&repository.keys().chunker_key, |node: NewNode<'_>| {
        let id = repository.id_key().chunk_id(node.plain);
        assert!(session.claim(&id));
        encoder.encode(node.plain, None, None, &mut body);
        session.store(BlobKind::Tree, &id, node.plain.len(), &body)?;
        nodes.push((node.level, node.first.clone(), id));
        Ok(id)
    });
    let root = thread::scope(|scope| {
        scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
        (0..ENTRIES).for_each(|number| writer.push(&key(2 * number), &entry()).unwrap());
        let root = writer.finish().unwrap();
        session.commit(&mut |_| record(root.id)).unwrap();
        drop(end);
        root
    });
    (root.id, nodes)
}

fn repository() -> (Arc<SimulatedStore>, Repository) {
    let objects = Arc::new(SimulatedStore::new());
    let slots = [(Unlock::KeyFile(Secret32::random()), String::new())];
    (objects.clone(), Repository::init(objects, &slots, None).unwrap())
}

#[test]
fn every_key_leads_to_the_node_of_each_level_that_covers_it() {
    let (objects, repository) = repository();
    let (root, nodes) = store(&repository);
    let top = nodes.iter().map(|(level, ..)| *level).max().unwrap();
    assert!(top >= 2 && nodes.len() > 100, "{top} levels, {} nodes", nodes.len());
    let mut old = OldNodes::new(&repository, root);
    for level in 0..=top {
        let of_level: Nodes = nodes.iter().filter(|node| node.0 == level).cloned().collect();
        let before = objects.operations().get;
        // Odd numbers lie between the entries; 0 is the first, and the last but one lies behind all.
        for number in 0..2 * ENTRIES + 2 {
            let key = key(number);
            let at = of_level.partition_point(|(_, first, _)| *first <= key);
            assert_eq!(old.holding(level, &key), Some(of_level[at - 1].2), "level {level}, key {number}");
        }
        let inner = nodes.iter().filter(|node| node.0 > level).count() as u64;
        assert!(objects.operations().get - before <= inner, "each inner node is read once, and no leaf");
    }
    assert_eq!(old.holding(0, &TreeKey(b"a".to_vec())), Some(nodes[0].2), "before all: the first");
    assert_eq!(old.holding(top + 1, &key(7)), None, "the old tree is lower");
}

#[test]
fn a_tree_that_can_not_be_read_has_no_old_nodes() {
    let (_, repository) = repository();
    let mut old = OldNodes::new(&repository, ChunkId([9; 32]));
    assert_eq!(old.holding(0, &key(1)), None);
    assert_eq!(old.holding(1, &key(1)), None);
}
