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

use super::gather::Gather;
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

/// A tensor of one file whose numbers do not lie in the order of its shape, and where it begins in the target.
pub(super) struct Strewn<'a> {
    pub(super) range: Range<u64>,
    pub(super) gather: &'a Gather,
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
    /// Bytes of a tensor's numbers that are in memory at once where they must be put in order: at least a chunk.
    pub(super) window_bytes: usize,
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
        self.each_chunk(&wants, &|want, plain| {
            for place in &want.uses {
                let written = self.write(&sources[place.source], place, &plain[place.within.clone()]);
                written.map_err(|error| self.target.failed("cannot write", error))?;
                self.add_progress(place.within.len() as u64);
            }
            Ok(())
        })
    }

    /// Fetches a tensor whose numbers lie in another order than the target's, and writes it. Window by window of its numbers, each of
    /// whole chunks that follow each other: a chunk is fetched once, and holes are left out.
    pub(super) fn strewn(&self, file: &StoredFile<'_>, source: &Strewn<'_>) -> Result<()> {
        let mut extents = file.touched(&source.range);
        // An element that two windows share: its number, and what is known of it.
        let mut shared: (u64, Vec<u8>) = (0, Vec::new());
        while let Some(&(start, ..)) = extents.first() {
            let mut end = start;
            let fits = |(at, length, _): &&(u64, u32, ChunkId)| {
                let follows = *at == end && (*at == start || end - start < self.window_bytes as u64);
                end = if follows { end + u64::from(*length) } else { end };
                follows
            };
            let count = extents.iter().take_while(fits).count();
            let (window, rest) = extents.split_at(count);
            extents = rest;
            self.window(window, start.max(source.range.start)..end.min(source.range.end), source, &mut shared)?;
        }
        Ok(())
    }

    /// One window: the bytes `bounds` of the file, and the extents that hold them.
    fn window(
        &self,
        extents: &[(u64, u32, ChunkId)],
        bounds: Range<u64>,
        source: &Strewn<'_>,
        shared: &mut (u64, Vec<u8>),
    ) -> Result<()> {
        let width = source.gather.width();
        let within = bounds.start - source.range.start..bounds.end - source.range.start;
        let first = within.start / width as u64;
        let begin = bounds.start - within.start % width as u64;
        // Why up: the last element may go on in the next window, and is written once more then.
        let elements = usize::try_from(within.end.div_ceil(width as u64) - first);
        let length = elements.ok().and_then(|elements| elements.checked_mul(width));
        let mut numbers = vec![0; length.expect("a window fits memory")];
        if shared.0 == first {
            numbers[..shared.1.len()].copy_from_slice(&shared.1);
        }
        let place = |at: u64| usize::try_from(at).expect("inside a window");
        let wants = window_wants(extents, &bounds);
        let shelf = Mutex::new(&mut numbers[..]);
        self.each_chunk(&wants, &|want, plain| {
            let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            for used in &want.uses {
                let at = place(used.at - begin);
                shelf[at..at + used.within.len()].copy_from_slice(&plain[used.within.clone()]);
            }
            Ok(())
        })?;
        *shared = match within.end % width as u64 {
            0 => (0, Vec::new()),
            _ => (within.end / width as u64, numbers[numbers.len() - width..].to_vec()),
        };
        let written = source.gather.runs(first, &numbers, &mut |at, run| {
            self.add_progress(run.len() as u64);
            self.target.file().write_all_at(run, source.start + at)
        });
        written.map_err(|error| self.target.failed("cannot write", error))
    }

    /// Fetches chunks by several threads, and hands each to `use_chunk`.
    fn each_chunk(&self, wants: &[Want], use_chunk: &(dyn Fn(&Want, &[u8]) -> Result<()> + Sync)) -> Result<()> {
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failure: Mutex<Option<Error>> = Mutex::default();
        let work = || {
            let mut reader = self.repository.blob_reader();
            let mut plain = Vec::new();
            while let Some(want) = wants.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = self.one(&mut reader, want, &mut plain).and_then(|()| use_chunk(want, &plain)) {
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

    fn one(&self, reader: &mut BlobReader<'_>, want: &Want, plain: &mut Vec<u8>) -> Result<()> {
        if self.monitor.stopped() {
            return Err(Error::Interrupted);
        }
        reader.read(&want.id, plain)?;
        if plain.len() as u64 != u64::from(want.length) {
            let why = format!("it has {} bytes, the file's list says {}", plain.len(), want.length);
            return Err(Damaged::new(format!("chunk {}", want.id), 0, why).into());
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

/// The chunks of one window, each once; `at` of their uses is the place in the file.
fn window_wants(extents: &[(u64, u32, ChunkId)], bounds: &Range<u64>) -> Vec<Want> {
    let mut wants: Vec<Want> = Vec::new();
    let mut by_id = HashMap::new();
    for &(start, length, id) in extents {
        let (from, to) = (bounds.start.max(start), bounds.end.min(start + u64::from(length)));
        let place = |at: u64| usize::try_from(at - start).expect("inside a chunk");
        let at = *by_id.entry((id, length)).or_insert(wants.len());
        if at == wants.len() {
            wants.push(Want { id, length, uses: Vec::new() });
        }
        wants[at].uses.push(Use { source: 0, within: place(from)..place(to), at: from });
    }
    wants
}
