//! The log's state machine as tables: who may write what, which entries are void and why, and what each act does.

use super::*;
use crate::clock::Timestamp;
use crate::format::names::SegmentName;
use crate::rules::is_usable;

const OWNER: MemberId = MemberId([1; 16]);
const READER: MemberId = MemberId([2; 16]);
const MEMBER: MemberId = MemberId([3; 16]);
const NOBODY: MemberId = MemberId([4; 16]);

fn member(id: MemberId, role: Role) -> MemberRecord {
    MemberRecord {
        id,
        public_key: [id.0[0]; 32],
        role,
        label: String::new(),
        wrap_public: None,
        slot: None,
        slot_hash: None,
    }
}

fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn pack(number: u8) -> PackName {
    PackName { session: session(number), counter: 0 }
}

fn shot(number: u8) -> SnapshotId {
    SnapshotId([number; 16])
}

fn segment(owner: u8, counter: u64) -> SegmentRecord {
    let hash = ObjectHash([owner * 16 + counter as u8; 32]);
    SegmentRecord { name: SegmentName { session: session(owner), counter }, hash, records: 1, bytes: 1 }
}

const TWO_NAMES: &str = "it gives two segments one name, or a segment two";

/// As [`segment`], with another hash.
fn other_hash(owner: u8, counter: u64) -> SegmentRecord {
    SegmentRecord { hash: ObjectHash([0xFF; 32]), ..segment(owner, counter) }
}

/// As [`segment`], under another name.
fn other_name(owner: u8, counter: u64) -> SegmentRecord {
    let name = SegmentName { session: session(owner), counter: counter + 1 };
    SegmentRecord { name, ..segment(owner, counter) }
}

/// A snapshot that says nothing but its id.
pub(in crate::rules) fn record(id: SnapshotId) -> SnapshotRecord {
    SnapshotRecord {
        id,
        time: Timestamp { seconds: 0, nanos: 0 },
        host: String::new(),
        user: String::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        root: ChunkId([0; 32]),
        entries: 0,
        files: 0,
        bytes: 0,
        labels: Vec::new(),
        program: String::new(),
        problems: 0,
        parent: None,
        bytes_read: 0,
        bytes_stored: 0,
        duration_ms: 0,
    }
}

/// Puts a live snapshot into a state, for the tests of the rules.
pub(in crate::rules) fn add_snapshot(state: &mut State, id: SnapshotId) {
    state.snapshots.push(Snapshot { record: record(id), number: 0, member: OWNER, claimed_ms: 0 });
}

/// Makes a segment published, for the tests of the rules.
pub(in crate::rules) fn add_published(state: &mut State, segment: ObjectHash) {
    state.published.insert(segment, SegmentName { session: session(9), counter: 9 });
}

fn init() -> Act {
    Act::Init { marker: ObjectHash([7; 32]), member: member(OWNER, Role::Owner), data_public: [1; 32], generation: 0 }
}

/// A commit by a session, with its segment 0, of the snapshot of the same number.
fn commit(number: u8) -> Act {
    commit_of(number, number, vec![segment(number, 0)], &[])
}

fn commit_of(by: u8, snapshot: u8, segments: Vec<SegmentRecord>, adopted: &[u8]) -> Act {
    let adopted = adopted.iter().map(|number| session(*number)).collect();
    Act::Commit { session: session(by), segments, snapshot: Box::new(record(shot(snapshot))), adopted }
}

fn forget(numbers: &[u8]) -> Act {
    Act::Forget { snapshots: numbers.iter().map(|number| shot(*number)).collect(), reason: "why".into() }
}

fn hold(number: u8, label: &str, release: bool) -> Act {
    Act::Hold { snapshots: vec![shot(number)], label: label.into(), release }
}

fn condemn(numbers: &[u8]) -> Act {
    Act::Condemn { packs: packs(numbers), session: None, segments: Vec::new() }
}

fn condemn_by(by: u8, segments: Vec<SegmentRecord>) -> Act {
    Act::Condemn { packs: Vec::new(), session: Some(session(by)), segments }
}

fn delete(numbers: &[u8]) -> Act {
    Act::Delete { packs: packs(numbers) }
}

fn fence(number: u8) -> Act {
    Act::Fence { sessions: vec![session(number)] }
}

fn undelete(snapshot: u8, numbers: &[u8]) -> Act {
    Act::Undelete { snapshots: vec![shot(snapshot)], packs: packs(numbers) }
}

fn remap(by: Option<u8>, segments: Vec<SegmentRecord>, retired: &[SegmentRecord], gone: &[u8]) -> Act {
    let retired = retired.iter().map(|segment| segment.name).collect();
    Act::Remap { session: by.map(session), segments, retired, gone: packs(gone) }
}

fn audit(lost: &[u8], damaged: &[u8], sound: &[u8]) -> Act {
    let damaged = damaged.iter().map(|number| BlobDamage { pack: pack(*number), chunk: ChunkId([1; 32]) }).collect();
    Act::Audit { depth: 2, bytes: 0, lost: packs(lost), damaged, sound: packs(sound) }
}

fn rotate(generation: u32) -> Act {
    Act::Key(KeyChange::Rotate { data_public: [generation as u8; 32], generation, grants: Vec::new() })
}

fn admit(id: MemberId, role: Role) -> Act {
    Act::Key(KeyChange::Admit(member(id, role)))
}

fn packs(numbers: &[u8]) -> Vec<PackName> {
    numbers.iter().map(|number| pack(*number)).collect()
}

fn entry(state: &State, member: MemberId, act: Act) -> LogEntry {
    LogEntry { number: state.next, previous: state.head, repository: state.repository, member, time_ms: 5, act }
}

fn apply(state: &mut State, member: MemberId, act: Act) -> Result<(), String> {
    let entry = entry(state, member, act);
    state.apply(&entry, ObjectHash([state.next as u8; 32]), |key| *key == [member.0[0]; 32])
}

/// The state after an owner wrote these acts, each of which counts.
fn after(acts: impl IntoIterator<Item = Act>) -> State {
    let mut state = State::new(RepositoryId([0; 16]));
    for act in std::iter::once(init()).chain(acts) {
        let name = act.name();
        apply(&mut state, OWNER, act).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    state
}

fn live(state: &State) -> Vec<u8> {
    state.snapshots.iter().map(|snapshot| snapshot.record.id.0[0]).collect()
}

#[test]
fn each_role_may_write_what_the_format_says() {
    // Act, and whether a reader or member may write it. An owner may write all but a second INIT.
    let table = [
        (init(), false),
        (commit(1), true),
        (forget(&[]), false),
        (hold(1, "", false), true),
        (hold(1, "", true), false),
        (audit(&[], &[], &[]), true),
        (condemn(&[]), false),
        (fence(1), false),
        (remap(None, Vec::new(), &[], &[]), false),
        (admit(NOBODY, Role::Member), false),
        (Act::Key(KeyChange::Revoke(READER)), false),
        (rotate(1), false),
        (undelete(1, &[]), false),
        (delete(&[]), false),
    ];
    for (act, others) in table {
        let is_init = matches!(act, Act::Init { .. });
        for (role, id, wanted) in
            [(Role::Owner, OWNER, !is_init), (Role::Reader, READER, others), (Role::Member, MEMBER, others)]
        {
            assert_eq!(may(role, &act), wanted, "{role:?} {}", act.name());
            let mut state = after([admit(READER, Role::Reader), admit(MEMBER, Role::Member)]);
            let before = state.clone();
            assert_eq!(state.refusal(&entry(&state, id, act.clone())).is_none(), wanted, "{role:?} {}", act.name());
            assert_eq!(apply(&mut state, id, act.clone()).is_ok(), wanted, "{role:?} {}", act.name());
            if !wanted {
                let untouched = State { next: before.next + 1, head: state.head, voids: state.voids.clone(), ..before };
                assert_eq!(state, untouched, "a void entry changes nothing else");
                assert_eq!(state.voids.len(), 1);
            }
        }
    }
}

#[test]
fn an_entry_is_void_for_each_reason_there_is() {
    let base = || {
        after([
            admit(READER, Role::Reader),
            commit(1),
            commit(2),
            condemn_by(6, vec![segment(6, 0)]),
            fence(8),
            condemn(&[1, 2]),
            delete(&[2]),
            forget(&[2]),
        ])
    };
    let table = [
        (OWNER, init(), "an INIT that does not begin the log"),
        (NOBODY, commit(3), "signed by somebody who is not a member"),
        (READER, forget(&[1]), "the signer's role does not allow it"),
        (OWNER, commit(8), "the session was fenced"),
        (OWNER, commit_of(3, 3, Vec::new(), &[4, 8]), "the session was fenced"),
        (OWNER, commit_of(3, 3, vec![segment(4, 0)], &[]), "it publishes another session's segments"),
        (OWNER, commit_of(1, 3, Vec::new(), &[]), "its session, or one that it adopts, was published before"),
        (OWNER, commit_of(3, 3, Vec::new(), &[4, 2]), "its session, or one that it adopts, was published before"),
        (OWNER, commit_of(6, 3, Vec::new(), &[]), "its session, or one that it adopts, was published before"),
        (OWNER, commit_of(3, 3, vec![segment(3, 0), other_hash(3, 0)], &[]), TWO_NAMES),
        (OWNER, commit_of(3, 3, vec![segment(3, 0), other_name(3, 0)], &[]), TWO_NAMES),
        (OWNER, commit_of(3, 1, Vec::new(), &[]), "a snapshot of that id is there already"),
        (OWNER, commit_of(3, 2, Vec::new(), &[]), "a snapshot of that id is there already"),
        (OWNER, condemn_by(8, vec![segment(8, 0)]), "the collector's session was fenced"),
        (OWNER, condemn_by(5, vec![segment(7, 0)]), "it publishes another session's segments"),
        (OWNER, remap(Some(8), vec![segment(8, 0)], &[], &[]), "the collector's session was fenced"),
        (OWNER, remap(None, vec![segment(6, 0)], &[], &[]), "it publishes another session's segments"),
        (OWNER, undelete(2, &[1, 2]), "a pack that it needs is deleted"),
        (OWNER, admit(READER, Role::Owner), "a member of that id was admitted before"),
        (OWNER, Act::Key(KeyChange::Revoke(NOBODY)), "it revokes nobody"),
        (OWNER, Act::Key(KeyChange::Revoke(OWNER)), "the last owner can't be revoked"),
        (OWNER, rotate(0), "it is not the next generation of the data key"),
        (OWNER, rotate(2), "it is not the next generation of the data key"),
    ];
    for (signer, act, why) in table {
        let mut state = base();
        assert_eq!(state.refusal(&entry(&state, signer, act.clone())), Some(why), "{}", act.name());
        let number = state.next;
        assert_eq!(apply(&mut state, signer, act), Err(why.to_owned()));
        assert_eq!((state.next, state.voids.last()), (number + 1, Some(&(number, why.to_owned()))));
    }
    let counts = [
        commit_of(3, 3, vec![segment(3, 0), segment(4, 0)], &[4]),
        commit_of(3, 3, vec![segment(3, 0), segment(3, 0)], &[3]),
        condemn_by(6, vec![segment(6, 1)]),
        condemn_by(5, vec![segment(5, 0)]),
        remap(Some(5), vec![segment(5, 0)], &[], &[]),
        undelete(2, &[1]),
        rotate(1),
    ];
    for act in counts {
        assert_eq!(apply(&mut base(), OWNER, act.clone()), Ok(()), "{}", act.name());
    }
}

#[test]
fn a_wrong_signature_and_a_first_entry_of_somebody_else_are_void() {
    let mut state = after([]);
    let forged = entry(&state, OWNER, commit(1));
    let wrong = state.apply(&forged, ObjectHash([0; 32]), |_| false);
    assert_eq!(wrong, Err("the signature is wrong".to_owned()));
    for (signer, is_signed) in [(READER, true), (OWNER, false)] {
        let mut empty = State::new(RepositoryId([0; 16]));
        let first = entry(&empty, signer, init());
        assert!(empty.apply(&first, ObjectHash([0; 32]), |_| is_signed).is_err());
        assert!(empty.members.is_empty());
    }
}

#[test]
fn members_come_and_go_and_the_last_owner_stays() {
    let mut state = after([admit(READER, Role::Owner), admit(MEMBER, Role::Member)]);
    assert_eq!(state.active(&MEMBER).map(|it| it.role), Some(Role::Member));
    assert!(apply(&mut state, OWNER, Act::Key(KeyChange::Revoke(MEMBER))).is_ok());
    assert_eq!((state.active(&MEMBER), state.members[&MEMBER].revoked), (None, Some(3)));
    assert_eq!(apply(&mut state, MEMBER, commit(1)), Err("signed by a member who was revoked".to_owned()));
    assert!(apply(&mut state, OWNER, Act::Key(KeyChange::Revoke(MEMBER))).is_ok());
    assert_eq!(state.members[&MEMBER].revoked, Some(3), "the first time counts");
    assert!(apply(&mut state, OWNER, Act::Key(KeyChange::Revoke(OWNER))).is_ok(), "there is another owner");
    let last = Act::Key(KeyChange::Revoke(READER));
    assert_eq!(apply(&mut state, READER, last), Err("the last owner can't be revoked".to_owned()));
    assert_eq!((state.members[&OWNER].admitted, state.members[&MEMBER].admitted), (0, 2));
}

#[test]
fn of_each_member_the_newest_entry_that_counts_is_known() {
    let mut state = after([admit(READER, Role::Reader), admit(MEMBER, Role::Member)]);
    for (signer, act, counts) in [
        (READER, commit(1), true),
        (READER, commit(2), true),
        (READER, forget(&[1]), false),
        (NOBODY, commit(3), false),
    ] {
        let late = LogEntry { time_ms: state.next as i64 * 10, ..entry(&state, signer, act) };
        let is_applied = state.apply(&late, ObjectHash([0; 32]), |_| true).is_ok();
        assert_eq!(is_applied, counts, "{}", late.act.name());
    }
    assert_eq!(state.last_entries, HashMap::from([(OWNER, (2, 5)), (READER, (4, 40))]));
}

#[test]
fn generations_of_the_data_key_follow_one_another() {
    let mut state = after([rotate(1), rotate(2)]);
    assert_eq!(state.generation(), 2);
    assert!(apply(&mut state, OWNER, rotate(2)).is_err() && apply(&mut state, OWNER, rotate(4)).is_err());
    let generations: Vec<_> = state.data_keys.iter().map(|key| (key.generation, key.public)).collect();
    assert_eq!(generations, [(0, [1; 32]), (1, [1; 32]), (2, [2; 32])]);
    assert_eq!(State::new(RepositoryId([0; 16])).generation(), 0);
    let grants = vec![Grant { member: READER, encapsulated: [1; 32], ciphertext: [2; 48] }];
    let granted = KeyChange::Rotate { data_public: [3; 32], generation: 3, grants: grants.clone() };
    apply(&mut state, OWNER, Act::Key(granted)).unwrap();
    assert_eq!(state.data_keys[3], DataKey { generation: 3, public: [3; 32], grants });
    // After the last number there is no next one, and no first one again.
    state.data_keys.last_mut().unwrap().generation = u32::MAX;
    assert!(apply(&mut state, OWNER, rotate(0)).is_err() && apply(&mut state, OWNER, rotate(u32::MAX)).is_err());
}

#[test]
fn a_commit_publishes_finishes_and_is_listed() {
    let mut state = after([]);
    assert_eq!(state.marker, Some(ObjectHash([7; 32])));
    apply(&mut state, OWNER, commit_of(1, 1, vec![segment(1, 0), segment(2, 0)], &[2])).unwrap();
    assert!(state.is_published(&segment(1, 0).hash) && state.is_published(&segment(2, 0).hash));
    assert!(!state.is_published(&segment(3, 0).hash));
    assert_eq!(state.finished_sessions, HashSet::from([session(1), session(2)]));
    let snapshot = state.snapshot(&shot(1)).unwrap();
    assert_eq!((snapshot.number, snapshot.member, snapshot.claimed_ms), (1, OWNER, 5));
    assert_eq!((state.next, state.head), (2, Some(ObjectHash([1; 32]))));
    assert_eq!(state.snapshot(&shot(2)), None);
    apply(&mut state, OWNER, condemn_by(5, vec![segment(5, 0)])).unwrap();
    apply(&mut state, OWNER, remap(Some(6), vec![segment(6, 0), segment(6, 0)], &[], &[])).unwrap();
    assert!(state.finished_sessions.contains(&session(5)) && state.finished_sessions.contains(&session(6)));
    assert_eq!(state.segments.len(), 4, "no segment is listed twice");
}

#[test]
fn a_held_snapshot_is_not_forgotten_until_every_hold_is_lifted() {
    let mut state = after([commit(1), commit(2), hold(1, "law", false), hold(1, "tax", false), hold(9, "x", false)]);
    assert!(!state.holds.contains_key(&shot(9)), "what is not there is not held");
    for (lifted, wanted) in [(None, &[1][..]), (Some("law"), &[1]), (Some("none"), &[1]), (Some("tax"), &[])] {
        if let Some(label) = lifted {
            apply(&mut state, OWNER, hold(1, label, true)).unwrap();
        }
        apply(&mut state, OWNER, forget(&[1, 2])).unwrap();
        assert_eq!(live(&state), wanted, "{lifted:?}");
    }
    assert!(state.holds.is_empty());
    assert_eq!(state.newest_forget, Some((12, "why".to_owned())), "of the newest, whether it found something or not");
    let forgotten = &state.forgotten[&shot(2)];
    assert_eq!((forgotten.number, forgotten.reason.as_str(), forgotten.snapshot.number), (6, "why", 2));
}

#[test]
fn packs_are_condemned_deleted_and_gone_in_that_order() {
    /// Acts after a commit; then of pack 1: condemned by, deleted by, usable.
    type Row = (Vec<Act>, Option<u64>, Option<u64>, bool);
    let table: [Row; 8] = [
        (vec![], None, None, true),
        (vec![condemn(&[1])], Some(2), None, false),
        (vec![condemn(&[1]), condemn(&[1])], Some(2), None, false),
        (vec![delete(&[1])], None, None, true),
        (vec![condemn(&[1]), delete(&[1])], Some(2), Some(3), false),
        (vec![condemn(&[1]), undelete(1, &[1])], None, None, true),
        (vec![condemn(&[1]), undelete(1, &[1]), condemn(&[1])], Some(4), None, false),
        (vec![condemn(&[1]), delete(&[1]), audit(&[1], &[], &[]), remap(None, vec![], &[], &[1])], None, None, true),
    ];
    for (row, (acts, condemned, deleted, usable)) in table.into_iter().enumerate() {
        let state = after(std::iter::once(commit(1)).chain(acts));
        assert_eq!(state.standing.condemned.get(&pack(1)).copied(), condemned, "row {row}");
        assert_eq!(state.standing.deleted.get(&pack(1)).copied(), deleted, "row {row}");
        assert_eq!(is_usable(&state.standing, &pack(1)), usable, "row {row}");
    }
}

#[test]
fn what_was_forgotten_comes_back_in_its_place_unless_its_packs_are_deleted() {
    let mut state = after([commit(1), commit(2), commit(3), forget(&[2]), condemn(&[2]), undelete(2, &[2])]);
    assert_eq!(live(&state), [1, 2, 3]);
    assert!(state.forgotten.is_empty() && state.standing.condemned.is_empty());
    // Forgotten before pack 2 was condemned, and after it.
    for act in [forget(&[2]), condemn(&[2, 9]), forget(&[3]), condemn(&[3]), forget(&[1])] {
        apply(&mut state, OWNER, act).unwrap();
    }
    apply(&mut state, OWNER, delete(&[8])).unwrap();
    assert_eq!(state.forgotten.len(), 3, "nothing was deleted");
    apply(&mut state, OWNER, delete(&[2, 9])).unwrap();
    assert_eq!(state.forgotten.keys().copied().collect::<Vec<_>>(), [shot(1), shot(3)]);
    // The pack that was condemned last counts, wherever it is named.
    for packs in [[2, 3], [3, 2]] {
        let mut state = state.clone();
        apply(&mut state, OWNER, delete(&packs)).unwrap();
        assert_eq!(state.forgotten.keys().copied().collect::<Vec<_>>(), [shot(1)], "{packs:?}");
    }
}

#[test]
fn a_remap_retires_segments_and_leaves_the_others() {
    let retired = [segment(1, 0), segment(2, 0)];
    let acts = [commit(1), commit(2), commit(3), remap(Some(5), vec![segment(5, 0)], &retired, &[])];
    let state = after(acts);
    let left: Vec<_> = state.segments.iter().map(|segment| segment.name.session).collect();
    assert_eq!(left, [session(3), session(5)]);
    for (number, wanted) in [(1, false), (2, false), (3, true), (5, true)] {
        assert_eq!(state.is_published(&segment(number, 0).hash), wanted, "{number}");
    }
}

#[test]
fn damage_is_remembered_until_an_audit_finds_the_pack_sound() {
    /// Acts, then of pack 1: whether it is lost, how many chunks are damaged, and which entry found the newest of it.
    type Row = (Vec<Act>, Option<(bool, usize, u64)>);
    let table: [Row; 7] = [
        (vec![audit(&[1], &[], &[])], Some((true, 0, 1))),
        (vec![audit(&[], &[1, 1], &[])], Some((false, 1, 1))),
        (vec![audit(&[1], &[], &[]), audit(&[1], &[], &[])], Some((true, 0, 2))),
        (vec![audit(&[], &[1], &[]), audit(&[], &[1], &[])], Some((false, 1, 2))),
        (vec![audit(&[1], &[], &[]), audit(&[], &[1], &[])], Some((true, 1, 2))),
        (vec![audit(&[1], &[1], &[]), audit(&[], &[], &[1])], None),
        (vec![audit(&[1], &[], &[]), audit(&[], &[1], &[1])], Some((false, 1, 2))),
    ];
    for (row, (acts, wanted)) in table.into_iter().enumerate() {
        let damage = &after(acts).standing.damage;
        assert_eq!(damage.get(&pack(1)).map(|it| (it.lost, it.chunks.len(), it.number)), wanted, "row {row}");
    }
}

#[test]
fn what_a_member_finds_is_a_claim_and_what_it_calls_whole_is_not() {
    /// Who says what; then of pack 1: whether it is damaged, whether somebody claims so, and whether a writer may lean on it.
    type Row = (Vec<(MemberId, Act)>, bool, bool, bool);
    let table: [Row; 8] = [
        (vec![(READER, audit(&[1], &[], &[]))], true, false, false),
        (vec![(MEMBER, audit(&[1], &[], &[]))], false, true, false),
        (vec![(MEMBER, audit(&[], &[1], &[]))], false, true, true),
        (vec![(OWNER, audit(&[1], &[], &[])), (MEMBER, audit(&[], &[], &[1]))], true, false, false),
        (vec![(MEMBER, audit(&[1], &[], &[])), (MEMBER, audit(&[], &[], &[1]))], false, true, false),
        (vec![(MEMBER, audit(&[1], &[], &[])), (READER, audit(&[], &[], &[1]))], false, false, true),
        (vec![(MEMBER, audit(&[1], &[], &[])), (READER, audit(&[], &[1], &[]))], true, true, false),
        (vec![(MEMBER, audit(&[1], &[], &[])), (OWNER, remap(None, vec![], &[], &[1]))], false, false, true),
    ];
    for (row, (acts, damaged, claimed, usable)) in table.into_iter().enumerate() {
        let mut state = after([admit(READER, Role::Reader), admit(MEMBER, Role::Member)]);
        let since = state.next;
        for (signer, act) in acts {
            apply(&mut state, signer, act).unwrap();
        }
        let standing = &state.standing;
        let found = (standing.damage.contains_key(&pack(1)), standing.claims.contains_key(&pack(1)));
        assert_eq!((found, is_usable(standing, &pack(1))), ((damaged, claimed), usable), "row {row}");
        assert_eq!(standing.is_damage_newer(since), damaged || claimed, "row {row}");
        assert_eq!(standing.is_damaged(&pack(1), &ChunkId([1; 32])), damaged, "row {row}");
        assert_eq!(standing.is_doubted(&pack(1), &ChunkId([1; 32])), damaged || claimed, "row {row}");
        assert_eq!(standing.is_undoubted(), !damaged && !claimed, "row {row}");
    }
}

#[test]
fn the_reasons_of_the_first_thousand_void_entries_are_kept() {
    let mut state = after([]);
    for _ in 0..VOIDS_MAX + 5 {
        assert!(apply(&mut state, OWNER, init()).is_err());
    }
    assert_eq!((state.voids.len(), state.next), (VOIDS_MAX, VOIDS_MAX as u64 + 6));
}

/// A member names the sessions of others as adopted, and their published segments with hashes of its own: that changes
/// nothing, so an owner who retires what can't be opened retires nothing that can.
#[test]
fn a_published_segment_gets_no_second_hash() {
    let mut state = after([admit(MEMBER, Role::Member), commit(1), commit(2)]);
    let before = state.segments.clone();
    for (segments, adopted) in
        [(vec![other_hash(1, 0)], vec![1]), (vec![other_hash(1, 0), other_hash(2, 0)], vec![1, 2]), (vec![], vec![2])]
    {
        let why = apply(&mut state, MEMBER, commit_of(5, 5, segments, &adopted)).unwrap_err();
        assert!(why.contains("published before"), "{why}");
    }
    assert_eq!((&state.segments, live(&state)), (&before, vec![1, 2]));
    // After a REMAP has retired it too: the object is going to be removed.
    apply(&mut state, OWNER, remap(Some(6), vec![segment(6, 0)], &[segment(1, 0)], &[])).unwrap();
    assert!(apply(&mut state, MEMBER, commit_of(5, 5, vec![segment(1, 0)], &[1])).is_err());
    assert!(!state.is_published(&segment(1, 0).hash));
}

/// A member publishes another's segment, whose bytes it has seen in the store, under a name of its own: the other's commit
/// is refused, not taken with a segment that nobody finds.
#[test]
fn a_foreign_name_for_a_segment_is_told() {
    let right = segment(6, 0);
    let wrong = SegmentRecord { name: SegmentName { session: session(5), counter: 0 }, ..right.clone() };
    let mut state = after([]);
    apply(&mut state, OWNER, commit_of(5, 5, vec![wrong.clone()], &[])).unwrap();
    let why = apply(&mut state, OWNER, commit(6)).unwrap_err();
    assert!(why.contains("under another name"), "{why}");
    assert_eq!(live(&state), [5]);
}
