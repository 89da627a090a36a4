//! `seawall diff`: what changed between two snapshots.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use seawall_engine::diff::{Change, ChangeKind, DiffReport, diff};
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use serde::Serialize;

use crate::output::JsonPath;
use crate::quantities::{bytes, count};
use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

const EXAMPLES: &str = "\
Examples:
    seawall diff 1a2b3c4d latest
    seawall diff 2026-11-01 2026-11-22:/etc --metadata";

/// Show what changed from one snapshot to another
///
/// One line for each path: + added, - removed, M content changed, T kind changed, and with `--metadata` also U, only
/// owner, mode, times or attributes changed. Reads only the parts of the trees that differ.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The earlier snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub from: OsString,

    /// The later one, and the path to look at
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub to: OsString,

    /// Metadata changes too
    #[arg(long)]
    pub metadata: bool,
}

/// A diff in JSON. Sizes are bytes.
#[derive(Serialize)]
struct DiffSummary {
    added: u64,
    removed: u64,
    modified: u64,
    types: u64,
    metadata: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

#[derive(Serialize)]
struct ChangeLine {
    change: &'static str,
    #[serde(flatten)]
    path: JsonPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_after: Option<u64>,
}

impl Arguments {
    /// Compares.
    ///
    /// # Errors
    /// When a snapshot does not exist or its tree can't be read.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let from = SnapshotPath::parse(&self.from, &run.zone)?;
        let to = SnapshotPath::parse(&self.to, &run.zone)?;
        let repository = run.open()?;
        let snapshots = repository.snapshots();
        let (old, new) = (from.resolve(&snapshots)?, to.resolve(&snapshots)?);
        let within = common_path(&from.path_in(old), &to.path_in(new))?;
        let mut written = Ok(());
        let report = diff(&repository, &old.record.root, &new.record.root, &within, &mut |change| {
            if change.kind != ChangeKind::Metadata || self.metadata {
                written = show(run, &change);
            }
            if written.is_err() || run.stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        written?;
        if run.stop.requested() {
            return Err(Error::Interrupted.into());
        }
        run.output.report(text(&report))?;
        Outcome::done(DiffSummary::from(&report))
    }
}

/// A path may stand behind either name; behind both it must be the same.
fn common_path(from: &TreeKey, to: &TreeKey) -> Result<TreeKey> {
    if from == to || from.depth() == 0 {
        Ok(to.clone())
    } else if to.depth() == 0 {
        Ok(from.clone())
    } else {
        Err(Error::Usage("the two paths differ: diff looks at one path in both snapshots".to_owned()))
    }
}

impl From<&DiffReport> for DiffSummary {
    fn from(report: &DiffReport) -> Self {
        Self {
            added: report.added,
            removed: report.removed,
            modified: report.content,
            types: report.types,
            metadata: report.metadata,
            bytes_added: report.bytes_added,
            bytes_removed: report.bytes_removed,
        }
    }
}

fn text(report: &DiffReport) -> String {
    format!(
        "{} added, {} removed, {} modified, {} of another kind, {} with other metadata; {} then, {} now",
        count(report.added),
        count(report.removed),
        count(report.content),
        count(report.types),
        count(report.metadata),
        bytes(report.bytes_removed),
        bytes(report.bytes_added)
    )
}

fn show(run: &Run, change: &Change) -> std::io::Result<()> {
    let (letter, word) = match change.kind {
        ChangeKind::Added => ("+", "added"),
        ChangeKind::Removed => ("-", "removed"),
        ChangeKind::Content => ("M", "modified"),
        ChangeKind::Type => ("T", "type"),
        ChangeKind::Metadata => ("U", "metadata"),
    };
    let path = change.key.to_path();
    run.output.record(
        "change",
        ChangeLine {
            change: word,
            path: JsonPath::from(path.as_path()),
            size_before: change.old.as_ref().map(|entry| entry.size),
            size_after: change.new.as_ref().map(|entry| entry.size),
        },
    )?;
    let mut line = format!("{letter}  ").into_bytes();
    line.extend_from_slice(&run.output.path(path.as_os_str().as_bytes()));
    run.output.line(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_stand_behind_either_name() {
        let key = |text: &str| TreeKey(text.as_bytes().to_vec());
        assert_eq!(common_path(&key(""), &key("etc")).unwrap(), key("etc"));
        assert_eq!(common_path(&key("etc"), &key("")).unwrap(), key("etc"));
        assert_eq!(common_path(&key("etc"), &key("etc")).unwrap(), key("etc"));
        assert_eq!(common_path(&key("etc"), &key("srv")).unwrap_err().code(), "usage");
    }
}
