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
use seawall_engine::codec::{Effort, Encoder};
use seawall_engine::crypto::{Secret32, random};
use seawall_engine::entry::{Content, Extent, Kind, TreeKey};
use seawall_engine::error::{Error, Result};
use seawall_engine::forget::{forget, store_times};
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::format::segment::Location;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::keys;
use seawall_engine::monitor::Monitor;
use seawall_engine::prune::{MaxUnused, PruneOptions, prune};
use seawall_engine::reindex::reindex;
use seawall_engine::repair;
use seawall_engine::repo::{BlobReader, Committed, Repository, Session};
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::simulation;
use seawall_engine::stages::walk::WalkOptions;
use seawall_engine::undelete::undelete;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use super::desk::{Connection, Desk};
use super::harm::Poisoned;
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
        despite_missing: bool,
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
    /// `repair --index`.
    Reindex,
    /// `repair --drop`, and the `verify` before.
    Drop,
    /// A backup that stores a copy of something under a wrong id, by mistake or not.
    Poison {
        tag: String,
        time: Timestamp,
    },
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
            Self::Reindex => "repair --index",
            Self::Drop => "repair --drop",
            Self::Poison { .. } => "poison",
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
    pub fn start(identity: Identity, desk: Arc<Desk>, expected: Expected, poisoned: Poisoned) -> Self {
        let (jobs, queue) = channel();
        let bell = Arc::<Bell>::default();
        let (repository, note) = (None, Note::default());
        let person =
            Person { identity: identity.clone(), desk, expected, poisoned, bell: Arc::clone(&bell), repository, note };
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
    poisoned: Poisoned,
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
                let any = || choose(repository, job.seed).map(|chosen| chosen.id);
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
            Verb::Prune { window, orphans, left, batch, despite_missing, time } => {
                let options = PruneOptions {
                    window: Duration::from_secs(*window),
                    orphans: Duration::from_secs(*orphans),
                    max_unused: MaxUnused::Bytes(*left),
                    batch_packs: *batch,
                    batch_reads: *batch,
                    despite_missing: *despite_missing,
                    time: *time,
                    pack_bytes: 40_000,
                    rebase_bytes_min: 0,
                    ..PruneOptions::default()
                };
                prune(repository, &options, &mut |_| {}, &*bell).map(drop)
            }
            Verb::Verify { record } => verify(repository, &verify_all(*record), &*bell).map(drop),
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
            Verb::Reindex => reindex(repository, false, &*bell).map(drop),
            Verb::Drop => self.drop_lost(repository),
            Verb::Poison { tag, time } => self.poison(repository, tag, *time, job.seed),
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

    fn drop_lost(&mut self, repository: &Repository) -> Result<()> {
        let bell = Arc::clone(&self.bell);
        verify(repository, &verify_all(true), &*bell)?;
        let asked = &mut self.note.asked_to_forget;
        repair::losses(repository, &*bell, &mut |snapshot, _| asked.push(snapshot.record.id))?;
        let dropped = repair::drop_lost(repository, "simulation", &*bell)?;
        self.note.asked_to_forget.extend(dropped.iter().map(|it| it.old));
        Ok(())
    }

    /// Takes over a snapshot, and stores other bytes under the id of some chunk.
    fn poison(&mut self, repository: &Repository, tag: &str, time: Timestamp, seed: u64) -> Result<()> {
        repository.refresh()?;
        let snapshots = repository.snapshots();
        let Some(parent) = snapshots.get(nth(seed, snapshots.len())) else { return Ok(()) };
        let mut chunks: BTreeMap<ChunkId, Location> = BTreeMap::new();
        let listed = repository.each_location(&mut |id, location| {
            let known = chunks.entry(id).or_insert(location);
            if known.base.is_none() {
                *known = location;
            }
        });
        if listed.is_err() {
            return Ok(());
        }
        // Mostly one that is stored against a base, and if there is, one that is condemned.
        let state = repository.state();
        let is_condemned = |place: &Location| state.standing.condemned.contains_key(&place.pack);
        let mut based: Vec<_> = chunks.iter().filter(|(_, place)| place.base.is_some()).collect();
        if seed.is_multiple_of(3) && based.iter().any(|(_, place)| is_condemned(place)) {
            based.retain(|(_, place)| is_condemned(place));
        }
        let all: Vec<_> = if based.is_empty() || seed.is_multiple_of(5) { chunks.iter().collect() } else { based };
        let Some((id, place)) = all.get(nth(seed / 7, all.len())) else { return Ok(()) };
        let session = Session::begin(repository, 4 * MIB)?;
        if !session.rest_on(&parent.record.id) {
            return Ok(());
        }
        let mut plain: Vec<u8> = vec![0; usize::try_from(place.plain_len).unwrap()];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut plain);
        let base = self.base_at_hand(&session, repository, seed);
        if let Some((_, bytes)) = &base {
            // Near what it is stored against.
            let shared = bytes.len().min(plain.len()) / 2;
            plain[..shared].copy_from_slice(&bytes[..shared]);
        }
        let mut body = Vec::new();
        let against = base.as_ref().map(|(id, bytes)| (id, bytes.as_slice()));
        Encoder::new(Effort::Balanced).encode(&plain, None, against, &mut body);
        self.poisoned.lock().unwrap().insert((session.id(), **id));
        // Why another one is claimed: what is stored already can't be.
        assert!(session.claim(&ChunkId(blake3::hash(&plain).into())), "nobody has it");
        let mut record = SnapshotRecord {
            id: SnapshotId(random()),
            tags: vec![format!("{}-{tag}", parent.record.tags[0])],
            time,
            ..parent.record.clone()
        };
        record.parent = Some(parent.record.id);
        let tags = (record.tags[0].clone(), parent.record.tags[0].clone());
        let mut expected = self.expected.lock().unwrap();
        let files = expected[&tags.1].clone();
        expected.insert(tags.0, files);
        drop(expected);
        let (end, ended) = crossbeam_channel::bounded(0);
        std::thread::scope(|scope| {
            scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
            let stored = session.store(place.kind, id, plain.len(), &body);
            let committed = stored.and_then(|()| session.commit(&mut |_| record.clone()));
            drop(end);
            self.note.committed = match committed? {
                Committed::Done(_, snapshot) => Some(snapshot.id),
                Committed::Again => None,
            };
            Ok(())
        })
        .map_err(|error| session.take_failure().unwrap_or(error))
    }

    /// In half of all cases a chunk of the own source that may be a base, and its bytes.
    fn base_at_hand(&self, session: &Session<'_>, repository: &Repository, seed: u64) -> Option<(ChunkId, Vec<u8>)> {
        let expected = self.expected.lock().unwrap();
        let own = format!("c{}-", self.identity.number);
        let files = expected.iter().rev().find(|(tag, _)| tag.starts_with(&own))?.1;
        let chunks = files.values().map(|bytes| (repository.id_key().chunk_id(bytes), bytes.to_vec()));
        let mut bases = chunks.filter(|(id, _)| session.keyframe(id) == Some(*id));
        if seed.is_multiple_of(2) { bases.next() } else { None }
    }

    fn read(&mut self, repository: &Repository, seed: u64) -> Result<()> {
        let Some(Chosen { id, root, tag, is_repaired }) = choose(repository, seed) else { return Ok(()) };
        self.note.read = Some(id);
        let found = files_of(repository, &root)?;
        self.note.wrong =
            self.compare(&tag, is_repaired, &found.iter().map(|(path, bytes)| (path.clone(), &bytes[..])).collect());
        Ok(())
    }

    fn restore(&mut self, repository: &Repository, seed: u64) -> Result<()> {
        let Some(Chosen { id, root, tag, is_repaired }) = choose(repository, seed) else { return Ok(()) };
        self.note.read = Some(id);
        let target = self.identity.directory.join("restored");
        let _ = fs::remove_dir_all(&target);
        let place = self.place_of(&tag);
        let from = TreeKey::from_path(&place).unwrap();
        let options =
            RestoreOptions { from, target: target.clone(), threads: 1, budget_bytes: 16 * MIB, ..Default::default() };
        let bell = Arc::clone(&self.bell);
        let report = match restore(repository, &root, &options, &*bell) {
            // Nothing of it was left.
            Err(Error::NotFound(_)) if is_repaired => return Ok(()),
            report => report?,
        };
        if report.problems > 0 {
            return Err(Error::Refused(format!("{} problems in a restore", report.problems)));
        }
        let found = files_below(&target);
        let moved = found.iter().map(|(path, bytes)| (place.join(path.strip_prefix(&target).unwrap()), &bytes[..]));
        self.note.wrong = self.compare(&tag, is_repaired, &moved.collect());
        Ok(())
    }

    /// The directory that the backup with this tag was of.
    fn place_of(&self, tag: &str) -> PathBuf {
        let owner = tag.split('-').next().unwrap();
        self.identity.directory.with_file_name(owner).join("source")
    }

    fn compare(&self, tag: &str, is_repaired: bool, found: &BTreeMap<PathBuf, &[u8]>) -> Option<String> {
        let expected = self.expected.lock().unwrap();
        difference(&expected[tag], is_repaired, found).map(|what| format!("snapshot {tag}: {what}"))
    }
}

/// How what was found differs from what was backed up. A repaired snapshot may lack files.
pub fn difference(expected: &Files, is_repaired: bool, found: &BTreeMap<PathBuf, &[u8]>) -> Option<String> {
    let lost = expected.iter().find(|(path, bytes)| match found.get(*path) {
        Some(found) => **found != bytes[..],
        None => !is_repaired,
    });
    let new = found.keys().find(|path| !expected.contains_key(*path));
    lost.map(|(path, _)| format!("{} differs", path.display()))
        .or_else(|| new.map(|path| format!("{} should not be there", path.display())))
}

fn nth(seed: u64, length: usize) -> usize {
    usize::try_from(seed % length.max(1) as u64).unwrap()
}

/// A live snapshot.
struct Chosen {
    id: SnapshotId,
    root: ChunkId,
    tag: String,
    is_repaired: bool,
}

fn choose(repository: &Repository, seed: u64) -> Option<Chosen> {
    let snapshots = repository.snapshots();
    let chosen = &snapshots.get(nth(seed, snapshots.len()))?.record;
    let is_repaired = is_repaired(chosen);
    Some(Chosen { id: chosen.id, root: chosen.root, tag: chosen.tags[0].clone(), is_repaired })
}

/// True if `repair --drop` made it, so that it may lack files.
pub fn is_repaired(snapshot: &SnapshotRecord) -> bool {
    snapshot.labels.iter().any(|(label, _)| label == repair::REPAIRED_FROM)
}

/// Options of a `verify` that reads everything.
pub fn verify_all(record: bool) -> VerifyOptions {
    VerifyOptions { read: Read::All, record, threads: 1, budget_bytes: 16 * MIB }
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
