//! Where a chunk lies: look-ups over the published segments.
//!
//! Segments are immutable files of sorted records. Each is opened (decrypted) once into the local cache and mapped from
//! there; without a cache it is held in memory. A look-up asks the directories, which say where in the segments that they
//! cover a record may be ([`super::directory`]), and each segment that none covers; that answers from a membership filter
//! and at most a few probes. Copies come with those of the newest segment first.
//!
//! A file of the cache has a checksum, keyed with the hash of the stored object. Whoever leans on what the index says, or
//! removes something, has it checked before (`Repository::check_cached_segments`); a reader only where it does not find
//! something, as it compares every chunk with its id anyway.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::crypto::{Secret32, envelope};
use crate::error::{Damaged, Error, Result};
use crate::format::log::SegmentRecord;
use crate::format::names::PackName;
use crate::format::segment::{Location, Sections, SegmentView};
use crate::ids::{ChunkId, ObjectHash};
use crate::repo::cache::Cache;
use crate::repo::directory::Directory;
use crate::repo::kept::{self, Kept};
use crate::repo::object::read_segment;
use crate::rules::{self, Standing, State};
use crate::store::Store;
use crate::units::MIB;

/// After so many look-ups the process looks what its maps take. Each touches a page or two of a directory and of a segment,
/// with which the kernel maps what lies in the same folio of the page cache: 64 KiB to 2 MiB.
const LOOK_UPS: u32 = 16;
/// More of the maps does not stay in this process's memory.
const MAPPED_BYTES_MAX: u64 = 80 * MIB as u64;

/// One opened segment.
pub(crate) struct Segment {
    record: SegmentRecord,
    kept: Kept,
    sections: Sections,
    /// Somebody looked at it since its memory was let go of.
    is_touched: AtomicBool,
    is_sound: OnceLock<bool>,
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
        let sealed = read_segment(store, record)?;
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

    /// Puts the plain bytes that `produce` writes into the cache, and maps them; none where that can't be.
    fn write_cached(
        path: &Path,
        record: &SegmentRecord,
        produce: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()>,
    ) -> Option<Self> {
        Self::parse(record, Kept::write(path, &record.hash, produce)?)
    }

    fn open_cached(path: &Path, record: &SegmentRecord) -> Option<Self> {
        Self::parse(record, Kept::open(path, &record.hash)?)
    }

    fn parse(record: &SegmentRecord, kept: Kept) -> Option<Self> {
        let sections = Sections::parse(&kept).ok()?;
        let records = sections.view(&kept).len();
        // Why: opening looks at the header only, but the kernel may have mapped half a megabyte with it.
        kept.release();
        (u64::try_from(records) == Ok(record.records)).then(|| Self::new(record.clone(), kept, sections))
    }

    fn from_plain(record: SegmentRecord, plain: Vec<u8>) -> Result<Self> {
        let sections = Sections::parse(&plain)?;
        // Why: the number is what its writer claims, and who keeps the index in order goes by it.
        if u64::try_from(sections.view(&plain).len()) != Ok(record.records) {
            return Err(Damaged::new(record.name.object(), 0, "it has not as many records as the log says").into());
        }
        Ok(Self::new(record, Kept::owned(plain), sections))
    }

    fn new(record: SegmentRecord, kept: Kept, sections: Sections) -> Self {
        Self { record, kept, sections, is_touched: AtomicBool::new(false), is_sound: OnceLock::new() }
    }

    /// The records.
    pub(crate) fn view(&self) -> Option<SegmentView<'_>> {
        self.is_touched.store(true, Ordering::Relaxed);
        Some(self.sections.view(&self.kept))
    }

    /// How many records it has in fact.
    pub(crate) fn count(&self) -> u64 {
        self.sections.view(&self.kept).len() as u64
    }

    /// The packs that it names; lets go of the map's memory.
    pub(crate) fn packs(&self) -> Vec<PackName> {
        let packs = self.view().into_iter().flat_map(|view| view.packs()).collect();
        self.release();
        packs
    }

    /// Every record that can be, with its number; lets go of the map's memory at the end.
    pub(crate) fn records(&self) -> Records<'_> {
        Records { segment: self, view: self.view(), next: 0 }
    }

    /// True where its records are in order and all of them possible. Looked at once.
    pub(crate) fn is_sound(&self) -> bool {
        *self.is_sound.get_or_init(|| {
            let is_sound = self.view().is_some_and(|view| view.check().is_ok());
            self.kept.release();
            is_sound
        })
    }

    /// Lets go of the map's memory, where somebody looked at it since the last time.
    pub(crate) fn release(&self) {
        if self.is_touched.swap(false, Ordering::Relaxed) {
            self.kept.release();
        }
    }

    /// See [`Kept::is_whole`].
    pub(crate) fn is_whole(&self) -> bool {
        self.kept.is_whole()
    }

    /// How the log names it.
    pub(crate) fn record(&self) -> &SegmentRecord {
        &self.record
    }
}

/// See [`Segment::records`].
pub(crate) struct Records<'a> {
    segment: &'a Segment,
    view: Option<SegmentView<'a>>,
    next: usize,
}

impl Iterator for Records<'_> {
    type Item = (usize, ChunkId, Location);

    fn next(&mut self) -> Option<Self::Item> {
        let view = self.view?;
        while self.next < view.len() {
            let number = self.next;
            self.next += 1;
            if let Some((id, location)) = view.record(number) {
                return Some((number, id, location));
            }
        }
        None
    }
}

impl Drop for Records<'_> {
    fn drop(&mut self) {
        self.segment.kept.release();
    }
}

/// A set of segments, newest last, and what the log says of single packs. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Index {
    segments: Vec<Arc<Segment>>,
    directories: Vec<Placed>,
    /// Places of the segments that no directory covers, ascending.
    uncovered: Vec<usize>,
    standing: Arc<Standing>,
    /// Number of log entries that this knows of.
    since: u64,
    /// Look-ups since somebody last looked what the maps take.
    touches: Arc<AtomicU32>,
}

/// A directory in use.
#[derive(Clone)]
struct Placed {
    directory: Arc<Directory>,
    /// Of each segment that it covers, the place in the index; none for those that are not in it, or that another one
    /// covers.
    places: Arc<[Option<usize>]>,
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
        self.uncovered.push(self.segments.len());
        self.segments.push(segment);
    }

    /// Drops the `count` oldest segments.
    pub(crate) fn drop_first(&mut self, count: usize) {
        self.segments.drain(..count);
        self.arrange();
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
        self.arrange();
    }

    /// Drops what is not published any more and takes over what the log says of packs.
    pub(crate) fn follow(&mut self, state: &State) {
        let before = self.segments.len();
        self.segments.retain(|segment| state.is_published(&segment.record.hash));
        if self.segments.len() != before {
            self.arrange();
        }
        self.standing = Arc::clone(&state.standing);
        self.since = state.next;
    }

    /// Uses these directories, and no others. Where several cover a segment, the first does.
    pub(crate) fn use_directories(&mut self, directories: impl IntoIterator<Item = Arc<Directory>>) {
        self.directories =
            directories.into_iter().map(|directory| Placed { directory, places: Arc::default() }).collect();
        self.arrange();
    }

    /// The directories in use, each with the number of entries of segments that are in the index.
    pub(crate) fn directories(&self) -> impl Iterator<Item = (&Arc<Directory>, usize)> {
        self.directories.iter().map(|placed| {
            let segments = placed.places.iter().flatten();
            let live = segments.map(|place| self.segments[*place].view().map_or(0, |view| view.len())).sum();
            (&placed.directory, live)
        })
    }

    /// Segments that none of the directories covers for which `leaves` is false, in order.
    pub(crate) fn uncovered_without(&self, leaves: impl Fn(&Arc<Directory>) -> bool) -> Vec<&Arc<Segment>> {
        let left = self.directories.iter().filter(|placed| leaves(&placed.directory));
        let mut places: Vec<usize> = left.flat_map(|placed| placed.places.iter().flatten().copied()).collect();
        places.extend(&self.uncovered);
        places.sort_unstable();
        places.into_iter().map(|place| &self.segments[place]).collect()
    }

    /// Finds out anew where the covered segments are.
    fn arrange(&mut self) {
        let hashes = self.segments.iter().enumerate();
        let mut places: HashMap<ObjectHash, usize> =
            hashes.map(|(place, segment)| (segment.record.hash, place)).collect();
        for placed in &mut self.directories {
            placed.places = placed.directory.covers().iter().map(|hash| places.remove(hash)).collect();
        }
        self.directories.retain(|placed| placed.places.iter().any(Option::is_some));
        self.uncovered = places.into_values().collect();
        self.uncovered.sort_unstable();
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
        self.touch();
        let mut listed = self.listed(id);
        let mut asked = self.ask(id).peekable();
        std::iter::from_fn(move || {
            let is_next = listed.last().is_some_and(|last| asked.peek().is_none_or(|next| next.segment < last.segment));
            if is_next { listed.pop() } else { asked.next() }
        })
    }

    /// The copies of segments that no directory covers, those of the newest first.
    fn ask(&self, id: &ChunkId) -> impl Iterator<Item = Found> {
        self.uncovered.iter().rev().filter_map(move |place| {
            let (record, location) = self.segments[*place].view()?.find_numbered(id)?;
            Some(Found { segment: *place, record, location })
        })
    }

    /// The copies of covered segments, those of the newest last.
    fn listed(&self, id: &ChunkId) -> Vec<Found> {
        let mut found = Vec::new();
        for placed in &self.directories {
            for (covered, record) in placed.directory.view().into_iter().flat_map(|view| view.find(id)) {
                let Some(segment) = placed.places.get(covered).copied().flatten() else { continue };
                let listed = self.segments[segment].view().and_then(|view| view.record(record));
                if let Some((_, location)) = listed.filter(|(listed, _)| listed == id) {
                    found.push(Found { segment, record, location });
                }
            }
        }
        found.sort_unstable_by_key(|found| found.segment);
        found
    }

    /// Counts look-ups, and lets go of the maps' memory where they take too much.
    fn touch(&self) {
        if self.touches.fetch_add(1, Ordering::Relaxed) >= LOOK_UPS {
            self.touches.store(0, Ordering::Relaxed);
            if kept::mapped_bytes() > MAPPED_BYTES_MAX {
                self.segments.iter().for_each(|segment| segment.release());
                self.directories.iter().for_each(|placed| placed.directory.release());
            }
        }
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
