//! Follows a file of an OCDBT store ([`ocdbt`]): each manifest or node in it is compared with the checksum behind it.
//!
//! Nothing says where in a data file nodes lie but other files, so they are looked for. What begins like one by chance, in a
//! value, would have 68 bits right.

use super::NAMED_MAX;
use crate::readers::CheckKind;
use crate::readers::crc::Checksum;
use crate::readers::ocdbt::{self, FOOT_BYTES, HEAD_BYTES, Part, StoreFile};

/// A part that is being read.
struct Open {
    part: Part,
    start: u64,
    /// Bytes that are still to come before the checksum.
    left: u64,
    checksum: Checksum,
    /// What is there of the stored checksum.
    stored: Vec<u8>,
}

/// Compares the checksums of one file of a store.
pub(crate) struct Nodes {
    file: StoreFile,
    /// Where the next bytes must lie; what comes out of order ends the comparison.
    next: u64,
    is_lost: bool,
    found: u64,
    /// The last bytes, in which a part may begin.
    tail: Vec<u8>,
    open: Option<Open>,
    wrong: Vec<String>,
    wrong_count: usize,
}

impl Nodes {
    pub(crate) fn new(file: StoreFile) -> Self {
        let (tail, wrong) = (Vec::new(), Vec::new());
        Self { file, next: 0, is_lost: false, found: 0, tail, open: None, wrong, wrong_count: 0 }
    }

    /// True once the comparison has ended, as bytes came out of order.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub(crate) fn update(&mut self, offset: u64, mut bytes: &[u8]) {
        self.is_lost |= offset != self.next;
        self.next = offset + bytes.len() as u64;
        while !self.is_lost && !bytes.is_empty() {
            let at = self.next - bytes.len() as u64;
            bytes = match self.open.take() {
                Some(open) => self.go_on(open, bytes),
                None => self.look(at, bytes),
            };
        }
    }

    /// Looks for the next part in `bytes`, which lie at `at`, and what came before; gives what is behind its head.
    fn look<'b>(&mut self, at: u64, bytes: &'b [u8]) -> &'b [u8] {
        let before = self.tail.len();
        let seam = [&self.tail[..], &bytes[..bytes.len().min(HEAD_BYTES - 1)]].concat();
        let found = ocdbt::find(&seam).filter(|(place, _)| *place < before);
        let found = found.map(|(place, part)| (place, part, &seam[place..][..HEAD_BYTES])).or_else(|| {
            let (place, part) = ocdbt::find(bytes)?;
            Some((before + place, part, &bytes[place..][..HEAD_BYTES]))
        });
        let Some((place, part, head)) = found else {
            self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(HEAD_BYTES - 1)..]);
            self.tail.drain(..self.tail.len().saturating_sub(HEAD_BYTES - 1));
            return &[];
        };
        let mut checksum = Checksum::new(CheckKind::Crc32c);
        checksum.update(head);
        let left = part.length - (HEAD_BYTES + FOOT_BYTES) as u64;
        let start = at - before as u64 + place as u64;
        self.open = Some(Open { part, start, left, checksum, stored: Vec::new() });
        self.found += 1;
        self.tail.clear();
        &bytes[place + HEAD_BYTES - before..]
    }

    /// Goes on with an open part; gives what is behind it.
    fn go_on<'b>(&mut self, mut open: Open, bytes: &'b [u8]) -> &'b [u8] {
        let length = usize::try_from(open.left).unwrap_or(usize::MAX).min(bytes.len());
        open.checksum.update(&bytes[..length]);
        open.left -= length as u64;
        let foot = (FOOT_BYTES - open.stored.len()).min(bytes.len() - length);
        open.stored.extend_from_slice(&bytes[length..length + foot]);
        if open.stored.len() < FOOT_BYTES {
            self.open = Some(open);
        } else if open.checksum.value().to_le_bytes() != open.stored[..] {
            self.wrong_count += 1;
            if self.wrong.len() < NAMED_MAX {
                self.wrong.push(format!("{} at byte {}", open.part.name, open.start));
            }
        }
        &bytes[length + foot..]
    }

    /// What is wrong, when all bytes were there: names of some, and the number of all.
    pub(crate) fn wrong(&self) -> (Vec<String>, usize) {
        let (mut names, mut count) = (self.wrong.clone(), self.wrong_count);
        let mut tell = |what: String| {
            names.push(what);
            count += 1;
        };
        match &self.open {
            _ if self.is_lost => {}
            Some(open) => tell(format!("{} at byte {}, which is cut off", open.part.name, open.start)),
            None if self.file == StoreFile::Manifest && self.found == 0 => tell("manifest".to_owned()),
            None => {}
        }
        (names, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::ocdbt::example;

    fn wrong(file: StoreFile, bytes: &[u8], length: usize) -> Vec<String> {
        let mut nodes = Nodes::new(file);
        for (number, piece) in bytes.chunks(length).enumerate() {
            nodes.update((number * length) as u64, piece);
        }
        nodes.wrong().0
    }

    #[test]
    fn nodes_are_judged_one_by_one_however_the_file_is_cut() {
        let parts = [
            vec![0x0c; 100],
            example(0x0cdb_20de, &[3; 1000]),
            example(0x0cdb_1234, b""),
            vec![0x0c, 0xdb, 0x20],
            example(0x0cdb_20de, &[0x0c, 0xdb, 0x20, 0xde].repeat(50)),
            vec![5; 3],
        ];
        let starts: Vec<usize> =
            parts.iter().scan(0, |end, part| Some(std::mem::replace(end, *end + part.len()))).collect();
        let whole = parts.concat();
        for (flipped, expected) in [
            (None, vec![]),
            (Some(50), vec![]),
            (Some(starts[1] + 14), vec![format!("B+tree node at byte {}", starts[1])]),
            (Some(starts[2] - 1), vec![format!("B+tree node at byte {}", starts[1])]),
            (Some(starts[2] + 13), vec![format!("version tree node at byte {}", starts[2])]),
            (Some(starts[4] + 100), vec![format!("B+tree node at byte {}", starts[4])]),
        ] {
            let mut bytes = whole.clone();
            flipped.into_iter().for_each(|at: usize| bytes[at] ^= 1);
            for length in [1, 2, 5, 13, 14, 15, 999, 10_000] {
                assert_eq!(wrong(StoreFile::Data, &bytes, length), expected, "{flipped:?} in pieces of {length}");
            }
        }
        let cut = &whole[..starts[5] - 2];
        let expected = format!("B+tree node at byte {}, which is cut off", starts[4]);
        assert_eq!(wrong(StoreFile::Data, cut, 77), [expected]);
    }

    #[test]
    fn a_manifest_that_does_not_begin_like_one_is_wrong() {
        let manifest = example(0x0cdb_3a2a, &[1; 60]);
        assert_eq!(wrong(StoreFile::Manifest, &manifest, 7), [""; 0]);
        for (at, what) in [(0, "manifest"), (40, "manifest at byte 0"), (5, "manifest at byte 0, which is cut off")] {
            let mut bytes = manifest.clone();
            bytes[at] ^= 1;
            assert_eq!(wrong(StoreFile::Manifest, &bytes, 1000), [what], "byte {at}");
        }
    }

    #[test]
    fn what_comes_out_of_order_is_not_judged() {
        let node = example(0x0cdb_20de, &[3; 100]);
        let mut nodes = Nodes::new(StoreFile::Data);
        nodes.update(0, &node[..50]);
        nodes.update(60, &node[60..]);
        assert_eq!(nodes.wrong().1, 0);
    }
}
