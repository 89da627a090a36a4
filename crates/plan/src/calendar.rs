//! The proleptic Gregorian calendar in whole days, and ISO weeks.
//!
//! Local time here is a fixed offset from UTC: no time zone database, no daylight saving. All functions take any
//! number of milliseconds, negative ones too, and never overflow.
//!
//! The two conversions are the era-based ones of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": a year
//! begins in March, so that the leap day comes last, and 400 years (an era) always have 146,097 days.

use std::fmt;

/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Milliseconds in a minute.
pub const MINUTE_MS: i64 = 60 * 1000;
/// Milliseconds in a day.
pub const DAY_MS: i64 = 24 * HOUR_MS;

const ERA_YEARS: i64 = 400;
const ERA_DAYS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// A day of the proleptic Gregorian calendar. There is a year 0; earlier years are negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// Year.
    pub year: i64,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
}

/// A week by ISO 8601: it begins on Monday and belongs to the year that its Thursday is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IsoWeek {
    /// The week's year, which near the first of January may differ from the day's.
    pub year: i64,
    /// Week, 1 to 53.
    pub week: u8,
}

impl Date {
    /// The date that is `days` after 1970-01-01. Days are within ±10¹², more than an `i64` of milliseconds can say.
    #[must_use]
    pub fn from_days(days: i64) -> Self {
        let since = days + EPOCH_DAYS;
        let (era, day_of_era) = (since.div_euclid(ERA_DAYS), since.rem_euclid(ERA_DAYS));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March: 153 days are five months, 31 + 30 + 31 + 30 + 31.
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * ERA_YEARS + i64::from(month <= 2);
        Self { year, month: small(month), day: small(day) }
    }

    /// Days from 1970-01-01 to this date; negative before.
    #[must_use]
    pub fn days(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = self.year - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(ERA_YEARS), year.rem_euclid(ERA_YEARS));
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * from_march + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * ERA_DAYS + day_of_era - EPOCH_DAYS
    }

    /// This day `months` earlier; where that month has no such day, the first of the month after it. So a later day
    /// never gives an earlier one.
    #[must_use]
    pub fn months_before(self, months: i64) -> Self {
        let day_of = |count: i64| (count.div_euclid(12), small(count.rem_euclid(12) + 1));
        let count = self.year * 12 + i64::from(self.month) - 1 - months;
        let (year, month) = day_of(count);
        if self.day <= days_in_month(year, month) {
            return Self { year, month, day: self.day };
        }
        let (year, month) = day_of(count + 1);
        Self { year, month, day: 1 }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl IsoWeek {
    /// The week of the day that is `days` after 1970-01-01, a Thursday.
    #[must_use]
    pub fn from_days(days: i64) -> Self {
        let from_monday = (days + 3).rem_euclid(7);
        let thursday = days - from_monday + 3;
        let year = Date::from_days(thursday).year;
        let first = Date { year, month: 1, day: 1 }.days();
        Self { year, week: small((thursday - first) / 7 + 1) }
    }
}

impl fmt::Display for IsoWeek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-W{:02}", self.year, self.week)
    }
}

/// Milliseconds of Unix time as the clock on a wall shows them that is `offset_minutes` ahead of UTC. Saturates.
#[must_use]
pub fn local_ms(time_ms: i64, offset_minutes: i32) -> i64 {
    time_ms.saturating_add(i64::from(offset_minutes) * MINUTE_MS)
}

/// Days in a month (1 to 12) of a year.
#[must_use]
pub fn days_in_month(year: i64, month: u8) -> u8 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn small(number: i64) -> u8 {
    u8::try_from(number).expect("days, months and weeks are below 54 by the arithmetic above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_convert_both_ways() {
        // Days since 1970-01-01, date, ISO week: computed with Python's datetime, except where it has no such year.
        let table = [
            (0, (1970, 1, 1), (1970, 1)),
            (-1, (1969, 12, 31), (1970, 1)),
            (-4, (1969, 12, 28), (1969, 52)),
            (59, (1970, 3, 1), (1970, 9)),
            (10_957, (2000, 1, 1), (1999, 52)),
            (11_016, (2000, 2, 29), (2000, 9)),
            (11_017, (2000, 3, 1), (2000, 9)),
            (12_783, (2004, 12, 31), (2004, 53)),
            (12_784, (2005, 1, 1), (2004, 53)),
            (14_244, (2008, 12, 31), (2009, 1)),
            (14_612, (2010, 1, 3), (2009, 53)),
            (19_782, (2024, 2, 29), (2024, 9)),
            (20_777, (2026, 11, 20), (2026, 47)),
            (20_818, (2026, 12, 31), (2026, 53)),
            (20_821, (2027, 1, 3), (2026, 53)),
            (20_822, (2027, 1, 4), (2027, 1)),
            (47_540, (2100, 2, 28), (2100, 8)),
            (47_541, (2100, 3, 1), (2100, 9)),
            (-25_567, (1900, 1, 1), (1900, 1)),
            (-719_162, (1, 1, 1), (1, 1)),
            (-719_528, (0, 1, 1), (-1, 52)),
        ];
        for (days, (year, month, day), (week_year, week)) in table {
            let date = Date { year, month, day };
            assert_eq!(Date::from_days(days), date, "{days}");
            assert_eq!(date.days(), days, "{date}");
            assert_eq!(IsoWeek::from_days(days), IsoWeek { year: week_year, week }, "{date}");
        }
    }

    #[test]
    fn each_day_of_a_millennium_follows_the_one_before() {
        let (mut date, first) = (Date { year: 1600, month: 1, day: 1 }, -135_140);
        for days in first..first + 366_000 {
            assert_eq!((Date::from_days(days), date.days()), (date, days));
            date.day += 1;
            if date.day > days_in_month(date.year, date.month) {
                (date.month, date.day) = (date.month + 1, 1);
            }
            if date.month > 12 {
                (date.year, date.month) = (date.year + 1, 1);
            }
        }
        assert_eq!(date.year, 2602, "366,000 days are a little more than 1,000 years");
    }

    #[test]
    fn a_week_changes_on_monday_only() {
        for days in -800_000..800_000_i64 {
            let monday = (days + 3).rem_euclid(7) == 0;
            assert_eq!(IsoWeek::from_days(days) != IsoWeek::from_days(days - 1), monday, "{days}");
        }
    }

    #[test]
    fn a_month_without_such_a_day_has_ended() {
        let table = [
            ((2026, 3, 31), 1, (2026, 3, 1)),
            ((2024, 3, 30), 1, (2024, 3, 1)),
            ((2024, 3, 29), 1, (2024, 2, 29)),
            ((2026, 1, 15), 1, (2025, 12, 15)),
            ((2024, 2, 29), 12, (2023, 3, 1)),
            ((2026, 12, 31), 18, (2025, 7, 1)),
            ((1, 1, 1), 13, (-1, 12, 1)),
        ];
        for ((year, month, day), months, (to_year, to_month, to_day)) in table {
            let found = Date { year, month, day }.months_before(months);
            assert_eq!(found, Date { year: to_year, month: to_month, day: to_day });
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for time in [i64::MIN, i64::MAX] {
            for offset in [i32::MIN, 0, i32::MAX] {
                let days = local_ms(time, offset).div_euclid(DAY_MS);
                assert_eq!(Date::from_days(days).days(), days);
                assert!(IsoWeek::from_days(days).week <= 53);
            }
        }
    }
}
