//! Browse: looking into snapshots without restoring them: list a directory, find names, read a file, count what is
//! stored.
//!
//! Only the nodes and chunks that an answer needs are read. Where several snapshots are searched, parts of their trees
//! that they share and that hold no match are read once.

mod cat;
mod find;
mod stats;

use std::ops::ControlFlow;

use crate::entry::{Entry, TreeKey};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::repo::Repository;
use crate::repo::nodes::{Search, Step};

pub use cat::cat;
pub use find::{FindOptions, FindReport, find};
pub use stats::{CodecStats, Stats, StoredBytes, stats};

/// Takes an entry of a listing.
pub type EachEntry<'e> = &'e mut dyn FnMut(&TreeKey, &Entry) -> ControlFlow<()>;

/// Lists what is at `key` in the tree `root`: of a directory its entries, or with `recursive` everything below it, of
/// anything else the entry itself. Nodes that hold only what lies deeper than asked for are not read.
///
/// # Errors
/// [`Error::NotFound`] where there is nothing at `key`; damage of the tree.
pub fn list(
    repository: &Repository,
    root: &ChunkId,
    key: &TreeKey,
    recursive: bool,
    each: EachEntry<'_>,
) -> Result<()> {
    let top = repository.tree(root).get(key)?.ok_or_else(|| not_found(key))?;
    if !top.is_directory() {
        let _ = each(key, &top);
        return Ok(());
    }
    // The last entry given: what lies below it is skipped in a flat listing.
    let mut above: Option<TreeKey> = None;
    let mut outcome = Ok(());
    Search::new(repository, false).run(root, &mut |step| match step {
        Step::Node(node) => {
            let is_deeper = above.as_ref().is_some_and(|above| node.is_within(above));
            let wanted = node.may_hold_within(key) && !is_deeper;
            if wanted { ControlFlow::Continue(false) } else { ControlFlow::Break(false) }
        }
        Step::Lost(_, error) => {
            outcome = Err(error);
            ControlFlow::Break(false)
        }
        Step::Entry(found, _) if found == key || !found.is_within(key) => ControlFlow::Continue(false),
        Step::Entry(found, _) if above.as_ref().is_some_and(|above| found.is_within(above)) => {
            ControlFlow::Continue(false)
        }
        Step::Entry(found, entry) => {
            if !recursive {
                above = Some(found.clone());
            }
            each(found, entry).map_break(|()| true).map_continue(|()| true)
        }
    });
    outcome
}

fn not_found(key: &TreeKey) -> Error {
    Error::NotFound(format!("{} is not in the snapshot", key.to_path().display()))
}
