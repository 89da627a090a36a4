//! One look after another: what was found, what of it is at rest, and for how long nothing has moved.
//!
//! Files are opened only where something changed since the look before. Time comes in from outside, so that a test can let
//! it pass. Two clocks are at work: changes seen between looks count by the caller's own, and only at the first look by
//! the file system's times, which may be another machine's.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::evidence::{self, Evidence, Scene, Written};
use super::find::{Candidate, candidates};
use super::listing::Listing;
use super::siblings::{Siblings, siblings};
use super::tracker::{self, Beside, Own, Says, Tracker};
use super::{Checkpoint, Layout, State, names};
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// A checkpoint of several files without a marker has to be at rest so many times longer, between two of its files; and a
/// file whose header tells its length, between that and its numbers.
const WITHOUT_MARKER: u32 = 10;
/// A hole in what has no marker counts as not yet written for so many times the patience, but not longer than the next.
const WITH_HOLE: u32 = 20;
const WITH_HOLE_MAX: Duration = Duration::from_mins(10);

/// How patient a scanner is.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Nothing may change for so long before a checkpoint counts as complete.
    pub settle: Duration,
    /// What lacks something and did not change for so long is not being written any more.
    pub patience: Duration,
}

/// What a look found.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Checkpoints, ascending by run and step.
    pub checkpoints: Vec<Checkpoint>,
    /// What could not be looked at, and why.
    pub trouble: Vec<(PathBuf, String)>,
    /// The directories above checkpoints: where others may appear.
    pub directories: Vec<PathBuf>,
    /// Links to directories, or to single files of checkpoints, that lead out of what is looked through: not followed.
    pub links: Vec<PathBuf>,
}

/// Looks for checkpoints below some directories, and remembers what it saw.
#[derive(Debug)]
pub struct Scanner {
    roots: Vec<PathBuf>,
    pace: Pace,
    memory: HashMap<PathBuf, Memory>,
}

/// What is remembered of a candidate.
#[derive(Debug)]
struct Memory {
    listing: Arc<Listing>,
    /// Since when it is as it is.
    since: Instant,
    /// True once a change was seen; before that, only the file system's times tell how old the last one is.
    seen_to_change: bool,
    evidence: Evidence,
}

/// A candidate of this look.
pub(super) struct Sighted {
    pub candidate: Candidate,
    pub run: PathBuf,
    pub layout: Layout,
    pub listing: Arc<Listing>,
}

/// What the caller knows of checkpoints.
struct Asked<'a> {
    is_known: &'a dyn Fn(&Checkpoint) -> bool,
    gone: &'a dyn Fn(&Checkpoint) -> Option<String>,
}

impl Sighted {
    fn order(&self) -> (&Path, Option<u64>, &Path) {
        (&self.run, self.step(), &self.candidate.path)
    }

    pub fn step(&self) -> Option<u64> {
        self.candidate.named.map(|named| named.step)
    }

    pub fn name(&self) -> &str {
        self.candidate.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    fn is_temporary(&self) -> bool {
        self.candidate.named.is_some_and(|named| named.temporary)
    }
}

impl Scanner {
    /// For the checkpoints at or below these paths.
    ///
    /// # Errors
    /// When a path can't be made absolute.
    pub fn new(roots: &[PathBuf], pace: Pace) -> Result<Self> {
        let real = |root: &PathBuf| {
            // Why resolved: a run has one name, whatever links lead to it. One that is not there yet keeps its own.
            let resolved = root.canonicalize().or_else(|_| std::path::absolute(root));
            resolved.map_err(|error| Error::file(root, "cannot be resolved", error))
        };
        let mut roots: Vec<PathBuf> = roots.iter().map(real).collect::<Result<_>>()?;
        roots.sort();
        roots.dedup();
        Ok(Self { roots, pace, memory: HashMap::new() })
    }

    /// The roots, resolved.
    #[must_use]
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Looks once. `now` and `wall` are the same moment by two clocks. What `is_known` says yes to is not opened.
    pub fn look(&mut self, now: Instant, wall: Timestamp, is_known: &dyn Fn(&Checkpoint) -> bool) -> Look {
        self.look_for_gone(now, wall, is_known, &|_| None)
    }

    /// As [`Scanner::look`]; `gone` says of one that is not known what has gone of it, that was there when it was known.
    pub fn look_for_gone(
        &mut self,
        now: Instant,
        wall: Timestamp,
        is_known: &dyn Fn(&Checkpoint) -> bool,
        gone: &dyn Fn(&Checkpoint) -> Option<String>,
    ) -> Look {
        let mut look = Look::default();
        let mut sighted = self.sight(&mut look);
        sighted.sort_by(|left, right| left.order().cmp(&right.order()));
        sighted.dedup_by(|later, earlier| later.candidate.path == earlier.candidate.path);
        let siblings = siblings(sighted.iter().filter(|sight| !sight.is_temporary()));
        let asked = Asked { is_known, gone };
        let mut memory = std::mem::take(&mut self.memory);
        for sight in sighted {
            let before = memory.remove(&sight.candidate.path);
            let siblings = siblings.get(&sight.run);
            look.checkpoints.push(self.judge(sight, before, siblings, (now, wall), &asked));
        }
        look
    }

    /// The candidates below all roots.
    fn sight(&self, look: &mut Look) -> Vec<Sighted> {
        let mut sighted = Vec::new();
        for root in &self.roots {
            match candidates(root) {
                Ok(found) => {
                    look.directories.extend(found.directories);
                    look.trouble.extend(found.trouble);
                    look.links.extend(found.links.into_iter().filter(|link| self.leads_out(link)));
                    sighted.extend(found.candidates.into_iter().filter_map(|candidate| sight(candidate, look)));
                }
                Err(error) => look.trouble.push((root.clone(), format!("cannot be looked through: {error}"))),
            }
        }
        sighted
    }

    /// Whether what a link leads to is not found without it.
    fn leads_out(&self, link: &Path) -> bool {
        link.canonicalize().map_or(true, |target| !self.roots.iter().any(|root| target.starts_with(root)))
    }

    fn judge(
        &mut self,
        sight: Sighted,
        before: Option<Memory>,
        siblings: Option<&Siblings>,
        (now, wall): (Instant, Timestamp),
        asked: &Asked,
    ) -> Checkpoint {
        let name = PathBuf::from(sight.candidate.path.file_name().unwrap_or_default());
        let mut checkpoint = Checkpoint {
            fingerprint: sight.listing.fingerprint(&name),
            path: sight.candidate.path.clone(),
            run: sight.run.clone(),
            step: sight.step(),
            layout: sight.layout,
            world_size: None,
            finished: newest_file(&sight.listing),
            state: State::Known,
            listing: Arc::default(),
        };
        if (asked.is_known)(&checkpoint) {
            // Why nothing is kept: of thousands of known ones, listings would be all that fills the memory.
            checkpoint.finished = marker_of_known(&sight).unwrap_or(checkpoint.finished);
            return checkpoint;
        }
        checkpoint.listing = Arc::clone(&sight.listing);
        let memory = remembered(&sight, before, now);
        let nobody = Siblings::default();
        let siblings = siblings.unwrap_or(&nobody);
        let (against, committed) = asked_trackers(&sight, siblings, memory.evidence.marked.is_some());
        checkpoint.world_size = memory.evidence.world_size;
        let marked = committed.into_iter().chain(memory.evidence.marked).max();
        checkpoint.finished = marked.unwrap_or(checkpoint.finished);
        let rest = now.saturating_duration_since(memory.since);
        let lack = (asked.gone)(&checkpoint).or_else(|| memory.evidence.lack.clone()).or(against);
        let lack = lack.or_else(|| siblings.lack(&sight, committed.is_some()));
        checkpoint.state = match lack {
            Some(reason) if self.is_moving(&memory, rest, wall) => State::Writing(reason),
            Some(reason) => State::Incomplete(reason),
            None if let Some(reason) = self.hole(&memory, &sight, marked.is_some(), rest, wall) => {
                State::Writing(reason)
            }
            None if rest >= self.settle(&memory, &sight, marked.is_some(), wall) && rest > Duration::ZERO => {
                State::Complete
            }
            None => State::Settling,
        };
        self.memory.insert(checkpoint.path.clone(), memory);
        checkpoint
    }

    /// How long a finished checkpoint must be seen at rest.
    fn settle(&self, memory: &Memory, sight: &Sighted, is_marked: bool, wall: Timestamp) -> Duration {
        let longer = self.pace.settle.saturating_mul(WITHOUT_MARKER);
        let is_safe = is_marked || has_end(sight) || is_older(memory, wall, longer);
        if is_safe { self.pace.settle } else { longer }
    }

    /// A hole in what may still be written. Why not for ever: copies may have holes in place of zeros.
    fn hole(
        &self,
        memory: &Memory,
        sight: &Sighted,
        is_marked: bool,
        rest: Duration,
        wall: Timestamp,
    ) -> Option<String> {
        let long = self.pace.patience.saturating_mul(WITH_HOLE).min(WITH_HOLE_MAX);
        let is_young = rest < long && !is_older(memory, wall, long);
        memory.evidence.hole.clone().filter(|_| !is_marked && !has_end(sight) && is_young)
    }

    /// Whether something changed lately.
    fn is_moving(&self, memory: &Memory, rest: Duration, wall: Timestamp) -> bool {
        rest < self.pace.patience && !is_older(memory, wall, self.pace.patience)
    }
}

/// Whether it is a single file whose format has something at its end.
fn has_end(sight: &Sighted) -> bool {
    sight.candidate.is_file && !names::is_headed(sight.name())
}

/// Whether the file system's times say that the last change lies so far back. They are asked only of what was not seen to
/// change; a time in the future tells nothing.
fn is_older(memory: &Memory, wall: Timestamp, age: Duration) -> bool {
    // Why i128: times of files may be anything.
    let nanos = |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let since = nanos(wall) - nanos(memory.listing.changed());
    !memory.seen_to_change && since >= i128::try_from(age.as_nanos()).unwrap_or(i128::MAX)
}

/// Lists a candidate; none where it has gone, or is no checkpoint.
fn sight(candidate: Candidate, look: &mut Look) -> Option<Sighted> {
    let listing = match Listing::of(&candidate.path) {
        Ok(listing) => Arc::new(listing),
        // Rotated away, or renamed, since the directory was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            look.trouble.push((candidate.path, format!("cannot be looked at: {error}")));
            return None;
        }
    };
    let run = candidate.path.parent().unwrap_or(&candidate.path).to_path_buf();
    let mut sighted = Sighted { candidate, run, layout: Layout::Plain, listing };
    sighted.layout = evidence::layout(&sighted.scene())?;
    Some(sighted)
}

impl Sighted {
    fn scene(&self) -> Scene<'_> {
        Scene {
            path: &self.candidate.path,
            name: self.name(),
            step: self.step(),
            is_file: self.candidate.is_file,
            listing: &self.listing,
        }
    }
}

/// What is known of it now: the old evidence where nothing changed.
fn remembered(sight: &Sighted, before: Option<Memory>, now: Instant) -> Memory {
    match before {
        Some(memory) if memory.listing == sight.listing => memory,
        before => Memory {
            listing: Arc::clone(&sight.listing),
            since: now,
            seen_to_change: before.is_some(),
            evidence: evidence::gather(&sight.scene(), sight.layout),
        },
    }
}

/// The trackers that count for a layout, and whether it can't do without.
fn trackers(sight: &Sighted) -> impl Iterator<Item = (Tracker, bool)> {
    [tracker::DEEPSPEED, tracker::MEGATRON, tracker::DLROVER].into_iter().filter_map(|name| {
        let is_needed = matches!(
            (sight.layout, name),
            (Layout::DeepSpeed, tracker::DEEPSPEED) | (Layout::Megatron, tracker::MEGATRON)
        );
        let tracker = Tracker::read(&sight.run, name);
        (is_needed || tracker.says != Says::Missing).then_some((tracker, is_needed))
    })
}

/// What the run's trackers say against a checkpoint, and when they say that it was committed.
fn asked_trackers(sight: &Sighted, siblings: &Siblings, is_marked: bool) -> (Option<String>, Option<Timestamp>) {
    let own = Own { name: sight.name(), step: sight.step(), written: None };
    let written = || sight.written().filter(|_| !is_marked);
    let (mut lack, mut committed) = (None, None);
    for (tracker, is_needed) in trackers(sight) {
        // Why: a model of another library beside a run is none of its tracker's steps.
        let own = Own { written: written().filter(|_| is_needed || own.step.is_some()), ..own };
        let beside = Beside {
            newest: siblings.newest,
            is_there: &|name| sight.run.join(name).exists(),
            is_later_tag: &|name| siblings.is_later_tag(name, own.written.as_ref()),
            is_untracked: tracker.name == tracker::DEEPSPEED && siblings.is_untracked(),
            is_last: own.written.as_ref().is_some_and(|own| siblings.is_last_written(&sight.candidate.path, own)),
            usual_save: siblings.usual_save(&sight.candidate.path),
        };
        lack = lack.or_else(|| tracker.lack(&own, &beside));
        committed = committed.max(tracker.committed(&own));
    }
    (lack, committed)
}

impl Sighted {
    /// When the files were written that a tracker vouches for.
    pub fn written(&self) -> Option<Written> {
        match self.layout {
            Layout::DeepSpeed => Written::of(self.listing.files().filter(|file| evidence::is_deepspeed_part(file))),
            Layout::Megatron => Written::of(self.listing.files().filter(|file| evidence::is_megatron_part(file))),
            _ => Written::of(self.listing.files().filter(|file| names::holds_numbers(file.name()))),
        }
    }
}

/// When a known checkpoint was finished, without opening anything.
fn marker_of_known(sight: &Sighted) -> Option<Timestamp> {
    let names = [".metadata", "metadata.json", "trainer_state.json", "_CHECKPOINT_METADATA", "commit_success.txt"];
    let markers = names.iter().filter_map(|name| sight.listing.file(name)).map(|file| file.mtime);
    let own = Own { name: sight.name(), step: sight.step(), written: None };
    markers.max().max(trackers(sight).filter_map(|(tracker, _)| tracker.committed(&own)).max())
}

fn newest_file(listing: &Listing) -> Timestamp {
    listing.files().map(|file| file.mtime).max().unwrap_or_default()
}
