//! Adoption: what a crashed session made durable is found again, so that nothing is sent twice.
//!
//! Only sessions that this user began and whose process is gone are looked at. Their segments are taken as they are if
//! every pack that they list is there; packs that no segment lists are read from their footers. What is stored against a
//! base that is gone is left to the collector. LIST is only a hint here: what it leaves out is stored again.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use crate::crypto::object_hash;
use crate::error::Result;
use crate::format::log::SegmentRecord;
use crate::format::names::{PackName, SegmentName};
use crate::format::pack::{BlobKind, BlobRecord};
use crate::ids::{ChunkId, SessionId};
use crate::repo::index::{Index, Segment};
use crate::repo::object::read_object;
use crate::repo::pack_list::read_list;
use crate::repo::repository::Repository;
use crate::units::SEGMENT_BYTES_MAX;

/// What there is to adopt.
#[derive(Default)]
pub(crate) struct Adopted {
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) packs: Vec<(PackName, BlobKind, Vec<BlobRecord>)>,
}

impl Adopted {
    /// Puts the segments into `own`, the adopter's, and drops what has a base that is neither here nor one on which `lean`
    /// says that it may lean.
    ///
    /// Why: a chunk without its base can't be read; the adopter's commit must be able to answer for both.
    pub(crate) fn join(&mut self, own: &RwLock<Index>, lean: &dyn Fn(&ChunkId) -> bool) {
        let own = || own.write().unwrap_or_else(PoisonError::into_inner);
        self.segments.iter().for_each(|segment| own().push(Arc::clone(segment)));
        let records = self.packs.iter().flat_map(|(.., records)| records);
        let alone: HashSet<ChunkId> = records.filter(|it| it.base.is_none()).map(|it| it.id).collect();
        let is_there = |base: ChunkId| alone.contains(&base) || lean(&base);
        let is_whole = |segment: &Segment| segment.view().is_some_and(|view| view.bases().all(is_there));
        loop {
            let lacking: Vec<_> = self.segments.extract_if(.., |segment| !is_whole(segment)).collect();
            if lacking.is_empty() {
                break;
            }
            // These may have the bases of others.
            lacking.iter().for_each(|segment| own().drop_segment(&segment.record().hash));
        }
        for (.., records) in &mut self.packs {
            records.retain(|record| record.base.is_none_or(is_there));
        }
    }
}

/// Looks at every abandoned session of this user.
pub(crate) fn adopt(repository: &Repository) -> Result<Adopted> {
    let mut adopted = Adopted::default();
    for session in repository.cache().abandoned_sessions() {
        let state = repository.state();
        // Why fenced ones too: a commit that adopts one is refused, and its packs may be gone at any time.
        if state.finished_sessions.contains(&session) || state.fenced.contains(&session) {
            repository.cache().unmark_session(&session);
            continue;
        }
        adopt_session(repository, session, &mut adopted)?;
        adopted.sessions.push(session);
    }
    adopted.sessions.sort_unstable();
    adopted.sessions.dedup();
    Ok(adopted)
}

fn adopt_session(repository: &Repository, session: SessionId, adopted: &mut Adopted) -> Result<()> {
    let store = repository.store();
    let mut names = Vec::new();
    let state = repository.state();
    let is_over = |session: &SessionId| state.finished_sessions.contains(session) || state.fenced.contains(session);
    store.list(&format!("index/{session}/"), &mut |info| names.extend(SegmentName::parse(&info.name)))?;
    let mut listed = HashSet::new();
    for name in names {
        let Some(segment) = open_segment(repository, name) else { continue };
        let packs = segment.view().map(|view| view.packs().collect::<Vec<_>>()).unwrap_or_default();
        // Why: the session may itself have adopted others. Whoever publishes their packs has to answer for them too.
        let others = packs.iter().map(|pack| pack.session).filter(|owner| *owner != session);
        if others.clone().any(|owner| is_over(&owner)) {
            continue;
        }
        if packs.iter().all(|pack| store.head(&pack.object()).is_ok()) {
            adopted.sessions.extend(others);
            listed.extend(packs);
            adopted.segments.push(Arc::new(segment));
        }
    }
    let mut packs = Vec::new();
    store.list(&format!("pack/{session}/"), &mut |info| {
        packs.extend(PackName::parse(&info.name).map(|name| (name, info.length)));
    })?;
    for (name, length) in packs {
        if !listed.contains(&name) {
            // Why: a pack that can't be read is left for the collector; its chunks are stored again.
            adopted.packs.extend(read_list(repository, &name, length).map(|list| (name, list.kind, list.records)));
        }
    }
    Ok(())
}

fn open_segment(repository: &Repository, name: SegmentName) -> Option<Segment> {
    let sealed = read_object(repository.store(), &name.object(), SEGMENT_BYTES_MAX).ok()?;
    let key = &repository.keys().index_key;
    let plain = crate::crypto::envelope::open(key, &name.object(), &sealed).ok()?;
    let records = u64::try_from(crate::format::segment::SegmentView::parse(&plain).ok()?.len()).ok()?;
    let bytes = u64::try_from(sealed.len()).ok()?;
    let record = SegmentRecord { name, hash: object_hash(&sealed), records, bytes };
    Segment::keep(repository.cache(), record, plain).ok()
}
