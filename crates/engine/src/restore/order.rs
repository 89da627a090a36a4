//! Weights first: a model is whole, in its place and on the disk before the state of its optimizer begins.
//!
//! Pass 1 passes over the files that [`is_late`] names. When all others are written, the file system is synced and the time
//! is taken; a second walk, through the directories that pass 1 left, takes the rest. What a file is for its name tells
//! ([`crate::readers::is_state_file`]); a file that holds both counts as a model. Directories get their own metadata only
//! in pass 2, as always: until then nobody but their owner enters those that are new.

use std::sync::Arc;

use super::cursor::{self, Entered, Level, Pass};
use super::finish;
use super::run::Run;
use super::write::{Writer, Written, with_workers};
use crate::entry::{Entry, TreeKey};
use crate::error::{Error, Result};
use crate::readers::is_state_file;
use crate::stages::target::Directory;

/// Whether anything is to be put off. A dry run writes nothing, and lists in the order of the tree.
pub(super) fn is_asked_for(run: &Run<'_>) -> bool {
    run.options.weights_first && !run.options.dry_run
}

/// Whether a file is to wait until the others are done. Only folders below the start of the restore count.
pub(super) fn is_late(run: &Run<'_>, key: &TreeKey, entry: &Entry) -> bool {
    let above = run.options.from.depth().min(key.depth().saturating_sub(1));
    is_asked_for(run) && entry.is_file() && is_state_file(key.components().skip(above))
}

/// After the walk that passed over the late files: makes the others durable, then takes the late ones.
pub(super) fn finish(run: &Run<'_>, target: &Arc<Directory>, written: Written) -> Result<Written> {
    rustix::fs::syncfs(target.handle()).map_err(|error| Error::file(&run.options.target, "cannot sync", error))?;
    let time = *run.weights.get_or_init(|| run.started.elapsed());
    run.note(&format!("weights complete after {:.2} s", time.as_secs_f64()));
    if !written.passed_over {
        return Ok(written);
    }
    let walk = |writer: &mut Writer<'_>| cursor::walk(run, Some(Arc::clone(target)), &mut Late { run, writer });
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
