//! Reads packs back: every byte hashed, every blob opened, decoded and its chunk id computed again.
//!
//! Packs are spread over threads. A pack is read from front to back in pieces that end between blobs; each blob is
//! hashed and at once decoded where it lies, while it is in the processor's cache. Packs with bases come right before those
//! with what is encoded against them, and bases are kept for a while for all threads, so that each is decoded about once.
//! What comes before its base all the same waits, still sealed, until there is a batch of it.
//!
//! Memory: a quarter of the budget each for pieces, for bases, and for what waits; the rest for decoded chunks.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::structure::{PackFacts, Structure};
use super::{Check, count, spread};
use crate::crypto::blob::BLOB_HEADER_BYTES;
use crate::error::{Damaged, Error, Result};
use crate::format::names::PackName;
use crate::format::pack::{BlobRecord, HEADER_BYTES, Trailer, decode_footer, decode_header, decode_trailer};
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::repo::{Bases, BlobReader};
use crate::units::{KIB, MIB};

/// A piece has at most this many bytes, unless a single blob is longer.
const PIECE_BYTES_MAX: usize = 4 * MIB;
const PIECE_BYTES_MIN: usize = 256 * KIB;
/// So much is read from the end of a pack to find its footer: room for some 5,000 blobs.
const TAIL_BYTES: u64 = 256 * KIB as u64;
/// Length of the hash at the end of a pack, which does not cover itself.
const HASH_BYTES: usize = 32;

/// The state of the data check.
pub(super) struct Data<'a, 'r> {
    check: &'a Check<'r>,
    structure: &'a Structure,
    piece_bytes: u64,
    waiting_bytes_max: usize,
    waiting: Mutex<Waiting>,
    bases: Arc<Bases>,
    sessions_told: AtomicBool,
}

/// Blobs that are encoded against a base.
#[derive(Default)]
struct Waiting {
    blobs: Vec<Dependant>,
    bytes: usize,
}

struct Dependant {
    base: ChunkId,
    id: ChunkId,
    location: Location,
    blob: Vec<u8>,
}

/// What a thread owns.
struct Worker<'r> {
    reader: BlobReader<'r>,
    plain: Vec<u8>,
}

/// The end of a pack, from `start` on.
struct Tail {
    start: u64,
    bytes: Vec<u8>,
}

/// What reading a pack whose list is right came to.
enum Outcome {
    Whole,
    /// Some of its pieces can't be read; of what lies there nothing is said yet.
    Torn,
    /// Only the checksum over all of it does not match.
    Stained,
}

/// A pack that is being read.
struct Pack<'p> {
    name: &'p PackName,
    object: String,
    facts: &'p PackFacts,
    length: u64,
}

/// How many threads read packs. Why: a thread that waits for the store leaves its core to another that decodes. With two a core a check of
/// seven checkpoints took a fifth longer, with four no less.
fn workers(check: &Check<'_>) -> usize {
    3 * check.threads()
}

impl<'a, 'r> Data<'a, 'r> {
    pub(super) fn new(check: &'a Check<'r>, structure: &'a Structure) -> Self {
        let share = check.options.budget_bytes / 4;
        Self {
            check,
            structure,
            piece_bytes: count((share / workers(check)).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)),
            // Why not all of it: each thread may have taken a batch, while the next one grows.
            waiting_bytes_max: share / (workers(check) + 1),
            waiting: Mutex::default(),
            bases: Arc::new(Bases::new(share)),
            sessions_told: AtomicBool::new(false),
        }
    }

    /// Reads the packs of `chosen` back.
    pub(super) fn check(&self, chosen: &[(PackName, PackFacts)]) -> Result<()> {
        let known = chosen.iter().filter_map(|(_, facts)| facts.length).sum();
        self.check.bytes_known.store(known, Ordering::Relaxed);
        let repository = self.check.repository;
        let start = || Worker { reader: repository.blob_reader_sharing(&self.bases), plain: Vec::new() };
        spread(workers(self.check), &self.structure.by_bases(chosen), start, |worker, (name, facts)| {
            self.check.go_on()?;
            self.pack(worker, name, facts)
        })?;
        let rest = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)).blobs;
        let groups = by_base(rest);
        spread(workers(self.check), &groups, start, |worker, group| {
            self.check.go_on()?;
            let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
            group.iter_mut().for_each(|dependant| self.dependant(worker, dependant));
            Ok(())
        })
    }

    fn pack(&self, worker: &mut Worker<'r>, name: &PackName, facts: &PackFacts) -> Result<()> {
        let Some(length) = facts.length else { return Ok(()) };
        if self.structure.lost_sessions.contains(&name.session) {
            if !self.sessions_told.swap(true, Ordering::Relaxed) {
                self.check.monitor.note("packs of sessions whose key is lost are not read");
            }
            return Ok(());
        }
        let pack = Pack { name, object: name.object(), facts, length };
        match self.whole_pack(worker, &pack) {
            Ok(Outcome::Whole) => {
                self.check.findings.whole(*name);
                self.check.packs_read.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Ok(Outcome::Stained) => {
                self.check.findings.stained(*name);
                Ok(())
            }
            Ok(Outcome::Torn) => {
                self.check.findings.try_each(*name);
                Ok(())
            }
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                self.check.suspect(*name, &error);
                Ok(())
            }
        }
    }

    /// Reads one pack. An error is about the pack as a whole; trouble with single blobs goes to the findings.
    fn whole_pack(&self, worker: &mut Worker<'r>, pack: &Pack<'_>) -> Result<Outcome> {
        let is_small = pack.length <= self.piece_bytes;
        let mut tail = self.tail(pack, if is_small { 0 } else { pack.length - TAIL_BYTES.min(pack.length) })?;
        let trailer = decode_trailer(pack.name, pack.length, &tail.bytes)?;
        if u64::from(trailer.footer_offset) < tail.start {
            tail = self.tail(pack, u64::from(trailer.footer_offset))?;
        }
        let records = self.records(pack, &trailer, &tail)?;
        let (mut hasher, mut is_torn) = (blake3::Hasher::new(), false);
        for (range, group) in pieces(&records, self.piece_bytes) {
            self.check.go_on()?;
            let mut read;
            let piece = match tail.start {
                0 => &mut tail.bytes[to_usize(range.start)..to_usize(range.end)],
                _ => {
                    read = match self.get(pack, range.clone()) {
                        Err(error) if error.is_damage() => {
                            is_torn = true;
                            continue;
                        }
                        read => read?,
                    };
                    &mut read[..]
                }
            };
            self.piece(worker, pack, &mut hasher, (range.start, piece), group)?;
            self.count_read(range.end - range.start);
        }
        let footer = to_usize(u64::from(trailer.footer_offset) - tail.start);
        let (rest, hash) = tail.bytes[footer..].split_at(tail.bytes.len() - footer - HASH_BYTES);
        self.count_read(pack.length - u64::from(trailer.footer_offset));
        Ok(match hasher.update(rest).finalize().as_bytes() == hash {
            _ if is_torn => Outcome::Torn,
            true => Outcome::Whole,
            false => Outcome::Stained,
        })
    }

    /// The blobs that the footer lists, held against the index.
    fn records(&self, pack: &Pack<'_>, trailer: &Trailer, tail: &Tail) -> Result<Vec<BlobRecord>> {
        let footer = trailer.footer();
        let place = to_usize(footer.start - tail.start)..to_usize(footer.end - tail.start);
        let records = decode_footer(&self.check.repository.keys().index_key, pack.name, &tail.bytes[place])?;
        if !trailer.fits(&records) {
            return Err(pack.damaged(footer.start, "the blobs in the footer do not end where it begins"));
        }
        let listed = records.iter().filter(|record| self.is_listed(pack, record)).count();
        if count(listed) != pack.facts.places {
            // Why not damage of the pack: who wrote the segment may have lied, and all else in the pack is sound.
            self.check.findings.misfit(*pack.name, records.iter().map(|record| (record.id, pack.location(record))));
        }
        // What no segment lists is no damage: a chunk of an adopted session whose base is gone lies in its pack for nobody.
        Ok(records)
    }

    /// True if a segment says just what the footer says.
    fn is_listed(&self, pack: &Pack<'_>, record: &BlobRecord) -> bool {
        let wanted = pack.location(record);
        self.structure.index.copies(&record.id).any(|copy| copy.location == wanted)
    }

    /// Hashes and decodes the blobs of one piece, which lies at `start` in the pack.
    fn piece(
        &self,
        worker: &mut Worker<'r>,
        pack: &Pack<'_>,
        hasher: &mut blake3::Hasher,
        (start, piece): (u64, &mut [u8]),
        group: &[BlobRecord],
    ) -> Result<()> {
        if start == 0 {
            let header = decode_header(pack.name, piece)?;
            if header.kind != pack.facts.kind || header.repository != self.check.repository.id() {
                return Err(pack.damaged(0, "the header is of another kind or repository"));
            }
            hasher.update(&piece[..HEADER_BYTES]);
        }
        for record in group {
            let place = to_usize(u64::from(record.offset) - start);
            let blob = &mut piece[place..place + blob_bytes(record)];
            hasher.update(blob);
            self.blob(worker, pack, record, blob)?;
        }
        Ok(())
    }

    fn blob(&self, worker: &mut Worker<'r>, pack: &Pack<'_>, record: &BlobRecord, blob: &mut [u8]) -> Result<()> {
        let location = pack.location(record);
        match record.base {
            // The structure's check has told, where it matters.
            Some(base) if !self.structure.has_alone(&base) => return Ok(()),
            Some(base) if self.bases.get(&base).is_none() => {
                return self.wait(worker, Dependant { base, id: record.id, location, blob: blob.to_vec() });
            }
            _ => {}
        }
        match worker.reader.decode(&record.id, &location, blob, &mut worker.plain) {
            Ok(()) if record.base.is_none() && self.structure.may_be_base(&record.id) => {
                worker.reader.keep(&record.id, &worker.plain);
            }
            Ok(()) => {}
            Err(error) => self.check.unreadable(&pack.object, &error, record.id),
        }
        Ok(())
    }

    /// Puts a blob aside until there is a batch; whoever fills the batch decodes it.
    fn wait(&self, worker: &mut Worker<'r>, dependant: Dependant) -> Result<()> {
        let batch = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.bytes += dependant.blob.len() + std::mem::size_of::<Dependant>();
            waiting.blobs.push(dependant);
            if waiting.bytes < self.waiting_bytes_max {
                return Ok(());
            }
            std::mem::take(&mut *waiting)
        };
        let mut blobs = batch.blobs;
        blobs.sort_unstable_by_key(|dependant| dependant.base);
        for dependant in &mut blobs {
            self.check.go_on()?;
            self.dependant(worker, dependant);
        }
        Ok(())
    }

    fn dependant(&self, worker: &mut Worker<'r>, dependant: &mut Dependant) {
        let Dependant { id, location, blob, .. } = dependant;
        if let Err(error) = worker.reader.decode(id, location, blob, &mut worker.plain) {
            self.check.unreadable(&location.pack.object(), &error, *id);
        }
    }

    fn tail(&self, pack: &Pack<'_>, start: u64) -> Result<Tail> {
        Ok(Tail { start, bytes: self.get(pack, start..pack.length)? })
    }

    fn get(&self, pack: &Pack<'_>, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = self.check.repository.get_pack(pack.name, range.clone())?;
        if count(bytes.len()) != range.end - range.start {
            return Err(pack.damaged(range.start, "it is shorter than the store said"));
        }
        Ok(bytes)
    }

    fn count_read(&self, bytes: u64) {
        self.check.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        self.check.progress();
    }
}

impl Pack<'_> {
    fn damaged(&self, offset: u64, why: &str) -> Error {
        Damaged::new(self.object.as_str(), offset, why).into()
    }

    fn location(&self, record: &BlobRecord) -> Location {
        Location {
            pack: *self.name,
            offset: record.offset,
            sealed_len: record.sealed_len,
            plain_len: record.plain_len,
            codec: record.codec,
            kind: self.facts.kind,
            base: record.base,
        }
    }
}

/// Length of a blob with its header.
fn blob_bytes(record: &BlobRecord) -> usize {
    BLOB_HEADER_BYTES + to_usize(u64::from(record.sealed_len))
}

fn to_usize(place: u64) -> usize {
    usize::try_from(place).expect("a pack is at most 256 MiB long")
}

/// Cuts a pack's blobs into pieces of at most `bytes_max` bytes, at least one blob each; the first begins with the
/// pack's header. Without blobs there is still that piece.
fn pieces(records: &[BlobRecord], bytes_max: u64) -> Vec<(Range<u64>, &[BlobRecord])> {
    let mut pieces = Vec::new();
    let (mut start, mut end, mut first) = (0, count(HEADER_BYTES), 0);
    for (number, record) in records.iter().enumerate() {
        let next = u64::from(record.offset) + count(blob_bytes(record));
        if next - start > bytes_max && number > first {
            pieces.push((start..end, &records[first..number]));
            (start, first) = (end, number);
        }
        end = next;
    }
    pieces.push((start..end, &records[first..]));
    pieces
}

/// Groups by base, each group to be worked on by one thread.
fn by_base(mut blobs: Vec<Dependant>) -> Vec<Mutex<Vec<Dependant>>> {
    blobs.sort_unstable_by_key(|dependant| dependant.base);
    let mut groups: Vec<Mutex<Vec<Dependant>>> = Vec::new();
    let mut last = None;
    for dependant in blobs {
        if last != Some(dependant.base) {
            last = Some(dependant.base);
            groups.push(Mutex::default());
        }
        let group = groups.last_mut().expect("a group was just pushed");
        group.get_mut().unwrap_or_else(PoisonError::into_inner).push(dependant);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_pack_without_gaps() {
        let mut offset = 64;
        let records: Vec<BlobRecord> = [1000u32, 10, 5000, 1, 1, 1, 700, 300_000, 20]
            .into_iter()
            .map(|sealed_len| {
                let id = ChunkId([1; 32]);
                let record = BlobRecord { id, offset, sealed_len, plain_len: 1, codec: 0, base: None };
                offset += 48 + sealed_len;
                record
            })
            .collect();
        for bytes_max in [1, 64, 1000, 1500, 6000, 100_000, 1 << 30] {
            let pieces = pieces(&records, bytes_max);
            let mut end = 0;
            let mut seen = Vec::new();
            for (range, group) in &pieces {
                assert_eq!(range.start, end);
                assert!(range.end - range.start <= bytes_max || group.len() == 1, "{bytes_max}: {range:?}");
                end = range.end;
                seen.extend_from_slice(group);
            }
            assert_eq!(end, u64::from(offset));
            assert_eq!(seen, records);
        }
        assert_eq!(pieces(&[], 100).len(), 1, "the header is read even where there is no blob");
    }
}
