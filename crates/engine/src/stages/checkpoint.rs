//! Checkpoints as units: which lie below a directory, of which step and run, and is each finished and whole?
//!
//! A [`Scanner`] looks, again and again if it is asked to. One look finds candidates by their names ([`find`]), lists what
//! lies in each ([`listing`]), and asks each layout's evidence ([`evidence`]) and the run's trackers ([`tracker`]). A
//! checkpoint is complete only if nothing lacks and nothing changed between two looks. docs/checkpoints.md has the rules.
//!
//! Never sees a store; whether a checkpoint is in a repository is for others to say. Everything read here is from outside:
//! it is bounded, and can make a checkpoint count as incomplete, or at worst as complete; it can't harm.

mod evidence;
mod find;
mod json;
mod listing;
mod looks;
mod names;
mod siblings;
#[cfg(test)]
mod tests;
mod tracker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use listing::{ENTRIES_MAX, Listing, Seen, SeenKind};
pub use looks::{Look, Pace, Scanner};

use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// How a framework lays out a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// torch's distributed checkpoints.
    Dcp,
    /// Megatron, both of its forms.
    Megatron,
    /// DeepSpeed.
    DeepSpeed,
    /// Orbax.
    Orbax,
    /// The Trainer's checkpoints, Accelerate's states, models of `save_pretrained`.
    HuggingFace,
    /// Files with weights and nothing that says when the last of them was written.
    Plain,
}

impl Layout {
    /// Its name in labels and output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dcp => "dcp",
            Self::Megatron => "megatron",
            Self::DeepSpeed => "deepspeed",
            Self::Orbax => "orbax",
            Self::HuggingFace => "hugging-face",
            Self::Plain => "plain",
        }
    }
}

/// How far a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The caller has it already; nothing was looked at.
    Known,
    /// Finished, whole, and at rest.
    Complete,
    /// Finished and whole by one look; another must find the same.
    Settling,
    /// Something lacks, and something changed lately.
    Writing(String),
    /// Something lacks, and nothing changed for long.
    Incomplete(String),
}

impl State {
    /// Why it is not complete, where something lacks.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Writing(reason) | Self::Incomplete(reason) => Some(reason),
            Self::Known | Self::Complete | Self::Settling => None,
        }
    }
}

/// One checkpoint at the time of a look.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Its directory or file, absolute.
    pub path: PathBuf,
    /// Its lineage: the directory that it and the run's other steps lie in.
    pub run: PathBuf,
    /// The step in its name.
    pub step: Option<u64>,
    /// Its layout.
    pub layout: Layout,
    /// Stands for names, sizes and modification times of its files: another one is another checkpoint.
    pub fingerprint: String,
    /// Ranks that wrote it, if names tell. Not asked of a known one.
    pub world_size: Option<u64>,
    /// When its marker was written; of a layout without one, its newest file.
    pub finished: Timestamp,
    /// How far it is.
    pub state: State,
    listing: Arc<Listing>,
}

impl Checkpoint {
    /// Length of its files in bytes; 0 of a known one, which is not kept in mind.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.listing.bytes()
    }

    /// How many files it has; 0 of a known one.
    #[must_use]
    pub fn files(&self) -> u64 {
        u64::try_from(self.listing.files().count()).unwrap_or(u64::MAX)
    }

    /// When the newest of its files was modified; none of a known one, or where there are none.
    #[must_use]
    pub fn modified(&self) -> Option<Timestamp> {
        self.listing.files().map(|file| file.mtime).max()
    }

    /// The directories in it, itself included if it is one; none of a known one.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let directories = self.listing.entries().iter().filter(|entry| entry.kind == SeenKind::Directory);
        directories
            .map(|entry| if entry.path == Path::new("") { self.path.clone() } else { self.path.join(&entry.path) })
    }

    /// True if nothing that was seen of this is otherwise in `other`, inodes and times of change included.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.listing == other.listing
    }

    /// Looks again, whether all is as it was at the look that made this.
    ///
    /// # Errors
    /// [`Error::Changed`] naming the first path that is not as it was, or has gone.
    pub fn still_the_same(&self) -> Result<()> {
        let now = Listing::of(&self.path).map_err(|error| changed(&self.path, &error.to_string()))?;
        match self.listing.difference(&now) {
            None => Ok(()),
            Some(path) if path == Path::new("") => Err(changed(&self.path, "it changed")),
            Some(path) => Err(changed(&self.path.join(path), "it changed, came or went")),
        }
    }
}

fn changed(path: &Path, what: &str) -> Error {
    Error::Changed(format!("{}: {what} while it was read", path.display()))
}
