//! `seawall cat`: one file of a snapshot on standard output.

use std::ffi::OsString;
use std::io::{self, Write};

use seawall_engine::browse::cat;
use seawall_engine::error::Error;

use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

const EXAMPLES: &str = "\
Examples:
    seawall cat latest:/etc/fstab
    seawall cat 2026-11-22:/srv/db.sql | psql";

/// Write one file of a snapshot to standard output
///
/// With `--json` the summary goes to standard error.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The file
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub file: OsString,
}

impl Arguments {
    /// Writes it.
    ///
    /// # Errors
    /// When the path is no regular file, can't be read back, or the output can't be written.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let named = SnapshotPath::parse(&self.file, &run.zone)?;
        let repository = run.open()?;
        let snapshots = repository.snapshots();
        let snapshot = named.resolve(&snapshots)?;
        let mut output = Standard { run, failed: None };
        let written = cat(&repository, &snapshot.record.root, &named.path_in(snapshot), None, &mut output);
        match output.failed {
            Some(_) if run.stop.requested() => Err(Error::Interrupted.into()),
            Some(error) => Err(error.into()),
            None => Outcome::done(serde_json::json!({ "bytes": written? })),
        }
    }
}

/// Standard output, which remembers why it failed and fails once the user wants to stop.
struct Standard<'r> {
    run: &'r Run,
    failed: Option<io::Error>,
}

impl Write for Standard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written =
            if self.run.stop.requested() { Err(io::Error::other("interrupted")) } else { self.run.output.raw(bytes) };
        written.map(|()| bytes.len()).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
