//! Undelete: brings forgotten snapshots back while what they need is still there.
//!
//! Every chunk that they reach needs a copy that no DELETE names (rule U1 of docs/concurrency.md); packs of all such copies,
//! and of the bases of all of them, that were condemned are no longer. The entry is put at exactly the number for which that was looked up, so a prune
//! either sees it and keeps the packs, or was first, and then this says what is gone.

use std::collections::BTreeSet;

use crate::error::{Damaged, Error, Result};
use crate::format::log::Act;
use crate::format::names::PackName;
use crate::format::slot::Role;
use crate::ids::{ChunkId, SnapshotId};
use crate::monitor::{Monitor, Phase};
use crate::repo::Repository;
use crate::repo::index::Index;
use crate::repo::marks::Marks;
use crate::rules::{self, BaseLeft, Copy, Forgotten, State};
use crate::simulation::{Rule, is_left_out};

/// What [`undelete`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UndeleteReport {
    /// The snapshots that are back.
    pub snapshots: Vec<SnapshotId>,
    /// Packs that are no longer condemned.
    pub packs: u64,
    /// Number of the log entry.
    pub number: u64,
}

/// Brings snapshots back; all of them or none.
///
/// # Errors
/// [`Error::NotAllowed`] without an owner's key; [`Error::NotFound`] where one was not forgotten, or a prune has deleted
/// what it needs; [`Error::Damaged`] where its tree can't be read.
pub fn undelete(repository: &Repository, ids: &[SnapshotId], monitor: &dyn Monitor) -> Result<UndeleteReport> {
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("bring snapshots back"));
    }
    if ids.is_empty() {
        return Err(Error::Usage("no snapshots to bring back".into()));
    }
    monitor.phase(Phase::Marking);
    loop {
        let (state, index) = repository.look()?;
        let mut packs = BTreeSet::new();
        let mut marks = Marks::new(repository, index);
        for id in ids {
            let forgotten = find(&state, id)?;
            let mut need = |index: &Index, chunk: &ChunkId| bring_back(&state, index, chunk, &mut packs);
            marks.walk(&forgotten.snapshot, monitor, &mut need).map_err(|error| explain(error, id))?;
        }
        if marks.unlisted > 0 {
            return Err(Error::NotFound(format!("{} chunks that it needs are gone", marks.unlisted)));
        }
        let report = UndeleteReport { snapshots: ids.to_vec(), packs: packs.len() as u64, number: state.next };
        let act = Act::Undelete { snapshots: ids.to_vec(), packs: packs.into_iter().collect() };
        if repository.try_append(state.next, act)? {
            return Ok(report);
        }
    }
}

fn find<'s>(state: &'s State, id: &SnapshotId) -> Result<&'s Forgotten> {
    if let Some(forgotten) = state.forgotten.get(id) {
        return Ok(forgotten);
    }
    Err(Error::NotFound(match state.snapshot(id) {
        Some(_) => format!("snapshot {id} is not forgotten"),
        None => format!("no snapshot {id} to bring back: it never was, or a prune has deleted what it needs"),
    }))
}

fn explain(error: Error, id: &SnapshotId) -> Error {
    match error {
        Error::Damaged(Damaged { object, why, .. }) => {
            Error::NotFound(format!("snapshot {id} can't come back: {object}: {why}"))
        }
        Error::NotFound(why) => Error::NotFound(format!("snapshot {id} can't come back: {why}")),
        other => other,
    }
}

/// Adds the packs that must come back for a chunk, and for the bases of its copies.
///
/// Why those of all copies: nobody has read the copy that is taken. The next prune gives up another one, or its base, only
/// after it has.
fn bring_back(state: &State, index: &Index, chunk: &ChunkId, packs: &mut BTreeSet<PackName>) -> Result<()> {
    let of_base = |base: &ChunkId| {
        let copies = copies(index, base);
        rules::left(rules::brings_back(state, base, &copies, true, &|_| BaseLeft::Nothing))
    };
    let all = copies(index, chunk);
    let chosen = rules::brings_back(state, chunk, &all, false, &of_base)
        .ok_or_else(|| Damaged::new(format!("chunk {chunk}"), 0, "a prune has deleted it"))?;
    let with_base = all.iter().filter(|copy| *copy == chosen.copy || !is_left_out(Rule::AllBasesComeBack));
    let of_bases = with_base.filter_map(|copy| copy.base).flat_map(|base| copies(index, &base));
    let needed = all.iter().copied().chain(of_bases.filter(|copy| copy.base.is_none())).map(|copy| copy.pack);
    let standing = &state.standing;
    packs.extend(needed.filter(|pack| standing.condemned.contains_key(pack) && !standing.deleted.contains_key(pack)));
    Ok(())
}

fn copies(index: &Index, chunk: &ChunkId) -> Vec<Copy> {
    index.copies(chunk).map(|found| Copy { pack: found.location.pack, base: found.location.base }).collect()
}
