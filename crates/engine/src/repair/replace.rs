//! Stores anew what lies in packs that only their parity keeps readable.
//!
//! Every chunk that the index lists there is read, encoded alone and stored in packs of a new session. A REMAP that
//! retires nothing publishes them; then an AUDIT calls the old packs lost, so that nobody leans on them any more, and the
//! next `prune` keeps the new copies and removes the old packs.
//!
//! Safe at every point: the first entry only adds copies, which need no base. The second is put at the number for which was
//! seen that every chunk of the packs that it names has such a copy in a pack that is neither condemned nor damaged: a
//! prune between the two may have condemned the new copies, as there were two. A chunk that can't be read keeps its pack
//! from being named.

use std::collections::BTreeSet;
use std::thread;

use super::{PACK_BYTES, WRITERS};
use crate::codec::{Effort, Encoder};
use crate::error::{Error, Result};
use crate::format::log::{Act, SegmentRecord};
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::format::slot::Role;
use crate::ids::ChunkId;
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::repo::index::Index;
use crate::repo::{Repository, Session};
use crate::rules::State;

/// An AUDIT names so many packs at most.
const PACKS_MAX: usize = 10_000;

/// What [`replace`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplaceReport {
    /// Packs whose chunks are stored anew.
    pub packs: u64,
    /// Those chunks.
    pub chunks: u64,
    /// Bytes written to the store.
    pub bytes_stored: u64,
    /// Packs of which something can't be read any more; they stay as they are.
    pub problems: u64,
}

/// Stores the chunks of these packs anew and tells the log that the packs are lost.
///
/// # Errors
/// [`Error::NotAllowed`] without an owner's key; [`Error::Refused`] where a prune took this run for a crashed one;
/// [`Error::Interrupted`]; when storing or appending fails. Then the packs stay in use.
pub fn replace(repository: &Repository, packs: &[PackName], monitor: &dyn Monitor) -> Result<ReplaceReport> {
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("store damaged packs anew"));
    }
    repository.refuse_after_rollback()?;
    repository.refuse_revoked()?;
    let mut wanted: BTreeSet<PackName> = packs.iter().copied().collect();
    let (state, index) = repository.look()?;
    wanted.retain(|pack| !state.standing.condemned.contains_key(pack));
    let mut found: Vec<(ChunkId, Location)> = Vec::new();
    for view in index.segments().iter().filter_map(|segment| segment.view()) {
        let records = (0..view.len()).filter_map(|number| view.record(number));
        found.extend(records.filter(|(_, location)| wanted.contains(&location.pack)));
    }
    found.sort_unstable_by_key(|(_, location)| (location.pack, location.offset));
    found.dedup_by_key(|(id, location)| (*id, location.pack));
    wanted.retain(|pack| found.iter().any(|(_, location)| location.pack == *pack));
    if wanted.is_empty() {
        return Ok(ReplaceReport::default());
    }
    let asked = wanted.len();
    monitor.phase(Phase::Rewriting);
    let session = Session::collect(repository, PACK_BYTES);
    let (end, ended) = crossbeam_channel::bounded(0);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
        }
        let outcome = store(repository, &session, &found, &mut wanted, monitor);
        drop(end);
        outcome.map_err(|error| session.take_failure().unwrap_or(error))
    })?;
    publish(repository, &session)?;
    found.retain(|(_, location)| wanted.contains(&location.pack));
    let mut replaced = 0;
    for packs in wanted.iter().copied().collect::<Vec<_>>().chunks(PACKS_MAX) {
        replaced += call_lost(repository, packs, &found)?;
    }
    let totals = session.totals();
    Ok(ReplaceReport {
        packs: replaced as u64,
        chunks: totals.chunks,
        bytes_stored: totals.stored_bytes,
        problems: (asked - replaced) as u64,
    })
}

/// Stores the chunks; drops from `wanted` the packs of which one can't be read.
fn store(
    repository: &Repository,
    session: &Session<'_>,
    found: &[(ChunkId, Location)],
    wanted: &mut BTreeSet<PackName>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut reader = repository.blob_reader();
    let (mut encoder, mut plain, mut body) = (Encoder::new(Effort::Balanced), Vec::new(), Vec::new());
    for (id, location) in found {
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        if !wanted.contains(&location.pack) {
            continue;
        }
        match reader.read(id, &mut plain) {
            Ok(()) => {
                encoder.encode(&plain, None, None, &mut body);
                session.store_again(location.kind, id, plain.len(), &body)?;
            }
            Err(Error::Damaged(damaged)) => {
                wanted.remove(&location.pack);
                let what = format!("it stays as it is: {}", damaged.why);
                monitor.problem(Problem { subject: location.pack.object(), what, code: "damaged" });
            }
            Err(error) => return Err(error),
        }
        monitor.progress(Progress { bytes_stored: session.totals().stored_bytes, ..Progress::default() });
    }
    session.flush()
}

/// Publishes what was stored.
fn publish(repository: &Repository, session: &Session<'_>) -> Result<()> {
    loop {
        repository.refresh()?;
        let state = repository.state();
        if state.fenced.contains(&session.id()) {
            return Err(Error::Refused("a prune took this run for a crashed one; run again".into()));
        }
        session.follow_rotation(&state)?;
        let segments: Vec<SegmentRecord> = session.segments().iter().map(|it| it.record().clone()).collect();
        if segments.is_empty() {
            return Ok(());
        }
        let act = Act::Remap { session: Some(session.id()), segments, retired: Vec::new(), gone: Vec::new() };
        if repository.try_append(state.next, act)? {
            session.published();
            return Ok(());
        }
    }
}

/// Tells the log that the packs are lost whose chunks have other copies now; gives how many need no more to be done: those
/// that were condemned meanwhile nobody needs any more.
fn call_lost(repository: &Repository, packs: &[PackName], found: &[(ChunkId, Location)]) -> Result<usize> {
    loop {
        let (state, index) = repository.look()?;
        let is_left = |pack: &PackName| !state.standing.condemned.contains_key(pack);
        let kept: BTreeSet<PackName> = found
            .iter()
            .filter(|(id, location)| !has_other(&state, &index, id, &location.pack))
            .map(|(_, location)| location.pack)
            .collect();
        let lost: Vec<PackName> = packs.iter().filter(|pack| is_left(pack) && !kept.contains(*pack)).copied().collect();
        let done = packs.iter().filter(|pack| !is_left(pack) || !kept.contains(*pack)).count();
        if lost.is_empty() {
            return Ok(done);
        }
        let act = Act::Audit { depth: 1, bytes: 0, lost, damaged: Vec::new(), sound: Vec::new() };
        if repository.try_append(state.next, act)? {
            return Ok(done);
        }
    }
}

/// True if a copy without a base lies in another pack that is neither condemned nor damaged.
fn has_other(state: &State, index: &Index, id: &ChunkId, pack: &PackName) -> bool {
    let standing = &state.standing;
    index.copies(id).map(|copy| copy.location).any(|copy| {
        copy.pack != *pack
            && copy.base.is_none()
            && !standing.condemned.contains_key(&copy.pack)
            && !standing.damage.contains_key(&copy.pack)
    })
}
