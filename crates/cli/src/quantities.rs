//! Amounts as people write and read them: sizes, shares, durations, rates, counts.
//!
//! Reading is strict and exact (integers of bytes, no rounding surprises); writing gives three significant digits,
//! because a report is read at a glance and `--json` carries the exact numbers. Binary units throughout: `64M`,
//! `64MiB` and `64mib` are the same; only the spelled-out decimal units (`MB`) are powers of 1000.

use std::time::Duration;

/// Reads a size in bytes: a number and an optional unit (`K`, `MiB`, `GB`, …).
///
/// # Errors
/// A sentence for the user when it is not a size or does not fit into 64 bits.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refused = || format!("{text:?} is not a size: write a number with a unit, such as 64MiB, 1.5GiB or 500MB");
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor = unit_factor(unit.trim()).ok_or_else(refused)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits_only(whole) || !digits_only(fraction) || fraction.len() > 9 || number.ends_with('.')
    {
        return Err(refused());
    }
    // 19 digits times 2^50 stay below 2^114, so nothing here can overflow 128 bits.
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| refused())?);
    let digits = format!("{whole}{fraction}");
    if digits.len() > 19 {
        return Err(refused());
    }
    let value = digits.parse::<u128>().map_err(|_| refused())? * u128::from(factor) / scale;
    u64::try_from(value).map_err(|_| refused())
}

fn unit_factor(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return None,
    })
}

/// Reads a share: `5%`, `0.5%` or a fraction such as `0.05`. The result lies in `(0, 1]`.
///
/// # Errors
/// A sentence for the user when it is not a share above 0 and at most 100 %.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let refused = || format!("{text:?} is not a share: write a percentage above 0 such as 5%, at most 100%");
    let trimmed = text.trim();
    let value = match trimmed.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map_err(|_| refused())? / 100.0,
        None => trimmed.parse::<f64>().map_err(|_| refused())?,
    };
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err(refused()) }
}

/// Reads an age: a whole number with a unit, `s`, `min`, `h`, `d` or `w`, or a bare `0`.
///
/// # Errors
/// A sentence for the user when it is not an age.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text:?} is not an age: write a number with a unit, such as 7d, 12h, 30min or 0");
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let seconds = match unit.trim().to_ascii_lowercase().as_str() {
        "" if number == 0 => 0,
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(refused()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(refused)
}

/// Reads a duration: an age, or a number of milliseconds, as in `500ms`.
///
/// # Errors
/// A sentence for the user when it is not a duration.
pub fn parse_pause(text: &str) -> Result<Duration, String> {
    match text.trim().strip_suffix("ms").map(|number| number.trim_end().parse()) {
        Some(Ok(milliseconds)) => Ok(Duration::from_millis(milliseconds)),
        _ => parse_age(text)
            .map_err(|_| format!("{text:?} is not a duration: write a number with a unit, such as 10s or 5min")),
    }
}

/// A size for people, as `1.23 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut unit = 0;
    // 999.5 would print as 1000 with three digits, so the next unit begins there.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{} {}", three_digits(value), UNITS[unit]) }
}

fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A rate for people, as `412 MiB/s`; a dash where nothing was done or no time passed.
#[must_use]
pub fn rate(count: u64, seconds: f64) -> String {
    // Below a millisecond the quotient says more about the clock than about the machine.
    if count == 0 || seconds < 0.001 { "-".to_owned() } else { format!("{}/s", bytes((count as f64 / seconds) as u64)) }
}

/// A duration for people: `0.42 s`, `12.3 s`, `2 min 05 s`, `1 h 03 min`, `2 d 04 h`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 59.95 {
        return if seconds < 9.995 { format!("{seconds:.2} s") } else { format!("{seconds:.1} s") };
    }
    let whole = seconds.round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3_600, whole / 86_400);
    if hours == 0 {
        format!("{minutes} min {:02} s", whole % 60)
    } else if days == 0 {
        format!("{hours} h {:02} min", minutes % 60)
    } else {
        format!("{days} d {:02} h", hours % 24)
    }
}

/// A count with thin groups of three: `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A count with its noun, as `1 file` or `1,234 files`.
#[must_use]
pub fn counted(number: u64, singular: &str, plural: &str) -> String {
    format!("{} {}", count(number), if number == 1 { singular } else { plural })
}

/// How much smaller `stored` is than `plain`, as `4.27 : 1`; a dash where nothing was stored.
#[must_use]
pub fn ratio(plain: u64, stored: u64) -> String {
    if stored == 0 { "-".to_owned() } else { format!("{} : 1", three_digits(plain as f64 / stored as f64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let seconds = |text| parse_age(text).ok().map(|age| age.as_secs());
        for (text, expected) in [
            ("7d", Some(7 * 86_400)),
            ("0", Some(0)),
            (" 12 h", Some(43_200)),
            ("30min", Some(1_800)),
            ("2w", Some(14 * 86_400)),
            ("45s", Some(45)),
            ("7", None),
            ("d", None),
            ("1.5d", None),
            ("-1d", None),
            ("99999999999999999999d", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn pauses() {
        for (text, expected) in
            [("500ms", Some(500)), ("10s", Some(10_000)), ("0", Some(0)), ("1.5s", None), ("ms", None)]
        {
            assert_eq!(parse_pause(text).ok().map(|pause| pause.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, expected) in [
            ("0", 0),
            ("17", 17),
            ("17b", 17),
            ("1K", 1024),
            ("1kib", 1024),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1.5G", 3 << 29),
            ("0.1GB", 100_000_000),
            ("500MB", 500_000_000),
            ("2TiB", 2 << 40),
            ("15P", 15 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "MiB", "-1", "1.", ".5", "1..2", "1 XB", "1e3", "99999999999999999999", "20000P", "1,5G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_lie_between_nothing_and_all() {
        for (text, expected) in [("5%", 0.05), ("100%", 1.0), ("0.25", 0.25), ("0.5 %", 0.005), ("1", 1.0)] {
            assert!((parse_share(text).unwrap() - expected).abs() < 1e-12, "{text}");
        }
        for text in ["0", "0%", "101%", "-5%", "five", "", "NaN", "inf"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_written_with_three_digits() {
        for (number, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1.00 KiB"),
            (1 << 20, "1.00 MiB"),
            (10_485_760, "10.0 MiB"),
            (123 << 20, "123 MiB"),
            (1023 << 20, "1.00 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), expected, "{number}");
        }
        for (seconds, expected) in [
            (0.0, "0.00 s"),
            (0.4211, "0.42 s"),
            (12.34, "12.3 s"),
            (59.96, "1 min 00 s"),
            (125.2, "2 min 05 s"),
            (3_780.0, "1 h 03 min"),
            (187_200.0, "2 d 04 h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), expected, "{seconds}");
        }
        for (number, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), expected);
        }
        assert_eq!(ratio(427, 100), "4.27 : 1");
        assert_eq!(ratio(427, 0), "-");
        assert_eq!(rate(1 << 20, 0.0), "-");
        assert_eq!(rate(3 << 20, 2.0), "1.50 MiB/s");
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(0, "file", "files"), "0 files");
    }
}
