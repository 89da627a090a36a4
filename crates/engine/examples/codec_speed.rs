//! Throughput and ratio of chunker and codecs on files that are named on the command line.
//!
//! `cargo run --release --example codec_speed -- [fast|balanced|dense] PATH...`, where `@LIST` stands for the paths in a
//! file, taken as one row. Reads everything into memory first; counts processor seconds of this thread, so that other
//! load on the machine disturbs little. Every chunk is decoded and compared.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use seawall_engine::chunker::{Chunker, SizeClass};
use seawall_engine::codec::{Decoder, Effort, Encoder, id};
use seawall_engine::units::MIB;

fn main() -> Result<(), Box<dyn Error>> {
    let mut effort = Effort::Balanced;
    println!("file                           MB   stored  cut GB/s in GB/s out GB/s  codecs");
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "fast" => effort = Effort::Fast,
            "balanced" => effort = Effort::Balanced,
            "dense" => effort = Effort::Dense,
            path => measure(effort, path)?,
        }
    }
    Ok(())
}

fn measure(effort: Effort, path: &str) -> Result<(), Box<dyn Error>> {
    let files: Vec<Vec<u8>> = match path.strip_prefix('@') {
        Some(list) => std::fs::read_to_string(list)?.lines().filter_map(|path| std::fs::read(path).ok()).collect(),
        None => vec![std::fs::read(path)?],
    };
    let chunker = Chunker::from_key(&[1; 32]);
    let started = thread_seconds()?;
    let mut chunks: Vec<&[u8]> = Vec::new();
    for file in &files {
        let class = SizeClass::for_length(Some(file.len() as u64));
        let mut rest = &file[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunker.cut(&class, rest));
            chunks.push(chunk);
            rest = after;
        }
    }
    let cut = thread_seconds()?;
    let mut encoder = Encoder::new(effort);
    let mut bodies = vec![Vec::new(); chunks.len()];
    let (mut body, mut stored) = (Vec::with_capacity(9 * MIB), 0);
    for (chunk, place) in chunks.iter().zip(&mut bodies) {
        encoder.encode(chunk, None, &mut body);
        stored += body.len();
        place.extend_from_slice(&body);
    }
    let copied = thread_seconds()?;
    for chunk in &chunks {
        encoder.encode(chunk, None, &mut body);
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
