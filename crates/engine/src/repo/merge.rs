//! All records of several segments in order of chunk ids, every chunk once with all its copies.
//!
//! Segments are sorted, so this is a merge that holds one record a segment: memory does not grow with the index. What of the
//! maps it has passed is let go of now and then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::{Damaged, Result};
use crate::format::segment::SegmentView;
use crate::ids::ChunkId;
use crate::repo::index::{Found, Segment};

/// It lets go of the maps after so many chunks: 15 MiB of records, and a few pages of each segment.
const RELEASE_CHUNKS: usize = 256 * 1024;

/// See the module's page.
pub(crate) struct Merge<'a> {
    segments: Vec<&'a Segment>,
    views: Vec<(SegmentView<'a>, String)>,
    /// Chunks since it last let go of the maps.
    passed: usize,
    /// The next record of each segment that has one: chunk, segment, record.
    next: BinaryHeap<Reverse<(ChunkId, usize, usize)>>,
}

impl<'a> Merge<'a> {
    /// Begins before the first record.
    ///
    /// # Errors
    /// [`Damaged`] where a segment's first record can't be.
    pub(crate) fn new(segments: impl IntoIterator<Item = &'a Segment>) -> Result<Self> {
        let segments: Vec<&Segment> = segments.into_iter().filter(|segment| segment.view().is_some()).collect();
        let views = segments.iter().filter_map(|it| Some((it.view()?, it.record().name.object()))).collect();
        let mut merge = Self { segments, views, passed: 0, next: BinaryHeap::new() };
        for segment in 0..merge.views.len() {
            merge.push(segment, 0)?;
        }
        Ok(merge)
    }

    fn push(&mut self, segment: usize, record: usize) -> Result<()> {
        let (view, object) = &self.views[segment];
        if record < view.len() {
            let id = view.id(record).ok_or_else(|| Damaged::new(object, 0, "a record that can't be"))?;
            self.next.push(Reverse((id, segment, record)));
        }
        Ok(())
    }

    /// The next chunk, with all its copies in `copies`, those of later segments first; none at the end.
    ///
    /// # Errors
    /// [`Damaged`] where a record can't be.
    pub(crate) fn next(&mut self, copies: &mut Vec<Found>) -> Result<Option<ChunkId>> {
        copies.clear();
        let Some(Reverse((first, ..))) = self.next.peek() else { return Ok(None) };
        let first = *first;
        while let Some(Reverse((id, segment, record))) = self.next.peek().copied()
            && id == first
        {
            self.next.pop();
            let (view, object) = &self.views[segment];
            let location = view.record(record).ok_or_else(|| Damaged::new(object, 0, "a record that can't be"))?;
            copies.push(Found { segment, record, location: location.1 });
            self.push(segment, record + 1)?;
        }
        copies.reverse();
        self.passed += 1;
        if self.passed.is_multiple_of(RELEASE_CHUNKS) {
            self.segments.iter().for_each(|segment| segment.release());
        }
        Ok(Some(first))
    }
}
