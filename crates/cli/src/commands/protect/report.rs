//! The protection report: what is protected, how far that is proven, and how long a recovery takes.

use std::path::Path;
use std::time::Duration;

use seawall_engine::backup::BackupReport;
use seawall_engine::format::log::SnapshotRecord;
use serde::Serialize;

use super::Proofs;
use super::opening::Opened;
use crate::commands::backup::BackupSummary;
use crate::commands::restore;
use crate::commands::verify::VerifySummary;
use crate::failure::Exit;
use crate::moments;
use crate::output::{JsonPath, printable, table};
use crate::progress::Problems;
use crate::quantities::{bytes, count, counted, duration, rate, ratio};
use crate::run::{Outcome, Run};
use crate::snapshot_name::short;

/// Differences that a person is shown.
const DIFFERENCES_SHOWN_MAX: usize = 20;

/// The report; also the shape of the JSON summary. Sizes are bytes, times seconds.
#[derive(Serialize)]
pub struct Protection {
    /// True if everything that was tried is proven and there was no problem at all.
    protected: bool,
    snapshot: String,
    recovery_point: String,
    host: String,
    paths: Vec<JsonPath>,
    backup: BackupSummary,
    read_back: ReadBack,
    recovery: Recovery,
    compared: Compared,
    repository: RepositoryPlace,
    problems: Problems,
    #[serde(skip)]
    rows: Vec<[String; 2]>,
    #[serde(skip)]
    exit: Exit,
}

#[derive(Serialize)]
struct ReadBack {
    everything: bool,
    packs_written: u64,
    packs_sampled: u64,
    #[serde(flatten)]
    verified: VerifySummary,
}

#[derive(Serialize)]
struct Recovery {
    everything: bool,
    paths_changed: u64,
    files_sampled: u64,
    files: u64,
    bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
    /// For the whole snapshot at the measured rate, where only a part was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_for_everything: Option<f64>,
}

#[derive(Serialize)]
struct Compared {
    entries: u64,
    files: u64,
    bytes: u64,
    differences: u64,
}

#[derive(Serialize)]
struct RepositoryPlace {
    id: String,
    #[serde(flatten)]
    location: JsonPath,
    created: bool,
    snapshots: u64,
    bytes_stored: u64,
    bytes_in_all_snapshots: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_kit: Option<String>,
}

#[derive(Serialize)]
struct DifferenceLine<'a> {
    path: &'a str,
    what: &'a str,
}

impl Protection {
    /// Puts the report together.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub fn new(
        run: &Run,
        opened: &Opened,
        location: &Path,
        snapshot: &SnapshotRecord,
        stored: &BackupReport,
        proofs: &Proofs,
        problems: Problems,
    ) -> anyhow::Result<Self> {
        let repository = place(opened, location)?;
        let recovery = recovery(snapshot, proofs);
        let exit = exit(proofs, &problems);
        let mut rows = backup_rows(run, snapshot, stored, &repository);
        rows.extend(proof_rows(proofs, &recovery));
        rows.extend(place_rows(&problems, &repository));
        Ok(Self {
            protected: exit == Exit::Done,
            snapshot: snapshot.id.to_string(),
            recovery_point: moments::rfc3339(snapshot.time),
            host: snapshot.host.clone(),
            paths: snapshot.paths.iter().map(|path| JsonPath::from(path.as_slice())).collect(),
            backup: BackupSummary::new(stored, problems.clone()),
            read_back: ReadBack {
                everything: !matches!(proofs.data.read, seawall_engine::verify::Read::Packs(_)),
                packs_written: proofs.data.written,
                packs_sampled: proofs.data.sampled,
                verified: VerifySummary::from(&proofs.verified),
            },
            recovery,
            compared: Compared {
                entries: proofs.compared.entries,
                files: proofs.compared.files,
                bytes: proofs.compared.bytes,
                differences: proofs.compared.differences_count,
            },
            repository,
            problems,
            rows,
            exit,
        })
    }

    /// Shows the report and ends the run.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn conclude(self, run: &Run, proofs: &Proofs) -> anyhow::Result<Outcome> {
        for difference in proofs.compared.differences.iter().take(DIFFERENCES_SHOWN_MAX) {
            run.output.record("difference", DifferenceLine { path: &difference.path, what: &difference.what })?;
            run.output.line(format!(
                "DIFFERS {}: {}",
                printable(difference.path.as_bytes()),
                printable(difference.what.as_bytes())
            ))?;
        }
        run.output.report(match self.exit {
            Exit::Done => "PROTECTED: stored, read back, restored and compared",
            Exit::Damage => "DAMAGED: stored data does not read back; see what is listed above",
            _ => "STORED, BUT NOT WITHOUT PROBLEMS: see what is listed above",
        })?;
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.to_vec()).collect();
        for line in table(&rows, &[]) {
            run.output.report(format!("  {line}"))?;
        }
        if self.repository.created {
            run.output.report(
                "\nStore the recovery kit away from this machine now. Whoever has it and the repository can read the \
                 data;\nwithout it, and without the key file, nobody can.",
            )?;
        }
        let exit = self.exit;
        Outcome::with(exit, self)
    }
}

fn exit(proofs: &Proofs, problems: &Problems) -> Exit {
    if !proofs.verified.damage.is_empty() {
        return Exit::Damage;
    }
    restore::exit(problems.count + proofs.compared.differences_count, problems)
}

fn place(opened: &Opened, location: &Path) -> anyhow::Result<RepositoryPlace> {
    let mut bytes_stored = 0;
    opened.repository.store().list("", &mut |object| bytes_stored += object.length)?;
    let snapshots = opened.repository.snapshots();
    let shown = |path: &std::path::PathBuf| path.display().to_string();
    Ok(RepositoryPlace {
        id: opened.repository.id().to_string(),
        location: JsonPath::from(location),
        created: opened.created,
        snapshots: snapshots.len() as u64,
        bytes_stored,
        bytes_in_all_snapshots: snapshots.iter().map(|snapshot| snapshot.record.bytes).sum(),
        key_file: opened.key.as_ref().map(shown),
        recovery_kit: opened.kit.as_ref().map(shown),
    })
}

fn recovery(snapshot: &SnapshotRecord, proofs: &Proofs) -> Recovery {
    let seconds = proofs.restored.duration.as_secs_f64();
    let bytes_per_second = if seconds > 0.0 { proofs.restored.bytes as f64 / seconds } else { 0.0 };
    let partial = proofs.rehearsal.is_partial();
    let known = partial && bytes_per_second > 0.0;
    Recovery {
        everything: !partial,
        paths_changed: proofs.rehearsal.changed,
        files_sampled: proofs.rehearsal.sampled,
        files: proofs.restored.files,
        bytes: proofs.restored.bytes,
        seconds,
        bytes_per_second,
        seconds_for_everything: known.then(|| snapshot.bytes as f64 / bytes_per_second),
    }
}

fn row(name: &str, text: String) -> [String; 2] {
    [name.to_owned(), text]
}

fn backup_rows(
    run: &Run,
    snapshot: &SnapshotRecord,
    stored: &BackupReport,
    repository: &RepositoryPlace,
) -> Vec<[String; 2]> {
    let paths: Vec<String> = snapshot.paths.iter().map(|path| printable(path)).collect();
    let files = stored.files_new + stored.files_changed + stored.files_unchanged;
    vec![
        row(
            "Recovery point",
            format!("{}  snapshot {}", moments::show_with_zone(snapshot.time, &run.zone), short(&snapshot.id)),
        ),
        row("Sources", format!("{} on {}", paths.join(" "), printable(snapshot.host.as_bytes()))),
        row(
            "Files",
            format!(
                "{} ({} new, {} changed), {}, {}",
                count(files),
                count(stored.files_new),
                count(stored.files_changed),
                counted(stored.directories, "directory", "directories"),
                counted(stored.others, "other", "others")
            ),
        ),
        row(
            "Size in",
            format!(
                "{}; {} read in {} ({})",
                bytes(stored.bytes),
                bytes(stored.bytes_read),
                duration(stored.duration),
                rate(stored.bytes_read, stored.duration.as_secs_f64())
            ),
        ),
        row(
            "Size stored",
            format!(
                "{} by this run ({} new); {} in all for {} of {} ({})",
                bytes(stored.bytes_stored),
                bytes(stored.bytes_new),
                bytes(repository.bytes_stored),
                counted(repository.snapshots, "snapshot", "snapshots"),
                bytes(repository.bytes_in_all_snapshots),
                ratio(repository.bytes_in_all_snapshots, repository.bytes_stored)
            ),
        ),
    ]
}

fn proof_rows(proofs: &Proofs, recovery: &Recovery) -> Vec<[String; 2]> {
    let verified = &proofs.verified;
    let which = match &proofs.data.read {
        seawall_engine::verify::Read::Packs(_) => format!(
            "{} of this run and {} of the others at random",
            counted(proofs.data.written, "pack", "packs"),
            count(proofs.data.sampled)
        ),
        _ => format!("every stored byte, {}", counted(verified.packs_read, "pack", "packs")),
    };
    let damage = match verified.damage.len() as u64 {
        0 => "no damage".to_owned(),
        found => counted(found, "damaged object", "damaged objects"),
    };
    let seconds = verified.duration.as_secs_f64();
    let compared = &proofs.compared;
    let differences = match compared.differences_count {
        0 => "content and metadata equal".to_owned(),
        found => counted(found, "difference", "differences"),
    };
    vec![
        row(
            "Read back",
            format!(
                "{which}: {} in {} ({}), {damage}",
                bytes(verified.bytes_read),
                duration(verified.duration),
                rate(verified.bytes_read, seconds)
            ),
        ),
        row("Recovery time", recovery_text(recovery)),
        row(
            "Compared",
            format!(
                "{}, {} in {}: {differences}",
                counted(compared.entries, "entry", "entries"),
                counted(compared.files, "file", "files"),
                bytes(compared.bytes)
            ),
        ),
    ]
}

fn recovery_text(recovery: &Recovery) -> String {
    let measured = format!(
        "{} for {} of {} ({}), measured",
        duration(Duration::from_secs_f64(recovery.seconds)),
        bytes(recovery.bytes),
        counted(recovery.files, "file", "files"),
        rate(recovery.bytes, recovery.seconds)
    );
    if recovery.everything {
        return format!("{measured} by restoring everything");
    }
    let estimate = recovery.seconds_for_everything.map(|seconds| {
        format!("; everything at that rate: about {} (--full measures it)", duration(Duration::from_secs_f64(seconds)))
    });
    format!(
        "{measured} by restoring {} and {} at random{}",
        counted(recovery.paths_changed, "changed path", "changed paths"),
        counted(recovery.files_sampled, "other file", "other files"),
        estimate.unwrap_or_default()
    )
}

fn place_rows(problems: &Problems, repository: &RepositoryPlace) -> Vec<[String; 2]> {
    let listed = problems.by_code.iter().map(|(code, number)| format!("{} {code}", count(*number)));
    let text = match problems.count {
        0 => "none".to_owned(),
        _ => format!("{} ({})", count(problems.count), listed.collect::<Vec<_>>().join(", ")),
    };
    let mut rows = vec![row("Problems", text), row("Repository", printable(repository.location.text().as_bytes()))];
    if let Some(key) = &repository.key_file {
        rows.push(row("Key file", printable(key.as_bytes())));
    }
    if let Some(kit) = &repository.recovery_kit {
        rows.push(row("Recovery kit", format!("{}  (store it away from this machine)", printable(kit.as_bytes()))));
    }
    rows
}
