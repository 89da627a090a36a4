//! Listing: the tensors of files, and what each takes in the repository.
//!
//! Headers are read; of the numbers only the index is asked, and what their statistics were when they were stored. A chunk that reaches over several tensors counts for each by
//! its share of bytes, and one that the file has at several places counts at each.

use std::collections::HashSet;
use std::ops::Range;

use super::files::{Look, Place, TensorFile, each_file};
use super::names::Names;
use crate::codec;
use crate::entry::{Content, TreeKey};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::monitor::{Monitor, Phase, Problem};
use crate::readers::{Format, Tensor, View};
use crate::repo::{Repository, StoredFile};
use crate::statistics::Statistics;
use crate::statistics::table::{TensorRecord, TensorTable};

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// A file of the snapshot, or a directory: then all files below it that have a layout.
    pub from: TreeKey,
    /// Patterns of names, as in [`super::ExtractOptions::names`]; none for all.
    pub names: Vec<String>,
}

/// A tensor, or a part of one, and what it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// What the file says of it.
    pub tensor: Tensor,
    /// Where it belongs in the whole, for parts of distributed checkpoints.
    pub place: Option<Place>,
    /// Sealed lengths of its chunks, each by the share of its bytes that the tensor has. Of content that lies in the tree,
    /// the plain bytes. 0 for one that shares its numbers: they count where the tensor is that has them.
    pub stored_bytes: u64,
    /// Chunks that it touches.
    pub chunks: u64,
    /// How they are encoded: [`encoding`] of each codec, each once. `inline` for what lies in the tree, `hole` for what has no
    /// chunk.
    pub encodings: Vec<&'static str>,
    /// How many of the chunks are encoded against a base.
    pub with_base: u64,
    /// The bases, each once, in order of first use.
    pub bases: Vec<ChunkId>,
    /// What its numbers were like when they were stored; none where that is not known.
    pub statistics: Option<Statistics>,
}

/// A file with its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct FileTensors {
    /// Its path.
    pub key: TreeKey,
    /// What it was recognised as.
    pub format: Format,
    /// Its tensors that match, in the order in which they lie.
    pub tensors: Vec<Stored>,
}

/// What a listing did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListReport {
    /// Files with tensors that match.
    pub files: u64,
    /// Files without a layout that is known.
    pub unknown: u64,
    /// Tensors and parts given.
    pub tensors: u64,
    /// Their plain bytes, shared ones once.
    pub bytes: u64,
    /// What they take.
    pub stored_bytes: u64,
    /// Problems told to the monitor.
    pub problems: u64,
}

/// Gives `each` the tensors of the files at a path of the tree `root`, file by file.
///
/// # Errors
/// [`Error::NotFound`] where nothing is at the path, or a file without a layout, and, after all others were given, for a
/// pattern that no tensor's name matches; [`Error::Usage`] for what is no pattern;
/// damage of the tree; what `each` fails with. A file that can't be looked into is a problem.
pub fn list(
    repository: &Repository,
    root: &ChunkId,
    options: &ListOptions,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(&FileTensors) -> Result<()>,
) -> Result<ListReport> {
    let names = Names::new(&options.names)?;
    let mut report = ListReport::default();
    let mut unmet = options.names.clone();
    monitor.phase(Phase::Opening);
    each_file(repository, root, &options.from, monitor, &mut |look| {
        let mut problem = |key: &TreeKey, code, what: String| {
            report.problems += 1;
            monitor.problem(Problem::path(&key.to_path(), code, what));
        };
        let file = match look {
            Look::File(file) => file,
            Look::Unknown(key) if key == options.from => {
                let shown = key.to_path().display().to_string();
                return Err(Error::NotFound(format!("{shown}: its layout is none that is known")));
            }
            Look::Unknown(_) => {
                report.unknown += 1;
                return Ok(());
            }
            Look::Failed(key, error) => {
                problem(&key, code(&error), error.to_string());
                return Ok(());
            }
        };
        if let Some(error) = &file.failure {
            problem(&file.key, code(error), format!("tensors may be missing, its header can't be read whole: {error}"));
        }
        if file.left_out > 0 {
            let left_out = file.left_out;
            problem(&file.key, "too-many", format!("{left_out} more of its tensors are not listed: they are too many"));
        }
        if !unmet.is_empty() {
            let missed = names.unmet(file.found.iter().map(|found| &*found.tensor.name));
            unmet.retain(|pattern| missed.contains(&pattern.as_str()));
        }
        let (mut tensors, lost) = tensors(repository, &file, &names);
        if lost > 0 {
            problem(&file.key, "missing", format!("no index segment lists {lost} of its chunks"));
        }
        if tensors.is_empty() {
            return Ok(());
        }
        match file.table.as_ref().map(|table| repository.read_table(table)).transpose() {
            Ok(Some(table)) => add_statistics(&mut tensors, table),
            Ok(None) => {}
            Err(error) => problem(&file.key, code(&error), format!("its statistics can't be read: {error}")),
        }
        report.files += 1;
        report.tensors += tensors.len() as u64;
        let own = tensors.iter().filter(|stored| stored.tensor.view != View::Shared);
        report.bytes += own.map(|stored| stored.tensor.range.end - stored.tensor.range.start).sum::<u64>();
        report.stored_bytes += tensors.iter().map(|stored| stored.stored_bytes).sum::<u64>();
        each(&FileTensors { key: file.key, format: file.format, tensors })
    })?;
    // Why not where something could not be read: it may lie there, and that was told.
    if !unmet.is_empty() && report.problems == 0 {
        let shown = options.from.to_path().display().to_string();
        return Err(Error::NotFound(format!("{shown}: no tensor is named {}", unmet.join(", "))));
    }
    Ok(report)
}

pub(super) fn code(error: &Error) -> &'static str {
    if error.is_damage() { "damaged" } else { "unreadable" }
}

/// The tensors that match, and how many of their chunks no segment lists.
fn tensors(repository: &Repository, file: &TensorFile<'_>, names: &Names) -> (Vec<Stored>, u64) {
    let mut lost = 0;
    let wanted = file.found.iter().filter(|found| names.is_match(&found.tensor.name));
    let tensors = wanted.map(|found| {
        let (tensor, place) = (found.tensor.clone(), found.place.clone());
        let shares = tensor.view == View::Shared;
        let mut lost_here = 0;
        let mut stored = match file.content {
            Content::Inline(_) => inline(tensor, place),
            _ => stored(repository, &file.stored, tensor, place, &mut lost_here),
        };
        if shares {
            stored.stored_bytes = 0;
        } else {
            lost += lost_here;
        }
        stored
    });
    (tensors.collect(), lost)
}

/// Gives tensors what the table of their file knows of them. Why not by name: `.metadata` may have renamed them.
fn add_statistics(tensors: &mut [Stored], table: TensorTable) {
    let records = table.tensors;
    for stored in tensors {
        let place = records.binary_search_by_key(&stored.tensor.range.start, |record| record.tensor.range.start);
        let record = place.ok().map(|place| &records[place]);
        let same = |record: &&TensorRecord| {
            (&record.tensor.range, record.tensor.dtype) == (&stored.tensor.range, stored.tensor.dtype)
        };
        stored.statistics = record.filter(same).and_then(|record| record.statistics.clone());
    }
}

fn inline(tensor: Tensor, place: Option<Place>) -> Stored {
    let stored_bytes = tensor.range.end - tensor.range.start;
    let encodings = vec!["inline"];
    Stored { tensor, place, stored_bytes, chunks: 0, encodings, with_base: 0, bases: Vec::new(), statistics: None }
}

fn stored(
    repository: &Repository,
    file: &StoredFile<'_>,
    tensor: Tensor,
    place: Option<Place>,
    lost: &mut u64,
) -> Stored {
    let (mut stored_bytes, mut chunks, mut with_base, mut covered) = (0_u64, 0, 0, 0);
    let (mut codecs, mut bases, mut known) = (Vec::new(), Vec::new(), HashSet::new());
    for (start, length, id) in file.touched(&tensor.range) {
        let own = overlap(&tensor.range, &(*start..start + u64::from(*length)));
        covered += own;
        chunks += 1;
        let Some(location) = repository.locate(id) else {
            *lost += 1;
            continue;
        };
        stored_bytes += share(location.sealed_len, own, *length);
        if !codecs.contains(&location.codec) {
            codecs.push(location.codec);
        }
        with_base += u64::from(location.base.is_some());
        bases.extend(location.base.filter(|base| known.insert(*base)));
    }
    codecs.sort_unstable();
    let mut encodings: Vec<&'static str> = codecs.into_iter().map(encoding).collect();
    if covered < tensor.range.end - tensor.range.start {
        encodings.push("hole");
    }
    Stored { tensor, place, stored_bytes, chunks, encodings, with_base, bases, statistics: None }
}

fn overlap(left: &Range<u64>, right: &Range<u64>) -> u64 {
    left.end.min(right.end).saturating_sub(left.start.max(right.start))
}

/// The part of a chunk's sealed length that `own` of its plain bytes have, rounded down.
fn share(sealed_len: u32, own: u64, length: u32) -> u64 {
    let (sealed_len, length) = (u64::from(sealed_len), u64::from(length.max(1)));
    // Why no overflow: a chunk is at most 8 MiB, so both factors fit 32 bits.
    sealed_len * own.min(length) / length
}

/// The name of a codec, by its number in the stored format (docs/format.md §6.1).
#[must_use]
pub fn encoding(codec: u8) -> &'static str {
    match codec {
        codec::id::RAW => "raw",
        codec::id::ZSTD => "zstd",
        codec::id::ZSTD_PREFIX => "zstd-prefix",
        codec::id::PLANES => "planes",
        codec::id::PLANES_DIFFERENCE => "difference",
        codec::id::CONSTANT => "constant",
        codec::id::DERIVED => "cast",
        codec::id::PLANES_SCALED => "scaled",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_chunk() {
        for (sealed_len, own, length, expected) in [
            (1000, 100, 100, 1000),
            (1000, 50, 100, 500),
            (7, 1, 3, 2),
            (u32::MAX, 9, 1, u64::from(u32::MAX)),
            (5, 0, 0, 0),
        ] {
            assert_eq!(share(sealed_len, own, length), expected, "{own} of {length}");
        }
        assert_eq!((overlap(&(10..20), &(15..30)), overlap(&(10..20), &(20..30))), (5, 0));
    }

    /// Every codec of the stored format has a name of its own here.
    #[test]
    fn codecs_have_names() {
        let names: std::collections::BTreeSet<&str> = (0..=codec::id::DERIVED).map(encoding).collect();
        assert_eq!(names.len(), usize::from(codec::id::DERIVED) + 1);
        assert!(!names.contains("unknown"));
    }
}
