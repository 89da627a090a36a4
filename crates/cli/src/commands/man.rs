//! `seawall man`: the manual pages, made from the same definitions as the help.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory;
use seawall_engine::error::Error;

use crate::quantities;
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall man /usr/local/share/man/man1
    man seawall-protect";

/// Write the manual pages into a directory
///
/// One page for `seawall` and one for each command. The directory is made if it does not exist.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Where to write them; made if it does not exist
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

impl Arguments {
    /// Writes the pages.
    ///
    /// # Errors
    /// When the directory or a page can't be written.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::file(directory, "cannot make this directory", error))?;
        write_pages(crate::arguments::Arguments::command(), directory)
            .with_context(|| format!("cannot write the manual pages to {}", directory.display()))?;
        let pages = crate::arguments::Arguments::command().get_subcommands().count() as u64 + 1;
        let said = quantities::counted(pages, "manual page", "manual pages");
        run.output.report(format!("Wrote {said} to {}", directory.display()))?;
        Outcome::done(serde_json::json!({ "pages": pages, "directory": directory.to_string_lossy() }))
    }
}

fn write_pages(command: clap::Command, directory: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(command, directory)
}
