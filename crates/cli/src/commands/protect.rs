//! `seawall protect`: the main job. Store, read back, restore, compare, report.
//!
//!     open or make the repository -> back up -> verify, reading data -> restore into scratch -> compare -> report
//!
//! The first run (and `--full`) proves everything. Later runs prove what changed and a random sample of the rest, and
//! the report says exactly what was read and restored. "Protected" and exit code 0 mean: proven, without any problem.
//! The scratch folder goes away however the run ends, short of a kill.

pub mod opening;
mod proof;
mod report;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use seawall_engine::backup::{BackupOptions, BackupReport, Source, backup};
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, RestoreReport, restore};
use seawall_engine::stages::walk::WalkOptions;
use seawall_engine::verify::{CompareOptions, CompareReport, Read, VerifyReport, compare, verify};

use super::above::SourcesOnly;
use super::backup::{BackupSummary, options as backup_options};
use super::overlap::{self, OwnPlace};
use super::sources::{LabelArguments, SelectionArguments, absolute};
use super::verify::{VerifySummary, options as verify_options, show_damage};
use crate::failure::Exit;
use crate::parity::ParityArguments;
use crate::progress::Display;
use crate::quantities;
use crate::run::{Outcome, Run};
use crate::scratch::{self, Scratch};
use crate::snapshot_name::short;
use opening::Opened;
use proof::{DataProof, Rehearsal};
use report::Protection;

/// What to do about damage.
const ADVICE: &str = "  run protect again: what is lost and the sources still have is then stored again";

const EXAMPLES: &str = "\
Examples:
    seawall protect ~/projects
    seawall protect -r /mnt/backup/repo /srv/models /etc --exclude '*.tmp'
    seawall protect ~/projects --full               prove everything again
    seawall protect / -x -r /mnt/backup/repo        the whole root file system, as root";

/// Protect paths, and prove that they come back
///
/// Makes a repository the first time (under ~/.local/share/seawall, or at -r), with a random key file and a recovery
/// kit under ~/.config/seawall. Then backs up, reads the stored bytes back, restores into a scratch folder, compares
/// content and metadata with what was read, and reports the recovery point, the measured recovery time, sizes and
/// problems.
///
/// The first run proves everything. Later runs are incremental: they read back what they stored and a sample of the
/// rest, restore what changed and a sample, and say so; `--full` proves everything again.
///
/// With a member's key, which reads nothing back, the backup is stored and its structure checked; that proves no restore,
/// and is said so.
///
/// The exit code is 0 only if everything that was tried is proven, 3 if there were problems, 13 if stored data is
/// damaged. Store the recovery kit away from this machine: with it and the repository alone everything can be
/// recovered, and without a key nobody can.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Files and directories
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// Read back and restore everything, not only what changed and a sample
    #[arg(long)]
    pub full: bool,

    /// Restore into a folder in this directory [next to the repository]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,

    /// Write the recovery kit to this new file [next to the key, when the repository is made]
    #[arg(long, value_name = "FILE")]
    pub kit: Option<PathBuf>,

    /// Which files are taken.
    #[command(flatten)]
    pub selection: SelectionArguments,

    /// How the snapshot is labelled.
    #[command(flatten)]
    pub labels: LabelArguments,

    /// How it is stored.
    #[command(flatten)]
    pub storage: ParityArguments,

    /// Read every source file, whatever its times say
    #[arg(long)]
    pub force_read: bool,
}

/// What the three proving steps found.
struct Proofs {
    data: DataProof,
    verified: VerifyReport,
    rehearsal: Rehearsal,
    restored: RestoreReport,
    compared: CompareReport,
}

impl Arguments {
    /// Protects.
    ///
    /// # Errors
    /// When the backup could not be committed or the proof could not be carried out.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let sources = absolute(&self.paths)?;
        let location = opening::location(run)?;
        let scratch_parent = self.scratch_parent(&location)?;
        let left_out = overlap::leave_out(run, &own_places(run, &location, &scratch_parent), &sources)?;
        let excludes = self.selection.excludes(left_out)?;
        overlap::refuse(&location, &sources, &excludes, self.selection.one_file_system)?;
        let mut opened = opening::open_or_make(run, &location, self.kit.as_deref())?;
        opened.repository = self.storage.apply(opened.repository);
        let display = run.display();
        let walk = WalkOptions { sources, excludes, one_file_system: self.selection.one_file_system };
        let options =
            BackupOptions { force_read: self.force_read, ..backup_options(run, Source::Paths(walk), &self.labels) };
        let stored = backup(&opened.repository, options, &display)?;
        let snapshot = stored.snapshot.clone().expect("a backup that is no dry run commits a snapshot");
        if !opened.repository.can_read_data() {
            return stored_only(run, &opened.repository, &snapshot, &stored, &display);
        }
        let proofs = self
            .prove(run, &opened, &snapshot, &stored, &scratch_parent, &display)
            .with_context(|| format!("snapshot {} is stored, but not proven", short(&snapshot.id)))?;
        let problems = display.problems();
        drop(display);
        Protection::new(run, &opened, &location, &snapshot, &stored, &proofs, problems)?.conclude(run, &proofs)
    }

    fn prove(
        &self,
        run: &Run,
        opened: &Opened,
        snapshot: &SnapshotRecord,
        stored: &BackupReport,
        scratch_parent: &Path,
        display: &Display,
    ) -> anyhow::Result<Proofs> {
        let repository = &opened.repository;
        let everything = self.full || opened.created;
        let data = DataProof::choose(repository, &stored.packs, everything)?;
        let verified = verify(repository, &verify_options(run, data.read.clone()), display)?;
        // Said before the restore, which may fail by the very damage that is listed here.
        display.above(|| {
            show_damage(run, &verified.damage)?;
            if verified.damage.is_empty() { Ok(()) } else { run.output.report(ADVICE) }
        })?;
        let rehearsal = Rehearsal::choose(repository, snapshot, everything)?;
        require_space(scratch_parent, &rehearsal)?;
        let scratch = Scratch::make(scratch_parent)?;
        // Why a folder inside: the restored root carries the source's own mode, and the data must stay private.
        let target = scratch.path().join("restored");
        let root = nix::unistd::geteuid().is_root();
        let monitor = SourcesOnly::new(display, snapshot, root);
        let restored = restore(repository, &snapshot.root, &self.restore_options(run, &rehearsal, &target), &monitor)?;
        monitor.conclude(
            "in the rehearsal, directories above the sources belonged to this user; a recovery as root sets their owners",
        );
        let chosen = |key: &TreeKey| rehearsal.includes(key);
        let options = CompareOptions {
            threads: run.settings.threads,
            budget_bytes: run.settings.budget_bytes,
            filter: rehearsal.is_partial().then_some(&chosen),
            owner: root,
        };
        let compared = compare(repository, &snapshot.root, &TreeKey::default(), &target, &options, display)?;
        scratch.remove()?;
        Ok(Proofs { data, verified, rehearsal, restored, compared })
    }

    fn restore_options(&self, run: &Run, rehearsal: &Rehearsal, target: &Path) -> RestoreOptions {
        RestoreOptions {
            target: target.to_owned(),
            include: rehearsal.include.clone(),
            budget_bytes: run.settings.budget_bytes,
            threads: run.settings.threads,
            // A recovery is over when the data is on the disk, so that is what is measured.
            sync: true,
            ..RestoreOptions::default()
        }
    }

    /// Where the scratch folder is made: a directory that exists, or will when the repository is made.
    fn scratch_parent(&self, location: &Path) -> Result<PathBuf> {
        match &self.scratch {
            Some(directory) if directory.is_dir() => std::path::absolute(directory)
                .map_err(|error| Error::file(directory, "cannot make this absolute", error)),
            Some(directory) => Err(Error::Usage(format!("--scratch {}: not a directory", directory.display()))),
            None => Ok(location.parent().unwrap_or(Path::new("/")).to_owned()),
        }
    }
}

/// What is left of the proof with a member's key, which reads nothing back: the structure.
fn stored_only(
    run: &Run,
    repository: &Repository,
    snapshot: &SnapshotRecord,
    stored: &BackupReport,
    display: &Display,
) -> anyhow::Result<Outcome> {
    let verified = verify(repository, &verify_options(run, Read::Nothing), display)?;
    display.above(|| show_damage(run, &verified.damage))?;
    run.output.report(format!("STORED, NOT PROVEN: snapshot {}", short(&snapshot.id)))?;
    run.output.warn(
        "a member's key reads nothing back, so only the log, the index and the presence of packs were checked; \
         run `seawall verify --read-data` and a restore with a reader's or an owner's key",
    );
    let problems = display.problems();
    let exit = if verified.damage.is_empty() { Exit::Problems } else { Exit::Damage };
    let summary = serde_json::json!({
        "protected": false,
        "snapshot": snapshot.id.to_string(),
        "backup": BackupSummary::new(stored, problems),
        "read_back": VerifySummary::from(&verified),
    });
    Outcome::with(exit, summary)
}

/// What no snapshot should hold although it may lie in a source. A repository that the user placed is not among it:
/// whether to leave that out is for the user to say.
fn own_places(run: &Run, location: &Path, scratch_parent: &Path) -> Vec<OwnPlace> {
    for left in scratch::left_behind(scratch_parent) {
        run.output.warn(&format!("an earlier run that was killed left {} behind; remove it", left.display()));
    }
    let chosen_here = run.settings.repository.is_none().then(|| OwnPlace::repository(location));
    let scratch = OwnPlace::scratch(scratch_parent);
    chosen_here.into_iter().chain([scratch]).chain(OwnPlace::cache(run)).collect()
}

/// A restore that runs into a full disk proves nothing and may harm others on that disk.
fn require_space(scratch_parent: &Path, rehearsal: &Rehearsal) -> Result<()> {
    let free = scratch::bytes_free(scratch_parent)?;
    // A twentieth more, for what the file system itself needs.
    let needed = rehearsal.bytes_needed.saturating_add(rehearsal.bytes_needed / 20);
    if free >= needed {
        return Ok(());
    }
    Err(Error::file(scratch_parent, "too little room for the restore", {
        let (needed, free) = (quantities::bytes(needed), quantities::bytes(free));
        std::io::Error::new(
            std::io::ErrorKind::StorageFull,
            format!("about {needed} are needed and {free} are free; name a roomier place with --scratch DIR"),
        )
    }))
}
