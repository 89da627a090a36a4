//! Ratio and throughput of the encodings of tensors, by class of tensor, on two checkpoints in safetensors files.
//!
//! `cargo run --release --example tensor_ratio -- OLD.safetensors NEW.safetensors [ENCODING...]`. Each tensor of NEW is cut into chunks of
//! 256 Ki elements; its base is the same stretch of the tensor of the same name in OLD. Columns: bytes stored / raw, and
//! GB/s in and out of the encoder and decoder (without hash and encryption) by this thread's processor time, for zstd level 3, alone
//! (planes), and against the base with effort fast, balanced and dense. Every chunk is decoded and compared.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use seawall_engine::codec::{Decoder, Effort, Encoder, Hint, NumberKind};
use seawall_engine::ids::ChunkId;

const CHUNK_ELEMENTS: usize = 256 << 10;
const WAYS: [&str; 5] = ["zstd-3", "alone", "fast", "balanced", "dense"];
const EFFORTS: [Effort; 5] = [Effort::Balanced, Effort::Balanced, Effort::Fast, Effort::Balanced, Effort::Dense];

type Failure = Box<dyn Error>;

/// A tensor's place in its file, and what it holds.
struct Tensor {
    start: usize,
    end: usize,
    kind: NumberKind,
    width: u8,
}

#[derive(Default, Clone, Copy)]
struct Row {
    plain: usize,
    stored: usize,
    seconds_in: f64,
    seconds_out: f64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [old, new, wanted @ ..] = &arguments[..] else { return Err("two safetensors files are needed".into()) };
    let ways: Vec<usize> =
        (0..WAYS.len()).filter(|&way| wanted.is_empty() || wanted.iter().any(|name| name == WAYS[way])).collect();
    let (old, new) = (std::fs::read(Path::new(old))?, std::fs::read(Path::new(new))?);
    let (old_tensors, new_tensors) = (tensors(&old)?, tensors(&new)?);
    let mut codecs = EFFORTS.map(|effort| (Encoder::new(effort), Decoder::new()));
    let mut rows: BTreeMap<(String, usize), Row> = BTreeMap::new();
    for (name, tensor) in &new_tensors {
        let class = if name.contains("adam_") { name.split('.').next().unwrap_or(name) } else { "weights" };
        let bytes = &new[tensor.start..tensor.end];
        let base = old_tensors.get(name).map_or(&[][..], |tensor| &old[tensor.start..tensor.end]);
        for &way in &ways {
            let row = measure(way, &mut codecs[way], tensor, bytes, base)?;
            for class in [class, "all"] {
                rows.entry((class.to_string(), way)).or_default().add(&row);
            }
        }
    }
    println!("class      encoding        MB  stored/raw  GB/s in  GB/s out");
    for ((class, way), row) in &rows {
        let rate = |seconds: f64| row.plain as f64 / 1e9 / seconds.max(1e-9);
        let (plain, ratio) = (row.plain as f64 / 1e6, row.stored as f64 / row.plain.max(1) as f64);
        let (rate_in, rate_out) = (rate(row.seconds_in), rate(row.seconds_out));
        println!("{class:<10} {:<9} {plain:>8.1} {ratio:>11.4} {rate_in:>8.3} {rate_out:>9.3}", WAYS[*way]);
    }
    Ok(())
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.plain += other.plain;
        self.stored += other.stored;
        self.seconds_in += other.seconds_in;
        self.seconds_out += other.seconds_out;
    }
}

fn measure(
    way: usize,
    (encoder, decoder): &mut (Encoder, Decoder),
    tensor: &Tensor,
    bytes: &[u8],
    base: &[u8],
) -> Result<Row, Failure> {
    let id = ChunkId([0; 32]);
    let hint = Hint { width: tensor.width, head: 0, kind: tensor.kind };
    let length = CHUNK_ELEMENTS * usize::from(tensor.width);
    let (mut row, mut body, mut out) = (Row::default(), Vec::new(), Vec::new());
    for (number, chunk) in bytes.chunks(length).enumerate() {
        let old = base.get(number * length..(number * length + chunk.len()).min(base.len())).unwrap_or_default();
        let base = (way > 1 && !old.is_empty()).then_some((&id, old));
        let started = thread_seconds()?;
        match way {
            0 => zstd(chunk, &mut body)?,
            _ => encoder.encode(chunk, Some(&hint), base, &mut body),
        }
        let encoded = thread_seconds()?;
        match way {
            0 => unzstd(&body, chunk.len(), &mut out)?,
            _ => decoder.decode(&body, base.map(|(_, bytes)| bytes), &mut out)?,
        }
        let decoded = thread_seconds()?;
        assert!(out == chunk, "a chunk came back changed");
        let (seconds_in, seconds_out) = (encoded - started, decoded - encoded);
        row.add(&Row { plain: chunk.len(), stored: body.len(), seconds_in, seconds_out });
    }
    Ok(row)
}

fn zstd(plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
    out.clear();
    out.reserve(zstd_safe::compress_bound(plain.len()));
    zstd_safe::compress(out, plain, 3).map_err(zstd_safe::get_error_name)?;
    Ok(())
}

fn unzstd(frame: &[u8], length: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    out.clear();
    out.reserve(length);
    zstd_safe::decompress(out, frame).map_err(zstd_safe::get_error_name)?;
    Ok(())
}

/// The tensors of a safetensors file, which is trusted.
fn tensors(file: &[u8]) -> Result<BTreeMap<String, Tensor>, Failure> {
    let (length, rest) = file.split_first_chunk::<8>().ok_or("too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let header: serde_json::Value = serde_json::from_slice(rest.get(..length).ok_or("too short")?)?;
    let mut tensors = BTreeMap::new();
    for (name, entry) in header.as_object().ok_or("no header")?.iter().filter(|(name, _)| *name != "__metadata__") {
        let offset = |at: usize| entry["data_offsets"][at].as_u64().ok_or("no offsets");
        let (kind, width) = match entry["dtype"].as_str().unwrap_or_default() {
            "F64" => (NumberKind::F64, 8),
            "F32" => (NumberKind::F32, 4),
            "F16" => (NumberKind::F16, 2),
            "BF16" => (NumberKind::Bf16, 2),
            "F8_E4M3" => (NumberKind::F8E4m3, 1),
            "F8_E5M2" => (NumberKind::F8E5m2, 1),
            "I64" | "U64" => (NumberKind::Integer, 8),
            "I32" | "U32" => (NumberKind::Integer, 4),
            "I16" | "U16" => (NumberKind::Integer, 2),
            _ => (NumberKind::Integer, 1),
        };
        let (start, end) = (8 + length + usize::try_from(offset(0)?)?, 8 + length + usize::try_from(offset(1)?)?);
        tensors.insert(name.clone(), Tensor { start, end, kind, width });
    }
    Ok(tensors)
}

/// Processor time of this thread so far.
fn thread_seconds() -> Result<f64, Failure> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
