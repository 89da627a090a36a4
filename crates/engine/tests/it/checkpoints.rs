//! Checkpoints of a training run that keep their path: each is stored as the difference to the first, and verify,
//! restore and prune know the bases.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use seawall_engine::backup::{BackupReport, backup};
use seawall_engine::codec::id::PLANES_DIFFERENCE;
use seawall_engine::forget::forget;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Depth, VerifyOptions, verify};

use crate::place::{Place, noise, options, paths, stored_files};
use crate::prune::{run, thorough};

/// Weights as FP32: sums of uniform bytes are nearly normal, which gives exponents as trained weights have them.
fn weights(count: usize) -> Vec<f32> {
    let sum = |bytes: &[u8; 8]| bytes.iter().map(|&byte| f32::from(byte) - 127.5).sum::<f32>();
    noise(5, count * 8).as_chunks().0.iter().map(|bytes| sum(bytes) * 1e-4 + 1e-7).collect()
}

/// The weights after `steps` steps, with a header as long as that of a safetensors file of one tensor.
fn checkpoint(weights: &[f32], steps: u64) -> Vec<u8> {
    let mut bytes = format!("{:<96}", format!("{{\"step\":{steps}}}")).into_bytes();
    let moves = noise(100 + steps, weights.len());
    let moved = weights.iter().zip(moves).map(|(weight, step)| weight + (f32::from(step) - 127.5) * 1e-7 * steps as f32);
    bytes.extend(moved.flat_map(f32::to_le_bytes));
    bytes
}

fn store(place: &Place, path: &Path, bytes: &[u8]) -> BackupReport {
    fs::write(path, bytes).unwrap();
    backup(&place.open(true), options(paths(&place.source())), &Silent).unwrap()
}

/// How many blobs of the repository's packs are differences.
fn differences(repository: &Repository) -> usize {
    let mut count = 0;
    repository.index().for_each(&mut |_, location| count += usize::from(location.codec == PLANES_DIFFERENCE));
    count
}
