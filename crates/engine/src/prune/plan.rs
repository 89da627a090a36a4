//! Which packs go: those that nobody needs, and those of which so little is needed that storing it again pays.
//!
//! A pack that is partly needed is worth rewriting by what it frees for each byte that has to be stored again. Such packs
//! are taken, the best first, until the unused bytes that stay are within the limit, or the bytes to be rewritten are.
//! Many packs far below the usual size are merged in the same way.

use std::collections::BTreeMap;

use super::stay::{PackUse, Settled};
use super::{MaxUnused, PruneOptions};
use crate::format::names::PackName;
use crate::format::pack::BlobKind;
use crate::rules::Standing;

/// More small packs of one kind than this are merged.
const SMALL_PACKS_MAX: usize = 16;
/// At most so many blobs are listed at once, unless a single pack has more: that, and what the session keeps of them until
/// its segment is written, takes under 1 KB each (docs/bounds.md).
const BATCH_BLOBS_MAX: u64 = 160 * 1024;
/// What is stored again for one entry is at least one part in so many of the index's records or packs: judging the whole
/// index for each is then done no more than about twice as often.
const PASSES: u64 = 8;
/// Or so many bytes for each record of the index. Why: to store them again costs eight times what it costs to judge that
/// record (1 GB/s against 1 µs), and all of it is lost where the run is interrupted before the entry.
const PASS_BYTES: u64 = 8 << 10;
/// A pack below this share of the usual length is small.
const SMALL_SHARE: u64 = 4;

/// What a prune is going to do, by the index: bytes are those of blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Planned {
    /// Packs that the index names, without those that are condemned already.
    pub packs: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes in them that snapshots need.
    pub live_bytes: u64,
    /// Packs that nobody needs.
    pub unused_packs: u64,
    /// Bytes in those.
    pub unused_bytes: u64,
    /// Packs of which the needed part is stored again.
    pub rewritten_packs: u64,
    /// Bytes in those.
    pub rewritten_bytes: u64,
    /// Bytes of those that are stored again.
    pub stored_again_bytes: u64,
    /// Bytes that nobody needs and that stay, because rewriting their packs does not pay.
    pub left_bytes: u64,
    /// Chunks that may be stored anew, as their bases are there for them alone.
    pub rebased_chunks: u64,
    /// Bytes that they and their bases take.
    pub rebased_bytes: u64,
}

impl Planned {
    /// Bytes that go, at once or after the undelete window.
    #[must_use]
    pub fn freed_bytes(&self) -> u64 {
        self.unused_bytes + self.rewritten_bytes.saturating_sub(self.stored_again_bytes)
    }
}

/// The plan: packs in groups, each condemned with one entry; of a group, one batch after the other is stored again.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) planned: Planned,
    pub(super) groups: Vec<Group>,
}

/// Batches that go together.
pub(super) type Group = Vec<Batch>;

/// Packs of which the needed part is listed and stored again at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) packs: Vec<PackName>,
    /// Bytes and number of the blobs that are stored again.
    live_bytes: u64,
    live_blobs: u64,
}

/// Decides what goes, of an index of so many records, after so many bytes were stored anew.
pub(super) fn plan(settled: &Settled, standing: &Standing, options: &PruneOptions, records: u64, anew: u64) -> Plan {
    let mut plan = Plan::default();
    let mut going: Vec<(PackName, PackUse)> = Vec::new();
    let mut partly: Vec<(PackName, PackUse)> = Vec::new();
    let mut stored_again = 0;
    for (pack, usage) in &settled.uses {
        if standing.condemned.contains_key(pack) {
            // Why: what a condemned pack alone has must be stored again before the pack may go.
            if settled.only.contains(pack) {
                stored_again += usage.live_bytes;
                going.push((*pack, *usage));
            }
            continue;
        }
        plan.planned.packs += 1;
        plan.planned.bytes += usage.bytes;
        plan.planned.live_bytes += usage.live_bytes;
        if usage.live_bytes == 0 {
            plan.planned.unused_packs += 1;
            plan.planned.unused_bytes += usage.bytes;
            going.push((*pack, *usage));
        } else if !standing.damage.contains_key(pack) {
            partly.push((*pack, *usage));
        }
    }
    let chosen = choose(&partly, &plan.planned, stored_again + anew, options);
    plan.planned.rewritten_packs = chosen.len() as u64;
    plan.planned.rewritten_bytes = chosen.iter().map(|(_, usage)| usage.bytes).sum();
    plan.planned.stored_again_bytes = stored_again + chosen.iter().map(|(_, usage)| usage.live_bytes).sum::<u64>();
    plan.planned.left_bytes = (plan.planned.bytes - plan.planned.live_bytes).saturating_sub(plan.planned.freed_bytes());
    going.extend(chosen);
    plan.groups = groups(batches(&going, options), settled.uses.len() as u64, records);
    plan
}

fn unused(usage: &PackUse) -> u64 {
    usage.bytes - usage.live_bytes.min(usage.bytes)
}

/// The partly needed packs that are rewritten, best first.
fn choose(
    partly: &[(PackName, PackUse)],
    planned: &Planned,
    mut rewritten: u64,
    options: &PruneOptions,
) -> Vec<(PackName, PackUse)> {
    let mut left: u64 = partly.iter().map(|(_, usage)| unused(usage)).sum();
    let stays = planned.bytes - planned.unused_bytes;
    let limit = match options.max_unused {
        // Precision: a share of bytes needs no more than a float's 53 bits.
        MaxUnused::Share(share) => (stays as f64 * share.clamp(0.0, 1.0)) as u64,
        MaxUnused::Bytes(bytes) => bytes,
    };
    let fits = |rewritten: u64, usage: &PackUse| {
        options.max_rewrite_bytes.is_none_or(|max| rewritten.saturating_add(usage.live_bytes) <= max)
    };
    let mut by_benefit: Vec<&(PackName, PackUse)> = partly.iter().filter(|(_, usage)| unused(usage) > 0).collect();
    // Most freed for each byte stored again first: a/b > c/d as a·d > c·b.
    let product = |free: &PackUse, cost: &PackUse| u128::from(unused(free)) * u128::from(cost.live_bytes);
    by_benefit.sort_by(|(_, one), (_, other)| product(other, one).cmp(&product(one, other)));
    let mut chosen: BTreeMap<PackName, PackUse> = BTreeMap::new();
    for (pack, usage) in by_benefit {
        if left <= limit {
            break;
        }
        if fits(rewritten, usage) {
            left -= unused(usage);
            rewritten += usage.live_bytes;
            chosen.insert(*pack, *usage);
        }
    }
    for (pack, usage) in small(partly, options) {
        if !chosen.contains_key(&pack) && fits(rewritten, &usage) {
            rewritten += usage.live_bytes;
            chosen.insert(pack, usage);
        }
    }
    chosen.into_iter().collect()
}

/// Small packs of each kind, where there are many.
fn small(partly: &[(PackName, PackUse)], options: &PruneOptions) -> Vec<(PackName, PackUse)> {
    let mut all = Vec::new();
    for (kind, length) in [(BlobKind::Data, options.pack_bytes), (BlobKind::Tree, options.pack_bytes / 2)] {
        let is_small = |usage: &PackUse| usage.kind == kind && usage.bytes < length as u64 / SMALL_SHARE;
        let small: Vec<_> = partly.iter().filter(|(_, usage)| is_small(usage)).copied().collect();
        if small.len() > SMALL_PACKS_MAX {
            all.extend(small);
        }
    }
    all
}

/// Cuts the packs that go into batches of so many packs, and bytes and blobs to be stored again.
fn batches(going: &[(PackName, PackUse)], options: &PruneOptions) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for (pack, usage) in going {
        let is_full = |batch: &Batch| {
            batch.packs.len() >= options.batch_packs
                || batch.live_bytes + usage.live_bytes > options.batch_bytes
                || batch.live_blobs + usage.live_blobs > BATCH_BLOBS_MAX
        };
        if batches.last().is_none_or(is_full) {
            batches.push(Batch::default());
        }
        let batch = batches.last_mut().expect("one was pushed");
        batch.packs.push(*pack);
        batch.live_bytes += usage.live_bytes;
        batch.live_blobs += usage.live_blobs;
    }
    batches
}

/// Puts batches together, so that the whole index, which is judged for each entry, is not judged more often than what is
/// stored again is worth.
fn groups(batches: Vec<Batch>, packs: u64, records: u64) -> Vec<Group> {
    let is_full = |group: &Group| {
        let sum = |count: fn(&Batch) -> u64| group.iter().map(count).sum::<u64>();
        sum(|batch| batch.packs.len() as u64) * PASSES >= packs
            || sum(|batch| batch.live_blobs) * PASSES >= records
            || sum(|batch| batch.live_bytes) >= records.saturating_mul(PASS_BYTES)
    };
    let mut groups: Vec<Group> = Vec::new();
    for batch in batches {
        match groups.last_mut().filter(|group| !is_full(group)) {
            Some(group) => group.push(batch),
            None => groups.push(vec![batch]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    fn going(packs: u64, live_blobs: u64, live_bytes: u64) -> Vec<(PackName, PackUse)> {
        let pack = |counter| PackName { session: SessionId([1; 16]), counter };
        let usage = PackUse { kind: BlobKind::Data, bytes: 2 * live_bytes, live_bytes, live_blobs };
        (0..packs).map(|counter| (pack(counter), usage)).collect()
    }

    /// Groups of packs that all go, each with so much that stays.
    fn grouped(packs: u64, live_blobs: u64, live_bytes: u64, records: u64) -> Vec<Group> {
        let options = PruneOptions { batch_packs: 10, ..PruneOptions::default() };
        let going = going(packs, live_blobs, live_bytes);
        let groups = groups(batches(&going, &options), packs, records);
        let packs: Vec<PackName> = groups.iter().flatten().flat_map(|batch| batch.packs.clone()).collect();
        assert_eq!(packs, going.iter().map(|(pack, _)| *pack).collect::<Vec<_>>(), "each once, in order");
        groups
    }

    #[test]
    fn the_number_of_groups_does_not_grow_with_the_number_of_batches() {
        for packs in [100, 10_000, 1_000_000] {
            assert!((1..=8).contains(&grouped(packs, 0, 0, packs * 100).len()), "{packs} that nobody needs");
            assert!((1..=8).contains(&grouped(packs, 50, 5_000, packs * 100).len()), "{packs} half needed");
            assert!((1..=16).contains(&grouped(packs, 100, 10_000, packs * 100).len()), "{packs} whole");
        }
    }

    #[test]
    fn a_group_is_not_longer_than_what_judging_it_is_worth() {
        // 10,000 packs of 20 chunks of 1 MiB: a group is done once it has cost eight passes.
        let mebibyte = 1 << 20;
        let groups = grouped(10_000, 20, 20 * mebibyte, 200_000);
        for group in &groups {
            let bytes: u64 = group.iter().map(|batch| batch.live_bytes).sum();
            assert!(bytes < 200_000 * PASS_BYTES + 10 * 20 * mebibyte, "{bytes}");
        }
        assert!(groups.len() <= 128, "{}", groups.len());
        assert!(grouped(0, 0, 0, 0).is_empty());
    }

    #[test]
    fn a_batch_has_no_more_than_it_may() {
        let options = PruneOptions { batch_packs: 10, batch_bytes: 1_000, ..PruneOptions::default() };
        let count = |going: &[_]| batches(going, &options).iter().map(|batch| batch.packs.len()).collect::<Vec<_>>();
        assert_eq!(count(&going(25, 1, 10)), [10, 10, 5]);
        assert_eq!(count(&going(5, 1, 400)), [2, 2, 1]);
        assert_eq!(count(&going(2, 1, 4_000)), [1, 1], "one alone may have more");
        assert_eq!(count(&going(3, BATCH_BLOBS_MAX / 2, 1)), [2, 1]);
    }
}
