//! `seawall tensors`: which tensors a file of a snapshot holds, and what each takes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use seawall_engine::error::Error;
use seawall_engine::readers::View;
use seawall_engine::tensors::{FileTensors, ListOptions, ListReport, Stored, list};
use serde::Serialize;

use super::restore::exit;
use crate::output::{JsonPath, printable, table};
use crate::progress::Problems;
use crate::quantities::{bytes, counted, ratio};
use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

const EXAMPLES: &str = "\
Examples:
    seawall tensors latest:/srv/models/model.safetensors
    seawall tensors latest:/runs/step-4000 --tensor '*.exp_avg'
    seawall tensors 1a2b3c4d:/srv/models --tensor 'model.layers.0.*' --json";

/// So many digits of a base's chunk id are shown in JSON.
const BASE_DIGITS: usize = 16;

/// List the tensors in files of a snapshot
///
/// Name, dtype, shape as the numbers lie (slowest dimension first), plain bytes, bytes stored (a chunk that several tensors
/// share counts for each by its share), how the chunks are encoded, and how many of them against a base. Of the files only
/// headers are read: safetensors, torch (.pt, .pth, .bin, .distcp with its .metadata), npy, npz, GGUF, ONNX, Arrow, and such
/// files in a tar. Of a directory, all files below it; those without tensors are passed over.
///
/// Encodings: raw, zstd, zstd-prefix (against the old chunk), planes, difference (of numbers, to a base), constant, cast
/// (computed from a base), hole, inline (in the tree).
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The snapshot, and the file or directory in it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub place: OsString,

    /// Only tensors of this name; may be given several times
    ///
    /// `*` and `?` match any characters, dots and slashes among them; [0-9], [!a] and {a,b} work too. The whole name must
    /// match.
    #[arg(long, value_name = "GLOB")]
    pub tensor: Vec<String>,
}

/// A tensor in JSON. Sizes are bytes.
#[derive(Serialize)]
struct TensorLine<'t> {
    #[serde(flatten)]
    path: JsonPath,
    name: &'t str,
    dtype: &'static str,
    shape: &'t [u64],
    /// Where a part of a distributed checkpoint begins in the whole tensor, and how many parts that has.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<&'t [u64]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<usize>,
    /// `own`, `transposed`, `holes` or `rest`.
    view: &'static str,
    bytes: u64,
    stored_bytes: u64,
    chunks: u64,
    encodings: &'t [&'static str],
    with_base: u64,
    bases: Vec<String>,
}

#[derive(Serialize)]
struct TensorsSummary {
    snapshot: String,
    files: u64,
    tensors: u64,
    bytes: u64,
    stored_bytes: u64,
    problems: Problems,
}

impl Arguments {
    /// Lists.
    ///
    /// # Errors
    /// When there is no such path, its layout is not known, or the tree can't be read.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let named = SnapshotPath::parse(&self.place, &run.zone)?;
        let repository = run.open()?;
        let snapshots = repository.snapshots();
        let snapshot = named.resolve(&snapshots)?;
        let options = ListOptions { from: named.path_in(snapshot), names: self.tensor.clone() };
        let display = run.display();
        let mut failed = None;
        let listed = list(&repository, &snapshot.record.root, &options, &display, &mut |file| {
            failed = display.above(|| show(run, file)).err();
            if failed.is_some() { Err(Error::Interrupted) } else { Ok(()) }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        let report = listed?;
        let problems = display.problems();
        drop(display);
        conclude(run, &report)?;
        let summary = TensorsSummary {
            snapshot: snapshot.record.id.to_string(),
            files: report.files,
            tensors: report.tensors,
            bytes: report.bytes,
            stored_bytes: report.stored_bytes,
            problems: problems.clone(),
        };
        Outcome::with(exit(problems.count, &problems), summary)
    }
}

fn conclude(run: &Run, report: &ListReport) -> std::io::Result<()> {
    run.output.report(format!(
        "{} in {}: {} plain, {} stored ({})",
        counted(report.tensors, "tensor", "tensors"),
        counted(report.files, "file", "files"),
        bytes(report.bytes),
        bytes(report.stored_bytes),
        ratio(report.bytes, report.stored_bytes)
    ))
}

fn show(run: &Run, file: &FileTensors) -> std::io::Result<()> {
    let path = file.key.to_path();
    if run.output.json() {
        return file
            .tensors
            .iter()
            .try_for_each(|stored| run.output.record("tensor", tensor_line(JsonPath::from(path.as_path()), stored)));
    }
    run.output.line(run.output.path(path.as_os_str().as_bytes()))?;
    let mut rows = vec![["NAME", "DTYPE", "SHAPE", "PLAIN", "STORED", "ENCODING", "BASE"].map(str::to_owned).to_vec()];
    rows.extend(file.tensors.iter().map(row));
    table(&rows, &[3, 4]).into_iter().try_for_each(|line| run.output.line(line))?;
    run.output.line("")
}

fn tensor_line(path: JsonPath, stored: &Stored) -> TensorLine<'_> {
    let digits = |id: &seawall_engine::ids::ChunkId| id.to_string()[..BASE_DIGITS].to_owned();
    TensorLine {
        path,
        name: &stored.tensor.name,
        dtype: stored.tensor.dtype.name(),
        shape: &stored.tensor.shape,
        offset: stored.place.as_ref().map(|place| &place.offset[..]),
        parts: stored.place.as_ref().map(|place| place.parts),
        view: match stored.tensor.view {
            View::Own => "own",
            View::Turned => "transposed",
            View::Span => "holes",
            View::Rest => "rest",
        },
        bytes: stored.tensor.range.end - stored.tensor.range.start,
        stored_bytes: stored.stored_bytes,
        chunks: stored.chunks,
        encodings: &stored.encodings,
        with_base: stored.with_base,
        bases: stored.bases.iter().map(digits).collect(),
    }
}

fn row(stored: &Stored) -> Vec<String> {
    let tensor = &stored.tensor;
    let mut shape = format!("{:?}", tensor.shape);
    if let Some(place) = stored.place.as_ref().filter(|place| place.parts > 1) {
        shape += &format!(" at {:?}", place.offset);
    }
    shape += match tensor.view {
        View::Own => "",
        View::Turned => " transposed",
        View::Span => " view with holes",
        View::Rest => " no tensor's",
    };
    let base = match stored.with_base {
        0 => "-".to_owned(),
        count => format!("{count} of {}", stored.chunks),
    };
    vec![
        printable(tensor.name.as_bytes()),
        tensor.dtype.name().to_owned(),
        shape,
        bytes(tensor.range.end - tensor.range.start),
        bytes(stored.stored_bytes),
        stored.encodings.join(" "),
        base,
    ]
}
