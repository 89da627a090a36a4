//! The log: replay into the state of the repository, and append by put-if-absent.
//!
//! Invariants: entry n names the hash of entry n-1 and is signed by a member that an earlier entry admitted; the state
//! changes only by applying the next entry; an entry is never applied twice. A log that is shorter than, or different
//! from, what this client saw before is a rollback (rule H1 of docs/format.md's protocol).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use crate::crypto::object_hash;
use crate::crypto::sign::SigningKey;
use crate::error::{Damaged, Error, Result};
use crate::format::log::{self as entries, Act, LogEntry, MemberRecord};
use crate::format::names::log_object;
use crate::format::slot::KeyRing;
use crate::ids::{ObjectHash, RepositoryId};
use crate::repo::cache::Cache;
use crate::rules::State;
use crate::store::{Created, Store, StoreError};

/// The next entry: authenticated, held against the chain, applied.
fn apply(state: &mut State, bytes: &[u8], ring: &KeyRing, trusted: bool) -> Result<()> {
    let opened = entries::open(state.next, bytes, &ring.log_key)?;
    let entry = &opened.entry;
    let object = log_object(state.next);
    if entry.repository != state.repository || entry.number != state.next {
        return Err(Damaged::new(object, 0, "the entry belongs elsewhere").into());
    }
    if entry.previous != state.head {
        return Err(Damaged::new(object, 0, "the entry does not follow the one before it").into());
    }
    // Why: trusted entries come from this user's own cache, where they were put after their signature had been checked.
    let applied = state.apply(entry, object_hash(bytes), |public_key| trusted || opened.verify(public_key));
    match applied {
        Err(why) if entry.number == 0 => Err(Damaged::new(object, 0, why).into()),
        _ => Ok(()),
    }
}

/// The log of one repository, as this client knows it.
pub struct Log {
    state: Arc<State>,
    cache: Cache,
}

impl Log {
    /// Replays the whole log: from the local cache as far as it reaches, then from the store.
    ///
    /// # Errors
    /// [`Error::Rollback`] if the store's log is older than or different from the cached one; [`Error::Damaged`] if an
    /// entry is not what it must be.
    pub fn open(store: &dyn Store, repository: RepositoryId, ring: &KeyRing, cache: Cache) -> Result<Self> {
        let mut log = Self { state: Arc::new(State::new(repository)), cache };
        log.replay_cache(store, ring)?;
        log.refresh(store, ring)?;
        if log.state.next == 0 {
            return Err(Damaged::new(log_object(0), 0, "the log has no entries").into());
        }
        Ok(log)
    }

    /// The state after the last entry that was read.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Reads and applies every entry after the last known one.
    ///
    /// # Errors
    /// When an entry is damaged or the store fails.
    pub fn refresh(&mut self, store: &dyn Store, ring: &KeyRing) -> Result<()> {
        let mut fresh = Vec::new();
        let first = self.state.next;
        loop {
            match store.get(&log_object(self.state.next), None) {
                Ok(bytes) => {
                    apply(Arc::make_mut(&mut self.state), &bytes, ring, false)?;
                    fresh.push(bytes);
                }
                Err(StoreError::Missing(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.remember(first, &fresh);
        Ok(())
    }

    /// Appends an act after everything that is in the log. `check` sees the state that the act will follow, each time
    /// before an attempt; what it returns is appended.
    ///
    /// # Errors
    /// What `check` returns, or what the store or the log's new entries fail with.
    pub fn append(
        &mut self,
        store: &dyn Store,
        ring: &KeyRing,
        time_ms: i64,
        check: &mut dyn FnMut(&State) -> Result<Act>,
    ) -> Result<u64> {
        loop {
            self.refresh(store, ring)?;
            let (number, act) = (self.state.next, check(&self.state)?);
            if self.try_append(store, ring, time_ms, number, act)? {
                return Ok(number);
            }
        }
    }

    /// Appends an act at exactly `number`, for which everything before it was looked at. False if another entry is there.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] where the entry would count for nothing; what the store fails with.
    pub fn try_append(
        &mut self,
        store: &dyn Store,
        ring: &KeyRing,
        time_ms: i64,
        number: u64,
        act: Act,
    ) -> Result<bool> {
        if self.state.next != number {
            return Ok(false);
        }
        let signer = SigningKey::from_seed(&ring.signing_seed);
        let entry = LogEntry {
            number,
            previous: self.state.head,
            repository: self.state.repository,
            member: ring.member,
            time_ms,
            act,
        };
        if let Some(why) = self.state.refusal(&entry) {
            return Err(Error::Refused(format!("the log would not take this {}: {why}", entry.act.name())));
        }
        let bytes = entries::seal(&entry, &ring.log_key, &signer);
        let ours = self.create(store, number, &bytes)?;
        if ours {
            apply(Arc::make_mut(&mut self.state), &bytes, ring, false)?;
            self.remember(number, &[bytes]);
        }
        Ok(ours)
    }

    /// Puts an entry at its number; false if another entry is there. An answer that was lost is asked for again.
    fn create(&self, store: &dyn Store, number: u64, bytes: &[u8]) -> Result<bool> {
        let object = log_object(number);
        match store.create(&object, bytes) {
            Ok(Created::Created) => Ok(true),
            Ok(Created::AlreadyThere) => Self::is_ours(store, &object, bytes),
            // Why: the entry may be there although the answer was lost; only the log itself can tell.
            Err(error) => match store.head(&object) {
                Ok(_) => Self::is_ours(store, &object, bytes),
                Err(_) => Err(error.into()),
            },
        }
    }

    /// True if the entry at `object` is ours; it is then made durable, which the answer that was lost did not say.
    fn is_ours(store: &dyn Store, object: &str, bytes: &[u8]) -> Result<bool> {
        let ours = store.get(object, None)? == bytes;
        if ours {
            store.put(object, bytes)?;
        }
        Ok(ours)
    }

    /// Applies the cached entries, after comparing the newest of them with the store's.
    fn replay_cache(&mut self, store: &dyn Store, ring: &KeyRing) -> Result<()> {
        let Some(bytes) = self.cache.log_path().and_then(|path| fs::read(path).ok()) else { return Ok(()) };
        let mut last: Option<&[u8]> = None;
        let mut rest = bytes.as_slice();
        while let Some((number, entry, after)) = split_record(rest) {
            if number < self.state.next {
                rest = after;
                continue;
            }
            if number > self.state.next || apply(Arc::make_mut(&mut self.state), entry, ring, true).is_err() {
                // Why: a torn or foreign cache is only a lost hint; the store is asked for everything instead.
                self.state = Arc::new(State::new(self.state.repository));
                self.forget_cache();
                return Ok(());
            }
            last = Some(entry);
            rest = after;
        }
        let Some(last) = last else { return Ok(()) };
        let number = self.state.next - 1;
        match store.get(&log_object(number), None) {
            Ok(stored) if stored == last => Ok(()),
            Ok(_) => Err(Error::Rollback(format!("{} is not the entry that was seen before", log_object(number)))),
            Err(StoreError::Missing(_)) => {
                Err(Error::Rollback(format!("the log ends before {}, which was seen before", log_object(number))))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Adds verified entries, numbered from `first`, to the cache. Failing to is only a lost hint.
    fn remember(&self, first: u64, fresh: &[Vec<u8>]) {
        let Some(path) = self.cache.log_path() else { return };
        if fresh.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        for (number, entry) in (first..).zip(fresh) {
            let Ok(length) = u32::try_from(entry.len()) else { return };
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(entry);
        }
        // Invariant: one write call, so that two processes do not interleave; replay drops whatever does not chain.
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let _ = file.and_then(|mut file| file.write_all(&bytes));
    }

    fn forget_cache(&self) {
        if let Some(path) = self.cache.log_path() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Splits a cached record, `number (8) | length (4) | bytes`, from the rest. Two processes may both have added an entry.
fn split_record(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (entry, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    Some((u64::from_le_bytes(*number), entry, rest))
}

/// Writes the INIT entry of a new repository.
///
/// # Errors
/// [`Error::RepositoryExists`] if there is a log already.
pub fn initialise(store: &dyn Store, ring: &KeyRing, marker: ObjectHash, label: &str, time_ms: i64) -> Result<()> {
    let signer = SigningKey::from_seed(&ring.signing_seed);
    let member = MemberRecord {
        id: ring.member,
        public_key: signer.public(),
        role: ring.role,
        label: label.to_owned(),
        wrap_public: None,
    };
    let act = Act::Init { marker, member, data_public: *ring.data_public.as_bytes(), generation: ring.generation };
    let entry = LogEntry { number: 0, previous: None, repository: ring.repository, member: ring.member, time_ms, act };
    match store.create(&log_object(0), &entries::seal(&entry, &ring.log_key, &signer))? {
        Created::Created => Ok(()),
        Created::AlreadyThere => Err(Error::RepositoryExists(store.location())),
    }
}
