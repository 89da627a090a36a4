//! The published segments of an open repository: opened as the log names them, and checked before anybody relies on them.
//!
//! A segment that can't be opened is left out of the index: what only it lists then counts as missing, which a reader
//! reports with the chunk, and `verify` with the segment. Writers store it again; whoever removes things is refused
//! ([`Repository::look`]).

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::error::{Damaged, Error, Result};
use crate::format::segment::Location;
use crate::ids::{ChunkId, ObjectHash};
use crate::repo::index::{Index, Segment};
use crate::repo::repository::Repository;
use crate::rules::State;
use crate::store::StoreError;

/// What an owner does about a segment that can't be opened.
const REPAIR: &str = "`repair --index` writes a new one from the packs";
const MISSING: &str = "it is missing; `repair --index` writes a new one from the packs";

impl Repository {
    /// Reads the log's new entries; gives what it says then, and the index of exactly that, of which every segment that
    /// came from the cache was checked. Segments that can't be opened are not in it.
    ///
    /// # Errors
    /// When the log's new entries are damaged or the store fails.
    pub(crate) fn current(&self) -> Result<(Arc<State>, Index)> {
        loop {
            self.refresh()?;
            self.check_cached_segments();
            let (state, index) = (self.state(), self.index());
            // Why: another thread may have read on between the two.
            if index.since() == state.next {
                return Ok((state, index));
            }
        }
    }

    /// As [`Self::current`], for whoever removes things, and so has to know all of them.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a published segment can't be opened; what [`Self::current`] fails with.
    pub(crate) fn look(&self) -> Result<(Arc<State>, Index)> {
        loop {
            let (state, index) = self.current()?;
            let open: HashSet<ObjectHash> = index.segments().iter().map(|open| open.record().hash).collect();
            let Some(closed) = state.segments.iter().find(|record| !open.contains(&record.hash)) else {
                return Ok((state, index));
            };
            self.closed().clear();
            let opened = Segment::open(&*self.store, &self.ring.index_key, self.cache(), closed);
            self.refresh()?;
            // Why: it may have been retired meanwhile.
            if let (Err(error), true) = (opened, self.state().is_published(&closed.hash)) {
                return Err(match error {
                    Error::Store(StoreError::Missing(object)) => Damaged::new(object, 0, MISSING).into(),
                    Error::Damaged(damaged) => {
                        Damaged::new(damaged.object, damaged.offset, format!("{}; {REPAIR}", damaged.why)).into()
                    }
                    other => other,
                });
            }
        }
    }

    /// Holds the segments that came from the local cache against their checksums, each once. What is not as it was written
    /// (a power cut, a bit that flipped) is fetched from the store again.
    pub(crate) fn check_cached_segments(&self) {
        for spoilt in self.index().segments().iter().filter(|segment| !segment.is_whole()) {
            let record = spoilt.record();
            if let Some(path) = self.cache().segment_path(&record.hash) {
                // Why: whatever comes of fetching it, nobody is to be misled again.
                let _ = std::fs::remove_file(path);
            }
            let fetched = Segment::fetch(&*self.store, &self.ring.index_key, self.cache(), record);
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            match fetched {
                Ok(segment) => index.replace(Arc::new(segment)),
                Err(_) => index.drop_segment(&record.hash),
            }
        }
    }

    /// Brings the index up to the log: opens the published segments that are not open yet, drops the retired ones.
    pub(super) fn open_new_segments(&self) {
        let state = self.state();
        let mut known: HashSet<ObjectHash> = self.index().segments().iter().map(|open| open.record().hash).collect();
        known.extend(self.closed().iter());
        let mut opened = Vec::new();
        for record in state.segments.iter().filter(|record| !known.contains(&record.hash)) {
            match Segment::open(&*self.store, &self.ring.index_key, self.cache(), record) {
                Ok(segment) => opened.push(segment),
                // Why remembered: a reader asks once for every chunk that it does not find. What fails in passing is
                // not: that is tried again.
                Err(Error::Damaged(_) | Error::Store(StoreError::Missing(_))) => {
                    self.closed().insert(record.hash);
                }
                Err(_) => {}
            }
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for segment in opened {
            // Why: another thread may have been faster.
            if !index.segments().iter().any(|open| open.record().hash == segment.record().hash) {
                index.push(Arc::new(segment));
            }
        }
        if index.since() <= state.next {
            index.follow(&state);
        }
    }

    fn closed(&self) -> MutexGuard<'_, HashSet<ObjectHash>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a segment that this process wrote and published.
    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if !index.segments().iter().any(|open| open.record().hash == segment.record().hash) {
            index.push(segment);
        }
    }

    /// Published segments that could not be opened, as far as the log was read.
    pub(crate) fn closed_segments(&self) -> usize {
        let (state, index) = (self.state(), self.index());
        let open: HashSet<&ObjectHash> = index.segments().iter().map(|open| &open.record().hash).collect();
        state.segments.iter().filter(|record| !open.contains(&record.hash)).count()
    }

    pub(crate) fn index(&self) -> Index {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls `each` for every record of every published segment; a chunk that several segments list comes several times.
    ///
    /// # Errors
    /// When a segment can't be opened.
    pub fn each_location(&self, each: &mut dyn FnMut(ChunkId, Location)) -> Result<()> {
        for record in self.segments() {
            let segment = Segment::open(&*self.store, &self.ring.index_key, self.cache(), &record)?;
            let Some(view) = segment.view() else { continue };
            for number in 0..view.len() {
                let (id, location) = view
                    .record(number)
                    .ok_or_else(|| Damaged::new(record.name.object(), 0, "a record points outside the segment"))?;
                each(id, location);
            }
        }
        Ok(())
    }
}
