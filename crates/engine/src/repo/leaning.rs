//! On which records of published segments a session leaned instead of storing a chunk: two bits a record.
//!
//! Before a commit the session looks again at those that became doubtful meanwhile (rule W2 of docs/concurrency.md). The
//! second bit says that the chunk serves as a base, so that only a copy without a base will do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::names::PackName;
use crate::format::pack::BlobKind;
use crate::ids::{ChunkId, ObjectHash};
use crate::repo::index::{Found, Index, Segment};

/// Bits for every record of an index.
pub(crate) struct Leaning {
    segments: Vec<Leaned>,
}

struct Leaned {
    segment: Arc<Segment>,
    chunks: Vec<AtomicU64>,
    bases: Vec<AtomicU64>,
}

/// A chunk on which the session leaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeanedChunk {
    pub(crate) id: ChunkId,
    pub(crate) kind: BlobKind,
    /// It serves as a base.
    pub(crate) is_base: bool,
}

impl Leaning {
    /// On nothing yet.
    pub(crate) fn new(index: &Index) -> Self {
        let bits = |segment: &Segment| {
            let records = segment.view().map_or(0, |view| view.len());
            (0..records.div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>()
        };
        let leaned = |segment: &Arc<Segment>| Leaned {
            chunks: bits(segment),
            bases: bits(segment),
            segment: Arc::clone(segment),
        };
        Self { segments: index.segments().iter().map(leaned).collect() }
    }

    /// Notes that the session leans on `found`, which is of the index that this was made for.
    pub(crate) fn note(&self, found: &Found, is_base: bool) {
        let leaned = &self.segments[found.segment];
        let bits = if is_base { &leaned.bases } else { &leaned.chunks };
        let bit = 1 << (found.record % 64);
        let word = &bits[found.record / 64];
        // Why: the bit is mostly set already, and a load does not fight over the cache line.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Every leaned-on chunk whose record `is_doubtful` (segment, pack).
    pub(crate) fn doubtful(&self, is_doubtful: &dyn Fn(&ObjectHash, &PackName) -> bool) -> Vec<LeanedChunk> {
        let mut found = Vec::new();
        for leaned in &self.segments {
            let hash = &leaned.segment.record().hash;
            if !leaned.segment.packs().iter().any(|pack| is_doubtful(hash, pack)) {
                continue;
            }
            let is_set =
                |bits: &[AtomicU64], number: usize| bits[number / 64].load(Ordering::Relaxed) >> (number % 64) & 1 == 1;
            for (number, id, location) in leaned.segment.records() {
                let (chunk, is_base) = (is_set(&leaned.chunks, number), is_set(&leaned.bases, number));
                if (chunk || is_base) && is_doubtful(hash, &location.pack) {
                    found.push(LeanedChunk { id, kind: location.kind, is_base });
                }
            }
        }
        found
    }
}
