//! Runs the model of the protocol (crates/engine/tests/it/model) with its output shown: states, depth, and for each rule
//! that is left out the shortest way to lose something.
//!
//! The searches are tests of the engine, so `cargo xtask test` runs the smaller ones too. This only chooses and shows.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process;

/// `false` when something can be lost, or a rule is not needed.
pub fn run(root: &Path, is_deep: bool) -> Result<bool> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["test", "--package", "seawall-engine", "--test", "it", "model::", "--"]);
    command.args(["--nocapture", "--test-threads", "1"]);
    if is_deep {
        command.arg("--include-ignored");
    }
    process::succeeds(&mut command)
}
