//! What must hold when everybody is done: every snapshot in the log restores bit for bit, verify finds nothing, and all
//! that goes on working.

use std::collections::BTreeMap;
use std::sync::Arc;

use seawall_engine::monitor::Silent;
use seawall_engine::prune::{MaxUnused, PruneOptions, prune};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use super::client::{Verb, difference, files_of};
use super::run::{Run, Summary};

/// Looks at everything, lets each client back up, prune and restore once more, and looks again.
pub fn check(run: &mut Run) -> Result<Summary, String> {
    whole(run)?;
    let time = run.world.clock();
    for client in 0..run.clients() {
        let backup = run.last_backup(client);
        run.alone(client, backup)?;
    }
    run.alone(0, Verb::Prune { window: 0, orphans: 86_400, left: 0, batch: 3, time })?;
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

/// Every live snapshot gives back what was backed up, and nothing is damaged.
fn whole(run: &Run) -> Result<(), String> {
    let fresh = open(run)?;
    let expected = run.expected.lock().unwrap();
    for snapshot in fresh.snapshots() {
        let tag = &snapshot.record.tags[0];
        let found = files_of(&fresh, &snapshot.record.root).map_err(|error| format!("snapshot {tag}: {error}"))?;
        let found: BTreeMap<_, _> = found.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect();
        if let Some(what) = difference(&expected[tag], &found) {
            return Err(format!("snapshot {tag}: {what}"));
        }
    }
    let options = VerifyOptions { read: Read::All, record: false, threads: 1, budget_bytes: 16 * MIB };
    let report = verify(&fresh, &options, &Silent).map_err(|error| format!("verify fails: {error}"))?;
    match report.damage.first() {
        Some(damage) => Err(format!("{} is damaged: {}", damage.object, damage.what)),
        None => Ok(()),
    }
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
