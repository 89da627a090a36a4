//! Which chunks snapshots reach: bits over the records of the index, and the walk that sets them.
//!
//! A chunk counts as marked when the bit of any of its copies is set, so one bit a chunk is set and a question costs one
//! look-up. "Live" says that a snapshot reaches the chunk, as whatever; "entered" that it was read as a tree node and what
//! is below it is marked, as far as a segment lists it. Invariants: only what was entered as the same thing is not read
//! again, as a file may name a tree node as its data, or a list of lists as a list of data, and that must not keep anybody
//! from entering it as what it is; and not even that where a chunk was in no list and a segment is new.
//!
//! Memory: five bits a record (10^8 records: 60 MiB), and 64 bytes a list of extents that was entered (one for 8,192
//! extents of a long file). When segments are retired and replaced, [`Marks::follow`] carries the bits over.

use std::collections::{HashMap, HashSet};

use crate::entry::{Content, Extent, Kind};
use crate::error::{Damaged, Error, Result};
use crate::format::node::decode_extents;
use crate::ids::{ChunkId, ObjectHash, SnapshotId};
use crate::monitor::Monitor;
use crate::repo::index::{Found, Index};
use crate::repo::nodes::{Below, NodeReader, NodeRef};
use crate::repo::reader::BlobReader;
use crate::repo::repository::{INDIRECT_DEPTH_MAX, Repository, Snapshot};
use crate::rules::State;
use crate::simulation::{Rule, is_left_out};

/// One bit a record of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(records: usize) -> Self {
        Self(vec![0; records.div_ceil(64)])
    }

    fn get(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    fn set(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }
}

/// What a bit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A snapshot reaches the chunk.
    Live,
    /// It was read as a tree node, and what is below it is marked.
    Entered,
    /// A copy that stays is encoded against the chunk.
    Base,
    /// This copy stays.
    Stays,
    /// This copy was read and is what its id says.
    Read,
}

/// Marks in [`Mark`].
const MARKS: usize = 5;
/// 10^8 records take less than 64 MiB: docs/bounds.md.
const _: () = assert!(MARKS * 100_000_000 / 8 < 64 << 20);

/// Bits of one segment, in the order of [`Mark`].
#[derive(Debug, Clone)]
struct SegmentMarks([Bits; MARKS]);

/// Told of every chunk that a walk marks for the first time.
pub(crate) type OnNew<'a> = &'a mut dyn FnMut(&Index, &ChunkId) -> Result<()>;

/// See the module's page.
pub(crate) struct Marks<'r> {
    repository: &'r Repository,
    index: Index,
    /// As the segments of the index.
    segments: Vec<SegmentMarks>,
    walked: HashSet<SnapshotId>,
    /// Lists of extents that were entered, each with the depth at which it was.
    lists: HashSet<(ChunkId, u8)>,
    /// Chunks that snapshots refer to and that no segment lists: damage, which no collector makes worse.
    pub(crate) unlisted: u64,
    /// Some of those may be listed by now.
    may_be_listed: bool,
}

impl<'r> Marks<'r> {
    /// No marks on anything that the index lists now.
    pub(crate) fn new(repository: &'r Repository, index: Index) -> Self {
        let segments = index.segments().iter().map(|segment| SegmentMarks::new(segment.view().map_or(0, |v| v.len())));
        Self {
            repository,
            segments: segments.collect(),
            index,
            walked: HashSet::new(),
            lists: HashSet::new(),
            unlisted: 0,
            may_be_listed: false,
        }
    }

    /// The index that the marks are of.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// True if this record has the mark. Records of other segments than the index's have none.
    pub(crate) fn record_has(&self, mark: Mark, segment: usize, record: usize) -> bool {
        self.segments.get(segment).is_some_and(|marks| marks.0[mark as usize].get(record))
    }

    /// Marks a record.
    pub(crate) fn set(&mut self, mark: Mark, segment: usize, record: usize) {
        if let Some(marks) = self.segments.get_mut(segment) {
            marks.0[mark as usize].set(record);
        }
    }

    /// Takes a mark off all records.
    pub(crate) fn clear(&mut self, mark: Mark) {
        self.segments.iter_mut().for_each(|marks| marks.0[mark as usize].0.fill(0));
    }

    /// Marks the chunk; false if it was marked. None where no segment lists it.
    pub(crate) fn mark(&mut self, mark: Mark, id: &ChunkId) -> Option<bool> {
        let mut first = None;
        for Found { segment, record, .. } in self.index.copies(id) {
            if self.record_has(mark, segment, record) {
                return Some(false);
            }
            first.get_or_insert((segment, record));
        }
        let (segment, record) = first?;
        self.set(mark, segment, record);
        Some(true)
    }

    /// Puts the copies of a chunk, those of the newest publication first, into the order in which [`crate::rules::keeps`] takes them:
    /// of those with a base, first those whose base a snapshot reaches, so that the others come free.
    ///
    /// Why not the newest: merging segments changes their order. What is chosen must not change with it, nor be another for
    /// another client.
    pub(crate) fn prefer(&self, copies: &mut [Found]) {
        if copies.iter().filter(|copy| copy.location.base.is_some()).count() > 1 {
            let order = |copy: &Found| copy.location.base.map(|base| (!self.is_live(&base), base, copy.location.pack));
            copies.sort_by_cached_key(order);
        }
    }

    fn is_live(&self, id: &ChunkId) -> bool {
        self.index.copies(id).any(|copy| self.record_has(Mark::Live, copy.segment, copy.record))
    }

    /// Goes over to a newer index: the marks of segments that are not in it any more go to the same chunks in others.
    pub(crate) fn follow(&mut self, index: Index) {
        let hash = |number: usize, index: &Index| index.segments()[number].record().hash;
        let before: HashMap<ObjectHash, usize> =
            (0..self.index.segments().len()).map(|number| (hash(number, &self.index), number)).collect();
        let mut old: Vec<Option<SegmentMarks>> = std::mem::take(&mut self.segments).into_iter().map(Some).collect();
        for segment in index.segments() {
            let kept = before.get(&segment.record().hash).and_then(|number| old[*number].take());
            self.may_be_listed |= kept.is_none() && self.unlisted > 0;
            let new = || SegmentMarks::new(segment.view().map_or(0, |view| view.len()));
            self.segments.push(kept.unwrap_or_else(new));
        }
        let retired = std::mem::replace(&mut self.index, index);
        for (segment, marks) in retired.segments().iter().zip(old) {
            let Some(marks) = marks else { continue };
            for (record, id, _) in segment.records() {
                for mark in [Mark::Live, Mark::Entered, Mark::Base] {
                    if marks.0[mark as usize].get(record) {
                        self.mark(mark, &id);
                    }
                }
            }
        }
    }

    /// Walks every live snapshot that was not walked yet; all of them where what was in no list may be in one now. After an
    /// error the marks are worth nothing.
    ///
    /// # Errors
    /// Damage that hides what a snapshot reaches, with the snapshot's id; [`Error::Interrupted`].
    pub(crate) fn walk_all(&mut self, state: &State, monitor: &dyn Monitor, new: OnNew<'_>) -> Result<()> {
        if std::mem::take(&mut self.may_be_listed) && !is_left_out(Rule::WalksAnew) {
            // Why: a chunk that was in no list has no mark, and the nodes that lead to it were entered.
            self.clear(Mark::Entered);
            self.walked.clear();
            self.lists.clear();
            self.unlisted = 0;
        }
        for snapshot in &state.snapshots {
            if !self.walked.contains(&snapshot.record.id) {
                self.walk(snapshot, monitor, new)?;
                self.walked.insert(snapshot.record.id);
            }
        }
        Ok(())
    }

    /// Marks everything that a snapshot reaches.
    ///
    /// # Errors
    /// As [`Self::walk_all`].
    pub(crate) fn walk(&mut self, snapshot: &Snapshot, monitor: &dyn Monitor, new: OnNew<'_>) -> Result<()> {
        let id = snapshot.record.id;
        let lost = |error: Error| match error {
            Error::Damaged(damaged) => {
                let why = format!("{} (what snapshot {id} needs can't be told without it)", damaged.why);
                Error::from(Damaged::new(damaged.object, damaged.offset, why))
            }
            other => other,
        };
        self.repository.begin_reading(&[snapshot.record.root]);
        let mut nodes = NodeReader::new(self.repository);
        let mut blobs = self.repository.blob_reader();
        let mut waiting = vec![NodeRef::root(&snapshot.record.root)];
        while let Some(node) = waiting.pop() {
            if monitor.stopped() {
                return Err(Error::Interrupted);
            }
            self.reach(&node.id, new)?;
            // Why also where no segment lists it: reading it tells why.
            if self.mark(Mark::Entered, &node.id) == Some(false) {
                continue;
            }
            match nodes.read(&node).map_err(lost)? {
                Below::Nodes(below) => waiting.extend(below),
                Below::Entries(entries) => {
                    for (_, entry) in &entries {
                        if let Kind::File(content) = &entry.kind {
                            self.content(content, &mut blobs, new).map_err(lost)?;
                        }
                        if let Some(table) = &entry.table {
                            self.unlisted += u64::from(self.reach(&table.id, new)?.is_none());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks a chunk as reached. None where no segment lists it.
    fn reach(&mut self, id: &ChunkId, new: OnNew<'_>) -> Result<Option<bool>> {
        let marked = self.mark(Mark::Live, id);
        if marked == Some(true) {
            new(&self.index, id)?;
        }
        Ok(marked)
    }

    fn content(&mut self, content: &Content, blobs: &mut BlobReader<'_>, new: OnNew<'_>) -> Result<()> {
        match content {
            Content::Inline(_) => Ok(()),
            Content::Extents(extents) => extents.iter().try_for_each(|extent| self.extent(extent, new)),
            Content::Indirect { depth, id, .. } => self.list(*depth, id, blobs, new),
        }
    }

    fn extent(&mut self, extent: &Extent, new: OnNew<'_>) -> Result<()> {
        let Extent::Chunk { id, .. } = extent else { return Ok(()) };
        self.unlisted += u64::from(self.reach(id, new)?.is_none());
        Ok(())
    }

    fn list(&mut self, depth: u8, id: &ChunkId, blobs: &mut BlobReader<'_>, new: OnNew<'_>) -> Result<()> {
        self.reach(id, new)?;
        if !self.lists.insert((*id, depth)) {
            return Ok(());
        }
        let damaged = |offset, why: &str| Damaged::new(format!("extent list {id}"), offset, why);
        if depth == 0 || depth > INDIRECT_DEPTH_MAX {
            return Err(damaged(0, "nested too deep").into());
        }
        let mut plain = Vec::new();
        blobs.read(id, &mut plain)?;
        let extents = decode_extents(&plain).map_err(|error| damaged(error.offset, &error.why))?;
        for extent in &extents {
            match extent {
                Extent::Chunk { id, .. } if depth > 1 => self.list(depth - 1, id, blobs, new)?,
                other => self.extent(other, new)?,
            }
        }
        Ok(())
    }
}

impl SegmentMarks {
    fn new(records: usize) -> Self {
        Self(std::array::from_fn(|_| Bits::new(records)))
    }
}
