//! A stored file, read like a file: positioned reads over the chunks of its content, for the readers of AI files.
//!
//! Only chunks that a read touches are fetched; the last one is kept, because headers are read in small steps. Holes read
//! as zeros. The list of extents is held in memory, bounded by [`EXTENTS_MAX`].

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use crate::entry::{Content, Extent};
use crate::error::Result;
use crate::ids::ChunkId;
use crate::readers::ReadAt;
use crate::repo::{BlobReader, Repository};

/// Files of more extents are not read this way, so that the list stays under 12 MiB.
pub const EXTENTS_MAX: usize = 1 << 18;

/// Positioned reads of one file's content. One thread at a time.
pub struct StoredFile<'r> {
    length: u64,
    /// Where each chunk begins, its length and its id, ascending. What no chunk covers is a hole.
    chunks: Vec<(u64, u32, ChunkId)>,
    inline: Vec<u8>,
    state: RefCell<State<'r>>,
}

struct State<'r> {
    reader: BlobReader<'r>,
    last: Option<ChunkId>,
    plain: Vec<u8>,
}

impl<'r> StoredFile<'r> {
    /// Opens `content`; none where it has more than [`EXTENTS_MAX`] extents.
    ///
    /// # Errors
    /// When a list of extents can't be read.
    pub fn open(repository: &'r Repository, content: &Content) -> Result<Option<Self>> {
        let (mut chunks, mut length) = (Vec::new(), 0);
        for extent in repository.extents(content) {
            let extent = extent?;
            if let Extent::Chunk { id, length: bytes } = extent {
                chunks.push((length, bytes, id));
            }
            length += extent.length();
            if chunks.len() > EXTENTS_MAX {
                return Ok(None);
            }
        }
        let inline = match content {
            Content::Inline(bytes) => bytes.clone(),
            _ => Vec::new(),
        };
        length += inline.len() as u64;
        let state = State { reader: repository.blob_reader(), last: None, plain: Vec::new() };
        Ok(Some(Self { length, chunks, inline, state: RefCell::new(state) }))
    }

    /// The chunks, ascending: where each begins in the file, its plain length, its id.
    #[must_use]
    pub fn chunks(&self) -> &[(u64, u32, ChunkId)] {
        &self.chunks
    }

    /// The chunks that a range of the file touches.
    #[must_use]
    pub fn touched(&self, range: &Range<u64>) -> &[(u64, u32, ChunkId)] {
        let first = self.chunks.partition_point(|(start, length, _)| start + u64::from(*length) <= range.start);
        let last = self.chunks.partition_point(|(start, _, _)| *start < range.end);
        &self.chunks[first..last.max(first)]
    }

    /// Fills `buffer` from `offset`. Holes read as zeros.
    ///
    /// # Errors
    /// Damage, errors of the store; [`io::ErrorKind::UnexpectedEof`] where the file ends before the buffer is full.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.length);
        let Some(end) = end else {
            return Err(crate::error::Error::file("(stored file)", "ends early", io::ErrorKind::UnexpectedEof));
        };
        if !self.inline.is_empty() {
            let start = usize::try_from(offset).expect("inline content is short");
            buffer.copy_from_slice(&self.inline[start..start + buffer.len()]);
            return Ok(());
        }
        buffer.fill(0);
        let state = &mut *self.state.borrow_mut();
        for (start, length, id) in self.touched(&(offset..end)) {
            if state.last != Some(*id) {
                state.last = None;
                state.reader.read(id, &mut state.plain)?;
                state.last = Some(*id);
            }
            let (from, to) = (offset.max(*start), end.min(start + u64::from(*length)));
            let place = |at: u64, origin: u64| usize::try_from(at - origin).expect("inside a chunk or the buffer");
            let part = state.plain.get(place(from, *start)..place(to, *start));
            let target = &mut buffer[place(from, offset)..place(to, offset)];
            match part {
                Some(part) => target.copy_from_slice(part),
                None => {
                    let why = "a chunk is shorter than its file says";
                    return Err(crate::error::Damaged::new(id.to_string(), 0, why).into());
                }
            }
        }
        Ok(())
    }
}

impl ReadAt for StoredFile<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read(offset, buffer).map_err(io::Error::other)
    }
}
