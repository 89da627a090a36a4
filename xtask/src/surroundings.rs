//! What xtask asks of the machine it runs on: the project's root, cargo's target directory, programs on the PATH, the
//! clock, whether this is CI, who runs it. Everything that reads the environment is here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process;

/// The root of the work tree: of this crate as `cargo run` names it, else the one around the working directory.
///
/// Why not a path from compile time: two clones that share a target directory may run each other's binary.
pub fn project_root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = std::env::current_dir().context("cannot tell the working directory")?;
    let root = find_root(manifest.iter().chain([&here])).context("not inside the project's work tree")?;
    root.canonicalize().with_context(|| format!("cannot find the project at {}", root.display()))
}

/// The first directory at or above one of these that holds this crate.
fn find_root<'p>(starts: impl IntoIterator<Item = &'p PathBuf>) -> Option<&'p Path> {
    let mut directories = starts.into_iter().flat_map(|start| start.ancestors());
    directories.find(|directory| directory.join("xtask/Cargo.toml").is_file() && directory.join("Cargo.lock").is_file())
}

/// Where cargo puts what it builds in the project at `root`: CARGO_TARGET_DIR and cargo's settings are heeded.
pub fn target_directory(root: &Path) -> Result<PathBuf> {
    let arguments = ["metadata", "--format-version=1", "--locked", "--no-deps"];
    let text = process::capture(Command::new("cargo").current_dir(root).args(arguments))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cannot read cargo metadata")?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target directory")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_what_runs_this_or_what_lies_around_it() {
        let root = project_root().unwrap();
        assert_eq!(root, Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap());
        let [elsewhere, inside] = [PathBuf::from("/"), root.join("xtask/src/tidy")];
        assert_eq!(find_root([&inside]), Some(root.as_path()));
        assert_eq!(find_root([&elsewhere, &inside]), Some(root.as_path()));
        assert_eq!(find_root([&elsewhere]), None);
    }

    #[test]
    fn what_cargo_built_lies_in_its_target_directory() {
        let target = target_directory(&project_root().unwrap()).unwrap();
        let this = std::env::current_exe().unwrap().canonicalize().unwrap();
        assert!(this.starts_with(target.canonicalize().unwrap()), "{} in {}", this.display(), target.display());
    }
}
