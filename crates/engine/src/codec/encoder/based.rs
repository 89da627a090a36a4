//! What a chunk takes against a base: as its cast, with it as prefix, or as the difference of numbers.
//!
//! A body against a base is taken where it saves a tenth of what the chunk takes alone: by an estimate where the difference
//! of numbers is clearly under it, else by encoding both.
//!
//! Invariant: a body that leaves here with a base was decoded against it and compared.

use zstd_safe::Strategy;

use super::super::choice::{Candidate, Question, exponent_shift};
use super::super::derived::{Cast, cast_of};
use super::super::frames::{self, Settings};
use super::super::sample::Numbers;
use super::super::{Body, BodyHeader, Effort, Hint, NumberKind, id};
use super::{Encoder, Findings, numbers_header, search};
use crate::ids::ChunkId;
use crate::units::CHUNK_BYTES_MAX;

/// Chunks shorter than this gain nothing from a base's 32-byte id.
const BASE_BYTES_MIN: usize = 128;
/// At least this share of probed places must stand in the base before it is worth a try as prefix.
const KINSHIP_MIN: f32 = 0.03;
/// A body without a base is read with one look-up in place of two: it stays unless the base saves a tenth.
const GAIN: f32 = 0.90;
/// As [`GAIN`] for differences of numbers, where time does not count.
const DENSE_GAIN: f32 = 0.98;
/// A difference that takes less than this share of the planes is taken without a trial of what else there is.
const SURE: f32 = 0.5;
/// A body this many times shorter than the plain bytes is taken at once.
const REPEAT_PARTS: usize = 64;
/// Differences of fewer bytes are not looked for.
const DIFFERENCE_BYTES_MIN: usize = 2048;

/// A base, by name and bytes.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub id: &'a ChunkId,
    pub bytes: &'a [u8],
    /// How the bytes were cast; as they are stored, where not.
    pub cast: Option<Cast>,
}

/// What a chunk of numbers would take, in bytes, by a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Without a base.
    pub alone: f32,
    /// As the difference to the base.
    pub against: f32,
}

impl Encoder {
    /// What `plain`, which must be the chunk that was encoded last, would take alone, and as the difference to `base`; none
    /// where it holds no numbers. For another chunk the answer is a worse guess.
    #[must_use]
    pub fn estimate(&mut self, plain: &[u8], hint: Option<&Hint>, base: &[u8]) -> Option<Estimate> {
        let hint = hint.filter(|hint| hint.is_sound());
        let last = self.last.filter(|&(length, _)| length == plain.len());
        let findings = last.map_or_else(|| self.examine(plain, hint), |(_, findings)| findings);
        let base = Base { id: &ChunkId([0; 32]), bytes: base, cast: None };
        let (_, candidate) = self.candidate(plain, hint, &findings, base)?;
        let bytes = |bits: f32| bits * plain.len() as f32 / 8.0;
        let alone = bytes(findings.alone_bits());
        Some(Estimate { alone, against: bytes(candidate.bits).min(alone) })
    }

    /// What `plain`, which must be the chunk that was encoded last, would take alone, in bytes, as far as that is known.
    #[must_use]
    pub fn alone_bytes(&self, plain: &[u8]) -> Option<f32> {
        let (_, findings) = self.last.filter(|&(length, _)| length == plain.len())?;
        Some(findings.alone_bits() * plain.len() as f32 / 8.0)
    }

    /// Encodes against the base where that pays, else alone.
    pub(super) fn encode_with(&mut self, plain: &[u8], hint: Option<&Hint>, base: Base<'_>, out: &mut Vec<u8>) {
        let fits = plain.len() >= BASE_BYTES_MIN && base.bytes.len() <= CHUNK_BYTES_MAX;
        let mut best = std::mem::take(&mut self.based);
        best.clear();
        let mut is_taken = fits && encode_cast(plain, base, &mut best);
        if !is_taken {
            let mut findings = self.look(plain, hint);
            let is_master =
                hint.is_some_and(|hint| hint.kind == NumberKind::Bf16) && base.bytes.len() == 2 * plain.len();
            // Why numbers first: the search for equal stretches takes ten times as long, and finds less in them.
            let numbers_first = fits && findings.profile.numbers.is_some() && base.bytes.len() == plain.len();
            is_taken = fits && is_master && self.encode_from_master(plain, hint, &mut findings, base, &mut best)
                || numbers_first && self.encode_difference(plain, hint, &mut findings, base, &mut best)
                || fits && !is_master && self.encode_prefixed(plain, base, &mut best)
                || fits
                    && !numbers_first
                    && !is_master
                    && self.encode_difference(plain, hint, &mut findings, base, &mut best);
            if !is_taken {
                self.try_out(plain, &mut findings);
                self.encode_alone(plain, &findings, out);
                let alone = Body::of(out, plain).len();
                let gain = if best.first() == Some(&id::PLANES_DIFFERENCE) { self.difference_gain() } else { GAIN };
                is_taken = !best.is_empty() && (best.len() as f32) < gain * alone as f32;
            }
            self.last = Some((plain.len(), findings));
        }
        if is_taken && self.decodes(base.bytes, plain, &best) {
            std::mem::swap(out, &mut best);
        } else if is_taken {
            let findings = self.examine(plain, hint);
            self.encode_alone(plain, &findings, out);
        }
        self.based = best;
    }

    /// What share of the chunk alone a difference may take.
    fn difference_gain(&self) -> f32 {
        if self.effort == Effort::Dense { DENSE_GAIN } else { GAIN }
    }

    /// True if the body, made against that base, gives the plain bytes back. Why the partition is not made again: it follows
    /// from the base alone, and counting keys is a quarter of decoding.
    fn decodes(&mut self, base: &[u8], plain: &[u8], body: &[u8]) -> bool {
        let known = self.difference.partition();
        self.decoder.decode_knowing(body, Some(base), known, &mut self.check).is_ok() && self.check == plain
    }

    /// Makes a body with the base as prefix, if they share stretches; true if hardly anything else is left of the chunk.
    fn encode_prefixed(&mut self, plain: &[u8], base: Base<'_>, best: &mut Vec<u8>) -> bool {
        if self.kinship.share(plain, base.bytes) < KINSHIP_MIN {
            return false;
        }
        let length = base.bytes.len();
        encode_frame_with(&repeat_settings(length), plain, base, best);
        if best.len() > plain.len() / REPEAT_PARTS {
            let mostly_new = best.len() > plain.len() / 4;
            let settings = if mostly_new { blend_settings(self.effort, length) } else { patient_settings(length) };
            encode_frame_with(&settings, plain, base, &mut self.other);
            if self.other.len() < best.len() {
                std::mem::swap(&mut self.other, best);
            }
        }
        best.len() <= plain.len() / REPEAT_PARTS
    }

    /// As [`Self::encode_difference`], for BF16 numbers whose base holds FP32 numbers: against what these are as BF16.
    fn encode_from_master(
        &mut self,
        plain: &[u8],
        hint: Option<&Hint>,
        findings: &mut Findings,
        base: Base<'_>,
        best: &mut Vec<u8>,
    ) -> bool {
        let mut bytes = std::mem::take(&mut self.cast);
        let is_taken = Cast::Bf16.apply(base.bytes, &mut bytes) && {
            let base = Base { bytes: &bytes, cast: Some(Cast::Bf16), ..base };
            self.encode_difference(plain, hint, findings, base, best)
        };
        self.cast = bytes;
        is_taken
    }

    /// Puts the difference of numbers into `best`, if it is shorter than what is there; true if it surely pays.
    fn encode_difference(
        &mut self,
        plain: &[u8],
        hint: Option<&Hint>,
        findings: &mut Findings,
        base: Base<'_>,
        best: &mut Vec<u8>,
    ) -> bool {
        let Some((header, candidate)) = self.candidate(plain, hint, findings, base) else { return false };
        if candidate.bits > SURE * findings.alone_bits() {
            self.try_out(plain, findings);
        }
        let alone_bits = findings.alone_bits();
        let estimate = candidate.bits * plain.len() as f32 / 8.0;
        if candidate.bits > self.difference_gain() * alone_bits || !best.is_empty() && estimate > best.len() as f32 {
            return false;
        }
        let mut body = std::mem::take(&mut self.other);
        body.clear();
        header.write(&mut body);
        self.difference.encode(
            &mut self.compressor,
            &mut self.planes,
            self.effort,
            &header,
            &candidate.shape,
            (plain, base.bytes),
            &mut body,
        );
        let is_shorter = best.is_empty() || body.len() < best.len();
        if is_shorter {
            std::mem::swap(&mut body, best);
        }
        self.other = body;
        is_shorter && best.len() as f32 * 8.0 <= self.difference_gain() * alone_bits * plain.len() as f32
    }

    /// The best form of a difference, whether it pays or not.
    fn candidate(
        &mut self,
        plain: &[u8],
        hint: Option<&Hint>,
        findings: &Findings,
        base: Base<'_>,
    ) -> Option<(BodyHeader, Candidate)> {
        // Why bytes: eight-bit floats and integers show no layout. They are tried where the base is as long.
        let bytes = Numbers { width: 1, head: 0, bits: findings.profile.byte_bits };
        let is_plausible = base.bytes.len() == plain.len() && !findings.profile.text;
        let numbers = findings.profile.numbers.or(is_plausible.then_some(bytes))?;
        if plain.len().min(base.bytes.len()) < DIFFERENCE_BYTES_MIN {
            return None;
        }
        let header = numbers_header(id::PLANES_DIFFERENCE, numbers, plain, Some(*base.id));
        let question = Question {
            effort: self.effort,
            header: &header,
            kind: hint.map(|hint| hint.kind),
            plain,
            base: base.bytes,
            cast: base.cast,
            alone_bits: findings.alone_bits(),
            row: hint.and_then(|hint| hint.row),
        };
        let same = self.estimator.estimate(&question, 0);
        let pays = same.is_some_and(|same| same.bits <= self.difference_gain() * question.alone_bits);
        let found = if pays || base.bytes.len() == plain.len() { same } else { self.elsewhere(&question).or(same) };
        found.map(|candidate| (header, candidate))
    }

    /// The best form with the counterparts where they are found, which is not at the same place.
    fn elsewhere(&mut self, question: &Question<'_>) -> Option<Candidate> {
        let header = question.header;
        let numbers = self.sampler.profile(question.base, None).numbers?;
        if numbers.width != header.width {
            return None;
        }
        let (width, base_head) = (usize::from(header.width), usize::from(numbers.head));
        let whole = base_head..question.base.len() - (question.base.len() - base_head) % width;
        let shift = exponent_shift(width, question.kind);
        let plain = &question.plain[header.elements()];
        let elements = self.places.find(header.width, shift, plain, &question.base[whole])?;
        let place = elements * i64::from(header.width) + i64::from(numbers.head) - i64::from(header.head);
        self.estimator.estimate(question, i32::try_from(place).ok()?)
    }
}

/// Makes a body that names the base and the function that gives the chunk, if there is one.
fn encode_cast(plain: &[u8], base: Base<'_>, best: &mut Vec<u8>) -> bool {
    let Some(cast) = cast_of(plain, base.bytes) else { return false };
    start_with(id::DERIVED, plain, base, best);
    best.push(cast as u8);
    true
}

/// Makes a body with the base as prefix; one that is longer than any other where zstd fails.
fn encode_frame_with(settings: &Settings, plain: &[u8], base: Base<'_>, out: &mut Vec<u8>) {
    start_with(id::ZSTD_PREFIX, plain, base, out);
    if frames::compress_with_prefix(settings, base.bytes, plain, out).is_none() {
        out.extend_from_slice(plain);
    }
}

/// Starts a body with a base and without width.
fn start_with(codec: u8, plain: &[u8], base: Base<'_>, out: &mut Vec<u8>) {
    out.clear();
    BodyHeader { codec, width: 0, head: 0, plain_len: plain.len() as u32, base: Some(*base.id) }.write(out);
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
