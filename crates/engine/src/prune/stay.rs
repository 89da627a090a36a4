//! Which copy of each live chunk stays, and how much of each pack that is (rule G1 of docs/concurrency.md).
//!
//! Two passes over the index in order of chunk ids: the first chooses a copy of every chunk that a snapshot reaches
//! ([`rules::stays`]), the second one without a base of every chunk that a chosen copy needs as its base. One base deep
//! is all there is. What may not leave because of that is dropped from the list of packs that leave.
//!
//! Invariant afterwards: of every live chunk, and of every base that its chosen copy needs, a copy stays that is neither
//! condemned nor in the list, but for those in [`Settled::only`], whose packs no collector may delete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::Result;
use crate::format::names::PackName;
use crate::format::pack::BlobKind;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::repo::index::{Found, Index, Segment};
use crate::repo::marks::{Mark, Marks};
use crate::repo::merge::Merge;
use crate::repo::reader::BLOB_HEADER_BYTES;
use crate::rules::{self, Copy, Standing};

/// How much of a pack is needed, by the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackUse {
    pub(super) kind: BlobKind,
    /// Bytes of its blobs.
    pub(super) bytes: u64,
    /// Bytes of the blobs that stay.
    pub(super) live_bytes: u64,
}

/// What came of [`settle`].
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Every pack that the index names.
    pub(super) uses: BTreeMap<PackName, PackUse>,
    /// Condemned packs that hold the only copies of live chunks. A correct writer does not make such a snapshot.
    pub(super) only: BTreeSet<PackName>,
}

/// Bytes that a blob takes in its pack.
pub(super) fn blob_bytes(location: &Location) -> u64 {
    BLOB_HEADER_BYTES + u64::from(location.sealed_len)
}

/// Marks the copies that stay when the packs of `list` leave; drops from `list` what must not leave. `fresh` are segments
/// that the entry which condemns the list is going to publish.
pub(super) fn settle(
    marks: &mut Marks<'_>,
    standing: &Standing,
    fresh: &[Arc<Segment>],
    list: &mut BTreeSet<PackName>,
) -> Result<Settled> {
    marks.clear(Mark::Base);
    marks.clear(Mark::Stays);
    let mut index = marks.index().clone();
    let published = index.segments().len();
    fresh.iter().for_each(|segment| index.push(Arc::clone(segment)));
    let mut settling = Settling { marks, standing, index: &index, list, settled: Settled::default() };
    let mut merge = Merge::new(index.segments().iter().map(|segment| &**segment))?;
    let mut copies = Vec::new();
    while let Some(id) = merge.next(&mut copies)? {
        settling.count(&copies);
        let is_live = |copy: &Found| settling.marks.record_has(Mark::Live, copy.segment, copy.record);
        if copies.iter().any(is_live) {
            settling.keep(&id, &copies, false);
        }
    }
    for (number, segment) in index.segments()[..published].iter().enumerate() {
        let Some(view) = segment.view() else { continue };
        for record in 0..view.len() {
            if settling.marks.record_has(Mark::Base, number, record)
                && let Some(id) = view.id(record)
            {
                let copies: Vec<Found> = index.copies(&id).collect();
                settling.keep(&id, &copies, true);
            }
        }
    }
    Ok(settling.settled)
}

struct Settling<'a, 'r> {
    marks: &'a mut Marks<'r>,
    standing: &'a Standing,
    index: &'a Index,
    list: &'a mut BTreeSet<PackName>,
    settled: Settled,
}

impl Settling<'_, '_> {
    /// Adds a chunk's copies to the packs that they lie in. Two segments may list the same copy.
    fn count(&mut self, copies: &[Found]) {
        for (number, copy) in copies.iter().enumerate() {
            if copies[..number].iter().all(|other| other.location.pack != copy.location.pack) {
                let kind = copy.location.kind;
                let new = PackUse { kind, bytes: 0, live_bytes: 0 };
                self.settled.uses.entry(copy.location.pack).or_insert(new).bytes += blob_bytes(&copy.location);
            }
        }
    }

    /// Chooses the copy of a needed chunk that stays.
    fn keep(&mut self, id: &ChunkId, copies: &[Found], alone: bool) {
        let chosen = self.choose(id, copies, alone, &|pack| self.list.contains(pack)).or_else(|| {
            let found = self.choose(id, copies, alone, &|_| false)?;
            self.list.remove(&found.location.pack);
            Some(found)
        });
        let chosen = chosen.or_else(|| {
            let fitting = copies.iter().filter(|copy| !alone || copy.location.base.is_none());
            let found = fitting.min_by_key(|copy| self.standing.deleted.contains_key(&copy.location.pack))?;
            self.settled.only.insert(found.location.pack);
            Some(*found)
        });
        let Some(chosen) = chosen else { return };
        if !self.marks.record_has(Mark::Stays, chosen.segment, chosen.record) {
            self.marks.set(Mark::Stays, chosen.segment, chosen.record);
            if let Some(usage) = self.settled.uses.get_mut(&chosen.location.pack) {
                usage.live_bytes += blob_bytes(&chosen.location);
            }
        }
        if let Some(base) = chosen.location.base {
            self.marks.mark(Mark::Base, &base);
        }
    }

    /// The copy that stays.
    fn choose(&self, id: &ChunkId, copies: &[Found], alone: bool, leaves: &dyn Fn(&PackName) -> bool) -> Option<Found> {
        let as_copy = |found: &Found| Copy { pack: found.location.pack, base: found.location.base };
        let all: Vec<Copy> = copies.iter().map(as_copy).collect();
        let has_base = |base: &ChunkId| self.has_alone(base, leaves);
        let chosen = rules::stays(self.standing, id, &all, alone, leaves, &has_base)?;
        copies.iter().find(|found| as_copy(found) == *chosen).copied()
    }

    fn has_alone(&self, base: &ChunkId, leaves: &dyn Fn(&PackName) -> bool) -> bool {
        let stays = |pack: &PackName| !leaves(pack) && !self.standing.condemned.contains_key(pack);
        self.index.copies(base).any(|copy| copy.location.base.is_none() && stays(&copy.location.pack))
    }
}
