//! The files of one checkpoint that lie beside each other: those with FP32 numbers are read before those with BF16 numbers,
//! which may be their casts (`docs/decisions/0017-masters-before-their-casts.md`).
//!
//! The walk meets files in the order of their names. Those that may hold tensors are held until it has left the checkpoint's
//! folder ([`Held`]); then their headers tell in which order they are sent. Where there are not both kinds, nothing is changed.
//!
//! Invariant: a file waits for such only that were sent before it.

use std::path::Path;
use std::sync::Arc;

use crate::backup::files::FileJob;
use crate::backup::masters::{CastTensors, Remembered};
use crate::backup::runs::{Mark, RunMarks, mark, step_of};
use crate::entry::TreeKey;
use crate::readers::{Dtype, Layout};

/// So many files are held at most: each holds its folder open.
const FILES_MAX: usize = 256;
/// So many names go by before what is held is sent.
const NAMES_MAX: usize = 1024;
/// How the names of files end that may hold masters or casts.
const ENDINGS: [&[u8]; 6] = [b".safetensors", b".pt", b".pth", b".bin", b".ckpt", b".distcp"];
/// A file is one of masters if it holds one FP32 number for at most so many BF16 ones.
const CASTS_A_MASTER: u64 = 4;

/// What a file is to those beside it.
#[derive(Clone, Default)]
pub(crate) enum Beside {
    /// Nothing.
    #[default]
    Alone,
    /// It may hold masters of theirs.
    Masters(Arc<CastTensors>),
    /// Its numbers may be casts of theirs.
    Casts(Arc<CastTensors>),
}

impl Beside {
    /// Under what is announced that this file will be read, where others wait for it.
    pub(crate) fn announced(&self) -> Option<&Mark> {
        if let Self::Masters(casts) = self { Some(&casts.mark) } else { None }
    }

    /// What is announced of the files for which this one waits.
    pub(crate) fn awaited(&self) -> Option<&Mark> {
        if let Self::Casts(casts) = self { Some(&casts.mark) } else { None }
    }
}

/// Files that are held until the walk has left their folder.
#[derive(Default)]
pub(crate) struct Held {
    folder: TreeKey,
    jobs: Vec<FileJob>,
    names: usize,
}

impl Held {
    /// True if a file is to be held: by its name, and if others of its run would wait for it.
    pub(crate) fn wants(job: &FileJob) -> bool {
        let name = job.found.key.name().to_ascii_lowercase();
        job.has_turn() && ENDINGS.iter().any(|ending| name.ends_with(ending))
    }

    /// The walk comes by `key`: true if what is held has to be sent first.
    pub(crate) fn is_over_at(&mut self, key: &TreeKey) -> bool {
        self.names += 1;
        !self.jobs.is_empty() && (self.names > NAMES_MAX || !key.is_within(&self.folder))
    }

    /// Holds one more; true if all have to be sent now.
    pub(crate) fn hold(&mut self, job: FileJob) -> bool {
        let folder = folder(&job.found.key);
        if self.jobs.is_empty() {
            (self.folder, self.names) = (folder, 0);
        }
        self.jobs.push(job);
        self.jobs.len() == FILES_MAX
    }

    /// True if a file belongs to another checkpoint than those that are held.
    pub(crate) fn is_apart(&self, job: &FileJob) -> bool {
        !self.jobs.is_empty() && folder(&job.found.key) != self.folder
    }

    /// What was held, in the order in which it is sent. `look` reads a file's header.
    pub(crate) fn release(
        &mut self,
        look: &dyn Fn(&FileJob) -> Option<Layout>,
        remembered: &Remembered,
    ) -> Vec<FileJob> {
        let mut jobs = std::mem::take(&mut self.jobs);
        let runs = |job: &FileJob| RunMarks::of(&job.found.key).run();
        if jobs.first().is_none_or(|first| jobs.iter().all(|job| runs(job) == runs(first))) {
            // Shards of one model are alike.
            return jobs;
        }
        let number = jobs[0].number.to_le_bytes();
        let mut casts = CastTensors::new(mark(b"beside", [&self.folder.0, &number]), remembered);
        let kinds: Vec<Kind> = jobs
            .iter()
            .map(|job| {
                let Some(layout) = look(job) else { return Kind::Other };
                let kind = Kind::of(&layout);
                if kind == Kind::Casts {
                    casts.add(Arc::<Path>::from(job.found.key.to_path()), &layout);
                }
                kind
            })
            .collect();
        if !(kinds.contains(&Kind::Masters) && kinds.contains(&Kind::Casts)) {
            return jobs;
        }
        let casts = Arc::new(casts);
        for (job, kind) in jobs.iter_mut().zip(kinds) {
            job.beside = match kind {
                Kind::Other => Beside::Alone,
                Kind::Masters => Beside::Masters(Arc::clone(&casts)),
                Kind::Casts => Beside::Casts(Arc::clone(&casts)),
            };
        }
        // Why by number: what rank 2 holds of a flat tensor comes before what rank 10 holds.
        jobs.sort_by_cached_key(|job| match &job.beside {
            Beside::Masters(_) => (0, by_number(&job.found.key.0)),
            Beside::Alone => (1, Vec::new()),
            Beside::Casts(_) => (2, Vec::new()),
        });
        jobs
    }
}

/// What a file may hold for those beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Masters,
    Casts,
    Other,
}

impl Kind {
    fn of(layout: &Layout) -> Self {
        let elements = |dtype: Dtype| {
            let tensors = layout.tensors.iter().filter(|tensor| tensor.dtype == dtype);
            let bytes: u64 = tensors.map(|tensor| tensor.range.end - tensor.range.start).sum();
            bytes / u64::from(dtype.width())
        };
        match (elements(Dtype::F32), elements(Dtype::Bf16)) {
            (0, 0) => Self::Other,
            (masters, casts) if masters.saturating_mul(CASTS_A_MASTER) >= casts => Self::Masters,
            _ => Self::Casts,
        }
    }
}

/// The folder of the checkpoint that a file is of: its own, or the one above where that one's name tells a step and its own does
/// not tell another.
fn folder(key: &TreeKey) -> TreeKey {
    let above = |key: &TreeKey| TreeKey(key.0[..key.0.len().saturating_sub(key.name().len() + 1)].to_vec());
    let own = above(key);
    let outer = above(&own);
    let is_one = match (step_of(outer.name()), step_of(own.name())) {
        (Some(outer), Some(own)) => outer == own,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if is_one { outer } else { own }
}

/// Bytes whose order is that of the names with their numbers taken as numbers.
fn by_number(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 8);
    for run in name.chunk_by(|left, right| left.is_ascii_digit() == right.is_ascii_digit()) {
        if run.first().is_some_and(u8::is_ascii_digit) {
            let digits = &run[run.iter().take_while(|&&digit| digit == b'0').count()..];
            out.push(b'0');
            out.extend_from_slice(&(digits.len() as u32).to_be_bytes());
            out.extend_from_slice(digits);
        } else {
            out.extend_from_slice(run);
        }
    }
    out
}

#[cfg(test)]
mod tests;
