//! Names of snapshots as users write them, and what they mean in a list of snapshots.
//!
//!     ID            the beginning of a snapshot id, as far as it is unique
//!     latest        the newest of all; latest:HOST of a host; latest:HOST:/SOURCE of a host and a source path
//!     DATE or TIME  the newest at or before 2026-11-22, "2026-11-22 14:05", 2026-11-22T14:05:09Z
//!
//! Any of them may be followed by `:/PATH`, a path inside the snapshot. `latest:/PATH` is that path in the newest of
//! all; `latest::/SOURCE` is the newest of that source on any host. Where /SOURCE lies inside a source but is none, it
//! is the path inside as well. "Newest" goes by the order of the log, which no
//! wrong clock can change; only dates go by the time that a snapshot claims.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::tz::TimeZone;
use seawall_engine::clock::Timestamp;
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::ids::SnapshotId;
use seawall_engine::repair::REPAIRED_PLACE;
use seawall_engine::repo::Snapshot;

use crate::moments;
use crate::output::printable;

/// How many candidates an ambiguous name lists.
const CANDIDATES_MAX: usize = 10;
/// Hexadecimal digits of a short id.
const SHORT_DIGITS: usize = 8;

/// A name, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The beginning of an id, in small letters.
    Prefix(String),
    /// The newest, of a host and a source where these are given.
    Latest {
        /// Host name.
        host: Option<String>,
        /// Path that was backed up.
        source: Option<TreeKey>,
    },
    /// The newest at or before a moment.
    Moment(Timestamp),
}

/// The ids of the snapshots that these names mean, each once.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Usage`] for a name that means none or several, or one with a path inside.
pub fn resolve_all(names: &[std::ffi::OsString], snapshots: &[Snapshot], zone: &TimeZone) -> Result<Vec<SnapshotId>> {
    let mut ids = Vec::new();
    for name in names {
        let named = SnapshotPath::parse(name, zone)?;
        let snapshot = named.resolve(snapshots)?;
        if named.path.is_some() {
            return Err(Error::Usage(format!("{}: write a snapshot without a path inside", named.written)));
        }
        if !ids.contains(&snapshot.record.id) {
            ids.push(snapshot.record.id);
        }
    }
    Ok(ids)
}

/// `NAME` or `NAME:/PATH`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPath {
    /// Which snapshot.
    pub name: Name,
    /// As the user wrote the whole.
    pub written: String,
    /// The path inside; `None` where none was written.
    pub path: Option<TreeKey>,
}

impl SnapshotPath {
    /// Reads `NAME` or `NAME:/PATH`.
    ///
    /// # Errors
    /// [`Error::Usage`] saying what a name looks like.
    pub fn parse(text: &OsStr, zone: &TimeZone) -> Result<Self> {
        let bytes = text.as_bytes();
        let written = printable(bytes);
        let (name, path) = match bytes.strip_prefix(b"latest") {
            Some(rest) if rest.is_empty() || rest[0] == b':' => latest(rest, &written)?,
            _ => {
                let (name, path) = split_path(bytes);
                (plain(name, &written, zone)?, path)
            }
        };
        let path = path.map(|path| inner_path(path, &written)).transpose()?;
        Ok(Self { name, written, path })
    }

    /// The path that is meant in the snapshot that was resolved: the one written, else what `latest:HOST:/PATH` names
    /// if that is no source but lies in one, else the root.
    #[must_use]
    pub fn path_in(&self, snapshot: &Snapshot) -> TreeKey {
        match (&self.path, &self.name) {
            (Some(path), _) => path.clone(),
            (None, Name::Latest { source: Some(path), .. }) if !sources(snapshot).any(|source| source == *path) => {
                path.clone()
            }
            _ => TreeKey::default(),
        }
    }

    /// The snapshot that is meant.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Usage`] listing the candidates if there are several.
    pub fn resolve<'s>(&self, snapshots: &'s [Snapshot]) -> Result<&'s Snapshot> {
        match &self.name {
            Name::Prefix(prefix) => self.by_prefix(prefix, snapshots),
            Name::Latest { host, source } => {
                let fits = |snapshot: &&Snapshot| {
                    host.as_ref().is_none_or(|host| *host == snapshot.record.host)
                        && source.as_ref().is_none_or(|source| holds(snapshot, source))
                };
                snapshots.iter().filter(fits).max_by_key(|snapshot| place(snapshot))
            }
            .ok_or_else(|| self.not_found(snapshots)),
            Name::Moment(moment) => snapshots
                .iter()
                .filter(|snapshot| snapshot.record.time <= *moment)
                .max_by_key(|snapshot| (snapshot.record.time, snapshot.number))
                .ok_or_else(|| self.not_found(snapshots)),
        }
    }

    fn by_prefix<'s>(&self, prefix: &str, snapshots: &'s [Snapshot]) -> Result<&'s Snapshot> {
        let mut fitting = snapshots.iter().filter(|snapshot| snapshot.record.id.to_string().starts_with(prefix));
        let first = fitting.next().ok_or_else(|| self.not_found(snapshots))?;
        let others: Vec<&Snapshot> = fitting.take(CANDIDATES_MAX).collect();
        if others.is_empty() {
            return Ok(first);
        }
        let mut candidates: Vec<String> = std::iter::once(first).chain(others).map(candidate).collect();
        if candidates.len() > CANDIDATES_MAX {
            candidates[CANDIDATES_MAX] = "…".to_owned();
        }
        Err(Error::Usage(format!("{prefix} is the beginning of several snapshots: {}", candidates.join("; "))))
    }

    fn not_found(&self, snapshots: &[Snapshot]) -> Error {
        let why = if snapshots.is_empty() { "the repository holds none yet" } else { "none fits" };
        Error::NotFound(format!("no snapshot {}: {why}", self.written))
    }
}

/// Where a snapshot belongs among the others: a repaired one where the one was that it stands for. Whoever writes such a
/// label can only put a snapshot of his own further back.
fn place(snapshot: &Snapshot) -> (u64, u64) {
    let label = snapshot.record.labels.iter().find(|(label, _)| label == REPAIRED_PLACE);
    let place = label.and_then(|(_, place)| place.parse().ok()).unwrap_or(snapshot.number);
    (place.min(snapshot.number), snapshot.number)
}

fn candidate(snapshot: &Snapshot) -> String {
    let paths: Vec<String> = snapshot.record.paths.iter().map(|path| printable(path)).collect();
    format!("{} ({} {})", snapshot.record.id, printable(snapshot.record.host.as_bytes()), paths.join(" "))
}

/// The first digits of an id, as tables show it.
#[must_use]
pub fn short(id: &SnapshotId) -> String {
    let mut text = id.to_string();
    text.truncate(SHORT_DIGITS);
    text
}

/// True if a snapshot was made of `path` or of something above it.
#[must_use]
pub fn holds(snapshot: &Snapshot, path: &TreeKey) -> bool {
    sources(snapshot).any(|source| path.is_within(&source))
}

fn sources(snapshot: &Snapshot) -> impl Iterator<Item = TreeKey> {
    snapshot.record.paths.iter().filter_map(|source| TreeKey::from_path(Path::new(OsStr::from_bytes(source))))
}

/// `:HOST:/SOURCE:/PATH`, each part optional from the right; `:/PATH` alone is a path inside.
fn latest<'t>(rest: &'t [u8], written: &str) -> Result<(Name, Option<&'t [u8]>)> {
    let any = Name::Latest { host: None, source: None };
    let Some(rest) = rest.strip_prefix(b":") else { return Ok((any, None)) };
    if rest.first() == Some(&b'/') {
        return Ok((any, Some(rest)));
    }
    let (host, rest) = match rest.iter().position(|&byte| byte == b':') {
        Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
        None => (rest, None),
    };
    let host = std::str::from_utf8(host).map_err(|_| malformed(written))?;
    let host = (!host.is_empty()).then(|| host.to_owned());
    let (source, path) = match rest {
        Some(rest) => {
            let (source, path) = split_path(rest);
            (Some(inner_path(source, written)?), path)
        }
        None => (None, None),
    };
    if host.is_none() && source.is_none() {
        return Err(malformed(written));
    }
    Ok((Name::Latest { host, source }, path))
}

/// At the first `:/` behind the beginning.
fn split_path(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.windows(2).position(|pair| pair == b":/") {
        Some(colon) => (&bytes[..colon], Some(&bytes[colon + 1..])),
        None => (bytes, None),
    }
}

fn plain(name: &[u8], written: &str, zone: &TimeZone) -> Result<Name> {
    let text = std::str::from_utf8(name).map_err(|_| malformed(written))?;
    if !text.is_empty() && text.len() <= SnapshotId::LEN * 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Name::Prefix(text.to_ascii_lowercase()));
    }
    moments::parse(text, zone).map(Name::Moment).ok_or_else(|| malformed(written))
}

fn inner_path(path: &[u8], written: &str) -> Result<TreeKey> {
    TreeKey::from_path(Path::new(OsStr::from_bytes(path))).ok_or_else(|| malformed(written))
}

fn malformed(written: &str) -> Error {
    Error::Usage(format!(
        "{written:?} names no snapshot: write the beginning of an id, latest, latest:HOST:/SOURCE or a date, \
         and :/PATH (absolute, without ..) for a path inside"
    ))
}

#[cfg(test)]
mod tests {
    use seawall_engine::format::log::SnapshotRecord;
    use seawall_engine::ids::ChunkId;

    use super::*;

    fn snapshot(number: u64, id: &str, seconds: i64, host: &str, path: &str) -> Snapshot {
        let id = SnapshotId::from_hex(&format!("{id:0<32}")).unwrap();
        let record = SnapshotRecord {
            id,
            time: Timestamp { seconds, nanos: 0 },
            host: host.to_owned(),
            user: "root".to_owned(),
            paths: vec![path.as_bytes().to_vec()],
            tags: Vec::new(),
            root: ChunkId([0; 32]),
            entries: 0,
            files: 0,
            bytes: 0,
            labels: Vec::new(),
            program: String::new(),
            problems: 0,
            parent: None,
            bytes_read: 0,
            bytes_stored: 0,
            duration_ms: 0,
        };
        Snapshot { record, number, member: seawall_engine::ids::MemberId([1; 16]), claimed_ms: 0 }
    }

    /// Noon of 2026-11-20, 21 and 22 (UTC); the third was committed before the second.
    fn snapshots() -> Vec<Snapshot> {
        vec![
            snapshot(1, "aa11", 1_795_176_000, "web1", "/srv"),
            snapshot(2, "ab22", 1_795_348_800, "web2", "/srv/models"),
            snapshot(3, "ab23", 1_795_262_400, "web1", "/etc"),
        ]
    }

    fn number(text: &str) -> Result<u64> {
        let all = snapshots();
        let name = SnapshotPath::parse(OsStr::new(text), &TimeZone::UTC)?;
        name.resolve(&all).map(|snapshot| snapshot.number)
    }

    #[test]
    fn names_find_their_snapshot() {
        for (text, expected) in [
            ("aa", 1),
            ("AB22", 2),
            ("ab23:/etc/hosts", 3),
            ("latest", 3),
            ("latest:/etc", 3),
            ("latest:web1", 3),
            ("latest:web2", 2),
            ("latest:web1:/srv", 1),
            ("latest:web1:/srv/models", 1),
            ("latest::/srv/models", 2),
            ("latest:web1:/srv:/srv/models/x", 1),
            ("2026-11-20", 1),
            ("2026-11-20 12:00", 1),
            ("2026-11-20 12:00:00", 1),
            ("2026-11-21", 3),
            ("2026-11-22 11:59", 3),
            ("2026-11-22 12:00:/srv", 2),
            ("2030-01-01", 2),
        ] {
            assert_eq!(number(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn the_path_inside_is_told_from_the_name() {
        for (text, path) in [
            ("aa", "/"),
            ("aa:/", "/"),
            ("aa:/etc/hosts", "/etc/hosts"),
            ("aa:/odd:/name", "/odd:/name"),
            ("latest:/x//y/.", "/x/y"),
            ("latest:web1:/srv", "/"),
            ("latest:web1:/srv:/srv/x", "/srv/x"),
            ("2026-11-22 14:05:/etc", "/etc"),
        ] {
            let parsed = SnapshotPath::parse(OsStr::new(text), &TimeZone::UTC).unwrap();
            assert_eq!(parsed.path.unwrap_or_default().to_path(), Path::new(path), "{text}");
        }
        let bytes = SnapshotPath::parse(OsStr::from_bytes(b"aa:/x\xff"), &TimeZone::UTC).unwrap();
        assert_eq!(bytes.path.unwrap().0, b"x\xff");
    }

    #[test]
    fn a_path_below_a_source_is_the_path_inside() {
        let all = snapshots();
        for (text, number, path) in [
            ("latest:web1:/srv", 1, "/"),
            ("latest:web1:/srv/", 1, "/"),
            ("latest:web1:/srv/models/x", 1, "/srv/models/x"),
            ("latest:web2:/srv/models", 2, "/"),
            ("latest::/srv/models/x", 2, "/srv/models/x"),
            ("latest:web1:/srv/models:/srv/y", 1, "/srv/y"),
            ("latest:web1:/srv/models:/", 1, "/"),
            ("latest:/etc", 3, "/etc"),
            ("latest", 3, "/"),
        ] {
            let name = SnapshotPath::parse(OsStr::new(text), &TimeZone::UTC).unwrap();
            let snapshot = name.resolve(&all).unwrap();
            assert_eq!((snapshot.number, name.path_in(snapshot).to_path()), (number, path.into()), "{text}");
        }
    }

    #[test]
    fn what_names_nothing_is_told_apart_from_what_is_malformed() {
        for text in ["ff", "latest:web9", "latest:web2:/etc", "2026-11-19"] {
            assert_eq!(number(text).unwrap_err().code(), "not-found", "{text}");
        }
        for text in ["", "xyz", "latest:", "latest::", "latests", "aa:etc", "aa:/x/../y", "latest:web1:srv", ":/etc"] {
            assert_eq!(number(text).unwrap_err().code(), "usage", "{text}");
        }
    }

    #[test]
    fn an_ambiguous_id_lists_its_candidates() {
        let error = number("ab").unwrap_err();
        assert_eq!(error.code(), "usage");
        let text = error.to_string();
        assert!(text.contains("ab22") && text.contains("ab23") && text.contains("web2"), "{text}");
        assert!(!text.contains("aa11"), "{text}");
    }

    #[test]
    fn an_empty_repository_says_so() {
        let name = SnapshotPath::parse(OsStr::new("latest"), &TimeZone::UTC).unwrap();
        assert!(name.resolve(&[]).unwrap_err().to_string().contains("none yet"));
    }
}
