//! Tree nodes that are stored against the parent snapshot's nodes: over a chain of snapshots each restores, no base has
//! a base, and a changed entry costs its own bytes.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use seawall_engine::backup::backup;
use seawall_engine::codec::id::{PLANES_DIFFERENCE, ZSTD_PREFIX};
use seawall_engine::crypto::Secret32;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::segment::Location;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::ChunkId;
use seawall_engine::keys;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::{KIB, MIB};

use crate::place::{Place, assert_restores, assert_same, assert_whole, noise, options, paths};

const FILES: usize = 600;
/// What a node that resembles an older one is stored with. Why numbers: of two nodes of one length the bytes may be near to each other.
const WITH_BASE: [u8; 2] = [ZSTD_PREFIX, PLANES_DIFFERENCE];

/// So many small files that the tree has several leaves; none of their bytes compress.
fn fill(source: &Path) {
    (0..FILES).for_each(|number| write(source, number, 0));
}

fn write(source: &Path, number: usize, version: usize) {
    fs::write(source.join(format!("file {number:04}")), noise((version * FILES + number) as u64, 600)).unwrap();
}

/// Where all copies of all tree nodes lie.
fn nodes(repository: &Repository) -> HashMap<ChunkId, Vec<Location>> {
    let mut nodes: HashMap<ChunkId, Vec<Location>> = HashMap::new();
    let each = &mut |id, location: Location| {
        if location.kind == BlobKind::Tree {
            nodes.entry(id).or_default().push(location);
        }
    };
    repository.each_location(each).unwrap();
    nodes
}

/// Holds every node's own header against the index, and every base against the rule that it has none.
fn assert_flat(repository: &Repository) {
    let nodes = nodes(repository);
    let mut plain = Vec::new();
    for (id, copies) in &nodes {
        for location in copies {
            let mut blob = repository.fetch(location).unwrap();
            // The reader refuses a body whose base has a base.
            repository.blob_reader().decode(id, location, &mut blob, &mut plain).unwrap();
            assert_eq!(location.base.is_some(), WITH_BASE.contains(&location.codec));
            if let Some(base) = location.base {
                assert!(nodes[&base].iter().any(|copy| copy.base.is_none()), "a base of depth 2");
            }
        }
    }
}

/// The nodes that are there since `before`, with and without a base.
fn new_nodes(repository: &Repository, before: &BTreeSet<ChunkId>) -> (Vec<Location>, Vec<Location>) {
    let new = nodes(repository).into_iter().filter(|(id, _)| !before.contains(id));
    new.flat_map(|(_, copies)| copies).partition(|location| location.base.is_some())
}

fn ids(repository: &Repository) -> BTreeSet<ChunkId> {
    nodes(repository).into_keys().collect()
}

/// Backs up with this budget, with 3 entries changed, one added and one gone since the version before.
fn next_version(place: &Place, repository: &Repository, version: usize, budget_bytes: usize) -> ChunkId {
    if version > 0 {
        [7, 100 + version, 400].into_iter().for_each(|number| write(&place.source(), number, version));
        fs::write(place.source().join(format!("new {version}")), b"new").unwrap();
        fs::remove_file(place.source().join(format!("file {:04}", 200 + version))).unwrap();
    }
    let mut options = options(paths(&place.source()));
    options.budget_bytes = budget_bytes;
    backup(repository, options, &Silent).unwrap().snapshot.unwrap().root
}

#[test]
fn a_chain_of_snapshots_restores_at_every_link() {
    // With a budget of 8 bytes nothing is handed out: the thread that writes the tree seals the nodes itself.
    for budget_bytes in [64 * MIB, 8] {
        let (place, repository) = Place::new();
        fill(&place.source());
        let restored = |version: usize| place.directory.path().join(format!("restored {version}"));
        let mut roots = Vec::new();
        let mut bases = Vec::new();
        let mut sizes = Vec::new();
        for version in 0..=6 {
            let before = ids(&repository);
            let root = next_version(&place, &repository, version, budget_bytes);
            if version > 0 {
                let (based, alone) = new_nodes(&repository, &before);
                let stored: u32 = based.iter().chain(&alone).map(|location| location.sealed_len).sum();
                sizes.push(stored);
                bases.extend(based.iter().filter_map(|location| location.base));
            }
            assert_restores(&repository, &root, &place.source(), &restored(version));
            roots.push(root);
        }
        // Why not all: where the file that is gone ended a node, two nodes become one, of which one part has no base.
        let small = sizes.iter().filter(|&&stored| stored < 20 * KIB as u32).count();
        assert!(small >= 4, "5 changed entries each: {sizes:?} bytes of nodes");
        let different: BTreeSet<ChunkId> = bases.iter().copied().collect();
        assert!(different.len() < bases.len(), "a node that has a base lends it to its successor");
        let fresh = place.open(false);
        assert_flat(&fresh);
        assert_whole(&fresh);
        for (version, root) in roots.iter().enumerate() {
            assert_same(&fresh, root, &place.source(), &restored(version));
        }
    }
}

#[test]
fn a_node_that_has_drifted_from_its_base_is_stored_whole_again() {
    let (place, repository) = Place::new();
    fill(&place.source());
    let mut whole = Vec::new();
    let mut with_base = Vec::new();
    for version in 0..5 {
        // Every tenth entry, in all nodes: against the first snapshot's nodes, ever more is different.
        (0..FILES).filter(|number| version > 0 && number % 10 == version).for_each(|number| {
            write(&place.source(), number, version);
        });
        let before = ids(&repository);
        backup(&repository, options(paths(&place.source())), &Silent).unwrap();
        let (based, alone) = new_nodes(&repository, &before);
        let bytes = |locations: &[Location]| locations.iter().map(|location| location.sealed_len).sum::<u32>();
        whole.push(bytes(&alone));
        with_base.push(bytes(&based));
    }
    // Every second time the difference would be a fifth of the node. Where nodes are cut, and so how much of each is
    // different, is up to the key.
    let said = format!("whole {whole:?}, with a base {with_base:?}");
    assert!(whole[0] > 300 * KIB as u32 && whole[1] < whole[0] / 4, "{said}");
    assert!(whole[2] > whole[0] / 2 && whole[3] < whole[0] / 2, "{said}");
    assert!(with_base[1] > whole[0] / 20 && with_base[1] < whole[0] / 4, "{said}");
    assert_flat(&repository);
    assert_whole(&repository);
}

/// Who may add but not read can't have old nodes, and does without.
#[test]
fn a_member_stores_nodes_whole() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let (owner, member) = (Unlock::KeyFile(Secret32::random()), Unlock::KeyFile(Secret32::random()));
    let store = Arc::new(MemoryStore::new());
    let repository = Repository::init(store.clone(), &[(owner.clone(), String::new())], None).unwrap();
    backup(&repository, options(paths(directory.path())), &Silent).unwrap();
    keys::add(&repository, Role::Member, &member.lock().unwrap(), "member").unwrap();

    let before = ids(&repository);
    write(directory.path(), 7, 1);
    let member = Repository::open(store.clone(), &member, None).unwrap();
    assert!(!member.can_read_data());
    backup(&member, options(paths(directory.path())), &Silent).unwrap();
    let fresh = Repository::open(store, &owner, None).unwrap();
    let (based, alone) = new_nodes(&fresh, &before);
    assert_eq!((based.len(), alone.is_empty()), (0, false));
    assert_whole(&fresh);
}
