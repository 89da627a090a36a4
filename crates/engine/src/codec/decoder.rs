//! From the body of a blob to the plain bytes of its chunk.
//!
//! Bodies come from outside: every length is checked before it is used, nothing longer than
//! [`CHUNK_BYTES_MAX`](crate::units::CHUNK_BYTES_MAX) is allocated, and the result has exactly the announced length or
//! is [`Damaged`]. Whether the bytes are the right ones is for the caller to say, who knows the chunk's id.

use super::buckets::Partition;
use super::derived::Cast;
use super::difference::DifferenceDecoder;
use super::frames::{self, Decompressor};
use super::planes::PlaneDecoder;
use super::scaled::ScaledDecoder;
use super::{BodyHeader, damaged, id};
use crate::error::Damaged;

/// Decodes bodies. One per thread: it owns a zstd context and scratch memory.
pub struct Decoder {
    frames: Decompressor,
    planes: PlaneDecoder,
    difference: DifferenceDecoder,
    scaled: ScaledDecoder,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder without scratch memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            frames: Decompressor::new(),
            planes: PlaneDecoder::default(),
            difference: DifferenceDecoder::default(),
            scaled: ScaledDecoder::default(),
        }
    }

    /// Writes the plain bytes into `out`, whose old content is lost and whose memory is used again. `base` are the plain
    /// bytes of the chunk that the header names; it is ignored by codecs without a base.
    ///
    /// # Errors
    /// [`Damaged`] when anything in the body does not fit, or its base is missing. `out` is then empty.
    pub fn decode(&mut self, body: &[u8], base: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), Damaged> {
        self.decode_knowing(body, base, None, out)
    }

    /// As [`Self::decode`], with the partition that a difference to the base has, where the caller made it just now.
    pub(super) fn decode_knowing(
        &mut self,
        body: &[u8],
        base: Option<&[u8]>,
        known: Option<&Partition>,
        out: &mut Vec<u8>,
    ) -> Result<(), Damaged> {
        let result = self.fill(body, base, known, out);
        if result.is_err() {
            out.clear();
        }
        result
    }

    fn fill(
        &mut self,
        body: &[u8],
        base: Option<&[u8]>,
        known: Option<&Partition>,
        out: &mut Vec<u8>,
    ) -> Result<(), Damaged> {
        let (header, start) = BodyHeader::parse(body)?;
        let payload = &body[start..];
        let in_frame = |why| damaged(start, why);
        let base = || base.ok_or_else(|| damaged(8, "the base is missing"));
        // Why resize without clear: memory of the last chunk that is overwritten anyway need not be zeroed first.
        out.resize(header.plain_len as usize, 0);
        match header.codec {
            id::RAW if payload.len() == out.len() => out.copy_from_slice(payload),
            id::RAW => return Err(damaged(start, "raw bytes are not as many as announced")),
            id::CONSTANT => match payload {
                [byte] => out.fill(*byte),
                _ => return Err(damaged(start, "a constant is not one byte")),
            },
            id::ZSTD => self.frames.decompress(payload, out).map_err(in_frame)?,
            id::ZSTD_PREFIX => {
                frames::decompress_with_prefix(base()?, payload, out).map_err(in_frame)?;
            }
            id::PLANES => self.planes.decode(&mut self.frames, &header, payload, out).map_err(in_frame)?,
            id::PLANES_DIFFERENCE => {
                let (frames, alone) = (&mut self.frames, &mut self.planes);
                self.difference.decode(frames, alone, &header, payload, (base()?, known), out).map_err(in_frame)?;
            }
            id::PLANES_SCALED => self.scaled.decode(&mut self.frames, &header, payload, out).map_err(in_frame)?,
            // Why the rest: the header knows no other codec.
            _ => derive(payload, base()?, out).map_err(in_frame)?,
        }
        Ok(())
    }
}

/// Computes a derived chunk, which has the length of `out`, from its base.
fn derive(payload: &[u8], base: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let [number] = payload else { return Err("a derived chunk's function is not one byte") };
    let cast = Cast::from_number(*number).ok_or("a function that is unknown")?;
    if base.len() != out.len() * 2 || !cast.apply(base, out) {
        return Err("a base of another length than the function needs");
    }
    Ok(())
}
