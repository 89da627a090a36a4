//! Reindex: writes new segments for those that the store has lost, from the packs themselves.
//!
//! Every pack carries in its footer what a segment says of it. Whoever has a lost segment in the local cache takes its
//! records from there; else the footers of all packs are read that no other segment lists. The new segments take the
//! place of the lost ones with one REMAP (rule G2 of docs/concurrency.md), so until then nothing changes, and a crash
//! leaves nothing but what the next prune removes.
//!
//! Which packs there are, only the listing tells: what it leaves out stays unlisted, and counts as missing. That is why
//! nobody but an owner who asks for it runs this.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::crypto::object_hash;
use crate::error::{Error, Result};
use crate::format::log::{Act, SegmentRecord};
use crate::format::names::{PACKS, PackName, SegmentName};
use crate::format::pack::{BlobKind, BlobRecord};
use crate::format::segment::{SegmentBuilder, SegmentView};
use crate::format::slot::Role;
use crate::ids::{ChunkId, ObjectHash, SessionId};
use crate::monitor::{Monitor, Phase, Problem};
use crate::repo::adopt::read_pack;
use crate::repo::index::{Index, Segment};
use crate::repo::{Repository, Session};
use crate::rules::State;
use crate::store::StoreError;
use crate::units::MIB;

/// A new segment has at most so many records.
const SEGMENT_RECORDS_MAX: usize = 512 * 1024;

/// What [`reindex`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReindexReport {
    /// Segments that the store has lost.
    pub lost: Vec<SegmentName>,
    /// Those of them whose records were in the local cache.
    pub cached: u64,
    /// Packs whose footers were read instead.
    pub packs: u64,
    /// Packs that no segment lists and whose footers can't be read.
    pub unreadable: u64,
    /// Records in the new segments.
    pub records: u64,
    /// Number of the log entry; none where nothing was lost, or with `dry_run`.
    pub number: Option<u64>,
}

/// See the module's page. With `dry_run` it only tells what is lost, and what there is to replace it.
///
/// # Errors
/// [`Error::NotAllowed`] without an owner's key; [`Error::Refused`] where somebody replaced a lost segment meanwhile;
/// [`Error::Interrupted`]; errors of the store.
pub fn reindex(repository: &Repository, dry_run: bool, monitor: &dyn Monitor) -> Result<ReindexReport> {
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("write the index anew"));
    }
    monitor.phase(Phase::VerifyingStructure);
    let (state, mut index) = repository.current()?;
    let lost = find_lost(repository, &state, monitor)?;
    let mut report =
        ReindexReport { lost: lost.iter().map(|record| record.name).collect(), ..ReindexReport::default() };
    if lost.is_empty() {
        return Ok(report);
    }
    let session = Session::collect(repository, 24 * MIB);
    let mut writer = Writer { session: (!dry_run).then_some(&session), builders: Vec::new(), ranks: HashMap::new() };
    let hashes: HashSet<ObjectHash> = lost.iter().map(|record| record.hash).collect();
    let cached: Vec<Arc<Segment>> =
        index.segments().iter().filter(|segment| hashes.contains(&segment.record().hash)).cloned().collect();
    for segment in cached {
        if writer.copy(&segment)? {
            report.cached += 1;
        } else {
            // Why: what it lists is not taken over, so its packs have to be read.
            index.drop_segment(&segment.record().hash);
        }
    }
    if report.cached < lost.len() as u64 {
        read_footers(repository, (&state, &index), &mut writer, &mut report, monitor)?;
    }
    report.records = writer.finish()?;
    if dry_run {
        return Ok(report);
    }
    report.number = Some(publish(repository, &session, &lost)?);
    for record in &lost {
        // A damaged one may still lie there; nothing names it any more.
        repository.store().delete(&record.name.object())?;
    }
    Ok(report)
}

/// The published segments that the store has not, or not as the log names them.
fn find_lost(repository: &Repository, state: &State, monitor: &dyn Monitor) -> Result<Vec<SegmentRecord>> {
    let mut lost = Vec::new();
    for record in &state.segments {
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        match repository.store().get(&record.name.object(), None) {
            Ok(sealed) if object_hash(&sealed) == record.hash && opens(repository, record, &sealed) => {}
            Ok(_) | Err(StoreError::Missing(_)) => lost.push(record.clone()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(lost)
}

fn opens(repository: &Repository, record: &SegmentRecord, sealed: &[u8]) -> bool {
    let plain = crate::crypto::envelope::open(&repository.keys().index_key, &record.name.object(), sealed);
    plain.is_ok_and(|plain| SegmentView::parse(&plain).is_ok_and(|view| view.check().is_ok()))
}

/// Writes segments. A segment has one record a chunk: of a chunk with several copies the second goes into a further one,
/// as it may be the one without a base.
struct Writer<'s, 'r> {
    /// None to count only.
    session: Option<&'s Session<'r>>,
    builders: Vec<SegmentBuilder>,
    /// Copies so far.
    ranks: HashMap<ChunkId, u32>,
}

impl Writer<'_, '_> {
    fn push(&mut self, pack: PackName, kind: BlobKind, record: &BlobRecord) -> Result<()> {
        let copies = self.ranks.entry(record.id).or_default();
        let rank = *copies as usize;
        *copies += 1;
        if self.builders.len() == rank {
            self.builders.push(SegmentBuilder::new());
        }
        self.builders[rank].push(pack, kind, record);
        if self.builders[rank].len() >= SEGMENT_RECORDS_MAX { self.put(rank) } else { Ok(()) }
    }

    /// Takes a segment's records over from the local cache; false where they are not in order.
    fn copy(&mut self, segment: &Segment) -> Result<bool> {
        let Some(view) = segment.view().filter(|view| view.check().is_ok()) else { return Ok(false) };
        for (id, location) in (0..view.len()).filter_map(|number| view.record(number)) {
            self.push(location.pack, location.kind, &location.record(id))?;
        }
        Ok(true)
    }

    fn put(&mut self, rank: usize) -> Result<()> {
        let builder = std::mem::take(&mut self.builders[rank]);
        match self.session {
            Some(session) if !builder.is_empty() => session.put_segment(builder.finish()),
            _ => Ok(()),
        }
    }

    /// Writes the rest; gives the number of records.
    fn finish(&mut self) -> Result<u64> {
        (0..self.builders.len()).try_for_each(|rank| self.put(rank))?;
        Ok(self.ranks.values().map(|copies| u64::from(*copies)).sum())
    }
}

/// Lists every pack of the store that no segment lists and whose session was published.
fn read_footers(
    repository: &Repository,
    (state, index): (&State, &Index),
    writer: &mut Writer<'_, '_>,
    report: &mut ReindexReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    let listed: HashSet<PackName> =
        index.segments().iter().filter_map(|open| open.view()).flat_map(|view| view.packs()).collect();
    let mut unlisted: HashMap<PackName, u64> = HashMap::new();
    repository.store().list(PACKS, &mut |info| {
        // Why only sessions that were published: the others are of backups that still run, or never ended.
        let wanted = |name: &PackName| {
            state.finished_sessions.contains(&name.session)
                && !listed.contains(name)
                && !state.standing.deleted.contains_key(name)
        };
        unlisted.extend(PackName::parse(&info.name).filter(wanted).map(|name| (name, info.length)));
    })?;
    let mut unlisted: Vec<(PackName, u64)> = unlisted.into_iter().collect();
    unlisted.sort_unstable();
    for (name, length) in unlisted {
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        let Some((kind, records)) = read_pack(repository, name, length) else {
            report.unreadable += 1;
            let what = "its footer can't be read; what it holds stays unlisted".to_owned();
            monitor.problem(Problem { subject: name.object(), what, code: "damaged" });
            continue;
        };
        report.packs += 1;
        records.iter().try_for_each(|record| writer.push(name, kind, record))?;
    }
    Ok(())
}

/// Puts the new segments in the place of the lost ones.
fn publish(repository: &Repository, session: &Session<'_>, lost: &[SegmentRecord]) -> Result<u64> {
    // Why: nobody is to publish what is going to be removed once more (rule G4).
    let owners: BTreeSet<SessionId> = lost.iter().map(|record| record.name.session).collect();
    let open = |state: &State| owners.iter().filter(|id| !state.fenced.contains(id)).copied().collect::<Vec<_>>();
    if !open(&repository.state()).is_empty() {
        repository.append(&mut |state| Ok(Act::Fence { sessions: open(state) }))?;
    }
    let segments: Vec<SegmentRecord> = session.segments().iter().map(|segment| segment.record().clone()).collect();
    repository.append(&mut |state| {
        if let Some(gone) = lost.iter().find(|record| !state.is_published(&record.hash)) {
            return Err(Error::Refused(format!("{} was replaced by somebody else meanwhile", gone.name.object())));
        }
        Ok(Act::Remap {
            session: (!segments.is_empty()).then(|| session.id()),
            segments: segments.clone(),
            retired: lost.iter().map(|record| record.name).collect(),
            gone: Vec::new(),
        })
    })
}
