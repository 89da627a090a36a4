//! `seawall restore --tensor`: single tensors of a snapshot, into one safetensors file.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use seawall_engine::entry::TreeKey;
use seawall_engine::repo::{Repository, Snapshot};
use seawall_engine::tensors::{ExtractOptions, ExtractReport, Extracted, extract};
use serde::Serialize;

use super::{Arguments, OverwriteChoice};
use crate::output::{JsonPath, printable, table};
use crate::progress::Problems;
use crate::quantities::{bytes, counted, duration, rate};
use crate::run::{Outcome, Run};
use crate::snapshot_name::short;

/// An extraction in JSON. Sizes are bytes.
#[derive(Serialize)]
struct ExtractSummary {
    snapshot: String,
    target: JsonPath,
    tensors: u64,
    bytes: u64,
    file_bytes: u64,
    blobs: u64,
    bytes_fetched: u64,
    seconds: f64,
    problems: Problems,
}

/// One tensor of a dry run in JSON.
#[derive(Serialize)]
struct TensorLine<'t> {
    name: &'t str,
    dtype: &'static str,
    shape: &'t [u64],
    bytes: u64,
    files: Vec<JsonPath>,
}

/// Extracts.
///
/// # Errors
/// When the file could not be written.
pub fn run(
    arguments: &Arguments,
    run: &Run,
    repository: &Repository,
    snapshot: &Snapshot,
    from: &TreeKey,
    target: &Path,
) -> anyhow::Result<Outcome> {
    let options = ExtractOptions {
        from: from.clone(),
        names: arguments.tensor.clone(),
        target: target.to_owned(),
        replace: arguments.overwrite == OverwriteChoice::Always,
        dry_run: arguments.dry_run,
        budget_bytes: run.settings.budget_bytes,
        threads: run.settings.threads,
    };
    let display = run.display();
    let report = extract(repository, &snapshot.record.root, &options, &display)?;
    let problems = display.problems();
    drop(display);
    if arguments.dry_run {
        show_tensors(run, &report)?;
    }
    show(run, &report, snapshot, target, arguments.dry_run)?;
    let exit = super::exit(problems.count, &problems);
    Outcome::with(
        exit,
        ExtractSummary {
            snapshot: snapshot.record.id.to_string(),
            target: JsonPath::from(target),
            tensors: report.tensors.len() as u64,
            bytes: report.bytes,
            file_bytes: report.file_bytes,
            blobs: report.blobs,
            bytes_fetched: report.bytes_fetched,
            seconds: report.duration.as_secs_f64(),
            problems,
        },
    )
}

fn show_tensors(run: &Run, report: &ExtractReport) -> std::io::Result<()> {
    for tensor in &report.tensors {
        let (name, dtype, shape) = (tensor.name.as_str(), tensor.dtype.name(), &tensor.shape[..]);
        let files = tensor.files.iter().map(|key| JsonPath::from(key.to_path().as_path())).collect();
        run.output.record("tensor", TensorLine { name, dtype, shape, bytes: tensor.bytes, files })?;
    }
    let rows: Vec<Vec<String>> = report.tensors.iter().map(row).collect();
    table(&rows, &[3]).into_iter().try_for_each(|line| run.output.line(line))
}

fn row(tensor: &Extracted) -> Vec<String> {
    let path = |key: &TreeKey| printable(key.to_path().as_os_str().as_bytes());
    let place = match &tensor.files[..] {
        [] => String::new(),
        [file] => path(file),
        [first, .., last] => format!("{} … {} ({} files)", path(first), path(last), tensor.files.len()),
    };
    vec![
        printable(tensor.name.as_bytes()),
        tensor.dtype.name().to_owned(),
        format!("{:?}", tensor.shape),
        bytes(tensor.bytes),
        place,
    ]
}

fn show(run: &Run, report: &ExtractReport, snapshot: &Snapshot, target: &Path, dry_run: bool) -> std::io::Result<()> {
    let shown = printable(target.as_os_str().as_bytes());
    let tensors = counted(report.tensors.len() as u64, "tensor", "tensors");
    let head = if dry_run { "Dry run:" } else { "Restored" };
    run.output.report(format!("{head} {tensors} of snapshot {} to {shown}", short(&snapshot.record.id)))?;
    let fetched = format!("{}, {} fetched", counted(report.blobs, "blob", "blobs"), bytes(report.bytes_fetched));
    if dry_run {
        return run.output.report(format!("  {}; {fetched} for headers", bytes(report.bytes)));
    }
    let speed = rate(report.bytes, report.duration.as_secs_f64());
    run.output.report(format!("  {} in {} ({speed}); {fetched}", bytes(report.bytes), duration(report.duration)))
}
