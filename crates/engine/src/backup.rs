//! Backup: the main path, from walking the sources to the one commit.
//!
//! walk -> read -> split -> seal (id, dedup, encode, encrypt) -> pack -> store -> publish -> commit
//!
//! One thread walks; this thread compares what was found with the parent and writes the tree in order; workers read
//! changed files and seal their chunks ([`files`], [`seal`]); writer threads make packs durable
//! ([`crate::repo::session`]). Bounded queues join them under one byte budget. Nothing is visible to readers before the
//! commit; everything before it may be repeated or abandoned. Trouble with one file goes into the report.

mod assemble;
mod base;
mod beside;
mod checks;
mod content;
mod cuts;
mod files;
mod links;
mod masters;
pub mod models;
mod old_nodes;
mod runs;
mod seal;
mod stream;
mod sums;

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::chunker::Chunker;
use crate::clock::{Timestamp, monotonic};
use crate::codec::Effort;
use crate::entry::TreeKey;
use crate::error::{Error, Result};
use crate::format::log::SnapshotRecord;
use crate::format::names::PackName;
use crate::ids::{ChunkId, SessionId, SnapshotId};
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::repo::Bases;
use crate::repo::parent::{Parent, SourceName};
use crate::repo::session::SessionTotals;
use crate::repo::tree::TreeRoot;
use crate::repo::{Committed, Repository, Session, Snapshot};
use crate::rules;
use crate::stages::metadata::Names;
use crate::stages::walk::{Event, StatKind, WalkOptions, walk};
use crate::units::MIB;

use assemble::{Assembler, Counts, Stored};
use files::{Queues, Worker};
use masters::Remembered;
use runs::{BaseRef, Runs};
use seal::{Casts, Sealer};
use sums::Sums;

/// Events that the walk hands over at once.
const BATCH_EVENTS: usize = 64;
/// Length of data packs where the budget allows.
const PACK_BYTES: usize = 24 * MIB;
/// What a worker's own buffers may take: a window of a large file, an encoder's tables, bases.
const WORKER_BYTES: usize = 32 * MIB;
/// Writer threads: one makes a pack durable while the other is filled.
const WRITERS: usize = 2;

/// Label of a snapshot whose backup left paths out by an exclude: how many, those below them not counted.
pub const EXCLUDED_PATHS: &str = "excluded-paths";
/// Label of a snapshot whose backup left directories out on which other file systems are mounted: how many.
pub const OTHER_FILE_SYSTEMS: &str = "other-file-systems";

/// What to back up.
pub enum Source {
    /// Files and directories.
    Paths(WalkOptions),
    /// A stream that becomes one file: standard input, or a command's output.
    Stream {
        /// Name of the file in the snapshot, a relative path.
        name: Vec<u8>,
        /// The bytes.
        reader: Box<dyn Read + Send>,
        /// Asked at the end of the stream whether it was whole; an error aborts the backup.
        finish: Box<dyn FnOnce() -> Result<()> + Send>,
    },
}

/// Tells, after everything was read, whether the source is still what it was; see [`BackupOptions::steady`].
pub type Steady = Box<dyn Fn() -> Result<()> + Send>;

/// Options of [`backup`].
pub struct BackupOptions {
    /// What to back up.
    pub source: Source,
    /// Host name to record.
    pub host: String,
    /// User name to record.
    pub user: String,
    /// Tags to record.
    pub tags: Vec<String>,
    /// Labels to record, name and value.
    pub labels: Vec<(String, String)>,
    /// When the reading began.
    pub time: Timestamp,
    /// Name and version of the program, to record.
    pub program: String,
    /// Read every file, whatever its times say.
    pub force_read: bool,
    /// Only count what would be read.
    pub dry_run: bool,
    /// Compare with this snapshot instead of the newest of the same host and paths that [`Repository::trusts`] names. One that
    /// it does not name serves as base, and nothing is taken over from it.
    pub parent: Option<SnapshotId>,
    /// Files of tensors to encode against, where no nearer version is found: roots of trees, and a file or directory in each.
    pub bases: Vec<(ChunkId, TreeKey)>,
    /// Time to spend on each chunk; none: more where the store is slower than the processor, less where it is faster.
    pub effort: Option<Effort>,
    /// For a source that is worth something only as a whole: trouble with the content of any file ends the backup with
    /// [`Error::Changed`], and so does what this says before the commit. What was stored is kept for the next run.
    pub steady: Option<Steady>,
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Bytes for everything in flight.
    pub budget_bytes: usize,
}

/// What a backup made of an earlier snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ParentUse {
    /// There was none of the same host and paths.
    #[default]
    None,
    /// What did not change since was taken over from it.
    TakenOver(SnapshotId),
    /// This key can't read its tree, and no list of it is on this disk: every file was read.
    Unreadable(SnapshotId),
    /// Only snapshots that another member signed were there: this one serves as base, and every file was read.
    OtherMember(SnapshotId),
    /// The same, and who signed it was removed since.
    RemovedKey(SnapshotId),
    /// The same, and a repair made it, of whoever's snapshot.
    Repaired(SnapshotId),
}

/// What [`backup`] did.
#[derive(Debug, Clone, Default)]
pub struct BackupReport {
    /// The committed snapshot; none in a dry run.
    pub snapshot: Option<SnapshotRecord>,
    /// What it was compared with.
    pub parent: ParentUse,
    /// Number of its log entry.
    pub number: u64,
    /// Files that no earlier snapshot had.
    pub files_new: u64,
    /// Files that changed since the parent.
    pub files_changed: u64,
    /// Files taken over from the parent without reading.
    pub files_unchanged: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, devices, pipes and sockets.
    pub others: u64,
    /// Plain bytes of all files.
    pub bytes: u64,
    /// Plain bytes read.
    pub bytes_read: u64,
    /// Plain bytes that were new to the repository.
    pub bytes_new: u64,
    /// Bytes written to the store.
    pub bytes_stored: u64,
    /// Chunks that were new to the repository, or stored again.
    pub chunks_new: u64,
    /// Those of them that a check had found damaged.
    pub chunks_mended: u64,
    /// Packs written.
    pub packs: Vec<PackName>,
    /// Problems reported.
    pub problems: u64,
    /// Crashed sessions whose stored data this run took over.
    pub adopted: Vec<SessionId>,
    /// How long it took.
    pub duration: Duration,
}

/// What all threads of a run share.
pub(crate) struct Run<'a, 'r> {
    pub(crate) repository: &'r Repository,
    pub(crate) session: &'a Session<'r>,
    pub(crate) monitor: &'a dyn Monitor,
    pub(crate) chunker: Chunker,
    pub(crate) names: Names,
    /// Root of the parent snapshot's tree.
    old_root: Option<ChunkId>,
    effort: Option<Effort>,
    pub(crate) queues: Queues,
    /// Files of tensors that may be bases.
    pub(crate) runs: Runs,
    /// What lists beside files say they must be.
    pub(crate) sums: Sums,
    casts: Casts,
    /// BF16 tensors of files that wait for those with their masters.
    remembered: Remembered,
    /// What may be a base, of short files of tensors.
    kept: Bases,
    /// Held while a file's header is looked at.
    pub(crate) reading_header: Mutex<()>,
    /// Closed when the run is over.
    pub(crate) ended: Receiver<()>,
    /// True once the run has ended, well or not.
    over: AtomicBool,
    /// True if the first trouble with a file's content ends the run, and that trouble.
    is_strict: bool,
    refused: OnceLock<Problem>,
    bytes_read: AtomicU64,
    problems: AtomicU64,
    excluded: AtomicU64,
    other_file_systems: AtomicU64,
    files_known: AtomicU64,
    bytes_known: AtomicU64,
}

impl<'a, 'r> Run<'a, 'r> {
    fn new(
        session: &'a Session<'r>,
        repository: &'r Repository,
        monitor: &'a dyn Monitor,
        (old_root, effort): (Option<ChunkId>, Option<Effort>),
        queues: Queues,
        ended: Receiver<()>,
    ) -> Self {
        Self {
            repository,
            session,
            monitor,
            chunker: Chunker::from_key(repository.keys().chunker_key.as_bytes()),
            names: Names::new(),
            old_root,
            effort,
            queues,
            runs: Runs::new(repository.cache()),
            sums: Sums::default(),
            casts: Casts::default(),
            remembered: Remembered::default(),
            kept: Bases::new(0),
            reading_header: Mutex::new(()),
            ended,
            over: AtomicBool::new(false),
            is_strict: false,
            refused: OnceLock::new(),
            bytes_read: AtomicU64::new(0),
            problems: AtomicU64::new(0),
            excluded: AtomicU64::new(0),
            other_file_systems: AtomicU64::new(0),
            files_known: AtomicU64::new(0),
            bytes_known: AtomicU64::new(0),
        }
    }

    /// A sealer for one thread.
    pub(crate) fn sealer(&self) -> Sealer<'_, 'r> {
        Sealer::new(self.repository, self.session, (&self.casts, &self.kept), self.old_root, self.effort)
    }

    /// The chunk of this backup, stored without a base, of which the chunk `id` is the cast to BF16.
    pub(crate) fn master_of(&self, id: &ChunkId) -> Option<BaseRef> {
        let master = self.casts.master_of(id)?;
        (self.session.keyframe(&master.id) == Some(master.id)).then_some(master)
    }

    /// True if all bases of a file of that length can be kept for the next.
    pub(crate) fn keeps(&self, size: u64) -> bool {
        usize::try_from(size).is_ok_and(|size| size <= self.kept.bytes_max())
    }

    /// Fails once the user wants to stop or storing has failed, or a file whose content must be whole is not.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(Problem { subject, what, .. }) = self.refused.get() {
            return Err(Error::Changed(format!("{subject}: {what}")));
        }
        if self.monitor.stopped() || self.over.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.session.check()
    }

    pub(crate) fn problem(&self, problem: Problem) {
        if self.is_strict && matches!(problem.code, "changed" | "vanished" | "unreadable") {
            // Why not told: the whole run is discarded, and its error says why. The first one is enough.
            let _ = self.refused.set(problem);
            return;
        }
        self.problems.fetch_add(1, Ordering::Relaxed);
        self.monitor.problem(problem);
    }

    pub(crate) fn read_bytes(&self, bytes: usize) {
        self.bytes_read.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn progress(&self, files_done: u64, bytes_done: u64) {
        self.monitor.progress(Progress {
            files_done,
            files_known: self.files_known.load(Ordering::Relaxed),
            bytes_done: bytes_done.max(self.bytes_read.load(Ordering::Relaxed)),
            bytes_known: self.bytes_known.load(Ordering::Relaxed),
            bytes_stored: self.session.totals().stored_bytes,
        });
    }
}

/// Backs up `options.source` and commits one snapshot.
///
/// # Errors
/// [`Error::Interrupted`] when the monitor says stop, [`Error::Changed`] where [`BackupOptions::steady`] is given (what was
/// stored is kept for the next run); errors of the store, the log or the stream. Trouble with single files is not an error: it goes to the monitor and is counted.
pub fn backup(repository: &Repository, options: BackupOptions, monitor: &dyn Monitor) -> Result<BackupReport> {
    monitor.phase(Phase::BackingUp);
    let started = monotonic();
    let paths = source_paths(&options.source)?;
    let name = SourceName::new(&options.host, &named_after(&paths, options.steady.is_some()));
    let parent = choose_parent(repository, options.parent, &options.host, &paths)?;
    if options.dry_run {
        return dry_run(repository, &options, &name, parent.as_ref(), monitor);
    }
    let session = Session::begin(repository, (options.budget_bytes / 8).clamp(4 * MIB, PACK_BYTES))?;
    for adopted in session.adopted() {
        monitor.note(&format!("took over what the interrupted session {adopted} had stored"));
    }
    let closed = repository.closed_segments();
    if closed > 0 {
        let what = "what only they list is stored again, and `verify` tells whom it hits";
        monitor.note(&format!("index segments that can't be opened: {closed}; {what}"));
    }
    let (end, ended) = crossbeam_channel::bounded(0);
    let threads = options.threads.clamp(1, (options.budget_bytes / WORKER_BYTES).max(1));
    let old_root = parent.as_ref().map(|parent| parent.record.root);
    let queues = Queues::new(threads, options.budget_bytes / 8);
    let is_strict = options.steady.is_some();
    let run = Run::new(&session, repository, monitor, (old_root, options.effort), queues, ended);
    let run = Run { is_strict, kept: Bases::new(options.budget_bytes / 4), ..run };
    for (root, key) in &options.bases {
        run.runs.declare(repository, root, key)?;
    }
    if let Some(other) = parent.as_ref().filter(|parent| parent.record.paths != paths) {
        // Why before the walk: nothing of it lies where the walk comes by, or in the order of the walk.
        Parent::open(repository, &name, Some(other)).drain(&mut |key, entry| run.runs.note(key, entry, true));
    }
    let snapshot = SnapshotId(crate::crypto::random());
    let task = Task { name, snapshot, parent, paths, parent_time: options.time };
    let (end_writers, writers_ended) = crossbeam_channel::bounded(0);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| session.write_packs(&session.writer_queue(), &writers_ended));
        }
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| Worker::new(&run).work())).collect();
        let result = perform(&run, &task, options, scope, started);
        run.over.store(true, Ordering::SeqCst);
        drop(end);
        // Why: the writers go last, so that no worker waits for ever for room in their queue.
        workers.into_iter().for_each(|worker| drop(worker.join()));
        if matches!(result, Err(Error::Interrupted | Error::Changed(_))) {
            // Why: what is stored and listed now need not be read and stored again by the next run.
            let _ = session.flush();
        }
        drop(end_writers);
        result.map_err(|error| session.take_failure().unwrap_or(error))
    })
}

/// What a run works on.
struct Task {
    name: SourceName,
    snapshot: SnapshotId,
    parent: Option<Snapshot>,
    paths: Vec<Vec<u8>>,
    parent_time: Timestamp,
}

/// Walks through the sources before a backup gives up.
const WALKS_MAX: u32 = 8;
/// Those of them that take over content unseen. Why not all: an AUDIT that names anything as lost, true or not, takes the
/// ground from what was taken over, and somebody could write one before every commit.
const WALKS_WITH_PARENT: u32 = 3;

/// Walks and commits; again where content that was taken over was pruned meanwhile (rule W2).
fn perform<'scope>(
    run: &'scope Run<'scope, '_>,
    task: &Task,
    mut options: BackupOptions,
    scope: &'scope thread::Scope<'scope, '_>,
    started: std::time::Instant,
) -> Result<BackupReport> {
    let mut parent = task.parent.clone();
    for walk in 1..=WALKS_MAX {
        let known = Parent::open(run.repository, &task.name, parent.as_ref());
        let used = parent_use(run.repository, parent.as_ref(), &known);
        let mut assembler = Assembler::new(run, known, &task.name, task.parent_time, options.force_read);
        let is_stream = match &mut options.source {
            Source::Paths(walk_options) => {
                walk_sources(run, walk_options.clone(), &mut assembler, scope)?;
                false
            }
            Source::Stream { name, reader, finish } => {
                assembler.stream(&stream_key(name)?, &mut **reader, options.time)?;
                std::mem::replace(finish, Box::new(|| Ok(())))()?;
                true
            }
        };
        let (root, counts, entries) = assembler.finish()?;
        run.progress(counts.files(), counts.bytes);
        if let Some(steady) = &options.steady {
            run.check()?;
            steady()?;
        }
        let parent_record = parent.as_ref().map(|parent| &parent.record);
        let outcome = run
            .session
            .commit(&mut |totals| record(run, task, &options, (root, &counts, parent_record), totals, started))?;
        match outcome {
            Committed::Done(number, snapshot) => {
                if let Some(entries) = entries {
                    entries.commit(&snapshot.id);
                }
                run.runs.save(run.repository.cache(), parent.as_ref().map(|parent| &parent.record.root), root.id);
                let report = BackupReport { parent: used, ..report(run, &counts, (number, *snapshot), started) };
                if report.chunks_mended > 0 {
                    run.monitor.note(&format!("chunks that were damaged are stored again: {}", report.chunks_mended));
                }
                return Ok(report);
            }
            Committed::Again if is_stream => {
                let why = "content that the stream shares with older snapshots was pruned or found damaged meanwhile; \
                           run again";
                return Err(Error::Refused(why.into()));
            }
            Committed::Again => {
                let what = "content that was taken over was pruned or found damaged meanwhile";
                run.monitor.note(&format!("{what}; looking through the sources again"));
                run.problems.store(0, Ordering::Relaxed);
                parent = match walk {
                    ..WALKS_WITH_PARENT => choose_parent(run.repository, None, &options.host, &task.paths)?,
                    _ => None,
                };
            }
        }
    }
    Err(Error::Refused(format!(
        "content was pruned or found damaged during each of {WALKS_MAX} walks through the sources; `log show` tells by whom; \
         nothing was committed, run again"
    )))
}

/// What the log will say of the snapshot.
fn record(
    run: &Run<'_, '_>,
    task: &Task,
    options: &BackupOptions,
    (root, counts, parent): (TreeRoot, &Counts, Option<&SnapshotRecord>),
    totals: SessionTotals,
    started: std::time::Instant,
) -> SnapshotRecord {
    SnapshotRecord {
        id: task.snapshot,
        time: options.time,
        host: options.host.clone(),
        user: options.user.clone(),
        paths: task.paths.clone(),
        tags: options.tags.clone(),
        root: root.id,
        entries: root.entries,
        files: counts.files(),
        bytes: counts.bytes,
        labels: labels(run, &options.labels),
        program: options.program.clone(),
        problems: run.problems.load(Ordering::Relaxed),
        parent: parent.map(|parent| parent.id),
        bytes_read: run.bytes_read.load(Ordering::Relaxed),
        bytes_stored: totals.stored_bytes,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// The labels that were asked for, behind what the walk left out.
fn labels(run: &Run<'_, '_>, own: &[(String, String)]) -> Vec<(String, String)> {
    let counts = [(EXCLUDED_PATHS, &run.excluded), (OTHER_FILE_SYSTEMS, &run.other_file_systems)];
    let counts = counts.map(|(name, count)| (name, count.load(Ordering::Relaxed)));
    let left_out = counts.into_iter().filter(|(_, count)| *count > 0);
    left_out.map(|(name, count)| (name.to_owned(), count.to_string())).chain(own.iter().cloned()).collect()
}

fn report(
    run: &Run<'_, '_>,
    counts: &Counts,
    (number, snapshot): (u64, SnapshotRecord),
    started: std::time::Instant,
) -> BackupReport {
    let SessionTotals { chunks, mended, plain_bytes, stored_bytes } = run.session.totals();
    BackupReport {
        parent: ParentUse::None,
        number,
        files_new: counts.files_new,
        files_changed: counts.files_changed,
        files_unchanged: counts.files_unchanged,
        directories: counts.directories,
        others: counts.others,
        bytes: counts.bytes,
        bytes_read: run.bytes_read.load(Ordering::Relaxed),
        bytes_new: plain_bytes,
        bytes_stored: stored_bytes,
        chunks_new: chunks,
        chunks_mended: mended,
        packs: run.session.packs(),
        problems: snapshot.problems,
        adopted: run.session.adopted().to_vec(),
        duration: started.elapsed(),
        snapshot: Some(snapshot),
    }
}

/// Walks in a thread of its own and feeds the assembler in batches.
fn walk_sources<'scope>(
    run: &'scope Run<'scope, '_>,
    options: WalkOptions,
    assembler: &mut Assembler<'scope, '_>,
    scope: &'scope thread::Scope<'scope, '_>,
) -> Result<()> {
    if run.monitor.wants_totals() {
        let options = options.clone();
        scope.spawn(move || count_sources(run, &options));
    }
    let (send, batches) = crossbeam_channel::bounded::<Vec<Event>>(4);
    let walker = scope.spawn(move || {
        let mut batch = Vec::with_capacity(BATCH_EVENTS);
        let walked = walk(&options, &mut |event| {
            batch.push(event);
            if batch.len() < BATCH_EVENTS {
                return ControlFlow::Continue(());
            }
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_EVENTS));
            if send.send(full).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // Why: where nobody receives any more, the run has failed already.
        let _ = send.send(batch);
        walked
    });
    for batch in &batches {
        for event in batch {
            assembler.event(event)?;
        }
        assembler.advance()?;
    }
    let walked = walker.join().map_err(|_| Error::Refused("the walk ended unexpectedly".into()))??;
    run.excluded.store(walked.excluded, Ordering::Relaxed);
    run.other_file_systems.store(walked.other_file_systems, Ordering::Relaxed);
    Ok(())
}

/// A walk ahead of the backup, so that progress can name an end.
fn count_sources(run: &Run<'_, '_>, options: &WalkOptions) {
    // Why: an error here comes again in the walk that counts.
    let _ = walk(options, &mut |event| {
        if let Event::Found(found) = event
            && found.stat.kind == StatKind::File
        {
            run.files_known.fetch_add(1, Ordering::Relaxed);
            run.bytes_known.fetch_add(found.stat.size, Ordering::Relaxed);
        }
        if run.check().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
}

/// Compares without reading: how much a backup would read.
fn dry_run(
    repository: &Repository,
    options: &BackupOptions,
    name: &SourceName,
    snapshot: Option<&Snapshot>,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let started = monotonic();
    let Source::Paths(walk_options) = &options.source else {
        return Err(Error::Usage("a stream can't be backed up as a dry run".into()));
    };
    let mut parent = Parent::open(repository, name, snapshot);
    let used = parent_use(repository, snapshot, &parent);
    let mut report = BackupReport { parent: used, ..BackupReport::default() };
    walk(walk_options, &mut |event| {
        match event {
            Event::Problem(problem) => {
                report.problems += 1;
                monitor.problem(problem);
            }
            Event::Found(found) => {
                let known = parent.take(&found.key, &mut |_, _| ());
                let stored = Stored { repository, session: None, parent: None };
                let unchanged = !options.force_read
                    && known.iter().flatten().any(|known| assemble::is_unchanged(known, &found.stat, &stored));
                let is_known = known.iter().any(Option::is_some);
                match found.stat.kind {
                    StatKind::Directory => report.directories += 1,
                    StatKind::File => {
                        report.bytes += found.stat.size;
                        report.bytes_read += if unchanged { 0 } else { found.stat.size };
                        report.files_unchanged += u64::from(unchanged);
                        report.files_changed += u64::from(!unchanged && is_known);
                        report.files_new += u64::from(!unchanged && !is_known);
                    }
                    _ => report.others += 1,
                }
            }
        }
        if monitor.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if monitor.stopped() {
        return Err(Error::Interrupted);
    }
    report.duration = started.elapsed();
    Ok(report)
}

/// What the local list of a source's entries is named after: its paths; for what is worth something only as a whole, the
/// folders that hold them. Why: checkpoints of one run follow each other there, and only the last one's list is kept.
fn named_after(paths: &[Vec<u8>], is_steady: bool) -> Vec<Vec<u8>> {
    let folder = |path: &Vec<u8>| path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)].to_vec();
    if is_steady { paths.iter().map(folder).collect() } else { paths.to_vec() }
}

/// The paths that name the source in the snapshot.
fn source_paths(source: &Source) -> Result<Vec<Vec<u8>>> {
    use std::os::unix::ffi::OsStrExt;
    match source {
        Source::Paths(options) => {
            let mut paths = Vec::new();
            for path in &options.sources {
                let path = std::path::absolute(path).map_err(|error| Error::file(path, "cannot be resolved", error))?;
                let clean: std::path::PathBuf = path.components().collect();
                paths.push(clean.as_os_str().as_bytes().to_vec());
            }
            paths.sort();
            paths.dedup();
            Ok(paths)
        }
        Source::Stream { name, .. } => Ok(vec![stream_key(name)?.to_path().as_os_str().as_bytes().to_vec()]),
    }
}

fn stream_key(name: &[u8]) -> Result<TreeKey> {
    use std::os::unix::ffi::OsStrExt;
    let path = [b"/", name].concat();
    let key = TreeKey::from_path(std::path::Path::new(std::ffi::OsStr::from_bytes(&path)));
    key.filter(|key| !key.0.is_empty()).ok_or_else(|| {
        Error::Usage(format!("{:?} is not a name for a file in the snapshot", String::from_utf8_lossy(name)))
    })
}

/// The snapshot to compare with: the one that was asked for, else the newest of the same host and paths that this key trusts,
/// else the newest of any member.
fn choose_parent(
    repository: &Repository,
    asked: Option<SnapshotId>,
    host: &str,
    paths: &[Vec<u8>],
) -> Result<Option<Snapshot>> {
    let state = repository.state();
    if let Some(id) = asked {
        let found = state.snapshot(&id).ok_or_else(|| Error::NotFound(format!("no snapshot {id}")))?;
        return Ok(Some(found.clone()));
    }
    let is_same = |it: &&Snapshot| it.record.host == host && it.record.paths == paths;
    let of_source = || state.snapshots.iter().rev().filter(is_same);
    // Why not just the newest: whoever may add can sign one in this host's name.
    let trusted = of_source().find(|snapshot| repository.trusts(snapshot));
    Ok(trusted.or_else(|| of_source().next()).cloned())
}

/// What is made of the snapshot that was chosen.
fn parent_use(repository: &Repository, chosen: Option<&Snapshot>, known: &Parent<'_>) -> ParentUse {
    let Some(chosen) = chosen else { return ParentUse::None };
    let id = chosen.record.id;
    match () {
        () if repository.state().active(&chosen.member).is_none() => ParentUse::RemovedKey(id),
        () if rules::is_repaired(&chosen.record) => ParentUse::Repaired(id),
        () if !repository.trusts(chosen) => ParentUse::OtherMember(id),
        () if known.snapshot().is_none() => ParentUse::Unreadable(id),
        () => ParentUse::TakenOver(id),
    }
}
