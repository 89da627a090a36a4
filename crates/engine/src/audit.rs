//! Audit: the log as a trail of who did what, and the proof that nobody changed it.
//!
//! Every entry is read from the store, never from the cache, and held against the chain, its signature and the rules, as
//! at opening; here what an entry says is handed on, also where it is void, and what is wrong is named: an entry that is
//! `missing`, was `substituted` (or the whole repository was, at a place where this user saw another one), is `damaged`, or a
//! log that went back (`rollback`) since this user's cache last saw it.
//! What somebody with the log key put there that is no entry, or no entry of this log, is `malformed`: it is void and
//! harms nobody, but somebody did it. An entry that needs a newer version of this program is `unsupported`. Times that run
//! ahead of the store's or backwards are `time` remarks: they are claims, and nothing rests on them.
//!
//! It needs the key ring only, so it also tells what is wrong with a repository that does not open any more.

use crate::clock::Timestamp;
use crate::crypto::object_hash;
use crate::error::{Damaged, Error, Result};
use crate::format::log::{self as entries, Act, ENTRY_BYTES_MAX, Frame, Opened, OpenedEntry};
use crate::format::marker::MARKER_BYTES_MAX;
use crate::format::names::{LOG, MARKER, log_object, parse_log};
use crate::format::slot::{KeyRing, Role, Unlock};
use crate::ids::{MemberId, ObjectHash};
use crate::monitor::Monitor;
use crate::repo::Repository;
use crate::repo::cache::Cache;
use crate::repo::log::{Seen, seen_before};
use crate::repo::object::read_object;
use crate::repo::place::Place;
use crate::rules::State;
use crate::store::{Store, StoreError};

/// A claimed time may be this much ahead of the store's before it is remarked on: clocks differ.
const AHEAD_MS: i64 = 5 * 60 * 1000;

/// One entry, as a trail shows it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number.
    pub number: u64,
    /// Who wrote it and when, as it claims; none where it is no entry at all.
    pub frame: Option<Frame>,
    /// What it says, where that is understood.
    pub act: Option<Act>,
    /// When the store says that it was written.
    pub stored: Timestamp,
    /// Label and role of the member whom it names as its writer, if the log knows that member at that point.
    pub signer: Option<(String, Role)>,
    /// Why it counts for nothing, if it does.
    pub void: Option<String>,
}

/// What is wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `missing`, `substituted`, `damaged`, `rollback`, `unsupported`, `malformed`, or `time`.
    pub kind: &'static str,
    /// The object.
    pub object: String,
    /// What is wrong.
    pub why: String,
}

impl Finding {
    fn new(kind: &'static str, object: String, why: impl Into<String>) -> Self {
        Self { kind, object, why: why.into() }
    }

    /// True for what breaks the proof; a `time` remark does not, nor does what is `malformed`, as it counts for nothing.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self.kind, "time" | "malformed")
    }
}

/// What an audit found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Entries that were read and follow each other.
    pub entries: u64,
    /// Entries among them that count for nothing.
    pub void: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Where the log is and what it is held against.
pub struct Trail<'s> {
    store: &'s dyn Store,
    ring: KeyRing,
    cache: Cache,
    place: Place,
    expected: Option<ObjectHash>,
}

impl<'s> Trail<'s> {
    /// Finds the key ring that `unlock` opens. `cache` is the directory for all of this user's caches; `expected` is the
    /// fingerprint that the repository must have, if one is known.
    ///
    /// # Errors
    /// As [`Repository::open`], but for what is wrong with the log.
    pub fn open(
        store: &'s dyn Store,
        unlock: &Unlock,
        cache: Option<&std::path::Path>,
        expected: Option<ObjectHash>,
    ) -> Result<Self> {
        let ring = Repository::open_ring(store, unlock)?;
        let place = Place::look(cache, &store.location());
        let cache = Cache::new(cache, &ring.repository);
        Ok(Self { store, ring, cache, place, expected })
    }

    /// Reads every entry in order and gives it to `each`, which may end the reading with false.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; when the store fails. What is wrong with the log is no error but in the report.
    pub fn follow(&self, monitor: &dyn Monitor, each: &mut dyn FnMut(Line) -> bool) -> Result<Report> {
        let mut replay =
            Replay { state: State::new(self.ring.repository), report: Report::default(), newest: i64::MIN };
        let seen = seen_before(&self.cache, self.ring.repository, &self.ring).unwrap_or_else(|why| {
            let why = format!("it is not the log that was seen before: {why}");
            replay.report.findings.push(Finding::new("substituted", log_object(0), why));
            None
        });
        loop {
            if monitor.stopped() {
                return Err(Error::Interrupted);
            }
            let number = replay.state.next;
            let Some(line) = self.next(&mut replay)? else { break };
            if number == 0 && seen.is_none() && replay.report.findings.is_empty() {
                self.look_at_place(&mut replay);
            }
            replay.remark_time(&line);
            if let Some(seen) = seen.as_ref().filter(|seen| seen.next == number + 1) {
                replay.compare(seen);
            }
            if !each(line) {
                return Ok(replay.report);
            }
        }
        self.conclude(&mut replay, seen.as_ref())?;
        Ok(replay.report)
    }

    /// Another repository may lie where this user saw one, with a slot that his public key opens. Asked only where the cache
    /// has not seen this very log: repositories that are known may take turns.
    fn look_at_place(&self, replay: &mut Replay) {
        let here = replay.state.fingerprint.filter(|_| self.expected.is_none());
        if let Some(why) = here.and_then(|fingerprint| self.place.replaced((replay.state.repository, fingerprint))) {
            replay.report.findings.push(Finding::new("substituted", log_object(0), why));
        }
    }

    /// The next entry; none at the end, or where the log can't be followed any further.
    fn next(&self, replay: &mut Replay) -> Result<Option<Line>> {
        let object = log_object(replay.state.next);
        let taken = match read_object(self.store, &object, ENTRY_BYTES_MAX) {
            Ok(sealed) => replay.take(&sealed, &self.ring, self.store.head(&object)?.modified),
            Err(Error::Store(StoreError::Missing(_))) => return Ok(None),
            Err(error) => Err(error),
        };
        let (kind, why) = match taken {
            Ok(line) if line.number == 0 && self.expected.is_some_and(|it| replay.state.fingerprint != Some(it)) => {
                ("substituted", "the repository has another fingerprint than the expected one".to_owned())
            }
            Ok(line) => return Ok(Some(line)),
            Err(Error::Damaged(Damaged { why, .. })) => ("damaged", why),
            Err(Error::Unsupported(why)) => ("unsupported", why),
            Err(error) => return Err(error),
        };
        replay.report.findings.push(Finding::new(kind, object, why));
        Ok(None)
    }

    /// What the end of the log says: entries beyond it, what was seen before, the marker.
    fn conclude(&self, replay: &mut Replay, seen: Option<&Seen>) -> Result<()> {
        let next = replay.state.next;
        // Why by the object: what is void does not end the log.
        let broken = replay.report.findings.iter().any(|finding| finding.object == log_object(next));
        let mut beyond = false;
        self.store.list(LOG, &mut |info| beyond |= parse_log(&info.name).is_some_and(|number| number > next))?;
        let (findings, mut has_hole) = (&mut replay.report.findings, false);
        if !broken && next == 0 {
            findings.push(Finding::new("missing", log_object(0), "the log has no entries"));
        } else if !broken && beyond && matches!(self.store.head(&log_object(next)), Err(StoreError::Missing(_))) {
            findings.push(Finding::new("missing", log_object(next), "it is missing, but later entries exist"));
            has_hole = true;
        }
        if !broken
            && !has_hole
            && let Some(seen) = seen.filter(|seen| seen.next > next)
        {
            let why = format!("the log ends before {}, which was seen before", log_object(seen.next - 1));
            findings.push(Finding::new("rollback", log_object(next), why));
        }
        let marker = match read_object(self.store, MARKER, MARKER_BYTES_MAX) {
            Ok(bytes) => Some(object_hash(&bytes)),
            Err(Error::Damaged(_) | Error::Store(StoreError::Missing(_))) => None,
            Err(error) => return Err(error),
        };
        if next > 0 && marker != replay.state.marker {
            findings.push(Finding::new("substituted", MARKER.to_owned(), "it is not the marker that INIT names"));
        }
        Ok(())
    }
}

/// The log so far.
struct Replay {
    state: State,
    report: Report,
    /// The newest claimed time so far, in Unix milliseconds.
    newest: i64,
}

impl Replay {
    /// Takes the next entry.
    fn take(&mut self, sealed: &[u8], ring: &KeyRing, stored: Timestamp) -> Result<Line> {
        let number = self.state.next;
        let opened = entries::open(number, sealed, &ring.log_key)?;
        let strange = self.strange(&opened);
        let void = self.state.take(&opened, object_hash(sealed), OpenedEntry::verify)?;
        self.report.entries += 1;
        self.report.void += u64::from(void.is_some());
        if let (Some(kind), Some(why)) = (strange, &void) {
            self.report.findings.push(Finding::new(kind, log_object(number), why.as_str()));
        }
        let (frame, act) = match opened {
            Opened::Entry(entry) => (Some(entry.frame), entry.act.ok()),
            Opened::Malformed(_) => (None, None),
        };
        let signer = frame.as_ref().and_then(|frame| self.signer(&frame.member));
        Ok(Line { number, frame, act, stored, signer, void })
    }

    /// What kind of finding it is, if no honest client puts such a thing at this number. What a member signed who may sign
    /// was written for another past: the store shows a different one now, or that member lies.
    fn strange(&self, opened: &Opened) -> Option<&'static str> {
        let Opened::Entry(entry) = opened else { return Some("malformed") };
        let member = self.state.active(&entry.frame.member);
        let is_signed = member.is_some_and(|member| entry.verify(&member.public_key));
        let follows = entry.frame.repository == self.state.repository && entry.frame.previous == self.state.head;
        match (follows, is_signed) {
            (false, true) => Some("substituted"),
            (false, false) => Some("malformed"),
            (true, _) => entry.act.is_err().then_some("malformed"),
        }
    }

    fn signer(&self, member: &MemberId) -> Option<(String, Role)> {
        self.state.members.get(member).map(|member| (member.record.label.clone(), member.record.role))
    }

    fn remark_time(&mut self, line: &Line) {
        let Some(Frame { time_ms: claimed, .. }) = line.frame else { return };
        let stored = line.stored.seconds.saturating_mul(1000);
        let mut remark = |why: String| {
            self.report.findings.push(Finding::new("time", log_object(line.number), why));
        };
        if claimed > stored.saturating_add(AHEAD_MS) {
            let seconds = claimed.saturating_sub(stored) / 1000;
            remark(format!("its writer claims a time {seconds} seconds ahead of the store's"));
        }
        if claimed.saturating_add(AHEAD_MS) < self.newest {
            let seconds = self.newest.saturating_sub(claimed) / 1000;
            remark(format!("its writer claims a time {seconds} seconds before an earlier entry's"));
        }
        self.newest = self.newest.max(claimed);
    }

    /// Holds the entry that was just applied against what was seen at that number before.
    fn compare(&mut self, seen: &Seen) {
        if self.state.head != Some(seen.head) {
            let object = log_object(seen.next - 1);
            let why = "it is not the entry that was seen before";
            self.report.findings.push(Finding::new("substituted", object, why));
        }
    }
}

/// What an act says, in one line for people; ids in full.
#[must_use]
pub fn details(act: &Act) -> String {
    fn all<T: ToString>(items: &[T]) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
    match act {
        Act::Init { member, .. } => format!("first owner {}", member.label),
        Act::Commit { snapshot, segments, adopted, .. } => {
            let adopted = if adopted.is_empty() { String::new() } else { format!(", {} adopted", adopted.len()) };
            format!("snapshot {} of {}, {} segments{adopted}", snapshot.id, snapshot.host, segments.len())
        }
        Act::Forget { snapshots, reason } => format!("snapshots {}: {reason}", all(snapshots)),
        Act::Hold { snapshots, label, release } => {
            format!("{label}{} on snapshots {}", if *release { " lifted" } else { "" }, all(snapshots))
        }
        Act::Audit { depth, bytes, lost, damaged, sound } => format!(
            "depth {depth}, {bytes} bytes read, {} packs lost, {} blobs damaged, {} packs whole again",
            lost.len(),
            damaged.len(),
            sound.len()
        ),
        Act::Condemn { packs, segments, .. } => format!("{} packs, {} new segments", packs.len(), segments.len()),
        Act::Fence { sessions } => format!("sessions {}", all(sessions)),
        Act::Remap { segments, retired, gone, .. } => {
            format!("{} segments for {}, {} packs gone", segments.len(), retired.len(), gone.len())
        }
        Act::Key(change) => key_details(change),
        Act::Undelete { snapshots, packs } => format!("snapshots {}, {} packs", all(snapshots), packs.len()),
        Act::Delete { packs } => format!("{} packs", packs.len()),
    }
}

fn key_details(change: &entries::KeyChange) -> String {
    match change {
        entries::KeyChange::Admit(member) => {
            format!("{} {} admitted ({})", member.role.name(), member.label, member.id)
        }
        entries::KeyChange::Revoke(member) => format!("member {member} revoked"),
        entries::KeyChange::Rotate { generation, grants, .. } => {
            format!("data key generation {generation}, granted to {}", grants.len())
        }
    }
}

#[cfg(test)]
mod tests;
