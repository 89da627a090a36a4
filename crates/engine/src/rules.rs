//! The rules that make it safe for many writers, collectors and readers to use one repository without a lock, a clock or
//! a LIST (docs/concurrency.md). Each rule is a function here; the verbs, the model of the protocol and its simulation
//! all call these, so that what is checked is what runs.
//!
//! What all rules together keep true at every number of the log: **of each chunk that a live snapshot reaches, and of each
//! base that such a copy needs, there is a copy in a published segment whose pack is not condemned.**
//!
//! Pure: no store, no threads, no clock.

mod state;

pub use state::{DataKey, Forgotten, Member, PackDamage, Snapshot, Standing, State, may};

use crate::format::log::SnapshotRecord;
use crate::format::names::PackName;
use crate::format::slot::Role;
use crate::ids::{ChunkId, MemberId, ObjectHash, SessionId, SnapshotId};
use crate::simulation::{Rule, is_left_out};

/// A copy of a chunk, as a published segment lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Where it lies.
    pub pack: PackName,
    /// What it is encoded against.
    pub base: Option<ChunkId>,
}

/// True if a new snapshot may lean on what lies in this pack: nobody condemned it, and nobody found it lost.
#[must_use]
pub fn is_usable(standing: &Standing, pack: &PackName) -> bool {
    (!standing.condemned.contains_key(pack) || is_left_out(Rule::Usable))
        && !standing.deleted.contains_key(pack)
        && !standing.said_of(pack).any(|damage| damage.lost)
}

/// True if a new snapshot may lean on the copy of `chunk` in this pack.
#[must_use]
pub fn is_sound(standing: &Standing, pack: &PackName, chunk: &ChunkId) -> bool {
    is_usable(standing, pack) && !standing.is_doubted(pack, chunk)
}

/// Rule W1: the copy of `chunk` that a writer may lean on instead of storing the chunk again. A copy with a base counts
/// only while the base has a copy without one; `alone` asks for a copy without a base, to be a base itself.
///
/// Why the base is looked at here: of a chunk that no snapshot needs the collector keeps neither copy nor base, and it may
/// have condemned the base's pack before the chunk's.
pub fn leans_on<'c>(
    standing: &Standing,
    chunk: &ChunkId,
    copies: impl IntoIterator<Item = &'c Copy>,
    alone: bool,
    has_alone: &mut dyn FnMut(&ChunkId) -> bool,
) -> Option<&'c Copy> {
    copies.into_iter().find(|copy| {
        is_sound(standing, &copy.pack, chunk)
            && match &copy.base {
                None => true,
                Some(base) => !alone && has_alone(base),
            }
    })
}

/// What a commit rests on besides the chunks that its writer looked up.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The session that commits.
    pub session: SessionId,
    /// Sessions that it adopted: all others whose packs its segments list, however they came there.
    pub adopted: Vec<SessionId>,
    /// The snapshot from which it took over content without looking up every chunk of it.
    pub parent: Option<SnapshotId>,
    /// Number of entries that the writer had read when it looked chunks up.
    pub since: u64,
}

/// Why a commit can't be written now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// A session's packs may be deleted at any time: what lies there has to be stored again.
    Fenced(SessionId),
    /// A session was published already, by who adopted it. What lay there may have been condemned and deleted since.
    Published(SessionId),
    /// The parent was forgotten: what was taken over from it unseen may have been condemned.
    ParentForgotten(SnapshotId),
    /// Damage was found since: what was taken over from the parent unseen may be lost.
    ParentDamaged(SnapshotId),
}

/// Rule W2, first half: what stands in the way of the commit as such.
#[must_use]
pub fn obstacle(state: &State, draft: &Draft) -> Option<Obstacle> {
    for session in std::iter::once(&draft.session).chain(&draft.adopted) {
        if state.fenced.contains(session) {
            return Some(Obstacle::Fenced(*session));
        }
        if state.finished_sessions.contains(session) {
            return Some(Obstacle::Published(*session));
        }
    }
    let parent = draft.parent.filter(|_| !is_left_out(Rule::ParentIsLive))?;
    if state.snapshot(&parent).is_none() {
        return Some(Obstacle::ParentForgotten(parent));
    }
    state.standing.is_damage_newer(draft.since).then_some(Obstacle::ParentDamaged(parent))
}

/// True if a writer may take over what this snapshot reaches without looking at every chunk: no damage was found since it
/// was committed. What was known to be damaged then, its own writer did not lean on (rule W2).
#[must_use]
pub fn may_rest_on(state: &State, parent: &SnapshotId) -> bool {
    state.snapshot(parent).is_some_and(|parent| !state.standing.is_damage_newer(parent.number))
}

/// True if a writer that is `own` may take over what this snapshot says of files, instead of reading them: `own` signed it, or
/// an owner did, and that member was not removed since. Anybody who may add can commit a snapshot in any host's name, and only
/// a look at the files tells whether it is true. What a repair made is signed by the owner who ran it, whoever made the
/// snapshot before, so of that nothing is taken over either.
#[must_use]
pub fn may_take_over(state: &State, own: &MemberId, snapshot: &Snapshot) -> bool {
    let signer = state.active(&snapshot.member);
    signer.is_some_and(|signer| signer.id == *own || signer.role == Role::Owner) && !is_repaired(&snapshot.record)
}

/// Label of a repaired snapshot: the id of the one that it stands for.
pub const REPAIRED_FROM: &str = "repaired-from";

/// True if a repair made this snapshot from another.
#[must_use]
pub fn is_repaired(record: &SnapshotRecord) -> bool {
    record.labels.iter().any(|(label, _)| label == REPAIRED_FROM)
}

/// Rule W2, second half: whether a writer that had read `since` entries when it leaned on a record of this segment has to
/// look the chunk up again: the pack was condemned or found damaged since, or the segment retired (then the pack may be
/// gone altogether).
/// A chunk that has no copy to lean on any more is stored again before the commit.
#[must_use]
pub fn is_doubtful(state: &State, since: u64, segment: &ObjectHash, pack: &PackName) -> bool {
    if is_left_out(Rule::LookAgain) {
        return false;
    }
    !state.is_published(segment)
        || state.standing.condemned.get(pack).is_some_and(|number| *number >= since)
        || state.standing.said_of(pack).any(|damage| damage.number >= since)
}

/// What is left of the base that a copy needs: the best of its copies without a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BaseLeft {
    /// None.
    Nothing,
    /// One that an audit found damaged.
    Damaged,
    /// One of which no harm is known.
    Sound,
}

/// A copy that is chosen, and whether it can be read as far as anybody knows, its base too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen<'c> {
    /// The copy.
    pub copy: &'c Copy,
    /// No audit that counts found it damaged, or its base.
    pub is_sound: bool,
}

/// Rule G1: the copy of a live chunk that stays when the packs for which `leaves` is true are condemned. Sound copies come
/// first, then those without base, as only they can be a base, and of these the last of `copies`, which are those of the
/// newest publication first; of those with a base the first, as the collector puts first whose base is needed anyway. `alone`
/// accepts no copy with a base. A copy with a base counts only where something of the base is left, and is sound only where
/// that is (`base_left`).
///
/// Why: a chunk that no snapshot needed may have outlived its base in a pack that nobody condemned. When somebody stores
/// the chunk again, that old copy must not be taken for the one that stays.
pub fn stays<'c>(
    standing: &Standing,
    chunk: &ChunkId,
    copies: &'c [Copy],
    alone: bool,
    leaves: &dyn Fn(&PackName) -> bool,
    base_left: &dyn Fn(&ChunkId) -> BaseLeft,
) -> Option<Chosen<'c>> {
    let is_there = |copy: &Copy| {
        (!leaves(&copy.pack) || is_left_out(Rule::WhatStays)) && !standing.condemned.contains_key(&copy.pack)
    };
    best(standing, chunk, copies, alone, &is_there, base_left, &|_| 0)
}

/// Rule G1: what stays of a base, without the packs for which `leaves` is true.
#[must_use]
pub fn base_left(standing: &Standing, base: &ChunkId, copies: &[Copy], leaves: &dyn Fn(&PackName) -> bool) -> BaseLeft {
    left(stays(standing, base, copies, true, leaves, &|_| BaseLeft::Nothing))
}

/// What a collector makes of a chunk that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept<'c> {
    /// This sound copy stays.
    Stays(&'c Copy),
    /// This sound copy is in a pack that was to leave, and must not.
    Returns(&'c Copy),
    /// The only sound copy is in a pack that is condemned: it has to be stored again before that is deleted.
    Saved(&'c Copy),
    /// No copy is sound. This one is the best; no pack with any of them may leave.
    Doubtful(Option<&'c Copy>),
}

/// Rule G1: which copy of a needed chunk is kept when the packs for which `leaves` is true are to be condemned. A pack
/// leaves only where a sound copy of all that is needed of it stays. `copies` as in [`stays`]; `copies_of` gives those of a
/// base, the newest publication first.
///
/// Why no damaged copy is given up: what can't be read today may be mended tomorrow, and who found it may have erred.
pub fn keeps<'c>(
    standing: &Standing,
    chunk: &ChunkId,
    copies: &'c [Copy],
    alone: bool,
    leaves: &dyn Fn(&PackName) -> bool,
    copies_of: &dyn Fn(&ChunkId) -> Vec<Copy>,
) -> Kept<'c> {
    let among = |leaves: &dyn Fn(&PackName) -> bool| {
        let of_base = |base: &ChunkId| base_left(standing, base, &copies_of(base), leaves);
        stays(standing, chunk, copies, alone, leaves, &of_base)
    };
    if let Some(Chosen { copy, is_sound: true }) = among(leaves) {
        return Kept::Stays(copy);
    }
    let uncondemned = among(&|_| false);
    if let Some(Chosen { copy, is_sound: true }) = uncondemned {
        return Kept::Returns(copy);
    }
    let is_there = |copy: &Copy| !standing.deleted.contains_key(&copy.pack);
    let of_base = |base: &ChunkId| {
        let copies = copies_of(base);
        left(best(standing, base, &copies, true, &is_there, &|_| BaseLeft::Nothing, &|_| 0))
    };
    match best(standing, chunk, copies, alone, &is_there, &of_base, &|_| 0) {
        Some(Chosen { copy, is_sound: true }) => Kept::Saved(copy),
        best => Kept::Doubtful(uncondemned.or(best).map(|chosen| chosen.copy)),
    }
}

/// What a chosen copy of a base leaves of it.
#[must_use]
pub fn left(chosen: Option<Chosen<'_>>) -> BaseLeft {
    match chosen {
        None => BaseLeft::Nothing,
        Some(chosen) if chosen.is_sound => BaseLeft::Sound,
        Some(_) => BaseLeft::Damaged,
    }
}

/// The best of the copies that are there: sound, then of the least `rank`, then without base, then the last of them, or with a
/// base the first.
fn best<'c>(
    standing: &Standing,
    chunk: &ChunkId,
    copies: &'c [Copy],
    alone: bool,
    is_there: &dyn Fn(&Copy) -> bool,
    base_left: &dyn Fn(&ChunkId) -> BaseLeft,
    rank: &dyn Fn(&Copy) -> u8,
) -> Option<Chosen<'c>> {
    let last_first = copies.iter().enumerate().rev();
    let judged = last_first.filter(|(_, copy)| is_there(copy)).filter_map(|(place, copy)| {
        let base = match &copy.base {
            None => BaseLeft::Sound,
            Some(_) if alone => BaseLeft::Nothing,
            Some(base) => base_left(base),
        };
        let is_sound = base == BaseLeft::Sound && !standing.is_damaged(&copy.pack, chunk);
        (base != BaseLeft::Nothing).then_some((place, Chosen { copy, is_sound }))
    });
    let order = |(place, it): &(usize, Chosen<'_>)| {
        // The first of equals is taken, and the last come first.
        (!it.is_sound, rank(it.copy), it.copy.base.map(|_| *place))
    };
    judged.min_by_key(order).map(|(_, chosen)| chosen)
}

/// Rule G2, first half: which of `packs` may be named by a DELETE at this state: those that are condemned.
#[must_use]
pub fn may_be_deleted(state: &State, packs: &[PackName]) -> Vec<PackName> {
    let condemned =
        |pack: &&PackName| state.standing.condemned.contains_key(*pack) && !state.standing.deleted.contains_key(*pack);
    packs.iter().filter(condemned).copied().collect()
}

/// Rule G2, second half: a pack's object may be removed once a DELETE names it.
#[must_use]
pub fn may_remove(state: &State, pack: &PackName) -> bool {
    state.standing.deleted.contains_key(pack)
}

/// Rule G3: an object of a session that no published segment lists may be removed once the session is fenced.
/// `is_listed`: whether a segment of this very state lists it; for a session's key, whether one lists a pack of the session.
///
/// Why the key too waits for a FENCE: a collector that was published already goes on storing packs under the same key.
#[must_use]
pub fn may_remove_orphan(state: &State, session: &SessionId, is_listed: bool) -> bool {
    (state.fenced.contains(session) || is_left_out(Rule::FenceFirst)) && !is_listed
}

/// Rule U1: the copy of `chunk` on which an UNDELETE of a forgotten snapshot rests, of those that published segments list;
/// none where all were deleted. Its pack has to come back if it is condemned, and so has the copy of its base, found
/// with `alone`. `base_left`: what was not deleted of the base.
#[must_use]
pub fn brings_back<'c>(
    state: &State,
    chunk: &ChunkId,
    copies: &'c [Copy],
    alone: bool,
    base_left: &dyn Fn(&ChunkId) -> BaseLeft,
) -> Option<Chosen<'c>> {
    let standing = &state.standing;
    let is_there = |copy: &Copy| !standing.deleted.contains_key(&copy.pack);
    let rank = |copy: &Copy| u8::from(standing.condemned.contains_key(&copy.pack));
    best(standing, chunk, copies, alone, &is_there, base_left, &rank)
}

#[cfg(test)]
mod tests;
