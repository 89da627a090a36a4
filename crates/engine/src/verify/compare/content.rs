//! Content of one file: every extent of the snapshot against the bytes at its place.
//!
//! A worker takes pairs, and of long files pieces: whoever opens a long file cuts it and offers the pieces to all, doing
//! itself what nobody takes. So one long file is compared by all threads, with a piece's list in memory, not the file's.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, never, select};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{Compare, Pair, metadata::differences};
use crate::entry::{Content, Extent, Kind, TreeKey};
use crate::stages::metadata::{complete, complete_file, open_file, read_problem, stat_file};
use crate::stages::read::read_at;
use crate::stages::walk::StatKind;
use crate::units::{KIB, MIB};

/// Longer files are compared in pieces of about this many bytes.
const PIECE_BYTES: u64 = 16 * MIB as u64;
/// Holes are looked at in steps of this many bytes where the file has data there.
const ZEROS_BYTES: usize = 256 * KIB;
/// Holes that are filled are only a difference if they make up at least this much.
const HOLES_BYTES_MIN: u64 = MIB as u64;

/// A file that is being compared.
struct Comparing {
    key: TreeKey,
    file: File,
    /// Set at the first difference of content: one is enough to say.
    differs: AtomicBool,
}

/// Some extents of a long file, each with its offset.
pub(super) struct Piece {
    file: Arc<Comparing>,
    extents: Vec<(u64, Extent)>,
}

/// One thread's state.
pub(super) struct Worker<'c> {
    compare: &'c Compare<'c>,
    buffer: Vec<u8>,
}

/// Lengths of a file's content by kind.
#[derive(Default)]
struct Lengths {
    data: u64,
    holes: u64,
}

impl<'c> Worker<'c> {
    pub(super) fn new(compare: &'c Compare<'c>) -> Self {
        Self { compare, buffer: Vec::new() }
    }

    /// Works until both channels are closed and empty.
    pub(super) fn work(&mut self, mut pairs: Receiver<Pair>, mut pieces: Receiver<Piece>) {
        let mut open = 2;
        while open > 0 {
            select! {
                recv(pieces) -> piece => match piece {
                    Ok(piece) => self.piece(&piece),
                    Err(_) => (pieces, open) = (never(), open - 1),
                },
                recv(pairs) -> pair => match pair {
                    Ok(pair) => self.pair(&pair),
                    Err(_) => (pairs, open) = (never(), open - 1),
                },
            }
        }
    }

    fn pair(&mut self, pair: &Pair) {
        // Why: after an interruption what waits is only taken out of the way.
        if self.compare.monitor.stopped() {
            return;
        }
        self.compare.entries.fetch_add(1, Ordering::Relaxed);
        match (&pair.entry.kind, pair.found.stat.kind) {
            (Kind::File(content), StatKind::File) => self.file(pair, content),
            _ => self.metadata(pair),
        }
    }

    /// Metadata of what is not a file on both sides.
    fn metadata(&self, pair: &Pair) {
        let mut problems = Vec::new();
        match complete(&pair.found, &self.compare.names, pair.entry.links, &mut problems) {
            Ok(actual) => self.differ_all(pair, differences(&pair.entry, &actual, self.compare.options)),
            Err(error) => self.compare.differ(&pair.key, format!("cannot be examined: {error}")),
        }
        self.differ_all(pair, problems.into_iter().map(|problem| problem.what));
    }

    fn differ_all(&self, pair: &Pair, differences: impl IntoIterator<Item = String>) {
        differences.into_iter().for_each(|what| self.compare.differ(&pair.key, what));
    }

    fn file(&mut self, pair: &Pair, content: &Content) {
        let file = match open_file(&pair.found) {
            Ok(file) => file,
            Err(error) => {
                self.metadata(pair);
                if pair.content {
                    self.compare.differ(&pair.key, read_problem(&pair.found, &error).what);
                }
                return;
            }
        };
        let mut problems = Vec::new();
        let actual = complete_file(&pair.found, &file, &self.compare.names, pair.entry.links, &mut problems);
        self.differ_all(pair, differences(&pair.entry, &actual, self.compare.options));
        self.differ_all(pair, problems.into_iter().map(|problem| problem.what));
        if !pair.content {
            return;
        }
        self.compare.files.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new(Comparing { key: pair.key.clone(), file, differs: AtomicBool::new(false) });
        match content {
            Content::Inline(bytes) => self.inline(&file, bytes),
            Content::Extents(_) | Content::Indirect { .. } => self.extents(pair, content, &file),
        }
        self.compare.progress();
    }

    fn inline(&mut self, file: &Comparing, expected: &[u8]) {
        self.compare.bytes.fetch_add(length(expected), Ordering::Relaxed);
        self.buffer.resize(expected.len(), 0);
        let read = read_at(&file.file, 0, &mut self.buffer);
        let same = read.map(|count| self.buffer.get(..count) == Some(expected));
        self.judge(file, 0..length(expected), same);
    }

    /// Compares a file's extents, in pieces where it is long.
    fn extents(&mut self, pair: &Pair, content: &Content, file: &Arc<Comparing>) {
        let mut lengths = Lengths::default();
        let mut piece = Piece { file: Arc::clone(file), extents: Vec::new() };
        let mut start = 0;
        let mut offset = 0;
        for extent in self.compare.repository.extents(content) {
            let extent = match extent {
                Ok(extent) => extent,
                Err(error) => {
                    return self.compare.differ(&pair.key, format!("the snapshot's content is lost: {error}"));
                }
            };
            lengths.count(&extent);
            piece.extents.push((offset, extent));
            offset += extent.length();
            if offset - start >= PIECE_BYTES {
                let next = Piece { file: Arc::clone(file), extents: Vec::new() };
                self.offer(&pair.pieces, std::mem::replace(&mut piece, next));
                start = offset;
            }
        }
        self.piece(&piece);
        self.space(file, &lengths);
    }

    /// Offers a piece to the other threads; what nobody takes is done here.
    fn offer(&mut self, pieces: &Sender<Piece>, piece: Piece) {
        match pieces.try_send(piece) {
            Ok(()) => {}
            Err(TrySendError::Full(piece) | TrySendError::Disconnected(piece)) => self.piece(&piece),
        }
    }

    fn piece(&mut self, piece: &Piece) {
        for (offset, extent) in &piece.extents {
            if piece.file.differs.load(Ordering::Relaxed) || self.compare.monitor.stopped() {
                return;
            }
            let same = match extent {
                Extent::Chunk { id, length } => {
                    self.buffer.resize(usize::try_from(*length).expect("32 bits fit"), 0);
                    let read = read_at(&piece.file.file, *offset, &mut self.buffer);
                    let id_key = self.compare.repository.id_key();
                    read.map(|count| count == self.buffer.len() && id_key.chunk_id(&self.buffer) == *id)
                }
                Extent::Hole { length } => self.is_zero(&piece.file.file, *offset..*offset + length),
            };
            self.judge(&piece.file, *offset..*offset + extent.length(), same);
            self.compare.bytes.fetch_add(extent.length(), Ordering::Relaxed);
        }
    }

    fn judge(&self, file: &Comparing, range: Range<u64>, same: io::Result<bool>) {
        let what = match same {
            Ok(true) => return,
            Ok(false) => format!("content differs between bytes {} and {}", range.start, range.end),
            Err(error) => format!("cannot be read: {error}"),
        };
        if !file.differs.swap(true, Ordering::Relaxed) {
            self.compare.differ(&file.key, what);
        }
    }

    /// True if a range reads as zeros. Holes of the file are not read.
    fn is_zero(&mut self, file: &File, range: Range<u64>) -> io::Result<bool> {
        if range.is_empty() {
            return Ok(true);
        }
        // Why the end is looked at by reading: a file that ends within the range has no zeros there.
        let last = &mut [1];
        if read_at(file, range.end - 1, last)? != 1 || last[0] != 0 {
            return Ok(false);
        }
        let mut position = range.start;
        while position < range.end {
            position = match seek(file, SeekFrom::Data(position)) {
                Ok(data) => data,
                Err(Errno::NXIO) => return Ok(true),
                // Holes are not supported: everything is data.
                Err(_) => position,
            };
            if position >= range.end {
                break;
            }
            let step = usize::try_from(range.end - position).map_or(ZEROS_BYTES, |rest| rest.min(ZEROS_BYTES));
            self.buffer.resize(step, 0);
            let count = read_at(file, position, &mut self.buffer)?;
            if count < step || self.buffer.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            position += length(&self.buffer);
        }
        Ok(true)
    }

    /// Holes must still be holes, or at least half of them: file systems may round them.
    fn space(&self, file: &Comparing, lengths: &Lengths) {
        if lengths.holes < HOLES_BYTES_MIN {
            return;
        }
        let Ok(stat) = stat_file(&file.file) else { return };
        // 512: the unit of `blocks` on Linux, whatever the block size of the file system.
        let occupied = stat.blocks.saturating_mul(512);
        if occupied > lengths.data + lengths.holes / 2 {
            let what = format!("its holes are filled: it occupies {occupied} bytes for {} of data", lengths.data);
            self.compare.differ(&file.key, what);
        }
    }
}

impl Lengths {
    fn count(&mut self, extent: &Extent) {
        match extent {
            Extent::Chunk { length, .. } => self.data += u64::from(*length),
            Extent::Hole { length } => self.holes += length,
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("memory is shorter than 2^64 bytes")
}
