//! Bases that are kept for their dependants alone: these are stored anew, so that the base goes.
//!
//! A run of checkpoints is a star: one base, and differences to it. When retention drops the snapshot that held the base and
//! leaves few of its dependants, the base costs more than it saves. The middle one of them (by size, so about by age) is then
//! stored alone, and the others as differences to it. That pays where it saves [`GAIN`] of the star, by the bodies as they
//! came out, not by a guess.
//!
//! What is stored anew is published by an entry that condemns nothing (rule G1 of docs/concurrency.md): of two copies the
//! collector keeps the one without a base, so the next judgement needs the old base no more. A run that is killed before
//! leaves packs that nobody lists; one that is killed behind it leaves both copies, and the next run chooses.
//!
//! Invariants: nothing is stored that was not decoded and compared with its id; a new base and its dependants are published
//! by one entry; memory is bounded by [`STARS_MAX`] and a star's chunks.

use super::stay::blob_bytes;
use super::{Planned, Run};
use crate::codec::{Effort, Encoder, Hint, NumberKind};
use crate::error::{Error, Result};
use crate::format::log::{Act, SegmentRecord};
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::monitor::Progress;
use crate::repo::index::Found;
use crate::repo::marks::Mark;
use crate::repo::merge::Merge;
use crate::repo::{BlobReader, Session};

/// So many bases are looked at together: with their dependants they take about 8 MB.
const STARS_MAX: usize = 16 * 1024;
/// A base with more dependants stays: what it costs is shared by too many.
const DEPENDANTS_MAX: usize = 4;
/// At least this share of what a star takes must be saved.
const GAIN: f64 = 0.2;

/// What chunks of half the base's length are likely to hold.
const BF16: Hint = Hint { width: 2, head: 0, kind: NumberKind::Bf16, row: None };

/// A base that no snapshot reaches, and what is encoded against it.
#[derive(Debug, Clone)]
struct Star {
    base: ChunkId,
    /// Bytes of the base's blob.
    base_bytes: u64,
    /// The dependants, up to one more than [`DEPENDANTS_MAX`].
    dependants: Vec<(ChunkId, Location)>,
}

impl Star {
    /// Bytes of base and dependants.
    fn bytes(&self) -> u64 {
        self.base_bytes + self.dependants.iter().map(|(_, location)| blob_bytes(location)).sum::<u64>()
    }

    /// Which dependant is stored alone: the middle one of those with the most plain bytes. Why those: BF16 numbers may be casts of
    /// FP32 numbers, or differences to these, and not the other way round.
    fn middle(&self) -> Option<usize> {
        let longest = self.dependants.iter().map(|(_, location)| location.plain_len).max()?;
        let long: Vec<usize> =
            (0..self.dependants.len()).filter(|&at| self.dependants[at].1.plain_len == longest).collect();
        long.get(long.len() / 2).copied()
    }

    /// True if storing the dependants anew may save enough: then the middle one takes about what the base takes, and no more
    /// than its plain bytes, which are half of the base's where it is the base's cast.
    fn may_pay(&self, bytes_min: u64) -> bool {
        let Some((_, middle)) = self.middle().map(|at| &self.dependants[at]) else { return false };
        let alone = self.base_bytes.min(u64::from(middle.plain_len));
        let after = self.bytes() - self.base_bytes - blob_bytes(middle) + alone;
        self.dependants.len() <= DEPENDANTS_MAX && self.bytes() >= bytes_min && is_gain(self.bytes(), after)
    }
}

fn is_gain(before: u64, after: u64) -> bool {
    // Precision: a share of bytes needs no more than a float's 53 bits.
    after as f64 <= before as f64 * (1.0 - GAIN)
}

/// Adds to a plan what may be stored anew.
pub(super) fn plan(run: &Run<'_>, planned: &mut Planned) -> Result<()> {
    if !run.options.rebase || run.lone_bases == 0 {
        return Ok(());
    }
    let mut after = None;
    loop {
        let (stars, last) = stars(run, after)?;
        planned.rebased_chunks += stars.iter().map(|star| star.dependants.len() as u64).sum::<u64>();
        planned.rebased_bytes += stars.iter().map(Star::bytes).sum::<u64>();
        after = last;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The stars whose bases come after `after`, as far as [`STARS_MAX`] reaches; and the last base that was looked at, if there
/// are more.
fn stars(run: &Run<'_>, after: Option<ChunkId>) -> Result<(Vec<Star>, Option<ChunkId>)> {
    let marks = &run.marks;
    let index = marks.index();
    let has = |mark, copy: &Found| marks.record_has(mark, copy.segment, copy.record);
    let (mut stars, mut last): (Vec<Star>, _) = (Vec::new(), None);
    let mut merge = Merge::new(index.segments().iter().map(|segment| &**segment))?;
    let mut copies = Vec::new();
    while let Some(id) = merge.next(&mut copies)? {
        let is_needed = |copy: &&Found| has(Mark::Stays, copy) && copy.location.base.is_none();
        if after.is_some_and(|after| id <= after) || copies.iter().any(|copy| has(Mark::Live, copy)) {
            continue;
        }
        if let Some(copy) = copies.iter().find(is_needed) {
            stars.push(Star { base: id, base_bytes: blob_bytes(&copy.location), dependants: Vec::new() });
            if stars.len() == STARS_MAX {
                last = Some(id);
                break;
            }
        }
    }
    if !stars.is_empty() {
        for (number, segment) in index.segments().iter().enumerate() {
            for (record, id, location) in segment.records() {
                let star = location.base.and_then(|base| stars.binary_search_by_key(&base, |star| star.base).ok());
                if let Some(star) = star.filter(|_| marks.record_has(Mark::Stays, number, record))
                    && stars[star].dependants.len() <= DEPENDANTS_MAX
                {
                    stars[star].dependants.push((id, location));
                }
            }
        }
    }
    for star in &mut stars {
        star.dependants.sort_unstable_by_key(|(id, location)| (location.sealed_len, *id));
    }
    stars.retain(|star| star.may_pay(run.options.rebase_bytes_min));
    Ok((stars, last))
}

/// Stores anew what depends on bases that nothing else needs, as far as the limit of bytes reaches; true if anything was.
pub(super) fn rebase(run: &mut Run<'_>, session: &Session<'_>) -> Result<bool> {
    let mut after = None;
    let mut anew = Anew { reader: run.repository.blob_reader(), encoder: Encoder::new(Effort::Balanced) };
    loop {
        let (stars, last) = stars(run, after)?;
        for star in &stars {
            if run.monitor.stopped() {
                return Err(Error::Interrupted);
            }
            let fits = |max| run.report.rebased_bytes.saturating_add(star.bytes()) <= max;
            if run.options.max_rewrite_bytes.is_none_or(fits) {
                anew.store(run, session, star)?;
            }
            run.monitor.progress(Progress {
                bytes_done: run.report.rebased_bytes,
                bytes_known: run.report.planned.rebased_bytes,
                bytes_stored: session.totals().stored_bytes,
                ..Progress::default()
            });
        }
        publish(run, session)?;
        after = last;
        if after.is_none() {
            return Ok(run.report.rebased_chunks > 0);
        }
    }
}

/// A chunk's body as it is stored anew.
struct Body {
    id: ChunkId,
    location: Location,
    bytes: Vec<u8>,
}

struct Anew<'r> {
    reader: BlobReader<'r>,
    encoder: Encoder,
}

impl Anew<'_> {
    /// Stores the chunks of a star, if that saves enough. What can't be read is left to others, who tell of it; what was
    /// forgotten and deleted meanwhile is needed no more.
    fn store(&mut self, run: &mut Run<'_>, session: &Session<'_>, star: &Star) -> Result<()> {
        let bodies = match self.bodies(star) {
            Err(error) if error.is_damage() || matches!(error, Error::NotFound(_)) => return Ok(()),
            bodies => bodies?,
        };
        let length =
            |body: &Body| blob_bytes(&body.location) - u64::from(body.location.sealed_len) + body.bytes.len() as u64;
        let after = bodies.iter().map(length).sum();
        if !is_gain(star.bytes(), after) {
            return Ok(());
        }
        for body in &bodies {
            let plain_bytes = usize::try_from(body.location.plain_len).unwrap_or(usize::MAX);
            session.store_again(body.location.kind, &body.id, plain_bytes, &body.bytes)?;
        }
        run.report.rebased_chunks += bodies.len() as u64;
        run.report.rebased_bytes += after;
        Ok(())
    }

    /// The bodies of a star's dependants, the first of which has no base and is that of the others.
    fn bodies(&mut self, star: &Star) -> Result<Vec<Body>> {
        let mut order: Vec<&(ChunkId, Location)> = star.dependants.iter().collect();
        if let Some(middle) = star.middle() {
            order[..=middle].rotate_right(1);
        }
        let mut base: Option<(ChunkId, Vec<u8>)> = None;
        let mut bodies = Vec::with_capacity(order.len());
        for (id, location) in order {
            let (mut plain, mut bytes) = (Vec::new(), Vec::new());
            self.reader.read(id, &mut plain)?;
            let against = base.as_ref().map(|(id, plain)| (id, plain.as_slice()));
            // Why a hint: numbers of half the base's length are told as its cast, or near it, by what they are.
            let hint = against.filter(|(_, base)| base.len() == 2 * plain.len()).map(|_| BF16);
            self.encoder.encode(&plain, hint.as_ref(), against, &mut bytes);
            bodies.push(Body { id: *id, location: *location, bytes });
            base.get_or_insert((*id, plain));
        }
        Ok(bodies)
    }
}

/// Publishes what was stored.
fn publish(run: &mut Run<'_>, session: &Session<'_>) -> Result<()> {
    session.flush()?;
    let fresh = session.segments();
    if fresh.is_empty() {
        return Ok(());
    }
    let segments: Vec<SegmentRecord> = fresh.iter().map(|segment| segment.record().clone()).collect();
    loop {
        run.look()?;
        session.follow_rotation(&run.state)?;
        let act = Act::Condemn { packs: Vec::new(), session: Some(session.id()), segments: segments.clone() };
        if run.append(act)? {
            session.published();
            // Why: the marks do not know the new copies yet.
            run.judged = 0;
            return Ok(());
        }
    }
}
