//! The directories above the sources: recorded and restored with every snapshot, but not what is protected.
//!
//! `/` and `/home` belong to root. An ordinary user who protects a folder of their own can't give them back their owner
//! in a restore, and that says nothing about the folder. So this monitor keeps such losses out of the problems, and
//! only such: metadata, above every source, and not as root. Everything else passes through.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::monitor::{Monitor, Phase, Problem, Progress};

use crate::progress::Display;

/// A display that leaves out what does not concern the sources.
pub struct SourcesOnly<'d> {
    display: &'d Display,
    above: HashSet<String>,
    left_out: AtomicU64,
}

impl<'d> SourcesOnly<'d> {
    /// For the sources of a snapshot. As root nothing is left out.
    #[must_use]
    pub fn new(display: &'d Display, snapshot: &SnapshotRecord, root: bool) -> Self {
        let above = if root { HashSet::new() } else { above(&snapshot.paths) };
        Self { display, above, left_out: AtomicU64::new(0) }
    }

    /// Says this, if something was left out.
    pub fn conclude(&self, note: &str) {
        if self.left_out.load(Ordering::Relaxed) > 0 {
            self.display.note(note);
        }
    }
}

/// The directories strictly above all of these paths, as problems name them.
fn above(paths: &[Vec<u8>]) -> HashSet<String> {
    let texts: Vec<String> = paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    let parents = texts.iter().flat_map(|path| Path::new(path).ancestors().skip(1));
    let mut above: HashSet<String> = parents.map(|parent| parent.to_string_lossy().into_owned()).collect();
    // A source that lies inside another one has parents that are protected themselves.
    above.retain(|directory| !texts.iter().any(|source| Path::new(directory).starts_with(source)));
    above
}

impl Monitor for SourcesOnly<'_> {
    fn phase(&self, phase: Phase) {
        self.display.phase(phase);
    }

    fn progress(&self, progress: Progress) {
        self.display.progress(progress);
    }

    fn current(&self, path: &Path) {
        self.display.current(path);
    }

    fn problem(&self, problem: Problem) {
        if problem.code == "metadata" && self.above.contains(&problem.subject) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        } else {
            self.display.problem(problem);
        }
    }

    fn note(&self, text: &str) {
        self.display.note(text);
    }

    fn wants_totals(&self) -> bool {
        self.display.wants_totals()
    }

    fn stopped(&self) -> bool {
        self.display.stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_source_holds_is_above() {
        let paths = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<HashSet<_>>();
        assert_eq!(above(&paths(&["/a/b/c"])), set(&["/", "/a", "/a/b"]));
        assert_eq!(above(&paths(&["/a/b", "/a/b/c/d", "/e"])), set(&["/", "/a"]));
        assert_eq!(above(&paths(&["/"])), set(&[]));
    }
}
