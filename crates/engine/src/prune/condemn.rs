//! Takes packs out of use, group by group: what is needed of them is stored again, one batch after the other, and published
//! by the entry that condemns them (rule G1 of docs/concurrency.md).
//!
//! The entry is put at exactly the number for which [`Run::judge`] has looked at everything before it, and after every copy
//! for which another one leaves was read ([`read_back`]). Whoever appends something meanwhile makes it look again. What a group has condemned stays done if a later one is interrupted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::plan::Batch;
use super::stay::Unread;
use super::{Run, read_back, rewrite};
use crate::error::{Error, Result};
use crate::format::log::{Act, SegmentRecord};
use crate::format::names::PackName;
use crate::repo::Session;
use crate::repo::index::Segment;

/// Condemns one group.
pub(super) fn condemn(run: &mut Run<'_>, session: &Session<'_>, group: &[Batch]) -> Result<()> {
    if run.monitor.stopped() {
        return Err(Error::Interrupted);
    }
    // Why: what others appended since may need more of these packs.
    run.judge(&[], &mut BTreeSet::new())?;
    let mut list = BTreeSet::new();
    for batch in group {
        let mut packs: BTreeSet<PackName> = batch.packs.iter().copied().collect();
        rewrite::rewrite(run, session, &mut packs)?;
        list.append(&mut packs);
    }
    // Why: these sessions are long published. A run that adopted one and then stood still would else publish its packs
    // once more after they are gone.
    run.fence(&list.iter().map(|pack| pack.session).filter(|owner| *owner != session.id()).collect())?;
    let fresh = session.segments();
    loop {
        let unread = run.judge(&fresh, &mut list)?;
        if read_back::read_back(run, unread.copies)? || unread.is_cut_short {
            continue;
        }
        let condemned: Vec<PackName> = list.iter().copied().filter(|pack| !run.is_condemned(pack)).collect();
        if condemned.is_empty() && fresh.is_empty() {
            return Ok(());
        }
        let segments: Vec<SegmentRecord> = fresh.iter().map(|segment| segment.record().clone()).collect();
        session.follow_rotation(&run.state)?;
        let session_id = (!segments.is_empty()).then(|| session.id());
        let act = Act::Condemn { packs: condemned.clone(), session: session_id, segments };
        if run.append(act)? {
            session.published();
            run.note_condemned(&condemned);
            return Ok(());
        }
    }
}

impl Run<'_> {
    /// Makes the marks and the list hold for everything that is in the log now. Gives the copies that have to be read
    /// before the list may leave.
    pub(super) fn judge(&mut self, fresh: &[Arc<Segment>], list: &mut BTreeSet<PackName>) -> Result<Unread> {
        self.look()?;
        // Why always with a list: what was judged before was what stays when nothing leaves.
        if self.judged == self.state.next && list.is_empty() {
            return Ok(Unread::default());
        }
        self.mark()?;
        // Why: who does not know where needed chunks lie does not know all packs that are needed. An index that is not
        // whole must never look like chunks that nobody needs.
        if self.marks.unlisted > 0 && !self.options.dry_run && !self.options.despite_missing {
            return Err(Error::Refused(format!(
                "{}: nothing is removed. Run `verify`; a backup of the sources stores lost chunks again, `repair --index` \
                 lists packs anew, `repair --drop` gives up what is lost; --despite-missing goes on, and leaves every pack \
                 that no segment lists",
                self.missing()
            )));
        }
        let standing = Arc::clone(&self.state.standing);
        let settled = super::stay::settle(&mut self.marks, &standing, fresh, list, self.options.batch_reads)?;
        self.uses = settled.uses;
        self.only = settled.only;
        self.lone_bases = settled.lone_bases;
        self.judged = self.state.next;
        Ok(settled.unread)
    }

    fn is_condemned(&self, pack: &PackName) -> bool {
        self.state.standing.condemned.contains_key(pack)
    }

    fn note_condemned(&mut self, condemned: &[PackName]) {
        self.report.condemned_packs += condemned.len() as u64;
        self.report.condemned_bytes += condemned.iter().map(|pack| self.pack_bytes(pack)).sum::<u64>();
    }
}
