//! Which snapshots to keep, and why: `last`, hourly to yearly, within, tags and holds, and by the steps and metrics of
//! training runs (`run.rs`), for each group apart.
//!
//! # What may not happen
//! An owner lets `forget` run every night. A member whose key was stolen must not be able to make that run drop the
//! member's good snapshots by adding false ones; and a repository whose times were lost when it was copied must not lose
//! its history. The only time a member cannot choose is the store's, and it is the one that a copy may lose. Hence:
//!
//! 1. **Groups hold the signing key.** Snapshots are counted with those of the same member, host and paths only.
//! 2. **Three clocks.** A snapshot is placed by the earlier of claim and store time, by the store's time, and by the
//!    claim. It goes only when it may go by each of them. So a lie about the time never drops what the truth would not
//!    have dropped; and where a copy gave all entries one time, be it today's or 1970, the claims still keep the history.
//! 3. **Doubtful claims** ([`Doubt`]) are reported, and counted in a sub-group of their own.
//! 4. **Incomplete checkpoints** too are counted apart, and where their group has a complete one, no rule for runs keeps
//!    them, nor that they are the newest.
//!
//! Rules 1 to 3 only ever keep more: counting snapshots apart, or by one more clock, drops none that was kept before.
//! docs/retention.md says what remains possible.

mod doubt;
mod reason;
mod rules;
mod run;
#[cfg(test)]
mod tests;
mod within;

use std::collections::{BTreeMap, BTreeSet};

pub use doubt::{Doubt, TOLERANCE_MS};
pub use reason::{Bucket, Clock, Period, Reason};
pub use rules::{Count, KeepNothing, NotCount, Periodic, Rules};
pub use run::{Best, Direction, INCOMPLETE, LOST_PATHS, RUN, RunRules, STATE, STEP};
pub use within::{NotWithin, Within};

use doubt::Judge;

/// Which snapshots are counted together: those of one member with the same labels, such as host and paths, or of one
/// training run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Vec<u8>);

impl Group {
    /// The group of the `member` who signed the snapshots, and of any labels. The member is the first argument so that
    /// it is never forgotten: else one member's false snapshots could make another's good ones expire.
    pub fn new<'a>(member: &'a [u8], labels: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut key = Vec::new();
        for part in std::iter::once(member).chain(labels) {
            // Lengths first: "ab" and "c" are not "a" and "bc".
            key.extend((part.len() as u64).to_le_bytes());
            key.extend(part);
        }
        Self(key)
    }

    /// The group of the `member` who signed snapshots of a training run on `host`, whatever their paths. No group of
    /// [`Self::new`] equals it.
    pub fn of_run(member: &[u8], host: &[u8], run: &[u8]) -> Self {
        let Self(mut key) = Self::new(member, [host, run]);
        // Why: what `new` makes ends where the last length says.
        key.push(0);
        Self(key)
    }

    /// The bytes that tell it from others.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A snapshot, as far as retention has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The snapshot.
    pub id: [u8; 16],
    /// Number of the log entry that published it.
    pub number: u64,
    /// With which others it is counted.
    pub group: Group,
    /// When the store says that the log entry was written, in Unix milliseconds.
    pub store_time_ms: i64,
    /// When the log entry says that it was written, in Unix milliseconds.
    pub claimed_time_ms: i64,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its labels, name and value. Of those with one name the first counts.
    pub labels: Vec<(String, String)>,
    /// What it is of, among those of its group: of a training run the paths of the checkpoint. Snapshots of one step take each
    /// other's place only if they are of one thing.
    pub thing: Vec<u8>,
    /// Its files, and their bytes.
    pub files: u64,
    /// See `files`.
    pub bytes: u64,
    /// Whether the log knows damage in it.
    pub is_damaged: bool,
    /// Whether an owner holds it.
    pub held: bool,
    /// Whether it was forgotten before. It is then judged with, as the log still has its entry, but neither counted nor
    /// decided. Without these, a doubtful claim is believed once the entries that speak against it have expired.
    pub forgotten: bool,
}

impl Candidate {
    /// The snapshot's time by a clock, in Unix milliseconds.
    #[must_use]
    pub fn time_ms(&self, clock: Clock) -> i64 {
        match clock {
            Clock::Effective => self.store_time_ms.min(self.claimed_time_ms),
            Clock::Store => self.store_time_ms,
            Clock::Claimed => self.claimed_time_ms,
        }
    }
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: [u8; 16],
    /// Whether it stays: exactly when there is a reason.
    pub keep: bool,
    /// Why it stays.
    pub reasons: Vec<Reason>,
    /// What is wrong with its claimed time. To be shown, whether it stays or goes.
    pub doubt: Option<Doubt>,
}

/// Decides for each candidate that is not forgotten, in the order of the log. Periods are those of local time, `offset_minutes` ahead of UTC.
///
/// Of each hour, day and so on the newest is kept. The oldest of all takes one count of a rule that is not used up, as
/// in restic: history then reaches as far back as the rules allow from the first day on, and it can only keep more.
///
/// # Errors
/// [`KeepNothing`] when the rules have no rule, unless they allow that.
pub fn decide(candidates: &[Candidate], rules: &Rules, offset_minutes: i32) -> Result<Vec<Decision>, KeepNothing> {
    if rules.keep_nothing() && !rules.allow_empty {
        return Err(KeepNothing);
    }
    let mut log: Vec<&Candidate> = candidates.iter().collect();
    log.sort_by_key(|candidate| (candidate.number, candidate.id));
    let doubts = judge(&log);
    let mut reasons: Vec<Vec<Reason>> = log.iter().map(|candidate| own_reasons(candidate, rules)).collect();
    for Part { places, is_beside_complete } in counted_together(&log, &doubts) {
        let mut counter = Counter { log: &log, places: &places, offset_minutes, reasons: &mut reasons };
        counter.keep_by_order(rules.last);
        for clock in Clock::ALL {
            counter.keep_by_clock(rules, clock);
        }
        if is_beside_complete {
            continue;
        }
        counter.keep_by_run(rules);
        if !rules.allow_empty {
            counter.keep_newest();
        }
    }
    let decided = log.iter().zip(reasons).zip(doubts).filter(|((candidate, _), _)| !candidate.forgotten);
    let decision = |((candidate, reasons), doubt): ((&&Candidate, Vec<Reason>), _)| Decision {
        id: candidate.id,
        keep: !reasons.is_empty(),
        reasons,
        doubt,
    };
    Ok(decided.map(decision).collect())
}

fn judge(log: &[&Candidate]) -> Vec<Option<Doubt>> {
    let mut judges: BTreeMap<&Group, Judge> = BTreeMap::new();
    log.iter().map(|candidate| judges.entry(&candidate.group).or_default().next(candidate)).collect()
}

/// Reasons that do not depend on other snapshots.
fn own_reasons(candidate: &Candidate, rules: &Rules) -> Vec<Reason> {
    let hold = candidate.held.then_some(Reason::Hold);
    let tags = rules.tags.iter().filter(|tag| candidate.tags.contains(tag));
    let tags = tags.map(|tag| Reason::Tag(tag.clone()));
    hold.into_iter().chain(tags).chain(run::unjudged(candidate, rules)).collect()
}

/// Snapshots that are counted together.
struct Part {
    /// Their places, in the order of the log.
    places: Vec<usize>,
    /// They are incomplete checkpoints, and their group has complete ones.
    is_beside_complete: bool,
}

fn counted_together(log: &[&Candidate], doubts: &[Option<Doubt>]) -> Vec<Part> {
    let mut groups: BTreeMap<(&Group, bool, bool), Vec<usize>> = BTreeMap::new();
    let judged = log.iter().zip(doubts).enumerate();
    for (place, (candidate, doubt)) in judged.filter(|(_, (candidate, _))| !candidate.forgotten) {
        groups.entry((&candidate.group, doubt.is_some(), candidate.is_incomplete())).or_default().push(place);
    }
    let with_complete: BTreeSet<&Group> =
        groups.keys().filter(|(_, _, is_incomplete)| !is_incomplete).map(|(group, _, _)| *group).collect();
    let part = |((group, _, is_incomplete), places)| Part {
        places,
        is_beside_complete: is_incomplete && with_complete.contains(group),
    };
    groups.into_iter().map(part).collect()
}

/// Counts the snapshots at some places of the log against the rules, and notes reasons.
struct Counter<'a> {
    log: &'a [&'a Candidate],
    places: &'a [usize],
    offset_minutes: i32,
    reasons: &'a mut [Vec<Reason>],
}

impl Counter<'_> {
    /// The last ones by the order of the log, which needs no clock.
    fn keep_by_order(&mut self, mut count: Count) {
        for &place in self.places.iter().rev() {
            if !count.take() {
                break;
            }
            self.keep(place, Reason::Last);
        }
    }

    fn keep_by_clock(&mut self, rules: &Rules, clock: Clock) {
        let mut newest_first: Vec<(i64, usize)> =
            self.places.iter().map(|&place| (self.log[place].time_ms(clock), place)).collect();
        newest_first.sort_unstable_by(|left, right| right.cmp(left));
        if let Some(within) = rules.within {
            for &(_, place) in self.inside(&newest_first, within) {
                self.keep(place, Reason::Within(within, clock));
            }
        }
        for (period, Periodic { count, within }) in rules.periodic() {
            self.keep_periodic(&newest_first, period, count, None, clock);
            if within.is_some() {
                self.keep_periodic(&newest_first, period, Count::All, within, clock);
            }
        }
    }

    fn keep_periodic(
        &mut self,
        newest_first: &[(i64, usize)],
        period: Period,
        mut count: Count,
        within: Option<Within>,
        clock: Clock,
    ) {
        let inside = within.map_or(newest_first, |within| self.inside(newest_first, within));
        let mut newer = None;
        for (nth, &(time_ms, place)) in inside.iter().enumerate() {
            let bucket = Bucket::of(period, time_ms, self.offset_minutes);
            let oldest = newer == Some(bucket);
            if oldest && nth + 1 < newest_first.len() {
                continue;
            }
            if !count.take() {
                break;
            }
            newer = Some(bucket);
            self.keep(place, Reason::Periodic { bucket, oldest, within, clock });
        }
    }

    /// Those inside a span before the latest; at least the latest itself.
    fn inside<'t>(&self, newest_first: &'t [(i64, usize)], within: Within) -> &'t [(i64, usize)] {
        let first = newest_first.first().map_or(i64::MIN, |&(latest, _)| within.before(latest, self.offset_minutes));
        &newest_first[..newest_first.partition_point(|&(time_ms, _)| time_ms >= first)]
    }

    fn keep_newest(&mut self) {
        if let Some(&place) = self.places.last().filter(|&&place| self.reasons[place].is_empty()) {
            self.keep(place, Reason::Newest);
        }
    }

    /// Notes a reason, unless the same rule keeps the snapshot already, by a clock that comes first.
    fn keep(&mut self, place: usize, reason: Reason) {
        if !self.reasons[place].iter().any(|other| other.same_rule(&reason)) {
            self.reasons[place].push(reason);
        }
    }
}
