//! `seawall repair`: what is left to do about damage once the sources were backed up again.

use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Damaged, Error};
use seawall_engine::format::names::PackName;
use seawall_engine::format::slot::Role;
use seawall_engine::reindex::reindex;
use seawall_engine::repair::{Dropped, Loss, ReplaceReport, drop_lost, losses, replace};
use seawall_engine::repo::{Repository, Snapshot};
use seawall_engine::verify::{Damage, Read, VerifyOptions, VerifyReport, verify};
use serde::Serialize;

use super::verify::{REINDEX, lost_segments, options, show_damage};
use crate::failure::Exit;
use crate::moments;
use crate::output::printable;
use crate::progress::Display;
use crate::quantities::{bytes, counted};
use crate::run::{Outcome, Run};
use crate::snapshot_name::short;

/// What to do before anything is dropped.
const ADVICE: &str = "  back up the same sources again first: what they still have is then stored again, and snapshots \
                      restore again. What stays lost after that, --drop takes out of the snapshots";

const EXAMPLES: &str = "\
Examples:
    seawall repair                       put back what the log lost; list what is lost as far as it is known
    seawall repair --read-data           read every stored byte first, and store damaged packs anew that have parity
    seawall repair --dry-run             only tell
    seawall repair --index               list the packs of lost index segments anew
    seawall repair --drop --yes          put snapshots without what is lost in the place of damaged ones";

/// Mend what can be mended, and list what is lost for good
///
/// Checks the structure (with `--read-data` everything) and records damage, as `verify` does. Then it stores anew what
/// lies in damaged packs that only their parity keeps readable; the next prune removes those. Then it lists, snapshot by
/// snapshot, every path that can't be restored whole. While there is one, or other damage is left, the exit code is 13;
/// while something could not be checked, it is 3. A file of which only the tensor statistics are lost restores whole; with
/// nothing else lost the exit code is 3.
///
/// Back up the same sources again before you drop anything: that mends what they still have. `--drop` makes for each
/// snapshot that lost something a new one without the files that are hit, with labels that say so, and forgets the old
/// one, which `undelete` can bring back. If a snapshot that is hit is held, nothing is dropped; nor is anything while an
/// index segment is lost (`--index` mends that), or while something could not be checked. `latest` goes on meaning what
/// it meant; retention counts the new snapshot from now. It needs an owner's key.
///
/// `--index` is for index segments that are lost or damaged, which stop `prune` and `undelete`: it writes new ones in their
/// place. What they listed is in the local cache, or in the packs. If the store fails, nothing has changed. It may be run
/// again at any time, and lists what was committed and is in no list. It needs an owner's key and does nothing else.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Read every stored byte first
    #[arg(long)]
    pub read_data: bool,

    /// Put snapshots without what is lost in the place of those that lost something
    #[arg(long, requires = "yes", conflicts_with = "dry_run")]
    pub drop: bool,

    /// Confirm --drop
    #[arg(long, requires = "drop")]
    pub yes: bool,

    /// Only list the packs of lost index segments anew, from this cache or from the packs themselves
    #[arg(long, conflicts_with_all = ["drop", "read_data"])]
    pub index: bool,

    /// Only tell; change nothing, and record nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// What was repaired, in JSON. Sizes are bytes.
#[derive(Serialize)]
struct RepairSummary {
    packs_mended_by_parity: usize,
    packs_replaced: u64,
    chunks_replaced: u64,
    bytes_stored: u64,
    snapshots_hit: u64,
    paths_lost: u64,
    /// Files that are whole and whose tensor table is lost.
    tables_lost: u64,
    /// Damaged objects that are left.
    damage: usize,
    /// Objects that could not be checked.
    undecided: u64,
    dropped: Vec<DroppedLine>,
}

/// What `--index` did, in JSON.
#[derive(Serialize)]
struct ReindexSummary {
    segments_lost: usize,
    segments_cached: u64,
    /// Sound segments that had the names of lost ones, and whose chunks are listed anew.
    segments_of_the_same_name: u64,
    packs_read: u64,
    packs_unreadable: u64,
    records: u64,
    /// Number of the log entry.
    number: Option<u64>,
}

#[derive(Serialize)]
struct DroppedLine {
    old: String,
    new: Option<String>,
    paths_lost: u64,
}

/// One loss in JSON.
#[derive(Serialize)]
struct LostLine<'a> {
    snapshot: String,
    path: Option<&'a str>,
    /// Entries of the tree; 1 for a file, 0 for a tensor table.
    entries: u64,
}

impl Arguments {
    /// Repairs.
    ///
    /// # Errors
    /// When the check, or a repair, could not be carried out. What is lost is no error but a result.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = if self.dry_run { run.open()? } else { run.open_to_write(&run.location()?)? };
        if self.index {
            return self.list_anew(run, &repository);
        }
        repository.refuse_unable_to_read()?;
        if !self.dry_run {
            // What was put back is told at the end, as of every command.
            repository.put_log_back()?;
        }
        let display = run.display();
        let read = if self.read_data { Read::All } else { Read::Nothing };
        let verify_options = VerifyOptions { record: !self.dry_run, ..options(run, read) };
        let report = verify(&repository, &verify_options, &display)?;
        if self.drop {
            refuse_unsure(&report)?;
        }
        let mended: Vec<PackName> = report.mended.iter().filter_map(|it| PackName::parse(&it.object)).collect();
        let replaced = self.replace(run, &repository, &mended, &display)?;
        let Listed { hit, lost, tables } = list(run, &repository, &display)?;
        let dropped = if self.drop && lost + tables > 0 {
            drop_lost(&repository, concat!("seawall ", env!("CARGO_PKG_VERSION")), &display)?
        } else {
            Vec::new()
        };
        drop(display);
        let left = damage_left(&report, !dropped.is_empty());
        self.show(run, &replaced, Listed { hit, lost, tables }, &dropped)?;
        if lost == 0 || !dropped.is_empty() {
            show_damage(run, &left)?;
        }
        let is_content = lost == 0 && tables == 0;
        tell_what_is_left(run, is_content, &left, &report)?;
        if !self.read_data {
            run.output.report(
                "  no data was read: `seawall repair --read-data` finds damage inside packs and mends what parity can",
            )?;
        }
        let exit = match () {
            () if lost > 0 && dropped.is_empty() => Exit::Damage,
            () if !left.is_empty() => Exit::Damage,
            () if report.undecided > 0 => Exit::Problems,
            () if tables > 0 && dropped.is_empty() => Exit::Problems,
            () if replaced.packs < mended.len() as u64 => Exit::Problems,
            () => Exit::Done,
        };
        let dropped = dropped.iter().map(|it| DroppedLine {
            old: it.old.to_string(),
            new: it.new.map(|new| new.to_string()),
            paths_lost: it.lost,
        });
        let summary = RepairSummary {
            packs_mended_by_parity: mended.len(),
            packs_replaced: replaced.packs,
            chunks_replaced: replaced.chunks,
            bytes_stored: replaced.bytes_stored,
            snapshots_hit: hit,
            paths_lost: lost,
            tables_lost: tables,
            damage: left.len(),
            undecided: report.undecided,
            dropped: dropped.collect(),
        };
        Outcome::with(exit, summary)
    }

    fn list_anew(&self, run: &Run, repository: &Repository) -> anyhow::Result<Outcome> {
        let display = run.display();
        let report = reindex(repository, self.dry_run, &display)?;
        drop(display);
        let lost = match report.lost.len() as u64 {
            0 => "no index segment is".to_owned(),
            lost => counted(lost, "index segment is", "index segments are"),
        };
        if report.lost.is_empty() && report.packs == 0 {
            run.output.report(format!("  {lost} lost"))?;
        } else {
            let done = if self.dry_run { "would be" } else { "are" };
            let packs = counted(report.packs, "pack", "packs");
            let records = counted(report.records, "chunk", "chunks");
            run.output.report(format!(
                "  {lost} lost; {records} {done} listed anew, from {} in the local cache and the lists of {packs}",
                counted(report.cached, "segment", "segments")
            ))?;
        }
        if report.namesakes > 0 {
            let segments = counted(report.namesakes, "sound segment", "sound segments");
            run.output.report(format!("  the chunks of {segments} of the same names are listed anew too"))?;
        }
        if report.unreadable > 0 {
            let packs = counted(report.unreadable, "pack", "packs");
            run.output.report(format!(
                "  {packs} could not be read whole, and what lies there stays unlisted; run `verify`. Once they are back, \
                 run this again"
            ))?;
        }
        let exit = if report.unreadable > 0 { Exit::Problems } else { Exit::Done };
        let summary = ReindexSummary {
            segments_lost: report.lost.len(),
            segments_cached: report.cached,
            segments_of_the_same_name: report.namesakes,
            packs_read: report.packs,
            packs_unreadable: report.unreadable,
            records: report.records,
            number: report.number,
        };
        Outcome::with(exit, summary)
    }

    fn replace(
        &self,
        run: &Run,
        repository: &Repository,
        packs: &[PackName],
        display: &Display,
    ) -> anyhow::Result<ReplaceReport> {
        if packs.is_empty() || self.dry_run {
            return Ok(ReplaceReport::default());
        }
        if repository.role() != Role::Owner {
            run.output.warn("damaged packs are stored anew with an owner's key only");
            return Ok(ReplaceReport::default());
        }
        Ok(replace(repository, packs, display)?)
    }

    fn show(
        &self,
        run: &Run,
        replaced: &ReplaceReport,
        Listed { hit, lost, tables }: Listed,
        dropped: &[Dropped],
    ) -> std::io::Result<()> {
        if replaced.packs > 0 {
            run.output.report(format!(
                "Stored anew: {} of {} that only parity kept readable, {} written",
                counted(replaced.chunks, "chunk", "chunks"),
                counted(replaced.packs, "pack", "packs"),
                bytes(replaced.bytes_stored)
            ))?;
        }
        if tables > 0 {
            let files = counted(tables, "file", "files");
            run.output.report(format!("Of {files} only the tensor statistics are lost: they restore whole"))?;
        }
        if lost > 0 {
            let (paths, snapshots) = (counted(lost, "path", "paths"), counted(hit, "snapshot", "snapshots"));
            run.output.report(format!("{paths} in {snapshots} can't be restored whole"))?;
        } else if tables == 0 {
            return Ok(());
        }
        for Dropped { old, new, lost } in dropped {
            let without = counted(*lost, "path", "paths");
            let stands =
                new.map_or_else(|| "nothing was left of it".to_owned(), |new| format!("{} stands for it", short(&new)));
            run.output.report(format!("  {} is forgotten, {stands} (without {without})", short(old)))?;
        }
        if dropped.is_empty() { run.output.report(ADVICE) } else { Ok(()) }
    }
}

/// The damage that is there at the end, lost tensor tables apart, which are told by themselves: what was found in snapshots
/// is gone with these where they were dropped.
fn damage_left(report: &VerifyReport, has_dropped: bool) -> Vec<Damage> {
    let is_left = |damage: &&Damage| {
        let object = damage.object.as_str();
        let of_snapshots = PackName::parse(object).is_some() || object.starts_with("session/") || !object.contains('/');
        let only_tables = damage.tables_count > 0 && damage.paths_count == 0;
        let is_dropped = has_dropped && of_snapshots && !damage.snapshots.is_empty();
        !only_tables && !is_dropped
    };
    report.damage.iter().filter(is_left).cloned().collect()
}

/// Says that nothing is lost, if so, and what else is to be said of what the check found.
fn tell_what_is_left(run: &Run, is_content: bool, left: &[Damage], report: &VerifyReport) -> std::io::Result<()> {
    let undecided = report.undecided;
    if lost_segments(report).next().is_some() {
        run.output.report(format!("  {REINDEX}"))?;
    }
    if undecided > 0 {
        let objects = counted(undecided, "object", "objects");
        run.output
            .report(format!("  {objects} could not be checked, see above: nothing is known of them; run it again"))?;
    }
    match (is_content, left.is_empty(), undecided) {
        (true, true, 0) => run.output.report("Nothing is lost: every snapshot restores, as far as it was checked"),
        (true, true, _) => run.output.report("Nothing that could be checked is lost"),
        (true, false, _) => {
            run.output.report("Every snapshot restores, as far as it was checked; what is listed above is damaged")
        }
        (false, ..) => Ok(()),
    }
}

/// Refuses to give anything up while not everything is known that may hold it.
fn refuse_unsure(report: &VerifyReport) -> Result<(), Error> {
    if let Some(segment) = lost_segments(report).next() {
        let why = format!("{}; {REINDEX}. Nothing was dropped", segment.what);
        return Err(Damaged::new(segment.object.as_str(), 0, why).into());
    }
    if report.undecided > 0 {
        let objects = counted(report.undecided, "object", "objects");
        return Err(Error::Refused(format!(
            "{objects} could not be checked, and what they hold may not be lost: nothing was dropped. Run it again"
        )));
    }
    Ok(())
}

/// What is lost: snapshots that are hit, paths that can't be restored whole, files whose tensor table is lost.
#[derive(Clone, Copy)]
struct Listed {
    hit: u64,
    lost: u64,
    tables: u64,
}

/// Lists everything that is lost.
fn list(run: &Run, repository: &Repository, display: &Display) -> anyhow::Result<Listed> {
    let (mut hit, mut tables, mut last, mut failure) = (0, 0, None, None);
    let lost = losses(repository, display, &mut |snapshot, loss| {
        let is_next = last.replace(snapshot.record.id) != Some(snapshot.record.id);
        hit += u64::from(is_next);
        tables += u64::from(matches!(loss, Loss::Table(_)));
        let told = display.above(|| tell(run, snapshot, is_next, loss));
        failure = failure.take().or(told.err());
    })?;
    failure.map_or(Ok(Listed { hit, lost, tables }), |error: std::io::Error| Err(error.into()))
}

fn tell(run: &Run, snapshot: &Snapshot, is_next: bool, loss: Loss<'_>) -> std::io::Result<()> {
    let output = &run.output;
    let id = &snapshot.record.id;
    if is_next {
        let time = moments::show(snapshot.record.time, &run.zone);
        output.line(format!("Snapshot {} of {}, {time}:", short(id), printable(snapshot.record.host.as_bytes())))?;
    }
    let shown = |key: &TreeKey| key.to_path().to_string_lossy().into_owned();
    let (path, entries) = match loss {
        Loss::File(key) => (Some(shown(key)), 1),
        Loss::Table(key) => (Some(shown(key)), 0),
        Loss::Part(key, entries) => (key.map(shown), entries),
    };
    let kind = if matches!(loss, Loss::Table(_)) { "table_lost" } else { "lost" };
    output.record(kind, LostLine { snapshot: id.to_string(), path: path.as_deref(), entries })?;
    let from = printable(path.as_deref().unwrap_or("/").as_bytes());
    match loss {
        Loss::File(_) => output.line(format!("  lost: {from}")),
        Loss::Table(_) => output.line(format!("  whole, without its tensor statistics: {from}")),
        Loss::Part(..) => output.line(format!("  lost: {} from {from} on", counted(entries, "entry", "entries"))),
    }
}
