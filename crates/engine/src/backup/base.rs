//! Finds the old chunk at the same place: the base against which a changed file's new chunk is encoded.
//!
//! Chunks that come back unchanged tell how far the content has shifted; a new chunk's place minus that shift is where
//! its old version lay.

use crate::entry::Extent;
use crate::ids::ChunkId;

/// Old files with more chunks than this get no bases: the list would not fit into bounded memory.
pub(crate) const OLD_CHUNKS_MAX: usize = 1 << 18;
/// How many old chunks behind the expected one are looked at for the chunk that comes next.
const LOOK_AHEAD: usize = 16;

/// The old version's chunks, and how the new version lies against them.
#[derive(Default)]
pub(crate) struct BaseFinder {
    old: Vec<(u64, u32, ChunkId)>,
    next: usize,
    shift: i64,
}

impl BaseFinder {
    /// A finder over the old version's extents.
    pub(crate) fn new(extents: impl IntoIterator<Item = Extent>) -> Self {
        let mut offset = 0;
        let mut old = Vec::new();
        for extent in extents {
            if let Extent::Chunk { id, length } = extent {
                old.push((offset, length, id));
            }
            offset += extent.length();
            if old.len() > OLD_CHUNKS_MAX {
                return Self::default();
            }
        }
        Self { old, next: 0, shift: 0 }
    }

    /// True where there is no old version.
    pub(crate) fn is_empty(&self) -> bool {
        self.old.is_empty()
    }

    /// Takes the new version's chunks in order: `id` of `length` bytes at `offset`. Gives the base for it, or none if the
    /// chunk itself is old.
    pub(crate) fn next(&mut self, offset: u64, length: usize, id: &ChunkId) -> Option<ChunkId> {
        let ahead = self.old.iter().skip(self.next).take(LOOK_AHEAD);
        if let Some(at) = ahead.map(|(_, _, old)| old).position(|old| old == id) {
            let (old_offset, _, _) = self.old[self.next + at];
            self.shift = signed(offset) - signed(old_offset);
            self.next += at + 1;
            return None;
        }
        let start = signed(offset) - self.shift;
        let end = start + i64::try_from(length).unwrap_or(i64::MAX / 4);
        let overlap = |&(old_offset, old_length, _): &(u64, u32, ChunkId)| {
            let old_start = signed(old_offset);
            (end.min(old_start + i64::from(old_length)) - start.max(old_start)).max(0)
        };
        let first = self
            .old
            .partition_point(|&(old_offset, old_length, _)| signed(old_offset) + i64::from(old_length) <= start);
        let overlapping = self.old[first..].iter().enumerate().take_while(|(_, old)| signed(old.0) < end);
        let (at, best) = overlapping.max_by_key(|(_, old)| overlap(old)).or_else(|| Some((0, self.old.last()?)))?;
        self.next = self.next.max((first + at).min(self.old.len()));
        Some(best.2)
    }
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ChunkId {
        ChunkId([number; 32])
    }

    fn chunk(number: u8, length: u32) -> Extent {
        Extent::Chunk { id: id(number), length }
    }

    #[test]
    fn an_edited_chunk_gets_the_old_chunk_at_its_place_also_after_an_insert() {
        let mut finder = BaseFinder::new([chunk(1, 100), chunk(2, 100), chunk(3, 100), chunk(4, 100)]);
        assert_eq!(finder.next(0, 100, &id(1)), None);
        assert_eq!(finder.next(100, 130, &id(12)), Some(id(2)), "edited, and 30 bytes longer");
        assert_eq!(finder.next(230, 100, &id(3)), None, "unchanged behind the insert");
        assert_eq!(finder.next(330, 90, &id(14)), Some(id(4)));
    }

    #[test]
    fn what_is_appended_gets_the_last_chunk_and_a_new_file_gets_none() {
        let mut finder = BaseFinder::new([chunk(1, 100)]);
        assert_eq!(finder.next(0, 100, &id(1)), None);
        assert_eq!(finder.next(100, 50, &id(9)), Some(id(1)));
        assert!(BaseFinder::default().is_empty());
        assert_eq!(BaseFinder::default().next(0, 10, &id(1)), None);
    }

    #[test]
    fn a_hole_shifts_places_but_is_no_base() {
        let mut finder = BaseFinder::new([Extent::Hole { length: 1000 }, chunk(5, 100)]);
        assert_eq!(finder.next(1000, 100, &id(6)), Some(id(5)));
    }
}
