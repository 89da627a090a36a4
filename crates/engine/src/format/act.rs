//! What a log entry says (docs/format.md §8): the acts, and the records inside them.
//!
//! An act is plain data. Whether its signer was allowed to say it, and what follows from it, is decided by
//! [`crate::rules`]; here it only becomes bytes and comes back. Unknown fields of a known act are skipped, so that an act
//! can grow; an unknown act is handed back by its number.

use minicbor::Decoder;

use super::cbor::{self, Read, Sink, Written, required};
use super::names::{COUNTER_MAX, PackName, SegmentName};
use super::slot::Role;
use super::snapshot::SnapshotRecord;
use crate::ids::{ChunkId, MemberId, ObjectHash, SessionId, SlotId, SnapshotId};

/// Names of the acts by number.
pub(super) const ACT_NAMES: [&str; 12] = [
    "INIT",
    "COMMIT",
    "FORGET",
    "HOLD",
    "AUDIT",
    "CONDEMN",
    "FENCE",
    "REMAP",
    "KEY",
    "CHECKPOINT",
    "UNDELETE",
    "DELETE",
];

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The repository begins.
    Init {
        /// BLAKE3 of the marker's bytes.
        marker: ObjectHash,
        /// The first owner.
        member: MemberRecord,
        /// Data public key.
        data_public: [u8; 32],
        /// Its generation.
        generation: u32,
    },
    /// A snapshot exists, and the segments that lead to its chunks.
    Commit {
        /// The session that wrote it.
        session: SessionId,
        /// The segments that become published.
        segments: Vec<SegmentRecord>,
        /// The snapshot.
        snapshot: Box<SnapshotRecord>,
        /// Crashed sessions whose segments are among them.
        adopted: Vec<SessionId>,
    },
    /// These snapshots are not wanted any more.
    Forget {
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
        /// Why, for people: the rule, or who asked.
        reason: String,
    },
    /// These snapshots can't be forgotten, or can again.
    Hold {
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
        /// Name of the hold; a snapshot may have several.
        label: String,
        /// True to lift the hold of that name.
        release: bool,
    },
    /// What a verify found.
    Audit {
        /// How much was read: 0 structure, 1 a sample, 2 everything.
        depth: u8,
        /// Bytes read.
        bytes: u64,
        /// Packs that are missing or can't be read at all.
        lost: Vec<PackName>,
        /// Blobs that do not decode to their chunk.
        damaged: Vec<BlobDamage>,
        /// Packs about which an earlier AUDIT complained and which are whole now.
        sound: Vec<PackName>,
    },
    /// Nothing may be deduplicated against these packs any more; they are deleted later.
    Condemn {
        /// The packs.
        packs: Vec<PackName>,
        /// The session that stored again what is still needed of them, if anything was.
        session: Option<SessionId>,
        /// Its segments, which become published.
        segments: Vec<SegmentRecord>,
    },
    /// Nothing of these sessions will ever be published any more.
    Fence {
        /// The sessions.
        sessions: Vec<SessionId>,
    },
    /// Segments are replaced by others that say the same of all packs that are left.
    Remap {
        /// The session that wrote the new segments, if there are any.
        session: Option<SessionId>,
        /// The new segments, which become published.
        segments: Vec<SegmentRecord>,
        /// The segments that are no longer.
        retired: Vec<SegmentName>,
        /// Packs that were deleted and that no segment lists any more.
        gone: Vec<PackName>,
    },
    /// Who may do what changes.
    Key(KeyChange),
    /// Forgotten snapshots are back, and packs that they need are no longer condemned.
    Undelete {
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
        /// The packs.
        packs: Vec<PackName>,
    },
    /// These condemned packs are being deleted: nothing brings them back.
    Delete {
        /// The packs.
        packs: Vec<PackName>,
    },
}

/// A change of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// A member is admitted.
    Admit(MemberRecord),
    /// What this member signs from now on counts for nothing.
    Revoke(MemberId),
    /// The data key pair is renewed.
    Rotate {
        /// The new public key.
        data_public: [u8; 32],
        /// Its generation: the one before plus 1.
        generation: u32,
        /// The new secret key, wrapped for each owner and reader that keeps access.
        grants: Vec<Grant>,
    },
}

/// The data secret key of a new generation, wrapped for one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// For whom.
    pub member: MemberId,
    /// Encapsulated key (X25519).
    pub encapsulated: [u8; 32],
    /// Ciphertext and tag of the 32-byte secret key.
    pub ciphertext: [u8; 48],
}

/// Who may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// The member.
    pub id: MemberId,
    /// Ed25519 public key.
    pub public_key: [u8; 32],
    /// What the member may do.
    pub role: Role,
    /// A name for people.
    pub label: String,
    /// X25519 public key for which new data keys are wrapped; a member of the first days has none.
    pub wrap_public: Option<[u8; 32]>,
    /// The key slot that holds the member's key ring; a member of the first days has none.
    pub slot: Option<SlotId>,
    /// BLAKE3 of that slot's stored bytes; members of the first versions have none.
    pub slot_hash: Option<ObjectHash>,
}

/// A published segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecord {
    /// The segment.
    pub name: SegmentName,
    /// BLAKE3 of its stored bytes.
    pub hash: ObjectHash,
    /// Records in it.
    pub records: u64,
    /// Its stored length in bytes.
    pub bytes: u64,
}

/// A blob that does not decode to its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobDamage {
    /// The pack it lies in.
    pub pack: PackName,
    /// The chunk it should be.
    pub chunk: ChunkId,
}

impl Act {
    /// The act's name in docs/format.md.
    #[must_use]
    pub fn name(&self) -> &'static str {
        ACT_NAMES[usize::from(self.number())]
    }

    fn number(&self) -> u8 {
        match self {
            Self::Init { .. } => 0,
            Self::Commit { .. } => 1,
            Self::Forget { .. } => 2,
            Self::Hold { .. } => 3,
            Self::Audit { .. } => 4,
            Self::Condemn { .. } => 5,
            Self::Fence { .. } => 6,
            Self::Remap { .. } => 7,
            Self::Key(_) => 8,
            Self::Undelete { .. } => 10,
            Self::Delete { .. } => 11,
        }
    }

    pub(super) fn write(&self, sink: &mut Sink) -> Written {
        sink.u8(self.number())?;
        match self {
            Self::Init { marker, member, data_public, generation } => {
                sink.map(4)?.u8(0)?.bytes(marker.as_bytes())?.u8(1)?;
                member.write(sink)?;
                sink.u8(2)?.bytes(data_public)?.u8(3)?.u32(*generation)?.ok()
            }
            Self::Commit { session, segments, snapshot, adopted } => {
                sink.map(4)?.u8(0)?.bytes(session.as_bytes())?.u8(1)?;
                write_list(sink, segments, |sink, segment| segment.write(sink))?;
                sink.u8(2)?;
                snapshot.write(sink)?;
                sink.u8(3)?;
                write_list(sink, adopted, |sink, session| sink.bytes(session.as_bytes())?.ok())
            }
            Self::Forget { snapshots, reason } => {
                sink.map(2)?.u8(0)?;
                write_snapshots(sink, snapshots)?;
                sink.u8(1)?.str(reason)?.ok()
            }
            Self::Hold { snapshots, label, release } => {
                sink.map(3)?.u8(0)?;
                write_snapshots(sink, snapshots)?;
                sink.u8(1)?.str(label)?.u8(2)?.bool(*release)?.ok()
            }
            Self::Audit { depth, bytes, lost, damaged, sound } => {
                sink.map(5)?.u8(0)?.u8(*depth)?.u8(1)?.u64(*bytes)?.u8(2)?;
                write_list(sink, lost, write_pack)?;
                sink.u8(3)?;
                write_list(sink, damaged, |sink, blob| {
                    sink.array(2)?;
                    write_pack(sink, &blob.pack)?;
                    sink.bytes(blob.chunk.as_bytes())?.ok()
                })?;
                sink.u8(4)?;
                write_list(sink, sound, write_pack)
            }
            Self::Condemn { packs, session, segments } => {
                sink.map(2 + u64::from(session.is_some()))?.u8(0)?;
                write_list(sink, packs, write_pack)?;
                write_session(sink, 1, session.as_ref())?;
                sink.u8(2)?;
                write_list(sink, segments, |sink, segment| segment.write(sink))
            }
            Self::Fence { sessions } => {
                sink.map(1)?.u8(0)?;
                write_list(sink, sessions, |sink, session| sink.bytes(session.as_bytes())?.ok())
            }
            Self::Remap { session, segments, retired, gone } => {
                sink.map(3 + u64::from(session.is_some()))?;
                write_session(sink, 0, session.as_ref())?;
                sink.u8(1)?;
                write_list(sink, segments, |sink, segment| segment.write(sink))?;
                sink.u8(2)?;
                write_list(sink, retired, |sink, name| {
                    sink.array(2)?.bytes(name.session.as_bytes())?.u64(name.counter)?.ok()
                })?;
                sink.u8(3)?;
                write_list(sink, gone, write_pack)
            }
            Self::Key(change) => change.write(sink),
            Self::Undelete { snapshots, packs } => {
                sink.map(2)?.u8(0)?;
                write_snapshots(sink, snapshots)?;
                sink.u8(1)?;
                write_list(sink, packs, write_pack)
            }
            Self::Delete { packs } => {
                sink.map(1)?.u8(0)?;
                write_list(sink, packs, write_pack)
            }
        }
    }

    /// Reads an act's number and fields. The inner error is the number of an act that is not known.
    pub(super) fn read(decoder: &mut Decoder) -> Read<Result<Self, u64>> {
        Ok(Ok(match decoder.u64()? {
            0 => read_init(decoder)?,
            1 => read_commit(decoder)?,
            2 => read_forget(decoder)?,
            3 => read_hold(decoder)?,
            4 => read_audit(decoder)?,
            5 => read_condemn(decoder)?,
            6 => Self::Fence { sessions: read_only_list(decoder, 17, read_session)? },
            7 => read_remap(decoder)?,
            8 => Self::Key(KeyChange::read(decoder)?),
            10 => read_undelete(decoder)?,
            11 => Self::Delete { packs: read_only_list(decoder, 19, read_pack)? },
            other => {
                cbor::skip(decoder)?;
                return Ok(Err(other));
            }
        }))
    }
}

fn write_list<T>(sink: &mut Sink, items: &[T], write: impl Fn(&mut Sink, &T) -> Written) -> Written {
    sink.array(items.len() as u64)?;
    items.iter().try_for_each(|item| write(sink, item))
}

fn write_snapshots(sink: &mut Sink, snapshots: &[SnapshotId]) -> Written {
    write_list(sink, snapshots, |sink, snapshot| sink.bytes(snapshot.as_bytes())?.ok())
}

fn write_pack(sink: &mut Sink, pack: &PackName) -> Written {
    sink.array(2)?.bytes(pack.session.as_bytes())?.u64(pack.counter)?.ok()
}

fn write_session(sink: &mut Sink, key: u8, session: Option<&SessionId>) -> Written {
    match session {
        Some(session) => sink.u8(key)?.bytes(session.as_bytes())?.ok(),
        None => sink.ok(),
    }
}

fn read_session(decoder: &mut Decoder) -> Read<SessionId> {
    cbor::bytes(decoder).map(SessionId)
}

fn read_snapshots(decoder: &mut Decoder) -> Read<Vec<SnapshotId>> {
    cbor::list(decoder, 17, |d| cbor::bytes(d).map(SnapshotId))
}

fn read_counted(decoder: &mut Decoder) -> Read<(SessionId, u64)> {
    cbor::tuple(decoder, 2)?;
    let session = read_session(decoder)?;
    match decoder.u64()? {
        counter if counter <= COUNTER_MAX => Ok((session, counter)),
        _ => cbor::refuse(decoder, "a counter of more than 10 digits"),
    }
}

fn read_pack(decoder: &mut Decoder) -> Read<PackName> {
    read_counted(decoder).map(|(session, counter)| PackName { session, counter })
}

fn read_packs(decoder: &mut Decoder) -> Read<Vec<PackName>> {
    cbor::list(decoder, 19, read_pack)
}

/// Reads fields of which only number 0 is known, a list.
fn read_only_list<'b, T>(
    decoder: &mut Decoder<'b>,
    item_bytes_min: usize,
    item: impl Fn(&mut Decoder<'b>) -> Read<T>,
) -> Read<Vec<T>> {
    let mut list = None;
    cbor::fields(decoder, |key, d| {
        match key {
            0 => list = Some(cbor::list(d, item_bytes_min, &item)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    required(decoder, list, "list")
}

fn read_init(decoder: &mut Decoder) -> Read<Act> {
    let (mut marker, mut member, mut data_public, mut generation) = (None, None, None, None);
    cbor::fields(decoder, |key, d| {
        match key {
            0 => marker = Some(ObjectHash(cbor::bytes(d)?)),
            1 => member = Some(MemberRecord::read(d)?),
            2 => data_public = Some(cbor::bytes(d)?),
            3 => generation = Some(d.u32()?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Act::Init {
        marker: required(decoder, marker, "marker")?,
        member: required(decoder, member, "member")?,
        data_public: required(decoder, data_public, "data public key")?,
        generation: required(decoder, generation, "generation")?,
    })
}

fn read_commit(decoder: &mut Decoder) -> Read<Act> {
    let (mut session, mut segments, mut snapshot, mut adopted) = (None, None, None, None);
    cbor::fields(decoder, |key, d| {
        match key {
            0 => session = Some(read_session(d)?),
            1 => segments = Some(cbor::list(d, 53, SegmentRecord::read)?),
            2 => snapshot = Some(Box::new(SnapshotRecord::read(d)?)),
            3 => adopted = Some(cbor::list(d, 17, read_session)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Act::Commit {
        session: required(decoder, session, "session")?,
        segments: required(decoder, segments, "segments")?,
        snapshot: required(decoder, snapshot, "snapshot")?,
        adopted: required(decoder, adopted, "adopted sessions")?,
    })
}

fn read_forget(decoder: &mut Decoder) -> Read<Act> {
    let (mut snapshots, mut reason) = (None, String::new());
    cbor::fields(decoder, |key, d| {
        match key {
            0 => snapshots = Some(read_snapshots(d)?),
            1 => d.str()?.clone_into(&mut reason),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Act::Forget { snapshots: required(decoder, snapshots, "snapshots")?, reason })
}

fn read_hold(decoder: &mut Decoder) -> Read<Act> {
    let (mut snapshots, mut label, mut release) = (None, None, None);
    cbor::fields(decoder, |key, d| {
        match key {
            0 => snapshots = Some(read_snapshots(d)?),
            1 => label = Some(d.str()?.to_owned()),
            2 => release = Some(d.bool()?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Act::Hold {
        snapshots: required(decoder, snapshots, "snapshots")?,
        label: required(decoder, label, "label")?,
        release: required(decoder, release, "release")?,
    })
}

fn read_audit(decoder: &mut Decoder) -> Read<Act> {
    let (mut depth, mut bytes, mut lost, mut damaged, mut sound) = (None, 0, Vec::new(), Vec::new(), Vec::new());
    cbor::fields(decoder, |key, d| {
        match key {
            0 => depth = Some(d.u8()?),
            1 => bytes = d.u64()?,
            2 => lost = read_packs(d)?,
            3 => {
                damaged = cbor::list(d, 54, |d| {
                    cbor::tuple(d, 2)?;
                    Ok(BlobDamage { pack: read_pack(d)?, chunk: ChunkId(cbor::bytes(d)?) })
                })?;
            }
            4 => sound = read_packs(d)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Act::Audit { depth: required(decoder, depth, "depth")?, bytes, lost, damaged, sound })
}

fn read_condemn(decoder: &mut Decoder) -> Read<Act> {
    let (mut packs, mut session, mut segments) = (None, None, None);
    cbor::fields(decoder, |key, d| {
        match key {
            0 => packs = Some(read_packs(d)?),
            1 => session = Some(read_session(d)?),
            2 => segments = Some(cbor::list(d, 53, SegmentRecord::read)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let segments = required(decoder, segments, "segments")?;
    Ok(Act::Condemn { packs: required(decoder, packs, "packs")?, session, segments })
}

fn read_remap(decoder: &mut Decoder) -> Read<Act> {
    let (mut session, mut segments, mut retired, mut gone) = (None, None, None, Vec::new());
    cbor::fields(decoder, |key, d| {
        match key {
            0 => session = Some(read_session(d)?),
            1 => segments = Some(cbor::list(d, 53, SegmentRecord::read)?),
            2 => {
                retired = Some(cbor::list(d, 19, |d| {
                    read_counted(d).map(|(session, counter)| SegmentName { session, counter })
                })?);
            }
            3 => gone = read_packs(d)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let segments = required(decoder, segments, "segments")?;
    Ok(Act::Remap { session, segments, retired: required(decoder, retired, "retired segments")?, gone })
}

fn read_undelete(decoder: &mut Decoder) -> Read<Act> {
    let (mut snapshots, mut packs) = (None, None);
    cbor::fields(decoder, |key, d| {
        match key {
            0 => snapshots = Some(read_snapshots(d)?),
            1 => packs = Some(read_packs(d)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Act::Undelete {
        snapshots: required(decoder, snapshots, "snapshots")?,
        packs: required(decoder, packs, "packs")?,
    })
}

impl KeyChange {
    fn write(&self, sink: &mut Sink) -> Written {
        match self {
            Self::Admit(member) => {
                sink.map(1)?.u8(0)?;
                member.write(sink)
            }
            Self::Revoke(member) => sink.map(1)?.u8(1)?.bytes(member.as_bytes())?.ok(),
            Self::Rotate { data_public, generation, grants } => {
                sink.map(3)?.u8(2)?.bytes(data_public)?.u8(3)?.u32(*generation)?.u8(4)?;
                write_list(sink, grants, |sink, grant| {
                    sink.array(3)?.bytes(grant.member.as_bytes())?;
                    sink.bytes(&grant.encapsulated)?.bytes(&grant.ciphertext)?.ok()
                })
            }
        }
    }

    fn read(decoder: &mut Decoder) -> Read<Self> {
        let (mut admitted, mut revoked) = (None, None);
        let (mut data_public, mut generation, mut grants) = (None, None, Vec::new());
        cbor::fields(decoder, |key, d| {
            match key {
                0 => admitted = Some(MemberRecord::read(d)?),
                1 => revoked = Some(MemberId(cbor::bytes(d)?)),
                2 => data_public = Some(cbor::bytes(d)?),
                3 => generation = Some(d.u32()?),
                4 => grants = cbor::list(d, 101, Grant::read)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        match (admitted, revoked, data_public, generation) {
            (Some(member), None, None, None) => Ok(Self::Admit(member)),
            (None, Some(member), None, None) => Ok(Self::Revoke(member)),
            (None, None, Some(data_public), Some(generation)) => Ok(Self::Rotate { data_public, generation, grants }),
            _ => cbor::refuse(decoder, "a change of keys is an admission, a revocation or a rotation"),
        }
    }
}

impl Grant {
    fn read(decoder: &mut Decoder) -> Read<Self> {
        cbor::tuple(decoder, 3)?;
        let member = MemberId(cbor::bytes(decoder)?);
        Ok(Self { member, encapsulated: cbor::bytes(decoder)?, ciphertext: cbor::bytes(decoder)? })
    }
}

impl MemberRecord {
    fn write(&self, sink: &mut Sink) -> Written {
        let optional = [self.wrap_public.is_some(), self.slot.is_some(), self.slot_hash.is_some()];
        sink.map(4 + optional.into_iter().map(u64::from).sum::<u64>())?;
        sink.u8(0)?.bytes(self.id.as_bytes())?.u8(1)?.bytes(&self.public_key)?;
        sink.u8(2)?.u8(self.role.code())?.u8(3)?.str(&self.label)?;
        if let Some(public) = &self.wrap_public {
            sink.u8(4)?.bytes(public)?;
        }
        if let Some(slot) = &self.slot {
            sink.u8(5)?.bytes(slot.as_bytes())?;
        }
        match &self.slot_hash {
            Some(hash) => sink.u8(6)?.bytes(hash.as_bytes())?.ok(),
            None => sink.ok(),
        }
    }

    fn read(decoder: &mut Decoder) -> Read<Self> {
        let (mut id, mut public_key, mut role, mut label) = (None, None, None, None);
        let (mut wrap_public, mut slot, mut slot_hash) = (None, None, None);
        cbor::fields(decoder, |key, d| {
            match key {
                0 => id = Some(MemberId(cbor::bytes(d)?)),
                1 => public_key = Some(cbor::bytes(d)?),
                2 => role = Some(Role::read(d)?),
                3 => label = Some(d.str()?.to_owned()),
                4 => wrap_public = Some(cbor::bytes(d)?),
                5 => slot = Some(SlotId(cbor::bytes(d)?)),
                6 => slot_hash = Some(ObjectHash(cbor::bytes(d)?)),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            id: required(decoder, id, "member id")?,
            public_key: required(decoder, public_key, "public key")?,
            role: required(decoder, role, "role")?,
            label: required(decoder, label, "label")?,
            wrap_public,
            slot,
            slot_hash,
        })
    }
}

impl SegmentRecord {
    fn write(&self, sink: &mut Sink) -> Written {
        sink.array(5)?.bytes(self.name.session.as_bytes())?.u64(self.name.counter)?;
        sink.bytes(self.hash.as_bytes())?.u64(self.records)?.u64(self.bytes)?.ok()
    }

    fn read(decoder: &mut Decoder) -> Read<Self> {
        cbor::tuple(decoder, 5)?;
        let name = SegmentName { session: SessionId(cbor::bytes(decoder)?), counter: decoder.u64()? };
        if name.counter > COUNTER_MAX {
            return cbor::refuse(decoder, "a segment counter of more than 10 digits");
        }
        let hash = ObjectHash(cbor::bytes(decoder)?);
        Ok(Self { name, hash, records: decoder.u64()?, bytes: decoder.u64()? })
    }
}
