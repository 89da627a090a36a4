//! The way into a repository: its marker, its key slots, and the key rings that open.
//!
//! A slot proves who made it only where that took a secret. For a public key anybody can make one, and whoever found one
//! share of several can make one that asks for that share alone. So all rings that open are given, one after the other,
//! and who asked goes on until one fits to the log.

use crate::error::{Damaged, Error, Result};
use crate::format::marker::MARKER_BYTES_MAX;
use crate::format::names::{MARKER, SLOTS, parse_slot, slot_object};
use crate::format::slot::{self, KeyRing, SLOT_BYTES_MAX, Share, SlotKind, Unlock};
use crate::ids::{RepositoryId, SlotId};
use crate::repo::object::read_object;
use crate::store::{Store, StoreError};

/// What is told of a key ring that the log does not know.
pub(crate) fn stranger() -> Error {
    Damaged::new(SLOTS, 0, "the key opens a slot whose member is not in the log: it was never admitted").into()
}

/// The marker's bytes.
pub(crate) fn read_marker(store: &dyn Store) -> Result<Vec<u8>> {
    match read_object(store, MARKER, MARKER_BYTES_MAX) {
        Err(Error::Store(StoreError::Missing(_))) => Err(Error::NoRepository(store.location())),
        read => read,
    }
}

/// The slots that a listing shows, in order.
pub(crate) fn list_slots(store: &dyn Store) -> Result<Vec<SlotId>> {
    let mut slots = Vec::new();
    store.list(SLOTS, &mut |info| slots.extend(parse_slot(&info.name)))?;
    slots.sort();
    Ok(slots)
}

/// The key rings of one repository that a key opens, slot by slot.
pub(crate) struct Rings<'s> {
    store: &'s dyn Store,
    unlock: &'s Unlock,
    repository: RepositoryId,
    slots: Vec<SlotId>,
    /// How many slots were tried.
    tried: usize,
    damage: Option<Error>,
}

impl<'s> Rings<'s> {
    pub(crate) fn new(store: &'s dyn Store, unlock: &'s Unlock, repository: RepositoryId) -> Result<Self> {
        Ok(Self { store, unlock, repository, slots: list_slots(store)?, tried: 0, damage: None })
    }

    /// The next ring that opens and is of this repository: an `init` that lost a race leaves slots of another one.
    pub(crate) fn open_next(&mut self) -> Option<KeyRing> {
        while let Some(id) = self.slots.get(self.tried) {
            self.tried += 1;
            let opened = read_object(self.store, &slot_object(id), SLOT_BYTES_MAX)
                .and_then(|sealed| slot::open(&sealed, id, self.unlock, &self.repository));
            match opened {
                Ok(Some(ring)) if ring.repository == self.repository => return Some(ring),
                Ok(_) => {}
                Err(error) => self.damage = Some(error),
            }
        }
        None
    }

    /// Why none opened.
    pub(crate) fn failure(self) -> Error {
        let (store, slots) = (self.store, &self.slots);
        self.damage.unwrap_or_else(|| match self.unlock {
            Unlock::Shares(shares) => missing_shares(store, slots, shares),
            _ => Error::WrongKey,
        })
    }
}

/// Why these shares open nothing: the slot of which most shares are there, and how many are missing.
fn missing_shares(store: &dyn Store, slots: &[SlotId], shares: &[Share]) -> Error {
    let kind = |id: &SlotId| {
        let sealed = read_object(store, &slot_object(id), SLOT_BYTES_MAX).ok()?;
        slot::describe(&sealed, id).ok().map(|info| info.kind)
    };
    let of_shares = slots.iter().filter_map(kind).filter_map(|kind| match kind {
        SlotKind::Shares { set, needed, count } => Some((slot::count_shares(shares, &set, needed), needed, count)),
        _ => None,
    });
    match of_shares.max_by_key(|(given, ..)| *given) {
        Some((given, needed, count)) if given > 0 && given < usize::from(needed) => Error::Shares(format!(
            "{given} of {count} shares given, {} more needed ({needed} open the repository)",
            usize::from(needed) - given
        )),
        Some((given, ..)) if given > 0 => Error::Shares("the shares do not open their slot: one is not genuine".into()),
        _ => Error::Shares("these shares belong to no slot of this repository".into()),
    }
}
