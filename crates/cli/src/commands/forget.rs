//! `seawall forget`: by name, or by rules that say what to keep.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use seawall_engine::clock::Timestamp;
use seawall_engine::entry::TreeKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::forget::{forget, store_times};
use seawall_engine::ids::SnapshotId;
use seawall_engine::repo::{Repository, Snapshot};
use seawall_plan::retention::{Candidate, Count, Decision, Group, Periodic, Rules, Within, decide};

use crate::moments;
use crate::output::{printable, table};
use crate::quantities::counted;
use crate::run::{Outcome, Run};
use crate::snapshot_name::{holds, resolve_all, short};

const EXAMPLES: &str = "\
Examples:
    seawall forget 5f3a91c0
    seawall forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
    seawall forget --keep-within 30d --keep-tag release --host web1
    seawall forget --keep-last 20 && seawall prune";

/// Forget snapshots, by name or by what is to be kept
///
/// Named snapshots are forgotten. With --keep options all others are: of each group (the key that signed it, host and
/// paths) the newest of each of the last N hours, days, weeks, months and years is kept, and what other rules keep.
/// --dry-run shows each snapshot with the rule that keeps it. Held snapshots always stay, and so does the newest of a
/// group.
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
    #[arg(value_name = "SNAPSHOT", conflicts_with = "Keep")]
    pub snapshots: Vec<OsString>,

    /// What to keep.
    #[command(flatten)]
    pub keep: Keep,

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

    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// What to keep. N is a number or `all`; a span is written like 1y5m7d2h.
#[derive(Debug, Default, clap::Args)]
#[group(multiple = true)]
#[command(next_help_heading = "What to keep")]
pub struct Keep {
    /// The last N
    #[arg(long, value_name = "N")]
    keep_last: Option<Count>,

    /// The newest of each of N hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<Count>,

    /// The newest of each of N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<Count>,

    /// The newest of each of N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<Count>,

    /// The newest of each of N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<Count>,

    /// The newest of each of N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<Count>,

    /// All within this span before the newest of the group
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<Within>,

    /// The newest of each hour within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_hourly: Option<Within>,

    /// The newest of each day within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_daily: Option<Within>,

    /// The newest of each week within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_weekly: Option<Within>,

    /// The newest of each month within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_monthly: Option<Within>,

    /// The newest of each year within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_yearly: Option<Within>,

    /// All with this tag
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
}

impl Keep {
    fn rules(&self) -> Rules {
        let periodic = |count: Option<Count>, within| Periodic { count: count.unwrap_or_default(), within };
        Rules {
            last: self.keep_last.unwrap_or_default(),
            hourly: periodic(self.keep_hourly, self.keep_within_hourly),
            daily: periodic(self.keep_daily, self.keep_within_daily),
            weekly: periodic(self.keep_weekly, self.keep_within_weekly),
            monthly: periodic(self.keep_monthly, self.keep_within_monthly),
            yearly: periodic(self.keep_yearly, self.keep_within_yearly),
            within: self.keep_within,
            tags: self.keep_tag.clone(),
            allow_empty: false,
        }
    }
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
        for snapshot in all.iter().filter(|snapshot| ids.contains(&snapshot.record.id)) {
            let line =
                format!("{}  {}  asked for", short(&snapshot.record.id), printable(snapshot.record.host.as_bytes()));
            run.output.line(line)?;
        }
        let reason = self.reason.clone().unwrap_or_else(|| "asked for by name".to_owned());
        self.finish(run, &repository, &ids, all.len() - ids.len(), &reason)
    }

    fn by_rules(&self, run: &Run, repository: &Repository) -> anyhow::Result<Outcome> {
        let rules = self.keep.rules();
        if rules.keep_nothing() {
            let why = "name the snapshots to forget, or say with --keep-daily N and the like what to keep";
            return Err(Error::Usage(why.to_owned()).into());
        }
        let chosen = self.choose(repository)?;
        let times = store_times(repository, &chosen.iter().map(|one| one.snapshot.number).collect::<Vec<_>>())?;
        let candidates: Vec<Candidate> = chosen.iter().map(|one| one.candidate(repository, &times)).collect();
        let offset = run.zone.to_offset(jiff::Timestamp::now()).seconds() / 60;
        let decisions = decide(&candidates, &rules, offset).map_err(|error| Error::Usage(error.to_string()))?;
        self.show(run, &chosen, &decisions, &times)?;
        let dropped: Vec<SnapshotId> =
            decisions.iter().filter(|decision| !decision.keep).map(|decision| SnapshotId(decision.id)).collect();
        let reason = self.reason.clone().unwrap_or_else(|| self.keep.text());
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
        let mut rows = vec![["", "ID", "STORED AT", "HOST", "PATHS", "WHY"].map(str::to_owned).to_vec()];
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
                    "reasons": decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "doubt": decision.doubt.map(|doubt| doubt.to_string()),
                }),
            )?;
            let paths: Vec<String> = snapshot.record.paths.iter().map(|path| printable(path)).collect();
            rows.push(vec![
                if decision.keep { "keep" } else { "forget" }.to_owned(),
                short(&snapshot.record.id),
                moments::show(time, &run.zone),
                printable(snapshot.record.host.as_bytes()),
                paths.join(" "),
                printable(why.join(", ").as_bytes()),
            ]);
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

impl Keep {
    /// The rules as they were written, for the log.
    fn text(&self) -> String {
        let counts = [
            ("last", self.keep_last),
            ("hourly", self.keep_hourly),
            ("daily", self.keep_daily),
            ("weekly", self.keep_weekly),
            ("monthly", self.keep_monthly),
            ("yearly", self.keep_yearly),
        ];
        let spans = [
            ("within", self.keep_within),
            ("within-hourly", self.keep_within_hourly),
            ("within-daily", self.keep_within_daily),
            ("within-weekly", self.keep_within_weekly),
            ("within-monthly", self.keep_within_monthly),
            ("within-yearly", self.keep_within_yearly),
        ];
        let counts = counts.into_iter().filter_map(|(name, count)| Some(format!("keep-{name} {}", count?)));
        let spans = spans.into_iter().filter_map(|(name, span)| Some(format!("keep-{name} {}", span?)));
        let tags = self.keep_tag.iter().map(|tag| format!("keep-tag {tag}"));
        counts.chain(spans).chain(tags).collect::<Vec<_>>().join(" ")
    }
}

/// A snapshot to look at.
struct Chosen {
    snapshot: Snapshot,
    forgotten: bool,
}

impl Chosen {
    fn candidate(&self, repository: &Repository, times: &BTreeMap<u64, Timestamp>) -> Candidate {
        let Snapshot { record, number, member, claimed_ms } = &self.snapshot;
        let labels = std::iter::once(record.host.as_bytes()).chain(record.paths.iter().map(Vec::as_slice));
        let stored = times.get(number).copied().unwrap_or_default();
        Candidate {
            id: record.id.0,
            number: *number,
            group: Group::new(member.as_bytes(), labels),
            store_time_ms: stored.seconds.saturating_mul(1000).saturating_add(i64::from(stored.nanos / 1_000_000)),
            claimed_time_ms: *claimed_ms,
            tags: record.tags.clone(),
            held: repository.state().holds.contains_key(&record.id),
            forgotten: self.forgotten,
        }
    }
}
