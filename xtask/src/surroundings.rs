//! What xtask asks of the machine it runs on: the project's root, programs on the PATH, the clock, whether this is CI,
//! who runs it. Everything that reads the environment is here.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

/// The root of the work tree: the directory above this crate.
pub fn project_root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the project's root")?;
    root.canonicalize().with_context(|| format!("cannot find the project at {}", root.display()))
}

/// Whether the environment says `CI=true`: then nothing may be skipped.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Whether commands run as the superuser.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0\t")))
}

/// Where `program` lies on the PATH, or in the sbin directories that a user's PATH leaves out.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// A point in time, to measure how long a step took.
#[expect(clippy::disallowed_methods, reason = "xtask imports nothing of the engine, and its durations are only shown")]
pub fn now() -> Instant {
    Instant::now()
}
