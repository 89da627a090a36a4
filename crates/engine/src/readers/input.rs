//! Where readers get their bytes: positioned reads within a part of a file, and a buffered stream over it.
//!
//! [`ReadAt`] is all that the outside has to give. [`Input`] is a view of a range of it, so that a member of an archive
//! is read like a file of its own. All views of one reading share one allowance ([`READ_BYTES_MAX`]), which ends loops
//! that a header makes long. [`Stream`] reads on from a place through one small buffer.
//!
//! Invariant: nothing is read outside the view, no offset wraps, and no call allocates more than the limit it was given.
//! Every failure is `None`: a header is a hint, and who can't read it goes without.

use std::cell::Cell;
use std::io;
use std::ops::Range;

use crate::units::{KIB, MIB};

/// No reading of one file reads more than this, in bytes; each read counts [`READ_COST_BYTES`] on top.
pub const READ_BYTES_MAX: u64 = 512 * MIB as u64;
/// What a read costs beside its length, in bytes: many small reads end too.
const READ_COST_BYTES: u64 = 64;
/// The buffer of a [`Stream`], in bytes: small at first and behind what was skipped, then twice as large each time. A
/// header is often followed by data that is skipped at once.
const BUFFER_BYTES: [u64; 2] = [2 * KIB as u64, 32 * KIB as u64];

/// Positioned reads of a file of known length. An error ends the reading: the file is then one whose layout is unknown.
pub trait ReadAt {
    /// Length of the file in bytes.
    fn length(&self) -> u64;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// Any, also where the file ends before the buffer is full.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for &[u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|start| self.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A range of a file, read like a file. Offsets count from the start of the range.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    file: &'a dyn ReadAt,
    start: u64,
    length: u64,
    allowance: &'a Cell<u64>,
}

impl<'a> Input<'a> {
    /// The whole file. `allowance` is what may still be read, shared by all views.
    pub fn new(file: &'a dyn ReadAt, allowance: &'a Cell<u64>) -> Self {
        Self { file, start: 0, length: file.length(), allowance }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the view begins in the file.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// A view inside this one.
    pub fn part(&self, range: Range<u64>) -> Option<Self> {
        let length = range.end.checked_sub(range.start)?;
        (range.end <= self.length).then_some(Self { start: self.start.checked_add(range.start)?, length, ..*self })
    }

    pub fn fill(&self, at: u64, buffer: &mut [u8]) -> Option<()> {
        let length = buffer.len() as u64;
        if at.checked_add(length)? > self.length {
            return None;
        }
        let left = self.allowance.get().checked_sub(length + READ_COST_BYTES)?;
        self.allowance.set(left);
        self.file.read_at(self.start.checked_add(at)?, buffer).ok()
    }

    pub fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(at, &mut bytes)?;
        Some(bytes)
    }

    pub fn u32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub fn u64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The bytes of `range`, if they are not more than `bytes_max`.
    pub fn bytes(&self, range: Range<u64>, bytes_max: u64) -> Option<Vec<u8>> {
        let length = range.end.checked_sub(range.start)?;
        if length > bytes_max || range.end > self.length {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.fill(range.start, &mut bytes)?;
        Some(bytes)
    }

    /// The first bytes: as many as there are, at most `N`; the rest is zeros.
    pub fn head<const N: usize>(&self) -> Option<[u8; N]> {
        let mut head = [0; N];
        let there = self.length.min(N as u64) as usize;
        self.fill(0, &mut head[..there])?;
        Some(head)
    }

    /// A stream over a range of this view.
    pub fn stream(&self, range: Range<u64>) -> Option<Stream<'a>> {
        let end = range.end;
        (range.start <= end && end <= self.length).then(|| Stream {
            input: *self,
            at: range.start,
            end,
            buffer: Vec::new(),
            place: 0,
            next: BUFFER_BYTES[0],
        })
    }
}

/// Reads forward through a buffer. Positions are those of the [`Input`] it was made from.
pub(super) struct Stream<'a> {
    input: Input<'a>,
    /// The position behind the buffer.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// How much of the buffer is read.
    place: usize,
    /// How long the next buffer is.
    next: u64,
}

impl Stream<'_> {
    /// The position of the next byte.
    pub fn position(&self) -> u64 {
        self.at - (self.buffer.len() - self.place) as u64
    }

    /// How many bytes are left.
    pub fn left(&self) -> u64 {
        self.end - self.position()
    }

    fn refill(&mut self) -> Option<()> {
        let length = (self.end - self.at).min(self.next);
        if length == 0 {
            return None;
        }
        self.buffer.resize(length as usize, 0);
        self.place = self.buffer.len();
        self.input.fill(self.at, &mut self.buffer)?;
        self.at += length;
        self.place = 0;
        self.next = BUFFER_BYTES[1].min(2 * self.next);
        Some(())
    }

    pub fn byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.place += 1;
        Some(byte)
    }

    /// The next byte, which stays the next.
    pub fn peek(&mut self) -> Option<u8> {
        if self.place == self.buffer.len() {
            self.refill()?;
        }
        Some(self.buffer[self.place])
    }

    fn fill(&mut self, mut target: &mut [u8]) -> Option<()> {
        while !target.is_empty() {
            if self.place == self.buffer.len() {
                self.refill()?;
            }
            let length = target.len().min(self.buffer.len() - self.place);
            let (now, later) = target.split_at_mut(length);
            now.copy_from_slice(&self.buffer[self.place..self.place + length]);
            self.place += length;
            target = later;
        }
        Some(())
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Some(bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `length` bytes, if they are there and not more than `bytes_max`.
    pub fn bytes(&mut self, length: u64, bytes_max: u64) -> Option<Vec<u8>> {
        if length > bytes_max || length > self.left() {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.fill(&mut bytes)?;
        Some(bytes)
    }

    /// The next `length` bytes as text, damaged characters replaced.
    pub fn text(&mut self, length: u64, bytes_max: u64) -> Option<String> {
        let bytes = self.bytes(length, bytes_max)?;
        Some(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Goes on behind the next `length` bytes.
    pub fn skip(&mut self, length: u64) -> Option<()> {
        if length > self.left() {
            return None;
        }
        let buffered = (self.buffer.len() - self.place) as u64;
        if length <= buffered {
            self.place += length as usize;
        } else {
            self.at += length - buffered;
            self.place = self.buffer.len();
            self.next = BUFFER_BYTES[0];
        }
        Some(())
    }

    /// A number of seven bits a byte, lowest first, as protobuf and thrift write it.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bytes: &[u8], allowance: u64, test: impl Fn(Input)) {
        test(Input::new(&bytes, &Cell::new(allowance)));
    }

    #[test]
    fn a_view_ends_where_it_ends() {
        with(&[1, 2, 3, 4, 5, 6], 10_000, |input| {
            let part = input.part(2..5).unwrap();
            assert_eq!((part.start(), part.length()), (2, 3));
            assert_eq!(part.array::<3>(0), Some([3, 4, 5]));
            assert_eq!(part.array::<2>(2), None, "the next byte is outside");
            assert_eq!(part.array::<1>(u64::MAX), None);
            assert_eq!(part.head::<5>(), Some([3, 4, 5, 0, 0]));
            assert!(part.part(1..4).is_none());
            assert_eq!(input.bytes(0..6, 5), None, "over the limit");
        });
    }

    #[test]
    fn the_allowance_is_shared() {
        with(&[7; 100], 2 * READ_COST_BYTES + 20, |input| {
            assert!(input.array::<10>(0).is_some());
            assert!(input.part(50..60).unwrap().array::<10>(0).is_some());
            assert!(input.array::<1>(0).is_none());
        });
    }

    #[test]
    fn a_stream_skips_and_reads_on() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        with(&bytes, 1 << 20, |input| {
            let mut stream = input.stream(4..400_000).unwrap();
            assert_eq!(stream.u32(), Some(1));
            stream.skip(4 * 60_000).unwrap();
            assert_eq!((stream.position(), stream.u32()), (4 * 60_002, Some(60_002)));
            assert_eq!(stream.skip(stream.left() + 1), None);
            stream.skip(stream.left()).unwrap();
            assert_eq!((stream.byte(), stream.left()), (None, 0));
        });
    }

    #[test]
    fn varints_end() {
        for (bytes, value) in [
            (&[5][..], Some(5)),
            (&[0x80, 0x02], Some(256)),
            (&[0xff; 9], None),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Some(u64::MAX)),
            (&[0xff; 11], None),
        ] {
            with(bytes, 1 << 20, |input| assert_eq!(input.stream(0..bytes.len() as u64).unwrap().varint(), value));
        }
    }
}
