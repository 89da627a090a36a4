//! The structure above the trees: log, marker and key slots; published segments; session keys; packs' presence.
//!
//! Everything comes from the store, whatever local caches hold. What later stages need is kept: of each pack where its
//! highest blob ends, about 100 bytes a pack; of the index nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::findings::{describe, tells_damage};
use super::sieve::Sieve;
use super::{Check, Read, count, spread};
use crate::crypto::{envelope, object_hash, random};
use crate::error::{Damaged, Error, Result};
use crate::format::log::{MemberRecord, SegmentRecord};
use crate::format::marker::MARKER_BYTES_MAX;
use crate::format::names::{
    LOG, MARKER, PACKS, PackName, SEGMENTS, SLOTS, SegmentName, log_object, parse_log, parse_session, parse_slot,
    session_object, slot_object,
};
use crate::format::pack::{BlobKind, TRAILER_BYTES, decode_trailer};
use crate::format::segment::{Location, SegmentView};
use crate::format::slot::{self, SLOT_BYTES_MAX};
use crate::ids::{ChunkId, SessionId, SlotId};
use crate::monitor::Problem;
use crate::repo::cache::Cache;
use crate::repo::data_keys::{has_session_key, read_session_key};
use crate::repo::index::Index;
use crate::repo::log::Log;
use crate::repo::object::{read_object, read_segment};
use crate::repo::reader::BLOB_HEADER_BYTES;
use crate::repo::{Leanings, Snapshot};
use crate::rules::{Standing, State};
use crate::store::StoreError;

/// What the index says of a pack, and how long it is in the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackFacts {
    pub(super) kind: BlobKind,
    /// Records of the index that point into it.
    pub(super) records: u64,
    /// Those of them that say different things; 0 where no data is read.
    pub(super) places: u64,
    /// Segments that name it.
    pub(super) segments: u32,
    /// Where its highest blob ends.
    pub(super) end: u64,
    /// Its length in the store; none where it is missing.
    pub(super) length: Option<u64>,
}

/// What the published segments say, held against what the store has.
pub(super) struct Structure {
    pub(super) packs: BTreeMap<PackName, PackFacts>,
    pub(super) chunks: u64,
    pub(super) segments: u64,
    pub(super) orphans: u64,
    /// Packs that a prune condemned, and how many of them are being deleted: nobody needs what is in them.
    pub(super) condemned: (u64, u64),
    /// What the log said when the check began.
    state: Arc<State>,
    /// Chunks of which every copy is encoded against a chunk that is no longer there. Damage only where a snapshot
    /// reaches one: a prune may take the base of a chunk that nobody needs before the chunk.
    unbased: HashSet<ChunkId>,
    /// Which packs have chunks that are encoded against chunks of others.
    leanings: Leanings,
    /// The chunks that others are encoded against.
    bases: Sieve,
    /// The published segments that the store has: what a client without a local cache would know.
    pub(super) index: Index,
    /// Segments that can't be read: chunks that no other segment lists were in these.
    pub(super) lost_segments: Vec<SegmentRecord>,
    /// Segments of which nothing can be told: the same chunks may be in these.
    unread_segments: Vec<SegmentRecord>,
    /// Sessions whose key is lost: nothing in their packs can be read.
    pub(super) lost_sessions: HashSet<SessionId>,
}

/// Reads the log anew, from the store and with all signatures, and looks at the marker and the key slots. Gives the
/// snapshots to check, and the slots that were not there, for [`check_missing_slots`].
pub(super) fn check_log(check: &Check<'_>) -> Result<(Vec<Snapshot>, Vec<SlotId>)> {
    let repository = check.repository;
    if let Err(error) = repository.refresh() {
        vital(check, &log_object(repository.log_entries()), error)?;
    }
    let known = repository.log_entries();
    match Log::open(repository.store(), repository.id(), repository.keys(), Cache::new(None, &repository.id())) {
        Ok(log) if log.state().next < known => {
            check.findings.vital(&log_object(log.state().next), "it is missing, but was seen before");
        }
        Ok(log) => check_log_end(check, log.state().next)?,
        Err(error) => vital(check, &log_object(0), error)?,
    }
    match read_object(repository.store(), MARKER, MARKER_BYTES_MAX) {
        Ok(marker) if repository.log().state().marker == Some(object_hash(&marker)) => {}
        Ok(_) => check.findings.vital(MARKER, "it was changed after init"),
        Err(error) => vital(check, MARKER, error)?,
    }
    let missing = check_slots(check)?;
    Ok((repository.snapshots(), missing))
}

/// A log ends at the first number that is not there; a later one in the listing tells a hole from an end.
fn check_log_end(check: &Check<'_>, next: u64) -> Result<()> {
    let mut beyond = false;
    check.repository.store().list(LOG, &mut |info| {
        beyond |= parse_log(&info.name).is_some_and(|number| number > next);
    })?;
    // Why looked at again: somebody may have appended several entries between the two looks.
    if beyond && matches!(check.repository.store().head(&log_object(next)), Err(StoreError::Missing(_))) {
        check.findings.vital(&log_object(next), "it is missing, but later entries exist");
    }
    Ok(())
}

/// Members who may sign, by the slots that the log names for them.
fn named_slots(state: &State) -> BTreeMap<SlotId, &MemberRecord> {
    let members = state.members.values().filter(|member| member.revoked.is_none());
    members.filter_map(|member| Some((member.record.slot?, &member.record))).collect()
}

/// Gives the slots that the log names and the store does not have.
fn check_slots(check: &Check<'_>) -> Result<Vec<SlotId>> {
    let (store, state) = (check.repository.store(), check.repository.state());
    let (named, mut missing) = (named_slots(&state), Vec::new());
    let mut slots: BTreeSet<SlotId> = named.keys().copied().collect();
    store.list(SLOTS, &mut |info| slots.extend(parse_slot(&info.name)))?;
    for id in slots {
        let (object, member) = (slot_object(&id), named.get(&id));
        match read_object(store, &object, SLOT_BYTES_MAX) {
            Ok(bytes) => {
                if let Err(damaged) = slot::describe(&bytes, &id) {
                    check.findings.object(&object, format!("this key opens nothing any more: {}", damaged.why));
                } else if let Some(member) =
                    member.filter(|it| it.slot_hash.is_some_and(|it| it != object_hash(&bytes)))
                {
                    let what =
                        format!("it is not the slot that the log names: the key {} may open nothing", member.label);
                    check.findings.object(&object, what);
                }
            }
            // Where the log does not name it, somebody deleted this way in meanwhile.
            Err(Error::Store(StoreError::Missing(_))) => missing.extend(member.map(|_| id)),
            Err(Error::Damaged(damaged)) => {
                check.findings.object(&object, format!("this key opens nothing any more: {}", damaged.why));
            }
            Err(error) => check.undecided(&object, &error),
        }
    }
    Ok(missing)
}

/// Looks again at slots that were not there, much later: a key that was added at that moment has its slot by now, and one
/// that was removed is named no more. Why a problem and no damage: a `key add` that was interrupted leaves the same.
pub(super) fn check_missing_slots(check: &Check<'_>, missing: &[SlotId]) -> Result<()> {
    if missing.is_empty() || check.repository.refresh().is_err() {
        // What is wrong with the log was told before.
        return Ok(());
    }
    let state = check.repository.state();
    for (id, member) in named_slots(&state).into_iter().filter(|(id, _)| missing.contains(id)) {
        let object = slot_object(&id);
        match check.repository.store().head(&object) {
            Ok(_) => {}
            Err(StoreError::Missing(_)) => {
                let label = &member.label;
                let what =
                    format!("it is missing: nobody can use the key {label} (`key remove` takes it out of the list)");
                check.monitor.problem(Problem { subject: object, what, code: "missing" });
            }
            Err(error) => check.undecided(&object, &error.into()),
        }
    }
    Ok(())
}

fn vital(check: &Check<'_>, object: &str, error: Error) -> Result<()> {
    if matches!(error, Error::Interrupted) {
        return Err(error);
    }
    if !tells_damage(&error) {
        check.undecided(object, &error);
        return Ok(());
    }
    let (named, what) = describe(&error);
    check.findings.vital(named.as_deref().unwrap_or(object), what);
    Ok(())
}

impl Structure {
    /// Checks segments, session keys and packs' presence.
    pub(super) fn check(check: &Check<'_>) -> Result<Self> {
        check.repository.prove_index();
        let mut structure = Self {
            packs: BTreeMap::new(),
            chunks: 0,
            segments: 0,
            orphans: 0,
            condemned: (0, 0),
            state: check.repository.state(),
            unbased: HashSet::new(),
            leanings: Leanings::default(),
            bases: Sieve::new(0),
            index: Index::default(),
            lost_segments: Vec::new(),
            unread_segments: Vec::new(),
            lost_sessions: HashSet::new(),
        };
        let state = Arc::clone(&structure.state);
        for record in &state.segments {
            check.go_on()?;
            structure.segments += 1;
            if let Err(error) = structure.check_segment(check, record) {
                structure.leave_out(check, record, &error);
            }
        }
        for segment in check.repository.index().segments() {
            // Why by hash: a member may have given another one the same name.
            let is_left_out = |records: &[SegmentRecord]| records.iter().any(|it| it.hash == segment.record().hash);
            if !is_left_out(&structure.lost_segments) && !is_left_out(&structure.unread_segments) {
                structure.index.push(Arc::clone(segment));
            }
        }
        structure
            .index
            .use_directories(check.repository.index().directories().map(|(directory, _)| Arc::clone(directory)));
        structure.leave_condemned();
        structure.check_bases(check)?;
        if check.options.read != Read::Nothing {
            structure.count_places(check)?;
        }
        structure.check_sessions(check);
        structure.find_packs(check, &state.segments)?;
        Ok(structure)
    }

    fn leave_out(&mut self, check: &Check<'_>, record: &SegmentRecord, error: &Error) {
        let object = record.name.object();
        if tells_damage(error) {
            check.findings.object(&object, describe(error).1);
            self.lost_segments.push(record.clone());
        } else {
            check.undecided(&object, error);
            self.unread_segments.push(record.clone());
        }
    }

    /// True if the index has every published segment.
    pub(super) fn is_complete(&self) -> bool {
        self.lost_segments.is_empty() && self.unread_segments.is_empty()
    }

    fn check_segment(&mut self, check: &Check<'_>, record: &SegmentRecord) -> Result<()> {
        let object = record.name.object();
        let damaged = |why: &str| Error::from(Damaged::new(object.as_str(), 0, why));
        let sealed = read_segment(check.repository.store(), record)?;
        let plain = envelope::open(&check.repository.keys().index_key, &object, &sealed)?;
        drop(sealed);
        let view = SegmentView::parse(&plain)?;
        view.check()?;
        if count(view.len()) != record.records {
            return Err(damaged("it has not as many records as the log says"));
        }
        self.chunks += record.records;
        for number in 0..view.len() {
            if let Some((_, location)) = view.record(number) {
                self.note(&location);
            }
        }
        for pack in view.packs() {
            if let Some(facts) = self.packs.get_mut(&pack) {
                facts.segments += 1;
            }
        }
        Ok(())
    }

    fn note(&mut self, location: &Location) {
        let facts = self.packs.entry(location.pack).or_insert(PackFacts {
            kind: location.kind,
            records: 0,
            places: 0,
            segments: 0,
            end: 0,
            length: None,
        });
        facts.records += 1;
        let end = u64::from(location.offset) + BLOB_HEADER_BYTES + u64::from(location.sealed_len);
        facts.end = facts.end.max(end);
    }

    /// Condemned packs are not looked at any more: they may go at any time.
    fn leave_condemned(&mut self) {
        let standing = &self.state.standing;
        let (before, named) = (self.packs.len(), |pack: &PackName| standing.condemned.contains_key(pack));
        self.packs.retain(|pack, _| !named(pack));
        self.condemned = (count(before - self.packs.len()), count(standing.deleted.len()));
    }

    /// What the log said of packs when the check began.
    pub(super) fn standing(&self) -> &Standing {
        &self.state.standing
    }

    fn stays(&self, location: &Location) -> bool {
        !self.state.standing.condemned.contains_key(&location.pack)
    }

    /// True if a copy without a base is there of this chunk.
    pub(super) fn has_alone(&self, base: &ChunkId) -> bool {
        self.pack_alone(base).is_some()
    }

    /// The pack that has a copy of this chunk without a base.
    fn pack_alone(&self, base: &ChunkId) -> Option<PackName> {
        let mut copies = self.index.copies(base).map(|copy| copy.location);
        copies.find(|location| location.base.is_none() && self.stays(location)).map(|location| location.pack)
    }

    /// True if a chunk is encoded against this one; seldom true where none is.
    pub(super) fn may_be_base(&self, id: &ChunkId) -> bool {
        self.bases.may_have(id)
    }

    /// The same packs in the order of their bases.
    pub(super) fn by_bases(&self, packs: &[(PackName, PackFacts)]) -> Vec<(PackName, PackFacts)> {
        let names: Vec<PackName> = packs.iter().map(|(name, _)| *name).collect();
        self.leanings.order(&names).into_iter().map(|at| packs[at]).collect()
    }

    /// Where a chunk lies that a snapshot reaches: in a pack that is not condemned, with its base, if it has one. In a session
    /// whose key is lost only where it lies nowhere else.
    pub(super) fn find(&self, id: &ChunkId) -> Option<Location> {
        if self.unbased.contains(id) {
            return None;
        }
        let mut copies = self.index.copies(id).map(|copy| copy.location).filter(|location| self.stays(location));
        let first = copies.next()?;
        let is_lost = |location: &Location| self.lost_sessions.contains(&location.pack.session);
        if is_lost(&first) { copies.find(|other| !is_lost(other)).or(Some(first)) } else { Some(first) }
    }

    /// Of every base a copy must be there that has no base itself.
    fn check_bases(&mut self, check: &Check<'_>) -> Result<()> {
        let whole =
            |location: &Location| self.stays(location) && location.base.is_none_or(|base| self.has_alone(&base));
        let (mut unbased, mut leanings, mut bases) = (HashSet::new(), Leanings::default(), Sieve::new(self.chunks));
        for segment in self.index.segments() {
            check.go_on()?;
            for (_, id, location) in segment.records() {
                let Some(base) = location.base else { continue };
                bases.add(&base);
                let lead = self.pack_alone(&base);
                if let Some(lead) = lead {
                    leanings.add(location.pack, lead);
                }
                if (lead.is_none() || !self.stays(&location))
                    && !self.index.copies(&id).any(|copy| whole(&copy.location))
                {
                    unbased.insert(id);
                }
            }
        }
        (self.unbased, self.leanings, self.bases) = (unbased, leanings, bases);
        Ok(())
    }

    /// Counts what the index says of each pack, what several segments say alike once: so many blobs the pack's footer must
    /// have. Holds nothing but the numbers.
    fn count_places(&mut self, check: &Check<'_>) -> Result<()> {
        let mut packs = std::mem::take(&mut self.packs);
        for (segment, records) in self.index.segments().iter().enumerate() {
            check.go_on()?;
            for (record, id, location) in records.records() {
                let Some(facts) = packs.get_mut(&location.pack) else { continue };
                let is_first = || {
                    let alike = self.index.copies(&id).find(|copy| copy.location == location);
                    alike.is_some_and(|copy| (copy.segment, copy.record) == (segment, record))
                };
                facts.places += u64::from(facts.segments < 2 || is_first());
            }
        }
        self.packs = packs;
        Ok(())
    }

    /// Opens the key of every session that wrote a pack.
    fn check_sessions(&mut self, check: &Check<'_>) {
        let sessions: BTreeSet<SessionId> = self.packs.keys().map(|pack| pack.session).collect();
        for id in sessions {
            if let Err(error) = open_session(check, &id) {
                let object = session_object(&id, check.repository.state().generation());
                let (named, what) = describe(&error);
                // Why the name: reading the log's new entries may have failed on the way.
                let is_own = named.and_then(|named| parse_session(&named)).is_some_and(|(session, _)| session == id);
                if !tells_damage(&error) || !is_own {
                    check.undecided(&object, &error);
                    continue;
                }
                check.findings.object(&object, what);
                // Why: with a key from memory this process alone could still read what is lost to everybody else.
                check.repository.forget_session_key(&id);
                self.lost_sessions.insert(id);
            }
        }
    }

    /// Asks the store for the length of every pack, and counts what no commit published.
    fn find_packs(&mut self, check: &Check<'_>, segments: &[SegmentRecord]) -> Result<()> {
        let store = check.repository.store();
        let mut orphans = 0;
        store.list(PACKS, &mut |info| {
            let Some(pack) = PackName::parse(&info.name) else { return };
            match self.packs.get_mut(&pack) {
                Some(facts) => facts.length = Some(info.length),
                None => orphans += u64::from(!self.state.standing.condemned.contains_key(&pack)),
            }
        })?;
        let published: HashSet<SegmentName> = segments.iter().map(|record| record.name).collect();
        store.list(SEGMENTS, &mut |info| {
            let known = SegmentName::parse(&info.name).is_some_and(|name| published.contains(&name));
            orphans += u64::from(!known);
        })?;
        self.orphans = orphans;
        if orphans > 0 && self.is_complete() {
            check.monitor.note(&format!(
                "{orphans} packs and segments belong to no snapshot: other runs are writing them, or left them"
            ));
        }
        // A listing is only a hint: what it does not show is asked for by name.
        for (pack, facts) in self.packs.iter_mut().filter(|(_, facts)| facts.length.is_none()) {
            match store.head(&pack.object()) {
                Ok(info) => facts.length = Some(info.length),
                Err(error) => check.suspect(*pack, &error.into()),
            }
        }
        Ok(())
    }

    /// The packs to read back, in order of names, which is the order of writing.
    pub(super) fn choose(&self, read: &Read) -> Vec<(PackName, PackFacts)> {
        let present =
            || self.packs.iter().filter(|(_, facts)| facts.length.is_some()).map(|(name, facts)| (*name, *facts));
        match read {
            Read::Nothing => Vec::new(),
            Read::All => present().collect(),
            Read::Packs(wanted) => {
                let wanted: HashSet<&PackName> = wanted.iter().collect();
                present().filter(|(name, _)| wanted.contains(name)).collect()
            }
            Read::Sample(share) => sample(present().collect(), *share),
        }
    }

    /// Reads the trailer of every pack that will not be read whole.
    pub(super) fn check_trailers(&self, check: &Check<'_>, chosen: &[(PackName, PackFacts)]) -> Result<()> {
        let chosen: HashSet<PackName> = chosen.iter().map(|(name, _)| *name).collect();
        let others: Vec<(PackName, PackFacts, u64)> = self
            .packs
            .iter()
            .filter(|(name, _)| !chosen.contains(name))
            .filter_map(|(name, facts)| Some((*name, *facts, facts.length?)))
            .collect();
        spread(
            check.threads(),
            &others,
            || (),
            |(), (name, facts, length)| {
                check.go_on()?;
                if let Err(error) = read_trailer(check, name, facts, *length) {
                    check.suspect(*name, &error);
                }
                Ok(())
            },
        )
    }

    /// A chunk that a snapshot refers to is in no segment that could be read.
    pub(super) fn unlisted(&self, check: &Check<'_>, id: ChunkId) {
        // Why not damage: what could not be read may list it. That it could not is told already.
        if !self.unread_segments.is_empty() {
            return;
        }
        if self.unbased.contains(&id) && self.lost_segments.is_empty() {
            check.findings.chunk(
                "index",
                "chunks that snapshots refer to lack the chunk that they are encoded against",
                id,
            );
            return;
        }
        if self.lost_segments.is_empty() {
            check.findings.chunk("index", "chunks that snapshots refer to are in no published segment", id);
        }
        for segment in &self.lost_segments {
            let object = segment.name.object();
            check.findings.chunk(&object, "chunks that snapshots refer to are listed nowhere else", id);
        }
    }
}

/// Opens a session's key; where this key can't, it is only looked for.
fn open_session(check: &Check<'_>, id: &SessionId) -> Result<()> {
    if check.repository.can_read_data() {
        return read_session_key(check.repository, id).map(drop);
    }
    if has_session_key(check.repository, id)? {
        return Ok(());
    }
    let object = session_object(id, check.repository.state().generation());
    Err(Damaged::new(object, 0, "the session's key is missing").into())
}

/// The checks that the last 64 bytes allow.
fn read_trailer(check: &Check<'_>, name: &PackName, facts: &PackFacts, length: u64) -> Result<()> {
    let start = length.saturating_sub(count(TRAILER_BYTES));
    let tail = check.repository.get_pack(name, start..length)?;
    let trailer = decode_trailer(name, length, &tail)?;
    if facts.end > u64::from(trailer.footer_offset) {
        // Why not damage of the pack: a segment may tell a place that never was one of its blobs'.
        check.findings.try_each(*name);
    }
    Ok(())
}

/// Packs chosen at random until they make up `share` of the bytes.
fn sample(mut packs: Vec<(PackName, PackFacts)>, share: f64) -> Vec<(PackName, PackFacts)> {
    let length = |facts: &PackFacts| facts.length.unwrap_or(0);
    let total: u64 = packs.iter().map(|(_, facts)| length(facts)).sum();
    // Precision: a share of bytes needs no more than the 53 bits of a float.
    let wanted = (total as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
    let mut chosen = Vec::new();
    let mut bytes = 0;
    while bytes < wanted && !packs.is_empty() {
        // Bias: below 2^-32 for any number of packs that a repository can have.
        let place = u64::from_le_bytes(random()) % count(packs.len());
        let pack = packs.swap_remove(usize::try_from(place).expect("smaller than a length"));
        bytes += length(&pack.1);
        chosen.push(pack);
    }
    chosen.sort_unstable_by_key(|(name, _)| *name);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(lengths: &[u64]) -> Vec<(PackName, PackFacts)> {
        let pack = |(counter, length): (u64, &u64)| {
            let facts =
                PackFacts { kind: BlobKind::Data, records: 1, places: 1, segments: 1, end: 64, length: Some(*length) };
            (PackName { session: SessionId([7; 16]), counter }, facts)
        };
        (0..).zip(lengths).map(pack).collect()
    }

    #[test]
    fn a_sample_has_its_share_of_bytes_and_is_not_always_the_same() {
        let lengths: Vec<u64> = (1..=100).map(|number| number * 1000).collect();
        let total: u64 = lengths.iter().sum();
        let mut seen = HashSet::new();
        for _ in 0..20 {
            let chosen = sample(packs(&lengths), 0.05);
            let bytes: u64 = chosen.iter().filter_map(|(_, facts)| facts.length).sum();
            assert!(bytes >= total / 20, "{bytes} of {total}");
            assert!(bytes < total / 20 + 100_000, "no more than one pack too many: {bytes} of {total}");
            assert!(chosen.is_sorted_by(|left, right| left.0 < right.0));
            seen.insert(chosen.iter().map(|(name, _)| name.counter).collect::<Vec<_>>());
        }
        assert!(seen.len() > 10, "{seen:?}");
    }

    #[test]
    fn the_ends_of_the_scale() {
        assert!(sample(packs(&[1, 2, 3]), 0.0).is_empty());
        assert_eq!(sample(packs(&[1, 2, 3]), 1.0).len(), 3);
        assert_eq!(sample(packs(&[1, 2, 3]), 7.0).len(), 3);
        assert_eq!(sample(packs(&[1 << 40]), 0.001).len(), 1);
        assert!(sample(Vec::new(), 0.5).is_empty());
    }
}
