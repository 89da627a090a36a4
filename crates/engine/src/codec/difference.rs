//! Planes of the difference to a base (`docs/format.md` §6.2.1): numbers that lie where the base has an older state of them.
//!
//! Each element is taken against its counterpart in the base: both become integers that are ordered as the numbers are,
//! and what is stored is the distance, sign at the bottom, in byte planes. With more than one bucket, the elements are first
//! sorted by the base's exponent ([`super::buckets`]), and each plane has a piece for each bucket. Elements
//! without a counterpart are stored as planes of their own.
//!
//! Nothing here decides whether a difference pays ([`super::choice`]). The decoder checks every field and length.

use std::ops::Range;

use super::buckets::{BUCKETS_MAX, Partition, keys_of};
use super::derived::Cast;
use super::element::{Element, for_width};
use super::frames::{Compressor, Decompressor};
use super::pieces::{PiecePacker, PieceUnpacker};
use super::planes::{self, PlaneDecoder, PlaneEncoder};
use super::scales::{ByScale, LEVEL_BITS, Scales, listed};
use super::{BodyHeader, Effort, grow};
use crate::vectors::wide;

/// Length of the shape at the payload's beginning.
const SHAPE_BYTES: usize = 8;
/// The bit of the operation that says that elements are sorted by scale.
const BY_SCALE: u8 = 2;
/// Stands for the shift of a [`Partition`] by scale, of which no other has the keys.
const SCALES: u32 = 256;

/// What is stored of an element and its counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// The distance between them as floats.
    Float,
    /// The distance between them as integers, with or without a sign.
    Integer,
}

impl Operation {
    /// What is stored of an element.
    #[inline(always)]
    pub(super) fn distance<E: Element<W>, const W: usize>(self, new: E, old: E) -> E {
        match self {
            Self::Float => new.ordered().distance(old.ordered()),
            Self::Integer => new.distance(old),
        }
    }

    /// Undoes [`Self::distance`].
    #[inline(always)]
    fn restore<E: Element<W>, const W: usize>(self, stored: E, old: E) -> E {
        match self {
            Self::Float => stored.at_distance(old.ordered()).unordered(),
            Self::Integer => stored.at_distance(old),
        }
    }
}

/// The fields at the payload's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub operation: Operation,
    /// 1 to [`BUCKETS_MAX`]; by scale at least 2.
    pub buckets: u8,
    /// Where the key begins in a rotated element of the base, in bits.
    pub shift: u8,
    /// Byte `p` of the plain bytes has its counterpart at `p + place` of the base.
    pub place: i32,
    /// The base is not taken as it is, but cast.
    pub cast: Option<Cast>,
    /// The buckets are by scale, not by the base's exponent alone.
    pub by: Option<ByScale>,
}

impl Shape {
    fn write(&self, out: &mut Vec<u8>) {
        let operation = match self.operation {
            Operation::Float => 0,
            Operation::Integer => 1,
        };
        let cast = self.cast.map_or(0, |cast| 1 + cast as u8);
        let by_scale = if self.by.is_some() { BY_SCALE } else { 0 };
        out.extend_from_slice(&[operation | by_scale, self.buckets, self.shift, cast]);
        out.extend_from_slice(&self.place.to_le_bytes());
        self.by.iter().for_each(|by| by.write(out));
    }

    fn parse(payload: &[u8], width: u8) -> Result<(Self, &[u8]), &'static str> {
        let (&[operation, buckets, shift, cast, a, b, c, d], rest) =
            payload.split_first_chunk::<SHAPE_BYTES>().ok_or("the payload ends inside the difference's shape")?;
        let is_by_scale = operation & BY_SCALE != 0;
        let operation = match operation & !BY_SCALE {
            0 => Operation::Float,
            1 => Operation::Integer,
            _ => return Err("an operation that is unknown"),
        };
        let buckets_min = if is_by_scale { 2 } else { 1 };
        if !(buckets_min..=BUCKETS_MAX).contains(&usize::from(buckets)) || shift >= 8 * width {
            return Err("buckets or shift of a difference do not fit");
        }
        let cast = match cast.checked_sub(1) {
            None => None,
            Some(number) => Some(Cast::from_number(number).ok_or("a cast of the base that is unknown")?),
        };
        let (by, rest) = match rest.split_first_chunk() {
            _ if !is_by_scale => (None, rest),
            Some((fields, rest)) => (Some(ByScale::parse(*fields)?), rest),
            None => return Err("the payload ends inside the shape of scales"),
        };
        Ok((Self { operation, buckets, shift, place: i32::from_le_bytes([a, b, c, d]), cast, by }, rest))
    }

    /// What tells partitions of one base apart.
    fn partition_shift(&self) -> u32 {
        if self.by.is_some() { SCALES } else { u32::from(self.shift) }
    }

    /// The numbers of the elements whose counterparts lie wholly in a base of that length, and these as a range of it.
    pub(super) fn covered(&self, header: &BodyHeader, base_len: usize) -> (Range<usize>, Range<usize>) {
        let width = i64::from(header.width);
        let count = header.elements().len() as i64 / width;
        let first = i64::from(header.head) + i64::from(self.place);
        let start = (((-first).max(0) + width - 1) / width).min(count);
        let end = ((base_len as i64 - first).max(0) / width).clamp(start, count);
        let at = |number: i64| (first + number * width) as usize;
        match start < end {
            true => (start as usize..end as usize, at(start)..at(end)),
            false => (0..0, 0..0),
        }
    }
}

/// Makes payloads; owns the scratch memory.
#[derive(Default)]
pub(super) struct DifferenceEncoder {
    partition: Option<Partition>,
    scales: Scales,
    keys: Vec<u8>,
    planes: Vec<u8>,
    permuted: Vec<u8>,
    outside: Vec<u8>,
    packer: PiecePacker,
}

impl DifferenceEncoder {
    /// The partition of the last payload's base, if one was made.
    pub(super) fn partition(&self) -> Option<&Partition> {
        self.partition.as_ref()
    }

    /// Appends the payload of the plain bytes, against those of the base, as `header` and `shape` describe it; where the shape
    /// has a cast, the base is given cast. `alone` stores what has no counterpart.
    #[expect(clippy::too_many_arguments, reason = "they are one blob's parts, and what packs them")]
    pub(super) fn encode(
        &mut self,
        compressor: &mut Compressor,
        alone: &mut PlaneEncoder,
        effort: Effort,
        header: &BodyHeader,
        shape: &Shape,
        (plain, base): (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) {
        shape.write(out);
        let (numbers, place) = shape.covered(header, base.len());
        let (elements, width) = (header.elements(), usize::from(header.width));
        let bytes = &plain[elements.clone()];
        let covered = &bytes[numbers.start * width..numbers.end * width];
        let partition = wide(
            #[inline(always)]
            || for_width!(header.width, self.transform(shape, covered, &base[place])),
        );
        if shape.by.is_some() {
            self.scales.write(compressor, effort, out);
        }
        let mut rest = &self.planes[..];
        for length in (0..width).flat_map(|_| partition.lengths()).filter(|&&length| length > 0) {
            let (piece, after) = rest.split_at(*length);
            rest = after;
            self.packer.pack(compressor, effort, piece, out);
        }
        self.partition = Some(partition);
        self.outside.clear();
        self.outside.extend_from_slice(&bytes[..numbers.start * width]);
        self.outside.extend_from_slice(&bytes[numbers.end * width..]);
        if !self.outside.is_empty() {
            alone.encode_elements(compressor, effort, header.width, &self.outside, out);
        }
        out.extend_from_slice(&plain[..elements.start]);
        out.extend_from_slice(&plain[elements.end..]);
    }

    /// Fills the planes with the differences in order of buckets; gives the partition.
    #[inline(always)]
    fn transform<E: Element<W>, const W: usize>(&mut self, shape: &Shape, plain: &[u8], base: &[u8]) -> Partition {
        let (plain, _) = plain.as_chunks::<W>();
        let (base, _) = base.as_chunks::<W>();
        // Why a match: the loops are compiled for each operation.
        match shape.operation {
            Operation::Float => {
                self.transform_by(shape, plain, base, |new, old| Operation::Float.distance::<E, W>(new, old))
            }
            Operation::Integer => {
                self.transform_by(shape, plain, base, |new, old| Operation::Integer.distance::<E, W>(new, old))
            }
        }
    }

    #[inline(always)]
    fn transform_by<E: Element<W>, const W: usize>(
        &mut self,
        shape: &Shape,
        plain: &[[u8; W]],
        base: &[[u8; W]],
        distance: impl Fn(E, E) -> E,
    ) -> Partition {
        let fill = |place: usize, values: &mut [E]| {
            for ((value, new), old) in values.iter_mut().zip(&plain[place..]).zip(&base[place..]) {
                *value = distance(E::load(*new), E::load(*old));
            }
        };
        grow(&mut self.planes, plain.len() * W);
        let exponents = keys_of::<E, W>(base, u32::from(shape.shift));
        let (shift, buckets) = (shape.partition_shift(), usize::from(shape.buckets));
        if buckets == 1 {
            planes::split::<E, W>(plain.len(), &mut self.planes, fill);
            return Partition::new(base.len(), shift, buckets, exponents);
        }
        grow(&mut self.permuted, plain.len() * W);
        let (permuted, _) = self.permuted[..plain.len() * W].as_chunks_mut::<W>();
        let partition = match shape.by {
            Some(by) => {
                self.scales.fit(base.len(), by.row as usize, |numbers, levels| {
                    let pairs = plain[numbers.clone()].iter().zip(&base[numbers]);
                    for (level, (new, old)) in levels.iter_mut().zip(pairs) {
                        let (size, old) = (distance(E::load(*new), E::load(*old)).size(), E::load(*old));
                        let below = i32::from(old.key(u32::from(shape.shift))) << LEVEL_BITS;
                        *level = if size == 0 { 0 } else { size + below };
                    }
                });
                self.keys.resize(base.len(), 0);
                self.scales.keys(by.shift, &mut self.keys, exponents);
                let partition = Partition::new(base.len(), shift, buckets, listed(&self.keys));
                partition.scatter::<E, W>(listed(&self.keys), permuted, fill);
                partition
            }
            None => {
                let partition = Partition::new(base.len(), shift, buckets, &exponents);
                partition.scatter::<E, W>(exponents, permuted, fill);
                partition
            }
        };
        planes::split::<E, W>(plain.len(), &mut self.planes, |place, values| {
            for (value, bytes) in values.iter_mut().zip(&permuted[place..]) {
                *value = E::load(*bytes);
            }
        });
        partition
    }
}

/// Reads payloads back; owns the scratch memory.
#[derive(Default)]
pub(super) struct DifferenceDecoder {
    cast: Vec<u8>,
    scales: Scales,
    keys: Vec<u8>,
    planes: Vec<u8>,
    permuted: Vec<u8>,
    outside: Vec<u8>,
    unpacker: PieceUnpacker,
}

impl DifferenceDecoder {
    /// Fills `out` (of the announced length) from the payload. `alone` reads what has no counterpart. `known` is the partition
    /// of the base, where somebody made it.
    pub(super) fn decode(
        &mut self,
        frames: &mut Decompressor,
        alone: &mut PlaneDecoder,
        header: &BodyHeader,
        payload: &[u8],
        (base, known): (&[u8], Option<&Partition>),
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        let (shape, rest) = Shape::parse(payload, header.width)?;
        let Some(cast) = shape.cast else {
            return self.decode_against(frames, alone, header, &shape, (rest, base, known), out);
        };
        let mut bytes = std::mem::take(&mut self.cast);
        let decoded = match cast.apply(base, &mut bytes) {
            true => self.decode_against(frames, alone, header, &shape, (rest, &bytes, known), out),
            false => Err("a base that can't be cast"),
        };
        self.cast = bytes;
        decoded
    }

    fn decode_against(
        &mut self,
        frames: &mut Decompressor,
        alone: &mut PlaneDecoder,
        header: &BodyHeader,
        shape: &Shape,
        (mut rest, base, known): (&[u8], &[u8], Option<&Partition>),
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        let (numbers, place) = shape.covered(header, base.len());
        let (elements, width) = (header.elements(), usize::from(header.width));
        let bytes = &mut out[elements.clone()];
        let covered = &mut bytes[numbers.start * width..numbers.end * width];
        wide(
            #[inline(always)]
            || for_width!(header.width, self.covered(frames, shape, &mut rest, (&base[place], known), covered)),
        )?;
        if numbers.len() * width < bytes.len() {
            self.outside.resize(bytes.len() - numbers.len() * width, 0);
            alone.decode_elements(frames, header.width, &mut rest, &mut self.outside)?;
            let (before, after) = self.outside.split_at(numbers.start * width);
            bytes[..numbers.start * width].copy_from_slice(before);
            bytes[numbers.end * width..].copy_from_slice(after);
        }
        planes::ends(rest, &elements, out)
    }

    #[inline(always)]
    fn covered<E: Element<W>, const W: usize>(
        &mut self,
        frames: &mut Decompressor,
        shape: &Shape,
        rest: &mut &[u8],
        (base, known): (&[u8], Option<&Partition>),
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        let (base, _) = base.as_chunks::<W>();
        let (out, _) = out.as_chunks_mut::<W>();
        let exponents = keys_of::<E, W>(base, u32::from(shape.shift));
        if let Some(by) = shape.by {
            self.scales.read(frames, (base.len(), by.row as usize), rest)?;
            self.keys.resize(base.len(), 0);
            self.scales.keys(by.shift, &mut self.keys, &exponents);
        }
        let (shift, buckets) = (shape.partition_shift(), usize::from(shape.buckets));
        let made;
        let partition = match known {
            Some(known) if known.fits(base.len(), shift, buckets) => known,
            _ => {
                made = match shape.by {
                    Some(_) => Partition::new(base.len(), shift, buckets, listed(&self.keys)),
                    None => Partition::new(base.len(), shift, buckets, exponents),
                };
                &made
            }
        };
        match shape.operation {
            Operation::Float => self.covered_by(frames, (shape, partition), rest, base, out, |stored, old| {
                Operation::Float.restore::<E, W>(stored, old)
            }),
            Operation::Integer => self.covered_by(frames, (shape, partition), rest, base, out, |stored, old| {
                Operation::Integer.restore::<E, W>(stored, old)
            }),
        }
    }

    #[inline(always)]
    fn covered_by<E: Element<W>, const W: usize>(
        &mut self,
        frames: &mut Decompressor,
        (shape, partition): (&Shape, &Partition),
        rest: &mut &[u8],
        base: &[[u8; W]],
        out: &mut [[u8; W]],
        restore: impl Fn(E, E) -> E,
    ) -> Result<(), &'static str> {
        grow(&mut self.planes, base.len() * W);
        let mut planes: [&[u8]; 8] = [&[]; 8];
        let mut scratch = &mut self.planes[..];
        for plane in planes.iter_mut().take(if base.is_empty() { 0 } else { W }) {
            let (space, after) = scratch.split_at_mut(base.len());
            scratch = after;
            *plane = unpack_buckets(&mut self.unpacker, frames, partition.lengths(), rest, space)?;
        }
        let drain = |place: usize, values: &[E]| {
            for ((new, value), old) in out[place..].iter_mut().zip(values).zip(&base[place..]) {
                *new = restore(*value, E::load(*old)).bytes();
            }
        };
        if partition.lengths().len() == 1 {
            planes::merge::<E, W>(base.len(), &planes, drain);
            return Ok(());
        }
        grow(&mut self.permuted, base.len() * W);
        let (permuted, _) = self.permuted[..base.len() * W].as_chunks_mut::<W>();
        planes::merge_as_they_are::<E, W>(&planes, permuted);
        match shape.by {
            Some(_) => partition.gather::<E, W>(listed(&self.keys), permuted, drain),
            None => partition.gather::<E, W>(keys_of::<E, W>(base, u32::from(shape.shift)), permuted, drain),
        }
        Ok(())
    }
}

/// Takes the pieces of one plane off the front of `rest`; a view where it is one piece that lies raw.
pub(super) fn unpack_buckets<'a, 'r: 'a>(
    unpacker: &mut PieceUnpacker,
    frames: &mut Decompressor,
    lengths: &[usize],
    rest: &mut &'r [u8],
    space: &'a mut [u8],
) -> Result<&'a [u8], &'static str> {
    if let [_] = lengths {
        return unpacker.unpack(frames, rest, space);
    }
    let mut free = &mut space[..];
    for length in lengths.iter().filter(|&&length| length > 0) {
        let (piece, after) = free.split_at_mut(*length);
        free = after;
        unpacker.unpack_into(frames, rest, piece)?;
    }
    Ok(space)
}
