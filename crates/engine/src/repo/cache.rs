//! The local cache: hints that make the next run faster. Deleting it at any time is safe.
//!
//! Layout below the directory that the caller names: `<repository id>/segments/<hash>` (opened index segments),
//! `directories/<name>` (tables over many of those, see [`super::directory`]), `log` (verified log entries), `models` (where files with tensors lay), `sessions/<id>` (sessions that this user began, locked while they live),
//! `entries/…` (the entries of the newest snapshot of a source, see [`super::parent`]).
//! The directory holds file names and tiny files of the protected sources in clear, so it is made with mode 0700.
//!
//! Invariant: what is believed here only this user or root can have written. Where others own a directory of it, or may write
//! to it, there is no cache: whoever changed an entry of the newest snapshot would put other content into the next one.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::crypto::random;
use crate::ids::{ObjectHash, RepositoryId, SessionId};

/// A temporary file that is not touched for so long was left by a process that was killed.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// The local cache of one repository; may be absent.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    directory: Option<PathBuf>,
    refused: Option<String>,
}

/// A session's mark in the cache. The lock is held while this lives; it only tells whether a session's process still
/// runs, safety does not depend on it. Dropped, it goes, unless something was stored that a later session may adopt.
#[derive(Debug)]
pub struct SessionMark {
    path: PathBuf,
    _lock: File,
    is_kept: bool,
}

impl Cache {
    /// The cache of `repository` below `base`; without `base`, or where it can't be made, there is none.
    #[must_use]
    pub fn new(base: Option<&Path>, repository: &RepositoryId) -> Self {
        let Some(base) = base else { return Self::default() };
        let directory = base.join(repository.to_string());
        let parts = ["segments", "directories", "sessions", "entries"].map(|part| directory.join(part));
        let made = parts.iter().all(|part| DirBuilder::new().recursive(true).mode(0o700).create(part).is_ok());
        if !made {
            return Self::default();
        }
        match std::iter::once(&directory).chain(&parts).find_map(|part| not_own(part)) {
            None => Self { directory: Some(directory), refused: None },
            refused => Self { directory: None, refused },
        }
    }

    /// Why a cache that is there is not used, in words; none where it is used, or there is none.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Where all of it lies.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// True where nothing can be kept.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.directory.is_none()
    }

    /// Where the opened segment with this stored hash is kept.
    #[must_use]
    pub fn segment_path(&self, hash: &ObjectHash) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("segments").join(hash.to_string()))
    }

    /// Where the directory with this name is kept.
    pub(crate) fn directory_path(&self, name: &ObjectHash) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("directories").join(name.to_string()))
    }

    /// The names of the directories that are there.
    pub(crate) fn directories(&self) -> Vec<ObjectHash> {
        let mut names: Vec<ObjectHash> = self.files("directories").filter_map(|path| hash(&path)).collect();
        names.sort_unstable();
        names
    }

    /// Removes segments and directories that are not among these, and what killed processes left beside them a day ago or
    /// longer. Who has one of them mapped keeps it; who asks for one again gets it from the store.
    pub(crate) fn retain(&self, segments: &HashSet<ObjectHash>, directories: &HashSet<ObjectHash>) {
        for (folder, stays) in [("segments", segments), ("directories", directories)] {
            for path in self.files(folder) {
                let goes = match hash(&path) {
                    Some(hash) => !stays.contains(&hash),
                    None => is_old(&path),
                };
                if goes {
                    // Why ignored: it takes room, no more.
                    let _ = fs::remove_file(&path);
                }
            }
        }
    }

    fn files(&self, folder: &str) -> impl Iterator<Item = PathBuf> {
        let listing = self.directory.as_ref().and_then(|directory| fs::read_dir(directory.join(folder)).ok());
        listing.into_iter().flatten().flatten().map(|item| item.path())
    }

    /// The directory of entry files.
    #[must_use]
    pub fn entries_directory(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("entries"))
    }

    /// The list of files with tensors that backups of this client read.
    pub(crate) fn models_path(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("models"))
    }

    /// The file of verified log entries.
    #[must_use]
    pub fn log_path(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join("log"))
    }

    /// Marks `session` as begun by this process.
    #[must_use]
    pub fn mark_session(&self, session: &SessionId) -> Option<SessionMark> {
        let path = self.directory.as_ref()?.join("sessions").join(session.to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(SessionMark { path, _lock: file, is_kept: false })
    }

    /// Sessions that were begun here, were not finished, and whose process is gone.
    #[must_use]
    pub fn abandoned_sessions(&self) -> Vec<SessionId> {
        let Some(directory) = &self.directory else { return Vec::new() };
        let Ok(listing) = fs::read_dir(directory.join("sessions")) else { return Vec::new() };
        let abandoned = listing.flatten().filter(|item| lock_if_free(&item.path()).is_some());
        let mut sessions: Vec<_> =
            abandoned.filter_map(|item| SessionId::from_hex(item.file_name().to_str()?).ok()).collect();
        sessions.sort();
        sessions
    }

    /// Forgets the mark of a session that was adopted.
    pub fn unmark_session(&self, session: &SessionId) {
        if let Some(directory) = &self.directory {
            // Why: a mark that stays only makes a later run look at that session again.
            let _ = fs::remove_file(directory.join("sessions").join(session.to_string()));
        }
    }
}

impl SessionMark {
    /// The session stored something: unless it ends well, a later one is to find it.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// The session ended with its commit.
    pub fn finish(mut self) {
        self.is_kept = false;
    }
}

impl Drop for SessionMark {
    fn drop(&mut self) {
        if !self.is_kept {
            // Why ignored: a mark that stays only makes a later run look at this session again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The hash that is a file's name.
fn hash(path: &Path) -> Option<ObjectHash> {
    ObjectHash::from_hex(path.file_name()?.to_str()?).ok()
}

/// Why what lies in a directory may be somebody else's, in words.
pub(crate) fn not_own(directory: &Path) -> Option<String> {
    let shown = directory.display();
    let metadata = match fs::symlink_metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("{shown} can't be looked at: {error}")),
    };
    let own = rustix::process::geteuid().as_raw();
    match metadata.uid() {
        _ if !metadata.is_dir() => Some(format!("{shown} is a link")),
        owner if owner != own && owner != 0 => Some(format!("{shown} belongs to user {owner}")),
        _ if metadata.mode() & 0o022 != 0 => Some(format!("others may write to {shown}")),
        _ => None,
    }
}

fn is_old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > LEFTOVER_AGE))
}

/// Opens and locks `path` if nobody else holds its lock.
pub(crate) fn lock_if_free(path: &Path) -> Option<File> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// Writes a cache file under a temporary name through `write`, then renames it to `path`.
///
/// # Errors
/// Whatever the file system reports; the caller goes on without the cache.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    // Why random: several repositories may be open in one process, and processes in several containers have the same number.
    let temporary = path.with_extension(format!("tmp{:032x}", u128::from_le_bytes(random())));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let mut writer = io::BufWriter::new(file);
    let written = write(&mut writer).and_then(|()| writer.flush()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_session_that_stored_something_is_abandoned_once_its_mark_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(directory.path()), &RepositoryId([1; 16]));
        let session = SessionId([7; 16]);
        let mut mark = cache.mark_session(&session).unwrap();
        mark.keep();
        assert_eq!(cache.abandoned_sessions(), []);
        drop(mark);
        assert_eq!(cache.abandoned_sessions(), [session]);
        cache.unmark_session(&session);
        assert_eq!(cache.abandoned_sessions(), []);
        drop(cache.mark_session(&session).unwrap());
        assert_eq!(cache.abandoned_sessions(), [], "there is nothing to adopt");
        let mut mark = cache.mark_session(&session).unwrap();
        mark.keep();
        mark.finish();
        assert_eq!(cache.abandoned_sessions(), []);
    }

    /// Two containers may share a cache, and have processes of the same number.
    #[test]
    fn a_temporary_of_another_process_with_the_same_number_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let named = |number| path.with_extension(format!("tmp{}-{number}", std::process::id()));
        (0..1000).for_each(|number| fs::write(named(number), b"half written").unwrap());
        for _ in 0..3 {
            write_atomically(&path, |file| file.write_all(b"whole")).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!((0..1000).all(|number| fs::read(named(number)).unwrap() == b"half written"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1001);
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let base = tempfile::tempdir().unwrap();
        let repository = RepositoryId([1; 16]);
        let cache = Cache::new(Some(base.path()), &repository);
        assert!(!cache.is_absent() && cache.refused().is_none());
        let directory = base.path().join(repository.to_string());
        let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for part in [directory.clone(), directory.join("entries")] {
            for mode in [0o770, 0o702] {
                set_mode(&part, mode);
                let cache = Cache::new(Some(base.path()), &repository);
                assert!(cache.is_absent() && cache.refused().unwrap().contains("others may write"), "{mode:o}");
                set_mode(&part, 0o700);
            }
        }
        let entries = directory.join("entries");
        fs::rename(&entries, base.path().join("elsewhere")).unwrap();
        symlink(base.path().join("elsewhere"), &entries).unwrap();
        assert!(Cache::new(Some(base.path()), &repository).refused().unwrap().ends_with("is a link"));
        if rustix::process::geteuid().is_root() {
            fs::remove_file(&entries).unwrap();
            fs::create_dir(&entries).unwrap();
            chown(&entries, Some(1234), None).unwrap();
            let cache = Cache::new(Some(base.path()), &repository);
            assert!(cache.refused().unwrap().ends_with("belongs to user 1234"), "{cache:?}");
        }
    }

    #[test]
    fn without_a_directory_everything_is_absent() {
        let cache = Cache::new(None, &RepositoryId([1; 16]));
        assert!(cache.is_absent() && cache.log_path().is_none() && cache.mark_session(&SessionId([0; 16])).is_none());
    }
}
