//! Independent accounts: after each entry of the log and each removal of an object, every live snapshot must still have all
//! that it reaches.
//!
//! What a snapshot reaches is read when it becomes live, through the public way to read trees. Of each such chunk, and of
//! each base, a copy must lie in a published segment, in a pack that is there, of a session whose key is there, and that
//! no entry condemns: the sentence that docs/concurrency.md keeps true. It shares the decoders and the replay of the log
//! with the engine, but nothing of the collector.
//!
//! After accidents ([`super::harm`]) only copies count whose bytes are what their id says. What an accident has taken the last
//! such copy of is hurt, and may stay so; but no entry and no removal hurts anything else.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use seawall_engine::entry::{Content, Extent, Kind};
use seawall_engine::error::Result;
use seawall_engine::format::names::PackName;
use seawall_engine::format::node::decode_extents;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::repo::reader::BLOB_HEADER_BYTES;
use seawall_engine::repo::{Repository, TreeReader};
use seawall_engine::rules::{Standing, State};
use seawall_engine::store::Store;

use super::harm::Damage;
use super::world::{Unharmed, World};

#[derive(Clone, Copy)]
pub struct Copy {
    pub pack: PackName,
    pub base: Option<ChunkId>,
    pub kind: BlobKind,
    /// A byte in the middle of its body.
    pub middle: u64,
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
    /// Those before the newest entry that changed which segments there are.
    copies_before: HashMap<ChunkId, Vec<Copy>>,
    segments: Vec<String>,
    /// Snapshots that somebody was told to forget.
    pub asked_to_forget: BTreeSet<SnapshotId>,
    pub removals: u64,
    pub damage: Damage,
    /// What live snapshots reach, as of the last entry.
    needed: BTreeSet<ChunkId>,
    /// What of that has no good copy outside the condemned packs, and whether it has one at all.
    hurt: BTreeMap<ChunkId, bool>,
    /// Nodes and lists that were read.
    read: RefCell<HashMap<ChunkId, Vec<u8>>>,
    /// Chunks that were seen stored against two bases, or with and without one.
    pub of_two_bases: BTreeSet<ChunkId>,
    pub healed: u64,
    /// Chunks that lost a copy while somebody chose which copies to keep.
    unsure: BTreeSet<ChunkId>,
}

/// Which copies count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Counts {
    /// Good ones that no entry condemns.
    Kept,
    /// Good ones, be they condemned, that are there.
    There,
    /// Good ones that no DELETE names.
    Undeleted,
    /// Those on which a writer may lean, good or not: neither condemned nor called damaged by anybody.
    Leaned,
    /// Those that no DELETE names and no owner or reader calls damaged, good or not.
    Believed,
}

impl Accounts {
    pub fn open(world: &Arc<World>, unlock: &Unlock) -> Self {
        let store: Arc<dyn Store> = Arc::new(Unharmed(Arc::clone(world)));
        Self {
            world: Arc::clone(world),
            repository: Repository::open(store, unlock, None).unwrap(),
            reached: BTreeMap::new(),
            live: BTreeSet::new(),
            forgotten: BTreeMap::new(),
            copies: HashMap::new(),
            copies_before: HashMap::new(),
            segments: Vec::new(),
            asked_to_forget: BTreeSet::new(),
            removals: 0,
            damage: Damage::default(),
            needed: BTreeSet::new(),
            hurt: BTreeMap::new(),
            read: RefCell::default(),
            of_two_bases: BTreeSet::new(),
            healed: 0,
            unsure: BTreeSet::new(),
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
        let is_back = live.difference(&self.live).any(|id| self.reached.contains_key(id));
        for snapshot in &state.snapshots {
            let id = snapshot.record.id;
            if !self.reached.contains_key(&id) {
                let reached = self.reach(&snapshot.record.root);
                let reached = reached.map_err(|error| format!("snapshot {id} is live and can't be walked: {error}"))?;
                self.reached.insert(id, reached);
            }
        }
        self.live = live;
        self.check("after an entry", Some(is_back))?;
        self.needed = self.live.iter().flat_map(|id| &self.reached[id]).copied().collect();
        Ok(())
    }

    /// Live snapshots that have lost something.
    pub fn hurt_snapshots(&self) -> BTreeSet<SnapshotId> {
        let is_hurt = |id: &&SnapshotId| self.reached[id].iter().any(|chunk| self.hurt.contains_key(chunk));
        self.live.iter().filter(is_hurt).copied().collect()
    }

    /// Those of them that nobody can restore any more: not even from what is condemned.
    pub fn lost_snapshots(&self) -> BTreeSet<SnapshotId> {
        let is_lost = |chunk: &ChunkId| self.hurt.get(chunk).is_some_and(|is_left| !is_left);
        self.live.iter().filter(|id| self.reached[*id].iter().any(is_lost)).copied().collect()
    }

    pub fn is_hurt(&self) -> bool {
        !self.hurt.is_empty()
    }

    /// True if a published segment was lost.
    pub fn lacks_segment(&self) -> bool {
        self.segments.iter().any(|name| self.damage.lost_segments.contains(name))
    }

    /// An accident has happened to these copies; `is_choosing`: while somebody may have looked at them, to do without others.
    pub fn take_harm(&mut self, hit: &[(PackName, ChunkId)], is_choosing: bool) {
        if is_choosing {
            let ids: BTreeSet<ChunkId> = hit.iter().map(|(_, id)| *id).collect();
            let leans = |copies: &[Copy]| copies.iter().any(|copy| copy.base.is_some_and(|base| ids.contains(&base)));
            self.unsure.extend(self.copies.iter().filter(|(_, copies)| leans(copies)).map(|(id, _)| *id));
            self.unsure.extend(ids);
        }
        let hurt = self.needed.iter().filter(|chunk| !self.has_copy(chunk, Counts::Kept));
        self.hurt = hurt.map(|chunk| (*chunk, self.has_copy(chunk, Counts::Undeleted))).collect();
    }

    /// Nobody chooses any more: who looks from now on sees what accidents did.
    pub fn forget_choices(&mut self) {
        self.unsure.clear();
    }

    /// All copies, those of one chunk after the other, in an order that is the same each time.
    pub fn all_copies(&self) -> Vec<(ChunkId, Copy)> {
        let mut all: Vec<(ChunkId, Copy)> =
            self.copies.iter().flat_map(|(id, copies)| copies.iter().map(|copy| (*id, *copy))).collect();
        all.retain(|(id, copy)| self.world.has(&copy.pack.object()) && !self.damage.rotten.contains(&(copy.pack, *id)));
        all.sort_by_key(|(id, copy)| (*id, copy.pack.session, copy.pack.counter));
        all.dedup_by_key(|(id, copy)| (*id, copy.pack));
        all
    }

    pub fn segments(&self) -> &[String] {
        &self.segments
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
        self.check(&format!("after {name} was removed"), None)
    }

    fn look_at_segments(&mut self) -> Result<(), String> {
        let segments: Vec<String> = self.repository.segments().iter().map(|it| it.name.object()).collect();
        if segments == self.segments {
            return Ok(());
        }
        let mut copies: HashMap<ChunkId, Vec<Copy>> = HashMap::new();
        let listed = self.repository.each_location(&mut |id, location| {
            let middle = u64::from(location.offset) + BLOB_HEADER_BYTES + u64::from(location.sealed_len / 2);
            let (pack, base, kind) = (location.pack, location.base, location.kind);
            copies.entry(id).or_default().push(Copy { pack, base, kind, middle });
        });
        listed.map_err(|error| format!("a published segment can't be read: {error}"))?;
        for (id, copies) in &copies {
            if copies.iter().any(|copy| copy.base != copies[0].base) {
                self.of_two_bases.insert(*id);
            }
        }
        self.segments = segments;
        self.copies_before = std::mem::replace(&mut self.copies, copies);
        Ok(())
    }

    /// Looks at everything that is needed; after an entry with whether it brought back what was forgotten.
    fn check(&mut self, when: &str, entry: Option<bool>) -> Result<(), String> {
        let is_gone = |name: &&String| !self.world.has(name) && !self.damage.lost_segments.contains(*name);
        if let Some(gone) = self.segments.iter().find(is_gone) {
            return Err(format!("{when}: {gone} is published and gone"));
        }
        let mut hurt = BTreeMap::new();
        let mut look = Look::new(self);
        for id in &self.live {
            for chunk in &self.reached[id] {
                let before = self.hurt.get(chunk);
                if let (None, Some(before)) = (entry, before) {
                    hurt.insert(*chunk, *before);
                } else if !look.has(chunk, if entry.is_some() { Counts::Kept } else { Counts::There }) {
                    let is_left = look.has(chunk, Counts::Undeleted);
                    self.excuse(&mut look, chunk, entry, is_left).map_err(|why| {
                        format!("{when}: snapshot {id} is live and chunk {chunk} {why}; {}", self.copies_of(chunk))
                    })?;
                    hurt.insert(*chunk, is_left);
                }
            }
        }
        self.healed +=
            self.hurt.keys().filter(|chunk| !hurt.contains_key(chunk) && look.has(chunk, Counts::Kept)).count() as u64;
        self.hurt = hurt;
        Ok(())
    }

    /// Whether a needed chunk may be without a good copy outside the condemned packs; what is wrong, if it may not.
    fn excuse(
        &self,
        look: &mut Look<'_>,
        chunk: &ChunkId,
        entry: Option<bool>,
        is_left: bool,
    ) -> Result<(), &'static str> {
        match (self.hurt.get(chunk), entry) {
            (Some(true), _) if !is_left && !look.has(chunk, Counts::Believed) => {
                Err("lost its last good copy, though the log knew that the others are damaged")
            }
            (Some(_), _) => Ok(()),
            // Why: no collector can know what becomes of the copy that it keeps after it looked.
            (None, Some(_)) if is_left && self.unsure.contains(chunk) => Ok(()),
            _ if self.needed.contains(chunk) || self.damage.is_none() => Err("has no copy left"),
            (None, Some(true)) if is_left => Err("came back without its good copy"),
            (None, Some(true)) => Ok(()),
            (None, _) if look.has(chunk, Counts::Leaned) => Ok(()),
            (None, _) => Err("has no copy on which its writer could lean"),
        }
    }

    /// Where copies of a chunk lie, and what is with each, for people.
    fn copies_of(&self, chunk: &ChunkId) -> String {
        let standing = &self.repository.state().standing;
        let list_of = |all: &HashMap<ChunkId, Vec<Copy>>| all.get(chunk).cloned().unwrap_or_default();
        let words = |copy: &Copy| {
            let all = [
                ("missing", !self.world.has(&copy.pack.object())),
                ("wrong", !self.damage.spares(&copy.pack, chunk)),
                ("condemned", standing.condemned.contains_key(&copy.pack)),
                ("deleted", standing.deleted.contains_key(&copy.pack)),
                ("called damaged", standing.is_damaged(&copy.pack, chunk)),
            ];
            let true_ones = all.iter().filter(|(_, is_true)| *is_true).map(|(word, _)| *word);
            let base = copy.base.map(|base| format!(" against {base} ({})", self.copies_of(&base))).unwrap_or_default();
            format!("{}{base} {:?}", copy.pack.object(), true_ones.collect::<Vec<_>>())
        };
        let all = [list_of(&self.copies), list_of(&self.copies_before)];
        let [now, before] = all.map(|copies| copies.iter().map(words).collect::<Vec<_>>().join(", "));
        if now == before { format!("copies: {now}") } else { format!("copies: {now}; before: {before}") }
    }

    /// What a snapshot has lost, for people.
    pub fn losses_of(&self, id: &SnapshotId) -> String {
        let lost = self.reached[id].iter().filter(|chunk| self.hurt.contains_key(chunk));
        lost.map(|chunk| format!("chunk {chunk}, {}", self.copies_of(chunk))).collect::<Vec<_>>().join("; ")
    }

    fn has_copy(&self, chunk: &ChunkId, counts: Counts) -> bool {
        Look::new(self).has(chunk, counts)
    }

    /// Every chunk that a tree reaches: its nodes, lists of extents and content.
    fn reach(&self, root: &ChunkId) -> Result<BTreeSet<ChunkId>> {
        let met = RefCell::new(BTreeSet::new());
        let read = |id: &ChunkId| {
            met.borrow_mut().insert(*id);
            self.read_chunk(id)
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

    /// What was read once is known, whatever happens to it.
    fn read_chunk(&self, id: &ChunkId) -> Result<Vec<u8>> {
        if let Some(known) = self.read.borrow().get(id) {
            return Ok(known.clone());
        }
        let plain = self.repository.read_chunk(id)?;
        self.read.borrow_mut().insert(*id, plain.clone());
        Ok(plain)
    }

    fn reach_list(&self, depth: u8, id: &ChunkId, met: &mut BTreeSet<ChunkId>) -> Result<()> {
        met.insert(*id);
        let list = decode_extents(&self.read_chunk(id)?)?;
        for chunk in list.iter().filter_map(chunk_of) {
            match depth {
                1 => drop(met.insert(chunk)),
                _ => self.reach_list(depth - 1, &chunk, met)?,
            }
        }
        Ok(())
    }
}

/// Looks for copies, and asks of each pack once.
struct Look<'a> {
    accounts: &'a Accounts,
    state: Arc<State>,
    packs: BTreeMap<(Counts, PackName), bool>,
}

impl<'a> Look<'a> {
    fn new(accounts: &'a Accounts) -> Self {
        Self { accounts, state: accounts.repository.state(), packs: BTreeMap::new() }
    }

    /// True if such a copy of the chunk is listed; if it has a base, such a copy of that without one, too.
    fn has(&mut self, chunk: &ChunkId, counts: Counts) -> bool {
        let accounts = self.accounts;
        let copies = |id: &ChunkId| accounts.copies.get(id).map(Vec::as_slice).unwrap_or_default();
        copies(chunk).iter().any(|copy| {
            self.does_count(counts, &copy.pack, chunk)
                && copy.base.is_none_or(|base| {
                    let mut alone = copies(&base).iter().filter(|copy| copy.base.is_none());
                    alone.any(|alone| self.does_count(counts, &alone.pack, &base))
                })
        })
    }

    fn does_count(&mut self, counts: Counts, pack: &PackName, chunk: &ChunkId) -> bool {
        let standing = &self.state.standing;
        let is_fine = match counts {
            Counts::Kept | Counts::There | Counts::Undeleted => self.accounts.damage.spares(pack, chunk),
            Counts::Leaned => !standing.is_doubted(pack, chunk),
            Counts::Believed => !standing.is_damaged(pack, chunk),
        };
        is_fine
            && *self
                .packs
                .entry((counts, *pack))
                .or_insert_with(|| does_pack_count(self.accounts, standing, counts, pack))
    }
}

fn does_pack_count(accounts: &Accounts, standing: &Standing, counts: Counts, pack: &PackName) -> bool {
    let is_there = accounts.world.has(&pack.object());
    let is_fine = match counts {
        Counts::Kept => is_there && !standing.condemned.contains_key(pack),
        Counts::There => is_there,
        Counts::Undeleted => is_there && !standing.deleted.contains_key(pack),
        Counts::Leaned => !standing.condemned.contains_key(pack),
        Counts::Believed => !standing.deleted.contains_key(pack),
    };
    is_fine && accounts.world.has_below(&format!("session/{}/", pack.session))
}

fn chunk_of(extent: &Extent) -> Option<ChunkId> {
    match extent {
        Extent::Chunk { id, .. } => Some(*id),
        Extent::Hole { .. } => None,
    }
}
