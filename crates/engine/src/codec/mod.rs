//! Codecs: how the plain bytes of a chunk become the body of a blob and come back (`docs/format.md` §6.1, §6.2).
//!
//! [`Encoder`] looks at a sample of the chunk and picks the codec: constant, raw, zstd, zstd with an older chunk as
//! prefix, byte planes for numbers, byte planes of their difference to an older chunk, or derived from one. [`Decoder`] takes a body from outside, trusts no length in it, and gives exactly
//! the announced number of bytes or [`Damaged`]. A body does not depend on anything but its bytes and its base; a
//! chunk's name never depends on the codec, so a chunk may be encoded anew at any time.
//!
//! All entropy coding is standard zstd frames. Nothing here encrypts, hashes, or knows files and tensors.

mod buckets;
mod choice;
mod decoder;
mod derived;
mod difference;
mod element;
mod encoder;
mod frames;
mod pieces;
mod place;
mod planes;
mod sample;
mod scaled;
mod scales;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use decoder::Decoder;
pub use derived::{Cast, cast_of};
pub use encoder::{Encoder, Estimate};

use crate::error::Damaged;
use crate::ids::ChunkId;
use crate::units::CHUNK_BYTES_MAX;

/// Codec numbers as they are stored.
pub mod id {
    /// The bytes as they are.
    pub const RAW: u8 = 0;
    /// One zstd frame.
    pub const ZSTD: u8 = 1;
    /// One zstd frame with the base's plain bytes as raw-content prefix.
    pub const ZSTD_PREFIX: u8 = 2;
    /// Byte planes of numbers.
    pub const PLANES: u8 = 3;
    /// Byte planes of the difference to a base.
    pub const PLANES_DIFFERENCE: u8 = 4;
    /// One byte, repeated.
    pub const CONSTANT: u8 = 5;
    /// Computed from a base.
    pub const DERIVED: u8 = 6;
    /// Byte planes of a matrix, sorted by the scales of its rows and columns.
    pub const PLANES_SCALED: u8 = 7;
}

/// Name of the structure in [`Damaged`]; whoever knows the object's name says it in its place.
const OBJECT: &str = "blob body";
/// Length of the header without a base.
const PLAIN_HEADER_BYTES: usize = 8;

/// True for codecs whose header names a base chunk.
#[must_use]
pub fn has_base(codec: u8) -> bool {
    matches!(codec, id::ZSTD_PREFIX | id::PLANES_DIFFERENCE | id::DERIVED)
}

/// How much time to spend for a smaller result. All efforts write bodies that every decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// As fast as links and disks of tens of gigabits need it.
    Fast,
    /// As small as zstd level 3, faster.
    #[default]
    Balanced,
    /// For data that is written once and kept for years.
    Dense,
}

/// What numbers are; it says where their exponents lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberKind {
    /// Integers, with or without a sign.
    Integer,
    /// 8 bits: 4 of exponent, 3 of mantissa.
    F8E4m3,
    /// 8 bits: 5 of exponent, 2 of mantissa.
    F8E5m2,
    /// 16 bits: 5 of exponent, 10 of mantissa.
    F16,
    /// 16 bits: 8 of exponent, 7 of mantissa.
    Bf16,
    /// 32 bits: 8 of exponent, 23 of mantissa.
    F32,
    /// 64 bits: 11 of exponent, 52 of mantissa.
    F64,
}

/// What a file's header says about the numbers of a chunk. A wrong hint costs ratio or time, never data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Bytes an element: 1, 2, 4 or 8; another width is as no hint.
    pub width: u8,
    /// Bytes of the chunk before the first whole element, less than `width`.
    pub head: u8,
    /// What the elements are.
    pub kind: NumberKind,
    /// Elements in a row, where they are a matrix whose rows begin with the first whole element; not 0.
    pub row: Option<u32>,
}

impl Hint {
    fn is_sound(&self) -> bool {
        matches!(self.width, 1 | 2 | 4 | 8) && self.head < self.width && self.row != Some(0)
    }
}

/// The start of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHeader {
    /// One of [`id`].
    pub codec: u8,
    /// Bytes an element: 1, 2, 4 or 8 for planes, 0 for everything else.
    pub width: u8,
    /// Bytes before the first whole element, less than `width`.
    pub head: u8,
    /// Length of the plain bytes, at most [`CHUNK_BYTES_MAX`].
    pub plain_len: u32,
    /// The base, exactly where [`has_base`].
    pub base: Option<ChunkId>,
}

/// A body in two parts, which are stored one behind the other. Why two: bytes that are stored as they are need not be
/// copied behind their header first.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a>(pub &'a [u8], pub &'a [u8]);

impl<'a> Body<'a> {
    /// What [`Encoder::encode_apart`] made of `plain`, or [`Encoder::encode`].
    #[must_use]
    pub fn of(body: &'a [u8], plain: &'a [u8]) -> Self {
        let is_apart = body.len() == PLAIN_HEADER_BYTES && body[0] == id::RAW;
        Self(body, if is_apart { plain } else { &[] })
    }

    /// Bytes of both parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }

    /// True where there is nothing, which is no body.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [u8]> for Body<'a> {
    fn from(body: &'a [u8]) -> Self {
        Self(body, &[])
    }
}

impl<'a> From<&'a Vec<u8>> for Body<'a> {
    fn from(body: &'a Vec<u8>) -> Self {
        Self(body, &[])
    }
}

impl BodyHeader {
    /// Reads and checks the header; also gives where the payload starts.
    ///
    /// # Errors
    /// [`Damaged`] when the body is too short, the codec is unknown, or a field is out of its range.
    pub fn parse(body: &[u8]) -> Result<(Self, usize), Damaged> {
        let Some((&[codec, width, head, zero, a, b, c, d], rest)) = body.split_first_chunk::<PLAIN_HEADER_BYTES>()
        else {
            return Err(damaged(body.len(), "shorter than its header"));
        };
        if codec > id::PLANES_SCALED {
            return Err(damaged(0, format!("codec {codec} is unknown")));
        }
        let widths_fit = match codec {
            id::PLANES | id::PLANES_DIFFERENCE | id::PLANES_SCALED => matches!(width, 1 | 2 | 4 | 8) && head < width,
            _ => width == 0 && head == 0,
        };
        if !widths_fit || zero != 0 {
            return Err(damaged(1, format!("element width {width} and head {head} do not fit codec {codec}")));
        }
        let plain_len = u32::from_le_bytes([a, b, c, d]);
        if plain_len as usize > CHUNK_BYTES_MAX {
            return Err(damaged(4, format!("plain length {plain_len} is over the limit")));
        }
        let base = match rest.first_chunk::<{ ChunkId::LEN }>() {
            _ if !has_base(codec) => None,
            Some(bytes) => Some(ChunkId(*bytes)),
            None => return Err(damaged(body.len(), "ends inside the base's id")),
        };
        let header = Self { codec, width, head, plain_len, base };
        Ok((header, header.encoded_len()))
    }

    /// Appends the header to `out`.
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.codec, self.width, self.head, 0]);
        out.extend_from_slice(&self.plain_len.to_le_bytes());
        if let Some(base) = &self.base {
            out.extend_from_slice(base.as_bytes());
        }
    }

    /// Length of the header in bytes.
    fn encoded_len(&self) -> usize {
        PLAIN_HEADER_BYTES + self.base.map_or(0, |_| ChunkId::LEN)
    }

    /// Where the whole elements lie in the plain bytes: after the head, before the tail.
    fn elements(&self) -> Range<usize> {
        let (length, head) = (self.plain_len as usize, usize::from(self.head));
        let whole = length.saturating_sub(head);
        head.min(length)..length - whole % usize::from(self.width.max(1))
    }
}

/// Makes scratch memory that long, or leaves it longer: what is overwritten anyway need not be cleared again.
fn grow(scratch: &mut Vec<u8>, length: usize) {
    if scratch.len() < length {
        scratch.resize(length, 0);
    }
}

fn damaged(offset: usize, why: impl Into<String>) -> Damaged {
    Damaged::new(OBJECT, offset as u64, why)
}
