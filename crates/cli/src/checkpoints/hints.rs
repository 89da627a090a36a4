//! Hints that something changed below some directories, so that the next look comes early.
//!
//! The kernel's inotify gives them; where it is not to be had, on network file systems, or when events are lost, there are
//! none, and only the pause between looks is longer. Nothing is decided by an event.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use seawall_engine::clock::monotonic;

use crate::stop::Stop;

/// More directories are not watched; the kernel has a limit for all of a user's programs.
const WATCHES_MAX: usize = 4096;
/// How long a wait lasts before the wish to stop is looked at.
const SLICE: Duration = Duration::from_millis(200);
/// After the first event of a row the others may come.
const ROW: Duration = Duration::from_millis(30);

/// Where hints come from.
pub struct Hints {
    events: Option<OwnedFd>,
    watched: HashMap<PathBuf, i32>,
}

impl Hints {
    /// Hints, if they are wanted and the system gives them.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        Self { events: wanted.then(|| init(flags).ok()).flatten(), watched: HashMap::new() }
    }

    /// From now on these directories give hints, and no others. True if one of them did not before.
    pub fn watch(&mut self, directories: impl Iterator<Item = PathBuf>) -> bool {
        let Some(events) = &self.events else { return false };
        let mut is_new = false;
        let mut before = std::mem::take(&mut self.watched);
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        for directory in directories.take(WATCHES_MAX) {
            let known = before.remove(&directory);
            // Why again each time: another directory may have the name now. Of the same one this changes nothing.
            if let Ok(watch) = add_watch(events, &directory, flags) {
                is_new |= known != Some(watch);
                self.watched.insert(directory, watch);
            }
        }
        let kept: Vec<i32> = self.watched.values().copied().collect();
        for watch in before.into_values().filter(|watch| !kept.contains(watch)) {
            // The kernel has removed it already where the directory is gone.
            let _ = remove_watch(events, watch);
        }
        is_new
    }

    /// Waits until something changed, the time is over, or the user wants to stop.
    pub fn wait(&self, longest: Duration, stop: &Stop) {
        let begin = monotonic();
        while !stop.requested() {
            let Some(left) = longest.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else { return };
            if self.has_event(left.min(SLICE)) {
                std::thread::sleep(ROW.min(left));
                self.drain();
                return;
            }
        }
    }

    /// Whether an event comes within this time.
    fn has_event(&self, time: Duration) -> bool {
        let Some(events) = &self.events else {
            std::thread::sleep(time);
            return false;
        };
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut descriptors = [PollFd::new(events, PollFlags::IN)];
        // An interruption is no event; the caller waits on.
        poll(&mut descriptors, Some(&time)).is_ok_and(|ready| ready > 0)
    }

    fn drain(&self) {
        let Some(events) = &self.events else { return };
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = Reader::new(events, &mut buffer);
        while reader.next().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_the_wait_and_a_directory_that_is_not_watched_gives_none() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["watched", "dropped"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut hints = Hints::new(true);
        if hints.events.is_none() {
            eprintln!("skipped: this system gives no inotify");
            return;
        }
        assert!(hints.watch([folder.path().join("dropped"), folder.path().join("watched")].into_iter()));
        assert!(!hints.watch([folder.path().join("watched"), folder.path().join("missing")].into_iter()));
        // The kernel tells that a watch was removed.
        hints.drain();
        std::fs::write(folder.path().join("dropped/file"), b"x").unwrap();
        assert!(!hints.has_event(Duration::from_millis(1)));
        std::fs::write(folder.path().join("watched/file"), b"x").unwrap();
        assert!(hints.has_event(Duration::from_secs(60)));
        // It returns, or this test never ends.
        hints.wait(Duration::MAX, &Stop::default());
        assert!(!hints.has_event(Duration::from_millis(1)), "what was told is told once");
    }

    #[test]
    fn without_events_time_and_stop_end_the_wait() {
        let hints = Hints::new(false);
        hints.wait(Duration::from_millis(5), &Stop::default());
        let stop = Stop::default();
        stop.request();
        hints.wait(Duration::MAX, &stop);
    }
}
