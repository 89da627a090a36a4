//! Repair: what is left to do once damage is recorded and the sources were backed up again.
//!
//! [`replace`] stores anew what lies in packs that only their parity keeps readable. [`losses`] tells what live snapshots
//! have lost for good; [`drop_lost`] puts a snapshot without that in the place of each, and forgets the old one.
//!
//! Everything rests on what a `verify` has recorded: a chunk counts as lost where no sound copy is listed and none can be
//! read. What no segment lists is not known to be lost while a published segment can't be opened, so nothing is listed or
//! dropped then ([`Repository::look`]). Nothing is removed here; a forgotten snapshot comes back with `undelete`, and packs go with `prune`. Each step is
//! an entry of its own; a run that ends between two of them leaves a repaired snapshot beside the damaged one, which the
//! next run then repairs once more.

mod lost;
mod replace;

use std::ops::ControlFlow;
use std::thread;

use self::lost::{Judge, without_lost};
use crate::clock::monotonic;
use crate::entry::TreeKey;
use crate::error::{Error, Result};
use crate::format::log::{Act, SnapshotRecord};
use crate::format::slot::Role;
use crate::ids::SnapshotId;
use crate::monitor::{Monitor, Phase};
use crate::repo::nodes::{Search, Step};
use crate::repo::{Committed, Repository, Session, Snapshot};
use crate::rules::{self, Forgotten};
use crate::units::MIB;

pub use crate::rules::REPAIRED_FROM;
pub use replace::{ReplaceReport, replace};

/// Label of a repaired snapshot: the number of the log entry of the one that it stands for, where it belongs among the
/// others.
pub const REPAIRED_PLACE: &str = "repaired-place";
/// Label of a repaired snapshot: how many paths it lacks.
pub const LOST_PATHS: &str = "lost-paths";

/// Labels of checkpoints (docs/checkpoints.md): whether one is whole, and why it is not.
const CHECKPOINT_STATE: &str = "checkpoint.state";
const CHECKPOINT_REASON: &str = "checkpoint.reason";
/// What a FORGET gives as its reason: before the id of the new snapshot, and where nothing is left.
const REPAIRED_AS: &str = "repaired as ";
const ALL_LOST: &str = "all of it is lost";

/// Length of new data packs.
const PACK_BYTES: usize = 24 * MIB;
/// Writer threads: one makes a pack durable while the other is filled.
const WRITERS: usize = 2;
/// So often a snapshot is written again because something that it leans on was condemned or found damaged meanwhile.
const TRIES: usize = 8;

/// Something that a snapshot has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss<'a> {
    /// A file of which content is lost.
    File(&'a TreeKey),
    /// A file whose tensor table is lost; the file itself is whole.
    Table(&'a TreeKey),
    /// A part of the tree: its first key, where known, and how many entries are in it.
    Part(Option<&'a TreeKey>, u64),
}

/// A snapshot that was put in another's place.
#[derive(Debug, Clone)]
pub struct Dropped {
    /// The one that is forgotten now.
    pub old: SnapshotId,
    /// The one without what is lost; none where nothing would be left of it.
    pub new: Option<SnapshotId>,
    /// Paths that it lacks.
    pub lost: u64,
}

/// Calls `each` for everything that live snapshots have lost, snapshot by snapshot, oldest first. Gives the number of
/// paths that can't be restored whole; tensor tables are not among them.
///
/// # Errors
/// [`Error::NotAllowed`] with a key that can't read data, [`Error::Damaged`] where a published segment can't be opened,
/// [`Error::Interrupted`], a store that fails.
pub fn losses(
    repository: &Repository,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(&Snapshot, Loss<'_>),
) -> Result<u64> {
    repository.refuse_unable_to_read()?;
    repository.look()?;
    monitor.phase(Phase::Marking);
    let mut judge = Judge::new(repository);
    let mut search = Search::new(repository, true);
    let mut lost = 0;
    for snapshot in repository.snapshots() {
        let all = snapshot.record.entries;
        let mut note = |loss: Loss<'_>| {
            let paths = match loss {
                Loss::File(_) => 1,
                Loss::Table(_) => 0,
                Loss::Part(_, entries) => entries,
            };
            lost = paths.saturating_add(lost);
            each(&snapshot, loss);
        };
        find_lost(&mut search, &mut judge, &snapshot, all, monitor, &mut note)?;
    }
    Ok(lost)
}

/// True if the log knows damage in what this snapshot reaches: some chunk of it has no sound copy any more, or a part of its
/// tree can't be read. Nothing is read but its tree and lists of chunks, and these only where damage was found since
/// the snapshot was committed. To a key that can't read trees, any damage that was found since is damage in it.
///
/// # Errors
/// When the store can't be read; damage is an answer.
pub fn is_hit(repository: &Repository, snapshot: &Snapshot) -> Result<bool> {
    if rules::may_rest_on(&repository.state(), &snapshot.record.id) {
        return Ok(false);
    }
    if !repository.can_read_data() {
        return Ok(true);
    }
    let (mut is_hit, mut failure) = (false, None);
    Search::new(repository, false).run(&snapshot.record.root, &mut |step| {
        let sound = match step {
            Step::Node(_) => Ok(true),
            Step::Lost(_, error) => lost::of_damage(error).map(|()| false),
            Step::Entry(_, entry) => lost::is_listed_sound(repository, entry),
        };
        is_hit |= matches!(sound, Ok(false));
        failure = failure.take().or(sound.err());
        if is_hit || failure.is_some() { ControlFlow::Break(true) } else { ControlFlow::Continue(false) }
    });
    failure.map_or(Ok(is_hit), Err)
}

fn find_lost(
    search: &mut Search<'_>,
    judge: &mut Judge<'_>,
    snapshot: &Snapshot,
    all: u64,
    monitor: &dyn Monitor,
    note: &mut dyn FnMut(Loss<'_>),
) -> Result<()> {
    let mut failure = None;
    search.run(&snapshot.record.root, &mut |step| {
        let answer = match step {
            Step::Node(_) if monitor.stopped() => Err(Error::Interrupted),
            Step::Node(_) => Ok(false),
            Step::Lost(node, error) => lost::of_damage(error).map(|()| {
                note(Loss::Part(node.first.as_ref(), node.totals.map_or(all, |(entries, _)| entries)));
                true
            }),
            Step::Entry(key, entry) => judge.loss(key, entry).map(|loss| {
                if let Some(loss) = loss {
                    note(loss);
                }
                loss.is_some()
            }),
        };
        answer.map_or_else(
            |error| {
                failure = Some(error);
                ControlFlow::Break(true)
            },
            ControlFlow::Continue,
        )
    });
    failure.map_or(Ok(()), Err)
}

/// Puts snapshots without what is lost in the place of those that have lost something, and forgets these. `program` is
/// recorded as what made them.
///
/// # Errors
/// [`Error::NotAllowed`] without an owner's key; [`Error::Held`] where one is held, [`Error::Damaged`] where a
/// published segment can't be opened: then nothing is done;
/// [`Error::Interrupted`]; when storing or appending fails. What was finished before stays.
pub fn drop_lost(repository: &Repository, program: &str, monitor: &dyn Monitor) -> Result<Vec<Dropped>> {
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("drop what snapshots have lost"));
    }
    let mut hit: Vec<Snapshot> = Vec::new();
    losses(repository, monitor, &mut |snapshot, _| {
        if hit.last().is_none_or(|last| last.record.id != snapshot.record.id) {
            hit.push(snapshot.clone());
        }
    })?;
    hit.iter().try_for_each(|snapshot| refuse_held(repository, &snapshot.record.id))?;
    monitor.phase(Phase::Rewriting);
    let mut dropped = Vec::new();
    for snapshot in hit {
        let (new, lost) = put_in_place(repository, &snapshot, program, monitor)?;
        // Why again: what only a segment lists that is gone by now was taken for lost.
        repository.look()?;
        forget(repository, &snapshot.record.id, new)?;
        dropped.push(Dropped { old: snapshot.record.id, new, lost });
    }
    Ok(dropped)
}

fn refuse_held(repository: &Repository, id: &SnapshotId) -> Result<()> {
    if repository.state().holds.contains_key(id) {
        return Err(Error::Held(format!("snapshot {id} has lost something and is held")));
    }
    Ok(())
}

fn forget(repository: &Repository, id: &SnapshotId, new: Option<SnapshotId>) -> Result<()> {
    let reason = match new {
        Some(new) => format!("{REPAIRED_AS}{new}"),
        None => ALL_LOST.to_owned(),
    };
    repository.append(&mut |state| {
        if state.snapshot(id).is_none() || state.holds.contains_key(id) {
            return Err(Error::Refused(format!("snapshot {id} was held or forgotten meanwhile")));
        }
        Ok(Act::Forget { snapshots: vec![*id], reason: reason.clone() })
    })?;
    Ok(())
}

/// True if a repair forgot the snapshot because something of it was lost, and nobody because it is not wanted any more.
#[must_use]
pub fn was_forgotten_for_loss(forgotten: &Forgotten) -> bool {
    forgotten.reason.starts_with(REPAIRED_AS) || forgotten.reason == ALL_LOST
}

/// Commits a snapshot without what this one has lost, unless nothing is left; gives its id and how much is lost.
fn put_in_place(
    repository: &Repository,
    snapshot: &Snapshot,
    program: &str,
    monitor: &dyn Monitor,
) -> Result<(Option<SnapshotId>, u64)> {
    let started = monotonic();
    let session = Session::begin(repository, PACK_BYTES)?;
    let (end, ended) = crossbeam_channel::bounded(0);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
        }
        let outcome = (|| {
            for _ in 0..TRIES {
                let left = without_lost(repository, &session, snapshot, monitor)?;
                repository.look()?;
                if left.root.entries == 0 {
                    return Ok((None, left.lost));
                }
                let id = SnapshotId(crate::crypto::random());
                let committed = session.commit(&mut |totals| SnapshotRecord {
                    id,
                    root: left.root.id,
                    entries: left.root.entries,
                    files: left.files,
                    bytes: left.root.bytes,
                    labels: labels(snapshot, left.lost),
                    // Why: whoever asks whether a snapshot has all that its source had, asks this.
                    problems: snapshot.record.problems.saturating_add(left.lost),
                    program: program.to_owned(),
                    parent: Some(snapshot.record.id),
                    bytes_read: 0,
                    bytes_stored: totals.stored_bytes,
                    duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    ..snapshot.record.clone()
                })?;
                if let Committed::Done(..) = committed {
                    return Ok((Some(id), left.lost));
                }
            }
            Err(Error::Refused("what the repaired snapshot needs goes away again and again; run again later".into()))
        })();
        drop(end);
        outcome.map_err(|error| session.take_failure().unwrap_or(error))
    })
}

/// The snapshot's labels, and what tells that it was repaired. Repaired twice, it stands for the first. A checkpoint that
/// lacks something is not whole any more.
fn labels(snapshot: &Snapshot, lost: u64) -> Vec<(String, String)> {
    let mut labels = snapshot.record.labels.clone();
    let before = |name: &str| labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.clone());
    let origin = before(REPAIRED_FROM).unwrap_or_else(|| snapshot.record.id.to_string());
    let place = before(REPAIRED_PLACE).unwrap_or_else(|| snapshot.number.to_string());
    let lost = before(LOST_PATHS).and_then(|lost| lost.parse().ok()).unwrap_or(0u64).saturating_add(lost);
    labels.retain(|(label, _)| ![REPAIRED_FROM, REPAIRED_PLACE, LOST_PATHS].contains(&label.as_str()));
    if lost > 0 && labels.iter().any(|(label, _)| label == CHECKPOINT_STATE) {
        labels.retain(|(label, _)| ![CHECKPOINT_STATE, CHECKPOINT_REASON].contains(&label.as_str()));
        let reason = format!("paths that the repository lost, left out by a repair: {lost}");
        labels.push((CHECKPOINT_STATE.to_owned(), "incomplete".to_owned()));
        labels.push((CHECKPOINT_REASON.to_owned(), reason));
    }
    for (label, value) in [(REPAIRED_FROM, origin), (REPAIRED_PLACE, place), (LOST_PATHS, lost.to_string())] {
        labels.push((label.to_owned(), value));
    }
    labels
}
