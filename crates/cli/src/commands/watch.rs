//! `seawall watch`: finished checkpoints become durable as they appear, until somebody says stop.
//!
//! A scan of the directories is the truth; inotify only brings the next scan forward. Trouble with the store does not end
//! the watch: it is told once and the next scan tries again. What can't get better by waiting does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
}

struct Watch<'r> {
    run: &'r Run,
    arguments: &'r Arguments,
    location: &'r Path,
    keeper: Keeper<'r>,
    summary: Summary,
    counts: BTreeMap<String, Counts>,
    /// What was said of each path last, so that it is said once.
    told: HashMap<PathBuf, String>,
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
            told_rpo: None,
            look_took: Duration::ZERO,
        }
    }

    fn until_stopped(mut self) -> anyhow::Result<Outcome> {
        let mut hints = Hints::new(!self.arguments.no_inotify && !self.arguments.once);
        while !self.run.stop.requested() {
            let scanned = self.scan()?;
            let Some((look, again)) = scanned else {
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
            let longest = self.keeper.next_attempt().map_or(longest, |next| next.max(SHORTEST).min(longest));
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

    /// One look, and everything complete taken; none after trouble that may pass. True if it must be looked at again soon.
    fn scan(&mut self) -> Result<Option<(Look, bool)>> {
        match self.look_and_take() {
            Ok(done) => Ok(Some(done)),
            Err(Error::Interrupted) => Ok(None),
            Err(error) if may_pass(&error) && !self.arguments.once => {
                self.trouble(self.location.to_path_buf(), "unreadable", &error.to_string());
                self.flush();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn look_and_take(&mut self) -> Result<(Look, bool)> {
        let begin = monotonic();
        let look = self.keeper.look()?;
        self.look_took = begin.elapsed();
        for (path, what) in &look.trouble {
            self.trouble(path.clone(), "unreadable", what);
        }
        for link in &look.links {
            if self.is_news(link, "is a link") {
                passed_over(&self.run.output, link);
            }
        }
        let mut again = false;
        for checkpoint in &look.checkpoints {
            again |= self.checkpoint(checkpoint)?;
        }
        let paths: std::collections::HashSet<&PathBuf> =
            look.checkpoints.iter().map(|checkpoint| &checkpoint.path).collect();
        let is_there = |path: &PathBuf| {
            paths.contains(path) || look.links.contains(path) || look.trouble.iter().any(|(other, _)| other == path)
        };
        self.told.retain(|path, _| is_there(path));
        self.tell_risk(&look, again);
        let scan = Scan { checkpoints: look.checkpoints.len(), seconds: self.look_took.as_secs_f64() };
        let _ = self.run.output.record("scan", scan);
        self.flush();
        Ok((look, again))
    }

    /// Takes it if it is complete; true if that changed what is known.
    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        match &checkpoint.state {
            State::Complete if self.keeper.may_take(checkpoint) => {
                self.keeper.refuse_overlap(self.location, checkpoint)?;
                match self.keeper.take(checkpoint, None)? {
                    Taken::Durable(durable) => self.durable(checkpoint, &durable),
                    Taken::Discarded { reason, failed } => self.discarded(checkpoint, &reason, &failed),
                }
                Ok(true)
            }
            State::Incomplete(reason) => {
                if self.is_news(&checkpoint.path, reason) {
                    self.record(CheckpointLine::new(checkpoint, "incomplete", Some(reason)));
                    let what = format!("is incomplete: {reason}");
                    self.run.output.problem(&Problem::path(&checkpoint.path, "incomplete", what));
                }
                Ok(false)
            }
            State::Writing(reason) => {
                if self.is_news(&checkpoint.path, reason) {
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
        self.told.remove(&checkpoint.path);
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
            self.trouble(checkpoint.path.clone(), "changed", &format!("is not kept, again and again: {reason}"));
        }
        self.flush();
    }

    /// A problem, told once.
    fn trouble(&mut self, path: PathBuf, code: &'static str, what: &str) {
        if self.is_news(&path, what) {
            self.summary.problems += 1;
            self.run.output.problem(&Problem::path(&path, code, what));
        }
    }

    fn is_news(&mut self, path: &Path, what: &str) -> bool {
        self.told.insert(path.to_path_buf(), what.to_owned()).as_deref() != Some(what)
    }

    fn record(&self, line: CheckpointLine) {
        let _ = self.run.output.record("checkpoint", line);
    }

    fn flush(&self) {
        let _ = self.run.output.flush();
    }

    /// Says how the runs stand, and writes the metrics.
    fn tell_risk(&mut self, look: &Look, is_new: bool) {
        let status = runs(&self.keeper, look, self.arguments.gpus.map(f64::from));
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
            let text = metrics::render(&status, &self.counts, seconds(Timestamp::now()));
            if let Err(error) = metrics::write(path, &text) {
                self.trouble(path.clone(), "unwritable", &error.to_string());
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
