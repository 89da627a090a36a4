//! Stats: how much is protected, how much that takes, and how it is encoded.

use std::collections::HashMap;
use std::sync::Arc;

use crate::codec;
use crate::error::Result;
use crate::format::names::{LOG, PACKS, PackName, SEGMENTS, SESSIONS, SLOTS};
use crate::format::pack::BlobKind;
use crate::repo::Repository;

/// Objects of one kind in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredBytes {
    /// Number of objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Chunks that are encoded in one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CodecStats {
    /// The codec's id (docs/format.md §6.1).
    pub codec: u8,
    /// Number of chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Bytes of their blobs, headers and tags included.
    pub stored_bytes: u64,
}

/// What a repository holds. Stored bytes are what a listing of the store says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Snapshots.
    pub snapshots: u64,
    /// Entries of the log.
    pub log_entries: u64,
    /// Plain bytes of the newest snapshot's files.
    pub newest_bytes: u64,
    /// Plain bytes of all snapshots' files, each counted in every snapshot.
    pub all_bytes: u64,
    /// Chunks that the index lists; one that two segments list counts twice.
    pub chunks: u64,
    /// Plain bytes of those chunks.
    pub chunk_bytes: u64,
    /// Chunks that are encoded against a base.
    pub with_base: u64,
    /// By codec, ascending by id; only codecs that occur.
    pub codecs: Vec<CodecStats>,
    /// Packs of data that the index names.
    pub data_packs: u64,
    /// Packs of tree nodes that the index names.
    pub tree_packs: u64,
    /// Packs that a prune took out of use and that wait to be deleted; bytes of their blobs.
    pub condemned: StoredBytes,
    /// Snapshots that were forgotten and can still come back.
    pub forgotten: u64,
    /// Packs in the store.
    pub packs: StoredBytes,
    /// Index segments in the store.
    pub index: StoredBytes,
    /// Log entries in the store.
    pub log: StoredBytes,
    /// Session keys in the store.
    pub sessions: StoredBytes,
    /// Key slots in the store.
    pub keys: StoredBytes,
}

impl Stats {
    /// All bytes in the store, but for the marker's.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        [self.packs, self.index, self.log, self.sessions, self.keys].iter().map(|kind| kind.bytes).sum()
    }

    /// Plain bytes of all snapshots for one stored byte; none while nothing is stored.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let stored = self.stored_bytes();
        // Precision: a ratio for people needs no more than a float's 53 bits.
        (stored > 0).then(|| self.all_bytes as f64 / stored as f64)
    }
}

/// Counts what the repository holds.
///
/// # Errors
/// When the store can't be listed or a segment can't be read.
pub fn stats(repository: &Repository) -> Result<Stats> {
    let snapshots = repository.snapshots();
    let mut stats = Stats {
        snapshots: snapshots.len() as u64,
        log_entries: repository.log_entries(),
        forgotten: repository.forgotten().len() as u64,
        newest_bytes: snapshots.last().map_or(0, |snapshot| snapshot.record.bytes),
        // Why saturating: a member may claim any number.
        all_bytes: snapshots.iter().map(|snapshot| snapshot.record.bytes).fold(0, u64::saturating_add),
        ..Stats::default()
    };
    count_chunks(repository, &mut stats)?;
    let store = repository.store();
    for (prefix, place) in [
        (PACKS, &mut stats.packs),
        (SEGMENTS, &mut stats.index),
        (LOG, &mut stats.log),
        (SESSIONS, &mut stats.sessions),
        (SLOTS, &mut stats.keys),
    ] {
        store.list(prefix, &mut |info| {
            place.objects += 1;
            place.bytes += info.length;
        })?;
    }
    Ok(stats)
}

fn count_chunks(repository: &Repository, stats: &mut Stats) -> Result<()> {
    let mut codecs = [CodecStats::default(); 256];
    let mut packs: HashMap<PackName, BlobKind> = HashMap::new();
    let standing = Arc::clone(&repository.state().standing);
    let condemned = |pack: &PackName| standing.condemned.contains_key(pack) && !standing.deleted.contains_key(pack);
    repository.each_location(&mut |_, location| {
        let codec = &mut codecs[usize::from(location.codec)];
        codec.chunks += 1;
        codec.plain_bytes += u64::from(location.plain_len);
        codec.stored_bytes += crate::repo::reader::BLOB_HEADER_BYTES + u64::from(location.sealed_len);
        stats.with_base += u64::from(location.base.is_some());
        packs.entry(location.pack).or_insert(location.kind);
        if condemned(&location.pack) {
            stats.condemned.bytes += crate::repo::reader::BLOB_HEADER_BYTES + u64::from(location.sealed_len);
        }
    })?;
    stats.condemned.objects = packs.keys().filter(|pack| condemned(pack)).count() as u64;
    stats.chunks = codecs.iter().map(|codec| codec.chunks).sum();
    stats.chunk_bytes = codecs.iter().map(|codec| codec.plain_bytes).sum();
    stats.codecs = (0..=u8::MAX)
        .zip(codecs)
        .filter(|(_, counted)| counted.chunks > 0)
        .map(|(codec, counted)| CodecStats { codec, ..counted })
        .collect();
    stats.tree_packs = packs.values().filter(|kind| **kind == BlobKind::Tree).count() as u64;
    stats.data_packs = packs.len() as u64 - stats.tree_packs;
    Ok(())
}

impl CodecStats {
    /// The codec's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.codec {
            codec::id::RAW => "raw",
            codec::id::ZSTD => "zstd",
            codec::id::ZSTD_PREFIX => "zstd with prefix",
            codec::id::PLANES => "planes",
            codec::id::PLANES_DIFFERENCE => "planes of the difference",
            codec::id::CONSTANT => "constant",
            codec::id::DERIVED => "derived",
            codec::id::PLANES_SCALED => "planes by scale",
            _ => "unknown",
        }
    }
}
