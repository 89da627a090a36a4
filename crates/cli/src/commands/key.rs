//! `seawall key`: who may open the repository, and as what.
//!
//! Secrets are read from and written to files, never taken from arguments: what a command line holds, every process on
//! the machine can read. A public key is no secret and may be one.

mod add;
mod generate;
mod list;
mod remove;
mod rotate;

use clap::Subcommand;

use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall key add --role member --label web1 --new-key-file web1.key
    seawall key list
    seawall key remove web1 && seawall key rotate";

/// Add, list, remove and renew keys
///
/// Every key is a member of its own, with a label and one of three roles. A `member` adds snapshots and reads nothing
/// back: the key for a host that is backed up. A `reader` reads back too. An `owner` also forgets, prunes and changes
/// keys. What each does stands in the signed log: `seawall log show`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(add::Arguments),
    List(list::Arguments),
    Remove(remove::Arguments),
    Rotate(rotate::Arguments),
    Generate(generate::Arguments),
}

impl Arguments {
    /// Runs the one that was named.
    ///
    /// # Errors
    /// As that command.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        match &self.command {
            Command::Add(arguments) => arguments.run(run),
            Command::List(arguments) => arguments.run(run),
            Command::Remove(arguments) => arguments.run(run),
            Command::Rotate(arguments) => arguments.run(run),
            Command::Generate(arguments) => arguments.run(run),
        }
    }
}
