//! Crashes for real: kills, stops and full file systems under the built binary (crates/cli/tests/cli/{crash,full}.rs), with a
//! table of outcomes. Every test run plays a few rounds; this plays many.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

const ROUNDS: u64 = 200;

/// `false` when something is lost.
pub fn run(root: &Path, arguments: &[String]) -> Result<bool> {
    let rounds = parse(arguments)?;
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["test", "--locked", "--package", "seawall", "--test", "cli", "--"]);
    // Why not at once: the tests stop and kill by the clock, and would slow each other down.
    command.args(["crash::", "full::", "--nocapture", "--test-threads", "1"]);
    process::succeeds(command.env("SEAWALL_CRASH_ROUNDS", rounds.to_string()))
}

fn parse(arguments: &[String]) -> Result<u64> {
    match arguments {
        [] => Ok(ROUNDS),
        [option, number] if option == "--rounds" => number.parse().with_context(|| format!("--rounds {number}")),
        _ => bail!("crash takes only --rounds N"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_a_number() {
        let parsed = |words: &[&str]| parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).ok();
        assert_eq!((parsed(&[]), parsed(&["--rounds", "7"])), (Some(ROUNDS), Some(7)));
        assert_eq!((parsed(&["--rounds"]), parsed(&["--rounds", "x"]), parsed(&["7"])), (None, None, None));
    }
}
