//! Properties of the rules for training runs while steps come and are forgotten, over many generated runs; a failure names
//! the seed that shows it again.

use std::collections::{BTreeMap, BTreeSet};

use super::properties::{Random, SEEDS, each_seed, keeping};
use super::*;

/// Step `step` of a run, as entry `number` of the log.
fn checkpoint(number: u64, step: u64) -> Candidate {
    let labels = vec![(STEP.to_owned(), step.to_string())];
    Candidate { labels, ..honest(number, at("2026-11-20 00:00") + number as i64 * MINUTE_MS) }
}

/// Ascending steps with gaps of any size: regular, a little irregular, or over many orders of magnitude.
fn steps(random: &mut Random) -> Vec<u64> {
    let kind = random.below(4);
    let gap = 1 + random.below(2000);
    let mut step = random.below(3) * gap;
    let mut next = || {
        let power = random.below(30);
        step += match kind {
            0 => gap,
            1 => gap + random.below(gap / 4 + 1),
            2 => 1,
            _ => 1 + random.below(1 << power),
        };
        step
    };
    (0..120).map(|_| next()).collect()
}

fn step_of(candidate: &Candidate) -> u64 {
    candidate.labels[0].1.parse().unwrap()
}

/// Steps that stay.
fn staying(candidates: &[Candidate], rules: &Rules) -> BTreeSet<u64> {
    let kept = keeping(candidates, rules);
    candidates.iter().filter(|candidate| kept.contains(&candidate.id)).map(step_of).collect()
}

/// Lets the steps come one by one, forgets by the rules now and then, and gives what is left to `look`, with all steps
/// that ever came.
fn live(random: &mut Random, rules: &Rules, mut look: impl FnMut(&[u64], &BTreeSet<u64>)) {
    let steps = steps(random);
    let rest = 1 + random.below(8);
    let mut left: Vec<Candidate> = Vec::new();
    for (number, step) in (1..).zip(&steps) {
        left.push(checkpoint(number, *step));
        if random.below(rest) == 0 {
            let staying = staying(&left, rules);
            left.retain(|candidate| staying.contains(&step_of(candidate)));
            look(&steps[..number as usize], &staying);
        }
    }
}

#[test]
fn forgetting_on_the_way_changes_nothing_in_the_end() {
    for text in ["log", "every 1000", "steps 3", "log, every 7", "log, steps 5, every 100000"] {
        let rules = rules(text);
        each_seed(SEEDS / 20, |seed, random| {
            live(random, &rules, |came, left| {
                let all: Vec<Candidate> = (1..).zip(came).map(|(number, step)| checkpoint(number, *step)).collect();
                assert_eq!(*left, staying(&all, &rules), "seed {seed}: {text} after {came:?}");
            });
        });
    }
}

#[test]
fn log_spaced_steps_reach_back_to_each_distance_and_are_few() {
    let rules = rules("log");
    each_seed(SEEDS / 4, |seed, random| {
        live(random, &rules, |came, left| {
            let newest = came[came.len() - 1];
            for step in came {
                let before =
                    left.range(..=step).next_back().unwrap_or_else(|| panic!("seed {seed}: nothing to {step}"));
                let (far, distance) = (newest - before, newest - step);
                assert!(far < 4 * distance || far == 0, "seed {seed}: {step} of {came:?} has {before}");
            }
            // The first band of each size that ever had a step has its first one.
            for level in 0..u64::BITS - newest.leading_zeros() {
                let Some(before) = (newest >> level).checked_sub(1) else { continue };
                let first = came.iter().find(|step| **step >> level == before);
                assert!(first.is_none_or(|first| left.contains(first)), "seed {seed}: band {level} after {came:?}");
            }
            let doublings = u64::BITS - newest.leading_zeros();
            assert!(left.len() <= 1 + doublings as usize, "seed {seed}: {left:?}");
        });
    });
}

#[test]
fn dense_steps_have_one_in_each_doubling() {
    let rules = rules("log");
    let mut left: Vec<Candidate> = Vec::new();
    for step in 0..3000 {
        left.push(checkpoint(step + 1, step));
        let staying = staying(&left, &rules);
        left.retain(|candidate| staying.contains(&step_of(candidate)));
        let distances: BTreeSet<u32> =
            staying.iter().map(|kept| (step - kept).checked_ilog2().map_or(0, |it| it + 1)).collect();
        let doublings = step.checked_ilog2().map_or(0, |it| it + 1);
        assert_eq!(distances, (0..=doublings).collect(), "after {step}");
        assert_eq!(staying.len(), distances.len(), "after {step}");
    }
}

/// Labels of any kind, also wrong ones.
fn any_labels(random: &mut Random) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut label = |name: &str, values: &[String]| {
        if random.below(4) > 0 {
            labels.push((name.to_owned(), values[random.below(values.len() as u64) as usize].clone()));
        }
    };
    let numbers: Vec<String> = (0..30).map(|number| (number * 37 % 50).to_string()).collect();
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    label(RUN, &texts(&["a", "b"]));
    label(STEP, &[&numbers[..], &texts(&["", "x", "-1"])].concat());
    label(STATE, &texts(&["complete", "complete", "incomplete"]));
    label("loss", &[&numbers[..], &texts(&["nan", "1e-3"])].concat());
    labels
}

fn any_rules(random: &mut Random) -> Rules {
    let mut rules = if random.below(2) == 0 { random.rules() } else { Rules::default() };
    let counts = [Count::NONE, Count::AtMost(1), Count::AtMost(3), Count::All];
    rules.run.last = counts[random.below(4) as usize];
    rules.run.steps_every = [0, 0, 1, 10][random.below(4) as usize];
    rules.run.log_spaced = random.below(2) == 0;
    let direction = if random.below(2) == 0 { Direction::Lower } else { Direction::Higher };
    let best = Best { count: counts[random.below(4) as usize], metric: "loss".to_owned(), direction };
    rules.run.best = (random.below(2) == 0).then_some(best);
    rules
}

#[test]
fn what_stays_by_all_rules_stays_by_one_of_them_and_nothing_is_emptied() {
    each_seed(SEEDS, |seed, random| {
        let (mut candidates, rules) = (random.anything(), any_rules(random));
        for candidate in &mut candidates {
            candidate.labels = any_labels(random);
        }
        if rules.keep_nothing() {
            return;
        }
        let together = keeping(&candidates, &rules);
        let alone: BTreeSet<_> = rules.each_alone().iter().flat_map(|(_, rule)| keeping(&candidates, rule)).collect();
        assert!(together.is_subset(&alone), "seed {seed}: {rules:?}");
        let mut groups: BTreeMap<&Group, Vec<&Candidate>> = BTreeMap::new();
        for candidate in &candidates {
            groups.entry(&candidate.group).or_default().push(candidate);
        }
        // Of a group one stays, and a complete one where it has any.
        for group in groups.values() {
            let has_complete = group.iter().any(|candidate| !candidate.is_incomplete());
            let mut stay = group.iter().filter(|candidate| together.contains(&candidate.id));
            assert!(stay.any(|candidate| !has_complete || !candidate.is_incomplete()), "seed {seed}: {rules:?}");
        }
    });
}

#[test]
fn rules_for_runs_only_ever_keep_more() {
    each_seed(SEEDS, |seed, random| {
        let (mut candidates, rules) = (random.anything(), any_rules(random));
        for candidate in &mut candidates {
            candidate.labels = any_labels(random);
        }
        let without = Rules { run: RunRules::default(), ..rules.clone() };
        if without.keep_nothing() {
            return;
        }
        let (before, after) = (keeping(&candidates, &without), keeping(&candidates, &rules));
        // A newest one that nothing else keeps stays in both.
        assert!(before.is_subset(&after), "seed {seed}: {rules:?}");
    });
}
