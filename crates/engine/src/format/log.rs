//! Log entries (docs/format.md §8): numbered, chained by hash, signed, sealed. The log decides what exists.
//!
//! An entry is opened in two steps, because who may sign is itself written in the log: [`open`] authenticates it under
//! the log key and decodes it; [`OpenedEntry::verify`] checks the signature with the public key that the log gives for
//! its member. Whether the hash chain holds is the reader's to check, entry by entry.
//!
//! Invariant: an act of which this program knows no meaning refuses the repository; it may say that something is gone.

use minicbor::Decoder;

use super::act::ACT_NAMES;
pub use super::act::{Act, BlobDamage, Grant, KeyChange, MemberRecord, SegmentRecord};
use super::cbor::{self, Read, Sink, Written, required};
use super::names::log_object;
pub use super::snapshot::SnapshotRecord;
use crate::crypto::sign::{self, SIGNATURE_BYTES, SigningKey};
use crate::crypto::{Secret32, envelope, random};
use crate::error::{Damaged, Error};
use crate::ids::{MemberId, ObjectHash, RepositoryId};

const DOMAIN: &[u8] = b"seawall v1 log ";
/// CBOR heads of the stored array and of the signed one, which lacks the signature.
const STORED_HEAD: u8 = 0x88;
const SIGNED_HEAD: u8 = 0x87;
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
    entry.act.write(sink)
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
    let act = match Act::read(decoder)? {
        Ok(act) => act,
        Err(unknown) => return Ok(Err(unknown)),
    };
    Ok(Ok(LogEntry { number, previous, repository, member, time_ms, act }))
}
