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
use crate::format::segment::{Location, SegmentView};
use crate::ids::ChunkId;
use crate::repo::cache::{Cache, write_atomically};
use crate::repo::map::SegmentBytes;
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

/// A set of segments, newest last. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Index {
    segments: Vec<Arc<Segment>>,
}

impl Index {
    pub(crate) fn push(&mut self, segment: Arc<Segment>) {
        self.segments.push(segment);
    }

    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// A copy of `id` that is not encoded against a base. Why: two writers that did not know of each other may both have
    /// stored a chunk, one of them with a base; a base is always a copy without one.
    pub(crate) fn locate_alone(&self, id: &ChunkId) -> Option<Location> {
        let copies = self.segments.iter().rev().filter_map(|segment| segment.view()?.find(id));
        copies.into_iter().find(|location| location.base.is_none())
    }

    /// Where `id` lies, if any segment lists it.
    pub(crate) fn locate(&self, id: &ChunkId) -> Option<Location> {
        self.segments.iter().rev().find_map(|segment| segment.view()?.find(id))
    }
}
