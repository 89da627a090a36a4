//! Everything that the program says: results on standard output, remarks and errors on standard error.
//!
//! With `--json` standard output carries nothing but JSON, one object a line, each with a `type`; the last is always
//! the `summary`. Commands whose result is itself bytes (`cat`, `completions`) send their JSON to standard error.
//! When standard output can't be written any more, a listing ends; work that changes or checks something goes on to its end and
//! its own exit code ([`Output::carrying_on`]).
//! Names come from file systems and may hold anything: what goes to a terminal has its control characters escaped.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use seawall_engine::monitor::Problem;
use serde::Serialize;

/// Where the program speaks, and how.
pub struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    json_to_stderr: bool,
    stdout: Mutex<BufWriter<Stdout>>,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    carries_on: bool,
    reader_left: AtomicBool,
    /// Why standard output is not written any more, where the work goes on without it.
    lost: Mutex<Option<io::Error>>,
}

#[derive(Serialize)]
struct Tagged<'a, T> {
    r#type: &'a str,
    #[serde(flatten)]
    fields: T,
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
}

/// One problem in JSON.
#[derive(Serialize)]
struct ProblemLine<'a> {
    subject: &'a str,
    what: &'a str,
    /// Stable code of the problem. Not called `code`, which is the code of an error.
    problem: &'a str,
}

impl Output {
    /// An output on the process's own streams. `json_to_stderr`: the result itself goes to standard output.
    #[must_use]
    pub fn new(json: bool, quiet: bool, verbose: bool, json_to_stderr: bool) -> Self {
        Self {
            json,
            quiet,
            verbose,
            json_to_stderr,
            stdout: Mutex::new(BufWriter::with_capacity(1 << 16, io::stdout())),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            carries_on: false,
            reader_left: AtomicBool::new(false),
            lost: Mutex::default(),
        }
    }

    /// The same for work that output must not end: once standard output can't be written, it is not written any more, and
    /// everything else goes on.
    #[must_use]
    pub fn carrying_on(self, carries_on: bool) -> Self {
        Self { carries_on, ..self }
    }

    /// True if the command ended because the reader of standard output went away.
    #[must_use]
    pub fn ended_by_reader(&self) -> bool {
        !self.carries_on && self.reader_left.load(Ordering::Relaxed)
    }

    /// Why standard output was given up, if it was.
    #[must_use]
    pub fn take_lost(&self) -> Option<io::Error> {
        self.lost().take()
    }

    fn lost(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to standard output, as long as that can be done.
    fn write(&self, write: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>) -> io::Result<()> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lost().is_some() {
            return Ok(());
        }
        let Err(error) = write(&mut stdout) else { return Ok(()) };
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.reader_left.store(true, Ordering::Relaxed);
        }
        if !self.carries_on {
            return Err(error);
        }
        *self.lost() = Some(error);
        Ok(())
    }

    /// True for `--json`.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }

    /// True for `--quiet`.
    #[must_use]
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// True for `-v`.
    #[must_use]
    pub fn verbose(&self) -> bool {
        self.verbose
    }

    /// True if a person sees standard error.
    #[must_use]
    pub fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    /// A line of the result, for people. Nothing with `--json`.
    ///
    /// # Errors
    /// When standard output can't be written.
    pub fn line(&self, text: impl AsRef<[u8]>) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        self.write(|stdout| {
            stdout.write_all(text.as_ref())?;
            stdout.write_all(b"\n")
        })
    }

    /// A line of a report, for people: like [`Self::line`], but `--quiet` silences it.
    ///
    /// # Errors
    /// When standard output can't be written.
    pub fn report(&self, text: impl AsRef<[u8]>) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.line(text) }
    }

    /// Raw bytes on standard output, in either mode.
    ///
    /// # Errors
    /// When standard output can't be written.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(|stdout| stdout.write_all(bytes))
    }

    /// One JSON object of this type. Nothing without `--json`.
    ///
    /// # Errors
    /// When the stream can't be written.
    pub fn record(&self, kind: &str, fields: impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&Tagged { r#type: kind, fields })?;
        line.push(b'\n');
        if self.json_to_stderr { io::stderr().write_all(&line) } else { self.raw(&line) }
    }

    /// Sends on what is buffered.
    ///
    /// # Errors
    /// When standard output can't be written.
    pub fn flush(&self) -> io::Result<()> {
        self.write(io::Write::flush)
    }

    /// A remark that matters but is no error. Shown even with `--quiet`.
    pub fn warn(&self, text: &str) {
        self.remark("warning", text);
    }

    /// A remark that is good to know. Not with `--quiet`.
    pub fn note(&self, text: &str) {
        if self.json || !self.quiet {
            self.remark("note", text);
        }
    }

    /// A problem that the report lists. Shown even with `--quiet`. A line that can't be written must not end the run.
    pub fn problem(&self, problem: &Problem) {
        let Problem { subject, what, code } = problem;
        if self.json {
            let _ = self.record("problem", ProblemLine { subject, what, problem: code });
        } else {
            let (subject, what) = (printable(subject.as_bytes()), printable(what.as_bytes()));
            let _ = writeln!(io::stderr(), "seawall: problem: {subject}: {what}");
        }
    }

    /// Why errors are dropped here: a remark that can't be written must not end a backup.
    fn remark(&self, kind: &str, text: &str) {
        if self.json {
            let _ = self.record(kind, Text { text });
        } else {
            let _ = writeln!(io::stderr(), "seawall: {kind}: {}", printable(text.as_bytes()));
        }
    }

    /// A path as this output shows it: the raw bytes in a pipe, made harmless on a terminal.
    #[must_use]
    pub fn path<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        if self.stdout_is_terminal { Cow::Owned(printable(path).into_bytes()) } else { Cow::Borrowed(path) }
    }
}

/// Text that a terminal can't take for commands: control characters are escaped, bytes that are not UTF-8 replaced.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A path in JSON: readable text, and the exact bytes in hexadecimal where the text is not exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonPath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl JsonPath {
    /// The readable form.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.path
    }
}

impl From<&[u8]> for JsonPath {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { path: text.to_owned(), path_hex: None },
            Err(_) => Self {
                path: String::from_utf8_lossy(bytes).into_owned(),
                path_hex: Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            },
        }
    }
}

impl From<&Path> for JsonPath {
    fn from(path: &Path) -> Self {
        Self::from(OsStr::as_bytes(path.as_os_str()))
    }
}

/// Rows as aligned columns, two spaces apart. Columns named in `right` are aligned to the right; the last is not padded.
#[must_use]
pub fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |text: &String| text.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(width).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - width(cell));
                let gap = if column == 0 { "" } else { "  " };
                line.push_str(gap);
                if right.contains(&column) {
                    line.push_str(&padding);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&padding);
                }
            }
            line.trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\nc\xffd \xc3\xa9\xc2\x9b"), "a\\u{1b}[2Jb\\nc\u{fffd}d é\\u{9b}");
    }

    #[test]
    fn json_paths_keep_bytes_that_are_not_utf8() {
        let exact = serde_json::to_string(&JsonPath::from(b"/a b".as_slice())).unwrap();
        assert_eq!(exact, r#"{"path":"/a b"}"#);
        let lossy = serde_json::to_string(&JsonPath::from(b"/a\xff".as_slice())).unwrap();
        assert_eq!(lossy, "{\"path\":\"/a\u{fffd}\",\"path_hex\":\"2f61ff\"}");
    }

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let lines = table(&[row(["id", "size", "path"]), row(["é1234", "7", "/x"]), row(["1", "1,000", ""])], &[1]);
        assert_eq!(lines, ["id      size  path", "é1234      7  /x", "1      1,000"]);
        assert!(table(&[], &[]).is_empty());
    }
}
