//! The walk: every name of the sources, in strictly ascending tree-key order, with its metadata from statx.
//!
//! First stage of the main path. It reads directories and asks for metadata; it opens no file (but marker files of
//! excludes). Directories are reached one component at a time from the open directory above, so a path may be longer
//! than PATH_MAX and nobody can lead the walk elsewhere by swapping in a symbolic link.
//!
//! Invariants:
//! - Names of a directory are visited in byte order and a directory comes before what it holds; NUL separates the
//!   components of a key, so that is the order of keys.
//! - The directory on top of the stack is open; of its ancestors, at most [`OPEN_ANCESTORS`] are. One further up is
//!   opened again when the walk returns to it, and recognised by device and inode.
//! - Memory: the names of the directories on the way down, and nothing per entry that was passed on.

mod directory;
mod sources;
mod stat;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

pub use directory::Directory;
pub(crate) use directory::open_quietly;
use directory::{Listing, Purpose};
use sources::{SourceNode, Sources};
pub use stat::{Device, Stat, StatKind};

use super::exclude::Excludes;
use crate::entry::TreeKey;
use crate::error::{Error, Result};
use crate::monitor::Problem;

/// What to walk.
#[derive(Debug, Clone, Default)]
pub struct WalkOptions {
    /// Files and directories, absolute or relative to the working directory. Parents are resolved, the last component
    /// is not followed; where it is a symbolic link, the link and the real path behind it are both sources.
    pub sources: Vec<PathBuf>,
    /// What to leave out. Nothing is left out that is itself named as a source.
    pub excludes: Excludes,
    /// Stay on the file system of each source: a mount point is kept, what is mounted there is not.
    pub one_file_system: bool,
}

/// One name that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its place in the tree.
    pub key: TreeKey,
    /// Its metadata when the walk came by.
    pub stat: Stat,
    /// The open directory that holds it (for the root directory: itself). Holding it holds a file descriptor.
    pub directory: Arc<Directory>,
    /// True for a directory that only leads to a source: its metadata is recorded, its other names are not walked.
    pub parent_only: bool,
}

impl Found {
    /// The name to use in [`Self::directory`]; `.` for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        match self.key.name() {
            b"" => b".",
            name => name,
        }
    }
}

/// What the walk reports.
#[derive(Debug)]
pub enum Event {
    /// A name, in ascending order.
    Found(Found),
    /// Trouble with one name; the walk goes on.
    Problem(Problem),
}

/// Totals of a walk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalkSummary {
    /// The sources as resolved: ascending, each once.
    pub sources: Vec<TreeKey>,
    /// Names found, parents of sources included.
    pub entries: u64,
    /// Names left out by an exclude; what lies below them is not counted.
    pub excluded: u64,
    /// Directories whose content was left out because another file system is mounted there.
    pub other_file_systems: u64,
    /// Problems reported.
    pub problems: u64,
    /// True if the receiver ended the walk early.
    pub stopped: bool,
}

/// How many ancestors of the current directory stay open.
pub const OPEN_ANCESTORS: usize = 64;
/// Bytes that one reading of a directory may fill.
const LIST_BUFFER_BYTES: usize = 256 << 10;
/// How often, and how long each time, an open waits for a free descriptor: 1000 x 10 ms = 10 s.
const PATIENCE_ROUNDS: u32 = 1000;
const PATIENCE_PAUSE: Duration = Duration::from_millis(10);

/// Walks all sources and calls `each` for every name and problem; keys of [`Event::Found`] ascend strictly. Problems
/// have the code `missing` (a source), `unreadable` or `vanished`.
///
/// # Errors
/// When no source exists, or the process runs out of file descriptors.
pub fn walk(options: &WalkOptions, each: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<WalkSummary> {
    let sources = Sources::resolve(&options.sources)?;
    let mut walker = Walker {
        options,
        each,
        frames: Vec::new(),
        key: Vec::new(),
        path: Vec::new(),
        buffer: Vec::with_capacity(LIST_BUFFER_BYTES),
        summary: WalkSummary { sources: sources.keys.clone(), ..WalkSummary::default() },
    };
    let outcome = walker.run(&sources);
    let mut summary = walker.summary;
    match outcome {
        Ok(()) => Ok(summary),
        Err(Stop::Asked) => {
            summary.stopped = true;
            Ok(summary)
        }
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// A directory, or why it cannot be opened.
type Opened = Result<Directory, Errno>;

/// Why a walk ends before its end.
enum Stop {
    Asked,
    Failed(Error),
}

/// A directory on the way from the root to the current name.
struct Frame<'s> {
    /// `None` while it is more than [`OPEN_ANCESTORS`] above the top.
    directory: Option<Arc<Directory>>,
    identity: (Device, u64),
    /// Length of its key in `Walker::key`.
    key_len: usize,
    descent: Descent<'s>,
    names: Rc<Listing>,
    next: usize,
}

/// How a directory is walked.
#[derive(Clone, Copy)]
struct Descent<'s> {
    /// The sources at or below it.
    sources: Option<&'s SourceNode>,
    /// All its names, or only those that lead to sources.
    whole: bool,
    /// The file system that its names must lie on, if any.
    stay_on: Option<Device>,
}

impl Descent<'_> {
    fn is_source(&self) -> bool {
        self.sources.is_some_and(|node| node.source)
    }

    fn leads_to_sources(&self) -> bool {
        self.sources.is_some_and(SourceNode::has_children)
    }
}

struct Walker<'w> {
    options: &'w WalkOptions,
    each: &'w mut dyn FnMut(Event) -> ControlFlow<()>,
    frames: Vec<Frame<'w>>,
    /// Key of the current name; its beginnings are the keys of the frames.
    key: Vec<u8>,
    /// The same with slashes, for the excludes' patterns.
    path: Vec<u8>,
    buffer: Vec<u8>,
    summary: WalkSummary,
}

impl<'w> Walker<'w> {
    fn run(&mut self, sources: &'w Sources) -> Result<(), Stop> {
        for problem in &sources.problems {
            self.report(problem.clone())?;
        }
        let refused = |error| Stop::Failed(Error::file("/", "cannot open", error));
        let root = Arc::new(Directory::root().map_err(refused)?);
        let stat = Stat::of_name(&root, c".").map_err(refused)?;
        let whole = sources.root.source;
        self.find(&root, stat, !whole)?;
        let stay_on = self.options.one_file_system.then_some(stat.device);
        self.descend(&root, c".", Descent { sources: Some(&sources.root), whole, stay_on })?;
        while let Some(frame) = self.frames.last() {
            if frame.next < frame.names.len() { self.visit()? } else { self.leave()? }
        }
        Ok(())
    }

    /// Deals with the next name of the top directory.
    fn visit(&mut self) -> Result<(), Stop> {
        let frame = self.frames.last_mut().expect("the stack is not empty while walking");
        let (names, place, above) = (Rc::clone(&frame.names), frame.next, frame.descent);
        let directory = Arc::clone(frame.directory.as_ref().expect("the top directory is open"));
        frame.next += 1;
        let listed = names.get(place);
        self.enter_name(listed.name);
        let node = above.sources.and_then(|node| node.child(listed.name));
        let named = node.is_some_and(|node| node.source);

        // Why: an excluded name is not even asked for, as it may be one that fails or hangs; unless the kind, which the
        // patterns ask about, is not known otherwise.
        let hint = listed.directory;
        let mut wanted = named || (above.whole && !hint.is_some_and(|directory| self.is_excluded(directory)));
        if !wanted && node.is_none() {
            self.summary.excluded += 1;
            return Ok(());
        }
        let stat = match Stat::of_name(&directory, listed.name) {
            Ok(stat) => stat,
            Err(error) => return self.report_errno(error, "cannot be examined"),
        };
        wanted = wanted && (named || !self.is_excluded_by_stat(&stat, hint.is_none()));
        if !wanted && node.is_none() {
            self.summary.excluded += 1;
            return Ok(());
        }
        if stat.kind != StatKind::Directory {
            if node.is_some_and(SourceNode::has_children) {
                self.report_errno(Errno::NOTDIR, "no longer leads to its source")?;
            }
            return if wanted { self.find(&directory, stat, false) } else { Ok(()) };
        }
        self.find(&directory, stat, !wanted)?;
        let stay_on = if named { above.stay_on.map(|_| stat.device) } else { above.stay_on };
        self.descend(&directory, listed.name, Descent { sources: node, whole: wanted, stay_on })
    }

    /// Makes `name` in the top directory the current one.
    fn enter_name(&mut self, name: &CStr) {
        let key_len = self.frames.last().map_or(0, |frame| frame.key_len);
        self.key.truncate(key_len);
        if key_len > 0 {
            self.key.push(0);
        }
        self.key.extend_from_slice(name.to_bytes());
    }

    /// Whether a pattern excludes the current name.
    fn is_excluded(&mut self, directory: bool) -> bool {
        if !self.options.excludes.has_patterns() {
            return false;
        }
        self.path.clear();
        self.path.extend(self.key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }));
        self.options.excludes.is_excluded(&self.path, directory)
    }

    /// Whether the size, or a pattern that had to wait for the kind, excludes the current name.
    fn is_excluded_by_stat(&mut self, stat: &Stat, kind_was_unknown: bool) -> bool {
        self.options.excludes.is_too_large(stat)
            || (kind_was_unknown && self.is_excluded(stat.kind == StatKind::Directory))
    }

    /// Opens a directory, lists it and puts it on the stack. The current key is that directory's.
    fn descend(&mut self, parent: &Directory, name: &CStr, mut descent: Descent<'w>) -> Result<(), Stop> {
        let Some(directory) = self.open(parent, name, &mut descent)? else { return Ok(()) };
        if descent.whole && descent.stay_on.is_some_and(|device| device != directory.device()) {
            self.summary.other_file_systems += 1;
            descent.whole = false;
        }
        let names = if descent.whole { self.list(&directory, &descent)? } else { Listing::default() };
        let names = self.with_sources(names, &descent)?;
        if let Some(far) = self.frames.len().checked_sub(OPEN_ANCESTORS) {
            self.frames[far].directory = None;
        }
        self.frames.push(Frame {
            identity: directory.identity(),
            directory: Some(Arc::new(directory)),
            key_len: self.key.len(),
            descent,
            names: Rc::new(names),
            next: 0,
        });
        Ok(())
    }

    /// Opens a directory as the descent needs it. `None` where it can't be opened (reported) or nothing in it is
    /// wanted. One that may not be listed still leads to the sources below it.
    fn open(&mut self, parent: &Directory, name: &CStr, descent: &mut Descent<'w>) -> Result<Option<Directory>, Stop> {
        if descent.whole {
            match self.open_patiently(parent, name, Purpose::List)? {
                Ok(directory) => return Ok(Some(directory)),
                Err(error) => self.report_errno(error, "cannot be opened")?,
            }
            descent.whole = false;
        }
        if !descent.leads_to_sources() {
            return Ok(None);
        }
        match self.open_patiently(parent, name, Purpose::Reach)? {
            Ok(directory) => Ok(Some(directory)),
            Err(error) => self.report_errno(error, "cannot be opened").map(|()| None),
        }
    }

    /// Opens; where all descriptors are in use, gives the own ones back and waits for later stages to do so.
    fn open_patiently(&mut self, parent: &Directory, name: &CStr, purpose: Purpose) -> Result<Opened, Stop> {
        for round in 0..PATIENCE_ROUNDS {
            match Directory::open_at(parent, name, purpose) {
                Err(Errno::MFILE | Errno::NFILE) if round == 0 => self.close_ancestors(),
                Err(Errno::MFILE | Errno::NFILE) => thread::sleep(PATIENCE_PAUSE),
                opened => return Ok(opened),
            }
        }
        Err(Stop::Failed(Error::file(self.current_path(), "cannot open", Errno::MFILE)))
    }

    /// Closes all directories but the top; the walk opens them again when it returns to them.
    fn close_ancestors(&mut self) {
        self.frames.iter_mut().rev().skip(1).for_each(|frame| frame.directory = None);
    }

    /// Lists a directory; where a marker says that its content is not wanted, only the marker stays.
    fn list(&mut self, directory: &Directory, descent: &Descent<'_>) -> Result<Listing, Stop> {
        let (mut listing, error) = directory.list(&mut self.buffer);
        if let Some(error) = error {
            self.report_errno(error, "cannot be listed whole")?;
        }
        if descent.is_source() {
            return Ok(listing);
        }
        let markers = self.options.excludes.markers();
        let present: Vec<&CStr> = markers
            .iter()
            .filter(|marker| listing.contains(marker.name()) && marker.is_met_in(directory))
            .map(|marker| marker.name())
            .collect();
        if !present.is_empty() {
            let before = listing.len();
            listing.retain(|name| present.iter().any(|marker| marker.to_bytes() == name));
            self.summary.excluded += (before - listing.len()) as u64;
        }
        Ok(listing)
    }

    /// Adds names that lead to sources: also ones that the directory does not list.
    fn with_sources(&mut self, mut names: Listing, descent: &Descent<'_>) -> Result<Listing, Stop> {
        if let Some(node) = descent.sources
            && let Err(error) = names.add_missing(node.names())
        {
            self.report_errno(error, "cannot be listed whole")?;
        }
        Ok(names)
    }

    /// Returns from the top directory to the one above, opening that again where it was closed.
    fn leave(&mut self) -> Result<(), Stop> {
        let mut below = self.frames.pop().and_then(|frame| frame.directory);
        while let Some(frame) = self.frames.last() {
            if frame.directory.is_some() {
                break;
            }
            self.key.truncate(frame.key_len);
            match self.reopen(frame, below.as_deref()) {
                Ok(directory) => {
                    self.frames.last_mut().expect("looked at above").directory = Some(Arc::new(directory));
                    break;
                }
                Err(error) => {
                    if frame.next < frame.names.len() {
                        self.report_errno(error, "could not be found again; names in it are missing")?;
                    }
                    self.frames.pop();
                    below = None;
                }
            }
        }
        Ok(())
    }

    /// Opens a frame's directory again: upwards from the one below it, or else from the root, name by name. It must
    /// be the same directory as before.
    fn reopen(&self, frame: &Frame<'_>, below: Option<&Directory>) -> Result<Directory, Errno> {
        if let Some(below) = below
            && let Ok(directory) = Directory::open_at(below, c"..", Purpose::Reach)
            && directory.identity() == frame.identity
        {
            return Ok(directory);
        }
        let mut directory = Directory::root()?;
        for component in TreeKey(self.key.clone()).components() {
            let name = CString::new(component).map_err(|_| Errno::INVAL)?;
            directory = Directory::open_at(&directory, &name, Purpose::Reach)?;
        }
        if directory.identity() == frame.identity { Ok(directory) } else { Err(Errno::NOENT) }
    }

    fn find(&mut self, directory: &Arc<Directory>, stat: Stat, parent_only: bool) -> Result<(), Stop> {
        self.summary.entries += 1;
        let found = Found { key: TreeKey(self.key.clone()), stat, directory: Arc::clone(directory), parent_only };
        self.send(Event::Found(found))
    }

    fn current_path(&self) -> PathBuf {
        TreeKey(self.key.clone()).to_path()
    }

    fn report_errno(&mut self, error: Errno, what: &str) -> Result<(), Stop> {
        // ENOTDIR and ELOOP: something else took the directory's place after it was listed.
        let gone = matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
        let code = if gone { "vanished" } else { "unreadable" };
        self.report(Problem::path(&self.current_path(), code, format!("{what}: {}", io::Error::from(error))))
    }

    fn report(&mut self, problem: Problem) -> Result<(), Stop> {
        self.summary.problems += 1;
        self.send(Event::Problem(problem))
    }

    fn send(&mut self, event: Event) -> Result<(), Stop> {
        match (self.each)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Asked),
        }
    }
}
