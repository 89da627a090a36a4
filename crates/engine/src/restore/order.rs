//! Weights first: a model is whole, in its place and on the disk before the state of its optimizer begins.
//!
//! Pass 1 passes over the files that [`is_late`] names. When all others are written, the file system is synced and the time
//! is taken; a second walk, through the directories that pass 1 left, takes the rest. What a file is for its name tells
//! ([`crate::readers::is_state_file`]).
//!
//! Of a safetensors file that holds both, the chunks with weights are written first, and those that hold only state after
//! that moment; under its name it shows when it is whole, as every large file. Other files that hold both count as models:
//! their headers lie all over them. Directories get their own metadata only in pass 2, as always: until then nobody but
//! their owner enters those that are new.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cursor::{self, Entered, Level, Pass};
use super::finish;
use super::run::Run;
use super::write::{Writer, Written, with_workers};
use crate::entry::{Content, Entry, TreeKey};
use crate::error::{Error, Result};
use crate::readers::{Role, is_state_file, roles};
use crate::stages::target::{Directory, TargetFile};
use crate::units::MIB;

/// Shorter files are not looked into, in bytes: they take no time.
const MIXED_BYTES_MIN: u64 = MIB as u64;
/// So many files may wait half written, each with its directory open and its list of chunks in memory; of more, all is
/// written at once.
const HELD_MAX: usize = 64;
/// Files whose header lies at their start, so that reading it costs a chunk.
const MIXED_ENDING: &[u8] = b".safetensors";

/// Whether anything is to be put off. A dry run writes nothing, and lists in the order of the tree.
pub(super) fn is_asked_for(run: &Run<'_>) -> bool {
    run.options.weights_first && !run.options.dry_run
}

/// Whether a file is to wait until the others are done. Only folders below the start of the restore count.
pub(super) fn is_late(run: &Run<'_>, key: &TreeKey, entry: &Entry) -> bool {
    let above = run.options.from.depth().min(key.depth().saturating_sub(1));
    is_asked_for(run) && entry.is_file() && is_state_file(key.components().skip(above))
}

/// Which parts of a file hold only state.
#[derive(Debug)]
pub(super) struct LateParts {
    /// Where each tensor ends, ascending, and what it is for; tensors are disjoint.
    tensors: Vec<(Range<u64>, Role)>,
}

impl LateParts {
    /// True for a stretch of the file with state and without weights.
    pub(super) fn is_late(&self, place: Range<u64>) -> bool {
        let first = self.tensors.partition_point(|(range, _)| range.end <= place.start);
        let mut touched = self.tensors[first..].iter().take_while(|(range, _)| range.start < place.end).peekable();
        touched.peek().is_some() && touched.all(|(_, role)| *role == Role::State)
    }
}

/// The parts of a file that wait, if there are any; `held` files wait already.
pub(super) fn late_parts(run: &Run<'_>, file: &TargetFile, content: &Content, held: usize) -> Option<LateParts> {
    let name = file.key().name();
    let is_small = file.entry().size < MIXED_BYTES_MIN;
    if !is_asked_for(run)
        || run.weights.get().is_some()
        || is_small
        || held >= HELD_MAX
        || !name.ends_with(MIXED_ENDING)
    {
        return None;
    }
    let layout = run.origin.layout(content, name)?;
    let names: Vec<&str> = layout.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let roles = roles(&names);
    let is_mixed = roles.contains(&Role::State);
    let tensors = layout.tensors.iter().map(|tensor| tensor.range.clone()).zip(roles).collect();
    is_mixed.then_some(LateParts { tensors })
}

/// After the walk that passed over the late files: makes the others durable, then takes the late ones.
pub(super) fn finish(run: &Run<'_>, target: &Arc<Directory>, written: Written) -> Result<Written> {
    rustix::fs::syncfs(target.handle()).map_err(|error| Error::file(&run.options.target, "cannot sync", error))?;
    let time = *run.weights.get_or_init(|| run.started.elapsed());
    let remark = match run.tally.problems.load(Ordering::Relaxed) {
        0 => "",
        _ => ", but for what the problems so far name",
    };
    run.note(&format!("weights complete after {:.2} s{remark}", time.as_secs_f64()));
    if !written.passed_over && written.held.is_empty() {
        return Ok(written);
    }
    let walk = |writer: &mut Writer<'_>| {
        writer.plan_held()?;
        if writer.written().passed_over {
            cursor::walk(run, Some(Arc::clone(target)), &mut Late { run, writer })?;
        }
        Ok(())
    };
    with_workers(run, Some(target), written, walk)
}

/// The second walk.
struct Late<'l, 'a> {
    run: &'l Run<'l>,
    writer: &'l mut Writer<'a>,
}

impl Pass for Late<'_, '_> {
    fn enter(&mut self, here: Option<&Arc<Directory>>, level: &Level) -> Result<Entered> {
        Ok(finish::enter(self.run, self.writer.written(), here, level))
    }

    fn leaf(&mut self, here: Option<&Arc<Directory>>, key: TreeKey, entry: Entry) -> Result<()> {
        if is_late(self.run, &key, &entry) { self.writer.restore_leaf(here, key, entry) } else { Ok(()) }
    }

    fn leave(&mut self, _here: &Arc<Directory>, _level: &Level) -> Result<()> {
        Ok(())
    }
}
