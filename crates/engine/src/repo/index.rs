//! Where a chunk lies: look-ups over the published segments.
//!
//! Segments are immutable files of sorted records. Each is opened (decrypted) once into the local cache and mapped from
//! there; without a cache it is held in memory. A look-up asks the newest segment first; each answers from a membership
//! filter and at most a few probes.
//!
//! A file of the cache ends with the BLAKE3 of the segment's plain bytes, keyed with the hash of the stored object. Whoever
//! leans on what the index says, or removes something, has it checked before
//! (`Repository::check_cached_segments`); a reader only where it does not find something, as it compares every chunk with
//! its id anyway.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::crypto::{Secret32, envelope, object_hash};
use crate::error::{Damaged, Error, Result};
use crate::format::log::SegmentRecord;
use crate::format::names::PackName;
use crate::format::segment::{Location, SegmentView};
use crate::ids::{ChunkId, ObjectHash};
use crate::repo::cache::{Cache, write_atomically};
use crate::repo::map::SegmentBytes;
use crate::rules::{self, Standing, State};
use crate::store::Store;
use crate::units::MIB;

/// Length of the checksum at the end of a cached segment.
const CHECKSUM_BYTES: usize = 32;
/// A cached segment is read in pieces of this length to be held against its checksum.
const CHECK_BYTES: usize = MIB;

/// One opened segment.
pub(crate) struct Segment {
    record: SegmentRecord,
    bytes: SegmentBytes,
    /// The file that is mapped and was not written by this process.
    cached: Option<Cached>,
}

/// A file of the local cache, of which nobody knows what happened to it since it was written.
struct Cached {
    path: PathBuf,
    /// Device and inode: another process may have put a file of its own there.
    inode: (u64, u64),
    is_whole: OnceLock<bool>,
}

impl Segment {
    /// Opens a stored segment: from the cache, else from the store (checking its hash) into the cache. What comes from the
    /// cache is not held against its checksum yet, see [`Self::is_whole`].
    pub(crate) fn open(store: &dyn Store, key: &Secret32, cache: &Cache, record: &SegmentRecord) -> Result<Self> {
        if let Some(path) = cache.segment_path(&record.hash)
            && let Some(segment) = Self::open_cached(&path, record)
        {
            return Ok(segment);
        }
        Self::fetch(store, key, cache, record)
    }

    /// Opens a stored segment from the store, whatever the cache has, and puts it there.
    pub(crate) fn fetch(store: &dyn Store, key: &Secret32, cache: &Cache, record: &SegmentRecord) -> Result<Self> {
        let object = record.name.object();
        let sealed = store.get(&object, None)?;
        if object_hash(&sealed) != record.hash {
            return Err(Damaged::new(object, 0, "the segment is not the one that the log names").into());
        }
        if let Some(path) = cache.segment_path(&record.hash) {
            let written = Self::write_cached(&path, record, |write| {
                envelope::open_stream(key, &object, &sealed, &mut |block| {
                    write(block).map_err(|error| Error::file(&path, "cannot write", error))
                })
                .map_err(std::io::Error::other)
            });
            if let Some(segment) = written {
                return Ok(segment);
            }
        }
        Self::from_plain(record.clone(), envelope::open(key, &object, &sealed)?)
    }

    /// A segment whose plain bytes are at hand: kept in the cache where there is one.
    pub(crate) fn keep(cache: &Cache, record: SegmentRecord, plain: Vec<u8>) -> Result<Self> {
        if let Some(path) = cache.segment_path(&record.hash)
            && let Some(segment) = Self::write_cached(&path, &record, |write| write(&plain))
        {
            return Ok(segment);
        }
        Self::from_plain(record, plain)
    }

    /// Puts the plain bytes that `produce` writes into the cache, and maps them; none where that can't be. Not made
    /// durable: the checksum tells what a power cut left.
    fn write_cached(
        path: &Path,
        record: &SegmentRecord,
        produce: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()>,
    ) -> Option<Self> {
        let mut hasher = blake3::Hasher::new_keyed(&record.hash.0);
        let written = write_atomically(path, |file| {
            produce(&mut |block| {
                hasher.update(block);
                file.write_all(block)
            })?;
            file.write_all(hasher.finalize().as_bytes())
        });
        written.ok()?;
        let mut segment = Self::open_cached(path, record)?;
        // Why: what this process has just written lies in the page cache as it was written.
        segment.cached = None;
        Some(segment)
    }

    fn open_cached(path: &Path, record: &SegmentRecord) -> Option<Self> {
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let bytes = SegmentBytes::map(&file, CHECKSUM_BYTES).ok()?;
        let records = SegmentView::parse(&bytes).ok()?.len();
        let cached =
            Cached { path: path.to_path_buf(), inode: (metadata.dev(), metadata.ino()), is_whole: OnceLock::new() };
        (u64::try_from(records) == Ok(record.records)).then(|| Self {
            record: record.clone(),
            bytes,
            cached: Some(cached),
        })
    }

    fn from_plain(record: SegmentRecord, plain: Vec<u8>) -> Result<Self> {
        SegmentView::parse(&plain)?;
        Ok(Self { record, bytes: SegmentBytes::Owned(plain), cached: None })
    }

    /// The records.
    pub(crate) fn view(&self) -> Option<SegmentView<'_>> {
        SegmentView::parse(&self.bytes).ok()
    }

    /// Holds what came from the cache against its checksum, once: true where it is the segment that was put there. The
    /// file is read, not the map, so that its pages do not count as this process's memory.
    pub(crate) fn is_whole(&self) -> bool {
        self.cached.as_ref().is_none_or(|cached| {
            *cached.is_whole.get_or_init(|| cached.check(&self.record, self.bytes.len()).unwrap_or(false))
        })
    }

    /// How the log names it.
    pub(crate) fn record(&self) -> &SegmentRecord {
        &self.record
    }
}

impl Cached {
    fn check(&self, record: &SegmentRecord, length: usize) -> std::io::Result<bool> {
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != self.inode {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new_keyed(&record.hash.0);
        let mut piece = vec![0; CHECK_BYTES.min(length)];
        let mut left = length;
        while left > 0 {
            let now = left.min(piece.len());
            file.read_exact(&mut piece[..now])?;
            hasher.update(&piece[..now]);
            left -= now;
        }
        let mut checksum = [0; CHECKSUM_BYTES];
        file.read_exact(&mut checksum)?;
        Ok(hasher.finalize() == checksum)
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

    /// Puts `segment` in the place of the one that is opened as the same object.
    pub(crate) fn replace(&mut self, segment: Arc<Segment>) {
        if let Some(open) = self.segments.iter_mut().find(|open| open.record.hash == segment.record.hash) {
            *open = segment;
        }
    }

    /// Drops the segment with this stored hash.
    pub(crate) fn drop_segment(&mut self, hash: &ObjectHash) {
        self.segments.retain(|open| open.record.hash != *hash);
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
