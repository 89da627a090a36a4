//! The merge: the restored directory's walk beside the snapshot's tree.
//!
//! Both come in ascending order of keys, so what one has and the other lacks shows without remembering names. Kept are
//! only the inodes with several names, to see that the same names are links of each other.

use std::collections::HashMap;
use std::fs;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::path::Path;

use super::Compare;
use crate::entry::{Entry, Kind, LinkGroup, TreeKey};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::repo::tree::TreeEntries;
use crate::stages::walk::{Device, Event, Found, Stat, StatKind, WalkOptions, walk};

/// What is compared with what.
pub(super) struct Place<'p> {
    pub(super) root: ChunkId,
    pub(super) from: &'p TreeKey,
    pub(super) directory: &'p Path,
}

/// Takes a pair: key in the snapshot, entry, what was found, whether to compare the content.
pub(super) type Take<'t> = &'t mut dyn FnMut(TreeKey, Entry, Found, bool);

/// Gives every name that both have to `take`, and reports what only one has.
pub(super) fn find_pairs(compare: &Compare<'_>, place: &Place<'_>, take: Take<'_>) -> Result<()> {
    let tree = || compare.repository.tree(&place.root);
    let top = tree()
        .get(place.from)?
        .ok_or_else(|| Error::NotFound(format!("{} is not in the snapshot", place.from.to_path().display())))?;
    let failed = |error| Error::file(place.directory, "cannot be compared", error);
    let mut real = fs::canonicalize(place.directory).map_err(failed)?;
    let mut at = TreeKey::from_path(&real).ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
    if !top.is_directory() {
        at = at.child(place.from.name());
        real = at.to_path();
        if fs::symlink_metadata(&real).is_err() {
            compare.differ(place.from, "missing");
            return Ok(());
        }
    }
    let mut merge = Merge {
        compare,
        entries: tree().within(place.from).peekable(),
        groups: HashMap::new(),
        inodes: HashMap::new(),
        take,
    };
    let mut outcome = Ok(());
    let options = WalkOptions { sources: vec![real], ..WalkOptions::default() };
    walk(&options, &mut |event| {
        outcome = compare.go_on().and_then(|()| match event {
            Event::Found(found) if !found.key.is_within(&at) => Ok(()),
            Event::Found(found) => merge.found(moved(&found.key, &at, place.from), found),
            Event::Problem(problem) => {
                compare.differ(&key_of_problem(&problem.subject, &at, place.from), problem.what);
                Ok(())
            }
        });
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    merge.rest()
}

/// `key`, which lies at or below `at`, as the key at the same place below `from`.
fn moved(key: &TreeKey, at: &TreeKey, from: &TreeKey) -> TreeKey {
    let rest = &key.0[at.0.len()..];
    match rest.strip_prefix(&[0]).unwrap_or(rest) {
        [] => from.clone(),
        rest => from.child(rest),
    }
}

/// The walk's problems name paths in the restored directory.
fn key_of_problem(subject: &str, at: &TreeKey, from: &TreeKey) -> TreeKey {
    let key = TreeKey::from_path(Path::new(subject)).unwrap_or_default();
    if key.is_within(at) { moved(&key, at, from) } else { key }
}

struct Merge<'m, 't> {
    compare: &'m Compare<'m>,
    entries: Peekable<TreeEntries<'m>>,
    /// The inode that a link group's first name has here.
    groups: HashMap<LinkGroup, (Device, u64)>,
    /// The group of an inode with several names here; none where the snapshot has no links there.
    inodes: HashMap<(Device, u64), Option<LinkGroup>>,
    take: Take<'t>,
}

impl Merge<'_, '_> {
    fn found(&mut self, key: TreeKey, found: Found) -> Result<()> {
        loop {
            match self.entries.next_if(|next| next.as_ref().is_ok_and(|(next, _)| *next <= key)) {
                Some(Ok((next, entry))) if next == key => {
                    self.links(&key, &entry, &found.stat);
                    let content = self.is_expected(&key);
                    (self.take)(key, entry, found, content);
                    return Ok(());
                }
                Some(Ok((next, _))) => self.missing(&next),
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        if let Some(Err(error)) = self.entries.next_if(Result::is_err) {
            return Err(error);
        }
        self.compare.differ(&key, "not in the snapshot");
        Ok(())
    }

    fn is_expected(&self, key: &TreeKey) -> bool {
        self.compare.options.filter.is_none_or(|filter| filter(key))
    }

    fn missing(&self, key: &TreeKey) {
        if self.is_expected(key) {
            self.compare.differ(key, "missing");
        }
    }

    /// What the snapshot has behind everything that was found.
    fn rest(&mut self) -> Result<()> {
        while let Some(next) = self.entries.next() {
            self.missing(&next?.0);
        }
        Ok(())
    }

    /// Names of one inode in the snapshot must be names of one inode here, and no others.
    fn links(&mut self, key: &TreeKey, entry: &Entry, stat: &Stat) {
        if stat.kind == StatKind::Directory || matches!(entry.kind, Kind::Directory) {
            return;
        }
        let inode = (stat.device, stat.inode);
        if let Some(group) = entry.links {
            let first = *self.groups.entry(group).or_insert(inode);
            if first != inode {
                self.compare.differ(key, "not a hard link of the names that it was one with");
                return;
            }
        }
        if stat.links > 1 && *self.inodes.entry(inode).or_insert(entry.links) != entry.links {
            self.compare.differ(key, "a hard link of a name that it was not one with");
        } else if stat.links > 1 && entry.links.is_none() {
            self.compare.differ(key, "has other names, which it had not");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_move_from_the_directory_to_the_snapshot() {
        let key = |path: &str| TreeKey::from_path(Path::new(path)).unwrap();
        for (found, at, from, expected) in [
            ("/tmp/r", "/tmp/r", "/", "/"),
            ("/tmp/r/a/b", "/tmp/r", "/", "/a/b"),
            ("/tmp/r", "/tmp/r", "/home/x", "/home/x"),
            ("/tmp/r/a", "/tmp/r", "/home/x", "/home/x/a"),
            ("/a", "/", "/home", "/home/a"),
            ("/", "/", "/", "/"),
            ("/usr/bin", "/", "/", "/usr/bin"),
        ] {
            assert_eq!(moved(&key(found), &key(at), &key(from)), key(expected), "{found}");
        }
    }
}
