//! Deletes what was condemned long enough ago (rule G2 of docs/concurrency.md): first the entry, then the objects.
//!
//! How long is a matter of comfort: until then `undelete` brings a forgotten snapshot back. The time is the one that the
//! store gave the entry that condemned the pack. Deletions that an earlier run began are finished.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Run;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::format::log::Act;
use crate::format::names::{PackName, log_object};
use crate::rules;

/// Deletes packs whose window has passed; gives all packs whose objects are gone and that the log still knows of.
pub(super) fn delete(run: &mut Run<'_>) -> Result<BTreeSet<PackName>> {
    run.repository.confirm_log_end()?;
    // Why judged again: what a snapshot needs that came meanwhile stays, even where its writer broke the rules.
    run.judge(&[], &mut BTreeSet::new())?;
    let due = run.due()?;
    let waits = |run: &Run<'_>, pack: &PackName| {
        run.state.standing.condemned.get(pack) == due.get(pack) && !run.only.contains(pack)
    };
    while !due.is_empty() {
        run.judge(&[], &mut BTreeSet::new())?;
        let named: Vec<PackName> = due.keys().filter(|pack| waits(run, pack)).copied().collect();
        let packs = rules::may_be_deleted(&run.state, &named);
        let count = packs.len() as u64;
        if count == 0 {
            break;
        }
        if run.append(Act::Delete { packs })? {
            run.report.deleted_packs += count;
            break;
        }
    }
    let removable: Vec<PackName> = run.state.standing.deleted.keys().copied().collect();
    let mut removed = BTreeSet::new();
    for pack in removable {
        if run.monitor.stopped() {
            return Err(Error::Interrupted);
        }
        debug_assert!(rules::may_remove(&run.state, &pack));
        run.repository.store().delete(&pack.object())?;
        run.report.deleted_bytes += run.pack_bytes(&pack);
        removed.insert(pack);
    }
    Ok(removed)
}

impl Run<'_> {
    /// Condemned packs whose window has passed, each with the number of the entry that condemned it.
    fn due(&mut self) -> Result<BTreeMap<PackName, u64>> {
        let mut ends: BTreeMap<u64, Timestamp> = BTreeMap::new();
        let mut due = BTreeMap::new();
        let standing = std::sync::Arc::clone(&self.state.standing);
        for (pack, number) in &standing.condemned {
            if standing.deleted.contains_key(pack) || self.only.contains(pack) {
                continue;
            }
            let end = match ends.get(number) {
                Some(end) => *end,
                None => {
                    let condemned = self.repository.store().head(&log_object(*number))?.modified;
                    *ends.entry(*number).or_insert(later(condemned, self.options.window))
                }
            };
            if self.options.window.is_zero() || end <= self.options.time {
                due.insert(*pack, *number);
            } else {
                self.report.waiting_packs += 1;
                self.report.waiting_bytes += self.pack_bytes(pack);
                self.report.waiting_until = self.report.waiting_until.max(Some(end));
            }
        }
        Ok(due)
    }
}

/// A time so much later.
fn later(time: Timestamp, by: Duration) -> Timestamp {
    let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds: time.seconds.saturating_add(seconds), nanos: time.nanos }
}
