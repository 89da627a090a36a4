//! Whether a difference to a base pays, and in which form: an estimate from a sample of elements.
//!
//! The sample's elements are transformed as [`super::difference`] does it, and the entropy of each plane, in each bucket,
//! says what a piece would take. A wrong estimate costs time or ratio, never data. What a chunk takes alone is for the
//! encoder to say.

use std::ops::Range;

use super::buckets::{BUCKETS_MAX, Partition, keys_of};
use super::derived::Cast;
use super::difference::{Operation, Shape};
use super::element::{Element, for_width};
use super::pieces::{COMMON_MIN, RAW_ENTROPY_BITS};
use super::sample::entropy_of;
use super::scaled;
use super::scales::{ByScale, ScaleEstimator};
use super::{BodyHeader, Effort, Hint, NumberKind};
use crate::vectors::wide;

/// At most this many elements are looked at.
const SAMPLE_ELEMENTS: usize = 16 << 10;
/// No more than one element in this many, but where there are few.
const SAMPLE_SHARE: usize = 16;
/// Elements in one block of the sample.
const BLOCK_ELEMENTS: usize = 1 << 10;
/// Buckets that are asked for. Measured: docs/tensors.md.
const BUCKETS: u8 = 16;
/// Buckets are taken where they save this share of the fast form, as they cost a third of its speed.
const BUCKETS_GAIN_MIN: f32 = 0.03;
/// Scales are taken where they save this share: the estimate is rough.
pub(super) const SCALES_GAIN_MIN: f32 = 0.005;
/// By scale, a bucket is made for so many elements, as each has codes of its own.
const BUCKET_ELEMENTS: usize = 4096;
/// At least one part in this many of a chunk must lie against the base.
const COVERED_PARTS: usize = 8;
/// Bits of a piece beside its entropy: headers of piece and frame, and for each kind of byte its place in the table of codes.
const PIECE_BITS: f32 = 8.0 * 20.0;
const KIND_BITS: f32 = 4.0;

/// A chunk, and a base that may pay.
pub(super) struct Question<'a> {
    pub effort: Effort,
    /// Says where the elements lie, and how wide they are.
    pub header: &'a BodyHeader,
    /// What the numbers are, where that is known.
    pub kind: Option<NumberKind>,
    pub plain: &'a [u8],
    pub base: &'a [u8],
    /// How the base was cast.
    pub cast: Option<Cast>,
    /// What the chunk takes alone, in bits for each plain byte.
    pub alone_bits: f32,
    /// Elements in a row of the matrix that the chunk is, where it is one.
    pub row: Option<u32>,
}

/// A form of the difference, and what it would take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub shape: Shape,
    /// Bits for each plain byte.
    pub bits: f32,
}

/// Makes estimates; owns sample and counters.
#[derive(Default)]
pub(super) struct Estimator {
    plain: Vec<u8>,
    base: Vec<u8>,
    counts: Vec<[u32; 256]>,
    scales: ScaleEstimator,
}

impl Estimator {
    /// The best form with the counterparts at that `place`; `None` where too little of the chunk has one.
    pub(super) fn estimate(&mut self, question: &Question<'_>, place: i32) -> Option<Candidate> {
        wide(
            #[inline(always)]
            || self.estimate_wide(question, place),
        )
    }

    #[inline(always)]
    fn estimate_wide(&mut self, question: &Question<'_>, place: i32) -> Option<Candidate> {
        let operation = if question.kind == Some(NumberKind::Integer) { Operation::Integer } else { Operation::Float };
        let fast = Shape { operation, buckets: 1, shift: 0, place, cast: question.cast, by: None };
        let (numbers, counterparts) = fast.covered(question.header, question.base.len());
        let (elements, width) = (question.header.elements(), usize::from(question.header.width));
        let elements_len = elements.len();
        let place_of_old = counterparts.clone();
        if numbers.is_empty() || numbers.len() * width * COVERED_PARTS < elements.len() {
            return None;
        }
        let covered = &question.plain[elements][numbers.start * width..numbers.end * width];
        self.take_sample(width, covered, &question.base[counterparts]);
        let outside = 1.0 - covered.len() as f32 / question.plain.len() as f32;
        let shifts = if question.effort == Effort::Fast { &[] } else { key_shifts(width, question.kind) };
        let bucketed = |&shift: &u8| Shape { buckets: BUCKETS, shift, ..fast };
        // Why once: the sum of the buckets is the fast form's count.
        let first = shifts.first().map(bucketed).unwrap_or(fast);
        for_width!(width, self.count(&first));
        let mut best = Candidate { shape: fast, bits: self.bits_together(width, numbers.len()) };
        let mut limit = best.bits * if question.effort == Effort::Balanced { 1.0 - BUCKETS_GAIN_MIN } else { 1.0 };
        for shape in shifts.iter().map(bucketed) {
            if shape != first {
                for_width!(width, self.count(&shape));
            }
            let bits = self.bits(width, numbers.len());
            if bits < limit {
                best = Candidate { shape, bits };
                limit = bits;
            }
        }
        let is_whole = numbers.start == 0 && covered.len() == elements_len;
        if let Some(row) = question.row.filter(|_| is_whole && asks_for_scales(question.effort, width)) {
            let by = ByScale::new(row);
            let shape = Shape {
                buckets: buckets(numbers.len()),
                shift: exponent_shift(width, question.kind),
                by: Some(by),
                ..fast
            };
            let old = &question.base[place_of_old];
            let gain = for_width!(width, self.scale_gain((&shape, best.shape.buckets > 1), covered, old));
            let bits = best.bits - gain.unwrap_or(0.0) / width as f32;
            if bits < best.bits * (1.0 - SCALES_GAIN_MIN) {
                best = Candidate { shape, bits };
            }
        }
        best.bits = best.bits * (1.0 - outside) + question.alone_bits * outside;
        Some(best)
    }

    /// What sorting by scale saves of a matrix of numbers alone: the shape, and the bits for each plain byte. None where it does not pay.
    pub(super) fn by_scale(
        &mut self,
        effort: Effort,
        header: &BodyHeader,
        hint: &Hint,
        plain: &[u8],
    ) -> Option<(scaled::Shape, f32)> {
        let width = usize::from(header.width);
        let row = hint.row.filter(|_| asks_for_scales(effort, width))?;
        let elements = &plain[header.elements()];
        let shape = scaled::Shape { buckets: buckets(elements.len() / width), by: ByScale::new(row) };
        let exponent = exponent_shift(width, Some(hint.kind));
        let gain = for_width!(width, self.gain_alone(&shape, exponent, elements))?;
        Some((shape, gain / width as f32))
    }

    fn gain_alone<E: Element<W>, const W: usize>(
        &mut self,
        shape: &scaled::Shape,
        exponent: u8,
        elements: &[u8],
    ) -> Option<f32> {
        self.scales.alone::<E, W>(&shape.by, shape.buckets, exponent, elements.as_chunks::<W>().0)
    }

    /// What sorting by scale saves of a difference, in bits an element, against buckets by exponent, or against none.
    fn scale_gain<E: Element<W>, const W: usize>(
        &mut self,
        (shape, is_bucketed): (&Shape, bool),
        plain: &[u8],
        base: &[u8],
    ) -> Option<f32> {
        let (plain, base) = (plain.as_chunks::<W>().0, base.as_chunks::<W>().0);
        let distance = |number: usize| shape.operation.distance(E::load(plain[number]), E::load(base[number]));
        self.scales.against::<E, W>(shape.by.as_ref()?, (shape.buckets, is_bucketed), (shape.shift, base), distance)
    }

    fn take_sample(&mut self, width: usize, plain: &[u8], base: &[u8]) {
        self.plain.clear();
        self.base.clear();
        for block in sample_blocks(plain.len() / width) {
            let bytes = block.start * width..block.end * width;
            self.plain.extend_from_slice(&plain[bytes.clone()]);
            self.base.extend_from_slice(&base[bytes]);
        }
    }

    /// Bits for each byte of `count` elements, of which the sample was taken.
    #[inline(always)]
    fn bits(&self, width: usize, count: usize) -> f32 {
        let scale = count as f32 * width as f32 / self.plain.len() as f32;
        self.counts.iter().map(|counts| piece_bits(counts, scale)).sum::<f32>() / (count * width) as f32
    }

    /// As [`Self::bits`], with all buckets in one.
    #[inline(always)]
    fn bits_together(&self, width: usize, count: usize) -> f32 {
        let scale = count as f32 * width as f32 / self.plain.len() as f32;
        let plane_bits = |plane: usize| {
            let mut sum = [0; 256];
            for counts in self.counts.iter().skip(plane).step_by(width) {
                sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
            piece_bits(&sum, scale)
        };
        (0..width).map(plane_bits).sum::<f32>() / (count * width) as f32
    }

    /// Counts the bytes of each plane in each bucket.
    #[inline(always)]
    fn count<E: Element<W>, const W: usize>(&mut self, shape: &Shape) {
        let (plain, base) = (self.plain.as_chunks::<W>().0, self.base.as_chunks::<W>().0);
        let shift = u32::from(shape.shift);
        let partition = Partition::new(base.len(), shift, usize::from(shape.buckets), keys_of::<E, W>(base, shift));
        self.counts.clear();
        self.counts.resize(usize::from(shape.buckets) * W, [0; 256]);
        for (new, old) in plain.iter().zip(base) {
            let distance = shape.operation.distance(E::load(*new), E::load(*old)).bytes();
            let tables = &mut self.counts[partition.bucket(E::load(*old).key(shift)) * W..][..W];
            for (table, byte) in tables.iter_mut().zip(distance) {
                table[usize::from(byte)] += 1;
            }
        }
    }
}

/// Blocks of element numbers, spread evenly over `count`.
fn sample_blocks(count: usize) -> impl Iterator<Item = Range<usize>> {
    let wanted = (count / SAMPLE_SHARE).clamp(BLOCK_ELEMENTS.min(count) * 4, SAMPLE_ELEMENTS);
    let blocks = wanted.div_ceil(BLOCK_ELEMENTS).min(count.div_ceil(BLOCK_ELEMENTS)).max(1);
    let step = count.saturating_sub(BLOCK_ELEMENTS) / blocks.max(2).saturating_sub(1);
    (0..blocks).map(move |number| number * step..(number * step + BLOCK_ELEMENTS).min(count))
}

/// Scales take as long again as planes, to encode and to decode: they are for where time does not count.
fn asks_for_scales(effort: Effort, width: usize) -> bool {
    effort == Effort::Dense && width >= 2
}

fn buckets(elements: usize) -> u8 {
    (elements / BUCKET_ELEMENTS).clamp(2, BUCKETS_MAX) as u8
}

/// Where the exponent begins in a rotated element; where nobody knows the kind, the kinds of that width.
fn key_shifts(width: usize, kind: Option<NumberKind>) -> &'static [u8] {
    match (width, kind) {
        (2, Some(NumberKind::Bf16)) => &[8],
        (2, Some(NumberKind::F16)) => &[11],
        (1, Some(NumberKind::F8E4m3)) => &[4],
        (1, Some(NumberKind::F8E5m2)) => &[3],
        (1, _) => &[4, 3],
        (2, _) => &[8, 11],
        (4, _) => &[24],
        // Of the eleven bits of exponent the lowest eight: what they leave out is the same in all.
        _ => &[53],
    }
}

/// Where the exponent most likely begins in a rotated element, in bits.
pub(super) fn exponent_shift(width: usize, kind: Option<NumberKind>) -> u8 {
    key_shifts(width, kind)[0]
}

/// What a piece of `scale` times these bytes takes, in bits.
#[inline(always)]
fn piece_bits(counts: &[u32; 256], scale: f32) -> f32 {
    let total: u32 = counts.iter().sum();
    let most = counts.iter().copied().max().unwrap_or(0);
    if total == most {
        return if total == 0 { 0.0 } else { PIECE_BITS };
    }
    let kinds = counts.iter().filter(|&&count| count > 0).count() as f32;
    let overhead = PIECE_BITS + KIND_BITS * kinds;
    let raw = 8.0 * total as f32 * scale;
    let entropy = entropy_of(counts);
    let common = most as f32 / total as f32;
    let coded = if common >= COMMON_MIN {
        // A map of single bits, eight to a byte, and the others.
        entropy * 1.02
    } else if entropy > RAW_ENTROPY_BITS * total as f32 {
        return raw;
    } else {
        // No code is shorter than a bit.
        entropy.max(total as f32)
    };
    (coded * scale + overhead).min(raw)
}
