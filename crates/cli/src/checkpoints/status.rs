//! How each run stands: its newest durable checkpoint, and what a disaster now would cost.
//!
//! Durable is what a live snapshot of a complete checkpoint says; what a forced one holds does not count, nor what damage was
//! found in since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use seawall_engine::clock::Timestamp;
use seawall_engine::stages::checkpoint::{Look, State};
use seawall_plan::risk::{Durable, Facts, Risk, risk};
use serde::Serialize;

use super::Keeper;
use super::labels::{Kept, run_of};
use crate::output::printable;
use crate::quantities::{count, counted, duration};

/// One run at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunStatus {
    /// The directory of the run.
    pub run: String,
    /// The newest step on disk, finished or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_step: Option<u64>,
    /// The step of the newest durable checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable_step: Option<u64>,
    /// When that was finished, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<f64>,
    /// Its age in seconds: the recovery point that was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Steps on disk that are not durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_at_risk: Option<u64>,
    /// Steps done since, by the run's rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps_at_risk_by_rate: Option<u64>,
    /// The age in hours, times the GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_hours_at_risk: Option<f64>,
    /// Checkpoints on disk that lack something and are not being written.
    pub incomplete: u64,
    /// Checkpoints in the repository.
    pub durable: u64,
    /// Checkpoints in the repository that do not count, because damage was found in them since.
    pub damaged: u64,
}

/// Unix seconds of a time.
#[must_use]
pub fn seconds(time: Timestamp) -> f64 {
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

/// All runs that lie on disk, or below a root and in the repository.
#[must_use]
pub fn runs(keeper: &Keeper, look: &Look, gpus: Option<f64>) -> Vec<RunStatus> {
    let mut durable: BTreeMap<&str, Vec<Durable>> = BTreeMap::new();
    let mut world_sizes: BTreeMap<&str, (f64, u64)> = BTreeMap::new();
    let roots = keeper.scanner().roots();
    let below_root = |run: &str| roots.iter().any(|root| Path::new(run).starts_with(root));
    let on_disk: BTreeSet<String> = look.checkpoints.iter().map(run_of).collect();
    let is_shown = |kept: &&Kept| kept.is_complete && (on_disk.contains(&kept.run) || below_root(&kept.run));
    let (hit, sound): (Vec<&Kept>, Vec<&Kept>) = keeper.kept().filter(is_shown).partition(|kept| kept.is_damaged);
    let mut damaged: BTreeMap<&str, u64> = BTreeMap::new();
    for kept in hit.iter().filter(|hit| !sound.iter().any(|sound| sound.is_as(hit))) {
        *damaged.entry(&kept.run).or_default() += 1;
    }
    for kept in sound {
        durable.entry(&kept.run).or_default().push(Durable { step: kept.step, finished: kept.finished });
        if let Some(size) = kept.world_size {
            let known = world_sizes.entry(&kept.run).or_insert((kept.finished, size));
            *known = if kept.finished >= known.0 { (kept.finished, size) } else { *known };
        }
    }
    let kept = durable.keys().chain(damaged.keys()).copied();
    let names: BTreeSet<&str> = on_disk.iter().map(String::as_str).chain(kept).collect();
    let status = |run: &str| {
        let own = durable.get(run).map(Vec::as_slice).unwrap_or_default();
        let of_run = || look.checkpoints.iter().filter(|checkpoint| run_of(checkpoint) == run);
        let newest_step = of_run().filter_map(|checkpoint| checkpoint.step).max();
        let incomplete = of_run().filter(|checkpoint| matches!(checkpoint.state, State::Incomplete(_))).count();
        let gpus = gpus.or_else(|| world_sizes.get(run).map(|(_, size)| *size as f64));
        let facts = Facts { now: seconds(Timestamp::now()), durable: own, newest_seen: newest_step, gpus };
        let damaged = damaged.get(run).copied().unwrap_or_default();
        RunStatus { newest_step, incomplete: incomplete as u64, damaged, ..RunStatus::new(run, &risk(&facts), own) }
    };
    names.into_iter().map(status).collect()
}

impl RunStatus {
    fn new(run: &str, risk: &Risk, durable: &[Durable]) -> Self {
        Self {
            run: run.to_owned(),
            durable_step: risk.durable_step,
            finished: durable.iter().map(|it| it.finished).max_by(f64::total_cmp),
            age_seconds: risk.age_seconds,
            steps_at_risk: risk.steps,
            steps_at_risk_by_rate: risk.steps_by_rate,
            gpu_hours_at_risk: risk.gpu_hours,
            durable: durable.len() as u64,
            ..Self::default()
        }
    }

    /// A line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let run = printable(self.run.as_bytes());
        let damaged = (self.damaged > 0).then(|| {
            let checkpoints = counted(self.damaged, "kept checkpoint does", "kept checkpoints do");
            format!("{checkpoints} not count: damage was found since")
        });
        let Some(age) = self.age_seconds else {
            let what = if self.damaged > 0 { "nothing is durable" } else { "nothing is durable yet" };
            let parts: Vec<String> = std::iter::once(what.to_owned()).chain(damaged).collect();
            return format!("RPO {run}: {}", parts.join("; "));
        };
        let mut parts =
            vec![format!("newest durable checkpoint is {} old", duration(std::time::Duration::from_secs_f64(age)))];
        parts.extend(damaged);
        parts.extend(self.durable_step.map(|step| format!("step {step}")));
        match (self.steps_at_risk, self.steps_at_risk_by_rate) {
            (Some(steps), Some(by_rate)) => {
                parts.push(format!("{} steps at risk on disk, about {} by rate", count(steps), count(by_rate)));
            }
            (Some(steps), None) => parts.push(format!("{} steps at risk on disk", count(steps))),
            _ => {}
        }
        parts.extend(self.gpu_hours_at_risk.map(|hours| format!("{hours:.2} GPU-hours at risk")));
        format!("RPO {run}: {}", parts.join("; "))
    }
}
