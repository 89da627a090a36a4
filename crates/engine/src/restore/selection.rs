//! Which entries a restore takes, and in which directories it may delete.

use crate::entry::TreeKey;
use crate::error::{Error, Result};
use crate::stages::exclude::{ExcludeOptions, Excludes};

/// What the patterns say of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Restored.
    Taken,
    /// Not itself, but perhaps something below it.
    Passed,
    /// Neither it nor anything below it.
    Excluded,
}

/// Compiled patterns.
#[derive(Debug)]
pub(super) struct Selection {
    include: Option<Excludes>,
    exclude: Excludes,
}

impl Selection {
    /// Compiles patterns as the user wrote them.
    pub(super) fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let compile = |patterns: &[String]| {
            Excludes::new(ExcludeOptions { patterns: patterns.to_vec(), ..ExcludeOptions::default() })
        };
        let include = if include.is_empty() { None } else { Some(compile(include)?) };
        Ok(Self { include, exclude: compile(exclude)? })
    }

    /// Whether the entry at `key` is taken; `above` says whether the directory that holds it is.
    pub(super) fn choose(&self, key: &TreeKey, directory: bool, above: bool) -> Choice {
        let path = if self.include.is_some() || self.exclude.has_patterns() { pattern_path(key) } else { Vec::new() };
        if self.exclude.has_patterns() && !path.is_empty() && self.exclude.is_excluded(&path, directory) {
            return Choice::Excluded;
        }
        match &self.include {
            Some(include) if !above && !include.is_excluded(&path, directory) => Choice::Passed,
            _ => Choice::Taken,
        }
    }

    /// Whether the directory where the restore begins is taken, by itself or by one above it.
    pub(super) fn takes_base(&self, base: &TreeKey) -> bool {
        let mut above = Some(base.clone());
        while let Some(key) = above {
            if self.choose(&key, true, false) == Choice::Taken {
                return true;
            }
            above = key.parent();
        }
        false
    }

    /// Whether the patterns leave the thing at `key`, which only the target has, to its owner.
    pub(super) fn protects(&self, key: &TreeKey, directory: bool) -> bool {
        self.exclude.has_patterns() && self.exclude.is_excluded(&pattern_path(key), directory)
    }
}

/// Patterns look at paths without the leading slash.
fn pattern_path(key: &TreeKey) -> Vec<u8> {
    key.0.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect()
}

/// Where the tree is whole, so that what it lacks was really not there.
#[derive(Debug)]
pub(super) struct Whole(Vec<Vec<TreeKey>>);

impl Whole {
    /// From the sources of each snapshot that has the tree.
    pub(super) fn new(sources: Vec<Vec<TreeKey>>) -> Result<Self> {
        if sources.is_empty() {
            return Err(Error::Usage("deleting needs a snapshot of the log: this tree belongs to none".to_owned()));
        }
        Ok(Self(sources))
    }

    /// True if the directory at `key` was read whole: directories above a source were only recorded themselves.
    pub(super) fn covers(&self, key: &TreeKey) -> bool {
        self.0.iter().all(|snapshot| snapshot.iter().any(|source| key.is_within(source)))
    }
}
