//! `seawall snapshots`: the table of recovery points.

use std::ffi::OsString;
use std::path::Path;

use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::repo::Snapshot;
use serde::Serialize;

use crate::moments;
use crate::output::{JsonPath, printable, table};
use crate::quantities;
use crate::run::{Outcome, Run};
use crate::snapshot_name::{holds, short};

const EXAMPLES: &str = "\
Examples:
    seawall snapshots -r /backup/repo
    seawall snapshots --host web1 --path /srv --latest 5
    seawall snapshots --forgotten";

/// List the snapshots, oldest first
///
/// STORED is what the snapshot added to the repository, after deduplication and compression.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Only those of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,

    /// Only those with this tag; several must all be there
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,

    /// Only those that hold this absolute path
    #[arg(long, value_name = "PATH")]
    pub path: Option<OsString>,

    /// Only the newest N
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,

    /// Those that were forgotten and can still come back with `undelete`
    #[arg(long)]
    pub forgotten: bool,
}

/// A snapshot in JSON. Times are RFC 3339 in UTC, sizes bytes.
#[derive(Serialize)]
pub struct SnapshotLine {
    id: String,
    time: String,
    host: String,
    user: String,
    paths: Vec<JsonPath>,
    tags: Vec<String>,
    labels: Vec<(String, String)>,
    files: u64,
    entries: u64,
    bytes: u64,
    bytes_read: u64,
    bytes_stored: u64,
    problems: u64,
    seconds: f64,
    program: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    number: u64,
}

impl From<&Snapshot> for SnapshotLine {
    fn from(snapshot: &Snapshot) -> Self {
        let record = &snapshot.record;
        Self {
            id: record.id.to_string(),
            time: moments::rfc3339(record.time),
            host: record.host.clone(),
            user: record.user.clone(),
            paths: record.paths.iter().map(|path| JsonPath::from(path.as_slice())).collect(),
            tags: record.tags.clone(),
            labels: record.labels.clone(),
            files: record.files,
            entries: record.entries,
            bytes: record.bytes,
            bytes_read: record.bytes_read,
            bytes_stored: record.bytes_stored,
            problems: record.problems,
            seconds: record.duration_ms as f64 / 1000.0,
            program: record.program.clone(),
            parent: record.parent.map(|parent| parent.to_string()),
            number: snapshot.number,
        }
    }
}

impl Arguments {
    /// Lists them.
    ///
    /// # Errors
    /// When the repository can't be opened or the output written.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        let all = match self.forgotten {
            true => repository.forgotten().into_iter().map(|forgotten| forgotten.snapshot).collect(),
            false => repository.snapshots(),
        };
        let chosen = self.choose(&all)?;
        let mut rows =
            vec![["ID", "TIME", "HOST", "FILES", "SIZE", "STORED", "TAGS", "PATHS"].map(str::to_owned).to_vec()];
        for snapshot in &chosen {
            run.output.record("snapshot", SnapshotLine::from(*snapshot))?;
            rows.push(row(snapshot, run));
        }
        for line in table(&rows, &[3, 4, 5]) {
            run.output.line(line)?;
        }
        Outcome::done(serde_json::json!({ "snapshots": chosen.len() }))
    }

    fn choose<'s>(&self, all: &'s [Snapshot]) -> Result<Vec<&'s Snapshot>> {
        let path = self.path.as_ref().map(|path| {
            TreeKey::from_path(Path::new(path))
                .ok_or_else(|| Error::Usage(format!("--path {}: write an absolute path", path.to_string_lossy())))
        });
        let path = path.transpose()?;
        let mut chosen: Vec<&Snapshot> = all
            .iter()
            .filter(|snapshot| self.host.as_ref().is_none_or(|host| *host == snapshot.record.host))
            .filter(|snapshot| self.tag.iter().all(|tag| snapshot.record.tags.contains(tag)))
            .filter(|snapshot| path.as_ref().is_none_or(|path| holds(snapshot, path)))
            .collect();
        if let Some(latest) = self.latest {
            chosen.drain(..chosen.len().saturating_sub(latest));
        }
        Ok(chosen)
    }
}

fn row(snapshot: &Snapshot, run: &Run) -> Vec<String> {
    let record = &snapshot.record;
    let paths: Vec<String> = record.paths.iter().map(|path| printable(path)).collect();
    let tags: Vec<String> = record.tags.iter().map(|tag| printable(tag.as_bytes())).collect();
    vec![
        short(&record.id),
        moments::show(record.time, &run.zone),
        printable(record.host.as_bytes()),
        quantities::count(record.files),
        quantities::bytes(record.bytes),
        quantities::bytes(record.bytes_stored),
        tags.join(","),
        paths.join(" "),
    ]
}
