//! A client: a process with a cache of its own that runs one verb after the other, on a thread that the scheduler tells
//! what to do.
//!
//! It keeps its repository open from verb to verb until it is told to open it anew, as a service would.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use seawall_engine::backup::{BackupOptions, Source, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::codec::Effort;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::{Content, Extent, Kind, TreeKey};
use seawall_engine::error::{Error, Result};
use seawall_engine::forget::{forget, store_times};
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::keys;
use seawall_engine::monitor::Monitor;
use seawall_engine::prune::{MaxUnused, PruneOptions, prune};
use seawall_engine::repo::{BlobReader, Repository};
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::simulation;
use seawall_engine::stages::walk::WalkOptions;
use seawall_engine::undelete::undelete;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use super::desk::{Connection, Desk};
use super::source::{Files, files_below};

/// What each backup saw, by its tag.
pub type Expected = Arc<Mutex<BTreeMap<String, Files>>>;

#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    Backup {
        tag: String,
        time: Timestamp,
        force_read: bool,
    },
    /// Keeps so many of all snapshots, the newest by the store's time.
    Forget {
        keep: usize,
    },
    /// Forgets one: the newest, or whichever.
    ForgetOne {
        newest: bool,
    },
    Undelete,
    Prune {
        window: u64,
        orphans: u64,
        left: u64,
        batch: usize,
        time: Timestamp,
    },
    Verify {
        record: bool,
    },
    Read,
    Restore,
    Rotate,
    AddKey(String),
    RemoveKey(String),
}

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Backup { .. } => "backup",
            Self::Forget { .. } | Self::ForgetOne { .. } => "forget",
            Self::Undelete => "undelete",
            Self::Prune { .. } => "prune",
            Self::Verify { .. } => "verify",
            Self::Read => "read",
            Self::Restore => "restore",
            Self::Rotate => "rotate",
            Self::AddKey(_) => "key add",
            Self::RemoveKey(_) => "key remove",
        }
    }
}

pub struct Job {
    pub verb: Verb,
    /// Open the repository anew.
    pub is_fresh: bool,
    /// Which life the client is in.
    pub life: u64,
    pub seed: u64,
}

/// What came of a verb.
#[derive(Debug)]
pub enum Outcome {
    Done {
        committed: Option<SnapshotId>,
        asked_to_forget: Vec<SnapshotId>,
    },
    Failed {
        error: Error,
        asked_to_forget: Vec<SnapshotId>,
        read: Option<SnapshotId>,
    },
    /// It gave something that is wrong, or panicked.
    Wrong(String),
}

pub struct Ended {
    pub client: usize,
    pub outcome: Outcome,
}

/// What a client is and has.
#[derive(Clone)]
pub struct Identity {
    pub number: usize,
    pub role: Role,
    pub unlock: Unlock,
    pub directory: PathBuf,
    pub source: PathBuf,
    pub has_cache: bool,
}

impl Identity {
    pub fn cache(&self) -> Option<PathBuf> {
        self.has_cache.then(|| self.directory.join("cache"))
    }
}

/// Tells a verb that its user wants it to end.
#[derive(Default)]
pub struct Bell(AtomicBool);

impl Bell {
    pub fn ring(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Monitor for Bell {
    fn stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

pub struct Client {
    pub identity: Identity,
    pub bell: Arc<Bell>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub fn start(identity: Identity, desk: Arc<Desk>, expected: Expected) -> Self {
        let (jobs, queue) = channel();
        let bell = Arc::<Bell>::default();
        let (repository, note) = (None, Note::default());
        let person = Person { identity: identity.clone(), desk, expected, bell: Arc::clone(&bell), repository, note };
        let thread = std::thread::spawn(move || person.work(&queue));
        Self { identity, bell, jobs: Some(jobs), thread: Some(thread) }
    }

    pub fn begin(&self, job: Job) {
        self.jobs.as_ref().unwrap().send(job).unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a verb did before it failed, if it did.
#[derive(Default)]
struct Note {
    committed: Option<SnapshotId>,
    asked_to_forget: Vec<SnapshotId>,
    read: Option<SnapshotId>,
    wrong: Option<String>,
}

struct Person {
    identity: Identity,
    desk: Arc<Desk>,
    expected: Expected,
    bell: Arc<Bell>,
    repository: Option<Repository>,
    note: Note,
}

impl Person {
    fn work(mut self, queue: &Receiver<Job>) {
        for job in queue {
            simulation::seed_chance(Some(job.seed));
            self.note = Note::default();
            self.bell.0.store(false, Ordering::SeqCst);
            let done = catch_unwind(AssertUnwindSafe(|| self.run(&job)));
            let Note { committed, asked_to_forget, read, wrong } = std::mem::take(&mut self.note);
            let outcome = match (done, wrong) {
                (Err(panic), _) => Outcome::Wrong(format!("panic: {}", text_of(&*panic))),
                (Ok(_), Some(wrong)) => Outcome::Wrong(wrong),
                (Ok(Ok(())), None) => Outcome::Done { committed, asked_to_forget },
                (Ok(Err(error)), None) => Outcome::Failed { error, asked_to_forget, read },
            };
            self.desk.end(Ended { client: self.identity.number, outcome });
        }
    }

    fn run(&mut self, job: &Job) -> Result<()> {
        if job.is_fresh {
            self.repository = None;
        }
        let repository = match self.repository.take() {
            Some(open) => open,
            None => {
                let (desk, client) = (Arc::clone(&self.desk), self.identity.number);
                let connection = Arc::new(Connection { desk, client, life: job.life });
                Repository::open(connection, &self.identity.unlock, self.identity.cache())?
            }
        };
        let done = self.perform(&repository, job);
        self.repository = Some(repository);
        done
    }

    fn perform(&mut self, repository: &Repository, job: &Job) -> Result<()> {
        let bell = Arc::clone(&self.bell);
        match &job.verb {
            Verb::Backup { tag, time, force_read } => {
                let report = backup(repository, self.backup_options(tag, *time, *force_read), &*bell)?;
                self.note.committed = report.snapshot.map(|snapshot| snapshot.id);
                Ok(())
            }
            Verb::Forget { keep } => self.forget_all_but(repository, *keep),
            Verb::ForgetOne { newest } => {
                repository.refresh()?;
                let last = repository.snapshots().last().map(|snapshot| snapshot.record.id);
                let any = || choose(repository, job.seed).map(|(id, ..)| id);
                let Some(id) = last.filter(|_| *newest).or_else(any) else { return Ok(()) };
                self.note.asked_to_forget = vec![id];
                forget(repository, &[id], "one").map(drop)
            }
            Verb::Undelete => {
                repository.refresh()?;
                let forgotten = repository.forgotten();
                let Some(one) = forgotten.get(nth(job.seed, forgotten.len())) else { return Ok(()) };
                undelete(repository, &[one.snapshot.record.id], &*bell).map(drop)
            }
            Verb::Prune { window, orphans, left, batch, time } => {
                let options = PruneOptions {
                    window: Duration::from_secs(*window),
                    orphans: Duration::from_secs(*orphans),
                    max_unused: MaxUnused::Bytes(*left),
                    batch_packs: *batch,
                    batch_reads: *batch,
                    time: *time,
                    pack_bytes: 40_000,
                    rebase_bytes_min: 0,
                    ..PruneOptions::default()
                };
                prune(repository, &options, &mut |_| {}, &*bell).map(drop)
            }
            Verb::Verify { record } => {
                let options = VerifyOptions { read: Read::All, record: *record, threads: 1, budget_bytes: 16 * MIB };
                verify(repository, &options, &*bell).map(drop)
            }
            Verb::Read => self.read(repository, job.seed),
            Verb::Restore => self.restore(repository, job.seed),
            Verb::Rotate => keys::rotate(repository, false, true, &*bell).map(drop),
            Verb::AddKey(label) => {
                let lock = Unlock::KeyFile(Secret32::random()).lock().unwrap();
                keys::add(repository, Role::Reader, &lock, label).map(drop)
            }
            Verb::RemoveKey(label) => {
                let all = keys::list(repository)?;
                keys::remove(repository, keys::find(&all, label)?).map(drop)
            }
        }
    }

    fn backup_options(&self, tag: &str, time: Timestamp, force_read: bool) -> BackupOptions {
        let walk = WalkOptions { sources: vec![self.identity.source.clone()], ..WalkOptions::default() };
        BackupOptions {
            source: Source::Paths(walk),
            host: format!("host{}", self.identity.number),
            user: "user".into(),
            tags: vec![tag.to_owned()],
            labels: Vec::new(),
            time,
            program: "simulation".into(),
            force_read,
            dry_run: false,
            parent: None,
            bases: Vec::new(),
            effort: Some(Effort::Balanced),
            steady: None,
            threads: 1,
            // Why so little: nothing fits into the queue, so each thread seals what it has found itself.
            budget_bytes: 8,
        }
    }

    fn forget_all_but(&mut self, repository: &Repository, keep: usize) -> Result<()> {
        repository.refresh()?;
        let snapshots = repository.snapshots();
        let times = store_times(repository, &snapshots.iter().map(|it| it.number).collect::<Vec<_>>())?;
        let mut by_time: Vec<_> = snapshots.iter().map(|it| (times[&it.number], it.number, it.record.id)).collect();
        by_time.sort();
        let count = by_time.len().saturating_sub(keep);
        self.note.asked_to_forget = by_time[..count].iter().map(|(.., id)| *id).collect();
        if self.note.asked_to_forget.is_empty() {
            return Ok(());
        }
        forget(repository, &self.note.asked_to_forget, "policy").map(drop)
    }

    fn read(&mut self, repository: &Repository, seed: u64) -> Result<()> {
        let Some((id, root, tag)) = choose(repository, seed) else { return Ok(()) };
        self.note.read = Some(id);
        let found = files_of(repository, &root)?;
        self.note.wrong = self.compare(&tag, &found.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect());
        Ok(())
    }

    fn restore(&mut self, repository: &Repository, seed: u64) -> Result<()> {
        let Some((id, root, tag)) = choose(repository, seed) else { return Ok(()) };
        self.note.read = Some(id);
        let target = self.identity.directory.join("restored");
        let _ = fs::remove_dir_all(&target);
        let place = self.place_of(&tag);
        let from = TreeKey::from_path(&place).unwrap();
        let options =
            RestoreOptions { from, target: target.clone(), threads: 1, budget_bytes: 16 * MIB, ..Default::default() };
        let bell = Arc::clone(&self.bell);
        let report = restore(repository, &root, &options, &*bell)?;
        if report.problems > 0 {
            return Err(Error::Refused(format!("{} problems in a restore", report.problems)));
        }
        let found = files_below(&target);
        let moved = found.iter().map(|(path, bytes)| (place.join(path.strip_prefix(&target).unwrap()), &bytes[..]));
        self.note.wrong = self.compare(&tag, &moved.collect());
        Ok(())
    }

    /// The directory that the backup with this tag was of.
    fn place_of(&self, tag: &str) -> PathBuf {
        let owner = tag.split('-').next().unwrap();
        self.identity.directory.with_file_name(owner).join("source")
    }

    fn compare(&self, tag: &str, found: &BTreeMap<PathBuf, &[u8]>) -> Option<String> {
        let expected = self.expected.lock().unwrap();
        difference(&expected[tag], found).map(|what| format!("snapshot {tag}: {what}"))
    }
}

/// How what was found differs from what was backed up.
pub fn difference(expected: &Files, found: &BTreeMap<PathBuf, &[u8]>) -> Option<String> {
    let lost = expected.iter().find(|(path, bytes)| found.get(*path) != Some(&&bytes[..]));
    let new = found.keys().find(|path| !expected.contains_key(*path));
    lost.map(|(path, _)| format!("{} differs", path.display()))
        .or_else(|| new.map(|path| format!("{} should not be there", path.display())))
}

fn nth(seed: u64, length: usize) -> usize {
    usize::try_from(seed % length.max(1) as u64).unwrap()
}

/// A live snapshot: id, root and tag.
fn choose(repository: &Repository, seed: u64) -> Option<(SnapshotId, ChunkId, String)> {
    let snapshots = repository.snapshots();
    let chosen = &snapshots.get(nth(seed, snapshots.len()))?.record;
    Some((chosen.id, chosen.root, chosen.tags[0].clone()))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Every regular file in a tree.
pub fn files_of(repository: &Repository, root: &ChunkId) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let (mut files, mut chunks) = (BTreeMap::new(), Chunks::new(repository));
    for entry in repository.tree(root).entries() {
        let (key, entry) = entry?;
        if let Kind::File(content) = &entry.kind {
            files.insert(key.to_path(), bytes_of(repository, content, &mut chunks)?);
        }
    }
    Ok(files)
}

/// Reads each chunk once.
struct Chunks<'r> {
    reader: BlobReader<'r>,
    known: BTreeMap<ChunkId, Vec<u8>>,
}

impl<'r> Chunks<'r> {
    fn new(repository: &'r Repository) -> Self {
        Self { reader: repository.blob_reader(), known: BTreeMap::new() }
    }

    fn read(&mut self, id: ChunkId) -> Result<&[u8]> {
        if !self.known.contains_key(&id) {
            let mut bytes = Vec::new();
            self.reader.read(&id, &mut bytes)?;
            self.known.insert(id, bytes);
        }
        Ok(&self.known[&id])
    }
}

fn bytes_of(repository: &Repository, content: &Content, chunks: &mut Chunks<'_>) -> Result<Vec<u8>> {
    if let Content::Inline(bytes) = content {
        return Ok(bytes.clone());
    }
    let mut bytes = Vec::new();
    for extent in repository.extents(content) {
        match extent? {
            Extent::Chunk { id, .. } => bytes.extend_from_slice(chunks.read(id)?),
            Extent::Hole { length } => bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0),
        }
    }
    Ok(bytes)
}
