//! Buckets: a stable partition of elements by a key of their counterparts in the base (`docs/format.md` §6.3).
//!
//! A small step of training moves a large weight by fewer units in its last place than a small one, so differences behind
//! equal exponents are alike, and get a code of their own. The decoder has the base, and makes the same partition again:
//! nothing is stored for it.
//!
//! Invariant: bucket lengths sum up to the number of elements, so every element has one place in the permuted order.

use super::element::Element;
use super::planes::BLOCK;

/// A partition has no more buckets than this.
pub(super) const BUCKETS_MAX: usize = 32;

/// Which key belongs to which bucket, and how long the buckets are.
pub(super) struct Partition {
    bucket_of: [u8; 256],
    lengths: [usize; BUCKETS_MAX],
    buckets: usize,
    shift: u32,
}

impl Partition {
    /// The partition of `base` into `buckets` (1 to [`BUCKETS_MAX`]): a bucket for each of the most frequent keys, in order
    /// of frequency and then of key, and the last for all other keys.
    pub(super) fn new<E: Element<W>, const W: usize>(base: &[[u8; W]], shift: u32, buckets: usize) -> Self {
        if buckets == 1 {
            return Self::single(base.len());
        }
        let counts = count_keys::<E, W>(base, shift);
        let mut keys: [u8; 256] = std::array::from_fn(|key| key as u8);
        keys.sort_by_key(|&key| (std::cmp::Reverse(counts[usize::from(key)]), key));
        let mut bucket_of = [(buckets - 1) as u8; 256];
        let mut lengths = [0; BUCKETS_MAX];
        for (rank, &key) in keys.iter().enumerate() {
            let bucket = rank.min(buckets - 1);
            bucket_of[usize::from(key)] = bucket as u8;
            lengths[bucket] += counts[usize::from(key)] as usize;
        }
        Self { bucket_of, lengths, buckets, shift }
    }

    /// One bucket for all.
    fn single(count: usize) -> Self {
        let mut lengths = [0; BUCKETS_MAX];
        lengths[0] = count;
        Self { bucket_of: [0; 256], lengths, buckets: 1, shift: 0 }
    }

    /// Elements in each bucket.
    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths[..self.buckets]
    }

    /// The bucket of an element whose counterpart in the base is `base`.
    #[inline(always)]
    pub(super) fn bucket<E: Element<W>, const W: usize>(&self, base: [u8; W]) -> usize {
        usize::from(self.bucket_of[usize::from(E::load(base).key(self.shift))]) % BUCKETS_MAX
    }

    /// Where each bucket's elements begin in the permuted order.
    fn starts(&self) -> [usize; BUCKETS_MAX] {
        let mut next = 0;
        self.lengths.map(|length| {
            next += length;
            next - length
        })
    }

    /// Puts the elements that `fill` gives block after block into the order of buckets.
    #[inline(always)]
    pub(super) fn scatter<E: Element<W>, const W: usize>(
        &self,
        base: &[[u8; W]],
        permuted: &mut [[u8; W]],
        mut fill: impl FnMut(usize, &mut [E]),
    ) {
        let mut next = self.starts();
        let mut values = [E::default(); BLOCK];
        for (block, bases) in base.chunks(BLOCK).enumerate() {
            let values = &mut values[..bases.len()];
            fill(block * BLOCK, values);
            for (value, base) in values.iter().zip(bases) {
                let place = &mut next[self.bucket::<E, W>(*base)];
                permuted[*place] = value.bytes();
                *place += 1;
            }
        }
    }

    /// The inverse of [`Self::scatter`]: `drain` takes the elements block after block.
    #[inline(always)]
    pub(super) fn gather<E: Element<W>, const W: usize>(
        &self,
        base: &[[u8; W]],
        permuted: &[[u8; W]],
        mut drain: impl FnMut(usize, &[E]),
    ) {
        let mut next = self.starts();
        let mut values = [E::default(); BLOCK];
        for (block, bases) in base.chunks(BLOCK).enumerate() {
            let values = &mut values[..bases.len()];
            for (value, base) in values.iter_mut().zip(bases) {
                let place = &mut next[self.bucket::<E, W>(*base)];
                *value = E::load(permuted[*place]);
                *place += 1;
            }
            drain(block * BLOCK, values);
        }
    }
}

/// How often each key occurs. Why four tables: neighbours mostly have the same key, and would wait for one counter.
fn count_keys<E: Element<W>, const W: usize>(base: &[[u8; W]], shift: u32) -> [u32; 256] {
    let mut tables = [[0u32; 256]; 4];
    let (fours, rest) = base.as_chunks::<4>();
    for four in fours {
        for (table, bytes) in tables.iter_mut().zip(four) {
            table[usize::from(E::load(*bytes).key(shift))] += 1;
        }
    }
    for bytes in rest {
        tables[0][usize::from(E::load(*bytes).key(shift))] += 1;
    }
    std::array::from_fn(|key| tables.iter().map(|table| table[key]).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BF16 with these exponents, and a mantissa that numbers them.
    fn base(exponents: &[u8]) -> Vec<[u8; 2]> {
        exponents.iter().enumerate().map(|(at, &exponent)| (u16::from(exponent) << 7 | at as u16).to_le_bytes()).collect()
    }

    #[test]
    fn buckets_go_by_frequency_then_by_key() {
        let base = base(&[9, 3, 9, 5, 3, 7, 5, 9, 1]);
        for (buckets, lengths, order) in [
            (1, vec![9], [0, 1, 2, 3, 4, 5, 6, 7, 8]),
            (2, vec![3, 6], [0, 2, 7, 1, 3, 4, 5, 6, 8]),
            (4, vec![3, 2, 2, 2], [0, 2, 7, 1, 4, 3, 6, 5, 8]),
            (6, vec![3, 2, 2, 1, 1, 0], [0, 2, 7, 1, 4, 3, 6, 8, 5]),
        ] {
            let partition = Partition::new::<u16, 2>(&base, 8, buckets);
            assert_eq!(partition.lengths(), lengths);
            let mut permuted = vec![[0; 2]; 9];
            partition.scatter::<u16, 2>(&base, &mut permuted, |place, values| {
                values.iter_mut().enumerate().for_each(|(at, value)| *value = (place + at) as u16);
            });
            assert_eq!(permuted.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect::<Vec<_>>(), order);
            let mut back = Vec::new();
            partition.gather::<u16, 2>(&base, &permuted, |_, values| back.extend_from_slice(values));
            assert_eq!(back, (0..9).collect::<Vec<u16>>());
        }
    }
}
