//! `seawall ls`: what lies in a directory of a snapshot.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use seawall_engine::browse::list;
use seawall_engine::entry::{Entry, Kind, TreeKey};
use seawall_engine::error::Error;
use serde::Serialize;

use crate::moments;
use crate::output::{JsonPath, printable};
use crate::quantities;
use crate::run::{Outcome, Run};
use crate::snapshot_name::SnapshotPath;

const EXAMPLES: &str = "\
Examples:
    seawall ls latest:/srv/models
    seawall ls -l -R 1a2b3c4d:/etc";

/// List what a snapshot holds
///
/// A directory's entries, or the entry itself where it is no directory. Reads only the part of the tree that is asked
/// for. Without PATH the listing begins at the root of the file system.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The snapshot, and the path in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub place: OsString,

    /// Mode, owner, size and time too
    #[arg(short, long)]
    pub long: bool,

    /// Everything below, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// An entry in JSON. Times are RFC 3339 in UTC.
#[derive(Serialize)]
pub struct EntryLine {
    #[serde(flatten)]
    path: JsonPath,
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl EntryLine {
    /// The entry at a path.
    #[must_use]
    pub fn new(key: &TreeKey, entry: &Entry) -> Self {
        let target = match &entry.kind {
            Kind::Symlink(target) => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        };
        Self {
            path: JsonPath::from(key.to_path().as_path()),
            kind: kind_name(&entry.kind),
            mode: format!("{:04o}", entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            user: entry.user.clone(),
            group: entry.group.clone(),
            size: entry.size,
            mtime: moments::rfc3339(entry.mtime),
            target,
        }
    }
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::File(_) => "file",
        Kind::Directory => "directory",
        Kind::Symlink(_) => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice(..) => "character-device",
        Kind::BlockDevice(..) => "block-device",
    }
}

impl Arguments {
    /// Lists.
    ///
    /// # Errors
    /// When there is no such path, or the tree can't be read.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let named = SnapshotPath::parse(&self.place, &run.zone)?;
        let repository = run.open()?;
        let snapshots = repository.snapshots();
        let snapshot = named.resolve(&snapshots)?;
        let mut listed = 0u64;
        let mut written = Ok(());
        list(&repository, &snapshot.record.root, &named.path_in(snapshot), self.recursive, &mut |key, entry| {
            listed += 1;
            written = show(key, entry, self.long, run);
            if written.is_err() || run.stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        written?;
        if run.stop.requested() {
            return Err(Error::Interrupted.into());
        }
        Outcome::done(serde_json::json!({ "entries": listed, "snapshot": snapshot.record.id.to_string() }))
    }
}

fn show(key: &TreeKey, entry: &Entry, long: bool, run: &Run) -> std::io::Result<()> {
    if run.output.json() {
        return run.output.record("entry", EntryLine::new(key, entry));
    }
    let path = key.to_path();
    let shown = run.output.path(path.as_os_str().as_bytes());
    if !long {
        return run.output.line(shown);
    }
    let mut line = long_columns(entry, run).into_bytes();
    line.extend_from_slice(&shown);
    if let Kind::Symlink(target) = &entry.kind {
        line.extend_from_slice(b" -> ");
        line.extend_from_slice(&run.output.path(target));
    }
    run.output.line(line)
}

/// What `-l` shows before the path.
#[must_use]
pub fn long_columns(entry: &Entry, run: &Run) -> String {
    let name = |name: &Option<String>, number: u32| {
        name.as_ref().map_or_else(|| number.to_string(), |name| printable(name.as_bytes()))
    };
    let size = match &entry.kind {
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => format!("{major},{minor}"),
        _ => quantities::bytes(entry.size),
    };
    format!(
        "{}  {:<8} {:<8} {size:>9}  {}  ",
        mode_text(entry),
        name(&entry.user, entry.uid),
        name(&entry.group, entry.gid),
        moments::show(entry.mtime, &run.zone)
    )
}

/// Kind and permissions in the ten characters that everybody knows.
fn mode_text(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::File(_) => '-',
        Kind::Directory => 'd',
        Kind::Symlink(_) => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice(..) => 'c',
        Kind::BlockDevice(..) => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (entry.mode & special != 0, bits & 1 != 0) {
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use seawall_engine::clock::Timestamp;

    use super::*;

    #[test]
    fn modes_read_as_everybody_knows_them() {
        let mut entry = Entry {
            kind: Kind::Directory,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: None,
            size: 0,
            inode: 0,
            links: None,
            xattrs: Vec::new(),
            flags: 0,
            table: None,
        };
        for (mode, expected) in [
            (0o755, "drwxr-xr-x"),
            (0o1777, "drwxrwxrwt"),
            (0o4711, "drws--x--x"),
            (0o6000, "d--S--S---"),
            (0o1000, "d--------T"),
        ] {
            entry.mode = mode;
            assert_eq!(mode_text(&entry), expected, "{mode:o}");
        }
    }
}
