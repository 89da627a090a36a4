//! A new file that shows under its name only when it is whole.
//!
//! It is written under a temporary name in the same directory, made durable, then given its name. What stands under that
//! name is not touched unless it may be replaced; a file that is dropped unfinished leaves nothing behind.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::stages::target::{Directory, Name};

/// Where a new file goes.
pub(super) struct Destination {
    path: PathBuf,
    directory: Directory,
    name: Vec<u8>,
    replace: bool,
}

impl Destination {
    /// Opens the directory; refuses what stands there, unless it may be replaced.
    pub(super) fn open(path: &Path, replace: bool) -> Result<Self> {
        let name = path.file_name().map(|name| name.as_bytes().to_vec());
        let name = name.ok_or_else(|| Error::Usage(format!("{}: not the name of a file", path.display())))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory =
            Directory::open_root(parent).map_err(|error| Error::file(parent, "cannot open the directory", error))?;
        let destination = Self { path: path.to_path_buf(), directory, name, replace };
        let fail = |error| Error::file(path, "cannot write here", error);
        let standing = destination.name().and_then(|name| destination.directory.standing(name)).map_err(fail)?;
        match standing {
            Some(standing) if standing.kind == FileType::Directory => {
                Err(fail(io::Error::new(io::ErrorKind::IsADirectory, "a directory stands there")))
            }
            Some(_) if !replace => {
                Err(fail(io::Error::new(io::ErrorKind::AlreadyExists, "something stands there already")))
            }
            _ => Ok(destination),
        }
    }

    fn name(&self) -> io::Result<Name<'_>> {
        Name::new(&self.name)
    }

    /// Makes the file, with these permissions less what the process's mask takes away.
    pub(super) fn create(self, mode: u32) -> Result<NewFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let make = |name: Name<'_>| Ok(rustix::fs::openat(self.directory.handle(), name.bytes(), flags, mode)?);
        match self.directory.with_temporary_name(make) {
            Ok((temporary, handle)) => Ok(NewFile { temporary: Some(temporary), file: File::from(handle), at: self }),
            Err(error) => Err(Error::file(&self.path, "cannot make", error)),
        }
    }
}

/// A file that is being written.
pub(super) struct NewFile {
    at: Destination,
    /// Its present name; none once it has its own.
    temporary: Option<Vec<u8>>,
    file: File,
}

impl NewFile {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// An error about this file.
    pub(super) fn failed(&self, what: &'static str, error: impl Into<io::Error>) -> Error {
        Error::file(&self.at.path, what, error)
    }

    /// Makes it durable and gives it its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.failed("cannot write", error))?;
        self.take_name().map_err(|error| self.failed("cannot give the file its name", error))?;
        rustix::fs::fsync(self.at.directory.handle()).map_err(|error| self.failed("cannot write", error))
    }

    fn take_name(&mut self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let (directory, from, to) = (&self.at.directory, Name::new(temporary)?, self.at.name()?);
        if self.at.replace {
            directory.rename(from, to)?;
        } else {
            let handle = directory.handle();
            match rustix::fs::renameat_with(handle, from.bytes(), handle, to.bytes(), RenameFlags::NOREPLACE) {
                // Some file systems can't rename without replacing; a second name never replaces. The first goes below.
                Err(Errno::INVAL | Errno::NOSYS) => return directory.link(directory, from, to),
                result => result?,
            }
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // A remnant that can't be removed is harmless: it has a name of its own.
            let _ = Name::new(&temporary).and_then(|name| self.at.directory.unlink(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_shows_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let new = Destination::open(&path, false).unwrap().create(0o600).unwrap();
        new.file().write_all(b"content").unwrap();
        assert!(!path.exists());
        new.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"content".to_vec(), vec!["new".to_owned()]));
        let dropped = Destination::open(&folder.path().join("other"), false).unwrap().create(0o600).unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        drop(dropped);
        assert_eq!(names(folder.path()), ["new"]);
    }

    #[test]
    fn what_stands_there_stays_unless_it_may_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let late = Destination::open(&path, false).unwrap().create(0o600).unwrap();
        fs::write(&path, b"old").unwrap();
        assert!(matches!(Destination::open(&path, false), Err(Error::File { .. })));
        assert!(matches!(late.finish(), Err(Error::File { .. })), "somebody was faster");
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"old".to_vec(), vec!["file".to_owned()]));
        let new = Destination::open(&path, true).unwrap().create(0o600).unwrap();
        new.file().write_all(b"new").unwrap();
        new.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"new".to_vec(), vec!["file".to_owned()]));
        fs::create_dir(folder.path().join("directory")).unwrap();
        for wrong in [folder.path().join("directory"), folder.path().join("no/such"), PathBuf::from("/")] {
            assert!(Destination::open(&wrong, true).is_err(), "{}", wrong.display());
        }
    }
}
