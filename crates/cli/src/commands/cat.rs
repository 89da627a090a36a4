//! `seawall cat`: one file of a snapshot on standard output.

use std::ffi::OsString;
use std::io::{self, Write};
use std::ops::Range;

use seawall_engine::browse::cat;
use seawall_engine::error::{Error, Result};

use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

const EXAMPLES: &str = "\
Examples:
    seawall cat latest:/etc/fstab
    seawall cat 2026-11-22:/srv/db.sql | psql
    seawall cat latest:/srv/models/model.safetensors --range 0-1023
    seawall cat latest:/var/log/app.log --range -4096";

/// Write one file of a snapshot to standard output
///
/// With `--json` the summary goes to standard error.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The file
    #[arg(value_name = "SNAPSHOT:PATH")]
    pub file: OsString,

    /// Only these bytes, counted from 0: FROM-TO with both ends included, FROM- to the end, or -N for the last N
    ///
    /// As in HTTP, a range may reach beyond the end of the file, and one that begins there is refused. Only the parts of
    /// the file that it touches are read.
    #[arg(long, value_name = "FROM-TO", value_parser = parse_range, allow_hyphen_values = true)]
    pub range: Option<ByteRange>,
}

/// A range of bytes as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first to the last, both included.
    Between(u64, u64),
    /// From here to the end.
    From(u64),
    /// So many at the end.
    Last(u64),
}

fn parse_range(text: &str) -> Result<ByteRange, String> {
    let refused = || format!("{text:?} is no range: write 0-1023, 4096- or -512");
    let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse::<u64>().map_err(|_| refused()),
        false => Err(refused()),
    };
    match text.split_once('-').ok_or_else(refused)? {
        ("", last) => number(last).map(ByteRange::Last),
        (from, "") => number(from).map(ByteRange::From),
        (from, to) => match (number(from)?, number(to)?) {
            (from, to) if from <= to => Ok(ByteRange::Between(from, to)),
            _ => Err(refused()),
        },
    }
}

impl ByteRange {
    /// The bytes that are meant in a file of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] where it begins at the end or behind it.
    fn within(self, size: u64) -> Result<Range<u64>> {
        let range = match self {
            Self::Between(from, to) => from..to.saturating_add(1).min(size),
            Self::From(from) => from..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() {
            return Err(Error::Usage(format!("the range holds nothing: the file has {size} bytes")));
        }
        Ok(range)
    }
}

impl Arguments {
    /// Writes it.
    ///
    /// # Errors
    /// When the path is no regular file, can't be read back, or the output can't be written.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let named = SnapshotPath::parse(&self.file, &run.zone)?;
        let repository = run.open()?;
        let snapshots = repository.snapshots();
        let snapshot = named.resolve(&snapshots)?;
        let (root, path) = (&snapshot.record.root, named.path_in(snapshot));
        let range = match (self.range, repository.tree(root).get(&path)?) {
            (Some(range), Some(entry)) if entry.is_file() => Some(range.within(entry.size)?),
            _ => None,
        };
        let mut output = Standard { run, failed: None };
        let written = cat(&repository, root, &path, range, &mut output);
        match output.failed {
            Some(_) if run.stop.requested() => Err(Error::Interrupted.into()),
            Some(error) => Err(error.into()),
            None => Outcome::done(serde_json::json!({ "bytes": written? })),
        }
    }
}

/// Standard output, which remembers why it failed and fails once the user wants to stop.
struct Standard<'r> {
    run: &'r Run,
    failed: Option<io::Error>,
}

impl Write for Standard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written =
            if self.run.stop.requested() { Err(io::Error::other("interrupted")) } else { self.run.output.raw(bytes) };
        written.map(|()| bytes.len()).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        for (text, size, expected) in [
            ("0-1023", 5000, Some(0..1024)),
            ("0-0", 5000, Some(0..1)),
            ("4096-", 5000, Some(4096..5000)),
            ("-512", 5000, Some(4488..5000)),
            ("-512", 100, Some(0..100)),
            ("90-200", 100, Some(90..100)),
            ("0-18446744073709551615", 100, Some(0..100)),
            ("100-", 100, None),
            ("100-200", 100, None),
            ("-0", 100, None),
            ("0-", 0, None),
        ] {
            let range = parse_range(text).unwrap().within(size);
            assert_eq!(range.ok(), expected, "{text} of {size}");
        }
        for text in ["", "-", "5", "5-4", "a-b", "1-2-3", "+1-2", "--5", "0x1-", "18446744073709551616-", " 1-2"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
