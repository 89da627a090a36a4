//! The walk over a tree and, in step with it, over the target's directories. All passes of a restore share it.
//!
//! It keeps the directories from the start of the restore down to the present entry. A directory that is not itself
//! selected is entered only when something below it is. The entries are not trusted: keys must ascend, and an entry
//! must lie directly in a directory that the tree has and that could be entered; others are orphans.
//!
//! Directory entries are numbered in the order of the tree, so that passes can hand each other what became of each
//! directory in one byte.

use std::sync::Arc;

use super::origin::Entries;
use super::run::Run;
use super::selection::Choice;
use crate::entry::{Entry, TreeKey};
use crate::error::{Damaged, Error, Result};
use crate::stages::target::{Directory, Ladder};

/// What a pass found when it entered a directory.
pub(super) enum Entered {
    /// It is open.
    Open(Arc<Directory>),
    /// It does not exist, and need not: this is a dry run.
    Absent,
    /// It can't be entered; this was reported.
    Failed,
}

/// A directory on the way to the present entry.
pub(super) struct Level {
    /// Its path in the snapshot.
    pub(super) key: TreeKey,
    /// Its metadata; `None` if the tree has none for the start of the restore.
    pub(super) entry: Option<Entry>,
    /// Its number.
    pub(super) ordinal: usize,
    /// True if it is restored whole.
    pub(super) taken: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Absent,
    Closed,
}

/// What a pass does with the entries. `here` is the open directory that holds the entry, `None` where it is absent.
pub(super) trait Pass {
    /// Makes or opens a directory.
    fn enter(&mut self, here: Option<&Arc<Directory>>, level: &Level) -> Result<Entered>;
    /// A directory is open, the start of the restore among them, and nothing in it was seen yet.
    fn arrive(&mut self, _here: &Arc<Directory>, _level: &Level) -> Result<()> {
        Ok(())
    }
    /// An entry in the open directory `level` comes next, whether or not it is selected.
    fn pass(&mut self, _here: &Arc<Directory>, _level: &Level, _key: &TreeKey) -> Result<()> {
        Ok(())
    }
    /// A selected entry that is no directory.
    fn leaf(&mut self, here: Option<&Arc<Directory>>, key: TreeKey, entry: Entry) -> Result<()>;
    /// Everything in an open directory was seen. `above` is the directory that holds it.
    fn leave(&mut self, here: &Arc<Directory>, level: &Level) -> Result<()>;
    /// An entry that lies in no directory of the tree.
    fn orphan(&mut self, _key: &TreeKey) {}
    /// A part of the tree between the previous entry and the next can't be read. True for the pass that comes first,
    /// which reports it.
    fn gap(&mut self) -> bool {
        false
    }
}

/// Walks the tree from where the options say.
///
/// # Errors
/// When nothing of the tree can be read, the pass fails, or the user stops the run.
pub(super) fn walk(run: &Run<'_>, target: Option<Arc<Directory>>, pass: &mut dyn Pass) -> Result<()> {
    let from = &run.options.from;
    let mut entries: Entries<'_> = run.origin.entries(from)?;
    let (mut gaps, mut lost) = (0, None);
    let first = loop {
        match entries.next() {
            Some(Ok(item)) => break item,
            Some(Err(error)) if lost.is_none() => lost = Some(error),
            Some(Err(_)) => {}
            None => return Err(lost.unwrap_or_else(|| not_found(from))),
        }
    };
    if !first.0.is_within(from) || (first.0 != *from && !from.0.is_empty() && lost.is_none()) {
        return Err(not_found(from));
    }
    let mut cursor = Cursor::new(run, target, from, &first);
    cursor.begin(pass)?;
    if let Some(error) = lost {
        cursor.gap(&mut gaps, error, pass)?;
    }
    let mut previous = first.0.clone();
    if !cursor.is_start(&first) {
        cursor.step(first.0, first.1, pass)?;
    }
    for item in entries {
        run.check_stopped()?;
        let (key, entry) = match item {
            Ok(item) => item,
            Err(error) => {
                cursor.gap(&mut gaps, error, pass)?;
                continue;
            }
        };
        if key <= previous {
            return Err(Damaged::new("tree", 0, "its keys do not ascend").into());
        }
        previous.clone_from(&key);
        cursor.step(key, entry, pass)?;
    }
    cursor.end(pass)
}

fn not_found(from: &TreeKey) -> Error {
    Error::NotFound(format!("{} is not in the snapshot", from.to_path().display()))
}

/// True if `key` is `directory` and one more component.
fn lies_in(key: &TreeKey, directory: &TreeKey) -> bool {
    let name = match directory.0.as_slice() {
        [] => Some(key.0.as_slice()),
        above => key.0.strip_prefix(above).and_then(|rest| rest.strip_prefix(&[0])),
    };
    name.is_some_and(|name| !name.is_empty() && !name.contains(&0))
}

struct Cursor<'a> {
    run: &'a Run<'a>,
    levels: Vec<Level>,
    ladder: Option<Ladder>,
    directories: usize,
    /// True once a part of the tree could not be read: directories may then be missing from it.
    broken: bool,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a Run<'a>, target: Option<Arc<Directory>>, from: &TreeKey, first: &(TreeKey, Entry)) -> Self {
        let state = if target.is_some() { State::Open } else { State::Absent };
        let (key, entry, taken) = if first.0 == *from && first.1.is_directory() {
            (from.clone(), Some(first.1.clone()), run.selection.takes_base(from))
        } else if from.0.is_empty() || first.0 != *from {
            (from.clone(), None, run.selection.takes_base(from))
        } else {
            // A single thing goes into the target by its name; the target itself is not its concern.
            (from.parent().unwrap_or_default(), None, false)
        };
        let base = Level { key, entry, ordinal: 0, taken, state };
        Self { run, levels: vec![base], ladder: target.map(Ladder::new), directories: 1, broken: false }
    }

    fn is_start(&self, first: &(TreeKey, Entry)) -> bool {
        self.levels[0].entry.is_some() && self.levels[0].key == first.0
    }

    fn begin(&mut self, pass: &mut dyn Pass) -> Result<()> {
        match &self.ladder {
            Some(ladder) => pass.arrive(ladder.lowest(), &self.levels[0]),
            None => Ok(()),
        }
    }

    fn gap(&mut self, gaps: &mut usize, error: Error, pass: &mut dyn Pass) -> Result<()> {
        self.broken = true;
        let first_pass = pass.gap();
        self.run.gap(first_pass, *gaps, self.directories, error)?;
        *gaps += 1;
        Ok(())
    }

    fn top(&self) -> &Level {
        self.levels.last().expect("the start of the restore stays")
    }

    fn here(&self) -> Option<Arc<Directory>> {
        self.ladder.as_ref().filter(|_| self.top().state == State::Open).map(|ladder| Arc::clone(ladder.lowest()))
    }

    fn step(&mut self, key: TreeKey, entry: Entry, pass: &mut dyn Pass) -> Result<()> {
        while self.levels.len() > 1 && !key.is_within(&self.top().key) {
            self.climb(pass)?;
        }
        if self.broken {
            self.bridge(&key, pass)?;
        }
        let ordinal = self.directories;
        self.directories += usize::from(entry.is_directory());
        if !lies_in(&key, &self.top().key) {
            if self.top().state != State::Closed {
                pass.orphan(&key);
            }
            return Ok(());
        }
        if let Some(here) = self.here() {
            pass.pass(&here, self.top(), &key)?;
        }
        let choice = self.run.selection.choose(&key, entry.is_directory(), self.takes_all());
        if entry.is_directory() {
            self.descend(Level { key, entry: Some(entry), ordinal, taken: false, state: State::Waiting }, choice, pass)
        } else if choice == Choice::Taken && self.open(pass)? {
            pass.leaf(self.here().as_ref(), key, entry)
        } else {
            Ok(())
        }
    }

    /// Stands in for directories that an unreadable part of the tree may have named; nothing is known of them but that
    /// they hold `key`.
    fn bridge(&mut self, key: &TreeKey, pass: &mut dyn Pass) -> Result<()> {
        let depth = self.top().key.depth();
        let above: Vec<&[u8]> = key.components().collect();
        for name in above.iter().take(above.len().saturating_sub(1)).skip(depth) {
            let key = self.top().key.child(name);
            let choice = self.run.selection.choose(&key, true, self.takes_all());
            let level = Level { key, entry: None, ordinal: self.directories, taken: false, state: State::Waiting };
            self.directories += 1;
            self.descend(level, choice, pass)?;
        }
        Ok(())
    }

    fn takes_all(&self) -> bool {
        self.top().taken
    }

    fn descend(&mut self, mut level: Level, choice: Choice, pass: &mut dyn Pass) -> Result<()> {
        level.taken = choice == Choice::Taken;
        if choice == Choice::Excluded || self.top().state == State::Closed {
            level.state = State::Closed;
        }
        self.levels.push(level);
        if choice == Choice::Taken {
            self.open(pass)?;
        }
        Ok(())
    }

    /// Enters the directories that were only passed so far. False if one can't be entered.
    fn open(&mut self, pass: &mut dyn Pass) -> Result<bool> {
        for place in 0..self.levels.len() {
            match self.levels[place].state {
                State::Open | State::Absent => continue,
                State::Closed => return Ok(false),
                State::Waiting => {}
            }
            let above = self.levels[place - 1].state;
            let here = self.ladder.as_ref().filter(|_| above == State::Open).map(|ladder| Arc::clone(ladder.lowest()));
            self.levels[place].state = match pass.enter(here.as_ref(), &self.levels[place])? {
                Entered::Open(directory) => {
                    pass.arrive(&directory, &self.levels[place])?;
                    self.ladder.as_mut().expect("an open directory lies in an open one").descend(directory);
                    State::Open
                }
                Entered::Absent => State::Absent,
                Entered::Failed => State::Closed,
            };
            if self.levels[place].state == State::Closed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn climb(&mut self, pass: &mut dyn Pass) -> Result<()> {
        let level = self.levels.pop().expect("called only below the start");
        if level.state != State::Open {
            return Ok(());
        }
        let ladder = self.ladder.as_mut().expect("an open directory has its rung");
        let here = Arc::clone(ladder.lowest());
        // Why first: the directory may not be passable any more once it has its own mode.
        ladder.ascend().map_err(|error| Error::file(level.key.to_path(), "cannot return from the directory", error))?;
        pass.leave(&here, &level)
    }

    fn end(mut self, pass: &mut dyn Pass) -> Result<()> {
        while self.levels.len() > 1 {
            self.climb(pass)?;
        }
        match &self.ladder {
            Some(ladder) => pass.leave(ladder.lowest(), &self.levels[0]),
            None => Ok(()),
        }
    }
}
