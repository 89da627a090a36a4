//! The labels by which a snapshot is known as one of a checkpoint (docs/checkpoints.md).
//!
//! They are data of the snapshot record, signed with it. Whoever may write into the repository may write any, so only labels
//! that this key's own member or an owner signed count, and all that they decide is whether a checkpoint has to be taken again.

use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use seawall_engine::clock::Timestamp;
use seawall_engine::error::Result;
use seawall_engine::ids::SnapshotId;
use seawall_engine::repair::{is_hit, was_forgotten_for_loss};
use seawall_engine::repo::{Repository, Snapshot};
use seawall_engine::stages::checkpoint::Checkpoint;
use seawall_plan::retention::{INCOMPLETE, LOST_PATHS, RUN, STATE, STEP};

use super::status::seconds;
use crate::snapshot_name::short;

const LAYOUT: &str = "checkpoint.layout";
const WORLD_SIZE: &str = "checkpoint.world-size";
const REASON: &str = "checkpoint.reason";
const FINGERPRINT: &str = "checkpoint.fingerprint";
const FINISHED: &str = "checkpoint.finished";
const COMPLETE: &str = "complete";
/// The clocks of this machine and of a file server may differ by so many seconds.
const SKEW_SECONDS: f64 = 2.0;

/// A checkpoint in the repository.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// The directory of its run.
    pub run: String,
    /// Its own directory or file.
    pub path: PathBuf,
    /// Its step.
    pub step: Option<u64>,
    /// The ranks that wrote it.
    pub world_size: Option<u64>,
    /// When it was finished, in Unix seconds.
    pub finished: f64,
    /// False where it was forced, or a repair left something out of it.
    pub is_complete: bool,
    /// False where it was forgotten and no prune has removed it yet.
    pub is_live: bool,
    /// True where `verify` found damage in it since: it does not count, and is taken again.
    pub is_damaged: bool,
    /// How many files it has.
    files: u64,
    /// When it was read, in Unix seconds.
    read: f64,
    layout: String,
    fingerprint: String,
}

impl Kept {
    fn read(snapshot: &Snapshot, is_live: bool) -> Option<Self> {
        let record = &snapshot.record;
        // Why the first: a user's own labels come behind.
        let label = |name: &str| record.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str());
        let number = |name: &str| label(name).and_then(|value| value.parse().ok());
        Some(Self {
            snapshot: record.id,
            run: label(RUN)?.to_owned(),
            path: PathBuf::from(std::ffi::OsString::from_vec(record.paths.first()?.clone())),
            step: number(STEP),
            world_size: number(WORLD_SIZE),
            finished: finished(label(FINISHED), seconds(record.time)),
            is_complete: label(STATE)? == COMPLETE && number(LOST_PATHS).is_none_or(|lost| lost == 0),
            is_live,
            is_damaged: false,
            files: record.files,
            read: seconds(record.time),
            layout: label(LAYOUT)?.to_owned(),
            fingerprint: label(FINGERPRINT)?.to_owned(),
        })
    }

    /// True if both are of the same files of the same step.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        (&self.run, self.step, &self.layout, &self.fingerprint)
            == (&other.run, other.step, &other.layout, &other.fingerprint)
    }

    /// What has gone of it, if what lies there now is what a deletion leaves: fewer files, and none that was written since.
    #[must_use]
    pub fn gone(&self, checkpoint: &Checkpoint) -> Option<String> {
        let is_same = self.is_complete && self.path == checkpoint.path && self.step == checkpoint.step;
        let modified = checkpoint.modified().filter(|_| is_same)?;
        let gone = self.files.checked_sub(checkpoint.files()).filter(|&gone| gone > 0)?;
        // Why the later of both: the clock of a file server may be another.
        let is_old = seconds(modified) <= self.read.max(self.finished) + SKEW_SECONDS;
        let (what, are) = if gone == 1 { ("file", "is") } else { ("files", "are") };
        let snapshot = short(&self.snapshot);
        is_old.then(|| format!("{gone} {what} that snapshot {snapshot} has {are} gone: it is being deleted"))
    }

    /// True if this is what lies there now.
    #[must_use]
    pub fn is_of(&self, checkpoint: &Checkpoint) -> bool {
        self.fingerprint == checkpoint.fingerprint
            && self.step == checkpoint.step
            && self.layout == checkpoint.layout.name()
            && self.run == run_of(checkpoint)
    }
}

/// The checkpoints of a host that this key's own member or an owner signed, in log order. Forgotten ones are among them as long as they can come back: what somebody
/// forgot on purpose is not taken again because it still lies on the disk. What a repair forgot is: it has lost something.
///
/// # Errors
/// When the store can't be read to see which of them damage has hit.
pub fn kept(repository: &Repository, host: &str, whole: &mut Whole) -> Result<Vec<Kept>> {
    let forgotten = repository.forgotten();
    let gone = forgotten.iter().filter(|forgotten| !was_forgotten_for_loss(forgotten));
    let gone = gone.map(|forgotten| (&forgotten.snapshot, false));
    let snapshots = repository.snapshots();
    let live = snapshots.iter().map(|snapshot| (snapshot, true));
    let of_host = gone.chain(live).filter(|(snapshot, _)| snapshot.record.host == host && repository.trusts(snapshot));
    let kept = of_host.filter_map(|(snapshot, is_live)| Some((snapshot, Kept::read(snapshot, is_live)?)));
    kept.map(|(snapshot, kept)| {
        let is_damaged = kept.is_live && !whole.contains(repository, snapshot)?;
        Ok(Kept { is_damaged, ..kept })
    })
    .collect()
}

/// Snapshots that were looked through after damage had been found, and which it did not hit: each with the entry that found
/// the newest damage then.
#[derive(Debug, Default)]
pub struct Whole(HashMap<SnapshotId, u64>);

impl Whole {
    fn contains(&mut self, repository: &Repository, snapshot: &Snapshot) -> Result<bool> {
        let state = repository.state();
        let said = state.standing.damage.values().chain(state.standing.claims.values());
        let newest = said.map(|damage| damage.number).max().unwrap_or(0);
        if self.0.get(&snapshot.record.id) == Some(&newest) {
            return Ok(true);
        }
        let is_whole = !is_hit(repository, snapshot)?;
        if is_whole && newest >= snapshot.number {
            self.0.insert(snapshot.record.id, newest);
        }
        Ok(is_whole)
    }
}

/// The run of a checkpoint as labels have it.
#[must_use]
pub fn run_of(checkpoint: &Checkpoint) -> String {
    String::from_utf8_lossy(checkpoint.run.as_os_str().as_bytes()).into_owned()
}

/// The labels of a checkpoint; `lack` is what an incomplete one lacks.
#[must_use]
pub fn of(checkpoint: &Checkpoint, lack: Option<&str>) -> Vec<(String, String)> {
    let Timestamp { seconds, nanos } = checkpoint.finished;
    let state = if lack.is_some() { INCOMPLETE } else { COMPLETE };
    let labels = [
        (RUN, Some(run_of(checkpoint))),
        (STEP, checkpoint.step.map(|step| step.to_string())),
        (LAYOUT, Some(checkpoint.layout.name().to_owned())),
        (WORLD_SIZE, checkpoint.world_size.map(|size| size.to_string())),
        (STATE, Some(state.to_owned())),
        (REASON, lack.map(str::to_owned)),
        (FINGERPRINT, Some(checkpoint.fingerprint.clone())),
        (FINISHED, Some(format!("{seconds}.{:03}", nanos / 1_000_000))),
    ];
    labels.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
/// When a checkpoint was finished that was stored by a backup of that time, in Unix seconds. Files may say that they were written
/// in the future; what is stored was finished before.
fn finished(label: Option<&str>, stored: f64) -> f64 {
    label
        .and_then(|value| value.parse().ok())
        .filter(|finished: &f64| finished.is_finite())
        .map_or(stored, |it| it.min(stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_finished_after_it_was_stored() {
        for (label, expected) in
            [(None, 100.0), (Some("90.5"), 90.5), (Some("170000"), 100.0), (Some("soon"), 100.0), (Some("NaN"), 100.0)]
        {
            assert_eq!(finished(label, 100.0), expected, "{label:?}");
        }
    }
}
