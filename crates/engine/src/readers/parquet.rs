//! Parquet: where the column chunks of each row group begin and end. Their pages are encoded, so there are no tensors.
//!
//! The footer is thrift in its compact form. It is walked with the few field numbers that lead to the offsets of column
//! chunks; everything else is skipped by its wire type, to a depth of [`DEPTH_MAX`]. An encrypted footer (`PARE`) is left
//! alone.

use super::input::{Input, Stream};
use super::layout::Builder;
use crate::units::MIB;

pub(super) const MAGIC: [u8; 4] = *b"PAR1";

/// A longer footer is not read, in bytes.
const FOOTER_BYTES_MAX: u64 = 128 * MIB as u64;
const DEPTH_MAX: usize = 16;

/// Wire types of the compact protocol.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I64: u8 = 6;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

pub(super) fn read(input: &Input, builder: &mut Builder) -> Option<()> {
    let tail_at = input.length().checked_sub(8)?;
    (input.array(tail_at + 4)? == MAGIC).then_some(())?;
    let length = u64::from(input.u32(tail_at)?);
    if length > FOOTER_BYTES_MAX {
        return None;
    }
    let footer_at = tail_at.checked_sub(length)?;
    builder.boundary(input.start() + footer_at);
    let mut stream = input.stream(footer_at..tail_at)?;
    let mut chunks = Chunks { base: input.start(), builder };
    // FileMetaData: 4 row groups, each with 1 columns, each with 3 the column's metadata.
    fields(&mut stream, |stream, field, kind| match (field, kind) {
        (4, LIST) => list(stream, STRUCT, |stream| chunks.row_group(stream)),
        _ => skip(stream, kind, DEPTH_MAX),
    })
}

/// Gathers the places of column chunks.
struct Chunks<'a> {
    base: u64,
    builder: &'a mut Builder,
}

impl Chunks<'_> {
    fn row_group(&mut self, stream: &mut Stream) -> Option<()> {
        fields(stream, |stream, field, kind| match (field, kind) {
            (1, LIST) => list(stream, STRUCT, |stream| self.column_chunk(stream)),
            _ => skip(stream, kind, DEPTH_MAX),
        })
    }

    fn column_chunk(&mut self, stream: &mut Stream) -> Option<()> {
        fields(stream, |stream, field, kind| match (field, kind) {
            (3, STRUCT) => self.column(stream),
            _ => skip(stream, kind, DEPTH_MAX),
        })
    }

    /// ColumnMetaData: 7 compressed size, 9 first data page, 11 dictionary page, which comes first where there is one.
    fn column(&mut self, stream: &mut Stream) -> Option<()> {
        let (mut bytes, mut data, mut dictionary) = (None, None, None);
        fields(stream, |stream, field, kind| {
            let value = match (field, kind) {
                (7, I64) => &mut bytes,
                (9, I64) => &mut data,
                (11, I64) => &mut dictionary,
                _ => return skip(stream, kind, DEPTH_MAX),
            };
            *value = u64::try_from(signed(stream)?).ok().filter(|&value| value > 0);
            Some(())
        })?;
        let start = [data, dictionary].into_iter().flatten().min();
        if let (Some(start), Some(bytes)) = (start, bytes) {
            self.builder.boundary(self.base.saturating_add(start));
            self.builder.boundary(self.base.saturating_add(start).saturating_add(bytes));
        }
        Some(())
    }
}

/// A number with its sign in the lowest bit.
fn signed(stream: &mut Stream) -> Option<i64> {
    let value = stream.varint()?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// The fields of a structure: `field` gets each number and wire type and must read or skip the value.
fn fields(stream: &mut Stream, mut field: impl FnMut(&mut Stream, i64, u8) -> Option<()>) -> Option<()> {
    let mut number = 0_i64;
    loop {
        let head = stream.byte()?;
        if head == 0 {
            return Some(());
        }
        number = match head >> 4 {
            0 => signed(stream)?,
            more => number.checked_add(more.into())?,
        };
        field(stream, number, head & 0xf)?;
    }
}

/// The elements of a list whose elements are of type `wanted`; another list is skipped.
fn list(stream: &mut Stream, wanted: u8, mut element: impl FnMut(&mut Stream) -> Option<()>) -> Option<()> {
    let (count, kind) = list_head(stream)?;
    if kind == wanted {
        return (0..count).try_for_each(|_| element(stream));
    }
    (0..count).try_for_each(|_| skip_element(stream, kind, DEPTH_MAX))
}

fn list_head(stream: &mut Stream) -> Option<(u64, u8)> {
    let head = stream.byte()?;
    let count = match head >> 4 {
        15 => stream.varint()?,
        count => count.into(),
    };
    Some((count, head & 0xf))
}

/// An element of a list or map: truth values take a byte there.
fn skip_element(stream: &mut Stream, kind: u8, depth: usize) -> Option<()> {
    match kind {
        TRUE | FALSE => stream.skip(1),
        _ => skip(stream, kind, depth),
    }
}

fn skip(stream: &mut Stream, kind: u8, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match kind {
        TRUE | FALSE => Some(()),
        3 => stream.skip(1),
        4..=I64 => stream.varint().map(drop),
        7 => stream.skip(8),
        8 => {
            let length = stream.varint()?;
            stream.skip(length)
        }
        LIST | 10 => {
            let (count, kind) = list_head(stream)?;
            (0..count).try_for_each(|_| skip_element(stream, kind, depth))
        }
        11 => skip_map(stream, depth),
        STRUCT => fields(stream, |stream, _, kind| skip(stream, kind, depth)),
        13 => stream.skip(16),
        _ => None,
    }
}

fn skip_map(stream: &mut Stream, depth: usize) -> Option<()> {
    let count = stream.varint()?;
    if count == 0 {
        return Some(());
    }
    let kinds = stream.byte()?;
    (0..count).try_for_each(|_| {
        skip_element(stream, kinds >> 4, depth)?;
        skip_element(stream, kinds & 0xf, depth)
    })
}
