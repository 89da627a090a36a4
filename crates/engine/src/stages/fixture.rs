//! What the tests of the reading stages share: temporary trees, walking them, and being honest about what is skipped.
//!
//! A test that needs root, or an ability of the file system, calls [`skip`] and returns; where the environment has `CI`
//! set, skipping is a failure.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;

use super::walk::{Event, Found, WalkOptions, WalkSummary, walk};
use crate::monitor::Problem;

/// Says that a test is skipped, and why.
pub(super) fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI: {why}");
    println!("skipped: {why}");
}

/// True for root; else says that the test is skipped.
pub(super) fn is_root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// Everything that a walk said.
pub(super) struct Walked {
    pub found: Vec<Found>,
    pub problems: Vec<Problem>,
    pub summary: WalkSummary,
}

impl Walked {
    /// What was found at a path.
    pub(super) fn at(&self, path: &Path) -> &Found {
        self.get(path).unwrap_or_else(|| panic!("{} was not found", path.display()))
    }

    /// What was found at a path, if anything.
    pub(super) fn get(&self, path: &Path) -> Option<&Found> {
        self.found.iter().find(|found| found.key.to_path() == path)
    }

    /// The paths below `root`, relative to it; without names that only lead to sources.
    pub(super) fn below(&self, root: &Path) -> Vec<String> {
        let paths = self.found.iter().filter(|found| !found.parent_only).map(|found| found.key.to_path());
        paths
            .filter_map(|path| path.strip_prefix(root).ok().map(|path| path.to_string_lossy().into_owned()))
            .filter(|path| !path.is_empty())
            .collect()
    }

    /// Codes of the problems, with the last component of what they are about.
    pub(super) fn codes(&self) -> Vec<(&str, &'static str)> {
        let name = |problem: &'_ Problem| problem.subject.rfind('/').map_or(0, |slash| slash + 1);
        self.problems.iter().map(|problem| (&problem.subject[name(problem)..], problem.code)).collect()
    }
}

/// Walks, and checks what always holds.
pub(super) fn walk_with(options: &WalkOptions) -> Walked {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let summary = walk(options, &mut |event| {
        match event {
            Event::Found(name) => found.push(name),
            Event::Problem(problem) => problems.push(problem),
        }
        ControlFlow::Continue(())
    });
    let walked = Walked { found, problems, summary: summary.expect("the walk runs") };
    assert!(walked.found.windows(2).all(|pair| pair[0].key < pair[1].key), "keys ascend strictly");
    assert_eq!(walked.summary.entries, walked.found.len() as u64);
    assert_eq!(walked.summary.problems, walked.problems.len() as u64);
    walked
}

/// Walks one path with no excludes.
pub(super) fn walk_one(path: &Path) -> Walked {
    walk_with(&WalkOptions { sources: vec![path.to_path_buf()], ..WalkOptions::default() })
}

/// A temporary directory and its canonical path.
pub(super) fn directory() -> (tempfile::TempDir, PathBuf) {
    let held = tempfile::tempdir().expect("a temporary directory");
    let path = held.path().canonicalize().expect("it exists");
    (held, path)
}

/// Makes an empty file, and the directories that lead to it; a path that ends in `/` is a directory.
pub(super) fn make(root: &Path, paths: &[&str]) {
    for path in paths {
        let place = root.join(path);
        let parent = if path.ends_with('/') { place.as_path() } else { place.parent().expect("below the root") };
        std::fs::create_dir_all(parent).expect("makes directories");
        if !path.ends_with('/') {
            std::fs::write(&place, b"").expect("makes a file");
        }
    }
}

/// Runs as an ordinary user: on a thread of its own, whose identity alone changes.
pub(super) fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let nobody = |id| rustix::process::Uid::from_raw(id);
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            rustix::thread::set_thread_uid(nobody(65534)).expect("root may become another user");
            work()
        });
        thread.join().expect("the work does not panic")
    })
}
