//! Reads blobs back: fetch, open, decode with its base, compare the id. Fail closed.
//!
//! One reader per thread: it owns the decoder and a small cache of decoded bases. A base is never encoded with a base
//! itself, so a read touches at most two blobs.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::codec::{BodyHeader, Decoder};
use crate::crypto::blob::PackCipher;
use crate::error::{Damaged, Error, Result};
use crate::format::names::PackName;
use crate::format::pack::open_blob;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::repo::repository::Repository;
use crate::units::MIB;

/// Length of a blob's header in bytes.
pub const BLOB_HEADER_BYTES: u64 = 48;
/// Decoded bases that one reader keeps, in bytes.
const BASE_CACHE_BYTES: usize = 8 * MIB;

/// Decodes blobs of one repository.
pub struct BlobReader<'r> {
    repository: &'r Repository,
    decoder: Decoder,
    cipher: Option<(PackName, Arc<PackCipher>)>,
    bases: VecDeque<(ChunkId, Arc<Vec<u8>>)>,
    bases_bytes: usize,
}

impl<'r> BlobReader<'r> {
    pub(crate) fn new(repository: &'r Repository) -> Self {
        Self { repository, decoder: Decoder::new(), cipher: None, bases: VecDeque::new(), bases_bytes: 0 }
    }

    /// Fetches and decodes the chunk `id` into `out`.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it is missing, damaged or not what its id says; [`Error::NotFound`] where no snapshot
    /// needs it any more, and a prune freed it.
    pub fn read(&mut self, id: &ChunkId, out: &mut Vec<u8>) -> Result<()> {
        let explain = |error| self.repository.pruned(id).unwrap_or(error);
        let location = self.repository.locate_or_refresh(id).map_err(explain)?;
        let first = self.read_at(id, &location, out);
        let Err(Error::Damaged(_) | Error::Store(_)) = &first else { return first };
        // Why: another writer may have stored the chunk too, or a collector may have moved it (rule R1). The same place is
        // tried again, as it may have been the base that was moved.
        self.repository.refresh()?;
        let places = self.repository.index().readable(id);
        let again = places.iter().map(|place| self.read_at(id, place, out)).find(Result::is_ok);
        again.unwrap_or_else(|| first.map_err(|error| self.repository.pruned(id).unwrap_or(error)))
    }

    fn read_at(&mut self, id: &ChunkId, location: &Location, out: &mut Vec<u8>) -> Result<()> {
        let mut blob = self.repository.fetch(location)?;
        self.decode(id, location, &mut blob, out)
    }

    /// Decodes a blob, header and sealed bytes as they lie in the pack, into `out`. `blob` is changed.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn decode(&mut self, id: &ChunkId, location: &Location, blob: &mut [u8], out: &mut Vec<u8>) -> Result<()> {
        self.decode_at(id, location, blob, out, true)
    }

    /// Authenticates and decrypts a blob without decoding it; gives the place of the body in `blob`, which is changed.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it is not the blob of chunk `id`, or was changed.
    pub(crate) fn open(
        &mut self,
        id: &ChunkId,
        location: &Location,
        blob: &mut [u8],
    ) -> Result<std::ops::Range<usize>> {
        let (pack, offset) = (&location.pack, u64::from(location.offset));
        let cipher = self.cipher(pack)?;
        let damaged = match open_blob(&cipher, pack, offset, blob, id) {
            Ok(body) => return Ok(body),
            Err(damaged) => damaged,
        };
        for key in self.repository.other_session_keys(&pack.session) {
            // Why fetched anew: what did not open is not what it was any more.
            let mut again = self.repository.fetch(location)?;
            let cipher = PackCipher::new(&key, pack);
            if let Ok(body) = open_blob(&cipher, pack, offset, &mut again, id)
                && again.len() == blob.len()
            {
                blob.copy_from_slice(&again);
                self.cipher = Some((*pack, Arc::new(cipher)));
                self.repository.remember_session_key(pack.session, key);
                return Ok(body);
            }
        }
        Err(damaged.into())
    }

    fn decode_at(
        &mut self,
        id: &ChunkId,
        location: &Location,
        blob: &mut [u8],
        out: &mut Vec<u8>,
        base_allowed: bool,
    ) -> Result<()> {
        let object = || location.pack.object();
        let damaged = |why: &str| Error::from(Damaged::new(object(), u64::from(location.offset), why));
        let body = self.open(id, location, blob)?;
        let body = &blob[body];
        let (header, _) = BodyHeader::parse(body).map_err(|error| damaged(&error.why))?;
        if header.plain_len != location.plain_len {
            return Err(damaged("the blob's length is not the one in the index"));
        }
        let base = match header.base {
            None => None,
            Some(_) if !base_allowed => return Err(damaged("a base that has a base itself")),
            Some(base) => Some(self.base(&base)?),
        };
        let base = base.as_deref().map(Vec::as_slice);
        self.decoder.decode(body, base, out).map_err(|error| damaged(&error.why))?;
        if self.repository.id_key().chunk_id(out) != *id {
            return Err(damaged("the decoded bytes do not have the chunk's id"));
        }
        Ok(())
    }

    /// The plain bytes of a chunk that has no base itself, kept for the next question.
    pub(crate) fn base(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>> {
        if let Some((_, bytes)) = self.bases.iter().find(|(known, _)| known == id) {
            return Ok(Arc::clone(bytes));
        }
        let plain = self.read_alone(id)?;
        let plain = Arc::new(plain);
        self.bases_bytes += plain.len();
        self.bases.push_back((*id, Arc::clone(&plain)));
        while self.bases_bytes > BASE_CACHE_BYTES {
            let Some((_, dropped)) = self.bases.pop_front() else { break };
            self.bases_bytes -= dropped.len();
        }
        Ok(plain)
    }

    /// The plain bytes of a chunk from a copy without a base.
    fn read_alone(&mut self, id: &ChunkId) -> Result<Vec<u8>> {
        let first = self.repository.locate_or_refresh(id)?;
        let mut copies = self.repository.index().readable(id);
        copies.retain(|copy| copy.base.is_none());
        if copies.is_empty() {
            copies.push(first);
        }
        let mut failure = None;
        for location in copies {
            let mut plain = Vec::new();
            let mut blob = match self.repository.fetch(&location) {
                Ok(blob) => blob,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            match self.decode_at(id, &location, &mut blob, &mut plain, false) {
                Ok(()) => return Ok(plain),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        Err(failure.expect("at least one copy was tried"))
    }

    fn cipher(&mut self, pack: &PackName) -> Result<Arc<PackCipher>> {
        match &self.cipher {
            Some((name, cipher)) if name == pack => Ok(Arc::clone(cipher)),
            _ => {
                let key = self.repository.session_key(&pack.session)?;
                let cipher = Arc::new(PackCipher::new(&key, pack));
                self.cipher = Some((*pack, Arc::clone(&cipher)));
                Ok(cipher)
            }
        }
    }
}
