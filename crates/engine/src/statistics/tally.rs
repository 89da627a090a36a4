//! The loops: statistics of one part, fast. Floats go through a block of FP32 that stays in the first-level cache.
//!
//! A block is counted by exponents first, in four tables, so that two neighbours with one exponent do not wait for each
//! other's store. Whether it has zeros, infinities or NaN at all shows in the first and last bin, so the loop that adds
//! squares and finds the range need not look for them in most blocks; that loop becomes vector instructions. FP64 goes the
//! same way with two tables. Integers are few, and take the plain way. Of floats of sixteen bits and fewer the patterns are
//! counted, and each pattern that occurs is looked at once: weights have a few thousand of them, in neighbouring counters.

use std::cell::RefCell;

use super::Statistics;
use super::exponents::Exponents;
use super::narrow;
use crate::readers::Dtype;

/// Elements of a block: 4 KiB of FP32, beside 4 KiB of counters.
const BLOCK: usize = 1024;
/// From so many elements of sixteen bits on their patterns are counted: the counters are 256 KiB, to clear and to look through.
const PATTERNS_MIN: usize = 32 << 10;
/// Sums of squares side by side.
const LANES: usize = 8;

/// Statistics of at most 2^32 - 1 whole elements of a kind that has them.
pub(super) fn part(dtype: Dtype, bytes: &[u8]) -> Statistics {
    match dtype {
        Dtype::F32 | Dtype::Complex64 => floats::<4>(bytes, |it| u32::from_le_bytes(*it)),
        Dtype::Bf16 => halves(bytes, |bits| u32::from(bits) << 16),
        Dtype::F16 | Dtype::Complex32 => halves(bytes, narrow::half),
        Dtype::F64 | Dtype::Complex128 => doubles(bytes),
        Dtype::I64 => integers::<8>(bytes, |it| signed(i64::from_le_bytes(it))),
        Dtype::I32 => integers::<4>(bytes, |it| signed(i32::from_le_bytes(it).into())),
        Dtype::I16 => integers::<2>(bytes, |it| signed(i16::from_le_bytes(it).into())),
        Dtype::U64 => integers::<8>(bytes, |it| unsigned(u64::from_le_bytes(it))),
        Dtype::U32 => integers::<4>(bytes, |it| unsigned(u32::from_le_bytes(it).into())),
        Dtype::U16 => integers::<2>(bytes, |it| unsigned(u16::from_le_bytes(it).into())),
        Dtype::I4 | Dtype::U4 | Dtype::F4 => codes(dtype, &nibbles(&byte_counts(bytes))),
        _ => codes(dtype, &byte_counts(bytes)),
    }
}

/// Range and squares of floats so far.
struct Lanes<T> {
    low: [T; LANES],
    high: [T; LANES],
    squares: [f64; LANES],
}

impl<T: Copy + PartialOrd + Into<f64>> Lanes<T> {
    fn new(low: T, high: T) -> Self {
        Self { low: [low; LANES], high: [high; LANES], squares: [0.0; LANES] }
    }

    /// Adds one row. A NaN in `values` is passed over by both comparisons; `squared` has a zero in its place.
    #[inline]
    fn add(&mut self, values: &[T; LANES], squared: &[T; LANES]) {
        for lane in 0..LANES {
            let (value, square) = (values[lane], squared[lane].into());
            self.low[lane] = if value < self.low[lane] { value } else { self.low[lane] };
            self.high[lane] = if value > self.high[lane] { value } else { self.high[lane] };
            self.squares[lane] += square * square;
        }
    }

    /// The range; none where nothing was finite.
    fn range(&self) -> Option<(f64, f64)> {
        let low = self.low.iter().map(|&it| it.into()).fold(f64::INFINITY, f64::min);
        let high = self.high.iter().map(|&it| it.into()).fold(f64::NEG_INFINITY, f64::max);
        // Why plus zero: it takes the sign off a zero.
        (low <= high).then_some((low + 0.0, high + 0.0))
    }

    /// The eight sums, added by halves.
    fn squares(&self) -> f64 {
        let [a, b, c, d, e, f, g, h] = self.squares;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// Floats whose values are values of FP32; `widen` gives the bits of that.
#[inline]
fn floats<const WIDTH: usize>(bytes: &[u8], widen: impl Fn(&[u8; WIDTH]) -> u32) -> Statistics {
    const SPECIAL: usize = 255;
    let (elements, _) = bytes.as_chunks::<WIDTH>();
    let (mut bins, mut block) = ([[0_u32; 256]; 4], [0_u32; BLOCK]);
    let mut lanes = Lanes::new(f32::INFINITY, f32::NEG_INFINITY);
    let (mut zeros, mut infinite) = (0, 0);
    for elements in elements.chunks(BLOCK) {
        let block = &mut block[..elements.len()];
        block.iter_mut().zip(elements).for_each(|(bits, element)| *bits = widen(element));
        let before = [0, SPECIAL].map(|bin| column(&bins, bin));
        count_exponents(block, &mut bins);
        let [small, special] = [0, SPECIAL].map(|bin| column(&bins, bin));
        if small > before[0] {
            zeros += count(block, |bits| bits << 1 == 0);
        }
        if special > before[1] {
            infinite += count(block, |bits| bits << 1 == 0xff << 24);
            add_block(&mut lanes, block, |bits| {
                let is_special = bits << 1 >= 0xff << 24;
                let value = f32::from_bits(bits);
                if is_special { (f32::NAN, 0.0) } else { (value, value) }
            });
        } else {
            add_block(&mut lanes, block, |bits| (f32::from_bits(bits), f32::from_bits(bits)));
        }
    }
    let column = |bin| column(&bins, bin);
    Statistics {
        elements: elements.len() as u64,
        nan: column(SPECIAL) - infinite,
        infinite,
        zeros,
        range: lanes.range(),
        squares: lanes.squares(),
        exponents: Exponents::from_counts(-127, (0..SPECIAL).map(|e| column(e) - if e == 0 { zeros } else { 0 })),
    }
}

/// Floats of sixteen bits; `widen` gives the bits of FP32.
#[inline]
fn halves(bytes: &[u8], widen: impl Fn(u16) -> u32) -> Statistics {
    let (elements, _) = bytes.as_chunks::<2>();
    if elements.len() < PATTERNS_MIN {
        return floats::<2>(bytes, |it| widen(u16::from_le_bytes(*it)));
    }
    let patterns = PATTERNS.with_borrow_mut(|counts| count_patterns(elements, counts));
    let mut sum = Statistics { elements: elements.len() as u64, ..Statistics::default() };
    let mut exponents = [0_u64; 255];
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (pattern, times) in patterns {
        let bits = widen(pattern);
        let (value, times) = (f64::from(f32::from_bits(bits)), u64::from(times));
        match bits << 1 {
            magnitude if magnitude > 0xff << 24 => sum.nan += times,
            magnitude if magnitude == 0xff << 24 => sum.infinite += times,
            magnitude => {
                (low, high) = (low.min(value), high.max(value));
                // Precision: counts have at most 32 bits.
                sum.squares += times as f64 * (value * value);
                match magnitude {
                    0 => sum.zeros += times,
                    _ => exponents[(magnitude >> 24) as usize] += times,
                }
            }
        }
    }
    sum.range = (low <= high).then_some((low + 0.0, high + 0.0));
    sum.exponents = Exponents::from_counts(-127, exponents.into_iter());
    sum
}

thread_local! {
    /// A counter for each pattern of sixteen bits, all zero between two uses. Why kept: clearing all of them takes a fifth of the time
    /// that counting does.
    static PATTERNS: RefCell<Vec<u32>> = RefCell::new(vec![0; 1 << 16]);
}

/// The patterns of sixteen bits that occur, and how often. Most do not, so whole rows of them are passed over.
fn count_patterns(elements: &[[u8; 2]], counts: &mut [u32]) -> Vec<(u16, u32)> {
    const ROW: usize = 32;
    for element in elements {
        counts[usize::from(u16::from_le_bytes(*element))] += 1;
    }
    let mut occurring = Vec::with_capacity(4096);
    let (rows, _) = counts.as_chunks_mut::<ROW>();
    for (number, row) in rows.iter_mut().enumerate() {
        if row.iter().fold(0, |any, times| any | times) == 0 {
            continue;
        }
        let numbered = row.iter().enumerate().filter(|(_, times)| **times > 0);
        occurring.extend(numbered.map(|(at, &times)| ((number * ROW + at) as u16, times)));
        row.fill(0);
    }
    occurring
}

fn column<const BINS: usize, const TABLES: usize>(bins: &[[u32; BINS]; TABLES], bin: usize) -> u64 {
    bins.iter().map(|table| u64::from(table[bin])).sum()
}

fn count<T: Copy>(block: &[T], is: impl Fn(T) -> bool) -> u64 {
    // Why 32 bits: as wide as what is compared, so that a row is one vector.
    u64::from(block.iter().map(|&bits| u32::from(is(bits))).sum::<u32>())
}

#[inline]
fn count_exponents(block: &[u32], bins: &mut [[u32; 256]; 4]) {
    let exponent = |bits: u32| (bits >> 23 & 0xff) as usize;
    let (rows, rest) = block.as_chunks::<4>();
    let [first, second, third, fourth] = bins;
    for [a, b, c, d] in rows {
        first[exponent(*a)] += 1;
        second[exponent(*b)] += 1;
        third[exponent(*c)] += 1;
        fourth[exponent(*d)] += 1;
    }
    rest.iter().for_each(|bits| first[exponent(*bits)] += 1);
}

/// Adds a block; `value` gives what the range is of, and what is squared.
#[inline]
fn add_block<B: Copy, T: Copy + PartialOrd + Into<f64>>(
    lanes: &mut Lanes<T>,
    block: &[B],
    value: impl Fn(B) -> (T, T),
) {
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        let pairs = row.map(&value);
        lanes.add(&pairs.map(|pair| pair.0), &pairs.map(|pair| pair.1));
    }
    for (lane, bits) in rest.iter().enumerate() {
        let (value, squared) = value(*bits);
        lanes.low[lane] = if value < lanes.low[lane] { value } else { lanes.low[lane] };
        lanes.high[lane] = if value > lanes.high[lane] { value } else { lanes.high[lane] };
        lanes.squares[lane] += squared.into() * squared.into();
    }
}

fn doubles(bytes: &[u8]) -> Statistics {
    const SPECIAL: usize = 2047;
    const SPECIAL_BITS: u64 = 0x7ff << 53;
    let (elements, _) = bytes.as_chunks::<8>();
    let mut bins = vec![[0_u32; 2048]; 2];
    let bins: &mut [[u32; 2048]; 2] = bins.as_mut_slice().try_into().expect("two tables were made");
    let mut lanes = Lanes::new(f64::INFINITY, f64::NEG_INFINITY);
    let (mut zeros, mut infinite) = (0, 0);
    let mut block = [0_u64; BLOCK];
    for elements in elements.chunks(BLOCK) {
        let block = &mut block[..elements.len()];
        block.iter_mut().zip(elements).for_each(|(bits, element)| *bits = u64::from_le_bytes(*element));
        for (place, bits) in block.iter().enumerate() {
            bins[place & 1][(bits >> 52 & 0x7ff) as usize] += 1;
        }
        zeros += count(block, |bits| bits << 1 == 0);
        infinite += count(block, |bits| bits << 1 == SPECIAL_BITS);
        add_block(&mut lanes, block, |bits| {
            let value = f64::from_bits(bits);
            if bits << 1 >= SPECIAL_BITS { (f64::NAN, 0.0) } else { (value, value) }
        });
    }
    let column = |bin| column(bins, bin);
    Statistics {
        elements: elements.len() as u64,
        nan: column(SPECIAL) - infinite,
        infinite,
        zeros,
        range: lanes.range(),
        squares: lanes.squares(),
        exponents: Exponents::from_counts(-1023, (0..SPECIAL).map(|e| column(e) - if e == 0 { zeros } else { 0 })),
    }
}

/// An integer's magnitude and its value, rounded.
// Precision: integers beyond 2^53 are rounded; the range says so.
fn signed(value: i64) -> (u64, f64) {
    (value.unsigned_abs(), value as f64)
}

fn unsigned(value: u64) -> (u64, f64) {
    (value, value as f64)
}

#[inline]
fn integers<const WIDTH: usize>(bytes: &[u8], read: impl Fn([u8; WIDTH]) -> (u64, f64)) -> Statistics {
    let (elements, _) = bytes.as_chunks::<WIDTH>();
    let mut lengths = [0_u64; 65];
    let mut lanes = Lanes::new(f64::INFINITY, f64::NEG_INFINITY);
    for row in elements.chunks(BLOCK) {
        for element in row {
            let (magnitude, _) = read(*element);
            lengths[64 - magnitude.leading_zeros() as usize] += 1;
        }
        add_block(&mut lanes, row, |element| {
            let (_, value) = read(element);
            (value, value)
        });
    }
    Statistics {
        elements: elements.len() as u64,
        nan: 0,
        infinite: 0,
        zeros: lengths[0],
        range: lanes.range(),
        squares: lanes.squares(),
        exponents: Exponents::from_counts(0, lengths[1..].iter().copied()),
    }
}

fn byte_counts(bytes: &[u8]) -> [u64; 256] {
    let mut tables = [[0_u32; 256]; 4];
    let (rows, rest) = bytes.as_chunks::<4>();
    for row in rows {
        for (table, byte) in tables.iter_mut().zip(row) {
            table[usize::from(*byte)] += 1;
        }
    }
    rest.iter().for_each(|byte| tables[0][usize::from(*byte)] += 1);
    std::array::from_fn(|byte| column(&tables, byte))
}

/// Counts of four-bit codes from those of the bytes that hold two each.
fn nibbles(bytes: &[u64; 256]) -> [u64; 256] {
    let mut counts = [0; 256];
    for (byte, times) in bytes.iter().enumerate() {
        counts[byte & 15] += times;
        counts[byte >> 4] += times;
    }
    counts
}

/// Statistics of codes that were counted, in ascending order of codes.
fn codes(dtype: Dtype, counts: &[u64; 256]) -> Statistics {
    let mut sum = Statistics::default();
    // Enough for E8M0, the widest, from 2^-127 on.
    let mut exponents = [0_u64; 256];
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (code, times) in (0..=u8::MAX).zip(counts).filter(|(_, times)| **times > 0) {
        let value = f64::from(narrow::value(dtype, code).unwrap_or_default());
        sum.elements += times;
        match value {
            value if value.is_nan() => sum.nan += times,
            value if value.is_infinite() => sum.infinite += times,
            value => {
                (low, high) = (low.min(value), high.max(value));
                // Precision: counts have at most 32 bits.
                sum.squares += *times as f64 * (value * value);
                match exponent(value) {
                    Some(exponent) => exponents[exponent] += times,
                    None => sum.zeros += times,
                }
            }
        }
    }
    sum.range = (low <= high).then_some((low + 0.0, high + 0.0));
    sum.exponents = Exponents::from_counts(-127, exponents.into_iter());
    sum
}

/// The exponent of a small float, 0 standing for -127; none of zero.
fn exponent(value: f64) -> Option<usize> {
    let biased = (value.to_bits() >> 52 & 0x7ff) as usize;
    (value != 0.0).then(|| biased.saturating_sub(1023 - 127))
}
