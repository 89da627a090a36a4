//! `cargo xtask`: the project's own tools, run from anywhere inside the work tree.
//!
//!     cargo xtask test     format, lints, tidy, all tests, the independent reader
//!     cargo xtask tidy     the house rules that a compiler does not check
//!     cargo xtask model    the model of the protocol, with its counts and traces
//!     cargo xtask sim      the real verbs over a simulated store, interleaved and disturbed by a seed
//!     cargo xtask crash    kills, stops and full disks for real, on the built binary
//!     cargo xtask bench    side by side with restic, rustic and borg on data that anybody can have
//!
//! It imports no crate of the product: what it measures and checks, it runs as a user would.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bench;
mod crash;
mod model;
mod process;
mod sim;
mod surroundings;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  test                    format, lints, tidy, all tests, the independent reader; installs what they need when
                          root on Debian; with CI=true nothing may be skipped
  tidy                    only the house rules: lengths, headers, imports, words, links, licences, the format page
  model [--deep]          search the model of the protocol for a way to lose data, then leave out each rule and print the
                          shortest way that this opens; --deep searches further (minutes, some GiB of memory)
  sim [OPTIONS]           play the simulation (docs/testing.md); a seed is a run, each time the same
      --seed N, --from N  the first seed (1)
      --seeds K           how many (1)
      --steps M           decisions in each run (500)
      --jobs J            processes (1)
      --job J             play as this one of several did: the names of files are part of a run
      --trace             show each call
      --release           build with optimisation, for many seeds
  crash [--rounds N]      kill, stop and fill the disk under the built binary, with others at work; 200 rounds of kills
  bench [OPTIONS]         compare with restic, rustic and borg; see docs/benchmarks.md
      --quick             small data, one round: shows that everything runs, not a measurement
      --rounds N          rounds (3); the order of the tools rotates from round to round
      --only NAME         only this workload: server, dataset, checkpoints, bf16 or models (may be repeated)
      --data DIR          where data, tools and repositories are kept (target/bench)
      --without TOOL      leave a tool out: seawall, restic, rustic or borg (may be repeated)
      --prepare           only make the data and install the rivals
      --resume            go on where an interrupted run of the same build ended: workloads with all rounds are kept
      --codecs            only the tables of encodings by kind of number, beside zstd and ZipNN, and hf-xet's path
      --publish           write the tables and raw rows to docs/benchmarks.md and docs/benchmarks.json
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one command; `false` when it ran and found something wrong.
fn run(arguments: &[String]) -> Result<bool> {
    let root = surroundings::project_root()?;
    match arguments.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        Some(("test", [])) => test::run(&root),
        Some(("tidy", [])) => tidy::run(&root),
        Some(("model", [])) => model::run(&root, false),
        Some(("model", [deep])) if deep == "--deep" => model::run(&root, true),
        Some(("sim", rest)) => sim::run(&root, rest),
        Some(("crash", rest)) => crash::run(&root, rest),
        Some(("bench", rest)) => bench::run(&root, &bench::Options::parse(&root, rest)?),
        Some(("help" | "--help" | "-h", _)) | None => {
            print!("{HELP}");
            Ok(true)
        }
        Some((command, _)) => bail!("cannot run `{command}` with these arguments\n\n{HELP}"),
    }
}
