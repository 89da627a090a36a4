//! The assembler: takes what the walk finds in order, decides what must be read, and writes the tree in order.
//!
//! A file whose size, times and inode are as the parent has them, and whose chunks are all stored, is taken over. Other
//! files go to the workers; their entries come back in any order and wait here, so that the tree is written in order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, SendTimeoutError};

use crate::backup::Run;
use crate::backup::files::{FileJob, Worker};
use crate::backup::seal::Sealer;
use crate::clock::{Timestamp, monotonic};
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup, TreeKey};
use crate::error::Result;
use crate::format::node::is_storable;
use crate::format::pack::BlobKind;
use crate::ids::ChunkId;
use crate::monitor::Problem;
use crate::repo::parent::{EntriesWriter, Known, Parent, SourceName};
use crate::repo::tree::{TreeRoot, TreeWriter};
use crate::stages::metadata::{self, LinkTable};
use crate::stages::walk::{Event, Found, Stat, StatKind};
use crate::units::MIB;

/// So many entries wait for the one in front of them at most.
const PENDING_MAX: usize = 2048;
/// So many inodes with several names are remembered; a further name of another one is read again.
const LINKS_MAX: usize = 100_000;
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

type StoreNode<'a> = Box<dyn FnMut(&[u8]) -> Result<ChunkId> + 'a>;

/// See the module's page.
pub(crate) struct Assembler<'a, 'r> {
    run: &'a Run<'a, 'r>,
    worker: Worker<'a, 'r>,
    parent: Parent<'r>,
    force_read: bool,
    tree: TreeWriter<StoreNode<'a>>,
    entries: Option<EntriesWriter>,
    links: LinkTable,
    linked: HashSet<LinkGroup>,
    linked_entries: HashMap<LinkGroup, Entry>,
    pending: VecDeque<Pending>,
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
        let mut sealer = Sealer::new(run.repository, run.session);
        let store: StoreNode<'a> = Box::new(move |node| sealer.seal(BlobKind::Tree, node, None));
        Self {
            run,
            worker: Worker::new(run),
            parent,
            force_read,
            tree: TreeWriter::new(&run.repository.keys().chunker_key, store),
            entries: EntriesWriter::create(run.repository.cache(), source, time),
            links: LinkTable::new(),
            linked: HashSet::new(),
            linked_entries: HashMap::new(),
            pending: VecDeque::new(),
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
        while self.pending.len() >= PENDING_MAX {
            self.write_front()?;
            if self.pending.len() >= PENDING_MAX {
                self.wait()?;
            }
        }
        Ok(())
    }

    fn found(&mut self, found: Found) -> Result<()> {
        let link = self.links.group(&found.stat);
        let known = self.parent.take(&found.key);
        let is_known = known.iter().any(Option::is_some);
        let stored = |id: &ChunkId| self.run.session.contains(id);
        let [fresh, old] = known;
        let mut old_content = None;
        for candidate in [fresh, old].into_iter().flatten() {
            if !self.force_read && is_unchanged(&candidate, &found.stat, &stored) {
                let entry = Entry { links: link, ..candidate.entry };
                self.counts.files_unchanged += u64::from(entry.is_file());
                self.pending.push_back(Pending::Ready(found.key, Box::new(entry)));
                return Ok(());
            }
            if let Kind::File(content) = candidate.entry.kind {
                old_content = Some(content);
            }
        }
        if found.stat.kind != StatKind::File {
            return self.other(&found, link);
        }
        let number = self.first + u64::try_from(self.pending.len()).unwrap_or(0);
        let job = FileJob { number, found, link, old: old_content };
        match link {
            Some(group) if self.linked.contains(&group) => {
                self.pending.push_back(Pending::FurtherName { job: Box::new(job), known: is_known });
                return Ok(());
            }
            Some(group) if self.linked.len() < LINKS_MAX => {
                self.linked.insert(group);
            }
            _ => {}
        }
        self.pending.push_back(Pending::Reading { key: job.found.key.clone(), known: is_known });
        self.send(job)
    }

    /// Directories, links, devices, pipes, sockets: nothing to read but their metadata.
    fn other(&mut self, found: &Found, link: Option<LinkGroup>) -> Result<()> {
        let mut problems = Vec::new();
        match metadata::complete(found, &self.run.names, link, &mut problems) {
            Ok(entry) => self.pending.push_back(Pending::Ready(found.key.clone(), Box::new(entry))),
            Err(error) => problems.push(Problem::path(&found.key.to_path(), "unreadable", error.to_string())),
        }
        problems.into_iter().for_each(|problem| self.run.problem(problem));
        Ok(())
    }

    fn send(&mut self, mut job: FileJob) -> Result<()> {
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
        while let Ok((number, outcome)) = self.run.queues.outcomes.1.try_recv() {
            self.arrived(number, outcome)?;
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
            Ok((number, outcome)) => self.arrived(number, outcome)?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.run.check()?,
        }
        self.advance()
    }

    fn arrived(&mut self, number: u64, outcome: Result<Option<Box<Entry>>>) -> Result<()> {
        let at = usize::try_from(number - self.first).expect("few entries wait");
        let place = &mut self.pending[at];
        let Pending::Reading { key, known } = std::mem::replace(place, Pending::Lost) else { return Ok(()) };
        if let Some(entry) = outcome? {
            self.counts.count_read(known);
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
        let first = job.link.and_then(|group| self.linked_entries.get(&group)).cloned();
        let entry = match first {
            Some(entry) => Some(Box::new(entry)),
            None => self.worker.file(job)?,
        };
        if let Some(entry) = entry {
            self.counts.count_read(known);
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
        if let (Kind::File(_), Some(group)) = (&entry.kind, entry.links)
            && self.linked.contains(&group)
            && !self.linked_entries.contains_key(&group)
        {
            self.linked_entries.insert(group, entry.clone());
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
        };
        self.counts.count_read(false);
        self.write(key, &entry)
    }

    /// Waits for everything that is being read and stores the tree.
    pub(crate) fn finish(mut self) -> Result<(TreeRoot, Counts, Option<EntriesWriter>)> {
        self.write_front()?;
        while !self.pending.is_empty() {
            self.wait()?;
        }
        if let Some(entries) = &mut self.entries {
            entries.flush();
        }
        Ok((self.tree.finish()?, self.counts, self.entries))
    }
}

impl Counts {
    fn count_read(&mut self, known: bool) {
        if known {
            self.files_changed += 1;
        } else {
            self.files_new += 1;
        }
    }
}

/// True if an entry can be taken over: kind, size, mtime, ctime and inode are as they were, the last change lies clearly
/// before that earlier reading (a change in the same instant would not show in the times), and all its chunks are
/// stored.
pub(crate) fn is_unchanged(known: &Known, stat: &Stat, stored: &dyn Fn(&ChunkId) -> bool) -> bool {
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
    let same_times = entry.mtime == stat.mtime && entry.ctime == stat.ctime && entry.inode == stat.inode;
    let settled = stat.ctime.seconds < known.read_at.seconds - 1;
    same_kind && same_times && settled && content_is_stored(&entry.kind, stored)
}

fn content_is_stored(kind: &Kind, stored: &dyn Fn(&ChunkId) -> bool) -> bool {
    match kind {
        Kind::File(Content::Extents(extents)) => extents.iter().all(|extent| match extent {
            Extent::Chunk { id, .. } => stored(id),
            Extent::Hole { .. } => true,
        }),
        Kind::File(Content::Indirect { id, .. }) => stored(id),
        _ => true,
    }
}
