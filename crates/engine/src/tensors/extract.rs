//! Extract: some tensors of a snapshot into one safetensors file.
//!
//! The headers of the files are read, names that match are put together ([`super::wholes`]), and the file is laid out;
//! only then the numbers are fetched. The file gets its name when it is whole and durable; whatever goes wrong before
//! leaves nothing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::fetch::{self, Fetch, Source, Strewn};
use super::files::{Look, TensorFile, each_file};
use super::names::Names;
use super::new_file::{Destination, NewFile};
use super::wholes::{ByName, Part, Way, Whole, wholes};
use crate::clock;
use crate::entry::{Content, TreeKey};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::readers::{self, Dtype, Outline, SafetensorsHeader};
use crate::repo::{Fetched, Repository, StoredFile};

/// What to extract, and whereto.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// A file of the snapshot, or a directory: then all files below it that have a layout.
    pub from: TreeKey,
    /// Patterns of names; each must match something. `*` matches any characters, dots and slashes among them.
    pub names: Vec<String>,
    /// The file to write.
    pub target: PathBuf,
    /// What stands there may be replaced. A directory never is.
    pub replace: bool,
    /// Write nothing, only say what would be written.
    pub dry_run: bool,
    /// Bytes that may be in flight.
    pub budget_bytes: usize,
    /// Threads that fetch and decode; 0 for as many as there are processors.
    pub threads: usize,
}

/// A tensor that was, or would be, written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub dtype: Dtype,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Its length in bytes.
    pub bytes: u64,
    /// The files of the snapshot that it comes from, ascending.
    pub files: Vec<TreeKey>,
}

/// What was done; of a dry run, what would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtractReport {
    /// The tensors, in order of names.
    pub tensors: Vec<Extracted>,
    /// Length of all tensors in bytes.
    pub bytes: u64,
    /// Length of the file in bytes, header included.
    pub file_bytes: u64,
    /// What was got from the store: blobs with headers of the source files, with numbers, and with bases of those. Not
    /// the tree.
    pub blobs: u64,
    /// Their bytes.
    pub bytes_fetched: u64,
    /// Problems told to the monitor.
    pub problems: u64,
    /// How long it took.
    pub duration: Duration,
}

/// Writes the tensors that match into one new safetensors file.
///
/// # Errors
/// [`Error::NotFound`] where nothing is at the path or a pattern matches nothing; [`Error::Usage`] for tensors that
/// can't be written so, named in the text; damage of what they need; [`Error::File`] where the target can't be written
/// or something stands there. Then there is no file.
pub fn extract(
    repository: &Repository,
    root: &ChunkId,
    options: &ExtractOptions,
    monitor: &dyn Monitor,
) -> Result<ExtractReport> {
    let started = clock::monotonic();
    let names = Names::new(&options.names)?;
    let destination = Destination::open(&options.target, options.replace)?;
    monitor.phase(Phase::Opening);
    let mut chosen = Chosen::new(&names);
    each_file(repository, root, &options.from, monitor, &mut |look| chosen.take(look))?;
    let mut report = ExtractReport::default();
    chosen.judge(&options.from, &mut |problem| {
        report.problems += 1;
        monitor.problem(problem);
    })?;
    let Chosen { files, found, fetched, .. } = chosen;
    let keys: Vec<TreeKey> = files.iter().map(|file| file.key.clone()).collect();
    let wholes = wholes(found, &keys)?;
    let header = lay_out(&wholes)?;
    report.tensors = wholes.iter().map(|whole| extracted(whole, &keys)).collect();
    report.bytes = report.tensors.iter().map(|tensor| tensor.bytes).sum();
    report.file_bytes = header.file_bytes;
    let mut total = fetched;
    if !options.dry_run {
        monitor.phase(Phase::Restoring);
        let mode = files.iter().fold(0o666, |mode, file| mode & file.mode) | 0o600;
        let new = destination.create(mode)?;
        let job = Job { repository, monitor, options, files: &files, wholes: &wholes, header: &header };
        total += job.write(&new, report.bytes)?;
        new.finish()?;
    }
    (report.blobs, report.bytes_fetched) = (total.blobs, total.bytes);
    report.duration = started.elapsed();
    Ok(report)
}

/// A file of which something is wanted.
struct ChosenFile {
    key: TreeKey,
    mode: u32,
    content: Content,
}

/// What was chosen so far.
struct Chosen<'n> {
    names: &'n Names,
    files: Vec<ChosenFile>,
    found: ByName,
    fetched: Fetched,
    /// Files that were looked at and have a layout.
    known: u64,
    failures: Vec<(TreeKey, Error)>,
    /// Files with more tensors than were looked at, and how many.
    crowded: Vec<(TreeKey, u64)>,
}

impl<'n> Chosen<'n> {
    fn new(names: &'n Names) -> Self {
        let (found, fetched) = (ByName::new(), Fetched::default());
        Self { names, files: Vec::new(), found, fetched, known: 0, failures: Vec::new(), crowded: Vec::new() }
    }

    fn take(&mut self, look: Look<'_>) -> Result<()> {
        match look {
            Look::Unknown(_) => {}
            Look::Failed(key, error) => self.failures.push((key, error)),
            Look::File(file) => self.take_file(*file),
        }
        Ok(())
    }

    fn take_file(&mut self, file: TensorFile<'_>) {
        self.known += 1;
        self.fetched += file.stored.fetched();
        if let Some(error) = file.failure {
            self.failures.push((file.key.clone(), error));
        }
        if file.left_out > 0 {
            self.crowded.push((file.key.clone(), file.left_out));
        }
        let number = self.files.len();
        let wanted = file.found.into_iter().filter(|found| found.is_named() && self.names.is_match(&found.tensor.name));
        let mut is_wanted = false;
        for found in wanted {
            is_wanted = true;
            self.found.entry(found.tensor.name.clone()).or_default().push((number, found));
        }
        if is_wanted {
            self.files.push(ChosenFile { key: file.key, mode: file.mode, content: file.content });
        }
    }

    /// Whether all that was asked for is there. A header that can't be read, or has too many tensors, may hide some: then only
    /// names without wildcards tell that nothing is missing.
    fn judge(&mut self, from: &TreeKey, problem: &mut dyn FnMut(Problem)) -> Result<()> {
        let unmet: Vec<String> = self
            .names
            .unmet(self.found.keys().map(String::as_str))
            .into_iter()
            .map(|name| format!("{name:?}"))
            .collect();
        let is_certain = unmet.is_empty() && self.names.are_plain();
        for (key, error) in self.failures.drain(..) {
            if !is_certain || !error.is_damage() {
                return Err(error);
            }
            let what = format!("its header can't be read whole, all that was asked for is there: {error}");
            problem(Problem::path(&key.to_path(), "damaged", what));
        }
        for (key, left_out) in self.crowded.drain(..) {
            let what = format!("{left_out} more of its tensors were not looked at: they are too many");
            if !is_certain {
                return Err(Error::Usage(format!("{}: {what}", key.to_path().display())));
            }
            problem(Problem::path(&key.to_path(), "too-many", format!("{what}; all that was asked for is there")));
        }
        let path = from.to_path();
        if self.known == 0 {
            return Err(Error::NotFound(format!(
                "{}: no file there has a layout of tensors that is known",
                path.display()
            )));
        }
        if !unmet.is_empty() {
            let unmet = unmet.join(", ");
            return Err(Error::NotFound(format!("{}: no tensor is named {unmet}", path.display())));
        }
        Ok(())
    }
}

fn lay_out(wholes: &[Whole]) -> Result<SafetensorsHeader> {
    let outlines: Vec<Outline<'_>> =
        wholes.iter().map(|whole| Outline { name: &whole.name, dtype: whole.dtype, shape: &whole.shape }).collect();
    let refused = || Error::Usage("the header of a safetensors file does not hold these tensors".to_owned());
    readers::safetensors_header(&outlines).ok_or_else(refused)
}

fn extracted(whole: &Whole, keys: &[TreeKey]) -> Extracted {
    let mut files: Vec<usize> = whole.parts.iter().map(|part| part.file).collect();
    files.sort_unstable();
    files.dedup();
    Extracted {
        name: whole.name.clone(),
        dtype: whole.dtype,
        shape: whole.shape.clone(),
        bytes: whole.parts.iter().map(Part::bytes).sum(),
        files: files.into_iter().map(|file| keys[file].clone()).collect(),
    }
}

/// What is to be written.
struct Job<'a> {
    repository: &'a Repository,
    monitor: &'a dyn Monitor,
    options: &'a ExtractOptions,
    files: &'a [ChosenFile],
    wholes: &'a [Whole],
    header: &'a SafetensorsHeader,
}

impl Job<'_> {
    /// Writes header and numbers, source file by source file. Gives what was fetched.
    fn write(&self, new: &NewFile, bytes: u64) -> Result<Fetched> {
        use std::os::unix::fs::FileExt;
        let failed = |error| new.failed("cannot write", error);
        new.file().set_len(self.header.file_bytes).map_err(failed)?;
        new.file().write_all_at(&self.header.bytes, 0).map_err(failed)?;
        let files_known = self.files.len() as u64;
        let fetch = Fetch {
            repository: self.repository,
            monitor: self.monitor,
            target: new,
            threads: fetch::threads(self.options.threads, self.options.budget_bytes),
            window_bytes: self.options.budget_bytes / 4,
            progress: Mutex::new(Progress { files_known, bytes_known: bytes, ..Progress::default() }),
            fetched: Mutex::default(),
        };
        for (number, file) in self.files.iter().enumerate() {
            self.monitor.current(&file.key.to_path());
            self.file(number, file, new, &fetch)?;
        }
        Ok(fetch.fetched.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn file(&self, number: usize, file: &ChosenFile, new: &NewFile, fetch: &Fetch<'_>) -> Result<()> {
        let (mut sources, mut strewn) = (Vec::new(), Vec::new());
        for (whole, &start) in self.wholes.iter().zip(&self.header.starts) {
            for part in whole.parts.iter().filter(|part| part.file == number) {
                let range = part.range.clone();
                match &part.way {
                    Way::Runs(placement) => sources.push(Source { range, placement, start }),
                    Way::Gather(gather) => strewn.push(Strewn { range, gather, start }),
                }
            }
        }
        if let Content::Inline(bytes) = &file.content {
            let written = inline(bytes, &sources, &strewn, new);
            return written.map_err(|error| new.failed("cannot write", error));
        }
        let stored = StoredFile::open(self.repository, &file.content)?;
        let stored = stored.ok_or_else(|| changed(&file.key.to_path()))?;
        fetch.file(&stored, &sources)?;
        strewn.iter().try_for_each(|strewn| fetch.strewn(&stored, strewn))
    }
}

fn changed(path: &Path) -> Error {
    Error::file(path, "cannot read", std::io::Error::other("its list of pieces is another than before"))
}

/// A small file lies in the tree.
fn inline(bytes: &[u8], sources: &[Source<'_>], strewn: &[Strewn<'_>], new: &NewFile) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let place = |at: u64| usize::try_from(at).expect("a layout lies inside its file");
    let part = |range: &Range<u64>| &bytes[place(range.start)..place(range.end)];
    for source in sources {
        let part = part(&source.range);
        source.placement.runs(0..part.len() as u64, &mut |at, whole, length| {
            new.file().write_all_at(&part[place(at)..place(at + length)], source.start + whole)
        })?;
    }
    strewn.iter().try_for_each(|strewn| {
        let write = &mut |at: u64, run: &[u8]| new.file().write_all_at(run, strewn.start + at);
        strewn.gather.runs(0, part(&strewn.range), write)
    })
}
