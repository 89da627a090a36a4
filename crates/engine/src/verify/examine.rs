//! Packs that are not whole: what can still be read of them, chunk by chunk.
//!
//! A pack whose list is lost is read by what the index says of it, so that a torn trailer costs nobody a chunk and a
//! truncated pack only those behind the cut. Blobs that an earlier check found damaged are tried too, and places that a
//! segment tells and the pack's footer does not: a member can publish what was never stored there. Runs only when there is
//! such a pack or blob.
//!
//! Memory: so many places at once as a batch has, whatever is suspect.

use std::collections::HashSet;

use super::{Check, spread};
use crate::error::Result;
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::repo::BlobReader;
use crate::store::StoreError;

/// So many places are collected before they are tried: 13 MB.
const BATCH: usize = 100_000;

/// Tries every chunk of every suspect pack.
pub(super) fn examine_suspects(check: &Check<'_>) -> Result<()> {
    let (suspects, doubted) = (check.findings.suspects(), check.findings.doubted());
    let misfits = check.findings.take_misfits();
    if suspects.is_empty() && doubted.is_empty() && misfits.is_empty() {
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
            } else if suspects.contains(&location.pack)
                || doubted.contains(&(location.pack, id))
                || misfits.has(&id, &location)
            {
                tasks.push((id, location));
                if tasks.len() == BATCH {
                    try_all(check, std::mem::take(&mut tasks))?;
                }
            }
        }
    }
    try_all(check, tasks)
}

fn try_all(check: &Check<'_>, mut tasks: Vec<(ChunkId, Location)>) -> Result<()> {
    tasks.sort_unstable_by_key(|(_, location)| (location.pack, location.offset));
    let start = || (check.repository.blob_reader(), Vec::new());
    spread(check.threads(), &tasks, start, |(reader, plain), (id, location)| {
        check.go_on()?;
        let Err(error) = try_place(check, reader, plain, id, location) else { return Ok(()) };
        let index = check.repository.index();
        let others = index.copies(id).map(|copy| copy.location).filter(|other| other.pack == location.pack);
        // Why no finding: the pack has the chunk, and readers try each place that a segment tells.
        if !others.filter(|other| other != location).any(|it| try_place(check, reader, plain, id, &it).is_ok()) {
            check.unreadable(&location.pack.object(), &error, *id);
        }
        Ok(())
    })
}

fn try_place(
    check: &Check<'_>,
    reader: &mut BlobReader<'_>,
    plain: &mut Vec<u8>,
    id: &ChunkId,
    location: &Location,
) -> Result<()> {
    let mut blob = check.repository.fetch(location)?;
    reader.decode(id, location, &mut blob, plain)
}
