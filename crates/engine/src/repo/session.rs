//! A writing session: packs, segments, and the one commit.
//!
//! Sealed blobs go into one open pack a kind; full packs go to writer threads, which make them durable and only then
//! list them in the next segment. Nothing is visible to readers before [`Session::commit`]; everything before it may be
//! abandoned, or adopted by a later session.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use crate::clock::monotonic;
use crate::codec::{Body, BodyHeader, Effort, Encoder};
use crate::crypto::blob::PackCipher;
use crate::crypto::{Secret32, envelope, object_hash, random};
use crate::error::{Damaged, Error, Result};
use crate::format::log::{Act, SegmentRecord, SnapshotRecord};
use crate::format::names::{PackName, SegmentName, session_object};
use crate::format::pack::{BlobKind, BlobRecord, PackWriter};
use crate::format::segment::{Location, SegmentBuilder, SegmentView};
use crate::ids::{ChunkId, SessionId, SnapshotId};
use crate::repo::adopt::{Adopted, adopt};
use crate::repo::cache::SessionMark;
use crate::repo::data_keys::{is_there, newest_public, read_session_key, read_wrapped, store_session_key};
use crate::repo::index::{Index, Segment};
use crate::repo::leaning::Leaning;
use crate::repo::pack_buffers::PackBuffers;
use crate::repo::repository::Repository;
use crate::rules::{self, Draft, Obstacle, State};
use crate::store::StoreError;
use crate::units::{MIB, PACK_BYTES_MAX};

/// A segment is written at the latest after this many seconds, stored bytes or records.
const SEGMENT_SECONDS: u64 = 30;
const SEGMENT_BYTES: u64 = 512 * MIB as u64;
const SEGMENT_RECORDS: usize = 200_000;
/// A commit that finds another entry at its number so often does not meet other writers but somebody who floods the log.
const COMMIT_ATTEMPTS_MAX: u32 = 1_000;
/// Tree packs stay smaller: a listing reads them whole.
const TREE_PACK_BYTES_MAX: usize = 16 * MIB;
/// Length of a blob's frame: its header and the tag.
const BLOB_FRAME_BYTES: usize = 64;

/// A full pack on its way to a writer thread.
pub struct FullPack {
    name: PackName,
    kind: BlobKind,
    writer: PackWriter,
}

/// What a session stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionTotals {
    /// Chunks that were new, or stored again.
    pub chunks: u64,
    /// Those of them that had been found damaged.
    pub mended: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Bytes of packs and segments written.
    pub stored_bytes: u64,
}

/// Segments to publish, and what is not in a segment yet.
struct Unpublished {
    builder: SegmentBuilder,
    unlisted: Vec<ChunkId>,
    unlisted_bytes: u64,
    since: Instant,
    segments: Vec<SegmentRecord>,
    packs: Vec<PackName>,
}

/// What was published when the session last looked, and on what of it the session leans.
struct Published {
    index: Index,
    leaning: Leaning,
    /// Every published segment could be opened.
    is_whole: bool,
}

impl Published {
    fn now(repository: &Repository) -> Arc<Self> {
        // Why: the snapshot will lean on what the index says.
        repository.prove_index();
        let (is_whole, index) = (repository.closed_segments() == 0, repository.index());
        Arc::new(Self { leaning: Leaning::new(&index), index, is_whole })
    }
}

/// A chunk that this session stores, until a segment of its own lists it.
enum Claim {
    /// It is in no pack yet.
    Encoding,
    /// It is in a pack, and has no base.
    Alone,
    /// It is in a pack, encoded against that one.
    Against(ChunkId),
}

/// What came of a commit.
#[derive(Debug)]
pub enum Committed {
    /// The snapshot is in the log, at this number.
    Done(u64, Box<SnapshotRecord>),
    /// Content on which the snapshot leans was condemned meanwhile and could not be had from there. The session has looked
    /// at the log anew: a walk through the sources finds what has to be stored again.
    Again,
}

/// See the module's page.
pub struct Session<'r> {
    repository: &'r Repository,
    id: SessionId,
    key: OnceLock<Secret32>,
    /// The newest generation of the data key pair for which the key is stored.
    wrapped_for: AtomicU32,
    mark: Mutex<Option<SessionMark>>,
    pack_bytes: usize,
    /// The next counters of data packs, which are even, and of tree packs, which are odd.
    next_packs: [AtomicU64; 2],
    next_segment: AtomicU64,
    open_packs: [Mutex<Option<(PackName, PackWriter)>>; 2],
    buffers: PackBuffers,
    claimed: Mutex<HashMap<ChunkId, Claim>>,
    published: RwLock<Arc<Published>>,
    own: RwLock<Index>,
    unpublished: Mutex<Unpublished>,
    adopted: Vec<SessionId>,
    /// Whether a later backup may take over what this leaves behind.
    is_adoptable: bool,
    /// How many of the segments to publish are there because of that.
    adopted_segments: usize,
    /// Somebody else published or fenced an adopted session: this one publishes nothing of theirs.
    gave_up_adopted: AtomicBool,
    /// The snapshot from which content was taken over without looking up all of its chunks.
    rests_on: Mutex<Option<SnapshotId>>,
    queue: (Sender<FullPack>, Receiver<FullPack>),
    in_flight: (Mutex<u64>, Condvar),
    /// Chunks that were claimed and are in no pack yet.
    unstored: (Mutex<u64>, Condvar),
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    chunks: AtomicU64,
    mended: AtomicU64,
    plain_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'r> Session<'r> {
    /// Begins a session. `pack_bytes` is the wanted length of a data pack. Packs and segments that this user's crashed
    /// sessions left are adopted.
    ///
    /// # Errors
    /// [`Error::Rollback`] where the log went back, [`Error::NotAllowed`] where the key was revoked, before anything is
    /// written; when the store fails.
    pub fn begin(repository: &'r Repository, pack_bytes: usize) -> Result<Self> {
        repository.refuse_after_rollback()?;
        repository.refuse_revoked()?;
        let mut session = Self::new(repository, pack_bytes, true);
        session.adopt_abandoned()?;
        Ok(session)
    }

    /// Begins a collector's session: it adopts nothing, and nobody adopts what it leaves. What it stores is published
    /// with entries of the collector's own ([`Self::segments`], [`Self::published`]).
    pub(crate) fn collect(repository: &'r Repository, pack_bytes: usize) -> Self {
        Self::new(repository, pack_bytes, false)
    }

    fn new(repository: &'r Repository, pack_bytes: usize, is_adoptable: bool) -> Self {
        Self {
            repository,
            id: SessionId(random()),
            key: OnceLock::new(),
            wrapped_for: AtomicU32::new(0),
            mark: Mutex::new(None),
            pack_bytes: pack_bytes.min(usize::try_from(PACK_BYTES_MAX / 2).unwrap_or(usize::MAX)),
            next_packs: [AtomicU64::new(0), AtomicU64::new(1)],
            next_segment: AtomicU64::new(0),
            open_packs: [Mutex::new(None), Mutex::new(None)],
            buffers: PackBuffers::default(),
            claimed: Mutex::new(HashMap::new()),
            published: RwLock::new(Published::now(repository)),
            unpublished: Mutex::new(Unpublished {
                builder: SegmentBuilder::new(),
                unlisted: Vec::new(),
                unlisted_bytes: 0,
                since: monotonic(),
                segments: Vec::new(),
                packs: Vec::new(),
            }),
            own: RwLock::new(Index::default()),
            adopted: Vec::new(),
            is_adoptable,
            adopted_segments: 0,
            gave_up_adopted: AtomicBool::new(false),
            rests_on: Mutex::new(None),
            queue: crossbeam_channel::bounded(1),
            in_flight: (Mutex::new(0), Condvar::new()),
            unstored: (Mutex::new(0), Condvar::new()),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            chunks: AtomicU64::new(0),
            mended: AtomicU64::new(0),
            plain_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        }
    }

    fn adopt_abandoned(&mut self) -> Result<()> {
        let mut adopted = adopt(self.repository)?;
        adopted.join(&self.own, &|base| self.lean(base, true).is_some());
        let Adopted { sessions, segments, packs } = adopted;
        let mut unpublished = lock(&self.unpublished);
        unpublished.segments.extend(segments.iter().map(|segment| segment.record().clone()));
        for (name, kind, records) in packs {
            records.iter().for_each(|record| unpublished.builder.push(name, kind, record));
        }
        drop(unpublished);
        self.adopted = sessions;
        if !lock(&self.unpublished).builder.is_empty() {
            self.write_segment()?;
        }
        self.adopted_segments = lock(&self.unpublished).segments.len();
        Ok(())
    }

    /// Leaves what was adopted to whoever published or fenced it.
    fn give_up_adopted(&self) {
        if self.gave_up_adopted.swap(true, Ordering::SeqCst) {
            return;
        }
        lock(&self.unpublished).segments.drain(..self.adopted_segments);
        self.own.write().unwrap_or_else(PoisonError::into_inner).drop_first(self.adopted_segments);
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Crashed sessions whose packs this one took over.
    #[must_use]
    pub fn adopted(&self) -> &[SessionId] {
        if self.gave_up_adopted.load(Ordering::SeqCst) { &[] } else { &self.adopted }
    }

    /// What was stored so far.
    #[must_use]
    pub fn totals(&self) -> SessionTotals {
        SessionTotals {
            chunks: self.chunks.load(Ordering::Relaxed),
            mended: self.mended.load(Ordering::Relaxed),
            plain_bytes: self.plain_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        }
    }

    /// Packs that this session wrote.
    #[must_use]
    pub fn packs(&self) -> Vec<PackName> {
        lock(&self.unpublished).packs.clone()
    }

    /// True if the chunk is stored: published and not condemned (rule W1), adopted, durable in this session, or on its way
    /// here. The snapshot may then lean on it; the commit looks again.
    #[must_use]
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.is_listed(id) || lock(&self.claimed).contains_key(id)
    }

    /// True if the caller has to [`Self::store`] the chunk now; nobody else will. The commit waits for it.
    #[must_use]
    pub fn claim(&self, id: &ChunkId) -> bool {
        if self.is_listed(id) {
            return false;
        }
        // Why both under one lock: who meets the claim leans on the chunk, and the commit must wait for it from then on.
        let mut unstored = lock(&self.unstored.0);
        let claimed = self.claim_new(id);
        *unstored += u64::from(claimed);
        drop(unstored);
        if claimed && self.is_damaged(id) {
            self.mended.fetch_add(1, Ordering::Relaxed);
        }
        claimed
    }

    fn claim_new(&self, id: &ChunkId) -> bool {
        match lock(&self.claimed).entry(*id) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Claim::Encoding);
                true
            }
        }
    }

    /// Where a chunk lies on which the snapshot may lean.
    #[must_use]
    pub fn locate(&self, id: &ChunkId) -> Option<Location> {
        self.lean(id, false)
    }

    /// The chunk against which one that resembles `id` may be encoded: `id` itself, or where it has a base, that one. What
    /// this session has just stored counts: one commit publishes both.
    #[must_use]
    pub fn keyframe(&self, id: &ChunkId) -> Option<ChunkId> {
        if self.lean(id, true).is_some() {
            return Some(*id);
        }
        if let Some(claim) = lock(&self.claimed).get(id) {
            return match claim {
                Claim::Encoding => None,
                Claim::Alone => Some(*id),
                Claim::Against(base) => Some(*base),
            };
        }
        let own = self.own_index().copies(id).find_map(|found| found.location.base);
        let base = own.or_else(|| self.repository.locate(id)?.base)?;
        self.lean(&base, true).map(|_| base)
    }

    /// Content is taken over from this snapshot without looking up all of its chunks: it has to be live when this session
    /// commits, as all that a live snapshot reaches is. False, and nothing may be taken over unseen, where damage was found
    /// since it was committed, or where a segment can't be opened: what only that lists is lost, and no AUDIT says so.
    #[must_use]
    pub fn rest_on(&self, parent: &SnapshotId) -> bool {
        let mut rests_on = lock(&self.rests_on);
        if *rests_on != Some(*parent) {
            let is_whole = self.published.read().unwrap_or_else(PoisonError::into_inner).is_whole;
            if !is_whole || !rules::may_rest_on(&self.repository.state(), parent) {
                return false;
            }
            *rests_on = Some(*parent);
        }
        true
    }

    fn is_listed(&self, id: &ChunkId) -> bool {
        self.lean(id, false).is_some()
    }

    /// The copy of a chunk on which the snapshot leans from now on; `alone` where it serves as a base.
    fn lean(&self, id: &ChunkId, alone: bool) -> Option<Location> {
        if let Some(location) = self.lean_on_published(id, alone) {
            return Some(location);
        }
        // Why a list: the index must not stay locked while the base is looked up in it.
        let own: Vec<Location> = self.own_index().copies(id).map(|found| found.location).collect();
        // Why the base again: what lies in this session or an adopted one stays, but its base may have been condemned
        // before the session looked anew.
        own.into_iter().find(|location| location.base.is_none_or(|base| !alone && self.lean(&base, true).is_some()))
    }

    fn lean_on_published(&self, id: &ChunkId, alone: bool) -> Option<Location> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        let own_alone = |base: &ChunkId| self.own_index().locate_alone(base).is_some();
        let found = published.index.lean(id, alone, &own_alone)?;
        published.leaning.note(&found, alone);
        let base = found.location.base.and_then(|base| published.index.lean(&base, true, &own_alone));
        if let Some(base) = base {
            published.leaning.note(&base, true);
        }
        Some(found.location)
    }

    /// True if the chunk has copies, and it is only for damage that no snapshot may lean on any.
    fn is_damaged(&self, id: &ChunkId) -> bool {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        let standing = published.index.standing();
        !standing.is_undoubted()
            && published.index.copies(id).any(|found| !standing.condemned.contains_key(&found.location.pack))
    }

    fn own_index(&self) -> RwLockReadGuard<'_, Index> {
        self.own.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a claimed chunk's encoded body to the open pack of its kind. Blocks while the writers are behind.
    ///
    /// # Errors
    /// When a writer failed before, or this one does: then the session can't be committed any more.
    pub fn store<'b>(&self, kind: BlobKind, id: &ChunkId, plain_bytes: usize, body: impl Into<Body<'b>>) -> Result<()> {
        let added = self.refuse_after_failure().and_then(|()| self.add(kind, id, plain_bytes, body.into()));
        *lock(&self.unstored.0) -= 1;
        self.unstored.1.notify_all();
        added.map_err(|error| self.fail(error))
    }

    /// As [`Self::store`], for a chunk that nobody claimed: it is stored whether it is stored elsewhere or not.
    pub(crate) fn store_again(&self, kind: BlobKind, id: &ChunkId, plain_bytes: usize, body: &[u8]) -> Result<()> {
        *lock(&self.unstored.0) += 1;
        self.store(kind, id, plain_bytes, body)
    }

    fn add(&self, kind: BlobKind, id: &ChunkId, plain_bytes: usize, body: Body<'_>) -> Result<()> {
        let (place, limit) = match kind {
            BlobKind::Data => (&self.open_packs[0], self.pack_bytes),
            BlobKind::Tree => (&self.open_packs[1], self.pack_bytes.min(TREE_PACK_BYTES_MAX)),
        };
        let mut open = lock(place);
        let is_full = |(_, writer): &(PackName, PackWriter)| writer.len() + body.len() + BLOB_FRAME_BYTES > limit;
        if open.as_ref().is_some_and(is_full) {
            self.send(kind, open.take());
        }
        if open.is_none() {
            *open = Some(self.new_pack(kind, limit)?);
        }
        if let Some((_, writer)) = open.as_mut() {
            writer.push(id, body);
        }
        let base = BodyHeader::parse(body.0).ok().and_then(|(header, _)| header.base);
        // Why under the pack's lock: once that is durable and listed, the claim is gone.
        if let Some(claim) = lock(&self.claimed).get_mut(id) {
            *claim = base.map_or(Claim::Alone, Claim::Against);
        }
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.plain_bytes.fetch_add(u64::try_from(plain_bytes).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    fn new_pack(&self, kind: BlobKind, limit: usize) -> Result<(PackName, PackWriter)> {
        let key = self.data_key()?;
        // Why by kind: names do not tell which of two threads was first, so a run can be repeated exactly.
        let next = &self.next_packs[usize::from(kind == BlobKind::Tree)];
        let name = PackName { session: self.id, counter: next.fetch_add(2, Ordering::Relaxed) };
        let cipher = PackCipher::new(&key, &name);
        let writer = PackWriter::new(name, kind, self.repository.id(), cipher, self.buffers.take(limit));
        Ok((name, writer.with_parity(self.repository.parity())))
    }

    /// The session's data key; made, wrapped and stored when the first pack is begun.
    fn data_key(&self) -> Result<Secret32> {
        // Invariant: the mark's lock is held meanwhile, so only one thread makes the key.
        let mut mark = lock(&self.mark);
        if let Some(key) = self.key.get() {
            return Ok(key.clone());
        }
        if self.is_adoptable {
            *mark = self.repository.cache().mark_session(&self.id);
        }
        let key = Secret32::random();
        // Why: the first failure is the one to tell, and another thread is waiting here to fail next.
        self.refuse_after_failure()?;
        let (generation, public) = newest_public(&self.repository.state())?;
        let stored = store_session_key(self.repository, &self.id, (generation, &public), &key);
        if !stored.map_err(|error| self.fail(error))? {
            let object = session_object(&self.id, generation);
            return Err(self.fail(Damaged::new(object, 0, "another key lies under this new session's name").into()));
        }
        self.wrapped_for.store(generation, Ordering::SeqCst);
        self.repository.remember_session_key(self.id, key.clone());
        Ok(self.key.get_or_init(|| key).clone())
    }

    /// Wraps the session's key anew where the data key pair was renewed while the session wrote, so that a rotation
    /// that did not know of this session leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Refused`] where a prune has fenced the session and removed its key meanwhile; when the store fails.
    pub(crate) fn follow_rotation(&self, state: &State) -> Result<()> {
        self.wrap_anew(state).map_err(|error| match error {
            Error::Store(StoreError::Missing(object)) => Error::Refused(format!(
                "{object} is gone: a prune has fenced this writing session meanwhile; nothing was committed, run again"
            )),
            other => other,
        })
    }

    fn wrap_anew(&self, state: &State) -> Result<()> {
        let Some(key) = self.key.get() else { return Ok(()) };
        let (generation, public) = newest_public(state)?;
        if self.wrapped_for.load(Ordering::SeqCst) < generation {
            let is_ours = store_session_key(self.repository, &self.id, (generation, &public), key)?;
            // Why: a rotation may have wrapped it already; anybody with the public key may have put another there.
            let object = session_object(&self.id, generation);
            if !is_ours && self.repository.can_read_data() {
                let secret = self.repository.data_secret(state, generation);
                let found = secret.map(|secret| read_wrapped(self.repository, &self.id, generation, &secret));
                match found {
                    Some(Ok(found)) if found == *key => {}
                    Some(Err(error @ Error::Store(_))) => return Err(error),
                    _ => return Err(Damaged::new(object, 0, "it holds another key than this session's").into()),
                }
            }
            self.wrapped_for.store(generation, Ordering::SeqCst);
        }
        Ok(())
    }

    /// As [`Self::follow_rotation`], for the sessions whose packs this one adopted: a rotation that LIST did not show their
    /// keys left them behind, and no later one looks after a session that is finished. False where one of them can't
    /// follow, because its key can't be read with this key ring.
    fn adopted_follow_rotation(&self, state: &State) -> Result<bool> {
        let (generation, public) = newest_public(state)?;
        if generation == 0 || self.adopted().is_empty() {
            return Ok(true);
        }
        for session in self.adopted_owners() {
            if is_there(self.repository.store(), &session_object(&session, generation))? {
                continue;
            }
            match read_session_key(self.repository, &session) {
                Ok(key) => drop(store_session_key(self.repository, &session, (generation, &public), &key)?),
                Err(Error::NotAllowed(_) | Error::Damaged(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The sessions that wrote the packs of the adopted segments.
    fn adopted_owners(&self) -> BTreeSet<SessionId> {
        let own = self.own_index();
        let views = own.segments().iter().take(self.adopted_segments).filter_map(|segment| segment.view());
        views.flat_map(|view| view.packs().map(|pack| pack.session).collect::<Vec<_>>()).collect()
    }

    fn send(&self, kind: BlobKind, pack: Option<(PackName, PackWriter)>) {
        if let Some((name, writer)) = pack {
            *lock(&self.in_flight.0) += 1;
            self.queue.0.send(FullPack { name, kind, writer }).expect("the session holds a receiver");
        }
    }

    /// The queue of full packs; every writer thread takes a clone, and runs [`Self::write_packs`] with it.
    #[must_use]
    pub fn writer_queue(&self) -> Receiver<FullPack> {
        self.queue.1.clone()
    }

    /// Full packs that are not durable yet: how far the store is behind.
    pub(crate) fn packs_behind(&self) -> u64 {
        *lock(&self.in_flight.0)
    }

    /// Makes packs durable until `ended` says that nothing more comes: the work of a writer thread.
    pub fn write_packs(&self, queue: &Receiver<FullPack>, ended: &Receiver<()>) {
        loop {
            crossbeam_channel::select_biased! {
                recv(queue) -> pack => match pack {
                    Ok(pack) => self.write_counted(pack),
                    Err(_) => return,
                },
                recv(ended) -> _ => return,
            }
        }
    }

    fn write_counted(&self, pack: FullPack) {
        if let Err(error) = self.refuse_after_failure().and_then(|()| self.write_pack(pack)) {
            self.fail(error);
        }
        *lock(&self.in_flight.0) -= 1;
        self.in_flight.1.notify_all();
    }

    fn write_pack(&self, pack: FullPack) -> Result<()> {
        let (bytes, records) = pack.writer.finish(&self.repository.keys().index_key);
        self.repository.store().put(&pack.name.object(), &bytes)?;
        lock(&self.mark).iter_mut().for_each(SessionMark::keep);
        let length = u64::try_from(bytes.len()).unwrap_or(0);
        self.buffers.give_back(bytes);
        self.stored_bytes.fetch_add(length, Ordering::Relaxed);
        if self.list_pack(pack.name, pack.kind, &records, length) {
            self.write_segment()?;
        }
        Ok(())
    }

    /// Notes a durable pack for the next segment; true if that is due.
    fn list_pack(&self, name: PackName, kind: BlobKind, records: &[BlobRecord], length: u64) -> bool {
        let mut unpublished = lock(&self.unpublished);
        for record in records {
            unpublished.builder.push(name, kind, record);
            unpublished.unlisted.push(record.id);
        }
        unpublished.packs.push(name);
        unpublished.unlisted_bytes += length;
        unpublished.unlisted_bytes >= SEGMENT_BYTES
            || unpublished.builder.len() >= SEGMENT_RECORDS
            || unpublished.since.elapsed().as_secs() >= SEGMENT_SECONDS
    }

    /// Writes a segment of all durable packs that none lists yet.
    fn write_segment(&self) -> Result<()> {
        let (builder, listed) = {
            let mut unpublished = lock(&self.unpublished);
            unpublished.unlisted_bytes = 0;
            unpublished.since = monotonic();
            let listed = std::mem::take(&mut unpublished.unlisted);
            (std::mem::replace(&mut unpublished.builder, SegmentBuilder::new()), listed)
        };
        if builder.is_empty() {
            return Ok(());
        }
        self.put_segment(builder.finish())?;
        let mut claimed = lock(&self.claimed);
        listed.iter().for_each(|id| {
            claimed.remove(id);
        });
        Ok(())
    }

    /// Stores a segment, to be published with the session's next entry.
    pub(crate) fn put_segment(&self, plain: Vec<u8>) -> Result<()> {
        let name = SegmentName { session: self.id, counter: self.next_segment.fetch_add(1, Ordering::Relaxed) };
        let records = u64::try_from(SegmentView::parse(&plain)?.len()).unwrap_or(0);
        let sealed = envelope::seal(&self.repository.keys().index_key, &name.object(), &plain);
        let bytes = u64::try_from(sealed.len()).unwrap_or(0);
        let record = SegmentRecord { name, hash: object_hash(&sealed), records, bytes };
        self.repository.store().put(&name.object(), &sealed)?;
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        let segment = Segment::keep(self.repository.cache(), record.clone(), plain)?;
        lock(&self.unpublished).segments.push(record);
        self.own.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(segment));
        Ok(())
    }

    /// The segments that the session's next entry has to publish.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.own_index().segments().to_vec()
    }

    /// All segments so far are published, or never will be.
    pub(crate) fn published(&self) {
        lock(&self.unpublished).segments.clear();
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Index::default();
    }

    /// Keeps the first failure for [`Self::check`] and gives the plain refusal that everybody else gets.
    fn fail(&self, error: Error) -> Error {
        if !self.failed.swap(true, Ordering::SeqCst) {
            *lock(&self.failure) = Some(error);
        }
        Error::Refused("storing failed before".into())
    }

    fn refuse_after_failure(&self) -> Result<()> {
        if self.failed.load(Ordering::SeqCst) { Err(Error::Refused("storing failed before".into())) } else { Ok(()) }
    }

    /// Fails once storing has failed. The thread that reports to the user asks with [`Self::take_failure`] why.
    ///
    /// # Errors
    /// A refusal without the reason.
    pub fn check(&self) -> Result<()> {
        self.refuse_after_failure()
    }

    /// The first failure of any thread, once.
    #[must_use]
    pub fn take_failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }

    /// Makes everything durable that was stored so far and lists it in a segment, without publishing it.
    ///
    /// # Errors
    /// When storing fails.
    pub fn flush(&self) -> Result<()> {
        let mut unstored = lock(&self.unstored.0);
        while *unstored > 0 {
            unstored = self.unstored.1.wait(unstored).unwrap_or_else(PoisonError::into_inner);
        }
        drop(unstored);
        for (kind, place) in [BlobKind::Data, BlobKind::Tree].into_iter().zip(&self.open_packs) {
            let open = lock(place).take();
            self.send(kind, open);
        }
        let mut in_flight = lock(&self.in_flight.0);
        while *in_flight > 0 {
            in_flight = self.in_flight.1.wait(in_flight).unwrap_or_else(PoisonError::into_inner);
        }
        drop(in_flight);
        self.check()?;
        self.write_segment()
    }

    /// Flushes, then publishes the segments and the snapshot in one log entry (rule W2).
    ///
    /// # Errors
    /// When storing or appending fails, or [`Error::Refused`] where an owner has fenced this session; then nothing is
    /// published.
    pub fn commit(&self, finish: &mut dyn FnMut(SessionTotals) -> SnapshotRecord) -> Result<Committed> {
        self.flush()?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let (state, index) = self.repository.current()?;
            match rules::obstacle(&state, &self.draft()) {
                None => {}
                Some(Obstacle::ParentForgotten(_) | Obstacle::ParentDamaged(_)) => return Ok(self.look_anew()),
                Some(Obstacle::Fenced(session) | Obstacle::Published(session)) if session != self.id => {
                    self.give_up_adopted();
                    return Ok(self.look_anew());
                }
                Some(Obstacle::Fenced(session) | Obstacle::Published(session)) => {
                    return Err(Error::Refused(format!(
                        "the writing session {session} was fenced by a prune or taken over by another backup meanwhile; \
                         nothing was committed, run again"
                    )));
                }
            }
            if !self.adopted_follow_rotation(&state)? {
                self.give_up_adopted();
                return Ok(self.look_anew());
            }
            if !self.store_lost(&state, &index)? {
                return Ok(self.look_anew());
            }
            self.follow_rotation(&state)?;
            let snapshot = finish(self.totals());
            let act = Act::Commit {
                session: self.id,
                segments: lock(&self.unpublished).segments.clone(),
                snapshot: Box::new(snapshot.clone()),
                adopted: self.adopted().to_vec(),
            };
            if self.repository.try_append(state.next, act)? {
                self.finished();
                return Ok(Committed::Done(state.next, Box::new(snapshot)));
            }
        }
        Err(Error::Refused(format!(
            "others wrote into the log before each of {COMMIT_ATTEMPTS_MAX} attempts to commit; `log show` tells who; \
             nothing was committed, run again"
        )))
    }

    fn draft(&self) -> Draft {
        let since = self.published.read().unwrap_or_else(PoisonError::into_inner).index.since();
        Draft { session: self.id, adopted: self.adopted().to_vec(), parent: *lock(&self.rests_on), since }
    }

    /// Stores again what the session leaned on and must not any more. False where that can't be had from the store.
    fn store_lost(&self, state: &State, now: &Index) -> Result<bool> {
        let published = Arc::clone(&self.published.read().unwrap_or_else(PoisonError::into_inner));
        let since = published.index.since();
        let own_alone = |base: &ChunkId| self.own_index().locate_alone(base).is_some();
        let mut lost = published.leaning.doubtful(&|segment, pack| rules::is_doubtful(state, since, segment, pack));
        // Why the base again, as in `lean`: what lies in this session stays, but its base may be condemned by now.
        let has_base = |base: &ChunkId| now.lean(base, true, &own_alone).is_some() || own_alone(base);
        lost.retain(|chunk| {
            let own: Vec<Location> = self.own_index().copies(&chunk.id).map(|found| found.location).collect();
            now.lean(&chunk.id, chunk.is_base, &own_alone).is_none()
                && !own.iter().any(|copy| copy.base.is_none_or(|base| !chunk.is_base && has_base(&base)))
        });
        if lost.is_empty() {
            return Ok(true);
        }
        let mut reader = self.repository.blob_reader();
        let (mut encoder, mut plain, mut body) = (Encoder::new(Effort::Balanced), Vec::new(), Vec::new());
        for chunk in &lost {
            if reader.read(&chunk.id, &mut plain).is_err() {
                return Ok(false);
            }
            encoder.encode(&plain, None, None, &mut body);
            self.store_again(chunk.kind, &chunk.id, plain.len(), &body)?;
        }
        self.flush()?;
        Ok(true)
    }

    /// Looks at the log anew, for another walk through the sources.
    fn look_anew(&self) -> Committed {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = Published::now(self.repository);
        *lock(&self.rests_on) = None;
        Committed::Again
    }

    /// The session's segments are published.
    fn finished(&self) {
        for segment in self.own_index().segments() {
            self.repository.add_segment(Arc::clone(segment));
        }
        if let Some(mark) = lock(&self.mark).take() {
            mark.finish();
        }
        for session in self.adopted() {
            self.repository.cache().unmark_session(session);
        }
    }
}
