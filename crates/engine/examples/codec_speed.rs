//! Throughput and ratio of chunker and codecs on files that are named on the command line.
//!
//! `cargo run --release --example codec_speed -- [fast|balanced|dense] PATH...`, where `@LIST` stands for the paths in a
//! file, taken as one row, and `OLD>NEW` for a file whose changed chunks have the old ones at the same place as bases. Reads everything into memory first; counts processor seconds of this thread, so that other
//! load on the machine disturbs little. Every chunk is decoded and compared.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::path::Path;

use seawall_engine::chunker::{Chunker, SizeClass};
use seawall_engine::codec::{Decoder, Effort, Encoder, id};
use seawall_engine::ids::ChunkId;
use seawall_engine::units::MIB;

fn main() -> Result<(), Box<dyn Error>> {
    let mut effort = Effort::Balanced;
    println!("file                           MB   stored  cut GB/s in GB/s out GB/s  codecs");
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "fast" => effort = Effort::Fast,
            "balanced" => effort = Effort::Balanced,
            "dense" => effort = Effort::Dense,
            path => match path.split_once('>') {
                Some((old, new)) => measure_versions(effort, old, new)?,
                None => measure(effort, path)?,
            },
        }
    }
    Ok(())
}

fn measure(effort: Effort, path: &str) -> Result<(), Box<dyn Error>> {
    let files: Vec<Vec<u8>> = match path.strip_prefix('@') {
        Some(list) => std::fs::read_to_string(list)?.lines().filter_map(|path| std::fs::read(path).ok()).collect(),
        None => vec![std::fs::read(path)?],
    };
    let started = thread_seconds()?;
    let chunks: Vec<&[u8]> = files.iter().flat_map(|file| pieces(file)).map(|(_, chunk)| chunk).collect();
    let cut = thread_seconds()?;
    let mut encoder = Encoder::new(effort);
    let mut bodies = vec![Vec::new(); chunks.len()];
    let (mut body, mut stored) = (Vec::with_capacity(9 * MIB), 0);
    for (chunk, place) in chunks.iter().zip(&mut bodies) {
        encoder.encode(chunk, None, None, &mut body);
        stored += body.len();
        place.extend_from_slice(&body);
    }
    let copied = thread_seconds()?;
    for chunk in &chunks {
        encoder.encode(chunk, None, None, &mut body);
    }
    let encoded = thread_seconds()?;
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    for body in &bodies {
        decoder.decode(body, None, &mut out)?;
    }
    let decoded = thread_seconds()?;
    for (chunk, body) in chunks.iter().zip(&bodies) {
        decoder.decode(body, None, &mut out)?;
        assert!(out == *chunk, "a chunk came back changed");
    }
    let plain: usize = files.iter().map(Vec::len).sum();
    let rate = |seconds: f64| plain as f64 / 1e9 / seconds.max(1e-9);
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    println!(
        "{name:<24} {:>8.1} {:>8.4} {:>9.2} {:>7.3} {:>8.3}  {}",
        plain as f64 / 1e6,
        stored as f64 / plain.max(1) as f64,
        rate(cut - started),
        rate(encoded - copied),
        rate(decoded - encoded),
        codecs(&bodies, &chunks),
    );
    Ok(())
}

fn measure_versions(effort: Effort, old: &str, new: &str) -> Result<(), Box<dyn Error>> {
    let (old, new) = (std::fs::read(old)?, std::fs::read(new)?);
    let (old_chunks, new_chunks) = (pieces(&old), pieces(&new));
    let known: HashSet<&[u8]> = old_chunks.iter().map(|(_, chunk)| *chunk).collect();
    let changed: Vec<(&[u8], &[u8])> = new_chunks
        .into_iter()
        .filter(|(_, chunk)| !known.contains(chunk))
        .filter_map(|(start, chunk)| {
            let middle = start + chunk.len() / 2;
            let base = old_chunks.iter().find(|(at, base)| middle < at + base.len()).or(old_chunks.last())?;
            Some((chunk, base.1))
        })
        .collect();
    let (mut encoder, mut decoder) = (Encoder::new(effort), Decoder::new());
    let (mut body, mut out) = (Vec::with_capacity(9 * MIB), Vec::new());
    let (mut plain, mut stored, mut based) = (0, 0, 0);
    let started = thread_seconds()?;
    for (chunk, base) in &changed {
        encoder.encode(chunk, None, Some((&ChunkId([0; 32]), base)), &mut body);
        plain += chunk.len();
        stored += body.len();
        based += usize::from(body[0] == id::ZSTD_PREFIX);
    }
    let encoded = thread_seconds()?;
    for (chunk, base) in &changed {
        encoder.encode(chunk, None, Some((&ChunkId([0; 32]), base)), &mut body);
        decoder.decode(&body, Some(base), &mut out)?;
        assert!(out == *chunk, "a chunk came back changed");
    }
    println!(
        "{} of {} changed chunks against a base: {plain} bytes stored in {stored} ({:.4} % of the file), {:.3} GB/s",
        based,
        changed.len(),
        stored as f64 * 100.0 / new.len() as f64,
        plain as f64 / 1e9 / (encoded - started).max(1e-9),
    );
    Ok(())
}

/// A file's chunks with their offsets.
fn pieces(file: &[u8]) -> Vec<(usize, &[u8])> {
    let chunker = Chunker::from_key(&[1; 32]);
    let class = SizeClass::for_length(Some(file.len() as u64));
    let (mut pieces, mut start) = (Vec::new(), 0);
    while start < file.len() {
        let length = chunker.cut(&class, &file[start..]);
        pieces.push((start, &file[start..start + length]));
        start += length;
    }
    pieces
}

/// Share of the plain bytes by codec, with the width of planes.
fn codecs(bodies: &[Vec<u8>], chunks: &[&[u8]]) -> String {
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for (body, chunk) in bodies.iter().zip(chunks) {
        let name = match body[0] {
            id::RAW => "raw".to_string(),
            id::ZSTD => "zstd".to_string(),
            id::PLANES => format!("planes{}", body[1]),
            id::CONSTANT => "constant".to_string(),
            other => other.to_string(),
        };
        *shares.entry(name).or_default() += chunk.len();
    }
    let total: usize = shares.values().sum::<usize>().max(1);
    let shares: Vec<String> = shares.iter().map(|(name, bytes)| format!("{name} {}%", bytes * 100 / total)).collect();
    shares.join(", ")
}

/// Processor time of this thread so far.
fn thread_seconds() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: f64 = text.split_whitespace().next().ok_or("schedstat is empty")?.parse()?;
    Ok(nanos / 1e9)
}
