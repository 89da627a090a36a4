//! What goes from the target: strays with `delete`, and what stands in the way of something else.
//!
//! Nothing goes that the patterns leave to its owner or that is guarded ([`super::guard`]). What stands in the way goes whole
//! or not at all, and a directory only when what takes its place is complete beside it.

use std::io;
use std::sync::Arc;

use super::Act;
use super::run::{Run, add};
use crate::entry::TreeKey;
use crate::stages::target::remove::{self, Removal};
use crate::stages::target::{Directory, Standing};

/// True if the thing at `key` may go with all that it holds; reported if not. Changes nothing.
pub(super) fn may_go(run: &Run<'_>, here: &Arc<Directory>, key: &TreeKey) -> bool {
    clear(run, here, key, true)
}

/// Removes what stands in the way. False, and reported, if something of it stays; where it is known beforehand that something
/// must, nothing goes.
pub(super) fn make_way(run: &Run<'_>, here: &Arc<Directory>, key: &TreeKey) -> bool {
    may_go(run, here, key) && (run.options.dry_run || clear(run, here, key, false))
}

/// As [`make_way`], for something that waits beside it under a temporary name.
///
/// # Errors
/// When something stays.
pub(super) fn give_place(run: &Run<'_>, here: &Arc<Directory>, key: &TreeKey) -> io::Result<()> {
    if clear(run, here, key, false) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "what stands there could not be removed"))
}

fn clear(run: &Run<'_>, here: &Arc<Directory>, key: &TreeKey, dry: bool) -> bool {
    let mut clearing = Clearing { run, told: false };
    match remove::remove(here, key, dry, &mut clearing) {
        Ok(true) => return true,
        Ok(false) => {}
        Err(error) => clearing.failed(key, &error),
    }
    if !clearing.told {
        run.problem(key, "skipped", "what stands there holds things that are excluded");
    }
    false
}

/// Removes a stray, for `delete`.
///
/// # Errors
/// When a directory was moved away while it was emptied.
pub(super) fn sweep(run: &Run<'_>, here: &Arc<Directory>, key: &TreeKey) -> io::Result<bool> {
    remove::remove(here, key, run.options.dry_run, &mut Sweeping { run })
}

struct Sweeping<'a> {
    run: &'a Run<'a>,
}

impl Removal for Sweeping<'_> {
    fn may_remove(&mut self, key: &TreeKey, standing: &Standing) -> bool {
        if self.run.selection.protects(key, standing.is_directory()) {
            return false;
        }
        match self.run.guard.is_or_holds(standing.identity) {
            Some(why) => {
                self.run.problem(key, "skipped", format!("not deleted: {why}"));
                false
            }
            None => true,
        }
    }

    fn removed(&mut self, key: &TreeKey) {
        add(&self.run.tally.deleted, 1);
        if self.run.options.dry_run {
            self.run.plan(Act::Delete, key);
        }
    }

    fn failed(&mut self, key: &TreeKey, error: &io::Error) {
        self.run.problem(key, "unwritable", format!("cannot remove: {error}"));
    }
}

struct Clearing<'a> {
    run: &'a Run<'a>,
    /// True once a problem said why something stays.
    told: bool,
}

impl Removal for Clearing<'_> {
    fn may_remove(&mut self, key: &TreeKey, standing: &Standing) -> bool {
        if self.run.selection.protects(key, standing.is_directory()) {
            return false;
        }
        match self.run.guard.is_or_holds(standing.identity) {
            Some(why) => {
                self.told = true;
                self.run.problem(key, "skipped", format!("not replaced: {why}"));
                false
            }
            None => true,
        }
    }

    fn removed(&mut self, _key: &TreeKey) {}

    fn failed(&mut self, key: &TreeKey, error: &io::Error) {
        self.told = true;
        self.run.problem(key, "unwritable", format!("cannot remove what stands there: {error}"));
    }
}
