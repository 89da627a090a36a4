//! Retention: the rules in tables here; those for training runs, attacks, and properties in files of their own.
//!
//! A moment is written `2026-11-20 14:30`, in UTC.

mod attacks;
mod properties;
mod run;
mod run_properties;

use super::*;
use crate::calendar::{DAY_MS, Date, HOUR_MS, MINUTE_MS};

/// Unix milliseconds of a moment.
fn at(moment: &str) -> i64 {
    let parts: Vec<i64> = moment.split(['-', ' ', ':']).map(|part| part.parse().unwrap()).collect();
    let small = |part: i64| u8::try_from(part).unwrap();
    let date = Date { year: parts[0], month: small(parts[1]), day: small(parts[2]) };
    date.days() * DAY_MS + parts[3] * HOUR_MS + parts[4] * MINUTE_MS
}

/// A snapshot of one group whose times agree.
fn honest(number: u64, time_ms: i64) -> Candidate {
    Candidate {
        id: u128::from(number).to_be_bytes(),
        number,
        group: Group::new(b"member", [&b"host"[..], b"path"]),
        store_time_ms: time_ms,
        claimed_time_ms: time_ms,
        tags: Vec::new(),
        labels: Vec::new(),
        thing: Vec::new(),
        files: 10,
        bytes: 1000,
        is_damaged: false,
        held: false,
        forgotten: false,
    }
}

fn history(moments: &[&str]) -> Vec<Candidate> {
    (1..).zip(moments).map(|(number, moment)| honest(number, at(moment))).collect()
}

fn best(count: &str, metric: &str, direction: Direction) -> Best {
    Best { count: count.parse().unwrap(), metric: metric.to_owned(), direction }
}

/// Rules from a text like `last 3, daily 7, within 7d, daily within 1y, tag x, every 1000, steps 3, lowest 2 loss, log`.
fn rules(text: &str) -> Rules {
    let mut rules = Rules::default();
    for rule in text.split(", ").filter(|rule| !rule.is_empty()) {
        let words: Vec<&str> = rule.split(' ').collect();
        match words[..] {
            ["last", count] => rules.last = count.parse().unwrap(),
            ["within", span] => rules.within = Some(span.parse().unwrap()),
            ["tag", tag] => rules.tags.push(tag.to_owned()),
            ["allow-empty"] => rules.allow_empty = true,
            ["every", steps] => rules.run.steps_every = steps.parse().unwrap(),
            ["steps", count] => rules.run.last = count.parse().unwrap(),
            ["log"] => rules.run.log_spaced = true,
            ["lowest", count, metric] => rules.run.best = Some(best(count, metric, Direction::Lower)),
            ["highest", count, metric] => rules.run.best = Some(best(count, metric, Direction::Higher)),
            [period, "within", span] => periodic(&mut rules, period).within = Some(span.parse().unwrap()),
            [period, count] => periodic(&mut rules, period).count = count.parse().unwrap(),
            _ => panic!("no rule: {rule}"),
        }
    }
    rules
}

fn periodic<'r>(rules: &'r mut Rules, period: &str) -> &'r mut Periodic {
    match period {
        "hourly" => &mut rules.hourly,
        "daily" => &mut rules.daily,
        "weekly" => &mut rules.weekly,
        "monthly" => &mut rules.monthly,
        "yearly" => &mut rules.yearly,
        _ => panic!("no period: {period}"),
    }
}

/// The kept ones as `number: reasons`.
fn kept(candidates: &[Candidate], rules: &Rules, offset_minutes: i32) -> Vec<String> {
    let decisions = decide(candidates, rules, offset_minutes).unwrap();
    let text = |decision: &Decision| {
        let reasons: Vec<String> = decision.reasons.iter().map(Reason::to_string).collect();
        format!("{}: {}", u128::from_be_bytes(decision.id), reasons.join(", "))
    };
    decisions.iter().filter(|decision| decision.keep).map(text).collect()
}

fn check(moments: &[&str], text: &str, offset_minutes: i32, expected: &[&str]) {
    assert_eq!(kept(&history(moments), &rules(text), offset_minutes), expected, "{text} at {offset_minutes}");
}

const DAYS: [&str; 6] = [
    "2026-11-17 02:00",
    "2026-11-18 02:00",
    "2026-11-18 22:00",
    "2026-11-19 02:00",
    "2026-11-20 02:00",
    "2026-11-20 02:30",
];

#[test]
fn the_newest_of_each_period_is_kept() {
    check(&DAYS, "last 2", 0, &["5: last", "6: last"]);
    check(&DAYS, "daily 2", 0, &["4: daily 2026-11-19", "6: daily 2026-11-20"]);
    check(&DAYS, "hourly 2", 0, &["4: hourly 2026-11-19T02", "6: hourly 2026-11-20T02"]);
    let both = ["4: daily 2026-11-19", "6: last, daily 2026-11-20"];
    check(&DAYS, "last 1, daily 2", 0, &both);
    let all = ["1: daily 2026-11-17", "3: daily 2026-11-18", "4: daily 2026-11-19", "6: daily 2026-11-20"];
    check(&DAYS, "daily all", 0, &all);
    // Three hours west, 02:00 is still the day before.
    check(&DAYS, "daily 2", -180, &["4: daily 2026-11-18", "6: daily 2026-11-19"]);
}

#[test]
fn weeks_months_and_years_end_where_the_calendar_says() {
    let moments = [
        "2025-12-28 12:00", // Sunday of 2025-W52
        "2025-12-29 12:00", // Monday of 2026-W01
        "2026-01-01 12:00",
        "2026-12-31 12:00", // 2026-W53
        "2027-01-03 12:00", // Sunday of 2026-W53
        "2027-01-04 12:00", // 2027-W01
    ];
    check(
        &moments,
        "weekly 4",
        0,
        &["1: weekly 2025-W52", "3: weekly 2026-W01", "5: weekly 2026-W53", "6: weekly 2027-W01"],
    );
    check(&moments, "monthly 2", 0, &["4: monthly 2026-12", "6: monthly 2027-01"]);
    check(&moments, "yearly 2", 0, &["4: yearly 2026", "6: yearly 2027"]);
}

#[test]
fn the_oldest_takes_a_count_that_is_left() {
    let moments = ["2026-11-18 02:00", "2026-11-18 22:00", "2026-11-19 02:00"];
    let oldest = ["1: daily 2026-11-18 (oldest)", "2: daily 2026-11-18", "3: daily 2026-11-19"];
    check(&moments, "daily 3", 0, &oldest);
    check(&moments, "daily 2", 0, &oldest[1..]);
    check(&moments, "yearly 5", 0, &["1: yearly 2026 (oldest)", "3: yearly 2026"]);
    check(&moments[..1], "yearly 5", 0, &["1: yearly 2026"]);
}

#[test]
fn spans_count_from_the_latest_snapshot() {
    check(&DAYS, "within 1d", 0, &["5: within 1d", "6: within 1d"]);
    check(&DAYS, "within 1d1h", 0, &["4: within 1d1h", "5: within 1d1h", "6: within 1d1h"]);
    check(&DAYS, "daily within 1d1h", 0, &["4: daily 2026-11-19 within 1d1h", "6: daily 2026-11-20 within 1d1h"]);
    let two_rules = ["4: daily 2026-11-19 within 1d1h", "6: daily 2026-11-20, daily 2026-11-20 within 1d1h"];
    check(&DAYS, "daily 1, daily within 1d1h", 0, &two_rules);
    // The moment at the very beginning of the span belongs to it.
    check(&["2026-11-19 02:00", "2026-11-20 02:00"], "within 1d", 0, &["1: within 1d", "2: within 1d"]);
}

#[test]
fn tags_and_holds_keep_whatever_the_rules_say() {
    let mut candidates = history(&DAYS);
    candidates[0].held = true;
    candidates[1].tags = vec!["release".to_owned(), "other".to_owned()];
    candidates[2].tags = vec!["releases".to_owned()];
    let found = kept(&candidates, &rules("tag release, tag none, last 1"), 0);
    assert_eq!(found, ["1: hold", "2: tag release", "6: last"]);
    assert_eq!(kept(&candidates, &rules("allow-empty"), 0), ["1: hold"]);
}

#[test]
fn nothing_is_emptied_by_mistake() {
    let mut candidates = history(&DAYS);
    assert_eq!(decide(&candidates, &rules(""), 0), Err(KeepNothing));
    assert_eq!(kept(&candidates, &rules("tag none"), 0), ["6: newest of its group"]);
    assert!(kept(&candidates, &rules("tag none, allow-empty"), 0).is_empty());
    candidates[0].group = Group::new(b"other", []);
    assert_eq!(kept(&candidates, &rules("tag none"), 0).len(), 2);
    assert_eq!(decide(&[], &rules("last 1"), 0), Ok(Vec::new()));
}

#[test]
fn groups_are_counted_apart() {
    let (member, labels): (&[u8], [&[u8]; 2]) = (b"m", [b"ab", b"c"]);
    let group = Group::new(member, labels);
    let others = [
        Group::new(b"n", labels),
        Group::new(b"m", [&b"a"[..], b"bc"]),
        Group::new(b"m", [&b"abc"[..]]),
        Group::new(b"ma", [&b"b"[..], b"c"]),
        Group::new(b"", [&b"m"[..], b"ab", b"c"]),
        Group::of_run(b"m", b"ab", b"c"),
    ];
    for other in others {
        let mut candidates = history(&DAYS[..2]);
        candidates[0].group = group.clone();
        candidates[1].group = other;
        assert_eq!(kept(&candidates, &rules("last 1"), 0), ["1: last", "2: last"]);
    }
}

#[test]
fn forgotten_ones_take_no_count() {
    let mut candidates = history(&DAYS);
    candidates[5].forgotten = true;
    candidates[5].held = true;
    assert_eq!(kept(&candidates, &rules("last 1, daily 1"), 0), ["5: last, daily 2026-11-20"]);
}
