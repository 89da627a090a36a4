//! Prune: frees what no snapshot needs, while others go on writing and reading.
//!
//! mark -> plan -> rebase -> rewrite and condemn, group by group -> delete what waited long enough -> compact the index
//! -> orphans
//!
//! Nothing here needs a lock, a clock or a LIST to be safe: each step is one entry in the log, put at exactly the number
//! for which everything before it was looked at (rules G1 to G3 of docs/concurrency.md). A run may be killed at any
//! point; what it finished stays finished, and the next one goes on. Memory: five bits a record of the index, about 150
//! bytes a pack, and one batch's lists of blobs.

mod compact;
mod condemn;
mod delete;
mod orphans;
mod plan;
mod read_back;
mod rebase;
mod rewrite;
mod stay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::clock::{Timestamp, monotonic};
use crate::error::{Error, Result};
use crate::format::log::Act;
use crate::format::names::PackName;
use crate::format::slot::Role;
use crate::monitor::{Monitor, Phase};
use crate::repo::marks::Marks;
use crate::repo::{Repository, Session};
use crate::rules::State;
use crate::units::{KIB, MIB};

use plan::Plan;
pub use plan::Planned;
use stay::PackUse;

/// How long a condemned pack stays, unless told otherwise.
pub const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);
/// What an interrupted run left stays at least so long, unless told otherwise.
pub const ORPHANS: Duration = Duration::from_secs(24 * 3600);
/// Writer threads: one makes a pack durable while the other is filled.
const WRITERS: usize = 2;

/// How many bytes that nobody needs may stay in packs that are partly needed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnused {
    /// This share of all packs' bytes, 0 to 1.
    Share(f64),
    /// So many bytes.
    Bytes(u64),
}

/// Options of [`prune`].
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// How long condemned packs stay. Zero deletes at once.
    pub window: Duration,
    /// What interrupted runs left is removed when the newest of it is older than this.
    pub orphans: Duration,
    /// How many unneeded bytes may stay.
    pub max_unused: MaxUnused,
    /// How many bytes may be stored again; none for any number.
    pub max_rewrite_bytes: Option<u64>,
    /// Store chunks anew whose bases are there for them alone, where that saves enough.
    pub rebase: bool,
    /// But not where base and dependants take fewer bytes than this together: it would not be worth a look.
    pub rebase_bytes_min: u64,
    /// Go on although snapshots need chunks that no segment lists. What no segment lists is then not removed.
    pub despite_missing: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// The time now.
    pub time: Timestamp,
    /// Length of new data packs.
    pub pack_bytes: usize,
    /// At most so many packs are looked at at once to store again what is needed of them.
    pub batch_packs: usize,
    /// And at most so many bytes, unless a single pack has more.
    pub batch_bytes: u64,
    /// At most so many copies are listed at once to be read because another copy of the same chunk goes; at least 1.
    pub batch_reads: usize,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            window: WINDOW,
            orphans: ORPHANS,
            max_unused: MaxUnused::Share(0.05),
            max_rewrite_bytes: None,
            rebase: true,
            rebase_bytes_min: 16 * KIB as u64,
            despite_missing: false,
            dry_run: false,
            time: Timestamp::now(),
            pack_bytes: 24 * MIB,
            batch_packs: 1_000,
            batch_bytes: 1024 * MIB as u64,
            batch_reads: 160 * 1024,
        }
    }
}

/// What [`prune`] did. Bytes of packs are those of the blobs that the index lists in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What was planned.
    pub planned: Planned,
    /// Packs condemned.
    pub condemned_packs: u64,
    /// Bytes in them.
    pub condemned_bytes: u64,
    /// Chunks stored again.
    pub rewritten_chunks: u64,
    /// Bytes of those.
    pub rewritten_bytes: u64,
    /// Chunks stored anew, as their bases were there for them alone.
    pub rebased_chunks: u64,
    /// Bytes that they take now.
    pub rebased_bytes: u64,
    /// Copies that were read because another copy of the same chunk went.
    pub read_back_chunks: u64,
    /// Bytes of those.
    pub read_back_bytes: u64,
    /// Packs deleted for good.
    pub deleted_packs: u64,
    /// Bytes in them, and in packs whose deletion an earlier run began.
    pub deleted_bytes: u64,
    /// Condemned packs that still wait.
    pub waiting_packs: u64,
    /// Bytes in them.
    pub waiting_bytes: u64,
    /// When the last of them may be deleted.
    pub waiting_until: Option<Timestamp>,
    /// Objects removed that no snapshot ever needed, or does any more.
    pub orphans: u64,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Index segments before.
    pub segments_before: u64,
    /// Index segments after.
    pub segments_after: u64,
    /// Problems reported.
    pub problems: u64,
    /// How long it took.
    pub duration: Duration,
}

/// What all stages share.
struct Run<'r> {
    repository: &'r Repository,
    options: &'r PruneOptions,
    monitor: &'r dyn Monitor,
    state: Arc<State>,
    marks: Marks<'r>,
    /// Number of entries for which the marks hold and every live chunk has a copy that stays.
    judged: u64,
    uses: BTreeMap<PackName, PackUse>,
    /// Condemned packs that hold the only copy of something needed.
    only: BTreeSet<PackName>,
    /// Bases that no snapshot reaches.
    lone_bases: u64,
    report: PruneReport,
}

/// Prunes; see the module's page. `planned` is told what is going to be done before anything is.
///
/// # Errors
/// [`Error::NotAllowed`] without an owner's key; [`Error::Damaged`] where it can't be told what a snapshot needs (then
/// nothing is condemned); [`Error::Refused`] where snapshots need chunks that no segment lists, or another prune took this
/// one's packs; [`Error::Rollback`]; [`Error::Interrupted`]; errors of the store. What was finished before stays.
pub fn prune(
    repository: &Repository,
    options: &PruneOptions,
    planned: &mut dyn FnMut(&Planned),
    monitor: &dyn Monitor,
) -> Result<PruneReport> {
    let started = monotonic();
    if repository.role() != Role::Owner {
        return Err(Error::NotAllowed("prune"));
    }
    monitor.phase(Phase::Marking);
    let (state, index) = repository.look()?;
    let mut run = Run {
        repository,
        options,
        monitor,
        marks: Marks::new(repository, index),
        judged: 0,
        uses: BTreeMap::new(),
        only: BTreeSet::new(),
        lone_bases: 0,
        report: PruneReport { segments_before: state.segments.len() as u64, ..PruneReport::default() },
        state,
    };
    let plan = run.plan()?;
    planned(&plan.planned);
    if !options.dry_run {
        run.perform(&plan)?;
        repository.tidy_cache();
    }
    run.report.segments_after = run.state.segments.len() as u64;
    run.report.duration = started.elapsed();
    Ok(run.report)
}

impl Run<'_> {
    /// Finds what is needed and decides what goes.
    fn plan(&mut self) -> Result<Plan> {
        self.judge(&[], &mut BTreeSet::new())?;
        if self.marks.unlisted > 0 {
            self.report.problems += 1;
            self.monitor.note(&self.missing());
        }
        let mut plan = self.what_goes();
        rebase::plan(self, &mut plan.planned)?;
        self.report.planned = plan.planned;
        Ok(plan)
    }

    /// Decides what goes, by what was judged last.
    fn what_goes(&self) -> Plan {
        let settled = stay::Settled { uses: self.uses.clone(), only: self.only.clone(), ..stay::Settled::default() };
        let counts = self.marks.index().segments().iter().map(|segment| segment.count());
        let records = counts.fold(0, u64::saturating_add);
        plan::plan(&settled, &self.state.standing, self.options, records, self.report.rebased_bytes)
    }

    /// Stores anew what is planned, and condemns what goes then.
    fn condemn(&mut self, session: &Session<'_>, plan: &Plan) -> Result<()> {
        if plan.planned.rebased_chunks == 0 || !rebase::rebase(self, session)? {
            return plan.groups.iter().try_for_each(|group| condemn::condemn(self, session, group));
        }
        self.judge(&[], &mut BTreeSet::new())?;
        let rebased = self.what_goes();
        let Planned { rebased_chunks, rebased_bytes, .. } = plan.planned;
        self.report.planned = Planned { rebased_chunks, rebased_bytes, ..rebased.planned };
        rebased.groups.iter().try_for_each(|group| condemn::condemn(self, session, group))
    }

    fn perform(&mut self, plan: &Plan) -> Result<()> {
        let session = Session::collect(self.repository, self.options.pack_bytes);
        let (end, ended) = crossbeam_channel::bounded(0);
        self.monitor.phase(Phase::Rewriting);
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| session.write_packs(&session.writer_queue(), &ended));
            }
            let outcome = self.condemn(&session, plan);
            drop(end);
            outcome.map_err(|error| session.take_failure().unwrap_or(error))
        })?;
        self.monitor.phase(Phase::Removing);
        let removed = delete::delete(self)?;
        compact::compact(self, &session, &removed)?;
        orphans::remove(self, &session)
    }

    /// What is said where snapshots need what is in no list.
    fn missing(&self) -> String {
        format!("{} chunks that snapshots need are in no index segment", self.marks.unlisted)
    }

    /// Reads the log's new entries.
    fn look(&mut self) -> Result<()> {
        let (state, index) = self.repository.look()?;
        if state.next != self.state.next {
            self.marks.follow(index);
            self.state = state;
        }
        Ok(())
    }

    /// Marks what snapshots reach that were not walked yet.
    fn mark(&mut self) -> Result<()> {
        loop {
            let state = Arc::clone(&self.state);
            let marked = self.marks.walk_all(&state, self.monitor, &mut |_, _| Ok(()));
            // A snapshot was forgotten meanwhile, and another prune was faster.
            let Err(Error::NotFound(_)) = &marked else { return marked };
            self.look()?;
            if self.state.next == state.next {
                return marked;
            }
            self.marks = Marks::new(self.repository, self.marks.index().clone());
        }
    }

    /// Appends an act after exactly what was looked at; false if somebody was faster.
    fn append(&mut self, act: Act) -> Result<bool> {
        let number = self.state.next;
        let appended = self.repository.try_append(number, act)?;
        if appended {
            self.look()?;
            // Why: this run's own entries change nothing that it has not decided itself.
            if self.judged == number {
                self.judged = number + 1;
            }
        }
        Ok(appended)
    }

    /// Bytes of a pack's blobs.
    fn pack_bytes(&self, pack: &PackName) -> u64 {
        self.uses.get(pack).map_or(0, |usage| usage.bytes)
    }
}
