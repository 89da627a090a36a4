//! Gives the damaged bytes of a pack back, as far as its parity can (docs/format.md §6.3).
//!
//! Works on whatever bytes are there: trailer and one head may be damaged or missing, and the end of the pack may be cut
//! off. The shards' hashes tell which are damaged; each damaged one of a group is an unknown, each sound parity shard of
//! that group an equation. What is computed is held against its hash.
//!
//! The hashes keep accidents out, not enemies: whoever uses what is given back proves it as if it came from the store.
//! Allocates at most twice what it was given.

use std::ops::Range;

use super::field::{add_product, invert};
use super::{HASH_BYTES, HEAD_BYTES, Layout, MAGIC, short_hash};
use crate::error::Damaged;
use crate::format::names::PackName;
use crate::format::pack::{TRAILER_BYTES, decode_trailer};

/// So many heads are tried at most; a sound pack has two.
const HEADS_MAX: usize = 4;

/// What parity gave back of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// Damaged pieces of header, blobs and footer, each with its place and the right bytes, in ascending order.
    patches: Vec<(usize, Vec<u8>)>,
    footer: (u32, u32),
    damaged: usize,
}

impl Mended {
    /// The footer's place in the pack; the parity begins behind it.
    #[must_use]
    pub fn footer(&self) -> Range<u64> {
        u64::from(self.footer.0)..u64::from(self.footer.0) + u64::from(self.footer.1)
    }

    /// Number of damaged shards, of data or parity. Where it is 0, only the frame around the shards is damaged, if
    /// anything is.
    #[must_use]
    pub fn damaged_shards(&self) -> usize {
        self.damaged
    }

    /// Bytes that this holds, about.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.patches.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Puts the right bytes into a range of the pack that begins at `start`.
    pub fn apply(&self, start: u64, range: &mut [u8]) {
        let Ok(start) = usize::try_from(start) else { return };
        let end = start + range.len();
        for (place, bytes) in &self.patches {
            let (from, to) = (start.max(*place), end.min(place + bytes.len()));
            if from < to {
                range[from - start..to - start].copy_from_slice(&bytes[from - place..to - place]);
            }
        }
    }
}

/// Computes what is damaged in the stored bytes of the pack `name`.
///
/// # Errors
/// [`Damaged`] where the pack has no parity, or more is damaged than it can give back.
pub fn mend(name: &PackName, bytes: &[u8]) -> Result<Mended, Damaged> {
    let damaged = |place: usize, why: &str| Damaged::new(name.object(), place as u64, why);
    if decode_trailer(name, bytes.len() as u64, bytes).is_ok_and(|trailer| trailer.parity_len == 0) {
        return Err(damaged(0, "it has no parity"));
    }
    let Some((layout, table)) = find(bytes) else { return Err(damaged(0, "no parity was found in it")) };
    let hash_of = |number: usize| &table[number * HASH_BYTES..][..HASH_BYTES];
    let is_sound =
        |number: usize| bytes.get(layout.place(number)).is_some_and(|shard| short_hash(shard) == *hash_of(number));
    let mut mended = Mended { patches: Vec::new(), footer: layout.footer, damaged: 0 };
    for group in 0..layout.groups {
        let (sound, lost): (Vec<usize>, Vec<usize>) = layout.data_of(group).partition(|number| is_sound(*number));
        let mut parity: Vec<usize> = layout.parity_of(group).filter(|number| is_sound(*number)).collect();
        mended.damaged += lost.len() + layout.rows - parity.len();
        if lost.is_empty() {
            continue;
        }
        let place = layout.place(lost[0]).start;
        if parity.len() < lost.len() {
            return Err(damaged(place, "more of it is damaged than its parity gives back"));
        }
        parity.truncate(lost.len());
        let solved = solve(&layout, bytes, &sound, &lost, &parity);
        for (number, shard) in lost.iter().zip(solved.ok_or_else(|| damaged(place, "its parity can't be solved"))?) {
            if short_hash(&shard) != *hash_of(*number) {
                return Err(damaged(layout.place(*number).start, "what its parity gives is not what was stored"));
            }
            mended.patches.push((layout.place(*number).start, shard));
        }
    }
    mended.patches.sort_unstable_by_key(|(place, _)| *place);
    Ok(mended)
}

/// The lost data shards of one group from its sound ones and as many sound parity shards.
fn solve(layout: &Layout, bytes: &[u8], sound: &[usize], lost: &[usize], parity: &[usize]) -> Option<Vec<Vec<u8>>> {
    let equations = parity.iter().map(|row| lost.iter().map(|data| layout.factor(*row, *data)).collect());
    let inverted = invert(equations.collect())?;
    let mut shards: Vec<Vec<u8>> = lost.iter().map(|number| vec![0; layout.place(*number).len()]).collect();
    for (equation, row) in parity.iter().enumerate() {
        // What the lost shards add to this parity shard.
        let mut sum = bytes.get(layout.place(*row))?.to_vec();
        for data in sound {
            add_product(&mut sum, layout.factor(*row, *data), bytes.get(layout.place(*data))?);
        }
        for (shard, factors) in shards.iter_mut().zip(&inverted) {
            add_product(shard, factors[equation], &sum);
        }
    }
    Some(shards)
}

/// The layout, and a table that is whole: from the head at the end, or else from one that a search finds.
fn find(bytes: &[u8]) -> Option<(Layout, &[u8])> {
    let last = bytes.len().checked_sub(HEAD_BYTES + TRAILER_BYTES)?;
    let searched = bytes.windows(MAGIC.len()).enumerate().rev().filter(|(_, window)| window == MAGIC);
    let places = std::iter::once(last).chain(searched.map(|(place, _)| place));
    // Why so few: each may name a long table to be hashed, and the bytes choose how many there are.
    places.filter_map(|place| read_head(bytes, place)).take(HEADS_MAX).find_map(|head| with_table(bytes, head))
}

/// What the head at `place` tells of, if it is one that belongs there.
fn read_head(bytes: &[u8], place: usize) -> Option<(Layout, [u8; HASH_BYTES])> {
    let (layout, hash) = Layout::from_head(bytes.get(place..)?.first_chunk()?)?;
    (place == layout.protected() || place + HEAD_BYTES == layout.end()).then_some((layout, hash))
}

/// The first copy of the table that is whole.
fn with_table(bytes: &[u8], (layout, hash): (Layout, [u8; HASH_BYTES])) -> Option<(Layout, &[u8])> {
    let copies = [layout.protected() + HEAD_BYTES, layout.parity_end()];
    let mut tables = copies.into_iter().filter_map(|start| bytes.get(start..start + layout.table_bytes()));
    tables.find(|table| short_hash(table) == hash).map(|table| (layout, table))
}
