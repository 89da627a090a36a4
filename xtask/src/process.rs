//! Running other programs: with their output shown, captured, or both shown and read line by line.
//!
//! Standard input is always empty, so that nothing waits for a person. An error names the whole command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};

/// The command line as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with its output shown; `false` when it failed.
pub fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {}", shown(command)))?;
    Ok(status.success())
}

/// Runs a command with its output shown; an error when it failed.
pub fn run(command: &mut Command) -> Result<()> {
    if succeeds(command)? { Ok(()) } else { bail!("failed: {}", shown(command)) }
}

/// Runs a command and gives what it printed to standard output; an error with its standard error when it failed.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!("failed: {}\n{}", shown(command), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, shows both of its outputs as they come, and hands every line to `each`; `false` when it failed.
pub fn watch(command: &mut Command, each: &mut dyn FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    let (send, receive) = mpsc::channel();
    let outputs: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().expect("standard output is piped")),
        Box::new(child.stderr.take().expect("standard error is piped")),
    ];
    let readers = outputs.map(|output| {
        let send = send.clone();
        thread::spawn(move || forward(output, &send))
    });
    drop(send);
    let mut screen = std::io::stdout();
    for line in receive {
        writeln!(screen, "{line}").and_then(|()| screen.flush()).context("cannot write to standard output")?;
        each(&line);
    }
    for reader in readers {
        reader.join().expect("the reader of an output does not panic");
    }
    Ok(child.wait().context("cannot wait for a command")?.success())
}

fn forward(output: Box<dyn Read + Send>, send: &mpsc::Sender<String>) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_sees_every_line_of_both_outputs_and_the_outcome() {
        let mut lines = Vec::new();
        let script = "echo one; echo two >&2; printf three; exit 3";
        let done = watch(Command::new("sh").args(["-c", script]), &mut |line| lines.push(line.to_owned())).unwrap();
        lines.sort();
        assert_eq!((done, lines), (false, vec!["one".into(), "three".into(), "two".into()]));
    }

    #[test]
    fn a_failed_capture_tells_the_command_and_its_error() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 1"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.ends_with("why"), "{error}");
    }
}
