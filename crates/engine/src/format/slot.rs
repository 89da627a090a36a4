//! Key slots and the key ring (docs/format.md §4): each slot is one way in, a key ring sealed under a passphrase or a
//! key file.
//!
//! Invariants: the ring is authenticated under its slot's name; a ring of a member holds no data secret key; what a
//! hostile slot claims (a cost, a length) can refuse but not harm. Label and time in a slot are not authenticated.

use std::fmt;

use zeroize::Zeroizing;

use super::cbor::{self, Read, Sink, Written, required};
use super::names::slot_object;
use crate::crypto::passphrase::{self, Cost};
use crate::crypto::wrap::{self, DataPublicKey, DataSecretKey};
use crate::crypto::{Secret32, envelope, hkdf, random};
use crate::error::{Damaged, Error};
use crate::ids::{MemberId, RepositoryId, SlotId};

const VERSION: u32 = 1;
const KEY_FILE_MAGIC: &str = "seawall-key-1";
const KEY_FILE_INFO: &[u8] = b"seawall v1 key file";
/// Longer than any key ring, so that no copy of one is left behind by a growing buffer.
const RING_BYTES_MAX: usize = 1024;

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, also forgetting and changing keys.
    Owner,
    /// Adding and reading back.
    Reader,
    /// Adding, but not reading data back.
    Member,
}

impl Role {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Owner => 0,
            Self::Reader => 1,
            Self::Member => 2,
        }
    }

    pub(super) fn read(decoder: &mut minicbor::Decoder) -> Read<Self> {
        match decoder.u8()? {
            0 => Ok(Self::Owner),
            1 => Ok(Self::Reader),
            2 => Ok(Self::Member),
            _ => cbor::refuse(decoder, "an unknown role"),
        }
    }
}

/// The keys of one member. Secrets are overwritten on drop and not printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// What the member may do.
    pub role: Role,
    /// The repository these keys are for.
    pub repository: RepositoryId,
    /// The member.
    pub member: MemberId,
    /// Names chunks.
    pub id_key: Secret32,
    /// Decides chunk and node boundaries.
    pub chunker_key: Secret32,
    /// Seals segments and pack footers.
    pub index_key: Secret32,
    /// Seals log entries.
    pub log_key: Secret32,
    /// Wraps session keys.
    pub data_public: DataPublicKey,
    /// Unwraps session keys; owners and readers have it.
    pub data_secret: Option<DataSecretKey>,
    /// Seed of the member's signing key.
    pub signing_seed: Secret32,
    /// Generation of the data key pair.
    pub generation: u32,
}

impl KeyRing {
    /// Fresh keys of a new repository, for its first owner.
    #[must_use]
    pub fn generate(repository: RepositoryId) -> Self {
        let (data_secret, data_public) = wrap::generate();
        Self {
            role: Role::Owner,
            repository,
            member: MemberId(random()),
            id_key: Secret32::random(),
            chunker_key: Secret32::random(),
            index_key: Secret32::random(),
            log_key: Secret32::random(),
            data_public,
            data_secret: Some(data_secret),
            signing_seed: Secret32::random(),
            generation: 0,
        }
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(RING_BYTES_MAX));
        cbor::write(&mut out, |sink| {
            sink.map(11 + u64::from(self.data_secret.is_some()))?.u8(0)?.u32(VERSION)?;
            sink.u8(1)?.u8(self.role.code())?;
            sink.u8(2)?.bytes(self.repository.as_bytes())?.u8(3)?.bytes(self.member.as_bytes())?;
            for (key, secret) in [(4, &self.id_key), (5, &self.chunker_key), (6, &self.index_key), (7, &self.log_key)] {
                sink.u8(key)?.bytes(secret.as_bytes())?;
            }
            sink.u8(8)?.bytes(self.data_public.as_bytes())?;
            if let Some(secret) = &self.data_secret {
                sink.u8(9)?.bytes(secret.as_bytes())?;
            }
            sink.u8(10)?.bytes(self.signing_seed.as_bytes())?.u8(11)?.u32(self.generation)?.ok()
        });
        out
    }

    fn decode(object: &str, bytes: &[u8]) -> Result<Self, Damaged> {
        cbor::whole(object, bytes, |decoder| {
            let mut keys: [Option<Secret32>; 12] = Default::default();
            let (mut version, mut role, mut repository, mut member, mut generation) = (None, None, None, None, None);
            cbor::fields(decoder, |key, d| {
                match key {
                    0 => version = Some(d.u32()?),
                    1 => role = Some(Role::read(d)?),
                    2 => repository = Some(RepositoryId(cbor::bytes(d)?)),
                    3 => member = Some(MemberId(cbor::bytes(d)?)),
                    4..=10 => keys[key as usize] = Some(cbor::secret(d)?),
                    11 => generation = Some(d.u32()?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            if version != Some(VERSION) {
                return cbor::refuse(decoder, "a key ring of a version that this program does not know");
            }
            let mut key = |number: usize, name| required(decoder, keys[number].take(), name);
            let public = *key(8, "data public key")?.as_bytes();
            let ring = Self {
                role: required(decoder, role, "role")?,
                repository: required(decoder, repository, "repository id")?,
                member: required(decoder, member, "member id")?,
                id_key: key(4, "id key")?,
                chunker_key: key(5, "chunker key")?,
                index_key: key(6, "index key")?,
                log_key: key(7, "log key")?,
                signing_seed: key(10, "signing seed")?,
                data_public: required(decoder, DataPublicKey::from_bytes(public), "usable data public key")?,
                data_secret: keys[9].take().map(|secret| DataSecretKey::from_bytes(*secret.as_bytes())),
                generation: required(decoder, generation, "generation")?,
            };
            if ring.is_consistent() { Ok(ring) } else { cbor::refuse(decoder, "keys that do not belong together") }
        })
    }

    fn is_consistent(&self) -> bool {
        match &self.data_secret {
            Some(secret) => self.role != Role::Member && secret.public() == self.data_public,
            None => self.role == Role::Member,
        }
    }
}

/// What opens a slot.
#[derive(Clone)]
pub enum Unlock {
    /// A passphrase's bytes.
    Passphrase(Zeroizing<Vec<u8>>),
    /// A key file's 32 bytes.
    KeyFile(Secret32),
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::KeyFile(_) => "KeyFile(..)",
        })
    }
}

/// What a slot says of itself without a key. None of it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// True for a passphrase, false for a key file.
    pub passphrase: bool,
    /// Role of the ring inside.
    pub role: Role,
    /// The label that its maker gave.
    pub label: String,
    /// When it was made, in Unix seconds, as its maker claims.
    pub created_seconds: i64,
}

/// Seals a key ring into a slot. `cost` counts for passphrases only.
///
/// # Errors
/// [`Error::Unsupported`] for a cost beyond the limits of [`passphrase::derive`].
pub fn seal(
    ring: &KeyRing,
    unlock: &Unlock,
    slot: &SlotId,
    label: &str,
    created_seconds: i64,
    cost: Cost,
) -> Result<Vec<u8>, Error> {
    let (salt, envelope_salt) = (random(), random());
    let contents = Contents { ring, unlock, label, created_seconds, cost };
    contents.seal(slot, &salt, &envelope_salt)
}

/// What goes into a slot.
pub(super) struct Contents<'a> {
    pub(super) ring: &'a KeyRing,
    pub(super) unlock: &'a Unlock,
    pub(super) label: &'a str,
    pub(super) created_seconds: i64,
    pub(super) cost: Cost,
}

impl Contents<'_> {
    pub(super) fn seal(&self, slot: &SlotId, salt: &[u8; 16], envelope_salt: &[u8; 32]) -> Result<Vec<u8>, Error> {
        let key = purpose_key(self.unlock, salt, self.cost)?;
        let sealed = envelope::seal_with_salt(&key, &slot_object(slot), &self.ring.encode(), envelope_salt);
        let mut out = Vec::with_capacity(sealed.len() + self.label.len() + 128);
        cbor::write(&mut out, |sink| self.write(sink, salt, &sealed));
        Ok(out)
    }

    fn write(&self, sink: &mut Sink, salt: &[u8; 16], sealed: &[u8]) -> Written {
        let passphrase = matches!(self.unlock, Unlock::Passphrase(_));
        sink.map(7 + u64::from(passphrase))?.u8(0)?.u32(VERSION)?.u8(1)?.u8(u8::from(!passphrase))?;
        sink.u8(2)?.u8(self.ring.role.code())?.u8(3)?.bytes(salt)?;
        if passphrase {
            let Cost { memory_kib, passes, lanes } = self.cost;
            sink.u8(4)?.array(3)?.u32(memory_kib)?.u32(passes)?.u32(lanes)?;
        }
        sink.u8(5)?.bytes(sealed)?.u8(6)?.str(self.label)?.u8(7)?.i64(self.created_seconds)?.ok()
    }
}

/// Opens a slot; `None` where it is of another kind than `unlock`, or `unlock` is not its key.
///
/// # Errors
/// [`Error::Damaged`] where it is not a slot, [`Error::Unsupported`] for a passphrase cost beyond the limits.
pub fn open(bytes: &[u8], slot: &SlotId, unlock: &Unlock) -> Result<Option<KeyRing>, Error> {
    let name = slot_object(slot);
    let stored = Stored::decode(&name, bytes)?;
    let cost = match (unlock, stored.cost) {
        (Unlock::Passphrase(_), Some(cost)) => cost,
        (Unlock::KeyFile(_), None) => Cost::DEFAULT,
        _ => return Ok(None),
    };
    let key = purpose_key(unlock, &stored.salt, cost)?;
    // Why not an error: a wrong key and a changed ring look the same, and another slot may still open.
    let Ok(plain) = envelope::open(&key, &name, stored.sealed).map(Zeroizing::new) else { return Ok(None) };
    let ring = KeyRing::decode(&name, &plain)?;
    if ring.role != stored.info.role {
        return Err(Damaged::new(name, 0, "the slot claims another role than its key ring").into());
    }
    Ok(Some(ring))
}

/// What a slot says of itself.
///
/// # Errors
/// [`Damaged`] where it is not a slot.
pub fn describe(bytes: &[u8], slot: &SlotId) -> Result<SlotInfo, Damaged> {
    Ok(Stored::decode(&slot_object(slot), bytes)?.info)
}

fn purpose_key(unlock: &Unlock, salt: &[u8; 16], cost: Cost) -> Result<Secret32, Error> {
    match unlock {
        Unlock::Passphrase(passphrase) => passphrase::derive(passphrase, salt, cost),
        Unlock::KeyFile(secret) => Ok(hkdf(secret.as_bytes(), salt, &[KEY_FILE_INFO])),
    }
}

/// A slot's fields. The cost is there exactly for passphrases.
struct Stored<'b> {
    info: SlotInfo,
    salt: [u8; 16],
    cost: Option<Cost>,
    sealed: &'b [u8],
}

impl<'b> Stored<'b> {
    fn decode(name: &str, bytes: &'b [u8]) -> Result<Self, Damaged> {
        cbor::whole(name, bytes, |decoder| {
            let (mut version, mut kind, mut role, mut salt) = (None, None, None, None);
            let (mut cost, mut sealed, mut label, mut created) = (None, None, None, None);
            cbor::fields(decoder, |key, d| {
                match key {
                    0 => version = Some(d.u32()?),
                    1 => kind = Some(d.u32()?),
                    2 => role = Some(Role::read(d)?),
                    3 => salt = Some(cbor::bytes(d)?),
                    4 => {
                        cbor::tuple(d, 3)?;
                        cost = Some(Cost { memory_kib: d.u32()?, passes: d.u32()?, lanes: d.u32()? });
                    }
                    5 => sealed = Some(d.bytes()?),
                    6 => label = Some(d.str()?.to_owned()),
                    7 => created = Some(d.i64()?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            let passphrase = match (version, kind) {
                (Some(VERSION), Some(kind @ (0 | 1))) => kind == 0,
                _ => return cbor::refuse(decoder, "a slot of a version or kind that this program does not know"),
            };
            if passphrase != cost.is_some() {
                return cbor::refuse(decoder, "a passphrase slot has a cost, and no other has");
            }
            let info = SlotInfo {
                passphrase,
                role: required(decoder, role, "role")?,
                label: required(decoder, label, "label")?,
                created_seconds: required(decoder, created, "creation time")?,
            };
            let salt = required(decoder, salt, "salt")?;
            Ok(Self { info, salt, cost, sealed: required(decoder, sealed, "key ring")? })
        })
    }
}

/// The text of a key file.
#[must_use]
pub fn key_file_text(secret: &Secret32) -> String {
    let mut text = String::with_capacity(KEY_FILE_MAGIC.len() + 66);
    text.push_str(KEY_FILE_MAGIC);
    text.push('\n');
    for byte in secret.as_bytes() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("a digit is below 16"));
        }
    }
    text.push('\n');
    text
}

/// Reads the text of a key file; `None` where it is not one. White space at the ends of lines does not count.
#[must_use]
pub fn parse_key_file(text: &str) -> Option<Secret32> {
    let mut lines = text.lines().map(str::trim_end);
    if lines.next() != Some(KEY_FILE_MAGIC) {
        return None;
    }
    let digits = lines.next()?;
    if !lines.all(|line| line.is_empty() || line.starts_with('#')) || digits.len() != 64 {
        return None;
    }
    let mut secret = Zeroizing::new([0; 32]);
    for (place, pair) in secret.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |character: u8| char::from(character).to_digit(16);
        *place = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(Secret32::new(*secret))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::golden::{REPOSITORY, SLOT, SMALL_COST, ring, secret};

    /// The plain bytes of a key ring.
    pub(in crate::format) fn ring_bytes(ring: &KeyRing) -> Vec<u8> {
        ring.encode().to_vec()
    }

    /// Reads the plain bytes of a key ring.
    pub(in crate::format) fn open_ring(bytes: &[u8]) -> Result<KeyRing, Damaged> {
        KeyRing::decode("key ring", bytes)
    }

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn slots_open_with_their_key_only() {
        let ring = KeyRing::generate(REPOSITORY);
        for unlock in [passphrase("correct horse"), Unlock::KeyFile(secret(1))] {
            let sealed = seal(&ring, &unlock, &SLOT, "first", 1, SMALL_COST).unwrap();
            assert_eq!(open(&sealed, &SLOT, &unlock).unwrap(), Some(ring.clone()));
            for wrong in [passphrase("correct horse "), passphrase(""), Unlock::KeyFile(secret(2))] {
                assert_eq!(open(&sealed, &SLOT, &wrong).unwrap(), None, "{wrong:?}");
            }
        }
    }

    #[test]
    fn the_role_outside_must_be_that_of_the_ring() {
        let unlock = Unlock::KeyFile(secret(1));
        let mut sealed = seal(&ring(Role::Reader), &unlock, &SLOT, "", 0, SMALL_COST).unwrap();
        assert_eq!(sealed[5..7], [2, 1], "field 2 is the role");
        sealed[6] = 0;
        assert!(matches!(open(&sealed, &SLOT, &unlock), Err(Error::Damaged(_))));
    }

    #[test]
    fn rings_that_do_not_fit_together_are_refused() {
        let member_with_secret = KeyRing { role: Role::Member, ..ring(Role::Owner) };
        let owner_without = KeyRing { role: Role::Owner, ..ring(Role::Member) };
        let other_pair = KeyRing { data_secret: KeyRing::generate(REPOSITORY).data_secret, ..ring(Role::Owner) };
        for ring in [member_with_secret, owner_without, other_pair] {
            assert!(open_ring(&ring_bytes(&ring)).is_err());
        }
    }

    #[test]
    fn hostile_costs_are_refused_before_any_memory_is_taken() {
        let cost = Cost { memory_kib: 1 << 31, ..SMALL_COST };
        assert!(matches!(seal(&ring(Role::Owner), &passphrase("a"), &SLOT, "", 0, cost), Err(Error::Unsupported(_))));
        let contents = [0xa8, 0, 1, 1, 0, 2, 0, 3, 0x50].iter().copied().chain([0; 16]);
        let cost = [4, 0x83, 0x1a, 0x80, 0, 0, 0, 2, 2, 5, 0x40, 6, 0x60, 7, 0];
        let slot: Vec<u8> = contents.chain(cost).collect();
        assert!(matches!(open(&slot, &SLOT, &passphrase("a")), Err(Error::Unsupported(_))));
        assert_eq!(open(&slot, &SLOT, &Unlock::KeyFile(secret(1))).unwrap(), None);
    }

    #[test]
    fn key_files_are_read_back() {
        let text = key_file_text(&secret(0xA7));
        assert_eq!(text, format!("seawall-key-1\n{}\n", "a7".repeat(32)));
        for accepted in [
            text.clone(),
            format!("{text}# made on node7\n\n"),
            text.replace('\n', " \r\n"),
            text.to_uppercase().replace("SEAWALL-KEY", "seawall-key"),
        ] {
            assert_eq!(parse_key_file(&accepted), Some(secret(0xA7)), "{accepted:?}");
        }
        let digits = "a7".repeat(32);
        for refused in [
            String::new(),
            "seawall-key-1".into(),
            format!("seawall-key-2\n{digits}\n"),
            format!("seawall-key-1\n{digits}a7\n"),
            format!("seawall-key-1\n{}\n", &digits[1..]),
            format!("seawall-key-1\n{}+7\n", &digits[2..]),
            format!("seawall-key-1\n{digits}\n{digits}\n"),
        ] {
            assert_eq!(parse_key_file(&refused), None, "{refused:?}");
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        let ring = ring(Role::Owner);
        let texts =
            [format!("{ring:?}"), format!("{:?}", passphrase("hunter2")), format!("{:?}", Unlock::KeyFile(secret(7)))];
        assert!(texts[0].contains("Secret32(..)"));
        for secret in ["hunter2", "[1, 1", "[3, 3", "[72, 72", "[5, 5", "[7, 7"] {
            assert!(texts.iter().all(|text| !text.contains(secret)), "{secret} in {texts:?}");
        }
    }
}
