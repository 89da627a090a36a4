//! A repository, opened: keys, log, index, and the way to read chunks and trees.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::clock::Timestamp;
use crate::crypto::wrap::DataSecretKey;
use crate::crypto::{IdKey, Secret32, object_hash, random};
use crate::entry::{Content, Extent};
use crate::error::{Damaged, Error, Result};
use crate::format::log::{Act, KeyChange, SegmentRecord};
use crate::format::marker::Marker;
use crate::format::names::MARKER;
use crate::format::node::decode_extents;
use crate::format::parity::Parity;
use crate::format::segment::Location;
use crate::format::slot::{KeyRing, Role, Unlock};
use crate::ids::{ChunkId, ObjectHash, RepositoryId, SessionId, SlotId};
use crate::repo::admit::Candidate;
use crate::repo::bases::Bases;
use crate::repo::cache::Cache;
use crate::repo::data_keys::{DataKeys, NOT_A_READER, read_all_session_keys, read_session_key};
use crate::repo::index::Index;
use crate::repo::log::{self, Log, PutBack};
use crate::repo::mend::Mends;
use crate::repo::place::Place;
use crate::repo::reader::{BLOB_HEADER_BYTES, BlobReader};
use crate::repo::rings::{Rings, WayIn, ambiguous, read_marker};
use crate::repo::tree::TreeReader;
use crate::repo::unfinished::Unfinished;
use crate::rules::State;
use crate::store::{Created, Store, StoreError};

pub use crate::rules::{Forgotten, Snapshot};

/// An extent list is nested no deeper.
pub(crate) const INDIRECT_DEPTH_MAX: u8 = 8;

/// An open repository. Shared by reference among threads.
pub struct Repository {
    pub(super) store: Arc<dyn Store>,
    marker: Marker,
    pub(super) ring: KeyRing,
    id_key: IdKey,
    cache: Cache,
    log: Mutex<Log>,
    pub(super) index: RwLock<Index>,
    /// Published segments that are damaged or missing: not asked for again with every look-up.
    pub(super) closed: Mutex<HashSet<ObjectHash>>,
    session_keys: RwLock<HashMap<SessionId, Secret32>>,
    /// All keys that are stored for a session, where the first did not open what it wrote.
    other_session_keys: RwLock<HashMap<SessionId, Vec<Secret32>>>,
    data_keys: DataKeys,
    parity: Option<Parity>,
    mends: Mends,
    /// Roots of the snapshots that are being read.
    read_roots: Mutex<Vec<ChunkId>>,
}

impl Repository {
    /// Makes a repository in an empty store, with one key slot for each of `slots` (how it opens, label), and opens it.
    /// Goes on where an earlier call with one of these keys was interrupted.
    ///
    /// # Errors
    /// [`Error::RepositoryExists`] where there is one already; [`Error::Refused`] where the store has no atomic
    /// put-if-absent, or a call with other keys was interrupted.
    pub fn init(store: Arc<dyn Store>, slots: &[(Unlock, String)], cache: Option<PathBuf>) -> Result<Self> {
        if slots.is_empty() {
            return Err(Error::Usage("a repository needs at least one key".into()));
        }
        if !store.capabilities().atomic_create {
            return Err(Error::Refused(format!("{} can't create an object atomically", store.location())));
        }
        match store.head(MARKER) {
            Ok(_) => return Err(Error::RepositoryExists(store.location())),
            Err(StoreError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let locks: Option<Vec<_>> = slots.iter().map(|(unlock, label)| Some((unlock.lock()?, label))).collect();
        let Some([(lock, label), ..]) = locks.as_deref() else {
            return Err(Error::Usage("a repository is not made with shares: `key add` hands them out".into()));
        };
        let time_ms = milliseconds(Timestamp::now());
        let (ring, mut log, has) = match Unfinished::find(&*store, slots)? {
            Some(Unfinished { ring, log, has }) => (ring, log, has),
            None => {
                let ring = KeyRing::generate(RepositoryId(random()));
                let marker = Marker::new(ring.repository, false).encode();
                let first = Candidate::seal(&ring, lock, label)?;
                first.store(&*store)?;
                log::initialise(&*store, &ring, object_hash(&marker), first.record, time_ms)?;
                let log = Log::open(&*store, ring.repository, &ring, Cache::default())?;
                (ring, log, vec![true])
            }
        };
        // The first way in is there where any is; an interrupted call may have been given another one first.
        let has = has.into_iter().chain(std::iter::repeat(false));
        let missing = locks.iter().flatten().zip(has).filter(|(_, has)| !has);
        for ((lock, label), _) in missing {
            let Some(data) = &ring.data_secret else { break };
            let other = Candidate::new(&ring, Role::Owner, (ring.generation, data), lock, label)?;
            let admission = || Act::Key(KeyChange::Admit(other.record.clone()));
            log.append(&*store, &ring, time_ms, &mut |_| Ok(admission()))?;
            other.store(&*store)?;
        }
        // Invariant: the marker is written last, so that a half-made repository is not taken for one.
        let marker = Marker::new(ring.repository, false).encode();
        // Whoever went on with the same call wrote the same.
        if store.create(MARKER, &marker)? == Created::AlreadyThere && read_marker(&*store)? != marker {
            return Err(Error::RepositoryExists(store.location()));
        }
        let fingerprint = log.state().fingerprint;
        Self::open_with(store, &marker, ring, cache, fingerprint)
    }

    /// Opens a repository with the first key slot that `unlock` opens and that is the one of a member of the log. `cache` is the
    /// directory for all of this user's caches; without it nothing is kept between runs. Where the log went back, or is of
    /// another repository than the one seen at this place before ([`Self::rollback`]), it opens to read what is there;
    /// whoever would write is refused.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongKey`], [`Error::Unsupported`], [`Error::Damaged`].
    pub fn open(store: Arc<dyn Store>, unlock: &Unlock, cache: Option<PathBuf>) -> Result<Self> {
        Self::open_expected(store, unlock, cache, None)
    }

    /// As [`Self::open`], for the repository with this fingerprint ([`Self::fingerprint`]) if one is given: then it does
    /// not matter what was seen at this place before.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::Substituted`] where it has another fingerprint.
    pub fn open_expected(
        store: Arc<dyn Store>,
        unlock: &Unlock,
        cache: Option<PathBuf>,
        expected: Option<ObjectHash>,
    ) -> Result<Self> {
        let marker = read_marker(&*store)?;
        let (mut failure, mut revoked) = (None, None);
        // What opens by a slot that its own member may have put there, and whether slots of several members do.
        let (mut unproven, mut rivals): (Option<(SlotId, Self)>, _) = (None, None);
        let mut rings = Rings::new(&*store, unlock, Marker::decode(&marker)?.repository)?;
        while let Some(way) = rings.open_next() {
            let slot = way.slot;
            match Self::open_way(Arc::clone(&store), &marker, way, cache.clone(), expected) {
                Ok((repository, _)) if repository.revoked().is_some() => drop(revoked.get_or_insert(repository)),
                Ok((repository, true)) => return Ok(repository),
                Ok((repository, false)) => match &unproven {
                    None => unproven = Some((slot, repository)),
                    Some((_, first)) if first.ring.member == repository.ring.member => {}
                    Some((first, _)) => rivals = Some(ambiguous([first, &slot])),
                },
                // Why go on: anybody can make a slot for a public key, and keep the right one from being tried.
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        if let Some(error) = rivals {
            return Err(error);
        }
        let opened = unproven.map(|(_, repository)| repository).or(revoked);
        opened.ok_or_else(|| failure.unwrap_or_else(|| rings.failure()))
    }

    /// Opens it with one key ring, and tells whether that is proven to be made for this key ([`WayIn::fits`]).
    fn open_way(
        store: Arc<dyn Store>,
        marker: &[u8],
        way: WayIn,
        cache: Option<PathBuf>,
        expected: Option<ObjectHash>,
    ) -> Result<(Self, bool)> {
        let repository = Self::open_with(store, marker, way.ring.clone(), cache, expected)?;
        let is_proven = way.fits(&repository.state())?;
        Ok((repository, is_proven))
    }

    /// The key ring in the first key slot that `unlock` opens and that opens entry 0 of the log; where none does, in the
    /// first that `unlock` opens. The rest of the log is not looked at.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::WrongKey`], [`Error::Shares`], [`Error::Unsupported`], [`Error::Damaged`].
    pub fn open_ring(store: &dyn Store, unlock: &Unlock) -> Result<KeyRing> {
        let mut rings = Rings::new(store, unlock, Marker::decode(&read_marker(store)?)?.repository)?;
        let mut first = None;
        while let Some(WayIn { ring, .. }) = rings.open_next() {
            if log::opens_first(store, &ring) {
                return Ok(ring);
            }
            first.get_or_insert(ring);
        }
        first.ok_or_else(|| rings.failure())
    }

    fn open_with(
        store: Arc<dyn Store>,
        marker_bytes: &[u8],
        ring: KeyRing,
        cache: Option<PathBuf>,
        expected: Option<ObjectHash>,
    ) -> Result<Self> {
        let marker = Marker::decode(marker_bytes)?;
        if marker.repository != ring.repository {
            return Err(Damaged::new(MARKER, 0, "the marker is of another repository than the key").into());
        }
        let place = Place::new(cache.as_deref(), &store.location());
        let cache = Cache::new(cache.as_deref(), &ring.repository);
        let mut log = Log::open(&*store, ring.repository, &ring, cache.clone())?;
        if log.state().marker != Some(object_hash(marker_bytes)) {
            return Err(Damaged::new(MARKER, 0, "the marker was changed after init").into());
        }
        place.admit(&mut log, expected)?;
        let repository = Self {
            store,
            marker,
            id_key: IdKey::new(&ring.id_key),
            ring,
            cache,
            log: Mutex::new(log),
            index: RwLock::new(Index::default()),
            closed: Mutex::new(HashSet::new()),
            session_keys: RwLock::new(HashMap::new()),
            other_session_keys: RwLock::new(HashMap::new()),
            data_keys: DataKeys::default(),
            parity: None,
            mends: Mends::default(),
            read_roots: Mutex::new(Vec::new()),
        };
        repository.open_index();
        Ok(repository)
    }

    /// The repository's id.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.ring.repository
    }

    /// Tells this repository from every other, whoever made it: the BLAKE3 of its log's first entry as it is stored. All
    /// later entries are chained to that. Who opens with an identity or with shares, which prove nothing of the repository,
    /// compares it with what its owner says.
    #[must_use]
    pub fn fingerprint(&self) -> ObjectHash {
        self.state().fingerprint.expect("no repository opens without the first entry")
    }

    /// Where the bytes lie.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// What the key that opened it allows.
    #[must_use]
    pub fn role(&self) -> Role {
        self.ring.role
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.ring
    }

    /// The marker.
    #[must_use]
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// Makes chunk ids.
    #[must_use]
    pub fn id_key(&self) -> &IdKey {
        &self.id_key
    }

    /// Packs that this process writes from now on get so much parity; without this they have none.
    #[must_use]
    pub fn with_parity(self, parity: Option<Parity>) -> Self {
        Self { parity, ..self }
    }

    pub(crate) fn parity(&self) -> Option<Parity> {
        self.parity
    }

    pub(crate) fn mends(&self) -> &Mends {
        &self.mends
    }

    /// Why the local cache is not used although there is one, in words.
    #[must_use]
    pub fn refused_cache(&self) -> Option<&str> {
        self.cache.refused()
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Snapshots in log order, oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.log().state().snapshots.clone()
    }

    /// True if this key's own member or an owner signed the snapshot, and that member was not removed since. What others say
    /// of a source serves as base, and as nothing else ([`crate::rules::may_take_over`]).
    #[must_use]
    pub fn trusts(&self, snapshot: &Snapshot) -> bool {
        crate::rules::may_take_over(&self.state(), &self.ring.member, snapshot)
    }

    /// Snapshots that were forgotten and of which no prune has deleted anything yet, in log order.
    #[must_use]
    pub fn forgotten(&self) -> Vec<Forgotten> {
        let mut forgotten: Vec<Forgotten> = self.state().forgotten.values().cloned().collect();
        forgotten.sort_by_key(|forgotten| forgotten.snapshot.number);
        forgotten
    }

    /// Number of log entries.
    #[must_use]
    pub fn log_entries(&self) -> u64 {
        self.log().state().next
    }

    /// Published segments in log order.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentRecord> {
        self.log().state().segments.clone()
    }

    /// How the store's log differs from what this user's cache saw before, if it does: it is shorter, or has another
    /// entry (rule H1). What is read then is what the store shows.
    #[must_use]
    pub fn rollback(&self) -> Option<String> {
        self.log().rollback().map(str::to_owned)
    }

    /// Whoever would write asks this first.
    ///
    /// # Errors
    /// [`Error::Rollback`] where the log went back.
    pub fn refuse_after_rollback(&self) -> Result<()> {
        self.log().refuse_after_rollback()
    }

    /// The entry that revoked the member whose key opened the repository, if one did. The log takes nothing from it any
    /// more.
    #[must_use]
    pub fn revoked(&self) -> Option<u64> {
        self.state().members.get(&self.ring.member)?.revoked
    }

    /// Whoever would write a lot asks this before.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] where the key was revoked.
    pub fn refuse_revoked(&self) -> Result<()> {
        if self.revoked().is_some() { Err(log::REVOKED) } else { Ok(()) }
    }

    /// Whoever reads trees or data asks this first.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] with a member's key.
    pub fn refuse_unable_to_read(&self) -> Result<()> {
        if self.can_read_data() { Ok(()) } else { Err(NOT_A_READER) }
    }

    /// The data secret key of a generation, from the key ring or from a grant in the log; none where this key has none.
    pub(crate) fn data_secret(&self, state: &State, generation: u32) -> Option<DataSecretKey> {
        self.data_keys.secret(&self.ring, state, generation)
    }

    /// Reads what others have appended since.
    ///
    /// # Errors
    /// When the log's new entries are damaged or the store fails.
    pub fn refresh(&self) -> Result<()> {
        self.log().refresh(&*self.store, &self.ring)?;
        self.open_new_segments();
        Ok(())
    }

    /// Reads to the end of the log, and sees to it that no lost entry is taken for it; see [`Log::confirm_end`].
    ///
    /// # Errors
    /// [`Error::Rollback`] where later entries exist; when the store fails.
    pub fn confirm_log_end(&self) -> Result<()> {
        self.log().confirm_end(&*self.store, &self.ring)
    }

    /// Compares every entry of the log with what this client's cache saw of it, and puts right what is missing or different.
    /// Gives how many.
    ///
    /// # Errors
    /// [`Error::Rollback`] where the log went back; when the store fails.
    pub fn put_log_back(&self) -> Result<u64> {
        self.log().put_back_all(&*self.store, &self.ring)
    }

    /// Entries of the log that were put back so far. The same for the repository's life.
    #[must_use]
    pub fn entries_put_back(&self) -> PutBack {
        self.log().put_back()
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the log says, as far as it was read.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(self.log().state())
    }

    /// Appends an act at exactly `number`; false if another entry is there.
    pub(crate) fn try_append(&self, number: u64, act: Act) -> Result<bool> {
        let appended = self.log().try_append(&*self.store, &self.ring, milliseconds(Timestamp::now()), number, act)?;
        self.open_new_segments();
        Ok(appended)
    }

    /// Appends an act after everything that is in the log. `check` sees the state that the act will follow, before each
    /// attempt.
    ///
    /// # Errors
    /// What `check` returns, or what the store or the log's new entries fail with.
    pub fn append(&self, check: &mut dyn FnMut(&State) -> Result<Act>) -> Result<u64> {
        let number = self.log().append(&*self.store, &self.ring, milliseconds(Timestamp::now()), check)?;
        self.open_new_segments();
        Ok(number)
    }

    /// Where a chunk lies, as far as the log was read.
    #[must_use]
    pub fn locate(&self, id: &ChunkId) -> Option<Location> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).locate(id)
    }

    /// True if a backup that begins now could lean on a copy of this chunk (rule W1).
    pub(crate) fn is_sound(&self, id: &ChunkId) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).lean(id, false, &|_| false).is_some()
    }

    /// As [`Self::locate`]; reads the log's new entries before it gives up (rule R1).
    ///
    /// # Errors
    /// [`Error::Damaged`] when no published segment lists the chunk; what the store fails with where it could not give a
    /// segment that may be the one.
    pub fn locate_or_refresh(&self, id: &ChunkId) -> Result<Location> {
        if let Some(location) = self.locate(id) {
            return Ok(location);
        }
        self.renew()?;
        if let Some(location) = self.locate(id) {
            return Ok(location);
        }
        // Why: nobody is to take a connection that broke for a chunk that is lost, and give it up.
        let failure = self.open_new_segments();
        let unlisted = || Damaged::new(format!("chunk {id}"), 0, "no index segment lists it").into();
        self.locate(id).ok_or_else(|| failure.unwrap_or_else(unlisted))
    }

    /// The snapshots with these roots are read from now on, and no others: who meets a chunk that is not there is told
    /// whether it went with one of them. Each was in the log once: one that is not live now was forgotten, and may be pruned.
    pub(crate) fn begin_reading(&self, roots: &[ChunkId]) {
        *self.read_roots.lock().unwrap_or_else(PoisonError::into_inner) = roots.to_vec();
    }

    /// True if a snapshot that is being read is not live any more.
    fn reads_forgotten(&self, state: &State) -> bool {
        let read = self.read_roots.lock().unwrap_or_else(PoisonError::into_inner);
        read.iter().any(|root| !state.snapshots.iter().any(|snapshot| snapshot.record.root == *root))
    }

    /// Why a chunk can't be read where the snapshot that is being read was forgotten, as far as the log was read; none where
    /// it should be there.
    pub(crate) fn pruned(&self, id: &ChunkId) -> Option<Error> {
        let (state, index) = (self.state(), self.index());
        if !self.reads_forgotten(&state) {
            return None;
        }
        let stays = |location: &Location| !state.standing.condemned.contains_key(&location.pack);
        let has_alone =
            |base: &ChunkId| index.copies(base).any(|copy| copy.location.base.is_none() && stays(&copy.location));
        let is_needed = index
            .copies(id)
            .any(|copy| stays(&copy.location) && copy.location.base.is_none_or(|base| has_alone(&base)));
        // Why: a segment that can't be opened may be the one that lists it.
        if is_needed || index.segments().len() != state.segments.len() {
            return None;
        }
        let (number, reason) = state.newest_forget.as_ref()?;
        Some(Error::NotFound(format!(
            "what the snapshot needs is gone: it was forgotten and pruned meanwhile (the newest FORGET is log entry \
             {number}: {reason})"
        )))
    }

    /// The stored bytes of a blob: header and sealed body.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the pack is missing or too short, or the medium can't read these bytes of it.
    pub fn fetch(&self, location: &Location) -> Result<Vec<u8>> {
        let start = u64::from(location.offset);
        let end = start + BLOB_HEADER_BYTES + u64::from(location.sealed_len);
        let object = location.pack.object();
        match self.get_pack(&location.pack, start..end) {
            Ok(bytes) if u64::try_from(bytes.len()) == Ok(end - start) => Ok(bytes),
            Ok(_) => Err(Damaged::new(object, start, "the pack is shorter than the index says").into()),
            Err(Error::Store(StoreError::Missing(_))) => Err(Damaged::new(object, 0, "the pack is missing").into()),
            Err(error) => Err(error),
        }
    }

    /// A reader of blobs, one for each thread.
    #[must_use]
    pub fn blob_reader(&self) -> BlobReader<'_> {
        BlobReader::new(self)
    }

    /// As [`Self::blob_reader`], with bases that the readers of one operation share.
    #[must_use]
    pub fn blob_reader_sharing(&self, bases: &Arc<Bases>) -> BlobReader<'_> {
        BlobReader::sharing(self, bases)
    }

    /// Reads one chunk.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it is missing, damaged or not what its id says.
    pub fn read_chunk(&self, id: &ChunkId) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        self.blob_reader().read(id, &mut plain)?;
        Ok(plain)
    }

    /// The tree under a root node.
    #[must_use]
    pub fn tree(&self, root: &ChunkId) -> TreeReader<'_> {
        self.begin_reading(&[*root]);
        TreeReader::new(*root, |id| self.read_chunk(id))
    }

    /// The extents of a file's content in order. Inline content has none. Holds one list a level.
    #[must_use]
    pub fn extents<'r>(&'r self, content: &Content) -> Extents<'r> {
        let mut extents = Extents { repository: self, lists: Vec::new(), start: None };
        match content {
            Content::Inline(_) => {}
            Content::Extents(list) => extents.lists.push((0, list.clone().into_iter())),
            Content::Indirect { depth, id, .. } => extents.start = Some((*depth, *id)),
        }
        extents
    }

    /// True if the key that opened the repository may read data back.
    #[must_use]
    pub fn can_read_data(&self) -> bool {
        self.ring.data_secret.is_some()
    }

    /// The data key of a session.
    pub(crate) fn session_key(&self, session: &SessionId) -> Result<Secret32> {
        let known = self.session_keys.read().unwrap_or_else(PoisonError::into_inner).get(session).cloned();
        if let Some(key) = known {
            return Ok(key);
        }
        let key = read_session_key(self, session)?;
        self.remember_session_key(*session, key.clone());
        Ok(key)
    }

    /// The keys to try where the session's key does not open what the session wrote; none where there is only one.
    pub(crate) fn other_session_keys(&self, session: &SessionId) -> Vec<Secret32> {
        let known = self.other_session_keys.read().unwrap_or_else(PoisonError::into_inner).get(session).cloned();
        known.unwrap_or_else(|| {
            let mut keys = read_all_session_keys(self, session);
            if keys.len() < 2 {
                keys.clear();
            }
            let mut others = self.other_session_keys.write().unwrap_or_else(PoisonError::into_inner);
            others.insert(*session, keys.clone());
            keys
        })
    }

    /// The next question for this session's key is answered from the store.
    pub(crate) fn forget_session_key(&self, session: &SessionId) {
        self.session_keys.write().unwrap_or_else(PoisonError::into_inner).remove(session);
        self.other_session_keys.write().unwrap_or_else(PoisonError::into_inner).remove(session);
    }

    pub(crate) fn remember_session_key(&self, session: SessionId, key: Secret32) {
        self.session_keys.write().unwrap_or_else(PoisonError::into_inner).insert(session, key);
    }
}

/// Iterator over the extents of a file; see [`Repository::extents`].
pub struct Extents<'r> {
    repository: &'r Repository,
    lists: Vec<(u8, std::vec::IntoIter<Extent>)>,
    start: Option<(u8, ChunkId)>,
}

impl Extents<'_> {
    fn enter(&mut self, depth: u8, id: &ChunkId) -> Result<()> {
        if depth == 0 || depth > INDIRECT_DEPTH_MAX {
            return Err(Damaged::new(format!("extent list {id}"), 0, "nested too deep").into());
        }
        let bytes = self.repository.read_chunk(id)?;
        let list = decode_extents(&bytes)
            .map_err(|error| Damaged::new(format!("extent list {id}"), error.offset, error.why))?;
        self.lists.push((depth - 1, list.into_iter()));
        Ok(())
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((depth, id)) = self.start.take()
            && let Err(error) = self.enter(depth, &id)
        {
            return Some(Err(error));
        }
        loop {
            let (depth, list) = self.lists.last_mut()?;
            let depth = *depth;
            match (list.next(), depth) {
                (None, _) => {
                    self.lists.pop();
                }
                (Some(extent), 0) => return Some(Ok(extent)),
                (Some(Extent::Chunk { id, .. }), _) => {
                    if let Err(error) = self.enter(depth, &id) {
                        return Some(Err(error));
                    }
                }
                (Some(hole @ Extent::Hole { .. }), _) => return Some(Ok(hole)),
            }
        }
    }
}

/// Unix milliseconds of a time.
fn milliseconds(time: Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}
