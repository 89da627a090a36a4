//! `seawall log`: the audit trail.

use std::path::Path;

use clap::Subcommand;
use seawall_engine::audit::{Line, Report, Trail, details};
use seawall_engine::clock::Timestamp;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::log::{Act, KeyChange, SegmentRecord};
use seawall_engine::format::names::PackName;
use seawall_engine::ids::SnapshotId;
use serde::Serialize;

use crate::failure::Exit;
use crate::moments;
use crate::output::printable;
use crate::quantities::counted;
use crate::run::{Outcome, Run, open_store};

const EXAMPLES: &str = "\
Examples:
    seawall log show
    seawall log show --json | jq 'select(.act == \"FORGET\")'
    seawall log verify";

/// Show or verify the signed log of everything that was done
///
/// Each commit, each snapshot that was forgotten, each key that was added or removed is one entry: numbered, chained by
/// hash to the entry before, and signed by the member who wrote it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every entry: who, when, what; void entries with the reason
    Show {
        /// Only the newest N
        #[arg(long, value_name = "N")]
        latest: Option<usize>,
    },
    /// Read every entry from the store and check chain, signatures, roles, numbers and times
    Verify {},
}

/// An entry in JSON. Times are RFC 3339 in UTC.
#[derive(Serialize)]
struct EntryLine<'a> {
    number: u64,
    stored: String,
    claimed: Option<String>,
    member: Option<String>,
    label: Option<&'a str>,
    role: Option<&'a str>,
    /// None where this program does not understand the entry; then it is void.
    act: Option<&'a str>,
    details: String,
    snapshots: Vec<String>,
    segments: Vec<String>,
    packs: Vec<String>,
    reason: Option<&'a str>,
    #[serde(rename = "void")]
    void: Option<&'a str>,
}

impl Arguments {
    /// Shows or verifies.
    ///
    /// # Errors
    /// When no key opens the repository, or the store or the output fails.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let mut shown = Vec::new();
        let mut failure = None;
        let report = self.follow(run, &mut |line| {
            match &self.command {
                Command::Show { latest: Some(latest) } => {
                    shown.push(line);
                    if shown.len() > *latest {
                        shown.remove(0);
                    }
                }
                Command::Show { latest: None } => failure = show(run, &line).err(),
                Command::Verify {} => {}
            }
            failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        for line in &shown {
            show(run, line)?;
        }
        conclude(run, &report)
    }

    fn follow(&self, run: &Run, each: &mut dyn FnMut(Line) -> bool) -> Result<Report> {
        let store = open_store(&run.location()?)?;
        let cache = run.settings.cache.as_deref();
        let mut wrong = Error::WrongKey;
        for unlock in run.unlocks(store.as_ref())? {
            match Trail::open(store.as_ref(), &unlock, cache.map(Path::new), run.settings.expected) {
                Ok(trail) => return trail.follow(&run.display(), each),
                Err(Error::WrongKey) => {}
                Err(error @ Error::Shares(_)) => wrong = error,
                Err(error) => return Err(error),
            }
        }
        Err(wrong)
    }
}

fn claimed(ms: i64) -> Timestamp {
    let nanos = u32::try_from(ms.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    Timestamp { seconds: ms.div_euclid(1000), nanos }
}

fn show(run: &Run, line: &Line) -> std::io::Result<()> {
    let (label, role) =
        line.signer.as_ref().map_or((None, None), |(label, role)| (Some(label.as_str()), Some(role.name())));
    let details = line.act.as_ref().map(details).unwrap_or_default();
    let named = line.act.as_ref().map(Named::of).unwrap_or_default();
    let member = line.frame.as_ref().map(|frame| frame.member.to_string());
    run.output.record(
        "entry",
        EntryLine {
            number: line.number,
            stored: moments::rfc3339(line.stored),
            claimed: line.frame.as_ref().map(|frame| moments::rfc3339(claimed(frame.time_ms))),
            member: member.clone(),
            label,
            role,
            act: line.act.as_ref().map(Act::name),
            details: details.clone(),
            snapshots: named.snapshots.iter().map(SnapshotId::to_string).collect(),
            segments: named.segments.iter().map(|segment| segment.name.object()).collect(),
            packs: named.packs.iter().map(PackName::object).collect(),
            reason: named.reason,
            void: line.void.as_deref(),
        },
    )?;
    let who = label.map(|label| printable(label.as_bytes())).or(member).unwrap_or_else(|| "nobody".to_owned());
    let void = line.void.as_ref().map_or_else(String::new, |why| format!("  VOID: {}", printable(why.as_bytes())));
    run.output.line(format!(
        "{:>6}  {}  {who} ({})  {}  {}{void}",
        line.number,
        moments::show(line.stored, &run.zone),
        role.unwrap_or("no member"),
        line.act.as_ref().map_or("?", Act::name),
        printable(details.as_bytes()),
    ))
}

/// What an act names.
#[derive(Default)]
struct Named<'a> {
    snapshots: Vec<SnapshotId>,
    segments: &'a [SegmentRecord],
    packs: &'a [PackName],
    reason: Option<&'a str>,
}

impl<'a> Named<'a> {
    fn of(act: &'a Act) -> Self {
        match act {
            Act::Commit { segments, snapshot, .. } => {
                Self { snapshots: vec![snapshot.id], segments, ..Self::default() }
            }
            Act::Forget { snapshots, reason } => {
                Self { snapshots: snapshots.clone(), reason: Some(reason), ..Self::default() }
            }
            Act::Hold { snapshots, label, .. } => {
                Self { snapshots: snapshots.clone(), reason: Some(label), ..Self::default() }
            }
            Act::Audit { lost, .. } => Self { packs: lost, ..Self::default() },
            Act::Condemn { packs, segments, .. } => Self { packs, segments, ..Self::default() },
            Act::Remap { segments, gone, .. } => Self { packs: gone, segments, ..Self::default() },
            Act::Undelete { snapshots, packs } => Self { snapshots: snapshots.clone(), packs, ..Self::default() },
            Act::Delete { packs } => Self { packs, ..Self::default() },
            Act::Key(KeyChange::Admit(member)) => Self { reason: Some(&member.label), ..Self::default() },
            Act::Init { .. } | Act::Fence { .. } | Act::Key(_) => Self::default(),
        }
    }
}

fn conclude(run: &Run, report: &Report) -> anyhow::Result<Outcome> {
    let damage = report.findings.iter().filter(|finding| finding.is_damage()).count();
    let problems = report.findings.iter().any(|finding| finding.kind == "malformed");
    for finding in &report.findings {
        let (kind, object, why) = (finding.kind, &finding.object, &finding.why);
        run.output.record("finding", serde_json::json!({ "kind": kind, "object": object, "what": why }))?;
        run.output.line(format!("{}: {object}: {}", kind.to_uppercase(), printable(why.as_bytes())))?;
    }
    run.output.report(format!(
        "{} read, {} of them void, {}",
        counted(report.entries, "entry", "entries"),
        report.void,
        if damage == 0 { "the chain is whole".to_owned() } else { counted(damage as u64, "finding", "findings") }
    ))?;
    let exit = match (damage, problems) {
        (0, false) => Exit::Done,
        (0, true) => Exit::Problems,
        _ => Exit::Damage,
    };
    Outcome::with(
        exit,
        serde_json::json!({ "entries": report.entries, "void": report.void, "findings": report.findings.len(), "damage": damage }),
    )
}
