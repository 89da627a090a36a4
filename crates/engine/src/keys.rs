//! Keys: who may open the repository, and as what. Every slot is a member of its own, admitted by an entry in the log.
//!
//! `add` writes the admission first, then the slot; `remove` writes the revocation first, then deletes the slot. So a
//! crash leaves at most a member whom nobody can be, or a slot whose member was revoked: never a way in that the log does
//! not know, and never one that can't be taken away. Renewing the data key pair is in [`rotate`].
//!
//! What the removed keep: a key ring that was opened once can be remembered. So it goes on reading what it could read
//! from copies of the store; `rotate` shuts it out from what is written afterwards. See docs/threat-model.md.

mod rotate;

pub use rotate::{Rotated, rotate};

use crate::crypto::object_hash;
use crate::error::{Error, Result};
use crate::format::log::{Act, KeyChange};
use crate::format::names::slot_object;
use crate::format::slot::{self, Lock, Role, SLOT_BYTES_MAX, SlotInfo};
use crate::ids::{MemberId, ObjectHash, SessionId, SlotId};
use crate::repo::object::read_object;
use crate::repo::rings::list_slots;
use crate::repo::{Candidate, Repository};
use crate::rules::{Member, State};
use crate::store::StoreError;

/// What a key that is not an owner's is told.
const NOT_AN_OWNER: Error = Error::NotAllowed("change keys: that takes an owner's");

/// A slot, a member, or both where they belong together.
#[derive(Debug, Clone)]
pub struct Key {
    /// The slot, with what it says of itself (not authenticated); none where it was removed or was never stored, or can't
    /// be read.
    pub slot: Option<(SlotId, SlotInfo)>,
    /// True if a slot is there and is not, byte for byte, the one that the log names: it may open nothing any more.
    pub is_damaged: bool,
    /// The member, as the log says; unknown for slots of the first days, which the log does not name.
    pub member: Option<(MemberId, Member)>,
    /// True for the key that opened the repository.
    pub is_own: bool,
    /// The newest entry that counts for something and that this member signed: number, and Unix milliseconds as claimed.
    pub last_entry: Option<(u64, i64)>,
}

impl Key {
    /// Its name for people: that of the log, else that of the slot.
    #[must_use]
    pub fn label(&self) -> &str {
        let of_slot = || self.slot.as_ref().map(|(_, info)| info.label.as_str());
        self.member.as_ref().map(|(_, member)| member.record.label.as_str()).or_else(of_slot).unwrap_or_default()
    }

    /// What it allows.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        let of_slot = || self.slot.as_ref().map(|(_, info)| info.role);
        self.member.as_ref().map(|(_, member)| member.record.role).or_else(of_slot)
    }

    /// Number of the entry that revoked it.
    #[must_use]
    pub fn revoked(&self) -> Option<u64> {
        self.member.as_ref().and_then(|(_, member)| member.revoked)
    }

    /// True if somebody can use it: it has a slot that is whole as far as the log tells, and its member was not revoked.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.has_slot() && self.revoked().is_none()
    }

    /// True if there is a slot, and it is whole as far as the log tells.
    fn has_slot(&self) -> bool {
        self.slot.is_some() && !self.is_damaged
    }
}

/// What [`add`] made.
#[derive(Debug, Clone)]
pub struct Added {
    /// The slot.
    pub slot: SlotId,
    /// The member.
    pub member: MemberId,
    /// Number of the log entry.
    pub number: u64,
}

/// Admits a new member with this role and stores the slot that `lock` closes.
///
/// # Errors
/// [`Error::NotAllowed`] for keys that are not an owner's, or that lack the newest data key; [`Error::Usage`] where a
/// usable key has that label; [`Error::Refused`] while sessions wait for a rotation to be finished.
pub fn add(repository: &Repository, role: Role, lock: &Lock, label: &str) -> Result<Added> {
    refuse_others(repository)?;
    repository.refresh()?;
    let state = repository.state();
    if state.members.values().any(|member| member.revoked.is_none() && member.record.label == label) {
        return Err(Error::Usage(format!("there is a key labelled {label} already: choose another label")));
    }
    // Why: the new key ring has the newest data key alone, and must be able to read everything.
    if role != Role::Member {
        refuse_unfinished(&rotate::unfinished(repository, &state)?)?;
    }
    let generation = state.generation();
    let data = repository.data_secret(&state, generation).ok_or(rotate::LEFT_OUT)?;
    let candidate = Candidate::new(repository.keys(), role, (generation, &data), lock, label)?;
    let number = repository.append(&mut |state| {
        if state.generation() == generation {
            Ok(Act::Key(KeyChange::Admit(candidate.record.clone())))
        } else {
            Err(Error::Refused("the data key was renewed at this moment; run this again".into()))
        }
    })?;
    Ok(Added { slot: candidate.store(repository.store())?, member: candidate.record.id, number })
}

/// Sessions that a refusal names.
const NAMED_MAX: usize = 3;

fn refuse_unfinished(sessions: &[SessionId]) -> Result<()> {
    if sessions.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = sessions.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if sessions.len() > NAMED_MAX { ", ..." } else { "" };
    Err(Error::Refused(format!(
        "a rotation of the data key was interrupted: finish it (`key rotate --resume`) before you add keys; the keys of {} \
         sessions are not renewed yet: {}{more}",
        sessions.len(),
        named.join(", ")
    )))
}

fn refuse_others(repository: &Repository) -> Result<()> {
    if repository.role() == Role::Owner { Ok(()) } else { Err(NOT_AN_OWNER) }
}

/// Every slot and every member, those that were revoked too; in the order of admission, slots without a member last.
///
/// # Errors
/// When the store fails or an entry of the log can't be read again.
pub fn list(repository: &Repository) -> Result<Vec<Key>> {
    repository.refresh()?;
    list_at(repository, &repository.state())
}

/// As [`list`], as of this state of the log. Does not read the log.
fn list_at(repository: &Repository, state: &State) -> Result<Vec<Key>> {
    let mut slots = find_slots(repository)?;
    let mut members: Vec<_> = state.members.iter().collect();
    members.sort_by_key(|(_, member)| member.admitted);
    let own = repository.keys().member;
    let mut keys: Vec<Key> = members
        .into_iter()
        .map(|(id, member)| {
            let place = slots.iter().position(|found| Some(found.id) == member.record.slot);
            let found = place.map(|place| slots.remove(place));
            Key {
                is_damaged: found.as_ref().is_some_and(|found| !found.is_whole(member.record.slot_hash)),
                slot: found.and_then(Found::described),
                member: Some((*id, member.clone())),
                is_own: *id == own,
                last_entry: state.last_entries.get(id).copied(),
            }
        })
        .collect();
    let unnamed = slots.into_iter().filter_map(Found::described);
    keys.extend(unnamed.map(|slot| Key {
        slot: Some(slot),
        is_damaged: false,
        member: None,
        is_own: false,
        last_entry: None,
    }));
    Ok(keys)
}

/// A slot that the store has.
struct Found {
    id: SlotId,
    /// None where it can't be read.
    info: Option<SlotInfo>,
    /// Of its stored bytes; none where it is no slot by its length already.
    hash: Option<ObjectHash>,
}

impl Found {
    /// `named`: what the log says of it.
    fn is_whole(&self, named: Option<ObjectHash>) -> bool {
        self.info.is_some() && (named.is_none() || named == self.hash)
    }

    fn described(self) -> Option<(SlotId, SlotInfo)> {
        Some((self.id, self.info?))
    }
}

fn find_slots(repository: &Repository) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for id in list_slots(repository.store())? {
        match read_object(repository.store(), &slot_object(&id), SLOT_BYTES_MAX) {
            Ok(sealed) => {
                let info = slot::describe(&sealed, &id).ok();
                found.push(Found { id, info, hash: Some(object_hash(&sealed)) });
            }
            // Why damage ends nothing: `verify` names it, and the others have to be listed.
            Err(Error::Damaged(_)) => found.push(Found { id, info: None, hash: None }),
            Err(Error::Store(StoreError::Missing(_))) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The key that `name` means: a label, or the beginning of the id of a slot or a member (4 digits or more). Of several
/// with one label, the one that is usable.
///
/// # Errors
/// [`Error::NotFound`] where there is none; [`Error::Usage`] where several are meant.
pub fn find<'k>(keys: &'k [Key], name: &str) -> Result<&'k Key> {
    let begins = |id: String| name.len() >= 4 && id.starts_with(&name.to_ascii_lowercase());
    let by_id = |key: &&Key| {
        key.slot.as_ref().is_some_and(|(id, _)| begins(id.to_string()))
            || key.member.as_ref().is_some_and(|(id, _)| begins(id.to_string()))
    };
    let labelled: Vec<&Key> = keys.iter().filter(|key| key.label() == name).collect();
    let usable: Vec<&Key> = labelled.iter().copied().filter(|key| key.is_usable()).collect();
    let with_slot: Vec<&Key> = labelled.iter().copied().filter(|key| key.slot.is_some()).collect();
    let by_id: Vec<&Key> = keys.iter().filter(by_id).collect();
    let found = [usable, with_slot, by_id, labelled].into_iter().find(|found| !found.is_empty()).unwrap_or_default();
    match found[..] {
        [key] => Ok(key),
        [] => Err(Error::NotFound(format!("no key {name}: `key list` shows what there is"))),
        _ => Err(Error::Usage(format!("{name} means several keys: give the beginning of an id from `key list`"))),
    }
}

/// Revokes the member and deletes its slot. Gives the number of the log entry; none where only the slot was left, or the
/// log does not know whose it is.
///
/// # Errors
/// [`Error::NotAllowed`] for keys that are not an owner's; [`Error::Refused`] for the last owner's.
pub fn remove(repository: &Repository, key: &Key) -> Result<Option<u64>> {
    refuse_others(repository)?;
    repository.refresh()?;
    refuse_last(&list(repository)?, key)?;
    let mut number = None;
    if let Some((id, _)) = key.member.as_ref().filter(|(id, _)| repository.state().active(id).is_some()) {
        number = revoke(repository, key, *id)?;
    }
    // Why also by what the log says: a slot that is too damaged to be described goes with its member.
    let named = key.member.as_ref().and_then(|(_, member)| member.record.slot);
    if let Some(slot) = key.slot.as_ref().map(|(id, _)| *id).or(named) {
        repository.store().delete(&slot_object(&slot))?;
    }
    Ok(number)
}

/// Refuses to take the last owner's way in. Why not that of every owner: one without a slot is none, and nothing is lost with
/// it.
fn refuse_last(keys: &[Key], removed: &Key) -> Result<()> {
    let is_way_in = removed.role() == Some(Role::Owner) && (removed.is_usable() || removed.is_own);
    if is_way_in && removed.revoked().is_none() && !is_owner_left(keys, removed) {
        return Err(Error::Refused(
            "it is the last owner's key: nobody could change anything any more. \
             Make another with `seawall key add --role owner` first"
                .into(),
        ));
    }
    Ok(())
}

/// True if an owner has a way in when `removed` is gone. An owner without a slot, or with a damaged one, is nobody; nor is a slot an owner's because
/// it says so, unless the log names no slot for an owner: in repositories of the first days it does not.
fn is_owner_left(keys: &[Key], removed: &Key) -> bool {
    let member = |key: &Key| key.member.as_ref().map(|(id, _)| *id);
    let slot = |key: &Key| key.slot.as_ref().map(|(id, _)| *id);
    let is_unnamed = |key: &Key| key.member.is_none() && slot(key) != slot(removed);
    keys.iter().any(|key| {
        let Some((id, owner)) = &key.member else { return false };
        let is_owner = owner.record.role == Role::Owner && owner.revoked.is_none() && Some(*id) != member(removed);
        let has_slot = key.has_slot() || owner.record.slot.is_none() && keys.iter().any(is_unnamed);
        is_owner && has_slot
    })
}

/// None where somebody else was faster.
fn revoke(repository: &Repository, key: &Key, id: MemberId) -> Result<Option<u64>> {
    let mut revoked = false;
    let appended = repository.append(&mut |state: &State| {
        revoked = state.active(&id).is_none();
        if revoked {
            return Err(Error::Refused("it was revoked meanwhile".into()));
        }
        // Why here: somebody may have removed another owner since, and this is the state that the entry will follow.
        refuse_last(&list_at(repository, state)?, key)?;
        Ok(Act::Key(KeyChange::Revoke(id)))
    });
    match appended {
        Err(_) if revoked => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests;
