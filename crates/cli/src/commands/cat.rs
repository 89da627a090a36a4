//! `seawall cat`: one file of a snapshot on standard output.

use std::ffi::OsString;

use seawall_engine::entry::{Content, Entry, Extent, Kind};
use seawall_engine::error::Error;
use seawall_engine::repo::Repository;

use crate::output::printable;
use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

/// Holes are written in pieces of this many zero bytes.
const ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Write one file of a snapshot to standard output
///
/// With `--json` the summary goes to standard error.
///
/// Examples:
///     seawall cat latest:/etc/fstab
///     seawall cat 2026-11-22:/srv/db.sql | psql
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
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
        let entry = repository.tree(&snapshot.record.root).get(&named.path)?;
        let entry =
            entry.ok_or_else(|| Error::NotFound(format!("{}: the snapshot has no such path", named.written)))?;
        let written = write_content(&entry, &named.written, &repository, run)?;
        Outcome::done(serde_json::json!({ "bytes": written }))
    }
}

fn write_content(entry: &Entry, name: &str, repository: &Repository, run: &Run) -> anyhow::Result<u64> {
    let content = match &entry.kind {
        Kind::File(Content::Inline(bytes)) => {
            run.output.raw(bytes)?;
            return Ok(bytes.len() as u64);
        }
        Kind::File(content) => content,
        Kind::Directory => return Err(Error::Usage(format!("{name} is a directory")).into()),
        Kind::Symlink(target) => {
            return Err(Error::Usage(format!("{name} is a symbolic link to {}", printable(target))).into());
        }
        _ => return Err(Error::Usage(format!("{name} is no regular file")).into()),
    };
    let mut reader = repository.blob_reader();
    let mut plain = Vec::new();
    let mut written = 0;
    for extent in repository.extents(content) {
        if run.stop.requested() {
            return Err(Error::Interrupted.into());
        }
        let extent = extent?;
        match extent {
            Extent::Chunk { id, .. } => {
                reader.read(&id, &mut plain)?;
                run.output.raw(&plain)?;
            }
            Extent::Hole { length } => write_zeros(length, run)?,
        }
        written += extent.length();
    }
    Ok(written)
}

fn write_zeros(length: u64, run: &Run) -> anyhow::Result<()> {
    let mut left = length;
    while left > 0 && !run.stop.requested() {
        let count = left.min(ZEROS.len() as u64);
        run.output.raw(&ZEROS[..usize::try_from(count).unwrap_or(ZEROS.len())])?;
        left -= count;
    }
    if left > 0 { Err(Error::Interrupted.into()) } else { Ok(()) }
}
