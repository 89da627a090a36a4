//! Pieces: how one run of bytes of a plane is stored (`docs/format.md` §6.2): as one repeated byte, as it is, as a zstd
//! frame, or as a map of the places that hold the commonest byte and the other bytes.
//!
//! A frame is order-0 Huffman where the bytes look independent of their neighbours, level 1 where they do not. A Huffman
//! code spends a whole bit on the likeliest byte; the map spends an eighth, so planes that are mostly zero shrink far below
//! a bit a byte. What is chosen rests on a sample: a wrong guess costs ratio, never data.

use super::Effort;
use super::frames::{Compressor, Decompressor, Settings};
use super::sample::{self, Histogram};
use crate::vectors::wide;

/// Bytes before a piece's content: kind and length.
const PIECE_HEADER_BYTES: usize = 5;
/// A piece whose sampled entropy is over this many bits a byte is stored as it is.
pub(super) const RAW_ENTROPY_BITS: f32 = 7.8;
/// A map is tried where one byte holds this share of the places: there it saves 0.12 bits a byte, and half a bit at 0.9.
pub(super) const COMMON_MIN: f32 = 0.7;
/// Over this share of equal bytes matches cost less than one bit a byte.
const RUNS_MIN: f32 = 0.95;
/// No shorter piece is worth a frame.
const FRAME_BYTES_MIN: usize = 32;

const CONSTANT: u8 = 0;
const RAW: u8 = 1;
const FRAME: u8 = 2;
const MAPPED: u8 = 3;

/// Stores pieces; owns the scratch memory.
#[derive(Default)]
pub(super) struct PiecePacker {
    map: Vec<u8>,
    others: Vec<u8>,
    attempt: Vec<u8>,
}

impl PiecePacker {
    /// Appends one piece.
    pub(super) fn pack(&mut self, compressor: &mut Compressor, effort: Effort, bytes: &[u8], out: &mut Vec<u8>) {
        let (histogram, repeats) = Histogram::of_plane(bytes);
        let (common, share) = histogram.commonest();
        if bytes.len() < FRAME_BYTES_MIN || share < COMMON_MIN || sample::is_constant(bytes) {
            return pack_plain(compressor, effort, bytes, &histogram, repeats, out);
        }
        let start = out.len();
        self.pack_mapped(compressor, effort, bytes, common, out);
        // Why: where equal bytes stand together, matches over all of them may take less than the map.
        if effort != Effort::Fast && clustered(&histogram, repeats) {
            self.attempt.clear();
            pack_plain(compressor, effort, bytes, &histogram, repeats, &mut self.attempt);
            if self.attempt.len() < out.len() - start {
                out.truncate(start);
                out.extend_from_slice(&self.attempt);
            }
        }
    }

    fn pack_mapped(
        &mut self,
        compressor: &mut Compressor,
        effort: Effort,
        bytes: &[u8],
        common: u8,
        out: &mut Vec<u8>,
    ) {
        // Why more than there are, and never less than before: a block may write all its places, and nothing is cleared.
        self.others.resize(self.others.len().max(bytes.len() + 64), 0);
        let count = wide(
            #[inline(always)]
            || separate(bytes, common, &mut self.map, &mut self.others),
        );
        let start = begin(out);
        out.push(common);
        for part in [&self.map, &self.others[..count]] {
            let (histogram, repeats) = Histogram::of_plane(part);
            pack_plain(compressor, effort, part, &histogram, repeats, out);
        }
        end(start, MAPPED, out);
    }
}

/// Fills the map with the places where another byte than the common one stands, and begins `others`, which is longer by a block
/// than all of them, with those bytes. Gives how many there are.
#[inline(always)]
fn separate(bytes: &[u8], common: u8, map: &mut Vec<u8>, others: &mut [u8]) -> usize {
    map.clear();
    let mut count = 0;
    // Why by 64: the end of a loop over few others is mispredicted as often as that of one over many.
    let (blocks, rest) = bytes.as_chunks::<64>();
    for block in blocks {
        let (groups, _) = block.as_chunks::<8>();
        let flags = std::array::from_fn(|group| differing(u64::from_le_bytes(groups[group]), common));
        map.extend_from_slice(&flags);
        let flags = u64::from_le_bytes(flags);
        for (other, place) in others[count..count + 64].iter_mut().zip(places(flags)) {
            *other = block[place % 64];
        }
        count += flags.count_ones() as usize;
    }
    for group in rest.chunks(8) {
        let flag = |(bit, &byte): (usize, &u8)| u8::from(byte != common) << bit;
        map.push(group.iter().enumerate().map(flag).sum());
        for &byte in group.iter().filter(|&&byte| byte != common) {
            others[count] = byte;
            count += 1;
        }
    }
    count
}

/// A bit for each of eight bytes, set where it is not `common`.
#[inline(always)]
fn differing(group: u64, common: u8) -> u8 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let difference = group ^ (u64::from(common) * 0x0101_0101_0101_0101);
    // The top bit of each byte says that it is not zero; the product gathers them in the top byte.
    let flags = (((difference & LOW) + LOW) | difference) & !LOW;
    ((flags >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// The numbers of the bits that are set.
#[inline(always)]
fn places(mut flags: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (flags != 0).then(|| flags.trailing_zeros() as usize)?;
        flags &= flags - 1;
        Some(place)
    })
}

/// Bytes that follow their like more often than their frequencies explain.
fn clustered(histogram: &Histogram, repeats: f32) -> bool {
    repeats > 1.5 * histogram.repeat_chance() + 0.05
}

/// Appends a piece without a map.
fn pack_plain(
    compressor: &mut Compressor,
    effort: Effort,
    bytes: &[u8],
    histogram: &Histogram,
    repeats: f32,
    out: &mut Vec<u8>,
) {
    let start = begin(out);
    let kind = match bytes.first() {
        Some(&first) if sample::is_constant(bytes) => {
            out.push(first);
            CONSTANT
        }
        _ if compress(compressor, effort, bytes, histogram, repeats, out) => FRAME,
        _ => {
            out.extend_from_slice(bytes);
            RAW
        }
    };
    end(start, kind, out);
}

/// Room for a piece's header; gives where it stands.
fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; PIECE_HEADER_BYTES]);
    start
}

/// Writes the header of the piece that began at `start` and ends here.
fn end(start: usize, kind: u8, out: &mut [u8]) {
    let length = (out.len() - start - PIECE_HEADER_BYTES) as u32;
    out[start] = kind;
    out[start + 1..start + PIECE_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Appends a frame of the bytes if that pays; else leaves `out` as it was.
fn compress(
    compressor: &mut Compressor,
    effort: Effort,
    bytes: &[u8],
    histogram: &Histogram,
    repeats: f32,
    out: &mut Vec<u8>,
) -> bool {
    let matches = clustered(histogram, repeats) || histogram.commonest().1 > RUNS_MIN;
    if bytes.len() < FRAME_BYTES_MIN || histogram.entropy() > RAW_ENTROPY_BITS && !matches {
        return false;
    }
    let settings = match effort {
        Effort::Dense if matches => Settings::level(6),
        _ if matches => Settings::level(1),
        _ => Settings::HUFFMAN,
    };
    let start = out.len();
    let packed = compressor.compress(&settings, bytes, out).is_some_and(|length| length < bytes.len());
    if !packed {
        out.truncate(start);
    }
    packed
}

/// Reads pieces back; owns the scratch memory.
#[derive(Default)]
pub(super) struct PieceUnpacker {
    map: Vec<u8>,
    others: Vec<u8>,
}

impl PieceUnpacker {
    /// Takes one piece off the front of `rest`: a view of it where it lies raw, else decoded into `space`, whose length it
    /// must have.
    pub(super) fn unpack<'a, 'r: 'a>(
        &mut self,
        frames: &mut Decompressor,
        rest: &mut &'r [u8],
        space: &'a mut [u8],
    ) -> Result<&'a [u8], &'static str> {
        let before = *rest;
        match take(rest)? {
            (RAW, content) if content.len() == space.len() => return Ok(content),
            _ => *rest = before,
        }
        self.unpack_into(frames, rest, space)?;
        Ok(space)
    }

    /// As [`Self::unpack`], always into `space`.
    pub(super) fn unpack_into(
        &mut self,
        frames: &mut Decompressor,
        rest: &mut &[u8],
        space: &mut [u8],
    ) -> Result<(), &'static str> {
        match take(rest)? {
            (MAPPED, [common, parts @ ..]) => self.unpack_mapped(frames, *common, parts, space),
            (kind, content) => fill(frames, kind, content, space),
        }
    }

    fn unpack_mapped(
        &mut self,
        frames: &mut Decompressor,
        common: u8,
        mut parts: &[u8],
        space: &mut [u8],
    ) -> Result<(), &'static str> {
        self.map.resize(space.len().div_ceil(8), 0);
        let (kind, content) = take(&mut parts)?;
        fill(frames, kind, content, &mut self.map)?;
        let spare = self.map.len() * 8 - space.len();
        if self.map.last().is_some_and(|last| u32::from(*last) >> (8 - spare) != 0) {
            return Err("a map of more places than there are");
        }
        let (words, rest) = self.map.as_chunks::<8>();
        let count = words.iter().map(|flags| u64::from_le_bytes(*flags).count_ones()).sum::<u32>()
            + rest.iter().map(|flags| flags.count_ones()).sum::<u32>();
        let count = count as usize;
        self.others.resize(count, 0);
        let (kind, content) = take(&mut parts)?;
        fill(frames, kind, content, &mut self.others)?;
        if !parts.is_empty() {
            return Err("bytes after a piece");
        }
        wide(
            #[inline(always)]
            || spread(common, &self.map, &self.others, space),
        );
        Ok(())
    }
}

/// Fills `space` with the common byte and, where the map says so, with the others in their order.
#[inline(always)]
fn spread(common: u8, map: &[u8], mut others: &[u8], space: &mut [u8]) {
    space.fill(common);
    let (words, rest) = map.as_chunks::<8>();
    let (blocks, last) = space.as_chunks_mut::<64>();
    // Why both: the last block may be short, and have a whole word all the same.
    let (whole, short) = words.split_at(blocks.len().min(words.len()));
    for (block, flags) in blocks.iter_mut().zip(whole) {
        let flags = u64::from_le_bytes(*flags);
        let Some((these, after)) = others.split_at_checked(flags.count_ones() as usize) else { return };
        others = after;
        for (place, byte) in places(flags).zip(these) {
            block[place % 64] = *byte;
        }
    }
    let mut others = others.iter();
    for (group, &flags) in last.chunks_mut(8).zip(short.as_flattened().iter().chain(rest)) {
        for place in places(u64::from(flags)) {
            if let (Some(place), Some(&byte)) = (group.get_mut(place), others.next()) {
                *place = byte;
            }
        }
    }
}

/// Takes kind and content of one piece off the front.
fn take<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), &'static str> {
    let (&[kind, a, b, c, d], after) = rest.split_first_chunk().ok_or("the payload ends inside a plane's header")?;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let (content, after) = after.split_at_checked(length).ok_or("the payload ends inside a plane")?;
    *rest = after;
    Ok((kind, content))
}

fn fill(frames: &mut Decompressor, kind: u8, content: &[u8], space: &mut [u8]) -> Result<(), &'static str> {
    match (kind, content) {
        (RAW, _) if content.len() == space.len() => space.copy_from_slice(content),
        (CONSTANT, [byte]) => space.fill(*byte),
        (FRAME, _) => frames.decompress(content, space)?,
        _ => return Err("a plane's kind or length does not fit"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_which_bytes_differ() {
        for common in [0, 1, 0x7f, 0x80, 0xff] {
            for pattern in 0..=255u8 {
                for other in [common ^ 1, common ^ 0x80, common ^ 0xff] {
                    let group: [u8; 8] =
                        std::array::from_fn(|bit| if pattern >> bit & 1 == 1 { other } else { common });
                    assert_eq!(differing(u64::from_le_bytes(group), common), pattern, "{common} {other}");
                }
            }
        }
    }

    /// Pieces of every kind, length and share of the commonest byte come back, and nothing is left over.
    #[test]
    fn pieces_come_back() {
        let mut noise = vec![0; 5_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let (mut compressor, mut packer) = (Compressor::new(), PiecePacker::default());
        let (mut frames, mut unpacker) = (Decompressor::new(), PieceUnpacker::default());
        let mut kinds = [0; 4];
        for length in [0, 1, 7, 8, 9, 31, 32, 33, 64, 100, 4_999] {
            for share in [0, 1, 20, 80, 180, 256] {
                let byte = |(at, &byte): (usize, &u8)| if usize::from(byte) < share { at as u8 % 5 } else { 9 };
                for bytes in [noise[..length].iter().enumerate().map(byte).collect(), noise[..length].to_vec()] {
                    let mut out = Vec::new();
                    packer.pack(&mut compressor, Effort::Balanced, &bytes, &mut out);
                    kinds[usize::from(out[0])] += 1;
                    let (mut rest, mut space) = (&out[..], vec![7; length]);
                    assert!(unpacker.unpack(&mut frames, &mut rest, &mut space).unwrap() == bytes);
                    assert!(rest.is_empty());
                }
            }
        }
        assert!(kinds.iter().all(|&count| count > 5), "{kinds:?}");
    }
}
