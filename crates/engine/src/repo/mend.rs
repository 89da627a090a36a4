//! What parity gave back of damaged packs, for everybody who reads through one [`Repository`].
//!
//! A reader comes here only after a blob could not be read as it is. The pack is then fetched whole, one at a time, and
//! what its parity gives is kept: the right bytes of its damaged pieces, or that there are none. Nothing is believed for
//! that alone: a blob is authenticated and its id computed as if its bytes came from the store.
//!
//! Nothing here writes. [`MendedPacks`] tells which packs were damaged, so that a person hears of it although all was
//! read: what rests on parity is one accident away from being lost.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::format::names::PackName;
use crate::format::pack::{TRAILER_BYTES, decode_trailer};
use crate::format::parity::{Mended, mend};
use crate::format::segment::Location;
use crate::monitor::Problem;
use crate::repo::reader::BLOB_HEADER_BYTES;
use crate::repo::repository::Repository;
use crate::repo::sectors::{Torn, get_torn};
use crate::store::{Store, StoreError};
use crate::units::{MIB, PACK_BYTES_MAX};

/// Right bytes of damaged pieces that are kept.
const KEPT_BYTES_MAX: usize = 64 * MIB;
/// Packs of which is known what their parity gives.
const KEPT_PACKS_MAX: usize = 4096;

/// Damaged packs whose parity gave their bytes back, each with the number of its damaged pieces.
pub type MendedPacks = Arc<Mutex<BTreeMap<PackName, usize>>>;

/// See the module's page.
#[derive(Default)]
pub(crate) struct Mends {
    known: Mutex<Known>,
    told: MendedPacks,
}

/// Tells of these packs as problems, each once; gives how many there were.
pub fn tell_mended(packs: &MendedPacks, tell: &mut dyn FnMut(Problem)) -> u64 {
    let packs = std::mem::take(&mut *packs.lock().unwrap_or_else(PoisonError::into_inner));
    let count = u64::try_from(packs.len()).unwrap_or(u64::MAX);
    for (pack, damaged) in packs {
        let what =
            format!("{damaged} of its pieces are damaged; its parity gave them back; `verify --read-data` tells more");
        tell(Problem { subject: pack.object(), what, code: "mended" });
    }
    count
}

#[derive(Default)]
struct Known {
    /// None where parity gives nothing.
    packs: BTreeMap<PackName, Option<Arc<Mended>>>,
    order: VecDeque<PackName>,
    bytes: usize,
}

impl Known {
    fn keep(&mut self, pack: PackName, mended: Option<Arc<Mended>>) {
        self.bytes += mended.as_ref().map_or(0, |mended| mended.held_bytes());
        self.packs.insert(pack, mended);
        self.order.push_back(pack);
        while self.bytes > KEPT_BYTES_MAX || self.order.len() > KEPT_PACKS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.packs.remove(&oldest).flatten().map_or(0, |mended| mended.held_bytes());
        }
    }
}

impl Mends {
    pub(crate) fn told(&self) -> MendedPacks {
        Arc::clone(&self.told)
    }

    /// What parity gives of this pack; none where it has none, too much is damaged, or the pack is missing.
    fn of(&self, store: &dyn Store, pack: &PackName) -> Result<Option<Arc<Mended>>> {
        // Invariant: the lock is held while a pack is fetched, so that no more than one takes memory.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mended) = known.packs.get(pack) {
            return Ok(mended.clone());
        }
        // Why not kept: a store that fails may answer the next question.
        let mended = fetch(store, pack)?.map(Arc::new);
        if let Some(damaged) = mended.as_ref().map(|mended| mended.damaged_shards()).filter(|damaged| *damaged > 0) {
            self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(*pack, damaged);
        }
        known.keep(*pack, mended.clone());
        Ok(mended)
    }
}

/// Sectors that the medium can't read are damaged pieces like others: the pieces' hashes tell.
fn fetch(store: &dyn Store, pack: &PackName) -> Result<Option<Mended>> {
    let object = pack.object();
    let length = match store.head(&object) {
        Ok(info) => info.length,
        Err(StoreError::Missing(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let trailer = match store.get(&object, Some(length.saturating_sub(TRAILER_BYTES as u64)..length)) {
        Ok(tail) => decode_trailer(pack, length, &tail).ok(),
        Err(error) if error.is_bad_medium() => None,
        Err(error) => return Err(error.into()),
    };
    if trailer.is_some_and(|trailer| trailer.parity_len == 0) || length > PACK_BYTES_MAX {
        return Ok(None);
    }
    // No more comes back than there is parity, which is at most half of the pack.
    let unread_max = trailer.map_or(length / 2, |trailer| u64::from(trailer.parity_len));
    Ok(get_torn(store, &object, 0..length, unread_max)?.and_then(|torn| mend(pack, &torn.bytes).ok()))
}

impl Repository {
    /// Damaged packs that were met so far and whose parity gave their bytes back. The same for the repository's life.
    #[must_use]
    pub fn mended_packs(&self) -> MendedPacks {
        self.mends().told()
    }

    /// What parity gives of a pack.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn mend(&self, pack: &PackName) -> Result<Option<Arc<Mended>>> {
        self.mends().of(self.store(), pack)
    }

    /// The stored bytes of a blob, as the pack's parity gives them back; none where it gives nothing.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) fn fetch_mended(&self, location: &Location) -> Result<Option<Vec<u8>>> {
        let Some(mended) = self.mend(&location.pack)? else { return Ok(None) };
        let start = u64::from(location.offset);
        let end = start + BLOB_HEADER_BYTES + u64::from(location.sealed_len);
        let mut blob = match self.get_as_far(&location.pack, start..end)? {
            Some(torn) if torn.bytes.len() as u64 == end - start => torn.bytes,
            // It says why not.
            _ => self.fetch(location)?,
        };
        mended.apply(start, &mut blob);
        Ok(Some(blob))
    }

    /// A range of a pack as far as it can be read, for who puts what parity gives in the place of the rest.
    ///
    /// # Errors
    /// When the store fails otherwise than by a bad sector.
    pub(crate) fn get_as_far(&self, pack: &PackName, range: Range<u64>) -> Result<Option<Torn>> {
        match get_torn(self.store(), &pack.object(), range, u64::MAX) {
            Err(StoreError::Missing(_)) => Ok(None),
            got => Ok(got?),
        }
    }
}
