//! `seawall tensors --compare`: how far the tensors of a checkpoint moved from those of another, and what broke.
//!
//! Warnings are the result, so they stand in the table on standard output, and make the exit code 3; problems are what kept
//! the comparison from being whole.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use seawall_engine::entry::TreeKey;
use seawall_engine::error::Error;
use seawall_engine::repo::{Repository, Snapshot};
use seawall_engine::statistics::Statistics;
use seawall_engine::statistics::compare::{Break, Row};
use seawall_engine::statistics::table::TensorRecord;
use seawall_engine::tensors::{DriftReport, FileDrift, Side, compare, counterpart};
use serde::Serialize;

use super::figures::{StatisticsLine, figure, notes, percent};
use super::{Arguments, header};
use crate::commands::restore::exit;
use crate::output::{JsonPath, printable, table};
use crate::progress::Problems;
use crate::quantities::{count, counted};
use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

/// A tensor of both, or of one, in JSON.
#[derive(Serialize)]
struct DriftLine<'t> {
    /// The new file; the old one where only that is there.
    #[serde(flatten)]
    path: JsonPath,
    /// The old file; none where the new one has no counterpart.
    old: Option<JsonPath>,
    name: &'t str,
    dtype: &'static str,
    shape: &'t [u64],
    before: Option<StatisticsLine<'t>>,
    now: Option<StatisticsLine<'t>>,
    /// Change of the norm as a share of what it was.
    norm_change: Option<f64>,
    /// How many binades the numbers moved on the average.
    distance: Option<f64>,
    findings: Vec<FindingLine>,
}

#[derive(Serialize)]
struct FindingLine {
    finding: &'static str,
    what: String,
    is_warning: bool,
}

#[derive(Serialize)]
struct DriftSummary {
    snapshot: String,
    old_snapshot: String,
    old_path: JsonPath,
    files: u64,
    tensors: u64,
    compared: u64,
    warnings: u64,
    appeared: u64,
    vanished: u64,
    reshaped: u64,
    problems: Problems,
}

/// Compares with `other`.
///
/// # Errors
/// When either is not there or has no statistics, or a tree can't be read.
pub(super) fn run(arguments: &Arguments, other: &OsStr, run: &Run) -> anyhow::Result<Outcome> {
    let named = SnapshotPath::parse(&arguments.place, &run.zone)?;
    let other = SnapshotPath::parse(other, &run.zone)?;
    let repository = run.open()?;
    let snapshots = repository.snapshots();
    let (snapshot, old_snapshot) = (named.resolve(&snapshots)?, other.resolve(&snapshots)?);
    let new = Side { root: snapshot.record.root, from: named.path_in(snapshot) };
    let from = old_path(&repository, &other, old_snapshot, &new.from)?;
    let old = Side { root: old_snapshot.record.root, from };
    let display = run.display();
    let mut failed = None;
    let compared = compare(&repository, &old, &new, &arguments.tensor, &display, &mut |file| {
        failed = display.above(|| show(run, file)).err();
        if failed.is_some() { Err(Error::Interrupted) } else { Ok(()) }
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let report = compared?;
    let problems = display.problems();
    drop(display);
    run.output.report(last_line(&report))?;
    let exit = exit(report.warnings + problems.count, &problems);
    let summary = DriftSummary {
        snapshot: snapshot.record.id.to_string(),
        old_snapshot: old_snapshot.record.id.to_string(),
        old_path: JsonPath::from(old.from.to_path().as_path()),
        files: report.files,
        tensors: report.tensors,
        compared: report.compared,
        warnings: report.warnings,
        appeared: report.appeared,
        vanished: report.vanished,
        reshaped: report.reshaped,
        problems,
    };
    Outcome::with(exit, summary)
}

/// The path that was written, else what belongs to the new one.
fn old_path(
    repository: &Repository,
    other: &SnapshotPath,
    snapshot: &Snapshot,
    new: &TreeKey,
) -> seawall_engine::error::Result<TreeKey> {
    repository.refuse_unable_to_read()?;
    let inside = other.path_in(snapshot);
    if other.path.is_some() || inside.depth() > 0 {
        return Ok(inside);
    }
    counterpart(repository, &snapshot.record.root, new)
}

fn last_line(report: &DriftReport) -> String {
    let odd = [(report.appeared, "new"), (report.vanished, "gone"), (report.reshaped, "of another kind or shape")];
    let odd: String = odd
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!(", {} {what}", count(*number)))
        .collect();
    format!(
        "{}; {} of {} in {} compared{odd}",
        counted(report.warnings, "warning", "warnings"),
        count(report.compared),
        counted(report.tensors, "tensor", "tensors"),
        counted(report.files, "file", "files"),
    )
}

fn show(run: &Run, file: &FileDrift<'_>) -> std::io::Result<()> {
    let Some(key) = file.new.or(file.old) else { return Ok(()) };
    if run.output.json() {
        return file.rows.iter().try_for_each(|row| run.output.record("drift", line(key, file.old, row)));
    }
    let path = key.to_path();
    let mut title = run.output.path(path.as_os_str().as_bytes()).into_owned();
    match (file.old, file.new) {
        (Some(old), Some(_)) => {
            title.extend_from_slice(b" against ");
            title.extend_from_slice(&run.output.path(old.to_path().as_os_str().as_bytes()));
        }
        (None, _) => title.extend_from_slice(b": a new file"),
        (_, None) => title.extend_from_slice(b": the file is gone"),
    }
    run.output.line(title)?;
    let mut rows = vec![header(&["NAME", "NORM BEFORE", "NORM NOW", "CHANGE", "BINADES", "FOUND"])];
    rows.extend(file.rows.iter().map(row));
    table(&rows, &[1, 2, 3, 4]).into_iter().try_for_each(|line| run.output.line(line))?;
    run.output.line("")
}

fn statistics(record: Option<&TensorRecord>) -> Option<&Statistics> {
    record.and_then(|record| record.statistics.as_ref())
}

fn line<'t>(key: &TreeKey, old: Option<&TreeKey>, row: &Row<'t>) -> DriftLine<'t> {
    let tensor = row.new.or(row.old).map(|record| &record.tensor);
    let finding =
        |what: &Break| FindingLine { finding: what.code(), what: what.to_string(), is_warning: what.is_warning() };
    DriftLine {
        path: JsonPath::from(key.to_path().as_path()),
        old: old.map(|old| JsonPath::from(old.to_path().as_path())),
        name: row.name,
        dtype: tensor.map_or("", |tensor| tensor.dtype.name()),
        shape: tensor.map_or(&[], |tensor| &tensor.shape),
        before: statistics(row.old).map(StatisticsLine::from),
        now: statistics(row.new).map(StatisticsLine::from),
        norm_change: row.drift.and_then(|drift| drift.norm),
        distance: row.drift.and_then(|drift| drift.distance),
        findings: row.findings.iter().map(finding).collect(),
    }
}

fn row(row: &Row<'_>) -> Vec<String> {
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let norm = |record| dash(statistics(record).map(|known| figure(known.norm())));
    vec![
        printable(row.name.as_bytes()),
        norm(row.old),
        norm(row.new),
        dash(row.drift.and_then(|drift| drift.norm).map(percent)),
        dash(row.drift.and_then(|drift| drift.distance).map(|distance| format!("{distance:.2}"))),
        found(row),
    ]
}

/// What was found, in words; of what is no finding, what should be known of the tensor all the same.
fn found(row: &Row<'_>) -> String {
    let (warnings, others): (Vec<&Break>, Vec<&Break>) = row.findings.iter().partition(|found| found.is_warning());
    let words = |list: &[&Break]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if !warnings.is_empty() {
        return format!("WARNING: {}", words(&warnings));
    }
    let notes = statistics(row.new).map_or_else(String::new, notes);
    [words(&others), notes].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}
