//! `seawall key remove`: takes a key away.

use seawall_engine::error::Error;
use seawall_engine::format::slot::Role;
use seawall_engine::keys::{find, list, remove};

use crate::output::printable;
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall key remove web1
    seawall key remove 5f3a91c0
    seawall key remove laptop && seawall key rotate";

/// Remove a key
///
/// The log takes nothing from its member any more, and its slot is deleted. The last owner's key can't be removed.
/// Somebody who kept a copy of the key and of the store can still read what is there now; `key rotate` shuts that key
/// out from what is written afterwards.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The key: its label, or the beginning of the id of its slot or member
    #[arg(value_name = "KEY")]
    pub key: String,

    /// Also the key that opens the repository in this very command
    #[arg(long)]
    pub yes: bool,
}

impl Arguments {
    /// Removes it.
    ///
    /// # Errors
    /// When there is no such key, or it may not be removed.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open_to_write(&run.location()?)?;
        let keys = list(&repository)?;
        let key = find(&keys, &self.key)?;
        let shown = printable(key.label().as_bytes());
        if key.is_own && !self.yes {
            return Err(Error::Usage(format!("{shown} is the key that you are using: say --yes to remove it")).into());
        }
        let number = remove(&repository, key)?;
        run.output.report(format!("Removed the key {shown}"))?;
        if key.member.is_none() {
            run.output.warn(
                "the log names no member for this slot: only the slot is gone. Who opened it before keeps its rights; \
                 add new keys, remove those of the first days, then run `seawall key rotate`",
            );
        } else if key.role() != Some(Role::Member) {
            run.output.note("it could read; `seawall key rotate` keeps what is written from now on from it");
        }
        let slot = key.slot.as_ref().map(|(id, _)| id.to_string());
        let member = key.member.as_ref().map(|(id, _)| id.to_string());
        Outcome::done(serde_json::json!({ "label": key.label(), "slot": slot, "member": member, "number": number }))
    }
}
