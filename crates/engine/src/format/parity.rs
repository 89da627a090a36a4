//! Parity of packs (docs/format.md §6.3): Reed-Solomon, so that damaged pieces of a pack can be computed again.
//!
//! What lies before the parity (header, blobs, footer) is cut into shards of equal length. Shard `i` belongs to group
//! `i mod groups`, so that neighbours belong to different ones, and each group has `rows` parity shards: any `rows` of its
//! shards may be damaged. A hash of each shard tells which are. Those hashes, and the head that says how all of it is
//! laid out, are there twice, before the parity shards and behind them.
//!
//! This file lays parity out and encodes it; [`mend`](mod@mend) gives damaged bytes back.
//!
//! Invariants: every shard, of data and of parity, lies in an aligned block of the shard's length of its own; so a run of
//! (rows * groups - 1) * shard length + 1 damaged bytes never hits more than `rows` shards of a group, nor both heads.

mod field;
pub mod mend;

use std::ops::Range;

use self::field::{Sums, inverse, multiply};
use super::fixed::{bytes_at, u32_at};
use crate::crypto::object_hash;
use crate::units::{KIB, MIB, PACK_BYTES_MAX};

pub use mend::{Mended, mend};

/// Length of a head in bytes.
const HEAD_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"SWPARI01";
/// Length of a hash in the table: accidents are to be found, nobody is kept out.
const HASH_BYTES: usize = 16;
/// Shards are whole multiples of this.
const SHARD_STEP: usize = 64;
const SHARD_BYTES_MAX: usize = MIB;
/// A reader takes no more parity shards a group.
const ROWS_MAX: usize = 32;
/// A group has so many shards at most: each has an element of the field of its own.
const GROUP_SHARDS_MAX: usize = 256;

/// Shards that a writer makes, unless a pack has few bytes: a sector of a disk.
const WRITTEN_SHARD_BYTES: usize = 4 * KIB;
/// A writer makes shards longer where there would be more of them. 16 KiB in a pack of 24 MiB.
const WRITTEN_SHARDS_MAX: usize = 2048;
/// Bytes of each shard that are worked on at once: the sums of a group stay in the cache that is close to the processor.
const BLOCK_BYTES: usize = 4 * KIB;

/// How much parity a pack gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parity {
    /// Data shards a group at most.
    group: usize,
    /// Parity shards a group.
    rows: usize,
}

impl Parity {
    /// Parity of this share of a pack's bytes, 0.01 to 0.5; none for other shares. Small packs get more: every group has
    /// at least two parity shards.
    #[must_use]
    pub fn of_share(share: f64) -> Option<Self> {
        if !(0.01..=0.5).contains(&share) {
            return None;
        }
        // 2 rows below 2.5 %, then one more a percent: more of them cost more time to encode.
        let rows = (share * 100.0).round().clamp(2.0, 16.0);
        // At most 2 / 0.01 = 200, so that a group fits into the field with its parity.
        let group = (rows / share).round();
        Some(Self { group: group as usize, rows: rows as usize })
    }
}

/// How a pack's shards are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Length of a shard in bytes.
    shard: usize,
    /// Data shards; the last may be shorter.
    data: usize,
    groups: usize,
    /// Parity shards a group.
    rows: usize,
    /// Place of the pack's footer.
    footer: (u32, u32),
}

impl Layout {
    fn choose(parity: Parity, footer: (u32, u32)) -> Self {
        let mut layout = Self { shard: 0, data: 0, groups: 0, rows: parity.rows, footer };
        let protected = layout.protected();
        layout.shard = WRITTEN_SHARD_BYTES.min(protected.next_multiple_of(SHARD_STEP));
        while protected.div_ceil(layout.shard) > WRITTEN_SHARDS_MAX {
            layout.shard *= 2;
        }
        layout.data = protected.div_ceil(layout.shard);
        layout.groups = layout.data.div_ceil(parity.group);
        layout
    }

    /// Length of what is protected; the parity begins there.
    fn protected(&self) -> usize {
        self.footer.0 as usize + self.footer.1 as usize
    }

    /// Parity shards in all.
    fn parity(&self) -> usize {
        self.groups * self.rows
    }

    fn table_bytes(&self) -> usize {
        HASH_BYTES * (self.data + self.parity())
    }

    /// Place of the first parity shard in the pack.
    fn parity_start(&self) -> usize {
        (self.protected() + HEAD_BYTES + self.table_bytes()).next_multiple_of(self.shard)
    }

    /// Place of the second table.
    fn parity_end(&self) -> usize {
        self.parity_start() + self.parity() * self.shard
    }

    /// Where the parity ends: behind the second head.
    fn end(&self) -> usize {
        self.parity_end() + self.table_bytes() + HEAD_BYTES
    }

    /// Place of a shard, by its number: data first, then parity.
    fn place(&self, number: usize) -> Range<usize> {
        if number < self.data {
            let start = number * self.shard;
            return start..(start + self.shard).min(self.protected());
        }
        let start = self.parity_start() + (number - self.data) * self.shard;
        start..start + self.shard
    }

    /// The numbers of a group's data shards.
    fn data_of(&self, group: usize) -> impl Iterator<Item = usize> {
        (group..self.data).step_by(self.groups)
    }

    /// The numbers of a group's parity shards.
    fn parity_of(&self, group: usize) -> impl Iterator<Item = usize> {
        let first = self.data + (group + self.groups - self.data % self.groups) % self.groups;
        (first..self.data + self.parity()).step_by(self.groups)
    }

    /// What a data shard is multiplied with in the sum that is the parity shard. Why the first parity shard's element: so
    /// that this one is the plain sum, which takes a quarter of the time.
    fn factor(&self, parity: usize, data: usize) -> u8 {
        let first = parity - (parity - self.data) / self.groups * self.groups;
        let element = |number: usize| u8::try_from(number / self.groups).expect("a group has at most 256 shards");
        multiply(element(first) ^ element(data), inverse(element(parity) ^ element(data)))
    }

    fn head(&self, table: &[u8]) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        let counts = [self.shard, self.data, self.groups, self.rows].map(field);
        let fields = counts.into_iter().chain([self.footer.0, self.footer.1]);
        for (place, field) in head[8..32].chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        head[32..48].copy_from_slice(&short_hash(table));
        let hash = short_hash(&head[..48]);
        head[48..].copy_from_slice(&hash);
        head
    }

    /// The layout that a head tells of, and the hash of its table; none where it is no head, or one that can't be.
    fn from_head(head: &[u8; HEAD_BYTES]) -> Option<(Self, [u8; HASH_BYTES])> {
        if !head.starts_with(MAGIC) || short_hash(&head[..48]) != bytes_at(head, 48) {
            return None;
        }
        let [shard, data, groups, rows] = [8, 12, 16, 20].map(|at| u32_at(head, at) as usize);
        let layout = Self { shard, data, groups, rows, footer: (u32_at(head, 24), u32_at(head, 28)) };
        let limits = [(shard, SHARD_BYTES_MAX), (rows, ROWS_MAX), (groups, data), (data, PACK_BYTES_MAX as usize)];
        let is_possible = shard % SHARD_STEP == 0
            && limits.iter().all(|(value, limit)| (1..=*limit).contains(value))
            && layout.footer.0 as usize >= super::pack::HEADER_BYTES
            && layout.protected().div_ceil(shard) == data
            && data + layout.parity() <= GROUP_SHARDS_MAX * groups
            && layout.end() as u64 <= PACK_BYTES_MAX;
        is_possible.then(|| (layout, bytes_at(head, 32)))
    }
}

fn field(length: usize) -> u32 {
    u32::try_from(length).expect("nothing in a pack is longer than a pack may be")
}

/// The first 16 bytes of the BLAKE3.
fn short_hash(bytes: &[u8]) -> [u8; HASH_BYTES] {
    bytes_at(object_hash(bytes).as_bytes(), 0)
}

/// The parity of a pack that ends with its footer, which lies at `footer` (offset and length).
pub(super) fn of(pack: &[u8], footer: (u32, u32), parity: Parity) -> Vec<u8> {
    of_layout(&Layout::choose(parity, footer), pack)
}

fn of_layout(layout: &Layout, pack: &[u8]) -> Vec<u8> {
    assert_eq!(pack.len(), layout.protected(), "the footer is the last that lies before the parity");
    let shards = encode(layout, pack);
    let mut table = Vec::with_capacity(layout.table_bytes());
    (0..layout.data).for_each(|number| table.extend_from_slice(&short_hash(&pack[layout.place(number)])));
    shards.chunks_exact(layout.shard).for_each(|shard| table.extend_from_slice(&short_hash(shard)));
    let head = layout.head(&table);
    let mut out = Vec::with_capacity(layout.end() - layout.protected());
    out.extend_from_slice(&head);
    out.extend_from_slice(&table);
    out.resize(layout.parity_start() - layout.protected(), 0);
    for part in [&shards[..], &table, &head] {
        out.extend_from_slice(part);
    }
    out
}

/// The parity shards, one after the other.
fn encode(layout: &Layout, pack: &[u8]) -> Vec<u8> {
    let mut shards = vec![0; layout.parity() * layout.shard];
    let mut sums = Sums::new(layout.rows, BLOCK_BYTES.min(layout.shard));
    for group in 0..layout.groups {
        let factors = |data| layout.parity_of(group).map(|parity| layout.factor(parity, data)).collect::<Vec<u8>>();
        let terms: Vec<(&[u8], Vec<u8>)> =
            layout.data_of(group).map(|data| (&pack[layout.place(data)], factors(data))).collect();
        for start in (0..layout.shard).step_by(BLOCK_BYTES) {
            let end = (start + BLOCK_BYTES).min(layout.shard);
            for (shard, factors) in &terms {
                let piece = &shard[start.min(shard.len())..end.min(shard.len())];
                factors.iter().enumerate().for_each(|(row, factor)| sums.add(row, *factor, piece));
            }
            for (row, parity) in layout.parity_of(group).enumerate() {
                let place = (parity - layout.data) * layout.shard;
                sums.take(row, &mut shards[place + start..place + end]);
            }
        }
    }
    shards
}

#[cfg(test)]
mod tests;
