//! `seawall key rotate`: renews the data key.

use seawall_engine::keys::{Rotated, rotate};
use serde::Serialize;

use crate::failure::Exit;
use crate::quantities::counted;
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall key remove laptop && seawall key rotate
    seawall key rotate --resume";

/// Renew the data key, so that removed keys can't read what is written from now on
///
/// Every owner and reader is given the new key through the log; nobody has to do anything. No data is stored again:
/// only the small keys of the writing sessions are. Backups may run meanwhile. Run again after an interruption.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Only finish a rotation that was interrupted
    #[arg(long)]
    pub resume: bool,

    /// Go on where keys of the first days can't be given the new key; they will read nothing any more
    #[arg(long, conflicts_with = "resume")]
    pub leave_out: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    generation: u32,
    number: Option<u64>,
    sessions_wrapped: u64,
    objects_deleted: u64,
    left_out: &'a [String],
    unreadable: Vec<String>,
}

impl Arguments {
    /// Renews it.
    ///
    /// # Errors
    /// When the key is not an owner's, somebody would be left out, or the store fails.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open_to_write(&run.location()?)?;
        let display = run.display();
        let rotated = rotate(&repository, self.resume, self.leave_out, &display)?;
        drop(display);
        report(run, &rotated)
    }
}

fn report(run: &Run, rotated: &Rotated) -> anyhow::Result<Outcome> {
    let begun = if rotated.number.is_some() { "Renewed the data key" } else { "No new data key was made" };
    run.output.report(format!("{begun}: generation {}", rotated.generation))?;
    run.output.report(format!(
        "  wrapped the keys of {} anew, deleted {} of older generations",
        counted(rotated.wrapped, "session", "sessions"),
        counted(rotated.deleted, "object", "objects")
    ))?;
    for label in &rotated.left_out {
        run.output.warn(&format!("{label} was left out: add a new key for it (`key add`) and remove this one"));
    }
    for session in &rotated.unreadable {
        run.output.warn(&format!("the key of session {session} can't be read and stays as it is; `verify` says more"));
    }
    let summary = Summary {
        generation: rotated.generation,
        number: rotated.number,
        sessions_wrapped: rotated.wrapped,
        objects_deleted: rotated.deleted,
        left_out: &rotated.left_out,
        unreadable: rotated.unreadable.iter().map(ToString::to_string).collect(),
    };
    let exit = if rotated.unreadable.is_empty() { Exit::Done } else { Exit::Damage };
    Outcome::with(exit, summary)
}
