//! Pass 1: directories, everything small, and the plan of all content; and what only the target has is removed.
//!
//! With `weights_first` the files of optimizers' states are passed over, and taken by a second walk ([`super::order`]).
//!
//! Directories are made open to nobody else and get their own metadata in pass 2. Of a group of hard links the first
//! name is restored here, the others in pass 2. What stands in the way is handled as [`Overwrite`] says; where this
//! run made the directory itself, nothing can stand there and nothing is looked up.
//!
//! A dry run goes the same way and takes the same decisions, but lists them instead of acting.

use std::collections::{HashSet, hash_map};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::FileType;

use super::clear;
use super::cursor::{self, Entered, Level, Pass};
use super::fetch::{self, Batch, Jobs};
use super::order::{self, LateParts};
use super::run::{FirstName, Run, add};
use super::{Act, Overwrite};
use crate::entry::{Content, Entry, Extent, Kind, TreeKey};
use crate::error::{Damaged, Error, Result};
use crate::stages::target::metadata::{self, Object, Strays};
use crate::stages::target::{Directory, FilePlan, Identity, Listing, Name, Standing, TargetFile, special, temporary};

/// So many threads, at least, work on large files.
const LARGE_WORKERS_MIN: usize = 6;

/// What became of a directory in pass 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing below it was selected, or it could not be made.
    Left,
    /// This run made it.
    Made,
    /// It stood there, and gets the metadata of the snapshot.
    Adopted,
    /// It stood there, and stays as it is.
    Kept,
}

/// What pass 1 hands to the next.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// By the number of the directory.
    pub(super) fates: Vec<Fate>,
    /// True if the restore is of a single thing, no directory.
    pub(super) single: bool,
    /// True if anything is to become append-only or immutable.
    pub(super) locks: bool,
    /// Entries with such flags that stay as they stood there.
    pub(super) kept: HashSet<TreeKey>,
    /// True if files were passed over that a second walk is to take.
    pub(super) passed_over: bool,
    /// Files of which a part waits.
    pub(super) held: Vec<Held>,
}

/// A file of which a part waits.
#[derive(Debug)]
pub(super) struct Held {
    file: Arc<TargetFile>,
    content: Content,
    late: LateParts,
}

/// What is done about an entry that is no directory.
enum Decision {
    Create,
    Replace,
    /// A directory stands there that may go.
    Clear,
    /// It stands there with the same content.
    Same(Standing),
    Skip,
    /// This was reported.
    Refused,
}

/// Runs pass 1 and waits until all content is written.
pub(super) fn write(run: &Run<'_>, target: Option<Arc<Directory>>) -> Result<Written> {
    let walk = |writer: &mut Writer<'_>| cursor::walk(run, target.clone(), writer);
    let written = with_workers(run, target.as_deref(), Written::default(), walk)?;
    match target.as_ref().filter(|_| order::is_asked_for(run)) {
        Some(target) => order::finish(run, target, written),
        None => Ok(written),
    }
}

/// Lets `walk` plan while threads do what was planned, and waits for them.
pub(super) fn with_workers(
    run: &Run<'_>,
    target: Option<&Directory>,
    written: Written,
    walk: impl FnOnce(&mut Writer<'_>) -> Result<()>,
) -> Result<Written> {
    let (sender, any) = crossbeam_channel::bounded(2 * run.threads());
    let (large_sender, large) = crossbeam_channel::bounded(2 * run.threads());
    let jobs = Jobs { any: sender, large: large_sender };
    std::thread::scope(|scope| {
        if !run.options.dry_run {
            // Why: a thread that waits for the store leaves its core to another that decodes.
            for _ in 0..2 * run.threads() {
                let (any, large) = (any.clone(), large.clone());
                scope.spawn(move || fetch::work(run, &any, &large));
            }
            // Why: few cores need as many threads as many do, to keep the disk busy. On small files, which go into memory,
            // more of them would only get into each other's way.
            for _ in 2 * run.threads()..LARGE_WORKERS_MIN {
                let large = large.clone();
                scope.spawn(move || fetch::work(run, &large, &large));
            }
        }
        drop((any, large));
        let mut writer = Writer::new(run, jobs, target, written);
        let result = walk(&mut writer).and_then(|()| writer.batch.send(run, &writer.jobs));
        if result.is_err() {
            run.stop();
        }
        result.map(|()| writer.written)
    })
    .and_then(|written| run.check_stopped().map(|()| written))
}

/// Plans files, and makes everything else.
pub(super) struct Writer<'a> {
    run: &'a Run<'a>,
    jobs: Jobs,
    batch: Batch,
    written: Written,
    /// What is left to look at in directories where things may be deleted, from the outermost in.
    listings: Vec<(TreeKey, Listing)>,
    device: Option<u64>,
}

impl<'a> Writer<'a> {
    fn new(run: &'a Run<'a>, jobs: Jobs, target: Option<&Directory>, written: Written) -> Self {
        let device = target.map(|target| target.identity().device);
        Self { run, jobs, batch: Batch::default(), written, listings: Vec::new(), device }
    }

    /// What became of things so far.
    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    fn set_fate(&mut self, level: &Level, fate: Fate) {
        if self.written.fates.len() <= level.ordinal {
            self.written.fates.resize(level.ordinal + 1, Fate::Left);
        }
        self.written.fates[level.ordinal] = fate;
        self.written.locks |= level.entry.as_ref().is_some_and(metadata::has_locks) && fate != Fate::Kept;
    }

    /// A directory that stood there: ready to be written to.
    fn adopt(&self, here: &Directory, name: Name<'_>) -> io::Result<(Directory, Fate)> {
        let directory = here.open(name)?;
        if self.run.options.overwrite == Overwrite::Never {
            return Ok((directory, Fate::Kept));
        }
        if !self.run.options.dry_run {
            directory.make_writable();
        }
        Ok((directory, Fate::Adopted))
    }

    fn create_directory(&mut self, here: &Arc<Directory>, level: &Level) -> Result<Entered> {
        if self.run.options.dry_run {
            self.run.plan(Act::Create, &level.key);
            add(&self.run.tally.directories, 1);
            return Ok(Entered::Absent);
        }
        match Name::new(level.key.name()).and_then(|name| here.create(name)) {
            Ok(directory) => {
                self.set_fate(level, Fate::Made);
                add(&self.run.tally.directories, 1);
                Ok(Entered::Open(Arc::new(directory)))
            }
            Err(error) => {
                self.run.unwritable(&level.key, "cannot make the directory", error);
                Ok(Entered::Failed)
            }
        }
    }

    fn enter_existing(&mut self, here: &Arc<Directory>, level: &Level, standing: &Standing) -> Result<Entered> {
        if let Some(why) = self.run.guard.is(standing.identity).filter(|_| standing.is_directory()) {
            self.run.problem(&level.key, "skipped", format!("nothing is restored into it: {why}"));
            return Ok(Entered::Failed);
        }
        if standing.is_directory() {
            return Ok(match Name::new(level.key.name()).and_then(|name| self.adopt(here, name)) {
                Ok((directory, fate)) => {
                    self.set_fate(level, fate);
                    add(&self.run.tally.directories, 1);
                    Entered::Open(Arc::new(directory))
                }
                Err(error) => {
                    self.run.unwritable(&level.key, "cannot open the directory", error);
                    Entered::Failed
                }
            });
        }
        if self.run.options.overwrite != Overwrite::Always {
            let what = format!("{} stands where a directory should be", describe(standing.kind));
            self.run.problem(&level.key, "skipped", what);
            return Ok(Entered::Failed);
        }
        if clear::make_way(self.run, here, &level.key) {
            self.create_directory(here, level)
        } else {
            Ok(Entered::Failed)
        }
    }

    fn decide(&self, here: &Arc<Directory>, key: &TreeKey, entry: &Entry) -> Decision {
        let standing = match Name::new(key.name()) {
            Ok(_) if here.is_fresh() => Ok(None),
            Ok(name) => here.standing(name),
            Err(error) => Err(error),
        };
        let standing = match standing {
            Ok(None) => return Decision::Create,
            Ok(Some(standing)) => standing,
            Err(error) => {
                self.run.unwritable(key, "cannot look at what stands there", error);
                return Decision::Refused;
            }
        };
        match (self.run.options.overwrite, standing.kind) {
            (Overwrite::Never, _) => Decision::Skip,
            // Why not now: the directory may hold the only copy of something, and what takes its place may be unreadable.
            (Overwrite::Always, FileType::Directory) if clear::may_go(self.run, here, key) => Decision::Clear,
            (Overwrite::Always, FileType::Directory) => Decision::Refused,
            (_, FileType::Directory) => {
                self.run.problem(key, "skipped", format!("a directory stands where {} should be", what(entry)));
                Decision::Refused
            }
            (Overwrite::IfChanged, kind) if kind == special::file_type(&entry.kind) && is_same(entry, &standing) => {
                Decision::Same(standing)
            }
            _ => match self.run.guard.is(standing.identity) {
                Some(why) => {
                    self.run.problem(key, "skipped", format!("not replaced: {why}"));
                    Decision::Refused
                }
                None => Decision::Replace,
            },
        }
    }

    /// Restores anything but a directory, or plans it.
    pub(super) fn restore_leaf(&mut self, here: Option<&Arc<Directory>>, key: TreeKey, entry: Entry) -> Result<()> {
        let Some(here) = here else {
            self.count_planned(&key, &entry, Act::Create);
            return Ok(());
        };
        if self.is_further_name(&entry) {
            let clears = self.run.options.overwrite == Overwrite::Always && is_directory(here, &key);
            if self.run.options.dry_run && clears {
                clear::may_go(self.run, here, &key);
            }
            let standing = Name::new(key.name()).and_then(|name| here.standing(name));
            if self.run.options.dry_run && standing.is_ok_and(|standing| standing.is_none()) {
                self.count_planned(&key, &entry, Act::Create);
            }
            return Ok(());
        }
        let decision = self.decide(here, &key, &entry);
        self.act(here, key, entry, decision)
    }

    /// Of a group of hard links, only the first name that is restored goes on here.
    fn is_further_name(&self, entry: &Entry) -> bool {
        entry.links.is_some_and(|group| self.run.links().contains_key(&group))
    }

    fn register(&self, key: &TreeKey, entry: &Entry) {
        if let Some(group) = entry.links
            && let hash_map::Entry::Vacant(vacant) = self.run.links().entry(group)
        {
            vacant.insert(FirstName { key: key.clone(), identity: None });
        }
    }

    fn act(&mut self, here: &Arc<Directory>, key: TreeKey, entry: Entry, decision: Decision) -> Result<()> {
        let (replace, clears) = match decision {
            Decision::Refused => return Ok(()),
            Decision::Skip => {
                add(&self.run.tally.skipped, 1);
                if metadata::has_locks(&entry) {
                    self.written.kept.insert(key);
                }
                return Ok(());
            }
            Decision::Same(standing) => match self.keep(here, &key, &entry, &standing) {
                Some(identity) => {
                    add(&self.run.tally.unchanged, 1);
                    self.written.locks |= metadata::has_locks(&entry);
                    self.register(&key, &entry);
                    self.run.placed(&key, entry.links, identity);
                    return Ok(());
                }
                None => (true, false),
            },
            Decision::Replace => (true, false),
            Decision::Clear => (true, true),
            Decision::Create => (false, false),
        };
        self.register(&key, &entry);
        self.written.locks |= metadata::has_locks(&entry);
        if self.run.options.dry_run {
            self.count_planned(&key, &entry, if replace && !clears { Act::Update } else { Act::Create });
            Ok(())
        } else if entry.is_file() {
            self.plan_file(FilePlan { key, entry, directory: Arc::clone(here), replace, clears })
        } else {
            self.make_special(here, &key, &entry, (replace, clears));
            Ok(())
        }
    }

    fn count_planned(&self, key: &TreeKey, entry: &Entry, act: Act) {
        self.run.plan(act, key);
        add(if entry.is_file() { &self.run.tally.files } else { &self.run.tally.others }, 1);
        add(&self.run.tally.bytes, if entry.is_file() { entry.size } else { 0 });
    }

    /// Brings the metadata of something with the same content into its state. `None` if it must be replaced.
    fn keep(&self, here: &Directory, key: &TreeKey, entry: &Entry, standing: &Standing) -> Option<Identity> {
        let name = Name::new(key.name()).ok()?;
        if !entry.is_file() {
            if self.run.options.dry_run {
                return special::matches(here, name, entry, standing).ok()?.then_some(standing.identity);
            }
            let (identity, losses) = special::adopt(here, name, entry, standing, &self.run.owners).ok()??;
            self.run.report_losses(key, &losses);
            return Some(identity);
        }
        if self.run.options.dry_run {
            return Some(standing.identity);
        }
        let handle = here.open_for_metadata(name).ok()?;
        let now = Standing::from(rustix::fs::fstat(&handle).ok()?);
        let object = Object::Open(handle.as_fd());
        // Why: other names of it may lie outside the target; they must not change with it.
        let shared = now.links > 1;
        if now.identity != standing.identity || (shared && metadata::differs(object, entry, &now, &self.run.owners)) {
            return None;
        }
        if shared {
            // Everything is as it should be; without its locks it would not be, for an instant.
            return Some(now.identity);
        }
        // What stays locked shows as a loss below.
        let _ = metadata::unlock(handle.as_fd());
        self.run.report_losses(key, &metadata::apply(object, entry, &now, Strays::Any, &self.run.owners));
        Some(now.identity)
    }

    fn make_special(&self, here: &Arc<Directory>, key: &TreeKey, entry: &Entry, (replace, clears): (bool, bool)) {
        let clear = || if clears { clear::give_place(self.run, here, key) } else { Ok(()) };
        let clear = replace.then_some(&clear as &dyn Fn() -> io::Result<()>);
        let made = Name::new(key.name()).and_then(|name| special::make(here, name, entry, clear, &self.run.owners));
        match made {
            Ok((identity, losses)) => {
                add(&self.run.tally.others, 1);
                self.run.placed(key, entry.links, identity);
                self.run.report_losses(key, &losses);
            }
            Err(error) => self.run.unwritable(key, "cannot make", error),
        }
    }

    fn plan_file(&mut self, mut plan: FilePlan) -> Result<()> {
        let emptied = Kind::File(Content::Inline(Vec::new()));
        let Kind::File(content) = mem::replace(&mut plan.entry.kind, emptied) else { return Ok(()) };
        let file = TargetFile::new(plan, &self.run.open_files);
        match content {
            Content::Inline(bytes) if bytes.len() as u64 == file.entry().size => self.batch.push_inline(file, bytes),
            Content::Inline(_) => fetch::fail(self.run, &file, &disagreement()),
            content => self.plan_content(file, content)?,
        }
        if self.batch.is_full() { self.batch.send(self.run, &self.jobs) } else { Ok(()) }
    }

    /// Plans a file's chunks; where some are to wait, only the others.
    fn plan_content(&mut self, file: Arc<TargetFile>, content: Content) -> Result<()> {
        match order::late_parts(self.run, &file, &content, self.written.held.len()) {
            Some(late) => {
                self.plan_extents(&file, &content, &|place| !late.is_late(place))?;
                self.written.held.push(Held { file, content, late });
            }
            None => {
                self.plan_extents(&file, &content, &|_| true)?;
                self.run.release(&file);
            }
        }
        Ok(())
    }

    /// Plans what waited of files.
    pub(super) fn plan_held(&mut self) -> Result<()> {
        for Held { file, content, late } in mem::take(&mut self.written.held) {
            self.plan_extents(&file, &content, &|place| late.is_late(place))?;
            self.run.release(&file);
        }
        Ok(())
    }

    /// Plans the chunks whose places in the file are wanted.
    fn plan_extents(
        &mut self,
        file: &Arc<TargetFile>,
        content: &Content,
        wanted: &dyn Fn(Range<u64>) -> bool,
    ) -> Result<()> {
        let run = self.run;
        let extents: Box<dyn Iterator<Item = Result<Extent>>> = match content {
            Content::Extents(extents) => Box::new(extents.iter().copied().map(Ok)),
            _ => run.origin.extents(content),
        };
        let mut offset = 0u64;
        for extent in extents {
            let end = extent.and_then(|extent| Ok((extent, end_of(offset, &extent, file.entry().size)?)));
            let (extent, end) = match end {
                Ok(known) => known,
                Err(error) => {
                    fetch::fail(self.run, file, &error);
                    break;
                }
            };
            if let Extent::Chunk { id, length } = extent
                && wanted(offset..end)
            {
                self.batch.push(run, file, id, length, offset);
            }
            offset = end;
            if self.batch.is_full() {
                self.batch.send(run, &self.jobs)?;
            }
        }
        if offset != file.entry().size {
            fetch::fail(run, file, &disagreement());
        }
        Ok(())
    }

    /// Removes what killed restores left unfinished in a directory that stood there.
    fn sweep_temporaries(&self, here: &Directory, level: &Level) {
        if here.is_fresh() || self.run.options.dry_run {
            return;
        }
        let may_go = |name: &[u8]| !self.run.selection.protects(&level.key.child(name), false);
        // What can't be listed shows where it matters.
        let removed = temporary::sweep(here, &may_go).unwrap_or(0);
        if removed > 0 {
            let path = level.key.to_path();
            self.run.note(&format!("{}: removed what a killed restore left unfinished ({removed})", path.display()));
        }
    }

    /// Lists a directory that stood there, if what the snapshot lacks is to be removed from it.
    fn list(&mut self, here: &Directory, level: &Level) {
        let Some(whole) = &self.run.whole else { return };
        if here.is_fresh() || !level.taken || level.entry.is_none() {
            return;
        }
        if !whole.covers(&level.key) {
            let path = level.key.to_path();
            return self.run.note(&format!("nothing is deleted in {}: it was backed up in part", path.display()));
        }
        if self.device != Some(here.identity().device) {
            let path = level.key.to_path();
            return self.run.note(&format!("nothing is deleted in {}: it is another file system", path.display()));
        }
        match here.names() {
            Ok(listing) => self.listings.push((level.key.clone(), listing)),
            Err(error) => self.run.unwritable(&level.key, "cannot list, so nothing is deleted", error),
        }
    }

    /// Removes the names of the present directory that come before `until`, which the snapshot has; all, without it.
    fn sweep(&mut self, here: &Arc<Directory>, level: &Level, until: Option<&TreeKey>) -> Result<()> {
        let until = until.map(TreeKey::name);
        while let Some((_, listing)) = self.listings.last_mut().filter(|(key, _)| *key == level.key) {
            let Some(name) = listing.first().filter(|name| until.is_none_or(|until| *name <= until)) else { break };
            let key = level.key.child(name);
            let known = until == Some(name);
            listing.advance();
            if known {
                break;
            }
            clear::sweep(self.run, here, &key).map_err(|error| Error::file(key.to_path(), "cannot remove", error))?;
        }
        Ok(())
    }
}

impl Pass for Writer<'_> {
    fn enter(&mut self, here: Option<&Arc<Directory>>, level: &Level) -> Result<Entered> {
        self.run.current(&level.key);
        let Some(here) = here else {
            self.run.plan(Act::Create, &level.key);
            add(&self.run.tally.directories, 1);
            return Ok(Entered::Absent);
        };
        if here.is_fresh() {
            return self.create_directory(here, level);
        }
        match Name::new(level.key.name()).and_then(|name| here.standing(name)) {
            Ok(None) => self.create_directory(here, level),
            Ok(Some(standing)) => self.enter_existing(here, level, &standing),
            Err(error) => {
                self.run.unwritable(&level.key, "cannot look at what stands there", error);
                Ok(Entered::Failed)
            }
        }
    }

    fn arrive(&mut self, here: &Arc<Directory>, level: &Level) -> Result<()> {
        if level.ordinal == 0 {
            self.written.single = level.key != self.run.options.from;
            let never = self.run.options.overwrite == Overwrite::Never;
            self.set_fate(level, if never { Fate::Kept } else { Fate::Adopted });
            add(&self.run.tally.directories, u64::from(level.entry.is_some()));
            if !never && !self.run.options.dry_run {
                here.make_writable();
            }
        }
        self.sweep_temporaries(here, level);
        self.list(here, level);
        Ok(())
    }

    fn pass(&mut self, here: &Arc<Directory>, level: &Level, key: &TreeKey) -> Result<()> {
        self.sweep(here, level, Some(key))
    }

    fn leaf(&mut self, here: Option<&Arc<Directory>>, key: TreeKey, entry: Entry) -> Result<()> {
        if order::is_late(self.run, &key, &entry) {
            self.written.passed_over = true;
            return Ok(());
        }
        self.restore_leaf(here, key, entry)
    }

    fn leave(&mut self, here: &Arc<Directory>, level: &Level) -> Result<()> {
        self.sweep(here, level, None)?;
        if self.listings.last().is_some_and(|(key, _)| *key == level.key) {
            self.listings.pop();
        }
        Ok(())
    }

    fn gap(&mut self) -> bool {
        // Why: what the snapshot seems to lack from here on may have been named in the unreadable part.
        self.listings.clear();
        true
    }

    fn orphan(&mut self, key: &TreeKey) {
        self.run.problem(key, "skipped", "it lies below something that is not a directory");
    }
}

fn is_directory(here: &Directory, key: &TreeKey) -> bool {
    let standing = Name::new(key.name()).and_then(|name| here.standing(name));
    standing.is_ok_and(|standing| standing.is_some_and(|standing| standing.kind == FileType::Directory))
}

fn is_same(entry: &Entry, standing: &Standing) -> bool {
    !entry.is_file() || (entry.size == standing.size && entry.mtime == standing.mtime)
}

fn end_of(offset: u64, extent: &Extent, size: u64) -> Result<u64> {
    offset.checked_add(extent.length()).filter(|&end| end <= size).ok_or_else(disagreement)
}

fn disagreement() -> Error {
    Damaged::new("tree", 0, "the file's size and its content disagree").into()
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        _ => "a special file",
    }
}

fn what(entry: &Entry) -> &'static str {
    describe(special::file_type(&entry.kind))
}
