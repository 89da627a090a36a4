//! Somebody who holds one member's key wants the owner's nightly `forget` to drop the member's good snapshots.
//!
//! A row adds false snapshots to a good history, and says how many good ones go that would have stayed without them.
//! Rows that lose something say what remains possible; docs/retention.md tells owners.

use super::*;

/// A backup at 02:00 on each of 60 days, 10 log entries apart; the last is that of Friday 2026-11-20.
fn good() -> Vec<Candidate> {
    let last = at("2026-11-20 02:00");
    (0..60).map(|day| honest(10 + 10 * day, last - (59 - day as i64) * DAY_MS)).collect()
}

/// Numbers of those that stay.
fn staying(candidates: &[Candidate], rules: &Rules) -> Vec<u128> {
    let decisions = decide(candidates, rules, 0).unwrap();
    decisions.iter().filter(|decision| decision.keep).map(|decision| u128::from_be_bytes(decision.id)).collect()
}

/// How many good ones go because of the false ones.
fn lost(good: &[Candidate], false_ones: &[Candidate], text: &str) -> usize {
    let rules = rules(text);
    let before = staying(good, &rules);
    let after = staying(&[good, false_ones].concat(), &rules);
    before.iter().filter(|number| !after.contains(number)).count()
}

fn doubtful(good: &[Candidate], false_ones: &[Candidate]) -> usize {
    let decisions = decide(&[good, false_ones].concat(), &rules("last 1"), 0).unwrap();
    decisions.iter().filter(|decision| decision.doubt.is_some()).count()
}

/// `count` false snapshots that the store gets one second apart from `stored` on, each with the time that it claims.
fn fakes(count: u64, stored: &str, claim: impl Fn(i64) -> i64) -> Vec<Candidate> {
    let fake = |nth: u64| {
        let time_ms = at(stored) + nth as i64 * 1000;
        Candidate { claimed_time_ms: claim(nth as i64), ..honest(10_000 + nth, time_ms) }
    };
    (0..count).map(fake).collect()
}

/// Claims that agree with the store.
fn truth(stored: &str) -> impl Fn(i64) -> i64 {
    let stored = at(stored);
    move |nth| stored + nth * 1000
}

const NIGHTLY: &str = "daily 7, weekly 4, monthly 12, yearly 3";
const TODAY: &str = "2026-11-20 03:00";

#[test]
fn false_snapshots_push_out_few_good_ones_or_none() {
    let ahead = |nth: i64| at("2027-01-01 00:00") + nth * DAY_MS;
    let centuries = |nth: i64| at("2100-01-01 00:00") + nth * 366 * DAY_MS;
    let evenings = |nth: i64| at("2026-11-19 23:59") - nth * DAY_MS;
    let ancient = |nth: i64| at("1970-01-01 00:00") + nth * DAY_MS;
    // Name, false snapshots, how many of them are doubtful, rules, how many good ones go.
    let table = [
        ("ahead", fakes(500, TODAY, ahead), 500, NIGHTLY, 0),
        ("far ahead", fakes(500, TODAY, centuries), 500, NIGHTLY, 0),
        ("far ahead", fakes(500, TODAY, centuries), 500, "within 7d", 0),
        ("far ahead", fakes(500, TODAY, centuries), 500, "last 7", 0),
        ("the end of time", fakes(2, TODAY, |_| i64::MAX), 2, "within 7d, daily 7", 0),
        ("the beginning of time", fakes(2, TODAY, |_| i64::MIN), 2, "within 7d, daily 7", 0),
        ("backdated over each day", fakes(60, TODAY, evenings), 60, NIGHTLY, 0),
        ("backdated before all", fakes(500, TODAY, ancient), 500, NIGHTLY, 0),
        ("backdated before all", fakes(500, TODAY, ancient), 500, "daily 100", 0),
        // Only today's good one gives way to a newer one of the same day, week, month and year.
        ("dense", fakes(1000, TODAY, truth(TODAY)), 0, NIGHTLY, 1),
        ("dense", fakes(1000, TODAY, truth(TODAY)), 0, "within 7d12h, daily 7, weekly 4", 0),
        // What remains: a rule that counts snapshots, and hours while a day lasts.
        ("dense", fakes(1000, TODAY, truth(TODAY)), 0, "last 7", 7),
        ("dense", fakes(1000, TODAY, truth(TODAY)), 0, "last 7, daily 7", 1),
        // 4,000 s reach into the next hour, so two hours are taken.
        ("dense", fakes(4000, TODAY, truth(TODAY)), 0, "hourly 24", 2),
    ];
    for (name, false_ones, doubts, text, loss) in table {
        assert_eq!(doubtful(&good(), &false_ones), doubts, "{name}");
        assert_eq!(lost(&good(), &false_ones, text), loss, "{name}: {text}");
    }
}

#[test]
fn silent_days_cannot_be_filled_afterwards() {
    // Ten days after the last backup: a snapshot for each silent day, claims in order, so none is doubtful. By the
    // store's time they all are of one day, and take one count.
    let stored = "2026-11-30 03:00";
    let silent = fakes(10, stored, |nth| at("2026-11-21 02:00") + nth * DAY_MS);
    assert_eq!(doubtful(&good(), &silent), 0);
    assert_eq!(lost(&good(), &silent, "daily 7"), 1);
    assert_eq!(lost(&good(), &silent, "hourly 7"), 1);
    // A span counts from the latest, which is real: what the truth would have dropped, goes.
    assert_eq!(lost(&good(), &silent, "within 7d"), 8);
    // One by the count, and the eighth by the span that moved.
    assert_eq!(lost(&good(), &silent, "within 7d, daily 7"), 2);
}

#[test]
fn filling_the_calendar_takes_its_time() {
    // One false snapshot a day, after the good one: the key is held for `days` days. The good ones go on meanwhile.
    let table = [(1, 1), (3, 3), (7, 7)];
    for (days, loss) in table {
        let begin = 60 - days;
        let nightly = |day: u64| honest(15 + 10 * day, good()[day as usize].store_time_ms + HOUR_MS);
        let false_ones: Vec<Candidate> = (begin..60).map(nightly).collect();
        assert_eq!(lost(&good(), &false_ones, "daily 7"), loss, "{days} days");
        assert_eq!(lost(&good(), &false_ones, "within 7d12h"), 0, "{days} days");
    }
}

#[test]
fn a_hold_and_another_member_are_out_of_reach() {
    let dense = fakes(1000, TODAY, truth(TODAY));
    let mut held = good();
    held.iter_mut().for_each(|candidate| candidate.held = true);
    assert_eq!(lost(&held, &dense, "last 7"), 0);
    let mut other = good();
    other.iter_mut().for_each(|candidate| candidate.group = Group::new(b"other", [&b"host"[..], b"path"]));
    assert_eq!(lost(&other, &dense, "last 7"), 0);
}

#[test]
fn one_claim_from_the_future_does_not_make_later_ones_doubtful() {
    let mut candidates = good();
    let poison =
        Candidate { number: 15, id: [1; 16], claimed_time_ms: at("2100-01-01 00:00"), ..candidates[0].clone() };
    candidates.push(poison);
    assert_eq!(doubtful(&candidates, &[]), 1);
}

/// The good ones as checkpoints, one thousand steps a night, whose loss falls.
fn run() -> Vec<Candidate> {
    let with_labels =
        |(night, candidate): (u64, Candidate)| labelled(candidate, night * 1000, &(100 - night).to_string());
    (0..).zip(good()).map(with_labels).collect()
}

fn labelled(candidate: Candidate, step: u64, loss: &str) -> Candidate {
    let label = |name: &str, value: String| (name.to_owned(), value);
    Candidate { labels: vec![label(STEP, step.to_string()), label("loss", loss.to_owned())], ..candidate }
}

#[test]
fn nothing_speaks_against_a_step_or_a_metric() {
    let high: Vec<Candidate> =
        (0..).zip(fakes(10, TODAY, truth(TODAY))).map(|(nth, fake)| labelled(fake, (1 << 63) + nth, "nan")).collect();
    let best: Vec<Candidate> = fakes(10, TODAY, truth(TODAY)).into_iter().map(|fake| labelled(fake, 1, "-1")).collect();
    let all = |text: &str| staying(&run(), &rules(text)).len();
    let table = [
        // Steps as high as one likes: the true last ones go, and of the spaced ones all but the very first.
        (&high, "steps 3", 3),
        (&high, "log", all("log") - 1),
        (&high, "every 10000", 1),
        (&best, "lowest 3 loss", 1),
        // Inside a span nothing goes, and each night's stays by its time.
        (&high, "steps 3, within 7d12h", 0),
        (&high, "steps 3, daily 7", 1),
        (&best, "lowest 3 loss, within 7d12h", 0),
    ];
    for (false_ones, text, loss) in table {
        assert_eq!(lost(&run(), false_ones, text), loss, "{text}");
    }
}

/// Gives all entries one store time, as a copy without times does.
fn copied(mut candidates: Vec<Candidate>, store_time_ms: i64) -> Vec<Candidate> {
    candidates.iter_mut().for_each(|candidate| candidate.store_time_ms = store_time_ms);
    candidates
}

#[test]
fn a_copy_that_lost_the_times_keeps_its_history() {
    for store_time in [at("2026-11-21 12:00"), at("1970-01-01 00:00"), at("2100-01-01 00:00")] {
        let copy = copied(good(), store_time);
        for text in [NIGHTLY, "within 30d", "last 5", "daily 7, daily within 1m"] {
            let (before, after) = (staying(&good(), &rules(text)), staying(&copy, &rules(text)));
            assert!(before.iter().all(|number| after.contains(number)), "{text} at {store_time}");
            // The other clocks keep the oldest besides, where it has no count of its own: no more than one a clock.
            assert!(text.contains("within 30d") || after.len() <= before.len() + 2, "{text} at {store_time}");
        }
    }
}

#[test]
fn lies_after_a_copy_push_out_no_more() {
    let copy = copied(good(), at("2026-11-20 02:30"));
    let evenings = |nth: i64| at("2026-11-19 23:59") - nth * DAY_MS;
    let ahead = |nth: i64| at("2027-01-01 00:00") + nth * DAY_MS;
    for false_ones in [fakes(60, TODAY, evenings), fakes(60, TODAY, ahead)] {
        assert_eq!(doubtful(&copy, &false_ones), 60);
        assert_eq!(lost(&copy, &false_ones, NIGHTLY), 0);
        assert_eq!(lost(&copy, &false_ones, "within 7d"), 0);
    }
}

#[test]
fn a_slow_host_is_protected_by_the_time_of_the_store() {
    // Claims are an hour behind; a true false one a minute before each makes all after the first look backwards.
    let mut slow = good();
    slow.iter_mut().for_each(|candidate| candidate.claimed_time_ms -= HOUR_MS);
    let trap = |candidate: &Candidate| honest(candidate.number - 1, candidate.store_time_ms - MINUTE_MS);
    let traps: Vec<Candidate> = slow.iter().map(trap).collect();
    assert_eq!(doubtful(&slow, &traps), 60);
    let evenings = fakes(60, TODAY, |nth| at("2026-11-19 23:59") - nth * DAY_MS);
    let false_ones = [traps, evenings].concat();
    assert_eq!(lost(&slow, &false_ones, NIGHTLY), 0);
}

#[test]
fn doubtful_good_ones_are_placed_by_the_earlier_time() {
    // Before the copy a false one claimed a time to come. The copy's store times no longer refute it, and every good one
    // after it seems to run backwards. Claims from the next century must not push these out besides.
    let mut copy = good();
    copy[0].claimed_time_ms = at("2026-11-20 02:10");
    let copy = copied(copy, at("2026-11-20 02:30"));
    let centuries = |nth: i64| at("2100-01-01 00:00") + nth * 366 * DAY_MS;
    let false_ones = fakes(500, TODAY, centuries);
    assert_eq!(doubtful(&copy, &false_ones), 58 + 500, "the last is ten minutes before the first: believed");
    // Today's gives way, as it would to a dense one.
    assert_eq!(lost(&copy, &false_ones, "daily 7"), 1);
}

#[test]
fn a_lie_stays_doubtful_when_what_speaks_against_it_is_forgotten() {
    // The false one claims the evening of the first day; the second night's backup shows that it lies.
    let mut candidates = copied(good(), at("2026-11-20 02:30"));
    candidates.truncate(2);
    let lie = Candidate { claimed_time_ms: candidates[0].claimed_time_ms + HOUR_MS, ..honest(30, at(TODAY)) };
    candidates.push(lie);
    for forgotten in [false, true] {
        candidates[1].forgotten = forgotten;
        let decisions = decide(&candidates, &rules("daily 7"), 0).unwrap();
        assert_eq!(decisions.len(), if forgotten { 2 } else { 3 });
        assert!(decisions[0].keep && decisions[0].doubt.is_none());
        assert!(matches!(decisions.last().and_then(|lie| lie.doubt), Some(Doubt::Backwards(_))));
    }
}

#[test]
fn doubts_have_a_tolerance_and_a_size() {
    let minute = MINUTE_MS;
    // Claim of the second of two snapshots, relative to its store time, one hour after the first; and the doubt.
    let table = [
        (0, None),
        (10 * minute, None),
        (10 * minute + 1, Some("doubtful time: 10 minutes ahead of the store")),
        (3 * DAY_MS, Some("doubtful time: 3d ahead of the store")),
        (-HOUR_MS - 10 * minute, None),
        (-HOUR_MS - 10 * minute - 1, Some("doubtful time: 10 minutes before an earlier entry of the log")),
        (-6 * HOUR_MS, Some("doubtful time: 5h before an earlier entry of the log")),
    ];
    for (claim, doubt) in table {
        let mut candidates = history(&["2026-11-20 02:00", "2026-11-20 03:00"]);
        candidates[1].claimed_time_ms += claim;
        let decisions = decide(&candidates, &rules("last 1"), 0).unwrap();
        assert_eq!(decisions[1].doubt.map(|doubt| doubt.to_string()).as_deref(), doubt, "{claim}");
        // One that is doubtful is counted apart, so both are the last of theirs.
        assert_eq!(decisions[0].keep, doubt.is_some(), "{claim}");
    }
}

#[test]
fn claims_are_compared_with_the_latest_believed_time() {
    // Minutes of store time and of claim, in the order of the log, and whether the last one is doubtful.
    let table: [(&[(i64, i64)], bool); 4] = [
        // A claim that runs ahead inside the tolerance counts as the store's time.
        (&[(0, 10), (3, -5)], false),
        (&[(0, 0), (3, -11)], true),
        // Each of these is believed, so that the next may be a little earlier; but they do not add up.
        (&[(0, 0), (1, -8), (2, -10)], false),
        (&[(0, 0), (1, -8), (2, -15)], true),
    ];
    for (entries, doubtful) in table {
        let entry = |(number, &(store, claim)): (u64, &(i64, i64))| {
            let base = at("2026-11-20 02:00");
            Candidate { claimed_time_ms: base + claim * MINUTE_MS, ..honest(number, base + store * MINUTE_MS) }
        };
        let candidates: Vec<Candidate> = (1..).zip(entries).map(entry).collect();
        let decisions = decide(&candidates, &rules("last 1"), 0).unwrap();
        assert_eq!(decisions.last().unwrap().doubt.is_some(), doubtful, "{entries:?}");
    }
}
