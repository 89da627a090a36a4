//! Content on its way from packs into files.
//!
//! The planner collects what files need in a [`Batch`]: each chunk once, however many files and places want it. A full
//! batch is sorted by place in the packs, these by what they are encoded against, and cut into [`Job`]s: long ranges that one thread
//! fetches, decodes blob by blob and writes. Memory: a worker holds one range and one chunk, all together keep bases for a
//! while; a batch is bounded in chunks and in directories whose handles it keeps open. A blob that can't be had or decoded from where it was expected is read again by its id, which also
//! looks for it anew; if that fails too, its files fail and are reported, and nothing of them stays.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, select};

use super::origin::Blobs;
use super::run::{Run, add};
use crate::error::{Damaged, Error, Result};
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::repo::Leanings;
use crate::stages::target::{Identity, Scratch, TargetFile};
use crate::store::StoreError;
use crate::units::{KIB, MIB};

/// Bytes of a blob's header.
const BLOB_HEADER_BYTES: u64 = 48;
/// Blobs that lie no farther apart are fetched together: reading over the gap costs less than asking again.
const GAP_BYTES_MAX: u64 = 64 * KIB as u64;
/// No fetch is longer, unless one blob is.
const RANGE_BYTES_MAX: usize = 8 * MIB;
/// Nor is it cut shorter than this by a small budget.
const RANGE_BYTES_MIN: usize = MIB;
/// A batch ends at so many places to write to.
const BATCH_USES_MAX: usize = 8192;
/// And at so many changes of directory, because each may hold a handle.
const BATCH_DIRECTORIES_MAX: usize = 128;
/// And at so many bytes of inline content.
const BATCH_INLINE_BYTES_MAX: usize = MIB;
/// Files with inline content that make one job.
const INLINE_FILES: usize = 64;

/// A place in a file that wants a chunk.
struct Use {
    file: Arc<TargetFile>,
    offset: u64,
}

/// A chunk and all who want it.
struct Want {
    id: ChunkId,
    location: Option<Location>,
    /// Others of the batch are encoded against it.
    is_base: bool,
    length: u32,
    first: Use,
    more: Vec<Use>,
}

impl Want {
    fn uses(&self) -> impl Iterator<Item = &Use> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// What one worker does in one go.
pub(super) enum Job {
    /// Whole files whose content came with the tree.
    Inline(Vec<(Arc<TargetFile>, Vec<u8>)>),
    /// Blobs that lie together in a pack.
    Range(PackName, Range<u64>, Vec<Wanted>),
    /// A chunk that the index does not know.
    Lost(Wanted),
}

impl Job {
    /// True if it begins with a file that goes past the page cache.
    fn is_large(&self) -> bool {
        matches!(self, Self::Range(_, _, list) if list.first().is_some_and(|Wanted(want)| want.first.file.is_large()))
    }
}

/// Where jobs go: `large` has those of large files, on which more threads work.
pub(super) struct Jobs {
    pub(super) any: Sender<Job>,
    pub(super) large: Sender<Job>,
}

/// One blob of a job.
pub(super) struct Wanted(Want);

/// What is to be fetched next.
#[derive(Default)]
pub(super) struct Batch {
    wants: Vec<Want>,
    by_id: HashMap<ChunkId, usize>,
    inline: Vec<(Arc<TargetFile>, Vec<u8>)>,
    inline_bytes: usize,
    uses: usize,
    directories: usize,
    directory: Option<Identity>,
}

impl Batch {
    /// Takes a file whose content is at hand, with the caller's claim on it.
    pub(super) fn push_inline(&mut self, file: Arc<TargetFile>, content: Vec<u8>) {
        self.count(&file);
        self.inline_bytes += content.len();
        self.inline.push((file, content));
    }

    /// Takes note that `file` wants the chunk `id` of `length` bytes at `offset`; claims the file for it.
    pub(super) fn push(&mut self, run: &Run<'_>, file: &Arc<TargetFile>, id: ChunkId, length: u32, offset: u64) {
        self.count(file);
        file.claim();
        let place = Use { file: Arc::clone(file), offset };
        // Why the length too: two extents that disagree on it can't both be right, and are then judged one by one.
        match self.by_id.get(&id).map(|&at| &mut self.wants[at]).filter(|want| want.length == length) {
            Some(want) => want.more.push(place),
            None => {
                self.by_id.insert(id, self.wants.len());
                let location = run.origin.locate(&id);
                self.wants.push(Want { id, location, is_base: false, length, first: place, more: Vec::new() });
            }
        }
    }

    fn count(&mut self, file: &TargetFile) {
        self.uses += 1;
        let directory = file.directory().identity();
        if self.directory != Some(directory) {
            self.directory = Some(directory);
            self.directories += 1;
        }
    }

    /// True once it should be sent.
    pub(super) fn is_full(&self) -> bool {
        self.uses >= BATCH_USES_MAX
            || self.directories >= BATCH_DIRECTORIES_MAX
            || self.inline_bytes >= BATCH_INLINE_BYTES_MAX
    }

    /// Cuts everything into jobs and sends them.
    ///
    /// # Errors
    /// When the run was ended.
    pub(super) fn send(&mut self, run: &Run<'_>, jobs: &Jobs) -> Result<()> {
        let batch = mem::take(self);
        let range_bytes = (run.options.budget_bytes / (8 * run.threads())).clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX);
        let mut inline = batch.inline;
        while !inline.is_empty() {
            let rest = inline.split_off(inline.len().min(INLINE_FILES));
            submit(run, jobs, Job::Inline(mem::replace(&mut inline, rest)))?;
        }
        let mut wants = batch.wants;
        sort_by_bases(run, &mut wants);
        let mut range: Option<(PackName, Range<u64>, Vec<Wanted>)> = None;
        for want in wants {
            let Some(location) = want.location else {
                submit(run, jobs, Job::Lost(Wanted(want)))?;
                continue;
            };
            let place = place_of(&location);
            match &mut range {
                Some((pack, covered, list)) if *pack == location.pack && joins(covered, &place, range_bytes as u64) => {
                    covered.end = covered.end.max(place.end);
                    list.push(Wanted(want));
                }
                _ => {
                    if let Some((pack, covered, list)) = range.replace((location.pack, place, vec![Wanted(want)])) {
                        submit(run, jobs, Job::Range(pack, covered, list))?;
                    }
                }
            }
        }
        match range {
            Some((pack, covered, list)) => submit(run, jobs, Job::Range(pack, covered, list)),
            None => Ok(()),
        }
    }
}

/// Sorts by place, and the packs by what they lean on; marks what others are encoded against.
fn sort_by_bases(run: &Run<'_>, wants: &mut [Want]) {
    let (mut leanings, mut bases) = (Leanings::default(), HashSet::new());
    for location in wants.iter().filter_map(|want| want.location) {
        let Some(base) = location.base else { continue };
        bases.insert(base);
        if let Some(lead) = run.origin.locate(&base) {
            leanings.add(location.pack, lead.pack);
        }
    }
    let packs: BTreeSet<PackName> = wants.iter().filter_map(|want| want.location).map(|place| place.pack).collect();
    let packs: Vec<PackName> = packs.into_iter().collect();
    let mut ranks = HashMap::new();
    for (rank, at) in leanings.order(&packs).into_iter().enumerate() {
        ranks.insert(packs[at], rank);
    }
    wants.sort_by_cached_key(|want| want.location.map(|location| (ranks.get(&location.pack), location.offset)));
    wants.iter_mut().for_each(|want| want.is_base = bases.contains(&want.id));
}

fn place_of(location: &Location) -> Range<u64> {
    let start = u64::from(location.offset);
    start..start + BLOB_HEADER_BYTES + u64::from(location.sealed_len)
}

fn joins(covered: &Range<u64>, place: &Range<u64>, range_bytes: u64) -> bool {
    place.start <= covered.end + GAP_BYTES_MAX && place.end - covered.start <= range_bytes
}

fn submit(run: &Run<'_>, jobs: &Jobs, job: Job) -> Result<()> {
    run.check_stopped()?;
    // Why no error of its own: all workers are gone only when one of them panicked, and that is raised where they are joined.
    let jobs = if job.is_large() { &jobs.large } else { &jobs.any };
    jobs.send(job).map_err(|_| Error::Interrupted)
}

/// Works until there are no more jobs in either queue.
pub(super) fn work(run: &Run<'_>, queue: &Receiver<Job>, other: &Receiver<Job>) {
    let mut worker = Worker { run, blobs: run.origin.reader(), plain: Vec::new(), scratch: Scratch::default() };
    let next = || {
        select! {
            recv(queue) -> job => job.ok().or_else(|| other.recv().ok()),
            recv(other) -> job => job.ok().or_else(|| queue.recv().ok()),
        }
    };
    while let Some(job) = next() {
        // Why go on: the planner must not wait for room in the queue. What is dropped here cleans up after itself.
        if run.is_stopped() {
            continue;
        }
        match job {
            Job::Inline(files) => worker.inline(&files),
            Job::Range(pack, range, list) => worker.range(&pack, range, &list),
            Job::Lost(Wanted(want)) => worker.lost(&want),
        }
        run.progress();
    }
}

struct Worker<'r> {
    run: &'r Run<'r>,
    blobs: Box<dyn Blobs + 'r>,
    plain: Vec<u8>,
    scratch: Scratch,
}

impl Worker<'_> {
    fn inline(&mut self, files: &[(Arc<TargetFile>, Vec<u8>)]) {
        for (file, content) in files {
            self.write(file, content, 0);
            self.run.release(file);
        }
    }

    fn range(&mut self, pack: &PackName, range: Range<u64>, list: &[Wanted]) {
        let start = range.start;
        // What could not be fetched together is asked for one by one below.
        let mut bytes = self.run.origin.fetch(pack, range).unwrap_or_default();
        add(&self.run.tally.bytes_fetched, bytes.len() as u64);
        for Wanted(want) in list {
            if self.run.is_stopped() {
                return;
            }
            let location = want.location.as_ref().expect("only what has a place is put in a range");
            let place = place_of(location);
            let blob = usize::try_from(place.start - start)
                .ok()
                .zip(usize::try_from(place.end - start).ok())
                .and_then(|(from, to)| bytes.get_mut(from..to));
            let mut plain = mem::take(&mut self.plain);
            let decoded = match blob {
                Some(blob) => self.blobs.decode(&want.id, location, blob, &mut plain),
                None => Err(StoreError::Missing(pack.object()).into()),
            };
            let result = decoded.or_else(|_| self.blobs.read(&want.id, &mut plain));
            if want.is_base && result.is_ok() {
                self.blobs.keep(&want.id, &plain);
            }
            self.deliver(want, result.map(|()| plain.as_slice()));
            self.plain = plain;
        }
    }

    fn lost(&mut self, want: &Want) {
        let mut plain = mem::take(&mut self.plain);
        let result = self.blobs.read(&want.id, &mut plain);
        self.deliver(want, result.map(|()| plain.as_slice()));
        self.plain = plain;
    }

    fn deliver(&mut self, want: &Want, result: Result<&[u8]>) {
        let result = result.and_then(|plain| {
            if plain.len() as u64 == u64::from(want.length) {
                return Ok(plain);
            }
            let why = format!("it has {} bytes, the file's list says {}", plain.len(), want.length);
            Err(Damaged::new(format!("chunk {}", want.id), 0, why).into())
        });
        for place in want.uses() {
            match &result {
                Ok(plain) => self.write(&place.file, plain, place.offset),
                Err(error) => fail(self.run, &place.file, error),
            }
            self.run.release(&place.file);
        }
    }

    fn write(&mut self, file: &TargetFile, piece: &[u8], offset: u64) {
        match file.write(piece, offset, &mut self.scratch) {
            Ok(()) => add(&self.run.tally.bytes, piece.len() as u64),
            Err(error) => self.run.unwritable(file.key(), "cannot write", error),
        }
    }
}

/// Gives a file up because its content can't be had; reports it once.
pub(super) fn fail(run: &Run<'_>, file: &TargetFile, error: &Error) {
    if !file.fail() {
        return;
    }
    let code = match error {
        Error::Damaged(_) => "damaged",
        Error::Store(StoreError::Missing(_)) | Error::NotFound(_) => "missing",
        Error::Store(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => "missing",
        _ => "unreadable",
    };
    run.problem(file.key(), code, format!("not restored: {error}"));
}
