//! Log entries (docs/format.md §8): numbered, chained by hash, signed, sealed. The log decides what exists.
//!
//! An entry is opened in two steps, because who may sign is itself written in the log: [`open`] authenticates it under
//! the log key and decodes it; [`OpenedEntry::verify`] checks the signature with the public key that the log gives for
//! its member. Whether the hash chain holds is the reader's to check, entry by entry.
//!
//! Invariant: an act of which this program knows no meaning refuses the repository; it may say that something is gone.

use minicbor::Decoder;

use super::cbor::{self, Read, Sink, Written, required};
use super::names::{COUNTER_MAX, SegmentName, log_object};
use super::slot::Role;
pub use super::snapshot::SnapshotRecord;
use crate::crypto::sign::{self, SIGNATURE_BYTES, SigningKey};
use crate::crypto::{Secret32, envelope, random};
use crate::error::{Damaged, Error};
use crate::ids::{MemberId, ObjectHash, RepositoryId, SessionId};

const DOMAIN: &[u8] = b"seawall v1 log ";
/// CBOR heads of the stored array and of the signed one, which lacks the signature.
const STORED_HEAD: u8 = 0x88;
const SIGNED_HEAD: u8 = 0x87;
const ACT_NAMES: [&str; 10] =
    ["INIT", "COMMIT", "FORGET", "HOLD", "AUDIT", "CONDEMN", "FENCE", "REMAP", "KEY", "CHECKPOINT"];

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 0.
    pub number: u64,
    /// BLAKE3 of the stored bytes of the entry before; none for entry 0.
    pub previous: Option<ObjectHash>,
    /// The repository.
    pub repository: RepositoryId,
    /// Who wrote it.
    pub member: MemberId,
    /// When, in Unix milliseconds, as the writer claims.
    pub time_ms: i64,
    /// What it says.
    pub act: Act,
}

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

/// An entry that was authenticated under the log key, with what is needed to check its signature.
#[derive(Debug, Clone)]
pub struct OpenedEntry {
    /// The entry.
    pub entry: LogEntry,
    signed: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
}

impl OpenedEntry {
    /// True if the member with this public key signed the entry.
    #[must_use]
    pub fn verify(&self, public_key: &[u8; 32]) -> bool {
        sign::verify(public_key, &[DOMAIN, &self.signed], &self.signature)
    }
}

/// Signs and seals an entry: the object's bytes.
#[must_use]
pub fn seal(entry: &LogEntry, log_key: &Secret32, signer: &SigningKey) -> Vec<u8> {
    seal_with_salt(entry, log_key, signer, &random())
}

pub(super) fn seal_with_salt(entry: &LogEntry, log_key: &Secret32, signer: &SigningKey, salt: &[u8; 32]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(1024);
    cbor::write(&mut plain, |sink| write_signed(sink, entry));
    let signature = signer.sign(&[DOMAIN, &plain]);
    debug_assert_eq!(plain[0], SIGNED_HEAD);
    plain[0] = STORED_HEAD;
    cbor::write(&mut plain, |sink| sink.bytes(&signature)?.ok());
    envelope::seal_with_salt(log_key, &log_object(entry.number), &plain, salt)
}

/// Opens entry `number`. The signature is not checked here, see [`OpenedEntry::verify`].
///
/// # Errors
/// [`Error::Damaged`] where it is not that entry, or sealed under another key; [`Error::Unsupported`] for an act that
/// this program does not know.
pub fn open(number: u64, bytes: &[u8], log_key: &Secret32) -> Result<OpenedEntry, Error> {
    let object = log_object(number);
    let mut plain = envelope::open(log_key, &object, bytes)?;
    if plain.first() != Some(&STORED_HEAD) {
        return Err(Damaged::new(object, 0, "not an array of eight").into());
    }
    let (opened, signed_len, signature) = cbor::whole(&object, &plain, |decoder| {
        cbor::tuple(decoder, 8)?;
        let opened = read_signed(decoder, number)?;
        Ok((opened, decoder.position(), cbor::bytes(decoder)?))
    })?;
    let entry = opened.map_err(|act| unsupported(&object, act))?;
    plain.truncate(signed_len);
    plain[0] = SIGNED_HEAD;
    Ok(OpenedEntry { entry, signed: plain, signature })
}

fn unsupported(object: &str, act: u64) -> Error {
    let name = usize::try_from(act).ok().and_then(|act| ACT_NAMES.get(act)).copied();
    let name = name.map_or_else(|| format!("an act number {act}"), |name| format!("a {name}"));
    Error::Unsupported(format!("{object} holds {name}, which needs a newer version of this program"))
}

fn write_signed(sink: &mut Sink, entry: &LogEntry) -> Written {
    sink.array(7)?.u64(entry.number)?;
    sink.bytes(entry.previous.as_ref().map_or(&[], |hash| hash.as_bytes()))?;
    sink.bytes(entry.repository.as_bytes())?.bytes(entry.member.as_bytes())?.i64(entry.time_ms)?;
    match &entry.act {
        Act::Init { marker, member, data_public, generation } => {
            sink.u8(0)?.map(4)?.u8(0)?.bytes(marker.as_bytes())?.u8(1)?;
            member.write(sink)?;
            sink.u8(2)?.bytes(data_public)?.u8(3)?.u32(*generation)?.ok()
        }
        Act::Commit { session, segments, snapshot, adopted } => {
            sink.u8(1)?.map(4)?.u8(0)?.bytes(session.as_bytes())?.u8(1)?.array(segments.len() as u64)?;
            segments.iter().try_for_each(|segment| segment.write(sink))?;
            sink.u8(2)?;
            snapshot.write(sink)?;
            sink.u8(3)?.array(adopted.len() as u64)?;
            adopted.iter().try_for_each(|session| sink.bytes(session.as_bytes())?.ok())
        }
    }
}

/// Reads the first seven items. The inner error is the number of an act that is not known.
fn read_signed(decoder: &mut Decoder, number: u64) -> Read<Result<LogEntry, u64>> {
    if decoder.u64()? != number {
        return cbor::refuse(decoder, "an entry of another number");
    }
    let previous = match decoder.bytes()? {
        [] => None,
        hash => Some(required(decoder, ObjectHash::from_slice(hash), "previous hash of 32 bytes")?),
    };
    if previous.is_none() != (number == 0) {
        return cbor::refuse(decoder, "every entry but the first has the hash of the one before");
    }
    let repository = RepositoryId(cbor::bytes(decoder)?);
    let member = MemberId(cbor::bytes(decoder)?);
    let time_ms = decoder.i64()?;
    let act = match decoder.u64()? {
        0 => read_init(decoder)?,
        1 => read_commit(decoder)?,
        other => {
            decoder.skip()?;
            return Ok(Err(other));
        }
    };
    Ok(Ok(LogEntry { number, previous, repository, member, time_ms, act }))
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
            0 => session = Some(SessionId(cbor::bytes(d)?)),
            1 => segments = Some(cbor::list(d, 53, SegmentRecord::read)?),
            2 => snapshot = Some(Box::new(SnapshotRecord::read(d)?)),
            3 => adopted = Some(cbor::list(d, 17, |d| cbor::bytes(d).map(SessionId))?),
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

impl MemberRecord {
    fn write(&self, sink: &mut Sink) -> Written {
        sink.map(4)?.u8(0)?.bytes(self.id.as_bytes())?.u8(1)?.bytes(&self.public_key)?;
        sink.u8(2)?.u8(self.role.code())?.u8(3)?.str(&self.label)?.ok()
    }

    fn read(decoder: &mut Decoder) -> Read<Self> {
        let (mut id, mut public_key, mut role, mut label) = (None, None, None, None);
        cbor::fields(decoder, |key, d| {
            match key {
                0 => id = Some(MemberId(cbor::bytes(d)?)),
                1 => public_key = Some(cbor::bytes(d)?),
                2 => role = Some(Role::read(d)?),
                3 => label = Some(d.str()?.to_owned()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            id: required(decoder, id, "member id")?,
            public_key: required(decoder, public_key, "public key")?,
            role: required(decoder, role, "role")?,
            label: required(decoder, label, "label")?,
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
