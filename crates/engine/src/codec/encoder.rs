//! From the plain bytes of a chunk to the body of its blob: which codec, and the body itself.
//!
//! The order of decisions: all bytes equal; a cast of the base; a base that shares stretches with the chunk; numbers that
//! lie near the base's; numbers alone (by a sample and a trial); incompressible (likewise); zstd. Whatever was
//! tried, a body that saves under [`WORTH`] of the plain bytes is stored raw, so a body is never longer than the plain
//! bytes and the header. What a chunk takes against a base is in `encoder/based.rs`.
//!
//! Invariant: a body with a base, or by scale, was decoded and compared before it leaves this module.

mod based;

use zstd_safe::Strategy;

pub use based::Estimate;

use based::Base;

use super::choice::{Estimator, SCALES_GAIN_MIN, exponent_shift};
use super::difference::DifferenceEncoder;
use super::frames::{Compressor, Search, Settings};
use super::place::PlaceFinder;
use super::planes::PlaneEncoder;
use super::sample::{self, Kinship, Numbers, Profile, Sampler};
use super::scaled::{self, ScaledEncoder};
use super::{BodyHeader, Decoder, Effort, Hint, id};
use crate::ids::ChunkId;
use crate::units::CHUNK_BYTES_MAX;

/// A body must be smaller than this share of the plain bytes to be kept, or the chunk is stored raw.
const WORTH: f32 = 0.995;
/// From this entropy on, in bits a byte, a trial says whether there is anything to find but frequent and rare bytes. In
/// weights of eight bits there is not: without a search they take two thirds of the time, and no more room.
const NOISE_BITS: f32 = 7.0;
/// There is not where the trial takes more than this share of the entropy. Why not all of it: its two pieces have codes of their own.
const NOISE_SHARE: f32 = 0.95;
/// Length of each of the two pieces that are compressed on trial.
const TRIAL_PIECE_BYTES: usize = 16 << 10;

/// Encodes chunks. One per thread: it owns zstd contexts and scratch memory, which are used again and again.
pub struct Encoder {
    effort: Effort,
    compressor: Compressor,
    sampler: Sampler,
    kinship: Kinship,
    planes: PlaneEncoder,
    scaled: ScaledEncoder,
    difference: DifferenceEncoder,
    estimator: Estimator,
    places: PlaceFinder,
    decoder: Decoder,
    /// Of the chunk that was encoded last, if it was looked at with a base, and its length.
    last: Option<(usize, Findings)>,
    other: Vec<u8>,
    cast: Vec<u8>,
    based: Vec<u8>,
    check: Vec<u8>,
}

/// What a sample and a trial say about a chunk alone.
#[derive(Debug, Clone, Copy)]
struct Findings {
    profile: Profile,
    /// What a fast zstd makes of it, in bits a byte; none where that was not asked.
    trial_bits: Option<f32>,
    /// How it is sorted by scale, and where its exponents begin, where that pays. What it takes then is in the profile.
    by_scale: Option<(scaled::Shape, u8)>,
}

impl Findings {
    /// True for bytes that are nearly noise, in which a fast zstd finds hardly more than their frequencies say.
    fn is_noise(&self) -> bool {
        let bits = self.profile.byte_bits;
        bits >= NOISE_BITS && self.trial_bits.is_some_and(|trial| trial > NOISE_SHARE * bits)
    }

    /// What the chunk takes alone, in bits a byte.
    fn alone_bits(&self) -> f32 {
        let numbers = self.profile.numbers.map_or(8.0, |numbers| numbers.bits);
        self.trial_bits.unwrap_or(self.profile.byte_bits).min(numbers)
    }
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
            scaled: ScaledEncoder::default(),
            difference: DifferenceEncoder::default(),
            estimator: Estimator::default(),
            places: PlaceFinder::default(),
            decoder: Decoder::new(),
            last: None,
            other: Vec::new(),
            cast: Vec::new(),
            based: Vec::new(),
            check: Vec::new(),
        }
    }

    /// Spends another effort from here on.
    pub fn set_effort(&mut self, effort: Effort) {
        self.effort = effort;
    }

    /// Writes a whole body (`docs/format.md` §6.1) of `plain` into `out`, whose old content is lost. `hint` says what lies in
    /// the chunk, where somebody knows. `base` is an older chunk that may resemble this one, or of which it may be the cast,
    /// itself stored without a base; it is used only where that pays.
    ///
    /// # Panics
    /// When `plain` is longer than [`CHUNK_BYTES_MAX`]: the caller cuts chunks.
    pub fn encode(&mut self, plain: &[u8], hint: Option<&Hint>, base: Option<(&ChunkId, &[u8])>, out: &mut Vec<u8>) {
        self.encode_apart(plain, hint, base, out);
        if out[0] == id::RAW {
            out.extend_from_slice(plain);
        }
    }

    /// As [`Self::encode`], but of a body that holds the plain bytes as they are only the header: [`super::Body::of`] has both.
    ///
    /// # Panics
    /// As [`Self::encode`].
    pub fn encode_apart(
        &mut self,
        plain: &[u8],
        hint: Option<&Hint>,
        base: Option<(&ChunkId, &[u8])>,
        out: &mut Vec<u8>,
    ) {
        assert!(plain.len() <= CHUNK_BYTES_MAX, "chunks are cut before they are encoded");
        let hint = hint.filter(|hint| hint.is_sound());
        self.last = None;
        match (plain.first(), base) {
            (Some(&byte), _) if sample::is_constant(plain) => {
                start(id::CONSTANT, plain, out);
                out.push(byte);
            }
            (Some(_), Some((id, bytes))) => self.encode_with(plain, hint, Base { id, bytes, cast: None }, out),
            (Some(_), None) => {
                let findings = self.examine(plain, hint);
                self.encode_alone(plain, &findings, out);
            }
            (None, _) => start(id::RAW, plain, out),
        }
    }

    fn examine(&mut self, plain: &[u8], hint: Option<&Hint>) -> Findings {
        let mut findings = self.look(plain, hint);
        self.try_out(plain, &mut findings);
        findings
    }

    /// What a sample says.
    fn look(&mut self, plain: &[u8], hint: Option<&Hint>) -> Findings {
        let mut profile = self.sampler.profile(plain, hint);
        let by_scale = hint.zip(profile.numbers.as_mut()).and_then(|(hint, numbers)| {
            let header = numbers_header(id::PLANES_SCALED, *numbers, plain, None);
            let (shape, gain) = self.estimator.by_scale(self.effort, &header, hint, plain)?;
            if gain < SCALES_GAIN_MIN * numbers.bits {
                return None;
            }
            numbers.bits -= gain;
            Some((shape, exponent_shift(usize::from(hint.width), Some(hint.kind))))
        });
        Findings { profile, trial_bits: None, by_scale }
    }

    /// Adds the trial, where the sample leaves open what is best alone.
    fn try_out(&mut self, plain: &[u8], findings: &mut Findings) {
        let is_clear = findings.profile.numbers.is_none() && findings.profile.byte_bits < NOISE_BITS;
        if !is_clear && findings.trial_bits.is_none() {
            findings.trial_bits = Some(self.trial_bits(plain));
        }
    }

    /// Makes a body without a base; of a raw one the header.
    fn encode_alone(&mut self, plain: &[u8], findings: &Findings, out: &mut Vec<u8>) {
        let profile = findings.profile;
        match (profile.numbers, findings.trial_bits) {
            (Some(numbers), Some(trial)) if numbers.bits < 0.95 * trial => {
                self.encode_planes(plain, numbers, findings.by_scale, out);
                // Why: planes know no matches. Where the trial found some, zstd over the whole chunk may find more.
                if trial < 0.95 * profile.byte_bits && numbers.bits > 0.8 * trial {
                    let mut framed = std::mem::take(&mut self.other);
                    self.encode_frame(plain, findings, &mut framed);
                    if framed.len() < out.len() {
                        std::mem::swap(out, &mut framed);
                    }
                    self.other = framed;
                }
            }
            (_, Some(trial)) if trial > 8.0 * WORTH => start(id::RAW, plain, out),
            _ => self.encode_frame(plain, findings, out),
        }
        if out.len() as f32 > plain.len() as f32 * WORTH {
            start(id::RAW, plain, out);
        }
    }

    fn encode_planes(
        &mut self,
        plain: &[u8],
        numbers: Numbers,
        by_scale: Option<(scaled::Shape, u8)>,
        out: &mut Vec<u8>,
    ) {
        if let Some((shape, exponent)) = by_scale {
            let header = numbers_header(id::PLANES_SCALED, numbers, plain, None);
            out.clear();
            header.write(out);
            let frames = (&mut self.compressor, self.effort);
            self.scaled.encode(frames, &header, (&shape, exponent), plain, out);
            // Why here, where there is no base: it is for what is kept for years, and time does not count.
            if self.decoder.decode(out, None, &mut self.check).is_ok() && self.check == plain {
                return;
            }
        }
        let header = numbers_header(id::PLANES, numbers, plain, None);
        out.clear();
        header.write(out);
        self.planes.encode(&mut self.compressor, self.effort, &header, plain, out);
    }

    fn encode_frame(&mut self, plain: &[u8], findings: &Findings, out: &mut Vec<u8>) {
        start(id::ZSTD, plain, out);
        let settings = match findings.is_noise() && self.effort != Effort::Dense {
            true => Settings::HUFFMAN,
            false => frame_settings(self.effort, findings.profile.text),
        };
        if self.compressor.compress(&settings, plain, out).is_none() {
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

/// The header of a body of numbers.
fn numbers_header(codec: u8, numbers: Numbers, plain: &[u8], base: Option<ChunkId>) -> BodyHeader {
    BodyHeader { codec, width: numbers.width, head: numbers.head, plain_len: plain.len() as u32, base }
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

fn search(strategy: Strategy, hash_log: u32, chain_log: u32, min_match: u32) -> Search {
    Search { strategy, hash_log, chain_log, min_match }
}
