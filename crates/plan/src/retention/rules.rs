//! The rules that an owner sets: how many to keep of each kind, and what to keep besides.
//!
//! A rule only ever keeps; a snapshot goes when no rule keeps it. So a set of rules that keeps nothing would remove
//! everything, which is far more often a mistake than a wish: `decide` refuses it unless `allow_empty` is set.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use super::reason::Period;
use super::run::{Best, Direction, RunRules};
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
    /// What to keep of training runs.
    pub run: RunRules,
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
        self.run.keep_nothing() && self.keep_nothing_else()
    }

    /// Whether the rules for runs are the only ones.
    pub(super) fn only_of_runs(&self) -> bool {
        !self.run.keep_nothing() && self.keep_nothing_else()
    }

    /// Whether the rule for the best of a run is the only one.
    pub(super) fn only_best(&self) -> bool {
        self.run.best().is_some()
            && Self { run: RunRules { best: None, ..self.run.clone() }, ..self.clone() }.keep_nothing()
    }

    /// Whether none but the rules for runs could keep a snapshot.
    fn keep_nothing_else(&self) -> bool {
        let periodic = self.periodic().iter().any(|(_, rule)| *rule != Periodic::default());
        !periodic && self.last == Count::NONE && self.within.is_none() && self.tags.is_empty()
    }

    /// Each rule by itself, with its name as options write it, such as `keep-daily 7`. A snapshot that stays by all rules
    /// together stays by one of these.
    #[must_use]
    pub fn each_alone(&self) -> Vec<(String, Self)> {
        let none = || Self { allow_empty: self.allow_empty, ..Self::default() };
        let mut each = vec![(format!("keep-last {}", self.last), Self { last: self.last, ..none() })];
        let mut spans = Vec::new();
        spans.extend(self.within.map(|span| (format!("keep-within {span}"), Self { within: Some(span), ..none() })));
        for (name, place) in PERIODS {
            let Periodic { count, within } = *place(&mut self.clone());
            let alone = |rule| {
                let mut rules = none();
                *place(&mut rules) = rule;
                rules
            };
            each.push((format!("keep-{name} {count}"), alone(count.into())));
            let span = within.map(|span| format!("keep-within-{name} {span}"));
            spans.extend(span.map(|text| (text, alone(Periodic { count: Count::NONE, within }))));
        }
        each.extend(spans);
        each.extend(
            self.tags.iter().map(|tag| (format!("keep-tag {tag}"), Self { tags: vec![tag.clone()], ..none() })),
        );
        each.extend(self.run.each_alone().into_iter().map(|(name, run)| (name, Self { run, ..none() })));
        each.retain(|(_, rules)| !rules.keep_nothing());
        each
    }
}

impl RunRules {
    /// Each rule by itself, those too that keep nothing.
    fn each_alone(&self) -> Vec<(String, Self)> {
        let best = |best: &Best| {
            let Best { count, metric, direction } = best;
            let better = if *direction == Direction::Lower { "lower" } else { "higher" };
            let name = format!("run-best {count} metric {metric} {better}-is-better");
            (name, Self { best: Some(best.clone()), ..Self::default() })
        };
        let every = Self { steps_every: self.steps_every, ..Self::default() };
        let mut each = vec![
            (format!("run-steps-every {}", self.steps_every), every),
            (format!("run-last {}", self.last), Self { last: self.last, ..Self::default() }),
        ];
        each.extend(self.best.as_ref().map(best));
        each.push(("run-log-spaced".to_owned(), Self { log_spaced: self.log_spaced, ..Self::default() }));
        each
    }
}

/// Where one of the periodic rules is.
type Place = fn(&mut Rules) -> &mut Periodic;

/// The periodic rules, by name.
const PERIODS: [(&str, Place); 5] = [
    ("hourly", |rules| &mut rules.hourly),
    ("daily", |rules| &mut rules.daily),
    ("weekly", |rules| &mut rules.weekly),
    ("monthly", |rules| &mut rules.monthly),
    ("yearly", |rules| &mut rules.yearly),
];

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
            Rules { run: RunRules { steps_every: 1, ..RunRules::default() }, ..none() },
            Rules { run: RunRules { last: one, ..RunRules::default() }, ..none() },
            Rules { run: RunRules { best: Some(best(one)), ..RunRules::default() }, ..none() },
            Rules { run: RunRules { log_spaced: true, ..RunRules::default() }, ..none() },
        ];
        for rules in table {
            assert!(!rules.keep_nothing(), "{rules:?}");
            let each = rules.each_alone();
            assert!(matches!(&each[..], [(_, alone)] if *alone == rules), "{each:?}");
            let each = Rules { allow_empty: true, ..rules }.each_alone();
            assert!(each[0].1.allow_empty, "{each:?}");
        }
        let best_of_none = RunRules { best: Some(best(Count::NONE)), ..RunRules::default() };
        assert!(Rules { run: best_of_none, ..none() }.keep_nothing());
    }

    fn best(count: Count) -> Best {
        Best { count, metric: "loss".to_owned(), direction: Direction::Lower }
    }

    #[test]
    fn each_rule_has_its_name() {
        let rules = Rules {
            last: Count::AtMost(3),
            daily: Periodic { count: Count::AtMost(7), within: "1m".parse().ok() },
            within: "30d".parse().ok(),
            tags: vec!["a".to_owned(), "b".to_owned()],
            run: RunRules { steps_every: 1000, last: Count::All, best: Some(best(Count::AtMost(2))), log_spaced: true },
            ..Rules::default()
        };
        let names: Vec<String> = rules.each_alone().into_iter().map(|(name, _)| name).collect();
        let expected = [
            "keep-last 3",
            "keep-daily 7",
            "keep-within 30d",
            "keep-within-daily 1m",
            "keep-tag a",
            "keep-tag b",
            "run-steps-every 1000",
            "run-last all",
            "run-best 2 metric loss lower-is-better",
            "run-log-spaced",
        ];
        assert_eq!(names, expected);
    }
}
