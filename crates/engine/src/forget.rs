//! Forget: snapshots that are not wanted any more. What only they need is freed by a later prune; until that has deleted
//! it, `undelete` brings them back.
//!
//! One entry in the log for all of them, or none: a snapshot that is held, or not there, refuses the whole.

use crate::error::{Error, Result};
use crate::format::log::Act;
use crate::format::slot::Role;
use crate::ids::SnapshotId;
use crate::repo::Repository;
use crate::rules::State;

/// Forgets these snapshots; `reason` is for people, and stands in the log. Gives the entry's number.
///
/// # Errors
/// [`Error::NotAllowed`] without an owner's key; [`Error::Usage`] without snapshots; [`Error::NotFound`] where one is not
/// there; [`Error::Refused`] where one is held. Then nothing is forgotten.
pub fn forget(repository: &Repository, ids: &[SnapshotId], reason: &str) -> Result<u64> {
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("forget snapshots"));
    }
    if ids.is_empty() {
        return Err(Error::Usage("no snapshots to forget".into()));
    }
    repository.append(&mut |state| {
        ids.iter().try_for_each(|id| check(state, id))?;
        Ok(Act::Forget { snapshots: ids.to_vec(), reason: reason.to_owned() })
    })
}

fn check(state: &State, id: &SnapshotId) -> Result<()> {
    if let Some(forgotten) = state.forgotten.get(id) {
        return Err(Error::NotFound(format!("snapshot {id} was forgotten already, by log entry {}", forgotten.number)));
    }
    if state.snapshot(id).is_none() {
        return Err(Error::NotFound(format!("no snapshot {id}")));
    }
    match state.holds.get(id) {
        Some(holds) => {
            let names: Vec<&str> = holds.iter().map(String::as_str).collect();
            Err(Error::Refused(format!("snapshot {id} is held ({}); release the hold first", names.join(", "))))
        }
        None => Ok(()),
    }
}
