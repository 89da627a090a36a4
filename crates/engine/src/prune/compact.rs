//! Keeps index segments few and free of packs that are gone.
//!
//! When a class of segments of similar size has too many members, it is merged with all smaller ones; segments that list
//! much of what was deleted are written anew. The new segments say the same of every pack that is left: where a chunk has
//! copies in several packs, or several places in one as a member may claim, the second goes into a further segment, so
//! nothing is decided here that could be wrong later.
//!
//! Invariants: the entry is put only while all retired segments are published, so what they list is all taken over; a
//! pack is called gone only when no segment that stays names it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Run;
use crate::error::{Error, Result};
use crate::format::log::{Act, SegmentRecord};
use crate::format::names::PackName;
use crate::format::segment::{Location, SegmentBuilder};
use crate::ids::SessionId;
use crate::monitor::Problem;
use crate::repo::Session;
use crate::repo::index::{Found, Segment};
use crate::repo::merge::Merge;

/// More segments of one class than this are merged.
const CLASS_SEGMENTS_MAX: usize = 8;
/// A merged segment has at most so many records: building one takes about 200 bytes a record.
const SEGMENT_RECORDS_MAX: usize = 512 * 1024;
/// Class 0 goes up to so many records; each further class to four times as many.
const CLASS_RECORDS: u64 = 4096;
/// A segment of which at least one record in so many is of a deleted pack is written anew.
const GONE_SHARE: usize = 20;
/// A segment of fewer records is written anew for any deleted pack.
const SMALL_RECORDS: usize = 64 * 1024;

/// Merges segments; takes the packs of `removed`, whose objects are gone, out of all lists.
pub(super) fn compact(run: &mut Run<'_>, session: &Session<'_>, removed: &BTreeSet<PackName>) -> Result<()> {
    run.repository.confirm_log_end()?;
    run.look()?;
    let mut retired = choose(run, session.id(), removed);
    retired.retain(|segment| is_sorted(run, segment));
    let owners: BTreeSet<SessionId> = retired.iter().map(|segment| segment.record().name.session).collect();
    // Why: a run that adopted one of these sessions and then stood still would else publish a removed segment again.
    run.fence(&owners)?;
    write(run, session, &retired, removed)?;
    let fresh = session.segments();
    loop {
        run.look()?;
        let is_retired =
            |segment: &Arc<Segment>| retired.iter().any(|retired| retired.record().hash == segment.record().hash);
        if !retired.iter().all(|segment| run.state.is_published(&segment.record().hash)) {
            // Another prune retired some of them; what was written here is published by nobody.
            remove(run, &fresh)?;
            session.published();
            return Ok(());
        }
        let mut gone: BTreeSet<PackName> = removed.clone();
        gone.retain(|pack| run.state.standing.deleted.contains_key(pack));
        for segment in run.marks.index().segments().iter().filter(|segment| !is_retired(segment)) {
            segment.packs().iter().for_each(|pack| {
                gone.remove(pack);
            });
        }
        if retired.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let segments: Vec<SegmentRecord> = fresh.iter().map(|segment| segment.record().clone()).collect();
        let act = Act::Remap {
            session: (!segments.is_empty()).then(|| session.id()),
            segments,
            retired: retired.iter().map(|segment| segment.record().name).collect(),
            gone: gone.into_iter().collect(),
        };
        if run.append(act)? {
            session.published();
            return remove(run, &retired);
        }
    }
}

/// The segments that are merged or written anew.
fn choose(run: &Run<'_>, own: SessionId, removed: &BTreeSet<PackName>) -> Vec<Arc<Segment>> {
    let segments = run.marks.index().segments().iter().filter(|segment| segment.record().name.session != own);
    let segments: Vec<&Arc<Segment>> = segments.collect();
    let crowded = crowded(segments.iter().map(|segment| segment.count()));
    let is_chosen = |segment: &&&Arc<Segment>| {
        class(segment.count()).is_some_and(|class| crowded.is_some_and(|crowded| class <= crowded))
            || lists_gone(segment, removed)
    };
    segments.iter().filter(is_chosen).map(|segment| Arc::clone(segment)).collect()
}

/// False, and a problem, where a segment's records are not in order: a merge would lose some.
fn is_sorted(run: &mut Run<'_>, segment: &Segment) -> bool {
    let checked = segment.view().map(|view| view.check());
    segment.release();
    if let Some(Err(damaged)) = &checked {
        run.report.problems += 1;
        let subject = segment.record().name.object();
        let what = format!("{}; the segment stays as it is", damaged.why);
        run.monitor.problem(Problem { subject, what, code: "damaged" });
    }
    matches!(checked, Some(Ok(())))
}

/// The class of a segment; none for one that is not merged any more.
fn class(records: u64) -> Option<u32> {
    let is_full = records >= SEGMENT_RECORDS_MAX as u64 / 2;
    (!is_full).then(|| (records / CLASS_RECORDS).checked_ilog(4).map_or(0, |class| class + 1))
}

/// The highest class that has too many segments.
fn crowded(records: impl Iterator<Item = u64>) -> Option<u32> {
    let mut classes = [0; 32];
    for class in records.filter_map(class) {
        classes[class as usize] += 1;
    }
    (0..32).rev().find(|class| classes[*class as usize] > CLASS_SEGMENTS_MAX)
}

fn lists_gone(segment: &Segment, removed: &BTreeSet<PackName>) -> bool {
    if !segment.packs().iter().any(|pack| removed.contains(pack)) {
        return false;
    }
    let records = usize::try_from(segment.count()).unwrap_or(usize::MAX);
    let gone = || segment.records().filter(|(_, _, place)| removed.contains(&place.pack)).count();
    records < SMALL_RECORDS || gone() * GONE_SHARE >= records
}

/// Writes what `retired` lists of all packs but those of `removed` into new segments.
fn write(run: &Run<'_>, session: &Session<'_>, retired: &[Arc<Segment>], removed: &BTreeSet<PackName>) -> Result<()> {
    let mut merge = Merge::new(retired.iter().map(|segment| &**segment))?;
    let mut copies: Vec<Found> = Vec::new();
    // One for the first copies of all chunks, one for the second ones, and so on.
    let mut builders: Vec<SegmentBuilder> = Vec::new();
    while let Some(id) = merge.next(&mut copies)? {
        if run.monitor.stopped() {
            return Err(Error::Interrupted);
        }
        let mut places: Vec<Location> = Vec::new();
        for location in copies.iter().map(|copy| copy.location) {
            if !removed.contains(&location.pack) && !places.contains(&location) {
                places.push(location);
            }
        }
        for (rank, location) in places.iter().enumerate() {
            if builders.len() == rank {
                builders.push(SegmentBuilder::new());
            }
            builders[rank].push(location.pack, location.kind, &location.record(id));
            if builders[rank].len() >= SEGMENT_RECORDS_MAX {
                session.put_segment(std::mem::take(&mut builders[rank]).finish())?;
            }
        }
    }
    for builder in builders.into_iter().filter(|builder| !builder.is_empty()) {
        session.put_segment(builder.finish())?;
    }
    Ok(())
}

/// Removes segments, but none that the log still lists, whatever was decided before.
fn remove(run: &Run<'_>, segments: &[Arc<Segment>]) -> Result<()> {
    let unlisted = segments.iter().filter(|segment| !run.state.is_published(&segment.record().hash));
    unlisted.into_iter().try_for_each(|segment| Ok(run.repository.store().delete(&segment.record().name.object())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_crowded_with_more_than_eight() {
        let cases: [(&[u64], Option<u32>); 6] = [
            (&[], None),
            (&[1; 8], None),
            (&[1; 9], Some(0)),
            (&[1, 1, 1, 1, 1, 1, 1, 1, 4096], None),
            (&[1, 4096, 5000, 6000, 7000, 8000, 9000, 10_000, 11_000, 12_000, 13_000], Some(1)),
            (&[SEGMENT_RECORDS_MAX as u64; 100], None),
        ];
        for (records, expected) in cases {
            assert_eq!(crowded(records.iter().copied()), expected, "{records:?}");
        }
    }
}
