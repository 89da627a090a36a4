//! Content-defined chunking: where a file's bytes are cut, so that an insert moves few boundaries.
//!
//! A keyed gear hash (`docs/format.md` §10): boundaries depend on a secret of the repository, so chunk lengths tell an
//! outsider nothing about known files. Two masks pull lengths towards the normal size. Nothing here reads files;
//! the caller hands over a window that is at least [`SizeClass::max`] long or reaches the end of the file.
//!
//! Invariants: a chunk is never empty, never longer than `max`, and never shorter than `min` unless the file ends.
//! Cut points are a stored contract (they decide what deduplicates against old snapshots): the golden test holds them.

use std::sync::Arc;

use crate::crypto::Secret32;
use crate::units::{KIB, MIB};

/// Label under which the gear table is derived from the chunker key.
const GEAR_LABEL: &[u8] = b"seawall v1 gear";
/// Files longer than this are cut in the large class.
const LARGE_FILE_BYTES: u64 = 32 * MIB as u64;

type Gear = [u64; 256];

/// Limits on the length of chunks, in bytes. `normal` is a power of two and `min < normal < max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeClass {
    /// No boundary is looked for before this length.
    pub min: usize,
    /// Boundaries get four times likelier from here on.
    pub normal: usize,
    /// A chunk ends here at the latest.
    pub max: usize,
}

impl SizeClass {
    /// For files up to 32 MiB.
    pub const SMALL: Self = Self { min: 64 * KIB, normal: 256 * KIB, max: MIB };
    /// For longer files and for streams of unknown length.
    pub const LARGE: Self = Self { min: 512 * KIB, normal: 2 * MIB, max: 6 * MIB };

    /// The class of a file of that many bytes; `None` is a stream whose length nobody knows yet.
    #[must_use]
    pub fn for_length(length: Option<u64>) -> Self {
        match length {
            Some(bytes) if bytes <= LARGE_FILE_BYTES => Self::SMALL,
            _ => Self::LARGE,
        }
    }

    /// The masks before and after the normal size: the top `b + 1` and `b - 1` bits, `b = log2(normal)`.
    fn masks(&self) -> (u64, u64) {
        let bits = self.normal.ilog2();
        (!(u64::MAX >> (bits + 1)), !(u64::MAX >> (bits - 1)))
    }
}

/// Finds boundaries for one repository. Cloning is cheap: the table is shared.
#[derive(Clone)]
pub struct Chunker {
    gear: Arc<Gear>,
}

impl Chunker {
    /// Derives the gear table from the repository's chunker key.
    #[must_use]
    pub fn new(key: &Secret32) -> Self {
        Self::from_key(key.as_bytes())
    }

    /// As [`Self::new`], from the key's bytes.
    #[must_use]
    pub fn from_key(key: &[u8; 32]) -> Self {
        let mut stream = blake3::Hasher::new_keyed(key).update(GEAR_LABEL).finalize_xof();
        let mut gear = [0u64; 256];
        for word in &mut gear {
            let mut bytes = [0u8; 8];
            stream.fill(&mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
        Self { gear: Arc::new(gear) }
    }

    /// Length of the first chunk of `bytes`, which must be at least `class.max` long or the rest of the file.
    /// Zero only for empty `bytes`.
    #[must_use]
    pub fn cut(&self, class: &SizeClass, bytes: &[u8]) -> usize {
        cut(&self.gear, class, class.masks(), bytes)
    }
}

/// The rule itself; table and masks are arguments so that the tests can hold it against another implementation.
fn cut(gear: &Gear, class: &SizeClass, (before, after): (u64, u64), bytes: &[u8]) -> usize {
    let end = bytes.len().min(class.max);
    if end <= class.min {
        return end;
    }
    let normal = class.normal.min(end);
    let mut hash = 0;
    if let Some(length) = scan(gear, before, &mut hash, &bytes[class.min..normal]) {
        return class.min + length;
    }
    scan(gear, after, &mut hash, &bytes[normal..end]).map_or(end, |length| normal + length)
}

/// Rolls over `bytes` until a hash without any bit of `mask`; gives the length up to and with that byte.
#[inline]
fn scan(gear: &Gear, mask: u64, hash: &mut u64, bytes: &[u8]) -> Option<usize> {
    let mut rolling = *hash;
    // Why: eight bytes a turn, so that loop control costs little beside the one addition a byte that must be serial.
    let (blocks, rest) = bytes.as_chunks::<8>();
    for (number, block) in blocks.iter().enumerate() {
        for (place, &byte) in block.iter().enumerate() {
            rolling = (rolling << 1).wrapping_add(gear[usize::from(byte)]);
            if rolling & mask == 0 {
                return Some(number * 8 + place + 1);
            }
        }
    }
    for (place, &byte) in rest.iter().enumerate() {
        rolling = (rolling << 1).wrapping_add(gear[usize::from(byte)]);
        if rolling & mask == 0 {
            return Some(blocks.len() * 8 + place + 1);
        }
    }
    *hash = rolling;
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = *b"a fixed key for the golden test!";

    /// Incompressible bytes from a seed: BLAKE3's extended output.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(chunker: &Chunker, class: &SizeClass, mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let length = chunker.cut(class, bytes);
            lengths.push(length);
            bytes = &bytes[length..];
        }
        lengths
    }

    fn chunks<'a>(chunker: &Chunker, class: &SizeClass, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        lengths(chunker, class, bytes)
            .into_iter()
            .map(|length| {
                let (chunk, after) = rest.split_at(length);
                rest = after;
                chunk
            })
            .collect()
    }

    /// What fastcdc 2020 cuts with our table and these masks. It ends a chunk before the byte that decided, we after it.
    fn oracle(gear: &Gear, class: &SizeClass, (before, after): (u64, u64), bytes: &[u8]) -> usize {
        let shifted: Vec<u64> = gear.iter().map(|word| word << 1).collect();
        let (_, length) = fastcdc::v2020::cut_gear(
            bytes,
            class.min,
            class.normal,
            class.max,
            before,
            after,
            before << 1,
            after << 1,
            gear,
            &shifted,
        );
        if length < bytes.len().min(class.max) && bytes.len() > class.min { length + 1 } else { length }
    }

    #[test]
    fn cuts_like_fastcdc() {
        let chunker = Chunker::from_key(&KEY);
        for (class, length) in [
            (SizeClass { min: 64, normal: 256, max: 1024 }, 300_000),
            (SizeClass { min: 2048, normal: 8192, max: 32768 }, 2_000_000),
            (SizeClass::SMALL, 8_000_000),
        ] {
            let bytes = noise(length as u64, length);
            // fastcdc hashes two bytes a turn and loses the top bit of every other hash: its masks must not use it.
            let (before, after) = class.masks();
            let masks = (before >> 1, after >> 1);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = cut(&chunker.gear, &class, masks, rest);
                assert_eq!(length, oracle(&chunker.gear, &class, masks, rest), "{class:?}, {} left", rest.len());
                rest = &rest[length..];
            }
        }
    }

    /// The values come from an independent reading of docs/format.md §10 in another language.
    #[test]
    fn golden_boundaries() {
        let chunker = Chunker::from_key(&KEY);
        let bytes = noise(1, 24 * MIB);
        let digest = |lengths: &[usize]| {
            let text: Vec<String> = lengths.iter().map(usize::to_string).collect();
            blake3::hash(text.join(",").as_bytes()).to_hex()[..16].to_string()
        };
        let small = lengths(&chunker, &SizeClass::SMALL, &bytes);
        let large = lengths(&chunker, &SizeClass::LARGE, &bytes);
        assert_eq!(small[..6], [364_312, 367_182, 277_884, 590_396, 482_125, 326_830]);
        assert_eq!(large[..6], [2_408_729, 3_819_338, 1_308_009, 2_468_962, 2_287_184, 603_454]);
        assert_eq!(digest(&small), "d2128bb3efd9ffb2");
        assert_eq!(digest(&large), "5dc6ee8da3428620");
    }

    #[test]
    fn classes_by_length() {
        for (length, class) in [
            (Some(0), SizeClass::SMALL),
            (Some(32 << 20), SizeClass::SMALL),
            (Some((32 << 20) + 1), SizeClass::LARGE),
            (None, SizeClass::LARGE),
        ] {
            assert_eq!(SizeClass::for_length(length), class, "{length:?}");
        }
        assert_eq!(SizeClass::SMALL.masks(), (0x7ffff << 45, 0x1ffff << 47));
    }

    #[test]
    fn lengths_gather_around_the_normal_size() {
        let lengths = lengths(&Chunker::from_key(&KEY), &SizeClass::SMALL, &noise(2, 64 * MIB));
        let mean = 64 * MIB / lengths.len();
        assert!((200 * KIB..330 * KIB).contains(&mean), "mean length {mean}");
        let cut_at_max = lengths.iter().filter(|&&length| length == MIB).count();
        assert!(cut_at_max * 50 < lengths.len(), "{cut_at_max} of {} chunks reached the maximum", lengths.len());
    }

    #[test]
    fn another_key_cuts_elsewhere() {
        let bytes = noise(3, 4 * MIB);
        let cuts = |key: &[u8; 32]| -> HashSet<usize> {
            let mut place = 0;
            let mut cuts: HashSet<usize> = lengths(&Chunker::from_key(key), &SizeClass::SMALL, &bytes)
                .into_iter()
                .map(|length| {
                    place += length;
                    place
                })
                .collect();
            cuts.remove(&bytes.len());
            cuts
        };
        assert!(cuts(&KEY).is_disjoint(&cuts(&[7; 32])));
    }

    #[test]
    fn constant_bytes_are_cut_at_the_maximum() {
        let chunker = Chunker::from_key(&KEY);
        assert_eq!(lengths(&chunker, &SizeClass::SMALL, &vec![0; 2 * MIB + 5]), [MIB, MIB, 5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn lengths_keep_their_limits(seed: u64, length in 0usize..60_000, repeat in 1usize..4) {
            let class = SizeClass { min: 512, normal: 2048, max: 8192 };
            let bytes = noise(seed, length).repeat(repeat);
            let lengths = lengths(&Chunker::from_key(&KEY), &class, &bytes);
            prop_assert_eq!(lengths.iter().sum::<usize>(), bytes.len());
            for (place, &length) in lengths.iter().enumerate() {
                prop_assert!(length <= class.max && length > 0);
                prop_assert!(length > class.min || place + 1 == lengths.len());
            }
        }

        #[test]
        fn an_insert_moves_few_boundaries(seed: u64, at in 0usize..400_000, inserted in 1usize..2000) {
            let class = SizeClass { min: 512, normal: 2048, max: 8192 };
            let chunker = Chunker::from_key(&KEY);
            let old = noise(seed, 400_000);
            let mut new = old.clone();
            new.splice(at..at, noise(!seed, inserted));
            let known: HashSet<&[u8]> = chunks(&chunker, &class, &old).into_iter().collect();
            let fresh = chunks(&chunker, &class, &new).into_iter().filter(|chunk| !known.contains(chunk)).count();
            // A resynchronisation takes a few chunks; 20 of about 180 is far beyond chance and far below "all".
            prop_assert!(fresh <= 20, "{fresh} chunks are new");
        }

        #[test]
        fn a_window_of_the_maximum_is_enough(seed: u64) {
            let class = SizeClass { min: 512, normal: 2048, max: 8192 };
            let chunker = Chunker::from_key(&KEY);
            let bytes = noise(seed, 20_000);
            prop_assert_eq!(chunker.cut(&class, &bytes), chunker.cut(&class, &bytes[..class.max]));
        }
    }
}
