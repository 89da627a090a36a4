//! The machine's own limit: the engine's example `machine_limit` reads, hashes, encrypts and writes the same bytes with
//! nothing else, by as many threads as there are cores.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Place;
use super::workloads::Workload;
use crate::process;

/// What the machine needs for one workload's bytes, in seconds.
#[derive(Debug, Clone, Deserialize)]
pub struct Limit {
    /// The workload.
    #[serde(default)]
    pub workload: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Number of its files.
    pub files: u64,
    /// Only reading.
    pub read_s: f64,
    /// Only writing as many bytes, with a sync at the end.
    pub write_s: f64,
    /// Read, BLAKE3, AES-256-GCM, write, sync.
    pub all_s: f64,
}

/// Runs the example on state 0 of a workload.
pub fn measure(place: &Place, workload: &Workload) -> Result<Limit> {
    workload.set(place, 0)?;
    let target = place.data.join("limit");
    let _ = fs::remove_dir_all(&target);
    fs::create_dir_all(&target).context("cannot make a place for the machine's limit")?;
    let cargo =
        ["run", "--quiet", "--release", "--locked", "--package", "seawall-engine", "--example", "machine_limit"];
    let mut command = Command::new("cargo");
    command.current_dir(&place.root).args(cargo).arg("--").arg(workload.source(place)).arg(&target);
    let text = process::capture(&mut command)?;
    fs::remove_dir_all(&target).context("cannot remove what the machine's limit wrote")?;
    let limit: Limit = serde_json::from_str(&text).context("cannot read what machine_limit printed")?;
    Ok(Limit { workload: workload.name.to_owned(), ..limit })
}
