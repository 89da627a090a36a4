//! Wrapping of 32-byte secrets for an X25519 public key (docs/format.md §4, §5, §8): HPKE base mode (RFC 9180) with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
//!
//! Session keys are wrapped for the repository's data key pair: who has the public key can start a session and write;
//! only who has the secret key reads back. The data secret keys of new generations are wrapped for members (grants), and
//! the secrets of key slots for the public key of an identity file. Each is bound to its place by its own `info` and the
//! associated data, so it can't be moved to another name or taken for something else.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::{Secret32, hkdf};
use crate::ids::{MemberId, RepositoryId, SessionId, SlotId};

const SESSION_INFO: &[u8] = b"seawall v1 session";
const GRANT_INFO: &[u8] = b"seawall v1 grant";
const SLOT_INFO: &[u8] = b"seawall v1 slot";
const MEMBER_INFO: &[u8] = b"seawall v1 member wrap";

/// Public half of a key pair (the repository's data key pair, a member's, an identity's): may wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPublicKey([u8; 32]);

impl DataPublicKey {
    /// Reads an X25519 public key; `None` where no key can be agreed on with it (a point of low order).
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let key = Self(bytes);
        encrypt(&key, SESSION_INFO, &[0; 32], &[]).is_some().then_some(key)
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Secret half of a key pair: may unwrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSecretKey(Secret32);

impl DataSecretKey {
    /// Reads an X25519 secret key from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret32::new(bytes))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public(&self) -> DataPublicKey {
        DataPublicKey(X25519HkdfSha256::sk_to_pk(&self.library_key()).to_bytes().into())
    }

    fn library_key(&self) -> <X25519HkdfSha256 as Kem>::PrivateKey {
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.as_bytes()).expect("any 32 bytes are an X25519 secret")
    }
}

/// A fresh key pair.
#[must_use]
pub fn generate() -> (DataSecretKey, DataPublicKey) {
    let (secret, public) = X25519HkdfSha256::gen_keypair();
    let secret_bytes = Zeroizing::new(<[u8; 32]>::from(secret.to_bytes()));
    (DataSecretKey::from_bytes(*secret_bytes), DataPublicKey(public.to_bytes().into()))
}

/// The key pair for which a member's grants are wrapped: derived from the seed of the member's signing key, so that a key
/// ring needs no field for it.
#[must_use]
pub fn member_secret(signing_seed: &Secret32) -> DataSecretKey {
    DataSecretKey(hkdf(signing_seed.as_bytes(), &[], &[MEMBER_INFO]))
}

/// Wraps a session's key: (encapsulated key, ciphertext).
#[must_use]
pub fn seal_session_key(
    public: &DataPublicKey,
    repository: &RepositoryId,
    session: &SessionId,
    generation: u32,
    key: &Secret32,
) -> (Vec<u8>, Vec<u8>) {
    let place = place(repository.as_bytes(), session.as_bytes(), generation);
    let (encapsulated, ciphertext) =
        encrypt(public, SESSION_INFO, key.as_bytes(), &place).expect("a DataPublicKey was checked or computed");
    (encapsulated.to_vec(), ciphertext.to_vec())
}

/// Unwraps a session's key; `None` where it was not wrapped for this key, repository, session and generation.
#[must_use]
pub fn open_session_key(
    secret: &DataSecretKey,
    repository: &RepositoryId,
    session: &SessionId,
    generation: u32,
    encapsulated: &[u8],
    ciphertext: &[u8],
) -> Option<Secret32> {
    let place = place(repository.as_bytes(), session.as_bytes(), generation);
    decrypt(secret, SESSION_INFO, encapsulated, ciphertext, &place)
}

/// Wraps the data secret key of a new generation for a member.
#[must_use]
pub fn seal_grant(
    public: &DataPublicKey,
    repository: &RepositoryId,
    member: &MemberId,
    generation: u32,
    data_secret: &DataSecretKey,
) -> Wrapped {
    let place = place(repository.as_bytes(), member.as_bytes(), generation);
    encrypt(public, GRANT_INFO, data_secret.as_bytes(), &place).expect("a DataPublicKey was checked or computed")
}

/// Unwraps a grant; `None` where it was not made for this member, repository and generation.
#[must_use]
pub fn open_grant(
    secret: &DataSecretKey,
    repository: &RepositoryId,
    member: &MemberId,
    generation: u32,
    (encapsulated, ciphertext): (&[u8], &[u8]),
) -> Option<DataSecretKey> {
    let place = place(repository.as_bytes(), member.as_bytes(), generation);
    decrypt(secret, GRANT_INFO, encapsulated, ciphertext, &place).map(DataSecretKey)
}

/// Wraps the secret of a key slot for an identity.
#[must_use]
pub fn seal_slot_secret(public: &DataPublicKey, slot: &SlotId, secret: &Secret32) -> Wrapped {
    encrypt(public, SLOT_INFO, secret.as_bytes(), slot.as_bytes()).expect("a DataPublicKey was checked or computed")
}

/// Unwraps the secret of a key slot; `None` where it was not wrapped for this identity and slot.
#[must_use]
pub fn open_slot_secret(
    identity: &DataSecretKey,
    slot: &SlotId,
    (encapsulated, ciphertext): (&[u8], &[u8]),
) -> Option<Secret32> {
    decrypt(identity, SLOT_INFO, encapsulated, ciphertext, slot.as_bytes())
}

/// An encapsulated key, and the ciphertext and tag of 32 bytes.
pub type Wrapped = ([u8; 32], [u8; 48]);

fn encrypt(public: &DataPublicKey, info: &[u8], plain: &[u8; 32], associated_data: &[u8]) -> Option<Wrapped> {
    let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&public.0).ok()?;
    let (encapsulated, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &recipient,
        info,
        plain,
        associated_data,
    )
    .ok()?;
    Some((encapsulated.to_bytes().into(), ciphertext.try_into().ok()?))
}

fn decrypt(
    secret: &DataSecretKey,
    info: &[u8],
    encapsulated: &[u8],
    ciphertext: &[u8],
    associated_data: &[u8],
) -> Option<Secret32> {
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let plain = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret.library_key(),
        &encapsulated,
        info,
        ciphertext,
        associated_data,
    );
    Secret32::from_slice(&Zeroizing::new(plain.ok()?))
}

/// Repository, then session or member, then generation.
fn place(repository: &[u8; 16], owner: &[u8; 16], generation: u32) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..16].copy_from_slice(repository);
    bytes[16..32].copy_from_slice(owner);
    bytes[32..].copy_from_slice(&generation.to_le_bytes());
    bytes
}
