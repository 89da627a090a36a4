//! Reads whole objects whose length their store must not choose.
//!
//! A slot, a marker, a session's key, a pack and an entry of the log are read before anything is known of who wrote them.
//! Each kind has a length that none exceeds (docs/format.md §1); of a published segment the log says the length. What is
//! longer is damage, and is not loaded.

use crate::crypto::object_hash;
use crate::error::{Damaged, Result};
use crate::format::log::SegmentRecord;
use crate::store::Store;

/// The bytes of an object of at most `bytes_max`.
///
/// # Errors
/// [`crate::error::Error::Damaged`] where it is longer; what the store fails with.
pub(crate) fn read_object(store: &dyn Store, object: &str, bytes_max: u64) -> Result<Vec<u8>> {
    // Why a range and no look at the length before: the object could grow in between.
    let bytes = store.get(object, Some(0..bytes_max.saturating_add(1)))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max) {
        return Ok(bytes);
    }
    Err(Damaged::new(object, bytes_max, format!("it is longer than the {bytes_max} bytes that it can have")).into())
}

/// The stored bytes of a published segment: those that the log names.
///
/// # Errors
/// [`crate::error::Error::Damaged`] where they are others; what the store fails with.
pub(crate) fn read_segment(store: &dyn Store, record: &SegmentRecord) -> Result<Vec<u8>> {
    let object = record.name.object();
    let sealed = read_object(store, &object, record.bytes)?;
    if object_hash(&sealed) == record.hash {
        return Ok(sealed);
    }
    Err(Damaged::new(object, 0, "it is not the segment that the log names").into())
}
