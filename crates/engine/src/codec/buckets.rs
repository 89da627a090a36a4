//! Buckets: a stable partition of elements by keys that whoever decodes knows beforehand: of their counterparts in the base
//! (`docs/format.md` §6.2.1), or of the scales of their row and column (§6.2.3).
//!
//! A small step of training moves a large weight by fewer units in its last place than a small one, so differences behind
//! equal exponents are alike, and get a code of their own. The decoder has the keys, and makes the same partition again:
//! nothing is stored for it.
//!
//! Invariant: bucket lengths sum up to the number of elements, so every element has one place in the permuted order.

use std::ops::Range;

use super::element::Element;
use super::planes::BLOCK;

/// A partition has no more buckets than this.
pub(super) const BUCKETS_MAX: usize = 32;
/// Stretches of the elements that are sorted side by side. Why: neighbours mostly go to the same bucket, and would wait for
/// one another's place in it.
const STREAMS: usize = 4;
/// Tables in which the keys of one stretch are counted by turns, for the same reason.
const TABLES: usize = 4;

/// A number for each bucket, and room up to what a byte can name: an index that needs no check.
type PerBucket = [u32; 256];

/// Which key belongs to which bucket, and where its elements go. A function of the keys and the number of buckets alone.
pub(super) struct Partition {
    bucket_of: [u8; 256],
    lengths: [usize; BUCKETS_MAX],
    buckets: usize,
    shift: u32,
    /// Where in the permuted order each stream's first element of a bucket goes.
    starts: [PerBucket; STREAMS],
}

impl Partition {
    /// The partition of `count` elements into `buckets` (1 to [`BUCKETS_MAX`]): a bucket for each of the most frequent keys, in
    /// order of frequency and then of key, and the last for all other keys. `keys` gives those from a place on; `shift` says
    /// how they were made.
    #[inline(always)]
    pub(super) fn new(count: usize, shift: u32, buckets: usize, keys: impl Fn(usize, &mut [u8])) -> Self {
        let mut lengths = [0; BUCKETS_MAX];
        let mut starts = [[0; 256]; STREAMS];
        if buckets == 1 {
            lengths[0] = count;
            return Self { bucket_of: [0; 256], lengths, buckets, shift, starts };
        }
        let (mut counts, mut totals) = ([[0; 256]; STREAMS], [0; 256]);
        // Why a loop: what a closure of an array does is not put in line.
        for (counts, stream) in counts.iter_mut().zip(streams(count)) {
            count_keys(stream, &keys, counts);
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += *count);
        }
        let bucket_of = ranked(&totals, buckets);
        let mut in_stream = [[0; BUCKETS_MAX]; STREAMS];
        for (in_stream, counts) in in_stream.iter_mut().zip(&counts) {
            for (&bucket, &count) in bucket_of.iter().zip(counts) {
                in_stream[usize::from(bucket)] += count;
            }
        }
        // Bucket after bucket, and in each stream after stream.
        let mut next = 0;
        for (bucket, length) in lengths.iter_mut().enumerate() {
            let start = next;
            for (starts, lengths) in starts.iter_mut().zip(&in_stream) {
                starts[bucket] = next;
                next += lengths[bucket];
            }
            *length = (next - start) as usize;
        }
        Self { bucket_of, lengths, buckets, shift, starts }
    }

    /// True if it has that shape, and as many elements.
    pub(super) fn fits(&self, count: usize, shift: u32, buckets: usize) -> bool {
        (self.shift, self.buckets) == (shift, buckets) && self.lengths().iter().sum::<usize>() == count
    }

    /// Elements in each bucket.
    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths[..self.buckets]
    }

    /// The bucket of an element with that key.
    #[inline(always)]
    pub(super) fn bucket(&self, key: u8) -> usize {
        usize::from(self.bucket_of[usize::from(key)]) % BUCKETS_MAX
    }

    /// Puts the elements that `fill` gives, from a place on, into the order of buckets; `keys` are those of [`Self::new`]. Why not into planes at once: a store for
    /// each byte takes longer than splitting afterwards.
    #[inline(always)]
    pub(super) fn scatter<E: Element<W>, const W: usize>(
        &self,
        keys: impl Fn(usize, &mut [u8]),
        permuted: &mut [[u8; W]],
        fill: impl Fn(usize, &mut [E]),
    ) {
        let count = permuted.len();
        let mut state = ([[E::default(); BLOCK]; STREAMS], permuted);
        self.for_each(
            (count, keys),
            &mut state,
            |(values, _), stream, place, length| fill(place, &mut values[stream][..length]),
            |(values, permuted), stream, at, place| permuted[place] = values[stream][at].bytes(),
            |_, _, _, _| {},
        );
    }

    /// The inverse of [`Self::scatter`]: `drain` takes the elements from a place on. Why not out of planes at once: a load for each
    /// byte takes longer than merging before.
    #[inline(always)]
    pub(super) fn gather<E: Element<W>, const W: usize>(
        &self,
        keys: impl Fn(usize, &mut [u8]),
        permuted: &[[u8; W]],
        drain: impl FnMut(usize, &[E]),
    ) {
        let mut state = ([[E::default(); BLOCK]; STREAMS], drain);
        self.for_each(
            (permuted.len(), keys),
            &mut state,
            |_, _, _, _| {},
            |(values, _), stream, at, place| values[stream][at] = E::load(permuted[place]),
            |(values, drain), stream, place, length| drain(place, &values[stream][..length]),
        );
    }

    /// Calls `visit` with stream, number in its block and permuted place of each element; and, around each block, `before` and
    /// `after` with its stream, place and length.
    #[inline(always)]
    fn for_each<S>(
        &self,
        (count, keys_of): (usize, impl Fn(usize, &mut [u8])),
        state: &mut S,
        before: impl Fn(&mut S, usize, usize, usize),
        visit: impl Fn(&mut S, usize, usize, usize),
        after: impl Fn(&mut S, usize, usize, usize),
    ) {
        let mut next = self.starts;
        let mut keys = [[0; BLOCK]; STREAMS];
        let stretch = stretch(count);
        for block in (0..stretch).step_by(BLOCK) {
            for (stream, keys) in keys.iter_mut().enumerate() {
                let place = stream * stretch + block;
                before(state, stream, place, BLOCK);
                keys_of(place, keys);
            }
            for at in 0..BLOCK {
                for (stream, next) in next.iter_mut().enumerate() {
                    let place = &mut next[usize::from(self.bucket_of[usize::from(keys[stream][at])])];
                    visit(state, stream, at, *place as usize);
                    *place += 1;
                }
            }
            for stream in 0..STREAMS {
                after(state, stream, stream * stretch + block, BLOCK);
            }
        }
        for block in (STREAMS * stretch..count).step_by(BLOCK) {
            let length = BLOCK.min(count - block);
            before(state, 0, block, length);
            keys_of(block, &mut keys[0][..length]);
            for (at, &key) in keys[0][..length].iter().enumerate() {
                let place = &mut next[STREAMS - 1][usize::from(self.bucket_of[usize::from(key)])];
                visit(state, 0, at, *place as usize);
                *place += 1;
            }
            after(state, 0, block, length);
        }
    }
}

/// The keys of elements by their counterparts in `base`. Why a block at a time: the compiler vectorises this.
#[inline(always)]
pub(super) fn keys_of<E: Element<W>, const W: usize>(base: &[[u8; W]], shift: u32) -> impl Fn(usize, &mut [u8]) {
    move |place, keys| {
        for (key, bytes) in keys.iter_mut().zip(&base[place..]) {
            *key = E::load(*bytes).key(shift);
        }
    }
}

/// The bucket of each key: the most frequent ones have one each.
fn ranked(totals: &[u32; 256], buckets: usize) -> [u8; 256] {
    let mut keys: [u8; 256] = std::array::from_fn(|key| key as u8);
    keys.sort_unstable_by_key(|&key| (std::cmp::Reverse(totals[usize::from(key)]), key));
    let mut bucket_of = [(buckets - 1) as u8; 256];
    for (bucket, &key) in keys[..buckets - 1].iter().enumerate() {
        bucket_of[usize::from(key)] = bucket as u8;
    }
    bucket_of
}

/// Elements in each stream; what remains belongs to the last.
fn stretch(count: usize) -> usize {
    count / STREAMS / BLOCK * BLOCK
}

/// The numbers of the elements of each stream.
fn streams(count: usize) -> [Range<usize>; STREAMS] {
    let stretch = stretch(count);
    std::array::from_fn(|stream| {
        let end = if stream + 1 < STREAMS { (stream + 1) * stretch } else { count };
        stream * stretch..end
    })
}

/// Counts how often each key of these elements occurs.
#[inline(always)]
fn count_keys(elements: Range<usize>, keys_of: &impl Fn(usize, &mut [u8]), counts: &mut [u32; 256]) {
    let mut tables = [[0u32; 256]; TABLES];
    let mut keys = [0; BLOCK];
    for place in elements.clone().step_by(BLOCK) {
        let keys = &mut keys[..BLOCK.min(elements.end - place)];
        keys_of(place, keys);
        let (groups, rest) = keys.as_chunks::<TABLES>();
        for group in groups {
            for (table, &key) in tables.iter_mut().zip(group) {
                table[usize::from(key)] += 1;
            }
        }
        rest.iter().for_each(|&key| tables[0][usize::from(key)] += 1);
    }
    for table in &tables {
        counts.iter_mut().zip(table).for_each(|(sum, count)| *sum += count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each element is its own number.
    fn number(place: usize, values: &mut [u16]) {
        values.iter_mut().enumerate().for_each(|(at, value)| *value = (place + at) as u16);
    }

    /// BF16 with these exponents, and a mantissa that numbers them.
    fn base(exponents: &[u8]) -> Vec<[u8; 2]> {
        exponents
            .iter()
            .enumerate()
            .map(|(at, &exponent)| (u16::from(exponent) << 7 | at as u16).to_le_bytes())
            .collect()
    }

    fn keys(base: &[[u8; 2]]) -> impl Fn(usize, &mut [u8]) {
        keys_of::<u16, 2>(base, 8)
    }

    /// The elements in their own order again.
    fn gathered(partition: &Partition, base: &[[u8; 2]], permuted: &[[u8; 2]]) -> Vec<u16> {
        let mut back = vec![0; base.len()];
        partition.gather::<u16, 2>(keys(base), permuted, |place, values| {
            back[place..place + values.len()].copy_from_slice(values);
        });
        back
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
            let partition = Partition::new(base.len(), 8, buckets, keys(&base));
            assert_eq!(partition.lengths(), lengths);
            let mut permuted = vec![[0; 2]; 9];
            partition.scatter(keys(&base), &mut permuted, number);
            assert_eq!(permuted.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect::<Vec<_>>(), order);
            assert_eq!(gathered(&partition, &base, &permuted), (0..9).collect::<Vec<u16>>());
        }
    }

    /// Long enough for all streams: the order is that of a stable sort by bucket, whatever the length.
    #[test]
    fn partitions_are_stable() {
        for count in [255, 511, 512, 513, 640, 1000, 4096, 4100] {
            let exponents: Vec<u8> = (0..count).map(|at: usize| (at * at / 7 % 11) as u8).collect();
            let base = base(&exponents);
            let partition = Partition::new(base.len(), 8, 5, keys(&base));
            let mut permuted = vec![[0; 2]; count];
            partition.scatter(keys(&base), &mut permuted, number);
            let mut expected: Vec<u16> = (0..count as u16).collect();
            expected.sort_by_key(|&at| partition.bucket(u16::from_le_bytes(base[usize::from(at)]).key(8)));
            assert_eq!(permuted.iter().map(|&bytes| u16::from_le_bytes(bytes)).collect::<Vec<_>>(), expected);
            assert_eq!(gathered(&partition, &base, &permuted), (0..count as u16).collect::<Vec<_>>());
        }
    }
}
