//! `seawall prune`: frees what no snapshot needs.

use std::time::Duration;

use seawall_engine::prune::{MaxUnused, ORPHANS, Planned, PruneOptions, PruneReport, prune};
use serde::Serialize;

use crate::failure::Exit;
use crate::moments;
use crate::quantities::{bytes, count, counted, duration, parse_age, parse_share, parse_size};
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall prune --dry-run
    seawall prune
    seawall prune --max-unused 20% --max-rewrite 50GiB     cheaper, leaves more
    seawall prune --window 0                               frees at once, nothing can come back";

/// Free the space that forgotten snapshots took
///
/// Finds what the snapshots need and takes the rest out of use: packs that nobody needs, and packs of which so little is
/// needed that storing it again pays. What is taken out of use stays for the undelete window (7 days); until then
/// `seawall undelete` brings forgotten snapshots back. A later prune deletes it. So the space comes free with the first
/// prune after the window, or at once with `--window 0`.
///
/// It may run at any time, beside backups, restores and other prunes, and may be interrupted: what it finished stays
/// finished, and the next one goes on. It needs an owner's key. It also removes what interrupted backups left more than a
/// day ago, and keeps the index small.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// How long what is taken out of use stays, such as 7d or 12h; 0 deletes at once
    #[arg(long, value_name = "AGE", value_parser = parse_age, default_value = "7d")]
    pub window: Duration,

    /// How much that nobody needs may stay in packs that are partly needed: a share of the packs, or a size
    #[arg(long, value_name = "SHARE|SIZE", value_parser = parse_unused, default_value = "5%")]
    pub max_unused: MaxUnused,

    /// Store at most so many bytes again
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_rewrite: Option<u64>,

    /// Leave chunks encoded against bases that nothing else needs; else they are stored anew where that saves a fifth
    #[arg(long)]
    pub no_rebase: bool,

    /// Remove what interrupted runs left when the newest of it is older than this; a backup that still runs and has
    /// stored nothing for so long then has to run again [else the window, at least 1d]
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    pub orphans: Option<Duration>,

    /// Go on although snapshots need chunks that are in no list; packs that no list names are then left alone
    #[arg(long)]
    pub despite_missing: bool,
}

/// Reads a share such as `5%` or `0%`, or a size.
fn parse_unused(text: &str) -> Result<MaxUnused, String> {
    if text.trim().ends_with('%') {
        let is_zero = text.trim().trim_end_matches('%').trim().parse() == Ok(0.0);
        return if is_zero { Ok(MaxUnused::Share(0.0)) } else { parse_share(text).map(MaxUnused::Share) };
    }
    parse_size(text).map(MaxUnused::Bytes)
}

/// A prune in JSON. Sizes are bytes, times RFC 3339 in UTC.
#[derive(Serialize)]
struct PruneSummary {
    dry_run: bool,
    planned: PlannedLine,
    condemned_packs: u64,
    condemned_bytes: u64,
    rewritten_chunks: u64,
    rewritten_bytes: u64,
    rebased_chunks: u64,
    rebased_bytes: u64,
    read_back_chunks: u64,
    read_back_bytes: u64,
    deleted_packs: u64,
    deleted_bytes: u64,
    waiting_packs: u64,
    waiting_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_until: Option<String>,
    orphans: u64,
    orphan_bytes: u64,
    segments_before: u64,
    segments_after: u64,
    problems: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct PlannedLine {
    packs: u64,
    bytes: u64,
    needed_bytes: u64,
    unused_packs: u64,
    unused_bytes: u64,
    rewritten_packs: u64,
    rewritten_bytes: u64,
    stored_again_bytes: u64,
    freed_bytes: u64,
    left_bytes: u64,
    rebased_chunks: u64,
    rebased_bytes: u64,
}

impl From<&Planned> for PlannedLine {
    fn from(planned: &Planned) -> Self {
        Self {
            packs: planned.packs,
            bytes: planned.bytes,
            needed_bytes: planned.live_bytes,
            unused_packs: planned.unused_packs,
            unused_bytes: planned.unused_bytes,
            rewritten_packs: planned.rewritten_packs,
            rewritten_bytes: planned.rewritten_bytes,
            stored_again_bytes: planned.stored_again_bytes,
            freed_bytes: planned.freed_bytes(),
            left_bytes: planned.left_bytes,
            rebased_chunks: planned.rebased_chunks,
            rebased_bytes: planned.rebased_bytes,
        }
    }
}

impl Arguments {
    /// Prunes.
    ///
    /// # Errors
    /// When the repository can't be opened, the key is no owner's, or a snapshot's tree can't be read.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        let options = PruneOptions {
            window: self.window,
            orphans: self.orphans.unwrap_or(self.window.max(ORPHANS)),
            despite_missing: self.despite_missing,
            max_unused: self.max_unused,
            max_rewrite_bytes: self.max_rewrite,
            rebase: !self.no_rebase,
            dry_run: self.dry_run,
            ..PruneOptions::default()
        };
        let display = run.display();
        let mut shown = Ok(());
        let mut show_plan = |planned: &Planned| shown = display.above(|| plan(run, planned));
        let report = prune(&repository, &options, &mut show_plan, &display)?;
        shown?;
        drop(display);
        if !self.dry_run {
            show(run, &report)?;
        }
        let exit = if report.problems == 0 { Exit::Done } else { Exit::Problems };
        Outcome::with(exit, summary(&report, self.dry_run))
    }
}

fn summary(report: &PruneReport, dry_run: bool) -> PruneSummary {
    PruneSummary {
        dry_run,
        planned: PlannedLine::from(&report.planned),
        condemned_packs: report.condemned_packs,
        condemned_bytes: report.condemned_bytes,
        rewritten_chunks: report.rewritten_chunks,
        rewritten_bytes: report.rewritten_bytes,
        rebased_chunks: report.rebased_chunks,
        rebased_bytes: report.rebased_bytes,
        read_back_chunks: report.read_back_chunks,
        read_back_bytes: report.read_back_bytes,
        deleted_packs: report.deleted_packs,
        deleted_bytes: report.deleted_bytes,
        waiting_packs: report.waiting_packs,
        waiting_bytes: report.waiting_bytes,
        waiting_until: report.waiting_until.map(moments::rfc3339),
        orphans: report.orphans,
        orphan_bytes: report.orphan_bytes,
        segments_before: report.segments_before,
        segments_after: report.segments_after,
        problems: report.problems,
        seconds: report.duration.as_secs_f64(),
    }
}

fn packs(number: u64) -> String {
    counted(number, "pack", "packs")
}

fn plan(run: &Run, planned: &Planned) -> std::io::Result<()> {
    run.output.report(format!(
        "{} with {}: snapshots need {}",
        packs(planned.packs),
        bytes(planned.bytes),
        bytes(planned.live_bytes)
    ))?;
    run.output.report(format!(
        "  plan: {} that nobody needs ({}); rewrite {} ({}, of which {} are stored again)",
        packs(planned.unused_packs),
        bytes(planned.unused_bytes),
        packs(planned.rewritten_packs),
        bytes(planned.rewritten_bytes),
        bytes(planned.stored_again_bytes)
    ))?;
    run.output.report(format!(
        "  that frees {} and leaves {} unneeded",
        bytes(planned.freed_bytes()),
        bytes(planned.left_bytes)
    ))?;
    if planned.rebased_chunks > 0 {
        let chunks = counted(planned.rebased_chunks, "chunk", "chunks");
        let taken = bytes(planned.rebased_bytes);
        run.output.report(format!(
            "  before that, {chunks} may be stored without a base that is kept for them ({taken} together)"
        ))?;
    }
    Ok(())
}

fn show(run: &Run, report: &PruneReport) -> std::io::Result<()> {
    run.output.report(format!(
        "Took {} out of use ({}), stored {} again, in {}",
        packs(report.condemned_packs),
        bytes(report.condemned_bytes),
        bytes(report.rewritten_bytes),
        duration(report.duration)
    ))?;
    if report.rebased_chunks > 0 {
        let chunks = counted(report.rebased_chunks, "chunk", "chunks");
        let taken = bytes(report.rebased_bytes);
        run.output.report(format!("  stored {chunks} ({taken}) without the base that was kept for them"))?;
    }
    if report.read_back_chunks > 0 {
        let chunks = counted(report.read_back_chunks, "chunk", "chunks");
        let read = bytes(report.read_back_bytes);
        run.output.report(format!("  read {chunks} ({read}) of which another copy was taken out of use"))?;
    }
    run.output.report(format!("  deleted {} ({})", packs(report.deleted_packs), bytes(report.deleted_bytes)))?;
    if let Some(until) = report.waiting_until {
        run.output.report(format!(
            "  {} wait ({}) until {} at the latest; a prune after that deletes them, `undelete` can need them before",
            packs(report.waiting_packs),
            bytes(report.waiting_bytes),
            moments::show(until, &run.zone)
        ))?;
    }
    if report.orphans > 0 {
        let objects = counted(report.orphans, "object", "objects");
        run.output.report(format!("  removed {objects} of no use to anybody ({})", bytes(report.orphan_bytes)))?;
    }
    if report.segments_after != report.segments_before {
        let (before, after) = (count(report.segments_before), count(report.segments_after));
        run.output.report(format!("  index segments: {before} before, {after} after"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stay_is_a_share_or_a_size() {
        for (text, expected) in [
            ("5%", Some(MaxUnused::Share(0.05))),
            ("0%", Some(MaxUnused::Share(0.0))),
            ("0", Some(MaxUnused::Bytes(0))),
            ("10MiB", Some(MaxUnused::Bytes(10 << 20))),
            ("101%", None),
            ("-1%", None),
            ("much", None),
        ] {
            assert_eq!(parse_unused(text).ok(), expected, "{text}");
        }
    }
}
