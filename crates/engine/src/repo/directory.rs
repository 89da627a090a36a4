//! One sorted table over many index segments, so that a look-up asks a handful of files where the store has hundreds.
//!
//! A backup publishes a segment, and only prune merges them; between two prunes they become many, and a look-up that asks
//! each takes as many probes. A directory says of every record of the segments that it covers in which of them it is, and
//! where. It decides nothing: whoever looks up goes on to the record itself and compares the whole chunk id, so a wrong
//! entry is no more than a miss. It is made here, from segments that were held against their checksums, lies in the local
//! cache only, has a checksum as they have, and may be deleted at any time. (docs/decisions/0014.)
//!
//! Layout, little-endian: magic `SWDIR001`, number of entries (8), of covered segments (4), bits `b` of a bucket's number (4);
//! the covered segments' hashes (32 each); the entries, ascending: first 8 bytes of the chunk id (as a number, big-endian in
//! the id), segment (4; its place among the hashes), record (4); 2^b + 1 times the number of the first entry whose key's first `b` bits
//! are at least the bucket's number (4).

use std::io;
use std::path::Path;

use crate::format::fixed::{u32_at, u64_at};
use crate::ids::{ChunkId, ObjectHash};
use crate::repo::index::{Found, Segment};
use crate::repo::kept::Kept;
use crate::repo::merge::Merge;

const MAGIC: &[u8; 8] = b"SWDIR001";
const HEADER_BYTES: usize = 24;
const ENTRY_BYTES: usize = 16;
const FIRST_BYTES: usize = 4;
/// A bucket has so many entries on average, half to all of them: one page.
const BUCKET_ENTRIES: usize = 256;
/// Entries are written so many at a time.
const BLOCK_BYTES: usize = 64 * 1024;

/// A directory's bytes, to look things up in.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryView<'a> {
    covers: &'a [u8],
    entries: &'a [u8],
    firsts: &'a [u8],
    bucket_bits: u32,
}

/// One that is open.
pub(crate) struct Directory {
    kept: Kept,
    covers: Vec<ObjectHash>,
}

/// The name of the directory over these segments, in this order: what its checksum is keyed with, too.
pub(crate) fn name(covers: impl Iterator<Item = ObjectHash>) -> ObjectHash {
    let mut hasher = blake3::Hasher::new();
    covers.for_each(|hash| {
        hasher.update(&hash.0);
    });
    ObjectHash(*hasher.finalize().as_bytes())
}

impl Directory {
    /// Maps the one with this name; none where it is not there or not what it should be.
    pub(crate) fn open(path: &Path, name: &ObjectHash) -> Option<Self> {
        Self::parse(Kept::open(path, name)?, name)
    }

    /// Makes one over `segments`, at `path`, or in memory without one or where it can't be written. None where a
    /// segment is not as [`crate::format::segment::SegmentView::check`] wants it.
    pub(crate) fn build(segments: &[&Segment], path: Option<&Path>, name: &ObjectHash) -> Option<Self> {
        let entries = segments.iter().map(|segment| segment.view().map_or(0, |view| view.len())).sum();
        let produce = |write: &mut Write<'_>| Table::new(entries, write)?.fill(segments);
        let written = path.and_then(|path| Kept::write(path, name, produce));
        let kept = written.or_else(|| {
            let mut bytes = Vec::new();
            let made = produce(&mut |block| {
                bytes.extend_from_slice(block);
                Ok(())
            });
            made.ok().map(|()| Kept::owned(bytes))
        });
        Self::parse(kept?, name)
    }

    fn parse(kept: Kept, name_wanted: &ObjectHash) -> Option<Self> {
        let covers: Vec<ObjectHash> = DirectoryView::parse(&kept)?.covers().collect();
        kept.release();
        (name(covers.iter().copied()) == *name_wanted).then_some(Self { kept, covers })
    }

    /// The segments that it covers.
    pub(crate) fn covers(&self) -> &[ObjectHash] {
        &self.covers
    }

    /// The entries.
    pub(crate) fn view(&self) -> Option<DirectoryView<'_>> {
        DirectoryView::parse(&self.kept)
    }

    /// Records of all of them.
    pub(crate) fn len(&self) -> usize {
        self.view().map_or(0, |view| view.len())
    }

    /// See [`Kept::is_whole`].
    pub(crate) fn is_whole(&self) -> bool {
        self.kept.is_whole()
    }

    /// See [`Kept::release`].
    pub(crate) fn release(&self) {
        self.kept.release();
    }
}

impl<'a> DirectoryView<'a> {
    /// Checks the header and that the sections have the lengths that it claims; none otherwise.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES).filter(|(header, _)| header.starts_with(MAGIC))?;
        let (entries, covers) = (usize::try_from(u64_at(header, 8)).ok()?, u32_at(header, 16) as usize);
        let bucket_bits = u32_at(header, 20);
        let firsts = 1usize.checked_shl(bucket_bits).filter(|_| bucket_bits < 32)? + 1;
        let (covers, rest) = rest.split_at_checked(covers * ObjectHash::LEN)?;
        let (entries, firsts_bytes) = rest.split_at_checked(entries.checked_mul(ENTRY_BYTES)?)?;
        let fits = firsts_bytes.len() == FIRST_BYTES * firsts;
        fits.then_some(Self { covers, entries, firsts: firsts_bytes, bucket_bits })
    }

    /// Stored hashes of the segments that it covers.
    pub fn covers(&self) -> impl Iterator<Item = ObjectHash> + use<'a> {
        self.covers.chunks_exact(ObjectHash::LEN).filter_map(ObjectHash::from_slice)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() / ENTRY_BYTES
    }

    /// True if it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where records may be that list `id`: place among the covered segments, record.
    pub fn find(&self, id: &ChunkId) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        let (this, key) = (*self, key(id));
        let (mut low, end) = self.bucket(key);
        let mut high = end;
        while low < high {
            let middle = low + (high - low) / 2;
            if this.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let numbers = (low..end).take_while(move |number| this.key(*number) == key);
        let field = move |number: usize, at| u32_at(this.entries, number * ENTRY_BYTES + at) as usize;
        numbers.map(move |number| (field(number, 8), field(number, 12)))
    }

    /// First entry of the key's bucket, and of the next one.
    fn bucket(&self, key: u64) -> (usize, usize) {
        let bucket = bucket(key, self.bucket_bits);
        // Why min: what is not held against its checksum yet may say anything.
        let first = |bucket: usize| (u32_at(self.firsts, FIRST_BYTES * bucket) as usize).min(self.len());
        (first(bucket), first(bucket + 1))
    }

    fn key(&self, number: usize) -> u64 {
        u64_at(self.entries, number * ENTRY_BYTES)
    }
}

fn key(id: &ChunkId) -> u64 {
    u64::from_be_bytes(id.0[..8].try_into().expect("an id is longer"))
}

fn bucket(key: u64, bits: u32) -> usize {
    key.checked_shr(64 - bits).unwrap_or(0) as usize
}

/// Takes the next bytes.
type Write<'w> = dyn FnMut(&[u8]) -> io::Result<()> + 'w;

/// Writes a directory from front to back.
struct Table<'a, 'w> {
    entries: usize,
    bucket_bits: u32,
    /// Entries before each bucket, as far as they are known.
    firsts: Vec<u32>,
    written: u32,
    block: Vec<u8>,
    write: &'a mut Write<'w>,
}

impl<'a, 'w> Table<'a, 'w> {
    fn new(entries: usize, write: &'a mut Write<'w>) -> io::Result<Self> {
        // Why: places are numbers of 32 bits.
        u32::try_from(entries).map_err(io::Error::other)?;
        let bucket_bits = (entries / BUCKET_ENTRIES).checked_ilog2().map_or(0, |bits| bits + 1);
        Ok(Self { entries, bucket_bits, firsts: Vec::new(), written: 0, block: Vec::new(), write })
    }

    fn fill(mut self, segments: &[&Segment]) -> io::Result<()> {
        self.put(MAGIC)?;
        self.put(&(self.entries as u64).to_le_bytes())?;
        self.put(&u32::try_from(segments.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.put(&self.bucket_bits.to_le_bytes())?;
        segments.iter().try_for_each(|segment| self.put(&segment.record().hash.0))?;
        self.merge(segments)?;
        self.firsts.resize((1 << self.bucket_bits) + 1, self.written);
        for first in std::mem::take(&mut self.firsts) {
            self.put(&first.to_le_bytes())?;
        }
        (self.write)(&self.block)
    }

    fn merge(&mut self, segments: &[&Segment]) -> io::Result<()> {
        let mut merge = Merge::new(segments.iter().copied()).map_err(io::Error::other)?;
        let mut copies: Vec<Found> = Vec::new();
        while let Some(id) = merge.next(&mut copies).map_err(io::Error::other)? {
            let key = key(&id);
            while self.firsts.len() <= bucket(key, self.bucket_bits) {
                self.firsts.push(self.written);
            }
            for copy in &copies {
                self.put(&key.to_le_bytes())?;
                for number in [copy.segment, copy.record] {
                    self.put(&(number as u32).to_le_bytes())?;
                }
                self.written += 1;
            }
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.block.extend_from_slice(bytes);
        if self.block.len() >= BLOCK_BYTES {
            (self.write)(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
