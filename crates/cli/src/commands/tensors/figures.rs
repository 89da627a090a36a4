//! What is shown of a tensor's statistics: numbers as text, notes, and the whole in JSON.

use seawall_engine::statistics::Statistics;
use serde::Serialize;

/// Statistics in JSON. `null` stands for what is no number: the range where no element is finite, a norm beyond 64-bit
/// floats.
#[derive(Debug, Serialize)]
pub(super) struct StatisticsLine<'s> {
    elements: u64,
    nan: u64,
    infinite: u64,
    zeros: u64,
    minimum: Option<f64>,
    maximum: Option<f64>,
    norm: f64,
    /// Binary exponent, and how many of the finite elements that are not zero have it.
    exponents: Exponents<'s>,
}

/// Serialises bins as pairs.
#[derive(Debug)]
struct Exponents<'s>(&'s Statistics);

impl Serialize for Exponents<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.exponents.iter())
    }
}

impl<'s> From<&'s Statistics> for StatisticsLine<'s> {
    fn from(statistics: &'s Statistics) -> Self {
        Self {
            elements: statistics.elements,
            nan: statistics.nan,
            infinite: statistics.infinite,
            zeros: statistics.zeros,
            minimum: statistics.range.map(|range| range.0),
            maximum: statistics.range.map(|range| range.1),
            norm: statistics.norm(),
            exponents: Exponents(statistics),
        }
    }
}

/// What somebody should know of a tensor at a glance; empty where there is nothing.
pub(super) fn notes(statistics: &Statistics) -> String {
    let counted = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let zero = statistics.is_all_zero().then(|| "all zero".to_owned());
    let notes = [counted(statistics.nan, "NaN"), counted(statistics.infinite, "infinite"), zero];
    notes.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A number with four significant digits: plain where that is short, else with an exponent.
pub(super) fn figure(number: f64) -> String {
    let magnitude = number.abs();
    if number == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..99_999.5).contains(&magnitude) {
        return format!("{number:.3e}");
    }
    let decimals = [(1e4, 0), (1e3, 0), (1e2, 1), (1e1, 2), (1.0, 3), (0.1, 4), (0.01, 5)];
    let places = decimals.iter().find(|(least, _)| magnitude >= *least).map_or(6, |(_, places)| *places);
    let text = format!("{number:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A change as a share of what was, in percent with its sign.
pub(super) fn percent(share: f64) -> String {
    let sign = if share > 0.0 { "+" } else { "" };
    format!("{sign}{}%", figure(share * 100.0))
}

#[cfg(test)]
mod tests {
    use seawall_engine::readers::Dtype;

    use super::*;

    #[test]
    fn figures_have_four_digits() {
        for (number, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (12.345_6, "12.35"),
            (100.0, "100"),
            (1234.56, "1235"),
            (99_999.0, "99999"),
            (100_000.0, "1.000e5"),
            (0.1, "0.1"),
            (0.012_345_6, "0.01235"),
            (0.001, "0.001"),
            (0.000_9, "9.000e-4"),
            (-1e300, "-1.000e300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(figure(number), expected, "{number}");
        }
        for (share, expected) in [(0.0, "0%"), (0.5, "+50%"), (-1.0, "-100%"), (1e-6, "+1.000e-4%")] {
            assert_eq!(percent(share), expected, "{share}");
        }
    }

    #[test]
    fn notes_tell_what_is_odd() {
        let of = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            notes(&Statistics::of(Dtype::F32, &bytes).unwrap())
        };
        assert_eq!(of(&[1.0, 0.0]), "");
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[0.0, -0.0]), "all zero");
        assert_eq!(of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]), "1 NaN, 2 infinite");
    }
}
