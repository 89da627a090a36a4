//! A file's tensor table goes where the file goes: it is kept, checked, healed and dropped with it, and never takes the
//! file's content with it.

use std::path::PathBuf;
use std::sync::Arc;

use seawall_engine::backup::backup;
use seawall_engine::crypto::Secret32;
use seawall_engine::diff::diff;
use seawall_engine::entry::{Content, Entry, Kind, TableRef, TreeKey};
use seawall_engine::forget::forget;
use seawall_engine::format::node::LeafWriter;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::slot::Unlock;
use seawall_engine::format::tensor_table::encode;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::monitor::Silent;
use seawall_engine::readers::{self, Dtype};
use seawall_engine::repair::{Loss, drop_lost, losses};
use seawall_engine::repo::Repository;
use seawall_engine::statistics::builder::TableBuilder;
use seawall_engine::statistics::table::TensorTable;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::verify::Read;

use crate::damage::check;
use crate::hand::{Hand, craft, file, key};
use crate::place::{assert_whole, files_of, noise};
use crate::prune::{Scene, run, thorough};

/// A safetensors file of two tensors, and the table of it.
fn checkpoint(seed: u64) -> (Vec<u8>, TensorTable) {
    let header = r#"{"a.weight":{"dtype":"F32","shape":[100,100],"data_offsets":[0,40000]},
        "b.weight":{"dtype":"BF16","shape":[50,40],"data_offsets":[40000,44000]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(noise(seed, 44_000));
    let layout = readers::read(&bytes.as_slice(), b"model.safetensors").unwrap();
    let builder = TableBuilder::new(&layout);
    // Cut where no element ends.
    (0..).zip(bytes.chunks(7001)).for_each(|(number, chunk)| builder.add(number * 7001, chunk));
    let table = builder.finish();
    assert!(table.tensors.len() == 2 && table.tensors.iter().all(|record| record.statistics.is_some()));
    (bytes, table)
}

/// A repository in memory with snapshots made by hand.
struct Yard {
    store: Arc<MemoryStore>,
    unlock: Unlock,
}

const MODEL: &str = "/model.safetensors";
const PLAIN: &str = "/plain";

impl Yard {
    fn new() -> Self {
        let (store, unlock) = (Arc::new(MemoryStore::new()), Unlock::KeyFile(Secret32::random()));
        Repository::init(store.clone(), &[(unlock.clone(), "test".to_owned())], None).unwrap();
        Self { store, unlock }
    }

    fn open(&self) -> Repository {
        Repository::open(self.store.clone(), &self.unlock, None).unwrap()
    }

    /// A snapshot of a checkpoint with what `table` gives, and of a file without.
    fn snapshot(&self, seed: u64, table: impl FnOnce(&Hand<'_, '_>, &[u8]) -> Option<TableRef>) -> SnapshotId {
        let (bytes, known) = checkpoint(seed);
        craft(&self.open(), |hand| {
            let table = table(hand, &encode(&known));
            let mut leaf = LeafWriter::new();
            let extent = |bytes: &[u8]| Content::Extents(vec![hand.extent(bytes)]);
            let model = file(extent(&bytes), bytes.len() as u64);
            leaf.push(&key(MODEL), &Entry { table, ..model });
            leaf.push(&key(PLAIN), &file(extent(&noise(seed + 1000, 9000)), 9000));
            hand.put(BlobKind::Tree, &leaf.take())
        })
    }

    fn with_table(&self, seed: u64) -> SnapshotId {
        self.snapshot(seed, |hand, table| Some(put_table(hand, table)))
    }

    fn root(&self, id: SnapshotId) -> ChunkId {
        self.open().snapshots().into_iter().find(|snapshot| snapshot.record.id == id).unwrap().record.root
    }

    fn entry(&self, id: SnapshotId) -> Entry {
        let repository = self.open();
        let mut entries = repository.tree(&self.root(id)).entries().map(Result::unwrap);
        entries.find(|(found, _)| *found == key(MODEL)).unwrap().1
    }

    /// Damages the blob of this chunk.
    fn damage(&self, id: &ChunkId) {
        damage(&self.store, &self.open(), id);
    }

    /// Both files of a snapshot are as they were.
    fn assert_files(&self, id: SnapshotId, seed: u64) {
        let files = files_of(&self.open(), &self.root(id));
        assert!(files[&PathBuf::from(MODEL)] == checkpoint(seed).0 && files[&PathBuf::from(PLAIN)].len() == 9000);
    }
}

/// Damages the blob of a chunk.
fn damage(store: &MemoryStore, repository: &Repository, id: &ChunkId) {
    let location = repository.locate(id).unwrap();
    let mut bytes = store.get(&location.pack.object(), None).unwrap();
    // Behind the blob's header of 48 bytes.
    bytes[usize::try_from(location.offset).unwrap() + 60] ^= 4;
    store.replace(&location.pack.object(), &bytes);
}

fn put_table(hand: &Hand<'_, '_>, table: &[u8]) -> TableRef {
    TableRef { id: hand.put(BlobKind::Tree, table), length: u32::try_from(table.len()).unwrap() }
}

#[test]
fn a_table_is_read_back() {
    let yard = Yard::new();
    let with = yard.with_table(1);
    let without = yard.snapshot(2, |_, _| None);
    let repository = yard.open();
    let read = repository.tensor_table(&yard.entry(with)).unwrap().unwrap();
    assert_eq!(read, checkpoint(1).1);
    assert_eq!(read.tensors[1].tensor.dtype, Dtype::Bf16);
    assert_eq!(repository.tensor_table(&yard.entry(without)).unwrap(), None);
    assert_whole(&repository);
}

#[test]
fn prune_keeps_the_tables_of_live_snapshots_and_only_those() {
    let yard = Yard::new();
    let (gone, stays) = (yard.with_table(1), yard.with_table(2));
    let [old, kept] = [gone, stays].map(|id| yard.entry(id).table.unwrap().id);
    let repository = yard.open();
    forget(&repository, &[gone], "test").unwrap();
    run(&yard.open(), &thorough()).unwrap();
    let repository = yard.open();
    assert!(repository.locate(&old).is_none(), "nobody needs it");
    assert!(repository.locate(&kept).is_some());
    assert_eq!(repository.tensor_table(&yard.entry(stays)).unwrap(), Some(checkpoint(2).1));
    yard.assert_files(stays, 2);
    assert_whole(&repository);
}

/// Every way to lose a table: verify names the file and not its content, and everything restores.
#[test]
fn a_damaged_table_takes_nothing_with_it() {
    type Hurt = fn(&Yard) -> SnapshotId;
    let cases: [(&str, bool, Hurt); 4] = [
        ("a flipped bit", true, |yard| {
            let id = yard.with_table(1);
            yard.damage(&yard.entry(id).table.unwrap().id);
            id
        }),
        ("in no segment", true, |yard| yard.snapshot(1, |_, _| Some(TableRef { id: ChunkId([9; 32]), length: 100 }))),
        ("of another length", false, |yard| {
            yard.snapshot(1, |hand, table| Some(TableRef { length: 5, ..put_table(hand, table) }))
        }),
        ("bytes that are no table", false, |yard| yard.snapshot(1, |hand, _| Some(put_table(hand, b"no table")))),
    ];
    for (case, is_lost, hurt) in cases {
        let yard = Yard::new();
        let id = hurt(&yard);
        let other = yard.with_table(7);
        let repository = yard.open();
        assert_eq!(repository.tensor_table(&yard.entry(id)).is_err(), case != "of another length", "{case}");
        let report = check(&repository, Read::All);
        let paths: Vec<&String> = report.damage.iter().flat_map(|damage| &damage.paths).collect();
        assert!(paths.is_empty(), "{case}: {paths:?}");
        let tables: Vec<&str> = report.damage.iter().flat_map(|it| it.tables.iter().map(String::as_str)).collect();
        let is_sound = case == "bytes that are no table";
        assert_eq!(tables, if is_sound { &[][..] } else { &[MODEL][..] }, "{case}: {:?}", report.damage);
        assert!(report.damage.iter().all(|damage| damage.snapshots == [id]), "{case}: {:?}", report.damage);

        let mut lost = Vec::new();
        let count = losses(&yard.open(), &Silent, &mut |snapshot, loss| match loss {
            Loss::Table(key) => lost.push((snapshot.record.id, key.to_path())),
            other => panic!("{case}: {other:?}"),
        });
        assert_eq!(count.unwrap(), 0, "{case}: no path is lost");
        assert_eq!(lost, if is_lost { vec![(id, PathBuf::from(MODEL))] } else { Vec::new() }, "{case}");
        yard.assert_files(id, 1);
        yard.assert_files(other, 7);
    }
}

#[test]
fn a_snapshot_without_the_lost_table_takes_its_place() {
    let yard = Yard::new();
    let (hurt, sound) = (yard.with_table(1), yard.with_table(2));
    yard.damage(&yard.entry(hurt).table.unwrap().id);
    check(&yard.open(), Read::All);
    let dropped = drop_lost(&yard.open(), "test", &Silent).unwrap();
    let new = dropped[0].new.unwrap();
    assert_eq!((dropped.len(), dropped[0].old, dropped[0].lost), (1, hurt, 0));
    assert_eq!(yard.entry(new), Entry { table: None, ..yard.entry(new) });
    yard.assert_files(new, 1);
    assert!(yard.entry(sound).table.is_some());
    assert_eq!(check(&yard.open(), Read::All).damage, []);
}

#[test]
fn a_table_alone_is_no_difference() {
    let yard = Yard::new();
    let (with, without) = (yard.with_table(1), yard.snapshot(1, |_, _| None));
    let roots = [with, without].map(|id| yard.root(id));
    assert_ne!(roots[0], roots[1]);
    for [a, b] in [roots, [roots[1], roots[0]]] {
        let each = &mut |change| panic!("{change:?}");
        diff(&yard.open(), &a, &b, &TreeKey::default(), each).unwrap();
    }
}

/// A source whose newest snapshot has a table for a file that did not change since.
#[test]
fn a_file_whose_table_is_lost_is_read_again() {
    for is_lost in [false, true] {
        let (store, mut scene) = Scene::new();
        scene.write("model.safetensors", &checkpoint(1).0);
        let plain = scene.backup();
        let name = TreeKey::from_path(&scene.source().join("model.safetensors")).unwrap();
        let repository = scene.open();
        let root = repository.snapshots().into_iter().find(|it| it.record.id == plain).unwrap().record;
        let entries: Vec<_> = repository.tree(&root.root).entries().map(Result::unwrap).collect();
        let mut table = None;
        let with = crate::hand::craft_like(&repository, &root, |hand| {
            table = Some(put_table(hand, &encode(&checkpoint(1).1)));
            let mut leaf = LeafWriter::new();
            for (key, entry) in &entries {
                let table = table.filter(|_| *key == name);
                leaf.push(key, &Entry { table, ..entry.clone() });
            }
            hand.put(BlobKind::Tree, &leaf.take())
        });
        let files = scene.files();
        scene.known.insert(with, files);
        let table = table.unwrap();
        if is_lost {
            damage(&store, &scene.open(), &table.id);
            check(&scene.open(), Read::All);
        }
        let report = backup(&scene.open(), scene.small(), &Silent).unwrap();
        assert_eq!(report.bytes_read > 0, is_lost, "{report:?}");
        let repository = scene.open();
        let newest = repository.snapshots().pop().unwrap().record.root;
        let mut kept = repository.tree(&newest).entries().map(Result::unwrap).filter(|(key, _)| *key == name);
        let kept = kept.next().unwrap().1;
        assert!(matches!(kept.kind, Kind::File(_)));
        if is_lost {
            assert!(repository.tensor_table(&kept).is_ok(), "what is there now is not the lost one");
        } else {
            assert_eq!(kept.table, Some(table), "taken over with the entry");
        }
        let found = files_of(&repository, &newest);
        assert_eq!(found[&name.to_path()], checkpoint(1).0);
    }
}
