//! The log: replay into the state of the repository, and append by put-if-absent.
//!
//! Invariants: entry n names the hash of entry n-1 and is signed by a member that an earlier entry admitted; the state
//! changes only by applying the next entry; an entry is never applied twice. A log that is shorter than, or different
//! from, what this client saw before is a rollback (rule H1 of docs/concurrency.md): then the store's log is read as it
//! is, nothing is appended to it, and the cache keeps what was seen.

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use crate::crypto::object_hash;
use crate::crypto::sign::SigningKey;
use crate::error::{Damaged, Error, Result};
use crate::format::log::{self as entries, Act, LogEntry, MemberRecord, SegmentRecord, SnapshotRecord};
use crate::format::names::{SegmentName, log_object};
use crate::format::slot::KeyRing;
use crate::ids::{MemberId, ObjectHash, RepositoryId, SessionId};
use crate::repo::cache::Cache;
use crate::store::{Created, Store, StoreError};

/// A snapshot as the log lists it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What the commit says of it.
    pub record: SnapshotRecord,
    /// Number of the log entry that committed it.
    pub number: u64,
}

/// What the log says, up to the last entry that was read.
#[derive(Debug, Clone)]
pub struct LogState {
    repository: RepositoryId,
    /// Number of the next entry.
    pub next: u64,
    /// Hash of the newest entry.
    pub head: Option<ObjectHash>,
    /// BLAKE3 of the marker, from INIT.
    pub marker: Option<ObjectHash>,
    members: HashMap<MemberId, MemberRecord>,
    /// Snapshots in log order.
    pub snapshots: Vec<Snapshot>,
    /// Published segments in log order.
    pub segments: Vec<SegmentRecord>,
    published: HashSet<SegmentName>,
    /// Sessions that committed or were adopted.
    pub finished_sessions: HashSet<SessionId>,
}

impl LogState {
    fn new(repository: RepositoryId) -> Self {
        Self {
            repository,
            next: 0,
            head: None,
            marker: None,
            members: HashMap::new(),
            snapshots: Vec::new(),
            segments: Vec::new(),
            published: HashSet::new(),
            finished_sessions: HashSet::new(),
        }
    }

    /// Checks the stored bytes of the next entry and applies it. `trusted` entries come from this user's own cache,
    /// where they were put after their signature had been checked.
    fn apply(&mut self, bytes: &[u8], ring: &KeyRing, trusted: bool) -> Result<()> {
        let opened = entries::open(self.next, bytes, &ring.log_key)?;
        let entry = &opened.entry;
        let object = log_object(self.next);
        if entry.repository != self.repository || entry.number != self.next {
            return Err(Damaged::new(object, 0, "the entry belongs elsewhere").into());
        }
        if entry.previous != self.head {
            return Err(Damaged::new(object, 0, "the entry does not follow the one before it").into());
        }
        let public_key = match (&entry.act, self.members.get(&entry.member)) {
            (Act::Init { member, .. }, None) if self.next == 0 && member.id == entry.member => member.public_key,
            (Act::Init { .. }, _) => return Err(Damaged::new(object, 0, "a second INIT").into()),
            (_, Some(member)) => member.public_key,
            (_, None) => return Err(Damaged::new(object, 0, "signed by somebody who is not a member").into()),
        };
        if !trusted && !opened.verify(&public_key) {
            return Err(Damaged::new(object, 0, "the signature is wrong").into());
        }
        self.apply_act(&opened.entry);
        self.head = Some(object_hash(bytes));
        self.next += 1;
        Ok(())
    }

    fn apply_act(&mut self, entry: &LogEntry) {
        match &entry.act {
            Act::Init { marker, member, .. } => {
                self.marker = Some(*marker);
                self.members.insert(member.id, member.clone());
            }
            Act::Commit { session, segments, snapshot, adopted } => {
                for segment in segments {
                    if self.published.insert(segment.name) {
                        self.segments.push(segment.clone());
                    }
                }
                self.finished_sessions.insert(*session);
                self.finished_sessions.extend(adopted.iter().copied());
                self.snapshots.push(Snapshot { record: (**snapshot).clone(), number: entry.number });
            }
        }
    }
}

/// The log of one repository, as this client knows it.
pub struct Log {
    state: LogState,
    cache: Cache,
    /// How the store's log differs from what was seen before; none where it does not.
    rollback: Option<String>,
}

impl Log {
    /// Replays the whole log: from the local cache as far as it reaches, then from the store. Where the store's log is
    /// older than or different from the cached one, from the store alone, and [`Self::rollback`] tells.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry is not what it must be.
    pub fn open(store: &dyn Store, repository: RepositoryId, ring: &KeyRing, cache: Cache) -> Result<Self> {
        let mut log = Self { state: LogState::new(repository), cache, rollback: None };
        log.replay_cache(store, ring)?;
        log.refresh(store, ring)?;
        if log.state.next == 0 {
            return Err(Damaged::new(log_object(0), 0, "the log has no entries").into());
        }
        Ok(log)
    }

    /// The state after the last entry that was read.
    #[must_use]
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// How the store's log differs from what this client saw before, if it does (rule H1).
    #[must_use]
    pub fn rollback(&self) -> Option<&str> {
        self.rollback.as_deref()
    }

    /// Refuses to go on where the log went back: whoever wrote now would build on what somebody put in its place.
    ///
    /// # Errors
    /// [`Error::Rollback`].
    pub fn refuse_after_rollback(&self) -> Result<()> {
        self.rollback.clone().map_or(Ok(()), |what| Err(Error::Rollback(what)))
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
                    self.state.apply(&bytes, ring, false)?;
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
    /// [`Error::Rollback`] where the log went back; what `check` returns, or what the store or the log's new entries
    /// fail with.
    pub fn append(
        &mut self,
        store: &dyn Store,
        ring: &KeyRing,
        time_ms: i64,
        check: &mut dyn FnMut(&LogState) -> Result<Act>,
    ) -> Result<u64> {
        self.refuse_after_rollback()?;
        let signer = SigningKey::from_seed(&ring.signing_seed);
        loop {
            self.refresh(store, ring)?;
            let number = self.state.next;
            let entry = LogEntry {
                number,
                previous: self.state.head,
                repository: self.state.repository,
                member: ring.member,
                time_ms,
                act: check(&self.state)?,
            };
            let bytes = entries::seal(&entry, &ring.log_key, &signer);
            if self.create(store, number, &bytes)? {
                self.state.apply(&bytes, ring, false)?;
                self.remember(number, &[bytes]);
                return Ok(number);
            }
        }
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

    /// Takes over the state of the cached entries if the store has the newest of them.
    fn replay_cache(&mut self, store: &dyn Store, ring: &KeyRing) -> Result<()> {
        let Some(bytes) = self.cache.log_path().and_then(|path| fs::read(path).ok()) else { return Ok(()) };
        let Some((state, last)) = decode_cached(&bytes, self.state.repository, ring) else {
            // Why: a torn or foreign cache is only a lost hint; the store is asked for everything instead.
            self.forget_cache();
            return Ok(());
        };
        let object = log_object(state.next - 1);
        match store.get(&object, None) {
            Ok(stored) if stored == last => self.state = state,
            Ok(_) => self.rollback = Some(format!("{object} is not the entry that was seen before")),
            Err(StoreError::Missing(_)) => {
                self.rollback = Some(format!("the log ends before {object}, which was seen before"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Adds verified entries, numbered from `first`, to the cache. Failing to is only a lost hint.
    fn remember(&self, first: u64, fresh: &[Vec<u8>]) {
        let Some(path) = self.cache.log_path() else { return };
        // Why not after a rollback: the cache is the only witness of what was seen before.
        if fresh.is_empty() || self.rollback.is_some() {
            return;
        }
        let mut bytes = Vec::new();
        for (number, entry) in (first..).zip(fresh) {
            if !encode_cached(number, entry, &mut bytes) {
                return;
            }
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

/// Appends an entry's record to the bytes of a cache file, `number (8) | length (4) | bytes`; false where it is too long.
pub fn encode_cached(number: u64, entry: &[u8], cached: &mut Vec<u8>) -> bool {
    let Ok(length) = u32::try_from(entry.len()) else { return false };
    cached.extend_from_slice(&number.to_le_bytes());
    cached.extend_from_slice(&length.to_le_bytes());
    cached.extend_from_slice(entry);
    true
}

/// The state after a cache file's last whole entry, and that entry's stored bytes; none where the file has no entry or
/// its entries do not chain. Two processes may both have added an entry: the second record of a number is passed over.
#[must_use]
pub fn decode_cached<'b>(bytes: &'b [u8], repository: RepositoryId, ring: &KeyRing) -> Option<(LogState, &'b [u8])> {
    let mut state = LogState::new(repository);
    let mut last = None;
    let mut rest = bytes;
    while let Some((number, entry, after)) = split_record(rest) {
        if number >= state.next {
            if number > state.next || state.apply(entry, ring, true).is_err() {
                return None;
            }
            last = Some(entry);
        }
        rest = after;
    }
    last.map(|last| (state, last))
}

/// Splits a cached record from the rest.
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
    let member =
        MemberRecord { id: ring.member, public_key: signer.public(), role: ring.role, label: label.to_owned() };
    let act = Act::Init { marker, member, data_public: *ring.data_public.as_bytes(), generation: ring.generation };
    let entry = LogEntry { number: 0, previous: None, repository: ring.repository, member: ring.member, time_ms, act };
    match store.create(&log_object(0), &entries::seal(&entry, &ring.log_key, &signer))? {
        Created::Created => Ok(()),
        Created::AlreadyThere => Err(Error::RepositoryExists(store.location())),
    }
}
