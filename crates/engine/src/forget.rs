//! Forget: says in the log that snapshots are not wanted any more, and holds that forbid it.
//!
//! Nothing is deleted here: `prune` finds what no snapshot needs any more, and until it has deleted that, `undelete`
//! brings a forgotten snapshot back. A held snapshot is refused by name; the log would leave it untouched anyway.
//! [`weigh`] tells before what would stay stored.

mod weigh;

use std::collections::BTreeMap;

pub use weigh::{Weight, weigh};

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::format::log::Act;
use crate::format::names::{LOG, log_object, parse_log};
use crate::format::slot::Role;
use crate::ids::SnapshotId;
use crate::repo::Repository;
use crate::rules::State;

/// Snapshots that one log entry names at most.
const SNAPSHOTS_MAX: usize = 10_000;

/// Forgets these snapshots; `reason` is for people and stands in the log. Gives the numbers of the log entries.
///
/// # Errors
/// [`Error::NotAllowed`] for keys that are not an owner's; [`Error::Usage`] without snapshots; [`Error::NotFound`] where
/// one of them is not there; [`Error::Held`] where one is held. Then none is forgotten.
pub fn forget(repository: &Repository, snapshots: &[SnapshotId], reason: &str) -> Result<Vec<u64>> {
    repository.refresh()?;
    check(repository, snapshots)?;
    let forget_some = |some: &[SnapshotId]| {
        repository.append(&mut |state| {
            check_all(state, some)?;
            Ok(Act::Forget { snapshots: some.to_vec(), reason: reason.to_owned() })
        })
    };
    snapshots.chunks(SNAPSHOTS_MAX).map(forget_some).collect()
}

/// Whether [`forget`] would forget these.
///
/// # Errors
/// As [`forget`].
pub fn check(repository: &Repository, snapshots: &[SnapshotId]) -> Result<()> {
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("forget snapshots"));
    }
    if snapshots.is_empty() {
        return Err(Error::Usage("no snapshot to forget".into()));
    }
    check_all(&repository.state(), snapshots)
}

fn check_all(state: &State, snapshots: &[SnapshotId]) -> Result<()> {
    for id in snapshots {
        if state.forgotten.contains_key(id) {
            return Err(Error::NotFound(format!("snapshot {id} is forgotten already")));
        }
        if state.snapshot(id).is_none() {
            return Err(Error::NotFound(format!("no snapshot {id}")));
        }
        if let Some(labels) = state.holds.get(id) {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            return Err(Error::Held(format!("snapshot {id} is held ({})", labels.join(", "))));
        }
    }
    Ok(())
}

/// Holds snapshots under a name, so that nobody forgets them, or lifts the hold of that name.
///
/// # Errors
/// [`Error::NotAllowed`] where a key that is not an owner's lifts a hold; [`Error::NotFound`] where one of them, or its
/// hold, is not there.
pub fn hold(repository: &Repository, snapshots: &[SnapshotId], label: &str, release: bool) -> Result<u64> {
    if release && repository.role() != Role::Owner {
        return Err(Error::NotAllowed("lift a hold"));
    }
    repository.append(&mut |state| {
        for id in snapshots {
            let held = || state.holds.get(id).is_some_and(|labels| labels.contains(label));
            if state.snapshot(id).is_none() {
                return Err(Error::NotFound(format!("no snapshot {id}")));
            }
            if release && !held() {
                return Err(Error::NotFound(format!("snapshot {id} has no hold named {label}")));
            }
        }
        Ok(Act::Hold { snapshots: snapshots.to_vec(), label: label.to_owned(), release })
    })
}

/// When the store says that these log entries were written: what retention counts with, as no client chose it. A listing
/// gives most of them at once; what it leaves out is asked for singly.
///
/// # Errors
/// When the store fails.
pub fn store_times(repository: &Repository, numbers: &[u64]) -> Result<BTreeMap<u64, Timestamp>> {
    let store = repository.store();
    let mut times = BTreeMap::new();
    if numbers.len() > 2 {
        // Why: a listing that fails only costs the single questions below.
        let _ = store.list(LOG, &mut |info| {
            times.extend(parse_log(&info.name).map(|number| (number, info.modified)));
        });
    }
    let mut wanted = BTreeMap::new();
    for number in numbers {
        let time = match times.get(number) {
            Some(time) => *time,
            None => store.head(&log_object(*number))?.modified,
        };
        wanted.insert(*number, time);
    }
    Ok(wanted)
}
