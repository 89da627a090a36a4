//! Points in time as people write and read them, in the machine's time zone.
//!
//! A moment that a user writes stands for the end of what it names: `2026-11-22` means the last nanosecond of that
//! day, `2026-11-22 14:05` of that minute. So "the newest snapshot at or before" finds the snapshot whose time a table
//! printed, and a bare date finds that day's last one.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp as Instant, ToSpan, Zoned};

use seawall_engine::clock::Timestamp;

/// Reads a date or a date and time; without a zone or offset it is in `zone`. `None` when it is neither.
#[must_use]
pub fn parse(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let text = text.trim();
    // Why: only extended dates have a dash at this place. Without this, 20261122 would be a date and an id at once.
    if text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    let end = if let Ok(zoned) = text.parse::<Zoned>() {
        zoned.timestamp().checked_add(precision(text)).ok()?
    } else if let Ok(instant) = text.parse::<Instant>() {
        instant.checked_add(precision(text)).ok()?
    } else if text.len() == "2026-11-22".len() {
        let next = text.parse::<Date>().ok()?.tomorrow().ok()?;
        zone.to_timestamp(next.to_datetime(jiff::civil::Time::midnight())).ok()?
    } else {
        zone.to_timestamp(text.parse::<DateTime>().ok()?).ok()?.checked_add(precision(text)).ok()?
    };
    let last = end.checked_sub(1.nanosecond()).ok()?;
    Some(from_instant(last))
}

/// The length of what `text` names: a minute where seconds are not written, else a second; nothing where it is exact.
fn precision(text: &str) -> jiff::Span {
    let time = text.split_once(['T', 't', ' ']).map_or("", |(_, time)| time);
    let clock = time.split(['Z', 'z', '+', '-', '[']).next().unwrap_or_default();
    if clock.contains('.') {
        1.nanosecond()
    } else if clock.matches(':').count() >= 2 {
        1.second()
    } else {
        1.minute()
    }
}

fn from_instant(instant: Instant) -> Timestamp {
    let nanos = instant.as_nanosecond();
    let seconds = nanos.div_euclid(1_000_000_000);
    // Both fit: jiff's range is years -9999 to 9999, and a remainder by 10^9 is below 2^32.
    Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

fn to_instant(time: Timestamp) -> Option<Instant> {
    Instant::new(time.seconds, i32::try_from(time.nanos).ok()?).ok()
}

/// A time for tables, as `2026-11-22 14:05:09+01:00` in `zone`, which [`parse`] understands; the bare seconds where no
/// calendar reaches.
#[must_use]
pub fn show(time: Timestamp, zone: &TimeZone) -> String {
    to_instant(time).map_or_else(
        || format!("{} s", time.seconds),
        |instant| instant.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string(),
    )
}

/// A time for people with its zone, as `2026-11-22 14:05:09 CET`.
#[must_use]
pub fn show_with_zone(time: Timestamp, zone: &TimeZone) -> String {
    to_instant(time).map_or_else(
        || format!("{} s", time.seconds),
        |instant| instant.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
    )
}

/// A time for programs: RFC 3339 in UTC with nanoseconds where there are any.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    to_instant(time).map_or_else(|| format!("@{}", time.seconds), |instant| instant.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn a_moment_is_the_end_of_what_it_names() {
        for (text, expected) in [
            ("2026-11-22", "2026-11-22T22:59:59.999999999Z"),
            ("2026-07-01", "2026-07-01T21:59:59.999999999Z"),
            ("2026-11-22 14:05", "2026-11-22T13:05:59.999999999Z"),
            ("2026-11-22T14:05", "2026-11-22T13:05:59.999999999Z"),
            ("2026-11-22 14:05:09", "2026-11-22T13:05:09.999999999Z"),
            ("2026-11-22T14:05:09Z", "2026-11-22T14:05:09.999999999Z"),
            ("2026-11-22T14:05:09.25Z", "2026-11-22T14:05:09.25Z"),
            ("2026-11-22T14:05:09+05:30", "2026-11-22T08:35:09.999999999Z"),
        ] {
            assert_eq!(parse(text, &berlin()).map(rfc3339).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in ["", "latest", "20261122", "2026", "2026-13-01", "2026-11-22 25:00", "deadbeef", "2026-11-2x"] {
            assert_eq!(parse(text, &berlin()), None, "{text}");
        }
    }

    #[test]
    fn a_shown_time_finds_itself() {
        let time = Timestamp { seconds: 1_795_000_000, nanos: 123_456_789 };
        let again = parse(&show(time, &berlin()), &berlin()).unwrap();
        assert_eq!(again.seconds, time.seconds);
        assert!(again >= time);
        assert_eq!(show(time, &berlin()), "2026-11-18 12:06:40+01:00");
        assert_eq!(parse(&show(time, &berlin()), &TimeZone::UTC), Some(again), "whatever the zone of the reader");
    }

    #[test]
    fn times_beyond_the_calendar_are_still_shown() {
        let time = Timestamp { seconds: i64::MAX, nanos: 0 };
        assert_eq!(show(time, &berlin()), format!("{} s", i64::MAX));
    }
}
