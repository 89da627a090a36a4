//! All records of several segments in order of chunk ids, every chunk once with all its copies.
//!
//! Segments are sorted, so this is a merge that holds a few records a segment: memory does not grow with the index. They are
//! copied out of the map, which is let go of at once. Why: what the kernel maps for one record may be half a megabyte, of
//! each of hundreds of segments at the same time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::vec;

use crate::error::{Damaged, Result};
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::repo::index::{Found, Segment};

/// So many records of a segment are held: 12 KiB.
const HELD_RECORDS: usize = 96;

/// See the module's page.
pub(crate) struct Merge<'a> {
    cursors: Vec<Cursor<'a>>,
    /// The next chunk of each segment that has one.
    next: BinaryHeap<Reverse<(ChunkId, usize)>>,
}

/// Goes through one segment.
struct Cursor<'a> {
    segment: &'a Segment,
    /// Number of the first record of `held` that is left.
    record: usize,
    held: vec::IntoIter<(ChunkId, Option<Location>)>,
}

impl<'a> Merge<'a> {
    /// Begins before the first record.
    ///
    /// # Errors
    /// [`Damaged`] where a segment can't be read.
    pub(crate) fn new(segments: impl IntoIterator<Item = &'a Segment>) -> Result<Self> {
        let cursor = |segment| Cursor { segment, record: 0, held: Vec::new().into_iter() };
        let mut merge = Self { cursors: segments.into_iter().map(cursor).collect(), next: BinaryHeap::new() };
        for segment in 0..merge.cursors.len() {
            merge.push(segment)?;
        }
        Ok(merge)
    }

    fn push(&mut self, segment: usize) -> Result<()> {
        if let Some(id) = self.cursors[segment].peek()? {
            self.next.push(Reverse((id, segment)));
        }
        Ok(())
    }

    /// The next chunk, with all its copies in `copies`, those of later segments first; none at the end.
    ///
    /// # Errors
    /// [`Damaged`] where a record can't be.
    pub(crate) fn next(&mut self, copies: &mut Vec<Found>) -> Result<Option<ChunkId>> {
        copies.clear();
        let Some(Reverse((first, _))) = self.next.peek().copied() else { return Ok(None) };
        while let Some(Reverse((id, segment))) = self.next.peek().copied()
            && id == first
        {
            self.next.pop();
            let (record, location) = self.cursors[segment].take()?;
            copies.push(Found { segment, record, location });
            self.push(segment)?;
        }
        copies.reverse();
        Ok(Some(first))
    }
}

impl Cursor<'_> {
    /// The chunk of the next record; none at the end.
    fn peek(&mut self) -> Result<Option<ChunkId>> {
        if self.held.as_slice().is_empty() {
            let view = self.segment.view().ok_or_else(|| self.damaged("it can't be read"))?;
            let end = view.len().min(self.record + HELD_RECORDS);
            let record = |number| Some((view.id(number)?, view.record(number).map(|(_, location)| location)));
            self.held = (self.record..end).filter_map(record).collect::<Vec<_>>().into_iter();
            self.segment.release();
        }
        Ok(self.held.as_slice().first().map(|(id, _)| *id))
    }

    /// The next record.
    fn take(&mut self) -> Result<(usize, Location)> {
        let location = self.held.next().and_then(|(_, location)| location);
        self.record += 1;
        Ok((self.record - 1, location.ok_or_else(|| self.damaged("a record that can't be"))?))
    }

    fn damaged(&self, why: &str) -> Damaged {
        Damaged::new(self.segment.record().name.object(), 0, why)
    }
}
