//! Bytes that begin at a page: what is filled, stored, and filled again.
//!
//! A buffer is anonymous mapped memory, so it can be written past the page cache from where it lies. A `Vec` can't be, as the
//! C library's allocator puts its own notes before it. Why no huge pages: asked for, they took 7 % off the processor time
//! of one backup of 4 GiB, and added 3 % to that of eight at once, each of which has to get all of its own first.
//!
//! Invariants: it never shrinks; bytes behind its length are not shown.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::units::KIB;

/// Memory is taken in multiples of this, a multiple of every usual page.
const STEP_BYTES: usize = 64 * KIB;

/// A `Vec<u8>` for large contents. Takes no memory before something is reserved.
#[derive(Debug, Default)]
pub struct Buffer {
    map: Option<MmapMut>,
    length: usize,
}

impl Buffer {
    /// So many zeros.
    #[must_use]
    pub fn zeros(length: usize) -> Self {
        Self { length, ..Self::default().grown(length) }
    }

    /// Bytes that it holds before it has to grow.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.len())
    }

    /// Empties it; the memory stays.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Makes room for so many bytes in all.
    ///
    /// # Panics
    /// When the system has no memory.
    pub fn reserve_total(&mut self, bytes: usize) {
        if bytes > self.capacity() {
            *self = std::mem::take(self).grown(bytes);
        }
    }

    fn grown(self, bytes: usize) -> Self {
        let capacity = bytes.max(1).next_multiple_of(STEP_BYTES);
        let mut map = MmapMut::map_anon(capacity).expect("there is memory");
        map[..self.length].copy_from_slice(&self);
        Self { map: Some(map), length: self.length }
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// When the system has no memory.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.length;
        let end = start + bytes.len();
        if end > self.capacity() {
            // Why twice: growing copies all of it.
            self.reserve_total(end.max(2 * self.capacity()));
        }
        self.length = end;
        self[start..].copy_from_slice(bytes);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..self.length])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_mut().map_or(&mut [], |map| &mut map[..self.length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_appended_and_begins_at_a_page() {
        let (mut buffer, mut expected) = (Buffer::default(), Vec::new());
        assert_eq!((&buffer[..], buffer.capacity()), (&[][..], 0));
        for round in 0..2 {
            for piece in [0, 1, 3_000_000, 5, 4_194_304, 77] {
                let bytes: Vec<u8> = (0..piece).map(|place| u8::try_from((place + round) % 251).unwrap()).collect();
                buffer.extend_from_slice(&bytes);
                expected.extend_from_slice(&bytes);
                assert!(buffer[..] == expected[..]);
            }
            assert_eq!(buffer.as_ptr().align_offset(4096), 0);
            assert!(buffer.capacity() >= buffer.len() && buffer.capacity().is_multiple_of(STEP_BYTES));
            buffer.clear();
            expected.clear();
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn room_is_made_once() {
        let mut buffer = Buffer::default();
        buffer.reserve_total(5_000_000);
        let place = buffer.as_ptr();
        buffer.extend_from_slice(&[7; 5_000_000]);
        buffer.reserve_total(1);
        assert_eq!(buffer.as_ptr(), place);
        buffer[4_999_999] = 8;
        assert_eq!(buffer[4_999_998..], [7, 8]);
        assert_eq!(Buffer::zeros(3)[..], [0; 3]);
    }
}
