//! The workers: read files, cut them into chunks, seal the chunks.
//!
//! A worker takes either a file or a chunk of somebody's large file; chunks go first. A large file's reader hands its
//! chunks to the queue as far as the byte budget reaches and seals the others itself, so that nobody ever waits for
//! room, and one large file keeps all workers busy. Trouble with one file is a problem in the report, not an end.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::backup::Run;
use crate::backup::base::BaseFinder;
use crate::backup::beside::Beside;
use crate::backup::checks::Checker;
use crate::backup::cuts::{CutPlan, Parts};
use crate::backup::runs::{Mark, OldFile, OldVersion, TENSOR_FILE_BYTES_MIN, TensorBases, reading_marks};
use crate::backup::seal::{Sealer, Task};
use crate::backup::stream::{Bases, ChunkStream, Sealed, Stored, Tensors};
use crate::backup::sums::{self, Sum};
use crate::buffer::Buffer;
use crate::chunker::SizeClass;
use crate::entry::{Content, Entry, Kind, LinkGroup, TableRef, TreeKey};
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::tensor_table;
use crate::ids::ChunkId;
use crate::monitor::Problem;
use crate::readers::{self, Layout, ReadAt, tfrecord};
use crate::stages::metadata;
use crate::stages::read::{OpenFile, data_ranges, read_at};
use crate::stages::walk::{Found, Stat};
use crate::statistics::builder::TableBuilder;
use crate::statistics::compare::{Finding, compare};
use crate::units::{CHUNK_BYTES_MAX, KIB, MIB};

/// Files up to this length lie in their entry.
pub(crate) const INLINE_BYTES_MAX: u64 = 2 * KIB as u64;
/// Files from this length on are sealed by all workers together.
const SPREAD_BYTES_MIN: u64 = 4 * MIB as u64;
/// How long a file that waits for the one before it in its run waits at once for something else to do.
const TURN_WAIT: Duration = Duration::from_micros(500);
/// A file that changes while it is read is read this often.
const ATTEMPTS: usize = 3;
/// How a zip begins that has a member.
const ZIP_HEAD: &[u8; 4] = b"PK\x03\x04";
/// So much of a short file tells whether it has checksums: the head of a TFRecord.
const HEAD_BYTES: usize = 12;

/// A regular file to read.
#[derive(Clone)]
pub(crate) struct FileJob {
    pub(crate) number: u64,
    /// When it was sent: it waits only for what was sent before. 0 where that does not count.
    pub(crate) turn: u64,
    /// What it is to the files beside it.
    pub(crate) beside: Beside,
    pub(crate) found: Found,
    pub(crate) link: Option<LinkGroup>,
    pub(crate) old: Option<OldVersion>,
}

impl FileJob {
    /// True if later files of its run wait for it.
    pub(crate) fn has_turn(&self) -> bool {
        self.found.stat.size >= SPREAD_BYTES_MIN
    }

    /// True if the entry's content is the old one.
    pub(crate) fn has_content_of(&self, entry: Option<&Entry>) -> bool {
        matches!((entry.map(|entry| &entry.kind), &self.old), (Some(Kind::File(now)), Some(old)) if *now == old.content)
    }
}

/// What became of a file: its entry, or nothing where it could not be read.
pub(crate) struct FileOutcome {
    pub(crate) number: u64,
    pub(crate) entry: Result<Option<Box<Entry>>>,
    /// True if the content is what it was.
    pub(crate) same: bool,
}

/// Something to be sealed by whoever is free.
pub(crate) enum SealJob {
    /// A chunk of a large file.
    Chunk { plain: Vec<u8>, task: Box<Task>, number: usize, done: Sender<Sealed> },
    /// A tree node. Nobody waits for its id, which is known; `stored` closes once all nodes that hold it are stored.
    Node { plain: Vec<u8>, id: ChunkId, level: u8, first: TreeKey, stored: Sender<()> },
}

impl SealJob {
    fn into_plain(self) -> Vec<u8> {
        match self {
            Self::Chunk { plain, .. } | Self::Node { plain, .. } => plain,
        }
    }
}

/// The queues and the budget that all workers share.
pub(crate) struct Queues {
    pub(crate) files: (Sender<FileJob>, Receiver<FileJob>),
    pub(crate) seals: (Sender<SealJob>, Receiver<SealJob>),
    pub(crate) outcomes: (Sender<FileOutcome>, Receiver<FileOutcome>),
    budget_bytes: AtomicUsize,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Queues {
    pub(crate) fn new(threads: usize, budget_bytes: usize) -> Self {
        Self {
            files: crossbeam_channel::bounded(256),
            seals: crossbeam_channel::bounded(threads * 2),
            outcomes: crossbeam_channel::unbounded(),
            budget_bytes: AtomicUsize::new(budget_bytes),
            buffers: Mutex::new(Vec::new()),
        }
    }

    /// Puts what `job` makes of a copy of `plain` into the queue, if queue and budget have room.
    pub(crate) fn hand_out(&self, plain: &[u8], job: impl FnOnce(Vec<u8>) -> SealJob) -> bool {
        if self.seals.0.is_full() {
            return false;
        }
        let Some(buffer) = self.lend(plain) else { return false };
        match self.seals.0.try_send(job(buffer)) {
            Ok(()) => true,
            Err(refused) => {
                self.give_back(refused.into_inner().into_plain());
                false
            }
        }
    }

    /// A buffer with the bytes of `plain`, if the budget has room for it.
    fn lend(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let take = |left: usize| left.checked_sub(plain.len());
        self.budget_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        let mut buffer = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(plain);
        Some(buffer)
    }

    fn give_back(&self, buffer: Vec<u8>) {
        self.budget_bytes.fetch_add(buffer.len(), Ordering::Relaxed);
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Trouble while a file is read: with the file, or with the run.
pub(crate) enum Trouble {
    File(io::Error),
    Run(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Run(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// One worker thread's state.
pub(crate) struct Worker<'a, 'r> {
    pub(crate) run: &'a Run<'a, 'r>,
    pub(crate) sealer: Sealer<'a, 'r>,
    pub(crate) window: Buffer,
}

impl<'a, 'r> Worker<'a, 'r> {
    pub(crate) fn new(run: &'a Run<'a, 'r>) -> Self {
        Self { run, sealer: run.sealer(), window: Buffer::default() }
    }

    /// Works until the queue of files ends.
    pub(crate) fn work(&mut self) {
        let queues = &self.run.queues;
        let (files, seals) = (queues.files.1.clone(), queues.seals.1.clone());
        loop {
            crossbeam_channel::select_biased! {
                recv(seals) -> job => if let Ok(job) = job { self.seal_job(job) },
                recv(files) -> job => match job {
                    Ok(job) => {
                        let entry = self.file(&job);
                        if job.has_turn() {
                            self.run.runs.end_turn(&job.found.key, job.beside.announced(), job.turn);
                        }
                        let same = entry.as_ref().is_ok_and(|entry| job.has_content_of(entry.as_deref()));
                        let outcome = FileOutcome { number: job.number, entry, same };
                        if queues.outcomes.0.send(outcome).is_err() { return }
                    }
                    Err(_) => return,
                },
                recv(self.run.ended) -> _ => return,
            }
        }
    }

    pub(crate) fn seal_job(&mut self, job: SealJob) {
        match job {
            SealJob::Chunk { plain, task, number, done } => {
                let sealed = self.sealer.seal_task(&plain, &task);
                // Why before the answer: whoever gets the last one wants what the tasks share for himself.
                drop(task);
                self.run.queues.give_back(plain);
                // Why: a reader that is gone has failed, and its failure ends the run.
                let _ = done.send((number, sealed));
            }
            SealJob::Node { plain, id, level, first, stored } => {
                // Why: the session keeps the failure, and refuses the commit.
                let _ = self.sealer.seal_node(&id, &plain, level, &first);
                self.run.queues.give_back(plain);
                drop(stored);
            }
        }
    }

    /// Reads one file into an entry; `None` after a problem was reported.
    pub(crate) fn file(&mut self, job: &FileJob) -> Result<Option<Box<Entry>>> {
        let path = job.found.key.to_path();
        self.run.check()?;
        self.run.monitor.current(&path);
        match self.read_settled(job) {
            Ok((entry, unsettled)) => {
                if let Some(how) = unsettled {
                    self.run.problem(Problem::path(&path, "changed", how));
                }
                Ok(Some(Box::new(entry)))
            }
            Err(Trouble::Run(error)) => Err(error),
            Err(Trouble::File(error)) => {
                self.run.problem(metadata::read_problem(&job.found, &error));
                Ok(None)
            }
        }
    }

    /// Reads a file until nothing changed meanwhile, a few times at most; with what is wrong if it was not settled the last time.
    fn read_settled(&mut self, job: &FileJob) -> Result<(Entry, Option<String>), Trouble> {
        let mut attempt = 1;
        loop {
            let file = metadata::open_file(&job.found)?;
            let before = metadata::stat_file(&file)?;
            let mut problems = Vec::new();
            let found = Found { stat: before, ..job.found.clone() };
            // Why: born after the walk came by, it only got the inode number of a file that is gone.
            let link = job.link.filter(|_| before.btime == job.found.stat.btime);
            let mut entry = metadata::complete_file(&found, &file, &self.run.names, link, &mut problems);
            let Stored { content, length, wrong, is_right, breaks, table, .. } =
                self.whole_content(job, &file, &before)?;
            entry.kind = Kind::File(content);
            entry.table = table;
            let after = metadata::stat_file(&file)?;
            let settled = length == before.size && same_state(&before, &after);
            if settled || attempt == ATTEMPTS {
                // Why only then: what changes while it is read has wrong checksums too.
                if settled {
                    let path = found.key.to_path();
                    wrong.iter().for_each(|part| self.run.problem(wrong_checksum(&path, part)));
                    if is_right == Some(false) {
                        self.run.problem(wrong_sum(&path));
                    }
                    breaks.iter().for_each(|found| self.run.problem(suspicious(&path, found)));
                }
                if !problems.is_empty() {
                    // Why: what could not be recorded now must not count as unchanged next time.
                    entry.inode = 0;
                }
                problems.into_iter().for_each(|problem| self.run.problem(problem));
                entry.size = length;
                let how = || match same_state(&before, &after) {
                    true => format!("ends after {length} of {} bytes; what could be read is kept", before.size),
                    false => "changed while it was read; what was read last is kept".to_owned(),
                };
                return Ok((entry, (!settled).then(how)));
            }
            attempt += 1;
        }
    }

    /// Stores a file's bytes, and holds them against the list beside it, if there is one.
    fn whole_content(&mut self, job: &FileJob, file: &File, stat: &Stat) -> Result<Stored, Trouble> {
        let expected = self.run.sums.expected(&job.found.key.to_path());
        let mut stored = self.content(job, file, stat, expected.map(Sum::new))?;
        if let (Some(expected), None) = (expected, stored.is_right) {
            stored.is_right = Some(Sum::of_file(file, expected)?);
        }
        Ok(stored)
    }

    /// Stores a file's bytes.
    fn content(&mut self, job: &FileJob, file: &File, stat: &Stat, mut sum: Option<Sum>) -> Result<Stored, Trouble> {
        if stat.size <= INLINE_BYTES_MAX {
            let mut bytes = vec![0; usize::try_from(stat.size).expect("it is small")];
            let length = read_at(file, 0, &mut bytes)?;
            bytes.truncate(length);
            self.run.read_bytes(length);
            let layout = short_checked(&bytes, &bytes.as_slice(), job.found.key.name());
            let mut checker = Checker::by_name(&job.found.key).or_else(|| layout.as_ref().and_then(Checker::new));
            checker.iter_mut().for_each(|checker| checker.update(0, &bytes));
            sum.iter_mut().for_each(|sum| sum.update(0, &bytes));
            let is_right = sum.and_then(|sum| sum.verdict(length as u64));
            let wrong = checker.as_ref().map(Checker::wrong).unwrap_or_default();
            let (content, length) = (Content::Inline(bytes), u64::try_from(length).unwrap_or(0));
            return Ok(Stored { wrong, is_right, ..Stored::new(content, length) });
        }
        let key = &job.found.key;
        // Why not of short ones: their layout tells of checksums only.
        let is_long = stat.size >= TENSOR_FILE_BYTES_MIN;
        let layout = if is_long { layout(self.run, key, file, stat) } else { short_layout(key, file, stat) };
        let Some(layout) = layout.as_ref().filter(|layout| is_long && !layout.tensors.is_empty()) else {
            let extents = |old: &OldVersion| self.run.repository.extents(&old.content).map_while(Result::ok);
            let bases = Bases::Places(BaseFinder::new(job.old.iter().flat_map(extents)));
            let checker = Checker::by_name(key).or_else(|| layout.as_ref().and_then(Checker::new));
            let stream = self.chunk_stream(stat, bases).with_checks(checker).with_sum(sum);
            return cut_file(stream, file, stat);
        };
        let marks = (stat.size >= SPREAD_BYTES_MIN).then(|| reading_marks(key, layout));
        if let Some(marks) = &marks {
            self.begin_of_run(marks, job)?;
        }
        let stored = self.tensors(job, file, stat, layout, sum);
        marks.iter().for_each(|marks| self.run.runs.end(marks));
        stored
    }

    /// Waits until no file is being read that would hold this one's bases; seals chunks meanwhile.
    fn begin_of_run(&mut self, marks: &[Mark; 2], job: &FileJob) -> Result<()> {
        while !self.run.runs.begin(marks, job.beside.awaited(), job.turn) {
            self.run.check()?;
            if let Ok(job) = self.run.queues.seals.1.recv_timeout(TURN_WAIT) {
                self.seal_job(job);
            }
        }
        Ok(())
    }

    /// Stores a file of tensors, against older ones, and remembers it for later ones.
    fn tensors(
        &mut self,
        job: &FileJob,
        file: &File,
        stat: &Stat,
        layout: &Layout,
        sum: Option<Sum>,
    ) -> Result<Stored, Trouble> {
        let key = &job.found.key;
        let parts = if let Beside::Masters(casts) = &job.beside { casts.parts(file, layout) } else { Parts::new() };
        let plan = &CutPlan::new(layout, stat.size, parts);
        let (older, last) = self.run.runs.older(self.run.repository, key, (layout, plan), job.old.as_ref());
        let path = Arc::<Path>::from(key.to_path());
        let table = Arc::new(TableBuilder::new(layout));
        let (chunks, shared) = (Some(Vec::new()), Arc::clone(&table));
        let is_kept = self.run.keeps(stat.size);
        let tensors = Tensors { layout, plan, path: Arc::clone(&path), table: shared, chunks, is_kept };
        let stream = self.chunk_stream(stat, Bases::Tensors(TensorBases::new(older)));
        let stream = stream.with_tensors(tensors).with_checks(Checker::new(layout)).with_sum(sum);
        let mut stored = cut_file(stream, file, stat)?;
        let table = Arc::into_inner(table).map(TableBuilder::finish);
        if let Some(table) = &table {
            let bytes = tensor_table::encode(table);
            if let (Ok(length), true) = (u32::try_from(bytes.len()), bytes.len() <= CHUNK_BYTES_MAX) {
                stored.table = Some(TableRef { id: self.sealer.seal(BlobKind::Tree, &bytes, None)?, length });
            }
            let breaks = last.iter().flat_map(|last| last.table()).flat_map(|last| compare(last, table));
            stored.breaks = breaks.filter(|found| found.what.is_warning()).collect();
        }
        if let Some(chunks) = stored.chunks.take() {
            let file = OldFile::new(layout.tensors.iter(), chunks, Some(path)).with_table(table);
            self.run.runs.remember(key, file);
        }
        Ok(stored)
    }

    fn chunk_stream<'w, 'p>(&'w mut self, stat: &Stat, bases: Bases) -> ChunkStream<'w, 'a, 'r, 'p> {
        ChunkStream::new(self, SizeClass::for_length(Some(stat.size)), bases, stat.size >= SPREAD_BYTES_MIN)
    }

    /// Stores a stream that has no file behind it: standard input or a command's output.
    pub(crate) fn stream(&mut self, reader: &mut dyn io::Read) -> Result<(Content, u64)> {
        let bases = Bases::Places(BaseFinder::default());
        let mut stream = ChunkStream::new(self, SizeClass::for_length(None), bases, true);
        stream.read(reader)?;
        let stored = stream.finish()?;
        Ok((stored.content, stored.length))
    }
}

/// Where the numbers of a file lie, and its checksums, if it has any.
pub(crate) fn layout(run: &Run<'_, '_>, key: &TreeKey, file: &File, stat: &Stat) -> Option<Layout> {
    if stat.size < TENSOR_FILE_BYTES_MIN {
        return None;
    }
    // Why one at a time: a hostile header may make its reader take much memory, within bounds.
    let _one = run.reading_header.lock().unwrap_or_else(PoisonError::into_inner);
    readers::read(&OpenFile { file, length: stat.size }, key.name())
}

/// Sends a whole file through a stream, its holes as holes.
fn cut_file(mut stream: ChunkStream<'_, '_, '_, '_>, file: &File, stat: &Stat) -> Result<Stored, Trouble> {
    if !stat.may_have_holes() {
        stream.whole(file, stat.size)?;
        return Ok(stream.finish()?);
    }
    let mut end = 0;
    for range in data_ranges(file, stat.size) {
        stream.hole(range.start - end)?;
        end = stream.range(file, range.start, range.end)?;
        if end < range.end {
            // Why no hole up to the size: nobody read that there are zeros. The length tells that something is missing.
            return Ok(stream.finish()?);
        }
    }
    if end < stat.size && metadata::stat_file(file)?.size >= stat.size {
        stream.hole(stat.size - end)?;
    }
    Ok(stream.finish()?)
}

/// The layout of a short file that begins as a zip or with a record, for its checksums: the states of schedulers and random
/// numbers are such files. Its numbers are too few to be cut or encoded as tensors.
fn short_checked(head: &[u8], file: &dyn ReadAt, name: &[u8]) -> Option<Layout> {
    (head.starts_with(ZIP_HEAD) || tfrecord::begins(head)).then(|| readers::read(file, name)).flatten()
}

/// As [`layout`], of a file that is too short for that.
fn short_layout(key: &TreeKey, file: &File, stat: &Stat) -> Option<Layout> {
    let mut head = [0; HEAD_BYTES];
    let length = read_at(file, 0, &mut head).unwrap_or(0);
    short_checked(&head[..length], &OpenFile { file, length: stat.size }, key.name())
}

/// The problem that a file is which is not what the list beside it says.
fn wrong_sum(path: &Path) -> Problem {
    let what = format!(
        "its SHA-256 is not the one that {} beside it has: damaged, or written over, before it was read; kept as it is",
        sums::LIST
    );
    Problem::path(path, "corrupt", what)
}

/// The problem that a tensor is whose numbers broke away from those of the checkpoint before.
fn suspicious(path: &Path, found: &Finding) -> Problem {
    let name: String = found.tensor.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    let what = format!("tensor {name:?} against the version before: {}; stored as it is", found.what);
    Problem::path(path, "suspicious", what)
}

/// The problem that a part with a wrong checksum is. Its name is the file's word.
fn wrong_checksum(path: &Path, part: &str) -> Problem {
    let part: String = part.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    let what =
        format!("damaged before it was read: the checksum that the file holds for {part:?} is wrong; kept as it is");
    Problem::path(path, "corrupt", what)
}

/// True if nothing about the file's content or metadata changed between two looks.
fn same_state(before: &Stat, after: &Stat) -> bool {
    (before.size, before.mtime, before.ctime) == (after.size, after.mtime, after.ctime)
}
