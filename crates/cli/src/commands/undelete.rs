//! `seawall undelete`: brings forgotten snapshots back.

use std::ffi::OsString;

use seawall_engine::error::{Error, Result};
use seawall_engine::ids::SnapshotId;
use seawall_engine::repo::{Repository, Snapshot};
use seawall_engine::undelete::undelete;
use serde::Serialize;

use crate::quantities::counted;
use crate::run::{Outcome, Run};
use crate::snapshot_name::{Name, SnapshotPath, short};

const EXAMPLES: &str = "\
Examples:
    seawall snapshots --forgotten        what can still come back
    seawall undelete 3fa94c01
    seawall undelete 3fa94c01 77d0e2b5";

/// Bring forgotten snapshots back
///
/// A forgotten snapshot can come back until a prune has deleted what it needs: 7 days after the first prune that
/// followed, unless that was told another window. `seawall snapshots --forgotten` lists what can still come back. Either all
/// that are named come back, or none. It needs an owner's key.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The beginning of the id of a forgotten snapshot
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshots: Vec<OsString>,
}

/// What came back, in JSON.
#[derive(Serialize)]
struct UndeleteSummary {
    snapshots: Vec<String>,
    packs: u64,
    number: u64,
}

impl Arguments {
    /// Brings them back.
    ///
    /// # Errors
    /// When one was not forgotten or can't come back, or the key is no owner's.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        let ids = self.ids(run, &repository)?;
        let display = run.display();
        let report = undelete(&repository, &ids, &display)?;
        drop(display);
        let names: Vec<String> = ids.iter().map(short).collect();
        run.output.report(format!(
            "{} back: {}; {} needed again",
            counted(ids.len() as u64, "snapshot is", "snapshots are"),
            names.join(" "),
            counted(report.packs, "pack is", "packs are")
        ))?;
        let snapshots = ids.iter().map(SnapshotId::to_string).collect();
        Outcome::done(UndeleteSummary { snapshots, packs: report.packs, number: report.number })
    }

    fn ids(&self, run: &Run, repository: &Repository) -> Result<Vec<SnapshotId>> {
        let forgotten: Vec<Snapshot> = repository.forgotten().into_iter().map(|it| it.snapshot).collect();
        let mut ids = Vec::new();
        for written in &self.snapshots {
            let name = SnapshotPath::parse(written, &run.zone)?;
            if !matches!(name, SnapshotPath { name: Name::Prefix(_), path: None, .. }) {
                return Err(Error::Usage(format!("{}: name a forgotten snapshot by its id", name.written)));
            }
            let live = repository.snapshots();
            if forgotten.is_empty() || name.resolve(&live).is_ok() && name.resolve(&forgotten).is_err() {
                let why = "none of that id is forgotten and can still come back";
                return Err(Error::NotFound(format!("{}: {why}; `snapshots --forgotten` lists those", name.written)));
            }
            let id = name.resolve(&forgotten)?.record.id;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}
