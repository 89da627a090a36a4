//! Finds where in a base the older state of a chunk's numbers lies, when cuts fell at different places.
//!
//! Numbers that changed a little keep the last bit of their exponent mostly. These bits, 32 neighbours to a word, are looked
//! up in a table of the base's words; each word that is found votes for a place. Without hits there is none: that costs
//! ratio, never data.

use super::element::{Element, for_width};

/// Elements whose bits make a word.
const WORD: usize = 32;
/// Stretches of the chunk that are looked up, each at [`WORD`] places.
const PROBES: usize = 384;
/// This many words must agree on a place.
const VOTES_MIN: usize = 5;
/// Log2 of slots for each word of the base.
const SLOTS_LOG: u32 = 2;

/// Finds places; owns the table.
#[derive(Default)]
pub(super) struct PlaceFinder {
    plain: Vec<u64>,
    base: Vec<u64>,
    slots: Vec<u32>,
    votes: Vec<i64>,
}

impl PlaceFinder {
    /// How many elements further in `base` than in `plain` the counterparts lie; both are whole elements of that width, and
    /// `shift` is where the exponent begins in a rotated one.
    pub(super) fn find(&mut self, width: u8, shift: u8, plain: &[u8], base: &[u8]) -> Option<i64> {
        let count = plain.len() / usize::from(width);
        for_width!(width, bits(u32::from(shift), plain, &mut self.plain));
        for_width!(width, bits(u32::from(shift), base, &mut self.base));
        self.enter(base.len() / usize::from(width));
        self.votes.clear();
        let starts = count.saturating_sub(2 * WORD);
        for probe in 0..PROBES.min(starts / WORD) {
            let start = starts / PROBES.min(starts / WORD) * probe;
            for at in start..start + WORD {
                let word = word(&self.plain, at);
                self.votes.extend(self.look_up(word).map(|found| found as i64 - at as i64));
            }
        }
        winner(&mut self.votes)
    }

    /// Fills the table with every word of the base that begins at a multiple of [`WORD`].
    fn enter(&mut self, count: usize) {
        let words = count / WORD;
        self.slots.clear();
        self.slots.resize((words.max(64)).next_power_of_two() << SLOTS_LOG, 0);
        for number in 0..words {
            let slot = self.slot(word(&self.base, number * WORD));
            // Zero means empty.
            self.slots[slot] = number as u32 + 1;
        }
    }

    fn slot(&self, word: u32) -> usize {
        (word.wrapping_mul(0x9e37_79b1) >> (32 - self.slots.len().ilog2())) as usize
    }

    /// The element of the base at which this word stands; none for words of equal bits, which stand everywhere.
    fn look_up(&self, wanted: u32) -> Option<usize> {
        let at = (self.slots[self.slot(wanted)] as usize).checked_sub(1)? * WORD;
        (wanted != 0 && wanted != u32::MAX && word(&self.base, at) == wanted).then_some(at)
    }
}

/// The place with most votes, if they are enough.
fn winner(votes: &mut [i64]) -> Option<i64> {
    votes.sort_unstable();
    let runs = votes.chunk_by(|left, right| left == right).map(|run| (run.len(), run[0]));
    runs.max_by_key(|(length, _)| *length).filter(|(length, _)| *length >= VOTES_MIN).map(|(_, place)| place)
}

/// 32 bits from bit `at` on.
fn word(bits: &[u64], at: usize) -> u32 {
    let low = u128::from(bits[at / 64]);
    let high = u128::from(bits.get(at / 64 + 1).copied().unwrap_or(0));
    ((high << 64 | low) >> (at % 64)) as u32
}

/// The lowest bit of each element's key.
fn bits<E: Element<W>, const W: usize>(shift: u32, elements: &[u8], out: &mut Vec<u64>) {
    out.clear();
    out.extend(elements.as_chunks::<W>().0.chunks(64).map(|group| {
        let flag = |(number, bytes): (usize, &[u8; W])| u64::from(E::load(*bytes).key(shift) & 1) << number;
        group.iter().enumerate().map(flag).sum::<u64>()
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64, count: usize) -> Vec<u32> {
        let mut noise = vec![0; count * 4];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
        // Exponents spread over four values.
        noise.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes) & 0x81ff_ffff | 0x3c00_0000).collect()
    }

    fn bytes(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn the_place_is_found_before_and_behind() {
        let old = numbers(1, 60_000);
        let new: Vec<u32> = old.iter().map(|bits| bits.wrapping_add(77_777)).collect();
        let mut finder = PlaceFinder::default();
        for (from, to, place) in [(0, 60_000, 0), (1_234, 60_000, 1_234), (40_001, 55_555, 40_001)] {
            assert_eq!(finder.find(4, 24, &bytes(&new[from..to]), &bytes(&old)), Some(place));
            assert_eq!(finder.find(4, 24, &bytes(&new), &bytes(&old[from..to])), Some(-place));
        }
    }

    #[test]
    fn strangers_have_no_place() {
        let mut finder = PlaceFinder::default();
        let old = bytes(&numbers(1, 60_000));
        assert_eq!(finder.find(4, 24, &bytes(&numbers(2, 60_000)), &old), None);
        for short in [0, 1, 31, 63, 64, 65] {
            assert_eq!(finder.find(4, 24, &old[..4 * short], &old), None);
            assert_eq!(finder.find(4, 24, &old, &old[..4 * short]), None);
        }
        assert_eq!(finder.find(4, 24, &[0; 4000], &[0; 4000]), None);
    }
}
