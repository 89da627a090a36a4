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
/// For one entry at most so many blobs are stored again, unless a single pack has more: listing them, and what the session
/// keeps of them until they are published, takes under 1 KB each (docs/bounds.md).
const BATCH_BLOBS_MAX: u64 = 160 * 1024;
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
}

impl Planned {
    /// Bytes that go, at once or after the undelete window.
    #[must_use]
    pub fn freed_bytes(&self) -> u64 {
        self.unused_bytes + self.rewritten_bytes.saturating_sub(self.stored_again_bytes)
    }
}

/// The plan: packs in batches, each condemned with one entry.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) planned: Planned,
    pub(super) batches: Vec<Vec<PackName>>,
}

/// Decides what goes.
pub(super) fn plan(settled: &Settled, standing: &Standing, options: &PruneOptions) -> Plan {
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
    let chosen = choose(&partly, &plan.planned, stored_again, options);
    plan.planned.rewritten_packs = chosen.len() as u64;
    plan.planned.rewritten_bytes = chosen.iter().map(|(_, usage)| usage.bytes).sum();
    plan.planned.stored_again_bytes = stored_again + chosen.iter().map(|(_, usage)| usage.live_bytes).sum::<u64>();
    plan.planned.left_bytes = (plan.planned.bytes - plan.planned.live_bytes).saturating_sub(plan.planned.freed_bytes());
    going.extend(chosen);
    plan.batches = batches(&going, options);
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
fn batches(going: &[(PackName, PackUse)], options: &PruneOptions) -> Vec<Vec<PackName>> {
    let mut batches: Vec<Vec<PackName>> = Vec::new();
    let (mut bytes, mut blobs) = (0, 0);
    for (pack, usage) in going {
        let is_full = |batch: &Vec<PackName>| {
            batch.len() >= options.batch_packs
                || bytes + usage.live_bytes > options.batch_bytes
                || blobs + usage.live_blobs > BATCH_BLOBS_MAX
        };
        match batches.last_mut().filter(|batch| !is_full(batch)) {
            Some(batch) => batch.push(*pack),
            None => {
                (bytes, blobs) = (0, 0);
                batches.push(vec![*pack]);
            }
        }
        bytes += usage.live_bytes;
        blobs += usage.live_blobs;
    }
    batches
}
