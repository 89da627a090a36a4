//! `seawall find`: which snapshots hold what is looked for.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use seawall_engine::browse::{FindOptions, FindReport, find};
use seawall_engine::clock::Timestamp;
use seawall_engine::entry::{Entry, TreeKey};
use seawall_engine::error::{Error, Result};
use seawall_engine::repo::Snapshot;
use serde::Serialize;

use super::ls::EntryLine;
use crate::failure::Exit;
use crate::moments;
use crate::output::printable;
use crate::quantities::{counted, parse_size};
use crate::run::{Outcome, Run};
use crate::snapshot_name::{SnapshotPath, short};

const EXAMPLES: &str = "\
Examples:
    seawall find '*.safetensors' --larger 1GiB
    seawall find '/etc/**/*.conf' --snapshot latest:web1
    seawall find 'report*' -i --type f --newer 2026-11-01";

/// Find paths in snapshots
///
/// A pattern without a slash is matched against names, one with a slash against whole paths (`*` stops at a slash, `**`
/// does not). Everything that is asked for must be met. Without --snapshot all snapshots are searched; each match is
/// shown with the snapshot that holds it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// What to look for; one of several must match
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,

    /// Only in this snapshot; may be given several times
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Vec<OsString>,

    /// Only in snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,

    /// Small and capital letters are equal
    #[arg(short, long)]
    pub ignore_case: bool,

    /// Only files (f), directories (d), links (l), pipes (p), sockets (s), character (c) or block (b) devices
    #[arg(long = "type", value_name = "LETTER", value_parser = parse_type)]
    pub types: Vec<char>,

    /// Only files larger than this
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub larger: Option<u64>,

    /// Only files smaller than this
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub smaller: Option<u64>,

    /// Only what was modified after this date or time
    #[arg(long, value_name = "WHEN")]
    pub newer: Option<String>,

    /// Only what was modified before the end of this date or time
    #[arg(long, value_name = "WHEN")]
    pub older: Option<String>,

    /// Mode, owner, size and time too
    #[arg(short, long)]
    pub long: bool,
}

fn parse_type(text: &str) -> Result<char, String> {
    match text.chars().next() {
        Some(letter) if text.len() == 1 && "fdlpscb".contains(letter) => Ok(letter),
        _ => Err("write one of f d l p s c b".to_owned()),
    }
}

#[derive(Serialize)]
struct MatchLine {
    snapshot: String,
    #[serde(flatten)]
    entry: EntryLine,
}

impl Arguments {
    /// Searches.
    ///
    /// # Errors
    /// When a snapshot or pattern makes no sense, or the repository can't be read.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let options = self.options(run)?;
        let repository = run.open()?;
        let chosen = self.choose(run, &repository.snapshots())?;
        let mut written = Ok(());
        let report = find(&repository, &chosen, &options, &mut |snapshot, key, entry| {
            written = self.show(run, snapshot, key, entry);
            if written.is_err() || run.stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        written?;
        if run.stop.requested() {
            return Err(Error::Interrupted.into());
        }
        conclude(run, &report, chosen.len() as u64)
    }

    fn options(&self, run: &Run) -> Result<FindOptions> {
        Ok(FindOptions {
            patterns: self.patterns.clone(),
            ignore_case: self.ignore_case,
            types: self.types.clone(),
            larger_than: self.larger,
            smaller_than: self.smaller,
            newer_than: moment(run, self.newer.as_deref())?,
            older_than: moment(run, self.older.as_deref())?,
        })
    }

    fn choose(&self, run: &Run, all: &[Snapshot]) -> Result<Vec<Snapshot>> {
        let mut chosen = Vec::new();
        for name in &self.snapshot {
            let name = SnapshotPath::parse(name, &run.zone)?;
            if name.path.as_ref().is_some_and(|path| path.depth() > 0) {
                return Err(Error::Usage(format!("{}: --snapshot takes no path; write it as a pattern", name.written)));
            }
            chosen.push(name.resolve(all)?.clone());
        }
        if self.snapshot.is_empty() {
            chosen.extend_from_slice(all);
        }
        chosen.retain(|snapshot| self.host.as_ref().is_none_or(|host| *host == snapshot.record.host));
        Ok(chosen)
    }

    fn show(&self, run: &Run, snapshot: &Snapshot, key: &TreeKey, entry: &Entry) -> std::io::Result<()> {
        if run.output.json() {
            let snapshot = snapshot.record.id.to_string();
            return run.output.record("match", MatchLine { snapshot, entry: EntryLine::new(key, entry) });
        }
        let mut line = format!("{}  ", short(&snapshot.record.id)).into_bytes();
        if self.long {
            line.extend_from_slice(super::ls::long_columns(entry, run).as_bytes());
        }
        line.extend_from_slice(&run.output.path(key.to_path().as_os_str().as_bytes()));
        run.output.line(line)
    }
}

fn moment(run: &Run, text: Option<&str>) -> Result<Option<Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    let read = moments::parse(text, &run.zone);
    read.map(Some)
        .ok_or_else(|| Error::Usage(format!("{text:?} is no date or time: write 2026-11-22 or \"2026-11-22 14:05\"")))
}

/// Parts of trees that can't be read may hide matches, so they are problems of the search.
fn conclude(run: &Run, report: &FindReport, snapshots: u64) -> anyhow::Result<Outcome> {
    for problem in &report.problems {
        run.output.warn(&format!("{}: {}", printable(problem.subject.as_bytes()), problem.what));
    }
    run.output.note(&format!(
        "{} among {} of {}",
        counted(report.matches, "match", "matches"),
        counted(report.entries, "entry", "entries"),
        counted(snapshots, "snapshot", "snapshots")
    ));
    let exit = if report.problems_count > 0 { Exit::Damage } else { Exit::Done };
    Outcome::with(
        exit,
        serde_json::json!({
            "matches": report.matches,
            "entries": report.entries,
            "snapshots": snapshots,
            "problems": report.problems_count,
        }),
    )
}
