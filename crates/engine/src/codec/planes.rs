//! Byte planes of numbers (`docs/format.md` §6.2): sign, exponent and mantissa lie in different bytes of an element, and
//! only some of them compress.
//!
//! Each element is rotated left by one bit, so that the exponent of a float is a whole byte and the sign joins the
//! mantissa's last bits; then byte `k` of all elements forms plane `k`. A plane is stored as a constant, as it is, or as a
//! zstd frame: order-0 Huffman where its bytes look independent of their neighbours, level 1 where they do not.
//!
//! The split and merge loops work on blocks of fixed size without branches, for the compiler to vectorise.

use super::frames::{Compressor, Decompressor, Settings};
use super::sample::{self, Histogram};
use super::{BodyHeader, Effort};

/// Elements a turn in the split and merge loops.
const BLOCK: usize = 64;
/// Bytes before a plane's content: kind and length.
const PLANE_HEADER_BYTES: usize = 5;
/// A plane whose sampled entropy is over this many bits a byte is stored as it is.
const RAW_ENTROPY_BITS: f32 = 7.8;

const CONSTANT: u8 = 0;
const RAW: u8 = 1;
const FRAME: u8 = 2;

/// Splits and packs planes; owns the scratch memory.
#[derive(Default)]
pub(super) struct PlaneEncoder {
    planes: Vec<u8>,
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
        self.planes.resize(elements.len(), 0);
        match header.width {
            2 => split::<2>(&plain[elements.clone()], &mut self.planes),
            4 => split::<4>(&plain[elements.clone()], &mut self.planes),
            _ => split::<8>(&plain[elements.clone()], &mut self.planes),
        }
        let count = elements.len() / usize::from(header.width);
        for number in 0..usize::from(header.width) {
            pack(compressor, effort, &self.planes[number * count..(number + 1) * count], out);
        }
        out.extend_from_slice(&plain[..elements.start]);
        out.extend_from_slice(&plain[elements.end..]);
    }
}

/// Appends one plane.
fn pack(compressor: &mut Compressor, effort: Effort, plane: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PLANE_HEADER_BYTES]);
    let kind = match plane.first() {
        Some(&first) if sample::is_constant(plane) => {
            out.push(first);
            CONSTANT
        }
        _ if compress(compressor, effort, plane, out) => FRAME,
        _ => {
            out.extend_from_slice(plane);
            RAW
        }
    };
    let length = (out.len() - start - PLANE_HEADER_BYTES) as u32;
    out[start] = kind;
    out[start + 1..start + PLANE_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Appends a frame of the plane if that pays; else leaves `out` as it was.
fn compress(compressor: &mut Compressor, effort: Effort, plane: &[u8], out: &mut Vec<u8>) -> bool {
    let (histogram, repeats) = Histogram::of_plane(plane);
    let entropy = histogram.entropy();
    // Bytes that follow their like more often than their frequencies explain: matches are worth looking for.
    let runs = repeats > 1.5 * histogram.repeat_chance() + 0.05;
    if entropy > RAW_ENTROPY_BITS && !runs {
        return false;
    }
    let settings = match effort {
        Effort::Dense if runs => Settings::level(6),
        _ if runs => Settings::level(1),
        _ => Settings::HUFFMAN,
    };
    let start = out.len();
    let packed = compressor.compress(&settings, plane, out).is_some_and(|length| length < plane.len());
    if !packed {
        out.truncate(start);
    }
    packed
}

/// Reads planes back; owns the scratch memory.
#[derive(Default)]
pub(super) struct PlaneDecoder {
    planes: Vec<u8>,
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
        let elements = header.elements();
        let width = usize::from(header.width);
        let count = elements.len() / width;
        self.planes.resize(elements.len(), 0);
        let mut rest = payload;
        let mut planes: [&[u8]; 8] = [&[]; 8];
        let mut scratch = &mut self.planes[..];
        for plane in &mut planes[..width] {
            let (space, after) = scratch.split_at_mut(count);
            scratch = after;
            *plane = unpack(frames, &mut rest, space)?;
        }
        let (head, tail) = (elements.start, out.len() - elements.end);
        if rest.len() != head + tail {
            return Err("the bytes around the elements are not as many as announced");
        }
        out[..head].copy_from_slice(&rest[..head]);
        out[elements.end..].copy_from_slice(&rest[head..]);
        let target = &mut out[elements];
        match planes {
            [a, b, ..] if width == 2 => merge([a, b], target),
            [a, b, c, d, ..] if width == 4 => merge([a, b, c, d], target),
            all => merge(all, target),
        }
        Ok(())
    }
}

/// Takes one plane off the front of `rest`: a view of it where it lies raw, else decoded into `space`.
fn unpack<'a>(frames: &mut Decompressor, rest: &mut &'a [u8], space: &'a mut [u8]) -> Result<&'a [u8], &'static str> {
    let (&[kind, a, b, c, d], after) = rest.split_first_chunk().ok_or("the payload ends inside a plane's header")?;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let (content, after) = after.split_at_checked(length).ok_or("the payload ends inside a plane")?;
    *rest = after;
    match (kind, content) {
        (RAW, _) if length == space.len() => return Ok(content),
        (CONSTANT, [byte]) => space.fill(*byte),
        (FRAME, _) => frames.decompress(content, space)?,
        _ => return Err("a plane's kind or length does not fit"),
    }
    Ok(space)
}

/// An element as an integer: little-endian bytes, rotated.
trait Element: Copy + Default {
    fn rotated(bytes: &[u8]) -> Self;
    fn byte(self, number: usize) -> u8;
    fn with(self, number: usize, byte: u8) -> Self;
    fn unrotated(self, bytes: &mut [u8]);
}

macro_rules! element {
    ($type:ty, $bytes:literal) => {
        impl Element for $type {
            #[inline(always)]
            fn rotated(bytes: &[u8]) -> Self {
                let mut array = [0; $bytes];
                array.copy_from_slice(bytes);
                Self::from_le_bytes(array).rotate_left(1)
            }
            #[inline(always)]
            fn byte(self, number: usize) -> u8 {
                (self >> (8 * number)) as u8
            }
            #[inline(always)]
            fn with(self, number: usize, byte: u8) -> Self {
                self | Self::from(byte) << (8 * number)
            }
            #[inline(always)]
            fn unrotated(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.rotate_right(1).to_le_bytes());
            }
        }
    };
}
element!(u16, 2);
element!(u32, 4);
element!(u64, 8);

/// Splits whole elements into planes that lie one after another in `planes`, which is as long.
fn split<const W: usize>(elements: &[u8], planes: &mut [u8]) {
    match W {
        2 => split_as::<u16, W>(elements, planes),
        4 => split_as::<u32, W>(elements, planes),
        _ => split_as::<u64, W>(elements, planes),
    }
}

fn split_as<E: Element, const W: usize>(elements: &[u8], planes: &mut [u8]) {
    let count = elements.len() / W;
    if count == 0 {
        return;
    }
    let mut columns: [&mut [u8]; W] = std::array::from_fn(|_| Default::default());
    for (column, plane) in columns.iter_mut().zip(planes.chunks_exact_mut(count)) {
        *column = plane;
    }
    for (number, block) in elements.chunks(BLOCK * W).enumerate() {
        let mut values = [E::default(); BLOCK];
        for (value, bytes) in values.iter_mut().zip(block.chunks_exact(W)) {
            *value = E::rotated(bytes);
        }
        let place = number * BLOCK;
        for (plane, column) in columns.iter_mut().enumerate() {
            let target = &mut column[place..(place + BLOCK).min(count)];
            if let Ok(target) = <&mut [u8; BLOCK]>::try_from(&mut *target) {
                *target = values.map(|value| value.byte(plane));
            } else {
                target.iter_mut().zip(&values).for_each(|(byte, value)| *byte = value.byte(plane));
            }
        }
    }
}

/// The inverse of [`split`]: all planes have as many bytes as `elements` has elements.
fn merge<const W: usize>(planes: [&[u8]; W], elements: &mut [u8]) {
    match W {
        2 => merge_as::<u16, W>(planes, elements),
        4 => merge_as::<u32, W>(planes, elements),
        _ => merge_as::<u64, W>(planes, elements),
    }
}

fn merge_as<E: Element, const W: usize>(planes: [&[u8]; W], elements: &mut [u8]) {
    for (number, block) in elements.chunks_mut(BLOCK * W).enumerate() {
        let place = number * BLOCK;
        let end = place + block.len() / W;
        let mut values = [E::default(); BLOCK];
        for (plane, bytes) in planes.iter().enumerate() {
            let bytes = &bytes[place..end];
            if let Ok(bytes) = <&[u8; BLOCK]>::try_from(bytes) {
                values.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = value.with(plane, byte));
            } else {
                values.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = value.with(plane, byte));
            }
        }
        for (bytes, value) in block.chunks_exact_mut(W).zip(&values) {
            value.unrotated(bytes);
        }
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
        for count in [0, 1, 2, 63, 64, 65, 128, 500, 517] {
            check::<2>(&noise[..count * 2]);
            check::<4>(&noise[..count * 4]);
            check::<8>(&noise[..count * 8]);
        }
    }

    fn check<const W: usize>(elements: &[u8]) {
        let mut planes = vec![0; elements.len()];
        split::<W>(elements, &mut planes);
        assert_eq!(planes, naive(elements, W), "width {W}, {} bytes", elements.len());
        let count = elements.len() / W;
        let mut back = vec![0; elements.len()];
        merge::<W>(std::array::from_fn(|number| &planes[number * count..(number + 1) * count]), &mut back);
        assert_eq!(back, elements, "width {W}, {} bytes", elements.len());
    }
}
