//! Why a snapshot is kept, as data and as text: `daily 2026-11-20`, `last`, `within 7d`, `hold`, `tag x`, `best loss 0.31`.
//!
//! A reason names the rule, the period that the snapshot stands for, and the clock by which it does. Texts are for
//! people and logs; programs match on the variants.

use std::fmt;

use super::within::Within;
use crate::calendar::{DAY_MS, Date, HOUR_MS, IsoWeek, local_ms};

/// One of the times that a snapshot is placed by; the module `retention` says why there are three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clock {
    /// The earlier of the store's time and the claim: the time that is shown and that usually decides.
    Effective,
    /// The time that the store gave the log entry.
    Store,
    /// The time that the writer claims.
    Claimed,
}

impl Clock {
    /// All, the usual one first.
    pub const ALL: [Self; 3] = [Self::Effective, Self::Store, Self::Claimed];

    fn suffix(self) -> &'static str {
        match self {
            Self::Effective => "",
            Self::Store => " by the store's time",
            Self::Claimed => " by the claimed time",
        }
    }
}

/// The length of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour of local time.
    Hour,
    /// A day of local time.
    Day,
    /// An ISO week, from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// One particular hour, day, week, month or year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// A day and an hour from 0 to 23.
    Hour(Date, i64),
    /// A day.
    Day(Date),
    /// A week.
    Week(IsoWeek),
    /// A year and a month from 1 to 12.
    Month(i64, u8),
    /// A year.
    Year(i64),
}

impl Bucket {
    /// The period of this length that holds a moment (Unix milliseconds), in local time `offset_minutes` ahead of UTC.
    #[must_use]
    pub fn of(period: Period, time_ms: i64, offset_minutes: i32) -> Self {
        let local = local_ms(time_ms, offset_minutes);
        let (days, rest_ms) = (local.div_euclid(DAY_MS), local.rem_euclid(DAY_MS));
        let date = Date::from_days(days);
        match period {
            Period::Hour => Self::Hour(date, rest_ms / HOUR_MS),
            Period::Day => Self::Day(date),
            Period::Week => Self::Week(IsoWeek::from_days(days)),
            Period::Month => Self::Month(date.year, date.month),
            Period::Year => Self::Year(date.year),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hour(..) => "hourly",
            Self::Day(_) => "daily",
            Self::Week(_) => "weekly",
            Self::Month(..) => "monthly",
            Self::Year(_) => "yearly",
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour(date, hour) => write!(f, "{date}T{hour:02}"),
            Self::Day(date) => write!(f, "{date}"),
            Self::Week(week) => write!(f, "{week}"),
            Self::Month(year, month) => write!(f, "{year:04}-{month:02}"),
            Self::Year(year) => write!(f, "{year:04}"),
        }
    }
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is held: only a release lets it go.
    Hold,
    /// It carries this tag.
    Tag(String),
    /// It is among the last ones.
    Last,
    /// No rule keeps it, but it is the newest of those counted together, and the last one is never removed.
    Newest,
    /// It lies inside the span.
    Within(Within, Clock),
    /// It stands for a period.
    Periodic {
        /// The period.
        bucket: Bucket,
        /// It is not the newest of its period, but the oldest of all, and the count was not used up.
        oldest: bool,
        /// The rule's span, for rules of all periods inside one.
        within: Option<Within>,
        /// The clock by which it does.
        clock: Clock,
    },
    /// It has the first step of those from a multiple on.
    EverySteps {
        /// Of so many steps.
        every: u64,
        /// The multiple.
        from: u64,
        /// Its step.
        step: u64,
    },
    /// Its step is among the highest.
    LastSteps,
    /// It is among the best.
    Best {
        /// By this label.
        metric: String,
        /// The label's value.
        value: String,
    },
    /// It stands for a distance from the newest step.
    LogSpaced {
        /// Its step is the first of the block of so many before that of the newest; 0 for the newest itself.
        block: u64,
    },
    /// The rules for runs can't judge it: its step is no number.
    NotStep(String),
    /// The rules for runs can't judge it: it is of a run, but has no step.
    NoStep,
    /// There are only rules for runs, and it is of none.
    NoRun,
    /// The only rule is by this metric, and no snapshot of its group has that.
    NoMetric(String),
}

impl Reason {
    /// Whether it stays because its labels are not what the rules ask for, which may be a mistake.
    #[must_use]
    pub fn is_unjudged(&self) -> bool {
        matches!(self, Self::NotStep(_) | Self::NoStep | Self::NoMetric(_))
    }

    /// Whether both come from the same rule, by whatever clock and for whatever period.
    pub(super) fn same_rule(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Within(..), Self::Within(..)) | (Self::LogSpaced { .. }, Self::LogSpaced { .. }) => true,
            (Self::Periodic { bucket, within, .. }, Self::Periodic { bucket: other, within: span, .. }) => {
                bucket.name() == other.name() && within == span
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hold => f.write_str("hold"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Last => f.write_str("last"),
            Self::Newest => f.write_str("newest of its group"),
            Self::Within(within, clock) => write!(f, "within {within}{}", clock.suffix()),
            Self::Periodic { bucket, oldest, within, clock } => {
                write!(f, "{} {bucket}", bucket.name())?;
                within.iter().try_for_each(|within| write!(f, " within {within}"))?;
                f.write_str(if *oldest { " (oldest)" } else { "" })?;
                f.write_str(clock.suffix())
            }
            Self::EverySteps { every, from, step } if from == step => write!(f, "every {every} steps: {from}"),
            Self::EverySteps { every, from, .. } => write!(f, "every {every} steps: first from {from}"),
            Self::LastSteps => f.write_str("last steps"),
            Self::Best { metric, value } => write!(f, "best {metric} {value}"),
            Self::LogSpaced { block: 0 } => f.write_str("log-spaced: newest step"),
            Self::LogSpaced { block } => write!(f, "log-spaced: first of {block} before"),
            Self::NotStep(text) => write!(f, "step {text:?} is no number"),
            Self::NoStep => f.write_str("no step"),
            Self::NoRun => f.write_str("of no run"),
            Self::NoMetric(metric) => write!(f, "none of its group has {metric}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_named_in_local_time() {
        // Milliseconds, minutes ahead of UTC, and the names of the five periods.
        let friday = 20_777 * DAY_MS + 14 * HOUR_MS;
        let new_year = 20_819 * DAY_MS - 1;
        let table = [
            (friday, 0, ["2026-11-20T14", "2026-11-20", "2026-W47", "2026-11", "2026"]),
            (new_year, 0, ["2026-12-31T23", "2026-12-31", "2026-W53", "2026-12", "2026"]),
            (new_year, 60, ["2027-01-01T00", "2027-01-01", "2026-W53", "2027-01", "2027"]),
            (new_year, -24 * 60, ["2026-12-30T23", "2026-12-30", "2026-W53", "2026-12", "2026"]),
            (-1, 0, ["1969-12-31T23", "1969-12-31", "1970-W01", "1969-12", "1969"]),
            (-1, 330, ["1970-01-01T05", "1970-01-01", "1970-W01", "1970-01", "1970"]),
        ];
        for (time, offset, names) in table {
            let periods = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];
            assert_eq!(periods.map(|period| Bucket::of(period, time, offset).to_string()), names);
        }
    }

    #[test]
    fn reasons_are_written_for_people() {
        let within: Within = "7d".parse().unwrap();
        let bucket = Bucket::of(Period::Day, 20_777 * DAY_MS, 0);
        let periodic = |oldest, within, clock| Reason::Periodic { bucket, oldest, within, clock };
        let table = [
            (Reason::Hold, "hold"),
            (Reason::Tag("release".into()), "tag release"),
            (Reason::Last, "last"),
            (Reason::Newest, "newest of its group"),
            (Reason::Within(within, Clock::Effective), "within 7d"),
            (Reason::Within(within, Clock::Claimed), "within 7d by the claimed time"),
            (periodic(false, None, Clock::Effective), "daily 2026-11-20"),
            (periodic(true, None, Clock::Effective), "daily 2026-11-20 (oldest)"),
            (periodic(false, Some(within), Clock::Store), "daily 2026-11-20 within 7d by the store's time"),
            (Reason::EverySteps { every: 1000, from: 2000, step: 2000 }, "every 1000 steps: 2000"),
            (Reason::EverySteps { every: 1000, from: 2000, step: 2013 }, "every 1000 steps: first from 2000"),
            (Reason::LastSteps, "last steps"),
            (Reason::Best { metric: "loss".into(), value: "0.31".into() }, "best loss 0.31"),
            (Reason::LogSpaced { block: 0 }, "log-spaced: newest step"),
            (Reason::LogSpaced { block: 4096 }, "log-spaced: first of 4096 before"),
            (Reason::NotStep("a\n".into()), "step \"a\\n\" is no number"),
            (Reason::NoStep, "no step"),
            (Reason::NoRun, "of no run"),
            (Reason::NoMetric("loss".into()), "none of its group has loss"),
        ];
        for (reason, text) in table {
            assert_eq!(reason.to_string(), text);
        }
    }
}
