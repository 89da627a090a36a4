//! Checkpoints of a training run that keep their path: each is stored as the difference to the first, and verify,
//! restore and prune know the bases.

use std::fs;
use std::path::Path;

use seawall_engine::backup::{BackupReport, backup};
use seawall_engine::browse::stats;
use seawall_engine::codec::id::PLANES_DIFFERENCE;
use seawall_engine::forget::forget;
use seawall_engine::monitor::Silent;
use seawall_engine::prune::PruneOptions;
use seawall_engine::repo::Repository;

use crate::place::{Place, assert_whole, noise, options, paths, stored_files};
use crate::prune::{run, thorough};

/// Weights as FP32: sums of uniform bytes are nearly normal, which gives exponents as trained weights have them; the last
/// four bytes fill the mantissa.
fn weights(count: usize) -> Vec<f32> {
    let weight = |bytes: &[u8; 12]| {
        let (sum, rest) = bytes.split_at(8);
        let low = rest.iter().fold(0.0, |low, &byte| (low + f32::from(byte)) / 256.0);
        sum.iter().map(|&byte| f32::from(byte) - 127.5).sum::<f32>() * 1e-4 + low * 1e-4
    };
    noise(5, count * 12).as_chunks().0.iter().map(weight).collect()
}

/// The weights after `steps` steps, with a header as long as that of a safetensors file of one tensor.
fn checkpoint(weights: &[f32], steps: u64) -> Vec<u8> {
    let mut bytes = format!("{:<96}", format!("{{\"step\":{steps}}}")).into_bytes();
    let moves = noise(100 + steps, weights.len());
    let moved =
        weights.iter().zip(moves).map(|(weight, step)| weight + (f32::from(step) - 127.5) * 1e-7 * steps as f32);
    bytes.extend(moved.flat_map(f32::to_le_bytes));
    bytes
}

fn store(place: &Place, path: &Path, bytes: &[u8]) -> BackupReport {
    fs::write(path, bytes).unwrap();
    backup(&place.open(true), options(paths(&place.source())), &Silent).unwrap()
}

/// How many chunks are differences.
fn differences(repository: &Repository) -> u64 {
    let codecs = stats(repository).unwrap().codecs;
    codecs.iter().filter(|codec| codec.codec == PLANES_DIFFERENCE).map(|codec| codec.chunks).sum()
}

#[test]
fn checkpoints_of_one_path_are_differences_to_the_first() {
    let (place, repository) = Place::new();
    let weights = weights(2_000_000);
    let path = place.source().join("model.safetensors");
    let reports: Vec<BackupReport> =
        (0..3).map(|steps| store(&place, &path, &checkpoint(&weights, steps * 20))).collect();
    assert!(differences(&repository) == 0 && differences(&place.open(false)) >= 6);
    // Cuts fall elsewhere in each version, so a part of each chunk has no counterpart in its base.
    for later in &reports[1..] {
        assert!(later.bytes_stored * 100 < reports[0].bytes_stored * 90, "{} bytes", later.bytes_stored);
    }
    for (steps, report) in (0..).zip(&reports) {
        assert!(stored_files(&place.open(false), report)[&path] == checkpoint(&weights, steps * 20));
    }
    assert_whole(&place.open(false));

    // The first is forgotten, and stays as the base of the last, until that is stored anew for itself.
    let gone: Vec<_> = reports[..2].iter().map(|report| report.snapshot.as_ref().unwrap().id).collect();
    forget(&place.open(true), &gone, "test").unwrap();
    let mut left = Vec::new();
    for rebase in [false, true] {
        let report = run(&place.open(true), &PruneOptions { rebase, ..thorough() }).unwrap();
        assert_eq!(report.rebased_chunks > 0, rebase, "{report:?}");
        let repository = place.open(false);
        assert_whole(&repository);
        assert!(stored_files(&repository, &reports[2])[&path] == checkpoint(&weights, 40));
        left.push((differences(&repository), stats(&repository).unwrap().packs.bytes));
    }
    assert!(left[1].0 < left[0].0 && left[1].1 * 100 < left[0].1 * 85, "differences and bytes: {left:?}");
}
