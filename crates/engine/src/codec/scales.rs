//! Scales: how large the numbers of each row and each column of a matrix are (`docs/format.md` §6.2.3).
//!
//! The size of a gradient's moments, and of what a step of training changes, is nearly a product of one factor for the row and
//! one for the column (Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, §3). So each row
//! and each column gets a scale, a byte; their sum says how large an element is likely to be, and elements for which it says the
//! same are sorted into one bucket ([`super::buckets`]), where their exponents are much alike.
//!
//! [`ScaleEstimator`] says from a sample what that saves. A wrong estimate, and scales that fit badly, cost ratio, never data.

use std::ops::Range;

use super::Effort;
use super::element::Element;
use super::frames::{Compressor, Decompressor};
use super::pieces::{PiecePacker, PieceUnpacker};
use super::sample::COUNT_LOG;

/// Levels are logarithms to the base of two in this many parts of one, as a power of two: so many bits behind the exponent.
pub(super) const LEVEL_BITS: u32 = 2;
/// What a key leaves out of the sum of two scales: keys are half octaves. With whole ones moments take 0.3 % more, with quarters no less.
const SHIFT: u8 = 1;
/// Matrices of fewer elements are not looked at, nor those with so many rows and columns that their scales weigh.
const ELEMENTS_MIN: usize = 8 << 10;
const SCALE_ELEMENTS: usize = 64;
/// Rows, and columns next to one another, of which the sample is made.
const SAMPLE_ROWS: usize = 16;
const SAMPLE_COLUMNS: usize = 512;
/// What a bucket costs beside the entropy of its bytes, in bits: its codes, and the headers of its pieces.
const BUCKET_BITS: f32 = 8.0 * 60.0;
/// Keys of the sample are that much coarser, as it is small.
const SAMPLE_SHIFT: u8 = 1;
/// Exponents are told apart modulo this.
const CLASSES: usize = 64;
/// In place of the mean of nothing.
const NONE: i32 = i32::MIN;

/// How a matrix is sorted by scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByScale {
    /// Elements in a row, at least 1.
    pub row: u32,
    /// What a key leaves out of the sum of two scales, in bits: 1 to 8.
    pub shift: u8,
}

impl ByScale {
    /// A matrix in rows of `row` elements.
    pub(super) fn new(row: u32) -> Self {
        Self { row, shift: SHIFT }
    }

    /// Length of the fields.
    pub(super) const BYTES: usize = 8;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.shift, 0, 0, 0]);
        out.extend_from_slice(&self.row.to_le_bytes());
    }

    pub(super) fn parse(fields: [u8; Self::BYTES]) -> Result<Self, &'static str> {
        let [shift, zeros @ .., a, b, c, d] = fields;
        let row = u32::from_le_bytes([a, b, c, d]);
        if !(1..=8).contains(&shift) || zeros != [0; 3] || row == 0 {
            return Err("shift or row of scales do not fit");
        }
        Ok(Self { row, shift })
    }
}

/// The scales of rows and columns, and the sums from which they are made.
#[derive(Default)]
pub(super) struct Scales {
    rows: Vec<u8>,
    columns: Vec<u8>,
    levels: Vec<i32>,
    sums: Vec<i32>,
    counts: Vec<i32>,
    means: Vec<i32>,
    packer: PiecePacker,
    unpacker: PieceUnpacker,
}

impl Scales {
    /// Fits them to a matrix of `count` elements in rows of `row` (the last may be shorter), of which `levels` gives a stretch
    /// of a row: the mean level of each row, and the mean of what the levels of a column are above those of their rows. What has level 0
    /// counts for nothing.
    #[inline(always)]
    pub(super) fn fit(&mut self, count: usize, row: usize, levels: impl Fn(Range<usize>, &mut [i32])) {
        self.levels.resize(row, 0);
        for sums in [&mut self.sums, &mut self.counts] {
            sums.clear();
            sums.resize(row, 0);
        }
        self.means.clear();
        for start in (0..count).step_by(row) {
            let numbers = start..(start + row).min(count);
            let line = &mut self.levels[..numbers.len()];
            levels(numbers, line);
            let sum: i64 = line.chunks(1 << 10).map(|part| i64::from(part.iter().sum::<i32>())).sum();
            let others = line.iter().map(|&level| i32::from(level != 0)).sum::<i32>();
            let mean = if others == 0 { NONE } else { (sum / i64::from(others)) as i32 };
            self.means.push(mean);
            for ((total, count), &level) in self.sums.iter_mut().zip(&mut self.counts).zip(&*line) {
                // Why a mask: the compiler vectorises this.
                let mask = -i32::from(level != 0);
                *total = total.wrapping_add(level.wrapping_sub(mean) & mask);
                *count -= mask;
            }
        }
        for (sum, &count) in self.sums.iter_mut().zip(&self.counts) {
            *sum = if count == 0 { NONE } else { sum.div_euclid(count) };
        }
        as_bytes(&self.means, &mut self.rows);
        as_bytes(&self.sums, &mut self.columns);
    }

    /// Appends them: a piece of those of rows, and a piece of those of columns.
    pub(super) fn write(&mut self, compressor: &mut Compressor, effort: Effort, out: &mut Vec<u8>) {
        for scales in [&self.rows, &self.columns] {
            self.packer.pack(compressor, effort, scales, out);
        }
    }

    /// Takes those of a matrix of `count` elements off the front of `rest`.
    pub(super) fn read(
        &mut self,
        frames: &mut Decompressor,
        (count, row): (usize, usize),
        rest: &mut &[u8],
    ) -> Result<(), &'static str> {
        if row > count {
            return Err("a row is longer than all elements");
        }
        self.rows.resize(count.div_ceil(row), 0);
        self.columns.resize(row, 0);
        for scales in [&mut self.rows, &mut self.columns] {
            self.unpacker.unpack_into(frames, rest, scales)?;
        }
        Ok(())
    }

    /// The key of each element; `exponents` gives what to take off the scales, from a place on.
    #[inline(always)]
    pub(super) fn keys(&self, shift: u8, out: &mut [u8], exponents: impl Fn(usize, &mut [u8])) {
        let mut place = 0;
        for (line, &row) in out.chunks_mut(self.columns.len().max(1)).zip(&self.rows) {
            exponents(place, line);
            place += line.len();
            for (key, &column) in line.iter_mut().zip(&self.columns) {
                let sum = i16::from(row) + i16::from(column) - (i16::from(*key) << LEVEL_BITS);
                *key = if row == 0 || column == 0 { 0 } else { (sum >> shift) as u8 };
            }
        }
    }
}

/// Means as bytes: 1 and more above the least, 0 where there is none.
fn as_bytes(means: &[i32], out: &mut Vec<u8>) {
    let least = means.iter().copied().filter(|&mean| mean != NONE).min().unwrap_or(0);
    let byte =
        |mean: i32| if mean == NONE { 0 } else { mean.wrapping_sub(least).saturating_add(1).clamp(1, 255) as u8 };
    out.clear();
    out.extend(means.iter().map(|&mean| byte(mean)));
}

/// Nothing to take off the scales.
pub(super) fn no_exponents(_: usize, exponents: &mut [u8]) {
    exponents.fill(0);
}

/// Keys out of a list.
pub(super) fn listed(list: &[u8]) -> impl Fn(usize, &mut [u8]) {
    move |place, keys| keys.copy_from_slice(&list[place..place + keys.len()])
}

/// The level of the numbers in `elements`, whose exponent begins at bit `exponent` of a rotated element.
pub(super) fn levels_of<E: Element<W>, const W: usize>(
    elements: &[[u8; W]],
    exponent: u8,
) -> impl Fn(Range<usize>, &mut [i32]) {
    let shift = u32::from(exponent).saturating_sub(LEVEL_BITS);
    move |numbers, levels| {
        for (level, bytes) in levels.iter_mut().zip(&elements[numbers]) {
            *level = E::load(*bytes).level(shift);
        }
    }
}

/// Makes estimates; owns sample and counters.
#[derive(Default)]
pub(super) struct ScaleEstimator {
    scales: Scales,
    levels: Vec<i32>,
    exponents: Vec<u8>,
    classes: Vec<u8>,
    keys: Vec<u8>,
    counts: Vec<[u16; CLASSES]>,
}

impl ScaleEstimator {
    /// What `buckets` buckets by scale save of a matrix alone, in bits an element, against none; `None` where it is too small or too
    /// thin to ask.
    pub(super) fn alone<E: Element<W>, const W: usize>(
        &mut self,
        by: &ByScale,
        buckets: u8,
        exponent: u8,
        elements: &[[u8; W]],
    ) -> Option<f32> {
        self.measure(by, (buckets, false), elements.len(), |number| {
            let element = E::load(elements[number]);
            let level = element.level(u32::from(exponent).saturating_sub(LEVEL_BITS));
            (level, 0, (level >> LEVEL_BITS) as u8)
        })
    }

    /// As [`Self::alone`], of differences; with `is_bucketed`, against buckets by the exponent of the counterparts. `distance` gives
    /// that of an element.
    pub(super) fn against<E: Element<W>, const W: usize>(
        &mut self,
        by: &ByScale,
        (buckets, is_bucketed): (u8, bool),
        (exponent, base): (u8, &[[u8; W]]),
        distance: impl Fn(usize) -> E,
    ) -> Option<f32> {
        self.measure(by, (buckets, is_bucketed), base.len(), |number| {
            let (size, below) = (distance(number).size(), E::load(base[number]).key(u32::from(exponent)));
            let level = if size == 0 { 0 } else { size + (i32::from(below) << LEVEL_BITS) };
            (level, below, (size >> LEVEL_BITS) as u8)
        })
    }

    /// `look` gives an element's level, the exponent that is known of it beforehand, and the one that is to be found.
    fn measure(
        &mut self,
        by: &ByScale,
        (buckets, is_bucketed): (u8, bool),
        count: usize,
        look: impl Fn(usize) -> (i32, u8, u8),
    ) -> Option<f32> {
        let row = by.row as usize;
        let rows = count / row;
        if count < ELEMENTS_MIN || (rows + row) * SCALE_ELEMENTS > count {
            return None;
        }
        let (lines, columns) = (rows.min(SAMPLE_ROWS), row.min(SAMPLE_COLUMNS));
        self.levels.clear();
        self.exponents.clear();
        self.classes.clear();
        for line in 0..lines {
            let start = line * rows / lines * row + (row - columns) / 2;
            for number in start..start + columns {
                let (level, exponent, class) = look(number);
                self.levels.push(level);
                self.exponents.push(exponent);
                self.classes.push(class % CLASSES as u8);
            }
        }
        let length = self.levels.len();
        let levels = &self.levels;
        self.scales.fit(length, columns, |numbers, line| line.copy_from_slice(&levels[numbers]));
        self.keys.resize(length, 0);
        self.scales.keys(by.shift + SAMPLE_SHIFT, &mut self.keys, listed(&self.exponents));
        if !is_bucketed {
            self.exponents.fill(0);
        }
        let before = bits(&mut self.counts, &self.exponents, &self.classes);
        let after = bits(&mut self.counts, &self.keys, &self.classes);
        let overhead = f32::from(buckets) * BUCKET_BITS + 8.0 * (rows + row) as f32;
        Some((before - after) / length as f32 - overhead / count as f32)
    }
}

/// Entropy of classes in buckets of one key each, in bits, with Miller and Madow's correction.
fn bits(counts: &mut Vec<[u16; CLASSES]>, keys: &[u8], classes: &[u8]) -> f32 {
    counts.clear();
    counts.resize(256, [0; CLASSES]);
    for (&key, &class) in keys.iter().zip(classes) {
        counts[usize::from(key)][usize::from(class)] += 1;
    }
    let bucket = |counts: &[u16; CLASSES]| {
        let total: u16 = counts.iter().sum();
        if total == 0 {
            return 0.0;
        }
        let kinds = counts.iter().filter(|&&count| count > 0).count() as f32;
        let known: f32 = counts.iter().map(|&count| COUNT_LOG[usize::from(count)]).sum();
        COUNT_LOG[usize::from(total)] - known + (kinds - 1.0) / (2.0 * std::f32::consts::LN_2)
    };
    counts.iter().map(bucket).sum()
}
