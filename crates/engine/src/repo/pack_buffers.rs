//! Memory in which a session fills its packs, kept for the next ones.
//!
//! Why: memory of this length goes back to the system when it is freed, and each page of the next pack has to be cleared
//! again.
//!
//! Invariant: there are never more buffers than packs that were open or on their way to the store at once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::buffer::Buffer;

/// Empty buffers that no pack uses.
#[derive(Default)]
pub(super) struct PackBuffers(Mutex<Vec<Buffer>>);

impl PackBuffers {
    /// An empty buffer for so many bytes of blobs, and what comes behind them; the one that was used last, which is the
    /// likeliest to be in the processor's cache.
    pub(super) fn take(&self, blob_bytes: usize) -> Buffer {
        let mut buffer = self.spare().pop().unwrap_or_default();
        // Why so much: footer and parity follow, and a buffer that grows is copied. What is not touched takes no memory.
        buffer.reserve_total(blob_bytes + blob_bytes / 4);
        buffer
    }

    /// Takes a buffer whose pack is stored.
    pub(super) fn give_back(&self, mut buffer: Buffer) {
        buffer.clear();
        self.spare().push(buffer);
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Buffer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pack full of blobs of 4 KiB, with a footer of 128 bytes for each, and a tenth of parity.
    #[test]
    fn what_follows_the_blobs_has_room() {
        let buffer = PackBuffers::default().take(24 << 20);
        let footer = (24 << 20) / 4096 * 128;
        assert!(buffer.capacity() >= (24 << 20) * 11 / 10 + footer);
    }

    #[test]
    fn the_buffer_that_was_given_back_last_is_taken_first() {
        let buffers = PackBuffers::default();
        let (mut first, mut second) = (buffers.take(1_000), buffers.take(1_000));
        first.extend_from_slice(&[1]);
        second.extend_from_slice(&[2]);
        let (place, room) = (second.as_ptr(), second.capacity());
        buffers.give_back(first);
        buffers.give_back(second);
        let taken = buffers.take(500);
        assert_eq!((taken.as_ptr(), taken.capacity(), taken.len()), (place, room, 0));
        assert!(buffers.take(9_000_000).capacity() >= 9_000_000, "one that is too short grows");
    }
}
