//! Keys as people keep them: the texts of key files, identity files, public keys and recovery shares (docs/format.md §4).
//!
//! Every file is a first line that says what it is, then digits, then nothing but empty lines and lines that begin with
//! `#`. White space at the ends of lines does not count. A share carries a checksum, because it may come off paper: a
//! wrong digit is told before the shares are put together.
//!
//! Texts come from outside: what is not one gives `None`. Secrets are overwritten on drop.

use zeroize::Zeroizing;

use crate::crypto::Secret32;
use crate::crypto::wrap::{DataPublicKey, DataSecretKey};

const KEY_FILE_MAGIC: &str = "seawall-key-1";
const IDENTITY_MAGIC: &str = "seawall-identity-1";
const SHARE_MAGIC: &str = "seawall-share-1";
const PUBLIC_PREFIX: &str = "seawall-public-1:";
const SHARE_DOMAIN: &[u8] = b"seawall v1 share";
const CHECKSUM_BYTES: usize = 8;

/// One of the shares of a slot's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Random name of the set that it belongs to.
    pub set: [u8; 16],
    /// How many shares of the set open the slot.
    pub needed: u8,
    /// Its place in the set, from 1.
    pub number: u8,
    /// The share itself.
    pub value: Secret32,
}

/// The text of a key file.
#[must_use]
pub fn key_file_text(secret: &Secret32) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_MAGIC.len() + 66));
    text.push_str(KEY_FILE_MAGIC);
    text.push('\n');
    push_digits(&mut text, secret.as_bytes());
    text.push('\n');
    text
}

/// Reads the text of a key file; `None` where it is not one.
#[must_use]
pub fn parse_key_file(text: &str) -> Option<Secret32> {
    let [digits] = lines_after(text, KEY_FILE_MAGIC)?;
    parse_digits(digits).map(|bytes| Secret32::new(*bytes))
}

/// The text of an identity file.
#[must_use]
pub fn identity_text(identity: &DataSecretKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(IDENTITY_MAGIC.len() + 66));
    text.push_str(IDENTITY_MAGIC);
    text.push('\n');
    push_digits(&mut text, identity.as_bytes());
    text.push('\n');
    text
}

/// Reads the text of an identity file; `None` where it is not one.
#[must_use]
pub fn parse_identity(text: &str) -> Option<DataSecretKey> {
    let [digits] = lines_after(text, IDENTITY_MAGIC)?;
    parse_digits(digits).map(|bytes| DataSecretKey::from_bytes(*bytes))
}

/// The public key of an identity as text of one line.
#[must_use]
pub fn public_key_text(public: &DataPublicKey) -> String {
    let mut text = PUBLIC_PREFIX.to_owned();
    push_digits(&mut text, public.as_bytes());
    text
}

/// Reads a public key's text; `None` where it is not one, or no key can be agreed on with it.
#[must_use]
pub fn parse_public_key(text: &str) -> Option<DataPublicKey> {
    let digits = text.trim().strip_prefix(PUBLIC_PREFIX)?;
    DataPublicKey::from_bytes(*parse_digits(digits)?)
}

impl Share {
    /// The text of a share file.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str(SHARE_MAGIC);
        text.push('\n');
        push_digits(&mut text, &self.set);
        text.push_str(&format!("\n{} {}\n", self.needed, self.number));
        push_digits(&mut text, self.value.as_bytes());
        text.push('\n');
        push_digits(&mut text, &self.checksum());
        text.push('\n');
        text
    }

    /// Reads the text of a share file; `None` where it is not one, or a digit is wrong.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let [set, place, value, checksum] = lines_after(text, SHARE_MAGIC)?;
        let (needed, number) = place.split_once(' ')?;
        let share = Self {
            set: *parse_digits(set)?,
            needed: parse_count(needed)?,
            number: parse_count(number)?,
            value: Secret32::new(*parse_digits(value)?),
        };
        (*parse_digits::<CHECKSUM_BYTES>(checksum)? == share.checksum()).then_some(share)
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(SHARE_DOMAIN).update(&self.set).update(&[self.needed, self.number]);
        hasher.update(self.value.as_bytes());
        let mut checksum = [0; CHECKSUM_BYTES];
        hasher.finalize_xof().fill(&mut checksum);
        checksum
    }
}

/// 1 to 255, written as it would be printed.
fn parse_count(text: &str) -> Option<u8> {
    let count: u8 = text.parse().ok()?;
    (count > 0 && count.to_string() == text).then_some(count)
}

/// The `N` lines after the first, which has to be `magic`; what follows may only be empty or remarks.
fn lines_after<'t, const N: usize>(text: &'t str, magic: &str) -> Option<[&'t str; N]> {
    let mut lines = text.lines().map(str::trim_end);
    if lines.next() != Some(magic) {
        return None;
    }
    let mut wanted = [""; N];
    for place in &mut wanted {
        *place = lines.next()?;
    }
    lines.all(|line| line.is_empty() || line.starts_with('#')).then_some(wanted)
}

fn push_digits(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("a digit is below 16"));
        }
    }
}

/// Exactly `N` bytes in hexadecimal digits of either case.
fn parse_digits<const N: usize>(digits: &str) -> Option<Zeroizing<[u8; N]>> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = Zeroizing::new([0; N]);
    for (place, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |character: u8| char::from(character).to_digit(16);
        *place = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::golden::secret;

    #[test]
    fn key_files_are_read_back() {
        let text = key_file_text(&secret(0xA7));
        assert_eq!(*text, format!("seawall-key-1\n{}\n", "a7".repeat(32)));
        for accepted in [
            text.to_string(),
            format!("{}# made on node7\n\n", *text),
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
    fn identities_and_public_keys_are_read_back() {
        let identity = DataSecretKey::from_bytes([0x48; 32]);
        let text = identity_text(&identity);
        assert_eq!(*text, format!("seawall-identity-1\n{}\n", "48".repeat(32)));
        assert_eq!(parse_identity(&text), Some(identity.clone()));
        assert_eq!(parse_identity(&key_file_text(&secret(1))), None);
        let public = public_key_text(&identity.public());
        assert_eq!(parse_public_key(&format!(" {public}\n")), Some(identity.public()));
        for refused in ["", "seawall-public-1:", &public[1..], &public[..80], &format!("seawall-public-1:{:064}", 0)] {
            assert_eq!(parse_public_key(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_share_with_a_wrong_digit_is_refused() {
        let share = Share { set: [0xAB; 16], needed: 3, number: 5, value: secret(0x5C) };
        let text = share.text();
        assert_eq!(Share::parse(&text), Some(share.clone()));
        assert_eq!(Share::parse(&format!("{}# for the safe\n", &*text)), Some(share));
        for at in "seawall-share-1\n".len()..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'1' { b'2' } else { b'1' };
            assert_eq!(Share::parse(std::str::from_utf8(&wrong).unwrap()), None, "byte {at}");
        }
        assert_eq!(Share::parse(&text.replace("3 5", "03 5")), None);
        assert_eq!(Share::parse(&text.replace("3 5", "3 0")), None);
    }
}
