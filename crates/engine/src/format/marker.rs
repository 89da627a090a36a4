//! The marker (docs/format.md §3): JSON in clear text, so that whoever finds the repository learns what it is.
//!
//! It carries no secret and is not trusted by itself: the log's first entry holds its hash. A reader refuses a marker
//! of a newer format or with a feature that it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names::MARKER;
use crate::error::{Damaged, Error};
use crate::ids::RepositoryId;

/// No marker is longer, stored.
pub const MARKER_BYTES_MAX: u64 = 64 << 10;
/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;
const ABOUT: &str = "A Seawall backup repository: encrypted, and of use only together with its key. Its stored format \
                     is described in the project's docs/format.md; do not change or delete anything here by hand.";
const SUITES: [(&str, &str); 5] = [
    ("aead", "aes-256-gcm"),
    ("chunk_id", "blake3-keyed"),
    ("kdf", "hkdf-sha256"),
    ("signature", "ed25519"),
    ("wrap", "hpke-x25519-hkdf-sha256-aes-256-gcm"),
];
/// Features that a repository may require and this program knows.
const KNOWN_FEATURES: [&str; 0] = [];

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Text for people.
    pub about: String,
    /// Version of the stored format.
    pub format: u32,
    /// The repository's id.
    #[serde(with = "hex")]
    pub repository: RepositoryId,
    /// Features that a reader must know.
    pub required: Vec<String>,
    /// Algorithm of each purpose.
    pub suites: BTreeMap<String, String>,
    /// Number of sites.
    pub sites: u32,
    /// True where the store has no atomic put-if-absent, so that only one writer may be at work.
    pub single_writer: bool,
}

impl Marker {
    /// The marker of a new repository on one site.
    #[must_use]
    pub fn new(repository: RepositoryId, single_writer: bool) -> Self {
        Self {
            about: ABOUT.to_owned(),
            format: FORMAT,
            repository,
            required: Vec::new(),
            suites: SUITES.iter().map(|&(purpose, suite)| (purpose.to_owned(), suite.to_owned())).collect(),
            sites: 1,
            single_writer,
        }
    }

    /// The object's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("the marker holds only text, numbers and maps");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the object's bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a newer format, or features or algorithms that this program does not know;
    /// [`Error::Damaged`] where it is not a marker.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        // Why two steps: a newer format may have other fields, and the reason to refuse it is its number.
        let version: Version = parse(bytes)?;
        if version.format != FORMAT {
            let (found, known) = (version.format, FORMAT);
            return Err(Error::Unsupported(format!("the repository has format {found}; this program reads {known}")));
        }
        let marker: Self = parse(bytes)?;
        let strange = marker.required.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str()));
        if let Some(feature) = strange {
            return Err(Error::Unsupported(format!("the repository requires {feature:?}, which this program lacks")));
        }
        for (purpose, suite) in SUITES {
            match marker.suites.get(purpose) {
                Some(found) if found == suite => {}
                Some(found) => return Err(Error::Unsupported(format!("unknown {purpose} suite {found:?}"))),
                None => return Err(Damaged::new(MARKER, 0, format!("no {purpose} suite")).into()),
            }
        }
        Ok(marker)
    }
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Damaged> {
    serde_json::from_slice(bytes).map_err(|error| Damaged::new(MARKER, 0, error.to_string()))
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::ids::RepositoryId;

    pub(super) fn serialize<S: Serializer>(id: &RepositoryId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RepositoryId, D::Error> {
        RepositoryId::from_hex(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
