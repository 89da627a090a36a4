//! A span of calendar time, as in "keep all within 1y5m7d2h".
//!
//! It is counted back from the latest snapshot of those that are counted together, not from today: when backups stop,
//! nothing expires. Years and months are calendar years and months. Where the earlier month has no such day, its
//! end counts: a month before any time on 29 March is the end of February.
//!
//! Invariant: a later moment never has an earlier `before`, so taking snapshots out of a count keeps no fewer of the rest.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use crate::calendar::{DAY_MS, Date, HOUR_MS, MINUTE_MS, local_ms};

/// A span of years, months, days and hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Within {
    /// Calendar years.
    pub years: u32,
    /// Calendar months.
    pub months: u32,
    /// Days of 24 hours.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

impl Within {
    /// The moment (Unix milliseconds) that lies this span before `latest_ms`; months are counted in local time, which
    /// is `offset_minutes` ahead of UTC. Saturates at the beginning of time.
    #[must_use]
    pub fn before(self, latest_ms: i64, offset_minutes: i32) -> i64 {
        let local = local_ms(latest_ms, offset_minutes);
        let (days, rest_ms) = (local.div_euclid(DAY_MS), local.rem_euclid(DAY_MS));
        let months = i64::from(self.years) * 12 + i64::from(self.months);
        let date = Date::from_days(days);
        let earlier = date.months_before(months);
        let rest_ms = if earlier.day == date.day { rest_ms } else { 0 };
        let back = (earlier.days() - i64::from(self.days)).saturating_mul(DAY_MS).saturating_add(rest_ms);
        let back = back.saturating_sub(i64::from(self.hours) * HOUR_MS);
        // Near the ends of time the steps above saturate one by one, and could end up later than they began.
        back.saturating_sub(i64::from(offset_minutes) * MINUTE_MS).min(latest_ms)
    }

    fn parts(&mut self) -> [(char, &mut u32); 4] {
        [('y', &mut self.years), ('m', &mut self.months), ('d', &mut self.days), ('h', &mut self.hours)]
    }
}

/// A text is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotWithin(String);

impl fmt::Display for NotWithin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not a span of time: {:?}; write years, months, days and hours as in 1y5m7d2h, or some of them",
            self.0
        )
    }
}

impl Error for NotWithin {}

impl FromStr for Within {
    type Err = NotWithin;

    /// Reads `1y5m7d2h`: each unit at most once, the larger first, at least one, and not zero in all.
    fn from_str(text: &str) -> Result<Self, NotWithin> {
        let refused = || NotWithin(text.to_owned());
        let (mut within, mut rest) = (Self::default(), text);
        for (unit, number) in within.parts() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if let Some(after) = rest[digits..].strip_prefix(unit) {
                *number = rest[..digits].parse().map_err(|_| refused())?;
                rest = after;
            }
        }
        if !rest.is_empty() || within == Self::default() {
            return Err(refused());
        }
        Ok(within)
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("0h");
        }
        let mut copy = *self;
        copy.parts()
            .into_iter()
            .filter(|(_, number)| **number > 0)
            .try_for_each(|(unit, number)| write!(f, "{number}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written_back() {
        let table = [
            ("1y5m7d2h", Some((1, 5, 7, 2))),
            ("7d", Some((0, 0, 7, 0))),
            ("48h", Some((0, 0, 0, 48))),
            ("1y1h", Some((1, 0, 0, 1))),
            ("4294967295m", Some((0, u32::MAX, 0, 0))),
            ("4294967296m", None),
            ("", None),
            ("0d", None),
            ("7", None),
            ("d", None),
            ("7d1y", None),
            ("1d1d", None),
            ("7D", None),
            ("-7d", None),
            ("+7d", None),
            ("7 d", None),
            ("7w", None),
            ("7d ", None),
            ("٧d", None),
        ];
        for (text, parts) in table {
            let found = text.parse::<Within>().ok();
            assert_eq!(found.map(|w| (w.years, w.months, w.days, w.hours)), parts, "{text:?}");
            if let Some(within) = found {
                assert_eq!(within.to_string(), text);
            }
        }
        assert_eq!(Within::default().to_string(), "0h");
        assert!("7w".parse::<Within>().unwrap_err().to_string().contains("1y5m7d2h"));
    }

    #[test]
    fn spans_are_counted_back_on_the_calendar() {
        let day = |year, month, day| Date { year, month, day }.days() * DAY_MS;
        let table = [
            ("7d", day(2026, 11, 20), 0, day(2026, 11, 13)),
            ("1m", day(2026, 3, 31) + HOUR_MS, 0, day(2026, 3, 1)),
            ("1y", day(2024, 2, 29) + HOUR_MS, 0, day(2023, 3, 1)),
            ("1y1m1d1h", day(2026, 11, 20), 0, day(2025, 10, 18) + 23 * HOUR_MS),
            // 23:30 UTC on the last of February is already March two hours further east.
            ("1m", day(2026, 2, 28) + 23 * HOUR_MS, 120, day(2026, 1, 31) + 23 * HOUR_MS),
            ("1m", day(2026, 2, 28) + 23 * HOUR_MS, 0, day(2026, 1, 28) + 23 * HOUR_MS),
            ("2h", 0, 0, -2 * HOUR_MS),
            ("4294967295y", 0, 0, i64::MIN),
            ("1h", i64::MIN, 0, i64::MIN),
        ];
        for (text, latest, offset, cutoff) in table {
            assert_eq!(text.parse::<Within>().unwrap().before(latest, offset), cutoff, "{text} before {latest}");
        }
    }

    #[test]
    fn a_later_moment_never_reaches_further_back() {
        for text in ["1m", "1y", "13m5d", "1m7h", "29d"] {
            let within: Within = text.parse().unwrap();
            let mut cutoff = i64::MIN;
            for hour in 0..5 * 366 * 24 {
                let next = within.before(hour * HOUR_MS, 90);
                assert!(next >= cutoff, "{text} at hour {hour}");
                cutoff = next;
            }
        }
    }
}
