//! Byte planes of numbers (`docs/format.md` §6.2): sign, exponent and mantissa lie in different bytes of an element, and
//! only some of them compress.
//!
//! Each element is rotated left by one bit, so that the exponent of a float is a whole byte and the sign joins the
//! mantissa's last bits; then byte `k` of all elements forms plane `k`, which is stored as one piece.
//!
//! The split and merge loops work on blocks of fixed size without branches, for the compiler to vectorise. They take the
//! elements from a function and give them to one, so that differences ([`super::difference`]) go through them too.

use std::ops::Range;

use super::element::{Element, for_width};
use super::frames::{Compressor, Decompressor};
use super::pieces::{PiecePacker, PieceUnpacker};
use super::{BodyHeader, Effort, grow};
use crate::vectors::wide;

/// Elements a turn in the split and merge loops.
pub(super) const BLOCK: usize = 128;

/// Splits and packs planes; owns the scratch memory.
#[derive(Default)]
pub(super) struct PlaneEncoder {
    planes: Vec<u8>,
    packer: PiecePacker,
}

impl PlaneEncoder {
    /// Appends the payload of `plain` as `header` describes it.
    pub(super) fn encode(
        &mut self,
        compressor: &mut Compressor,
        effort: Effort,
        header: &BodyHeader,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) {
        let elements = header.elements();
        self.encode_elements(compressor, effort, header.width, &plain[elements.clone()], out);
        out.extend_from_slice(&plain[..elements.start]);
        out.extend_from_slice(&plain[elements.end..]);
    }

    /// Appends the planes of whole elements.
    pub(super) fn encode_elements(
        &mut self,
        compressor: &mut Compressor,
        effort: Effort,
        width: u8,
        elements: &[u8],
        out: &mut Vec<u8>,
    ) {
        grow(&mut self.planes, elements.len());
        wide(
            #[inline(always)]
            || for_width!(width, split_rotated(elements, &mut self.planes)),
        );
        let (width, count) = (usize::from(width), elements.len() / usize::from(width));
        for number in 0..width {
            self.packer.pack(compressor, effort, &self.planes[number * count..(number + 1) * count], out);
        }
    }
}

/// Reads planes back; owns the scratch memory.
#[derive(Default)]
pub(super) struct PlaneDecoder {
    planes: Vec<u8>,
    unpacker: PieceUnpacker,
}

impl PlaneDecoder {
    /// Fills `out` (of the announced length) from the payload.
    pub(super) fn decode(
        &mut self,
        frames: &mut Decompressor,
        header: &BodyHeader,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        let mut rest = payload;
        let elements = header.elements();
        self.decode_elements(frames, header.width, &mut rest, &mut out[elements.clone()])?;
        ends(rest, &elements, out)
    }

    /// Fills whole elements from planes, which are taken off the front of `rest`.
    pub(super) fn decode_elements(
        &mut self,
        frames: &mut Decompressor,
        width: u8,
        rest: &mut &[u8],
        elements: &mut [u8],
    ) -> Result<(), &'static str> {
        let count = elements.len() / usize::from(width);
        grow(&mut self.planes, elements.len());
        let mut planes: [&[u8]; 8] = [&[]; 8];
        let mut scratch = &mut self.planes[..];
        for plane in &mut planes[..usize::from(width)] {
            let (space, after) = scratch.split_at_mut(count);
            scratch = after;
            *plane = self.unpacker.unpack(frames, rest, space)?;
        }
        wide(
            #[inline(always)]
            || for_width!(width, merge_rotated(&planes, elements)),
        );
        Ok(())
    }
}

/// Puts the bytes before and after the elements, which must be all that is left of the payload, in their places.
pub(super) fn ends(rest: &[u8], elements: &Range<usize>, out: &mut [u8]) -> Result<(), &'static str> {
    let (head, tail) = (elements.start, out.len() - elements.end);
    if rest.len() != head + tail {
        return Err("the bytes around the elements are not as many as announced");
    }
    out[..head].copy_from_slice(&rest[..head]);
    out[elements.end..].copy_from_slice(&rest[head..]);
    Ok(())
}

#[inline(always)]
fn split_rotated<E: Element<W>, const W: usize>(elements: &[u8], planes: &mut [u8]) {
    let (elements, _) = elements.as_chunks::<W>();
    split::<E, W>(elements.len(), planes, |place, values| {
        for (value, bytes) in values.iter_mut().zip(&elements[place..]) {
            *value = E::load(*bytes).rotated();
        }
    });
}

#[inline(always)]
fn merge_rotated<E: Element<W>, const W: usize>(planes: &[&[u8]; 8], elements: &mut [u8]) {
    let (elements, _) = elements.as_chunks_mut::<W>();
    merge::<E, W>(elements.len(), planes, |place, values| {
        for (bytes, value) in elements[place..].iter_mut().zip(values) {
            *bytes = value.unrotated().bytes();
        }
    });
}

/// Merges planes into elements as they are.
#[inline(always)]
pub(super) fn merge_as_they_are<E: Element<W>, const W: usize>(planes: &[&[u8]; 8], elements: &mut [[u8; W]]) {
    merge::<E, W>(elements.len(), planes, |place, values| {
        for (bytes, value) in elements[place..].iter_mut().zip(values) {
            *bytes = value.bytes();
        }
    });
}

/// Splits `count` elements, which `fill` gives block after block from a place on, into planes that lie one after another
/// in `planes`.
#[inline(always)]
pub(super) fn split<E: Element<W>, const W: usize>(
    count: usize,
    planes: &mut [u8],
    mut fill: impl FnMut(usize, &mut [E]),
) {
    if count == 0 {
        return;
    }
    let mut columns: [&mut [u8]; W] = std::array::from_fn(|_| Default::default());
    for (column, plane) in columns.iter_mut().zip(planes.chunks_exact_mut(count)) {
        *column = plane;
    }
    let mut values = [E::default(); BLOCK];
    for place in (0..count).step_by(BLOCK) {
        let length = BLOCK.min(count - place);
        fill(place, &mut values[..length]);
        for (plane, column) in columns.iter_mut().enumerate() {
            let target = &mut column[place..place + length];
            if let Ok(target) = <&mut [u8; BLOCK]>::try_from(&mut *target) {
                *target = values.map(|value| value.byte(plane));
            } else {
                target.iter_mut().zip(&values).for_each(|(byte, value)| *byte = value.byte(plane));
            }
        }
    }
}

/// The inverse of [`split`]: each of the first `W` planes has `count` bytes, and `drain` takes the elements.
#[inline(always)]
pub(super) fn merge<E: Element<W>, const W: usize>(
    count: usize,
    planes: &[&[u8]; 8],
    mut drain: impl FnMut(usize, &[E]),
) {
    for place in (0..count).step_by(BLOCK) {
        let length = BLOCK.min(count - place);
        let mut values = [E::default(); BLOCK];
        for (plane, bytes) in planes[..W].iter().enumerate() {
            let bytes = &bytes[place..place + length];
            if let Ok(bytes) = <&[u8; BLOCK]>::try_from(bytes) {
                values.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = value.with(plane, byte));
            } else {
                values.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = value.with(plane, byte));
            }
        }
        drain(place, &values[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plane by plane, bit by bit, as docs/format.md §6.2 says it.
    fn naive(elements: &[u8], width: usize) -> Vec<u8> {
        let mut planes = Vec::new();
        for plane in 0..width {
            for element in elements.chunks_exact(width) {
                let below = if plane == 0 { element[width - 1] } else { element[plane - 1] };
                planes.push(element[plane] << 1 | below >> 7);
            }
        }
        planes
    }

    #[test]
    fn split_and_merge_agree_with_the_definition() {
        let mut noise = vec![0; 8 * 517];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for count in [0, 1, 2, 127, 128, 129, 256, 500, 517] {
            check::<u8, 1>(&noise[..count]);
            check::<u16, 2>(&noise[..count * 2]);
            check::<u32, 4>(&noise[..count * 4]);
            check::<u64, 8>(&noise[..count * 8]);
        }
    }

    fn check<E: Element<W>, const W: usize>(elements: &[u8]) {
        let mut planes = vec![0; elements.len()];
        split_rotated::<E, W>(elements, &mut planes);
        assert_eq!(planes, naive(elements, W), "width {W}, {} bytes", elements.len());
        let count = elements.len() / W;
        let mut back = vec![0; elements.len()];
        let plane = |number| planes.get(number * count..(number + 1) * count).unwrap_or_default();
        merge_rotated::<E, W>(&std::array::from_fn(plane), &mut back);
        assert_eq!(back, elements, "width {W}, {} bytes", elements.len());
    }
}
