//! Session records (docs/format.md §5): a writing session's data key, wrapped for one generation of the repository's
//! data key pair. What is wrapped how is in [`crate::crypto::wrap`]; here are only the bytes around it.

use super::cbor::{self, required};
use super::names::session_object;
use crate::error::Damaged;
use crate::ids::SessionId;

/// No record is longer, stored.
pub const RECORD_BYTES_MAX: u64 = 4 << 10;
const VERSION: u32 = 1;
/// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
const SUITE: u32 = 1;

/// A session's wrapped key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The session.
    pub session: SessionId,
    /// Generation of the data key pair it is wrapped for.
    pub generation: u32,
    /// HPKE's encapsulated key.
    pub encapsulated: Vec<u8>,
    /// The wrapped session key.
    pub ciphertext: Vec<u8>,
}

/// The object's bytes.
#[must_use]
pub fn encode(session: SessionId, generation: u32, encapsulated: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    cbor::write(&mut out, |sink| {
        sink.map(6)?.u8(0)?.u32(VERSION)?.u8(1)?.bytes(session.as_bytes())?.u8(2)?.u32(generation)?;
        sink.u8(3)?.u32(SUITE)?.u8(4)?.bytes(encapsulated)?.u8(5)?.bytes(ciphertext)?.ok()
    });
    out
}

/// Reads the object of that session and generation.
///
/// # Errors
/// [`Damaged`] where it is not that session's record.
pub fn decode(session: &SessionId, generation: u32, bytes: &[u8]) -> Result<SessionRecord, Damaged> {
    cbor::whole(&session_object(session, generation), bytes, |decoder| {
        let (mut version, mut id, mut number, mut suite) = (None, None, None, None);
        let (mut encapsulated, mut ciphertext) = (None, None);
        cbor::fields(decoder, |key, d| {
            match key {
                0 => version = Some(d.u32()?),
                1 => id = Some(SessionId(cbor::bytes(d)?)),
                2 => number = Some(d.u32()?),
                3 => suite = Some(d.u32()?),
                4 => encapsulated = Some(d.bytes()?.to_vec()),
                5 => ciphertext = Some(d.bytes()?.to_vec()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if version != Some(VERSION) || suite != Some(SUITE) {
            return cbor::refuse(decoder, "a version or suite that this program does not know");
        }
        if id != Some(*session) || number != Some(generation) {
            return cbor::refuse(decoder, "the record of another session or generation");
        }
        Ok(SessionRecord {
            session: *session,
            generation,
            encapsulated: required(decoder, encapsulated, "encapsulated key")?,
            ciphertext: required(decoder, ciphertext, "ciphertext")?,
        })
    })
}
