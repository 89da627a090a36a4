//! Planes by scale (`docs/format.md` §6.2.3): the numbers of a matrix, sorted by the scales of their rows and columns
//! ([`super::scales`]). Of Adam's moments that saves 4 to 6 %, of weights next to nothing.
//!
//! Nothing here decides whether it pays. The decoder checks every field and length.

use super::buckets::{BUCKETS_MAX, Partition};
use super::difference::unpack_buckets;
use super::element::{Element, for_width};
use super::frames::{Compressor, Decompressor};
use super::pieces::{PiecePacker, PieceUnpacker};
use super::planes;
use super::scales::{ByScale, Scales, levels_of, listed, no_exponents};
use super::{BodyHeader, Effort, grow};
use crate::vectors::wide;

/// Length of the fields at the payload's beginning.
const SHAPE_BYTES: usize = 1 + ByScale::BYTES;

/// The fields at the payload's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// 2 to [`BUCKETS_MAX`].
    pub buckets: u8,
    pub by: ByScale,
}

impl Shape {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.buckets);
        self.by.write(out);
    }

    fn parse(payload: &[u8]) -> Result<(Self, &[u8]), &'static str> {
        let (&[buckets, by @ ..], rest) =
            payload.split_first_chunk::<SHAPE_BYTES>().ok_or("the payload ends inside the shape of scales")?;
        if !(2..=BUCKETS_MAX).contains(&usize::from(buckets)) {
            return Err("buckets of scales do not fit");
        }
        Ok((Self { buckets, by: ByScale::parse(by)? }, rest))
    }
}

/// Makes payloads; owns the scratch memory.
#[derive(Default)]
pub(super) struct ScaledEncoder {
    scales: Scales,
    keys: Vec<u8>,
    planes: Vec<u8>,
    permuted: Vec<u8>,
    packer: PiecePacker,
}

impl ScaledEncoder {
    /// Appends the payload of `plain` as `header` and `shape` describe it; the exponent begins at bit `exponent` of a rotated
    /// element.
    pub(super) fn encode(
        &mut self,
        (compressor, effort): (&mut Compressor, Effort),
        header: &BodyHeader,
        (shape, exponent): (&Shape, u8),
        plain: &[u8],
        out: &mut Vec<u8>,
    ) {
        shape.write(out);
        let elements = header.elements();
        let partition = wide(
            #[inline(always)]
            || for_width!(header.width, self.sort(shape, exponent, &plain[elements.clone()])),
        );
        self.scales.write(compressor, effort, out);
        let mut rest = &self.planes[..];
        for length in (0..header.width).flat_map(|_| partition.lengths()).filter(|&&length| length > 0) {
            let (piece, after) = rest.split_at(*length);
            rest = after;
            self.packer.pack(compressor, effort, piece, out);
        }
        out.extend_from_slice(&plain[..elements.start]);
        out.extend_from_slice(&plain[elements.end..]);
    }

    /// Fits the scales, and fills the planes with the rotated elements in order of buckets; gives the partition.
    #[inline(always)]
    fn sort<E: Element<W>, const W: usize>(&mut self, shape: &Shape, exponent: u8, bytes: &[u8]) -> Partition {
        let (elements, _) = bytes.as_chunks::<W>();
        self.scales.fit(elements.len(), shape.by.row as usize, levels_of::<E, W>(elements, exponent));
        self.keys.resize(elements.len(), 0);
        self.scales.keys(shape.by.shift, &mut self.keys, no_exponents);
        let list = listed(&self.keys);
        let partition = Partition::new(elements.len(), 0, usize::from(shape.buckets), &list);
        grow(&mut self.planes, bytes.len());
        grow(&mut self.permuted, bytes.len());
        let (permuted, _) = self.permuted[..bytes.len()].as_chunks_mut::<W>();
        partition.scatter::<E, W>(list, permuted, |place, values| {
            for (value, bytes) in values.iter_mut().zip(&elements[place..]) {
                *value = E::load(*bytes).rotated();
            }
        });
        planes::split::<E, W>(elements.len(), &mut self.planes, |place, values| {
            for (value, bytes) in values.iter_mut().zip(&permuted[place..]) {
                *value = E::load(*bytes);
            }
        });
        partition
    }
}

/// Reads payloads back; owns the scratch memory.
#[derive(Default)]
pub(super) struct ScaledDecoder {
    scales: Scales,
    keys: Vec<u8>,
    planes: Vec<u8>,
    permuted: Vec<u8>,
    unpacker: PieceUnpacker,
}

impl ScaledDecoder {
    /// Fills `out` (of the announced length) from the payload.
    pub(super) fn decode(
        &mut self,
        frames: &mut Decompressor,
        header: &BodyHeader,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        let (shape, mut rest) = Shape::parse(payload)?;
        let elements = header.elements();
        let count = elements.len() / usize::from(header.width);
        self.scales.read(frames, (count, shape.by.row as usize), &mut rest)?;
        self.keys.resize(count, 0);
        self.scales.keys(shape.by.shift, &mut self.keys, no_exponents);
        wide(
            #[inline(always)]
            || for_width!(header.width, self.gather(frames, &shape, &mut rest, &mut out[elements.clone()])),
        )?;
        planes::ends(rest, &elements, out)
    }

    #[inline(always)]
    fn gather<E: Element<W>, const W: usize>(
        &mut self,
        frames: &mut Decompressor,
        shape: &Shape,
        rest: &mut &[u8],
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        let (out, _) = out.as_chunks_mut::<W>();
        let count = out.len();
        let list = listed(&self.keys);
        let partition = Partition::new(count, 0, usize::from(shape.buckets), &list);
        grow(&mut self.planes, count * W);
        let mut planes: [&[u8]; 8] = [&[]; 8];
        let mut scratch = &mut self.planes[..];
        for plane in planes.iter_mut().take(W) {
            let (space, after) = scratch.split_at_mut(count);
            scratch = after;
            *plane = unpack_buckets(&mut self.unpacker, frames, partition.lengths(), rest, space)?;
        }
        grow(&mut self.permuted, count * W);
        let (permuted, _) = self.permuted[..count * W].as_chunks_mut::<W>();
        planes::merge_as_they_are::<E, W>(&planes, permuted);
        partition.gather::<E, W>(list, permuted, |place, values| {
            for (bytes, value) in out[place..].iter_mut().zip(values) {
                *bytes = value.unrotated().bytes();
            }
        });
        Ok(())
    }
}
