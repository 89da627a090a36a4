//! Any act that can be written is read back, and no damage to its bytes gives another one that is signed.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::golden::acts::acts;
use super::super::golden::{MEMBER, REPOSITORY, log_key, signer};
use super::super::log::{self, Act, BlobDamage, Grant, KeyChange, LogEntry, MemberRecord};
use super::super::log::{Opened, OpenedEntry, SegmentRecord};
use super::super::names::{COUNTER_MAX, PackName, SegmentName, log_object};
use super::super::slot::Role;
use crate::crypto::envelope;
use crate::ids::{ChunkId, MemberId, ObjectHash, SessionId, SlotId, SnapshotId};

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId)
}

fn snapshots() -> impl Strategy<Value = Vec<SnapshotId>> {
    vec(any::<[u8; 16]>().prop_map(SnapshotId), 0..4)
}

fn pack() -> impl Strategy<Value = PackName> {
    (session(), 0..=COUNTER_MAX).prop_map(|(session, counter)| PackName { session, counter })
}

fn packs() -> impl Strategy<Value = Vec<PackName>> {
    vec(pack(), 0..4)
}

fn names() -> impl Strategy<Value = Vec<SegmentName>> {
    vec((session(), 0..=COUNTER_MAX).prop_map(|(session, counter)| SegmentName { session, counter }), 0..4)
}

fn segments() -> impl Strategy<Value = Vec<SegmentRecord>> {
    let segment = (session(), 0..=COUNTER_MAX, any::<[u8; 32]>(), any::<(u64, u64)>());
    let segment = segment.prop_map(|(session, counter, hash, (records, bytes))| SegmentRecord {
        name: SegmentName { session, counter },
        hash: ObjectHash(hash),
        records,
        bytes,
    });
    vec(segment, 0..4)
}

fn member() -> impl Strategy<Value = MemberRecord> {
    let role = prop_oneof![Just(Role::Owner), Just(Role::Reader), Just(Role::Member)];
    let hash = any::<[u8; 32]>().prop_map(ObjectHash);
    let optional = (option::of(any::<[u8; 32]>()), option::of(any::<[u8; 16]>().prop_map(SlotId)), option::of(hash));
    (any::<([u8; 16], [u8; 32])>(), role, ".{0,20}", optional).prop_map(
        |((id, public_key), role, label, (wrap_public, slot, slot_hash))| MemberRecord {
            id: MemberId(id),
            public_key,
            role,
            label,
            wrap_public,
            slot,
            slot_hash,
        },
    )
}

fn change() -> impl Strategy<Value = KeyChange> {
    let grant =
        (any::<([u8; 16], [u8; 32])>(), vec(any::<u8>(), 48)).prop_map(|((member, encapsulated), ciphertext)| Grant {
            member: MemberId(member),
            encapsulated,
            ciphertext: ciphertext.try_into().unwrap(),
        });
    let rotate = (any::<([u8; 32], u32)>(), vec(grant, 0..4))
        .prop_map(|((data_public, generation), grants)| KeyChange::Rotate { data_public, generation, grants });
    prop_oneof![
        member().prop_map(KeyChange::Admit),
        any::<[u8; 16]>().prop_map(|id| KeyChange::Revoke(MemberId(id))),
        rotate,
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let damaged =
        vec((pack(), any::<[u8; 32]>()).prop_map(|(pack, chunk)| BlobDamage { pack, chunk: ChunkId(chunk) }), 0..4);
    prop_oneof![
        (snapshots(), ".{0,20}").prop_map(|(snapshots, reason)| Act::Forget { snapshots, reason }),
        (snapshots(), ".{0,20}", any::<bool>()).prop_map(|(snapshots, label, release)| Act::Hold {
            snapshots,
            label,
            release
        }),
        (any::<(u8, u64)>(), packs(), damaged, packs()).prop_map(|((depth, bytes), lost, damaged, sound)| Act::Audit {
            depth,
            bytes,
            lost,
            damaged,
            sound
        }),
        (packs(), option::of(session()), segments()).prop_map(|(packs, session, segments)| Act::Condemn {
            packs,
            session,
            segments
        }),
        vec(session(), 0..4).prop_map(|sessions| Act::Fence { sessions }),
        (option::of(session()), segments(), names(), packs())
            .prop_map(|(session, segments, retired, gone)| Act::Remap { session, segments, retired, gone }),
        change().prop_map(Act::Key),
        (snapshots(), packs()).prop_map(|(snapshots, packs)| Act::Undelete { snapshots, packs }),
        packs().prop_map(|packs| Act::Delete { packs }),
    ]
}

fn entry(act: Act) -> LogEntry {
    let previous = Some(ObjectHash([7; 32]));
    LogEntry { number: 5, previous, repository: REPOSITORY, member: MEMBER, time_ms: -7, act }
}

fn opened(sealed: &[u8]) -> Option<Box<OpenedEntry>> {
    match log::open(5, sealed, &log_key()).unwrap() {
        Opened::Entry(opened) => Some(opened),
        Opened::Malformed(_) => None,
    }
}

proptest! {
    #[test]
    fn acts_are_read_back(act in act()) {
        let entry = entry(act);
        let opened = opened(&log::seal(&entry, &log_key(), &signer())).unwrap();
        prop_assert!(opened.verify(&signer().public()));
        prop_assert_eq!(opened.act.as_ref().map(|act| opened.frame.with_act(act)), Ok(entry));
    }
}

/// Who has the log key may seal what he likes: then the signature says that it is not what was signed.
#[test]
fn a_changed_act_is_not_signed() {
    for (name, act) in acts() {
        let sealed = log::seal(&entry(act), &log_key(), &signer());
        let plain = envelope::open(&log_key(), &log_object(5), &sealed).unwrap();
        for at in 0..plain.len() {
            let mut changed = plain.clone();
            changed[at] ^= 1;
            let sealed = envelope::seal(&log_key(), &log_object(5), &changed);
            let accepted = opened(&sealed).is_some_and(|opened| opened.verify(&signer().public()));
            assert!(!accepted, "{name}: byte {at}");
        }
    }
}
