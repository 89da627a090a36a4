//! What would stay stored: a table with a line for each choice of snapshots to forget.
//!
//! The numbers are of the whole repository, as what one snapshot gives up another one may need. They are what a prune would
//! leave that gives up all it can (`--max-unused 0%`), without the index and the log.

use std::collections::{BTreeMap, BTreeSet};

use seawall_engine::forget::{Weight, weigh};
use seawall_engine::ids::SnapshotId;
use seawall_engine::repo::Repository;

use crate::output::{printable, table};
use crate::quantities::{bytes, count, counted};
use crate::run::Run;

/// Snapshots that would be forgotten, and by what.
pub(super) struct Choice {
    name: String,
    gone: BTreeSet<SnapshotId>,
}

impl Choice {
    /// The choice of this name.
    pub(super) fn new(name: &str, gone: BTreeSet<SnapshotId>) -> Self {
        Self { name: name.to_owned(), gone }
    }

    /// None is forgotten.
    pub(super) fn now() -> Self {
        Self::new("now", BTreeSet::new())
    }
}

/// Weighs each choice and shows them; the first is the one with which the others are compared.
///
/// # Errors
/// When trees can't be read.
pub(super) fn show(run: &Run, repository: &Repository, choices: &[Choice]) -> anyhow::Result<()> {
    let weights = weigh_all(run, repository, choices)?;
    let before = weights.first().map_or(0, |weight| weight.stored_bytes);
    let mut rows = vec![["KEPT", "SNAPSHOTS", "STORED", "ONLY AS BASES", "FREED"].map(str::to_owned).to_vec()];
    for (choice, weight) in choices.iter().zip(&weights) {
        let freed = before.saturating_sub(weight.stored_bytes);
        run.output.record(
            "size",
            serde_json::json!({
                "kept": choice.name,
                "snapshots": weight.snapshots,
                "stored_bytes": weight.stored_bytes,
                "base_bytes": weight.base_bytes,
                "freed_bytes": freed,
                "missing_chunks": weight.missing,
            }),
        )?;
        rows.push(vec![
            printable(choice.name.as_bytes()),
            count(weight.snapshots),
            bytes(weight.stored_bytes),
            bytes(weight.base_bytes),
            bytes(freed),
        ]);
    }
    run.output.line("")?;
    table(&rows, &[1, 2, 3, 4]).iter().try_for_each(|line| run.output.line(line))?;
    let missing = weights.iter().map(|weight| weight.missing).max().unwrap_or(0);
    if missing > 0 {
        let chunks = counted(missing, "chunk", "chunks");
        run.output.warn(&format!("snapshots need {chunks} that no index segment lists: the sizes are too small"));
    }
    Ok(())
}

/// The same snapshots are weighed once.
fn weigh_all(run: &Run, repository: &Repository, choices: &[Choice]) -> anyhow::Result<Vec<Weight>> {
    let display = run.display();
    let mut known: BTreeMap<&BTreeSet<SnapshotId>, Weight> = BTreeMap::new();
    let mut weights = Vec::new();
    for Choice { gone, .. } in choices {
        let weight = match known.get(gone) {
            Some(weight) => *weight,
            None => weigh(repository, gone, &display)?,
        };
        known.insert(gone, weight);
        weights.push(weight);
    }
    Ok(weights)
}
