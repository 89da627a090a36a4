//! Read-only memory maps of opened index segments: the only module of the project with `unsafe`.
//!
//! Invariant: only files of the local cache are mapped. They are written under a temporary name, made durable, renamed,
//! and never changed afterwards, so that the mapped bytes do not change under the reader.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of an opened segment.
pub(crate) enum SegmentBytes {
    /// Mapped from the local cache.
    Mapped(memmap2::Mmap),
    /// In memory, where there is no local cache.
    Owned(Vec<u8>),
}

impl SegmentBytes {
    /// Maps a file of the local cache.
    pub(crate) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the file is one of our own cache's finished files, which nobody changes (module invariant).
        unsafe { memmap2::Mmap::map(&file) }.map(Self::Mapped)
    }
}

impl Deref for SegmentBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
