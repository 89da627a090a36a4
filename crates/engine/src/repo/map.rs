//! Read-only memory maps of opened index segments: the only module of the project with `unsafe`.
//!
//! Invariant: only files of the local cache are mapped. They are written under a temporary name, renamed, and never changed
//! afterwards, so that the mapped bytes do not change under the reader. What a power cut leaves of them is another matter:
//! their checksum tells ([`super::index`]).

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of an opened segment.
pub(crate) enum SegmentBytes {
    /// Mapped from the local cache; so many of its bytes are the segment.
    Mapped(memmap2::Mmap, usize),
    /// In memory, where there is no local cache.
    Owned(Vec<u8>),
}

impl SegmentBytes {
    /// Maps a file of the local cache without its last `trailer` bytes.
    pub(crate) fn map(file: &File, trailer: usize) -> io::Result<Self> {
        // SAFETY: the file is one of our own cache's finished files, which nobody changes (module invariant).
        let map = unsafe { memmap2::Mmap::map(file) }?;
        let length = map.len().checked_sub(trailer).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self::Mapped(map, length))
    }
}

impl Deref for SegmentBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map, length) => &map[..*length],
            Self::Owned(bytes) => bytes,
        }
    }
}
