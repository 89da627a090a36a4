//! Rotation: renews the data key pair, so that who was removed before opens nothing that is written afterwards.
//!
//! Three steps, each of which may be interrupted and is taken up again: the entry in the log, with the new secret wrapped
//! for every owner and reader; then each session's key is stored anew, wrapped for the new public key; and only when all
//! of them were read back, those of older generations are deleted. At every moment each session's key is there for a
//! generation of which every owner and reader has the secret.
//!
//! LIST is only a hint: the sessions of published packs are known from the index too. A session that neither shows wraps
//! its key anew when it commits.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::Secret32;
use crate::crypto::wrap::{self, DataPublicKey, DataSecretKey};
use crate::error::{Damaged, Error, Result};
use crate::format::log::{Act, Grant, KeyChange};
use crate::format::names::{SESSIONS, parse_session, session_object};
use crate::format::session::RECORD_BYTES_MAX;
use crate::format::slot::Role;
use crate::ids::{MemberId, SessionId};
use crate::monitor::Monitor;
use crate::repo::Repository;
use crate::repo::data_keys::{is_there, newest_public, read_session_key, read_wrapped, store_session_key};
use crate::repo::object::read_object;
use crate::rules::{self, Member, State};
use crate::store::StoreError;

/// What an owner is told who has no grant for the newest data key.
pub(super) const LEFT_OUT: Error = Error::NotAllowed("use the newest data key: it was left out when that was made");

/// What [`rotate`] did.
#[derive(Debug, Clone, Default)]
pub struct Rotated {
    /// Generation of the data key pair that is the newest now.
    pub generation: u32,
    /// Number of the log entry; none where an earlier rotation was only finished.
    pub number: Option<u64>,
    /// Sessions whose keys were wrapped anew.
    pub wrapped: u64,
    /// Objects of older generations that were deleted.
    pub deleted: u64,
    /// Labels of owners and readers who got no grant, because they have no key to wrap it for.
    pub left_out: Vec<String>,
    /// Sessions whose keys can't be read; they stay as they are.
    pub unreadable: Vec<SessionId>,
}

/// Renews the data key pair and wraps every session's key for it; with `resume`, only finishes what was interrupted. An
/// earlier rotation is finished first. `leave_out` goes on where owners or readers can't be granted the new key.
///
/// # Errors
/// [`Error::NotAllowed`] for keys that are not an owner's; [`Error::Refused`] where somebody would be left out;
/// [`Error::Interrupted`]; when the store fails.
pub fn rotate(repository: &Repository, resume: bool, leave_out: bool, monitor: &dyn Monitor) -> Result<Rotated> {
    super::refuse_others(repository)?;
    repository.refuse_after_rollback()?;
    repository.refuse_revoked()?;
    repository.refresh()?;
    let earlier = finish(repository, monitor)?;
    if resume {
        return Ok(earlier);
    }
    let left_out = left_out(repository, &repository.state());
    if !left_out.is_empty() && !leave_out {
        return Err(Error::Refused(format!(
            "these keys can't be given the new data key and would read nothing any more: {}. \
             Add a new key for each and remove the old one, or leave them out",
            left_out.join(", ")
        )));
    }
    let number = renew(repository)?;
    let finished = finish(repository, monitor)?;
    let (wrapped, deleted) = (earlier.wrapped + finished.wrapped, earlier.deleted + finished.deleted);
    Ok(Rotated { number: Some(number), left_out, wrapped, deleted, ..finished })
}

/// Appends the entry.
fn renew(repository: &Repository) -> Result<u64> {
    let (secret, public) = wrap::generate();
    repository.append(&mut |state| {
        let next = state.generation().checked_add(1);
        let generation = next.ok_or_else(|| Error::Refused("there is no later generation of the data key".into()))?;
        let grants = receivers(repository, state)
            .into_iter()
            .map(|(member, wrap_public)| {
                let (encapsulated, ciphertext) =
                    wrap::seal_grant(&wrap_public, &repository.id(), &member, generation, &secret);
                Grant { member, encapsulated, ciphertext }
            })
            .collect();
        Ok(Act::Key(KeyChange::Rotate { data_public: *public.as_bytes(), generation, grants }))
    })
}

/// Owners and readers who may sign.
fn entitled(state: &State) -> impl Iterator<Item = (&MemberId, &Member)> {
    state.members.iter().filter(|(_, member)| member.revoked.is_none() && member.record.role != Role::Member)
}

/// For whom the new secret is wrapped, in order of their ids, and with which key. Whoever rotates is always among them:
/// its key follows from its own seed, also where the log has none.
fn receivers(repository: &Repository, state: &State) -> BTreeMap<MemberId, DataPublicKey> {
    let named =
        entitled(state).filter_map(|(id, member)| Some((*id, DataPublicKey::from_bytes(member.record.wrap_public?)?)));
    let mut receivers: BTreeMap<_, _> = named.collect();
    receivers.insert(repository.keys().member, repository.keys().wrap_public());
    receivers
}

fn left_out(repository: &Repository, state: &State) -> Vec<String> {
    let receivers = receivers(repository, state);
    let without = entitled(state).filter(|(id, _)| !receivers.contains_key(*id));
    let mut labels: Vec<String> = without.map(|(_, member)| member.record.label.clone()).collect();
    labels.sort();
    labels
}

/// Generations for which each session's key is stored.
type Wrapped = BTreeMap<SessionId, BTreeSet<u32>>;

/// What a listing shows, and what the index knows of besides.
fn sessions(repository: &Repository, state: &State) -> Result<Wrapped> {
    let mut sessions = Wrapped::new();
    repository.store().list(SESSIONS, &mut |info| {
        if let Some((session, generation)) = parse_session(&info.name) {
            sessions.entry(session).or_default().insert(generation);
        }
    })?;
    for segment in repository.index().segments() {
        // Why: the key of a session whose packs were all deleted may be gone already.
        for pack in segment.packs().iter().filter(|pack| !rules::may_remove(state, pack)) {
            sessions.entry(pack.session).or_default();
        }
    }
    Ok(sessions)
}

/// Sessions whose key is not yet wrapped for the newest generation though somebody can read it.
pub(super) fn unfinished(repository: &Repository, state: &State) -> Result<Vec<SessionId>> {
    let generation = state.generation();
    let mut unfinished = Vec::new();
    if generation == 0 {
        return Ok(unfinished);
    }
    for (session, generations) in sessions(repository, state)? {
        if generations.contains(&generation) || is_there(repository.store(), &session_object(&session, generation))? {
            continue;
        }
        match read_session_key(repository, &session) {
            // Why not among them: what was written with a lost key nobody reads, with whatever key ring.
            Err(Error::Damaged(_)) => {}
            Ok(_) | Err(Error::NotAllowed(_)) => unfinished.push(session),
            Err(error) => return Err(error),
        }
    }
    Ok(unfinished)
}

/// Wraps what is not wrapped for the newest generation, then deletes what is older.
fn finish(repository: &Repository, monitor: &dyn Monitor) -> Result<Rotated> {
    let state = repository.state();
    let (generation, public) = newest_public(&state)?;
    let mut rotated = Rotated { generation, ..Rotated::default() };
    if generation == 0 {
        return Ok(rotated);
    }
    let secret = repository.data_secret(&state, generation).ok_or(LEFT_OUT)?;
    let sessions = sessions(repository, &state)?;
    let mut wrapped = BTreeSet::new();
    for (session, generations) in &sessions {
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        if generations.contains(&generation) {
            continue;
        }
        match wrap_anew(repository, session, (generation, &public), &secret) {
            Ok(()) => {
                rotated.wrapped += 1;
                wrapped.insert(*session);
            }
            // Another rotation wrapped it for a newer generation, and deleted this one.
            Err(Error::Store(StoreError::Missing(_))) => {}
            // Why not the end of it: one lost key must not keep all the others in the old generation.
            Err(Error::Damaged(_) | Error::NotAllowed(_)) => rotated.unreadable.push(*session),
            Err(error) => return Err(error),
        }
    }
    for (session, generations) in &sessions {
        if rotated.unreadable.contains(session) {
            continue;
        }
        let older: Vec<u32> = generations.iter().copied().filter(|older| *older < generation).collect();
        // Invariant: an older key is deleted only after the newest one was read back and found to be the same key. Why
        // all of them: who has the data public key can put any key under a session's name, before this or beside it.
        if older.is_empty() || !holds_the_same(repository, session, generation, &older, &mut rotated)? {
            continue;
        }
        // Why stored once more: where another run wrapped it, nobody here knows that it was made durable.
        if !wrapped.contains(session) && !make_durable(repository, session, generation)? {
            continue;
        }
        for older in older {
            repository.store().delete(&session_object(session, older))?;
            rotated.deleted += 1;
        }
    }
    if !rotated.unreadable.is_empty() {
        forgive_what_is_gone(repository, &mut rotated)?;
    }
    Ok(rotated)
}

/// Puts the stored bytes of a session's key once more; false where it is gone.
fn make_durable(repository: &Repository, session: &SessionId, generation: u32) -> Result<bool> {
    let object = session_object(session, generation);
    match read_object(repository.store(), &object, RECORD_BYTES_MAX) {
        Ok(bytes) => repository.store().put(&object, &bytes).map(|()| true).map_err(Error::from),
        Err(Error::Store(StoreError::Missing(_))) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes those sessions out of the unreadable ones that nothing names any more: a prune has removed them meanwhile.
fn forgive_what_is_gone(repository: &Repository, rotated: &mut Rotated) -> Result<()> {
    repository.refresh()?;
    let named = sessions(repository, &repository.state())?;
    rotated.unreadable.retain(|session| named.contains_key(session));
    Ok(())
}

fn wrap_anew(
    repository: &Repository,
    session: &SessionId,
    newest: (u32, &DataPublicKey),
    secret: &DataSecretKey,
) -> Result<()> {
    let key = read_session_key(repository, session)?;
    store_session_key(repository, session, newest, &key)?;
    if read_wrapped(repository, session, newest.0, secret)? == key {
        return Ok(());
    }
    Err(Damaged::new(session_object(session, newest.0), 0, "it holds another key than the older generation").into())
}

/// True if the session's key of the newest generation is the key that each older one holds. Where one of them can't be
/// read, or holds another key, all stay, and the session is among the unreadable ones.
fn holds_the_same(
    repository: &Repository,
    session: &SessionId,
    newest: u32,
    older: &[u32],
    rotated: &mut Rotated,
) -> Result<bool> {
    let state = repository.state();
    let mut known: Option<Secret32> = None;
    for generation in older.iter().copied().chain([newest]) {
        // Why not deleted then: what this key ring can't open it can't compare.
        let Some(secret) = repository.data_secret(&state, generation) else { return Ok(false) };
        match read_wrapped(repository, session, generation, &secret) {
            Ok(key) if known.as_ref().is_none_or(|known| *known == key) => known = Some(key),
            Err(Error::Store(StoreError::Missing(_))) => return Ok(false),
            Ok(_) | Err(Error::Damaged(_)) => {
                rotated.unreadable.push(*session);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(known.is_some())
}
