//! Where a chunk lies: look-ups over the published segments.
//!
//! Segments are immutable files of sorted records. Each is opened (decrypted) once into the local cache and mapped from
//! there; without a cache it is held in memory. A look-up asks the newest segment first; each answers from a membership
//! filter and at most a few probes.

use std::io::Write;
use std::sync::Arc;

use crate::crypto::{Secret32, envelope, object_hash};
use crate::error::{Damaged, Error, Result};
use crate::format::log::SegmentRecord;
use crate::format::names::PackName;
use crate::format::segment::{Location, SegmentView};
use crate::ids::ChunkId;
use crate::repo::cache::{Cache, write_atomically};
use crate::repo::map::SegmentBytes;
use crate::rules::{self, Standing, State};
use crate::store::Store;

/// One opened segment.
pub(crate) struct Segment {
    record: SegmentRecord,
    bytes: SegmentBytes,
}

impl Segment {
    /// Opens a stored segment: from the cache, else from the store (checking its hash) into the cache.
    pub(crate) fn open(store: &dyn Store, key: &Secret32, cache: &Cache, record: &SegmentRecord) -> Result<Self> {
        if let Some(path) = cache.segment_path(&record.hash)
            && let Some(segment) = Self::open_cached(&path, record)
        {
            return Ok(segment);
        }
        let object = record.name.object();
        let sealed = store.get(&object, None)?;
        if object_hash(&sealed) != record.hash {
            return Err(Damaged::new(object, 0, "the segment is not the one that the log names").into());
        }
        if let Some(path) = cache.segment_path(&record.hash) {
            let unsealed = write_atomically(&path, |file| {
                envelope::open_stream(key, &object, &sealed, &mut |block| {
                    file.write_all(block).map_err(|error| Error::file(&path, "cannot write", error))
                })
                .map_err(std::io::Error::other)
            });
            if unsealed.is_ok()
                && let Some(segment) = Self::open_cached(&path, record)
            {
                return Ok(segment);
            }
        }
        Self::from_plain(record.clone(), envelope::open(key, &object, &sealed)?)
    }

    /// A segment whose plain bytes are at hand: kept in the cache where there is one.
    pub(crate) fn keep(cache: &Cache, record: SegmentRecord, plain: Vec<u8>) -> Result<Self> {
        if let Some(path) = cache.segment_path(&record.hash)
            && write_atomically(&path, |file| file.write_all(&plain)).is_ok()
            && let Some(segment) = Self::open_cached(&path, &record)
        {
            return Ok(segment);
        }
        Self::from_plain(record, plain)
    }

    fn open_cached(path: &std::path::Path, record: &SegmentRecord) -> Option<Self> {
        let bytes = SegmentBytes::map(path).ok()?;
        let records = SegmentView::parse(&bytes).ok()?.len();
        (u64::try_from(records) == Ok(record.records)).then(|| Self { record: record.clone(), bytes })
    }

    fn from_plain(record: SegmentRecord, plain: Vec<u8>) -> Result<Self> {
        SegmentView::parse(&plain)?;
        Ok(Self { record, bytes: SegmentBytes::Owned(plain) })
    }

    /// The records.
    pub(crate) fn view(&self) -> Option<SegmentView<'_>> {
        SegmentView::parse(&self.bytes).ok()
    }

    /// How the log names it.
    pub(crate) fn record(&self) -> &SegmentRecord {
        &self.record
    }
}

/// A set of segments, newest last, and what the log says of single packs. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Index {
    segments: Vec<Arc<Segment>>,
    standing: Arc<Standing>,
    /// Number of log entries that this knows of.
    since: u64,
}

/// A record of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// The segment's place in the index.
    pub(crate) segment: usize,
    /// The record's number in the segment.
    pub(crate) record: usize,
    /// What it says.
    pub(crate) location: Location,
}

impl Index {
    pub(crate) fn push(&mut self, segment: Arc<Segment>) {
        self.segments.push(segment);
    }

    /// Drops the `count` oldest segments.
    pub(crate) fn drop_first(&mut self, count: usize) {
        self.segments.drain(..count);
    }

    /// Drops what is not published any more and takes over what the log says of packs.
    pub(crate) fn follow(&mut self, state: &State) {
        self.segments.retain(|segment| state.is_published(&segment.record.hash));
        self.standing = Arc::clone(&state.standing);
        self.since = state.next;
    }

    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// What the log says of packs.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Number of log entries that it knows of.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Every copy of a chunk, those of the newest segments first.
    pub(crate) fn copies(&self, id: &ChunkId) -> impl Iterator<Item = Found> {
        self.segments.iter().enumerate().rev().filter_map(move |(segment, opened)| {
            let (record, location) = opened.view()?.find_numbered(id)?;
            Some(Found { segment, record, location })
        })
    }

    /// The copy on which a new snapshot may lean (rule W1). `alone`: to be a base. `more` answers for bases that lie
    /// elsewhere than in this index.
    pub(crate) fn lean(&self, id: &ChunkId, alone: bool, more: &dyn Fn(&ChunkId) -> bool) -> Option<Found> {
        let mut has_alone = |base: &ChunkId| self.lean(base, true, more).is_some() || more(base);
        self.copies(id).find(|found| {
            let copy = rules::Copy { pack: found.location.pack, base: found.location.base };
            rules::leans_on(&self.standing, id, [&copy], alone, &mut has_alone).is_some()
        })
    }

    /// Copies of a chunk in the order in which a reader tries them: sound ones first, then condemned ones, then those
    /// that an audit found damaged.
    pub(crate) fn readable(&self, id: &ChunkId) -> Vec<Location> {
        let mut copies: Vec<Location> = self.copies(id).map(|found| found.location).collect();
        if copies.len() > 1 {
            copies.sort_by_key(|copy| self.doubt(id, &copy.pack));
        }
        copies
    }

    /// 0 for a sound copy, more for one that a reader tries later.
    fn doubt(&self, id: &ChunkId, pack: &PackName) -> u8 {
        let damaged = !self.standing.is_undoubted() && self.standing.is_doubted(pack, id);
        u8::from(!rules::is_usable(&self.standing, pack)) + 2 * u8::from(damaged)
    }

    /// A copy of `id` that is not encoded against a base. Why: two writers that did not know of each other may both have
    /// stored a chunk, one of them with a base; a base is always a copy without one.
    pub(crate) fn locate_alone(&self, id: &ChunkId) -> Option<Location> {
        self.readable(id).into_iter().find(|location| location.base.is_none())
    }

    /// Where `id` lies, if any segment lists it: the copy that a reader tries first.
    pub(crate) fn locate(&self, id: &ChunkId) -> Option<Location> {
        let mut best: Option<(u8, Location)> = None;
        for found in self.copies(id) {
            let doubt = self.doubt(id, &found.location.pack);
            if doubt == 0 {
                return Some(found.location);
            }
            if best.is_none_or(|(least, _)| doubt < least) {
                best = Some((doubt, found.location));
            }
        }
        best.map(|(_, location)| location)
    }
}
