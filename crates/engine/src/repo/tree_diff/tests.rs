//! The merge of two trees against a naive comparison of all entries, what it reads, and what single nodes are held against.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::codec::{Effort, Encoder};
use crate::crypto::Secret32;
use crate::entry::{Content, Kind};
use crate::format::log::SnapshotRecord;
use crate::format::node::{Child, encode_inner};
use crate::format::pack::BlobKind;
use crate::format::slot::Unlock;
use crate::ids::SnapshotId;
use crate::repo::Session;
use crate::repo::nodes::{Search, Step};
use crate::repo::tree::{NewNode, TreeWriter};
use crate::store::memory::MemoryStore;
use crate::units::MIB;

type Tree = BTreeMap<TreeKey, Entry>;

fn entry(version: u64) -> Entry {
    Entry {
        kind: Kind::File(Content::Inline(vec![7; 40 + usize::try_from(version % 300).unwrap()])),
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime: Timestamp { seconds: i64::try_from(version).unwrap(), nanos: 0 },
        ctime: Timestamp::default(),
        btime: None,
        size: 40 + version % 300,
        inode: 1,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
        table: None,
    }
}

/// Key number `number` of a tree with directories of about `width` names.
fn key(number: u64, width: u64) -> TreeKey {
    TreeKey(format!("d{:03}\0e{}\0f{number}", number / width, number % 3).into_bytes())
}

fn repository() -> Repository {
    let unlock = Unlock::KeyFile(Secret32::random());
    Repository::init(Arc::new(MemoryStore::new()), &[(unlock, String::new())], None).unwrap()
}

/// Stores trees and gives their roots.
fn store(repository: &Repository, trees: &[&Tree]) -> Vec<ChunkId> {
    let session = Session::begin(repository, 4 * MIB).unwrap();
    let (end, ended) = crossbeam_channel::bounded(0);
    thread::scope(|scope| {
        scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
        let roots: Vec<ChunkId> = trees.iter().map(|tree| write(repository, &session, tree)).collect();
        session.commit(&mut |_| record(roots[0])).unwrap();
        drop(end);
        roots
    })
}

fn write(repository: &Repository, session: &Session<'_>, tree: &Tree) -> ChunkId {
    let mut encoder = Encoder::new(Effort::Balanced);
    let mut body = Vec::new();
    let mut writer = TreeWriter::new(&repository.keys().chunker_key, |node: NewNode<'_>| {
        let id = repository.id_key().chunk_id(node.plain);
        if session.claim(&id) {
            encoder.encode(node.plain, None, None, &mut body);
            session.store(BlobKind::Tree, &id, node.plain.len(), &body)?;
        }
        Ok(id)
    });
    tree.iter().for_each(|(key, entry)| writer.push(key, entry).unwrap());
    writer.finish().unwrap().id
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

/// What a comparison of all entries says.
fn naive(old: &Tree, new: &Tree, within: &TreeKey) -> BTreeMap<TreeKey, (Option<Entry>, Option<Entry>)> {
    let keys = old.keys().chain(new.keys()).filter(|key| key.is_within(within));
    keys.map(|key| (key.clone(), (old.get(key).cloned(), new.get(key).cloned())))
        .filter(|(_, (old, new))| old != new)
        .collect()
}

fn check(repository: &Repository, roots: [&ChunkId; 2], trees: [&Tree; 2], within: &TreeKey) {
    let found: Vec<Differing> = TreeDiff::new(repository, roots[0], roots[1], within).collect::<Result<_>>().unwrap();
    assert!(found.is_sorted_by(|left, right| left.key < right.key));
    let found: BTreeMap<_, _> = found.into_iter().map(|it| (it.key, (it.old, it.new))).collect();
    let wanted = naive(trees[0], trees[1], within);
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    assert!(found == wanted);
}

/// One change: at which key, and what.
#[derive(Debug, Clone)]
enum Change {
    Put(u64, u64),
    Remove(u64),
    RemoveDirectory(u64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (0..4000u64, 0..100_000u64).prop_map(|(number, version)| Change::Put(number, version)),
        4 => (0..4000u64).prop_map(Change::Remove),
        1 => (0..40u64).prop_map(Change::RemoveDirectory),
    ];
    prop::collection::vec(change, 0..25)
}

fn apply(tree: &Tree, changes: &[Change]) -> Tree {
    let mut tree = tree.clone();
    for change in changes {
        match change {
            Change::Put(number, version) => drop(tree.insert(key(*number, 100), entry(*version))),
            Change::Remove(number) => drop(tree.remove(&key(*number, 100))),
            Change::RemoveDirectory(number) => {
                let directory = TreeKey(format!("d{number:03}").into_bytes());
                tree.retain(|key, _| !key.is_within(&directory));
            }
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Trees of none to thousands of entries, edited anywhere: the merge finds just what a comparison of all entries
    /// finds, in the whole and in parts.
    #[test]
    fn it_finds_what_a_naive_comparison_finds(
        size in prop_oneof![Just(0u64), 1..50u64, 1000..4000u64],
        first in changes(),
        second in changes(),
        directory in 0..40u64,
    ) {
        let base: Tree = (0..size).map(|number| (key(number, 100), entry(number))).collect();
        let (old, new) = (apply(&base, &first), apply(&base, &second));
        let repository = repository();
        let roots = store(&repository, &[&old, &new, &Tree::new()]);
        let within = [
            TreeKey::default(),
            TreeKey(format!("d{directory:03}").into_bytes()),
            key(directory * 90, 100),
            TreeKey(b"nothing here".to_vec()),
        ];
        for within in &within {
            check(&repository, [&roots[0], &roots[1]], [&old, &new], within);
            check(&repository, [&roots[1], &roots[0]], [&new, &old], within);
            check(&repository, [&roots[0], &roots[2]], [&old, &Tree::new()], within);
            check(&repository, [&roots[0], &roots[0]], [&old, &old], within);
        }
    }
}

/// The point of the tree: one change among many entries costs a few nodes on the way to it.
#[test]
fn the_work_follows_the_change() {
    let old: Tree = (0..60_000).map(|number| (key(number, 1000), entry(number))).collect();
    let mut new = old.clone();
    new.insert(key(30_500, 1000), entry(77));
    let repository = repository();
    let roots = store(&repository, &[&old, &new]);
    let mut nodes = 0;
    Search::new(&repository, false).run(&roots[0], &mut |step| {
        nodes += u64::from(matches!(step, Step::Node(_)));
        ControlFlow::Continue(false)
    });
    assert!(nodes > 150, "{nodes}");
    let mut diff = TreeDiff::new(&repository, &roots[0], &roots[1], &TreeKey::default());
    let found: Vec<_> = diff.by_ref().map(|found| found.unwrap().key).collect();
    assert_eq!(found, [key(30_500, 1000)]);
    let (read, shared) = diff.nodes();
    assert!(read <= 10, "{read} of {nodes} nodes were read");
    assert!(shared > nodes / 4, "{shared} of {nodes} nodes were skipped");
    let mut same = TreeDiff::new(&repository, &roots[0], &roots[0], &TreeKey::default());
    assert!(same.next().is_none());
    assert_eq!(same.nodes(), (0, 1));
}

/// What the node reader refuses: nodes that do not belong where their parent puts them.
#[test]
fn nodes_are_held_against_what_is_said_of_them() {
    let tree: Tree = (0..3000).map(|number| (key(number, 100), entry(number))).collect();
    let repository = repository();
    let root = store(&repository, &[&tree])[0];
    let mut reader = NodeReader::new(&repository);
    let Below::Nodes(nodes) = reader.read(&NodeRef::root(&root)).unwrap() else { panic!("several nodes") };
    let sound = &nodes[1];
    let below = reader.read(sound).unwrap();
    sound.check_totals(&below).unwrap();
    let (entries, bytes) = sound.totals.unwrap();
    for totals in [(entries + 1, bytes), (entries, bytes - 1)] {
        assert!(NodeRef { totals: Some(totals), ..sound.clone() }.check_totals(&below).is_err());
    }
    for wrong in [
        NodeRef { level: sound.level.map(|level| level + 1), ..sound.clone() },
        NodeRef { first: nodes[0].first.clone(), ..sound.clone() },
        NodeRef { end: sound.first.clone(), ..sound.clone() },
        NodeRef { level: Some(0), ..NodeRef::root(&root) },
    ] {
        assert!(reader.read(&wrong).is_err(), "{wrong:?}");
    }
    let data = repository.id_key().chunk_id(b"nothing");
    assert!(reader.read(&NodeRef::root(&data)).is_err());
}

/// A tree that names another one's leaf under a wrong key: the search can't enter it there, and does so in the other tree.
#[test]
fn what_one_tree_says_wrongly_of_a_node_hides_nothing_in_another() {
    let tree: Tree = (0..5).map(|number| (key(number, 10), entry(number))).collect();
    let repository = repository();
    let session = Session::begin(&repository, 4 * MIB).unwrap();
    let (end, ended) = crossbeam_channel::bounded(0);
    let (leaf, wrong) = thread::scope(|scope| {
        scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
        let leaf = write(&repository, &session, &tree);
        let child = Child { first: key(77, 10), id: leaf, entries: 5, bytes: 0 };
        let (plain, mut body) = (encode_inner(1, &[child]), Vec::new());
        let wrong = repository.id_key().chunk_id(&plain);
        assert!(session.claim(&wrong));
        Encoder::new(Effort::Fast).encode(&plain, None, None, &mut body);
        session.store(BlobKind::Tree, &wrong, plain.len(), &body).unwrap();
        session.commit(&mut |_| record(leaf)).unwrap();
        drop(end);
        (leaf, wrong)
    });
    let (mut lost, mut entries) = (0, 0);
    let mut search = Search::new(&repository, true);
    for root in [wrong, leaf] {
        search.run(&root, &mut |step| {
            lost += u32::from(matches!(step, Step::Lost(..)));
            entries += u32::from(matches!(step, Step::Entry(..)));
            ControlFlow::Continue(false)
        });
    }
    assert_eq!((lost, entries), (1, 5));
}

#[test]
fn a_reference_knows_what_it_may_hold() {
    let node = |first: &[u8], end: Option<&[u8]>| NodeRef {
        first: Some(TreeKey(first.to_vec())),
        end: end.map(|end| TreeKey(end.to_vec())),
        level: Some(0),
        ..NodeRef::root(&ChunkId([0; 32]))
    };
    for (first, end, ancestor, may_hold, inside) in [
        (&b"a\0b"[..], Some(&b"a\0d"[..]), &b"a"[..], true, true),
        (b"a\0b", Some(b"a\0d"), b"a\0c", true, false),
        (b"a\0b", Some(b"a\0d"), b"a\0d", false, false),
        (b"a\0b", Some(b"a\0d"), b"a\0a", false, false),
        (b"a\0b", Some(b"c"), b"a", true, false),
        (b"a\0b", Some(b"c"), b"b", true, false),
        (b"a\0b", None, b"a", true, false),
        (b"a\0b", None, b"", true, false),
        (b"b", Some(b"c"), b"a", false, false),
        (b"a", Some(b"ab"), b"a", true, false),
    ] {
        let (node, ancestor) = (node(first, end), TreeKey(ancestor.to_vec()));
        assert_eq!(
            (node.may_hold_within(&ancestor), node.is_within(&ancestor)),
            (may_hold, inside),
            "{node:?} {ancestor:?}"
        );
    }
}
