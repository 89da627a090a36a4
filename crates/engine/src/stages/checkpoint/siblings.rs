//! What the checkpoints of one run tell of each other: the newest step, and what a step of DeepSpeed has that another lacks.
//!
//! By names and times alone: known checkpoints are looked at too, and nothing of them is opened.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::evidence::{OPTIM_STATES, Written, is_whole_deepspeed};
use super::listing::{Listing, Seen};
use super::looks::Sighted;
use super::{Layout, names, tracker};

/// Where names of the Trainer's optimizer state begin: `optimizer.pt`, `optimizer.bin`, `optimizer_0/`.
const OPTIMIZER: &str = "optimizer";

/// The checkpoints of a run, together.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// The newest step; none where no checkpoint has one.
    pub newest: Option<u64>,
    /// Steps of DeepSpeed.
    steps: u64,
    /// True where DeepSpeed's tracker is not there.
    has_no_tracker: bool,
    /// The most ranks that a step of DeepSpeed has. Counted only where no tracker is.
    ranks: u64,
    has_optim_states: bool,
    /// Whole checkpoints of DeepSpeed without a step, and when they were written.
    tags: BTreeMap<String, Written>,
    /// Steps of the Trainer, and whether an optimizer's state is in them.
    optimizers: BTreeMap<u64, bool>,
    /// When the steps were written.
    written: BTreeMap<PathBuf, Written>,
}

/// Of each run what its checkpoints tell.
pub(super) fn siblings<'s>(sighted: impl Iterator<Item = &'s Sighted>) -> HashMap<PathBuf, Siblings> {
    let mut runs: HashMap<PathBuf, Siblings> = HashMap::new();
    for sight in sighted {
        let run = runs.entry(sight.run.clone()).or_insert_with(|| Siblings::new(&sight.run));
        run.newest = run.newest.max(Some(sight.step().unwrap_or(0)));
        if let Some(written) = sight.written().filter(|_| sight.step().is_some()) {
            run.written.insert(sight.candidate.path.clone(), written);
        }
        if let Some(step) = trainers_step(sight) {
            run.optimizers.insert(step, has_optimizer(&sight.listing));
        }
        if sight.layout == Layout::DeepSpeed {
            run.add(sight);
        }
    }
    runs
}

impl Siblings {
    fn new(run: &Path) -> Self {
        Self { has_no_tracker: run.join(tracker::DEEPSPEED).symlink_metadata().is_err(), ..Self::default() }
    }

    fn add(&mut self, sight: &Sighted) {
        self.has_optim_states |= has_optim_states(&sight.listing);
        if sight.step().is_some() {
            self.steps += 1;
            let ranks = if self.has_no_tracker { ranks(&sight.listing) } else { 0 };
            self.ranks = self.ranks.max(ranks);
        } else if let Some(written) = sight.written().filter(|_| is_whole_deepspeed(&sight.listing)) {
            self.tags.insert(sight.name().to_owned(), written);
        }
    }

    /// True where nobody writes DeepSpeed's tracker. Why not of a single step: its tracker may be yet to come.
    pub fn is_untracked(&self) -> bool {
        self.has_no_tracker && self.steps > 1
    }

    /// Whether this is a whole checkpoint without a step, of which something was written after `own`.
    pub fn is_later_tag(&self, name: &str, own: Option<&Written>) -> bool {
        let tag = self.tags.get(name);
        tag.zip(own).is_some_and(|(tag, own)| tag.newest >= own.newest)
    }

    /// Whether `own`, the step at `path`, was written after every other step of the run: by its time the newest, whatever its number.
    pub fn is_last_written(&self, path: &Path, own: &Written) -> bool {
        self.others(path).all(|other| other.newest < own.newest)
    }

    /// How long the other steps of the run took to write, in nanoseconds: the median; none where there is no other.
    pub fn usual_save(&self, path: &Path) -> Option<i128> {
        let mut took: Vec<i128> = self.others(path).map(Written::took).collect();
        took.sort_unstable();
        took.get(took.len().saturating_sub(1) / 2).copied()
    }

    /// An optimizer's state that the steps before and after have. Why both: a run may begin, or cease, to keep it.
    fn optimizer_lack(&self, step: u64, own: &Listing) -> Option<String> {
        let has = |other: Option<(&u64, &bool)>| other.is_some_and(|(_, has)| *has);
        let (before, after) = (self.optimizers.range(..step).next_back(), self.optimizers.range(step + 1..).next());
        let is_lost = !has_optimizer(own) && has(before) && has(after);
        is_lost.then(|| format!("no {OPTIMIZER}* is there, and the steps before and after have one"))
    }

    fn others(&self, path: &Path) -> impl Iterator<Item = &Written> {
        self.written.iter().filter(move |(other, _)| other.as_path() != path).map(|(_, written)| written)
    }

    /// What a checkpoint of DeepSpeed or the Trainer lacks that others of its run have. `is_committed` if the tracker names it.
    pub fn lack(&self, sight: &Sighted, is_committed: bool) -> Option<String> {
        if let Some(step) = trainers_step(sight) {
            return self.optimizer_lack(step, &sight.listing);
        }
        if sight.layout != Layout::DeepSpeed || is_committed {
            return None;
        }
        if self.has_optim_states && !has_optim_states(&sight.listing) {
            return Some(format!("no *{OPTIM_STATES} is there, and other steps have them"));
        }
        let own = if self.is_untracked() && sight.step().is_some() { ranks(&sight.listing) } else { self.ranks };
        (own < self.ranks).then(|| format!("{own} ranks wrote it, and {} another step; no latest tells", self.ranks))
    }
}

/// The step, if the Trainer wrote it.
fn trainers_step(sight: &Sighted) -> Option<u64> {
    let is_it = |step: &u64| sight.layout == Layout::HuggingFace && sight.name() == format!("checkpoint-{step}");
    sight.step().filter(is_it)
}

/// Of a Trainer's state in the directory itself, and of one in parts.
fn has_optimizer(listing: &Listing) -> bool {
    has_optim_states(listing) || listing.entries().iter().any(|entry| entry.name().starts_with(OPTIMIZER))
}

fn has_optim_states(listing: &Listing) -> bool {
    listing.files().any(|file| file.name().ends_with(OPTIM_STATES))
}

fn ranks(listing: &Listing) -> u64 {
    names::ranks(listing.files().map(Seen::text)).count.unwrap_or(0)
}
