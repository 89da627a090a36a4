//! A member that turned evil beside an owner who prunes: whatever the member commits, what other snapshots need stays.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use seawall_engine::backup::{BackupOptions, ParentUse, backup};
use seawall_engine::crypto::{Secret32, envelope, object_hash};
use seawall_engine::entry::{Content, Entry, Kind};
use seawall_engine::forget::forget;
use seawall_engine::format::log::{Act, BlobDamage, KeyChange, SegmentRecord, SnapshotRecord};
use seawall_engine::format::names::{PackName, SegmentName};
use seawall_engine::format::node::{LeafWriter, encode_extents};
use seawall_engine::format::pack::{BlobKind, BlobRecord};
use seawall_engine::format::segment::{Location, SegmentBuilder};
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::{ChunkId, SessionId, SnapshotId};
use seawall_engine::keys;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::{MaxUnused, PruneOptions};
use seawall_engine::repair::REPAIRED_FROM;
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::undelete::undelete;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use crate::beside::{At, Between};
use crate::damage::check;
use crate::hand::{Hand, craft, craft_like, extent_of, key};
use crate::place::{files_of, noise, options, paths, stored_files};
use crate::prune::{patient, run, thorough};
use crate::session::record;

/// A repository with an owner, a reader and a member.
pub struct Ground {
    pub store: Arc<MemoryStore>,
    pub owner: Unlock,
    others: [Unlock; 2],
}

impl Ground {
    pub fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let unlock = || Unlock::KeyFile(Secret32::random());
        let (owner, others) = (unlock(), [unlock(), unlock()]);
        let repository = Repository::init(store.clone(), &[(owner.clone(), "owner".into())], None).unwrap();
        for (role, unlock) in [Role::Reader, Role::Member].into_iter().zip(&others) {
            keys::add(&repository, role, &unlock.lock().unwrap(), role.name()).unwrap();
        }
        Self { store, owner, others }
    }

    /// The same with other objects.
    pub fn over(&self, store: MemoryStore) -> Self {
        Self { store: Arc::new(store), owner: self.owner.clone(), others: self.others.clone() }
    }

    pub fn owner(&self) -> Repository {
        Repository::open(self.store.clone(), &self.owner, None).unwrap()
    }

    fn reader(&self) -> Repository {
        Repository::open(self.store.clone(), &self.others[0], None).unwrap()
    }

    pub fn member(&self) -> Repository {
        Repository::open(self.store.clone(), &self.others[1], None).unwrap()
    }

    /// The root of a live snapshot.
    pub fn root(&self, id: SnapshotId) -> ChunkId {
        self.owner().state().snapshot(&id).unwrap().record.root
    }

    /// Changes a bit of a blob, behind its header of 48 bytes.
    pub fn flip(&self, place: &Location) {
        let mut bytes = self.store.get(&place.pack.object(), None).unwrap();
        bytes[usize::try_from(place.offset).unwrap() + 60] ^= 4;
        self.store.replace(&place.pack.object(), &bytes);
    }

    /// All files of a live snapshot can be read.
    pub fn assert_reads(&self, id: SnapshotId, files: &[(&str, &[u8])], case: &str) {
        let found = files_of(&self.owner(), &self.root(id));
        for (path, bytes) in files {
            assert_eq!(found[std::path::Path::new(path)], *bytes, "{case}: {path}");
        }
    }
}

/// The data of a file as one extent.
fn whole(hand: &Hand<'_, '_>, bytes: &[u8]) -> (Content, u64) {
    (Content::Extents(vec![hand.extent(bytes)]), bytes.len() as u64)
}

pub fn single(hand: &Hand<'_, '_>, path: &str, bytes: &[u8]) -> ChunkId {
    let (content, size) = whole(hand, bytes);
    hand.leaf(&[(path, content, size)]).id
}

/// What evil files name: the nodes of a tree, or its lists of extents, as if they were data; or a list of lists as if it
/// were a list of data.
#[derive(Debug, Clone, Copy)]
enum Named {
    Nodes,
    Lists,
    ListOfLists,
}

#[test]
fn a_file_that_names_nodes_and_lists_does_not_keep_a_prune_from_entering_them() {
    for named in [Named::Nodes, Named::Lists, Named::ListOfLists] {
        let ground = Ground::new();
        let (one, two, three) = (noise(1, 50_000), noise(2, 60_000), noise(3, 70_000));
        let (mut nodes, mut lists) = (Vec::new(), Vec::new());
        let first = craft(&ground.owner(), |hand| {
            let list = encode_extents(&[hand.extent(&one), hand.extent(&two)]);
            let inner = extent_of(hand.put(BlobKind::Tree, &list), list.len());
            let outer = encode_extents(&[inner]);
            let top = hand.put(BlobKind::Tree, &outer);
            lists = vec![(top, outer.len()), (hand.put(BlobKind::Tree, &list), list.len())];
            let long = Content::Indirect { depth: 2, id: top, length: outer.len().try_into().unwrap() };
            let (short, size) = whole(hand, &three);
            let leaves = [hand.leaf(&[("/a", long, 110_000)]), hand.leaf(&[("/b", short, size)])];
            nodes.extend(leaves.iter().map(|leaf| leaf.id));
            let root = hand.inner(&leaves);
            nodes.push(root);
            root
        });
        let root = ground.root(first);
        craft(&ground.member(), |hand| {
            let extents = |ids: &[(ChunkId, usize)]| {
                Content::Extents(ids.iter().map(|(id, length)| extent_of(*id, *length)).collect())
            };
            let nodes: Vec<_> = nodes.iter().map(|id| (*id, 100)).collect();
            let content = match named {
                Named::Nodes => extents(&nodes),
                Named::Lists => extents(&lists),
                Named::ListOfLists => {
                    Content::Indirect { depth: 1, id: lists[0].0, length: lists[0].1.try_into().unwrap() }
                }
            };
            hand.leaf(&[("/evil", content, 1)]).id
        });
        // The same tree once more, so that the evil snapshot is walked before it.
        let second = craft(&ground.owner(), |_| root);
        let owner = ground.owner();
        forget(&owner, &[first], "test").unwrap();
        run(&owner, &thorough()).unwrap();
        let long = [one, two].concat();
        ground.assert_reads(second, &[("/a", &long), ("/b", &three)], &format!("{named:?}"));
        let left = run(&ground.owner(), &thorough()).unwrap();
        assert_eq!((left.condemned_packs, left.problems), (0, 0), "{named:?}");
    }
}

/// An evil tree names a node of another one under a wrong first key. What is below the node is checked all the same.
#[test]
fn a_tree_that_names_anothers_node_wrongly_hides_nothing_from_verify() {
    let ground = Ground::new();
    let missing = ChunkId([7; 32]);
    let mut leaf = None;
    craft(&ground.owner(), |hand| {
        let content = Content::Extents(vec![extent_of(missing, 10)]);
        let made = hand.leaf(&[("/good", content, 10)]);
        let root = hand.inner(std::slice::from_ref(&made));
        leaf = Some(made);
        root
    });
    // The newest snapshot is checked first.
    let leaf = leaf.unwrap();
    let evil = craft(&ground.member(), |hand| {
        hand.inner(&[seawall_engine::format::node::Child { first: key("/evil"), ..leaf }])
    });
    let options = VerifyOptions { read: Read::Nothing, record: false, threads: 1, budget_bytes: 1 << 24 };
    let report = verify(&ground.owner(), &options, &Silent).unwrap();
    let unlisted = report.damage.iter().find(|damage| damage.object == "index").expect("the chunk is in no segment");
    assert_eq!(unlisted.paths, ["/good"]);
    let wrong = report.damage.iter().find(|damage| damage.object.starts_with("tree node")).expect("it is told");
    assert_eq!(wrong.snapshots, [evil], "the good snapshot loses nothing by it");
}

/// Two sessions stored the same tree, and the key of the newer one is lost. What is below is checked all the same.
#[test]
fn a_lost_session_key_hides_nothing_of_a_tree_that_lies_elsewhere_too() {
    let ground = Ground::new();
    let missing = ChunkId([7; 32]);
    let tree = |hand: &Hand<'_, '_>| {
        let content = Content::Extents(vec![extent_of(missing, 10)]);
        hand.inner(&[hand.leaf(&[("/good", content, 10)])])
    };
    let (early, late) = (ground.owner(), ground.owner());
    craft(&early, tree);
    let newest = craft(&late, tree);
    let owner = ground.owner();
    let (root, mut places) = (ground.root(newest), Vec::new());
    owner.each_location(&mut |id, location| places.extend((id == root).then_some(location))).unwrap();
    let newer = places.pop().unwrap().pack.session;
    assert!(places.iter().any(|place| place.pack.session != newer), "the scene: two copies");
    let keys: Vec<String> = ground.store.names().into_iter().filter(|name| name.starts_with("session/")).collect();
    keys.iter().filter(|name| name.contains(&newer.to_string())).for_each(|name| ground.store.delete(name).unwrap());
    let report = check(&ground.owner(), Read::Nothing);
    let unlisted = report.damage.iter().find(|damage| damage.object == "index").expect("the chunk is in no segment");
    assert_eq!(unlisted.paths, ["/good"]);
    assert_eq!(report.nodes, 2);
}

/// The packs that have a copy of a chunk.
fn packs_of(repository: &Repository, chunk: &ChunkId) -> BTreeSet<PackName> {
    let mut packs = BTreeSet::new();
    let each = &mut |id, location: Location| packs.extend((id == *chunk).then_some(location.pack));
    repository.each_location(each).unwrap();
    packs
}

/// Two copies of a chunk, one of which is not what its id says, published before or after the good one; alone in its pack,
/// or beside something that nobody needs, so that the pack is rewritten.
#[test]
fn a_poisoned_copy_does_not_win_over_a_good_one() {
    for case in 0..16 {
        let [poison_first, has_waste, good_has_waste, one_by_one] = std::array::from_fn(|bit| case >> bit & 1 == 1);
        let name = format!("first {poison_first}, waste {has_waste} {good_has_waste}, one by one {one_by_one}");
        let ground = Ground::new();
        let plain = noise(1, 100_000);
        let chunk = ground.owner().id_key().chunk_id(&plain);
        // Both look before the other one commits, so both store the chunk.
        let (early, evil) = (ground.owner(), ground.member());
        let poison = || {
            let waste = craft(&evil, |hand| {
                assert!(hand.store_as(BlobKind::Data, &chunk, &noise(2, 100_000), None));
                if has_waste {
                    hand.extent(&noise(3, 300_000));
                }
                single(hand, "/evil", b"nothing much, but more than goes inline")
            });
            assert!(ground.owner().state().snapshot(&waste).is_some());
        };
        if poison_first {
            poison();
        }
        let good = craft(&early, |hand| {
            if good_has_waste {
                hand.extent(&noise(4, 300_000));
            }
            single(hand, "/good", &plain)
        });
        if !poison_first {
            poison();
        }
        let owner = ground.owner();
        assert_eq!(packs_of(&owner, &chunk).len(), 2, "{name}: the scene");
        let options = PruneOptions { batch_packs: if one_by_one { 1 } else { 10 }, ..thorough() };
        for round in 0..3 {
            run(&owner, &options).unwrap();
            ground.assert_reads(good, &[("/good", &plain)], &format!("{name}, prune {round}"));
        }
        let last = run(&owner, &options).unwrap();
        assert_eq!((last.condemned_packs, last.problems), (0, 0), "{name}: it comes to an end");
    }
}

/// What a prune finds damaged on the way is known afterwards: the next backup does not lean on it.
#[test]
fn a_prune_counts_and_records_what_it_reads() {
    read_back_by(10);
}

/// However few copies it lists at once, each is read before another leaves for it.
#[test]
fn a_prune_that_lists_one_copy_at_a_time_reads_them_all() {
    read_back_by(1);
}

fn read_back_by(batch_reads: usize) {
    let ground = Ground::new();
    let (early, evil) = (ground.owner(), ground.member());
    let plain = noise(1, 100_000);
    let chunk = early.id_key().chunk_id(&plain);
    // Why: once the poisoned one is found nothing leaves any more, and what comes after it need not be read.
    let before = |bytes: &Vec<u8>| early.id_key().chunk_id(bytes) < chunk;
    let shared = (5..).map(|seed| noise(seed, 80_000)).find(before).unwrap();
    craft(&evil, |hand| {
        hand.extent(&shared);
        hand.store_as(BlobKind::Data, &chunk, &noise(2, 100_000), None);
        single(hand, "/evil", &shared)
    });
    craft(&early, |hand| {
        hand.extent(&shared);
        single(hand, "/good", &plain)
    });
    let owner = ground.owner();
    let options = PruneOptions { max_unused: MaxUnused::Bytes(u64::MAX), batch_reads, ..thorough() };
    let report = run(&owner, &options).unwrap();
    assert_eq!((report.read_back_chunks, report.problems), (2, 1), "the shared chunk and the poisoned one: {report:?}");
    assert!(report.read_back_bytes > 180_000, "{report:?}");
    let damage = &owner.state().standing.damage;
    let damaged: Vec<_> = damage.values().flat_map(|damage| damage.chunks.iter().copied()).collect();
    assert_eq!(damaged, [chunk]);
}

/// A segment of a member tells a wrong place in a good pack. Whatever is merged, the right place stays known.
#[test]
fn merging_segments_keeps_every_place_that_is_told_of_a_chunk() {
    let ground = Ground::new();
    let plain = noise(1, 100_000);
    let good = craft(&ground.owner(), |hand| single(hand, "/good", &plain));
    let member = ground.member();
    let chunk = member.id_key().chunk_id(&plain);
    let place = member.locate(&chunk).unwrap();
    let wrong = BlobRecord {
        id: chunk,
        offset: place.offset + 16,
        sealed_len: place.sealed_len,
        plain_len: place.plain_len,
        codec: place.codec,
        base: None,
    };
    let mut builder = SegmentBuilder::new();
    builder.push(place.pack, BlobKind::Data, &wrong);
    let name = SegmentName { session: SessionId([3; 16]), counter: 0 };
    let sealed = envelope::seal(&member.keys().index_key, &name.object(), &builder.finish());
    ground.store.put(&name.object(), &sealed).unwrap();
    let segment =
        SegmentRecord { name, hash: object_hash(&sealed), records: 1, bytes: u64::try_from(sealed.len()).unwrap() };
    let snapshot = Box::new(record(ground.root(good)));
    let commit = Act::Commit { session: name.session, segments: vec![segment], snapshot, adopted: Vec::new() };
    member.append(&mut |_| Ok(commit.clone())).unwrap();
    for number in 0..9 {
        craft(&ground.owner(), |hand| single(hand, "/more", &noise(10 + number, 1_000)));
    }
    let owner = ground.owner();
    let report = run(&owner, &thorough()).unwrap();
    assert!(report.segments_after < report.segments_before, "the scene: {report:?}");
    ground.assert_reads(good, &[("/good", &plain)], "after segments were merged");
}

/// Of two good copies one was taken out of use; then the other one is found damaged. The first is stored again.
#[test]
fn a_condemned_copy_is_stored_again_where_the_one_that_stayed_is_damaged() {
    let ground = Ground::new();
    let plain = noise(1, 100_000);
    let (early, late) = (ground.owner(), ground.owner());
    let chunk = early.id_key().chunk_id(&plain);
    let good = craft(&early, |hand| single(hand, "/good", &plain));
    craft(&late, |hand| single(hand, "/other", &plain));
    let owner = ground.owner();
    run(&owner, &patient()).unwrap();
    let state = owner.state();
    let of_chunk = packs_of(&owner, &chunk);
    let (condemned, stayed): (Vec<&PackName>, Vec<&PackName>) =
        of_chunk.iter().partition(|pack: &&PackName| state.standing.condemned.contains_key(pack));
    assert_eq!((condemned.len(), stayed.len()), (1, 1), "the scene");
    let place = owner.locate(&chunk).unwrap();
    assert_eq!(place.pack, *stayed[0]);
    ground.flip(&place);
    assert!(!check(&ground.owner(), Read::All).damage.is_empty());
    let report = run(&owner, &thorough()).unwrap();
    assert!(report.rewritten_chunks > 0, "{report:?}");
    for _ in 0..2 {
        ground.assert_reads(good, &[("/good", &plain)], "once the copy is deleted");
        run(&owner, &thorough()).unwrap();
    }
    assert_eq!(check(&ground.owner(), Read::All).damage, []);
}

pub fn audit(lost: &[PackName], damaged: &[(PackName, ChunkId)], sound: &[PackName]) -> Act {
    let damaged = damaged.iter().map(|(pack, chunk)| BlobDamage { pack: *pack, chunk: *chunk }).collect();
    Act::Audit { depth: 2, bytes: 0, lost: lost.to_vec(), damaged, sound: sound.to_vec() }
}

/// A member calls a good pack lost: a backup stores its chunks again, and a prune gives up nothing for it. A member calls
/// a damaged pack whole: nobody believes it.
#[test]
fn what_a_member_says_of_packs_is_heeded_by_writers_alone() {
    let ground = Ground::new();
    let plain = noise(1, 100_000);
    let good = craft(&ground.owner(), |hand| single(hand, "/good", &plain));
    let owner = ground.owner();
    let chunk = owner.id_key().chunk_id(&plain);
    let pack = owner.locate(&chunk).unwrap().pack;
    ground.member().append(&mut |_| Ok(audit(&[pack], &[], &[]))).unwrap();
    let again = ground.owner();
    let other = craft(&again, |hand| {
        assert!(hand.store_as(BlobKind::Data, &chunk, &plain, None), "a backup stores it again");
        single(hand, "/other", &plain)
    });
    owner.refresh().unwrap();
    assert!(owner.state().standing.damage.is_empty() && owner.state().standing.claims.contains_key(&pack));
    let report = run(&owner, &thorough()).unwrap();
    assert_eq!(report.problems, 0);
    assert!(packs_of(&owner, &chunk).contains(&pack), "the older copy stays: nothing speaks against it");
    ground.assert_reads(good, &[("/good", &plain)], "after a prune");
    ground.assert_reads(other, &[("/other", &plain)], "after a prune");

    let found = audit(&[], &[(pack, chunk)], &[]);
    ground.reader().append(&mut |_| Ok(found.clone())).unwrap();
    ground.member().append(&mut |_| Ok(audit(&[], &[], &[pack]))).unwrap();
    assert!(ground.owner().state().standing.damage.contains_key(&pack), "a member reads nothing back");
    ground.reader().append(&mut |_| Ok(audit(&[], &[], &[pack]))).unwrap();
    assert!(ground.owner().state().standing.is_undoubted());
}

/// Chunks of which one is stored against the other, in packs of their own.
struct Bases {
    ground: Ground,
    plain: Vec<u8>,
    /// The base, damaged in fact and by an AUDIT; the chunk against it; the base once more; the chunk once more.
    packs: [PackName; 4],
    snapshots: Vec<SnapshotId>,
}

impl Bases {
    fn new() -> Self {
        let ground = Ground::new();
        let base = noise(1, 200_000);
        let mut plain = base.clone();
        plain[1000] ^= 1;
        let early: Vec<Repository> = (0..4).map(|_| ground.owner()).collect();
        let (base_id, id) = (early[0].id_key().chunk_id(&base), early[0].id_key().chunk_id(&plain));
        let keep = |hand: &Hand<'_, '_>, seed: u64| single(hand, "/keep", &noise(10 + seed, 50_000));
        let mut snapshots = vec![craft(&early[0], |hand| {
            hand.extent(&base);
            keep(hand, 0)
        })];
        let second = ground.owner();
        snapshots.push(craft(&second, |hand| {
            assert!(hand.store_as(BlobKind::Data, &id, &plain, Some((&base_id, &base))));
            keep(hand, 1)
        }));
        snapshots.push(craft(&early[2], |hand| single(hand, "/base", &base)));
        snapshots.push(craft(&early[3], |hand| single(hand, "/child", &plain)));
        let owner = ground.owner();
        let mut places: Vec<(ChunkId, Location)> = Vec::new();
        owner.each_location(&mut |id, location| places.push((id, location))).unwrap();
        let find = |id: ChunkId, skip: usize| {
            places.iter().filter(|(it, _)| *it == id).nth(skip).expect("the scene has this copy").1
        };
        let of_child: Vec<Location> = [find(id, 0), find(id, 1)].to_vec();
        let with_base = of_child.iter().find(|location| location.base.is_some()).expect("one has a base").pack;
        let alone = of_child.iter().find(|location| location.base.is_none()).expect("one has none").pack;
        let of_base = [find(base_id, 0), find(base_id, 1)];
        let packs = [of_base[0].pack, with_base, of_base[1].pack, alone];
        ground.flip(&of_base[0]);
        owner.append(&mut |_| Ok(audit(&[], &[(packs[0], base_id)], &[]))).unwrap();
        Self { ground, plain, packs, snapshots }
    }
}

/// Right before a CONDEMN takes the good copy of a base and the plain copy of what is stored against it, somebody commits
/// a snapshot that needs the latter. What is left must be readable: not a copy whose base is damaged.
#[test]
fn a_copy_whose_base_is_damaged_does_not_count_as_the_one_that_stays() {
    for entry in 0..3 {
        let Bases { ground, plain, snapshots, packs, .. } = Bases::new();
        forget(&ground.owner(), &snapshots[2..], "test").unwrap();
        let late = ground.owner();
        let needed = Arc::new(std::sync::Mutex::new(None));
        let (told, bytes) = (Arc::clone(&needed), plain.clone());
        let job = Box::new(move || {
            *told.lock().unwrap() = Some(craft(&late, |hand| single(hand, "/late", &bytes)));
        });
        let between = Arc::new(Between::new(ground.store.clone(), At::LogEntry(entry), job));
        let owner = Repository::open(between, &ground.owner, None).unwrap();
        run(&owner, &PruneOptions { max_unused: MaxUnused::Bytes(u64::MAX), ..thorough() }).unwrap();
        let needed = needed.lock().unwrap().expect("the other one ran");
        assert!(owner.state().standing.damage.contains_key(&packs[0]), "the scene");
        ground.assert_reads(needed, &[("/late", &plain)], &format!("before entry {entry}"));
        run(&ground.owner(), &thorough()).unwrap();
        ground.assert_reads(needed, &[("/late", &plain)], &format!("before entry {entry}, another prune"));
    }
}

/// A snapshot comes back with a copy that can be read, though that is condemned and the other is not.
#[test]
fn an_undelete_does_not_rest_on_a_copy_whose_base_is_damaged() {
    let Bases { ground, plain, packs, snapshots } = Bases::new();
    let owner = ground.owner();
    forget(&owner, &snapshots[2..], "test").unwrap();
    // The good copies; and the good base is deleted for good.
    let condemned = Act::Condemn { packs: packs[2..].to_vec(), session: None, segments: Vec::new() };
    owner.append(&mut |_| Ok(condemned.clone())).unwrap();
    owner.append(&mut |_| Ok(Act::Delete { packs: vec![packs[2]] })).unwrap();
    // What was forgotten before a deletion can't come back, so the snapshot is made anew.
    let child = craft(&ground.owner(), |hand| {
        let id = ground.owner().id_key().chunk_id(&plain);
        hand.leaf(&[("/child", Content::Extents(vec![extent_of(id, plain.len())]), plain.len() as u64)]).id
    });
    owner.refresh().unwrap();
    forget(&owner, &[child], "test").unwrap();
    undelete(&owner, &[child], &Silent).unwrap();
    assert!(!owner.state().standing.condemned.contains_key(&packs[3]), "the copy without a base is back");
    run(&owner, &thorough()).unwrap();
    ground.assert_reads(child, &[("/child", &plain)], "after an undelete and a prune");
}

/// Commits a snapshot of what `like` is of, in which every file has other bytes, as many, and all else is as it was: to a
/// backup that believed it, nothing would have changed. `is_long` lists the bytes as those of a long file are.
fn forge(evil: &Repository, reader: &Repository, like: &SnapshotRecord, is_long: bool) -> SnapshotId {
    let entries: Vec<_> = reader.tree(&like.root).entries().map(Result::unwrap).collect();
    craft_like(evil, like, |hand| {
        let mut leaf = LeafWriter::new();
        for (key, entry) in entries {
            let Kind::File(_) = &entry.kind else {
                leaf.push(&key, &entry);
                continue;
            };
            let other = hand.extent(&noise(666, usize::try_from(entry.size).unwrap()));
            let content = if is_long {
                let list = encode_extents(&[other]);
                let length = list.len().try_into().unwrap();
                Content::Indirect { depth: 1, id: hand.put(BlobKind::Tree, &list), length }
            } else {
                Content::Extents(vec![other])
            };
            leaf.push(&key, &Entry { kind: Kind::File(content), mode: 0o777, ..entry });
        }
        hand.put(BlobKind::Tree, &leaf.take())
    })
}

/// A snapshot in a host's name, of the same paths, sizes, times and inodes but other bytes, by somebody who may only add, or
/// by an owner who was removed since: nobody's next backup holds those bytes, and verify would have been content.
#[test]
fn what_others_commit_in_a_hosts_name_is_not_taken_over() {
    for (is_owner, is_long) in [(true, false), (true, true), (false, false), (false, true)] {
        let case = format!("owner {is_owner}, long {is_long}");
        let ground = Ground::new();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().canonicalize().unwrap().join("model");
        let plain = noise(1, 300_000);
        fs::write(&file, &plain).unwrap();
        let open = || if is_owner { ground.owner() } else { ground.reader() };
        let run = |more: &dyn Fn(BackupOptions) -> BackupOptions, wanted: ParentUse, read: u64| {
            let victim = open();
            let dry = more(BackupOptions { dry_run: true, ..options(paths(directory.path())) });
            let dry = backup(&victim, dry, &Silent).unwrap();
            assert_eq!((dry.parent, dry.bytes_read), (wanted, read), "{case}, dry run");
            let report = backup(&victim, more(options(paths(directory.path()))), &Silent).unwrap();
            assert_eq!(stored_files(&ground.owner(), &report)[&file], plain, "{case}");
            let entry = ground.owner().tree(&report.snapshot.as_ref().unwrap().root).get(&key(file.to_str().unwrap()));
            assert_ne!(entry.unwrap().unwrap().mode & 0o777, 0o777, "{case}");
            assert_eq!((report.parent, report.bytes_read), (wanted, read), "{case}");
            report.snapshot.unwrap()
        };
        // Of the host's own making, the first, to forge from.
        let first = backup(&ground.owner(), options(paths(directory.path())), &Silent).unwrap().snapshot.unwrap();
        let evil = forge(&ground.member(), &ground.owner(), &first, is_long);
        // Older than the evil one, but an owner's.
        let second = run(&|it| it, ParentUse::TakenOver(first.id), 0);
        // It was asked for.
        let asked = |it: BackupOptions| BackupOptions { parent: Some(evil), ..it };
        let third = run(&asked, ParentUse::OtherMember(evil), 300_000);
        // Nothing but the evil one is there.
        forget(&ground.owner(), &[first.id, second.id, third.id], "test").unwrap();
        let own = run(&|it| it, ParentUse::OtherMember(evil), 300_000);
        let next = run(&|it| it, ParentUse::TakenOver(own.id), 0);

        // By an owner, who is believed; until removed.
        let thief = Unlock::KeyFile(Secret32::random());
        keys::add(&ground.owner(), Role::Owner, &thief.lock().unwrap(), "thief").unwrap();
        forget(&ground.owner(), &[own.id, next.id], "test").unwrap();
        let stolen = Repository::open(ground.store.clone(), &thief, None).unwrap();
        let evil = forge(&stolen, &ground.owner(), &next, is_long);
        let removed = stolen.keys().member;
        ground.owner().append(&mut |_| Ok(Act::Key(KeyChange::Revoke(removed)))).unwrap();
        let last = run(&|it| it, ParentUse::RemovedKey(evil), 300_000);

        // An owner who repairs the evil one signs what is left of it.
        forget(&ground.owner(), &[last.id, evil], "test").unwrap();
        let like = SnapshotRecord { labels: vec![(REPAIRED_FROM.into(), own.id.to_string())], ..next };
        let repaired = forge(&ground.owner(), &ground.owner(), &like, is_long);
        run(&|it| it, ParentUse::Repaired(repaired), 300_000);
    }
}
