//! A histogram over binary exponents: how many numbers lie in which binade.
//!
//! The bin `e` counts numbers with 2^e <= |x| < 2^(e+1). Numbers below the smallest normal one of FP64, FP32 and BF16 all
//! count in the bin under it (-1023, -127, -127): what they are exactly is of no use to anybody. Bins are ascending, and
//! none is empty, so a histogram takes as much memory as there are different exponents.

/// See the module's page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exponents(Vec<(i16, u64)>);

impl Exponents {
    /// From bins; none where they are not ascending or one is empty.
    #[must_use]
    pub fn from_bins(bins: Vec<(i16, u64)>) -> Option<Self> {
        let ascending = bins.is_sorted_by(|left, right| left.0 < right.0);
        (ascending && bins.iter().all(|(_, count)| *count > 0)).then_some(Self(bins))
    }

    /// Takes counts of consecutive exponents; the first is of `first`.
    pub(super) fn from_counts(first: i16, counts: impl Iterator<Item = u64>) -> Self {
        Self((first..).zip(counts).filter(|(_, count)| *count > 0).collect())
    }

    /// The bins that are not empty, ascending: exponent and count.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i16, u64)> {
        self.0.iter().copied()
    }

    /// How many numbers are counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// True if no number is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every count so many times.
    pub(super) fn times(&self, factor: u64) -> Self {
        let bins = self.0.iter().map(|(exponent, count)| (*exponent, count.saturating_mul(factor)));
        Self(bins.filter(|(_, count)| *count > 0).collect())
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if other.0.is_empty() {
            return;
        }
        let (mut left, mut right) = (self.0.iter().copied().peekable(), other.0.iter().copied().peekable());
        let mut merged = Vec::with_capacity(self.0.len().max(other.0.len()));
        loop {
            let bin = match (left.peek().copied(), right.peek().copied()) {
                (None, None) => break,
                (Some(one), Some(other)) if one.0 == other.0 => {
                    right.next();
                    left.next();
                    (one.0, one.1 + other.1)
                }
                (Some(one), other) if other.is_none_or(|other| one.0 < other.0) => {
                    left.next();
                    one
                }
                (_, Some(other)) => {
                    right.next();
                    other
                }
                (Some(_), None) => unreachable!("taken by the arm above"),
            };
            merged.push(bin);
        }
        self.0 = merged;
    }

    /// How far the numbers would have to move from one histogram to the other, in binades on the average: the earth
    /// mover's distance of the two, each taken as shares, which on a line is the area between the cumulative ones. None
    /// where either is empty.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Option<f64> {
        if self.is_empty() || other.is_empty() {
            return None;
        }
        // Precision: shares need no more than the 53 bits of a float.
        let (total, other_total) = (self.total() as f64, other.total() as f64);
        let signed = |bins: &Self, total: f64| bins.0.iter().map(|(e, n)| (*e, *n as f64 / total)).collect::<Vec<_>>();
        let mut steps = signed(self, total);
        steps.extend(signed(other, -other_total));
        steps.sort_by_key(|(exponent, _)| *exponent);
        let (mut area, mut ahead, mut last) = (0.0, 0.0_f64, steps[0].0);
        for (exponent, share) in steps {
            area += ahead.abs() * f64::from(i32::from(exponent) - i32::from(last));
            ahead += share;
            last = exponent;
        }
        Some(area)
    }
}
