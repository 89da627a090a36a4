//! Temporary names in the target, and what killed runs left under them.
//!
//! A name tells the process and, by a random number, the run. A file under such a name is locked while it is open. What is
//! swept away bears the name of a process that is gone, and is locked by nobody: the first tells on this machine, the second
//! also where other machines, or containers with process numbers of their own, write to the same file system.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, FlockOperation};
use rustix::io::Errno;
use rustix::process::Pid;

use super::directory::{Directory, Name};

const PREFIX: &[u8] = b".seawall-";

/// A number of this run alone.
fn run_number() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    // A keyed hash of nothing: 64 random bits.
    *NUMBER.get_or_init(|| std::hash::RandomState::new().build_hasher().finish())
}

/// A name that this run has not used yet.
pub(super) fn next_name() -> Vec<u8> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!(".seawall-{}-{:016x}-{number}", std::process::id(), run_number()).into_bytes()
}

/// Locks a new temporary.
///
/// # Errors
/// `AlreadyExists` where a sweep took it in the instant since it was made: then another name will do.
pub(super) fn hold(file: impl AsFd) -> io::Result<()> {
    // Where locks do not exist, a sweep gets none either, and leaves the file.
    let taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
    if taken || rustix::fs::fstat(&file)?.st_nlink == 0 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(())
}

/// Locks a temporary that was closed meanwhile and is open again.
pub(super) fn hold_again(file: impl AsFd) {
    // Why no error: whoever has the lock now removes the name, and that shows when the file takes its own.
    let _ = rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
}

/// The process and the run that a temporary name tells; earlier versions wrote no run.
fn maker(name: &[u8]) -> Option<(Pid, Option<u64>)> {
    let parts: Vec<&str> = std::str::from_utf8(name.strip_prefix(PREFIX)?).ok()?.split('-').collect();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (process, run, number) = match parts[..] {
        [process, number] => (process, None, number),
        [process, run, number] if run.len() == 16 => (process, Some(u64::from_str_radix(run, 16).ok()?), number),
        _ => return None,
    };
    if !digits(process) || !digits(number) {
        return None;
    }
    Some((Pid::from_raw(process.parse().ok()?)?, run))
}

/// True if the run that wrote under this name is gone, as far as this machine can tell.
fn is_orphan(name: &[u8]) -> bool {
    let Some((process, run)) = maker(name) else { return false };
    if run == Some(run_number()) {
        return false;
    }
    // The number of this very process was another's before.
    process == rustix::process::getpid() || rustix::process::test_kill_process(process) == Err(Errno::SRCH)
}

/// Removes what runs that are gone left in a directory under temporary names, as far as `may_go` says so of each name.
/// Gives how many went.
///
/// # Errors
/// When the directory can't be read.
pub fn sweep(directory: &Directory, may_go: &dyn Fn(&[u8]) -> bool) -> io::Result<u64> {
    let mut orphans = Vec::new();
    directory.each_name(|name| {
        if is_orphan(name) {
            orphans.push(name.to_vec());
        }
    })?;
    let gone = orphans.iter().filter(|name| may_go(name) && remove(directory, name));
    Ok(gone.count() as u64)
}

fn remove(directory: &Directory, name: &[u8]) -> bool {
    let Ok(name) = Name::new(name) else { return false };
    let Ok(Some(standing)) = directory.standing(name) else { return false };
    let free = match standing.kind {
        FileType::Directory => false,
        // A further name of something that stays; its lock would be another's.
        FileType::RegularFile if standing.links > 1 => true,
        FileType::RegularFile => {
            let opened = directory.open_for_metadata(name);
            // The lock goes with the handle, after the name.
            return opened.is_ok_and(|file| {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                    && directory.unlink(name).is_ok()
            });
        }
        _ => true,
    };
    free && directory.unlink(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_runs_that_are_gone_are_orphans() {
        let own = std::process::id();
        // No process has a number of ten digits.
        for name in
            ["2000000000-0", "2000000000-00000000000000aa-7", &format!("{own}-3"), &format!("{own}-00000000000000aa-3")]
        {
            assert!(is_orphan(format!(".seawall-{name}").as_bytes()), "{name}");
        }
        let parent = std::os::unix::process::parent_id();
        let living = [format!("{parent}-3"), format!("{parent}-00000000000000aa-3")];
        let others =
            ["", "x", "1", "2000000000-", "2000000000-x", "2000000000-aa-7", "-2000000000-0", "99999999999-0", "0-0"];
        for name in living.iter().map(String::as_str).chain(others) {
            assert!(!is_orphan(format!(".seawall-{name}").as_bytes()), "{name}");
        }
        assert!(!is_orphan(b"seawall-2000000000-0") && !is_orphan(&next_name()));
    }

    #[test]
    fn a_file_that_somebody_holds_is_not_swept() {
        let place = tempfile::tempdir().unwrap();
        let names = [".seawall-2000000000-0", ".seawall-2000000000-00000000000000aa-1", ".seawall-2000000000-2"];
        for name in names {
            std::fs::write(place.path().join(name), b"half").unwrap();
        }
        let held = std::fs::File::open(place.path().join(names[1])).unwrap();
        hold(&held).unwrap();
        let directory = Directory::open_root(place.path()).unwrap();
        assert_eq!(sweep(&directory, &|name| name != names[2].as_bytes()).unwrap(), 1);
        let left = |name: &&str| place.path().join(name).exists();
        assert_eq!(names.iter().map(left).collect::<Vec<_>>(), [false, true, true]);
        drop(held);
        assert_eq!(sweep(&directory, &|_| true).unwrap(), 2);
    }
}
