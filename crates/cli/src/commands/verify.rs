//! `seawall verify`: does everything that the log promises exist, and is it what it claims to be?

use seawall_engine::format::names::{LOG, SegmentName};
use seawall_engine::ids::SnapshotId;
use seawall_engine::verify::{Damage, Read, VerifyOptions, VerifyReport, verify};
use serde::Serialize;

use crate::failure::{Exit, OF_LOG};
use crate::output::printable;
use crate::quantities::{bytes, count, counted, duration, parse_share, rate};
use crate::run::{Outcome, Run};
use crate::snapshot_name::short;

/// Paths that a person is shown for one damaged object; `--json` has all that were collected.
const PATHS_SHOWN_MAX: usize = 20;

/// What to do about damage.
pub const ADVICE: &str = "  back up the same sources again: what they still have of it is stored again, and the snapshots \
                          that share it restore again";

/// What to do about lost index segments.
pub const REINDEX: &str = "`seawall repair --index` (with an owner's key) lists the packs of lost index segments anew; do \
                           that before anything else";

const EXAMPLES: &str = "\
Examples:
    seawall verify -r /backup/repo
    seawall verify --read-data
    seawall verify --sample 5%       every day another part
    seawall verify --no-record       leave the log alone";

/// Check that what is stored is whole and readable
///
/// Without options the structure is checked: the signed log, the index, that every pack exists with the right length,
/// and every snapshot's tree. `--read-data` also reads every stored byte, decrypts, decodes and compares it with its
/// id; `--sample 5%` does so for a random part. For damage, the objects, the snapshots and the paths that are hit are
/// listed and the exit code is 13; everything else still restores. A damaged pack whose parity gives everything back is a
/// problem only (exit code 3).
///
/// What could not be read for another reason than damage (a connection that broke, a key that may not) is listed as a
/// problem, and the exit code is 3.
///
/// What is damaged is recorded in the log. The next backup of a source that still has what was lost stores it again, and
/// with it the older snapshots that share it restore again. An object that stays damaged after that, and by which no
/// snapshot loses anything, is mentioned as harmless.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Read every stored byte
    #[arg(long, conflicts_with = "sample")]
    pub read_data: bool,

    /// Read this share of the stored bytes, chosen at random
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub sample: Option<f64>,

    /// Do not record in the log what is found; the next backup then mends nothing
    #[arg(long)]
    pub no_record: bool,
}

impl Arguments {
    /// Checks.
    ///
    /// # Errors
    /// When the check itself could not be carried out. Damage is no error here but a result.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        let read = match self.sample {
            Some(share) => Read::Sample(share),
            None if self.read_data => Read::All,
            None => Read::Nothing,
        };
        let display = run.display();
        let options = VerifyOptions { record: !self.no_record, ..options(run, read) };
        let report = verify(&repository, &options, &display)?;
        let problems = display.problems().count;
        drop(display);
        show(run, &report)?;
        if !repository.can_read_data() {
            run.output.note(
                "a member's key reads nothing back: only the log, the index and the presence of packs were checked",
            );
        }
        let exit = match (report.damage.is_empty(), problems) {
            (false, _) => Exit::Damage,
            (true, 0) => Exit::Done,
            (true, _) => Exit::Problems,
        };
        Outcome::with(exit, VerifySummary::from(&report))
    }
}

/// Options for what is to be read.
#[must_use]
pub fn options(run: &Run, read: Read) -> VerifyOptions {
    VerifyOptions { read, record: true, threads: run.settings.threads, budget_bytes: run.settings.budget_bytes }
}

/// A check in JSON. Sizes are bytes.
#[derive(Serialize)]
pub struct VerifySummary {
    snapshots: u64,
    nodes: u64,
    chunks: u64,
    packs: u64,
    packs_read: u64,
    bytes_read: u64,
    orphans: u64,
    condemned_packs: u64,
    damage: u64,
    mended_packs: u64,
    harmless_damage: u64,
    undecided: u64,
    log_entries_appended: u64,
    seconds: f64,
}

impl From<&VerifyReport> for VerifySummary {
    fn from(report: &VerifyReport) -> Self {
        Self {
            snapshots: report.snapshots,
            nodes: report.nodes,
            chunks: report.chunks,
            packs: report.packs,
            packs_read: report.packs_read,
            bytes_read: report.bytes_read,
            orphans: report.orphans,
            condemned_packs: report.condemned,
            damage: report.damage.len() as u64,
            mended_packs: report.mended.len() as u64,
            harmless_damage: report.harmless.len() as u64,
            undecided: report.undecided,
            log_entries_appended: report.entries_appended,
            seconds: report.duration.as_secs_f64(),
        }
    }
}

/// One damaged object in JSON.
#[derive(Serialize)]
struct DamageLine<'a> {
    object: &'a str,
    what: &'a str,
    snapshots: Vec<String>,
    paths: &'a [String],
    paths_count: u64,
    /// Files that are whole and whose tensor table is lost.
    tables: &'a [String],
    tables_count: u64,
}

/// The index segments among what is damaged, those by which no snapshot loses anything too.
pub fn lost_segments(report: &VerifyReport) -> impl Iterator<Item = &Damage> {
    let damaged = report.damage.iter().chain(&report.harmless);
    damaged.filter(|damage| SegmentName::parse(&damage.object).is_some())
}

/// Lists damage, as lines or as JSON.
///
/// # Errors
/// When the output can't be written.
pub fn show_damage(run: &Run, damage: &[Damage]) -> std::io::Result<()> {
    for one in damage {
        let snapshots = one.snapshots.iter().map(SnapshotId::to_string).collect();
        let (object, what) = (one.object.as_str(), one.what.as_str());
        run.output.record(
            "damage",
            DamageLine {
                object,
                what,
                snapshots,
                paths: &one.paths,
                paths_count: one.paths_count,
                tables: &one.tables,
                tables_count: one.tables_count,
            },
        )?;
        run.output.line(format!("DAMAGED {object}: {}", printable(what.as_bytes())))?;
        if !one.snapshots.is_empty() {
            let ids: Vec<String> = one.snapshots.iter().map(short).collect();
            run.output.line(format!("  snapshots hit: {}", ids.join(" ")))?;
        }
        show_paths(run, "path hit", &one.paths, one.paths_count)?;
        show_paths(run, "whole, without its tensor statistics", &one.tables, one.tables_count)?;
    }
    Ok(())
}

fn show_paths(run: &Run, what: &str, paths: &[String], count: u64) -> std::io::Result<()> {
    for path in paths.iter().take(PATHS_SHOWN_MAX) {
        run.output.line(format!("  {what}: {}", printable(path.as_bytes())))?;
    }
    let unshown = count.saturating_sub(paths.len().min(PATHS_SHOWN_MAX) as u64);
    if unshown > 0 {
        run.output.line(format!("  … and {} more", counted(unshown, "path", "paths")))?;
    }
    Ok(())
}

fn show(run: &Run, report: &VerifyReport) -> std::io::Result<()> {
    show_damage(run, &report.damage)?;
    run.output.report(format!(
        "Checked {}: {} tree nodes, {} chunks, {}",
        counted(report.snapshots, "snapshot", "snapshots"),
        count(report.nodes),
        count(report.chunks),
        counted(report.packs, "pack", "packs")
    ))?;
    let seconds = report.duration.as_secs_f64();
    let read = if report.bytes_read == 0 {
        "no data was read back (--read-data does)".to_owned()
    } else {
        format!(
            "{} of {} read back whole, {} ({})",
            count(report.packs_read),
            counted(report.packs, "pack", "packs"),
            bytes(report.bytes_read),
            rate(report.bytes_read, seconds)
        )
    };
    run.output.report(format!("  {read}, in {}", duration(report.duration)))?;
    if report.condemned > 0 {
        let packs = counted(report.condemned, "pack", "packs");
        run.output.report(format!("  {packs} that a prune took out of use were not checked: nobody needs them"))?;
    }
    for harmless in &report.harmless {
        let what = printable(harmless.what.as_bytes());
        run.output.report(format!("  {} is damaged, and no snapshot loses anything by it: {what}", harmless.object))?;
    }
    if report.undecided > 0 {
        let objects = counted(report.undecided, "object", "objects");
        run.output
            .report(format!("  {objects} could not be checked, see above: nothing is known of them; check again"))?;
    }
    if !report.mended.is_empty() {
        let packs = counted(report.mended.len() as u64, "damaged pack", "damaged packs");
        run.output
            .report(format!("  {packs} read with the help of parity; `seawall repair --read-data` stores them anew"))?;
    }
    if lost_segments(report).next().is_some() {
        run.output.report(format!("  {REINDEX}"))?;
    }
    match report.damage.len() as u64 {
        0 if !report.mended.is_empty() => run.output.report("  nothing is lost"),
        0 if report.harmless.is_empty() => run.output.report("  no damage found"),
        0 => run.output.report("  no new damage found; every snapshot restores as far as it was checked"),
        found => {
            let objects = counted(found, "damaged object", "damaged objects");
            run.output.report(format!("  {objects} found; everything that is not listed above still restores"))?;
            if report.damage.iter().any(|damage| damage.object.starts_with(LOG)) {
                run.output.report(format!("  {OF_LOG}"))?;
            }
            if report.damage.iter().any(|damage| !damage.snapshots.is_empty()) {
                run.output.report(ADVICE)?;
            }
            Ok(())
        }
    }
}
