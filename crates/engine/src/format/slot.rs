//! Key slots and the key ring (docs/format.md §4): each slot is one way in, a key ring sealed under a passphrase, a key
//! file, the public key of an identity, or a secret of which several people hold shares.
//!
//! Invariants: the ring is authenticated under its slot's name; a ring of a member holds no data secret key; what a
//! hostile slot claims (a cost, a length) can refuse but not harm. Label and time in a slot are not authenticated. Of
//! shares, how many are needed is what the shares say: a slot that asks for fewer is not theirs.

use std::fmt;

use zeroize::Zeroizing;

use super::cbor::{self, Read, Sink, Written, required};
use super::names::slot_object;
use crate::crypto::passphrase::{self, Cost};
use crate::crypto::wrap::{self, DataPublicKey, DataSecretKey};
use crate::crypto::{Secret32, envelope, hkdf, random, shamir};
use crate::error::{Damaged, Error};
use crate::ids::{MemberId, RepositoryId, SlotId};

pub use super::key_text::{
    Share, identity_text, key_file_text, parse_identity, parse_key_file, parse_public_key, public_key_text,
};

const VERSION: u32 = 1;
const KEY_FILE_INFO: &[u8] = b"seawall v1 key file";
const IDENTITY_INFO: &[u8] = b"seawall v1 public key slot";
const SHARES_INFO: &[u8] = b"seawall v1 shares slot";
/// No slot is longer, stored.
pub const SLOT_BYTES_MAX: u64 = 64 << 10;
/// No label of a slot or member is longer.
pub const LABEL_BYTES_MAX: usize = 1024;
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
    /// The role's name, as it is written on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Reader => "reader",
            Self::Member => "member",
        }
    }

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

    /// Fresh keys of another member of the same repository. `data` is the newest generation of the data key pair.
    #[must_use]
    pub fn for_member(&self, role: Role, generation: u32, data: &DataSecretKey) -> Self {
        Self {
            role,
            member: MemberId(random()),
            signing_seed: Secret32::random(),
            data_public: data.public(),
            data_secret: (role != Role::Member).then(|| data.clone()),
            generation,
            ..self.clone()
        }
    }

    /// The public key for which this member's grants are wrapped.
    #[must_use]
    pub fn wrap_public(&self) -> DataPublicKey {
        wrap::member_secret(&self.signing_seed).public()
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
    /// The secret key of an identity file.
    Identity(DataSecretKey),
    /// Shares, of one set or several.
    Shares(Vec<Share>),
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::KeyFile(_) => "KeyFile(..)",
            Self::Identity(_) => "Identity(..)",
            Self::Shares(_) => "Shares(..)",
        })
    }
}

/// What a slot is closed with.
#[derive(Clone)]
pub enum Lock {
    /// A passphrase's bytes.
    Passphrase(Zeroizing<Vec<u8>>),
    /// A key file's 32 bytes.
    KeyFile(Secret32),
    /// The public key of an identity file.
    Recipient(DataPublicKey),
    /// A secret of which shares are handed out.
    Shares(SharedSecret),
}

/// A secret that is handed out in shares.
#[derive(Clone)]
pub struct SharedSecret {
    set: [u8; 16],
    needed: u8,
    count: u8,
    secret: Secret32,
}

impl SharedSecret {
    /// A fresh secret, and its shares 1 to `count`, of which any `needed` open the slot; `None` unless
    /// 1 <= needed <= count.
    #[must_use]
    pub fn generate(needed: u8, count: u8) -> Option<(Self, Vec<Share>)> {
        let shared = Self { set: random(), needed, count, secret: Secret32::random() };
        let values = shamir::split(&shared.secret, needed, count)?;
        let share = |(number, value)| Share { set: shared.set, needed, number, value };
        let shares = (1..=count).zip(values).map(share).collect();
        Some((shared, shares))
    }
}

impl Unlock {
    /// The lock that it opens. `None` for shares: with some of them no new set can be handed out.
    #[must_use]
    pub fn lock(&self) -> Option<Lock> {
        match self {
            Self::Passphrase(text) => Some(Lock::Passphrase(text.clone())),
            Self::KeyFile(secret) => Some(Lock::KeyFile(secret.clone())),
            Self::Identity(identity) => Some(Lock::Recipient(identity.public())),
            Self::Shares(_) => None,
        }
    }
}

/// In which way a slot opens, with what its key does not bring along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// By a passphrase.
    Passphrase(Cost),
    /// By a key file.
    KeyFile,
    /// By the identity with this public key.
    Identity {
        /// The public key, as the slot claims.
        public: [u8; 32],
        /// HPKE's encapsulated key.
        encapsulated: [u8; 32],
        /// The wrapped secret.
        ciphertext: [u8; 48],
    },
    /// By shares.
    Shares {
        /// The set.
        set: [u8; 16],
        /// How many are needed.
        needed: u8,
        /// How many were handed out.
        count: u8,
    },
}

impl SlotKind {
    /// The kind in words.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::KeyFile => "key file",
            Self::Identity { .. } => "public key",
            Self::Shares { .. } => "shares",
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Passphrase(_) => 0,
            Self::KeyFile => 1,
            Self::Identity { .. } => 2,
            Self::Shares { .. } => 3,
        }
    }
}

/// What a slot says of itself without a key. None of it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// How it opens.
    pub kind: SlotKind,
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
/// [`Error::Unsupported`] for a cost beyond the limits of [`passphrase::derive`]; [`Error::Usage`] for a label of more than
/// [`LABEL_BYTES_MAX`].
pub fn seal(
    ring: &KeyRing,
    lock: &Lock,
    slot: &SlotId,
    label: &str,
    created_seconds: i64,
    cost: Cost,
) -> Result<Vec<u8>, Error> {
    if label.len() > LABEL_BYTES_MAX {
        return Err(Error::Usage(format!("a label has at most {LABEL_BYTES_MAX} bytes")));
    }
    let (salt, envelope_salt) = (random(), random());
    let (kind, secret) = close(lock, slot, cost);
    let key = purpose_key(&kind, &secret, &salt, &ring.repository)?;
    let contents = Contents { ring, kind, label, created_seconds };
    Ok(contents.seal(slot, &key, &salt, &envelope_salt))
}

/// The kind of slot that a lock makes, and the secret from which its purpose key comes.
fn close(lock: &Lock, slot: &SlotId, cost: Cost) -> (SlotKind, Zeroizing<Vec<u8>>) {
    let whole = |secret: &Secret32| Zeroizing::new(secret.as_bytes().to_vec());
    match lock {
        Lock::Passphrase(text) => (SlotKind::Passphrase(cost), text.clone()),
        Lock::KeyFile(secret) => (SlotKind::KeyFile, whole(secret)),
        Lock::Recipient(public) => {
            let secret = Secret32::random();
            let (encapsulated, ciphertext) = wrap::seal_slot_secret(public, slot, &secret);
            (SlotKind::Identity { public: *public.as_bytes(), encapsulated, ciphertext }, whole(&secret))
        }
        Lock::Shares(SharedSecret { set, needed, count, secret }) => {
            (SlotKind::Shares { set: *set, needed: *needed, count: *count }, whole(secret))
        }
    }
}

/// The secret that `unlock` holds for a slot of this kind, if it can have one.
fn reveal(kind: &SlotKind, slot: &SlotId, unlock: &Unlock) -> Option<Zeroizing<Vec<u8>>> {
    let whole = |secret: &Secret32| Zeroizing::new(secret.as_bytes().to_vec());
    match (kind, unlock) {
        (SlotKind::Passphrase(_), Unlock::Passphrase(text)) => Some(text.clone()),
        (SlotKind::KeyFile, Unlock::KeyFile(secret)) => Some(whole(secret)),
        (SlotKind::Identity { encapsulated, ciphertext, .. }, Unlock::Identity(identity)) => {
            wrap::open_slot_secret(identity, slot, (encapsulated, ciphertext)).as_ref().map(whole)
        }
        _ => None,
    }
}

/// So many choices of shares are tried at most: enough for two forged ones among sixty.
const CHOICES_MAX: usize = 2_000;

/// The secrets that choices of as many shares of a set give as are needed: all that leave out up to two. Of more shares than
/// are needed some may be forged, and keep nobody out then.
fn combine<'s>(shares: &'s [Share], set: &[u8; 16], needed: u8) -> impl Iterator<Item = Secret32> + use<'s> {
    let fitting = fitting(shares, set, needed);
    let (given, needed) = (fitting.len(), usize::from(needed));
    let one = (0..given).map(move |left| (left, given));
    let two = (0..given).flat_map(move |left| (left + 1..given).map(move |other| (left, other)));
    std::iter::once((given, given)).chain(one).chain(two).take(CHOICES_MAX).filter_map(move |(left, other)| {
        let stays = fitting.iter().enumerate().filter(|(place, _)| *place != left && *place != other);
        let mut chosen: Vec<(u8, &Secret32)> = stays.map(|(_, share)| (share.number, &share.value)).collect();
        chosen.dedup_by_key(|(number, _)| *number);
        chosen.truncate(needed);
        (chosen.len() == needed).then(|| shamir::combine(&chosen))?
    })
}

/// The shares of a set of which so many are needed, in order. Why what they need counts: whoever has one share can make a
/// slot that asks for that one alone, and would choose what the others open with it.
fn fitting<'s>(shares: &'s [Share], set: &[u8; 16], needed: u8) -> Vec<&'s Share> {
    let mut fitting: Vec<&Share> = shares.iter().filter(|share| share.set == *set && share.needed == needed).collect();
    fitting.sort_by_key(|share| share.number);
    fitting.dedup_by(|later, former| later.number == former.number && later.value == former.value);
    fitting
}

/// How many different shares of a set of which so many are needed are among these.
#[must_use]
pub fn count_shares(shares: &[Share], set: &[u8; 16], needed: u8) -> usize {
    let mut fitting = fitting(shares, set, needed);
    fitting.dedup_by_key(|share| share.number);
    fitting.len()
}

/// What goes into a slot.
pub(super) struct Contents<'a> {
    pub(super) ring: &'a KeyRing,
    pub(super) kind: SlotKind,
    pub(super) label: &'a str,
    pub(super) created_seconds: i64,
}

impl Contents<'_> {
    pub(super) fn seal(&self, slot: &SlotId, key: &Secret32, salt: &[u8; 16], envelope_salt: &[u8; 32]) -> Vec<u8> {
        let sealed = envelope::seal_with_salt(key, &slot_object(slot), &self.ring.encode(), envelope_salt);
        let mut out = Vec::with_capacity(sealed.len() + self.label.len() + 256);
        cbor::write(&mut out, |sink| self.write(sink, salt, &sealed));
        out
    }

    fn write(&self, sink: &mut Sink, salt: &[u8; 16], sealed: &[u8]) -> Written {
        let more = match self.kind {
            SlotKind::KeyFile => 0,
            SlotKind::Passphrase(_) => 1,
            SlotKind::Identity { .. } | SlotKind::Shares { .. } => 3,
        };
        sink.map(7 + more)?.u8(0)?.u32(VERSION)?.u8(1)?.u8(self.kind.code())?;
        sink.u8(2)?.u8(self.ring.role.code())?.u8(3)?.bytes(salt)?;
        if let SlotKind::Passphrase(Cost { memory_kib, passes, lanes }) = self.kind {
            sink.u8(4)?.array(3)?.u32(memory_kib)?.u32(passes)?.u32(lanes)?;
        }
        sink.u8(5)?.bytes(sealed)?.u8(6)?.str(self.label)?.u8(7)?.i64(self.created_seconds)?;
        match &self.kind {
            SlotKind::Identity { public, encapsulated, ciphertext } => {
                sink.u8(8)?.bytes(public)?.u8(9)?.bytes(encapsulated)?.u8(10)?.bytes(ciphertext)?.ok()
            }
            SlotKind::Shares { set, needed, count } => {
                sink.u8(11)?.bytes(set)?.u8(12)?.u8(*needed)?.u8(13)?.u8(*count)?.ok()
            }
            SlotKind::Passphrase(_) | SlotKind::KeyFile => sink.ok(),
        }
    }
}

/// Opens a slot of a repository; `None` where it is of another kind than `unlock`, or `unlock` is not its key.
///
/// # Errors
/// [`Error::Damaged`] where it is not a slot, [`Error::Unsupported`] for a passphrase cost beyond the limits.
pub fn open(bytes: &[u8], slot: &SlotId, unlock: &Unlock, repository: &RepositoryId) -> Result<Option<KeyRing>, Error> {
    let name = slot_object(slot);
    let stored = Stored::decode(&name, bytes)?;
    // Why not an error: a wrong key and a changed ring look the same, and another slot may still open.
    let unseal = |secret: &[u8]| -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let key = purpose_key(&stored.info.kind, secret, &stored.salt, repository)?;
        Ok(envelope::open(&key, &name, stored.sealed).map(Zeroizing::new).ok())
    };
    let plain = match (&stored.info.kind, unlock) {
        (SlotKind::Shares { set, needed, .. }, Unlock::Shares(shares)) => {
            combine(shares, set, *needed).find_map(|secret| unseal(secret.as_bytes()).transpose()).transpose()?
        }
        (kind, unlock) => match reveal(kind, slot, unlock) {
            Some(secret) => unseal(&secret)?,
            None => None,
        },
    };
    let Some(plain) = plain else { return Ok(None) };
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

pub(super) fn purpose_key(
    kind: &SlotKind,
    secret: &[u8],
    salt: &[u8; 16],
    repository: &RepositoryId,
) -> Result<Secret32, Error> {
    Ok(match kind {
        SlotKind::Passphrase(cost) => passphrase::derive(secret, salt, *cost)?,
        SlotKind::KeyFile => hkdf(secret, salt, &[KEY_FILE_INFO]),
        SlotKind::Identity { .. } => hkdf(secret, salt, &[IDENTITY_INFO, repository.as_bytes()]),
        SlotKind::Shares { set, needed, count } => {
            hkdf(secret, salt, &[SHARES_INFO, set, &[*needed, *count], repository.as_bytes()])
        }
    })
}

/// A slot's fields.
struct Stored<'b> {
    info: SlotInfo,
    salt: [u8; 16],
    sealed: &'b [u8],
}

/// The fields of which a kind takes its own.
#[derive(Default)]
struct KindFields {
    kind: Option<u32>,
    cost: Option<Cost>,
    public: Option<[u8; 32]>,
    encapsulated: Option<[u8; 32]>,
    ciphertext: Option<[u8; 48]>,
    set: Option<[u8; 16]>,
    needed: Option<u8>,
    count: Option<u8>,
}

impl KindFields {
    fn choose(self, decoder: &minicbor::Decoder) -> Read<SlotKind> {
        if (self.kind == Some(0)) != self.cost.is_some() {
            return cbor::refuse(decoder, "a passphrase slot has a cost, and no other has");
        }
        match self {
            Self { kind: Some(0), cost: Some(cost), .. } => Ok(SlotKind::Passphrase(cost)),
            Self { kind: Some(1), .. } => Ok(SlotKind::KeyFile),
            Self { kind: Some(2), public: Some(public), encapsulated: Some(encapsulated), ciphertext, .. } => {
                let ciphertext = required(decoder, ciphertext, "ciphertext")?;
                Ok(SlotKind::Identity { public, encapsulated, ciphertext })
            }
            Self { kind: Some(3), set: Some(set), needed: Some(needed), count: Some(count), .. }
                if (1..=count).contains(&needed) =>
            {
                Ok(SlotKind::Shares { set, needed, count })
            }
            Self { kind: Some(2 | 3), .. } => cbor::refuse(decoder, "a slot without what its kind needs"),
            _ => cbor::refuse(decoder, "a slot of a kind that this program does not know"),
        }
    }
}

impl<'b> Stored<'b> {
    fn decode(name: &str, bytes: &'b [u8]) -> Result<Self, Damaged> {
        cbor::whole(name, bytes, |decoder| {
            let (mut version, mut role, mut salt) = (None, None, None);
            let (mut sealed, mut label, mut created, mut of_kind) = (None, None, None, KindFields::default());
            cbor::fields(decoder, |key, d| {
                match key {
                    0 => version = Some(d.u32()?),
                    1 => of_kind.kind = Some(d.u32()?),
                    2 => role = Some(Role::read(d)?),
                    3 => salt = Some(cbor::bytes(d)?),
                    4 => {
                        cbor::tuple(d, 3)?;
                        of_kind.cost = Some(Cost { memory_kib: d.u32()?, passes: d.u32()?, lanes: d.u32()? });
                    }
                    5 => sealed = Some(d.bytes()?),
                    6 => label = Some(d.str()?.to_owned()),
                    7 => created = Some(d.i64()?),
                    8 => of_kind.public = Some(cbor::bytes(d)?),
                    9 => of_kind.encapsulated = Some(cbor::bytes(d)?),
                    10 => of_kind.ciphertext = Some(cbor::bytes(d)?),
                    11 => of_kind.set = Some(cbor::bytes(d)?),
                    12 => of_kind.needed = Some(d.u8()?),
                    13 => of_kind.count = Some(d.u8()?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            if version != Some(VERSION) {
                return cbor::refuse(decoder, "a slot of a version that this program does not know");
            }
            let info = SlotInfo {
                kind: of_kind.choose(decoder)?,
                role: required(decoder, role, "role")?,
                label: required(decoder, label, "label")?,
                created_seconds: required(decoder, created, "creation time")?,
            };
            let salt = required(decoder, salt, "salt")?;
            Ok(Self { info, salt, sealed: required(decoder, sealed, "key ring")? })
        })
    }
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

    fn identity(byte: u8) -> Unlock {
        Unlock::Identity(DataSecretKey::from_bytes([byte; 32]))
    }

    #[test]
    fn any_three_of_five_shares_open_and_two_open_nothing() {
        let ring = KeyRing::generate(REPOSITORY);
        let (shared, shares) = SharedSecret::generate(3, 5).unwrap();
        let (_, foreign) = SharedSecret::generate(3, 5).unwrap();
        let sealed = seal(&ring, &Lock::Shares(shared), &SLOT, "", 1, SMALL_COST).unwrap();
        for chosen in 0u8..32 {
            let picked: Vec<Share> = shares.iter().filter(|it| chosen >> (it.number - 1) & 1 == 1).cloned().collect();
            let enough = picked.len() >= 3;
            let with_foreign = [picked.clone(), foreign.clone(), picked.clone()].concat();
            for given in [picked, with_foreign] {
                let opened = open(&sealed, &SLOT, &Unlock::Shares(given), &REPOSITORY).unwrap();
                assert_eq!(opened, enough.then(|| ring.clone()), "{chosen:05b}");
            }
        }
        assert!(SharedSecret::generate(0, 5).is_none() && SharedSecret::generate(6, 5).is_none());
    }

    /// One or two forged shares among enough good ones, also under the number of a good one, keep nobody out.
    #[test]
    fn forged_shares_keep_nobody_out() {
        let ring = KeyRing::generate(REPOSITORY);
        let (shared, shares) = SharedSecret::generate(3, 6).unwrap();
        let sealed = seal(&ring, &Lock::Shares(shared), &SLOT, "", 1, SMALL_COST).unwrap();
        let forged = |place: usize| Share { value: Secret32::random(), ..shares[place].clone() };
        let cases: [(Vec<Share>, bool); 5] = [
            ([vec![forged(0)], shares[1..4].to_vec()].concat(), true),
            ([vec![forged(0), forged(1)], shares[2..5].to_vec()].concat(), true),
            ([vec![forged(1)], shares[..3].to_vec()].concat(), true),
            ([vec![forged(0), forged(5)], shares.clone()].concat(), true),
            ([vec![forged(0)], shares[1..3].to_vec()].concat(), false),
        ];
        for (number, (given, opens)) in cases.into_iter().enumerate() {
            let opened = open(&sealed, &SLOT, &Unlock::Shares(given), &REPOSITORY).unwrap();
            assert_eq!(opened, opens.then(|| ring.clone()), "case {number}");
        }
    }

    /// Who holds one share would choose what the others open.
    #[test]
    fn a_slot_that_asks_for_fewer_shares_is_not_theirs() {
        let (_, shares) = SharedSecret::generate(3, 5).unwrap();
        for needed in [1, 2] {
            let secret = shares[0].value.clone();
            let lock = Lock::Shares(SharedSecret { set: shares[0].set, needed, count: 5, secret });
            let sealed = seal(&KeyRing::generate(REPOSITORY), &lock, &SLOT, "", 1, SMALL_COST).unwrap();
            for given in [&shares[..1], &shares[..3], &shares[..]] {
                let unlock = Unlock::Shares(given.to_vec());
                assert_eq!(open(&sealed, &SLOT, &unlock, &REPOSITORY).unwrap(), None, "{needed} needed");
            }
        }
    }

    #[test]
    fn slots_without_a_secret_of_their_own_are_bound_to_their_place() {
        let (shared, shares) = SharedSecret::generate(2, 3).unwrap();
        let ring = KeyRing::generate(REPOSITORY);
        let other = RepositoryId([9; 16]);
        for (lock, unlock) in
            [(identity(1).lock().unwrap(), identity(1)), (Lock::Shares(shared), Unlock::Shares(shares))]
        {
            let sealed = seal(&ring, &lock, &SLOT, "", 1, SMALL_COST).unwrap();
            assert!(open(&sealed, &SLOT, &unlock, &REPOSITORY).unwrap().is_some());
            assert_eq!(open(&sealed, &SlotId([0x41; 16]), &unlock, &REPOSITORY).unwrap(), None, "another slot");
            assert_eq!(open(&sealed, &SLOT, &unlock, &other).unwrap(), None, "another repository");
            // The last field of shares is how many were handed out; the one before, how many are needed.
            if let Unlock::Shares(_) = unlock {
                let mut more = sealed;
                *more.last_mut().unwrap() += 1;
                assert_eq!(open(&more, &SLOT, &unlock, &REPOSITORY).unwrap(), None, "another count");
            }
        }
    }

    #[test]
    fn a_label_that_would_make_a_slot_too_long_is_refused() {
        let lock = Unlock::KeyFile(secret(1)).lock().unwrap();
        let label = |length| "x".repeat(length);
        let sealed = seal(&ring(Role::Owner), &lock, &SLOT, &label(LABEL_BYTES_MAX), 1, SMALL_COST).unwrap();
        assert!(sealed.len() as u64 <= SLOT_BYTES_MAX);
        let refused = seal(&ring(Role::Owner), &lock, &SLOT, &label(LABEL_BYTES_MAX + 1), 1, SMALL_COST);
        assert!(matches!(refused, Err(Error::Usage(_))));
    }

    #[test]
    fn slots_open_with_their_key_only() {
        let ring = KeyRing::generate(REPOSITORY);
        for unlock in [passphrase("correct horse"), Unlock::KeyFile(secret(1)), identity(1)] {
            let sealed = seal(&ring, &unlock.lock().unwrap(), &SLOT, "first", 1, SMALL_COST).unwrap();
            assert_eq!(open(&sealed, &SLOT, &unlock, &REPOSITORY).unwrap(), Some(ring.clone()));
            for wrong in [passphrase("correct horse "), passphrase(""), Unlock::KeyFile(secret(2)), identity(2)] {
                assert_eq!(open(&sealed, &SLOT, &wrong, &REPOSITORY).unwrap(), None, "{wrong:?}");
            }
        }
    }

    #[test]
    fn the_role_outside_must_be_that_of_the_ring() {
        let unlock = Unlock::KeyFile(secret(1));
        let mut sealed = seal(&ring(Role::Reader), &unlock.lock().unwrap(), &SLOT, "", 0, SMALL_COST).unwrap();
        assert_eq!(sealed[5..7], [2, 1], "field 2 is the role");
        sealed[6] = 0;
        assert!(matches!(open(&sealed, &SLOT, &unlock, &REPOSITORY), Err(Error::Damaged(_))));
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
        assert!(matches!(
            seal(&ring(Role::Owner), &passphrase("a").lock().unwrap(), &SLOT, "", 0, cost),
            Err(Error::Unsupported(_))
        ));
        let contents = [0xa8, 0, 1, 1, 0, 2, 0, 3, 0x50].iter().copied().chain([0; 16]);
        let cost = [4, 0x83, 0x1a, 0x80, 0, 0, 0, 2, 2, 5, 0x40, 6, 0x60, 7, 0];
        let slot: Vec<u8> = contents.chain(cost).collect();
        assert!(matches!(open(&slot, &SLOT, &passphrase("a"), &REPOSITORY), Err(Error::Unsupported(_))));
        assert_eq!(open(&slot, &SLOT, &Unlock::KeyFile(secret(1)), &REPOSITORY).unwrap(), None);
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
