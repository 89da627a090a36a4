//! Statistics of a tensor's numbers: what a silent corruption of data changes, at the speed of a backup.
//!
//! [`Statistics::of`] looks at a stretch of whole elements once; [`Statistics::merge`] puts stretches together.
//! [`builder::TableBuilder`] collects the stretches of a file's tensors into a [`table::TensorTable`];
//! [`mod@compare`] holds two tables against each other. Pure: no files, no threads.
//!
//! Invariants: counts, range and histogram do not depend on how a tensor was cut into stretches. The sum of squares is a
//! sum of floats, so it does, in its last digits: within a stretch element `i` is added to sum `i mod 8`, the eight are
//! added by halves, and stretches are added in the order of the file. Equal cuts give equal bits.

pub mod builder;
pub mod compare;
mod exponents;
mod narrow;
pub mod table;
mod tally;
#[cfg(test)]
mod tests;

pub use exponents::Exponents;

use crate::readers::Dtype;

/// Longer stretches are taken in parts of this many bytes, a multiple of every width: counters have 32 bits.
const PART_BYTES: usize = 1 << 30;

/// What is known of a stretch of elements. Of complex numbers each part counts as an element.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Number of elements.
    pub elements: u64,
    /// Elements that are not a number.
    pub nan: u64,
    /// Elements that are infinite, of either sign.
    pub infinite: u64,
    /// Elements that are zero, of either sign.
    pub zeros: u64,
    /// The smallest and the largest of the finite elements, rounded where integers do not fit; none where no element is
    /// finite. A zero has no sign here.
    pub range: Option<(f64, f64)>,
    /// Sum of the squares of the finite elements; infinite where that is beyond 64-bit floats.
    pub squares: f64,
    /// How many of the finite elements that are not zero have which binary exponent.
    pub exponents: Exponents,
}

impl Statistics {
    /// Statistics of elements. None for kinds whose bytes say nothing by themselves (quantised blocks, six-bit floats,
    /// mere widths, unknown), and where `bytes` are not whole elements.
    #[must_use]
    pub fn of(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        let width = usize::try_from(dtype.width()).ok()?;
        if !has_statistics(dtype) || !bytes.len().is_multiple_of(width) {
            return None;
        }
        let mut whole = Self::default();
        bytes.chunks(PART_BYTES).for_each(|part| whole.merge(&tally::part(dtype, part)));
        Some(whole)
    }

    /// Statistics of so many bytes that are zero: what a hole in a file reads as. None as in [`Self::of`].
    #[must_use]
    pub fn of_zeros(dtype: Dtype, bytes: u64) -> Option<Self> {
        let width = dtype.width();
        let one = Self::of(dtype, [0; 16].get(..usize::try_from(width).ok()?)?)?;
        let count = bytes / u64::from(width);
        if count == 0 || !bytes.is_multiple_of(width.into()) {
            return (count == 0 && bytes == 0).then(Self::default);
        }
        let times = |number: u64| number.saturating_mul(count);
        Some(Self {
            elements: times(one.elements),
            nan: times(one.nan),
            infinite: times(one.infinite),
            zeros: times(one.zeros),
            range: one.range,
            // Precision: only where a zero byte is not a zero (E8M0), and there it is a power of two.
            squares: one.squares * count as f64,
            exponents: one.exponents.times(count),
        })
    }

    /// Adds the statistics of a stretch that lies behind this one.
    pub fn merge(&mut self, behind: &Self) {
        self.elements += behind.elements;
        self.nan += behind.nan;
        self.infinite += behind.infinite;
        self.zeros += behind.zeros;
        self.range = match (self.range, behind.range) {
            (Some((low, high)), Some((other_low, other_high))) => Some((low.min(other_low), high.max(other_high))),
            (one, other) => one.or(other),
        };
        self.squares += behind.squares;
        self.exponents.merge(&behind.exponents);
    }

    /// The L2 norm of the finite elements.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.squares.sqrt()
    }

    /// The largest magnitude of a finite element; none where no element is finite.
    #[must_use]
    pub fn magnitude(&self) -> Option<f64> {
        self.range.map(|(low, high)| low.abs().max(high.abs()))
    }

    /// True if every element is zero, and there is one.
    #[must_use]
    pub fn is_all_zero(&self) -> bool {
        self.elements > 0 && self.zeros == self.elements
    }

    /// The sum of all counts is the number of elements, and the rest can be true together. For decoders.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let counts = [self.nan, self.infinite, self.zeros].into_iter().chain(self.exponents.iter().map(|(_, it)| it));
        let sum = counts.into_iter().try_fold(0_u64, u64::checked_add);
        let is_range = self.range.is_none_or(|(low, high)| low <= high && low.is_finite() && high.is_finite());
        let finite = self.elements.checked_sub(self.nan).and_then(|left| left.checked_sub(self.infinite));
        sum == Some(self.elements)
            && is_range
            && self.range.is_some() == finite.is_some_and(|finite| finite > 0)
            && self.squares >= 0.0
    }
}

/// True if elements of this kind have statistics.
#[must_use]
pub fn has_statistics(dtype: Dtype) -> bool {
    !matches!(dtype, Dtype::Block(_) | Dtype::Width(_) | Dtype::Unknown | Dtype::F6E2m3 | Dtype::F6E3m2)
}
