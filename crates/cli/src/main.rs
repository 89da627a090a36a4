//! `seawall`: the one binary. This file is its map: parse, run one command, end with the right code.
//!
//! Arguments are parsed low (`arguments`), then checked (`settings`); each command lives in its own file under
//! `commands` and gets a `Run`. Errors travel up as they are and become text, hint and exit code here, in one place.

mod arguments;
mod checkpoints;
mod commands;
mod environment;
mod failure;
mod keys;
mod kit;
mod location;
mod moments;
mod output;
mod parity;
mod progress;
mod quantities;
mod run;
mod scratch;
mod settings;
mod snapshot_name;
mod stop;
mod stream;

use std::cell::{OnceCell, RefCell};
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use arguments::{Arguments, Command};
use environment::Environment;
use failure::{Exit, Failure, is_closed_output};
use output::Output;
use run::{Outcome, Run};
use settings::Settings;
use stop::Stop;

/// The last line with `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    command: &'a str,
    code: &'a str,
    exit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(flatten)]
    fields: serde_json::Value,
}

fn main() -> ExitCode {
    allow_many_files();
    let written: Vec<OsString> = std::env::args_os().collect();
    let json = written.iter().any(|argument| argument == "--json");
    let exit = match Arguments::try_parse_from(written) {
        Ok(arguments) => run(arguments),
        Err(refused) => misunderstood(&refused, json),
    };
    ExitCode::from(exit.code())
}

/// Raises the soft limit of open files to the hard one: a walk holds directories, and many threads hold files.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where the system refuses, the engine waits for free descriptors, only slower.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn run(arguments: Arguments) -> Exit {
    let name = arguments.command.name();
    let global = &arguments.global;
    let output = Output::new(global.json, global.quiet, global.verbose, arguments.command.writes_bytes());
    let output = Arc::new(output.carrying_on(!arguments.command.is_listing()));
    let outcome = perform(arguments, &output);
    conclude(name, outcome, &output)
}

fn perform(arguments: Arguments, output: &Arc<Output>) -> anyhow::Result<Outcome> {
    // Signals are blocked before any thread exists, so that every thread inherits it.
    let stop = Stop::install()?;
    let environment = Environment::read();
    let settings = Settings::check(&arguments.global, &environment)?;
    let zone = jiff::tz::TimeZone::system();
    let rollback = OnceCell::new();
    let (mended, put_back) = (RefCell::default(), RefCell::default());
    let run = Run { environment, settings, output: Arc::clone(output), stop, zone, rollback, mended, put_back };
    let outcome = match dispatch(arguments.command, &run) {
        // Whoever reads a listing and goes away has what he wanted.
        Err(error) if output.ended_by_reader() && is_closed_output(&error) => {
            Outcome { exit: Exit::Done, summary: serde_json::Value::Object(serde_json::Map::new()) }
        }
        outcome => outcome?,
    };
    Ok(run.concluded(outcome))
}

fn dispatch(command: Command, run: &Run) -> anyhow::Result<Outcome> {
    match command {
        Command::Protect(arguments) => arguments.run(run),
        Command::Find(arguments) => arguments.run(run),
        Command::Stats(arguments) => arguments.run(run),
        Command::Diff(arguments) => arguments.run(run),
        Command::Tensors(arguments) => arguments.run(run),
        Command::Verify(arguments) => arguments.run(run),
        Command::Init(arguments) => arguments.run(run),
        Command::Backup(arguments) => arguments.run(run),
        Command::Watch(arguments) => arguments.run(run),
        Command::Snapshots(arguments) => arguments.run(run),
        Command::Ls(arguments) => arguments.run(run),
        Command::Cat(arguments) => arguments.run(run),
        Command::Restore(arguments) => arguments.run(run),
        Command::Forget(arguments) => arguments.run(run),
        Command::Hold(arguments) => arguments.run(run),
        Command::Repair(arguments) => arguments.run(run),
        Command::Prune(arguments) => arguments.run(run),
        Command::Undelete(arguments) => arguments.run(run),
        Command::Key(arguments) => arguments.run(run),
        Command::Log(arguments) => arguments.run(run),
        Command::Completions(arguments) => arguments.run(run),
        Command::Man(arguments) => arguments.run(run),
    }
}

/// Says how it ended, as text or as the summary line.
fn conclude(command: &str, outcome: anyhow::Result<Outcome>, output: &Output) -> Exit {
    let Outcome { exit, summary: fields } = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return fail(command, &Failure::from(&error), output),
    };
    let code = match exit {
        Exit::Done => "ok",
        Exit::Problems => "problems",
        Exit::Damage => "damaged",
        _ => "failed",
    };
    let summary = Summary { command, code, exit: exit.code(), error: None, hint: None, fields };
    let said = output.record("summary", summary).and_then(|()| output.flush());
    match said.err().or_else(|| output.take_lost()) {
        // A reader that went away changes nothing about how the work ended.
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let error = anyhow::Error::from(error).context("cannot write the output");
            let failed = fail(command, &Failure::from(&error), output);
            if exit == Exit::Done { failed } else { exit }
        }
        _ => exit,
    }
}

fn fail(command: &str, failure: &Failure, output: &Output) -> Exit {
    if output.json() {
        let summary = Summary {
            command,
            code: failure.code,
            exit: failure.exit.code(),
            error: Some(&failure.message),
            hint: failure.hint,
            fields: serde_json::Value::Object(serde_json::Map::new()),
        };
        // Nobody is left to tell if even this can't be written; the exit code still says it.
        let _ = output.record("summary", summary);
    } else {
        // Why no `eprintln`, which panics: where nobody hears of it, the exit code still says it.
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "seawall: error: {}", output::printable(failure.message.as_bytes()));
        if let Some(hint) = failure.hint {
            let _ = writeln!(stderr, "seawall: hint: {hint}");
        }
    }
    let _ = output.flush();
    failure.exit
}

/// Help and version are no errors; anything else that the parser refuses is wrong usage.
fn misunderstood(refused: &clap::Error, json: bool) -> Exit {
    if json && refused.use_stderr() {
        let text = refused.to_string();
        // The first paragraph says what is wrong; the rest is the usage, for people.
        let first = text.split("\n\n").next().unwrap_or_default();
        let message = first.trim_start_matches("error: ").replace("\n", " ");
        let failure = Failure { code: "usage", message, hint: None, exit: Exit::Usage };
        return fail("", &failure, &Output::new(true, false, false, false));
    }
    // A closed pipe (`seawall --help | head`) is no failure.
    let _ = refused.print();
    if refused.use_stderr() { Exit::Usage } else { Exit::Done }
}
