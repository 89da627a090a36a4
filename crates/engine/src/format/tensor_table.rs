//! A file's tensor table as CBOR (docs/format.md §9.1).
//!
//! Invariants: what is written can be read and gives the same table; a table never takes more than [`TABLE_BYTES_MAX`],
//! tensors at the end are left out and counted where it would. A decoded table keeps what its type promises: tensors
//! ascending and disjoint, counts that add up, no float that is not a number.

use minicbor::Decoder;

use super::cbor::{self, Read, Sink, Written};
use crate::error::Damaged;
use crate::readers::{DIMENSIONS_MAX, Dtype, NAME_BYTES_MAX, Tensor, View, ggml};
use crate::statistics::table::{TABLE_TENSORS_MAX, TensorRecord, TensorTable};
use crate::statistics::{Exponents, Statistics};
use crate::units::MIB;

/// No table is longer, in bytes: it is one chunk.
pub const TABLE_BYTES_MAX: usize = 4 * MIB;
/// Head of the map and what stands around the tensors, at most.
const FRAME_BYTES: usize = 32;
const TABLE: &str = "tensor table";

/// Kinds with a number of their own: the place in this list. The numbers never change; new kinds are added at the end.
pub(super) const KINDS: [Dtype; 27] = [
    Dtype::Unknown,
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::Bf16,
    Dtype::F8E4m3,
    Dtype::F8E5m2,
    Dtype::F8E4m3Fnuz,
    Dtype::F8E5m2Fnuz,
    Dtype::F8E8m0,
    Dtype::F6E2m3,
    Dtype::F6E3m2,
    Dtype::F4,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::I4,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
    Dtype::U4,
    Dtype::Bool,
    Dtype::Complex32,
    Dtype::Complex64,
    Dtype::Complex128,
];
/// Added to a width in bytes.
const WIDTHS: u32 = 256;
/// Added to ggml's number of a quantised type.
const BLOCKS: u32 = 1024;

fn kind_number(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::Width(width) => WIDTHS + u32::from(width),
        Dtype::Block(block) => BLOCKS.saturating_add(block.id()),
        plain => (0..).zip(KINDS).find(|(_, kind)| *kind == plain).map_or(0, |(number, _)| number),
    }
}

/// A kind that a later version added is unknown to this one.
fn kind_of(number: u32) -> Dtype {
    let plain = usize::try_from(number).ok().and_then(|place| KINDS.get(place).copied());
    let width = || number.checked_sub(WIDTHS).and_then(|width| u8::try_from(width).ok()).map(Dtype::Width);
    let block = || number.checked_sub(BLOCKS).and_then(ggml).filter(|kind| matches!(kind, Dtype::Block(_)));
    plain.or_else(width).or_else(block).unwrap_or(Dtype::Unknown)
}

/// The bytes of a table. Tensors at the end that do not fit are left out, and counted.
#[must_use]
pub fn encode(table: &TensorTable) -> Vec<u8> {
    let (mut items, mut count) = (Vec::new(), 0);
    for record in table.tensors.iter().take(TABLE_TENSORS_MAX) {
        let before = items.len();
        cbor::write(&mut items, |sink| write_record(sink, record));
        if items.len() + FRAME_BYTES > TABLE_BYTES_MAX {
            items.truncate(before);
            break;
        }
        count += 1;
    }
    let left_out = table.left_out.saturating_add((table.tensors.len() - count) as u64);
    let mut out = Vec::with_capacity(items.len() + FRAME_BYTES);
    cbor::write(&mut out, |sink| {
        sink.map(1 + u64::from(left_out > 0))?.u8(0)?.array(count as u64)?;
        Ok(())
    });
    out.append(&mut items);
    if left_out > 0 {
        cbor::write(&mut out, |sink| sink.u8(1)?.u64(left_out)?.ok());
    }
    out
}

fn write_record(sink: &mut Sink, TensorRecord { tensor, statistics }: &TensorRecord) -> Written {
    let optional = [!tensor.name.is_empty(), !tensor.shape.is_empty(), tensor.range.start > 0, statistics.is_some()];
    sink.map(2 + optional.iter().filter(|is| **is).count() as u64)?;
    if !tensor.name.is_empty() {
        sink.u8(0)?.str(&tensor.name)?;
    }
    sink.u8(1)?.u32(kind_number(tensor.dtype))?;
    if !tensor.shape.is_empty() {
        sink.u8(2)?.array(tensor.shape.len() as u64)?;
        for dimension in &tensor.shape {
            sink.u64(*dimension)?;
        }
    }
    if tensor.range.start > 0 {
        sink.u8(3)?.u64(tensor.range.start)?;
    }
    sink.u8(4)?.u64(tensor.range.end - tensor.range.start)?;
    match statistics {
        Some(statistics) => {
            sink.u8(5)?;
            write_statistics(sink, statistics)
        }
        None => Ok(()),
    }
}

fn write_statistics(sink: &mut Sink, statistics: &Statistics) -> Written {
    let counts = [statistics.elements, statistics.nan, statistics.infinite, statistics.zeros];
    let range = statistics.range;
    let optional = [range.is_some(), statistics.squares > 0.0, !statistics.exponents.is_empty()];
    let fields = counts.iter().filter(|count| **count > 0).count() + optional.iter().filter(|is| **is).count();
    sink.map(fields as u64)?;
    for (key, count) in (0..).zip(counts).filter(|(_, count)| *count > 0) {
        sink.u8(key)?.u64(count)?;
    }
    if let Some((low, high)) = range {
        sink.u8(4)?.array(2)?.f64(low)?.f64(high)?;
    }
    if statistics.squares > 0.0 {
        sink.u8(5)?.f64(statistics.squares)?;
    }
    if !statistics.exponents.is_empty() {
        sink.u8(6)?.array(2 * statistics.exponents.iter().len() as u64)?;
        for (exponent, count) in statistics.exponents.iter() {
            sink.i16(exponent)?.u64(count)?;
        }
    }
    Ok(())
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`Damaged`] where it is not a tensor table, or one that can't be true.
pub fn decode(bytes: &[u8]) -> Result<TensorTable, Damaged> {
    if bytes.len() > TABLE_BYTES_MAX {
        return Err(Damaged::new(TABLE, 0, "longer than any tensor table"));
    }
    cbor::whole(TABLE, bytes, |decoder| {
        let mut table = TensorTable::default();
        cbor::fields(decoder, |key, d| {
            match key {
                0 => table.tensors = read_records(d)?,
                1 => table.left_out = d.u64()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(table)
    })
}

fn read_records(decoder: &mut Decoder) -> Read<Vec<TensorRecord>> {
    let mut end = 0;
    let mut left = TABLE_TENSORS_MAX;
    cbor::list(decoder, 5, |d| {
        let record = read_record(d)?;
        if left == 0 || record.tensor.range.start < end {
            return cbor::refuse(d, "tensors that are too many or not ascending");
        }
        (left, end) = (left - 1, record.tensor.range.end);
        Ok(record)
    })
}

fn read_record(decoder: &mut Decoder) -> Read<TensorRecord> {
    let (mut name, mut kind, mut shape) = (String::new(), None, Vec::new());
    let (mut start, mut length, mut statistics) = (0_u64, None, None);
    cbor::fields(decoder, |key, d| {
        match key {
            0 => d.str()?.clone_into(&mut name),
            1 => kind = Some(d.u32()?),
            2 => shape = cbor::list(d, 1, |d| d.u64())?,
            3 => start = d.u64()?,
            4 => length = Some(d.u64()?),
            5 => statistics = Some(read_statistics(d)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let dtype = kind_of(cbor::required(decoder, kind, "kind")?);
    let length = cbor::required(decoder, length, "length")?;
    let Some(end) = start.checked_add(length).filter(|end| *end > start) else {
        return cbor::refuse(decoder, "a tensor of no bytes, or beyond any file");
    };
    if name.len() > NAME_BYTES_MAX || shape.len() > DIMENSIONS_MAX {
        return cbor::refuse(decoder, "a name or a shape that is too long");
    }
    Ok(TensorRecord { tensor: Tensor { name, dtype, shape, view: View::Own, range: start..end }, statistics })
}

fn read_statistics(decoder: &mut Decoder) -> Read<Statistics> {
    let mut read = Statistics::default();
    cbor::fields(decoder, |key, d| {
        match key {
            0 => read.elements = d.u64()?,
            1 => read.nan = d.u64()?,
            2 => read.infinite = d.u64()?,
            3 => read.zeros = d.u64()?,
            4 => {
                cbor::tuple(d, 2)?;
                read.range = Some((d.f64()?, d.f64()?));
            }
            5 => read.squares = d.f64()?,
            6 => read.exponents = read_exponents(d)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if read.is_consistent() { Ok(read) } else { cbor::refuse(decoder, "statistics that can't be true together") }
}

fn read_exponents(decoder: &mut Decoder) -> Read<Exponents> {
    let count = cbor::array(decoder)?;
    let mut bins = Vec::with_capacity(cbor::room(decoder, count / 2, 2));
    for _ in 0..count / 2 {
        bins.push((decoder.i16()?, decoder.u64()?));
    }
    match Exponents::from_bins(bins).filter(|_| count.is_multiple_of(2)) {
        Some(exponents) => Ok(exponents),
        None => cbor::refuse(decoder, "exponents that are not ascending, or counts of nothing"),
    }
}
