//! The way into a repository: its marker, its key slots, and the key rings that open.
//!
//! A slot proves who made it only where that took a secret. For a public key anybody can make one, and whoever found one
//! share of several can make one that asks for that share alone. So all rings that open are given, one after the other,
//! and who asked goes on until one fits to the log.
//!
//! What a ring says of itself proves nothing either: whoever knows the log key can name another member in it, and a member
//! can put false keys beside its own seed. So a ring fits where the log has its seed's public key, its role and its slot,
//! and, for those two kinds of slots, the hash of the slot's bytes. Members of the first versions have no such hash.

use crate::crypto::object_hash;
use crate::crypto::sign::SigningKey;
use crate::error::{Damaged, Error, Result};
use crate::format::marker::MARKER_BYTES_MAX;
use crate::format::names::{MARKER, SLOTS, parse_slot, slot_object};
use crate::format::slot::{self, KeyRing, SLOT_BYTES_MAX, Share, SlotKind, Unlock};
use crate::ids::{ObjectHash, RepositoryId, SlotId};
use crate::repo::object::read_object;
use crate::rules::State;
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

/// A key ring that opened, and where it lay.
pub(crate) struct WayIn {
    pub(crate) ring: KeyRing,
    pub(crate) slot: SlotId,
    /// Of the slot's stored bytes.
    hash: ObjectHash,
    /// Only who had the secret can have made the slot.
    is_proof: bool,
}

impl WayIn {
    /// Whether this slot is the one that the log names for the ring's member, and the ring that member's. True where nobody
    /// but the one who was to can have made it; false where its member could have, too.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it does not fit.
    pub(crate) fn fits(&self, state: &State) -> Result<bool> {
        let Some(member) = state.members.get(&self.ring.member) else { return Err(stranger()) };
        let named = &member.record;
        let is_members = named.public_key == SigningKey::from_seed(&self.ring.signing_seed).public()
            && named.role == self.ring.role
            && named.slot.is_none_or(|slot| slot == self.slot);
        if !is_members {
            return Err(
                self.misfit("the key ring in it is not the one of the member whom it names: somebody planted it")
            );
        }
        match &named.slot_hash {
            // Why not for the others: the secret tells who made it, and a label that rotted keeps nobody out.
            _ if self.is_proof => Ok(true),
            Some(hash) if *hash == self.hash => Ok(true),
            Some(_) => Err(self.misfit("it is not the slot that the log names: it is damaged, or somebody planted it")),
            None => Ok(false),
        }
    }

    fn misfit(&self, why: &str) -> Error {
        Damaged::new(slot_object(&self.slot), 0, why).into()
    }
}

/// True where only who had the secret can have made a slot that this opens.
pub(crate) fn is_proof(unlock: &Unlock) -> bool {
    matches!(unlock, Unlock::Passphrase(_) | Unlock::KeyFile(_))
}

/// What is told where a key opens the slots of several members, and nothing tells which one was made for it.
pub(crate) fn ambiguous(slots: [&SlotId; 2]) -> Error {
    let [one, other] = slots.map(slot_object);
    let why = format!(
        "it and {other} both open with this key, for different members, and one may be planted: an owner adds the public key \
         anew with this version (`key add --recipient`) and removes both"
    );
    Damaged::new(one, 0, why).into()
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
    pub(crate) fn open_next(&mut self) -> Option<WayIn> {
        while let Some(id) = self.slots.get(self.tried) {
            self.tried += 1;
            let opened = read_object(self.store, &slot_object(id), SLOT_BYTES_MAX).and_then(|sealed| {
                let ring = slot::open(&sealed, id, self.unlock, &self.repository)?;
                Ok(ring.map(|ring| (ring, object_hash(&sealed))))
            });
            match opened {
                Ok(Some((ring, hash))) if ring.repository == self.repository => {
                    return Some(WayIn { ring, slot: *id, hash, is_proof: is_proof(self.unlock) });
                }
                Ok(_) => {}
                Err(error) => self.damage = Some(error),
            }
        }
        None
    }

    /// Why none opened.
    pub(crate) fn failure(self) -> Error {
        let (store, slots) = (self.store, &self.slots);
        // Why not for a damaged slot: whose it was nobody can tell, and a wrong key is as likely.
        self.damage.filter(|error| !error.is_damage()).unwrap_or_else(|| match self.unlock {
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
        Some((given, ..)) if given > 0 => Error::Shares(
            "the shares do not open their slot: too many are not genuine, or the slot is damaged; try others".into(),
        ),
        _ => Error::Shares("these shares belong to no slot of this repository".into()),
    }
}
