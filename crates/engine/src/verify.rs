//! Verify: proves that a repository holds what its log says, or names what is damaged and whom it hits.
//!
//! log and marker -> segments -> session keys -> packs -> trees -> (data) -> what the damage reaches
//!
//! Everything is read from the store, not from local caches. The structure is always checked whole: every published
//! segment, every pack's presence and length, every tree node, every reference. Data is read back as far as
//! [`VerifyOptions::read`] asks: packs whole, every blob opened, decoded and its id computed again. One damaged object
//! never stops the rest; only when there is damage are the snapshots walked once more to find the paths that it hits.
//! What is new of that goes into the log ([`record`]), so that the next backup stores again what its sources still have.
//! What could not be read for a reason that says nothing of the object is a problem, and neither damaged nor whole.
//!
//! [`compare()`] holds a restored directory against its snapshot.

mod compare;
mod data;
mod examine;
mod findings;
mod mended;
mod reach;
mod record;
mod sieve;
mod structure;
mod trees;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::monotonic;
use crate::error::{Error, Result};
use crate::format::names::PackName;
use crate::ids::{ChunkId, SnapshotId};
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::repo::data_keys::NOT_A_READER;
use crate::repo::{Repository, Snapshot};

pub use compare::{CompareOptions, CompareReport, DIFFERENCES_MAX, Difference, Filter, compare};
use data::Data;
use findings::Findings;
use record::Record;
use structure::Structure;

/// A [`Damage`] lists so many paths at most.
pub const DAMAGE_PATHS_MAX: usize = 1_000;

/// Which packs to read back.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    /// None: the structure only.
    Nothing,
    /// All of them.
    All,
    /// Packs chosen at random until they make up this share of all bytes, 0 to 1.
    Sample(f64),
    /// These.
    Packs(Vec<PackName>),
}

/// Options of [`verify`].
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Which data to read back.
    pub read: Read,
    /// Tell the log what was found.
    pub record: bool,
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Bytes for everything in flight.
    pub budget_bytes: usize,
}

/// One damaged object and what it takes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the stored object.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The snapshots that lose something by it, oldest first.
    pub snapshots: Vec<SnapshotId>,
    /// The paths that can't be restored whole from those snapshots, at most [`DAMAGE_PATHS_MAX`]. Where a tree node is
    /// lost, the first path in it stands for all.
    pub paths: Vec<String>,
    /// How many paths those are; paths in lost tree nodes are counted too.
    pub paths_count: u64,
    /// Files that are restored whole and whose tensor table is lost, at most [`DAMAGE_PATHS_MAX`].
    pub tables: Vec<String>,
    /// How many files those are.
    pub tables_count: u64,
}

/// What [`verify`] read and found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Snapshots checked.
    pub snapshots: u64,
    /// Entries in the tree nodes that were read.
    pub entries: u64,
    /// Tree nodes read; one that several snapshots share is read once.
    pub nodes: u64,
    /// Chunks that the published segments list.
    pub chunks: u64,
    /// Published segments.
    pub segments: u64,
    /// Packs that the published segments name.
    pub packs: u64,
    /// Packs read back whole.
    pub packs_read: u64,
    /// Bytes of packs read back.
    pub bytes_read: u64,
    /// Packs and segments in the store that no commit published: what interrupted runs left.
    pub orphans: u64,
    /// Condemned packs: nobody needs what is in them. They are not checked.
    pub condemned: u64,
    /// Those of them that are being deleted.
    pub deleted: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Packs that are damaged and whose parity gives everything back: nothing is lost, but they should be replaced.
    pub mended: Vec<Damage>,
    /// Objects that earlier checks found damaged already and by which no snapshot loses anything: all that live snapshots
    /// need of them can be read.
    pub harmless: Vec<Damage>,
    /// Objects that could not be checked: the store failed, or this key may not read them. They are no damage, nor whole.
    pub undecided: u64,
    /// Entries that tell the log what was found.
    pub entries_appended: u64,
    /// How long it took.
    pub duration: Duration,
}

/// What all stages share.
struct Check<'a> {
    repository: &'a Repository,
    options: &'a VerifyOptions,
    monitor: &'a dyn Monitor,
    findings: Findings,
    entries: AtomicU64,
    nodes: AtomicU64,
    packs_read: AtomicU64,
    bytes_read: AtomicU64,
    bytes_known: AtomicU64,
}

impl Check<'_> {
    /// Fails once the user wants to stop.
    fn go_on(&self) -> Result<()> {
        if self.monitor.stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn progress(&self) {
        self.monitor.progress(Progress {
            files_done: self.entries.load(Ordering::Relaxed),
            files_known: 0,
            bytes_done: self.bytes_read.load(Ordering::Relaxed),
            bytes_known: self.bytes_known.load(Ordering::Relaxed),
            bytes_stored: self.bytes_read.load(Ordering::Relaxed),
        });
    }

    /// An object could not be read for a reason that says nothing of it: a problem, and never damage.
    fn undecided(&self, object: &str, error: &Error) {
        if self.findings.undecided(object) {
            let what = format!("it could not be checked: {error}");
            self.monitor.problem(Problem { subject: object.to_owned(), what, code: "unreadable" });
        }
    }

    /// A chunk can't be read. The object is the one that the error names, or `object`.
    fn unreadable(&self, object: &str, error: &Error, id: ChunkId) {
        if findings::tells_damage(error) {
            self.findings.unreadable(object, error, id);
        } else {
            self.undecided(object, error);
        }
    }

    /// A pack is not whole, or can't be read.
    fn suspect(&self, pack: PackName, error: &Error) {
        if findings::tells_damage(error) {
            self.findings.suspect(pack, error);
        } else {
            self.undecided(&pack.object(), error);
        }
    }

    fn threads(&self) -> usize {
        self.options.threads.max(1)
    }
}

/// Checks the repository; see the module's page.
///
/// # Errors
/// [`Error::NotAllowed`] with a key that can't read data, [`Error::Interrupted`], or a store that can't be listed.
/// Damage is not an error: it is in the report.
pub fn verify(repository: &Repository, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<VerifyReport> {
    let started = monotonic();
    let reads = repository.can_read_data();
    if !reads && !matches!(options.read, Read::Nothing) {
        return Err(NOT_A_READER);
    }
    monitor.phase(Phase::VerifyingStructure);
    let check = Check {
        repository,
        options,
        monitor,
        findings: Findings::default(),
        entries: AtomicU64::new(0),
        nodes: AtomicU64::new(0),
        packs_read: AtomicU64::new(0),
        bytes_read: AtomicU64::new(0),
        bytes_known: AtomicU64::new(0),
    };
    let (mut snapshots, missing_slots) = structure::check_log(&check)?;
    if !reads {
        // Why: a member's key opens no tree. Whether its nodes are all there, it can't tell.
        snapshots.clear();
    }
    let structure = Structure::check(&check)?;
    let chosen = structure.choose(&options.read);
    structure.check_trailers(&check, &chosen)?;
    trees::check_trees(&check, &structure, &snapshots)?;
    if !chosen.is_empty() {
        monitor.phase(Phase::VerifyingData);
        Data::new(&check, &structure).check(&chosen)?;
    }
    structure::check_missing_slots(&check, &missing_slots)?;
    record::recall(&check, &structure);
    examine::examine_suspects(&check)?;
    let mended = mended::gather(&check)?;
    let mut record = Record::gather(&check, &structure)?;
    record.spare(&mended);
    let (damage, harmless) = reach::reach(&check, &structure, &snapshots, &record)?;
    let mut report = report(&check, &structure, &snapshots);
    let is_mended = |pack: Option<PackName>| pack.is_some_and(|pack| mended.contains(&pack));
    (report.mended, report.damage) = damage
        .into_iter()
        .partition(|damage| damage.snapshots.is_empty() && is_mended(PackName::parse(&damage.object)));
    report.harmless = harmless;
    report.undecided = count(check.findings.undecided_count());
    mended::tell(&check, &report.mended);
    if options.record {
        record.tell(&check, &mut report);
    }
    report.duration = started.elapsed();
    Ok(report)
}

fn report(check: &Check<'_>, structure: &Structure, snapshots: &[Snapshot]) -> VerifyReport {
    VerifyReport {
        snapshots: count(snapshots.len()),
        entries: check.entries.load(Ordering::Relaxed),
        nodes: check.nodes.load(Ordering::Relaxed),
        chunks: structure.chunks,
        segments: structure.segments,
        packs: count(structure.packs.len()),
        packs_read: check.packs_read.load(Ordering::Relaxed),
        bytes_read: check.bytes_read.load(Ordering::Relaxed),
        orphans: structure.orphans,
        condemned: structure.condemned.0,
        deleted: structure.condemned.1,
        ..VerifyReport::default()
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Gives every item to one of `threads` threads, in order. `start` makes what a thread needs; the first error ends all.
fn spread<T: Sync, W>(
    threads: usize,
    items: &[T],
    start: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, &T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut worker = start();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(&mut worker, item) {
                next.store(items.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    on_threads(threads.min(items.len()), run)
}

/// Runs `work` on `threads` threads (this one is among them) and gives the first error.
fn on_threads(threads: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
        let mut outcome = work();
        for other in others {
            match other.join() {
                Ok(result) => outcome = outcome.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })
}
