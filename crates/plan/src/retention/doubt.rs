//! Which claimed times cannot be believed.
//!
//! A member signs the time it claims, and may lie, or have a wrong clock. Two things it cannot forge: the order of the
//! log, and the time that the store gave the entry. So a claim is doubtful when it is
//!
//! - **ahead**: later than the store's time by more than the tolerance, or
//! - **backwards**: earlier, by more than the tolerance, than an earlier log entry of the same group.
//!
//! Why entries that are ahead are left out of the second rule: one claim from the year 2100 would else put every honest
//! snapshot after it in doubt. And an entry that ran ahead inside the tolerance counts with the store's time.

use std::fmt;

use super::Candidate;
use crate::calendar::{DAY_MS, HOUR_MS, MINUTE_MS};

/// How far clocks of honest hosts and stores may lie apart: 10 minutes.
pub const TOLERANCE_MS: i64 = 10 * MINUTE_MS;

/// Why a snapshot's claimed time is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// The claim is later than the store's time, by this many milliseconds.
    Ahead(u64),
    /// The claim is earlier than the latest believed time before it in the log, by this many milliseconds.
    Backwards(u64),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ahead(ms) => write!(f, "doubtful time: {} ahead of the store", Span(*ms)),
            Self::Backwards(ms) => write!(f, "doubtful time: {} before an earlier entry of the log", Span(*ms)),
        }
    }
}

/// Milliseconds as days, hours or minutes, rounded down.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms >= DAY_MS.unsigned_abs() => write!(f, "{}d", ms / DAY_MS.unsigned_abs()),
            ms if ms >= HOUR_MS.unsigned_abs() => write!(f, "{}h", ms / HOUR_MS.unsigned_abs()),
            ms => write!(f, "{} minutes", ms / MINUTE_MS.unsigned_abs()),
        }
    }
}

/// Judges the claims of one group, which come in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Judge {
    latest_ms: Option<i64>,
}

impl Judge {
    /// The doubt about the next snapshot of the group.
    pub(super) fn next(&mut self, candidate: &Candidate) -> Option<Doubt> {
        let (store, claimed) = (candidate.store_time_ms, candidate.claimed_time_ms);
        if claimed > store.saturating_add(TOLERANCE_MS) {
            return Some(Doubt::Ahead(claimed.abs_diff(store)));
        }
        let latest = self.latest_ms.unwrap_or(i64::MIN);
        if claimed.saturating_add(TOLERANCE_MS) < latest {
            return Some(Doubt::Backwards(latest.abs_diff(claimed)));
        }
        self.latest_ms = Some(latest.max(store.min(claimed)));
        None
    }
}
