//! `seawall watch`: finished checkpoints become durable as they appear, until somebody says stop.
//!
//! A scan of the directories is the truth; inotify only brings the next scan forward. Trouble with the store does not end
//! the watch: it is told once, every scan goes on saying how old the newest durable checkpoint is, and what could not be
//! stored is tried again after growing pauses. What can't get better by waiting ends it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall_engine::clock::{Timestamp, monotonic};
use seawall_engine::error::{Error, Result};
use seawall_engine::monitor::Problem;
use seawall_engine::repo::Repository;
use seawall_engine::stages::checkpoint::{Checkpoint, Look, Pace, Scanner, State};
use serde::Serialize;

use super::backup::EffortArgument;
use super::backup::checkpoints::SETTLE;
use super::sources::LabelArguments;
use crate::checkpoints::attempts::{ATTEMPTS_MAX, Failed};
use crate::checkpoints::hints::Hints;
use crate::checkpoints::metrics::{self, Counts};
use crate::checkpoints::status::{RunStatus, runs, seconds};
use crate::checkpoints::{CheckpointLine, Durable, Keeper, PATIENCE, Taken, durable_line, labels, passed_over, title};
use crate::failure::Exit;
use crate::parity::ParityArguments;
use crate::quantities::parse_pause;
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall watch -r /backup/repo --key-file seawall.key /runs
    seawall watch /runs/llama --gpus 1024 --metrics /var/lib/node_exporter/seawall.prom
    seawall watch /runs --json --interval 1min
    seawall watch /runs --once";

/// Between scans, so many times as long passes as the scan before took.
const SCAN_SHARE: u32 = 5;
/// And at least so long, however busy the writer is.
const SHORTEST: Duration = Duration::from_millis(50);
/// A run's line comes again after this time, even if nothing became durable.
const RPO_EVERY: Duration = Duration::from_secs(60);

/// Keep finished checkpoints of training runs as they appear
///
/// Looks through the directories again and again, and makes each finished checkpoint a snapshot of its own, within
/// seconds of its completion marker. Torn, unfinished and changing ones are never kept; the reason is told. Prints how old
/// the newest durable checkpoint of each run is, and what would be lost with it: steps and GPU-hours.
///
/// Ctrl-C and SIGTERM end it with 0: a snapshot that is being made is abandoned, what was stored for it serves the next.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Directories of runs, or above them. A link among these is followed; one below them is not, and is named: give what it
    /// leads to as a further DIR
    #[arg(value_name = "DIR", required = true)]
    pub paths: Vec<PathBuf>,

    /// Look through the directories at least this often
    #[arg(long, value_name = "DURATION", value_parser = parse_pause, default_value = "10s")]
    pub interval: Duration,

    /// Nothing in a checkpoint may change for so long before it counts as complete [1s]
    #[arg(long, value_name = "DURATION", value_parser = parse_pause)]
    pub settle: Option<Duration>,

    /// GPUs at work on each run, for the GPU-hours at risk [the ranks that its checkpoints name]
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,

    /// Keep this file up to date with metrics in the text format of Prometheus
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// Scan once, keep what is complete, and end: 3 if something is incomplete
    #[arg(long)]
    pub once: bool,

    /// Only scan; do not ask the kernel for events
    #[arg(long)]
    pub no_inotify: bool,

    /// Time to spend on each chunk: `auto` takes what the slower of processor and store allows
    #[arg(long, value_enum, default_value_t = EffortArgument::Balanced)]
    pub effort: EffortArgument,

    /// How the snapshots are labelled.
    #[command(flatten)]
    pub labels: LabelArguments,

    /// How they are stored.
    #[command(flatten)]
    pub storage: ParityArguments,
}

/// What the watch did, for its end.
#[derive(Debug, Default, Serialize)]
struct Summary {
    durable: u64,
    discarded: u64,
    incomplete: u64,
    problems: u64,
    runs: Vec<RunStatus>,
}

/// One scan in JSON: a sign of life.
#[derive(Serialize)]
struct Scan {
    checkpoints: usize,
    /// How long the look took, without what was made durable.
    seconds: f64,
    /// The store can't be read, or something waits because it failed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    store_trouble: bool,
}

/// What one look came to.
struct Scanned {
    look: Look,
    /// It must be looked at again soon.
    again: bool,
    /// The log could not be read, so nothing was taken.
    is_unread: bool,
}

/// What is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Checkpoint,
    /// A checkpoint that is not kept, again and again.
    Failures,
    Link,
    Directory,
    Metrics,
    Store,
}

struct Watch<'r> {
    run: &'r Run,
    arguments: &'r Arguments,
    location: &'r Path,
    keeper: Keeper<'r>,
    summary: Summary,
    counts: BTreeMap<String, Counts>,
    /// What was said last, so that it is said once.
    told: HashMap<(Subject, PathBuf), String>,
    store_trouble: bool,
    told_rpo: Option<Instant>,
    /// How long the last look took, without what it found being kept.
    look_took: Duration,
}

impl Arguments {
    /// Watches.
    ///
    /// # Errors
    /// When the repository can't be opened, or what is wrong with it can't get better.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let location = run.location()?;
        let pace = Pace { settle: self.settle.unwrap_or(SETTLE), patience: PATIENCE };
        let scanner = Scanner::new(&self.paths, pace)?;
        let repository = self.storage.apply(run.open_to_write(&location)?);
        Watch::new(run, self, &location, &repository, scanner).until_stopped()
    }
}

impl<'r> Watch<'r> {
    fn new(
        run: &'r Run,
        arguments: &'r Arguments,
        location: &'r Path,
        repository: &'r Repository,
        scanner: Scanner,
    ) -> Self {
        let keeper = Keeper::new(run, repository, &arguments.labels, scanner);
        let keeper = keeper.with(Vec::new(), arguments.effort.chosen());
        Self {
            run,
            arguments,
            location,
            keeper: match arguments.once {
                true => keeper,
                false => keeper.persistent(arguments.interval),
            },
            summary: Summary::default(),
            counts: BTreeMap::new(),
            told: HashMap::new(),
            store_trouble: false,
            told_rpo: None,
            look_took: Duration::ZERO,
        }
    }

    fn until_stopped(mut self) -> anyhow::Result<Outcome> {
        let mut hints = Hints::new(!self.arguments.no_inotify && !self.arguments.once);
        while !self.run.stop.requested() {
            let scanned = self.scan()?;
            let Some(Scanned { look, again, is_unread }) = scanned else {
                self.wait(&hints, self.arguments.interval);
                continue;
            };
            let settles = look.checkpoints.iter().any(|checkpoint| checkpoint.state == State::Settling);
            if self.arguments.once && !again && !settles {
                return self.conclude(&look);
            }
            // Why a look at once: what happened before a directory was watched gave no event.
            let is_new = hints.watch(directories(&look).into_iter());
            let is_moving = settles || look.checkpoints.iter().any(|it| matches!(it.state, State::Writing(_)));
            let longest = match is_moving || again {
                _ if is_new => SHORTEST,
                true => self.settle(),
                false => self.arguments.interval,
            };
            // Why not without the log: then nothing is tried, whatever is due.
            let next = self.keeper.next_attempt().filter(|_| !is_unread);
            let longest = next.map_or(longest, |next| next.max(SHORTEST).min(longest));
            // Why at least that: a look through many files must not be all that a network file system does.
            let shortest = (self.look_took * SCAN_SHARE).max(SHORTEST).min(longest);
            self.pause(shortest);
            self.wait(&hints, longest - shortest);
        }
        self.conclude(&Look::default())
    }

    fn settle(&self) -> Duration {
        self.arguments.settle.unwrap_or(SETTLE).clamp(Duration::from_millis(20), self.arguments.interval.max(SETTLE))
    }

    fn wait(&self, hints: &Hints, longest: Duration) {
        hints.wait(longest, &self.run.stop);
    }

    fn pause(&self, time: Duration) {
        Hints::new(false).wait(time, &self.run.stop);
    }

    /// One look, and everything complete taken; none when it was interrupted.
    fn scan(&mut self) -> Result<Option<Scanned>> {
        match self.look_and_take() {
            Ok(done) => Ok(Some(done)),
            Err(Error::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Invariant: after trouble with the store that may pass, all is told and written that needs no store. An age that stood still
    /// then would hide what it is there to show.
    fn look_and_take(&mut self) -> Result<Scanned> {
        let begin = monotonic();
        let mut trouble = self.keeper.look_at_log().err();
        if let Some(error) = trouble.take_if(|error| !may_pass(error)) {
            return Err(error);
        }
        let is_unread = trouble.is_some();
        let look = self.keeper.look_at_disk();
        self.look_took = begin.elapsed();
        for (path, what) in &look.trouble {
            self.trouble(Subject::Directory, path, "unreadable", what);
        }
        for link in &look.links {
            if self.is_news(Subject::Link, link, "is a link") {
                passed_over(&self.run.output, link);
            }
        }
        let mut again = false;
        for checkpoint in &look.checkpoints {
            // Why no other after a failure: each would be read whole, to meet the same store.
            match self.checkpoint(checkpoint, trouble.is_none()) {
                Ok(is_new) => again |= is_new,
                Err(error) if may_pass(&error) => trouble = Some(error),
                Err(error) => return Err(error),
            }
        }
        self.forget_told(&look);
        self.store_trouble = trouble.is_some() || self.keeper.waits_for_store();
        self.tell_risk(&look, again);
        let (checkpoints, seconds) = (look.checkpoints.len(), self.look_took.as_secs_f64());
        let _ = self.run.output.record("scan", Scan { checkpoints, seconds, store_trouble: self.store_trouble });
        let told = self.tell_store(trouble, is_unread);
        self.flush();
        told.map(|()| Scanned { look, again, is_unread })
    }

    /// What is not there any more is news when it comes again.
    fn forget_told(&mut self, look: &Look) {
        let checkpoints: HashSet<&PathBuf> = look.checkpoints.iter().map(|checkpoint| &checkpoint.path).collect();
        self.told.retain(|(subject, path), _| match subject {
            Subject::Checkpoint | Subject::Failures => checkpoints.contains(path),
            Subject::Link => look.links.contains(path),
            Subject::Directory => look.trouble.iter().any(|(other, _)| other == path),
            Subject::Metrics | Subject::Store => true,
        });
    }

    /// Says once that the store is in trouble, and that it is not any more. Its text names other objects each time, so the
    /// kind of the error makes it news.
    fn tell_store(&mut self, trouble: Option<Error>, is_unread: bool) -> Result<()> {
        match trouble {
            Some(error) if self.arguments.once => return Err(error),
            Some(error) => {
                if self.is_news(Subject::Store, self.location, error.code()) {
                    let code = if is_unread { "unreadable" } else { "unwritable" };
                    self.problem(self.location, code, &error.to_string());
                }
            }
            None if self.store_trouble => {}
            None => {
                if self.told.remove(&(Subject::Store, self.location.to_path_buf())).is_some() {
                    self.run.output.note("the trouble with the store is over");
                }
            }
        }
        Ok(())
    }

    /// Takes it if it is complete and `may_store`; true if that changed what is known.
    fn checkpoint(&mut self, checkpoint: &Checkpoint, may_store: bool) -> Result<bool> {
        match &checkpoint.state {
            State::Complete if may_store && self.keeper.may_take(checkpoint) => {
                let is_apart = self.keeper.refuse_overlap(self.location, checkpoint);
                match is_apart.and_then(|()| self.keeper.take(checkpoint, None)) {
                    Ok(Taken::Durable(durable)) => self.durable(checkpoint, &durable),
                    Ok(Taken::Discarded { reason, failed }) => self.discarded(checkpoint, &reason, &failed),
                    Err(error) => {
                        if may_pass(&error) {
                            let failed = self.keeper.delay(checkpoint);
                            self.record(CheckpointLine::delayed(checkpoint, &error.to_string(), &failed));
                        }
                        return Err(error);
                    }
                }
                Ok(true)
            }
            State::Incomplete(reason) => {
                if self.is_news(Subject::Checkpoint, &checkpoint.path, reason) {
                    self.record(CheckpointLine::new(checkpoint, "incomplete", Some(reason)));
                    let what = format!("is incomplete: {reason}");
                    self.run.output.problem(&Problem::path(&checkpoint.path, "incomplete", what));
                }
                Ok(false)
            }
            State::Writing(reason) => {
                if self.is_news(Subject::Checkpoint, &checkpoint.path, reason) {
                    self.record(CheckpointLine::new(checkpoint, "writing", Some(reason)));
                    if self.run.output.verbose() {
                        self.run.output.note(&format!("being written: {}: {reason}", title(checkpoint)));
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn durable(&mut self, checkpoint: &Checkpoint, durable: &Durable) {
        self.summary.durable += 1;
        self.summary.problems += durable.report.problems;
        let counts = self.counts.entry(labels::run_of(checkpoint)).or_default();
        counts.durable += 1;
        counts.durable_seconds = Some(durable.seconds);
        self.told.retain(|(_, path), _| *path != checkpoint.path);
        self.record(CheckpointLine::durable(checkpoint, durable));
        // A line that can't be written must not end the watch.
        let _ = self.run.output.report(durable_line(checkpoint, durable));
        self.flush();
    }

    fn discarded(&mut self, checkpoint: &Checkpoint, reason: &str, failed: &Failed) {
        self.summary.discarded += 1;
        self.counts.entry(labels::run_of(checkpoint)).or_default().discarded += 1;
        self.record(CheckpointLine::discarded(checkpoint, reason, failed));
        self.run.output.note(&format!("discarded an attempt: {reason}; {}", failed.text()));
        if failed.times >= ATTEMPTS_MAX {
            let what = format!("is not kept, again and again: {reason}");
            self.trouble(Subject::Failures, &checkpoint.path, "changed", &what);
        }
        self.flush();
    }

    /// A problem, told once.
    fn trouble(&mut self, subject: Subject, path: &Path, code: &'static str, what: &str) {
        if self.is_news(subject, path, what) {
            self.problem(path, code, what);
        }
    }

    fn problem(&mut self, path: &Path, code: &'static str, what: &str) {
        self.summary.problems += 1;
        self.run.output.problem(&Problem::path(path, code, what));
    }

    fn is_news(&mut self, subject: Subject, path: &Path, what: &str) -> bool {
        self.told.insert((subject, path.to_path_buf()), what.to_owned()).as_deref() != Some(what)
    }

    fn record(&self, line: CheckpointLine) {
        let _ = self.run.output.record("checkpoint", line);
    }

    fn flush(&self) {
        let _ = self.run.output.flush();
    }

    /// Says how the runs stand, and writes the metrics.
    fn tell_risk(&mut self, look: &Look, is_new: bool) {
        // Why: before the log was read once, all would look as if nothing were durable.
        let status = match self.keeper.knows_log() {
            true => runs(&self.keeper, look, self.arguments.gpus.map(f64::from)),
            false => Vec::new(),
        };
        for run in &status {
            let _ = self.run.output.record("rpo", run);
        }
        let is_due = self.told_rpo.is_none_or(|told| told.elapsed() >= RPO_EVERY);
        if is_new || is_due {
            self.told_rpo = Some(monotonic());
            for run in &status {
                let _ = self.run.output.report(run.line());
            }
        }
        if let Some(path) = &self.arguments.metrics {
            let text = metrics::render(&status, &self.counts, seconds(Timestamp::now()), self.store_trouble);
            match metrics::write(path, &text) {
                Ok(()) => drop(self.told.remove(&(Subject::Metrics, path.clone()))),
                Err(error) => self.trouble(Subject::Metrics, path, "unwritable", &error.to_string()),
            }
        }
        self.summary.incomplete = status.iter().map(|run| run.incomplete).sum();
        self.summary.runs = status;
    }

    fn conclude(self, look: &Look) -> anyhow::Result<Outcome> {
        let is_left = |checkpoint: &Checkpoint| matches!(checkpoint.state, State::Incomplete(_) | State::Writing(_));
        let is_bad = self.summary.problems > 0 || look.checkpoints.iter().any(is_left);
        // A watch that was told to end has ended well, whatever it met; with --once the code tells.
        let exit = if self.arguments.once && is_bad { Exit::Problems } else { Exit::Done };
        Outcome::with(exit, self.summary)
    }
}

/// Where an event is worth a look: above checkpoints, and in what is being written.
fn directories(look: &Look) -> BTreeSet<PathBuf> {
    let moving = look.checkpoints.iter().filter(|it| matches!(it.state, State::Settling | State::Writing(_)));
    look.directories.iter().cloned().chain(moving.flat_map(Checkpoint::directories)).collect()
}

/// Whether trouble may be over by the next scan.
fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Store(_) | Error::Refused(_) | Error::Damaged(_) | Error::File { .. } | Error::Changed(_))
}
