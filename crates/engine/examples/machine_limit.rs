//! What this machine can do at most: reads, hashes, encrypts and writes the bytes below a directory, and nothing else.
//!
//!     cargo run --release --example machine_limit -- SOURCE TARGET
//!
//! One thread a core takes files in turn, hashes pieces of up to 1 MiB with keyed BLAKE3, seals them with AES-256-GCM and
//! appends them to a file of its own below TARGET, which is synced at the end. It finds no duplicates, compresses
//! nothing, keeps no metadata: a backup cannot be faster on the same bytes unless it stores fewer. Prints one JSON
//! object with the seconds for reading alone, writing alone, and everything.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot run should stop with its reason")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use seawall_engine::clock;

const PIECE: usize = 1 << 20;

/// What a run does with each piece.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Read,
    Everything,
}

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [source, target] = arguments.as_slice() else { panic!("usage: machine_limit SOURCE TARGET") };
    let files = files_below(source);
    // The first reading warms the page cache and counts.
    let bytes = run(&files, target, Work::Read);
    let read = timed(|| assert_eq!(run(&files, target, Work::Read), bytes));
    let write = timed(|| write_alone(target, bytes));
    let all = timed(|| assert_eq!(run(&files, target, Work::Everything), bytes));
    println!(
        r#"{{"bytes": {bytes}, "files": {}, "read_s": {read:.4}, "write_s": {write:.4}, "all_s": {all:.4}}}"#,
        files.len()
    );
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = clock::monotonic();
    work();
    begun.elapsed().as_secs_f64()
}

fn threads() -> usize {
    thread::available_parallelism().unwrap().get()
}

fn files_below(source: &Path) -> Vec<PathBuf> {
    let (mut files, mut pending) = (Vec::new(), vec![source.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files
}

/// Works through all files with every core; the bytes that were read.
fn run(files: &[PathBuf], target: &Path, work: Work) -> u64 {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let worker = |number| {
            let next = &next;
            scope.spawn(move || one_thread(files, next, &target.join(format!("all-{number}")), work))
        };
        let workers: Vec<_> = (0..threads()).map(worker).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    })
}

fn one_thread(files: &[PathBuf], next: &AtomicUsize, target: &Path, work: Work) -> u64 {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let mut out = (work == Work::Everything).then(|| File::create(target).unwrap());
    let (mut piece, mut pieces, mut bytes) = (vec![0; PIECE], 0_u64, 0);
    while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
        let mut file = File::open(path).unwrap();
        loop {
            let length = fill(&mut file, &mut piece);
            bytes += length as u64;
            if let Some(out) = out.as_mut().filter(|_| length > 0) {
                let id = blake3::keyed_hash(&[9; 32], &piece[..length]);
                let mut nonce = [0; 12];
                nonce[..8].copy_from_slice(&pieces.to_le_bytes());
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag =
                    key.seal_in_place_separate_tag(nonce, Aad::from(id.as_bytes()), &mut piece[..length]).unwrap();
                out.write_all(&piece[..length]).unwrap();
                out.write_all(tag.as_ref()).unwrap();
                pieces += 1;
            }
            if length < PIECE {
                break;
            }
        }
    }
    if let Some(out) = out {
        out.sync_all().unwrap();
    }
    bytes
}

/// Reads until the piece is full or the file ends.
fn fill(file: &mut File, piece: &mut [u8]) -> usize {
    let mut length = 0;
    while length < piece.len() {
        match file.read(&mut piece[length..]).unwrap() {
            0 => break,
            count => length += count,
        }
    }
    length
}

/// Writes as many bytes by as many threads, with a sync at the end.
fn write_alone(target: &Path, bytes: u64) {
    let share = bytes / threads() as u64;
    thread::scope(|scope| {
        for number in 0..threads() {
            scope.spawn(move || {
                let mut out = File::create(target.join(format!("write-{number}"))).unwrap();
                let piece: Vec<u8> = (0..PIECE).map(|at| (at * 7 % 251) as u8).collect();
                let mut left = share as usize;
                while left > 0 {
                    let length = left.min(PIECE);
                    out.write_all(&piece[..length]).unwrap();
                    left -= length;
                }
                out.sync_all().unwrap();
            });
        }
    });
}
