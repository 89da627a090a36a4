//! The published segments of an open repository: opened as the log names them, and checked before anybody relies on them.
//!
//! A segment that can't be opened is left out of the index: what only it lists then counts as missing, which a reader
//! reports with the chunk, and `verify` with the segment. Writers store it again; whoever removes things is refused
//! ([`Repository::look`]).

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::error::{Damaged, Error, Result};
use crate::format::segment::Location;
use crate::ids::{ChunkId, ObjectHash};
use crate::repo::directory::{self, Directory};
use crate::repo::index::{Index, Segment};
use crate::repo::repository::Repository;
use crate::rules::State;
use crate::store::StoreError;

/// More segments than this that no directory covers get one.
const UNCOVERED_MAX: usize = if cfg!(feature = "simulation") { 2 } else { 16 };

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
            self.prove_index();
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

    /// For a reader who did not find what he needs: what came from the local cache is checked, then the log is read on.
    ///
    /// Why in this order, and until the log stands still while a segment can't be opened: a collector removes segments once
    /// the log has told of those in their place. So who finds one missing learns of these from the log, and only there.
    ///
    /// # Errors
    /// When the log's new entries are damaged or the store fails.
    pub(crate) fn renew(&self) -> Result<()> {
        loop {
            let known = self.state().next;
            self.check_cached_segments();
            self.refresh()?;
            if self.state().next == known || self.closed_segments() == 0 {
                return Ok(());
            }
        }
    }

    /// What whoever leans on the index, or looks up a lot, asks for before: what came from the local cache is checked, and
    /// many segments get a directory.
    pub(crate) fn prove_index(&self) {
        self.check_cached_segments();
        self.gather();
    }

    /// Makes a directory over the segments that have none, if they are many. Directories of at most about twice as many
    /// entries are taken up into it, so that there are few, and each entry is written a few times only.
    fn gather(&self) {
        let index = self.index();
        let uncovered = index.uncovered_without(|_| false);
        let sound = uncovered.iter().filter(|segment| segment.is_sound());
        let lengths: Vec<usize> = sound.filter_map(|segment| Some(segment.view()?.len())).collect();
        if lengths.len() <= UNCOVERED_MAX {
            return;
        }
        let mut entries: usize = lengths.iter().sum();
        let mut directories: Vec<(usize, &Arc<Directory>)> = index.directories().map(|(it, live)| (live, it)).collect();
        directories.sort_by_key(|(live, _)| *live);
        let mut taken_up: Vec<&Arc<Directory>> = Vec::new();
        for (live, directory) in directories {
            if live <= 2 * entries || 2 * live < directory.len() {
                entries += live;
                taken_up.push(directory);
            }
        }
        let is_taken_up = |directory: &Arc<Directory>| taken_up.iter().any(|it| Arc::ptr_eq(it, directory));
        let segments: Vec<&Segment> =
            index.uncovered_without(is_taken_up).into_iter().map(|it| &**it).filter(|it| it.is_sound()).collect();
        let name = directory::name(segments.iter().map(|segment| segment.record().hash));
        let path = self.cache().directory_path(&name);
        let Some(fresh) = Directory::build(&segments, path.as_deref(), &name) else { return };
        let mut used: Vec<Arc<Directory>> =
            index.directories().map(|(it, _)| it).filter(|it| !is_taken_up(it)).cloned().collect();
        used.push(Arc::new(fresh));
        self.index.write().unwrap_or_else(PoisonError::into_inner).use_directories(used);
        self.tidy_cache();
    }

    /// Removes from the local cache what is not published any more, and directories that are not in use.
    pub(crate) fn tidy_cache(&self) {
        let index = self.index();
        let names = index.directories().map(|(it, _)| directory::name(it.covers().iter().copied())).collect();
        self.cache().retain(&self.state().segments.iter().map(|record| record.hash).collect(), &names);
    }

    /// Takes the directories of the local cache into use. What is in none of them is asked for in the segments.
    fn open_directories(&self) {
        let names = self.cache().directories();
        let open = names.iter().filter_map(|name| Directory::open(&self.cache().directory_path(name)?, name));
        let mut directories: Vec<Arc<Directory>> = open.map(Arc::new).collect();
        directories.sort_by_key(|directory| Reverse(directory.len()));
        self.index.write().unwrap_or_else(PoisonError::into_inner).use_directories(directories);
    }

    /// Holds what came from the local cache against its checksums, each once. A segment that is not as it was written (a
    /// power cut, a bit that flipped) is fetched from the store again; such a directory goes.
    pub(crate) fn check_cached_segments(&self) {
        let index = self.index();
        if !index.directories().all(|(directory, _)| directory.is_whole()) {
            for spoilt in index.directories().map(|(it, _)| it).filter(|it| !it.is_whole()) {
                if let Some(path) = self.cache().directory_path(&directory::name(spoilt.covers().iter().copied())) {
                    // Why: it is looked at again when it is opened again.
                    let _ = std::fs::remove_file(path);
                }
            }
            let whole = index.directories().map(|(it, _)| it).filter(|it| it.is_whole()).cloned();
            self.index.write().unwrap_or_else(PoisonError::into_inner).use_directories(whole);
        }
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

    /// What opening does: [`Self::open_new_segments`], and the directories of the local cache.
    pub(super) fn open_index(&self) {
        self.open_new_segments();
        self.open_directories();
    }

    /// Brings the index up to the log: opens the published segments that are not open yet, drops the retired ones. Gives
    /// why one could not be opened that may well be whole: the store failed.
    pub(super) fn open_new_segments(&self) -> Option<Error> {
        let state = self.state();
        let mut known: HashSet<ObjectHash> = self.index().segments().iter().map(|open| open.record().hash).collect();
        known.extend(self.closed().iter());
        let (mut opened, mut failure) = (Vec::new(), None);
        for record in state.segments.iter().filter(|record| !known.contains(&record.hash)) {
            match Segment::open(&*self.store, &self.ring.index_key, self.cache(), record) {
                Ok(segment) => opened.push(segment),
                // Why remembered: a reader asks once for every chunk that it does not find. What fails in passing is
                // not: that is tried again.
                Err(Error::Damaged(_) | Error::Store(StoreError::Missing(_))) => {
                    self.closed().insert(record.hash);
                }
                Err(error) => drop(failure.get_or_insert(error)),
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
        failure
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
