//! What a run of `protect` proves: which packs are read back, which paths are restored.
//!
//! Everything, the first time. Later: what this run stored or what changed since the parent snapshot, and a random
//! sample of the rest, so that over many runs all of it comes up. Where the choice can't be expressed as patterns
//! (too many paths, names that are not text) everything is restored: more proof, never less.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use seawall_engine::crypto::random;
use seawall_engine::diff::{ChangeKind, diff};
use seawall_engine::entry::{Content, Entry, Extent, Kind, TreeKey};
use seawall_engine::error::Result;
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::format::names::PackName;
use seawall_engine::repo::Repository;
use seawall_engine::verify::Read;

use crate::commands::sources::literal_pattern;

/// Of the packs that this run did not write, every so many-th is read back, and at least one …
const SAMPLED_PACKS_EVERY: usize = 20;
/// … but no more than this, so that a later run takes seconds (8 packs of 32 MiB).
const SAMPLED_PACKS_MAX: usize = 8;
/// Unchanged files that a later run restores, at most.
const SAMPLED_FILES_MAX: usize = 256;
/// Plain bytes of those files together, at most.
const SAMPLED_BYTES_MAX: u64 = 256 << 20;
/// Changed paths that are restored by name; where there are more, everything is restored.
const CHOSEN_PATHS_MAX: usize = 20_000;
/// What a file system needs for one entry besides its data.
const ENTRY_BYTES: u64 = 4096;

/// Which stored bytes are read back.
pub struct DataProof {
    /// For the verifier.
    pub read: Read,
    /// Packs that this run wrote.
    pub written: u64,
    /// Older packs, chosen at random.
    pub sampled: u64,
}

impl DataProof {
    /// All packs, or those just written and a sample.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn choose(repository: &Repository, written: &[PackName], everything: bool) -> Result<Self> {
        let count = written.len() as u64;
        if everything {
            return Ok(Self { read: Read::All, written: count, sampled: 0 });
        }
        let mut others = BTreeSet::new();
        repository.each_location(&mut |_, location| {
            others.insert(location.pack);
        })?;
        for pack in written {
            others.remove(pack);
        }
        let wanted = others.len().div_ceil(SAMPLED_PACKS_EVERY).min(SAMPLED_PACKS_MAX);
        let mut sample = Sample::new(wanted);
        others.into_iter().for_each(|pack| sample.offer(pack));
        let sampled = sample.chosen.len() as u64;
        let packs = written.iter().copied().chain(sample.chosen).collect();
        Ok(Self { read: Read::Packs(packs), written: count, sampled })
    }
}

/// Which paths are restored and compared.
#[derive(Default)]
pub struct Rehearsal {
    /// Patterns for the restore; empty for everything.
    pub include: Vec<String>,
    /// The chosen paths with all directories above them; empty for everything.
    chosen: HashSet<TreeKey>,
    /// Paths that changed since the parent.
    pub changed: u64,
    /// Unchanged files, chosen at random.
    pub sampled: u64,
    /// Plain bytes that the restore will write, holes not counted, and room for the entries.
    pub bytes_needed: u64,
    partial: bool,
}

impl Rehearsal {
    /// Everything, or what changed since the parent and a sample.
    ///
    /// # Errors
    /// When the trees can't be read.
    pub fn choose(repository: &Repository, snapshot: &SnapshotRecord, everything: bool) -> Result<Self> {
        let parent = snapshot.parent.filter(|_| !everything);
        let snapshots = repository.snapshots();
        let parent = parent.and_then(|parent| snapshots.iter().find(|other| other.record.id == parent));
        if let Some(parent) = parent
            && let Some(changed) = changed_paths(repository, &parent.record, snapshot)?
            && let Some(partial) = Self::partial(repository, snapshot, changed)?
        {
            return Ok(partial);
        }
        let mut whole = Self::default();
        for item in repository.tree(&snapshot.root).entries() {
            whole.bytes_needed += bytes_needed(repository, &item?.1)?;
        }
        Ok(whole)
    }

    /// `None` where a path can't be written as a pattern.
    fn partial(repository: &Repository, snapshot: &SnapshotRecord, changed: HashSet<TreeKey>) -> Result<Option<Self>> {
        let mut part = Self { partial: true, changed: changed.len() as u64, ..Self::default() };
        let mut sample = Sample::new(SAMPLED_FILES_MAX);
        for item in repository.tree(&snapshot.root).entries() {
            let (key, entry) = item?;
            if changed.contains(&key) {
                part.bytes_needed += bytes_needed(repository, &entry)?;
            } else if entry.is_file() && entry.size <= SAMPLED_BYTES_MAX {
                sample.offer((key, entry.size));
            }
        }
        let mut sampled_bytes = 0;
        sample.chosen.retain(|(_, size)| {
            let fits = sampled_bytes + size <= SAMPLED_BYTES_MAX;
            sampled_bytes += if fits { *size } else { 0 };
            fits
        });
        part.sampled = sample.chosen.len() as u64;
        part.bytes_needed += sampled_bytes + part.sampled * ENTRY_BYTES;
        for key in changed.into_iter().chain(sample.chosen.into_iter().map(|(key, _)| key)) {
            let Some(pattern) = literal_pattern(&key.to_path()) else { return Ok(None) };
            part.include.push(pattern);
            part.choose_with_parents(key);
        }
        // Without a single pattern the restore would take everything.
        Ok(Some(part).filter(|part| !part.include.is_empty()))
    }

    fn choose_with_parents(&mut self, key: TreeKey) {
        let mut next = Some(key);
        while let Some(key) = next {
            next = key.parent();
            if !self.chosen.insert(key) {
                break;
            }
        }
    }

    /// True if not everything is restored.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// True if this path is restored.
    #[must_use]
    pub fn includes(&self, key: &TreeKey) -> bool {
        !self.partial || self.chosen.contains(key)
    }
}

/// What is new or different. Directories that only changed (most often: their time, because something in them did)
/// are left out: a pattern for one would take everything below it, and they come along with what is in them.
/// `None` where there are too many.
fn changed_paths(
    repository: &Repository,
    parent: &SnapshotRecord,
    snapshot: &SnapshotRecord,
) -> Result<Option<HashSet<TreeKey>>> {
    let mut changed = HashSet::new();
    let mut too_many = false;
    diff(repository, &parent.root, &snapshot.root, &TreeKey::default(), &mut |change| {
        let Some(entry) = &change.new else { return ControlFlow::Continue(()) };
        if !entry.is_directory() || matches!(change.kind, ChangeKind::Added | ChangeKind::Type) {
            changed.insert(change.key);
        }
        too_many = changed.len() > CHOSEN_PATHS_MAX;
        if too_many { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((!too_many).then_some(changed))
}

fn bytes_needed(repository: &Repository, entry: &Entry) -> Result<u64> {
    let Kind::File(content) = &entry.kind else { return Ok(ENTRY_BYTES) };
    let mut bytes = ENTRY_BYTES;
    if let Content::Inline(inline) = content {
        bytes += inline.len() as u64;
    }
    for extent in repository.extents(content) {
        if let Extent::Chunk { length, .. } = extent? {
            bytes += u64::from(length);
        }
    }
    Ok(bytes)
}

/// A uniform random sample of a sequence of unknown length (reservoir sampling, Vitter's algorithm R).
struct Sample<T> {
    chosen: Vec<T>,
    wanted: usize,
    offered: u64,
}

impl<T> Sample<T> {
    fn new(wanted: usize) -> Self {
        Self { chosen: Vec::new(), wanted, offered: 0 }
    }

    fn offer(&mut self, item: T) {
        self.offered += 1;
        if self.chosen.len() < self.wanted {
            self.chosen.push(item);
            return;
        }
        // The remainder favours low places by at most offered / 2^64: nothing to measure.
        let place = u64::from_le_bytes(random::<8>()) % self.offered;
        if let Some(old) = usize::try_from(place).ok().and_then(|place| self.chosen.get_mut(place)) {
            *old = item;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_bounded_and_reaches_everything() {
        let mut seen = [0u32; 50];
        for _ in 0..400 {
            let mut sample = Sample::new(5);
            (0..50usize).for_each(|item| sample.offer(item));
            assert_eq!(sample.chosen.len(), 5);
            let distinct: HashSet<usize> = sample.chosen.iter().copied().collect();
            assert_eq!(distinct.len(), 5);
            sample.chosen.iter().for_each(|&item| seen[item] += 1);
        }
        // 40 expected each; the chance that one of 50 stays below 8 is under 10^-9.
        assert!(seen.iter().all(|&times| times >= 8), "{seen:?}");
        let mut short = Sample::new(5);
        (0..3).for_each(|item| short.offer(item));
        assert_eq!(short.chosen, [0, 1, 2]);
    }

    #[test]
    fn the_directories_above_a_chosen_path_are_included() {
        let mut part = Rehearsal { partial: true, ..Rehearsal::default() };
        let key = |text: &str| TreeKey(text.replace('/', "\0").into_bytes());
        part.choose_with_parents(key("a/b/c"));
        part.choose_with_parents(key("a/d"));
        for path in ["", "a", "a/b", "a/b/c", "a/d"] {
            assert!(part.includes(&key(path)), "{path}");
        }
        assert!(!part.includes(&key("a/b/x")));
        assert!(Rehearsal::default().includes(&key("anything")));
    }
}
