//! `seawall backup`: one snapshot of paths, of standard input, or of what a command prints; or one of each checkpoint.

pub mod checkpoints;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use seawall_engine::backup::{BackupOptions, BackupReport, ParentUse, Source, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::codec::Effort;
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::repo::Repository;
use seawall_engine::stages::walk::WalkOptions;
use serde::Serialize;

use super::overlap::{self, OwnPlace};
use super::sources::{LabelArguments, SelectionArguments, absolute};
use crate::failure::Exit;
use crate::parity::ParityArguments;
use crate::progress::Problems;
use crate::quantities::{bytes, count, counted, duration, rate, ratio};
use crate::run::{Outcome, Run};
use crate::snapshot_name::{SnapshotPath, short};
use crate::stream::{Producer, Stoppable};
use checkpoints::CheckpointArguments;

const EXAMPLES: &str = "\
Examples:
    seawall backup -r /backup/repo /srv/models /etc
    seawall backup /home --exclude '*.tmp' --exclude-caches --one-file-system
    seawall backup /archive --parity 2% --effort dense
    seawall backup /models/fine-tune --base 1a2b3c4d:/models/base
    pg_dump shop | seawall backup --stdin --stdin-name shop.sql
    seawall backup --command --stdin-name shop.sql -- pg_dump shop
    seawall backup --checkpoints /runs/llama --label loss=0.31";

/// Make a snapshot of files, of standard input, or of a command's output
///
/// Files that did not change since the last snapshot of the same host and paths are not read again; what is stored
/// already is not stored again. Only snapshots that this key or an owner's key made, neither removed since, are trusted so
/// far: of others nothing is taken over unread. Files that can't be read are listed and make the exit code 3; the rest is kept.
///
/// With `--checkpoints`, each complete checkpoint of a training run becomes a snapshot of its own, and what is torn or still
/// being written is told with the reason; `seawall watch` does that continuously.
///
/// With `--command`, a command that fails commits nothing; with a pipe, nobody can tell, so prefer `--command`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Files and directories
    #[arg(value_name = "PATH", conflicts_with_all = ["stdin", "command"], required_unless_present_any = ["stdin", "command"])]
    pub paths: Vec<PathBuf>,

    /// Back up standard input as one file
    #[arg(long, conflicts_with = "command", requires = "stdin_name")]
    pub stdin: bool,

    /// Back up what the command after -- prints as one file; commit only if it exits with 0
    #[arg(long, requires_all = ["stdin_name", "program"])]
    pub command: bool,

    /// Name of that file in the snapshot
    #[arg(long, value_name = "NAME")]
    pub stdin_name: Option<OsString>,

    /// The command and its arguments (no shell)
    #[arg(last = true, value_name = "COMMAND", requires = "command")]
    pub program: Vec<OsString>,

    /// Which files are taken.
    #[command(flatten)]
    pub selection: SelectionArguments,

    /// How the snapshot is labelled.
    #[command(flatten)]
    pub labels: LabelArguments,

    /// How it is stored.
    #[command(flatten)]
    pub storage: ParityArguments,

    /// Encode tensors against those of this stored file or directory, where no nearer version is found
    ///
    /// Older versions at the same path, and earlier checkpoints of a run (names that differ in digits only), are found
    /// without it. A fine-tune of a model that is in the repository under another name needs it.
    #[arg(long, value_name = "SNAPSHOT:PATH")]
    pub base: Vec<OsString>,

    /// Time to spend on each chunk: `auto` takes what the slower of processor and store allows
    #[arg(long, value_enum, default_value_t = EffortArgument::Balanced)]
    pub effort: EffortArgument,

    /// How checkpoints are taken.
    #[command(flatten)]
    pub checkpoints: CheckpointArguments,

    /// Read every file, whatever its times say
    #[arg(long)]
    pub force_read: bool,

    /// Only tell what would be read; store nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Compare with this snapshot instead of the last one of the same host and paths; if neither this key nor an owner's
    /// made it, every file is read, as with --force-read
    #[arg(long, value_name = "SNAPSHOT")]
    pub parent: Option<OsString>,
}

/// How much time each chunk gets.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum EffortArgument {
    /// As fast as fast disks and links need it
    Fast,
    /// A small size at a good speed
    Balanced,
    /// For data that is written once and kept for years
    Dense,
    /// Follows the slower of processor and store
    Auto,
}

impl EffortArgument {
    /// None for what follows the slower of processor and store.
    #[must_use]
    pub fn chosen(self) -> Option<Effort> {
        match self {
            Self::Fast => Some(Effort::Fast),
            Self::Balanced => Some(Effort::Balanced),
            Self::Dense => Some(Effort::Dense),
            Self::Auto => None,
        }
    }
}

impl Arguments {
    /// Makes the snapshot.
    ///
    /// # Errors
    /// When nothing could be committed.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let location = run.location()?;
        if self.checkpoints.checkpoints {
            let repository = self.storage.apply(run.open_to_write(&location)?);
            return checkpoints::run(run, self, &location, &repository);
        }
        let walk = self.walk(run, &location)?;
        let repository = self.storage.apply(run.open_to_write(&location)?);
        let parent = self.parent(run, &repository)?;
        // Why only now: a command is not started for a repository that does not open.
        let (source, producer) = match walk {
            Some(walk) => (Source::Paths(walk), None),
            None => self.stream(run)?,
        };
        let options = BackupOptions {
            force_read: self.force_read,
            dry_run: self.dry_run,
            parent,
            bases: self.bases(run, &repository)?,
            effort: self.effort.chosen(),
            ..options(run, source, &self.labels)
        };
        let display = run.display();
        let result = backup(&repository, options, &display);
        let problems = display.problems();
        drop(display);
        drop(producer);
        // A stream that was cut off by Ctrl-C fails with whatever its reader said.
        let report = match result {
            Err(_) if run.stop.requested() => return Err(Error::Interrupted.into()),
            other => other?,
        };
        show(run, &report, &problems)?;
        let exit = if report.problems > 0 { Exit::Problems } else { Exit::Done };
        Outcome::with(exit, BackupSummary::new(&report, problems))
    }

    fn parent(&self, run: &Run, repository: &Repository) -> Result<Option<SnapshotId>> {
        let Some(text) = &self.parent else { return Ok(None) };
        let snapshots = repository.snapshots();
        Ok(Some(SnapshotPath::parse(text, &run.zone)?.resolve(&snapshots)?.record.id))
    }

    fn bases(&self, run: &Run, repository: &Repository) -> Result<Vec<(ChunkId, TreeKey)>> {
        let snapshots = repository.snapshots();
        let base = |text: &OsString| {
            let named = SnapshotPath::parse(text, &run.zone)?;
            let snapshot = named.resolve(&snapshots)?;
            Ok((snapshot.record.root, named.path_in(snapshot)))
        };
        self.base.iter().map(base).collect()
    }

    /// What to walk; `None` for a stream.
    fn walk(&self, run: &Run, location: &Path) -> Result<Option<WalkOptions>> {
        if self.stdin || self.command {
            return Ok(None);
        }
        let sources = absolute(&self.paths)?;
        let own: Vec<OwnPlace> = OwnPlace::cache(run).into_iter().collect();
        let excludes = self.selection.excludes(overlap::leave_out(run, &own, &sources)?)?;
        let one_file_system = self.selection.one_file_system;
        overlap::refuse(location, &sources, &excludes, one_file_system)?;
        Ok(Some(WalkOptions { sources, excludes, one_file_system }))
    }

    fn stream(&self, run: &Run) -> Result<(Source, Option<Producer>)> {
        let name = self.stdin_name.clone().expect("the parser requires a name for streams").into_vec();
        if self.stdin {
            let reader = Box::new(Stoppable::new(std::io::stdin(), &run.stop));
            return Ok((Source::Stream { name, reader, finish: Box::new(|| Ok(())) }, None));
        }
        let (producer, reader) = Producer::start(&self.program, &run.stop)?;
        let finish = producer.ended_well();
        Ok((Source::Stream { name, reader: Box::new(reader), finish }, Some(producer)))
    }
}

/// Options that do not depend on the command, for one source.
#[must_use]
pub fn options(run: &Run, source: Source, labels: &LabelArguments) -> BackupOptions {
    BackupOptions {
        source,
        host: labels.host.clone().unwrap_or_else(|| run.environment.host.clone()),
        user: run.environment.user.clone(),
        tags: labels.tag.clone(),
        labels: labels.label.clone(),
        time: Timestamp::now(),
        program: concat!("seawall ", env!("CARGO_PKG_VERSION")).to_owned(),
        force_read: false,
        dry_run: false,
        parent: None,
        bases: Vec::new(),
        effort: Some(Effort::Balanced),
        steady: None,
        threads: run.settings.threads,
        budget_bytes: run.settings.budget_bytes,
    }
}

/// A backup in JSON. Sizes are bytes.
#[derive(Serialize)]
pub struct BackupSummary {
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    /// `none`, `taken-over`, `unreadable`, `other-member`, `removed-key`, `repaired`: but for `taken-over`, every file was
    /// read.
    parent_use: &'static str,
    files_new: u64,
    files_changed: u64,
    files_unchanged: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    bytes_read: u64,
    bytes_new: u64,
    bytes_stored: u64,
    chunks_new: u64,
    chunks_mended: u64,
    packs: usize,
    adopted: Vec<String>,
    seconds: f64,
    problems: Problems,
}

impl BackupSummary {
    /// The summary of a report and the problems that its run met.
    #[must_use]
    pub fn new(report: &BackupReport, problems: Problems) -> Self {
        let (parent, parent_use) = match report.parent {
            ParentUse::None => (None, "none"),
            ParentUse::TakenOver(id) => (Some(id), "taken-over"),
            ParentUse::Unreadable(id) => (Some(id), "unreadable"),
            ParentUse::OtherMember(id) => (Some(id), "other-member"),
            ParentUse::RemovedKey(id) => (Some(id), "removed-key"),
            ParentUse::Repaired(id) => (Some(id), "repaired"),
        };
        Self {
            parent: parent.map(|id| id.to_string()),
            parent_use,
            snapshot: report.snapshot.as_ref().map(|snapshot| snapshot.id.to_string()),
            time: report.snapshot.as_ref().map(|snapshot| crate::moments::rfc3339(snapshot.time)),
            files_new: report.files_new,
            files_changed: report.files_changed,
            files_unchanged: report.files_unchanged,
            directories: report.directories,
            others: report.others,
            bytes: report.bytes,
            bytes_read: report.bytes_read,
            bytes_new: report.bytes_new,
            bytes_stored: report.bytes_stored,
            chunks_new: report.chunks_new,
            chunks_mended: report.chunks_mended,
            packs: report.packs.len(),
            adopted: report.adopted.iter().map(ToString::to_string).collect(),
            seconds: report.duration.as_secs_f64(),
            problems,
        }
    }
}

fn show(run: &Run, report: &BackupReport, problems: &Problems) -> std::io::Result<()> {
    let files = report.files_new + report.files_changed + report.files_unchanged;
    let output = &run.output;
    let (head, read) = match &report.snapshot {
        Some(snapshot) => (format!("Snapshot {}", short(&snapshot.id)), "read"),
        None => ("Dry run: nothing was stored".to_owned(), "would be read"),
    };
    output.report(head)?;
    output.report(format!(
        "  {}: {} new, {} changed, {} unchanged; {}, {}",
        counted(files, "file", "files"),
        count(report.files_new),
        count(report.files_changed),
        count(report.files_unchanged),
        counted(report.directories, "directory", "directories"),
        counted(report.others, "other", "others")
    ))?;
    output.report(format!(
        "  {} in all; {} {read}, {} new, {} stored ({})",
        bytes(report.bytes),
        bytes(report.bytes_read),
        bytes(report.bytes_new),
        bytes(report.bytes_stored),
        ratio(report.bytes_new, report.bytes_stored)
    ))?;
    if let Some(why) = why_all_is_read(report.parent) {
        output.report(format!(
            "  parent: {why}: every file {}",
            if report.snapshot.is_some() { "was read" } else { read }
        ))?;
    }
    let seconds = report.duration.as_secs_f64();
    output.report(format!("  in {} ({})", duration(report.duration), rate(report.bytes_read, seconds)))?;
    if problems.count > 0 {
        output.report(format!("  {}, listed above", counted(problems.count, "problem", "problems")))?;
    }
    Ok(())
}

/// Why nothing was taken over although there is a snapshot to compare with.
fn why_all_is_read(parent: ParentUse) -> Option<String> {
    match parent {
        ParentUse::None | ParentUse::TakenOver(_) => None,
        ParentUse::Unreadable(id) => {
            Some(format!("{} is not on this machine, and this key can't read it back", short(&id)))
        }
        ParentUse::OtherMember(id) => {
            Some(format!("none of your own or an owner's; {} is another member's and only a base", short(&id)))
        }
        ParentUse::RemovedKey(id) => {
            Some(format!("none of your own or an owner's; the key that made {} was removed", short(&id)))
        }
        ParentUse::Repaired(id) => {
            Some(format!("none of your own or an owner's; {} is what a repair left of another", short(&id)))
        }
    }
}
