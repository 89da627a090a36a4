//! Every fuzz target on seeded mutations of valid bytes, on a stable toolchain: a short run at every test.
//!
//! `SEAWALL_FUZZ_ROUNDS` sets the mutations a target (default 3,000), `SEAWALL_FUZZ_SEED` another sequence,
//! `SEAWALL_FUZZ_CORPUS` a directory to write the valid bytes to. A failure names target, seed and round, so it repeats.
//! The coverage-guided fuzzing of the same targets is in `fuzz/`.

#[path = "fuzz/targets.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fs, io};

use targets::TARGETS;

/// splitmix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

#[expect(clippy::disallowed_methods, reason = "a test may read its own settings from the environment")]
fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Changes a few bytes, cuts, repeats or joins, with a liking for the beginning, where headers are.
fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let reach = if random.below(2) == 0 { 80.min(bytes.len()) } else { bytes.len() };
        let at = random.below(reach);
        match random.below(9) {
            _ if bytes.is_empty() => bytes.push(random.next() as u8),
            0..=2 => bytes[at] = random.next() as u8,
            3 => bytes[at] ^= 1 << random.below(8),
            4 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
            5 => bytes.truncate(at),
            6 => {
                let end = (at + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            7 => {
                let end = (at + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    bytes
}

fn write_corpus(directory: &Path, seeds: &[Vec<u8>]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    seeds.iter().enumerate().try_for_each(|(number, seed)| fs::write(directory.join(format!("seed-{number}")), seed))
}

#[test]
fn no_target_panics() {
    let rounds: u64 = setting("SEAWALL_FUZZ_ROUNDS").unwrap_or(3_000);
    let seed: u64 = setting("SEAWALL_FUZZ_SEED").unwrap_or(1);
    let corpus: Option<PathBuf> = setting("SEAWALL_FUZZ_CORPUS");
    for target in TARGETS {
        let seeds = (target.seeds)();
        seeds.iter().for_each(|seed| (target.run)(seed));
        if let Some(corpus) = &corpus {
            write_corpus(&corpus.join(target.name), &seeds).expect("the corpus directory can be written");
        }
        let mut random = Random(seed);
        for round in 0..rounds {
            let bytes = mutate(&mut random, &seeds);
            let result = catch_unwind(|| (target.run)(&bytes));
            assert!(result.is_ok(), "{} panicked, seed {seed}, round {round}: {bytes:02x?}", target.name);
        }
    }
}

/// The coverage-guided crate has a file for each target: none is forgotten.
#[test]
fn every_target_is_in_the_fuzz_crate() {
    let manifest = include_str!("../../../fuzz/Cargo.toml");
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{} is missing", target.name);
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}
