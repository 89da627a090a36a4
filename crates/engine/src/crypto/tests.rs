//! Known answers from the standards, and what the envelope and the ciphers promise.

use super::passphrase::{Cost, derive};
use super::sign::{SigningKey, verify};
use super::wrap::{self, DataPublicKey, DataSecretKey};
use super::*;
use crate::error::{Damaged, Error};
use crate::format::names::PackName;
use crate::ids::{RepositoryId, SessionId};

const MIB: usize = 1 << 20;

fn hex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn secret(byte: u8) -> Secret32 {
    Secret32::new([byte; 32])
}

/// RFC 5869, appendix A.1 and A.3; the first 32 bytes of the output.
#[test]
fn hkdf_known_answers() {
    let output = hkdf(&[0x0b; 22], &hex("000102030405060708090a0b0c"), &[&hex("f0f1f2f3f4"), &hex("f5f6f7f8f9")]);
    assert_eq!(output.as_bytes()[..], hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
    let output = hkdf(&[0x0b; 22], b"", &[]);
    assert_eq!(output.as_bytes()[..], hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"));
}

/// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 14 (a block of zeros) and 16.
#[test]
fn aes_256_gcm_known_answers() {
    use aws_lc_rs::aead::{Aad, Nonce};
    let seal = |key: &Secret32, nonce: &[u8], aad: &[u8], mut text: Vec<u8>| {
        let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
        envelope::aes_key(key).seal_in_place_append_tag(nonce, Aad::from(aad), &mut text).unwrap();
        text
    };
    let expected = hex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    assert_eq!(seal(&secret(0), &[0; 12], b"", vec![0; 16]), expected);
    let key = Secret32::from_slice(&hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")).unwrap();
    let text = hex(concat!(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16a",
        "edf5aa0de657ba637b39"
    ));
    let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let expected = hex(concat!(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f6",
        "1e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"
    ));
    assert_eq!(seal(&key, &hex("cafebabefacedbaddecaf888"), &aad, text), expected);
}

/// RFC 8032, section 7.1, test 2.
#[test]
fn ed25519_known_answers() {
    let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
    let key = SigningKey::from_seed(&Secret32::from_slice(&seed).unwrap());
    assert_eq!(key.public()[..], hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
    let signature = key.sign(&[&[0x72]]);
    let expected = concat!(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b",
        "2eaeb4302aeeb00d291612bb0c00"
    );
    assert_eq!(signature[..], hex(expected));
    assert!(verify(&key.public(), &[b"", &[0x72]], &signature));
    assert!(!verify(&key.public(), &[&[0x73]], &signature));
    assert!(!verify(&[0; 32], &[&[0x72]], &signature));
    assert!(!verify(&key.public(), &[&[0x72]], &signature[..63]));
}

#[test]
fn passphrase_costs() {
    let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
    let key = derive(b"a", &[0; 16], cost).unwrap();
    assert!(key == derive(b"a", &[0; 16], cost).unwrap());
    assert!(key != derive(b"b", &[0; 16], cost).unwrap());
    assert!(key != derive(b"a", &[1; 16], cost).unwrap());
    assert!(key != derive(b"a", &[0; 16], Cost { passes: 2, ..cost }).unwrap());
    for refused in [
        Cost { memory_kib: (1 << 20) + 1, ..cost },
        Cost { passes: 65, ..cost },
        Cost { lanes: 65, memory_kib: 1 << 20, ..cost },
        Cost { passes: 0, ..cost },
        Cost { lanes: 0, ..cost },
        Cost { memory_kib: 0, ..cost },
        Cost { lanes: 64, ..cost },
        Cost { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX },
    ] {
        assert!(matches!(derive(b"a", &[0; 16], refused), Err(Error::Unsupported(_))), "{refused:?}");
    }
}

#[test]
fn envelopes_of_every_size_open() {
    for length in [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 7] {
        let plain: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
        let sealed = envelope::seal(&secret(1), "name", &plain);
        assert_eq!(sealed.len(), envelope::sealed_len(length));
        assert!(envelope::open(&secret(1), "name", &sealed).unwrap() == plain, "{length}");
        let mut streamed = Vec::new();
        envelope::open_stream(&secret(1), "name", &sealed, &mut |block| {
            assert!(block.len() <= MIB);
            streamed.extend_from_slice(block);
            Ok(())
        })
        .unwrap();
        assert!(streamed == plain, "{length}");
    }
}

#[test]
fn envelopes_are_bound_to_key_name_and_order() {
    let plain = [vec![1; MIB], vec![2; MIB], vec![3; MIB]].concat();
    let sealed = envelope::seal(&secret(1), "name", &plain);
    assert!(envelope::open(&secret(2), "name", &sealed).is_err());
    assert!(envelope::open(&secret(1), "eman", &sealed).is_err());
    assert!(envelope::seal(&secret(1), "name", &plain) != sealed, "every envelope has its own salt");
    let block = MIB + TAG_BYTES;
    let swapped =
        [&sealed[..48], &sealed[48 + block..48 + 2 * block], &sealed[48..48 + block], &sealed[48 + 2 * block..]]
            .concat();
    assert_eq!(envelope::open(&secret(1), "name", &swapped).unwrap_err().offset, 48);
    let mut shorter = sealed[..48 + 2 * block].to_vec();
    shorter[40..48].copy_from_slice(&(2 * MIB as u64).to_le_bytes());
    assert_eq!(envelope::open(&secret(1), "name", &shorter).unwrap_err().offset, 48, "the length is authenticated");
}

#[test]
fn envelopes_do_not_trust_their_length() {
    let sealed = envelope::seal(&secret(1), "name", b"hello");
    for claimed in [0, 4, 6, 1 << 20, 1 << 40, u64::MAX, u64::MAX - 64] {
        let mut bytes = sealed.clone();
        bytes[40..48].copy_from_slice(&claimed.to_le_bytes());
        assert_eq!(envelope::open(&secret(1), "name", &bytes).unwrap_err().offset, 40, "{claimed}");
    }
}

#[test]
fn a_stream_stops_where_its_reader_fails_or_damage_begins() {
    let mut sealed = envelope::seal(&secret(1), "name", &vec![7; 3 * MIB]);
    let mut blocks = 0;
    let stopped = envelope::open_stream(&secret(1), "name", &sealed, &mut |_| {
        blocks += 1;
        Err(Error::Interrupted)
    });
    assert!(matches!(stopped, Err(Error::Interrupted)) && blocks == 1);
    sealed[48 + MIB + TAG_BYTES] ^= 1;
    let mut plain_len = 0;
    let damaged = envelope::open_stream(&secret(1), "name", &sealed, &mut |block| {
        plain_len += block.len();
        Ok(())
    });
    assert!(matches!(damaged, Err(Error::Damaged(Damaged { offset, .. })) if offset == (48 + MIB + TAG_BYTES) as u64));
    assert_eq!(plain_len, MIB, "only whole, authentic blocks are given");
}

#[test]
fn blobs_are_bound_to_pack_number_and_header() {
    let pack = PackName { session: SessionId([1; 16]), counter: 0 };
    let cipher = blob::PackCipher::new(&secret(1), &pack);
    let header = [9; 48];
    let mut buffer = b"before".to_vec();
    buffer.extend_from_slice(b"body");
    let tag = cipher.seal(3, &header, &mut buffer[6..]);
    buffer.extend_from_slice(&tag);
    let open = |cipher: &blob::PackCipher, number, header: &[u8; 48]| {
        cipher.open(number, header, &mut buffer[6..].to_vec()).map(|body| body.to_vec())
    };
    assert_eq!(open(&cipher, 3, &header).unwrap(), b"body");
    assert_eq!(open(&cipher, 4, &header), None);
    assert_eq!(open(&cipher, 3, &[8; 48]), None);
    assert_eq!(open(&blob::PackCipher::new(&secret(2), &pack), 3, &header), None);
    let other = PackName { counter: 1, ..pack };
    assert_eq!(open(&blob::PackCipher::new(&secret(1), &other), 3, &header), None);
    assert_eq!(cipher.open(3, &header, &mut [0; 15]).map(|body| body.len()), None);
}

#[test]
fn session_keys_open_for_their_pair_only() {
    let (secret_key, public_key) = wrap::generate();
    let (repository, session) = (RepositoryId([1; 16]), SessionId([2; 16]));
    let (encapsulated, ciphertext) = wrap::seal_session_key(&public_key, &repository, &session, 0, &secret(5));
    let open = |key: &DataSecretKey, encapsulated: &[u8], ciphertext: &[u8]| {
        wrap::open_session_key(key, &repository, &session, 0, encapsulated, ciphertext)
    };
    assert_eq!(open(&secret_key, &encapsulated, &ciphertext), Some(secret(5)));
    assert_eq!(open(&wrap::generate().0, &encapsulated, &ciphertext), None);
    for place in 0..ciphertext.len() {
        let mut changed = ciphertext.clone();
        changed[place] ^= 0x80;
        assert_eq!(open(&secret_key, &encapsulated, &changed), None);
    }
    assert_eq!(open(&secret_key, &[0; 32], &ciphertext), None, "a point of low order");
    assert_eq!(open(&secret_key, &encapsulated[..31], &ciphertext), None);
    assert_eq!(open(&secret_key, &encapsulated, b""), None);
}

#[test]
fn key_pairs_are_read_back() {
    let (secret_key, public_key) = wrap::generate();
    let read = DataSecretKey::from_bytes(*secret_key.as_bytes());
    assert_eq!(read.public(), public_key);
    assert_eq!(DataPublicKey::from_bytes(*public_key.as_bytes()), Some(public_key));
    assert_eq!(DataPublicKey::from_bytes([0; 32]), None, "a point of low order");
}

#[test]
fn secrets_are_not_printed() {
    let pack = PackName { session: SessionId([1; 16]), counter: 0 };
    let (secret_key, _) = wrap::generate();
    assert_eq!(format!("{:?}", secret(1)), "Secret32(..)");
    assert_eq!(format!("{:?}", IdKey::new(&secret(1))), "IdKey(Secret32(..))");
    assert_eq!(format!("{secret_key:?}"), "DataSecretKey(Secret32(..))");
    assert_eq!(format!("{:?}", blob::PackCipher::new(&secret(1), &pack)), "PackCipher(..)");
    assert_eq!(format!("{:?}", SigningKey::from_seed(&secret(1))), "SigningKey(..)");
}

#[test]
fn random_bytes_differ() {
    assert_ne!(random::<32>(), random::<32>());
    assert!(Secret32::random() != Secret32::random());
}
