//! What must hold when everybody is done: every snapshot in the log restores bit for bit, verify finds nothing, and all
//! that goes on working.

use std::collections::BTreeMap;
use std::sync::Arc;

use seawall_engine::error::Error;
use seawall_engine::ids::SnapshotId;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::{MaxUnused, PruneOptions, prune};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::verify::verify;

use super::client::{Verb, difference, files_of, is_repaired, verify_all};
use super::run::{Run, Summary};

/// Looks at everything, lets each client back up, prune and restore once more, and looks again.
pub fn check(run: &mut Run) -> Result<Summary, String> {
    if run.has_harm() {
        mend(run)?;
    }
    whole(run)?;
    let time = run.world.clock();
    for client in 0..run.clients() {
        let backup = run.last_backup(client, "last");
        run.alone(client, backup)?;
    }
    run.alone(0, Verb::Prune { window: 0, orphans: 86_400, left: 0, batch: 3, despite_missing: false, time })?;
    run.alone(0, Verb::Restore)?;
    clean(run)?;
    whole(run)?;
    run.accounts.check_forgotten()?;
    let snapshots = run.accounts.live().len() as u64;
    Ok(Summary { entries: run.accounts.entries(), removals: run.accounts.removals, snapshots, ..Summary::default() })
}

fn open(run: &Run) -> Result<Repository, String> {
    let store: Arc<dyn Store> = run.world.clone();
    Repository::open(store, &run.owner, None).map_err(|error| format!("the repository can't be opened: {error}"))
}

/// After accidents: what has not lost anything can be read; what has is mended as docs/healing.md says, from the sources as
/// far as they have it, and what is lost for good is dropped.
fn mend(run: &mut Run) -> Result<(), String> {
    run.alone(0, Verb::Reindex)?;
    let hurt = run.accounts.hurt_snapshots();
    readable(run, &|id| hurt.contains(id))?;
    let mut healed = Vec::new();
    // Why twice: a copy whose base is lost can't be judged before that is stored again. Why all is read then: what a list of
    // a long file names, and no segment lists since a pack was lost with its segment, nobody else would look up.
    for (round, force_read) in [("mended", false), ("healed", true)] {
        run.alone(0, Verb::Verify { record: true })?;
        for client in 0..run.clients() {
            let Verb::Backup { tag, time, .. } = run.last_backup(client, round) else { unreachable!() };
            healed.push(tag.clone());
            run.alone(client, Verb::Backup { tag, time, force_read })?;
        }
    }
    let hurt = run.accounts.hurt_snapshots();
    for snapshot in open(run)?.snapshots().iter().filter(|snapshot| hurt.contains(&snapshot.record.id)) {
        if healed.contains(&snapshot.record.tags[0]) {
            let lost = run.accounts.losses_of(&snapshot.record.id);
            return Err(format!("{} was backed up after a verify and lacks {lost}", snapshot.record.tags[0]));
        }
    }
    readable(run, &|id| hurt.contains(id))?;
    run.alone(0, Verb::Drop)?;
    match run.accounts.lost_snapshots().first() {
        Some(id) => Err(format!("after a repair {id} lacks {}", run.accounts.losses_of(id))),
        None => Ok(()),
    }
}

/// Every live snapshot gives back what was backed up, and nothing is damaged.
fn whole(run: &Run) -> Result<(), String> {
    readable(run, &|_| false)?;
    let fresh = open(run)?;
    let report = verify(&fresh, &verify_all(false), &Silent).map_err(|error| format!("verify fails: {error}"))?;
    // What nobody lacks may be damaged after accidents, and stay so until a prune.
    match report.damage.iter().find(|damage| !run.has_harm() || !damage.snapshots.is_empty()) {
        Some(damage) => Err(format!("{} is damaged: {}; it hits {:?}", damage.object, damage.what, damage.paths)),
        None => Ok(()),
    }
}

/// Every live snapshot gives back what was backed up, but for those that may fail.
fn readable(run: &Run, may_fail: &dyn Fn(&SnapshotId) -> bool) -> Result<(), String> {
    let fresh = open(run)?;
    let expected = run.expected.lock().unwrap();
    for snapshot in fresh.snapshots() {
        let tag = &snapshot.record.tags[0];
        let found = match files_of(&fresh, &snapshot.record.root) {
            Err(Error::Damaged(_) | Error::NotFound(_)) if may_fail(&snapshot.record.id) => continue,
            found => found.map_err(|error| format!("snapshot {tag}: {error}"))?,
        };
        let found: BTreeMap<_, _> = found.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect();
        if let Some(what) = difference(&expected[tag], is_repaired(&snapshot.record), &found) {
            return Err(format!("snapshot {tag}: {what}"));
        }
    }
    Ok(())
}

/// When nobody runs any more, a thorough prune leaves only what the live snapshots need.
fn clean(run: &Run) -> Result<(), String> {
    let owner = open(run)?;
    let options = PruneOptions {
        window: std::time::Duration::ZERO,
        orphans: std::time::Duration::ZERO,
        max_unused: MaxUnused::Bytes(0),
        time: run.world.clock(),
        ..PruneOptions::default()
    };
    for _ in 0..2 {
        prune(&owner, &options, &mut |_| {}, &Silent).map_err(|error| format!("the last prune fails: {error}"))?;
    }
    let state = owner.state();
    let waiting = state.standing.condemned.len();
    if waiting > 0 {
        return Err(format!("{waiting} packs are condemned and stay after two thorough prunes"));
    }
    Ok(())
}
