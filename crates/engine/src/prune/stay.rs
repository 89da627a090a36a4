//! Which copy of each live chunk stays, and how much of each pack that is (rule G1 of docs/concurrency.md).
//!
//! Two passes over the index in order of chunk ids: the first chooses a copy of every chunk that a snapshot reaches
//! ([`rules::keeps`]), the second one without a base of every chunk that a chosen copy needs as its base. One base deep
//! is all there is. What may not leave because of that is dropped from the list of packs that leave.
//!
//! Invariant afterwards: of every live chunk, and of every base that its chosen copy needs, a copy stays that is neither
//! condemned nor in the list, but for those in [`Settled::only`], whose packs no collector may delete. Where another copy
//! leaves, itself or with its base, the one that stays is sound as far as the log says, and in [`Settled::unread`] until this
//! run has read it.

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
use crate::rules::{self, Copy, Kept, Standing};
use crate::simulation::{Rule, is_left_out};

/// How much of a pack is needed, by the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackUse {
    pub(super) kind: BlobKind,
    /// Bytes of its blobs.
    pub(super) bytes: u64,
    /// Bytes of the blobs that stay.
    pub(super) live_bytes: u64,
    /// The blobs that stay.
    pub(super) live_blobs: u64,
}

/// What came of [`settle`].
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Every pack that the index names.
    pub(super) uses: BTreeMap<PackName, PackUse>,
    /// Condemned packs that hold the only copies of live chunks. A correct writer does not make such a snapshot.
    pub(super) only: BTreeSet<PackName>,
    /// Bases that no snapshot reaches.
    pub(super) lone_bases: u64,
    pub(super) unread: Unread,
}

/// Copies that stay while another one of the same chunk leaves, and that this run has not read yet.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) copies: Vec<(ChunkId, Found)>,
    /// There may be more of them: when these are read, it has to be judged again.
    pub(super) is_cut_short: bool,
}

/// Bytes that a blob takes in its pack.
pub(super) fn blob_bytes(location: &Location) -> u64 {
    BLOB_HEADER_BYTES + u64::from(location.sealed_len)
}

/// Marks the copies that stay when the packs of `list` leave; drops from `list` what must not leave. `fresh` are segments
/// that the entry which condemns the list is going to publish. At most `unread_max` copies are listed to be read.
pub(super) fn settle(
    marks: &mut Marks<'_>,
    standing: &Standing,
    fresh: &[Arc<Segment>],
    list: &mut BTreeSet<PackName>,
    unread_max: usize,
) -> Result<Settled> {
    marks.clear(Mark::Base);
    marks.clear(Mark::Stays);
    let mut index = marks.index().clone();
    let published = index.segments().len();
    fresh.iter().for_each(|segment| index.push(Arc::clone(segment)));
    let mut settling =
        Settling { marks, standing, index: &index, published, list, unread_max, settled: Settled::default() };
    let mut merge = Merge::new(index.segments().iter().map(|segment| &**segment))?;
    let mut copies = Vec::new();
    while let Some(id) = merge.next(&mut copies)? {
        settling.count(&copies);
        let is_live = |copy: &Found| settling.marks.record_has(Mark::Live, copy.segment, copy.record);
        if copies.iter().any(is_live) {
            settling.keep(&id, &mut copies, false);
        }
    }
    for (number, segment) in index.segments()[..published].iter().enumerate() {
        let Some(view) = segment.view() else { continue };
        for record in 0..view.len() {
            if settling.marks.record_has(Mark::Base, number, record)
                && let Some(id) = view.id(record)
            {
                let mut copies: Vec<Found> = index.copies(&id).collect();
                let is_live = |copy: &Found| settling.marks.record_has(Mark::Live, copy.segment, copy.record);
                settling.settled.lone_bases += u64::from(!copies.iter().any(is_live));
                settling.keep(&id, &mut copies, true);
            }
        }
    }
    let Settling { mut settled, list, .. } = settling;
    settled.unread.copies.retain(|(id, _)| index.copies(id).any(|copy| leaves(&index, list, &copy)));
    Ok(settled)
}

/// True if a copy leaves with the packs of the list: its own is one of them, or one that holds its base. Why any copy of the
/// base, though another may stay: nobody has read that one for a chunk of which another copy is chosen.
fn leaves(index: &Index, list: &BTreeSet<PackName>, copy: &Found) -> bool {
    let is_listed = |copy: &Found| list.contains(&copy.location.pack);
    let is_base_listed = |base| index.copies(&base).any(|copy| copy.location.base.is_none() && is_listed(&copy));
    let leaves_with_base = || !is_left_out(Rule::LeavesWithBase) && copy.location.base.is_some_and(is_base_listed);
    !list.is_empty() && (is_listed(copy) || leaves_with_base())
}

struct Settling<'a, 'r> {
    marks: &'a mut Marks<'r>,
    standing: &'a Standing,
    index: &'a Index,
    /// So many of its segments are published; the others are fresh.
    published: usize,
    list: &'a mut BTreeSet<PackName>,
    unread_max: usize,
    settled: Settled,
}

impl Settling<'_, '_> {
    /// Adds a chunk's copies to the packs that they lie in. Two segments may list the same copy.
    fn count(&mut self, copies: &[Found]) {
        for (number, copy) in copies.iter().enumerate() {
            if copies[..number].iter().all(|other| other.location.pack != copy.location.pack) {
                let kind = copy.location.kind;
                let new = PackUse { kind, bytes: 0, live_bytes: 0, live_blobs: 0 };
                self.settled.uses.entry(copy.location.pack).or_insert(new).bytes += blob_bytes(&copy.location);
            }
        }
    }

    /// Chooses the copy of a needed chunk that stays.
    fn keep(&mut self, id: &ChunkId, copies: &mut [Found], alone: bool) {
        self.marks.prefer(copies);
        let all: Vec<Copy> = copies.iter().map(as_copy).collect();
        let list = &*self.list;
        let kept = rules::keeps(self.standing, id, &all, alone, &|pack| list.contains(pack), &|base| self.copies(base));
        let is_sound = matches!(kept, Kept::Stays(_) | Kept::Returns(_));
        let chosen = match kept {
            Kept::Stays(copy) => copy,
            Kept::Returns(copy) => {
                self.list.remove(&copy.pack);
                copy
            }
            Kept::Saved(copy) => {
                self.settled.only.insert(copy.pack);
                copy
            }
            Kept::Doubtful(best) => {
                let fitting = || all.iter().filter(|copy| !alone || copy.base.is_none());
                for copy in fitting() {
                    self.list.remove(&copy.pack);
                    // Why of all: what is found damaged may be mended, or was in error, but not without its base.
                    copy.base.and_then(|base| self.marks.mark(Mark::Base, &base));
                }
                let least = || fitting().min_by_key(|copy| self.standing.deleted.contains_key(&copy.pack));
                let Some(copy) = best.or_else(least) else { return };
                if self.standing.condemned.contains_key(&copy.pack) {
                    self.settled.only.insert(copy.pack);
                }
                copy
            }
        };
        let place = all.iter().position(|copy| std::ptr::eq(copy, chosen)).expect("it is one of them");
        self.note(&copies[place]);
        let mut others = copies.iter().enumerate().filter(|(number, _)| *number != place);
        if is_sound && !is_left_out(Rule::StaysIsRead) && others.any(|(_, copy)| leaves(self.index, self.list, copy)) {
            self.doubt(id, &copies[place]);
        }
    }

    /// Marks the copy that stays, and its base.
    fn note(&mut self, chosen: &Found) {
        if !self.marks.record_has(Mark::Stays, chosen.segment, chosen.record) {
            self.marks.set(Mark::Stays, chosen.segment, chosen.record);
            if let Some(usage) = self.settled.uses.get_mut(&chosen.location.pack) {
                usage.live_bytes += blob_bytes(&chosen.location);
                usage.live_blobs += 1;
            }
        }
        if let Some(base) = chosen.location.base {
            self.marks.mark(Mark::Base, &base);
        }
    }

    /// Another copy may leave for this one, so it has to be read, unless it was. Why not a fresh one: where a chunk has
    /// several copies, what is stored again was read before ([`super::rewrite`]).
    fn doubt(&mut self, id: &ChunkId, chosen: &Found) {
        if chosen.segment < self.published && !self.marks.record_has(Mark::Read, chosen.segment, chosen.record) {
            let Unread { copies, is_cut_short } = &mut self.settled.unread;
            // Why no more at once: memory is bounded.
            if copies.len() < self.unread_max.max(1) {
                copies.push((*id, *chosen));
            } else {
                *is_cut_short = true;
            }
        }
    }

    fn copies(&self, base: &ChunkId) -> Vec<Copy> {
        self.index.copies(base).map(|found| as_copy(&found)).collect()
    }
}

fn as_copy(found: &Found) -> Copy {
    Copy { pack: found.location.pack, base: found.location.base }
}
