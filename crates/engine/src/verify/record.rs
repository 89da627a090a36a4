//! What the log is told of a check: packs that are lost, single blobs that are damaged, packs that are whole again.
//!
//! An AUDIT entry is what makes the next backup store a chunk again instead of leaning on a copy that can't be read (rule
//! W1). What the stages found is looked at once more, copy by copy: the one that is damaged is named, not the one that is
//! encoded against it, and none that could not be read for another reason. Only what the log does not say yet is told, or
//! what only members said, which counts for less.
//!
//! What earlier checks found is looked at again by every check, whatever data it reads otherwise, so that damage is not
//! forgotten because nobody happened to read it.
//!
//! Invariant: an entry is bounded; a pack with many damaged blobs counts as lost. That costs space, as sound blobs of it
//! are stored again too, and no data: readers try what is called lost when nothing better is there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering;

use super::structure::Structure;
use super::{Check, Read, VerifyReport};
use crate::error::{Error, Result};
use crate::format::log::{Act, BlobDamage};
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::format::slot::Role;
use crate::ids::ChunkId;
use crate::monitor::Problem;
use crate::repo::BlobReader;
use crate::rules::Standing;

/// With more damaged blobs than this, a pack counts as lost.
const BLOBS_A_PACK_MAX: usize = 1_000;
/// An entry names so many packs and blobs at most, together: 0.6 MB.
const ITEMS_MAX: usize = 10_000;

/// What the log is to be told.
#[derive(Debug, Default)]
pub(super) struct Record {
    lost: BTreeSet<PackName>,
    damaged: BTreeSet<(PackName, ChunkId)>,
    sound: BTreeSet<PackName>,
}

/// One thing that an entry names.
enum Item {
    Lost(PackName),
    Damaged(PackName, ChunkId),
    Sound(PackName),
}

/// Has what earlier checks found looked at again; packs that were called lost unless they were read already.
pub(super) fn recall(check: &Check<'_>, structure: &Structure) {
    let standing = structure.standing();
    for (pack, damage) in standing.damage.iter().chain(&standing.claims) {
        let is_known = structure.packs.contains_key(pack) && !structure.lost_sessions.contains(&pack.session);
        if !is_known {
            continue;
        }
        if damage.lost && !check.findings.is_whole(pack) {
            check.findings.recall(*pack);
        }
        // Why also of a whole pack: it may be that a segment tells a false place in it.
        damage.chunks.iter().for_each(|chunk| check.findings.doubt(*pack, *chunk));
    }
}

impl Record {
    /// What was found and the log does not say yet.
    pub(super) fn gather(check: &Check<'_>, structure: &Structure) -> Result<Self> {
        let standing = structure.standing();
        let mut record = Self::default();
        let in_lost_session = |pack: &&PackName| structure.lost_sessions.contains(&pack.session);
        record.lost.extend(structure.packs.keys().filter(in_lost_session));
        record.lost.extend(check.findings.torn());
        record.find_blobs(check, structure)?;
        // Why: where all blobs are as they must be, it is the frame around them that is damaged.
        let is_frame = |pack: &PackName| !record.damaged.iter().any(|(damaged, _)| damaged == pack);
        let frames: Vec<PackName> = check.findings.all_stained().into_iter().filter(is_frame).collect();
        record.lost.extend(frames);
        record.lose_packs(structure);
        let whole = |pack: &&PackName| {
            let object = pack.object();
            check.findings.is_whole(pack) && !check.findings.has(&object) && !check.findings.is_undecided(&object)
        };
        if structure.is_complete() {
            record.sound.extend(standing.damage.keys().chain(standing.claims.keys()).filter(whole));
        }
        record.drop_known(standing, check.repository.role());
        Ok(record)
    }

    /// Packs whose parity makes everything good are not told of: nothing of them is lost.
    pub(super) fn spare(&mut self, mended: &BTreeSet<PackName>) {
        self.lost.retain(|pack| !mended.contains(pack));
        self.damaged.retain(|(pack, _)| !mended.contains(pack));
    }

    /// Tries every copy of every chunk that was found damaged, and of the bases without which it can't be read.
    fn find_blobs(&mut self, check: &Check<'_>, structure: &Structure) -> Result<()> {
        let index = check.repository.index();
        let mut reader = check.repository.blob_reader();
        let mut waiting = check.findings.chunks_in_packs();
        let mut seen = HashSet::new();
        while let Some(id) = waiting.pop() {
            if !seen.insert(id) {
                continue;
            }
            let mut whole = BTreeSet::new();
            for location in index.copies(&id).map(|found| found.location) {
                check.go_on()?;
                if !structure.packs.contains_key(&location.pack) || self.lost.contains(&location.pack) {
                    continue;
                }
                match judge(check, &mut reader, &id, &location) {
                    Verdict::Whole => drop(whole.insert(location.pack)),
                    Verdict::Damaged => drop(self.damaged.insert((location.pack, id))),
                    Verdict::LacksBase(base) => waiting.push(base),
                    Verdict::Undecided(error) => check.undecided(&location.pack.object(), &error),
                }
            }
            // Why: a segment may tell a wrong place in a pack that has the chunk elsewhere.
            self.damaged.retain(|(pack, chunk)| *chunk != id || !whole.contains(pack));
        }
        Ok(())
    }

    /// Packs of which all or very many blobs are damaged are lost.
    fn lose_packs(&mut self, structure: &Structure) {
        let mut blobs: BTreeMap<PackName, usize> = BTreeMap::new();
        for (pack, _) in &self.damaged {
            *blobs.entry(*pack).or_default() += 1;
        }
        let is_all = |pack: &PackName, blobs: usize| {
            structure.packs.get(pack).is_some_and(|facts| super::count(blobs) >= facts.records)
        };
        let lost = blobs.into_iter().filter(|(pack, blobs)| *blobs > BLOBS_A_PACK_MAX || is_all(pack, *blobs));
        self.lost.extend(lost.map(|(pack, _)| pack));
        self.damaged.retain(|(pack, _)| !self.lost.contains(pack));
    }

    fn drop_known(&mut self, standing: &Standing, role: Role) {
        let said = |pack: &PackName| {
            let claim = standing.claims.get(pack).filter(|_| role == Role::Member);
            standing.damage.get(pack).into_iter().chain(claim)
        };
        self.damaged.retain(|(pack, id)| !said(pack).any(|known| known.lost || known.chunks.contains(id)));
        self.lost.retain(|pack| !said(pack).any(|known| known.lost));
    }

    /// True if there is something new about this pack.
    pub(super) fn names(&self, pack: &PackName) -> bool {
        self.lost.contains(pack) || self.damaged.iter().any(|(damaged, _)| damaged == pack)
    }

    fn items(&self) -> Vec<Item> {
        let lost = self.lost.iter().map(|pack| Item::Lost(*pack));
        let damaged = self.damaged.iter().map(|(pack, id)| Item::Damaged(*pack, *id));
        lost.chain(damaged).chain(self.sound.iter().map(|pack| Item::Sound(*pack))).collect()
    }

    /// Appends what is new, and that all data was read and found whole. Where that can't be written, it is a problem only
    /// if somebody would have to know.
    pub(super) fn tell(&self, check: &Check<'_>, report: &mut VerifyReport) {
        let is_clean = report.damage.is_empty() && report.mended.is_empty() && report.harmless.is_empty();
        let is_proof = check.options.read == Read::All && is_clean && check.findings.undecided_count() == 0;
        let items = self.items();
        if items.is_empty() && !is_proof {
            return;
        }
        match append(check, &items) {
            Ok(entries) => report.entries_appended = entries,
            Err(error) if items.is_empty() => {
                check.monitor.note(&format!("that all data was found whole could not be recorded in the log: {error}"));
            }
            Err(error) => check.monitor.problem(Problem {
                subject: "log".into(),
                what: format!("what was found could not be recorded, so later backups do not mend it: {error}"),
                code: "damaged",
            }),
        }
    }
}

/// Appends `items`, or one empty entry; gives the number of entries.
fn append(check: &Check<'_>, items: &[Item]) -> Result<u64> {
    let depth = match check.options.read {
        Read::Nothing => 0,
        Read::Sample(_) | Read::Packs(_) => 1,
        Read::All => 2,
    };
    let mut bytes = check.bytes_read.load(Ordering::Relaxed);
    let batches = items.len().div_ceil(ITEMS_MAX).max(1);
    for batch in 0..batches {
        let items = &items[batch * ITEMS_MAX..items.len().min((batch + 1) * ITEMS_MAX)];
        check.repository.append(&mut |state| Ok(audit(items, depth, bytes, &state.standing)))?;
        bytes = 0;
    }
    Ok(super::count(batches))
}

/// The entry. Packs that were condemned meanwhile are left out: nobody needs them, and soon nobody lists them.
fn audit(items: &[Item], depth: u8, bytes: u64, standing: &Standing) -> Act {
    let (mut lost, mut damaged, mut sound) = (Vec::new(), Vec::new(), Vec::new());
    let stays = |pack: &PackName| !standing.condemned.contains_key(pack);
    for item in items {
        match item {
            Item::Lost(pack) if stays(pack) => lost.push(*pack),
            Item::Damaged(pack, chunk) if stays(pack) => damaged.push(BlobDamage { pack: *pack, chunk: *chunk }),
            Item::Sound(pack) => sound.push(*pack),
            Item::Lost(_) | Item::Damaged(..) => {}
        }
    }
    Act::Audit { depth, bytes, lost, damaged, sound }
}

/// What one look at one copy tells.
enum Verdict {
    Whole,
    Damaged,
    /// Of the base, no copy can be read.
    LacksBase(ChunkId),
    Undecided(Error),
}

fn judge(check: &Check<'_>, reader: &mut BlobReader<'_>, id: &ChunkId, location: &Location) -> Verdict {
    let mut plain = Vec::new();
    let read = check.repository.fetch(location).and_then(|mut blob| reader.decode(id, location, &mut blob, &mut plain));
    let Err(error) = read else { return Verdict::Whole };
    if let Some(base) = location.base.filter(|base| reader.base(base).is_err()) {
        return Verdict::LacksBase(base);
    }
    match error {
        Error::Damaged(damaged) if damaged.object == location.pack.object() => Verdict::Damaged,
        other => Verdict::Undecided(other),
    }
}
