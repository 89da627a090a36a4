//! Find: entries by name, kind, size and time, in one snapshot or in many.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::clock::Timestamp;
use crate::entry::{Entry, Kind, TreeKey};
use crate::error::{Error, Result};
use crate::monitor::Problem;
use crate::repo::nodes::{Search, Step};
use crate::repo::{Repository, Snapshot};

/// So many problems are kept.
const PROBLEMS_MAX: usize = 100;

/// What to look for; everything given must be met.
#[derive(Debug, Clone, Default)]
pub struct FindOptions {
    /// Globs, at least one of which must match; none matches everything. One with a slash is matched against the whole
    /// absolute path (`*` does not cross a slash, `**` does), one without against the name.
    pub patterns: Vec<String>,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// Kinds to look for, as `find -type` names them: `f`, `d`, `l`, `p`, `s`, `c`, `b`. Empty for all.
    pub types: Vec<char>,
    /// Files of more than this many bytes.
    pub larger_than: Option<u64>,
    /// Files of fewer than this many bytes.
    pub smaller_than: Option<u64>,
    /// Modified after this time.
    pub newer_than: Option<Timestamp>,
    /// Modified before this time.
    pub older_than: Option<Timestamp>,
}

/// What a search did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FindReport {
    /// Entries that match, counted in every snapshot.
    pub matches: u64,
    /// Entries looked at.
    pub entries: u64,
    /// Parts of trees that can't be read, the first 100.
    pub problems: Vec<Problem>,
    /// How many those are.
    pub problems_count: u64,
    /// True if the receiver ended the search early.
    pub stopped: bool,
}

/// Takes a match.
pub type EachMatch<'e> = &'e mut dyn FnMut(&Snapshot, &TreeKey, &Entry) -> ControlFlow<()>;

/// Gives `each` the matching entries of `snapshots`, snapshot by snapshot, in order of paths.
///
/// # Errors
/// [`Error::NotAllowed`] with a member's key; [`Error::Usage`] for a pattern or a type letter that is not one. What can't be read is in the report.
pub fn find(
    repository: &Repository,
    snapshots: &[Snapshot],
    options: &FindOptions,
    each: EachMatch<'_>,
) -> Result<FindReport> {
    repository.refuse_unable_to_read()?;
    let matcher = Matcher::new(options)?;
    let mut report = FindReport::default();
    let mut search = Search::new(repository, true);
    for snapshot in snapshots {
        let finished = search.run(&snapshot.record.root, &mut |step| match step {
            Step::Node(_) => ControlFlow::Continue(false),
            Step::Lost(node, error) => {
                report.problems_count += 1;
                if report.problems.len() < PROBLEMS_MAX {
                    report.problems.push(Problem { subject: node.object(), what: error.to_string(), code: "damaged" });
                }
                // Why true: the part is to be reported for every snapshot that it belongs to.
                ControlFlow::Continue(true)
            }
            Step::Entry(key, entry) => {
                report.entries += 1;
                if !matcher.is_match(key, entry) {
                    return ControlFlow::Continue(false);
                }
                report.matches += 1;
                each(snapshot, key, entry).map_break(|()| true).map_continue(|()| true)
            }
        });
        if !finished {
            report.stopped = true;
            break;
        }
    }
    Ok(report)
}

struct Matcher<'o> {
    options: &'o FindOptions,
    names: GlobSet,
    paths: GlobSet,
}

impl<'o> Matcher<'o> {
    fn new(options: &'o FindOptions) -> Result<Self> {
        if let Some(letter) = options.types.iter().find(|letter| !"fdlpscb".contains(**letter)) {
            return Err(Error::Usage(format!("{letter:?} is not a type: use f, d, l, p, s, c or b")));
        }
        let (paths, names): (Vec<&String>, _) = options.patterns.iter().partition(|pattern| pattern.contains('/'));
        Ok(Self { options, names: globs(&names, options.ignore_case)?, paths: globs(&paths, options.ignore_case)? })
    }

    fn is_match(&self, key: &TreeKey, entry: &Entry) -> bool {
        let options = self.options;
        let size = entry.is_file().then_some(entry.size);
        (options.types.is_empty() || options.types.contains(&letter(&entry.kind)))
            && options.larger_than.is_none_or(|limit| size.is_some_and(|size| size > limit))
            && options.smaller_than.is_none_or(|limit| size.is_some_and(|size| size < limit))
            && options.newer_than.is_none_or(|limit| entry.mtime > limit)
            && options.older_than.is_none_or(|limit| entry.mtime < limit)
            && self.is_named(key)
    }

    fn is_named(&self, key: &TreeKey) -> bool {
        self.options.patterns.is_empty()
            || self.names.is_match(OsStr::from_bytes(key.name()))
            || (!self.paths.is_empty() && self.paths.is_match(key.to_path()))
    }
}

fn globs(patterns: &[&String], ignore_case: bool) -> Result<GlobSet> {
    let refused = |error: globset::Error| Error::Usage(format!("not a pattern: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(ignore_case)
            .build()
            .map_err(refused)?;
        set.add(glob);
    }
    set.build().map_err(refused)
}

fn letter(kind: &Kind) -> char {
    match kind {
        Kind::File(_) => 'f',
        Kind::Directory => 'd',
        Kind::Symlink(_) => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice(..) => 'c',
        Kind::BlockDevice(..) => 'b',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Content;

    fn entry(kind: Kind, size: u64, seconds: i64) -> Entry {
        Entry {
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Timestamp { seconds, nanos: 0 },
            ctime: Timestamp::default(),
            btime: None,
            size,
            inode: 1,
            links: None,
            xattrs: Vec::new(),
            flags: 0,
            table: None,
        }
    }

    fn key(path: &[u8]) -> TreeKey {
        TreeKey(path[1..].iter().map(|&byte| if byte == b'/' { 0 } else { byte }).collect())
    }

    #[test]
    fn patterns_match_names_or_paths() {
        for (pattern, ignore_case, path, expected) in [
            ("*.conf", false, &b"/etc/ssh/sshd.conf"[..], true),
            ("*.conf", false, b"/etc/x.conf/readme", false),
            ("*.CONF", false, b"/etc/x.conf", false),
            ("*.CONF", true, b"/etc/x.conf", true),
            ("/etc/*", false, b"/etc/hosts", true),
            ("/etc/*", false, b"/etc/ssh/sshd.conf", false),
            ("/etc/**", false, b"/etc/ssh/sshd.conf", true),
            ("**/ssh/*", false, b"/etc/ssh/sshd.conf", true),
            ("caf?*", false, b"/caf\xe9", true),
            ("a\\*b", false, b"/a*b", true),
            ("a\\*b", false, b"/axb", false),
        ] {
            let options = FindOptions { patterns: vec![pattern.to_owned()], ignore_case, ..FindOptions::default() };
            let found = Matcher::new(&options).unwrap().is_match(&key(path), &entry(Kind::Directory, 0, 0));
            assert_eq!(found, expected, "{pattern} {}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn filters_must_all_be_met() {
        let file = entry(Kind::File(Content::Inline(Vec::new())), 100, 1000);
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let base = FindOptions::default;
        for (options, expected) in [
            (base(), true),
            (FindOptions { types: vec!['f', 'l'], ..base() }, true),
            (FindOptions { types: vec!['d'], ..base() }, false),
            (FindOptions { larger_than: Some(99), ..base() }, true),
            (FindOptions { larger_than: Some(100), ..base() }, false),
            (FindOptions { smaller_than: Some(100), ..base() }, false),
            (FindOptions { smaller_than: Some(101), ..base() }, true),
            (FindOptions { newer_than: at(999), older_than: at(1001), ..base() }, true),
            (FindOptions { newer_than: at(1000), ..base() }, false),
            (FindOptions { older_than: at(1000), ..base() }, false),
            (FindOptions { larger_than: Some(1), patterns: vec!["other".to_owned()], ..base() }, false),
        ] {
            assert_eq!(Matcher::new(&options).unwrap().is_match(&key(b"/file"), &file), expected, "{options:?}");
        }
        let options = FindOptions { larger_than: Some(0), ..base() };
        assert!(!Matcher::new(&options).unwrap().is_match(&key(b"/d"), &entry(Kind::Directory, 4096, 0)));
    }

    #[test]
    fn nonsense_is_refused() {
        for options in [
            FindOptions { types: vec!['x'], ..FindOptions::default() },
            FindOptions { patterns: vec!["a[".to_owned()], ..FindOptions::default() },
            FindOptions { patterns: vec!["/a/{b".to_owned()], ..FindOptions::default() },
        ] {
            assert!(matches!(Matcher::new(&options).err(), Some(Error::Usage(_))), "{options:?}");
        }
    }
}
