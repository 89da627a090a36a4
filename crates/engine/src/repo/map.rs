//! Read-only memory maps of files of the local cache: the only module of the project with `unsafe`.
//!
//! Invariant: only finished files of the local cache are mapped. They are written under a temporary name, renamed, and never
//! changed afterwards, so that the mapped bytes do not change under the reader. What a power cut leaves of them is another
//! matter: their checksum tells ([`super::kept`]).

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::{Mmap, UncheckedAdvice};

/// The bytes of such a file.
pub(crate) enum Bytes {
    /// Mapped; so many of them count.
    Mapped(Mmap, usize),
    /// In memory, where there is no local cache.
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a file of the local cache without its last `trailer` bytes.
    pub(crate) fn map(file: &File, trailer: usize) -> io::Result<Self> {
        // SAFETY: the file is one of our own cache's finished files, which nobody changes (module invariant).
        let map = unsafe { Mmap::map(file) }?;
        let length = map.len().checked_sub(trailer).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self::Mapped(map, length))
    }

    /// Takes mapped pages out of this process's memory; they are there again when touched.
    pub(crate) fn release(&self) {
        if let Self::Mapped(map, _) = self {
            // SAFETY: a file is mapped for reading only, so what is dropped is read from the same file again.
            // Why ignored: then they stay, which costs memory only.
            let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map, length) => &map[..*length],
            Self::Owned(bytes) => bytes,
        }
    }
}
