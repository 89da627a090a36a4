//! Independent accounts: after each entry of the log and each removal of an object, every live snapshot must still have all
//! that it reaches.
//!
//! What a snapshot reaches is read when it becomes live, through the public way to read trees. Of each such chunk, and of
//! each base, a copy must lie in a published segment, in a pack that is there, of a session whose key is there, and that
//! no entry condemns: the sentence that docs/concurrency.md keeps true. It shares the decoders and the replay of the log
//! with the engine, but nothing of the collector.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use seawall_engine::entry::{Content, Extent, Kind};
use seawall_engine::error::Result;
use seawall_engine::format::names::PackName;
use seawall_engine::format::node::decode_extents;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::repo::{Repository, TreeReader};
use seawall_engine::store::Store;

use super::world::World;

#[derive(Clone, Copy)]
struct Copy {
    pack: PackName,
    base: Option<ChunkId>,
}

pub struct Accounts {
    world: Arc<World>,
    repository: Repository,
    /// What each snapshot that was ever live reaches.
    reached: BTreeMap<SnapshotId, BTreeSet<ChunkId>>,
    /// The live ones.
    live: BTreeSet<SnapshotId>,
    /// How often each was forgotten.
    forgotten: BTreeMap<SnapshotId, u64>,
    copies: HashMap<ChunkId, Vec<Copy>>,
    segments: Vec<String>,
    /// Snapshots that somebody was told to forget.
    pub asked_to_forget: BTreeSet<SnapshotId>,
    pub removals: u64,
}

impl Accounts {
    pub fn open(world: &Arc<World>, unlock: &Unlock) -> Self {
        let store: Arc<dyn Store> = world.clone();
        Self {
            world: Arc::clone(world),
            repository: Repository::open(store, unlock, None).unwrap(),
            reached: BTreeMap::new(),
            live: BTreeSet::new(),
            forgotten: BTreeMap::new(),
            copies: HashMap::new(),
            segments: Vec::new(),
            asked_to_forget: BTreeSet::new(),
            removals: 0,
        }
    }

    pub fn entries(&self) -> u64 {
        self.repository.log_entries()
    }

    pub fn has_committed(&self, id: &SnapshotId) -> bool {
        self.reached.contains_key(id)
    }

    pub fn is_live(&self, id: &SnapshotId) -> bool {
        self.live.contains(id)
    }

    /// The live snapshots, each with how often it was forgotten before.
    pub fn live(&self) -> BTreeMap<SnapshotId, u64> {
        self.live.iter().map(|id| (*id, self.times_forgotten(id))).collect()
    }

    /// How often the snapshot was forgotten so far.
    pub fn times_forgotten(&self, id: &SnapshotId) -> u64 {
        self.forgotten.get(id).copied().unwrap_or(0)
    }

    /// An entry was added to the log.
    pub fn follow(&mut self) -> Result<(), String> {
        let why = |error| format!("the log can't be read: {error}");
        self.repository.refresh().map_err(why)?;
        self.look_at_segments()?;
        let state = self.repository.state();
        let live: BTreeSet<SnapshotId> = state.snapshots.iter().map(|snapshot| snapshot.record.id).collect();
        for id in self.live.difference(&live) {
            *self.forgotten.entry(*id).or_default() += 1;
        }
        for snapshot in &state.snapshots {
            let id = snapshot.record.id;
            if !self.reached.contains_key(&id) {
                let reached = self.reach(&snapshot.record.root);
                let reached = reached.map_err(|error| format!("snapshot {id} is live and can't be walked: {error}"))?;
                self.reached.insert(id, reached);
            }
        }
        self.live = live;
        self.check("after an entry", true)
    }

    /// Who is gone from the live snapshots without anybody having been told so.
    pub fn check_forgotten(&self) -> Result<(), String> {
        match self.forgotten.keys().find(|id| !self.asked_to_forget.contains(*id)) {
            Some(id) => Err(format!("snapshot {id} was forgotten, and nobody was told to")),
            None => Ok(()),
        }
    }

    /// An object was removed.
    pub fn removed(&mut self, name: &str) -> Result<(), String> {
        self.removals += 1;
        self.check(&format!("after {name} was removed"), false)
    }

    fn look_at_segments(&mut self) -> Result<(), String> {
        let segments: Vec<String> = self.repository.segments().iter().map(|it| it.name.object()).collect();
        if segments == self.segments {
            return Ok(());
        }
        let mut copies: HashMap<ChunkId, Vec<Copy>> = HashMap::new();
        let listed = self.repository.each_location(&mut |id, location| {
            copies.entry(id).or_default().push(Copy { pack: location.pack, base: location.base });
        });
        listed.map_err(|error| format!("a published segment can't be read: {error}"))?;
        (self.segments, self.copies) = (segments, copies);
        Ok(())
    }

    fn check(&self, when: &str, is_entry: bool) -> Result<(), String> {
        if let Some(gone) = self.segments.iter().find(|name| !self.world.has(name)) {
            return Err(format!("{when}: {gone} is published and gone"));
        }
        let state = self.repository.state();
        let mut sound: BTreeMap<PackName, bool> = BTreeMap::new();
        let mut is_sound = |pack: &PackName| {
            *sound.entry(*pack).or_insert_with(|| {
                let key = format!("session/{}/", pack.session);
                let stays = !is_entry || !state.standing.condemned.contains_key(pack);
                stays && self.world.has(&pack.object()) && self.world.has_below(&key)
            })
        };
        for id in &self.live {
            for chunk in &self.reached[id] {
                if !self.has_copy(chunk, &mut is_sound) {
                    return Err(format!("{when}: snapshot {id} is live and chunk {chunk} has no copy left"));
                }
            }
        }
        Ok(())
    }

    fn has_copy(&self, chunk: &ChunkId, is_sound: &mut dyn FnMut(&PackName) -> bool) -> bool {
        let copies = |id: &ChunkId| self.copies.get(id).map(Vec::as_slice).unwrap_or_default();
        copies(chunk).iter().any(|copy| {
            is_sound(&copy.pack)
                && copy
                    .base
                    .is_none_or(|base| copies(&base).iter().any(|alone| alone.base.is_none() && is_sound(&alone.pack)))
        })
    }

    /// Every chunk that a tree reaches: its nodes, lists of extents and content.
    fn reach(&self, root: &ChunkId) -> Result<BTreeSet<ChunkId>> {
        let met = RefCell::new(BTreeSet::new());
        let read = |id: &ChunkId| {
            met.borrow_mut().insert(*id);
            self.repository.read_chunk(id)
        };
        for entry in TreeReader::new(*root, read).entries() {
            let (_, entry) = entry?;
            met.borrow_mut().extend(entry.table.map(|table| table.id));
            if let Kind::File(content) = &entry.kind {
                match content {
                    Content::Inline(_) => {}
                    Content::Extents(list) => met.borrow_mut().extend(list.iter().filter_map(chunk_of)),
                    Content::Indirect { depth, id, .. } => self.reach_list(*depth, id, &mut met.borrow_mut())?,
                }
            }
        }
        Ok(met.into_inner())
    }

    fn reach_list(&self, depth: u8, id: &ChunkId, met: &mut BTreeSet<ChunkId>) -> Result<()> {
        met.insert(*id);
        let list = decode_extents(&self.repository.read_chunk(id)?)?;
        for chunk in list.iter().filter_map(chunk_of) {
            match depth {
                1 => drop(met.insert(chunk)),
                _ => self.reach_list(depth - 1, &chunk, met)?,
            }
        }
        Ok(())
    }
}

fn chunk_of(extent: &Extent) -> Option<ChunkId> {
    match extent {
        Extent::Chunk { id, .. } => Some(*id),
        Extent::Hole { .. } => None,
    }
}
