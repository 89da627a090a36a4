//! Newtyped identifiers. All are opaque bytes, printed as lower-case hexadecimal.

use std::fmt;

/// An identifier could not be read from text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: expected {digits} hexadecimal digits")]
pub struct ParseIdError {
    what: &'static str,
    digits: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $bytes;

            /// Reads an id from exactly [`Self::LEN`] bytes; `None` for any other length.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes of the id.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Reads an id from its full hexadecimal form (either case).
            ///
            /// # Errors
            /// When the length is wrong or a character is not a hexadecimal digit.
            pub fn from_hex(text: &str) -> Result<Self, ParseIdError> {
                let error = ParseIdError { what: $what, digits: $bytes * 2 };
                let mut bytes = [0u8; $bytes];
                if text.len() != $bytes * 2 || !text.is_ascii() {
                    return Err(error);
                }
                for (place, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let (Some(high), Some(low)) = (hex_digit(pair[0]), hex_digit(pair[1])) else { return Err(error) };
                    *place = high << 4 | low;
                }
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

fn hex_digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

id!(
    /// A chunk's name: keyed BLAKE3-256 of its plain bytes. Tree nodes are chunks too.
    ChunkId, 32, "chunk id"
);
id!(
    /// A repository, random at `init`.
    RepositoryId, 16, "repository id"
);
id!(
    /// One writing session, random. Packs and segments carry it in their names, so names are never used twice.
    SessionId, 16, "session id"
);
id!(
    /// One member (owner, reader or member): who may sign log entries.
    MemberId, 16, "member id"
);
id!(
    /// One snapshot, random.
    SnapshotId, 16, "snapshot id"
);
id!(
    /// One key slot, random.
    SlotId, 16, "slot id"
);
id!(
    /// Plain (unkeyed) BLAKE3-256 of a stored object.
    ObjectHash, 32, "object hash"
);
