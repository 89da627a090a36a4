//! A new member of a repository and the slot that holds its keys.
//!
//! Every slot is a member of its own, so that it can be revoked alone. Order: the admission goes into the log first, then
//! the slot into the store. A crash in between leaves a member whom nobody can be: no slot holds its seed.
//!
//! Invariant: a slot is stored once, with the bytes of which the admission has the hash, and never written anew. A
//! rotation puts its grants into the log.

use crate::clock::Timestamp;
use crate::crypto::passphrase::Cost;
use crate::crypto::sign::SigningKey;
use crate::crypto::wrap::DataSecretKey;
use crate::crypto::{object_hash, random};
use crate::error::Result;
use crate::format::log::MemberRecord;
use crate::format::names::slot_object;
use crate::format::slot::{self, KeyRing, Lock, Role};
use crate::ids::{ObjectHash, SlotId};
use crate::store::Store;

/// A member to be admitted, with its slot, sealed.
pub(crate) struct Candidate {
    /// What the log will say.
    pub(crate) record: MemberRecord,
    slot: SlotId,
    sealed: Vec<u8>,
}

impl Candidate {
    /// Makes the keys of a member and seals them. `data` is the newest generation of the data key pair.
    ///
    /// # Errors
    /// When a passphrase can't be used.
    pub(crate) fn new(
        ring: &KeyRing,
        role: Role,
        data: (u32, &DataSecretKey),
        lock: &Lock,
        label: &str,
    ) -> Result<Self> {
        Self::seal(&ring.for_member(role, data.0, data.1), lock, label)
    }

    /// Seals the keys of a member.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn seal(ring: &KeyRing, lock: &Lock, label: &str) -> Result<Self> {
        let slot = SlotId(random());
        let sealed = slot::seal(ring, lock, &slot, label, Timestamp::now().seconds, Cost::DEFAULT)?;
        Ok(Self { record: record(ring, label, slot, object_hash(&sealed)), slot, sealed })
    }

    /// Stores the slot, once the log has the member.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn store(&self, store: &dyn Store) -> Result<SlotId> {
        store.put(&slot_object(&self.slot), &self.sealed)?;
        Ok(self.slot)
    }
}

fn record(ring: &KeyRing, label: &str, slot: SlotId, hash: ObjectHash) -> MemberRecord {
    MemberRecord {
        id: ring.member,
        public_key: SigningKey::from_seed(&ring.signing_seed).public(),
        role: ring.role,
        label: label.to_owned(),
        wrap_public: Some(*ring.wrap_public().as_bytes()),
        slot: Some(slot),
        slot_hash: Some(hash),
    }
}
