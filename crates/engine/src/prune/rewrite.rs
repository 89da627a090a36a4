//! Stores again what is needed of packs that go: the same encoded body, sealed for a new pack.
//!
//! A body does not depend on where it lies, so it is taken as it is. It is decoded all the same and compared with the
//! chunk's id: what is stored again loses whatever an AUDIT says of the old place. A pack of which something needed can't
//! be read does not go.

use std::collections::BTreeSet;

use super::stay::blob_bytes;
use super::{Run, read_back};
use crate::error::{Error, Result};
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::monitor::{Problem, Progress};
use crate::repo::marks::{Mark, Marks};
use crate::repo::{BlobReader, Session};

/// Stores the blobs of the packs of `list` that stay; drops from `list` the packs that can't be read.
pub(super) fn rewrite(run: &mut Run<'_>, session: &Session<'_>, list: &mut BTreeSet<PackName>) -> Result<()> {
    let mut reader = run.repository.blob_reader();
    let mut plain = Vec::new();
    let mut damaged_blobs = BTreeSet::new();
    let blobs = list.iter().filter_map(|pack| run.uses.get(pack)).map(|usage| usage.live_blobs).sum();
    for (id, location) in staying(&run.marks, list, blobs) {
        if run.monitor.stopped() {
            return Err(Error::Interrupted);
        }
        if !list.contains(&location.pack) {
            continue;
        }
        match read(run, &mut reader, &id, &location, &mut plain) {
            Ok((blob, body)) => {
                let plain_bytes = usize::try_from(location.plain_len).unwrap_or(usize::MAX);
                session.store_again(location.kind, &id, plain_bytes, &blob[body])?;
                run.report.rewritten_bytes += blob_bytes(&location);
                run.report.rewritten_chunks += 1;
            }
            Err(Error::Damaged(damaged)) => {
                list.remove(&location.pack);
                run.look()?;
                if is_deleted(run, &id, &location) {
                    continue;
                }
                if has_others(run, &id, &location) {
                    damaged_blobs.extend(read_back::blame(run, &mut reader, &id, &location)?);
                    continue;
                }
                run.report.problems += 1;
                let what = format!("{}; its pack stays (`verify` tells whom it hits)", damaged.why);
                run.monitor.problem(Problem { subject: damaged.object, what, code: "damaged" });
            }
            Err(error) => return Err(error),
        }
        run.monitor.progress(Progress {
            bytes_done: run.report.rewritten_bytes,
            bytes_known: run.report.planned.stored_again_bytes,
            bytes_stored: session.totals().stored_bytes,
            ..Progress::default()
        });
    }
    session.flush()?;
    // Why: else the copy that stays next time may be the damaged one again.
    read_back::record(run, &damaged_blobs)
}

/// True if another prune was faster and has deleted this copy, or all that its base had.
fn is_deleted(run: &Run<'_>, id: &ChunkId, location: &Location) -> bool {
    let index = run.marks.index();
    let is_there = |place: &Location| !run.state.standing.deleted.contains_key(&place.pack);
    let has_base = |base| index.copies(&base).any(|copy| copy.location.base.is_none() && is_there(&copy.location));
    let is_listed = index.copies(id).any(|copy| copy.location == *location);
    !is_listed || !is_there(location) || !location.base.is_none_or(has_base)
}

/// True if the chunk can be had from elsewhere too.
fn has_others(run: &Run<'_>, id: &ChunkId, location: &Location) -> bool {
    run.marks.index().copies(id).any(|found| found.location != *location)
}

fn read(
    run: &Run<'_>,
    reader: &mut BlobReader<'_>,
    id: &ChunkId,
    location: &Location,
    plain: &mut Vec<u8>,
) -> Result<(Vec<u8>, std::ops::Range<usize>)> {
    let mut blob = match run.repository.fetch(location) {
        // A bad sector, which parity may give back.
        Err(error) if error.is_damage() => run.repository.fetch_mended(location)?.ok_or(error)?,
        fetched => fetched?,
    };
    let body = reader.open(id, location, &mut blob, plain)?;
    Ok((blob, body))
}

/// The blobs of these packs that stay, about so many, in order of place.
fn staying(marks: &Marks<'_>, list: &BTreeSet<PackName>, blobs: u64) -> Vec<(ChunkId, Location)> {
    // Why: growing step by step would take twice the room.
    let mut found = Vec::with_capacity(usize::try_from(blobs).unwrap_or(0));
    for (number, segment) in marks.index().segments().iter().enumerate() {
        if !segment.packs().iter().any(|pack| list.contains(pack)) {
            continue;
        }
        let leaves = segment.records().filter(|(_, _, location)| list.contains(&location.pack));
        let staying = leaves.filter(|(record, ..)| marks.record_has(Mark::Stays, number, *record));
        found.extend(staying.map(|(_, id, location)| (id, location)));
    }
    found.sort_unstable_by_key(|(_, location)| (location.pack, location.offset));
    found
}
