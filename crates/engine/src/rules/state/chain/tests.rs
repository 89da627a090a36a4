//! How stored bytes are taken as entries: against the table that the independent reader is held against too
//! (testdata/entries), and what becomes of a log that somebody spoils.

use super::*;
use crate::crypto::sign::SigningKey;
use crate::crypto::{Secret32, envelope};
use crate::format::log::{self, Act, KeyChange, LogEntry, MemberRecord, SegmentRecord, SnapshotRecord};
use crate::format::names::SegmentName;
use crate::ids::{MemberId, RepositoryId, SessionId, SnapshotId};
use crate::rules::state::tests::record;

const REPOSITORY: RepositoryId = RepositoryId([0x10; 16]);
const OWNER: MemberId = MemberId([0x30; 16]);
const MEMBER: MemberId = MemberId([0x31; 16]);
const REVOKED: MemberId = MemberId([0x32; 16]);

fn log_key() -> Secret32 {
    Secret32::new([4; 32])
}

fn signer(id: MemberId) -> SigningKey {
    SigningKey::from_seed(&Secret32::new([id.0[0] - 0x2B; 32]))
}

fn member(id: MemberId, role: Role) -> MemberRecord {
    let public_key = signer(id).public();
    MemberRecord { id, public_key, role, label: String::new(), wrap_public: None, slot: None, slot_hash: None }
}

fn init() -> Act {
    let member = member(OWNER, Role::Owner);
    Act::Init { marker: ObjectHash([0; 32]), member, data_public: [0; 32], generation: 0 }
}

fn commit() -> Act {
    let session = SessionId([0x2E; 16]);
    let name = SegmentName { session, counter: 0 };
    let segment = SegmentRecord { name, hash: ObjectHash([0xE0; 32]), records: 1, bytes: 1 };
    let snapshot: SnapshotRecord = record(SnapshotId([0x50; 16]));
    Act::Commit { session, segments: vec![segment], snapshot: Box::new(snapshot), adopted: Vec::new() }
}

/// An entry that follows `state`.
fn next(state: &State, by: MemberId, act: Act) -> LogEntry {
    LogEntry { number: state.next, previous: state.head, repository: REPOSITORY, member: by, time_ms: 0, act }
}

fn take(state: &mut State, stored: &[u8]) -> Result<Option<String>> {
    let opened = log::open(state.next, stored, &log_key())?;
    state.take(&opened, object_hash(stored), OpenedEntry::verify)
}

fn sealed(entry: &LogEntry) -> Vec<u8> {
    log::seal(entry, &log_key(), &signer(entry.member))
}

/// Anything that somebody with the log key puts at the next number.
fn garbage(state: &State, plain: &[u8]) -> Vec<u8> {
    envelope::seal(&log_key(), &log_object(state.next), plain)
}

/// The log up to number 5, as testdata/entries/make.py describes it.
fn before() -> State {
    let mut state = State::new(REPOSITORY);
    for act in [
        init(),
        Act::Key(KeyChange::Admit(member(MEMBER, Role::Member))),
        Act::Key(KeyChange::Admit(member(REVOKED, Role::Owner))),
        Act::Key(KeyChange::Revoke(REVOKED)),
        commit(),
    ] {
        let stored = sealed(&next(&state, OWNER, act));
        assert_eq!(take(&mut state, &stored).unwrap(), None);
    }
    state.fenced.insert(SessionId([0x2F; 16]));
    state.head = Some(ObjectHash([0xF6; 32]));
    state
}

fn digits(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn each_entry_is_judged_as_the_independent_reader_judges_it() {
    let fifth = before();
    let (mut counts, mut voids, mut stops) = (0, 0, 0);
    for line in include_str!("../../../../../../testdata/entries/entries.txt").lines() {
        let [name, verdict, head, plain] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (mut state, plain) = (fifth.clone(), digits(plain));
        let (opened, before) = (log::open(5, &garbage(&state, &plain), &log_key()).unwrap(), state.clone());
        let taken = state.take(&opened, object_hash(&plain), OpenedEntry::verify);
        let (found, count) = match &taken {
            Ok(None) => ("counts", &mut counts),
            Ok(Some(_)) => ("void", &mut voids),
            Err(Error::Unsupported(_)) => ("stops", &mut stops),
            Err(error) => panic!("{name}: {error}"),
        };
        assert_eq!(found, verdict, "{name}: {taken:?}");
        *count += 1;
        match found {
            "stops" => assert_eq!(state, before, "{name}"),
            _ => assert_eq!((state.next, state.head), (6, ObjectHash::from_slice(&digits(head))), "{name}"),
        }
    }
    assert!(counts > 40 && voids > 40 && stops > 40, "{counts} {voids} {stops}");
}

/// What somebody puts at the next number of a log.
type Spoil = fn(&State) -> Vec<u8>;

/// One entry of whoever has the log key, and everybody would be kept from the rest.
#[test]
fn the_log_goes_on_after_whatever_somebody_put_there() {
    let spoil: [(&str, Spoil); 4] = [
        ("nothing", |state| garbage(state, b"")),
        ("no entry", |state| garbage(state, &[0x88; 200])),
        ("unchained", |state| sealed(&LogEntry { previous: None, ..next(state, OWNER, commit()) })),
        ("revoked", |state| sealed(&next(state, REVOKED, init()))),
    ];
    for (name, bytes) in spoil {
        let mut state = before();
        let known = State { voids: Vec::new(), ..state.clone() };
        let stored = bytes(&state);
        let why = take(&mut state, &stored).unwrap().expect("it is void");
        assert_eq!(state.voids, [(5, why)], "{name}");
        let untouched = State { next: 6, head: state.head, voids: state.voids.clone(), ..known };
        assert_eq!(state, untouched, "{name}: it changes nothing");
        let stored = sealed(&next(&state, OWNER, Act::Fence { sessions: vec![SessionId([1; 16])] }));
        assert_eq!(take(&mut state, &stored).unwrap(), None, "{name}");
        assert!(state.fenced.contains(&SessionId([1; 16])), "{name}");
    }
}

/// A store that saw two continuations of one log can't put the end of one behind the beginning of the other.
#[test]
fn the_end_of_another_past_does_not_follow_a_void_entry() {
    let mut first = before();
    let mut second = first.clone();
    let fence = |number| Act::Fence { sessions: vec![SessionId([number; 16])] };
    let stored: Vec<Vec<u8>> = [fence(1), fence(2), fence(3)]
        .into_iter()
        .map(|act| {
            let stored = sealed(&next(&first, OWNER, act));
            assert_eq!(take(&mut first, &stored).unwrap(), None);
            stored
        })
        .collect();
    let other = sealed(&next(&second, OWNER, fence(9)));
    assert_eq!(take(&mut second, &other).unwrap(), None);
    for entry in &stored[1..] {
        assert_eq!(take(&mut second, entry).unwrap().as_deref(), Some("it does not follow the entry before it"));
    }
    assert!(!second.fenced.contains(&SessionId([3; 16])));
    // The same with something between them that nobody signed.
    let mut first = before();
    let mut second = first.clone();
    let stored = sealed(&next(&second, OWNER, fence(9)));
    take(&mut second, &stored).unwrap();
    let stored = sealed(&next(&first, OWNER, fence(1)));
    take(&mut first, &stored).unwrap();
    let between = garbage(&first, b"x");
    assert!(take(&mut first, &between).unwrap().is_some() && take(&mut second, &between).unwrap().is_some());
    let last = sealed(&next(&first, OWNER, fence(3)));
    assert_eq!(take(&mut first, &last).unwrap(), None);
    assert_eq!(take(&mut second, &last).unwrap().as_deref(), Some("it does not follow the entry before it"));
}

#[test]
fn without_a_first_entry_there_is_no_log() {
    let empty = || State::new(REPOSITORY);
    let forged = log::seal(&next(&empty(), OWNER, init()), &log_key(), &signer(MEMBER));
    let table = [
        garbage(&empty(), b""),
        garbage(&empty(), &[0x88; 100]),
        sealed(&LogEntry { previous: Some(ObjectHash([0; 32])), ..next(&empty(), OWNER, init()) }),
        sealed(&LogEntry { repository: RepositoryId([9; 16]), ..next(&empty(), OWNER, init()) }),
        sealed(&next(&empty(), MEMBER, init())),
        sealed(&next(&empty(), OWNER, commit())),
        forged,
    ];
    for (row, stored) in table.iter().enumerate() {
        let mut state = empty();
        assert!(matches!(take(&mut state, stored), Err(Error::Damaged(_))), "row {row}");
        assert_eq!(state, empty(), "row {row}");
    }
    let (mut state, stored) = (empty(), sealed(&next(&empty(), OWNER, init())));
    assert_eq!(take(&mut state, &stored).unwrap(), None);
    assert_eq!(state.fingerprint, Some(object_hash(&stored)));
}
