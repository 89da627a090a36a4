//! The workers: read files, cut them into chunks, seal the chunks.
//!
//! A worker takes either a file or a chunk of somebody's large file; chunks go first. A large file's reader hands its
//! chunks to the queue as far as the byte budget reaches and seals the others itself, so that nobody ever waits for
//! room, and one large file keeps all workers busy. Trouble with one file is a problem in the report, not an end.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use crate::backup::Run;
use crate::backup::base::BaseFinder;
use crate::backup::content::ContentBuilder;
use crate::backup::seal::Sealer;
use crate::chunker::SizeClass;
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup, TreeKey};
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::ids::ChunkId;
use crate::monitor::Problem;
use crate::stages::metadata;
use crate::stages::read::data_ranges;
use crate::stages::walk::{Found, Stat};
use crate::units::{KIB, MIB};

/// Files up to this length lie in their entry.
pub(crate) const INLINE_BYTES_MAX: u64 = 2 * KIB as u64;
/// Files from this length on are sealed by all workers together.
const SPREAD_BYTES_MIN: u64 = 4 * MIB as u64;
/// A large file is read in windows of this length.
const WINDOW_BYTES: usize = 16 * MIB;
/// A file that changes while it is read is read this often.
const ATTEMPTS: usize = 3;

/// A regular file to read.
#[derive(Clone)]
pub(crate) struct FileJob {
    pub(crate) number: u64,
    pub(crate) found: Found,
    pub(crate) link: Option<LinkGroup>,
    pub(crate) old: Option<Content>,
}

impl FileJob {
    /// True if the entry's content is the old one.
    pub(crate) fn has_content_of(&self, entry: Option<&Entry>) -> bool {
        matches!((entry.map(|entry| &entry.kind), &self.old), (Some(Kind::File(now)), Some(old)) if now == old)
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
    Chunk { plain: Vec<u8>, id: Option<ChunkId>, base: Option<ChunkId>, number: usize, done: Sender<Sealed> },
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

/// A chunk's number in its file, and its id once it is stored.
type Sealed = (usize, Result<ChunkId>);

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
enum Trouble {
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
    run: &'a Run<'a, 'r>,
    sealer: Sealer<'a, 'r>,
    window: Vec<u8>,
}

impl<'a, 'r> Worker<'a, 'r> {
    pub(crate) fn new(run: &'a Run<'a, 'r>) -> Self {
        Self { run, sealer: run.sealer(), window: Vec::new() }
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

    fn seal_job(&mut self, job: SealJob) {
        match job {
            SealJob::Chunk { plain, id, base, number, done } => {
                let sealed = match id {
                    Some(id) => self.sealer.seal_as(BlobKind::Data, &id, &plain, base).map(|()| id),
                    None => self.sealer.seal(BlobKind::Data, &plain, base),
                };
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
            Ok((entry, changed)) => {
                if changed {
                    self.run.problem(Problem::path(
                        &path,
                        "changed",
                        "changed while it was read; what was read last is kept",
                    ));
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

    /// Reads a file until nothing changed meanwhile, a few times at most; true if it still changed the last time.
    fn read_settled(&mut self, job: &FileJob) -> Result<(Entry, bool), Trouble> {
        let mut attempt = 1;
        loop {
            let file = metadata::open_file(&job.found)?;
            let before = metadata::stat_file(&file)?;
            let mut problems = Vec::new();
            let found = Found { stat: before, ..job.found.clone() };
            // Why: born after the walk came by, it only got the inode number of a file that is gone.
            let link = job.link.filter(|_| before.btime == job.found.stat.btime);
            let mut entry = metadata::complete_file(&found, &file, &self.run.names, link, &mut problems);
            let (content, length) = self.content(&file, &before, job.old.as_ref())?;
            entry.kind = Kind::File(content);
            let after = metadata::stat_file(&file)?;
            let settled = length == before.size && same_state(&before, &after);
            if settled || attempt == ATTEMPTS {
                if !problems.is_empty() {
                    // Why: what could not be recorded now must not count as unchanged next time.
                    entry.inode = 0;
                }
                problems.into_iter().for_each(|problem| self.run.problem(problem));
                entry.size = length;
                return Ok((entry, !settled));
            }
            attempt += 1;
        }
    }

    /// Stores a file's bytes; gives the content and how many plain bytes it has.
    fn content(&mut self, file: &File, stat: &Stat, old: Option<&Content>) -> Result<(Content, u64), Trouble> {
        if stat.size <= INLINE_BYTES_MAX {
            let mut bytes = vec![0; usize::try_from(stat.size).expect("it is small")];
            let length = read_full(file, &mut bytes, 0)?;
            bytes.truncate(length);
            self.run.read_bytes(length);
            return Ok((Content::Inline(bytes), u64::try_from(length).unwrap_or(0)));
        }
        let old_extents =
            old.into_iter().flat_map(|content| self.run.repository.extents(content).map_while(Result::ok));
        let finder = BaseFinder::new(old_extents);
        let class = SizeClass::for_length(Some(stat.size));
        let mut stream = ChunkStream::new(self, class, finder, stat.size >= SPREAD_BYTES_MIN);
        let mut end = 0;
        let whole = (!stat.may_have_holes()).then_some(0..stat.size);
        let sparse = stat.may_have_holes().then(|| data_ranges(file, stat.size));
        for range in whole.into_iter().chain(sparse.into_iter().flatten()) {
            stream.hole(range.start - end)?;
            end = stream.range(file, range.start, range.end)?.max(range.start);
            if end < range.end {
                break;
            }
        }
        if end < stat.size && metadata::stat_file(file)?.size >= stat.size {
            stream.hole(stat.size - end)?;
        }
        Ok(stream.finish()?)
    }

    /// Stores a stream that has no file behind it: standard input or a command's output.
    pub(crate) fn stream(&mut self, reader: &mut dyn io::Read) -> Result<(Content, u64)> {
        let mut stream = ChunkStream::new(self, SizeClass::for_length(None), BaseFinder::default(), true);
        stream.read(reader)?;
        stream.finish()
    }
}

/// True if nothing about the file's content or metadata changed between two looks.
fn same_state(before: &Stat, after: &Stat) -> bool {
    (before.size, before.mtime, before.ctime) == (after.size, after.mtime, after.ctime)
}

/// Reads until `buffer` is full or the file ends; gives the number of bytes.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + u64::try_from(done).unwrap_or(0)) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Cuts one file's bytes into chunks, has them sealed, and collects the extents in order.
struct ChunkStream<'w, 'a, 'r> {
    worker: &'w mut Worker<'a, 'r>,
    class: SizeClass,
    finder: BaseFinder,
    spread: bool,
    builder: ContentBuilder,
    offset: u64,
    /// Extents that wait for an id, in order; the first has number `first`.
    waiting: VecDeque<(u32, Option<ChunkId>)>,
    first: usize,
    done: (Sender<Sealed>, Receiver<Sealed>),
}

impl<'w, 'a, 'r> ChunkStream<'w, 'a, 'r> {
    fn new(worker: &'w mut Worker<'a, 'r>, class: SizeClass, finder: BaseFinder, spread: bool) -> Self {
        Self {
            worker,
            class,
            finder,
            spread,
            builder: ContentBuilder::default(),
            offset: 0,
            waiting: VecDeque::new(),
            first: 0,
            done: crossbeam_channel::unbounded(),
        }
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        if length > 0 {
            self.settle(true)?;
            self.offset += length;
            self.push(Extent::Hole { length })?;
        }
        Ok(())
    }

    /// Cuts and seals the file's bytes from `start` to `end`; gives how far the file reached.
    fn range(&mut self, file: &File, start: u64, end: u64) -> Result<u64, Trouble> {
        let mut position = start;
        let mut fill = |buffer: &mut [u8]| -> io::Result<usize> {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            let length = read_full(file, &mut buffer[..wanted], position)?;
            position += u64::try_from(length).unwrap_or(0);
            Ok(length)
        };
        let window = usize::try_from(end - start).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        self.pump(window, &mut fill)?;
        Ok(position)
    }

    fn read(&mut self, reader: &mut dyn io::Read) -> Result<()> {
        let mut fill = |buffer: &mut [u8]| -> io::Result<usize> {
            let mut done = 0;
            while done < buffer.len() {
                match reader.read(&mut buffer[done..]) {
                    Ok(0) => break,
                    Ok(length) => done += length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        };
        self.pump(WINDOW_BYTES, &mut fill).map_err(|trouble| match trouble {
            Trouble::Run(error) => error,
            Trouble::File(error) => Error::file("(stream)", "cannot be read", error),
        })
    }

    /// Fills the window again and again, and cuts off chunks while it surely holds a whole one.
    fn pump(&mut self, window: usize, fill: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> Result<(), Trouble> {
        let mut buffer = std::mem::take(&mut self.worker.window);
        let result = self.pump_buffer(&mut buffer, window, fill);
        self.worker.window = buffer;
        result
    }

    fn pump_buffer(
        &mut self,
        buffer: &mut Vec<u8>,
        window: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Result<(), Trouble> {
        if buffer.len() < window {
            buffer.resize(window, 0);
        }
        let (mut start, mut end) = (0, 0);
        let mut ended = false;
        loop {
            if !ended && end - start < self.class.max {
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                let length = fill(&mut buffer[end..window])?;
                ended = length < window - end || window < WINDOW_BYTES;
                self.worker.run.read_bytes(length);
                end += length;
                self.worker.run.check()?;
            }
            if start == end {
                return Ok(());
            }
            let length = self.worker.run.chunker.cut(&self.class, &buffer[start..end]);
            self.chunk(&buffer[start..start + length])?;
            start += length;
        }
    }

    /// Has one chunk sealed, here or by whoever is free.
    fn chunk(&mut self, plain: &[u8]) -> Result<()> {
        let (mut id, mut base) = (None, None);
        if !self.finder.is_empty() {
            let chunk_id = self.worker.run.repository.id_key().chunk_id(plain);
            base = self.finder.next(self.offset, plain.len(), &chunk_id);
            id = Some(chunk_id);
        }
        self.offset += u64::try_from(plain.len()).unwrap_or(0);
        let length = u32::try_from(plain.len()).expect("chunks are at most 8 MiB");
        if self.spread && self.hand_out(plain, id, base) {
            self.waiting.push_back((length, None));
            return self.settle(false);
        }
        let id = match id {
            Some(id) => self.worker.sealer.seal_as(BlobKind::Data, &id, plain, base).map(|()| id)?,
            None => self.worker.sealer.seal(BlobKind::Data, plain, base)?,
        };
        self.waiting.push_back((length, Some(id)));
        self.settle(false)
    }

    /// Puts a chunk into the queue if queue and budget have room.
    fn hand_out(&mut self, plain: &[u8], id: Option<ChunkId>, base: Option<ChunkId>) -> bool {
        let number = self.first + self.waiting.len();
        let job = |plain| SealJob::Chunk { plain, id, base, number, done: self.done.0.clone() };
        self.worker.run.queues.hand_out(plain, job)
    }

    /// Takes in the ids that have come; with `all`, waits until none is missing, sealing chunks meanwhile.
    fn settle(&mut self, all: bool) -> Result<()> {
        loop {
            self.drain_front()?;
            match self.done.1.try_recv() {
                Ok(done) => self.note(done)?,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) if !all || self.waiting.is_empty() => return Ok(()),
                Err(TryRecvError::Empty) => match self.worker.run.queues.seals.1.try_recv() {
                    Ok(job) => self.worker.seal_job(job),
                    Err(_) => {
                        let done = self.done.1.recv().expect("this stream holds a sender");
                        self.note(done)?;
                    }
                },
            }
        }
    }

    fn note(&mut self, (number, id): Sealed) -> Result<()> {
        self.waiting[number - self.first].1 = Some(id?);
        Ok(())
    }

    fn drain_front(&mut self) -> Result<()> {
        while let Some(&(length, Some(id))) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
            self.push(Extent::Chunk { id, length })?;
        }
        Ok(())
    }

    fn push(&mut self, extent: Extent) -> Result<()> {
        let sealer = &mut self.worker.sealer;
        self.builder.push(extent, &mut |list| sealer.seal(BlobKind::Tree, list, None))
    }

    fn finish(mut self) -> Result<(Content, u64)> {
        self.settle(true)?;
        let length = self.builder.length();
        let sealer = &mut self.worker.sealer;
        let content = self.builder.finish(&mut |list| sealer.seal(BlobKind::Tree, list, None))?;
        Ok((content, length))
    }
}
