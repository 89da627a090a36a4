//! Reads blobs back: fetch, open, decode with its base, compare the id. Fail closed.
//!
//! A blob that can't be read as it is, nor any other copy of its chunk, is tried with what its pack's parity gives back.
//!
//! One reader per thread: it owns the decoder. Decoded bases are kept, a few by each reader or more by all of one operation
//! together ([`Bases`]). A base is never encoded with a base itself, so a read touches at most two blobs.

use std::ops::Range;
use std::sync::Arc;

use crate::codec::{BodyHeader, Decoder};
use crate::crypto::blob::PackCipher;
use crate::error::{Damaged, Error, Result};
use crate::format::names::PackName;
use crate::format::pack::open_blob;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::repo::bases::Bases;
use crate::repo::repository::Repository;
use crate::units::MIB;

/// Length of a blob's header in bytes.
pub const BLOB_HEADER_BYTES: u64 = 48;
/// Decoded bases that a reader keeps for itself, in bytes.
const OWN_BASES_BYTES: usize = 8 * MIB;

/// Decodes blobs of one repository.
pub struct BlobReader<'r> {
    repository: &'r Repository,
    decoder: Decoder,
    cipher: Option<(PackName, Arc<PackCipher>)>,
    bases: Arc<Bases>,
    fetched: Fetched,
}

/// What a reader got from the store, each try counted; what parity was computed from is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blobs, those of bases included.
    pub blobs: u64,
    /// Their bytes, headers and tags included.
    pub bytes: u64,
}

impl std::ops::AddAssign for Fetched {
    fn add_assign(&mut self, more: Self) {
        self.blobs += more.blobs;
        self.bytes += more.bytes;
    }
}

impl<'r> BlobReader<'r> {
    pub(crate) fn new(repository: &'r Repository) -> Self {
        Self::sharing(repository, &Arc::new(Bases::new(OWN_BASES_BYTES)))
    }

    pub(crate) fn sharing(repository: &'r Repository, bases: &Arc<Bases>) -> Self {
        Self {
            repository,
            decoder: Decoder::new(),
            cipher: None,
            bases: Arc::clone(bases),
            fetched: Fetched::default(),
        }
    }

    /// Where it reads.
    pub(crate) fn repository(&self) -> &'r Repository {
        self.repository
    }

    /// What it got from the store so far.
    #[must_use]
    pub fn fetched(&self) -> Fetched {
        self.fetched
    }

    fn fetch(&mut self, location: &Location) -> Result<Vec<u8>> {
        let blob = self.repository.fetch(location)?;
        self.fetched += Fetched { blobs: 1, bytes: blob.len() as u64 };
        Ok(blob)
    }

    /// Fetches and decodes the chunk `id` into `out`.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it is missing, damaged or not what its id says; [`Error::NotFound`] where no snapshot
    /// needs it any more, and a prune freed it.
    pub fn read(&mut self, id: &ChunkId, out: &mut Vec<u8>) -> Result<()> {
        let repository = self.repository;
        let explain = |error| repository.pruned(id).unwrap_or(error);
        let location = self.repository.locate_or_refresh(id).map_err(explain)?;
        let first = self.read_at(id, &location, out);
        let Err(Error::Damaged(_) | Error::Store(_)) = &first else { return first };
        // Why: another writer may have stored the chunk too, or a collector may have moved it (rule R1). The same place is
        // tried again, as it may have been the base that was moved. Or the local cache misled. Why again while the log goes
        // on: what a collector moves after the first look is told there, and only there.
        loop {
            self.repository.renew()?;
            let entries = self.repository.log_entries();
            let places = self.repository.index().readable(id);
            let outcome = first_good(&places, |place| self.read_at(id, place, out));
            if let Some(Ok(())) = outcome {
                return Ok(());
            }
            for place in &places {
                if self.read_mended(id, place, out, true)? {
                    return Ok(());
                }
            }
            self.repository.refresh()?;
            if self.repository.log_entries() == entries {
                return outcome.unwrap_or(first).map_err(explain);
            }
        }
    }

    fn read_at(&mut self, id: &ChunkId, location: &Location, out: &mut Vec<u8>) -> Result<()> {
        let mut blob = self.fetch(location)?;
        self.decode(id, location, &mut blob, out)
    }

    /// Decodes a blob from what its pack's parity gives; false where that does not help. A store that fails is an error:
    /// what it hides may well be there.
    fn read_mended(
        &mut self,
        id: &ChunkId,
        location: &Location,
        out: &mut Vec<u8>,
        base_allowed: bool,
    ) -> Result<bool> {
        let Some(mut blob) = self.repository.fetch_mended(location)? else { return Ok(false) };
        match self.decode_at(id, location, &mut blob, out, base_allowed) {
            Err(error @ Error::Store(_)) => Err(error),
            decoded => Ok(decoded.is_ok()),
        }
    }

    /// Decodes a blob, header and sealed bytes as they lie in the pack, into `out`. `blob` is changed.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn decode(&mut self, id: &ChunkId, location: &Location, blob: &mut [u8], out: &mut Vec<u8>) -> Result<()> {
        self.decode_at(id, location, blob, out, true).map(drop)
    }

    /// As [`Self::decode`]; gives the place of the encoded body in `blob`, which is decrypted there.
    pub(crate) fn open(
        &mut self,
        id: &ChunkId,
        location: &Location,
        blob: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<Range<usize>> {
        let first = self.decode_at(id, location, blob, out, true);
        let Err(Error::Damaged(_)) = &first else { return first };
        match self.repository.fetch_mended(location)?.filter(|mended| mended.len() == blob.len()) {
            Some(mended) => {
                blob.copy_from_slice(&mended);
                self.decode_at(id, location, blob, out, true)
            }
            None => first,
        }
    }

    /// Authenticates and decrypts a blob; gives the place of its encoded body.
    fn open_body(&mut self, id: &ChunkId, location: &Location, blob: &mut [u8]) -> Result<Range<usize>> {
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
    ) -> Result<Range<usize>> {
        let object = || location.pack.object();
        let damaged = |why: &str| Error::from(Damaged::new(object(), u64::from(location.offset), why));
        let place = self.open_body(id, location, blob)?;
        let body = &blob[place.clone()];
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
        Ok(place)
    }

    /// The plain bytes of a chunk that has no base itself, kept for the next question.
    pub(crate) fn base(&mut self, id: &ChunkId) -> Result<Arc<Vec<u8>>> {
        if let Some(plain) = self.bases.get(id) {
            return Ok(plain);
        }
        let plain = Arc::new(self.read_alone(id)?);
        self.bases.add(id, Arc::clone(&plain));
        Ok(plain)
    }

    /// Keeps the plain bytes of a chunk that came from [`Self::decode`] or [`Self::read`], for those that are encoded against
    /// it.
    pub(crate) fn keep(&self, id: &ChunkId, plain: &[u8]) {
        self.bases.add(id, Arc::new(plain.to_vec()));
    }

    /// The plain bytes of a chunk from a copy without a base.
    fn read_alone(&mut self, id: &ChunkId) -> Result<Vec<u8>> {
        let first = self.repository.locate_or_refresh(id)?;
        let mut copies = self.repository.index().readable(id);
        copies.retain(|copy| copy.base.is_none());
        if copies.is_empty() {
            copies.push(first);
        }
        let mut plain = Vec::new();
        let outcome = first_good(&copies, |location| {
            let mut blob = self.fetch(location)?;
            self.decode_at(id, location, &mut blob, &mut plain, false).map(drop)
        });
        if let Some(Ok(())) = outcome {
            return Ok(plain);
        }
        for location in &copies {
            if self.read_mended(id, location, &mut plain, false)? {
                return Ok(plain);
            }
        }
        outcome.expect("there is at least one copy").map(|()| plain)
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

/// What the first copy gives that can be read; else why none can. Why not just the first error: as long as one copy could
/// not be looked at, nobody can tell that all are damaged.
fn first_good<T>(copies: &[Location], mut read: impl FnMut(&Location) -> Result<T>) -> Option<Result<T>> {
    let mut failure: Option<Error> = None;
    for copy in copies {
        match read(copy) {
            Ok(found) => return Some(Ok(found)),
            Err(error) if failure.as_ref().is_none_or(|failure| failure.is_damage() && !error.is_damage()) => {
                failure = Some(error);
            }
            Err(_) => {}
        }
    }
    failure.map(Err)
}
