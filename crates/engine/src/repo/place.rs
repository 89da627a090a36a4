//! Which repository lay at a place when this user last looked.
//!
//! The cache of a repository goes by the repository's id, which the store shows to everybody. Whoever puts another
//! repository into a store's place, with a slot that the user's public key opens, would meet an empty cache. So the cache
//! also remembers, by the store's location, the id and the fingerprint of what was there.
//!
//! Invariants: a place that was taken by a repository that this user never saw is told, and nothing is written there; what
//! was seen stays remembered until somebody says which fingerprint to expect. Failing to remember costs only this check.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::crypto::object_hash;
use crate::error::{Error, Result};
use crate::ids::{ObjectHash, RepositoryId};
use crate::repo::cache::{not_own, write_atomically};
use crate::repo::log::Log;

/// A remembered place is a line of two ids and nothing more.
const LINE_BYTES: usize = 2 * RepositoryId::LEN + 1 + 2 * ObjectHash::LEN + 1;

/// The repository that this user last saw in the directory at `location`, whatever is there now; none where nothing is
/// remembered. `cache` is the directory for all of this user's caches.
#[must_use]
pub fn seen_at(location: &Path, cache: Option<&Path>) -> Option<RepositoryId> {
    let location = std::path::absolute(location).unwrap_or_else(|_| location.to_owned());
    Place::new(cache, &location.display().to_string()).seen().map(|(repository, _)| repository)
}

/// One store's place in this user's cache; may be absent.
pub(crate) struct Place {
    file: Option<PathBuf>,
}

impl Place {
    /// The place of the store at this location. `base` is the directory for all of this user's caches.
    pub(crate) fn new(base: Option<&Path>, location: &str) -> Self {
        let directory = base.map(|base| base.join("places"));
        let make = |directory: &PathBuf| DirBuilder::new().recursive(true).mode(0o700).create(directory).is_ok();
        let made = directory.filter(|directory| make(directory) && not_own(directory).is_none());
        Self { file: made.map(|directory| directory.join(object_hash(location.as_bytes()).to_string())) }
    }

    /// As [`Self::new`], to look only: nothing is made.
    pub(crate) fn look(base: Option<&Path>, location: &str) -> Self {
        let directory = base.map(|base| base.join("places"));
        Self { file: directory.map(|directory| directory.join(object_hash(location.as_bytes()).to_string())) }
    }

    /// Why the repository that is `here` can't be the one that was here before; none where it is that one, or none was.
    pub(crate) fn replaced(&self, here: (RepositoryId, ObjectHash)) -> Option<String> {
        let (before, _) = self.seen().filter(|before| *before != here)?;
        let (repository, fingerprint) = here;
        Some(format!(
            "the repository {before} was seen here before, and this is another one ({repository}, fingerprint {fingerprint})"
        ))
    }

    /// Holds the repository of this log against what is expected, or else against what was here before.
    ///
    /// # Errors
    /// [`Error::Substituted`] where it is not the expected one. Where it is another one than before, the log is marked as
    /// gone back.
    pub(crate) fn admit(&self, log: &mut Log, expected: Option<ObjectHash>) -> Result<()> {
        let state = log.state();
        let Some(fingerprint) = state.fingerprint else { return Ok(()) };
        let here = (state.repository, fingerprint);
        if expected.is_some_and(|expected| expected != fingerprint) {
            return Err(Error::Substituted(format!("the repository here has the fingerprint {fingerprint}")));
        }
        if self.seen() == Some(here) {
            return Ok(());
        }
        if let Some(why) = self.replaced(here).filter(|_| expected.is_none() && !log.is_known()) {
            log.distrust(why);
        }
        if log.rollback().is_none() {
            self.remember(here);
        }
        Ok(())
    }

    fn seen(&self) -> Option<(RepositoryId, ObjectHash)> {
        parse(&fs::read_to_string(self.file.as_ref()?).ok()?)
    }

    fn remember(&self, (repository, fingerprint): (RepositoryId, ObjectHash)) {
        if let Some(file) = &self.file {
            let _ = write_atomically(file, |file| file.write_all(line(repository, fingerprint).as_bytes()));
        }
    }
}

/// The line that remembers a place.
#[must_use]
pub fn line(repository: RepositoryId, fingerprint: ObjectHash) -> String {
    format!("{repository} {fingerprint}\n")
}

/// What a line remembers; none of what is no such line.
#[must_use]
pub fn parse(text: &str) -> Option<(RepositoryId, ObjectHash)> {
    let (repository, fingerprint) = text.strip_suffix('\n').filter(|_| text.len() == LINE_BYTES)?.split_once(' ')?;
    Some((RepositoryId::from_hex(repository).ok()?, ObjectHash::from_hex(fingerprint).ok()?))
}
