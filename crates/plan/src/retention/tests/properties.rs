//! Properties of `decide` over many generated histories and rules; the generator is small and seeded, so a failure
//! names a seed that shows it again.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

pub(super) const SEEDS: u64 = 2000;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Random(u64);

impl Random {
    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// Milliseconds up to a span that is itself drawn: from seconds to months.
    fn span_ms(&mut self) -> i64 {
        let limit = [1000, 60_000, 3_600_000, 86_400_000, 100 * 86_400_000][self.below(5) as usize];
        self.below(limit) as i64
    }

    pub(super) fn rules(&mut self) -> Rules {
        let mut count = || match self.below(4) {
            0 | 1 => Count::NONE,
            2 => Count::AtMost(1 + self.below(8) as u32),
            _ if self.below(5) == 0 => Count::All,
            _ => Count::AtMost(3),
        };
        let mut rules = Rules { last: count(), hourly: count().into(), daily: count().into(), ..Rules::default() };
        (rules.weekly, rules.monthly, rules.yearly) = (count().into(), count().into(), count().into());
        let mut span = || (self.below(4) == 0).then(|| Within { days: 1 + self.below(60) as u32, ..Within::default() });
        (rules.within, rules.daily.within) = (span(), span());
        rules.tags = vec!["x".to_owned()];
        rules
    }

    /// Snapshots in the order of the log, all of them honest, of one group.
    fn honest(&mut self) -> Vec<Candidate> {
        let mut time_ms = at("2026-11-20 02:00");
        let mut next = |number| {
            time_ms += self.span_ms();
            let mut candidate = honest(number, time_ms);
            candidate.held = self.below(20) == 0;
            candidate.tags = if self.below(20) == 0 { vec!["x".to_owned()] } else { Vec::new() };
            candidate
        };
        (1..40).map(&mut next).collect()
    }

    /// Snapshots of several groups with any claims.
    pub(super) fn anything(&mut self) -> Vec<Candidate> {
        let mut candidates = self.honest();
        for candidate in &mut candidates {
            candidate.group = Group::new(&[self.below(2) as u8], []);
            let lie = self.span_ms();
            candidate.claimed_time_ms += [0, -lie, lie][self.below(3) as usize];
        }
        candidates
    }
}

pub(super) fn each_seed(seeds: u64, mut property: impl FnMut(u64, &mut Random)) {
    (0..seeds).for_each(|seed| property(seed, &mut Random(seed)));
}

pub(super) fn keeping(candidates: &[Candidate], rules: &Rules) -> BTreeSet<[u8; 16]> {
    let decisions = decide(candidates, rules, 60).unwrap();
    decisions.iter().filter(|decision| decision.keep).map(|decision| decision.id).collect()
}

#[test]
fn held_and_newest_ones_stay_and_each_kept_one_has_a_reason() {
    each_seed(SEEDS, |seed, random| {
        let (candidates, mut rules) = (random.anything(), random.rules());
        rules.allow_empty = random.below(2) == 0;
        let decisions = decide(&candidates, &rules, 0).unwrap();
        assert_eq!(decisions.len(), candidates.len());
        let mut newest: BTreeMap<(&Group, bool), bool> = BTreeMap::new();
        for (candidate, decision) in candidates.iter().zip(&decisions) {
            assert_eq!(decision.keep, !decision.reasons.is_empty(), "seed {seed}");
            assert!(decision.keep || !candidate.held, "seed {seed}");
            newest.insert((&candidate.group, decision.doubt.is_some()), decision.keep);
        }
        assert!(rules.allow_empty || newest.values().all(|&keep| keep), "seed {seed}");
    });
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    each_seed(SEEDS, |seed, random| {
        let (mut candidates, rules) = (random.anything(), random.rules());
        let decisions = decide(&candidates, &rules, -90);
        for place in (1..candidates.len()).rev() {
            candidates.swap(place, random.below(place as u64 + 1) as usize);
        }
        assert_eq!(decide(&candidates, &rules, -90), decisions, "seed {seed}");
    });
}

#[test]
fn a_period_keeps_one_for_each_rule_and_a_rule_no_more_than_its_count() {
    each_seed(SEEDS, |seed, random| {
        let (candidates, rules) = (random.anything(), random.rules());
        let mut seen = BTreeSet::new();
        let mut counts: BTreeMap<_, u32> = BTreeMap::new();
        for (candidate, decision) in candidates.iter().zip(decide(&candidates, &rules, 0).unwrap()) {
            let counted = (&candidate.group, decision.doubt.is_some());
            for reason in decision.reasons {
                let Reason::Periodic { bucket, oldest, within, clock } = reason else { continue };
                assert!(seen.insert((counted, bucket, oldest, within, clock)), "seed {seed}");
                if let (None, Bucket::Day(_)) = (within, bucket) {
                    *counts.entry((counted, clock)).or_default() += 1;
                }
            }
        }
        if let Count::AtMost(limit) = rules.daily.count {
            assert!(counts.values().all(|&count| count <= limit), "seed {seed}");
        }
    });
}

#[test]
fn one_more_honest_snapshot_costs_each_rule_one_at_most() {
    each_seed(SEEDS, |seed, random| {
        let (mut candidates, mut rules) = (random.honest(), random.rules());
        // A span may move past any number of snapshots at once.
        (rules.within, rules.daily.within) = (None, None);
        let before = keeping(&candidates, &rules);
        let latest = candidates.last().unwrap().store_time_ms;
        candidates.push(honest(1000, latest + random.span_ms()));
        let after = keeping(&candidates, &rules);
        let counts = rules.periodic().map(|(_, rule)| rule.count).into_iter().chain([rules.last]);
        // Without any rule but tags, the newest gives way to the newer one.
        let rules_that_count = counts.filter(|count| *count != Count::NONE).count().max(1);
        assert!(before.difference(&after).count() <= rules_that_count, "seed {seed}: {rules:?}");
    });
}

#[test]
fn a_lie_about_the_time_drops_nothing_that_the_truth_would_keep() {
    each_seed(SEEDS, |seed, random| {
        let (mut candidates, rules) = (random.honest(), random.rules());
        let truth = keeping(&candidates, &rules);
        let mut liars = BTreeSet::new();
        for candidate in &mut candidates {
            if random.below(2) == 0 {
                liars.insert(candidate.id);
                let lie = random.span_ms();
                candidate.claimed_time_ms += [-lie, lie][random.below(2) as usize];
            }
        }
        let lies = keeping(&candidates, &rules);
        let lost: Vec<_> = truth.difference(&lies).filter(|id| !liars.contains(*id)).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?}");
    });
}

#[test]
fn what_was_kept_stays_when_nothing_is_added() {
    each_seed(SEEDS, |seed, random| {
        let (mut candidates, rules) = (random.anything(), random.rules());
        let first = keeping(&candidates, &rules);
        candidates.iter_mut().for_each(|candidate| candidate.forgotten = !first.contains(&candidate.id));
        assert_eq!(keeping(&candidates, &rules), first, "seed {seed}");
    });
}
