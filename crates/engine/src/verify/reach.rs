//! What damage takes with it: from lost chunks to snapshots and paths.
//!
//! Runs only when something was found. Chunks of sessions whose key is lost, and chunks that are encoded against a lost
//! one, join what the stages before found; chunks that can be read after all (from a second copy in another pack) leave
//! it. Then the snapshots are walked once more; parts of trees without a hit are read once, however many snapshots share
//! them.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;

use super::findings::{Finding, describe, tells_damage};
use super::record::Record;
use super::structure::Structure;
use super::{Check, DAMAGE_PATHS_MAX, Damage};
use crate::entry::{Content, Entry, Extent, Kind, TreeKey};
use crate::error::{Error, Result};
use crate::format::names::{LOG, PackName, SegmentName, parse_session, session_object};
use crate::format::segment::Location;
use crate::ids::{ChunkId, SnapshotId};
use crate::repo::nodes::{NodeRef, Search, Step};
use crate::repo::{BlobReader, Snapshot};

/// Damage in the making.
struct Reached {
    damage: Damage,
    finding: Finding,
    /// Hashes of the paths and nodes counted so far: each counts once, whatever the number of snapshots.
    counted: HashSet<u64>,
}

/// Turns the findings into the report's damage, and what is harmless of it.
pub(super) fn reach(
    check: &Check<'_>,
    structure: &Structure,
    snapshots: &[Snapshot],
    record: &Record,
) -> Result<(Vec<Damage>, Vec<Damage>)> {
    if check.findings.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    add_lost_sessions(check, structure);
    let mut reached: Vec<Reached> = check.findings.take().into_iter().map(Reached::new).collect();
    let live = drop_retired(check, &mut reached);
    let snapshots: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| live.contains(&snapshot.record.id)).collect();
    // Why in this order: what is encoded against a lost chunk may itself be stored elsewhere, without that base.
    add_dependants(check, &mut reached);
    drop_readable(check, structure, &mut reached)?;
    let mut hits: HashMap<ChunkId, Vec<usize>> = HashMap::new();
    for (number, object) in reached.iter().enumerate() {
        for id in &object.finding.chunks {
            hits.entry(*id).or_default().push(number);
        }
    }
    // Why also without: what a tree says wrongly of a sound node is met on the way.
    if !hits.is_empty() || reached.iter().any(|it| !it.damage.object.contains('/')) {
        let mut search = Search::new(check.repository, true);
        for snapshot in &snapshots {
            check.go_on()?;
            walk(check, &mut search, snapshot, &hits, &mut reached)?;
        }
    }
    for object in reached.iter_mut().filter(|object| object.finding.hits_all) {
        object.damage.snapshots = snapshots.iter().map(|snapshot| snapshot.record.id).collect();
    }
    // Why: what is no stored object was met in the tree of a snapshot. If none is hit, that was forgotten meanwhile.
    reached.retain(|it| it.damage.object.contains('/') || it.finding.hits_all || !it.damage.snapshots.is_empty());
    let (harmless, damage): (Vec<_>, Vec<_>) = reached.into_iter().partition(|it| it.is_harmless(structure, record));
    Ok((damage.into_iter().map(Reached::finish).collect(), harmless.into_iter().map(Reached::finish).collect()))
}

/// A prune may have run beside the check: packs that it condemned and segments that it replaced are no damage. Gives the
/// snapshots that are still live.
fn drop_retired(check: &Check<'_>, reached: &mut Vec<Reached>) -> HashSet<SnapshotId> {
    if let Err(error) = check.repository.refresh() {
        // Where the log is damaged, that is a finding already.
        if !tells_damage(&error) {
            check.undecided(LOG, &error);
        }
    }
    let (state, index) = (check.repository.state(), check.repository.index());
    let packs: HashSet<PackName> = index.segments().iter().flat_map(|segment| segment.packs()).collect();
    let segments: HashSet<SegmentName> = state.segments.iter().map(|record| record.name).collect();
    reached.retain(|it| {
        if let Some(pack) = PackName::parse(&it.damage.object) {
            return packs.contains(&pack) && !state.standing.condemned.contains_key(&pack);
        }
        if let Some((session, _)) = parse_session(&it.damage.object) {
            return packs.iter().any(|pack| pack.session == session);
        }
        SegmentName::parse(&it.damage.object).is_none_or(|segment| segments.contains(&segment))
    });
    state.snapshots.iter().map(|snapshot| snapshot.record.id).collect()
}

fn each_record(check: &Check<'_>, each: &mut dyn FnMut(ChunkId, Location)) {
    for segment in check.repository.index().segments() {
        segment.records().for_each(|(_, id, location)| each(id, location));
    }
}

fn add_lost_sessions(check: &Check<'_>, structure: &Structure) {
    if structure.lost_sessions.is_empty() {
        return;
    }
    let generation = check.repository.state().generation();
    each_record(check, &mut |id, location| {
        let session = &location.pack.session;
        if structure.lost_sessions.contains(session) {
            check.findings.chunk(&session_object(session, generation), "packs of this session can't be read", id);
        }
    });
}

/// A chunk of a damaged pack, or of a session whose key is lost, that can be read is stored elsewhere too.
fn drop_readable(check: &Check<'_>, structure: &Structure, reached: &mut [Reached]) -> Result<()> {
    let mut reader = check.repository.blob_reader();
    let mut plain = Vec::new();
    let index = check.repository.index();
    let is_elsewhere =
        |id: &ChunkId| index.copies(id).any(|copy| !structure.lost_sessions.contains(&copy.location.pack.session));
    for object in reached {
        check.go_on()?;
        if PackName::parse(&object.damage.object).is_some() {
            object.finding.chunks.retain(|id| is_lost(check, &mut reader, id, &mut plain));
        } else if parse_session(&object.damage.object).is_some() {
            object.finding.chunks.retain(|id| !is_elsewhere(id) || is_lost(check, &mut reader, id, &mut plain));
        }
    }
    Ok(())
}

/// True if no copy of a chunk can be read. What can't be told now counts as not lost, and as a problem.
fn is_lost(check: &Check<'_>, reader: &mut BlobReader<'_>, id: &ChunkId, plain: &mut Vec<u8>) -> bool {
    match reader.read(id, plain) {
        Ok(()) => false,
        Err(error) if tells_damage(&error) => true,
        Err(error) => {
            check.undecided(&format!("chunk {id}"), &error);
            false
        }
    }
}

/// What is encoded against a lost chunk is lost with it.
fn add_dependants(check: &Check<'_>, reached: &mut [Reached]) {
    let mut bases: HashMap<ChunkId, Vec<usize>> = HashMap::new();
    for (number, object) in reached.iter().enumerate() {
        for id in &object.finding.chunks {
            bases.entry(*id).or_default().push(number);
        }
    }
    each_record(check, &mut |id, location| {
        for &number in location.base.and_then(|base| bases.get(&base)).into_iter().flatten() {
            reached[number].finding.chunks.insert(id);
        }
    });
}

/// Finds the paths of one snapshot that are hit.
fn walk(
    check: &Check<'_>,
    search: &mut Search<'_>,
    snapshot: &Snapshot,
    hits: &HashMap<ChunkId, Vec<usize>>,
    reached: &mut [Reached],
) -> Result<()> {
    let all = snapshot.record.entries;
    let finished = search.run(&snapshot.record.root, &mut |step| {
        if check.monitor.stopped() {
            return ControlFlow::Break(true);
        }
        let found = match step {
            Step::Node(node) => {
                let Some(numbers) = hits.get(&node.id) else { return ControlFlow::Continue(false) };
                numbers.iter().for_each(|&number| reached[number].lose_node(snapshot, node, all));
                return ControlFlow::Break(true);
            }
            Step::Lost(node, error) => {
                if !tells_damage(&error) {
                    check.undecided(&node.object(), &error);
                }
                if let Some(number) = by_error(reached, &error) {
                    reached[number].lose_node(snapshot, node, all);
                }
                true
            }
            Step::Entry(key, entry) => {
                let numbers = hit_by(check, entry, hits, reached);
                numbers.iter().for_each(|&number| reached[number].lose_path(snapshot, key));
                let tables = entry.table.and_then(|table| hits.get(&table.id));
                for number in tables.into_iter().flatten().filter(|number| !numbers.contains(number)) {
                    reached[*number].lose_table(snapshot, key);
                }
                !numbers.is_empty() || tables.is_some()
            }
        };
        ControlFlow::Continue(found)
    });
    if finished { Ok(()) } else { Err(Error::Interrupted) }
}

/// The findings that hit an entry's content.
fn hit_by(check: &Check<'_>, entry: &Entry, hits: &HashMap<ChunkId, Vec<usize>>, reached: &[Reached]) -> Vec<usize> {
    let Kind::File(content) = &entry.kind else { return Vec::new() };
    let mut numbers = Vec::new();
    let mut hit = |id: &ChunkId| numbers.extend(hits.get(id).into_iter().flatten().copied());
    if let Content::Indirect { id, .. } = content {
        hit(id);
    }
    for extent in check.repository.extents(content) {
        match extent {
            Ok(Extent::Chunk { id, .. }) => hit(&id),
            Ok(Extent::Hole { .. }) => {}
            Err(error) => {
                if !tells_damage(&error) {
                    check.undecided(&part_name(content), &error);
                }
                numbers.extend(by_error(reached, &error));
                break;
            }
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// What a list that can't be read is called.
fn part_name(content: &Content) -> String {
    match content {
        Content::Indirect { id, .. } => format!("extent list {id}"),
        Content::Inline(_) | Content::Extents(_) => "content of a file".to_owned(),
    }
}

/// The finding of the object that an error names.
fn by_error(reached: &[Reached], error: &Error) -> Option<usize> {
    let object = match error {
        Error::Damaged(damaged) if !damaged.object.contains('/') => damaged.object.clone(),
        other => describe(other).0?,
    };
    reached.iter().position(|known| known.damage.object == object)
}

impl Reached {
    fn new((object, finding): (String, Finding)) -> Self {
        let damage = Damage {
            object,
            what: String::new(),
            snapshots: Vec::new(),
            paths: Vec::new(),
            paths_count: 0,
            tables: Vec::new(),
            tables_count: 0,
        };
        Self { damage, finding, counted: HashSet::new() }
    }

    /// True if nobody loses anything by it, and that it is damaged is no news. A lost segment is harmless once all that
    /// it listed and snapshots need is listed elsewhere.
    fn is_harmless(&self, structure: &Structure, record: &Record) -> bool {
        if self.finding.hits_all || !self.damage.snapshots.is_empty() {
            return false;
        }
        let is_old = |pack: &PackName| structure.standing().said_of(pack).next().is_some() && !record.names(pack);
        if let Some(pack) = PackName::parse(&self.damage.object) {
            return is_old(&pack);
        }
        if let Some((session, _)) = parse_session(&self.damage.object) {
            return structure.packs.keys().filter(|pack| pack.session == session).all(is_old);
        }
        SegmentName::parse(&self.damage.object).is_some()
    }

    fn lose_path(&mut self, snapshot: &Snapshot, key: &TreeKey) {
        self.lose(snapshot, hash_of(key), Some(key), 1);
    }

    /// All entries below a node are lost; only the first key is known. `all` is the number of entries of the snapshot.
    fn lose_node(&mut self, snapshot: &Snapshot, node: &NodeRef, all: u64) {
        let entries = node.totals.map_or(all, |(entries, _)| entries);
        let root = TreeKey::default();
        let first = node.first.as_ref().or(node.level.is_none().then_some(&root));
        self.lose(snapshot, hash_of(&node.id), first, entries);
    }

    /// Only the tensor table of a file is lost: it restores whole.
    fn lose_table(&mut self, snapshot: &Snapshot, key: &TreeKey) {
        if !self.lose_once(snapshot, hash_of(&("tensor table", key))) {
            return;
        }
        self.damage.tables_count += 1;
        if self.damage.tables.len() < DAMAGE_PATHS_MAX {
            self.damage.tables.push(key.to_path().to_string_lossy().into_owned());
        }
    }

    /// Notes that a snapshot is hit; true where what the hash stands for was not counted yet.
    fn lose_once(&mut self, snapshot: &Snapshot, hash: u64) -> bool {
        if self.damage.snapshots.last() != Some(&snapshot.record.id) {
            self.damage.snapshots.push(snapshot.record.id);
        }
        self.counted.insert(hash)
    }

    fn lose(&mut self, snapshot: &Snapshot, hash: u64, key: Option<&TreeKey>, entries: u64) {
        if !self.lose_once(snapshot, hash) {
            return;
        }
        self.damage.paths_count += entries;
        if let Some(key) = key.filter(|_| self.damage.paths.len() < DAMAGE_PATHS_MAX) {
            self.damage.paths.push(key.to_path().to_string_lossy().into_owned());
        }
    }

    fn finish(mut self) -> Damage {
        let chunks = match self.finding.chunks.len() {
            0 => String::new(),
            1 => " (1 chunk is lost)".to_owned(),
            lost => format!(" ({lost} chunks are lost)"),
        };
        self.damage.what = self.finding.texts.join("; ") + &chunks;
        self.damage.paths.sort_unstable();
        self.damage.tables.sort_unstable();
        self.damage
    }
}

/// A path or node that was counted. 64 bits: two of a million differ with a probability of 1 - 3e-8.
fn hash_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
