//! From the plain bytes of a chunk to the body of its blob: which codec, and the body itself.
//!
//! The order of decisions: all bytes equal; a base that shares stretches with the chunk; numbers (by a sample and a
//! trial); incompressible (likewise); zstd. Whatever was tried, a body that saves under [`WORTH`] of the plain
//! bytes is stored raw, so a body is never longer than the plain bytes and the header.
//!
//! Invariant: a body with a base was decoded and compared before it leaves this module.

use zstd_safe::Strategy;

use super::frames::{self, Compressor, Search, Settings};
use super::planes::PlaneEncoder;
use super::sample::{self, Kinship, Numbers, Sampler};
use super::{BodyHeader, Effort, PLAIN_HEADER_BYTES, id};
use crate::ids::ChunkId;
use crate::units::CHUNK_BYTES_MAX;

/// A body must be smaller than this share of the plain bytes to be kept, or the chunk is stored raw.
const WORTH: f32 = 0.98;
/// Length of each of the two pieces that are compressed on trial.
const TRIAL_PIECE_BYTES: usize = 16 << 10;
/// Chunks shorter than this gain nothing from a base's 32-byte id.
const BASE_BYTES_MIN: usize = 128;
/// Length of the header of a body with a base.
const PREFIXED_HEADER_BYTES: usize = PLAIN_HEADER_BYTES + ChunkId::LEN;
/// At least this share of probed places must stand in the base before it is worth a try.
const KINSHIP_MIN: f32 = 0.03;

/// Encodes chunks. One per thread: it owns zstd contexts and scratch memory, which are used again and again.
pub struct Encoder {
    effort: Effort,
    compressor: Compressor,
    sampler: Sampler,
    kinship: Kinship,
    planes: PlaneEncoder,
    other: Vec<u8>,
    prefixed: Vec<u8>,
    check: Vec<u8>,
}

impl Encoder {
    /// An encoder that spends `effort` on each chunk.
    #[must_use]
    pub fn new(effort: Effort) -> Self {
        Self {
            effort,
            compressor: Compressor::new(),
            sampler: Sampler::default(),
            kinship: Kinship::default(),
            planes: PlaneEncoder::default(),
            other: Vec::new(),
            prefixed: Vec::new(),
            check: Vec::new(),
        }
    }

    /// Writes a whole body (`docs/format.md` §6.1) of `plain` into `out`, whose old content is lost. `base` is an older
    /// chunk that may resemble this one, itself stored without a base; it is used only where that pays.
    ///
    /// # Panics
    /// When `plain` is longer than [`CHUNK_BYTES_MAX`]: the caller cuts chunks.
    pub fn encode(&mut self, plain: &[u8], base: Option<(&ChunkId, &[u8])>, out: &mut Vec<u8>) {
        assert!(plain.len() <= CHUNK_BYTES_MAX, "chunks are cut before they are encoded");
        match plain.first() {
            Some(&byte) if sample::is_constant(plain) => {
                start(id::CONSTANT, plain, out);
                out.push(byte);
            }
            Some(_) => self.encode_varied(plain, base, out),
            None => start(id::RAW, plain, out),
        }
    }

    fn encode_varied(&mut self, plain: &[u8], base: Option<(&ChunkId, &[u8])>, out: &mut Vec<u8>) {
        let Some((id, base)) = base.filter(|(_, base)| self.is_kin(plain, base)) else {
            return self.encode_alone(plain, out);
        };
        let mut best = std::mem::take(&mut self.prefixed);
        self.encode_prefixed(&repeat_settings(base.len()), plain, id, base, &mut best);
        if best.len() > plain.len() / 64 {
            let mostly_new = best.len() > plain.len() / 4;
            let settings =
                if mostly_new { blend_settings(self.effort, base.len()) } else { patient_settings(base.len()) };
            self.encode_prefixed(&settings, plain, id, base, out);
            if out.len() < best.len() {
                std::mem::swap(out, &mut best);
            }
        }
        let nearly_all_old = best.len() <= plain.len() / 64;
        if !nearly_all_old {
            self.encode_alone(plain, out);
        }
        // A body without a base is read with one look-up in place of two: it stays unless the base saves a tenth.
        if nearly_all_old || best.len() * 10 < out.len() * 9 {
            if self.decodes(base, plain, &best) {
                std::mem::swap(out, &mut best);
            } else {
                self.encode_alone(plain, out);
            }
        }
        self.prefixed = best;
    }

    fn is_kin(&mut self, plain: &[u8], base: &[u8]) -> bool {
        let lengths_fit = (BASE_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&plain.len()) && base.len() <= CHUNK_BYTES_MAX;
        lengths_fit && self.kinship.share(plain, base) >= KINSHIP_MIN
    }

    /// Makes a body against the base; one that is longer than any other where zstd fails.
    fn encode_prefixed(&mut self, settings: &Settings, plain: &[u8], id: &ChunkId, base: &[u8], out: &mut Vec<u8>) {
        out.clear();
        let plain_len = plain.len() as u32;
        BodyHeader { codec: id::ZSTD_PREFIX, width: 0, head: 0, plain_len, base: Some(*id) }.write(out);
        if frames::compress_with_prefix(settings, base, plain, out).is_none() {
            out.extend_from_slice(plain);
        }
    }

    /// True if the body, made against that base, gives the plain bytes back.
    fn decodes(&mut self, base: &[u8], plain: &[u8], body: &[u8]) -> bool {
        self.check.resize(plain.len(), 0);
        let frame = &body[PREFIXED_HEADER_BYTES..];
        frames::decompress_with_prefix(base, frame, &mut self.check).is_ok() && self.check == plain
    }

    fn encode_alone(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let profile = self.sampler.profile(plain);
        let trial_bits = match profile.numbers {
            None if profile.byte_bits < 7.9 => None,
            _ => Some(self.trial_bits(plain)),
        };
        match (profile.numbers, trial_bits) {
            (Some(numbers), Some(trial)) if numbers.bits < 0.95 * trial => {
                self.encode_planes(plain, numbers, out);
                // Why: planes know no matches. Where the trial found some, zstd over the whole chunk may find more.
                if trial < 0.95 * profile.byte_bits && numbers.bits > 0.8 * trial {
                    let mut framed = std::mem::take(&mut self.other);
                    self.encode_frame(plain, profile.text, &mut framed);
                    if framed.len() < out.len() {
                        std::mem::swap(out, &mut framed);
                    }
                    self.other = framed;
                }
            }
            (_, Some(trial)) if trial > 8.0 * WORTH => start(id::RAW, plain, out),
            _ => self.encode_frame(plain, profile.text, out),
        }
        if out.len() as f32 > plain.len() as f32 * WORTH {
            start(id::RAW, plain, out);
        }
        if out[0] == id::RAW {
            out.extend_from_slice(plain);
        }
    }

    fn encode_planes(&mut self, plain: &[u8], numbers: Numbers, out: &mut Vec<u8>) {
        let header = BodyHeader {
            codec: id::PLANES,
            width: numbers.width,
            head: numbers.head,
            plain_len: plain.len() as u32,
            base: None,
        };
        out.clear();
        header.write(out);
        self.planes.encode(&mut self.compressor, self.effort, &header, plain, out);
    }

    fn encode_frame(&mut self, plain: &[u8], text: bool, out: &mut Vec<u8>) {
        start(id::ZSTD, plain, out);
        if self.compressor.compress(&frame_settings(self.effort, text), plain, out).is_none() {
            start(id::RAW, plain, out);
        }
    }

    /// What a fast zstd makes of two pieces of the chunk, in bits a byte.
    fn trial_bits(&mut self, plain: &[u8]) -> f32 {
        let half = plain.len() / 2;
        let length = TRIAL_PIECE_BYTES.min(half);
        let mut packed = 0;
        for from in [half / 2, half + (half - length) / 2] {
            self.other.clear();
            let piece = &plain[from..from + length];
            packed += self.compressor.compress(&Settings::level(1), piece, &mut self.other).unwrap_or(length);
        }
        8.0 * packed as f32 / (2 * length).max(1) as f32
    }
}

/// Starts a body without base and width.
fn start(codec: u8, plain: &[u8], out: &mut Vec<u8>) {
    out.clear();
    BodyHeader { codec, width: 0, head: 0, plain_len: plain.len() as u32, base: None }.write(out);
}

/// Settings for a chunk alone. Measured on chunks of 64 KiB to 1 MiB: level 2 takes 3 to 5 % more room than level 3 and
/// 15 % less time, level 5 saves 3 to 7 % in twice the time. Matches of 4 bytes save 1 % of programs and libraries but make
/// logs 7 % longer, hence the question for text.
fn frame_settings(effort: Effort, text: bool) -> Settings {
    match effort {
        Effort::Fast => Settings::level(1),
        Effort::Balanced if text => Settings::level(3),
        Effort::Balanced => Settings { search: Some(search(Strategy::ZSTD_dfast, 16, 15, 4)), ..Settings::level(3) },
        Effort::Dense => Settings::level(9),
    }
}

/// Settings for a chunk that mostly repeats its base: as small as lazy matching makes it, at 4 to 8 times its speed.
/// The base is entered into the table at every third byte, so a table of one entry for each of its bytes stays sparse:
/// with half as many, collisions lose stretches of the base.
fn repeat_settings(base: usize) -> Settings {
    let hash_log = base.next_power_of_two().ilog2().clamp(12, 22);
    Settings { search: Some(search(Strategy::ZSTD_fast, hash_log, 0, 7)), ..Settings::level(1) }
}

/// Settings for a chunk whose base repeats itself so much (numbered lines, say) that the newest place of a few bytes is
/// the wrong one: chains are followed to the place that goes on longest.
fn patient_settings(base: usize) -> Settings {
    let log = base.next_power_of_two().ilog2().clamp(12, 20);
    Settings { search: Some(search(Strategy::ZSTD_lazy2, log, log, 5)), ..Settings::level(6) }
}

/// Settings for a chunk that shares less with its base and has much that is new.
fn blend_settings(effort: Effort, base: usize) -> Settings {
    let log = base.next_power_of_two().ilog2().clamp(12, 22);
    match effort {
        Effort::Dense => Settings { search: Some(search(Strategy::ZSTD_lazy2, log, log, 5)), ..Settings::level(9) },
        _ => Settings { search: Some(search(Strategy::ZSTD_dfast, log, log.min(17), 5)), ..Settings::level(3) },
    }
}

fn search(strategy: Strategy, hash_log: u32, chain_log: u32, min_match: u32) -> Search {
    Search { strategy, hash_log, chain_log, min_match }
}
