//! An `init` that did not come to its end: entry 0 of the log is there and the marker, which is written last, is not.
//!
//! Nobody can open what it left, and no other `init` can begin at that place. Whoever has a key that it was given goes on
//! where it stopped: with the keys that it made, towards the very marker that entry 0 names.
//!
//! Safe beside another `init`: nothing is removed or changed. Whoever goes on while the first one still runs writes the
//! same marker, and both have made the same repository. So what was left with a key that is lost stays too, until a
//! person removes it, who knows that no other `init` runs: from here that can't be told.

use crate::crypto::object_hash;
use crate::error::{Error, Result};
use crate::format::marker::Marker;
use crate::format::names::{MARKER, PACKS, SEGMENTS, log_object, slot_object};
use crate::format::slot::{self, KeyRing, Role, SLOT_BYTES_MAX, Unlock};
use crate::ids::RepositoryId;
use crate::repo::cache::Cache;
use crate::repo::log::{self, Log};
use crate::repo::object::read_object;
use crate::repo::rings::list_slots;
use crate::store::{Store, StoreError};

/// What an interrupted `init` left, and a key ring that it made.
pub(super) struct Unfinished {
    pub(super) ring: KeyRing,
    pub(super) log: Log,
    /// Which of the ways in that were asked for are there.
    pub(super) has: Vec<bool>,
}

impl Unfinished {
    /// What is left at this place; none where no log was begun. `slots` are the ways in that the repository is to have.
    ///
    /// # Errors
    /// [`Error::RepositoryExists`] where there is more than an `init` leaves; [`Error::Refused`] where it was begun with
    /// other keys, which tells what to remove.
    pub(super) fn find(store: &dyn Store, slots: &[(Unlock, String)]) -> Result<Option<Self>> {
        match store.head(&log_object(0)) {
            Err(StoreError::Missing(_)) => return Ok(None),
            head => head?,
        };
        // Why looked at again: it may have come to its end at this moment.
        let mut has_more = store.head(MARKER).is_ok();
        for prefix in [PACKS, SEGMENTS] {
            store.list(prefix, &mut |_| has_more = true)?;
        }
        if has_more {
            return Err(Error::RepositoryExists(store.location()));
        }
        let Some((ring, has)) = open(store, slots)? else { return Err(strange(store)) };
        let log = Log::open(store, ring.repository, &ring, Cache::default())?;
        let state = log.state();
        let marker = Marker::new(ring.repository, false).encode();
        let is_owner = state.active(&ring.member).is_some_and(|member| member.role == Role::Owner);
        if state.marker != Some(object_hash(&marker)) || !is_owner || !state.snapshots.is_empty() {
            return Err(strange(store));
        }
        Ok(Some(Self { ring, log, has }))
    }
}

/// The key ring of a slot that one of these keys opens and that opens the log, and which of the keys open such a slot.
fn open(store: &dyn Store, slots: &[(Unlock, String)]) -> Result<Option<(KeyRing, Vec<bool>)>> {
    let (mut found, mut has) = (None, vec![false; slots.len()]);
    for id in list_slots(store)? {
        let sealed = match read_object(store, &slot_object(&id), SLOT_BYTES_MAX) {
            Ok(sealed) => sealed,
            Err(Error::Damaged(_) | Error::Store(StoreError::Missing(_))) => continue,
            Err(error) => return Err(error),
        };
        for ((unlock, _), has) in slots.iter().zip(&mut has) {
            // The slots of keys and passphrases do not depend on the repository's id, which only the marker shows.
            let Ok(Some(ring)) = slot::open(&sealed, &id, unlock, &RepositoryId([0; RepositoryId::LEN])) else {
                continue;
            };
            if log::opens_first(store, &ring) {
                *has = true;
                found.get_or_insert(ring);
            }
        }
    }
    Ok(found.map(|ring| (ring, has)))
}

fn strange(store: &dyn Store) -> Error {
    Error::Refused(format!(
        "an `init` at {} did not come to its end, or still runs: there is a log and no marker. The same `init` with the same \
         keys goes on where it stopped. If those are lost, and no other `init` runs, remove `log/` and `key/` there and begin \
         anew; nothing was backed up yet",
        store.location()
    ))
}
