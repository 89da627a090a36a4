//! Rules for training runs: by the step and the metrics that a checkpoint's labels name, never by time.
//!
//! Each of these rules counts steps. Of a step the newest snapshot of each thing stays, and older ones that hold more than what
//! came later: a checkpoint that was half deleted, or half overwritten, and stored again puts no whole one out. Snapshots that
//! the log calls damaged are counted, and take nobody's place: the rules keep what they would keep without these, too. Steps
//! and metrics are what the writer says; nothing in the
//! store speaks against them, so docs/retention.md says beside which other rules to use these.
//!
//! Log-spaced: for each power of two, steps are cut into blocks of that many, at its multiples. A **band** is the block
//! just before the one that holds the newest step; its first step is kept, and so is the newest of all. Why whole blocks
//! and not plain distances: a block's first step stays its first, and is the first of each smaller block that it lies in.
//! Invariants, as long as steps come in ascending order:
//!
//! 1. However often was forgotten on the way, the same steps stay as if nothing ever had been: so no band is empty that
//!    ever had a step, as its first one is there.
//! 2. For each step that ever came, `d` before the newest, one stays that is not newer and less than `4d` before it.
//! 3. At most one step for each doubling stays, and the newest.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::reason::Reason;
use super::rules::{Count, Rules};
use super::{Candidate, Counter};

/// The label that names a training run.
pub const RUN: &str = "checkpoint.run";
/// The label that holds a step, a whole number.
pub const STEP: &str = "checkpoint.step";
/// The label that says whether a checkpoint is whole.
pub const STATE: &str = "checkpoint.state";
/// What [`STATE`] says of one that is not.
pub const INCOMPLETE: &str = "incomplete";
/// The label of what a repair left of a snapshot: how many paths it lacks.
pub const LOST_PATHS: &str = "lost-paths";

/// What to keep of training runs. The default has no rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunRules {
    /// The first step at or after each multiple of this; 0 means that there is no such rule.
    pub steps_every: u64,
    /// The highest steps, whenever they were stored.
    pub last: Count,
    /// The best by a metric.
    pub best: Option<Best>,
    /// For each power of two, the first step of the band that lies about so far before the newest; see the module.
    pub log_spaced: bool,
}

/// The best by a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Best {
    /// How many.
    pub count: Count,
    /// The label whose value is the metric. Snapshots on which that is no finite number take no part.
    pub metric: String,
    /// Which values are better.
    pub direction: Direction,
}

/// Which values of a metric are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Lower ones, as of a loss.
    Lower,
    /// Higher ones, as of an accuracy.
    Higher,
}

/// What the label of the step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'c> {
    /// This step.
    Number(u64),
    /// This text, which is no whole number below 2^64.
    Other(&'c str),
    /// There is no such label.
    Missing,
}

impl Candidate {
    /// The value of the first label of this name.
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn step(&self) -> Step<'_> {
        let Some(text) = self.label(STEP) else { return Step::Missing };
        let is_whole = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_whole).map_or(Step::Other(text), Step::Number)
    }

    fn metric(&self, name: &str) -> Option<f64> {
        self.label(name)?.parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// Whether a newer one of the same step and thing is not the whole of it: it has fewer files, or less than nine tenths of its
    /// bytes. (Written again, metadata and numbers of a few bytes differ.)
    fn holds_more_than(&self, newer: &Self) -> bool {
        newer.files < self.files || newer.bytes < self.bytes - self.bytes / 10
    }

    /// Whether its labels say that it is not a whole checkpoint: it never was, or a repair left paths out that were lost.
    pub(super) fn is_incomplete(&self) -> bool {
        let is_checkpoint = [RUN, STEP, STATE].iter().any(|name| self.label(name).is_some());
        let lost = self.labels.iter().filter(|(label, _)| label == LOST_PATHS);
        let is_partial = lost.filter_map(|(_, value)| value.parse().ok()).any(|lost: u64| lost > 0);
        self.label(STATE) == Some(INCOMPLETE) || (is_checkpoint && is_partial)
    }
}

impl RunRules {
    /// Whether there is no rule that could keep a snapshot.
    #[must_use]
    pub fn keep_nothing(&self) -> bool {
        !self.ask_for_steps() && self.best().is_none()
    }

    fn ask_for_steps(&self) -> bool {
        self.steps_every > 0 || self.last != Count::NONE || self.log_spaced
    }

    /// The rule for the best, if it could keep a snapshot.
    pub(super) fn best(&self) -> Option<&Best> {
        self.best.as_ref().filter(|best| best.count != Count::NONE)
    }
}

/// Why a snapshot stays of which the rules for runs can say nothing.
pub(super) fn unjudged(candidate: &Candidate, rules: &Rules) -> Option<Reason> {
    let run = &rules.run;
    if run.keep_nothing() {
        return None;
    }
    let has_run = candidate.label(RUN).is_some();
    let has_metric = || run.best().is_some_and(|best| candidate.metric(&best.metric).is_some());
    match candidate.step() {
        Step::Number(_) => None,
        Step::Other(text) => Some(Reason::NotStep(text.to_owned())),
        Step::Missing if has_run => run.ask_for_steps().then_some(Reason::NoStep),
        Step::Missing => (rules.only_of_runs() && !has_metric()).then_some(Reason::NoRun),
    }
}

impl Counter<'_> {
    /// Keeps what the rules for runs keep.
    pub(super) fn keep_by_run(&mut self, rules: &Rules) {
        self.keep_by_run_of(self.places, rules);
        let sound: Vec<usize> = self.places.iter().copied().filter(|&place| !self.log[place].is_damaged).collect();
        if sound.len() < self.places.len() {
            self.keep_by_run_of(&sound, rules);
        }
    }

    fn keep_by_run_of(&mut self, places: &[usize], rules: &Rules) {
        let steps = self.steps(places);
        let run = &rules.run;
        if run.steps_every > 0 {
            self.keep_every(&steps, run.steps_every);
        }
        self.keep_last_steps(&steps, run.last);
        if run.log_spaced {
            self.keep_log_spaced(&steps);
        }
        if let Some(best) = run.best() {
            self.keep_best(best, places, rules.only_best());
        }
    }

    /// Of each step the snapshots that stand for it.
    fn steps(&self, places: &[usize]) -> BTreeMap<u64, Vec<usize>> {
        let mut things: BTreeMap<(u64, &[u8]), Vec<usize>> = BTreeMap::new();
        for &place in places.iter().rev() {
            let candidate = self.log[place];
            let Step::Number(step) = candidate.step() else { continue };
            let newer = things.entry((step, &candidate.thing)).or_default();
            if newer.iter().all(|&newer| candidate.holds_more_than(self.log[newer])) {
                newer.push(place);
            }
        }
        let mut steps: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for ((step, _), places) in things {
            steps.entry(step).or_default().extend(places);
        }
        steps.values_mut().for_each(|places| places.sort_unstable());
        steps
    }

    /// Keeps a snapshot, once for each reason.
    fn keep_once(&mut self, place: usize, reason: &Reason) {
        if !self.reasons[place].contains(reason) {
            self.keep(place, reason.clone());
        }
    }

    fn keep_step(&mut self, places: &[usize], reason: &Reason) {
        places.iter().for_each(|&place| self.keep_once(place, reason));
    }

    fn keep_every(&mut self, steps: &BTreeMap<u64, Vec<usize>>, every: u64) {
        let mut before = None;
        for (&step, places) in steps {
            let from = step - step % every;
            if before.replace(from) != Some(from) {
                self.keep_step(places, &Reason::EverySteps { every, from, step });
            }
        }
    }

    fn keep_last_steps(&mut self, steps: &BTreeMap<u64, Vec<usize>>, mut count: Count) {
        for places in steps.values().rev() {
            if !count.take() {
                break;
            }
            self.keep_step(places, &Reason::LastSteps);
        }
    }

    fn keep_log_spaced(&mut self, steps: &BTreeMap<u64, Vec<usize>>) {
        let Some((&newest, places)) = steps.last_key_value() else { return };
        self.keep_step(places, &Reason::LogSpaced { block: 0 });
        for level in 0..u64::BITS {
            let Some(before) = (newest >> level).checked_sub(1) else { break };
            let first = steps.range(before << level..(before + 1) << level).next();
            if let Some((_, places)) = first {
                self.keep_step(places, &Reason::LogSpaced { block: 1 << level });
            }
        }
    }

    /// Where nothing has the metric and no other rule is set, everything stays: the metric's name may be mistaken.
    fn keep_best(&mut self, best: &Best, places: &[usize], is_alone: bool) {
        let ranked = self.ranked(best, places);
        if ranked.is_empty() && is_alone {
            for &place in places {
                self.keep_once(place, &Reason::NoMetric(best.metric.clone()));
            }
        }
        let (mut count, mut taken) = (best.count, BTreeSet::new());
        for (_, step, place) in ranked {
            let is_beside = step.is_some_and(|step| !taken.insert(step));
            if !is_beside && !count.take() {
                break;
            }
            let value = self.log[place].label(&best.metric).unwrap_or_default();
            let (metric, value) = (best.metric.clone(), value.to_owned());
            self.keep_once(place, &Reason::Best { metric, value });
        }
    }

    /// Values, steps and places of those that have the metric, best first, and of equal ones that of the newer step. Of
    /// those of one step only such count as stand for it.
    fn ranked(&self, best: &Best, places: &[usize]) -> Vec<(f64, Option<u64>, usize)> {
        let metric = |place: usize| self.log[place].metric(&best.metric);
        let with: Vec<usize> = places.iter().copied().filter(|&place| metric(place).is_some()).collect();
        let of_steps = self.steps(&with).into_iter();
        let of_steps = of_steps.flat_map(|(step, places)| places.into_iter().map(move |place| (Some(step), place)));
        let others = with.iter().filter(|&&place| !matches!(self.log[place].step(), Step::Number(_)));
        let all = of_steps.chain(others.map(|&place| (None, place)));
        let mut ranked: Vec<_> = all.filter_map(|(step, place)| Some((metric(place)?, step, place))).collect();
        let by_value = |one: f64, other: f64| one.partial_cmp(&other).unwrap_or(Ordering::Equal);
        ranked.sort_by(|one, other| {
            let better = match best.direction {
                Direction::Lower => by_value(one.0, other.0),
                Direction::Higher => by_value(other.0, one.0),
            };
            better.then((other.1, other.2).cmp(&(one.1, one.2)))
        });
        ranked
    }
}
