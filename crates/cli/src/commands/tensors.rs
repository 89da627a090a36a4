//! `seawall tensors`: which tensors a file of a snapshot holds, what each takes, and what its numbers were like.
//!
//! `drift` compares with another file; `figures` has what both show of statistics.

mod drift;
mod figures;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use seawall_engine::error::Error;
use seawall_engine::readers::View;
use seawall_engine::statistics::Statistics;
use seawall_engine::tensors::{FileTensors, ListOptions, ListReport, Stored, list};
use serde::Serialize;

use self::figures::{StatisticsLine, figure, notes};
use super::restore::exit;
use crate::output::{JsonPath, printable, table};
use crate::progress::Problems;
use crate::quantities::{bytes, counted, ratio};
use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

const EXAMPLES: &str = "\
Examples:
    seawall tensors latest:/srv/models/model.safetensors
    seawall tensors latest:/runs/step-4000 --tensor '*.exp_avg' --statistics
    seawall tensors latest:/runs/step-4000 --compare latest:/runs/step-3000
    seawall tensors latest:/runs/step-4000 --compare 1a2b3c4d
    seawall tensors 1a2b3c4d:/srv/models --tensor 'model.layers.0.*' --json";

/// So many digits of a base's chunk id are shown in JSON.
const BASE_DIGITS: usize = 16;

/// List the tensors in files of a snapshot
///
/// Name, dtype, shape as the numbers lie (slowest dimension first), plain bytes, bytes stored (a chunk that several tensors
/// share counts for each by its share), how the chunks are encoded, and how many of them against a base. Of the files only
/// headers are read: safetensors, torch (.pt, .pth, .bin, .distcp with its .metadata), npy, npz, GGUF, ONNX, Arrow, and such
/// files in a tar. Of a directory, all files below it; those without tensors are passed over. A tensor that shares its
/// numbers with one before it is listed, and takes nothing.
///
/// Encodings: raw, zstd, zstd-prefix (against the old chunk), planes, difference (of numbers, to a base), constant, cast
/// (computed from a base), scaled (planes by the scales of rows and columns), hole, inline (in the tree).
///
/// What the numbers were like is stored with each file of 64 KiB and more: a note tells of NaN, infinities and tensors that
/// are all zero. `--statistics` shows all of it. `--compare` holds it against another checkpoint's, reads no file for that, and
/// ends with 3 if a tensor broke: a NaN or an infinity where there was none, or many more of them, zeros, or numbers of other
/// sizes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The snapshot, and the file or directory in it
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub place: OsString,

    /// Only tensors of this name; may be given several times
    ///
    /// `*` and `?` match any characters, dots and slashes among them; [0-9], [!a] and {a,b} work too. The whole name must
    /// match. One that no name matches is an error, told after the others were listed.
    #[arg(long, value_name = "GLOB")]
    pub tensor: Vec<String>,

    /// Show what the numbers were like when they were stored, in place of what they take
    ///
    /// How many are NaN, infinite and zero, the smallest and largest of the others, and their L2 norm. `-` where it is not known:
    /// of files under 64 KiB, of quantised blocks and other kinds whose bytes are no numbers by themselves.
    #[arg(long, conflicts_with = "compare")]
    pub statistics: bool,

    /// Show how far the tensors moved from another checkpoint, and what broke
    ///
    /// Of each tensor the norm before and now, how much it changed, how many binades (powers of two) the numbers moved on
    /// the average, and what was found. Files of two directories belong together where their paths below those are the same.
    /// Without a path: the same path in that snapshot, else the one that differs from it in digits only. The exit code is 3 if
    /// there is a warning.
    #[arg(long, value_name = "SNAPSHOT[:PATH]")]
    pub compare: Option<OsString>,
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
    /// `own`, `transposed`, `holes`, `shared` or `rest`.
    view: &'static str,
    bytes: u64,
    stored_bytes: u64,
    chunks: u64,
    encodings: &'t [&'static str],
    with_base: u64,
    bases: Vec<String>,
    /// None where it is not known.
    statistics: Option<StatisticsLine<'t>>,
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
    /// True if it looks for what broke, and the exit code tells.
    #[must_use]
    pub fn checks(&self) -> bool {
        self.compare.is_some()
    }

    /// Lists.
    ///
    /// # Errors
    /// When there is no such path, its layout is not known, or the tree can't be read.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        match &self.compare {
            Some(other) => drift::run(self, other, run),
            None => self.list(run),
        }
    }

    fn list(&self, run: &Run) -> anyhow::Result<Outcome> {
        let named = SnapshotPath::parse(&self.place, &run.zone)?;
        let repository = run.open()?;
        let snapshots = repository.snapshots();
        let snapshot = named.resolve(&snapshots)?;
        let options = ListOptions { from: named.path_in(snapshot), names: self.tensor.clone() };
        let display = run.display();
        let mut failed = None;
        let listed = list(&repository, &snapshot.record.root, &options, &display, &mut |file| {
            failed = display.above(|| show(run, file, self.statistics)).err();
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

fn show(run: &Run, file: &FileTensors, statistics: bool) -> std::io::Result<()> {
    let path = file.key.to_path();
    if run.output.json() {
        return file
            .tensors
            .iter()
            .try_for_each(|stored| run.output.record("tensor", tensor_line(JsonPath::from(path.as_path()), stored)));
    }
    run.output.line(run.output.path(path.as_os_str().as_bytes()))?;
    let (rows, right) =
        if statistics { (statistics_rows(file), &[3, 4, 5, 6, 7][..]) } else { (rows(file), &[3, 4][..]) };
    table(&rows, right).into_iter().try_for_each(|line| run.output.line(line))?;
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
            View::Shared => "shared",
            View::Rest => "rest",
        },
        bytes: stored.tensor.range.end - stored.tensor.range.start,
        stored_bytes: stored.stored_bytes,
        chunks: stored.chunks,
        encodings: &stored.encodings,
        with_base: stored.with_base,
        bases: stored.bases.iter().map(digits).collect(),
        statistics: stored.statistics.as_ref().map(StatisticsLine::from),
    }
}

fn header(titles: &[&str]) -> Vec<String> {
    titles.iter().map(|title| (*title).to_owned()).collect()
}

/// What each tensor takes; with notes where there are any.
fn rows(file: &FileTensors) -> Vec<Vec<String>> {
    let mut rows = vec![header(&["NAME", "DTYPE", "SHAPE", "PLAIN", "STORED", "ENCODING", "BASE"])];
    rows.extend(file.tensors.iter().map(row));
    let notes: Vec<String> =
        file.tensors.iter().map(|stored| stored.statistics.as_ref().map_or_else(String::new, notes)).collect();
    if notes.iter().any(|note| !note.is_empty()) {
        let column = std::iter::once("NOTE".to_owned()).chain(notes);
        rows.iter_mut().zip(column).for_each(|(row, note)| row.push(note));
    }
    rows
}

fn row(stored: &Stored) -> Vec<String> {
    let tensor = &stored.tensor;
    let base = match stored.with_base {
        0 => "-".to_owned(),
        count => format!("{count} of {}", stored.chunks),
    };
    vec![
        printable(tensor.name.as_bytes()),
        tensor.dtype.name().to_owned(),
        shape(stored),
        bytes(tensor.range.end - tensor.range.start),
        bytes(stored.stored_bytes),
        stored.encodings.join(" "),
        base,
    ]
}

/// What the numbers of each tensor were like.
fn statistics_rows(file: &FileTensors) -> Vec<Vec<String>> {
    let row = |stored: &Stored| {
        let known = stored.statistics.as_ref();
        let cell = |text: &dyn Fn(&Statistics) -> String| known.map_or_else(|| "-".to_owned(), text);
        let bound = |which: fn((f64, f64)) -> f64| {
            known.and_then(|known| known.range).map_or_else(|| "-".to_owned(), |range| figure(which(range)))
        };
        vec![
            printable(stored.tensor.name.as_bytes()),
            stored.tensor.dtype.name().to_owned(),
            shape(stored),
            cell(&|known| format!("{}/{}", known.nan, known.infinite)),
            cell(&|known| known.zeros.to_string()),
            bound(|range| range.0),
            bound(|range| range.1),
            cell(&|known| figure(known.norm())),
        ]
    };
    let titles = ["NAME", "DTYPE", "SHAPE", "NAN/INF", "ZEROS", "MIN", "MAX", "NORM"];
    std::iter::once(header(&titles)).chain(file.tensors.iter().map(row)).collect()
}

fn shape(stored: &Stored) -> String {
    let mut shape = format!("{:?}", stored.tensor.shape);
    if let Some(place) = stored.place.as_ref().filter(|place| place.parts > 1) {
        shape += &format!(" at {:?}", place.offset);
    }
    shape
        + match stored.tensor.view {
            View::Own => "",
            View::Turned => " transposed",
            View::Span => " view with holes",
            View::Shared => " shares its numbers",
            View::Rest => " no tensor's",
        }
}
