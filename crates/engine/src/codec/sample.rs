//! What a small part of a chunk tells about the whole: entropy, the width and phase of numbers, kinship with a base.
//!
//! Everything here is a guess that costs time or ratio when it is wrong, never data. Cost is a few ten microseconds a
//! chunk, whatever its length: at most [`SAMPLE_BYTES`] are looked at, in blocks spread evenly.

use std::f32::consts::LN_2;
use std::sync::LazyLock;

use super::pieces::RAW_ENTROPY_BITS;
use super::{Hint, NumberKind};

/// At most this many bytes of a chunk are counted to find its layout: about a thousand in each of eight lanes.
const SAMPLE_BYTES: usize = 8 << 10;
/// At most this many bytes are counted to learn the statistics of one plane, or the phase.
const PLANE_SAMPLE_BYTES: usize = 4 << 10;
/// Length of one block of the sample; a multiple of the widest element, so that lanes stay lanes.
const BLOCK_BYTES: usize = 512;
/// Chunks shorter than this are not examined for numbers.
const NUMERIC_BYTES_MIN: usize = 2048;
/// What planes of floats of one byte are taken to need, of their entropy. Their one plane takes no more than a frame, in half
/// the time: matches, which only a frame looks for, are chance in weights. So planes are favoured.
const FLOAT8_FAVOUR: f32 = 0.92;
/// Tables that count one plane. Why: neighbours are mostly equal, and would wait for one another's count.
const TABLES: usize = 4;
/// Lanes are counted by position modulo the widest element.
const LANES: usize = 8;
/// Counts up to this have their logarithm in a table.
const COUNT_MAX: usize = 16 << 10;
/// `n log2 n` for every count that a sample can have.
pub(super) static COUNT_LOG: LazyLock<Vec<f32>> = LazyLock::new(|| (0..=COUNT_MAX).map(log_of).collect());

/// `n log2 n`.
fn log_of(count: usize) -> f32 {
    if count == 0 { 0.0 } else { count as f32 * (count as f32).log2() }
}

/// The sum of `n log2 n` over these counts. Why four sums: each addition would wait for the one before.
#[inline(always)]
fn sum_of_logs(counts: &[impl Copy + Into<u32>; 256]) -> f32 {
    let table = COUNT_LOG.as_slice();
    let log = |count: u32| table.get(count as usize).copied().unwrap_or_else(|| log_of(count as usize));
    let mut sums = [0.0; 4];
    for row in counts.as_chunks::<4>().0 {
        sums.iter_mut().zip(row).for_each(|(sum, &count)| *sum += log(count.into()));
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// How often each byte value occurs.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: [u16; 256],
    total: usize,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; 256], total: 0 }
    }
}

impl Histogram {
    /// Counts a sample of one plane; also gives the share of bytes that equal their left neighbour.
    pub(super) fn of_plane(plane: &[u8]) -> (Self, f32) {
        let mut histogram = Self::default();
        let mut tables = [[0; 256]; TABLES];
        let mut repeats = 0usize;
        for place in blocks(plane.len(), PLANE_SAMPLE_BYTES) {
            let block = &plane[place..(place + BLOCK_BYTES).min(plane.len())];
            count(block, &mut tables);
            let pairs = block.iter().zip(&block[1..]);
            repeats += usize::from(pairs.map(|(left, right)| u16::from(left == right)).sum::<u16>());
            histogram.total += block.len();
        }
        for table in &tables {
            histogram.counts.iter_mut().zip(table).for_each(|(sum, count)| *sum += count);
        }
        let repeats = repeats as f32 / histogram.total.max(1) as f32;
        (histogram, repeats)
    }

    /// The sum of several.
    fn merged<'a>(parts: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut sum = Self::default();
        for part in parts {
            sum.counts.iter_mut().zip(&part.counts).for_each(|(sum, count)| *sum += count);
            sum.total += part.total;
        }
        sum
    }

    /// Shannon entropy in bits a byte, with Miller and Madow's correction for small samples; 0 to 8.
    pub(super) fn entropy(&self) -> f32 {
        if self.total == 0 {
            return 0.0;
        }
        let sum = sum_of_logs(&self.counts);
        let kinds: u16 = self.counts.iter().map(|&count| u16::from(count > 0)).sum();
        let total = self.total as f32;
        let correction = (f32::from(kinds) - 1.0) / (2.0 * LN_2 * total);
        (total.log2() - sum / total + correction).clamp(0.0, 8.0)
    }

    /// The chance that two bytes drawn independently are equal.
    pub(super) fn repeat_chance(&self) -> f32 {
        let total = self.total.max(1) as f32;
        self.counts.iter().map(|&count| u32::from(count).pow(2)).sum::<u32>() as f32 / (total * total)
    }

    /// The commonest byte, and its share of all (0 where there are none).
    pub(super) fn commonest(&self) -> (u8, f32) {
        let (byte, count) =
            self.counts.iter().enumerate().max_by_key(|&(_, count)| count).expect("there are 256 bytes");
        (byte as u8, f32::from(*count) / self.total.max(1) as f32)
    }

    /// True where 90 of 100 bytes are text in ASCII; `index` says where a byte was counted.
    fn is_text(&self, index: impl Fn(u8) -> u8) -> bool {
        let text = (b' '..=b'~').chain(b"\t\n\r".iter().copied());
        let count: usize = text.map(|byte| usize::from(self.counts[usize::from(index(byte))])).sum();
        count * 10 > self.total * 9
    }

    /// What a plane of these bytes takes, in bits a byte.
    fn plane_bits(&self) -> f32 {
        let entropy = self.entropy();
        if entropy > RAW_ENTROPY_BITS { 8.0 } else { entropy }
    }
}

/// Counts bytes into tables by turns.
fn count(bytes: &[u8], tables: &mut [[u16; 256]; TABLES]) {
    let (groups, rest) = bytes.as_chunks::<TABLES>();
    for group in groups {
        for (table, &byte) in tables.iter_mut().zip(group) {
            table[usize::from(byte)] += 1;
        }
    }
    rest.iter().for_each(|&byte| tables[0][usize::from(byte)] += 1);
}

/// Shannon entropy of all the counted bytes together, in bits, with Miller and Madow's correction for small samples.
#[inline(always)]
pub(super) fn entropy_of(counts: &[u32; 256]) -> f32 {
    let total: u32 = counts.iter().sum();
    let kinds: u32 = counts.iter().map(|&count| u32::from(count > 0)).sum();
    let sum = sum_of_logs(counts);
    if total == 0 { 0.0 } else { log_of(total as usize) - sum + (kinds as f32 - 1.0) / (2.0 * LN_2) }
}

/// Starts of the sample's blocks in `length` bytes: multiples of [`LANES`], at most `budget` bytes together.
fn blocks(length: usize, budget: usize) -> impl Iterator<Item = usize> {
    let count = (budget / BLOCK_BYTES).min(length.div_ceil(BLOCK_BYTES)).max(1);
    let step = (length.saturating_sub(BLOCK_BYTES) / count.max(2).saturating_sub(1)) & !(LANES - 1);
    (0..if length == 0 { 0 } else { count }).map(move |number| number * step)
}

/// True where all bytes are equal (and where there are none).
pub(super) fn is_constant(bytes: &[u8]) -> bool {
    let Some(&first) = bytes.first() else { return true };
    // Why: the chunks differ from the first byte almost at once or hardly ever; both are quick this way.
    bytes.chunks(256).all(|chunk| chunk.iter().fold(0, |seen, &byte| seen | (byte ^ first)) == 0)
}

/// What the sample says about a chunk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Profile {
    /// Entropy of the bytes regardless of their place, in bits a byte.
    pub byte_bits: f32,
    /// The bytes are text: hardly any but printable ASCII and white space.
    pub text: bool,
    /// The best layout of numbers, if bytes at different places of an element differ in kind.
    pub numbers: Option<Numbers>,
}

/// A guess at the layout of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Numbers {
    /// Bytes an element: 1 (by a hint only), 2, 4 or 8.
    pub width: u8,
    /// Bytes before the first whole element.
    pub head: u8,
    /// What planes would take, in bits a byte.
    pub bits: f32,
}

/// Examines chunks; owns the counters.
#[derive(Default)]
pub(super) struct Sampler {
    /// By position modulo [`LANES`]: each byte rotated into its lower neighbour, which is what it becomes in a plane
    /// other than plane 0 whatever the phase.
    lanes: [Histogram; LANES],
}

impl Sampler {
    /// Looks at a sample of `plain`. A hint says how wide the numbers are and where they begin, so both need not be guessed.
    pub(super) fn profile(&mut self, plain: &[u8], hint: Option<&Hint>) -> Profile {
        if plain.len() < NUMERIC_BYTES_MIN {
            let (histogram, _) = Histogram::of_plane(plain);
            return Profile { byte_bits: histogram.entropy(), text: histogram.is_text(|byte| byte), numbers: None };
        }
        self.count_lanes(plain);
        let all = Histogram::merged(self.lanes.iter());
        let byte_bits = all.entropy();
        // A rotated byte of text is twice the byte: text has no high bits to take over from a neighbour.
        let text = all.is_text(|byte| byte << 1);
        if let Some(&Hint { width, head, kind, .. }) = hint {
            // Lanes of eight are lanes of any width; where numbers begin, only their bottom plane depends on.
            let bits = match (width, kind) {
                (1, NumberKind::F8E4m3 | NumberKind::F8E5m2) => byte_bits * FLOAT8_FAVOUR,
                (1, _) => byte_bits,
                _ => self.width_bits(usize::from(width)),
            };
            return Profile { byte_bits, text, numbers: Some(Numbers { width, head, bits }) };
        }
        let mut best: Option<Numbers> = None;
        for (width, floor) in [(2u8, byte_bits - 0.25), (4, 8.0), (8, 8.0)] {
            let bits = self.width_bits(usize::from(width));
            // A wider element must earn its smaller sample; without any lane structure none is taken.
            let limit = best.map_or(floor.min(byte_bits - 0.25), |best| best.bits - 0.1);
            if bits < limit {
                best = Some(Numbers { width, head: 0, bits });
            }
        }
        let numbers = best.map(|numbers| {
            let width = usize::from(numbers.width);
            Numbers { head: phase(plain, width, self.behind_exponent(width)), ..numbers }
        });
        Profile { byte_bits, text, numbers }
    }

    fn count_lanes(&mut self, plain: &[u8]) {
        self.lanes.iter_mut().for_each(|lane| *lane = Histogram::default());
        for place in blocks(plain.len(), SAMPLE_BYTES) {
            let block = &plain[place..(place + BLOCK_BYTES).min(plain.len())];
            let mut below = if place == 0 { 0 } else { plain[place - 1] };
            for group in block.chunks_exact(LANES) {
                for (lane, &byte) in self.lanes.iter_mut().zip(group) {
                    lane.counts[usize::from(byte << 1 | below >> 7)] += 1;
                    below = byte;
                }
            }
            self.lanes.iter_mut().for_each(|lane| lane.total += block.len() / LANES);
        }
    }

    /// The lane behind the one that says least: of floats that is the exponent's, the last byte of an element.
    fn behind_exponent(&self, width: usize) -> usize {
        let bits = |lane: usize| Histogram::merged(self.lanes.iter().skip(lane).step_by(width)).entropy();
        let exponent = (0..width).min_by(|&left, &right| bits(left).total_cmp(&bits(right)));
        exponent.map_or(0, |lane| (lane + 1) % width)
    }

    /// What planes of that width would take, in bits a byte.
    fn width_bits(&self, width: usize) -> f32 {
        let lane_bits = |lane: usize| match width {
            8 => self.lanes[lane].plane_bits(),
            _ => Histogram::merged(self.lanes.iter().skip(lane).step_by(width)).plane_bits(),
        };
        (0..width).map(lane_bits).sum::<f32>() / width as f32
    }
}

/// Where elements of that width begin: the offset at which the bit that wraps from the top byte into the bottom byte
/// makes the bytes least predictable costs most, so each phase is tried on the one plane that it changes. Of phases that
/// cost the same `likely` is taken: planes are no longer in another, but differences to a base would be.
fn phase(plain: &[u8], width: usize, likely: usize) -> u8 {
    let mut wrapped: [Histogram; LANES] = Default::default();
    let mut straight: [Histogram; LANES] = Default::default();
    for place in blocks(plain.len() - LANES, PLANE_SAMPLE_BYTES) {
        let end = (place + BLOCK_BYTES).min(plain.len() - LANES);
        for at in place.max(LANES)..end {
            // The width is a power of two.
            let lane = at & (width - 1);
            let byte = plain[at] << 1;
            wrapped[lane].counts[usize::from(byte | plain[at + width - 1] >> 7)] += 1;
            straight[lane].counts[usize::from(byte | plain[at - 1] >> 7)] += 1;
            wrapped[lane].total += 1;
            straight[lane].total += 1;
        }
    }
    let costs: [f32; LANES] = std::array::from_fn(|lane| wrapped[lane].plane_bits() - straight[lane].plane_bits());
    // Another phase must show that it is better, or chance would choose among equals.
    (0..width).fold(likely, |best, lane| if costs[lane] < costs[best] - 0.02 { lane } else { best }) as u8
}

/// Length of what is compared with a base at one place.
const WINDOW_BYTES: usize = 16;
/// The base is known by one window in every this many bytes.
const STRIDE_BYTES: usize = 64;

/// Tells whether a chunk shares stretches with a base; owns the table.
#[derive(Default)]
pub(super) struct Kinship {
    marks: Vec<u32>,
}

impl Kinship {
    /// The share of probed places of `plain` (0 to 1) around which a stretch of 79 bytes or more also stands in `base`.
    pub(super) fn share(&mut self, plain: &[u8], base: &[u8]) -> f32 {
        let slots = (base.len() / STRIDE_BYTES * 4).next_power_of_two().max(256);
        self.marks.clear();
        self.marks.resize(slots, 0);
        for window in base.chunks_exact(STRIDE_BYTES).filter_map(|chunk| chunk.first_chunk()) {
            let mark = mark(window);
            self.marks[mark as usize & (slots - 1)] = mark;
        }
        let probes = (plain.len() / 1024).clamp(1, 64);
        let step = plain.len() / probes;
        let found = (0..probes).filter(|probe| {
            let stretch = &plain[probe * step..(probe * step + STRIDE_BYTES + WINDOW_BYTES - 1).min(plain.len())];
            stretch.windows(WINDOW_BYTES).filter_map(|window| window.first_chunk()).any(|window| {
                let mark = mark(window);
                self.marks[mark as usize & (slots - 1)] == mark
            })
        });
        found.count() as f32 / probes as f32
    }
}

/// A fingerprint of sixteen bytes; never zero.
fn mark(window: &[u8; WINDOW_BYTES]) -> u32 {
    let value = u128::from_le_bytes(*window);
    let mixed = (value as u64 ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xff51_afd7_ed55_8ccd)
        ^ ((value >> 64) as u64).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb).rotate_left(32) as u32 | 1 << 31
}
