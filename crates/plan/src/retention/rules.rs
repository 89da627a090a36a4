//! The rules that an owner sets: how many to keep of each kind, and what to keep besides.
//!
//! A rule only ever keeps; a snapshot goes when no rule keeps it. So a set of rules that keeps nothing would remove
//! everything, which is far more often a mistake than a wish: `decide` refuses it unless `allow_empty` is set.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use super::reason::Period;
use super::within::Within;

/// How many to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Count {
    /// At most this many; 0 means that there is no such rule.
    AtMost(u32),
    /// As many as there are.
    All,
}

impl Count {
    /// No rule.
    pub const NONE: Self = Self::AtMost(0);

    /// Takes one; `false` when none is left.
    pub(super) fn take(&mut self) -> bool {
        match self {
            Self::All => true,
            Self::AtMost(0) => false,
            Self::AtMost(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl Default for Count {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(count) => write!(f, "{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// A text is not a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCount(String);

impl fmt::Display for NotCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a count: {:?}; write a number below 2^32, or \"all\"", self.0)
    }
}

impl Error for NotCount {}

impl FromStr for Count {
    type Err = NotCount;

    /// Reads a number, or `all`.
    fn from_str(text: &str) -> Result<Self, NotCount> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            _ if text == "all" => Ok(Self::All),
            Ok(count) if digits => Ok(Self::AtMost(count)),
            _ => Err(NotCount(text.to_owned())),
        }
    }
}

/// What to keep of the newest of each hour, day, week, month or year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Periodic {
    /// For how many such periods that have a snapshot; those without one do not count.
    pub count: Count,
    /// For all such periods inside this span, whatever `count` says.
    pub within: Option<Within>,
}

impl From<Count> for Periodic {
    fn from(count: Count) -> Self {
        Self { count, within: None }
    }
}

/// What to keep. The default has no rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// The last ones in the order of the log. Weak against a member who lies: see the module.
    pub last: Count,
    /// The newest of each hour.
    pub hourly: Periodic,
    /// The newest of each day.
    pub daily: Periodic,
    /// The newest of each ISO week.
    pub weekly: Periodic,
    /// The newest of each month.
    pub monthly: Periodic,
    /// The newest of each year.
    pub yearly: Periodic,
    /// All inside this span, counted back from the latest of those counted together.
    pub within: Option<Within>,
    /// All that carry one of these tags.
    pub tags: Vec<String>,
    /// Lets rules remove everything that is not held: no rule at all, or the last snapshot of a group.
    pub allow_empty: bool,
}

impl Rules {
    /// The periodic rules, shortest period first.
    pub(super) fn periodic(&self) -> [(Period, Periodic); 5] {
        [
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Year, self.yearly),
        ]
    }

    /// Whether there is no rule that could keep a snapshot.
    #[must_use]
    pub fn keep_nothing(&self) -> bool {
        let periodic = self.periodic().iter().any(|(_, rule)| *rule != Periodic::default());
        !periodic && self.last == Count::NONE && self.within.is_none() && self.tags.is_empty()
    }
}

/// The rules keep nothing, and `allow_empty` is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepNothing;

impl fmt::Display for KeepNothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no rule says what to keep, so every snapshot that is not held would go")
    }
}

impl Error for KeepNothing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_written_back() {
        let table = [
            ("7", Some(Count::AtMost(7))),
            ("0", Some(Count::NONE)),
            ("all", Some(Count::All)),
            ("4294967295", Some(Count::AtMost(u32::MAX))),
            ("4294967296", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("All", None),
        ];
        for (text, count) in table {
            assert_eq!(text.parse().ok(), count, "{text:?}");
            assert_eq!(count.map_or(text.to_owned(), |count| count.to_string()), text);
        }
    }

    #[test]
    fn each_rule_alone_keeps_something() {
        assert!(Rules::default().keep_nothing());
        assert!(Rules { allow_empty: true, ..Rules::default() }.keep_nothing());
        let (one, within) = (Count::AtMost(1), "1d".parse().ok());
        let none = Rules::default;
        let table = [
            Rules { last: one, ..none() },
            Rules { hourly: one.into(), ..none() },
            Rules { daily: Count::All.into(), ..none() },
            Rules { weekly: Periodic { within, ..Periodic::default() }, ..none() },
            Rules { monthly: one.into(), ..none() },
            Rules { yearly: one.into(), ..none() },
            Rules { within, ..none() },
            Rules { tags: vec!["x".to_owned()], ..none() },
        ];
        for rules in table {
            assert!(!rules.keep_nothing(), "{rules:?}");
        }
    }
}
