//! The assembler: takes what the walk finds in order, decides what must be read, and writes the tree in order.
//!
//! A file whose size, times and inode are as the parent has them, and whose chunks are all stored, is taken over. Other
//! files go to the workers; their entries come back in any order and wait here, so that the tree is written in order.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

use crate::backup::Run;
use crate::backup::beside::{Beside, Held};
use crate::backup::files::{FileJob, FileOutcome, SealJob, Worker, layout};
use crate::backup::links::{First, HardLinks};
use crate::backup::runs::OldVersion;
use crate::clock::{Timestamp, monotonic};
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup, TreeKey};
use crate::error::Result;
use crate::format::node::{decode_extents, is_storable};
use crate::format::segment::Location;
use crate::ids::{ChunkId, SnapshotId};
use crate::monitor::Problem;
use crate::repo::parent::{EntriesWriter, Known, Parent, SourceName};
use crate::repo::tree::{NewNode, TreeRoot, TreeWriter};
use crate::repo::{Repository, Session};
use crate::stages::metadata;
use crate::stages::walk::{Event, Found, Stat, StatKind};
use crate::units::MIB;

/// So many entries wait for the one in front of them at most.
const PENDING_MAX: usize = 2048;
/// So many further names wait at most: each holds its directory open.
const FURTHER_NAMES_MAX: usize = 128;
/// Extended attributes of one file, together: a tree node must hold them.
const ATTRIBUTES_BYTES_MAX: usize = 4 * MIB;
/// How long a wait lasts before the run's state is looked at.
const PATIENCE: Duration = Duration::from_millis(200);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) files_new: u64,
    pub(crate) files_changed: u64,
    pub(crate) files_unchanged: u64,
    pub(crate) directories: u64,
    pub(crate) others: u64,
    pub(crate) bytes: u64,
}

impl Counts {
    pub(crate) fn files(&self) -> u64 {
        self.files_new + self.files_changed + self.files_unchanged
    }
}

/// An entry on its way into the tree.
enum Pending {
    Ready(TreeKey, Box<Entry>),
    /// A worker reads it.
    Reading {
        key: TreeKey,
        known: bool,
    },
    /// It could not be read.
    Lost,
    /// A further name of an inode that is being read.
    FurtherName {
        job: Box<FileJob>,
        known: bool,
    },
}

type StoreNode<'a> = Box<dyn FnMut(NewNode<'_>) -> Result<ChunkId> + 'a>;

/// Has nodes sealed by whoever is free, or here where nobody is: an old node must be read for each, and this thread is
/// the one that all others wait for. `stored` is held until all nodes are stored.
fn store_node<'a>(run: &'a Run<'a, '_>, stored: Sender<()>) -> StoreNode<'a> {
    let mut sealer = run.sealer();
    Box::new(move |NewNode { plain, level, first }| {
        let id = run.repository.id_key().chunk_id(plain);
        let job = |plain| SealJob::Node { plain, id, level, first: first.clone(), stored: stored.clone() };
        if !run.session.contains(&id) && !run.queues.hand_out(plain, job) {
            sealer.seal_node(&id, plain, level, first)?;
        }
        Ok(id)
    })
}

/// See the module's page.
pub(crate) struct Assembler<'a, 'r> {
    run: &'a Run<'a, 'r>,
    worker: Worker<'a, 'r>,
    parent: Parent<'r>,
    force_read: bool,
    tree: TreeWriter<StoreNode<'a>>,
    /// Closes once the tree is finished and all its nodes are stored.
    nodes_stored: Receiver<()>,
    entries: Option<EntriesWriter>,
    links: HardLinks,
    pending: VecDeque<Pending>,
    /// Files that are not sent yet.
    held: Held,
    /// How many files were sent.
    turns: u64,
    further_names: usize,
    first: u64,
    counts: Counts,
    told_at: Instant,
}

impl<'a, 'r> Assembler<'a, 'r> {
    pub(crate) fn new(
        run: &'a Run<'a, 'r>,
        parent: Parent<'r>,
        source: &SourceName,
        time: Timestamp,
        force_read: bool,
    ) -> Self {
        let (stored, nodes_stored) = crossbeam_channel::bounded(0);
        Self {
            run,
            worker: Worker::new(run),
            parent,
            force_read,
            tree: TreeWriter::new(&run.repository.keys().chunker_key, store_node(run, stored)),
            nodes_stored,
            entries: EntriesWriter::create(run.repository.cache(), source, time),
            links: HardLinks::default(),
            pending: VecDeque::new(),
            held: Held::default(),
            turns: 0,
            further_names: 0,
            first: 0,
            counts: Counts::default(),
            told_at: monotonic(),
        }
    }

    /// Takes the walk's next event.
    pub(crate) fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Problem(problem) => self.run.problem(problem),
            Event::Found(found) => self.found(found)?,
        }
        while self.is_full() {
            self.release()?;
            self.write_front()?;
            if self.is_full() {
                self.wait()?;
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_MAX || self.further_names >= FURTHER_NAMES_MAX
    }

    fn found(&mut self, found: Found) -> Result<()> {
        if self.held.is_over_at(&found.key) {
            self.release()?;
        }
        let link = self.links.group(&found.stat);
        let runs = &self.run.runs;
        let known = self.parent.take(&found.key, &mut |key, entry| runs.note(key, entry, false));
        let is_known = known.iter().any(Option::is_some);
        let stored =
            Stored { repository: self.run.repository, session: Some(self.run.session), parent: self.parent.snapshot() };
        let [fresh, stored_last] = known;
        let mut old = None;
        for candidate in [fresh, stored_last].into_iter().flatten() {
            if !self.force_read && is_unchanged(&candidate, &found.stat, &stored) {
                let entry = Entry { links: link, ..candidate.entry };
                self.counts.files_unchanged += u64::from(entry.is_file());
                self.run.runs.note(&found.key, &entry, true);
                self.pending.push_back(Pending::Ready(found.key, Box::new(entry)));
                self.met(link, &found.stat, false);
                return Ok(());
            }
            if let Kind::File(content) = candidate.entry.kind {
                old = Some(OldVersion { content, table: candidate.entry.table });
            }
        }
        if found.stat.kind != StatKind::File {
            self.met(link, &found.stat, false);
            return self.other(&found, link);
        }
        let number = self.first + u64::try_from(self.pending.len()).unwrap_or(0);
        let job = FileJob { number, turn: 0, beside: Beside::Alone, found, link, old };
        if link.is_some_and(|group| self.links.is_read(group)) {
            self.further_names += 1;
            self.pending.push_back(Pending::FurtherName { job: Box::new(job), known: is_known });
            return Ok(());
        }
        self.met(link, &job.found.stat, true);
        self.pending.push_back(Pending::Reading { key: job.found.key.clone(), known: is_known });
        if !Held::wants(&job) {
            return self.send(job);
        }
        if self.held.is_apart(&job) {
            self.release()?;
        }
        if self.held.hold(job) { self.release() } else { Ok(()) }
    }

    /// Sends what is held, masters before their casts.
    fn release(&mut self) -> Result<()> {
        let run = self.run;
        let look = |job: &FileJob| {
            let file = metadata::open_file(&job.found).ok()?;
            layout(run, &job.found.key, &file, &metadata::stat_file(&file).ok()?)
        };
        let jobs = self.held.release(&look, &run.remembered);
        jobs.into_iter().try_for_each(|job| self.send(job))
    }

    fn met(&mut self, link: Option<LinkGroup>, stat: &Stat, read: bool) {
        if let Some(group) = link {
            self.links.met(group, stat, read);
        }
    }

    /// Directories, links, devices, pipes, sockets: nothing to read but their metadata.
    fn other(&mut self, found: &Found, link: Option<LinkGroup>) -> Result<()> {
        let mut problems = Vec::new();
        match metadata::complete(found, &self.run.names, link, &mut problems) {
            Ok(entry) => {
                let inode = if problems.is_empty() { entry.inode } else { 0 };
                self.pending.push_back(Pending::Ready(found.key.clone(), Box::new(Entry { inode, ..entry })));
            }
            Err(error) => problems.push(Problem::path(&found.key.to_path(), "unreadable", error.to_string())),
        }
        problems.into_iter().for_each(|problem| self.run.problem(problem));
        Ok(())
    }

    fn send(&mut self, mut job: FileJob) -> Result<()> {
        self.turns += 1;
        job.turn = self.turns;
        if job.has_turn() {
            self.run.runs.announce(&job.found.key, job.beside.announced(), job.turn);
        }
        loop {
            match self.run.queues.files.0.send_timeout(job, PATIENCE) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(back) | SendTimeoutError::Disconnected(back)) => {
                    self.run.check()?;
                    job = back;
                }
            }
        }
    }

    /// Takes in what the workers have finished, and writes what is ready.
    pub(crate) fn advance(&mut self) -> Result<()> {
        while let Ok(outcome) = self.run.queues.outcomes.1.try_recv() {
            self.arrived(outcome)?;
        }
        self.write_front()?;
        if self.told_at.elapsed() >= PROGRESS_INTERVAL {
            self.told_at = monotonic();
            self.run.check()?;
            self.run.progress(self.counts.files(), self.counts.bytes);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        match self.run.queues.outcomes.1.recv_timeout(PATIENCE) {
            Ok(outcome) => self.arrived(outcome)?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.run.check()?,
        }
        self.advance()
    }

    fn arrived(&mut self, outcome: FileOutcome) -> Result<()> {
        let at = usize::try_from(outcome.number - self.first).expect("few entries wait");
        let place = &mut self.pending[at];
        let Pending::Reading { key, known } = std::mem::replace(place, Pending::Lost) else { return Ok(()) };
        if let Some(entry) = outcome.entry? {
            self.counts.count_read(known, outcome.same);
            *place = Pending::Ready(key, entry);
        }
        Ok(())
    }

    /// Writes the entries in front that wait for nothing.
    fn write_front(&mut self) -> Result<()> {
        loop {
            match self.pending.front() {
                None | Some(Pending::Reading { .. }) => return Ok(()),
                Some(_) => {}
            }
            self.first += 1;
            match self.pending.pop_front() {
                Some(Pending::Ready(key, entry)) => self.write(&key, &entry)?,
                Some(Pending::FurtherName { job, known }) => self.further_name(&job, known)?,
                _ => {}
            }
        }
    }

    /// A further name has the entry of the first; where that is not to be had, the file is read here.
    fn further_name(&mut self, job: &FileJob, known: bool) -> Result<()> {
        self.further_names -= 1;
        let first = job.link.map_or(First::Unknown, |group| self.links.first(group, &job.found.stat));
        let entry = match first {
            First::Same(entry) => Some(Box::new(entry.clone())),
            First::Unknown => self.worker.file(job)?,
            First::OtherFile => self.worker.file(&FileJob { link: None, ..job.clone() })?,
        };
        if let Some(group) = job.link {
            self.links.one_name_less(group);
        }
        if let Some(entry) = entry {
            self.counts.count_read(known, job.has_content_of(Some(&entry)));
            self.write(&job.found.key, &entry)?;
        }
        Ok(())
    }

    fn write(&mut self, key: &TreeKey, entry: &Entry) -> Result<()> {
        let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if attributes > ATTRIBUTES_BYTES_MAX || !is_storable(key) {
            let what = "its name or its extended attributes are too long to be stored";
            self.run.problem(Problem::path(&key.to_path(), "unreadable", what));
            return Ok(());
        }
        match entry.kind {
            Kind::File(_) => self.counts.bytes += entry.size,
            Kind::Directory => self.counts.directories += 1,
            _ => self.counts.others += 1,
        }
        if let Some(group) = entry.links {
            self.links.keep(group, entry);
        }
        self.tree.push(key, entry)?;
        if let Some(entries) = &mut self.entries {
            entries.push(key, entry);
        }
        Ok(())
    }

    /// Stores a stream as one file.
    pub(crate) fn stream(&mut self, key: &TreeKey, reader: &mut dyn io::Read, time: Timestamp) -> Result<()> {
        let (content, size) = self.worker.stream(reader)?;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let entry = Entry {
            kind: Kind::File(content),
            mode: 0o600,
            uid,
            gid,
            user: self.run.names.user(uid),
            group: self.run.names.group(gid),
            mtime: time,
            ctime: time,
            btime: None,
            size,
            inode: 0,
            links: None,
            xattrs: Vec::new(),
            flags: 0,
            table: None,
        };
        self.counts.count_read(false, false);
        self.write(key, &entry)
    }

    /// Waits for everything that is being read and stores the tree.
    pub(crate) fn finish(mut self) -> Result<(TreeRoot, Counts, Option<EntriesWriter>)> {
        self.release()?;
        self.write_front()?;
        while !self.pending.is_empty() {
            self.wait()?;
        }
        if let Some(entries) = &mut self.entries {
            entries.flush();
        }
        let root = self.tree.finish()?;
        while self.nodes_stored.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            self.run.check()?;
        }
        Ok((root, self.counts, self.entries))
    }
}

impl Counts {
    fn count_read(&mut self, known: bool, same: bool) {
        match (known, same) {
            (_, true) => self.files_unchanged += 1,
            (true, false) => self.files_changed += 1,
            (false, false) => self.files_new += 1,
        }
    }
}

/// True if an entry can be taken over: this key's own member or an owner signed it, kind, size, mtime, ctime and inode are
/// as they were, the last change lies clearly before that earlier reading (a change in the same instant would not show in
/// the times), and all its chunks are stored.
pub(crate) fn is_unchanged(known: &Known, stat: &Stat, stored: &Stored<'_, '_>) -> bool {
    let entry = &known.entry;
    let same_kind = match (&entry.kind, stat.kind) {
        (Kind::File(_), StatKind::File) => entry.size == stat.size,
        (Kind::Directory, StatKind::Directory)
        | (Kind::Symlink(_), StatKind::Symlink)
        | (Kind::Fifo, StatKind::Fifo)
        | (Kind::Socket, StatKind::Socket) => true,
        // Devices are cheap to look at anew.
        _ => false,
    };
    // Inode 0 stands for an entry that is incomplete: it equals nothing.
    let same_inode = entry.inode == stat.inode && entry.inode != 0;
    let same_times = entry.mtime == stat.mtime && entry.ctime == stat.ctime;
    // Why saturating: that time comes from a log entry or a cache file, and may be anything.
    let settled = stat.ctime.seconds < known.read_at.seconds.saturating_sub(1);
    !known.only_base && same_kind && same_inode && same_times && settled && stored.has(known)
}

/// Tells whether all chunks of a known entry are stored.
pub(crate) struct Stored<'a, 'r> {
    pub(crate) repository: &'r Repository,
    /// The running session; none in a dry run.
    pub(crate) session: Option<&'a Session<'r>>,
    /// The snapshot that known entries come from.
    pub(crate) parent: Option<SnapshotId>,
}

impl Stored<'_, '_> {
    fn has(&self, known: &Known) -> bool {
        // Why: reading the file again is what makes a table that is lost anew.
        known.entry.table.is_none_or(|table| self.has_chunk(&table.id)) && self.has_content(known)
    }

    fn has_content(&self, known: &Known) -> bool {
        match &known.entry.kind {
            Kind::File(Content::Extents(extents)) => self.has_extents(extents, 0),
            // What a committed snapshot's list names is stored with it, as long as that snapshot is not forgotten and no
            // damage was found since. What a run that did not commit listed may be stored in part. There the lists are
            // followed.
            Kind::File(Content::Indirect { id, .. }) if !known.unfinished && self.rests_on_parent() => {
                self.has_chunk(id)
            }
            Kind::File(Content::Indirect { id, depth, .. }) => self.has_list(id, *depth),
            _ => true,
        }
    }

    /// True if all that the parent reaches may be taken over unseen; the session then answers for the parent.
    fn rests_on_parent(&self) -> bool {
        match (self.session, &self.parent) {
            (Some(session), Some(parent)) => session.rest_on(parent),
            (Some(_), None) => false,
            (None, _) => !self.repository.state().standing.is_damage_newer(0) && self.repository.closed_segments() == 0,
        }
    }

    fn has_chunk(&self, id: &ChunkId) -> bool {
        match self.session {
            Some(session) => session.contains(id),
            None => self.repository.is_sound(id),
        }
    }

    fn has_list(&self, id: &ChunkId, depth: u8) -> bool {
        let location = match self.session {
            Some(session) => session.locate(id),
            None => self.repository.locate(id),
        };
        let read = |location: Location| {
            let mut blob = self.repository.fetch(&location).ok()?;
            let mut plain = Vec::new();
            self.repository.blob_reader().decode(id, &location, &mut blob, &mut plain).ok()?;
            decode_extents(&plain).ok()
        };
        depth > 0 && location.and_then(read).is_some_and(|extents| self.has_extents(&extents, depth - 1))
    }

    fn has_extents(&self, extents: &[Extent], depth: u8) -> bool {
        extents.iter().all(|extent| match extent {
            Extent::Hole { .. } => true,
            Extent::Chunk { id, .. } if depth > 0 => self.has_list(id, depth),
            Extent::Chunk { id, .. } => self.has_chunk(id),
        })
    }
}

#[cfg(test)]
mod tests;
