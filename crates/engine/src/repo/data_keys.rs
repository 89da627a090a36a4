//! The data key pair through its generations: which secrets this key ring has, and how it reads a session's key.
//!
//! A key ring holds the generation that was the newest when it was made. The secrets of later ones come from the grants
//! in the log, wrapped for this member; whoever was revoked before has none. A session's key is wrapped anew for each
//! generation until a rotation has ended, so it is looked for from the newest generation down.
//!
//! Invariants: a secret that does not fit the public key that an owner signed is not used; nobody wraps a session's key
//! for anything but a public key from the log.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use crate::crypto::Secret32;
use crate::crypto::wrap::{self, DataPublicKey, DataSecretKey};
use crate::error::{Damaged, Error, Result};
use crate::format::names::session_object;
use crate::format::session::{self as session_format, RECORD_BYTES_MAX};
use crate::format::slot::{KeyRing, Role};
use crate::ids::SessionId;
use crate::repo::object::read_object;
use crate::repo::repository::Repository;
use crate::rules::{DataKey, State};
use crate::store::{Created, Store, StoreError};

/// What a key that has no data secret key is told.
pub(crate) const NOT_A_READER: Error =
    Error::NotAllowed("read data back: it is a member's, and that takes a reader's or an owner's");

/// The data secret keys that were found so far.
#[derive(Default)]
pub(crate) struct DataKeys {
    known: RwLock<BTreeMap<u32, DataSecretKey>>,
}

impl DataKeys {
    /// The secret key of a generation; `None` where this key ring has none.
    pub(crate) fn secret(&self, ring: &KeyRing, state: &State, generation: u32) -> Option<DataSecretKey> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&generation) {
            return Some(known.clone());
        }
        let key = state.data_keys.iter().find(|key| key.generation == generation)?;
        let found = find_secret(ring, key)?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(generation, found.clone());
        Some(found)
    }
}

fn find_secret(ring: &KeyRing, key: &DataKey) -> Option<DataSecretKey> {
    let fits = |secret: &DataSecretKey| secret.public().as_bytes() == &key.public;
    if ring.role == Role::Member {
        return None;
    }
    if let Some(own) = ring.data_secret.clone().filter(|own| ring.generation == key.generation && fits(own)) {
        return Some(own);
    }
    let pair = wrap::member_secret(&ring.signing_seed);
    let grants = key.grants.iter().filter(|grant| grant.member == ring.member);
    grants
        .filter_map(|grant| {
            let wrapped = (grant.encapsulated.as_slice(), grant.ciphertext.as_slice());
            wrap::open_grant(&pair, &ring.repository, &ring.member, key.generation, wrapped)
        })
        .find(fits)
}

/// The newest data public key and its generation: what new sessions are wrapped for.
///
/// # Errors
/// [`Damaged`] where the log has none that can be used.
pub(crate) fn newest_public(state: &State) -> Result<(u32, DataPublicKey)> {
    let newest = state.data_keys.last().and_then(|key| Some((key.generation, DataPublicKey::from_bytes(key.public)?)));
    newest.ok_or_else(|| Damaged::new("log", 0, "its newest data public key can't be used").into())
}

/// Stores a session's key, wrapped for this generation, unless something is there: false then, and only who can open it
/// knows whether it is the same key. Durable when it returns.
pub(crate) fn store_session_key(
    repository: &Repository,
    session: &SessionId,
    (generation, public): (u32, &DataPublicKey),
    key: &Secret32,
) -> Result<bool> {
    let (encapsulated, ciphertext) = wrap::seal_session_key(public, &repository.id(), session, generation, key);
    let record = session_format::encode(*session, generation, &encapsulated, &ciphertext);
    let object = session_object(session, generation);
    match repository.store().create(&object, &record)? {
        Created::Created => Ok(true),
        // Why: the answer to an earlier attempt may have been lost.
        Created::AlreadyThere => match read_object(repository.store(), &object, RECORD_BYTES_MAX) {
            Err(Error::Damaged(_)) => Ok(false),
            read => Ok(read? == record),
        },
    }
}

/// Reads a session's key from the newest generation that is there and that this key ring opens; where that is damaged, from
/// an older one. Looks again after reading the log's new entries before it gives up: a rotation may have ended meanwhile.
pub(crate) fn read_session_key(repository: &Repository, session: &SessionId) -> Result<Secret32> {
    if !repository.can_read_data() {
        return Err(NOT_A_READER);
    }
    if let Ok(found) = look_for_session_key(repository, session)? {
        return Ok(found);
    }
    repository.refresh()?;
    match look_for_session_key(repository, session)? {
        Ok(found) => Ok(found),
        Err(Lack::Damaged(damaged)) => Err(damaged.into()),
        Err(Lack::Closed) => {
            Err(Error::NotAllowed("read what was written since the data key was renewed: it was left out then"))
        }
        Err(Lack::Missing) => {
            let object = session_object(session, repository.state().generation());
            Err(Damaged::new(object, 0, "the session's key is missing").into())
        }
    }
}

/// Every different key that is stored for a session and that this key ring opens, of the newest generation first. There is
/// one; but who knows the data public key can put another under the session's name, and then only the data tell which is
/// right.
pub(crate) fn read_all_session_keys(repository: &Repository, session: &SessionId) -> Vec<Secret32> {
    let state = repository.state();
    let mut keys: Vec<Secret32> = Vec::new();
    for key in state.data_keys.iter().rev() {
        let secret = repository.data_secret(&state, key.generation);
        let found = secret.and_then(|secret| read_wrapped(repository, session, key.generation, &secret).ok());
        keys.extend(found.filter(|found| !keys.contains(found)));
    }
    keys
}

/// Why a session's key is not found.
enum Lack {
    /// It is there for no generation.
    Missing,
    /// It is there for a generation of which this key ring has no secret.
    Closed,
    /// What is there can't be read.
    Damaged(Damaged),
}

fn look_for_session_key(repository: &Repository, session: &SessionId) -> Result<Result<Secret32, Lack>> {
    let state = repository.state();
    let mut lack = Lack::Missing;
    for key in state.data_keys.iter().rev() {
        let object = session_object(session, key.generation);
        let Some(secret) = repository.data_secret(&state, key.generation) else {
            if is_there(repository.store(), &object)? {
                lack = Lack::Closed;
            }
            continue;
        };
        match read_wrapped(repository, session, key.generation, &secret) {
            Ok(found) => return Ok(Ok(found)),
            Err(Error::Store(StoreError::Missing(_))) => {}
            // Why go on: a rotation leaves an older key where it can't read the newest one back.
            Err(Error::Damaged(damaged)) => lack = Lack::Damaged(damaged),
            Err(error) => return Err(error),
        }
    }
    Ok(Err(lack))
}

/// True if a session's key is there for some generation, whoever opens it.
pub(crate) fn has_session_key(repository: &Repository, session: &SessionId) -> Result<bool> {
    for again in [false, true] {
        if again {
            repository.refresh()?;
        }
        for key in repository.state().data_keys.iter().rev() {
            if is_there(repository.store(), &session_object(session, key.generation))? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// True if an object is there.
pub(crate) fn is_there(store: &dyn Store, object: &str) -> Result<bool> {
    match store.head(object) {
        Ok(_) => Ok(true),
        Err(StoreError::Missing(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads a session's key as it is wrapped for one generation.
pub(crate) fn read_wrapped(
    repository: &Repository,
    session: &SessionId,
    generation: u32,
    secret: &DataSecretKey,
) -> Result<Secret32> {
    let object = session_object(session, generation);
    let bytes = read_object(repository.store(), &object, RECORD_BYTES_MAX)?;
    let record = session_format::decode(session, generation, &bytes)?;
    let (encapsulated, ciphertext) = (&record.encapsulated, &record.ciphertext);
    wrap::open_session_key(secret, &repository.id(), session, generation, encapsulated, ciphertext)
        .ok_or_else(|| Damaged::new(object, 0, "the session's key does not open").into())
}
