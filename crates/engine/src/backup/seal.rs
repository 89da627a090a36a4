//! Sealing: plain bytes -> id -> already there? -> encode -> the session's open pack. One [`Sealer`] a thread.

use crate::codec::{Effort, Encoder};
use crate::error::Result;
use crate::format::pack::BlobKind;
use crate::ids::ChunkId;
use crate::repo::{BlobReader, Repository, Session};

/// Turns chunks into stored blobs.
pub(crate) struct Sealer<'a, 'r> {
    repository: &'r Repository,
    session: &'a Session<'r>,
    encoder: Encoder,
    bases: Option<BlobReader<'r>>,
    body: Vec<u8>,
}

impl<'a, 'r> Sealer<'a, 'r> {
    pub(crate) fn new(repository: &'r Repository, session: &'a Session<'r>) -> Self {
        Self {
            repository,
            session,
            encoder: Encoder::new(Effort::Balanced),
            bases: repository.can_read_data().then(|| repository.blob_reader()),
            body: Vec::new(),
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
        let keyframe = base.and_then(|base| self.session.keyframe(&base));
        let base = keyframe.and_then(|id| Some((id, self.bases.as_mut()?.base(&id).ok()?)));
        let base = base.as_ref().map(|(id, bytes)| (id, bytes.as_slice()));
        self.encoder.encode(plain, base, &mut self.body);
        self.session.store(kind, id, plain.len(), &self.body)
    }
}
