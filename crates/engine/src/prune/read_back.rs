//! Reads the copies that stay where another copy of the same chunk leaves (rule G1 of docs/concurrency.md).
//!
//! A member may have published a copy that is not what its id says, and a disk may have lost one that nobody has read
//! since. The index can't tell, so no copy is given up for one that this run has not decoded. What is found damaged goes
//! into the log like what `verify` finds, and the collector judges again: the other copy then stays.
//!
//! Invariant: only damage counts against a copy. A store that can't be read right now ends the run.

use std::collections::BTreeSet;

use super::Run;
use super::stay::blob_bytes;
use crate::error::{Error, Result};
use crate::format::log::{Act, BlobDamage};
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::monitor::Problem;
use crate::repo::BlobReader;
use crate::repo::index::Found;
use crate::repo::marks::Mark;

/// An entry names so many blobs at most: 0.6 MB.
const ITEMS_MAX: usize = 10_000;

/// Reads these copies; true where damage was found and recorded, so that it has to be judged anew.
pub(super) fn read_back(run: &mut Run<'_>, mut unread: Vec<(ChunkId, Found)>) -> Result<bool> {
    unread.sort_unstable_by_key(|(_, found)| (found.location.pack, found.location.offset));
    let mut reader = run.repository.blob_reader();
    let mut damaged = BTreeSet::new();
    for (id, found) in &unread {
        if run.monitor.stopped() {
            return Err(Error::Interrupted);
        }
        if read(run, &mut reader, id, &found.location)? {
            run.marks.set(Mark::Read, found.segment, found.record);
        } else {
            damaged.extend(blame(run, &mut reader, id, &found.location)?);
        }
        run.report.read_back_chunks += 1;
        run.report.read_back_bytes += blob_bytes(&found.location);
    }
    record(run, &damaged)?;
    Ok(!damaged.is_empty())
}

/// Tells the log which copies are damaged.
pub(super) fn record(run: &mut Run<'_>, damaged: &BTreeSet<(PackName, ChunkId)>) -> Result<()> {
    for (pack, chunk) in damaged {
        run.report.problems += 1;
        let what =
            format!("chunk {chunk} in it is damaged; another copy stays where there is one (`verify` tells more)");
        run.monitor.problem(Problem { subject: pack.object(), what, code: "damaged" });
    }
    let all: Vec<BlobDamage> = damaged.iter().map(|(pack, chunk)| BlobDamage { pack: *pack, chunk: *chunk }).collect();
    for batch in all.chunks(ITEMS_MAX) {
        let bytes = run.report.read_back_bytes;
        run.repository.append(&mut |state| {
            let is_there = |blob: &&BlobDamage| !state.standing.deleted.contains_key(&blob.pack);
            let damaged = batch.iter().filter(is_there).copied().collect();
            Ok(Act::Audit { depth: 1, bytes, lost: Vec::new(), damaged, sound: Vec::new() })
        })?;
    }
    Ok(())
}

/// True if the pack has the chunk. Two segments may tell different places in it: any that is right will do.
pub(super) fn read(run: &Run<'_>, reader: &mut BlobReader<'_>, id: &ChunkId, location: &Location) -> Result<bool> {
    let index = run.marks.index();
    let others = index.copies(id).map(|found| found.location);
    let others = others.filter(|other| other.pack == location.pack && other != location);
    for place in std::iter::once(*location).chain(others) {
        match decode(run, reader, id, &place) {
            Err(error) if error.is_damage() => {}
            other => return other.map(|()| true),
        }
    }
    Ok(false)
}

fn decode(run: &Run<'_>, reader: &mut BlobReader<'_>, id: &ChunkId, location: &Location) -> Result<()> {
    let mut blob = run.repository.fetch(location)?;
    reader.decode(id, location, &mut blob, &mut Vec::new())
}

/// Which copy it is that is damaged: this one, or those of its base.
pub(super) fn blame(
    run: &Run<'_>,
    reader: &mut BlobReader<'_>,
    id: &ChunkId,
    location: &Location,
) -> Result<Vec<(PackName, ChunkId)>> {
    let own = vec![(location.pack, *id)];
    let Some(base) = location.base else { return Ok(own) };
    match reader.base(&base) {
        Ok(_) => return Ok(own),
        Err(error) if error.is_damage() => {}
        Err(error) => return Err(error),
    }
    let mut of_base = Vec::new();
    let index = run.marks.index();
    for copy in index.copies(&base).map(|found| found.location).filter(|copy| copy.base.is_none()) {
        if !read(run, reader, &base, &copy)? {
            of_base.push((copy.pack, base));
        }
    }
    Ok(if of_base.is_empty() { own } else { of_base })
}
