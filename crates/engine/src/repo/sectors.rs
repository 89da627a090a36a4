//! Places of packs that the medium can't read any more: a sector that went bad.
//!
//! The operating system answers EIO there, and for many things besides: a disk that is gone, a server that does not answer.
//! It is damage of a pack only where the same bytes fail twice while others of the pack, and other objects, can be
//! read. Whatever else fails says nothing of the pack.
//!
//! A short pack may lie in one record of a file system that checks sums (128 KiB in ZFS), which fails as a whole; there other
//! objects alone decide. A pack that is longer and fails from end to end stays undecided.

use std::ops::Range;

use crate::error::{Damaged, Result};
use crate::format::names::{MARKER, PackName};
use crate::repo::repository::Repository;
use crate::store::{Store, StoreError};

/// The smallest piece that is asked for alone: a sector of a disk, and a page of the kernel's cache.
const SECTOR_BYTES: u64 = 4096;
/// Shorter packs may fail as a whole.
const RECORD_BYTES: u64 = 128 * 1024;
/// So many other packs are asked at most whether they can be read.
const OTHERS_MAX: usize = 3;

/// Bytes of which some could not be read.
pub(crate) struct Torn {
    /// What could not be read is zero.
    pub(crate) bytes: Vec<u8>,
    /// How many bytes could not be read.
    pub(crate) unread: u64,
}

/// Reads a range of an object as far as the medium can; none where more than `unread_max` bytes can't be read. Pieces that
/// fail are halved down to a sector. Beyond the end of the object there is nothing, or zeros where its last sector fails.
///
/// # Errors
/// When the store fails otherwise.
pub(crate) fn get_torn(
    store: &dyn Store,
    object: &str,
    range: Range<u64>,
    unread_max: u64,
) -> Result<Option<Torn>, StoreError> {
    let mut torn = Torn { bytes: Vec::new(), unread: 0 };
    let mut waiting = vec![range];
    while let Some(range) = waiting.pop() {
        let length = range.end.saturating_sub(range.start);
        match store.get(object, Some(range.clone())) {
            Ok(bytes) => {
                let is_short = (bytes.len() as u64) < length;
                if torn.bytes.is_empty() {
                    torn.bytes = bytes;
                } else {
                    torn.bytes.extend_from_slice(&bytes);
                }
                if is_short {
                    break;
                }
            }
            Err(error) if !error.is_bad_medium() => return Err(error),
            Err(_) if length > SECTOR_BYTES => {
                // Invariant: more than a sector's length, so that a sector begins within.
                let next = (range.start + length / 2).next_multiple_of(SECTOR_BYTES);
                let middle = if next < range.end { next } else { next - SECTOR_BYTES };
                waiting.extend([middle..range.end, range.start..middle]);
            }
            Err(_) => {
                torn.unread += length;
                if torn.unread > unread_max {
                    return Ok(None);
                }
                let end = torn.bytes.len() as u64 + length;
                torn.bytes.resize(usize::try_from(end).unwrap_or(usize::MAX), 0);
            }
        }
    }
    Ok(Some(torn))
}

impl Repository {
    /// A range of a pack's bytes. A range that reaches beyond the end gives what is there.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] where the medium can't read just these bytes; what the store fails with.
    pub(crate) fn get_pack(&self, pack: &PackName, range: Range<u64>) -> Result<Vec<u8>> {
        let (store, object) = (self.store(), pack.object());
        let get = || store.get(&object, Some(range.clone()));
        match get() {
            Err(first) if first.is_bad_medium() => match get() {
                Err(again) if !again.is_bad_medium() => Err(again.into()),
                Err(_) if self.is_bad_there(pack, &range) => {
                    Err(Damaged::new(object.as_str(), range.start, "the disk can't read it there (input/output error)")
                        .into())
                }
                Err(_) => Err(first.into()),
                Ok(bytes) => Ok(bytes),
            },
            got => Ok(got?),
        }
    }

    /// True if other bytes of this pack can be read, and other objects.
    fn is_bad_there(&self, pack: &PackName, bad: &Range<u64>) -> bool {
        let (store, object) = (self.store(), pack.object());
        let Ok(info) = store.head(&object) else { return false };
        let length = info.length;
        let reads = |object: &str, start: u64| {
            let got = store.get(object, Some(start..start + SECTOR_BYTES));
            got.is_ok_and(|bytes| !bytes.is_empty())
        };
        // Both ends, the middle, and what is right before and behind.
        let last = length.saturating_sub(1) / SECTOR_BYTES * SECTOR_BYTES;
        let middle = length / 2 / SECTOR_BYTES * SECTOR_BYTES;
        let before = (bad.start / SECTOR_BYTES * SECTOR_BYTES).saturating_sub(SECTOR_BYTES);
        let behind = bad.end.next_multiple_of(SECTOR_BYTES);
        let places = [0, last, middle, before, behind];
        let is_other = |start: &u64| (start + SECTOR_BYTES <= bad.start || *start >= bad.end) && *start < length;
        let has_others =
            length <= RECORD_BYTES || places.iter().filter(|it| is_other(it)).any(|it| reads(&object, *it));
        has_others && self.reads_others(pack, &reads)
    }

    fn reads_others(&self, pack: &PackName, reads: &dyn Fn(&str, u64) -> bool) -> bool {
        let index = self.index();
        let named = index.segments().iter().rev().flat_map(|segment| segment.packs());
        let mut others: Vec<PackName> = Vec::new();
        for other in named.filter(|other| other != pack) {
            if others.len() == OTHERS_MAX {
                break;
            }
            if !others.contains(&other) {
                others.push(other);
            }
        }
        reads(MARKER, 0) && (others.is_empty() || others.iter().any(|other| reads(&other.object(), 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Capabilities, Created, ObjectInfo};

    /// A store that can't read some bytes.
    struct Bad(MemoryStore, Range<u64>);

    impl Store for Bad {
        fn location(&self) -> String {
            self.0.location()
        }

        fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
            let whole = range.clone().unwrap_or(0..u64::MAX);
            if whole.start < self.1.end && self.1.start < whole.end {
                let source = std::io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
                return Err(StoreError::from_io("reading", source));
            }
            self.0.get(name, range)
        }

        fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
            self.0.put(name, bytes)
        }

        fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
            self.0.create(name, bytes)
        }

        fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
            self.0.head(name)
        }

        fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
            self.0.list(prefix, each)
        }

        fn delete(&self, name: &str) -> Result<(), StoreError> {
            self.0.delete(name)
        }

        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }
    }

    #[test]
    fn all_but_the_sectors_that_fail_is_read() {
        let stored: Vec<u8> = (0..50_000u32).map(|place| u8::try_from(place % 250 + 1).unwrap()).collect();
        for bad in [0..1, 0..4096, 4095..4097, 8192..8193, 20_000..33_000, 49_999..50_000, 60_000..60_001] {
            for range in [0..50_000, 1..50_000, 4095..8193, 19_999..40_001, 8192..8200] {
                let store = Bad(MemoryStore::new(), bad.clone());
                store.put("object", &stored).unwrap();
                let torn = get_torn(&store, "object", range.clone(), u64::MAX).unwrap().unwrap();
                let wanted = &stored[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
                assert_eq!(torn.bytes.len(), wanted.len(), "{bad:?} {range:?}");
                let mut unread = 0;
                for ((place, byte), wanted) in (range.start..).zip(&torn.bytes).zip(wanted) {
                    let is_near = place + SECTOR_BYTES > bad.start && place < bad.end + SECTOR_BYTES;
                    assert!(byte == wanted || *byte == 0 && is_near, "{bad:?} {range:?}: {place}");
                    unread += u64::from(*byte == 0);
                }
                assert_eq!(unread, torn.unread.min(unread), "{bad:?} {range:?}");
                assert!(torn.unread <= 2 * SECTOR_BYTES + bad.end - bad.start);
                assert!(get_torn(&store, "object", range.clone(), torn.unread).unwrap().is_some());
                let is_hit = torn.unread > 0;
                assert!(!is_hit || get_torn(&store, "object", range, torn.unread - 1).unwrap().is_none());
            }
        }
    }
}
