//! Packs that are not whole: what can still be read of them, chunk by chunk.
//!
//! A pack whose list is lost is read by what the index says of it, so that a torn trailer costs nobody a chunk and a
//! truncated pack only those behind the cut. Blobs that an earlier check found damaged are tried too. Runs only when
//! there is such a pack or blob.

use std::collections::HashSet;

use super::{Check, spread};
use crate::error::Result;
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::store::StoreError;

/// Tries every chunk of every suspect pack.
pub(super) fn examine_suspects(check: &Check<'_>) -> Result<()> {
    let (suspects, doubted) = (check.findings.suspects(), check.findings.doubted());
    if suspects.is_empty() && doubted.is_empty() {
        return Ok(());
    }
    let is_missing =
        |pack: &&PackName| matches!(check.repository.store().head(&pack.object()), Err(StoreError::Missing(_)));
    let missing: HashSet<&PackName> = suspects.iter().filter(is_missing).collect();
    let mut tasks: Vec<(ChunkId, Location)> = Vec::new();
    for segment in check.repository.index().segments() {
        for (_, id, location) in segment.records() {
            if missing.contains(&location.pack) {
                check.findings.chunk(&location.pack.object(), "it is missing", id);
            } else if suspects.contains(&location.pack) || doubted.contains(&(location.pack, id)) {
                tasks.push((id, location));
            }
        }
    }
    tasks.sort_unstable_by_key(|(_, location)| (location.pack, location.offset));
    let start = || (check.repository.blob_reader(), Vec::new());
    spread(check.threads(), &tasks, start, |(reader, plain), (id, location)| {
        check.go_on()?;
        let read = check.repository.fetch(location).and_then(|mut blob| reader.decode(id, location, &mut blob, plain));
        if let Err(error) = read {
            check.unreadable(&location.pack.object(), &error, *id);
        }
        Ok(())
    })
}
