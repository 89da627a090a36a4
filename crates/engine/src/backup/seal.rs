//! Sealing: plain bytes -> id -> already there? -> encode -> the session's open pack. One [`Sealer`] a thread.
//!
//! What resembles an older chunk is encoded against it: a file's chunk against the old one at its place, a tree node
//! against the parent snapshot's node with the same keys.
//!
//! Invariants: a base is listed by a published segment, and is never itself encoded against a base.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backup::old_nodes::OldNodes;
use crate::backup::runs::{BaseRef, Place};
use crate::codec::{self, Body, Cast, Effort, Encoder, Estimate, Hint};
use crate::entry::TreeKey;
use crate::error::Result;
use crate::format::pack::BlobKind;
use crate::ids::ChunkId;
use crate::repo::{Bases, BlobReader, Repository, Session};
use crate::stages::read::open_again;
use crate::statistics::builder::TableBuilder;

/// A node against an old keyframe stays unless it has over one part in this many of what it takes alone. Why: a node
/// that changes by the same share `d` of its length each time takes least in all when it is stored whole again once its
/// difference reaches `sqrt(2 d)`. One changed entry of a hundred makes 1/7.
const DRIFT_MAX: usize = 8;
/// A difference under one part in this many of the plain bytes is small whatever the node takes alone: nodes shrink to
/// no less than an eighth.
const DRIFT_NONE: usize = 64;

/// A chunk of numbers stands alone again, and is the base of later ones, where that is cheaper once so many have followed.
const STALE_AFTER: f32 = 2.0;
/// So many casts are remembered at most: 64 GiB of FP32 numbers in pieces of 1 MiB. They take about 16 MB.
const CASTS_MAX: usize = 1 << 16;

/// What is known of a chunk before it is sealed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Task {
    /// Its id, where somebody computed it.
    pub(crate) id: Option<ChunkId>,
    /// What lies in it.
    pub(crate) hint: Option<Hint>,
    /// An older chunk that may resemble it: one on which this session may lean, without a base itself.
    pub(crate) base: Option<BaseRef>,
    /// The older chunk itself, where it has that base too.
    pub(crate) recent: Option<BaseRef>,
    /// Where it lies in its file, if it holds FP32 numbers of which others may be the cast.
    pub(crate) master: Option<Place>,
    /// What collects what its numbers are like, and where it lies in its file.
    pub(crate) table: Option<(Arc<TableBuilder>, u64)>,
    /// True if later files of this backup may have bases in its file, of which all are kept.
    pub(crate) is_kept: bool,
}

/// FP32 chunks of which others are the cast.
#[derive(Default)]
pub(crate) struct Casts {
    /// Those of this backup, by the id that their cast to BF16 has.
    masters: Mutex<Newest<BaseRef>>,
    /// Older ones that were bases of those, and lie on the local disk: by their own id.
    places: Mutex<Newest<Place>>,
}

impl Casts {
    /// The chunk of which this one is the cast.
    pub(crate) fn master_of(&self, cast: &ChunkId) -> Option<BaseRef> {
        locked(&self.masters).known.get(cast).cloned()
    }

    /// Where the base of a master lies is remembered: the old cast has that base too. Where another base lies may be known so.
    /// Why: whoever may not read the repository has it from there.
    pub(crate) fn place(&self, base: Option<&mut BaseRef>, is_of_master: bool) {
        match base {
            Some(BaseRef { id, place: Some(place) }) if is_of_master => {
                locked(&self.places).add(*id, place.clone());
            }
            Some(BaseRef { id, place: place @ None }) => *place = locked(&self.places).known.get(id).cloned(),
            _ => {}
        }
    }

    fn add(&self, cast: ChunkId, master: BaseRef) {
        locked(&self.masters).add(cast, master);
    }
}

fn locked<V>(newest: &Mutex<Newest<V>>) -> MutexGuard<'_, Newest<V>> {
    newest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest of what was remembered of chunks, up to [`CASTS_MAX`].
struct Newest<V> {
    known: HashMap<ChunkId, V>,
    order: VecDeque<ChunkId>,
}

impl<V> Default for Newest<V> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Newest<V> {
    fn add(&mut self, id: ChunkId, value: V) {
        if self.known.insert(id, value).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > CASTS_MAX {
            self.order.pop_front().and_then(|oldest| self.known.remove(&oldest));
        }
    }
}

/// Turns chunks into stored blobs.
pub(crate) struct Sealer<'a, 'r> {
    repository: &'r Repository,
    session: &'a Session<'r>,
    encoder: Encoder,
    /// The effort follows the slower of processor and store.
    is_adaptive: bool,
    casts: &'a Casts,
    kept: &'a Bases,
    bases: Option<BlobReader<'r>>,
    base: Vec<u8>,
    /// The local file that was read from last.
    local: Option<(Arc<Path>, File)>,
    old_root: Option<ChunkId>,
    old_nodes: Option<OldNodes<'r>>,
    body: Vec<u8>,
    alone: Vec<u8>,
}

impl<'a, 'r> Sealer<'a, 'r> {
    /// `old_root` is the root of the parent snapshot's tree.
    pub(crate) fn new(
        repository: &'r Repository,
        session: &'a Session<'r>,
        (casts, kept): (&'a Casts, &'a Bases),
        old_root: Option<ChunkId>,
        effort: Option<Effort>,
    ) -> Self {
        let can_read = repository.can_read_data();
        Self {
            repository,
            session,
            encoder: Encoder::new(effort.unwrap_or_default()),
            is_adaptive: effort.is_none(),
            casts,
            kept,
            bases: can_read.then(|| repository.blob_reader()),
            base: Vec::new(),
            local: None,
            old_root: old_root.filter(|_| can_read),
            old_nodes: None,
            body: Vec::new(),
            alone: Vec::new(),
        }
    }

    /// Stores `plain` unless it is there already, and gives its id.
    pub(crate) fn seal(&mut self, kind: BlobKind, plain: &[u8], base: Option<ChunkId>) -> Result<ChunkId> {
        let id = self.repository.id_key().chunk_id(plain);
        self.seal_as(kind, &id, plain, base)?;
        Ok(id)
    }

    /// As [`Self::seal`], for a chunk whose id is known.
    fn seal_as(&mut self, kind: BlobKind, id: &ChunkId, plain: &[u8], base: Option<ChunkId>) -> Result<()> {
        if !self.session.claim(id) {
            return Ok(());
        }
        let base = base.map(|id| BaseRef { id, place: None });
        self.encode(plain, None, base.as_ref());
        self.session.store(kind, id, plain.len(), Body::of(&self.body, plain))
    }

    /// Stores a chunk of a file, unless it is there already, and gives its id. The base is a hint: where its bytes can't be
    /// had, the chunk is encoded alone.
    pub(crate) fn seal_task(&mut self, plain: &[u8], task: &Task) -> Result<ChunkId> {
        let id = task.id.unwrap_or_else(|| self.repository.id_key().chunk_id(plain));
        if let Some((table, offset)) = &task.table {
            table.add(*offset, plain);
        }
        if self.session.claim(&id) {
            self.encode(plain, task.hint.as_ref(), task.base.as_ref());
            if self.is_stale(plain, task) {
                std::mem::swap(&mut self.body, &mut self.alone);
            }
            self.session.store(BlobKind::Data, &id, plain.len(), Body::of(&self.body, plain))?;
            if task.is_kept && !self.body.first().is_some_and(|&codec| codec::has_base(codec)) {
                self.kept.add(&id, Arc::new(plain.to_vec()));
            }
        }
        if let Some(place) = &task.master
            && self.session.keyframe(&id) == Some(id)
            && Cast::Bf16.apply(plain, &mut self.alone)
        {
            let cast = self.repository.id_key().chunk_id(&self.alone);
            self.casts.add(cast, BaseRef { id, place: Some(place.clone()) });
        }
        Ok(id)
    }

    /// Stores a tree node at `level` that begins with `first`, unless it is there already.
    pub(crate) fn seal_node(&mut self, id: &ChunkId, plain: &[u8], level: u8, first: &TreeKey) -> Result<()> {
        if !self.session.claim(id) {
            return Ok(());
        }
        let old = self.old_node(level, first);
        let keyframe = old.and_then(|old| self.session.keyframe(&old));
        let base = keyframe.map(|id| BaseRef { id, place: None });
        self.encode(plain, None, base.as_ref());
        if keyframe != old && self.has_drifted(plain) {
            std::mem::swap(&mut self.body, &mut self.alone);
        }
        self.session.store(BlobKind::Tree, id, plain.len(), Body::of(&self.body, plain))
    }

    fn old_node(&mut self, level: u8, first: &TreeKey) -> Option<ChunkId> {
        let root = self.old_root?;
        let repository = self.repository;
        self.old_nodes.get_or_insert_with(|| OldNodes::new(repository, root)).holding(level, first)
    }

    /// Makes the body, against `base` where that can be read and pays.
    fn encode(&mut self, plain: &[u8], hint: Option<&Hint>, base: Option<&BaseRef>) {
        if self.is_adaptive {
            self.encoder.set_effort(match self.session.packs_behind() {
                0 => Effort::Fast,
                1 | 2 => Effort::Balanced,
                _ => Effort::Dense,
            });
        }
        let Some(base) = base else { return self.encoder.encode_apart(plain, hint, None, &mut self.body) };
        if let Some(kept) = self.kept.get(&base.id) {
            return self.encoder.encode_apart(plain, hint, Some((&base.id, kept.as_slice())), &mut self.body);
        }
        if base.place.as_ref().is_some_and(|place| self.read_base(&base.id, place)) {
            return self.encoder.encode_apart(plain, hint, Some((&base.id, self.base.as_slice())), &mut self.body);
        }
        let stored = self.bases.as_mut().and_then(|bases| bases.base(&base.id).ok());
        let base = stored.as_ref().map(|bytes| (&base.id, bytes.as_slice()));
        self.encoder.encode_apart(plain, hint, base, &mut self.body);
    }

    /// Reads a base from the local disk; false where that place does not hold it any more.
    fn read_base(&mut self, id: &ChunkId, place: &Place) -> bool {
        let is_there = self.read_place(place) && self.repository.id_key().chunk_id(&self.base) == *id;
        if !is_there {
            // Why: another file may lie under that name now.
            self.local = None;
        }
        is_there
    }

    /// Reads what lies at a place of the local disk now.
    fn read_place(&mut self, place: &Place) -> bool {
        self.base.resize(usize::try_from(place.length).unwrap_or(0), 0);
        if self.local.as_ref().is_none_or(|(path, _)| *path != place.path) {
            self.local = open_again(&place.path).ok().map(|file| (Arc::clone(&place.path), file));
        }
        self.local.as_ref().is_some_and(|(_, file)| file.read_exact_at(&mut self.base, place.offset).is_ok())
    }

    /// True if the base is so old that the chunk should stand alone, to be a better base for the next: where
    /// [`STALE_AFTER`] more chunks as near to this one as this one is to the last would take less in all. `alone` has the
    /// body for that then.
    fn is_stale(&mut self, plain: &[u8], task: &Task) -> bool {
        let Some(recent) = task.recent.as_ref().filter(|_| self.body.first() == Some(&codec::id::PLANES_DIFFERENCE))
        else {
            return false;
        };
        let hint = task.hint.as_ref();
        let now = self.body.len() as f32;
        // Why: no difference takes less than nothing.
        if self.encoder.alone_bytes(plain).is_some_and(|alone| STALE_AFTER * now <= alone - now) {
            return false;
        }
        // Why not compared with its id: it is for an estimate.
        let is_local = recent.place.as_ref().is_some_and(|place| self.read_place(place));
        let mut is_stored = || self.bases.as_mut().is_some_and(|bases| bases.read(&recent.id, &mut self.base).is_ok());
        if !(is_local || is_stored()) {
            return false;
        }
        let Some(Estimate { alone, against }) = self.encoder.estimate(plain, hint, &self.base) else { return false };
        if STALE_AFTER * (now - against) <= alone - now {
            return false;
        }
        self.encoder.encode(plain, hint, None, &mut self.alone);
        true
    }

    /// True if the body is so far from its base that the node should stand alone, to be a better base for the next;
    /// `alone` has the body for that then.
    fn has_drifted(&mut self, plain: &[u8]) -> bool {
        let is_against_base = self.body.first().is_some_and(|&codec| codec::has_base(codec));
        if !is_against_base || self.body.len() * DRIFT_NONE <= plain.len() {
            return false;
        }
        self.encoder.encode(plain, None, None, &mut self.alone);
        self.body.len() * DRIFT_MAX > self.alone.len()
    }
}
