//! GGUF, versions 2 and 3: keys with values, a table of tensors, padding, the tensors' bytes.
//!
//! Of the keys only `general.alignment` matters: where the data begins, and what offsets count from. Everything is
//! little-endian; a file of the other order has a version that is not known and is left alone. Dimensions stand in the
//! file fastest first and are turned round here. A tensor of an unknown type is left out.

use super::dtype;
use super::input::{Input, Stream};
use super::layout::{Builder, DIMENSIONS_MAX, NAME_BYTES_MAX, TENSORS_MAX};
use crate::units::MIB;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";

const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT: u64 = 32;
/// A key, or the name of a tensor, is not longer, in bytes.
const TEXT_BYTES_MAX: u64 = 1 << 16;
/// What is kept of the table while it is read, in bytes.
const TABLE_BYTES_MAX: usize = 64 * MIB;
/// Arrays of arrays go so deep.
const DEPTH_MAX: usize = 4;

/// Types of values, beside those of a fixed width.
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U32: u32 = 4;

/// A row of the table of tensors.
struct Row {
    name: String,
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

pub(super) fn read(input: &Input, builder: &mut Builder) -> Option<()> {
    let mut stream = input.stream(4..input.length())?;
    (2..=3).contains(&stream.u32()?).then_some(())?;
    let (tensors, keys) = (stream.u64()?, stream.u64()?);
    let mut alignment = ALIGNMENT;
    for _ in 0..keys {
        let key_bytes = stream.u64()?;
        let key = stream.text(key_bytes, TEXT_BYTES_MAX)?;
        match stream.u32()? {
            U32 if key == ALIGNMENT_KEY => alignment = stream.u32()?.into(),
            kind => skip_value(&mut stream, kind, DEPTH_MAX)?,
        }
    }
    let rows = table(&mut stream, tensors)?;
    let data = stream.position().checked_next_multiple_of(alignment)?;
    for row in rows {
        let start = input.start().checked_add(data)?.checked_add(row.offset);
        if let (Some(dtype), Some(start)) = (dtype::ggml(row.kind), start) {
            builder.tensor(&row.name, dtype, &row.shape, start);
        }
    }
    Some(())
}

fn table(stream: &mut Stream, tensors: u64) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    let mut bytes_left = TABLE_BYTES_MAX;
    if tensors > TENSORS_MAX as u64 {
        return None;
    }
    for _ in 0..tensors {
        let name_bytes = stream.u64()?;
        let mut name = stream.text(name_bytes, TEXT_BYTES_MAX)?;
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        name.shrink_to_fit();
        let dimensions = usize::try_from(stream.u32()?).ok().filter(|&count| count <= DIMENSIONS_MAX)?;
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            shape.push(stream.u64()?);
        }
        shape.reverse();
        bytes_left = bytes_left.checked_sub(2 * (size_of::<Row>() + name.len() + 8 * dimensions))?;
        rows.push(Row { name, shape, kind: stream.u32()?, offset: stream.u64()? });
    }
    Some(rows)
}

fn skip_value(stream: &mut Stream, kind: u32, depth: usize) -> Option<()> {
    if let Some(width) = width(kind) {
        return stream.skip(width);
    }
    match kind {
        STRING => {
            let length = stream.u64()?;
            stream.skip(length)
        }
        ARRAY if depth > 0 => {
            let (kind, count) = (stream.u32()?, stream.u64()?);
            if let Some(width) = width(kind) {
                return stream.skip(count.checked_mul(width)?);
            }
            (0..count).try_for_each(|_| skip_value(stream, kind, depth - 1))
        }
        _ => None,
    }
}

/// Bytes of a value of fixed width: u8, i8, u16, i16, u32, i32, f32, bool; u64, i64, f64.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
