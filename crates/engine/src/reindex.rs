//! Reindex: writes new segments for those that the store has lost, from the packs themselves.
//!
//! Every pack carries in its footer what a segment says of it. Whoever has a lost segment in the local cache takes its
//! records from there; else the footers of all packs are read that the other segments do not list, or not to the end: merging
//! divides what a pack holds among segments. Where a footer is damaged, the pack's parity or its blobs tell the same. The new segments take the place of the lost ones with one REMAP (rule G2 of
//! docs/concurrency.md), so until then nothing changes, and a crash leaves nothing but what the next prune removes. A store
//! that fails ends the run before that; so it can be run again, also where nothing is lost any more.
//!
//! Which packs there are, only the listing tells: what it leaves out stays unlisted, and counts as missing. That is why
//! nobody but an owner who asks for it runs this.
//!
//! A REMAP retires names. A member may have published something false under the name of a sound segment, before the one
//! that wrote it: so what the sound one lists is taken over too, and its object stays.
//!
//! Invariant: what becomes listed here nobody is about to remove. A prune removes what no segment lists once its session
//! is fenced (rule G3). So where all lists are known, packs of fenced sessions are listed only while snapshots need chunks
//! that are in no list, as no prune removes any such pack then; and packs of sessions that were not fenced, only if nobody
//! has fenced these before the REMAP. The rest of a pack that is listed in part, only if the segments that list it are still
//! published: until then the log says of the pack whether it is condemned or deleted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::crypto::blob::BLOB_HEADER_BYTES;
use crate::error::{Error, Result};
use crate::format::log::{Act, SegmentRecord};
use crate::format::names::{PACKS, PackName, SegmentName};
use crate::format::pack::{BlobKind, BlobRecord, HEADER_BYTES, TRAILER_BYTES, footer_len};
use crate::format::segment::{Location, SegmentBuilder, SegmentView};
use crate::format::slot::Role;
use crate::ids::{ChunkId, ObjectHash, SessionId};
use crate::monitor::{Monitor, Phase, Problem};
use crate::repo::index::{Index, Segment};
use crate::repo::marks::Marks;
use crate::repo::object::read_segment;
use crate::repo::pack_list::{PackList, read_list, recover_list};
use crate::repo::{Repository, Session};
use crate::rules::State;
use crate::store::StoreError;
use crate::units::MIB;

/// A new segment has at most so many records.
const SEGMENT_RECORDS_MAX: usize = 512 * 1024;

/// What [`reindex`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReindexReport {
    /// Segments that the store has lost, or that never were what the log says.
    pub lost: Vec<SegmentName>,
    /// Those of them whose records were in the local cache.
    pub cached: u64,
    /// Sound segments that had the names of lost ones; what they list is taken over.
    pub namesakes: u64,
    /// Packs that no segment listed, or not to the end, and whose own lists were read.
    pub packs: u64,
    /// Packs of which no segment lists all, as their own lists can't be read either.
    pub unreadable: u64,
    /// Records in the new segments.
    pub records: u64,
    /// Number of the log entry; none where there was nothing to list, or with `dry_run`.
    pub number: Option<u64>,
}

/// What the REMAP rests on.
#[derive(Default)]
struct Plan {
    /// Published segments that go: the lost ones, and sound ones of the same names.
    retired: Vec<SegmentRecord>,
    /// The objects that are not what the log says of any of them.
    removed: Vec<SegmentName>,
    found: Found,
}

/// What holds of the packs that become listed, and has to hold until they are.
#[derive(Default)]
struct Found {
    /// Sessions of those that no segment listed, of the sessions that were not fenced.
    unfenced: BTreeSet<SessionId>,
    /// Segments that list others in part.
    partial: BTreeSet<ObjectHash>,
}

/// What segments list of a pack.
#[derive(Default)]
struct Listed {
    /// Records, and how many of them have a base.
    records: usize,
    bases: usize,
    /// Bytes of their blobs.
    bytes: u64,
}

impl Listed {
    fn add(&mut self, location: &Location) {
        self.records += 1;
        self.bases += usize::from(location.base.is_some());
        self.bytes += BLOB_HEADER_BYTES as u64 + u64::from(location.sealed_len);
    }

    /// True if a pack of this length can't hold more. One with parity may not, and none can be told.
    fn is_all(&self, length: u64) -> bool {
        let rest = HEADER_BYTES + footer_len(self.records, self.bases) + TRAILER_BYTES;
        self.bytes + rest as u64 == length
    }
}

/// See the module's page. With `dry_run` it only tells what is lost, and what there is to replace it.
///
/// # Errors
/// [`Error::NotAllowed`] without an owner's key; [`Error::Refused`] where somebody replaced a lost segment meanwhile, or
/// fenced a session; [`Error::Interrupted`]; errors of the store. Then nothing has changed.
pub fn reindex(repository: &Repository, dry_run: bool, monitor: &dyn Monitor) -> Result<ReindexReport> {
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("write the index anew"));
    }
    monitor.phase(Phase::VerifyingStructure);
    let (state, mut index) = repository.current()?;
    let lost = find_lost(repository, &state, &mut index, monitor)?;
    let names: HashSet<SegmentName> = lost.iter().map(|record| record.name).collect();
    let is_lost = |record: &SegmentRecord| lost.iter().any(|lost| lost.hash == record.hash);
    let retired: Vec<SegmentRecord> =
        state.segments.iter().filter(|record| names.contains(&record.name)).cloned().collect();
    let mut report = ReindexReport { lost: names.iter().copied().collect(), ..ReindexReport::default() };
    report.lost.sort_unstable();
    let session = Session::collect(repository, 24 * MIB);
    let mut writer = Writer { session: (!dry_run).then_some(&session), builders: Vec::new(), ranks: HashMap::new() };
    let known: Vec<Arc<Segment>> =
        index.segments().iter().filter(|it| retired.contains(it.record())).cloned().collect();
    for segment in &known {
        if !writer.copy(segment)? {
            // Why: what it lists is not taken over, so its packs have to be read.
            index.drop_segment(&segment.record().hash);
        } else if is_lost(segment.record()) {
            report.cached += 1;
        } else {
            report.namesakes += 1;
        }
    }
    let is_complete = report.cached + report.namesakes == retired.len() as u64;
    let found = list_packs(repository, (&state, &index), is_complete, &mut writer, &mut report, monitor)?;
    report.records = writer.finish()?;
    if dry_run || (retired.is_empty() && report.packs == 0) {
        return Ok(report);
    }
    let has_sound = |name: &SegmentName| retired.iter().any(|record| record.name == *name && !is_lost(record));
    let removed = report.lost.iter().filter(|name| !has_sound(name)).copied().collect();
    report.number = Some(publish(repository, &session, &Plan { retired, removed, found })?);
    Ok(report)
}

/// The published segments that the store has not, or not as the log names them. All others are in the index then.
fn find_lost(
    repository: &Repository,
    state: &State,
    index: &mut Index,
    monitor: &dyn Monitor,
) -> Result<Vec<SegmentRecord>> {
    let mut lost = Vec::new();
    for record in &state.segments {
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        match read_segment(repository.store(), record) {
            Ok(sealed) if opens(repository, record, &sealed) => {
                // Why: the store may not have given it when the index was read.
                if !index.segments().iter().any(|open| open.record().hash == record.hash) {
                    let (store, key) = (repository.store(), &repository.keys().index_key);
                    index.push(Arc::new(Segment::fetch(store, key, repository.cache(), record)?));
                }
            }
            Ok(_) | Err(Error::Damaged(_) | Error::Store(StoreError::Missing(_))) => lost.push(record.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

fn opens(repository: &Repository, record: &SegmentRecord, sealed: &[u8]) -> bool {
    let plain = crate::crypto::envelope::open(&repository.keys().index_key, &record.name.object(), sealed);
    let is_sound = |view: SegmentView<'_>| view.check().is_ok() && view.len() as u64 == record.records;
    plain.is_ok_and(|plain| SegmentView::parse(&plain).is_ok_and(is_sound))
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

/// Lists every pack of the store of a published session that no segment lists, or not to the end. `is_complete`: what every
/// segment lists that is published is known.
fn list_packs(
    repository: &Repository,
    (state, index): (&State, &Index),
    is_complete: bool,
    writer: &mut Writer<'_, '_>,
    report: &mut ReindexReport,
    monitor: &dyn Monitor,
) -> Result<Found> {
    let lacks = !is_complete || lacks_chunks(repository, state, index, monitor)?;
    let listed = count_listed(index, lacks);
    // Why not believed where nothing is lost: somebody lists what is not so, else nothing would lack.
    let is_all = |listed: &Listed, length| !report.lost.is_empty() && listed.is_all(length);
    let mut candidates = find_candidates(repository, state, &listed, &is_all)?;
    let is_fenced = |name: &PackName| state.fenced.contains(&name.session) && !listed.contains_key(name);
    if !lacks {
        // Why: nobody needs them, and a prune may be about to remove them.
        candidates.retain(|(name, _)| !is_fenced(name));
    }
    let mut found = Found::default();
    for (name, length) in candidates {
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        let list = match read_list(repository, &name, length) {
            Err(Error::Damaged(_)) => recover_list(repository, &name),
            list => list.map(Some),
        };
        let list = match list {
            // A prune has removed it, or the listing is an old one.
            Err(Error::Store(StoreError::Missing(_))) => continue,
            list => list?,
        };
        let mut list = list.unwrap_or(PackList { kind: BlobKind::Data, records: Vec::new(), is_all: false });
        if !list.is_all {
            report.unreadable += 1;
            let what = match list.records.len() {
                0 => "its footer can't be read; what no list has of it stays unlisted".to_owned(),
                found => {
                    format!("its footer can't be read; {found} of its chunks were found, others may stay unlisted")
                }
            };
            monitor.problem(Problem { subject: name.object(), what, code: "damaged" });
        }
        let is_new = |record: &BlobRecord| index.copies(&record.id).next().is_none();
        // Why: nobody needs a second list of what is listed, and a pack of a fenced session may be about to be removed.
        if is_complete && is_fenced(&name) && !list.records.iter().any(is_new) {
            continue;
        }
        let is_here = |copy: &Location, record: &BlobRecord| copy.pack == name && copy.offset == record.offset;
        list.records.retain(|record| !index.copies(&record.id).any(|copy| is_here(&copy.location, record)));
        if list.records.is_empty() {
            continue;
        }
        report.packs += 1;
        if listed.contains_key(&name) {
            let names_it = |segment: &&Arc<Segment>| segment.packs().contains(&name);
            found.partial.extend(index.segments().iter().filter(names_it).map(|segment| segment.record().hash));
        } else if !is_fenced(&name) {
            found.unfenced.insert(name.session);
        }
        list.records.iter().try_for_each(|record| writer.push(name, list.kind, record))?;
    }
    Ok(found)
}

/// The packs that segments list; with `counted`, how much of each, else nothing of any.
fn count_listed(index: &Index, counted: bool) -> HashMap<PackName, Option<Listed>> {
    let mut listed: HashMap<PackName, Option<Listed>> = HashMap::new();
    for segment in index.segments() {
        if !counted {
            listed.extend(segment.packs().into_iter().map(|pack| (pack, None)));
            continue;
        }
        for (_, _, location) in segment.records() {
            listed.entry(location.pack).or_default().get_or_insert_default().add(&location);
        }
    }
    listed
}

/// The packs of published sessions that no segment lists, or that may hold more than is listed, in order of names, with their
/// lengths.
fn find_candidates(
    repository: &Repository,
    state: &State,
    listed: &HashMap<PackName, Option<Listed>>,
    is_all: &dyn Fn(&Listed, u64) -> bool,
) -> Result<Vec<(PackName, u64)>> {
    let mut candidates: HashMap<PackName, u64> = HashMap::new();
    repository.store().list(PACKS, &mut |info| {
        let is_listed = |name: &PackName| {
            listed.get(name).is_some_and(|listed| listed.as_ref().is_none_or(|listed| is_all(listed, info.length)))
        };
        // Why only sessions that were published: the others are of backups that still run, or never ended.
        let wanted = |name: &PackName| {
            state.finished_sessions.contains(&name.session)
                && !is_listed(name)
                && !state.standing.deleted.contains_key(name)
        };
        candidates.extend(PackName::parse(&info.name).filter(wanted).map(|name| (name, info.length)));
    })?;
    let mut candidates: Vec<(PackName, u64)> = candidates.into_iter().collect();
    candidates.sort_unstable();
    Ok(candidates)
}

/// True if a snapshot needs a chunk that no segment lists.
fn lacks_chunks(repository: &Repository, state: &State, index: &Index, monitor: &dyn Monitor) -> Result<bool> {
    let mut marks = Marks::new(repository, index.clone());
    match marks.walk_all(state, monitor, &mut |_, _| Ok(())) {
        Ok(()) => Ok(marks.unlisted > 0),
        // What can't be walked keeps a prune from removing anything too.
        Err(error) if error.is_damage() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Puts the new segments in the place of the retired ones.
fn publish(repository: &Repository, session: &Session<'_>, plan: &Plan) -> Result<u64> {
    let segments: Vec<SegmentRecord> = session.segments().iter().map(|segment| segment.record().clone()).collect();
    let names: BTreeSet<SegmentName> = plan.retired.iter().map(|record| record.name).collect();
    let replaced =
        |name: &SegmentName| Error::Refused(format!("{} was replaced by somebody else meanwhile", name.object()));
    let number = repository.append(&mut |state| {
        if let Some(gone) = plan.retired.iter().find(|record| !state.is_published(&record.hash)) {
            return Err(replaced(&gone.name));
        }
        // Why: it would go with them, and what it lists was not taken over.
        let is_new = |record: &&SegmentRecord| names.contains(&record.name) && !plan.retired.contains(record);
        if let Some(new) = state.segments.iter().find(is_new) {
            return Err(replaced(&new.name));
        }
        if !plan.found.partial.iter().all(|hash| state.is_published(hash)) {
            return Err(Error::Refused("a prune wrote segments anew meanwhile; run again".into()));
        }
        if let Some(fenced) = plan.found.unfenced.iter().find(|id| state.fenced.contains(id)) {
            return Err(Error::Refused(format!("a prune fenced the session {fenced} meanwhile; run again")));
        }
        Ok(Act::Remap {
            session: (!segments.is_empty()).then(|| session.id()),
            segments: segments.clone(),
            retired: names.iter().copied().collect(),
            gone: Vec::new(),
        })
    })?;
    session.published();
    // Why: nobody is to publish what is going to be removed once more (rule G4). Why only now: until the packs are listed,
    // a prune removes what no segment lists of a fenced session.
    let owners: BTreeSet<SessionId> = names.iter().map(|name| name.session).collect();
    let open = |state: &State| owners.iter().filter(|id| !state.fenced.contains(id)).copied().collect::<Vec<_>>();
    if !open(&repository.state()).is_empty() {
        repository.append(&mut |state| Ok(Act::Fence { sessions: open(state) }))?;
    }
    for name in &plan.removed {
        // A damaged one may still lie there; nothing names it any more.
        repository.store().delete(&name.object())?;
    }
    Ok(number)
}
