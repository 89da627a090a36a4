//! What a restore must not take from under itself: the repository that it reads, the cache, and the keys that opened it.
//!
//! They are known by device and inode, so whatever name leads to them, they are recognized. A directory that holds one of
//! them is known too: it may be restored into, but is neither removed nor cleared.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::stages::target::Identity;

/// A place that a restore leaves as it is, with all that lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// What it is, in words: "the repository".
    pub what: &'static str,
    /// Where it is. What is not there needs no guard.
    pub path: PathBuf,
}

#[derive(Debug)]
struct Place {
    name: String,
    /// False for a directory above.
    itself: bool,
}

/// The guarded places.
#[derive(Debug, Default)]
pub(super) struct Guard(HashMap<Identity, Place>);

impl Guard {
    /// Looks the places up.
    pub(super) fn new(guarded: &[Guarded]) -> Self {
        let mut guard = Self::default();
        for Guarded { what, path } in guarded {
            let name = format!("{what} {}", path.display());
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            // Why both: a link that leads there is somebody's way to it.
            guard.add(&absolute, &name);
            if let Ok(real) = absolute.canonicalize() {
                guard.add(&real, &name);
            }
        }
        guard
    }

    fn add(&mut self, path: &Path, name: &str) {
        for (place, itself) in path.ancestors().zip(std::iter::once(true).chain(std::iter::repeat(false))) {
            let Ok(identity) = identity(place) else { continue };
            let known = self.0.entry(identity).or_insert_with(|| Place { name: name.to_owned(), itself });
            if itself && !known.itself {
                *known = Place { name: name.to_owned(), itself };
            }
        }
    }

    /// Why this must not be written to or replaced.
    pub(super) fn is(&self, identity: Identity) -> Option<String> {
        let place = self.0.get(&identity).filter(|place| place.itself)?;
        Some(format!("it is {}, which this restore uses and leaves as it is", place.name))
    }

    /// Why this must not be removed.
    pub(super) fn is_or_holds(&self, identity: Identity) -> Option<String> {
        let holds = |place: &Place| format!("it holds {}, which this restore uses and leaves as it is", place.name);
        self.is(identity).or_else(|| self.0.get(&identity).map(holds))
    }

    /// Refuses a target inside of a guarded place, before anything is made in it.
    ///
    /// # Errors
    /// [`Error::Usage`], naming both.
    pub(super) fn refuse_target(&self, target: &Path) -> Result<()> {
        let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
        // The part that exists tells; below it there is nothing yet.
        let Some(real) = absolute.ancestors().find_map(|path| path.canonicalize().ok()) else { return Ok(()) };
        let mut inside = real.ancestors().filter_map(|path| self.0.get(&identity(path).ok()?));
        match inside.find(|place| place.itself) {
            Some(place) => Err(Error::Usage(format!(
                "the target {} lies in {}, which this restore uses: choose another",
                target.display(),
                place.name
            ))),
            None => Ok(()),
        }
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = path.symlink_metadata()?;
    Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
}
