//! Sealing: plain bytes -> id -> already there? -> encode -> the session's open pack. One [`Sealer`] a thread.
//!
//! What resembles an older chunk is encoded against it: a file's chunk against the old one at its place, a tree node
//! against the parent snapshot's node with the same keys.
//!
//! Invariants: a base is listed by a published segment, and is never itself encoded against a base.

use crate::backup::old_nodes::OldNodes;
use crate::codec::{self, Effort, Encoder};
use crate::entry::TreeKey;
use crate::error::Result;
use crate::format::pack::BlobKind;
use crate::ids::ChunkId;
use crate::repo::{BlobReader, Repository, Session};

/// A node against an old keyframe stays unless it has over one part in this many of what it takes alone. Why: a node
/// that changes by the same share `d` of its length each time takes least in all when it is stored whole again once its
/// difference reaches `sqrt(2 d)`. One changed entry of a hundred makes 1/7.
const DRIFT_MAX: usize = 8;
/// A difference under one part in this many of the plain bytes is small whatever the node takes alone: nodes shrink to
/// no less than an eighth.
const DRIFT_NONE: usize = 64;

/// Turns chunks into stored blobs.
pub(crate) struct Sealer<'a, 'r> {
    repository: &'r Repository,
    session: &'a Session<'r>,
    encoder: Encoder,
    bases: Option<BlobReader<'r>>,
    old_root: Option<ChunkId>,
    old_nodes: Option<OldNodes<'r>>,
    body: Vec<u8>,
    alone: Vec<u8>,
}

impl<'a, 'r> Sealer<'a, 'r> {
    /// `old_root` is the root of the parent snapshot's tree.
    pub(crate) fn new(repository: &'r Repository, session: &'a Session<'r>, old_root: Option<ChunkId>) -> Self {
        let can_read = repository.can_read_data();
        Self {
            repository,
            session,
            encoder: Encoder::new(Effort::Balanced),
            bases: can_read.then(|| repository.blob_reader()),
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

    /// As [`Self::seal`], for a chunk whose id is known. `base` is a chunk that is probably alike: the old chunk at the
    /// same place. It is a hint; where its bytes can't be had, the chunk is encoded alone.
    pub(crate) fn seal_as(&mut self, kind: BlobKind, id: &ChunkId, plain: &[u8], base: Option<ChunkId>) -> Result<()> {
        if !self.session.claim(id) {
            return Ok(());
        }
        self.encode(plain, base.and_then(|base| self.session.keyframe(&base)));
        self.session.store(kind, id, plain.len(), &self.body)
    }

    /// Stores a tree node at `level` that begins with `first`, unless it is there already.
    pub(crate) fn seal_node(&mut self, id: &ChunkId, plain: &[u8], level: u8, first: &TreeKey) -> Result<()> {
        if !self.session.claim(id) {
            return Ok(());
        }
        let old = self.old_node(level, first);
        let keyframe = old.and_then(|old| self.session.keyframe(&old));
        self.encode(plain, keyframe);
        if keyframe != old && self.has_drifted(plain) {
            std::mem::swap(&mut self.body, &mut self.alone);
        }
        self.session.store(BlobKind::Tree, id, plain.len(), &self.body)
    }

    fn old_node(&mut self, level: u8, first: &TreeKey) -> Option<ChunkId> {
        let root = self.old_root?;
        let repository = self.repository;
        self.old_nodes.get_or_insert_with(|| OldNodes::new(repository, root)).holding(level, first)
    }

    /// Makes the body, against `base` where that can be read and pays.
    fn encode(&mut self, plain: &[u8], base: Option<ChunkId>) {
        let base = base.and_then(|id| Some((id, self.bases.as_mut()?.base(&id).ok()?)));
        let base = base.as_ref().map(|(id, bytes)| (id, bytes.as_slice()));
        self.encoder.encode(plain, None, base, &mut self.body);
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
