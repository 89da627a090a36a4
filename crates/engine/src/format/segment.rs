//! Index segments (docs/format.md §7): sorted, immutable tables from chunk id to the place of its blob, with a
//! membership filter in front.
//!
//! [`SegmentBuilder`] makes the plain bytes; they are sealed for the store and lie as they are, mapped, in the local
//! cache. [`SegmentView`] looks things up in them without reading more than a look-up needs, so it checks lengths once
//! and everything else where it is used: hostile bytes can make it miss or mislead, never panic. The chunk id that is
//! compared after decoding catches the rest.

use std::collections::HashMap;

use super::fixed::{bytes_at, u32_at, u64_at, zeros};
use super::names::{COUNTER_MAX, PackName};
use super::pack::{BlobKind, BlobRecord, codec_has_base, plausible};
use crate::error::Damaged;
use crate::ids::{ChunkId, SessionId};

const MAGIC: &[u8; 8] = b"SWINDX01";
const HEADER_BYTES: usize = 64;
const PACK_BYTES: usize = 24;
const RECORD_BYTES: usize = 56;
const BLOCK_BYTES: usize = 32;
const RECORDS_PER_BLOCK: usize = 24;
const NO_BASE: u32 = u32::MAX;
const FILTER_SALTS: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];
/// On ids that are spread evenly interpolation needs 5 probes on average and 9 at most among a million; ids that are not
/// (nobody but an attacker makes them) get bisection after this many.
const INTERPOLATIONS_MAX: u32 = 16;

/// Where a chunk's blob lies, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The pack.
    pub pack: PackName,
    /// Where the blob's header lies in the pack.
    pub offset: u32,
    /// Length of body and tag in bytes; the blob occupies 48 more.
    pub sealed_len: u32,
    /// Length of the chunk's plain bytes.
    pub plain_len: u32,
    /// How the body is encoded.
    pub codec: u8,
    /// What the chunk is.
    pub kind: BlobKind,
    /// The chunk that it is encoded against.
    pub base: Option<ChunkId>,
}

impl Location {
    /// What a pack's footer says of the chunk `id` that lies here.
    #[must_use]
    pub fn record(&self, id: ChunkId) -> BlobRecord {
        let Self { offset, sealed_len, plain_len, codec, base, .. } = *self;
        BlobRecord { id, offset, sealed_len, plain_len, codec, base }
    }
}

/// Collects records for one segment.
#[derive(Debug, Default)]
pub struct SegmentBuilder {
    packs: Vec<PackName>,
    ordinals: HashMap<PackName, u32>,
    records: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    blob: BlobRecord,
    pack: u32,
    kind: BlobKind,
}

impl SegmentBuilder {
    /// An empty segment.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a blob of `pack`.
    pub fn push(&mut self, pack: PackName, kind: BlobKind, blob: &BlobRecord) {
        let next = ordinal(self.packs.len());
        let pack_ordinal = *self.ordinals.entry(pack).or_insert_with(|| {
            self.packs.push(pack);
            next
        });
        self.records.push(Pending { blob: *blob, pack: pack_ordinal, kind });
    }

    /// Number of records so far, duplicates counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True while nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The segment's plain bytes. Of several records of one chunk, the one that was added first stays.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.records.sort_by_key(|record| record.blob.id);
        self.records.dedup_by_key(|record| record.blob.id);
        let mut bases = Bases::default();
        let blocks = filter_blocks(self.records.len());
        let mut out = Vec::with_capacity(
            HEADER_BYTES + PACK_BYTES * self.packs.len() + RECORD_BYTES * self.records.len() + BLOCK_BYTES * blocks,
        );
        out.resize(HEADER_BYTES, 0);
        for pack in &self.packs {
            out.extend_from_slice(pack.session.as_bytes());
            out.extend_from_slice(&pack.counter.to_le_bytes());
        }
        for record in &self.records {
            write_record(&mut out, record, &mut bases);
        }
        out.extend(bases.ids.iter().flat_map(|id| id.0));
        let filter = out.len();
        out.resize(filter + BLOCK_BYTES * blocks, 0);
        for record in &self.records {
            mark(&mut out[filter..], &record.blob.id);
        }
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&(self.records.len() as u64).to_le_bytes());
        for (place, count) in [(16, self.packs.len()), (20, bases.ids.len()), (24, blocks)] {
            out[place..place + 4].copy_from_slice(&ordinal(count).to_le_bytes());
        }
        out
    }
}

/// The bases of a segment, each once, in order of first use.
#[derive(Default)]
struct Bases {
    ids: Vec<ChunkId>,
    ordinals: HashMap<ChunkId, u32>,
}

impl Bases {
    fn ordinal(&mut self, base: Option<ChunkId>) -> u32 {
        let Some(base) = base else { return NO_BASE };
        let next = ordinal(self.ids.len());
        *self.ordinals.entry(base).or_insert_with(|| {
            self.ids.push(base);
            next
        })
    }
}

fn ordinal(count: usize) -> u32 {
    u32::try_from(count)
        .ok()
        .filter(|&number| number < NO_BASE)
        .expect("a segment holds less than 2^32 - 1 of anything")
}

fn write_record(out: &mut Vec<u8>, record: &Pending, bases: &mut Bases) {
    let blob = &record.blob;
    out.extend_from_slice(blob.id.as_bytes());
    for field in [record.pack, blob.offset, blob.sealed_len, blob.plain_len] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&[blob.codec, record.kind.code(), 0, 0]);
    out.extend_from_slice(&bases.ordinal(blob.base).to_le_bytes());
}

fn filter_blocks(records: usize) -> usize {
    records.div_ceil(RECORDS_PER_BLOCK).max(1)
}

/// Where the id's block begins in a filter, and its word of bits.
fn filter_place(filter: &[u8], id: &ChunkId) -> (usize, u32) {
    let blocks = (filter.len() / BLOCK_BYTES) as u64;
    let block = ((u64_at(&id.0, 0) >> 32) * blocks) >> 32;
    (block as usize * BLOCK_BYTES, u32_at(&id.0, 8))
}

fn mark(filter: &mut [u8], id: &ChunkId) {
    let (start, bits) = filter_place(filter, id);
    for (word, salt) in filter[start..start + BLOCK_BYTES].chunks_exact_mut(4).zip(FILTER_SALTS) {
        let marked = u32_at(word, 0) | 1 << (bits.wrapping_mul(salt) >> 27);
        word.copy_from_slice(&marked.to_le_bytes());
    }
}

/// A segment's plain bytes, to look things up in.
#[derive(Debug, Clone, Copy)]
pub struct SegmentView<'a> {
    packs: &'a [u8],
    records: &'a [u8],
    bases: &'a [u8],
    filter: &'a [u8],
}

/// Where the sections of a segment end in its bytes: packs, records, bases, filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sections([usize; 4]);

impl Sections {
    /// Checks the header and that the sections have the lengths it claims. Takes the same time for any length.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Damaged> {
        let damaged = |offset, why: &str| Damaged::new("index segment", offset, why);
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(damaged(0, "not an index segment"));
        }
        if !zeros(&bytes[28..HEADER_BYTES]) {
            return Err(damaged(28, "reserved bytes are not zero"));
        }
        let counts = [
            u64::from(u32_at(bytes, 16)),
            u64_at(bytes, 8),
            u64::from(u32_at(bytes, 20)),
            u64::from(u32_at(bytes, 24)),
        ];
        let widths = [PACK_BYTES, RECORD_BYTES, ChunkId::LEN, BLOCK_BYTES];
        let (mut end, mut ends) = (HEADER_BYTES, [0; 4]);
        for ((section_end, count), width) in ends.iter_mut().zip(counts).zip(widths) {
            let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
            let next = length.and_then(|length| end.checked_add(length)).filter(|next| *next <= bytes.len());
            end = next.ok_or_else(|| damaged(8, "shorter than its header says"))?;
            *section_end = end;
        }
        if end != bytes.len() {
            return Err(damaged(end as u64, "longer than its header says"));
        }
        let [packs, records, bases, filter] = ends;
        if filter - bases != BLOCK_BYTES * filter_blocks((records - packs) / RECORD_BYTES) {
            return Err(damaged(24, "the filter has another length than the records need"));
        }
        Ok(Self(ends))
    }

    /// The segment whose sections these are, from the bytes that were parsed: touches none of them.
    pub(crate) fn view<'a>(&self, bytes: &'a [u8]) -> SegmentView<'a> {
        let [packs, records, bases, filter] = self.0;
        SegmentView {
            packs: &bytes[HEADER_BYTES..packs],
            records: &bytes[packs..records],
            bases: &bytes[records..bases],
            filter: &bytes[bases..filter],
        }
    }
}

impl<'a> SegmentView<'a> {
    /// Checks the header and that the sections have the lengths it claims. Takes the same time for any length.
    ///
    /// # Errors
    /// [`Damaged`] otherwise.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Damaged> {
        Ok(Sections::parse(bytes)?.view(bytes))
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len() / RECORD_BYTES
    }

    /// True if it has no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The packs it names.
    pub fn packs(&self) -> impl Iterator<Item = PackName> + use<'a> {
        self.packs.chunks_exact(PACK_BYTES).map(pack_name)
    }

    /// The chunks against which some of its blobs are encoded.
    pub fn bases(&self) -> impl Iterator<Item = ChunkId> + use<'a> {
        self.bases.chunks_exact(ChunkId::LEN).filter_map(ChunkId::from_slice)
    }

    /// Looks a chunk up. `None` also where its record can't be.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<Location> {
        self.find_numbered(id).map(|(_, location)| location)
    }

    /// As [`Self::find`], with the number of the record in the segment.
    #[must_use]
    pub fn find_numbered(&self, id: &ChunkId) -> Option<(usize, Location)> {
        if !self.may_hold(id) {
            return None;
        }
        let index = self.search(id)?;
        Some((index, self.location(self.record_bytes(index))?))
    }

    /// The filter's answer: false means that the chunk is not here.
    #[must_use]
    pub fn may_hold(&self, id: &ChunkId) -> bool {
        let (start, bits) = filter_place(self.filter, id);
        let block: [u8; BLOCK_BYTES] = bytes_at(self.filter, start);
        let words = block.chunks_exact(4).zip(FILTER_SALTS);
        words.fold(1, |all, (word, salt)| all & u32_at(word, 0) >> (bits.wrapping_mul(salt) >> 27)) == 1
    }

    /// Record `index` in order of ids. `None` beyond the end or where the record can't be.
    #[must_use]
    pub fn record(&self, index: usize) -> Option<(ChunkId, Location)> {
        if index >= self.len() {
            return None;
        }
        let bytes = self.record_bytes(index);
        Some((ChunkId(bytes_at(bytes, 0)), self.location(bytes)?))
    }

    /// The chunk of record `index`. `None` beyond the end.
    #[must_use]
    pub fn id(&self, index: usize) -> Option<ChunkId> {
        (index < self.len()).then(|| ChunkId(bytes_at(self.record_bytes(index), 0)))
    }

    /// Proves the whole segment: ids strictly ascending, every record possible and found by the filter.
    ///
    /// # Errors
    /// [`Damaged`] at the first record that is not.
    pub fn check(&self) -> Result<(), Damaged> {
        let mut previous = None;
        for index in 0..self.len() {
            let offset = (HEADER_BYTES + self.packs.len() + index * RECORD_BYTES) as u64;
            let damaged = |why: &str| Err(Damaged::new("index segment", offset, why));
            let Some((id, _)) = self.record(index) else { return damaged("a record that can't be") };
            if previous.is_some_and(|previous| previous >= id) {
                return damaged("records are not in order");
            }
            if !self.may_hold(&id) {
                return damaged("a record that the filter does not know");
            }
            previous = Some(id);
        }
        Ok(())
    }

    fn record_bytes(&self, index: usize) -> &'a [u8; RECORD_BYTES] {
        let start = index * RECORD_BYTES;
        self.records[start..start + RECORD_BYTES].try_into().expect("the slice has the record's length")
    }

    /// Index of the record with this id. Ids are hashes, so a record's place follows from its value; each probe
    /// narrows the range, so it ends on any bytes.
    fn search(&self, id: &ChunkId) -> Option<usize> {
        let key = u64::from_be_bytes(bytes_at(&id.0, 0));
        let (mut low, mut high) = (0, self.len());
        let (mut low_key, mut high_key) = (0, u64::MAX);
        let mut probes = 0;
        while low < high {
            let middle = if probes < INTERPOLATIONS_MAX {
                // Invariant: low_key <= key <= high_key, whatever the records say, see below.
                let share = (key - low_key) as f64 / (high_key - low_key) as f64;
                // Why min: rounding; a share of NaN (equal keys) becomes 0.
                (low + (share * (high - low) as f64) as usize).min(high - 1)
            } else {
                low + (high - low) / 2
            };
            probes += 1;
            let found: [u8; 32] = bytes_at(self.record_bytes(middle), 0);
            let found_key = u64::from_be_bytes(bytes_at(&found, 0));
            match found.cmp(&id.0) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => (low, low_key) = (middle + 1, found_key),
                std::cmp::Ordering::Greater => (high, high_key) = (middle, found_key),
            }
        }
        None
    }

    fn location(&self, record: &[u8; RECORD_BYTES]) -> Option<Location> {
        let pack = pack_name(section_item(self.packs, PACK_BYTES, u32_at(record, 32))?);
        let (codec, base_ordinal) = (record[48], u32_at(record, 52));
        let base = match codec_has_base(codec)? {
            true => Some(ChunkId::from_slice(section_item(self.bases, ChunkId::LEN, base_ordinal)?)?),
            false if base_ordinal == NO_BASE => None,
            false => return None,
        };
        let location = Location {
            pack,
            offset: u32_at(record, 36),
            sealed_len: u32_at(record, 40),
            plain_len: u32_at(record, 44),
            codec,
            kind: BlobKind::from_code(record[49])?,
            base,
        };
        let sound = pack.counter <= COUNTER_MAX
            && plausible(location.offset, location.sealed_len, location.plain_len)
            && zeros(&record[50..52]);
        sound.then_some(location)
    }
}

fn section_item(section: &[u8], width: usize, number: u32) -> Option<&[u8]> {
    let start = (number as usize).checked_mul(width)?;
    section.get(start..start.checked_add(width)?)
}

fn pack_name(bytes: &[u8]) -> PackName {
    PackName { session: SessionId(bytes_at(bytes, 0)), counter: u64_at(bytes, 16) }
}
