//! Checkpoints of training runs: found, and each complete one that is not in the repository yet made a snapshot of its own.
//!
//! `backup --checkpoints` does it once, `watch` again and again; both through a [`Keeper`], which knows what is in the
//! repository by labels. A checkpoint that changes or goes while it is read is discarded: nothing is committed, what was
//! stored serves the next attempt.

pub mod attempts;
pub mod hints;
pub mod labels;
pub mod metrics;
pub mod status;

use std::time::Duration;

use seawall_engine::backup::{BackupOptions, BackupReport, Source, backup};
use seawall_engine::clock::{Timestamp, monotonic};
use seawall_engine::codec::Effort;
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::repo::Repository;
use seawall_engine::stages::checkpoint::{Checkpoint, Look, Scanner};
use seawall_engine::stages::exclude::Excludes;
use seawall_engine::stages::walk::WalkOptions;
use serde::Serialize;

use crate::commands::backup::options;
use crate::commands::overlap;
use crate::commands::sources::LabelArguments;
use crate::output::{JsonPath, Output, printable};
use crate::quantities::{bytes, duration};
use crate::run::Run;
use crate::snapshot_name::short;
use attempts::{Attempts, Failed};
use labels::{Kept, Whole};

/// Without progress for so long, a checkpoint is taken not to be written any more.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Finds checkpoints and keeps them.
pub struct Keeper<'r> {
    run: &'r Run,
    repository: &'r Repository,
    labels: &'r LabelArguments,
    bases: Vec<(ChunkId, TreeKey)>,
    effort: Option<Effort>,
    host: String,
    scanner: Scanner,
    kept: Vec<Kept>,
    /// Which of them were looked through for damage.
    whole: Whole,
    /// The log's length when `kept` was made.
    log_entries: Option<u64>,
    attempts: Attempts,
}

/// What became of one checkpoint.
pub enum Taken {
    /// It is in the repository.
    Durable(Box<Durable>),
    /// It changed, or went, while it was read, or could not be read: nothing was committed.
    Discarded {
        /// Which file, and what became of it.
        reason: String,
        /// How often this failed in a row.
        failed: Failed,
    },
}

/// A checkpoint that was made durable now.
pub struct Durable {
    /// What the backup did.
    pub report: BackupReport,
    /// Seconds from the completion marker to the commit.
    pub seconds: f64,
}

/// A checkpoint in JSON. Times are seconds, sizes bytes.
#[derive(Serialize)]
pub struct CheckpointLine {
    #[serde(flatten)]
    path: JsonPath,
    run: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    layout: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    world_size: Option<u64>,
    /// `durable`, `known`, `writing`, `incomplete`, `discarded`, `delayed`, `would-be-kept`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_stored: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable_seconds: Option<f64>,
    /// How often it failed in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<u32>,
    /// Until it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_seconds: Option<f64>,
}

impl CheckpointLine {
    /// A checkpoint in this state.
    #[must_use]
    pub fn new(checkpoint: &Checkpoint, state: &'static str, reason: Option<&str>) -> Self {
        Self {
            path: JsonPath::from(checkpoint.path.as_path()),
            run: labels::run_of(checkpoint),
            step: checkpoint.step,
            layout: checkpoint.layout.name(),
            world_size: checkpoint.world_size,
            state,
            reason: reason.map(str::to_owned),
            snapshot: None,
            bytes: None,
            bytes_stored: None,
            seconds: None,
            durable_seconds: None,
            failures: None,
            next_seconds: None,
        }
    }

    /// A checkpoint that could not be kept.
    #[must_use]
    pub fn discarded(checkpoint: &Checkpoint, reason: &str, failed: &Failed) -> Self {
        Self {
            failures: Some(failed.times),
            next_seconds: failed.pause.map(|pause| pause.as_secs_f64()),
            ..Self::new(checkpoint, "discarded", Some(reason))
        }
    }

    /// A checkpoint that waits because of the store.
    #[must_use]
    pub fn delayed(checkpoint: &Checkpoint, reason: &str, failed: &Failed) -> Self {
        Self { state: "delayed", ..Self::discarded(checkpoint, reason, failed) }
    }

    /// A checkpoint that is durable now.
    #[must_use]
    pub fn durable(checkpoint: &Checkpoint, durable: &Durable) -> Self {
        let report = &durable.report;
        Self {
            snapshot: report.snapshot.as_ref().map(|snapshot| snapshot.id.to_string()),
            bytes: Some(report.bytes),
            bytes_stored: Some(report.bytes_stored),
            seconds: Some(report.duration.as_secs_f64()),
            durable_seconds: Some(durable.seconds),
            ..Self::new(checkpoint, "durable", None)
        }
    }
}

/// What a checkpoint is called in a line for people.
#[must_use]
pub fn title(checkpoint: &Checkpoint) -> String {
    let path = printable(std::os::unix::ffi::OsStrExt::as_bytes(checkpoint.path.as_os_str()));
    match checkpoint.step {
        Some(step) => format!("step {step} ({}) {path}", checkpoint.layout.name()),
        None => format!("{} {path}", checkpoint.layout.name()),
    }
}

impl<'r> Keeper<'r> {
    /// A keeper of what the scanner finds.
    pub fn new(run: &'r Run, repository: &'r Repository, labels: &'r LabelArguments, scanner: Scanner) -> Self {
        let host = labels.host.clone().unwrap_or_else(|| run.environment.host.clone());
        let (kept, whole, log_entries, attempts) = (Vec::new(), Whole::default(), None, Attempts::few());
        let (bases, effort) = (Vec::new(), Some(Effort::Balanced));
        Self { run, repository, labels, bases, effort, host, scanner, kept, whole, log_entries, attempts }
    }

    /// With files to encode against, and the time to spend on each chunk.
    #[must_use]
    pub fn with(self, bases: Vec<(ChunkId, TreeKey)>, effort: Option<Effort>) -> Self {
        Self { bases, effort, ..self }
    }

    /// What fails is tried again after growing pauses, for ever: for one who looks so often.
    #[must_use]
    pub fn persistent(self, interval: Duration) -> Self {
        Self { attempts: Attempts::for_ever(interval), ..self }
    }

    /// Looks at the log and at the directories.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn look(&mut self) -> Result<Look> {
        self.look_at_log()?;
        Ok(self.look_at_disk())
    }

    /// Takes in what is in the repository now.
    ///
    /// # Errors
    /// When the log can't be read; then what was known before is known still.
    pub fn look_at_log(&mut self) -> Result<()> {
        self.repository.refresh()?;
        self.reread()
    }

    /// Whether it was ever seen what is in the repository.
    #[must_use]
    pub fn knows_log(&self) -> bool {
        self.log_entries.is_some()
    }

    /// Looks at the directories, with what is known of the repository.
    pub fn look_at_disk(&mut self) -> Look {
        let counts = |kept: &&Kept| kept.is_complete && !kept.is_damaged;
        let kept = &self.kept;
        let is_known = |checkpoint: &Checkpoint| kept.iter().filter(counts).any(|kept| kept.is_of(checkpoint));
        // Why the damaged and the forgotten too: half of what lies there is no better for that.
        let gone = |checkpoint: &Checkpoint| kept.iter().find_map(|kept| kept.gone(checkpoint));
        let look = self.scanner.look_for_gone(monotonic(), Timestamp::now(), &is_known, &gone);
        self.attempts.keep_those_of(&look.checkpoints);
        look
    }

    /// Takes in what the log says now, as far as it was read.
    fn reread(&mut self) -> Result<()> {
        let log_entries = self.repository.log_entries();
        if self.log_entries != Some(log_entries) {
            self.kept = labels::kept(self.repository, &self.host, &mut self.whole)?;
            self.log_entries = Some(log_entries);
        }
        Ok(())
    }

    /// What is in the repository of runs below the scanner's roots, forgotten ones not counted.
    pub fn kept(&self) -> impl DoubleEndedIterator<Item = &Kept> {
        self.kept.iter().filter(|kept| kept.is_live)
    }

    /// The directories that are looked through.
    #[must_use]
    pub fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    /// True if this very incomplete checkpoint was kept before.
    #[must_use]
    pub fn has_incomplete(&self, checkpoint: &Checkpoint) -> bool {
        self.kept.iter().any(|kept| !kept.is_damaged && kept.is_of(checkpoint))
    }

    /// False for what failed as it is, while it is too early to try again, or for good.
    #[must_use]
    pub fn may_take(&self, checkpoint: &Checkpoint) -> bool {
        self.attempts.may_try(checkpoint, monotonic())
    }

    /// Notes that the store failed, so that this one waits a while.
    pub fn delay(&mut self, checkpoint: &Checkpoint) -> Failed {
        self.attempts.store_failed(checkpoint, monotonic())
    }

    /// Whether something waits because the store failed.
    #[must_use]
    pub fn waits_for_store(&self) -> bool {
        self.attempts.wait_for_store()
    }

    /// How long until something that failed is tried again; none where nothing waits.
    #[must_use]
    pub fn next_attempt(&self) -> Option<Duration> {
        self.attempts.next(monotonic())
    }

    /// Makes a snapshot of one checkpoint. `lack` is what an incomplete one lacks, which the user wants nevertheless.
    ///
    /// # Errors
    /// When storing fails, or the user interrupts.
    pub fn take(&mut self, checkpoint: &Checkpoint, lack: Option<&str>) -> Result<Taken> {
        if let Some(damaged) = self.kept().find(|kept| kept.is_damaged && kept.is_of(checkpoint)) {
            let snapshot = short(&damaged.snapshot);
            let what =
                format!("damage was found since snapshot {snapshot} was made; taken again: {}", title(checkpoint));
            self.run.output.note(&what);
        }
        // Why before: what is gone or changing already need not be read.
        let result = checkpoint.still_the_same().and_then(|()| self.back_up(checkpoint, lack));
        let reason = match result {
            Ok(report) => {
                let now = status::seconds(Timestamp::now());
                let seconds = (now - status::seconds(checkpoint.finished)).max(0.0);
                self.attempts.succeeded(checkpoint);
                // The next one is encoded against this. Where the store fails now, the next look tells.
                let _ = self.reread();
                return Ok(Taken::Durable(Box::new(Durable { report, seconds })));
            }
            // Where even the walk does not find it any more.
            Err(error @ (Error::Changed(_) | Error::File { .. })) => error.to_string(),
            Err(error) => return Err(error),
        };
        Ok(Taken::Discarded { reason, failed: self.attempts.failed(checkpoint, monotonic()) })
    }

    fn back_up(&self, checkpoint: &Checkpoint, lack: Option<&str>) -> Result<BackupReport> {
        let walk = WalkOptions { sources: vec![checkpoint.path.clone()], ..WalkOptions::default() };
        let own = checkpoint.clone();
        let plain = options(self.run, Source::Paths(walk), self.labels);
        let mut labels = labels::of(checkpoint, lack);
        labels.extend(plain.labels);
        let options = BackupOptions {
            labels,
            parent: self.parent(checkpoint),
            bases: self.bases.clone(),
            effort: self.effort,
            // Why not of an incomplete one: what the user forces is kept as far as it can be read.
            steady: lack.is_none().then(|| Box::new(move || own.still_the_same()) as _),
            ..plain
        };
        let display = self.run.display();
        let result = backup(self.repository, options, &display);
        match result {
            Err(_) if self.run.stop.requested() => Err(Error::Interrupted),
            other => other,
        }
    }

    /// The snapshot whose chunks this one's may be encoded against: of this very step, as it was before, else of the
    /// newest step before it, else of any of the run.
    fn parent(&self, checkpoint: &Checkpoint) -> Option<SnapshotId> {
        let run = labels::run_of(checkpoint);
        let of_run = || self.kept().filter(|kept| kept.run == run);
        let same = of_run().rfind(|kept| kept.path == checkpoint.path);
        let before = of_run().filter(|kept| kept.step < checkpoint.step).max_by_key(|kept| kept.step);
        let chosen = same.or(before).or_else(|| of_run().next_back());
        chosen.map(|kept| kept.snapshot)
    }

    /// Refuses checkpoints in the repository, and a repository in one.
    ///
    /// # Errors
    /// [`Error::Usage`] naming both.
    pub fn refuse_overlap(&self, location: &std::path::Path, checkpoint: &Checkpoint) -> Result<()> {
        overlap::refuse(location, std::slice::from_ref(&checkpoint.path), &Excludes::default(), false)
    }
}

/// Says of a link that it was not followed. With `--json` the note has the text.
pub fn passed_over(output: &Output, link: &std::path::Path) {
    let shown = printable(std::os::unix::ffi::OsStrExt::as_bytes(link.as_os_str()));
    output.note(&format!(
        "{shown} is a link and was not followed: if checkpoints lie where it leads, name that directory too"
    ));
}

/// The line that says that a checkpoint is durable.
#[must_use]
pub fn durable_line(checkpoint: &Checkpoint, durable: &Durable) -> String {
    let report = &durable.report;
    let snapshot = report.snapshot.as_ref().map(|snapshot| short(&snapshot.id)).unwrap_or_default();
    format!(
        "Durable {snapshot}: {}; {}, {} stored, {} after it was finished",
        title(checkpoint),
        bytes(report.bytes),
        bytes(report.bytes_stored),
        duration(Duration::from_secs_f64(durable.seconds)),
    )
}
