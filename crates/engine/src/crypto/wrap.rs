//! Wrapping of session keys for the repository's data key pair (docs/format.md §5): HPKE base mode (RFC 9180) with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
//!
//! Who has the public key can start a session and write; only who has the secret key reads back. The wrapped key is
//! bound to repository, session and generation, so it can't be moved to another name.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::Secret32;
use crate::ids::{RepositoryId, SessionId};

const INFO: &[u8] = b"seawall v1 session";

/// Public half of the data key pair: may wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPublicKey([u8; 32]);

impl DataPublicKey {
    /// Reads an X25519 public key; `None` where no key can be agreed on with it (a point of low order).
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let key = Self(bytes);
        encrypt(&key, &[0; 32], &[]).is_some().then_some(key)
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Secret half of the data key pair: may unwrap.
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

/// Wraps a session's key: (encapsulated key, ciphertext).
#[must_use]
pub fn seal_session_key(
    public: &DataPublicKey,
    repository: &RepositoryId,
    session: &SessionId,
    generation: u32,
    key: &Secret32,
) -> (Vec<u8>, Vec<u8>) {
    encrypt(public, key.as_bytes(), &associated_data(repository, session, generation))
        .expect("a DataPublicKey was checked or computed")
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
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let plain = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret.library_key(),
        &encapsulated,
        INFO,
        ciphertext,
        &associated_data(repository, session, generation),
    );
    Secret32::from_slice(&Zeroizing::new(plain.ok()?))
}

fn encrypt(public: &DataPublicKey, plain: &[u8; 32], associated_data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&public.0).ok()?;
    let (encapsulated, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &recipient,
        INFO,
        plain,
        associated_data,
    )
    .ok()?;
    Some((encapsulated.to_bytes().to_vec(), ciphertext))
}

fn associated_data(repository: &RepositoryId, session: &SessionId, generation: u32) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[..16].copy_from_slice(repository.as_bytes());
    bytes[16..32].copy_from_slice(session.as_bytes());
    bytes[32..].copy_from_slice(&generation.to_le_bytes());
    bytes
}
