//! Log entries (docs/format.md §8): numbered, chained by hash, signed, sealed. The log decides what exists.
//!
//! An entry is opened in two steps, because who may sign is itself written in the log: [`open`] unseals it and decodes
//! it as far as it can; [`OpenedEntry::verify`] checks the signature with the public key that the log gives for its
//! member. Whether the entry counts, is void or stops the reader is decided in [`crate::rules`].
//!
//! Invariant: who signed an entry can be told without understanding what it says. So whoever has the log key and is
//! nobody who counts can put what he likes into the log, and nobody is kept from reading on; and an entry of a later
//! version is known for one.

use minicbor::Decoder;

use super::act::ACT_NAMES;
pub use super::act::{Act, BlobDamage, Grant, KeyChange, MemberRecord, SegmentRecord};
use super::cbor::{self, Failure, Read, Sink, Written, required};
use super::names::log_object;
pub use super::snapshot::SnapshotRecord;
use crate::crypto::sign::{self, SIGNATURE_BYTES, SigningKey};
use crate::crypto::{Secret32, envelope, random};
use crate::error::Damaged;
use crate::ids::{MemberId, ObjectHash, RepositoryId};

const DOMAIN: &[u8] = b"seawall v1 log ";
/// CBOR heads of the stored array and of the signed one, which lacks the signature.
const STORED_HEAD: u8 = 0x88;
const SIGNED_HEAD: u8 = 0x87;
/// The stored array's head in a later version that has more items: up to 23 of them.
const STORED_HEAD_MAX: u8 = 0x97;
/// CBOR head of the signature, a byte string of 64; its whole length.
const SIGNATURE_HEAD: [u8; 2] = [0x58, 0x40];
const SIGNATURE_ITEM_BYTES: usize = SIGNATURE_HEAD.len() + SIGNATURE_BYTES;

/// No entry is longer, stored. Two million packs fit into one.
pub const ENTRY_BYTES_MAX: u64 = 64 << 20;

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

/// What an entry says of itself besides its act: readable also where the act is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its number, from 0.
    pub number: u64,
    /// What it takes for the log's head before it; none where it claims to be the first.
    pub previous: Option<ObjectHash>,
    /// The repository.
    pub repository: RepositoryId,
    /// Who wrote it, as it claims.
    pub member: MemberId,
    /// When, in Unix milliseconds, as the writer claims.
    pub time_ms: i64,
}

impl Frame {
    /// The entry that says this.
    #[must_use]
    pub fn with_act(&self, act: &Act) -> LogEntry {
        let Self { number, previous, repository, member, time_ms } = self.clone();
        LogEntry { number, previous, repository, member, time_ms, act: act.clone() }
    }
}

/// What lies at a number of the log.
#[derive(Debug, Clone)]
pub enum Opened {
    /// An entry that somebody may have signed.
    Entry(Box<OpenedEntry>),
    /// Nothing that anybody can have signed, and why.
    Malformed(String),
}

/// An entry that was authenticated under the log key, with what is needed to check its signature.
#[derive(Debug, Clone)]
pub struct OpenedEntry {
    /// Where it belongs and who wrote it.
    pub frame: Frame,
    /// What it says; or why this program can't tell.
    pub act: Result<Act, String>,
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
/// [`Damaged`] where it is not sealed under this name and key: then no member wrote it there.
pub fn open(number: u64, bytes: &[u8], log_key: &Secret32) -> Result<Opened, Damaged> {
    let object = log_object(number);
    let plain = envelope::open(log_key, &object, bytes)?;
    Ok(match read(number, &plain) {
        Ok((frame, act)) => {
            let (signed, signature) = plain.split_at(plain.len() - SIGNATURE_BYTES);
            let mut signed = signed[..signed.len() - SIGNATURE_HEAD.len()].to_vec();
            signed[0] -= 1;
            let signature = signature.try_into().expect("it was cut to its length");
            Opened::Entry(Box::new(OpenedEntry { frame, act, signed, signature }))
        }
        Err(failure) => Opened::Malformed(failure.to_string()),
    })
}

/// Reads the frame of an entry, and its act as far as that can be understood. The last item is the signature.
fn read(number: u64, plain: &[u8]) -> Read<(Frame, Result<Act, String>)> {
    let is_array = plain.first().is_some_and(|head| (STORED_HEAD..=STORED_HEAD_MAX).contains(head));
    let end = plain.len().saturating_sub(SIGNATURE_ITEM_BYTES);
    if !is_array || !plain[end..].starts_with(&SIGNATURE_HEAD) {
        return Err(Failure::message("not an entry: no array with a signature at its end"));
    }
    let mut decoder = Decoder::new(&plain[..end]);
    decoder.set_position(1);
    let frame = read_frame(&mut decoder, number)?;
    let act = if plain[0] == STORED_HEAD {
        read_act(&mut decoder)
    } else {
        Err(format!("an entry of {} items", plain[0] - STORED_HEAD + 8))
    };
    Ok((frame, act))
}

fn read_frame(decoder: &mut Decoder, number: u64) -> Read<Frame> {
    if decoder.u64()? != number {
        return cbor::refuse(decoder, "an entry of another number");
    }
    let previous = match decoder.bytes()? {
        [] => None,
        hash => Some(required(decoder, ObjectHash::from_slice(hash), "previous hash of 32 bytes")?),
    };
    let repository = RepositoryId(cbor::bytes(decoder)?);
    let member = MemberId(cbor::bytes(decoder)?);
    Ok(Frame { number, previous, repository, member, time_ms: decoder.i64()? })
}

fn read_act(decoder: &mut Decoder) -> Result<Act, String> {
    let end = decoder.input().len();
    match Act::read(decoder) {
        Ok(Ok(act)) if decoder.position() == end => Ok(act),
        Ok(Ok(_)) => Err("an entry with bytes behind its act".to_owned()),
        Ok(Err(unknown)) => Err(unknown_act(unknown)),
        Err(failure) => Err(format!("an act that can't be read ({failure})")),
    }
}

fn unknown_act(act: u64) -> String {
    let name = usize::try_from(act).ok().and_then(|act| ACT_NAMES.get(act)).copied();
    name.map_or_else(|| format!("an act number {act}"), |name| format!("a {name}"))
}

fn write_signed(sink: &mut Sink, entry: &LogEntry) -> Written {
    sink.array(7)?.u64(entry.number)?;
    sink.bytes(entry.previous.as_ref().map_or(&[], |hash| hash.as_bytes()))?;
    sink.bytes(entry.repository.as_bytes())?.bytes(entry.member.as_bytes())?.i64(entry.time_ms)?;
    entry.act.write(sink)
}
