//! A sieve: a set of chunks in little memory that never denies a member, and seldom takes another chunk for one.
//!
//! One bit for each value of an id's first bits. Ids are hashes, so they are spread evenly.

use crate::ids::ChunkId;

/// Bits for each chunk of the repository: of the chunks that are no members, fewer than one in this many pass.
const BITS_PER_CHUNK: u64 = 8;
/// No sieve has more bits: 8 MiB.
const BITS_MAX: u64 = 1 << 26;

/// A set of chunks.
pub(super) struct Sieve {
    bits: Vec<u64>,
}

impl Sieve {
    /// An empty set, for a repository of so many chunks.
    pub(super) fn new(chunks: u64) -> Self {
        let bits = chunks.saturating_mul(BITS_PER_CHUNK).clamp(64, BITS_MAX).next_power_of_two();
        Self { bits: vec![0; usize::try_from(bits / 64).expect("at most a million words")] }
    }

    /// Adds a chunk.
    pub(super) fn add(&mut self, id: &ChunkId) {
        let (word, bit) = self.place(id);
        self.bits[word] |= bit;
    }

    /// True for every chunk that was added, and seldom for another.
    pub(super) fn may_have(&self, id: &ChunkId) -> bool {
        let (word, bit) = self.place(id);
        self.bits[word] & bit != 0
    }

    fn place(&self, id: &ChunkId) -> (usize, u64) {
        let (first, _) = id.0.split_first_chunk::<8>().expect("an id has 32 bytes");
        let place = u64::from_le_bytes(*first);
        // Precision: what is cut off is not looked at, as the number of words is a power of two.
        ((place >> 6) as usize & (self.bits.len() - 1), 1 << (place % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(seed: u8) -> Vec<ChunkId> {
        let mut bytes = vec![0; 32 * 1000];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes.as_chunks().0.iter().map(|bytes| ChunkId(*bytes)).collect()
    }

    #[test]
    fn members_pass_and_few_others() {
        for (chunks, others_max) in [(0, 1000), (4_000, 50), (1 << 40, 5)] {
            let mut sieve = Sieve::new(chunks);
            ids(1).iter().for_each(|id| sieve.add(id));
            assert!(ids(1).iter().all(|id| sieve.may_have(id)));
            let others = ids(2).iter().filter(|id| sieve.may_have(id)).count();
            assert!(others <= others_max, "{chunks}: {others}");
        }
        assert!(!ids(3).iter().any(|id| Sieve::new(1000).may_have(id)));
    }
}
