//! OCDBT, the store of TensorStore and so of Orbax: where a manifest or a node of its trees begins, and how long it is.
//!
//! All begin with a magic number (big-endian), their own length with everything (u64), a version and a compression, and end
//! with the CRC-32C of what is before it. Nodes lie in data files one after another, between values, which have no checksum.
//! Of a manifest the names of data files are read; nothing else is decompressed, and nothing is followed here.
//!
//! Source: "ocdbt Key-Value Store driver", section Storage format, in TensorStore's documentation.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::units::MIB;

/// Bytes that tell what begins: magic number, length, version, compression.
pub const HEAD_BYTES: usize = 14;
/// Bytes of the checksum at the end.
pub const FOOT_BYTES: usize = 4;
/// What all magic numbers begin with.
const MAGIC: [u8; 2] = [0x0c, 0xdb];
/// Nothing longer is taken for a node: TensorStore's own take 8 MiB before compression.
const PART_BYTES_MAX: u64 = 256 * MIB as u64;
/// A manifest whose body is longer is not understood.
const MANIFEST_BYTES_MAX: usize = 16 * MIB;
const UUID_BYTES: usize = 16;
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

/// The data files that a manifest names, as paths from the folder that it lies in; none where it is not understood, as that of
/// a store with numbered manifests. Whether it is whole is not asked here.
#[must_use]
pub fn data_files(manifest: &[u8]) -> Option<Vec<PathBuf>> {
    let (head, rest) = manifest.split_first_chunk::<HEAD_BYTES>()?;
    let (body, _) = rest.split_last_chunk::<FOOT_BYTES>()?;
    let mut plain = Vec::new();
    match head[HEAD_BYTES - 1] {
        0 => plain.extend_from_slice(body),
        _ => {
            plain.try_reserve_exact(MANIFEST_BYTES_MAX).ok()?;
            zstd_safe::decompress(&mut plain, body).ok()?;
        }
    }
    Fields(&plain).data_files()
}

/// What is left of a manifest's body.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number in groups of seven bits, the lowest first.
    fn number(&mut self) -> Option<usize> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = *self.take(1)?.first()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(number).ok();
            }
        }
        None
    }

    fn numbers(&mut self, count: usize) -> Option<Vec<usize>> {
        // Why: each takes a byte at least.
        if count > self.0.len() {
            return None;
        }
        (0..count).map(|_| self.number()).collect()
    }

    /// The configuration, then the table of data files: what each shares with the one before it, and the rest.
    fn data_files(mut self) -> Option<Vec<PathBuf>> {
        self.take(UUID_BYTES)?;
        let is_single = self.number()? == 0;
        let _limits = self.numbers(2)?;
        self.take(1)?;
        let level_bytes = if self.number()? == 0 { 0 } else { 4 };
        self.take(level_bytes)?;
        let count = self.number().filter(|_| is_single)?;
        let shared = self.numbers(count.saturating_sub(1))?;
        let own = self.numbers(count)?;
        let _folders = self.numbers(count)?;
        let (mut files, mut path): (Vec<PathBuf>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut bytes = 0_usize;
        for (shared, own) in std::iter::once(0).chain(shared).zip(own) {
            path.truncate(shared);
            path.extend_from_slice(self.take(own)?);
            bytes = bytes.checked_add(path.len()).filter(|&bytes| bytes <= MANIFEST_BYTES_MAX)?;
            // Why not an empty one: it stands for what lies in no file.
            if !path.is_empty() {
                files.push(PathBuf::from(OsStr::from_bytes(&path)));
            }
        }
        Some(files)
    }
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
    fn data_files_are_named_by_a_manifest_of_tensorstore() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers/ocdbt");
        let manifest = std::fs::read(folder.join("manifest.ocdbt")).unwrap();
        assert_eq!(data_files(&manifest).unwrap(), [PathBuf::from("d/a2c3837a83032321722f587c7c62005d")]);
        for length in 0..manifest.len() {
            assert!(data_files(&manifest[..length]).is_none(), "cut at {length}");
        }
        let numbers = [&[0; UUID_BYTES][..], &[0, 0x80, 1, 7, 4, 0]].concat();
        let body = [&numbers[..], &[2, 4, 7, 3, 0, 0], b"a/d/one", b"two"].concat();
        let plain = |body: &[u8]| [&[0; HEAD_BYTES][..], body, &[0; FOOT_BYTES]].concat();
        assert_eq!(data_files(&plain(&body)).unwrap(), [PathBuf::from("a/d/one"), PathBuf::from("a/d/two")]);
        let endless = [&numbers[..], &[0xff; 4], &[1; 40]].concat();
        assert_eq!(data_files(&plain(&endless)), None);
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
