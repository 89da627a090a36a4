//! `seawall restore`: a snapshot, or a part of it, back into a file system; with `--tensor` single tensors
//! (`restore/single.rs`).

mod single;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use seawall_engine::backup::{EXCLUDED_PATHS, OTHER_FILE_SYSTEMS};
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::monitor::{Monitor, Problem};
use seawall_engine::repair::LOST_PATHS;
use seawall_engine::repo::{Repository, Snapshot};
use seawall_engine::restore::{Act, Guarded, Overwrite, OwnerBy, RestoreOptions, RestoreReport, restore};
use serde::Serialize;

use super::above::SourcesOnly;
use super::protect::opening::kit_beside;
use super::sources::from_here;
use crate::failure::Exit;
use crate::keys::KeySource;
use crate::output::{JsonPath, printable};
use crate::progress::Problems;
use crate::quantities::{bytes, count, counted, duration, rate};
use crate::run::{Outcome, Run};
use crate::snapshot_name::{SnapshotPath, short};
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
    seawall restore latest --target /recovered
    seawall restore latest:web1:/srv:/srv/models --target /srv/models --include '*.safetensors'
    seawall restore 1a2b3c4d:/etc --in-place --dry-run
    seawall restore latest:/srv/www --in-place --delete
    seawall restore latest:/runs/step-4000 --target /scratch/step-4000 --weights-first
    seawall restore latest:/srv/models/big --tensor 'model.layers.0.*' --target layer0.safetensors
    seawall restore latest:/runs/step-4000 --tensor lm_head.weight --tensor '*.norm.*' --target some.safetensors";

/// Restore a snapshot, or a part of it
///
/// A directory's content goes directly into the target, with all metadata that this user may set; a single file goes
/// into the target under its own name. Files that are there already with the same size and time are not written
/// again, so an interrupted restore goes on where it was. Nothing is ever written outside of the target.
///
/// What can't be restored (owners without root, attributes that a file system lacks) is listed; the exit code is 3.
///
/// With `--tensor` the tensors of those names become one new safetensors file: from safetensors, torch (.pt, .pth, .bin,
/// .distcp with its .metadata), npy, npz, GGUF, ONNX and uncompressed Arrow files, also inside a tar. Only what they touch is fetched. `seawall tensors` shows the names.
/// Each is written in its own shape, transposed ones and views too, and under each of its names, so tensors that share
/// their numbers are there twice; those without numbers are not there. A tensor whose dtype safetensors does not have is
/// refused by name, and so is a name that two files have.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The snapshot, and the path in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub place: OsString,

    /// Restore into this directory; made if it does not exist. With --tensor, the file to write
    #[arg(short, long, value_name = "DIR", required_unless_present = "in_place", conflicts_with = "in_place")]
    pub target: Option<PathBuf>,

    /// Restore to where it came from; refused where a symbolic link stands on the way there now (then name --target)
    #[arg(long)]
    pub in_place: bool,

    /// Only what matches, with everything below it; patterns as for `backup --exclude`, on paths in the snapshot
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,

    /// Not what matches; it is not deleted either
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// Only the tensors of this name, into the new file --target; may be given several times
    ///
    /// `*` and `?` match any characters, dots and slashes among them; [0-9], [!a] and {a,b} work too. The whole name must
    /// match, and each pattern something. SNAPSHOT:PATH is a file, or a directory: then all files below it that have tensors.
    /// What stands at --target is replaced only with `--overwrite always`.
    #[arg(
        long,
        value_name = "GLOB",
        requires = "target",
        conflicts_with_all = ["in_place", "include", "exclude", "delete", "yes", "owner", "weights_first"]
    )]
    pub tensor: Vec<String>,

    /// Only tell what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// What happens where something is there already
    #[arg(long, value_enum, default_value_t = OverwriteChoice::IfChanged, value_name = "WHEN")]
    pub overwrite: OverwriteChoice,

    /// Delete what the snapshot does not have from the restored directories (asks first)
    ///
    /// Refused where that would take away the last copy: the backup had problems, a repair left lost paths out of the
    /// snapshot, or the backup left something out (see --delete-excluded). Snapshots that Seawall made before it counted what
    /// it leaves out do not tell: look with --dry-run. The repository, its cache and the key files in use always stay.
    #[arg(long)]
    pub delete: bool,

    /// With --delete, also from a snapshot whose backup left something out: excluded paths, other file systems
    ///
    /// These were never stored, and are deleted with the rest, unless they match --exclude of this restore.
    #[arg(long, requires = "delete")]
    pub delete_excluded: bool,

    /// Do not ask before deleting
    #[arg(short, long)]
    pub yes: bool,

    /// Set owners by number, or by the names that this machine knows
    #[arg(long, value_enum, default_value_t = OwnerChoice::Number, value_name = "BY")]
    pub owner: OwnerChoice,

    /// End only when everything is on the disk
    ///
    /// Without it, small files may still be on their way from memory to the disk when the restore ends. After a power cut
    /// in that time files can have the right size and time, but not their content, and a restore that leaves such files
    /// as they are keeps them: then restore again with `--overwrite always`. Where the target is no file system of this machine
    /// (NFS, SMB, FUSE) a restore always ends so: there a server may refuse what it was sent, for want of room say, and tells
    /// only then.
    #[arg(long)]
    pub sync: bool,

    /// Models first: begin with optimizers' states when everything else is in its place and on the disk
    ///
    /// What is an optimizer's state the names of files and folders tell: optimizer.pt, *_optim_states.pt, scheduler.pt,
    /// rng_state_0.pth, optimizer/. A file that holds both counts as a model (of a safetensors file the weights are written
    /// first); for its weights alone use --tensor.
    #[arg(long)]
    pub weights_first: bool,
}

/// `--overwrite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OverwriteChoice {
    /// Leave what is there
    Never,
    /// Leave files of the same size and time, replace others
    IfChanged,
    /// Replace everything
    Always,
}

/// `--owner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OwnerChoice {
    /// By number
    Number,
    /// By name, where this machine knows it
    Name,
}

impl Arguments {
    /// Restores.
    ///
    /// # Errors
    /// When the restore could not be carried through.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let named = SnapshotPath::parse(&self.place, &run.zone)?;
        let repository = run.open()?;
        let snapshots = repository.snapshots();
        let snapshot = named.resolve(&snapshots)?;
        let from = named.path_in(snapshot);
        if let (false, Some(target)) = (self.tensor.is_empty(), &self.target) {
            return single::run(self, run, &repository, snapshot, &from, target);
        }
        let target = self.target(&repository, snapshot, &named)?;
        let guarded = guarded(run, &repository)?;
        let options = RestoreOptions { guarded, ..self.options(run, &from, target.clone())? };
        if self.delete {
            require_whole(snapshot)?;
            if !self.delete_excluded {
                require_nothing_left_out(snapshot)?;
            }
            if !self.dry_run && !self.yes {
                confirm_deletion(run, &repository, snapshot, &options)?;
            }
        }
        let display = run.display();
        let monitor = SourcesOnly::new(&display, &snapshot.record, nix::unistd::geteuid().is_root());
        let report = restore(&repository, &snapshot.record.root, &options, &monitor)?;
        monitor.conclude("directories above the sources belong to this user now; a restore as root sets their owners");
        if let Some(problem) = lost_to_repair(&snapshot.record) {
            display.problem(problem);
        }
        let problems = display.problems();
        drop(display);
        show(run, &report, &problems, snapshot, &target, self.dry_run)?;
        let exit = exit(problems.count, &problems);
        Outcome::with(exit, RestoreSummary::new(&report, problems, snapshot, &target))
    }

    fn options(&self, run: &Run, from: &TreeKey, target: PathBuf) -> Result<RestoreOptions> {
        Ok(RestoreOptions {
            from: from.clone(),
            target,
            in_place: self.in_place,
            guarded: Vec::new(),
            include: from_here(&self.include)?,
            exclude: from_here(&self.exclude)?,
            overwrite: match self.overwrite {
                OverwriteChoice::Never => Overwrite::Never,
                OverwriteChoice::IfChanged => Overwrite::IfChanged,
                OverwriteChoice::Always => Overwrite::Always,
            },
            delete: self.delete,
            dry_run: self.dry_run,
            owner: match self.owner {
                OwnerChoice::Number => OwnerBy::Number,
                OwnerChoice::Name => OwnerBy::Name,
            },
            budget_bytes: run.settings.budget_bytes,
            threads: run.settings.threads,
            sync: self.sync,
            weights_first: self.weights_first,
        })
    }

    /// In place, a directory is restored onto itself and anything else into the directory that held it.
    fn target(&self, repository: &Repository, snapshot: &Snapshot, named: &SnapshotPath) -> Result<PathBuf> {
        if let Some(target) = &self.target {
            return Ok(target.clone());
        }
        let path = named.path_in(snapshot);
        let entry = repository.tree(&snapshot.record.root).get(&path)?;
        let entry =
            entry.ok_or_else(|| Error::NotFound(format!("{}: the snapshot has no such path", named.written)))?;
        let holder = if entry.is_directory() { None } else { path.parent() };
        Ok(holder.unwrap_or(path).to_path())
    }
}

/// What no restore may take from under itself: the repository, its cache, and the files of keys and recovery kits.
fn guarded(run: &Run, repository: &Repository) -> Result<Vec<Guarded>> {
    let place = |what: &'static str| move |path: PathBuf| Guarded { what, path };
    let location = run.location()?;
    let kept = [run.key_path(&repository.id()), run.new_key_path(&location)];
    let keys: Vec<PathBuf> =
        run.settings.keys.iter().flat_map(KeySource::files).chain(kept.into_iter().flatten()).collect();
    let kits: Vec<PathBuf> = keys.iter().map(|key| kit_beside(key, repository.id())).collect();
    let mut guarded = vec![Guarded { what: "the repository", path: location }];
    guarded.extend(run.settings.cache.clone().map(place("the cache")));
    guarded.extend(keys.into_iter().map(place("the key file")));
    guarded.extend(kits.into_iter().map(place("the recovery kit")));
    Ok(guarded)
}

/// Damaged or missing data is worse than metadata that could not be set.
#[must_use]
pub fn exit(counted: u64, problems: &Problems) -> Exit {
    if problems.by_code.contains_key("damaged") || problems.by_code.contains_key("missing") {
        Exit::Damage
    } else if counted > 0 {
        Exit::Problems
    } else {
        Exit::Done
    }
}

/// A file that the backup could not read is not in the snapshot, nor is one that was lost to damage, and `--delete` would take
/// it for a stray.
fn require_whole(snapshot: &Snapshot) -> anyhow::Result<()> {
    let lost = count_in_label(&snapshot.record, LOST_PATHS);
    anyhow::ensure!(
        lost == 0,
        "a repair left {} out of snapshot {}, as the repository has lost them: what is on the disk may be the last copy and \
         would be deleted; restore without --delete",
        counted(lost, "path", "paths"),
        short(&snapshot.record.id),
    );
    let problems = snapshot.record.problems;
    anyhow::ensure!(
        problems == 0,
        "the backup of snapshot {} met {}: files that it could not read would be deleted; restore without --delete",
        short(&snapshot.record.id),
        counted(problems, "problem", "problems")
    );
    Ok(())
}

/// What the backup was told to leave out is not in the snapshot either.
fn require_nothing_left_out(snapshot: &Snapshot) -> anyhow::Result<()> {
    let [excluded, elsewhere] = [EXCLUDED_PATHS, OTHER_FILE_SYSTEMS].map(|name| count_in_label(&snapshot.record, name));
    let mut left_out = Vec::new();
    if excluded > 0 {
        left_out.push(counted(excluded, "excluded path", "excluded paths"));
    }
    if elsewhere > 0 {
        left_out.push(counted(elsewhere, "other file system", "other file systems"));
    }
    anyhow::ensure!(
        left_out.is_empty(),
        "the backup of snapshot {} left {} out, which would be deleted though it was never stored; restore without --delete, \
         or add --delete-excluded, and --exclude for what must stay (--dry-run lists what would go)",
        short(&snapshot.record.id),
        left_out.join(" and "),
    );
    Ok(())
}

/// What a repaired snapshot lacks.
fn lost_to_repair(record: &SnapshotRecord) -> Option<Problem> {
    let lost = count_in_label(record, LOST_PATHS);
    let what = format!(
        "the repository has lost {} of it, which a repair left out: they are not restored",
        counted(lost, "path", "paths")
    );
    let subject = format!("snapshot {}", short(&record.id));
    (lost > 0).then_some(Problem { subject, what, code: "skipped" })
}

/// The number in a label that the engine gives; 0 where it is not there.
fn count_in_label(record: &SnapshotRecord, name: &str) -> u64 {
    let labels = record.labels.iter().filter(|(label, _)| label == name);
    labels.filter_map(|(_, value)| value.parse().ok()).max().unwrap_or(0)
}

/// Asks, after a dry run that counts what would go. Nothing is asked where nothing would.
fn confirm_deletion(
    run: &Run,
    repository: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        let text = "--delete asks before it deletes, and there is no terminal: add --yes";
        return Err(Error::Usage(text.to_owned()).into());
    }
    let rehearsal = RestoreOptions { dry_run: true, ..options.clone() };
    let deleted = restore(repository, &snapshot.record.root, &rehearsal, &Stopping(&run.stop))?.deleted;
    if deleted == 0 {
        return Ok(());
    }
    let paths = counted(deleted, "path", "paths");
    let shown = printable(options.target.as_os_str().as_encoded_bytes());
    let question = format!("{paths} in {shown} would be deleted (--dry-run lists them). Type yes to go on: ");
    let mut stderr = std::io::stderr();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    anyhow::ensure!(answer.trim() == "yes", "not confirmed; nothing was changed");
    Ok(())
}

/// Says nothing: what the rehearsal of a deletion meets, the restore meets again.
struct Stopping<'s>(&'s Stop);

impl Monitor for Stopping<'_> {
    fn stopped(&self) -> bool {
        self.0.requested()
    }
}

/// A restore in JSON. Sizes are bytes.
#[derive(Serialize)]
pub struct RestoreSummary {
    snapshot: String,
    target: JsonPath,
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    unchanged: u64,
    skipped: u64,
    deleted: u64,
    actions: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights_seconds: Option<f64>,
    problems: Problems,
}

impl RestoreSummary {
    fn new(report: &RestoreReport, problems: Problems, snapshot: &Snapshot, target: &std::path::Path) -> Self {
        Self {
            snapshot: snapshot.record.id.to_string(),
            target: JsonPath::from(target),
            files: report.files,
            directories: report.directories,
            others: report.others,
            bytes: report.bytes,
            unchanged: report.unchanged,
            skipped: report.skipped,
            deleted: report.deleted,
            actions: report.actions_total,
            seconds: report.duration.as_secs_f64(),
            weights_seconds: report.weights_duration.map(|time| time.as_secs_f64()),
            problems,
        }
    }
}

#[derive(Serialize)]
struct ActionLine {
    act: &'static str,
    #[serde(flatten)]
    path: JsonPath,
}

fn show(
    run: &Run,
    report: &RestoreReport,
    problems: &Problems,
    snapshot: &Snapshot,
    target: &std::path::Path,
    dry_run: bool,
) -> std::io::Result<()> {
    let output = &run.output;
    if dry_run {
        show_actions(run, report)?;
    }
    let head = if dry_run { "Dry run of snapshot" } else { "Restored snapshot" };
    let shown = printable(target.as_os_str().as_encoded_bytes());
    output.report(format!("{head} {} to {shown}", short(&snapshot.record.id)))?;
    output.report(format!(
        "  {}, {}, {}; {} unchanged, {} skipped, {} deleted",
        counted(report.files, "file", "files"),
        counted(report.directories, "directory", "directories"),
        counted(report.others, "other", "others"),
        count(report.unchanged),
        count(report.skipped),
        count(report.deleted)
    ))?;
    let seconds = report.duration.as_secs_f64();
    output.report(format!(
        "  {} in {} ({})",
        bytes(report.bytes),
        duration(report.duration),
        rate(report.bytes, seconds)
    ))?;
    if problems.count > 0 {
        output.report(format!("  {}, listed above", counted(problems.count, "problem", "problems")))?;
    }
    Ok(())
}

fn show_actions(run: &Run, report: &RestoreReport) -> std::io::Result<()> {
    for action in &report.actions {
        let act = match action.act {
            Act::Create => "create",
            Act::Update => "update",
            Act::Delete => "delete",
        };
        run.output.record("action", ActionLine { act, path: JsonPath::from(action.path.as_path()) })?;
        let mut line = format!("{act}  ").into_bytes();
        line.extend_from_slice(&run.output.path(action.path.as_os_str().as_encoded_bytes()));
        run.output.line(line)?;
    }
    let unlisted = report.actions_total.saturating_sub(report.actions.len() as u64);
    if unlisted > 0 { run.output.line(format!("… and {} more", count(unlisted))) } else { Ok(()) }
}
