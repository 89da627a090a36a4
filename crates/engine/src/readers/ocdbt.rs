//! OCDBT, the store of TensorStore and so of Orbax: where a manifest or a node of its trees begins, and how long it is.
//!
//! All begin with a magic number (big-endian), their own length with everything (u64), a version and a compression, and end
//! with the CRC-32C of what is before it. Nodes lie in data files one after another, between values, which have no checksum.
//! Nothing is decompressed or followed here.
//!
//! Source: "ocdbt Key-Value Store driver", section Storage format, in TensorStore's documentation.

use crate::units::MIB;

/// Bytes that tell what begins: magic number, length, version, compression.
pub const HEAD_BYTES: usize = 14;
/// Bytes of the checksum at the end.
pub const FOOT_BYTES: usize = 4;
/// What all magic numbers begin with.
const MAGIC: [u8; 2] = [0x0c, 0xdb];
/// Nothing longer is taken for a node: TensorStore's own take 8 MiB before compression.
const PART_BYTES_MAX: u64 = 256 * MIB as u64;
const MANIFEST: &[u8] = b"manifest.";
/// Hexadecimal digits of a data file's name, and of a numbered manifest's generation.
const DATA_DIGITS: usize = 32;
const GENERATION_DIGITS: usize = 16;

/// Which file of a store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFile {
    /// A manifest: one part that is the whole file.
    Manifest,
    /// Nodes and values; or a numbered manifest, as other files may have such a name too.
    Data,
}

/// Which file of a store has this name, in a folder of that name.
#[must_use]
pub fn store_file(folder: &[u8], name: &[u8]) -> Option<StoreFile> {
    let is_hex =
        |text: &[u8], digits| text.len() == digits && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match name.strip_prefix(MANIFEST) {
        Some(b"ocdbt") => Some(StoreFile::Manifest),
        Some(rest) => is_hex(rest, GENERATION_DIGITS).then_some(StoreFile::Data),
        None => (folder == b"d" && is_hex(name, DATA_DIGITS)).then_some(StoreFile::Data),
    }
}

/// A part with a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// All its bytes, head and checksum included.
    pub length: u64,
}

/// The part that begins with these bytes.
#[must_use]
pub fn part(head: &[u8; HEAD_BYTES]) -> Option<Part> {
    let name = match head[..4] {
        [0x0c, 0xdb, 0x3a, 0x2a] => "manifest",
        [0x0c, 0xdb, 0x12, 0x34] => "version tree node",
        [0x0c, 0xdb, 0x20, 0xde] => "B+tree node",
        _ => return None,
    };
    let length = u64::from_le_bytes(head[4..12].try_into().ok()?);
    let is_possible = length >= (HEAD_BYTES + FOOT_BYTES) as u64 && length <= PART_BYTES_MAX;
    (is_possible && head[12] == 0 && head[13] <= 1).then_some(Part { name, length })
}

/// The first place in `bytes` where a part begins, as far as there are [`HEAD_BYTES`] to tell.
#[must_use]
pub fn find(bytes: &[u8]) -> Option<(usize, Part)> {
    memchr::memmem::find_iter(bytes, &MAGIC)
        .find_map(|place| Some((place, part(bytes[place..].first_chunk::<HEAD_BYTES>()?)?)))
}

/// True for a manifest whose length and checksum are right.
#[must_use]
pub fn is_whole_manifest(bytes: &[u8]) -> bool {
    let part = bytes.first_chunk::<HEAD_BYTES>().and_then(part);
    let Some((content, checksum)) = bytes.split_last_chunk::<FOOT_BYTES>() else { return false };
    part.is_some_and(|part| part.name == "manifest" && part.length == bytes.len() as u64)
        && crc32c::crc32c(content).to_le_bytes() == *checksum
}

/// A part for tests: of that magic number, around `body`.
#[cfg(test)]
pub(crate) fn example(magic: u32, body: &[u8]) -> Vec<u8> {
    let length = (HEAD_BYTES + body.len() + FOOT_BYTES) as u64;
    let content = [&magic.to_be_bytes()[..], &length.to_le_bytes(), &[0, 1], body].concat();
    let checksum = crc32c::crc32c(&content).to_le_bytes();
    [content, checksum.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_store_are_told_by_their_names() {
        let data = b"0123456789abcdef0123456789abcdef";
        for (folder, name, file) in [
            (&b"default"[..], &b"manifest.ocdbt"[..], Some(StoreFile::Manifest)),
            (b"", b"manifest.00000000000000ff", Some(StoreFile::Data)),
            (b"d", data, Some(StoreFile::Data)),
            (b"e", data, None),
            (b"d", &data[1..], None),
            (b"d", b"0123456789ABCDEF0123456789abcdef", None),
            (b"d", b"manifest.json", None),
        ] {
            assert_eq!(store_file(folder, name), file, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn parts_are_found_between_values() {
        let node = example(0x0cdb_20de, b"body of a node");
        let bytes = [&[0x0c, 0xdb, 0x20, 0xde, 9][..], &[0x0c; 40], &node, b"after"].concat();
        assert_eq!(find(&bytes), Some((45, Part { name: "B+tree node", length: node.len() as u64 })));
        assert_eq!(find(&bytes[..45 + HEAD_BYTES - 1]), None, "a head that is not there whole");
        for wrong in [0, 3, 9, 12, 13] {
            let mut bytes = bytes.clone();
            bytes[45 + wrong] = 0x70;
            assert_eq!(find(&bytes), None, "byte {wrong}");
        }
    }

    #[test]
    fn a_manifest_is_whole_or_not() {
        let manifest = example(0x0cdb_3a2a, &[7; 100]);
        assert!(is_whole_manifest(&manifest));
        for at in 0..manifest.len() {
            let mut bytes = manifest.clone();
            bytes[at] ^= 1;
            assert!(!is_whole_manifest(&bytes), "byte {at}");
            assert!(!is_whole_manifest(&manifest[..at]), "cut at {at}");
        }
        assert!(!is_whole_manifest(&example(0x0cdb_20de, b"a node")));
    }
}
