//! `seawall forget`: by name, or by rules that say what to keep. `keep` has the options of the rules, `sizes` shows what
//! each choice would leave stored.

mod keep;
mod sizes;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use seawall_engine::clock::Timestamp;
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::forget::{check, forget, store_times};
use seawall_engine::format::slot::Role;
use seawall_engine::ids::SnapshotId;
use seawall_engine::repair::is_hit;
use seawall_engine::repo::{Repository, Snapshot};
use seawall_plan::retention::{Candidate, Decision, Group, KeepNothing, RUN, Rules, STEP, decide};

use crate::moments;
use crate::output::{printable, table};
use crate::quantities::counted;
use crate::run::{Outcome, Run};
use crate::snapshot_name::{holds, resolve_all, short};
use keep::{Keep, KeepOfRuns};
use sizes::Choice;

const EXAMPLES: &str = "\
Examples:
    seawall forget 5f3a91c0
    seawall forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
    seawall forget --keep-within 30d --keep-tag release --host web1
    seawall forget --keep-last 20 && seawall prune
    seawall forget --run-last 3 --run-steps-every 10000 --run-log-spaced --dry-run --sizes
    seawall forget --run-best 2 --metric loss --lower-is-better --run-last 5 --keep-within 2d";

/// Forget snapshots, by name or by what is to be kept
///
/// Named snapshots are forgotten. With --keep and --run options all others are: of each group (the key that signed it, host
/// and paths) the newest of each of the last N hours, days, weeks, months and years is kept, and what other rules keep; a
/// snapshot stays if any rule keeps it. --dry-run shows each snapshot with the rule that keeps it. Held snapshots always
/// stay, and so does the newest of a group.
///
/// Snapshots with the label checkpoint.run are one group for each key, host and run, whatever their paths. The --run options
/// judge them by the label checkpoint.step and by a metric that was given as a label: `seawall backup --label
/// checkpoint.run=llama --label checkpoint.step=1000 --label loss=0.31 DIR`. Steps and metrics are what the writer says, so
/// use --keep-within besides. Alone they touch no snapshot that is of no run. Where the run has a complete
/// checkpoint, they keep no incomplete one (label checkpoint.state=incomplete).
///
/// --dry-run --sizes tells what would stay stored by all rules together and by each of them alone, counting what stays only
/// because other data is encoded against it.
///
/// What counts is when the store received a snapshot, not only what its writer claims: claimed times that run ahead or
/// backwards are marked, and never make another snapshot expire.
///
/// Forgetting frees nothing yet. `seawall prune` deletes what no snapshot needs any more; until then `seawall undelete`
/// brings a forgotten snapshot back.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Forget just these: the beginning of an id, `latest`, `latest:HOST:/SOURCE`, or a date
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["Keep", "KeepOfRuns"])]
    pub snapshots: Vec<OsString>,

    /// Only look at snapshots of this host
    #[arg(long, value_name = "HOST", conflicts_with = "snapshots")]
    pub host: Option<String>,

    /// Only look at snapshots with this tag; several must all be there
    #[arg(long, value_name = "TAG", conflicts_with = "snapshots")]
    pub tag: Vec<String>,

    /// Only look at snapshots that hold this absolute path
    #[arg(long, value_name = "PATH", conflicts_with = "snapshots")]
    pub path: Option<OsString>,

    /// Only show what would be kept and forgotten, and why
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Show, too, how many bytes would stay stored; reads the trees of all snapshots that would stay
    #[arg(long, requires = "dry_run")]
    pub sizes: bool,

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,

    /// What to keep.
    #[command(flatten)]
    pub keep: Keep,

    /// What to keep of training runs.
    #[command(flatten)]
    pub runs: KeepOfRuns,
}

impl Arguments {
    /// Forgets, or shows what would be forgotten.
    ///
    /// # Errors
    /// When nothing was asked for, a snapshot is not there or held, or the key is not an owner's.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        if self.snapshots.is_empty() {
            return self.by_rules(run, &repository);
        }
        let all = repository.snapshots();
        let ids = resolve_all(&self.snapshots, &all, &run.zone)?;
        check(&repository, &ids)?;
        for snapshot in all.iter().filter(|snapshot| ids.contains(&snapshot.record.id)) {
            let line =
                format!("{}  {}  asked for", short(&snapshot.record.id), printable(snapshot.record.host.as_bytes()));
            run.output.line(line)?;
        }
        if self.sizes {
            sizes::show(
                run,
                &repository,
                &[Choice::now(), Choice::new("without these", ids.iter().copied().collect())],
            )?;
        }
        let reason = self.reason.clone().unwrap_or_else(|| "asked for by name".to_owned());
        self.finish(run, &repository, &ids, all.len() - ids.len(), &reason)
    }

    fn by_rules(&self, run: &Run, repository: &Repository) -> anyhow::Result<Outcome> {
        let rules = keep::rules(&self.keep, &self.runs);
        if rules.keep_nothing() {
            let why = "name the snapshots to forget, or say with --keep-daily N and the like what to keep";
            return Err(Error::Usage(why.to_owned()).into());
        }
        let chosen = self.choose(repository)?;
        if !self.dry_run {
            // Why before the times: an entry that the store lost has none, and is put back here.
            repository.confirm_log_end()?;
        }
        let times = store_times(repository, &chosen.iter().map(|one| one.snapshot.number).collect::<Vec<_>>())?;
        let candidates = chosen.iter().map(|one| one.candidate(repository, &times, &rules));
        let candidates = candidates.collect::<Result<Vec<Candidate>>>()?;
        let offset = run.zone.to_offset(jiff::Timestamp::now()).seconds() / 60;
        let decisions = decide(&candidates, &rules, offset).map_err(refused)?;
        self.show(run, &chosen, &decisions, &times)?;
        warn(run, &decisions);
        let dropped: Vec<SnapshotId> = dropped(&decisions).collect();
        if self.sizes {
            let mut choices = vec![Choice::now(), Choice::new("by all rules", dropped.iter().copied().collect())];
            choices.extend(each_alone(&candidates, &rules, offset)?);
            sizes::show(run, repository, &choices)?;
        }
        let names: Vec<String> = rules.each_alone().into_iter().map(|(name, _)| name).collect();
        let reason = self.reason.clone().unwrap_or_else(|| names.join(" "));
        self.finish(run, repository, &dropped, decisions.len() - dropped.len(), &reason)
    }

    /// The snapshots to look at, live and forgotten ones (which still speak for or against others' times).
    fn choose(&self, repository: &Repository) -> Result<Vec<Chosen>> {
        let path = self.path.as_ref().map(|path| {
            TreeKey::from_path(Path::new(path))
                .ok_or_else(|| Error::Usage(format!("--path {}: write an absolute path", path.to_string_lossy())))
        });
        let path = path.transpose()?;
        let state = repository.state();
        let live = state.snapshots.iter().map(|snapshot| Chosen { snapshot: snapshot.clone(), forgotten: false });
        let gone = state.forgotten.values().map(|it| Chosen { snapshot: it.snapshot.clone(), forgotten: true });
        let fits = |chosen: &Chosen| {
            let record = &chosen.snapshot.record;
            self.host.as_ref().is_none_or(|host| *host == record.host)
                && self.tag.iter().all(|tag| record.tags.contains(tag))
                && path.as_ref().is_none_or(|path| holds(&chosen.snapshot, path))
        };
        Ok(live.chain(gone).filter(fits).collect())
    }

    fn show(
        &self,
        run: &Run,
        chosen: &[Chosen],
        decisions: &[Decision],
        times: &BTreeMap<u64, Timestamp>,
    ) -> std::io::Result<()> {
        let snapshots: BTreeMap<SnapshotId, &Snapshot> =
            chosen.iter().map(|one| (one.snapshot.record.id, &one.snapshot)).collect();
        let has_steps = chosen.iter().any(|one| label(&one.snapshot, STEP).is_some());
        let step = |text: &str| has_steps.then(|| printable(text.as_bytes()));
        let mut rows = vec![row(["", "ID", "STORED AT", "HOST"], step("STEP"), ["PATHS", "WHY"])];
        for decision in decisions {
            let Some(snapshot) = snapshots.get(&SnapshotId(decision.id)) else { continue };
            let mut why: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
            why.extend(decision.doubt.map(|doubt| doubt.to_string()));
            let time = times.get(&snapshot.number).copied().unwrap_or_default();
            run.output.record(
                "decision",
                serde_json::json!({
                    "snapshot": snapshot.record.id.to_string(),
                    "keep": decision.keep,
                    "stored_at": moments::rfc3339(time),
                    "run": label(snapshot, RUN),
                    "step": label(snapshot, STEP),
                    "reasons": decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "doubt": decision.doubt.map(|doubt| doubt.to_string()),
                }),
            )?;
            let paths: Vec<String> = snapshot.record.paths.iter().map(|path| printable(path)).collect();
            rows.push(row(
                [
                    if decision.keep { "keep" } else { "forget" },
                    &short(&snapshot.record.id),
                    &moments::show(time, &run.zone),
                    &printable(snapshot.record.host.as_bytes()),
                ],
                step(label(snapshot, STEP).unwrap_or_default()),
                [&paths.join(" "), &printable(why.join(", ").as_bytes())],
            ));
        }
        table(&rows, &[]).iter().try_for_each(|line| run.output.line(line))
    }

    fn finish(
        &self,
        run: &Run,
        repository: &Repository,
        ids: &[SnapshotId],
        kept: usize,
        reason: &str,
    ) -> anyhow::Result<Outcome> {
        let done = !self.dry_run && !ids.is_empty();
        if self.dry_run && repository.role() != Role::Owner {
            run.output.warn("this key may not forget: that takes an owner's");
        }
        if done {
            forget(repository, ids, reason)?;
        }
        let what = if self.dry_run { "would be forgotten" } else { "forgotten" };
        let snapshots = counted(ids.len() as u64, "snapshot", "snapshots");
        run.output.report(format!("{snapshots} {what}, {kept} kept"))?;
        if done {
            run.output.report("  `seawall prune` frees the room; until then `seawall undelete` brings them back")?;
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        Outcome::done(serde_json::json!({ "forgotten": ids, "kept": kept, "dry_run": self.dry_run }))
    }
}

fn refused(error: KeepNothing) -> Error {
    Error::Usage(error.to_string())
}

fn dropped(decisions: &[Decision]) -> impl Iterator<Item = SnapshotId> {
    decisions.iter().filter(|decision| !decision.keep).map(|decision| SnapshotId(decision.id))
}

/// What each of several rules would drop by itself.
fn each_alone(candidates: &[Candidate], rules: &Rules, offset: i32) -> Result<Vec<Choice>> {
    let each = rules.each_alone();
    if each.len() < 2 {
        return Ok(Vec::new());
    }
    let choice = |(name, rule): &(String, Rules)| {
        let decisions = decide(candidates, rule, offset).map_err(refused)?;
        Ok(Choice::new(&format!("by {name} alone"), dropped(&decisions).collect()))
    };
    each.iter().map(choice).collect()
}

/// Tells of snapshots that stay only because the rules can't judge them.
fn warn(run: &Run, decisions: &[Decision]) {
    let reasons = decisions.iter().flat_map(|decision| &decision.reasons).filter(|reason| reason.is_unjudged());
    let mut count: BTreeMap<String, u64> = BTreeMap::new();
    for reason in reasons {
        *count.entry(reason.to_string()).or_default() += 1;
    }
    for (reason, count) in count {
        let snapshots = counted(count, "snapshot stays", "snapshots stay");
        run.output.warn(&format!("{snapshots} because the rules can't judge: {reason}"));
    }
}

/// The value of the first label of this name.
fn label<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s str> {
    snapshot.record.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
}

fn row(begin: [&str; 4], step: Option<String>, end: [&str; 2]) -> Vec<String> {
    begin.map(str::to_owned).into_iter().chain(step).chain(end.map(str::to_owned)).collect()
}

/// A snapshot to look at.
struct Chosen {
    snapshot: Snapshot,
    forgotten: bool,
}

impl Chosen {
    fn candidate(&self, repository: &Repository, times: &BTreeMap<u64, Timestamp>, rules: &Rules) -> Result<Candidate> {
        let Snapshot { record, number, member, claimed_ms } = &self.snapshot;
        let host = record.host.as_bytes();
        let group = match label(&self.snapshot, RUN) {
            Some(run) => Group::of_run(member.as_bytes(), host, run.as_bytes()),
            None => Group::new(member.as_bytes(), std::iter::once(host).chain(record.paths.iter().map(Vec::as_slice))),
        };
        let stored = times.get(number).copied().unwrap_or_default();
        // Why only for these: the rules for runs alone ask, and its tree may have to be read.
        let asks = !self.forgotten
            && !rules.run.keep_nothing()
            && [RUN, STEP].iter().any(|name| label(&self.snapshot, name).is_some());
        let is_damaged = asks && is_hit(repository, &self.snapshot)?;
        Ok(Candidate {
            id: record.id.0,
            number: *number,
            group,
            store_time_ms: stored.seconds.saturating_mul(1000).saturating_add(i64::from(stored.nanos / 1_000_000)),
            claimed_time_ms: *claimed_ms,
            tags: record.tags.clone(),
            labels: record.labels.clone(),
            thing: Group::new(b"", record.paths.iter().map(Vec::as_slice)).into_bytes(),
            files: record.files,
            bytes: record.bytes,
            is_damaged,
            held: repository.state().holds.contains_key(&record.id),
            forgotten: self.forgotten,
        })
    }
}
