//! Reads whole objects whose length their store must not choose.
//!
//! A slot, a marker, a session's key and an entry of the log are read before anything is known of who wrote them. Each
//! kind has a length that none exceeds (docs/format.md §1); what is longer is damage, and is not loaded.

use crate::error::{Damaged, Result};
use crate::store::Store;

/// The bytes of an object of at most `bytes_max`.
///
/// # Errors
/// [`crate::error::Error::Damaged`] where it is longer; what the store fails with.
pub(crate) fn read_object(store: &dyn Store, object: &str, bytes_max: u64) -> Result<Vec<u8>> {
    // Why a range and no look at the length before: the object could grow in between.
    let bytes = store.get(object, Some(0..bytes_max + 1))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max) {
        return Ok(bytes);
    }
    Err(Damaged::new(object, bytes_max, format!("it is longer than the {bytes_max} bytes that any such object has"))
        .into())
}
