//! Cat: the bytes of one file, or of a range of it, in order.
//!
//! Only chunks that the range touches are read. They are fetched and decoded ahead by a few threads; a bounded window
//! of answers keeps their order, so memory is a window of chunks however long the file is.

use std::io::{self, Write};
use std::ops::Range;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::not_found;
use crate::entry::{Content, Extent, Kind, TreeKey};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::repo::Repository;
use crate::units::KIB;

/// Threads that read ahead.
const READERS: usize = 4;
/// Chunks that are read ahead or wait to be written: at most 8 x 8 MiB.
const WINDOW: usize = 8;
/// Holes are written in steps of this many zeros.
static ZEROS: [u8; 64 * KIB] = [0; 64 * KIB];

/// A piece of the output, in order.
enum Piece {
    /// A part of a chunk that a reader decodes.
    Chunk(Receiver<Result<Vec<u8>>>, Range<usize>),
    Zeros(u64),
    /// The extents can't be read further.
    Failed(Error),
}

type Task = (ChunkId, Sender<Result<Vec<u8>>>);

/// Writes the bytes `range` (none: all; a range may reach beyond the end) of the file `key` in the tree `root`, and
/// gives their number.
///
/// # Errors
/// [`Error::NotFound`] where nothing is at `key` or it is not a file, damage, and
/// [`Error::File`] with the output's error. What was written before an error is right.
pub fn cat(
    repository: &Repository,
    root: &ChunkId,
    key: &TreeKey,
    range: Option<Range<u64>>,
    write: &mut dyn Write,
) -> Result<u64> {
    let entry = repository.tree(root).get(key)?.ok_or_else(|| not_found(key))?;
    let Kind::File(content) = &entry.kind else {
        return Err(Error::NotFound(format!("{} is not a file", key.to_path().display())));
    };
    let range = range.unwrap_or(0..entry.size);
    let range = range.start.min(entry.size)..range.end.min(entry.size);
    let failed = |error: io::Error| Error::file(key.to_path(), "cannot write out", error);
    if let Content::Inline(bytes) = content {
        let bytes = part(bytes, &range);
        write.write_all(bytes).map_err(failed)?;
        return Ok(bytes.len() as u64);
    }
    let (tasks, waiting) = bounded::<Task>(WINDOW);
    let (pieces, ordered) = bounded::<Piece>(WINDOW);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let waiting = waiting.clone();
            scope.spawn(move || read_chunks(repository, &waiting));
        }
        let wanted = range.clone();
        scope.spawn(move || plan(repository, content, &wanted, &tasks, &pieces));
        // Why moved in: when writing fails, the end of this channel ends the others.
        write_pieces(ordered, write, &failed)
    })
}

/// The part of `bytes`, which begin at 0, that lies in the range.
fn part<'b>(bytes: &'b [u8], range: &Range<u64>) -> &'b [u8] {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(place(range.start)..place(range.end)).unwrap_or_default()
}

fn read_chunks(repository: &Repository, tasks: &Receiver<Task>) {
    let mut reader = repository.blob_reader();
    for (id, answer) in tasks {
        let mut plain = Vec::new();
        let outcome = reader.read(&id, &mut plain).map(|()| plain);
        // Nobody waits for it where writing failed meanwhile.
        let _ = answer.send(outcome);
    }
}

/// Hands out the extents that the range touches, in order, until the writer is gone.
fn plan(repository: &Repository, content: &Content, range: &Range<u64>, tasks: &Sender<Task>, pieces: &Sender<Piece>) {
    let mut offset = 0;
    for extent in repository.extents(content) {
        let (start, piece) = match extent {
            Err(error) => {
                let _ = pieces.send(Piece::Failed(error));
                return;
            }
            Ok(extent) => {
                let start = offset;
                offset += extent.length();
                let within = range.start.clamp(start, offset) - start..range.end.clamp(start, offset) - start;
                if within.is_empty() { (start, None) } else { (start, Some(piece(&extent, within, tasks))) }
            }
        };
        if start >= range.end || piece.is_some_and(|piece| pieces.send(piece).is_err()) {
            return;
        }
    }
}

fn piece(extent: &Extent, within: Range<u64>, tasks: &Sender<Task>) -> Piece {
    match extent {
        Extent::Hole { .. } => Piece::Zeros(within.end - within.start),
        Extent::Chunk { id, .. } => {
            let (answer, awaited) = bounded(1);
            let _ = tasks.send((*id, answer));
            let place = |at: u64| usize::try_from(at).expect("a chunk's length fits 32 bits");
            Piece::Chunk(awaited, place(within.start)..place(within.end))
        }
    }
}

fn write_pieces(pieces: Receiver<Piece>, write: &mut dyn Write, failed: &dyn Fn(io::Error) -> Error) -> Result<u64> {
    let mut written = 0;
    for piece in pieces {
        match piece {
            Piece::Failed(error) => return Err(error),
            Piece::Zeros(mut length) => {
                written += length;
                while length > 0 {
                    let step = part(&ZEROS, &(0..length));
                    write.write_all(step).map_err(failed)?;
                    length -= step.len() as u64;
                }
            }
            Piece::Chunk(awaited, within) => {
                let plain = awaited.recv().map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))??;
                let bytes = plain.get(within).ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
                write.write_all(bytes).map_err(failed)?;
                written += bytes.len() as u64;
            }
        }
    }
    Ok(written)
}
