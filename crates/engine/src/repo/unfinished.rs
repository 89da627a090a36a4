//! An `init` that did not come to its end: entry 0 of the log is there and the marker, which is written last, is not.
//!
//! Nobody can open what it left, and no other `init` can begin at that place. Whoever has a key that it was given goes on
//! where it stopped: with the keys that it made, towards the very marker that entry 0 names.
//!
//! Invariant: only a key file or a passphrase finds what was left, as it takes their secret to make a slot that they open.
//! Anybody can make a slot for a public key: a store could lay an `init` of its own before that of its victim, who would
//! go on with keys that the store knows.
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
use crate::repo::rings::{Rings, is_proof, list_slots};
use crate::rules::State;
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
        let Some(ring) = open(store, slots)? else { return Err(strange(store)) };
        let log = Log::open(store, ring.repository, &ring, Cache::default())?;
        let state = log.state();
        let marker = Marker::new(ring.repository, false).encode();
        let is_owner = state.active(&ring.member).is_some_and(|member| member.role == Role::Owner);
        if state.marker != Some(object_hash(&marker)) || !is_owner || !state.snapshots.is_empty() {
            return Err(strange(store));
        }
        let has = slots.iter().map(|(unlock, _)| is_there(store, unlock, state, ring.repository));
        let has = has.collect::<Result<_>>()?;
        Ok(Some(Self { ring, log, has }))
    }
}

/// The key ring of a slot that one of these keys opens and that opens the log.
fn open(store: &dyn Store, slots: &[(Unlock, String)]) -> Result<Option<KeyRing>> {
    for id in list_slots(store)? {
        let sealed = match read_object(store, &slot_object(&id), SLOT_BYTES_MAX) {
            Ok(sealed) => sealed,
            Err(Error::Damaged(_) | Error::Store(StoreError::Missing(_))) => continue,
            Err(error) => return Err(error),
        };
        for (unlock, _) in slots.iter().filter(|(unlock, _)| is_proof(unlock)) {
            // The slots of keys and passphrases do not depend on the repository's id, which only the marker shows.
            let opened = slot::open(&sealed, &id, unlock, &RepositoryId([0; RepositoryId::LEN]));
            if let Some(ring) = opened.ok().flatten().filter(|ring| log::opens_first(store, ring)) {
                return Ok(Some(ring));
            }
        }
    }
    Ok(None)
}

/// True if a slot of an owner of this log is there that `unlock` opens and that nobody else can have made.
fn is_there(store: &dyn Store, unlock: &Unlock, state: &State, repository: RepositoryId) -> Result<bool> {
    let mut rings = Rings::new(store, unlock, repository)?;
    while let Some(way) = rings.open_next() {
        let is_owner = state.active(&way.ring.member).is_some_and(|member| member.role == Role::Owner);
        if is_owner && way.fits(state).is_ok_and(|is_proven| is_proven) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn strange(store: &dyn Store) -> Error {
    Error::Refused(format!(
        "an `init` at {} did not come to its end, or still runs: there is a log and no marker. The same `init` with the same \
         key file or passphrase goes on where it stopped; one with identities alone can't. If those are lost, or you never \
         began one here, and no other `init` runs, remove `log/` and `key/` there and begin anew; nothing was backed up yet",
        store.location()
    ))
}
