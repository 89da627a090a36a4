//! The log: replay into the state of the repository, and append by put-if-absent.
//!
//! Invariants: the state changes only by taking the next entry; an entry is never taken twice. A log that is shorter than,
//! or different from, what this client saw before, of which this key can't open what was seen, or that goes on behind an
//! entry that is missing, is a rollback (rule H1 of docs/concurrency.md): then the store's log is read as it is, nothing
//! is appended to it, and the cache keeps what was seen. What a crash left torn in the cache was never seen whole, and is
//! passed over.

mod holes;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use crate::crypto::object_hash;
use crate::crypto::sign::SigningKey;
use crate::error::{Damaged, Error, Result};
use crate::format::log::{self as entries, Act, ENTRY_BYTES_MAX, LogEntry, MemberRecord};
use crate::format::names::{LOG, SLOTS, log_object, parse_log};
use crate::format::slot::KeyRing;
use crate::ids::{ObjectHash, RepositoryId};
use crate::repo::cache::Cache;
use crate::repo::object::read_object;
use crate::rules::{State, may};
use crate::store::{Created, Store, StoreError};

pub use holes::{PutBack, tell_put_back};

/// What the key of a member is told who was revoked.
pub(crate) const REVOKED: Error = Error::NotAllowed("write any more: it was revoked");

/// In a cached record's number: the entry's signature is wrong.
const UNSIGNED: u64 = 1 << 63;

/// What became of an entry that was taken.
struct Applied {
    /// Its signature is right.
    signed: bool,
    /// Why it counts for nothing, if it does.
    void: Option<String>,
}

/// The next entry: unsealed, held against the chain, applied. `known` is whether its signature is right, where that was
/// found out before; it is given back.
fn apply(state: &mut State, bytes: &[u8], ring: &KeyRing, known: Option<bool>) -> Result<Applied> {
    let opened = entries::open(state.next, bytes, &ring.log_key)?;
    let mut signed = known.unwrap_or(false);
    let void = state.take(&opened, object_hash(bytes), |entry, public_key| {
        signed = known.unwrap_or_else(|| entry.verify(public_key));
        signed
    })?;
    Ok(Applied { signed, void })
}

/// What is said of a log with a lost entry.
fn hole(number: u64) -> String {
    format!("{} is missing, but later entries exist", log_object(number))
}

/// The log of one repository, as this client knows it.
pub struct Log {
    state: Arc<State>,
    cache: Cache,
    /// Length in bytes to which a torn end of the cached log has to be cut before more is added.
    torn_at: Option<u64>,
    /// True if the cache had seen this very log before.
    is_known: bool,
    /// How the store's log differs from what was seen before; none where it does not.
    rollback: Option<String>,
    /// It differs in that another repository was seen at its place.
    is_elsewhere: bool,
    /// The listing was asked whether the log goes on behind a lost entry.
    is_end_confirmed: bool,
    put_back: PutBack,
}

impl Log {
    /// Replays the whole log: from the local cache as far as it reaches, then from the store. Where the store's log is
    /// older than or different from the cached one, from the store alone, and [`Self::rollback`] tells.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry is not what it must be.
    pub fn open(store: &dyn Store, repository: RepositoryId, ring: &KeyRing, cache: Cache) -> Result<Self> {
        let state = Arc::new(State::new(repository));
        let mut log = Self {
            state,
            cache,
            torn_at: None,
            is_known: false,
            rollback: None,
            is_elsewhere: false,
            is_end_confirmed: false,
            put_back: PutBack::default(),
        };
        log.replay_cache(store, ring)?;
        log.refresh(store, ring)?;
        if log.state.next == 0 {
            return Err(Damaged::new(log_object(0), 0, "the log has no entries").into());
        }
        // Why only the one behind the end: this is asked by every command. Whoever writes asks the listing. Why in this order:
        // others append meanwhile, one entry after the other; what lies behind the end proves that the end has moved.
        while log.rollback.is_none() && store.head(&log_object(log.state.next + 1)).is_ok() {
            let end = log.state.next;
            log.refresh(store, ring)?;
            if log.state.next == end {
                log.rollback = Some(hole(end));
            }
        }
        Ok(log)
    }

    /// The state after the last entry that was read.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// How the store's log differs from what this client saw before, if it does (rule H1).
    #[must_use]
    pub fn rollback(&self) -> Option<&str> {
        self.rollback.as_deref()
    }

    /// True if this client's cache had seen this log before, and the log is still that.
    #[must_use]
    pub(crate) fn is_known(&self) -> bool {
        self.is_known
    }

    /// This log is not the one that was expected: it is read, and neither written nor remembered as seen.
    pub(crate) fn distrust(&mut self, what: String) {
        if self.rollback.is_none() {
            self.rollback = Some(what);
            self.is_elsewhere = true;
            let path = self.cache.log_path().filter(|_| !self.is_known);
            // Why: what this opening itself has put there must not make the log a known one.
            let _ = path.map(fs::remove_file);
        }
    }

    /// Refuses to go on where the log went back: whoever wrote now would build on what somebody put in its place.
    ///
    /// # Errors
    /// [`Error::Rollback`].
    pub fn refuse_after_rollback(&self) -> Result<()> {
        let Some(what) = &self.rollback else { return Ok(()) };
        let seen = match (self.is_elsewhere, self.cache.directory()) {
            (true, _) => "; if this is the right one, name its fingerprint once with --expect".to_owned(),
            (false, Some(seen)) => {
                format!("; if you put it there yourself, remove {}, which is what was seen before", seen.display())
            }
            (false, None) => String::new(),
        };
        Err(Error::Rollback(format!("{what}{seen}")))
    }

    /// Reads and applies every entry after the last known one.
    ///
    /// # Errors
    /// When an entry is damaged or the store fails.
    pub fn refresh(&mut self, store: &dyn Store, ring: &KeyRing) -> Result<()> {
        let mut fresh = Vec::new();
        let first = self.state.next;
        let read = self.read_new(store, ring, &mut fresh);
        // Why also after a failure: what was read before it is taken, and the cache must have no gap.
        self.remember(first, &fresh);
        read
    }

    fn read_new(&mut self, store: &dyn Store, ring: &KeyRing, fresh: &mut Vec<(Vec<u8>, bool)>) -> Result<()> {
        loop {
            match read_object(store, &log_object(self.state.next), ENTRY_BYTES_MAX) {
                Ok(bytes) => {
                    let Applied { signed, .. } = apply(Arc::make_mut(&mut self.state), &bytes, ring, None)?;
                    fresh.push((bytes, signed));
                }
                Err(Error::Store(StoreError::Missing(_))) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads to the end of the log, and sees to it that it is the end: an entry that the store lost looks like it. Whoever
    /// took it for the end would forget what comes after it. Entries before it that the store lost are put back: see
    /// [`holes`].
    ///
    /// # Errors
    /// [`Error::Rollback`] where later entries exist; [`Error::Damaged`] where an entry is lost for good; what
    /// [`Self::refresh`] or the listing fails with.
    pub fn confirm_end(&mut self, store: &dyn Store, ring: &KeyRing) -> Result<()> {
        self.refuse_after_rollback()?;
        loop {
            self.refresh(store, ring)?;
            let next = self.state.next;
            let mut listed = Vec::new();
            store.list(LOG, &mut |info| listed.extend(parse_log(&info.name)))?;
            if listed.iter().all(|number| *number < next) {
                self.put_back_lost(store, ring, listed)?;
                self.is_end_confirmed = true;
                return Ok(());
            }
            // Why looked at again: somebody may have appended since.
            match store.head(&log_object(next)) {
                Ok(_) => {}
                Err(StoreError::Missing(_)) => {
                    self.rollback = Some(hole(next));
                    return self.refuse_after_rollback();
                }
                Err(error) => return Err(error.into()),
            }
        }
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
        check: &mut dyn FnMut(&State) -> Result<Act>,
    ) -> Result<u64> {
        self.refuse_after_rollback()?;
        if !self.is_end_confirmed {
            self.confirm_end(store, ring)?;
        }
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
    /// [`Error::NotAllowed`] where the key was revoked or its role is too small, [`Error::Refused`] where the entry would
    /// count for nothing for another reason; [`Error::Damaged`] where the key ring is not that of its member; what the store
    /// fails with.
    pub fn try_append(
        &mut self,
        store: &dyn Store,
        ring: &KeyRing,
        time_ms: i64,
        number: u64,
        act: Act,
    ) -> Result<bool> {
        self.refuse_after_rollback()?;
        if !self.is_end_confirmed {
            self.confirm_end(store, ring)?;
        }
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
        if self.state.members.get(&ring.member).is_some_and(|member| member.revoked.is_some()) {
            return Err(REVOKED);
        }
        if !may(ring.role, &entry.act) {
            return Err(Error::NotAllowed("write that into the log: that takes an owner's"));
        }
        if let Some(why) = self.state.refusal(&entry) {
            return Err(Error::Refused(format!("the log would not take this {}: {why}", entry.act.name())));
        }
        if self.state.members.get(&ring.member).is_some_and(|named| named.record.public_key != signer.public()) {
            return Err(Damaged::new(SLOTS, 0, "the key ring that was opened does not sign as its member does").into());
        }
        let bytes = entries::seal(&entry, &ring.log_key, &signer);
        if bytes.len() as u64 > ENTRY_BYTES_MAX {
            return Err(Error::Refused(format!(
                "this {} would be too long for one entry of the log",
                entry.act.name()
            )));
        }
        let ours = self.create(store, number, &bytes)?;
        if ours {
            let Applied { signed, void } = apply(Arc::make_mut(&mut self.state), &bytes, ring, None)?;
            self.remember(number, &[(bytes, signed)]);
            // Why: whoever takes it for done goes on, and deletes what others still need.
            if let Some(why) = void {
                let why = format!("it was written just now and counts for nothing: {why}");
                return Err(Damaged::new(log_object(number), 0, why).into());
            }
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
        let ours = read_object(store, object, ENTRY_BYTES_MAX)? == bytes;
        if ours {
            store.put(object, bytes)?;
        }
        Ok(ours)
    }

    /// Takes over the state of the cached entries if the store has the newest of them.
    fn replay_cache(&mut self, store: &dyn Store, ring: &KeyRing) -> Result<()> {
        let Some(bytes) = self.cache.log_path().and_then(|path| fs::read(path).ok()) else { return Ok(()) };
        let (state, last, length) = match decode_cached(&bytes, self.state.repository, ring) {
            Cached::Nothing => {
                self.torn_at = (!bytes.is_empty()).then_some(0);
                return Ok(());
            }
            Cached::Foreign(why) => {
                self.rollback = Some(format!("the log is not the one that was seen before: {why}"));
                return Ok(());
            }
            Cached::Log { state, last, length } => (state, last, length),
        };
        self.torn_at = u64::try_from(length).ok().filter(|_| length < bytes.len());
        let object = log_object(state.next - 1);
        match read_object(store, &object, ENTRY_BYTES_MAX) {
            Ok(stored) if stored == last => (self.state, self.is_known) = (Arc::new(*state), true),
            Err(Error::Store(StoreError::Missing(_))) => {
                self.rollback = Some(format!("the log ends before {object}, which was seen before"));
            }
            Err(Error::Store(error)) => return Err(error.into()),
            Ok(_) | Err(_) => self.rollback = Some(format!("{object} is not the entry that was seen before")),
        }
        Ok(())
    }

    /// Adds verified entries, numbered from `first`, to the cache. Failing to is only a lost hint.
    fn remember(&mut self, first: u64, fresh: &[(Vec<u8>, bool)]) {
        let Some(path) = self.cache.log_path() else { return };
        // Why not after a rollback: the cache is the only witness of what was seen before.
        if fresh.is_empty() || self.rollback.is_some() {
            return;
        }
        let mut bytes = Vec::new();
        for (number, (entry, signed)) in (first..).zip(fresh) {
            if !encode_cached(number, *signed, entry, &mut bytes) {
                return;
            }
        }
        // Invariant: one write call, so that two processes do not interleave; replay ends at whatever is torn.
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let torn_at = self.torn_at.take();
        let _ = file.and_then(|mut file| {
            torn_at.map_or(Ok(()), |length| file.set_len(length))?;
            file.write_all(&bytes)
        });
    }
}

/// Bytes of a cached record's checksum.
const CHECKSUM_BYTES: usize = 8;

/// Appends an entry's record to the bytes of a cache file, `number (8) | length (4) | checksum (8) | bytes`; false where it
/// is too long. The number's highest bit is set where the signature is wrong: so it need not be checked again. The checksum
/// is the beginning of the BLAKE3 of the other three: what a crash has torn is told from what somebody else wrote.
pub fn encode_cached(number: u64, signed: bool, entry: &[u8], cached: &mut Vec<u8>) -> bool {
    let Ok(length) = u32::try_from(entry.len()) else { return false };
    let number = number | if signed { 0 } else { UNSIGNED };
    cached.extend_from_slice(&number.to_le_bytes());
    cached.extend_from_slice(&length.to_le_bytes());
    cached.extend_from_slice(&cached_checksum(number, length, entry));
    cached.extend_from_slice(entry);
    true
}

fn cached_checksum(number: u64, length: u32, entry: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(&length.to_le_bytes()).update(entry);
    let mut checksum = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}

/// What a cache file says of the log.
#[derive(Debug)]
pub enum Cached<'b> {
    /// No entry is there whole.
    Nothing,
    /// The log, as far as it was seen.
    Log {
        /// The state after the last entry.
        state: Box<State>,
        /// The last entry's stored bytes.
        last: &'b [u8],
        /// Length in bytes of the records that count.
        length: usize,
    },
    /// Whole entries that are of another log, or that this key ring's log key does not open; and which.
    Foreign(String),
}

/// Replays a cache file. Two processes may both have added an entry: the second record of a number is passed over, unless
/// it is another entry. A torn record, or a gap that a failed write has left, ends it.
#[must_use]
pub fn decode_cached<'b>(bytes: &'b [u8], repository: RepositoryId, ring: &KeyRing) -> Cached<'b> {
    let mut state = State::new(repository);
    let mut hashes = Vec::new();
    let mut last = None;
    let mut rest = bytes;
    while let Some((number, signed, entry, after)) = split_record(rest) {
        if number < state.next {
            if hashes.get(usize::try_from(number).unwrap_or(usize::MAX)) != Some(&object_hash(entry)) {
                return Cached::Foreign(format!("two entries were seen as {}", log_object(number)));
            }
        } else if number == state.next {
            match apply(&mut state, entry, ring, Some(signed)) {
                Ok(_) => {}
                // A newer version of this program wrote it; the store's own log will tell.
                Err(Error::Unsupported(_)) => break,
                Err(error) => return Cached::Foreign(error.to_string()),
            }
            hashes.push(object_hash(entry));
            last = Some(entry);
        } else {
            break;
        }
        rest = after;
    }
    match last {
        Some(last) => Cached::Log { state: Box::new(state), last, length: bytes.len() - rest.len() },
        None => Cached::Nothing,
    }
}

/// The end of the log as this user's cache saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Number of entries.
    pub next: u64,
    /// The head after the last.
    pub head: ObjectHash,
}

/// What this user's cache saw of the log; none without a cache, or where nothing was seen.
///
/// # Errors
/// Why what was seen can't be of this log.
pub fn seen_before(cache: &Cache, repository: RepositoryId, ring: &KeyRing) -> Result<Option<Seen>, String> {
    let Some(bytes) = cache.log_path().and_then(|path| fs::read(path).ok()) else { return Ok(None) };
    match decode_cached(&bytes, repository, ring) {
        Cached::Nothing => Ok(None),
        Cached::Log { state, .. } => Ok(state.head.map(|head| Seen { next: state.next, head })),
        Cached::Foreign(why) => Err(why),
    }
}

/// Splits a cached record from the rest; none where it is torn.
fn split_record(bytes: &[u8]) -> Option<(u64, bool, &[u8], &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    let (number, length) = (u64::from_le_bytes(*number), u32::from_le_bytes(*length));
    let (entry, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let is_whole = cached_checksum(number, length, entry) == *checksum;
    is_whole.then_some((number & !UNSIGNED, number & UNSIGNED == 0, entry, rest))
}

/// True if this key ring opens the first entry that the store has.
pub(crate) fn opens_first(store: &dyn Store, ring: &KeyRing) -> bool {
    let first = read_object(store, &log_object(0), ENTRY_BYTES_MAX);
    first.is_ok_and(|bytes| entries::open(0, &bytes, &ring.log_key).is_ok())
}

/// Writes the INIT entry of a new repository; gives the hash of its stored bytes.
///
/// # Errors
/// [`Error::RepositoryExists`] if there is a log already.
pub fn initialise(
    store: &dyn Store,
    ring: &KeyRing,
    marker: ObjectHash,
    member: MemberRecord,
    time_ms: i64,
) -> Result<ObjectHash> {
    let signer = SigningKey::from_seed(&ring.signing_seed);
    let act = Act::Init { marker, member, data_public: *ring.data_public.as_bytes(), generation: ring.generation };
    let entry = LogEntry { number: 0, previous: None, repository: ring.repository, member: ring.member, time_ms, act };
    let bytes = entries::seal(&entry, &ring.log_key, &signer);
    match store.create(&log_object(0), &bytes)? {
        Created::Created => Ok(object_hash(&bytes)),
        Created::AlreadyThere => Err(Error::RepositoryExists(store.location())),
    }
}

#[cfg(test)]
mod tests;
