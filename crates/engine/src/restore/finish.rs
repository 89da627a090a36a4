//! Passes 2 and 3: what has to wait until all content is in place.
//!
//! Pass 2 gives hard links their further names and, leaving each directory for the last time, puts its own metadata
//! on. A further name is made only for an inode that this run put, or found unchanged, under the first name: that name
//! is reached again through open directories, and compared before and after. Pass 3 puts append-only and immutable
//! on, when nothing has to change any more.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::FileType;

use super::Overwrite;
use super::clear;
use super::cursor::{self, Entered, Level, Pass};
use super::run::{Run, add};
use super::write::{Fate, Written};
use crate::entry::{Entry, TreeKey};
use crate::error::Result;
use crate::stages::target::metadata::{self, Object, Strays};
use crate::stages::target::{Directory, Identity, Inherits, Name, Standing};

/// Runs pass 2.
pub(super) fn finish(run: &Run<'_>, target: &Arc<Directory>, written: &Written) -> Result<()> {
    let mut finisher = Finisher { run, written, target: Arc::clone(target), base: base_of(run, written), last: None };
    cursor::walk(run, Some(Arc::clone(target)), &mut finisher)
}

/// Runs pass 3.
pub(super) fn lock(run: &Run<'_>, target: &Arc<Directory>, written: &Written) -> Result<()> {
    cursor::walk(run, Some(Arc::clone(target)), &mut Locker { run, written })
}

/// How many components of a key lie above the target.
fn base_of(run: &Run<'_>, written: &Written) -> usize {
    let depth = run.options.from.depth();
    if written.single { depth.saturating_sub(1) } else { depth }
}

fn fate_of(written: &Written, level: &Level) -> Fate {
    written.fates.get(level.ordinal).copied().unwrap_or(Fate::Left)
}

/// Opens again what pass 1 made or entered.
pub(super) fn enter(run: &Run<'_>, written: &Written, here: Option<&Arc<Directory>>, level: &Level) -> Entered {
    let Some(here) = here.filter(|_| fate_of(written, level) != Fate::Left) else { return Entered::Failed };
    match Name::new(level.key.name()).and_then(|name| here.open(name)) {
        Ok(directory) => Entered::Open(Arc::new(directory)),
        Err(error) => {
            run.unwritable(&level.key, "cannot open the directory again", error);
            Entered::Failed
        }
    }
}

struct Finisher<'a> {
    run: &'a Run<'a>,
    written: &'a Written,
    target: Arc<Directory>,
    base: usize,
    /// The directory of the first name that was looked up last.
    last: Option<(TreeKey, Arc<Directory>)>,
}

impl Pass for Finisher<'_> {
    fn enter(&mut self, here: Option<&Arc<Directory>>, level: &Level) -> Result<Entered> {
        Ok(enter(self.run, self.written, here, level))
    }

    fn leaf(&mut self, here: Option<&Arc<Directory>>, key: TreeKey, entry: Entry) -> Result<()> {
        let (Some(here), Some(group)) = (here, entry.links) else { return Ok(()) };
        let Some((first, identity)) = self.run.links().get(&group).map(|first| (first.key.clone(), first.identity))
        else {
            return Ok(());
        };
        if first == key {
            return Ok(());
        }
        let Some(identity) = identity else {
            let what = format!("not linked: {} was not restored", first.to_path().display());
            self.run.problem(&key, "skipped", what);
            return Ok(());
        };
        let linked = self.link(here, &key, &first, identity);
        match linked {
            Ok(Linked::Made) => add(if entry.is_file() { &self.run.tally.files } else { &self.run.tally.others }, 1),
            Ok(Linked::Unchanged) => add(&self.run.tally.unchanged, 1),
            Ok(Linked::Skipped) => add(&self.run.tally.skipped, 1),
            Ok(Linked::Refused) => {}
            Err(error) => self.run.unwritable(&key, "cannot link", error),
        }
        Ok(())
    }

    fn leave(&mut self, here: &Arc<Directory>, level: &Level) -> Result<()> {
        let strays = match fate_of(self.written, level) {
            Fate::Made => Strays::Inherited(Inherits::default()),
            Fate::Adopted => Strays::Any,
            Fate::Left | Fate::Kept => return Ok(()),
        };
        let Some(entry) = &level.entry else { return Ok(()) };
        match here.own_standing() {
            Ok(standing) => {
                let object = Object::Open(here.handle());
                let losses = metadata::apply(object, entry, &standing, strays, &self.run.owners);
                self.run.report_losses(&level.key, &losses);
            }
            Err(error) => self.run.unwritable(&level.key, "cannot look at the directory", error),
        }
        Ok(())
    }
}

fn is_at(directory: &Directory, name: Name<'_>, identity: Identity) -> io::Result<bool> {
    Ok(directory.standing(name)?.is_some_and(|standing| standing.identity == identity))
}

enum Linked {
    Made,
    Unchanged,
    Skipped,
    /// This was reported.
    Refused,
}

impl Finisher<'_> {
    fn link(
        &mut self,
        here: &Arc<Directory>,
        key: &TreeKey,
        first: &TreeKey,
        identity: Identity,
    ) -> io::Result<Linked> {
        let name = Name::new(key.name())?;
        let always = self.run.options.overwrite == Overwrite::Always;
        let (replace, clears) = match here.standing(name)? {
            None => (false, false),
            Some(standing) if standing.identity == identity => return Ok(Linked::Unchanged),
            Some(_) if self.run.options.overwrite == Overwrite::Never => return Ok(Linked::Skipped),
            Some(standing) if standing.is_directory() && always => {
                if !clear::may_go(self.run, here, key) {
                    return Ok(Linked::Refused);
                }
                (true, true)
            }
            Some(standing) if standing.is_directory() => {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, "a directory stands there"));
            }
            Some(standing) => {
                if let Some(why) = self.run.guard.is(standing.identity) {
                    self.run.problem(key, "skipped", format!("not replaced: {why}"));
                    return Ok(Linked::Refused);
                }
                (true, false)
            }
        };
        let directory = self.directory_of(first)?;
        let original = Name::new(first.name())?;
        let moved = || io::Error::new(io::ErrorKind::NotFound, "its other name was replaced meanwhile");
        if !is_at(&directory, original, identity)? {
            return Err(moved());
        }
        let make = |new: Name<'_>| {
            here.link(&directory, original, new)?;
            if is_at(here, new, identity)? {
                return Ok(());
            }
            here.unlink(new)?;
            Err(moved())
        };
        if replace {
            let (temporary, ()) = here.with_temporary_name(make)?;
            let temporary = Name::new(&temporary)?;
            let cleared = if clears { clear::give_place(self.run, here, key) } else { Ok(()) };
            cleared.and_then(|()| here.rename(temporary, name)).inspect_err(|_| drop(here.unlink(temporary)))?;
        } else {
            make(name)?;
        }
        Ok(Linked::Made)
    }

    /// Opens the directory of a first name, one component after the other.
    fn directory_of(&mut self, first: &TreeKey) -> io::Result<Arc<Directory>> {
        let parent = first.parent().unwrap_or_default();
        if let Some((_, directory)) = self.last.as_ref().filter(|(key, _)| *key == parent) {
            return Ok(Arc::clone(directory));
        }
        let mut directory = Arc::clone(&self.target);
        for component in parent.components().skip(self.base) {
            directory = Arc::new(directory.open(Name::new(component)?)?);
        }
        self.last = Some((parent, Arc::clone(&directory)));
        Ok(directory)
    }
}

struct Locker<'a> {
    run: &'a Run<'a>,
    written: &'a Written,
}

impl Pass for Locker<'_> {
    fn enter(&mut self, here: Option<&Arc<Directory>>, level: &Level) -> Result<Entered> {
        Ok(enter(self.run, self.written, here, level))
    }

    fn leaf(&mut self, here: Option<&Arc<Directory>>, key: TreeKey, entry: Entry) -> Result<()> {
        let Some(here) = here.filter(|_| entry.is_file() && metadata::has_locks(&entry)) else { return Ok(()) };
        if self.written.kept.contains(&key) {
            return Ok(());
        }
        let locked = Name::new(key.name()).and_then(|name| {
            // Why compare: a file that failed was reported; what stands there in its place is not ours to lock.
            let ours =
                |it: &Standing| it.kind == FileType::RegularFile && (it.size, it.mtime) == (entry.size, entry.mtime);
            if !here.standing(name)?.as_ref().is_some_and(ours) {
                return Ok(());
            }
            let handle = here.open_for_metadata(name)?;
            self.run.report_losses(&key, &metadata::lock(handle.as_fd(), &entry));
            Ok(())
        });
        if let Err(error) = locked {
            self.run.unwritable(&key, "cannot set flags", error);
        }
        Ok(())
    }

    fn leave(&mut self, here: &Arc<Directory>, level: &Level) -> Result<()> {
        let ours = matches!(fate_of(self.written, level), Fate::Made | Fate::Adopted);
        if let Some(entry) = level.entry.as_ref().filter(|entry| ours && metadata::has_locks(entry)) {
            self.run.report_losses(&level.key, &metadata::lock(here.handle(), entry));
        }
        Ok(())
    }
}
