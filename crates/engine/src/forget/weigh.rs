//! Weighs what stays: the stored bytes that a prune would leave if some snapshots were forgotten. Changes nothing.
//!
//! The same steps as a prune takes: mark what the other snapshots reach, choose of each chunk the copy that stays
//! (rule G1), then a copy without a base of each chunk that a chosen copy is encoded against. What only the last step
//! keeps is told apart. It reads the trees of all snapshots that stay, and no file's data. Memory: the marks, five bits a
//! record of the index.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::ids::{ChunkId, SnapshotId};
use crate::monitor::{Monitor, Phase};
use crate::repo::Repository;
use crate::repo::index::{Found, Index};
use crate::repo::marks::{Mark, Marks};
use crate::repo::merge::Merge;
use crate::repo::reader::BLOB_HEADER_BYTES;
use crate::rules::{self, Copy, Kept, Standing};

/// What some snapshots need of the store. Bytes are those of sealed blobs with their headers: what packs are made of, but
/// for their own lists. Index, log and keys are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// The snapshots.
    pub snapshots: u64,
    /// Chunks that they reach.
    pub chunks: u64,
    /// Bytes of those, and of those that are kept only as bases.
    pub stored_bytes: u64,
    /// Chunks that none of them reaches, kept because what they reach is encoded against these.
    pub base_chunks: u64,
    /// Bytes of those.
    pub base_bytes: u64,
    /// Chunks that they need and that no index segment lists; their bytes are in no number.
    pub missing: u64,
}

/// What all live snapshots but those of `without` need.
///
/// # Errors
/// [`Error::NotAllowed`](crate::error::Error::NotAllowed) with a member's key, which can't read trees;
/// [`Error::Damaged`](crate::error::Error::Damaged) where a tree can't be read;
/// [`Error::Interrupted`](crate::error::Error::Interrupted); errors of the store.
pub fn weigh(repository: &Repository, without: &BTreeSet<SnapshotId>, monitor: &dyn Monitor) -> Result<Weight> {
    monitor.phase(Phase::Marking);
    let (state, index) = repository.look()?;
    let mut marks = Marks::new(repository, index.clone());
    let mut weight = Weight::default();
    for snapshot in state.snapshots.iter().filter(|snapshot| !without.contains(&snapshot.record.id)) {
        marks.walk(snapshot, monitor, &mut |_, _| Ok(()))?;
        weight.snapshots += 1;
    }
    weight.missing = marks.unlisted;
    let mut scales = Scales { marks, standing: &state.standing, index: &index };
    scales.weigh_reached(&mut weight)?;
    scales.weigh_bases(&mut weight);
    Ok(weight)
}

struct Scales<'a, 'r> {
    marks: Marks<'r>,
    standing: &'a Standing,
    index: &'a Index,
}

impl Scales<'_, '_> {
    fn weigh_reached(&mut self, weight: &mut Weight) -> Result<()> {
        let mut merge = Merge::new(self.index.segments().iter().map(|segment| &**segment))?;
        let mut copies = Vec::new();
        while let Some(id) = merge.next(&mut copies)? {
            if copies.iter().any(|copy| self.marks.record_has(Mark::Live, copy.segment, copy.record)) {
                weight.chunks += 1;
                weight.stored_bytes += self.put(&id, &mut copies, false).unwrap_or(0);
            }
        }
        Ok(())
    }

    fn weigh_bases(&mut self, weight: &mut Weight) {
        for (number, segment) in self.index.segments().iter().enumerate() {
            for (record, id, _) in segment.records() {
                if !self.marks.record_has(Mark::Base, number, record) {
                    continue;
                }
                let mut copies: Vec<Found> = self.index.copies(&id).collect();
                if let Some(bytes) = self.put(&id, &mut copies, true) {
                    weight.base_chunks += 1;
                    weight.base_bytes += bytes;
                    weight.stored_bytes += bytes;
                }
            }
        }
    }

    /// Bytes of the copy that stays, whose base is marked; none where it was put before, or no copy is left.
    fn put(&mut self, id: &ChunkId, copies: &mut [Found], alone: bool) -> Option<u64> {
        self.marks.prefer(copies);
        let all: Vec<Copy> = copies.iter().map(as_copy).collect();
        let copies_of = |base: &ChunkId| self.index.copies(base).map(|found| as_copy(&found)).collect();
        let chosen = match rules::keeps(self.standing, id, &all, alone, &|_| false, &copies_of) {
            Kept::Stays(copy) | Kept::Returns(copy) | Kept::Saved(copy) => copy,
            // Why the first where none is best: a prune gives up no copy of what has no sound one.
            Kept::Doubtful(best) => best.or_else(|| all.iter().find(|copy| !alone || copy.base.is_none()))?,
        };
        let place = all.iter().position(|copy| std::ptr::eq(copy, chosen)).expect("it is one of them");
        let Found { segment, record, location } = copies[place];
        if self.marks.record_has(Mark::Stays, segment, record) {
            return None;
        }
        self.marks.set(Mark::Stays, segment, record);
        if let Some(base) = location.base {
            self.marks.mark(Mark::Base, &base);
        }
        Some(BLOB_HEADER_BYTES + u64::from(location.sealed_len))
    }
}

fn as_copy(found: &Found) -> Copy {
    Copy { pack: found.location.pack, base: found.location.base }
}
