//! Removes what no segment lists: packs and segments of interrupted runs, and keys of sessions of which nothing is left
//! (rule G3 of docs/concurrency.md).
//!
//! First an entry fences the sessions, so that nobody publishes any of it any more; then only that goes which no segment
//! of the state after that entry lists. Which sessions are fenced is a matter of comfort: those of which the store has
//! had nothing new for some time, so that a backup that is running is left alone. The listing is only a hint.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Run;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::format::log::Act;
use crate::format::names::{PACKS, PackName, SEGMENTS, SESSIONS, SegmentName, parse_session};
use crate::ids::SessionId;
use crate::repo::Session;
use crate::rules;
use crate::store::ObjectInfo;

/// What the store has of one session.
#[derive(Default)]
struct Leftover {
    newest: Option<Timestamp>,
    keys: Vec<ObjectInfo>,
    /// Packs and segments that no segment lists, and that no entry publishes.
    unlisted: Vec<Object>,
    /// Packs that some segment lists.
    listed_packs: u64,
}

/// A pack or segment in the store.
struct Object {
    info: ObjectInfo,
    name: Name,
}

#[derive(Clone, Copy)]
enum Name {
    Pack(PackName),
    Segment(SegmentName),
}

/// What the log's segments are and list.
struct Listed {
    packs: HashSet<PackName>,
    segments: HashSet<SegmentName>,
}

impl Listed {
    fn now(run: &Run<'_>) -> Self {
        Self {
            packs: run.marks.index().segments().iter().flat_map(|segment| segment.packs()).collect(),
            segments: run.state.segments.iter().map(|record| record.name).collect(),
        }
    }

    fn has(&self, name: Name) -> bool {
        match name {
            Name::Pack(pack) => self.packs.contains(&pack),
            Name::Segment(segment) => self.segments.contains(&segment),
        }
    }
}

/// Removes what nobody needs of sessions that are long over.
pub(super) fn remove(run: &mut Run<'_>, session: &Session<'_>) -> Result<()> {
    if run.marks.unlisted > 0 {
        // Why: a pack that no segment lists may be the one that a snapshot needs.
        return Ok(());
    }
    run.repository.confirm_log_end()?;
    run.look()?;
    let mut leftovers = find(run, &Listed::now(run))?;
    leftovers.remove(&session.id());
    leftovers.retain(|_, left| !left.unlisted.is_empty() || left.listed_packs == 0);
    leftovers.retain(|id, left| run.state.fenced.contains(id) || is_over(run, left));
    run.fence(&leftovers.keys().copied().collect())?;
    run.look()?;
    let listed = Listed::now(run);
    for (id, left) in leftovers {
        for Object { info, name } in &left.unlisted {
            if run.monitor.stopped() {
                return Err(Error::Interrupted);
            }
            if rules::may_remove_orphan(&run.state, &id, listed.has(*name)) {
                remove_object(run, info)?;
            }
        }
        // Why asked again: a segment of another session may list this one's packs by now.
        if rules::may_remove_orphan(&run.state, &id, listed.packs.iter().any(|pack| pack.session == id)) {
            left.keys.iter().try_for_each(|info| remove_object(run, info))?;
        }
    }
    Ok(())
}

fn remove_object(run: &mut Run<'_>, info: &ObjectInfo) -> Result<()> {
    run.repository.store().delete(&info.name)?;
    run.report.orphans += 1;
    run.report.orphan_bytes += info.length;
    Ok(())
}

fn is_over(run: &Run<'_>, left: &Leftover) -> bool {
    let age = left.newest.map_or(0, |newest| run.options.time.seconds.saturating_sub(newest.seconds));
    run.options.orphans.is_zero() || u64::try_from(age).is_ok_and(|age| age > run.options.orphans.as_secs())
}

/// Everything in the store that is a session's.
fn find(run: &Run<'_>, listed: &Listed) -> Result<BTreeMap<SessionId, Leftover>> {
    let store = run.repository.store();
    let mut found: BTreeMap<SessionId, Leftover> = BTreeMap::new();
    let mut note = |id: SessionId, info: ObjectInfo, name: Option<Name>| {
        let left = found.entry(id).or_default();
        left.newest = left.newest.max(Some(info.modified));
        match name {
            None => left.keys.push(info),
            Some(name) if !listed.has(name) => left.unlisted.push(Object { info, name }),
            Some(Name::Pack(_)) => left.listed_packs += 1,
            Some(Name::Segment(_)) => {}
        }
    };
    store.list(PACKS, &mut |info| {
        if let Some(name) = PackName::parse(&info.name) {
            note(name.session, info, Some(Name::Pack(name)));
        }
    })?;
    store.list(SEGMENTS, &mut |info| {
        if let Some(name) = SegmentName::parse(&info.name) {
            note(name.session, info, Some(Name::Segment(name)));
        }
    })?;
    store.list(SESSIONS, &mut |info| {
        if let Some((id, _)) = parse_session(&info.name) {
            note(id, info, None);
        }
    })?;
    // Why: a listing is only a hint; what the index says of a session's packs counts.
    for pack in &listed.packs {
        if let Some(left) = found.get_mut(&pack.session) {
            left.listed_packs += 1;
        }
    }
    Ok(found)
}

impl Run<'_> {
    /// Sees to it that these sessions are fenced.
    pub(super) fn fence(&mut self, sessions: &BTreeSet<SessionId>) -> Result<()> {
        loop {
            let open: Vec<SessionId> = sessions.iter().filter(|id| !self.state.fenced.contains(id)).copied().collect();
            if open.is_empty() || self.append(Act::Fence { sessions: open })? {
                return Ok(());
            }
            self.look()?;
        }
    }
}
