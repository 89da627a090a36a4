//! `seawall hold`: snapshots that nobody may forget.

use std::ffi::OsString;

use seawall_engine::forget::hold;

use crate::output::printable;
use crate::quantities::counted;
use crate::run::{Outcome, Run};
use crate::snapshot_name::{resolve_all, short};

const EXAMPLES: &str = "\
Examples:
    seawall hold latest:web1 --label 'case 4711'
    seawall hold --release 5f3a91c0 --label 'case 4711'
    seawall hold --list";

/// Hold snapshots, so that they can't be forgotten
///
/// A held snapshot is kept by every `forget`, by rule or by name, until an owner lifts the hold. A snapshot may have
/// several holds with different labels. Holds stand in the signed log, with who set them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The snapshots: the beginning of an id, `latest`, `latest:HOST:/SOURCE`, or a date
    #[arg(value_name = "SNAPSHOT", required_unless_present = "list", conflicts_with = "list")]
    pub snapshots: Vec<OsString>,

    /// Name of the hold: a case, a reason, a person
    #[arg(long, value_name = "TEXT", default_value = "hold")]
    pub label: String,

    /// Lift the hold of that name (owners only)
    #[arg(long, conflicts_with = "list")]
    pub release: bool,

    /// List what is held
    #[arg(long)]
    pub list: bool,
}

impl Arguments {
    /// Sets, lifts or lists.
    ///
    /// # Errors
    /// When a snapshot is not there, or the key does not allow it.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        if self.list {
            let state = repository.state();
            for (id, labels) in &state.holds {
                run.output.record("hold", serde_json::json!({ "snapshot": id.to_string(), "labels": labels }))?;
                for label in labels {
                    run.output.line(format!("{}  {}", short(id), printable(label.as_bytes())))?;
                }
            }
            return Outcome::done(serde_json::json!({ "held": state.holds.len() }));
        }
        let ids = resolve_all(&self.snapshots, &repository.snapshots(), &run.zone)?;
        let number = hold(&repository, &ids, &self.label, self.release)?;
        let what = if self.release { "no longer held" } else { "held" };
        let snapshots = counted(ids.len() as u64, "snapshot", "snapshots");
        run.output.report(format!("{snapshots} {what}: {}", printable(self.label.as_bytes())))?;
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        Outcome::done(serde_json::json!({ "snapshots": ids, "held": !self.release, "number": number }))
    }
}
