//! Entries that the store lost or changed, put back from what this client's cache saw of them.
//!
//! Without each of its entries a log opens for nobody who did not see it before, so this must not wait for somebody to ask.
//! Lost ones are put back by whoever writes, as the listing that looks for the end of the log shows them; the bytes of all
//! are compared by `repair` ([`Log::put_back_all`]).
//!
//! Invariant: only what the log's head vouches for is put back. Each entry has the hash of the one before it, and the newest
//! that was seen is in the store unchanged; where it is not, that is a rollback, and nothing is put back.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Cached, Log, decode_cached, split_record};
use crate::error::{Damaged, Error, Result};
use crate::format::log::ENTRY_BYTES_MAX;
use crate::format::names::log_object;
use crate::format::slot::KeyRing;
use crate::monitor::Problem;
use crate::repo::object::read_object;
use crate::store::{Store, StoreError};

/// Numbers of the entries that were put back.
pub type PutBack = Arc<Mutex<BTreeSet<u64>>>;

/// Tells of these entries as problems, each once; gives how many there were.
pub fn tell_put_back(entries: &PutBack, tell: &mut dyn FnMut(Problem)) -> u64 {
    let entries = std::mem::take(&mut *entries.lock().unwrap_or_else(PoisonError::into_inner));
    let mut count = 0;
    for number in entries {
        let what = "the store had lost or changed it; it was put back from this host's cache".to_owned();
        tell(Problem { subject: log_object(number), what, code: "put-back" });
        count += 1;
    }
    count
}

impl Log {
    /// The entries that were put back so far. The same for the log's life.
    pub(crate) fn put_back(&self) -> PutBack {
        Arc::clone(&self.put_back)
    }

    /// Puts back what is before the end, not in this listing, and not there either.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the cache does not have it; [`Error::Rollback`] where somebody took the hole for the end
    /// meanwhile; when the store fails.
    pub(super) fn put_back_lost(&mut self, store: &dyn Store, ring: &KeyRing, mut listed: Vec<u64>) -> Result<()> {
        listed.sort_unstable();
        let mut lost = Vec::new();
        for number in (0..self.state.next).filter(|number| listed.binary_search(number).is_err()) {
            // Why asked: a listing may be behind.
            match store.head(&log_object(number)) {
                Ok(_) => {}
                Err(StoreError::Missing(_)) => lost.push(number),
                Err(error) => return Err(error.into()),
            }
        }
        let seen = if lost.is_empty() { Vec::new() } else { self.seen(ring) };
        for number in lost {
            let Some(entry) = usize::try_from(number).ok().and_then(|at| seen.get(at)) else {
                return Err(Damaged::new(log_object(number), 0, "it is missing, but later entries exist").into());
            };
            self.put_one_back(store, number, entry)?;
        }
        Ok(())
    }

    /// Puts an entry where none is. Where another one is by now, somebody took the hole for the end.
    fn put_one_back(&mut self, store: &dyn Store, number: u64, entry: &[u8]) -> Result<()> {
        if !self.create(store, number, entry)? {
            self.rollback = Some(format!("{} is not the entry that was seen before", log_object(number)));
            return self.refuse_after_rollback();
        }
        self.put_back.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        Ok(())
    }

    /// Compares every entry with what the cache saw of it, and puts right what is missing or different. Gives how many.
    ///
    /// # Errors
    /// [`Error::Rollback`] where the log went back; when the store fails. What the cache did not see is left as it is.
    pub(crate) fn put_back_all(&mut self, store: &dyn Store, ring: &KeyRing) -> Result<u64> {
        self.confirm_end(store, ring)?;
        let mut count = 0;
        for (number, entry) in (0..).zip(self.seen(ring)) {
            let object = log_object(number);
            match read_object(store, &object, ENTRY_BYTES_MAX) {
                Ok(stored) if stored == entry => continue,
                // Why removed first: a store gives a name other bytes no other way. After a crash in between the next
                // writer puts it back, and till then its number is a hole, behind which nobody appends.
                Ok(_) | Err(Error::Damaged(_)) => store.delete(&object)?,
                Err(error) => return Err(error),
            }
            self.put_one_back(store, number, &entry)?;
            count += 1;
        }
        Ok(count)
    }

    /// The stored bytes of the entries from 0 on, as far as the cache saw them and the head vouches for them.
    fn seen(&self, ring: &KeyRing) -> Vec<Vec<u8>> {
        let bytes = self.cache.log_path().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let Cached::Log { state, length, .. } = decode_cached(&bytes, self.state.repository, ring) else {
            return Vec::new();
        };
        // Why also the shorter one: its newest entry was compared with the store's when this log was opened.
        let is_this = (state.next, state.head) == (self.state.next, self.state.head) || self.is_known;
        if self.rollback.is_some() || !is_this || state.next > self.state.next {
            return Vec::new();
        }
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut rest = &bytes[..length];
        while let Some((number, _, entry, after)) = split_record(rest) {
            if number == seen.len() as u64 {
                seen.push(entry.to_vec());
            }
            rest = after;
        }
        seen
    }
}
