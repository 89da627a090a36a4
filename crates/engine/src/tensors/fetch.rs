//! The bytes of parts of tensors, from the repository into a file.
//!
//! Chunks are asked for once a source file, whatever number of tensors they touch, in order of their place in the packs,
//! by several threads. A chunk that can't be had ends it: a file with a tensor half there is worth nothing.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::new_file::NewFile;
use super::pieces::Placement;
use crate::error::{Damaged, Error, Result};
use crate::ids::ChunkId;
use crate::monitor::{Monitor, Progress};
use crate::repo::{BlobReader, Fetched, Repository, StoredFile};
use crate::units::MIB;

/// What a thread holds at most, in bytes: a chunk, its blob, decoded bases.
const THREAD_BYTES: usize = 24 * MIB;

/// A part of a tensor of one file, and where the whole tensor begins in the target.
pub(super) struct Source<'a> {
    pub(super) range: Range<u64>,
    pub(super) placement: &'a Placement,
    pub(super) start: u64,
}

/// A stretch of a chunk that goes into the target.
struct Use {
    source: usize,
    /// Bytes of the chunk.
    within: Range<usize>,
    /// Where they begin in the part of the tensor.
    at: u64,
}

struct Want {
    id: ChunkId,
    length: u32,
    uses: Vec<Use>,
}

/// What all threads of one extraction share.
pub(super) struct Fetch<'a> {
    pub(super) repository: &'a Repository,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) target: &'a NewFile,
    pub(super) threads: usize,
    pub(super) progress: Mutex<Progress>,
    pub(super) fetched: Mutex<Fetched>,
}

/// How many threads fit a budget of so many bytes; `asked` of 0 is as many as there are processors.
pub(super) fn threads(asked: usize, budget_bytes: usize) -> usize {
    let wanted = if asked == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { asked };
    // Why: a thread that waits for the store leaves its core to another that decodes.
    (2 * wanted).min(budget_bytes / THREAD_BYTES).max(1)
}

impl Fetch<'_> {
    /// Fetches what the parts of one file need, and writes it. Holes are left out: the target reads as zeros there.
    pub(super) fn file(&self, file: &StoredFile<'_>, sources: &[Source<'_>]) -> Result<()> {
        let wants = self.wants(file, sources);
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failure: Mutex<Option<Error>> = Mutex::default();
        let work = || {
            let mut reader = self.repository.blob_reader();
            let mut plain = Vec::new();
            while let Some(want) = wants.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = self.one(&mut reader, want, sources, &mut plain) {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    stopped.store(true, Ordering::Relaxed);
                }
            }
            *self.fetched.lock().unwrap_or_else(PoisonError::into_inner) += reader.fetched();
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(wants.len()) {
                scope.spawn(work);
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The chunks that the parts touch, each once, in order of their place.
    fn wants(&self, file: &StoredFile<'_>, sources: &[Source<'_>]) -> Vec<Want> {
        let mut wants: Vec<Want> = Vec::new();
        let mut by_id = HashMap::new();
        for (number, source) in sources.iter().enumerate() {
            for (start, length, id) in file.touched(&source.range) {
                let (from, to) = (source.range.start.max(*start), source.range.end.min(start + u64::from(*length)));
                let place = |at: u64| usize::try_from(at - start).expect("inside a chunk");
                let place = Use { source: number, within: place(from)..place(to), at: from - source.range.start };
                // Why the length too: extents that disagree on it can't both be right, and are judged one by one.
                let at = *by_id.entry((*id, *length)).or_insert(wants.len());
                if at == wants.len() {
                    wants.push(Want { id: *id, length: *length, uses: Vec::new() });
                }
                wants[at].uses.push(place);
            }
        }
        wants.sort_by_cached_key(|want| {
            self.repository.locate(&want.id).map(|location| (location.pack, location.offset))
        });
        wants
    }

    fn one(&self, reader: &mut BlobReader<'_>, want: &Want, sources: &[Source<'_>], plain: &mut Vec<u8>) -> Result<()> {
        if self.monitor.stopped() {
            return Err(Error::Interrupted);
        }
        reader.read(&want.id, plain)?;
        if plain.len() as u64 != u64::from(want.length) {
            let why = format!("it has {} bytes, the file's list says {}", plain.len(), want.length);
            return Err(Damaged::new(format!("chunk {}", want.id), 0, why).into());
        }
        for place in &want.uses {
            let written = self.write(&sources[place.source], place, &plain[place.within.clone()]);
            written.map_err(|error| self.target.failed("cannot write", error))?;
            self.add_progress(place.within.len() as u64);
        }
        Ok(())
    }

    fn write(&self, source: &Source<'_>, place: &Use, bytes: &[u8]) -> io::Result<()> {
        let range = place.at..place.at + bytes.len() as u64;
        source.placement.runs(range, &mut |at, whole, length| {
            let begin = usize::try_from(at - place.at).expect("inside a chunk");
            let run = &bytes[begin..begin + usize::try_from(length).expect("inside a chunk")];
            self.target.file().write_all_at(run, source.start + whole)
        })
    }

    fn add_progress(&self, bytes: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.bytes_done += bytes;
        self.monitor.progress(*progress);
    }
}
