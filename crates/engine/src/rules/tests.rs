//! Each rule as a table: which copies count, in which order, and what stands in the way.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::format::names::PackName;
use crate::ids::{ChunkId, ObjectHash, RepositoryId, SessionId, SnapshotId};

const CHUNK: ChunkId = ChunkId([1; 32]);
const OTHER: ChunkId = ChunkId([2; 32]);
const BASE: ChunkId = ChunkId([9; 32]);

fn pack(number: u8) -> PackName {
    PackName { session: SessionId([number; 16]), counter: 0 }
}

/// A copy in the pack of this number.
fn plain(number: u8) -> Copy {
    Copy { pack: pack(number), base: None }
}

fn encoded(number: u8) -> Copy {
    Copy { pack: pack(number), base: Some(BASE) }
}

/// Pack 3 is condemned, 4 deleted, 5 lost, 6 has CHUNK damaged, 7 is condemned and lost; of 9 a member says that it is lost.
/// Others are only there.
fn standing() -> Standing {
    let mut standing = Standing::default();
    standing.condemned.extend([(pack(3), 10), (pack(4), 10), (pack(7), 12)]);
    standing.deleted.insert(pack(4), 11);
    for number in [5, 7] {
        standing.damage.insert(pack(number), PackDamage { lost: true, chunks: BTreeSet::new(), number: 9 });
    }
    standing.damage.insert(pack(6), PackDamage { lost: false, chunks: BTreeSet::from([CHUNK]), number: 9 });
    standing.claims.insert(pack(9), PackDamage { lost: true, chunks: BTreeSet::new(), number: 9 });
    standing
}

fn state() -> State {
    let mut state = State::new(RepositoryId([0; 16]));
    state.standing = Arc::new(standing());
    state
}

#[test]
fn a_pack_is_usable_and_a_copy_sound_until_somebody_says_otherwise() {
    // Pack, usable, sound for CHUNK, sound for OTHER.
    for (number, usable, sound, other) in [
        (1, true, true, true),
        (3, false, false, false),
        (4, false, false, false),
        (5, false, false, false),
        (6, true, false, true),
        (7, false, false, false),
        (9, false, false, false),
    ] {
        assert_eq!(is_usable(&standing(), &pack(number)), usable, "{number}");
        assert_eq!(is_sound(&standing(), &pack(number), &CHUNK), sound, "{number}");
        assert_eq!(is_sound(&standing(), &pack(number), &OTHER), other, "{number}");
    }
    let mut only_deleted = Standing::default();
    only_deleted.deleted.insert(pack(1), 1);
    assert!(!is_usable(&only_deleted, &pack(1)));
}

#[test]
fn a_writer_leans_on_the_first_sound_copy_whose_base_has_one() {
    // Copies, to be a base, whether the base has a plain copy; the place of the copy that is leaned on.
    let table: [(&[Copy], bool, bool, Option<usize>); 10] = [
        (&[], false, true, None),
        (&[plain(1), plain(2)], false, true, Some(0)),
        (&[plain(3), plain(4), plain(5), plain(6), plain(2)], false, true, Some(4)),
        (&[plain(3), plain(5)], false, true, None),
        (&[encoded(1), plain(2)], false, true, Some(0)),
        (&[encoded(1), plain(2)], false, false, Some(1)),
        (&[encoded(1), plain(2)], true, true, Some(1)),
        (&[encoded(1)], true, true, None),
        (&[encoded(1)], false, false, None),
        (&[encoded(3)], false, true, None),
    ];
    for (row, (copies, alone, has_base, wanted)) in table.into_iter().enumerate() {
        let mut asked = |base: &ChunkId| *base == BASE && has_base;
        let found = leans_on(&standing(), &CHUNK, copies, alone, &mut asked);
        assert_eq!(found, wanted.map(|place| &copies[place]), "row {row}");
    }
}

const LEFT: [BaseLeft; 3] = [BaseLeft::Nothing, BaseLeft::Damaged, BaseLeft::Sound];

#[test]
fn the_copy_that_stays_is_sound_first_and_plain_second_and_never_without_its_base() {
    // Of several alike the last plain one, the first encoded one. Copies, to be a base, what of the base stays (0 nothing, 1
    // a damaged copy, 2 a sound one); the copy that stays when pack 2 leaves, and whether it is sound.
    type Row = (Vec<Copy>, bool, usize, Option<(usize, bool)>);
    let (p, e) = (plain, encoded);
    let table: [Row; 22] = [
        (vec![], false, 2, None),
        (vec![p(1)], false, 2, Some((0, true))),
        (vec![p(2)], false, 2, None),
        (vec![p(3), p(4), p(7)], false, 2, None),
        (vec![e(1), p(8)], false, 2, Some((1, true))),
        (vec![p(8), e(1)], false, 2, Some((0, true))),
        (vec![p(6), e(1)], false, 2, Some((1, true))),
        (vec![e(6), p(5)], false, 2, Some((1, false))),
        (vec![e(5)], false, 2, Some((0, false))),
        (vec![p(6)], true, 2, Some((0, false))),
        (vec![e(1)], true, 2, None),
        (vec![e(1)], false, 0, None),
        (vec![e(1)], false, 1, Some((0, false))),
        (vec![e(1), p(2)], false, 0, None),
        (vec![e(1), p(6)], false, 0, Some((1, false))),
        (vec![e(1), p(6)], false, 1, Some((1, false))),
        (vec![e(1), p(6)], false, 2, Some((0, true))),
        (vec![p(1), p(8)], false, 2, Some((1, true))),
        (vec![e(1), e(8)], false, 2, Some((0, true))),
        (vec![p(5), p(6)], false, 2, Some((1, false))),
        (vec![p(9)], false, 2, Some((0, true))),
        (vec![p(1), p(9)], false, 2, Some((1, true))),
    ];
    for (row, (copies, alone, base, wanted)) in table.into_iter().enumerate() {
        let found = stays(&standing(), &CHUNK, &copies, alone, &|it| *it == pack(2), &|_| LEFT[base]);
        let wanted = wanted.map(|(place, is_sound)| Chosen { copy: &copies[place], is_sound });
        assert_eq!(found, wanted, "row {row}");
    }
}

#[test]
fn a_pack_leaves_only_where_a_sound_copy_stays() {
    // Copies of the chunk and of its base, to be a base; what is kept when packs 1 and 2 leave.
    type Row = (Vec<Copy>, Vec<Copy>, bool, fn(&[Copy]) -> Kept<'_>);
    let (p, e) = (plain, encoded);
    let table: [Row; 22] = [
        (vec![p(1), p(8)], vec![], false, |it| Kept::Stays(&it[1])),
        (vec![p(8), p(1)], vec![], false, |it| Kept::Stays(&it[0])),
        (vec![p(1)], vec![], false, |it| Kept::Returns(&it[0])),
        (vec![p(1), p(6)], vec![], false, |it| Kept::Returns(&it[0])),
        (vec![p(1), p(2), p(5)], vec![], false, |it| Kept::Returns(&it[1])),
        (vec![e(8), p(1)], vec![p(8)], false, |it| Kept::Stays(&it[0])),
        (vec![e(8), p(1)], vec![p(5)], false, |it| Kept::Returns(&it[1])),
        (vec![e(8), p(1)], vec![p(5), p(2)], false, |it| Kept::Returns(&it[1])),
        (vec![e(8)], vec![p(5), p(2)], false, |it| Kept::Returns(&it[0])),
        (vec![e(8), p(1)], vec![], false, |it| Kept::Returns(&it[1])),
        (vec![e(8), p(1)], vec![e(8)], false, |it| Kept::Returns(&it[1])),
        (vec![p(6), p(3)], vec![], false, |it| Kept::Saved(&it[1])),
        (vec![p(6), e(3)], vec![p(3)], false, |it| Kept::Saved(&it[1])),
        (vec![p(6), e(3)], vec![p(3)], true, |it| Kept::Doubtful(Some(&it[0]))),
        (vec![p(6), e(3)], vec![e(3)], false, |it| Kept::Doubtful(Some(&it[0]))),
        (vec![p(6), e(3)], vec![p(4)], false, |it| Kept::Doubtful(Some(&it[0]))),
        (vec![p(6), p(7)], vec![], false, |it| Kept::Doubtful(Some(&it[0]))),
        (vec![p(6), p(4)], vec![], false, |it| Kept::Doubtful(Some(&it[0]))),
        (vec![p(7), p(4)], vec![], false, |it| Kept::Doubtful(Some(&it[0]))),
        (vec![p(4)], vec![], false, |_| Kept::Doubtful(None)),
        (vec![p(1), p(9)], vec![], false, |it| Kept::Stays(&it[1])),
        (vec![e(8), p(1)], vec![p(8)], true, |it| Kept::Returns(&it[1])),
    ];
    for (row, (copies, bases, alone, wanted)) in table.into_iter().enumerate() {
        let leaves = |it: &PackName| [pack(1), pack(2)].contains(it);
        let found = keeps(&standing(), &CHUNK, &copies, alone, &leaves, &|_| bases.clone());
        assert_eq!(found, wanted(&copies), "row {row}");
    }
}

#[test]
fn an_undelete_rests_on_what_was_not_deleted_and_takes_what_was_never_condemned_first() {
    // Copies, to be a base, what was not deleted of the base; the copy on which the snapshot rests, and whether it is sound.
    type Row = (Vec<Copy>, bool, usize, Option<(usize, bool)>);
    let (p, e) = (plain, encoded);
    let table: [Row; 14] = [
        (vec![], false, 2, None),
        (vec![p(4)], false, 2, None),
        (vec![p(3)], false, 2, Some((0, true))),
        (vec![p(3), p(1)], false, 2, Some((1, true))),
        (vec![p(3), e(1)], false, 2, Some((1, true))),
        (vec![p(3), e(1)], false, 0, Some((0, true))),
        (vec![p(3), e(1)], false, 1, Some((0, true))),
        (vec![e(1)], false, 1, Some((0, false))),
        (vec![p(3), e(1)], true, 2, Some((0, true))),
        (vec![e(3)], true, 2, None),
        (vec![e(3), p(3)], false, 2, Some((1, true))),
        (vec![p(5), p(6), p(3)], false, 2, Some((2, true))),
        (vec![p(7), p(6)], false, 2, Some((1, false))),
        (vec![p(3), p(9)], false, 2, Some((1, true))),
    ];
    for (row, (copies, alone, base, wanted)) in table.into_iter().enumerate() {
        let found = brings_back(&state(), &CHUNK, &copies, alone, &|_| LEFT[base]);
        let wanted = wanted.map(|(place, is_sound)| Chosen { copy: &copies[place], is_sound });
        assert_eq!(found, wanted, "row {row}");
    }
}

#[test]
fn what_was_condemned_or_retired_since_is_doubtful() {
    let mut state = state();
    let (published, retired) = (ObjectHash([1; 32]), ObjectHash([2; 32]));
    state::tests::add_published(&mut state, published);
    // Entries read, segment, pack (3 was condemned by entry 10, 6 found damaged by 9), doubtful.
    for (since, segment, number, wanted) in [
        (9, published, 3, true),
        (10, published, 3, true),
        (11, published, 3, false),
        (9, published, 1, false),
        (9, published, 6, true),
        (10, published, 6, false),
        (11, retired, 1, true),
        (11, published, 7, true),
    ] {
        assert_eq!(is_doubtful(&state, since, &segment, &pack(number)), wanted, "{since} {number}");
    }
}

#[test]
fn a_commit_is_stopped_by_a_fence_by_another_publisher_and_by_a_forgotten_parent() {
    let id = |number: u8| SessionId([number; 16]);
    let parent = SnapshotId([1; 16]);
    let mut state = state();
    state.fenced.insert(id(1));
    state.finished_sessions.insert(id(2));
    let draft = |session, adopted: &[u8], parent| Draft {
        session: id(session),
        adopted: adopted.iter().map(|number| id(*number)).collect(),
        parent,
        since: 0,
    };
    for (draft, wanted) in [
        (draft(3, &[], None), None),
        (draft(3, &[4, 5], None), None),
        (draft(1, &[], None), Some(Obstacle::Fenced(id(1)))),
        (draft(3, &[4, 1], Some(parent)), Some(Obstacle::Fenced(id(1)))),
        (draft(2, &[], None), Some(Obstacle::Published(id(2)))),
        (draft(3, &[2], Some(parent)), Some(Obstacle::Published(id(2)))),
        (draft(3, &[], Some(parent)), Some(Obstacle::ParentForgotten(parent))),
    ] {
        assert_eq!(obstacle(&state, &draft), wanted, "{draft:?}");
    }
    state::tests::add_snapshot(&mut state, parent);
    let since = |since| Draft { since, ..draft(3, &[], Some(parent)) };
    assert_eq!(obstacle(&state, &since(9)), Some(Obstacle::ParentDamaged(parent)), "entry 9 found damage");
    assert_eq!(obstacle(&state, &since(10)), None);
}

#[test]
fn a_writer_rests_on_a_live_snapshot_since_which_no_damage_was_found() {
    let parent = SnapshotId([1; 16]);
    let mut state = state();
    assert!(!may_rest_on(&state, &parent), "it is not live");
    state::tests::add_snapshot(&mut state, parent);
    // Who found the damage of entry 9 (an owner or reader, or a member), number of the parent's commit, whether it will do.
    for (is_claim, number, wanted) in [(false, 8, false), (false, 10, true), (true, 8, false), (true, 10, true)] {
        let standing = Arc::make_mut(&mut state.standing);
        *standing = self::standing();
        if is_claim { &mut standing.damage } else { &mut standing.claims }.clear();
        state.snapshots[0].number = number;
        assert_eq!(may_rest_on(&state, &parent), wanted, "{is_claim} {number}");
    }
    assert!(!may_rest_on(&state, &SnapshotId([2; 16])), "another is");
}

#[test]
fn only_condemned_packs_are_deleted_only_deleted_ones_removed_and_orphans_only_behind_a_fence() {
    let mut state = state();
    let all: Vec<PackName> = (1..=7).map(pack).collect();
    assert_eq!(may_be_deleted(&state, &all), [pack(3), pack(7)]);
    let removable: Vec<PackName> = all.iter().filter(|pack| may_remove(&state, pack)).copied().collect();
    assert_eq!(removable, [pack(4)]);
    let session = SessionId([1; 16]);
    for (is_fenced, is_listed, wanted) in
        [(false, false, false), (false, true, false), (true, true, false), (true, false, true)]
    {
        state.fenced = if is_fenced { BTreeSet::from([session]) } else { BTreeSet::new() };
        assert_eq!(may_remove_orphan(&state, &session, is_listed), wanted, "{is_fenced} {is_listed}");
    }
}
