//! A scratch folder that goes away again, whatever was restored into it.
//!
//! What lies in it may be hostile to simple removal: immutable files, directories that may not be entered, paths far
//! beyond PATH_MAX, trees deeper than there are file handles. So removal never recurses: every directory is moved up
//! to the top, emptied of plain names, and removed. Symbolic links are removed, never followed.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, IFlags, Mode, OFlags};
use rustix::io::Errno;
use seawall_engine::crypto::random;
use seawall_engine::error::{Error, Result};

/// Names read at once; bounds memory in a directory of millions.
const NAMES_MAX: usize = 16_384;
/// How names of scratch folders begin.
pub const PREFIX: &str = "seawall-scratch-";

/// A folder of mode 0700 that is removed with everything in it when dropped.
pub struct Scratch {
    path: PathBuf,
    removed: bool,
}

impl Scratch {
    /// Makes a scratch folder in `parent`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn make(parent: &Path) -> Result<Self> {
        let name: String = random::<8>().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = parent.join(format!("{PREFIX}{name}"));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Error::file(&path, "cannot make the scratch folder", error))?;
        Ok(Self { path, removed: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now.
    ///
    /// # Errors
    /// When something can't be removed; the folder's name is in the error.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        remove_tree(&self.path).map_err(|error| Error::file(&self.path, "cannot remove the scratch folder", error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.removed && remove_tree(&self.path).is_err() {
            let shown = self.path.display();
            // Why no `eprintln`, which panics where nobody hears of it.
            let _ = writeln!(
                std::io::stderr(),
                "seawall: warning: cannot remove the scratch folder {shown}; remove it by hand"
            );
        }
    }
}

/// Scratch folders in `parent` that an earlier, killed run left behind.
#[must_use]
pub fn left_behind(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Bytes that this user may still write on the file system of `path`.
///
/// # Errors
/// When the file system can't be asked.
pub fn bytes_free(path: &Path) -> Result<u64> {
    let space = rustix::fs::statvfs(path).map_err(|error| Error::file(path, "cannot ask for free space", error))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

fn remove_tree(path: &Path) -> rustix::io::Result<()> {
    let top = rustix::fs::open(path, directory_flags(), Mode::empty())?;
    let mut moved = 0;
    loop {
        let names = names(top.as_fd())?;
        if names.is_empty() {
            break;
        }
        for name in &names {
            match unlink(top.as_fd(), name) {
                Err(Errno::ISDIR) => dissolve(top.as_fd(), name, &mut moved)?,
                other => other?,
            }
        }
    }
    rustix::fs::rmdir(path)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Moves the directories inside `top/name` up to `top`, removes everything else in it, then removes it.
fn dissolve(top: BorrowedFd<'_>, name: &CString, moved: &mut u64) -> rustix::io::Result<()> {
    let directory = open_writable(top, name)?;
    loop {
        let names = names(directory.as_fd())?;
        if names.is_empty() {
            break;
        }
        for inner in &names {
            match unlink(directory.as_fd(), inner) {
                // Moving a directory changes its `..`, which needs the right to write into it.
                Err(Errno::ISDIR) => {
                    drop(open_writable(directory.as_fd(), inner)?);
                    move_up(directory.as_fd(), inner, top, moved)?;
                }
                other => other?,
            }
        }
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

fn move_up(from: BorrowedFd<'_>, name: &CString, top: BorrowedFd<'_>, moved: &mut u64) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match rustix::fs::renameat(from, name, top, format!("{PREFIX}{moved}")) {
            // Something restored has that very name; the next number is as good.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            other => return other,
        }
    }
}

/// Opens a directory, taking away what keeps its owner from emptying it.
fn open_writable(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<OwnedFd> {
    let open = || rustix::fs::openat(parent, name, directory_flags(), Mode::empty());
    let directory = match open() {
        Err(Errno::ACCESS) => {
            // Nobody else can reach into a folder of mode 0700, so the name still means the directory just seen.
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        other => other,
    }?;
    clear_flags(&directory);
    rustix::fs::fchmod(&directory, Mode::RWXU)?;
    Ok(directory)
}

fn unlink(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::PERM) => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            clear_flags(&rustix::fs::openat(parent, name, flags, Mode::empty())?);
            rustix::fs::unlinkat(parent, name, AtFlags::empty())
        }
        other => other,
    }
}

/// Takes the immutable and append-only flags away where the file system knows them; removal itself says if it failed.
fn clear_flags(file: &OwnedFd) {
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && flags.intersects(fixed)
    {
        let _ = rustix::fs::ioctl_setflags(file, flags - fixed);
    }
}

fn names(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == NAMES_MAX {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_scratch_folder_is_private_and_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(parent.path()).unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::create_dir_all(path.join("a/b/c")).unwrap();
        std::fs::write(path.join("a/b/file"), "x").unwrap();
        assert_eq!(left_behind(parent.path()), std::slice::from_ref(&path));
        drop(scratch);
        assert!(!path.exists());
        let scratch = Scratch::make(parent.path()).unwrap();
        let path = scratch.path().to_owned();
        scratch.remove().unwrap();
        assert!(!path.exists() && left_behind(parent.path()).is_empty());
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let kept = parent.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let scratch = Scratch::make(parent.path()).unwrap();
        std::fs::create_dir(scratch.path().join("inner")).unwrap();
        symlink(&kept, scratch.path().join("link")).unwrap();
        symlink(&kept, scratch.path().join("inner/link")).unwrap();
        scratch.remove().unwrap();
        assert!(kept.join("file").exists());
    }

    #[test]
    fn shut_and_many_directories_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(parent.path()).unwrap();
        for name in ["x/shut/inner", "x/readonly/inner", "seawall-scratch-1/full"] {
            std::fs::create_dir_all(scratch.path().join(name)).unwrap();
        }
        for (name, mode) in [("x/shut", 0o000), ("x/readonly", 0o500)] {
            std::fs::set_permissions(scratch.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        scratch.remove().unwrap();
        assert!(left_behind(parent.path()).is_empty());
    }

    #[test]
    fn trees_deeper_than_paths_and_handles_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(parent.path()).unwrap();
        let mut directory = rustix::fs::open(scratch.path(), directory_flags(), Mode::empty()).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&directory, "deep", Mode::RWXU).unwrap();
            directory = rustix::fs::openat(&directory, "deep", directory_flags(), Mode::empty()).unwrap();
        }
        drop(directory);
        scratch.remove().unwrap();
        assert!(left_behind(parent.path()).is_empty());
    }

    #[test]
    fn immutable_files_and_directories_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(parent.path()).unwrap();
        let inner = scratch.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("file"), "x").unwrap();
        for path in [inner.join("file"), inner] {
            let file = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).unwrap();
            let set = rustix::fs::ioctl_getflags(&file)
                .and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE));
            if let Err(error) = set {
                println!("skipped: this file system or user can't set the immutable flag ({error})");
            }
        }
        scratch.remove().unwrap();
        assert!(left_behind(parent.path()).is_empty());
    }
}
