//! `seawall backup --checkpoints`: every complete checkpoint below some directories that is not kept yet, oldest first, one
//! snapshot each.
//!
//! Waits for what is being written as long as something moves; what stays incomplete is listed with its reason, and is
//! taken only by force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall_engine::clock::monotonic;
use seawall_engine::error::{Error, Result};
use seawall_engine::monitor::Problem;
use seawall_engine::repo::Repository;
use seawall_engine::stages::checkpoint::{Checkpoint, Look, Pace, Scanner, State};
use serde::Serialize;

use super::Arguments;
use crate::checkpoints::{CheckpointLine, Durable, Keeper, PATIENCE, Taken, durable_line, passed_over, title};
use crate::commands::sources::absolute;
use crate::failure::Exit;
use crate::quantities::{bytes, counted, parse_pause};
use crate::run::{Outcome, Run};

/// Nothing may change for so long before a checkpoint counts as complete, unless the user says otherwise.
pub const SETTLE: Duration = Duration::from_secs(1);
/// Between two looks at something that is being written.
const PAUSE: Duration = Duration::from_millis(500);
/// The wish to stop is looked at so often.
const SLICE: Duration = Duration::from_millis(100);
/// A checkpoint that changes under the reader is begun so often in all.
const DISCARDS_MAX: u64 = 6;

/// How training checkpoints are taken.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointArguments {
    /// The paths hold training checkpoints (torch DCP, Megatron, DeepSpeed, Orbax, Hugging Face, plain files): take each
    /// complete one that is not kept yet, oldest first, as a snapshot of its own
    #[arg(long, requires = "paths", conflicts_with_all = [
        "stdin", "command", "parent", "force_read", "one_file_system", "exclude", "iexclude", "exclude_file",
        "exclude_if_present", "exclude_caches", "exclude_larger_than",
    ])]
    pub checkpoints: bool,

    /// Take incomplete ones too; a label says so, and why
    #[arg(long, requires = "checkpoints")]
    pub force_incomplete: bool,

    /// Wait at most so long for one that is being written [as long as something changed in the last 30 s]
    #[arg(long, value_name = "DURATION", value_parser = parse_pause, requires = "checkpoints")]
    pub wait: Option<Duration>,

    /// Nothing in a checkpoint may change for so long before it counts as complete [1s]
    #[arg(long, value_name = "DURATION", value_parser = parse_pause, requires = "checkpoints")]
    pub settle: Option<Duration>,
}

/// What one run did.
#[derive(Debug, Default, Serialize)]
struct Summary {
    durable: u64,
    known: u64,
    incomplete: u64,
    discarded: u64,
    bytes: u64,
    bytes_stored: u64,
    snapshots: Vec<String>,
    /// Problems of all kinds, those of single files included.
    problems: u64,
}

/// A run over all checkpoints.
struct Round<'r> {
    run: &'r Run,
    arguments: &'r Arguments,
    keeper: Keeper<'r>,
    location: &'r Path,
    summary: Summary,
    /// Attempts that were discarded and not made good, with the reason.
    discarded: BTreeMap<PathBuf, String>,
}

/// Takes what is complete.
///
/// # Errors
/// When the repository can't be read or written, or the user interrupts.
pub fn run(run: &Run, arguments: &Arguments, location: &Path, repository: &Repository) -> anyhow::Result<Outcome> {
    let options = &arguments.checkpoints;
    let pace = Pace { settle: options.settle.unwrap_or(SETTLE), patience: options.wait.unwrap_or(PATIENCE) };
    let scanner = Scanner::new(&absolute(&arguments.paths)?, pace)?;
    let bases = arguments.bases(run, repository)?;
    let keeper = Keeper::new(run, repository, &arguments.labels, scanner).with(bases, arguments.effort.chosen());
    let (summary, discarded) = (Summary::default(), BTreeMap::new());
    let mut round = Round { run, arguments, keeper, location, summary, discarded };
    let last = round.until_done(options.wait.map(|wait| (monotonic(), wait)), pace.settle)?;
    round.conclude(&last)
}

impl Round<'_> {
    /// Looks and takes until nothing is left to wait for; gives the last look.
    fn until_done(&mut self, limit: Option<(Instant, Duration)>, settle: Duration) -> anyhow::Result<Look> {
        loop {
            let look = self.keeper.look()?;
            let mut again = false;
            for checkpoint in look.checkpoints.iter().filter(|checkpoint| checkpoint.state == State::Complete) {
                again |= self.complete(checkpoint)?;
            }
            let may_wait = limit.is_none_or(|(since, wait)| since.elapsed() < wait + settle);
            let waits = |checkpoint: &Checkpoint| match checkpoint.state {
                // A second look is always worth it, within reason.
                State::Settling => limit.is_none_or(|(since, wait)| since.elapsed() < wait + settle * 20),
                State::Writing(_) => may_wait,
                _ => false,
            };
            if !again && !look.checkpoints.iter().any(waits) {
                return Ok(look);
            }
            self.pause(settle.clamp(SLICE, PAUSE))?;
        }
    }

    /// Takes a complete checkpoint; true if it has to be looked at again.
    fn complete(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<bool> {
        if self.arguments.dry_run || !self.keeper.may_take(checkpoint) || self.summary.discarded >= DISCARDS_MAX {
            return Ok(false);
        }
        self.keeper.refuse_overlap(self.location, checkpoint)?;
        match self.keeper.take(checkpoint, None)? {
            Taken::Durable(durable) => self.durable(checkpoint, &durable)?,
            Taken::Discarded { reason, failed } => {
                self.summary.discarded += 1;
                self.run.output.record("checkpoint", CheckpointLine::discarded(checkpoint, &reason, &failed))?;
                self.run.output.note(&format!("discarded an attempt: {reason}; {}", failed.text()));
                self.discarded.insert(checkpoint.path.clone(), reason);
                return Ok(failed.pause.is_some() && self.summary.discarded < DISCARDS_MAX);
            }
        }
        Ok(false)
    }

    fn durable(&mut self, checkpoint: &Checkpoint, durable: &Durable) -> std::io::Result<()> {
        let report = &durable.report;
        self.discarded.remove(&checkpoint.path);
        self.summary.durable += 1;
        self.summary.bytes += report.bytes;
        self.summary.bytes_stored += report.bytes_stored;
        self.summary.problems += report.problems;
        self.summary.snapshots.extend(report.snapshot.as_ref().map(|snapshot| snapshot.id.to_string()));
        let output = &self.run.output;
        output.record("checkpoint", CheckpointLine::durable(checkpoint, durable))?;
        output.report(durable_line(checkpoint, durable))?;
        output.flush()
    }

    fn problem(&mut self, path: &Path, code: &'static str, what: &str) {
        self.summary.problems += 1;
        self.run.output.problem(&Problem::path(path, code, what));
    }

    fn pause(&self, pause: Duration) -> Result<()> {
        let begin = monotonic();
        while begin.elapsed() < pause {
            if self.run.stop.requested() {
                return Err(Error::Interrupted);
            }
            std::thread::sleep(SLICE.min(pause));
        }
        Ok(())
    }

    /// Lists what is left, takes what is forced, and says what was done.
    fn conclude(mut self, last: &Look) -> anyhow::Result<Outcome> {
        for (path, what) in &last.trouble {
            self.problem(path, "unreadable", what);
        }
        for link in &last.links {
            passed_over(&self.run.output, link);
        }
        for (path, reason) in std::mem::take(&mut self.discarded) {
            self.problem(&path, "changed", &format!("is not kept: {reason}"));
        }
        for checkpoint in &last.checkpoints {
            self.left(checkpoint)?;
        }
        if last.checkpoints.is_empty() && last.trouble.is_empty() {
            for root in self.keeper.scanner().roots().to_vec() {
                self.problem(&root, "skipped", "no checkpoint was found here");
            }
        }
        let Summary { durable, known, incomplete, .. } = self.summary;
        let head = if self.arguments.dry_run { "Dry run: nothing was stored. " } else { "" };
        self.run.output.report(format!(
            "{head}{} made durable ({}, {} stored), {known} known, {incomplete} incomplete",
            counted(durable, "checkpoint", "checkpoints"),
            bytes(self.summary.bytes),
            bytes(self.summary.bytes_stored)
        ))?;
        let exit = if self.summary.problems > 0 { Exit::Problems } else { Exit::Done };
        Outcome::with(exit, self.summary)
    }

    fn left(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let output = &self.run.output;
        let (state, reason) = match &checkpoint.state {
            State::Known => {
                self.summary.known += 1;
                return Ok(output.record("checkpoint", CheckpointLine::new(checkpoint, "known", None))?);
            }
            State::Complete if self.arguments.dry_run => {
                output.record("checkpoint", CheckpointLine::new(checkpoint, "would-be-kept", None))?;
                return Ok(output.report(format!("Would be kept: {}", title(checkpoint)))?);
            }
            // Taken in this look, or given up and told.
            State::Complete => return Ok(()),
            State::Settling => ("writing", "it did not come to rest"),
            State::Writing(reason) => ("writing", reason.as_str()),
            State::Incomplete(reason) => ("incomplete", reason.as_str()),
        };
        self.summary.incomplete += 1;
        output.record("checkpoint", CheckpointLine::new(checkpoint, state, Some(reason)))?;
        let shown = if state == "writing" { "is still being written" } else { "is incomplete" };
        let reason = reason.to_owned();
        self.problem(&checkpoint.path, "incomplete", &format!("{shown}: {reason}"));
        let is_forced = self.arguments.checkpoints.force_incomplete && !self.arguments.dry_run;
        if is_forced && !self.keeper.has_incomplete(checkpoint) {
            self.keeper.refuse_overlap(self.location, checkpoint)?;
            match self.keeper.take(checkpoint, Some(&reason))? {
                Taken::Durable(durable) => self.durable(checkpoint, &durable)?,
                Taken::Discarded { reason, .. } => self.problem(&checkpoint.path, "changed", &reason),
            }
        }
        Ok(())
    }
}
