//! Golden bytes of every act but INIT and COMMIT, which stand in the file above, and of the newer kinds of key slots.

use super::super::log::{self, Act, BlobDamage, Grant, KeyChange, LogEntry, MemberRecord, SegmentRecord};
use super::super::names::{PackName, SegmentName};
use super::super::slot::{self, Contents, Role, SharedSecret, SlotKind, Unlock};
use super::{MEMBER, PACK, REPOSITORY, SALT, SESSION, SLOT, SLOT_SALT};
use super::{check, golden, log_key, open_entry, ring, secret, signer};
use crate::crypto::wrap::DataSecretKey;
use crate::ids::{ChunkId, MemberId, ObjectHash, SessionId, SnapshotId};

const SNAPSHOTS: [SnapshotId; 2] = [SnapshotId([0x50; 16]), SnapshotId([0x51; 16])];
const OTHER_PACK: PackName = PackName { session: SessionId([0x21; 16]), counter: 9_999_999_999 };

/// A member with everything that the log can say of one.
pub(in crate::format) fn member() -> MemberRecord {
    MemberRecord {
        id: MemberId([0x31; 16]),
        public_key: signer().public(),
        role: Role::Member,
        label: "host".into(),
        wrap_public: Some([0x32; 32]),
        slot: Some(SLOT),
        slot_hash: None,
    }
}

fn segments() -> Vec<SegmentRecord> {
    let name = SegmentName { session: SESSION, counter: 3 };
    vec![SegmentRecord { name, hash: ObjectHash([0xE5; 32]), records: 100, bytes: 9_000 }]
}

/// One of every act, by the name of its golden bytes.
pub(in crate::format) fn acts() -> Vec<(&'static str, Act)> {
    let snapshots = SNAPSHOTS.to_vec();
    let damaged = vec![BlobDamage { pack: PACK, chunk: ChunkId([0xA1; 32]) }];
    let grant = Grant { member: MEMBER, encapsulated: [0x33; 32], ciphertext: [0x34; 48] };
    let rotate = KeyChange::Rotate { data_public: [0x35; 32], generation: 1, grants: vec![grant] };
    let retired = vec![SegmentName { session: SESSION, counter: 0 }, SegmentName { session: SESSION, counter: 1 }];
    vec![
        ("act-forget", Act::Forget { snapshots: snapshots.clone(), reason: "keep-last 3".into() }),
        ("act-hold", Act::Hold { snapshots: snapshots.clone(), label: "case".into(), release: true }),
        ("act-audit", Act::Audit { depth: 2, bytes: 1 << 40, lost: vec![PACK], damaged, sound: vec![OTHER_PACK] }),
        ("act-condemn", Act::Condemn { packs: vec![PACK, OTHER_PACK], session: Some(SESSION), segments: segments() }),
        ("act-condemn-only", Act::Condemn { packs: vec![PACK], session: None, segments: Vec::new() }),
        ("act-fence", Act::Fence { sessions: vec![SESSION] }),
        ("act-remap", Act::Remap { session: Some(SESSION), segments: segments(), retired, gone: vec![OTHER_PACK] }),
        ("act-admit", Act::Key(KeyChange::Admit(member()))),
        ("act-revoke", Act::Key(KeyChange::Revoke(MEMBER))),
        ("act-rotate", Act::Key(rotate)),
        ("act-undelete", Act::Undelete { snapshots, packs: vec![PACK] }),
        ("act-delete", Act::Delete { packs: vec![PACK] }),
    ]
}

#[test]
fn every_act() {
    for (number, (name, act)) in (2..).zip(acts()) {
        let previous = Some(ObjectHash([0xF6; 32]));
        let entry = LogEntry { number, previous, repository: REPOSITORY, member: MEMBER, time_ms: 0, act };
        check(name, &log::seal_with_salt(&entry, &log_key(), &signer(), &SALT));
        assert_eq!(open_entry(number, name).act, Ok(entry.act), "{name}");
    }
}

#[test]
fn slots_for_identities_and_shares() {
    let identity = Unlock::Identity(DataSecretKey::from_bytes([0x48; 32]));
    let (_, foreign) = SharedSecret::generate(3, 5).unwrap();
    let share = |number: u8| {
        let value = [0x55 ^ number.wrapping_mul(2); 32];
        slot::Share { set: [0x67; 16], needed: 2, number, value: crate::crypto::Secret32::new(value) }
    };
    for (name, unlock) in
        [("slot-identity", identity), ("slot-shares", Unlock::Shares([foreign, vec![share(1), share(3)]].concat()))]
    {
        let stored = golden(name);
        let kind = slot::describe(&stored, &SLOT).unwrap().kind;
        assert_eq!(slot::open(&stored, &SLOT, &unlock, &REPOSITORY).unwrap(), Some(ring(Role::Owner)), "{name}");
        let key = slot::purpose_key(&kind, secret(0x55).as_bytes(), &SLOT_SALT, &REPOSITORY).unwrap();
        let ring = ring(Role::Owner);
        let contents = Contents { ring: &ring, kind, label: "board", created_seconds: 1_800_000_000 };
        check(name, &contents.seal(&SLOT, &key, &SLOT_SALT, &SALT));
        assert_eq!(matches!(kind, SlotKind::Shares { needed: 2, count: 3, .. }), name == "slot-shares");
    }
    check("share", share(3).text().as_bytes());
}
