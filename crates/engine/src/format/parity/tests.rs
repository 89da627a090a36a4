//! What parity gives back and what not: every byte, every cut, runs of damage, scattered damage, and heads that lie.

use super::*;
use crate::error::Damaged;
use crate::format::golden::{PACK, golden, sealed_pack, sealed_pack_with};
use crate::format::pack::check_pack;

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// As much of a pack as parity looks at: bytes that nobody knows, parity and a trailer.
fn pack(protected: usize, share: f64) -> (Vec<u8>, Layout) {
    let footer_len = (protected - 64).min(100);
    let footer = (field(protected - footer_len), field(footer_len));
    let mut bytes = noise(protected as u64, protected);
    let parity = Parity::of_share(share).unwrap();
    let made = of(&bytes, footer, parity);
    bytes.extend_from_slice(&made);
    for field in [footer.0, footer.1, field(made.len()), 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(b"SWPEND01\0\0\0\0\0\0\0\0");
    let hash = object_hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    (bytes, Layout::choose(parity, footer))
}

/// Mends `damaged` and holds what comes of it against the pack that it was.
fn mend_to(whole: &[u8], layout: &Layout, damaged: &[u8]) -> Result<Mended, Damaged> {
    let mended = mend(&PACK, damaged)?;
    assert_eq!((mended.footer().start, mended.footer().end), (u64::from(layout.footer.0), layout.protected() as u64));
    let mut bytes = damaged[..layout.protected()].to_vec();
    mended.apply(0, &mut bytes);
    assert!(bytes == whole[..layout.protected()], "other bytes than were stored");
    Ok(mended)
}

#[track_caller]
fn assert_lost(result: Result<Mended, Damaged>) {
    let why = result.expect_err("more was damaged than parity can give back").why;
    assert_eq!(why, "more of it is damaged than its parity gives back");
}

/// The longest run of damage that is mended wherever it lies.
fn strength(layout: &Layout) -> usize {
    (layout.parity() - 1) * layout.shard + 1
}

/// golden.py makes the same from format.md alone.
#[test]
fn golden_bytes() {
    let (plain, records) = sealed_pack();
    let (bytes, with_parity) = sealed_pack_with(Parity::of_share(0.02));
    assert!(bytes == golden("pack-parity"), "{} bytes, expected {}", bytes.len(), golden("pack-parity").len());
    assert_eq!(with_parity, records);
    let trailer = check_pack(&PACK, &bytes).unwrap();
    let footer = (trailer.footer_offset, trailer.footer_len);
    let protected = (footer.0 + footer.1) as usize;
    assert_eq!(plain[..protected], bytes[..protected], "what is protected does not depend on the parity");

    // A layout that the writer does not choose: readers take it.
    let golden = golden("pack-parity-groups");
    let layout = Layout { shard: 64, data: 9, groups: 3, rows: 3, footer };
    let mut bytes = plain[..protected].to_vec();
    bytes.extend(of_layout(&layout, &bytes));
    assert!(bytes[..] == golden[..bytes.len()]);
    assert_eq!(bytes.len() + 64, golden.len());
    let mut damaged = golden.clone();
    [0, 70, 200, 500].iter().for_each(|&place: &usize| damaged[place] ^= 1);
    assert_eq!(mend_to(&golden, &layout, &damaged).unwrap().damaged_shards(), 4);
}

#[test]
fn every_byte_of_small_packs_may_be_damaged() {
    for protected in [65, 700, 4096, 4097, 9_000, 20_000] {
        let (whole, layout) = pack(protected, 0.02);
        assert_eq!(mend_to(&whole, &layout, &whole).unwrap().damaged_shards(), 0);
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << (place % 8);
            let mended = mend_to(&whole, &layout, &damaged).unwrap();
            let is_in_shard = (0..layout.data + layout.parity()).any(|shard| layout.place(shard).contains(&place));
            assert_eq!(mended.damaged_shards(), usize::from(is_in_shard), "{protected}: byte {place}");
            assert_eq!(mended.held_bytes() > 0, place < protected);
        }
    }
}

/// What was cut off was parity only, or it can't be had back.
#[test]
fn a_pack_may_be_cut_behind_its_first_table() {
    let (whole, layout) = pack(9_000, 0.02);
    let needed = layout.protected() + HEAD_BYTES + layout.table_bytes();
    for length in 0..whole.len() {
        assert_eq!(mend_to(&whole, &layout, &whole[..length]).is_ok(), length >= needed, "{length}");
    }
    let longer = [&whole[..], &[0; 100]].concat();
    mend_to(&whole, &layout, &longer).unwrap();
}

/// A run of damage as long as format.md says is mended wherever it begins; one byte more is lost where it hits one shard
/// more.
#[test]
fn runs_of_damage() {
    let scenes = [
        (700, 0.02, 61),
        (20_000, 0.02, 509),
        (100_000, 0.1, 2_003),
        (1 << 20, 0.02, 8_191),
        (1_500_000, 0.05, 16_381),
    ];
    for (protected, share, step) in scenes {
        let (whole, layout) = pack(protected, share);
        let longest = strength(&layout);
        let run = |start: usize, length: usize| {
            let mut damaged = whole.clone();
            damaged.iter_mut().skip(start).take(length).for_each(|byte| *byte ^= 0xff);
            mend_to(&whole, &layout, &damaged)
        };
        let shards = (0..layout.data + layout.parity()).map(|number| layout.place(number));
        let edges = [layout.protected(), layout.parity_start(), layout.parity_end(), layout.end()];
        let mut starts: Vec<usize> = (0..whole.len()).step_by(step).chain(shards.map(|place| place.end)).collect();
        starts.extend(edges.iter().flat_map(|edge| [edge.saturating_sub(longest), edge - 1]));
        for start in starts.iter().flat_map(|start| [start.saturating_sub(1), *start]) {
            run(start, longest).unwrap_or_else(|error| panic!("{protected}: {longest} from {start}: {error}"));
        }
        if layout.data > layout.parity() {
            assert_lost(run(layout.shard - 1, longest + 1));
        }
    }
}

/// Any `rows` shards of every group may be damaged at once, whichever they are; one more is too many.
#[test]
fn scattered_damage() {
    for (protected, share) in [(20_000, 0.02), (1_000_000, 0.02), (600_000, 0.1), (300_000, 0.5), (900_000, 0.01)] {
        let (whole, layout) = pack(protected, share);
        for seed in 0..20 {
            let choice = noise(seed, 2 * (layout.data + layout.parity()));
            let mut damaged = whole.clone();
            let mut hit = |number: usize| {
                let place = layout.place(number);
                damaged[place.start + usize::from(choice[number]) % place.len()] ^= 0x10;
            };
            let mut spare = None;
            for group in 0..layout.groups {
                let mut shards: Vec<usize> = layout.data_of(group).chain(layout.parity_of(group)).collect();
                shards.sort_by_key(|number| &choice[2 * number..2 * number + 2]);
                shards.drain(..layout.rows).for_each(&mut hit);
                spare = spare.or_else(|| shards.into_iter().find(|number| *number < layout.data));
            }
            let mended = mend_to(&whole, &layout, &damaged).unwrap();
            assert_eq!(mended.damaged_shards(), layout.parity(), "{protected} {share}");
            if let Some(number) = spare {
                damaged[layout.place(number).start] ^= 1;
                assert_lost(mend(&PACK, &damaged));
            }
        }
    }
}

#[test]
fn ranges_are_patched_where_they_overlap() {
    let (whole, layout) = pack(50_000, 0.05);
    let mut damaged = whole.clone();
    [0, 5_000, 5_001, 49_999].iter().for_each(|&place: &usize| damaged[place] ^= 7);
    let mended = mend_to(&whole, &layout, &damaged).unwrap();
    for (start, end) in
        [(0, 1), (0, 50_000), (4_000, 6_000), (5_000, 5_002), (5_001, 5_001), (8_192, 8_193), (45_000, 50_000)]
    {
        let mut range = damaged[start..end].to_vec();
        mended.apply(start as u64, &mut range);
        assert!(range == whole[start..end], "{start}..{end}");
    }
}

#[test]
fn a_share_becomes_groups() {
    let cases = [(0.01, 200, 2), (0.02, 100, 2), (0.025, 120, 3), (0.05, 100, 5), (0.1, 100, 10), (0.5, 32, 16)];
    for (share, group, rows) in cases {
        assert_eq!(Parity::of_share(share), Some(Parity { group, rows }), "{share}");
    }
    for share in [0.0, 0.009, 0.51, 1.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(Parity::of_share(share), None, "{share}");
    }
}

/// What parity costs in packs of the lengths that are written: at most three percent of a pack above the share that was
/// asked for: hashes, and groups that are not full.
#[test]
fn the_share_is_kept() {
    for share in [0.01, 0.02, 0.05, 0.2, 0.5] {
        for mib in [4, 16, 24, 64, 128] {
            let layout = Layout::choose(Parity::of_share(share).unwrap(), (64, field(mib * MIB)));
            let overhead = (layout.end() - layout.protected()) as f64 / layout.protected() as f64;
            assert!((share..share + 0.03).contains(&overhead), "{share} of {mib} MiB: {overhead}");
            assert!((layout.data + layout.parity()).div_ceil(layout.groups) <= GROUP_SHARDS_MAX);
            assert!(layout.end() as u64 <= PACK_BYTES_MAX);
        }
    }
}

/// A head whose hash is right and whose numbers are not: nothing is believed, nothing large is allocated.
#[test]
fn heads_that_lie() {
    let (whole, layout) = pack(20_000, 0.02);
    let place = layout.protected();
    let head: [u8; HEAD_BYTES] = bytes_at(&whole, place);
    let values = [0, 1, 2, 63, 64, 255, 256, 4096, 1 << 20, (1 << 20) + 64, 1 << 28, u32::MAX - 63, u32::MAX];
    for field in 0..6 {
        for value in values {
            let mut lying = head;
            lying[8 + 4 * field..12 + 4 * field].copy_from_slice(&u32::to_le_bytes(value));
            let hash = short_hash(&lying[..48]);
            lying[48..].copy_from_slice(&hash);
            if lying == head {
                continue;
            }
            let mut bytes = whole.clone();
            bytes.truncate(layout.parity_end());
            bytes[place..place + HEAD_BYTES].copy_from_slice(&lying);
            assert!(mend(&PACK, &bytes).is_err(), "field {field}: {value}");
        }
    }
}

#[test]
fn what_has_no_parity_says_so() {
    let mut bytes = noise(1, 1_000);
    for field in [900u32, 100, 0, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(b"SWPEND01\0\0\0\0\0\0\0\0");
    bytes.extend_from_slice(&[0; 32]);
    assert_eq!(mend(&PACK, &bytes).unwrap_err().why, "it has no parity");
    for length in [0, 10, 127, 128, 1_000] {
        assert_eq!(mend(&PACK, &bytes[..length]).unwrap_err().why, "no parity was found in it");
    }
}
