//! Plays the simulation (crates/engine/tests/sim): the real verbs of several clients over a simulated store, interleaved and
//! disturbed as a seed says. This only chooses and shows; the tests of the engine play some seeds each time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Options with a number, and the variable that hands it to the simulation.
const NUMBERS: [(&str, &str); 7] = [
    ("--seed", "SEAWALL_SIM_SEED"),
    ("--from", "SEAWALL_SIM_SEED"),
    ("--seeds", "SEAWALL_SIM_SEEDS"),
    ("--steps", "SEAWALL_SIM_STEPS"),
    ("--jobs", "SEAWALL_SIM_JOBS"),
    ("--job", "SEAWALL_SIM_JOB"),
    ("--harm", "SEAWALL_SIM_HARM"),
];

/// `false` when a seed loses something.
pub fn run(root: &Path, arguments: &[String]) -> Result<bool> {
    let (variables, is_release) = parse(arguments)?;
    let mut command = tests(root, is_release);
    command.args(["--", "--ignored", "--exact", "campaign::as_told", "--nocapture"]).envs(variables);
    process::succeeds(&mut command)
}

/// The command that builds and runs the simulation's tests.
pub fn tests(root: &Path, is_release: bool) -> Command {
    let mut command = Command::new("cargo");
    let arguments = ["test", "--locked", "--package", "seawall-engine", "--features", "simulation", "--test", "sim"];
    command.current_dir(root).args(arguments);
    if is_release {
        command.arg("--release");
    }
    command
}

fn parse(arguments: &[String]) -> Result<(Vec<(&'static str, String)>, bool)> {
    let (mut variables, mut is_release) = (Vec::new(), false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--release" => is_release = true,
            "--trace" => variables.push(("SEAWALL_SIM_TRACE", "1".to_owned())),
            option => {
                let Some((_, variable)) = NUMBERS.iter().find(|(name, _)| *name == option) else {
                    bail!("sim has no option {option}")
                };
                let number = rest.next().with_context(|| format!("{option} wants a number"))?;
                let number: u64 = number.parse().with_context(|| format!("{option} {number}: not a number"))?;
                variables.push((variable, number.to_string()));
            }
        }
    }
    Ok((variables, is_release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_variables() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (variables, is_release) = parse(&words("--seed 7 --seeds 100 --release --trace")).unwrap();
        let expected = [("SEAWALL_SIM_SEED", "7"), ("SEAWALL_SIM_SEEDS", "100"), ("SEAWALL_SIM_TRACE", "1")];
        assert_eq!(variables, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(is_release);
        for wrong in ["--seed", "--seed x", "--sed 1", "7"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
