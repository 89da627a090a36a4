//! `cargo xtask test`: everything that must hold before a change lands, in the order in which trouble is cheap to find.
//!
//!     packages -> format -> lints -> tidy -> tests -> doc tests -> simulation -> independent reader
//!
//! All steps run even when one failed, so that one run shows all trouble. A step that cannot run says why; with CI=true
//! that is a failure. The last line counts the tests that really ran. Seeded fuzzing of every decoder is one of the
//! engine's tests.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::surroundings::{find_program, is_ci, now};
use crate::{process, sim, tidy};

mod counts;
mod needs;
pub use needs::apt_get;
mod rescue;

use counts::Counts;

/// How a step ended.
pub enum Outcome {
    /// Done, and good.
    Passed,
    /// Done, and not good.
    Failed,
    /// Not done, and why.
    Skipped(String),
}

impl Outcome {
    fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

type Step = (&'static str, fn(&Path, &mut Counts) -> Result<Outcome>);

const STEPS: [Step; 8] = [
    ("packages", |_, _| needs::install()),
    ("format", |root, _| check(cargo(root).args(["fmt", "--all", "--check"]))),
    ("lints", |root, _| {
        check(cargo(root).args([
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--locked",
            "--features",
            "seawall-engine/simulation",
            "--",
            "-D",
            "warnings",
        ]))
    }),
    ("tidy", |root, _| tidy::run(root).map(Outcome::of)),
    ("tests", tests),
    ("doc tests", doc_tests),
    ("simulation", |root, counts| watch(sim::tests(root, false).args(["--", "--nocapture"]), counts)),
    ("independent reader", rescue::run),
];

/// Runs all steps in the project at `root`; `false` when one failed, or was skipped in CI.
pub fn run(root: &Path) -> Result<bool> {
    let (mut counts, mut summary, mut good) = (Counts::default(), Vec::new(), true);
    for (name, step) in STEPS {
        println!("==> {name}");
        let begun = now();
        let outcome = step(root, &mut counts).unwrap_or_else(|error| {
            println!("{error:#}");
            Outcome::Failed
        });
        let text = match &outcome {
            Outcome::Passed => "ok".to_owned(),
            Outcome::Failed => "FAILED".to_owned(),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        good &= matches!(outcome, Outcome::Passed) || (matches!(outcome, Outcome::Skipped(_)) && !is_ci());
        let line = format!("{name:<20} {:>6.1} s  {text}", begun.elapsed().as_secs_f64());
        println!("{line}");
        summary.push(line);
    }
    println!("\n{}\n\n{} passed, {} failed", summary.join("\n"), counts.passed, counts.failed);
    Ok(good && counts.failed == 0 && counts.passed > 0)
}

fn tests(root: &Path, counts: &mut Counts) -> Result<Outcome> {
    if find_program("cargo-nextest").is_some() {
        return watch(cargo(root).args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]), counts);
    }
    // Doc tests have their own step.
    watch(cargo(root).args(["test", "--workspace", "--locked", "--all-targets", "--no-fail-fast"]), counts)
}

fn doc_tests(root: &Path, counts: &mut Counts) -> Result<Outcome> {
    watch(cargo(root).args(["test", "--workspace", "--locked", "--doc", "--no-fail-fast"]), counts)
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    command
}

fn check(command: &mut Command) -> Result<Outcome> {
    process::succeeds(command).map(Outcome::of)
}

fn watch(command: &mut Command, counts: &mut Counts) -> Result<Outcome> {
    process::watch(command, &mut |line| counts.read(line)).map(Outcome::of)
}
