//! One file's bytes on their way into chunks: cut, handed to whoever is free, collected in order.
//!
//! Cuts follow the tensors where the file has a plan ([`CutPlan`]), else the content. FP32 tensors of which others may be
//! casts are stored before the rest; extents are put in the file's order all the same.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use crate::backup::base::BaseFinder;
use crate::backup::checks::Checker;
use crate::backup::content::ContentBuilder;
use crate::backup::cuts::{CutPlan, Piece};
use crate::backup::files::{SealJob, Trouble, Worker};
use crate::backup::runs::{BaseRef, OldChunk, Place, TensorBases};
use crate::backup::seal::Task;
use crate::backup::sums::Sum;
use crate::buffer::Buffer;
use crate::chunker::SizeClass;
use crate::codec::NumberKind;
use crate::entry::{Content, Extent, TableRef};
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::ids::ChunkId;
use crate::readers::Layout;
use crate::stages::read::read_at;
use crate::statistics::builder::TableBuilder;
use crate::statistics::compare::Finding;
use crate::units::MIB;

/// A large file is read in windows of this length.
const WINDOW_BYTES: usize = 16 * MIB;
/// Files of more chunks are no bases for others: the list would not fit into bounded memory.
const CHUNKS_KEPT_MAX: usize = 1 << 18;

/// A chunk's number in its file, and its id once it is stored.
pub(crate) type Sealed = (usize, Result<ChunkId>);

/// Where a file's bases come from.
pub(crate) enum Bases {
    /// The old version's chunks, by their place.
    Places(BaseFinder),
    /// Older files with the same tensors.
    Tensors(TensorBases),
}

/// What is known of a file of tensors.
pub(crate) struct Tensors<'p> {
    pub(crate) layout: &'p Layout,
    pub(crate) plan: &'p CutPlan,
    /// The file on the local disk.
    pub(crate) path: Arc<Path>,
    /// Collects what the numbers are like.
    pub(crate) table: Arc<TableBuilder>,
    /// The chunks so far, in order; none where they are too many.
    pub(crate) chunks: Option<Vec<OldChunk>>,
    /// True if what may be a base for later files of this backup is kept.
    pub(crate) is_kept: bool,
}

/// What became of a file's bytes.
pub(crate) struct Stored {
    pub(crate) content: Content,
    /// Plain bytes.
    pub(crate) length: u64,
    /// Parts whose checksums are wrong.
    pub(crate) wrong: Vec<String>,
    /// Whether the whole is what a list beside the file says; none where there is no list, or its bytes came out of order.
    pub(crate) is_right: Option<bool>,
    /// The chunks of a file of tensors; none where they are too many.
    pub(crate) chunks: Option<Vec<OldChunk>>,
    /// Where its tensor table is stored.
    pub(crate) table: Option<TableRef>,
    /// Tensors whose numbers are not like those of the version before.
    pub(crate) breaks: Vec<Finding>,
}

impl Stored {
    pub(crate) fn new(content: Content, length: u64) -> Self {
        Self { content, length, wrong: Vec::new(), is_right: None, chunks: None, table: None, breaks: Vec::new() }
    }
}

/// A chunk that waits for its id.
struct Waiting {
    length: u32,
    id: Option<ChunkId>,
    base: Option<BaseRef>,
}

/// Cuts one file's bytes into chunks, has them sealed, and collects the extents in order.
pub(crate) struct ChunkStream<'w, 'a, 'r, 'p> {
    worker: &'w mut Worker<'a, 'r>,
    class: SizeClass,
    bases: Bases,
    tensors: Option<Tensors<'p>>,
    checker: Option<Checker<'p>>,
    sum: Option<Sum>,
    spread: bool,
    builder: ContentBuilder,
    /// Place of the next chunk in the file.
    offset: u64,
    /// Place of the first chunk that waits.
    settled: u64,
    /// Chunks of ranges that are stored before the rest.
    early: Option<Vec<OldChunk>>,
    /// Extents that wait for an id, in order; the first has number `first`.
    waiting: VecDeque<Waiting>,
    first: usize,
    done: (Sender<Sealed>, Receiver<Sealed>),
}

impl<'w, 'a, 'r, 'p> ChunkStream<'w, 'a, 'r, 'p> {
    pub(crate) fn new(worker: &'w mut Worker<'a, 'r>, class: SizeClass, bases: Bases, spread: bool) -> Self {
        Self {
            worker,
            class,
            bases,
            tensors: None,
            checker: None,
            sum: None,
            spread,
            builder: ContentBuilder::default(),
            offset: 0,
            settled: 0,
            early: None,
            waiting: VecDeque::new(),
            first: 0,
            done: crossbeam_channel::unbounded(),
        }
    }

    /// As [`Self::new`], for a file of tensors.
    pub(crate) fn with_tensors(self, tensors: Tensors<'p>) -> Self {
        Self { tensors: Some(tensors), ..self }
    }

    /// Compares the checksums that the file holds.
    pub(crate) fn with_checks(self, checker: Option<Checker<'p>>) -> Self {
        Self { checker, ..self }
    }

    /// Holds the whole against what a list beside the file says.
    pub(crate) fn with_sum(self, sum: Option<Sum>) -> Self {
        Self { sum, ..self }
    }

    pub(crate) fn hole(&mut self, length: u64) -> Result<()> {
        if length > 0 {
            self.settle(true)?;
            if let Some(tensors) = &self.tensors {
                tensors.table.add_hole(self.offset..self.offset + length);
            }
            if let Some(checker) = &mut self.checker {
                checker.hole(self.offset, length);
            }
            if let Some(sum) = &mut self.sum {
                sum.hole(self.offset, length);
            }
            self.offset += length;
            self.settled += length;
            self.push(Extent::Hole { length })?;
        }
        Ok(())
    }

    /// Cuts and seals the whole file, which has no holes: FP32 tensors first where others may be their casts. Gives how far
    /// the file reached.
    pub(crate) fn whole(&mut self, file: &File, size: u64) -> Result<u64, Trouble> {
        let masters = self.tensors.as_ref().map(|tensors| tensors.plan.masters().to_vec()).unwrap_or_default();
        let mut early = Vec::new();
        for range in masters {
            (self.offset, self.settled) = (range.start, range.start);
            self.early = Some(Vec::new());
            let reached = self.range(file, range.start, range.end)?;
            self.settle(true)?;
            early.push((range.start..reached, self.early.take().unwrap_or_default()));
        }
        (self.offset, self.settled) = (0, 0);
        for (range, chunks) in early {
            if self.range(file, self.offset, range.start)? < range.start {
                return Ok(self.offset);
            }
            self.settle(true)?;
            for chunk in chunks {
                self.take(chunk)?;
            }
            self.offset = range.end;
        }
        self.range(file, self.offset, size)
    }

    /// Cuts and seals the file's bytes from `start` to `end`; gives how far the file reached.
    pub(crate) fn range(&mut self, file: &File, start: u64, end: u64) -> Result<u64, Trouble> {
        let mut position = start;
        let mut fill = |buffer: &mut [u8]| -> io::Result<usize> {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            let length = read_at(file, position, &mut buffer[..wanted])?;
            position += u64::try_from(length).unwrap_or(0);
            Ok(length)
        };
        let window = usize::try_from(end - start).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        self.pump(window, &mut fill)?;
        Ok(position)
    }

    /// Cuts and seals all that a reader gives.
    pub(crate) fn read(&mut self, reader: &mut dyn io::Read) -> Result<()> {
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
        buffer: &mut Buffer,
        window: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Result<(), Trouble> {
        if buffer.len() < window {
            *buffer = Buffer::zeros(window);
        }
        let (mut start, mut end) = (0, 0);
        let mut ended = false;
        loop {
            let (wanted, up_to) = self.wanted(window);
            if !ended && end - start < wanted {
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                let length = fill(&mut buffer[end..up_to])?;
                ended = length < up_to - end || up_to == window && window < WINDOW_BYTES;
                self.worker.run.read_bytes(length);
                end += length;
                self.worker.run.check()?;
            }
            if start == end {
                return Ok(());
            }
            let length = self.chunk(&buffer[start..end])?;
            start += length;
        }
    }

    /// How many bytes the window has to hold for the next cut, and up to where it is filled. Why a piece of a tensor by itself:
    /// nothing is moved to the front then, and it is still in the processor's cache when it is hashed and encoded.
    fn wanted(&self, window: usize) -> (usize, usize) {
        let (Piece::Free(end) | Piece::Whole { end, .. }) = self.piece();
        let length = usize::try_from(end - self.offset).map_or(window, |length| length.min(window));
        match self.piece() {
            Piece::Free(_) if length > self.class.max => (self.class.max, window),
            _ => (length, length),
        }
    }

    /// What begins at the next chunk.
    fn piece(&self) -> Piece {
        self.tensors.as_ref().map_or(Piece::Free(u64::MAX), |tensors| tensors.plan.piece(self.offset))
    }

    /// Has the first chunk of `bytes` sealed, here or by whoever is free; gives its length.
    fn chunk(&mut self, bytes: &[u8]) -> Result<usize> {
        let piece = self.piece();
        let up_to = |end: u64| usize::try_from(end - self.offset).unwrap_or(usize::MAX).min(bytes.len());
        let plain = match piece {
            Piece::Free(end) => {
                let bytes = &bytes[..up_to(end)];
                &bytes[..self.worker.run.chunker.cut(&self.class, bytes)]
            }
            Piece::Whole { end, .. } => &bytes[..up_to(end)],
        };
        if let Some(checker) = &mut self.checker {
            checker.update(self.offset, plain);
        }
        if let Some(sum) = &mut self.sum {
            sum.update(self.offset, plain);
        }
        let task = self.task(piece, plain);
        self.offset += plain.len() as u64;
        let length = u32::try_from(plain.len()).expect("chunks are at most 8 MiB");
        let base = task.base.clone();
        let handed_out = self.spread && self.hand_out(plain, &task);
        let id = if handed_out { None } else { Some(self.worker.sealer.seal_task(plain, &task)?) };
        self.waiting.push_back(Waiting { length, id, base });
        self.settle(false)?;
        Ok(plain.len())
    }

    /// What is known of a chunk before it is sealed.
    fn task(&mut self, piece: Piece, plain: &[u8]) -> Task {
        let run = self.worker.run;
        match (&mut self.bases, &self.tensors) {
            (Bases::Places(finder), _) if finder.is_empty() => Task::default(),
            (Bases::Places(finder), _) => {
                let id = run.repository.id_key().chunk_id(plain);
                let base = finder.next(self.offset, plain.len(), &id).and_then(|base| run.session.keyframe(&base));
                Task { id: Some(id), base: base.map(|id| BaseRef { id, place: None }), ..Task::default() }
            }
            (Bases::Tensors(_), None) => Task::default(),
            (Bases::Tensors(bases), Some(tensors)) => {
                let id = run.repository.id_key().chunk_id(plain);
                let (tensor, hint, is_master) = match piece {
                    Piece::Free(_) => (None, None, false),
                    Piece::Whole { tensor, hint, is_master, .. } => {
                        (tensors.layout.tensors.get(tensor), hint, is_master || tensors.plan.has_casts())
                    }
                };
                let is = |kind| hint.is_some_and(|hint| hint.kind == kind && hint.head == 0);
                let table = Some((Arc::clone(&tensors.table), self.offset));
                let mut task = Task { id: Some(id), hint, table, is_kept: tensors.is_kept, ..Task::default() };
                if is(NumberKind::F32) && is_master {
                    let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
                    task.master = Some(Place { path: Arc::clone(&tensors.path), offset: self.offset, length });
                }
                if !run.session.contains(&id) {
                    task.base = is(NumberKind::Bf16).then(|| run.master_of(&id)).flatten();
                    if task.base.is_none() {
                        let found = bases.find(run.session, tensor, self.offset, plain.len());
                        (task.base, task.recent) = found.map_or((None, None), |(base, recent)| (Some(base), recent));
                        run.casts.place(task.base.as_mut(), task.master.is_some());
                    }
                }
                task
            }
        }
    }

    /// Puts a chunk into the queue if queue and budget have room.
    fn hand_out(&mut self, plain: &[u8], task: &Task) -> bool {
        let number = self.first + self.waiting.len();
        let job = |plain| SealJob::Chunk { plain, task: Box::new(task.clone()), number, done: self.done.0.clone() };
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
        self.waiting[number - self.first].id = Some(id?);
        Ok(())
    }

    fn drain_front(&mut self) -> Result<()> {
        while let Some(&Waiting { id: Some(id), length, .. }) = self.waiting.front() {
            let base = self.waiting.pop_front().and_then(|waiting| waiting.base);
            self.first += 1;
            let chunk = OldChunk { offset: self.settled, length, id, base };
            match &mut self.early {
                Some(early) => {
                    self.settled += u64::from(length);
                    early.push(chunk);
                }
                None => self.take(chunk)?,
            }
        }
        Ok(())
    }

    /// The next chunk of the file.
    fn take(&mut self, chunk: OldChunk) -> Result<()> {
        let OldChunk { id, length, .. } = chunk;
        self.settled = chunk.offset + u64::from(length);
        if let Some(tensors) = &mut self.tensors {
            tensors.chunks = tensors.chunks.take().filter(|chunks| chunks.len() < CHUNKS_KEPT_MAX);
            tensors.chunks.iter_mut().for_each(|chunks| chunks.push(chunk.clone()));
        }
        self.push(Extent::Chunk { id, length })
    }

    fn push(&mut self, extent: Extent) -> Result<()> {
        let sealer = &mut self.worker.sealer;
        self.builder.push(extent, &mut |list| sealer.seal(BlobKind::Tree, list, None))
    }

    /// What is stored.
    pub(crate) fn finish(mut self) -> Result<Stored> {
        self.settle(true)?;
        let length = self.builder.length();
        let sealer = &mut self.worker.sealer;
        let content = self.builder.finish(&mut |list| sealer.seal(BlobKind::Tree, list, None))?;
        let wrong = self.checker.as_ref().map(Checker::wrong).unwrap_or_default();
        let is_right = self.sum.and_then(|sum| sum.verdict(length));
        let chunks = self.tensors.and_then(|tensors| tensors.chunks);
        Ok(Stored { wrong, is_right, chunks, ..Stored::new(content, length) })
    }
}
