//! `seawall stats`: how much is protected, and how little space that takes.

use seawall_engine::browse::{Stats, StoredBytes, stats};
use serde::Serialize;

use crate::output::table;
use crate::quantities::{bytes, count, counted, ratio};
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall stats -r /backup/repo
    seawall stats --json";

/// Show what a repository holds and what it takes
///
/// Sizes of snapshots are plain bytes; sizes stored are bytes in the repository's directory, after deduplication,
/// compression and encryption. Chunks are the pieces that files are cut into; every chunk is stored once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {}

/// Statistics in JSON. Sizes are bytes.
#[derive(Serialize)]
struct StatsSummary {
    repository: String,
    snapshots: u64,
    newest_bytes: u64,
    all_bytes: u64,
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    chunks: u64,
    chunk_bytes: u64,
    chunks_with_base: u64,
    codecs: Vec<CodecLine>,
    data_packs: u64,
    tree_packs: u64,
    forgotten: u64,
    condemned_packs: u64,
    condemned_bytes: u64,
    objects: Vec<ObjectsLine>,
}

#[derive(Serialize)]
struct CodecLine {
    codec: &'static str,
    id: u8,
    chunks: u64,
    plain_bytes: u64,
    stored_bytes: u64,
}

#[derive(Serialize)]
struct ObjectsLine {
    kind: &'static str,
    objects: u64,
    bytes: u64,
}

impl Arguments {
    /// Counts and shows.
    ///
    /// # Errors
    /// When the repository can't be opened or listed.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        let stats = stats(&repository)?;
        show(run, &stats)?;
        Outcome::done(StatsSummary {
            repository: repository.id().to_string(),
            snapshots: stats.snapshots,
            newest_bytes: stats.newest_bytes,
            all_bytes: stats.all_bytes,
            stored_bytes: stats.stored_bytes(),
            ratio: stats.ratio(),
            chunks: stats.chunks,
            chunk_bytes: stats.chunk_bytes,
            chunks_with_base: stats.with_base,
            codecs: codecs(&stats),
            data_packs: stats.data_packs,
            tree_packs: stats.tree_packs,
            forgotten: stats.forgotten,
            condemned_packs: stats.condemned.objects,
            condemned_bytes: stats.condemned.bytes,
            objects: objects(&stats)
                .map(|(kind, stored)| ObjectsLine { kind, objects: stored.objects, bytes: stored.bytes })
                .into(),
        })
    }
}

fn codecs(stats: &Stats) -> Vec<CodecLine> {
    let line = |codec: &seawall_engine::browse::CodecStats| CodecLine {
        codec: codec.name(),
        id: codec.codec,
        chunks: codec.chunks,
        plain_bytes: codec.plain_bytes,
        stored_bytes: codec.stored_bytes,
    };
    stats.codecs.iter().map(line).collect()
}

fn objects(stats: &Stats) -> [(&'static str, StoredBytes); 5] {
    [
        ("packs", stats.packs),
        ("index", stats.index),
        ("log", stats.log),
        ("session keys", stats.sessions),
        ("key slots", stats.keys),
    ]
}

fn show(run: &Run, stats: &Stats) -> std::io::Result<()> {
    let stored = stats.stored_bytes();
    let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
    let mut totals = vec![
        row(["Snapshots", &count(stats.snapshots)]),
        row(["Newest", &bytes(stats.newest_bytes)]),
        row(["All together", &bytes(stats.all_bytes)]),
        row(["Stored", &format!("{} ({})", bytes(stored), ratio(stats.all_bytes, stored))]),
        row(["Chunks", &format!("{}, {} plain", count(stats.chunks), bytes(stats.chunk_bytes))]),
        row(["Packs", &format!("{} of data, {} of tree nodes", count(stats.data_packs), count(stats.tree_packs))]),
    ];
    totals.extend(objects(stats).map(|(kind, stored)| {
        vec![format!("  {kind}"), format!("{}, {}", count(stored.objects), bytes(stored.bytes))]
    }));
    if stats.forgotten > 0 || stats.condemned.objects > 0 {
        let packs = counted(stats.condemned.objects, "pack", "packs");
        let waiting = format!("{} in {packs} until a prune after the window", bytes(stats.condemned.bytes));
        totals.push(row(["Out of use", &waiting]));
        totals.push(row(["Forgotten", &format!("{} that can still come back", count(stats.forgotten))]));
    }
    for line in table(&totals, &[]) {
        run.output.line(line)?;
    }
    if stats.codecs.is_empty() {
        return Ok(());
    }
    let mut rows = vec![["CODEC", "CHUNKS", "PLAIN", "STORED", "RATIO"].map(str::to_owned).to_vec()];
    rows.extend(codecs(stats).iter().map(|codec| {
        vec![
            codec.codec.to_owned(),
            count(codec.chunks),
            bytes(codec.plain_bytes),
            bytes(codec.stored_bytes),
            ratio(codec.plain_bytes, codec.stored_bytes),
        ]
    }));
    run.output.line("")?;
    for line in table(&rows, &[1, 2, 3, 4]) {
        run.output.line(line)?;
    }
    Ok(())
}
