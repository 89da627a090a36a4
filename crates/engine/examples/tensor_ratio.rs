//! Ratio and throughput of the encodings of tensors, by class of tensor, alone and against an older file.
//!
//! `cargo run --release --example tensor_ratio -- [OLD] NEW [ENCODING...]`. Files of any format that the readers know; a class is
//! what a tensor's name begins with before ` of `, else `adam_m`, `adam_v`, `weights`, else the kind of its numbers. Each tensor of NEW
//! is cut into chunks as a backup would (256 Ki elements, 512 KiB to 2 MiB); its base is the same stretch of the tensor of the same name in
//! OLD. Columns: bytes stored / raw, and GB/s in and out of the encoder and decoder (without hash and encryption) by this thread's
//! processor time, the best of three, for zstd level 3, alone, and against the base with effort fast, balanced and dense. Every chunk is
//! decoded and compared. `--list NEW` prints class, kind, start and end of each tensor instead.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use seawall_engine::codec::{Decoder, Effort, Encoder, Hint, NumberKind};
use seawall_engine::ids::ChunkId;
use seawall_engine::readers::{self, Dtype};
use seawall_engine::units::{KIB, MIB};

const CHUNK_ELEMENTS: usize = 256 * KIB;
const CHUNK_BYTES: (usize, usize) = (512 * KIB, 2 * MIB);
/// How often each chunk is encoded and decoded; the fastest counts.
const PASSES: usize = 3;
const WAYS: [&str; 5] = ["zstd-3", "alone", "fast", "balanced", "dense"];
/// The first of [`WAYS`] that uses a base.
const BASED: usize = 2;
const EFFORTS: [Effort; 5] = [Effort::Balanced, Effort::Balanced, Effort::Fast, Effort::Balanced, Effort::Dense];

type Failure = Box<dyn Error>;

/// A file, and where its tensors lie.
struct File {
    bytes: Vec<u8>,
    tensors: BTreeMap<String, Tensor>,
}

/// A tensor's place in its file, and what it holds.
struct Tensor {
    class: String,
    start: usize,
    end: usize,
    dtype: Dtype,
    /// Elements in a row, where it has rows.
    row: Option<u32>,
}

/// Codecs of one way, used again and again as a backup does.
struct Codecs {
    encoder: Encoder,
    decoder: Decoder,
    zstd: zstd_safe::CCtx<'static>,
    unzstd: zstd_safe::DCtx<'static>,
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
    if let [list, file] = &arguments[..]
        && list == "--list"
    {
        return print_list(&open(file)?);
    }
    let (wanted, files): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|word| WAYS.contains(&word.as_str()));
    let (old, new) = match files[..] {
        [new] => (None, open(new)?),
        [old, new] => (Some(open(old)?), open(new)?),
        _ => return Err("one or two files are needed".into()),
    };
    let known = if old.is_some() { WAYS.len() } else { BASED };
    let ways = (0..known).filter(|&way| wanted.is_empty() || wanted.iter().any(|name| *name == WAYS[way]));
    let mut rows: BTreeMap<(&str, usize), Row> = BTreeMap::new();
    for way in ways {
        let mut codecs = Codecs::new(EFFORTS[way]);
        for (name, tensor) in &new.tensors {
            let base = old.as_ref().filter(|_| way >= BASED).and_then(|old| old.tensor(name)).unwrap_or_default();
            let row = codecs.measure(way, tensor, &new.bytes[tensor.start..tensor.end], base)?;
            for class in [&tensor.class, "all"] {
                rows.entry((class, way)).or_default().add(&row);
            }
        }
    }
    println!("{:<14} encoding        MB  stored/raw  GB/s in  GB/s out", "class");
    for ((class, way), row) in &rows {
        let rate = |seconds: f64| row.plain as f64 / 1e9 / seconds.max(1e-9);
        let (plain, ratio) = (row.plain as f64 / 1e6, row.stored as f64 / row.plain.max(1) as f64);
        let (rate_in, rate_out) = (rate(row.seconds_in), rate(row.seconds_out));
        println!("{class:<14} {:<9} {plain:>8.1} {ratio:>11.4} {rate_in:>8.3} {rate_out:>9.3}", WAYS[*way]);
    }
    Ok(())
}

fn print_list(file: &File) -> Result<(), Failure> {
    for tensor in file.tensors.values() {
        println!("{}\t{}\t{}\t{}", tensor.class, tensor.dtype.name(), tensor.start, tensor.end);
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

impl Codecs {
    fn new(effort: Effort) -> Self {
        let (zstd, unzstd) = (zstd_safe::CCtx::create(), zstd_safe::DCtx::create());
        Self { encoder: Encoder::new(effort), decoder: Decoder::new(), zstd, unzstd }
    }

    fn measure(&mut self, way: usize, tensor: &Tensor, bytes: &[u8], base: &[u8]) -> Result<Row, Failure> {
        let unit = tensor.dtype.width() as usize * tensor.row.map_or(1, |row| row as usize);
        let length =
            ((CHUNK_ELEMENTS * tensor.dtype.width() as usize).clamp(CHUNK_BYTES.0, CHUNK_BYTES.1) / unit).max(1) * unit;
        let hint = hint(tensor);
        let (mut row, mut body, mut out) = (Row::default(), Vec::new(), Vec::new());
        for (number, chunk) in bytes.chunks(length).enumerate() {
            let old = base.get(number * length..(number * length + chunk.len()).min(base.len())).unwrap_or_default();
            let (mut seconds_in, mut seconds_out) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..PASSES {
                let started = thread_seconds()?;
                self.encode(way, chunk, hint.as_ref(), old, &mut body)?;
                let encoded = thread_seconds()?;
                self.decode(way, &body, chunk.len(), old, &mut out)?;
                seconds_in = seconds_in.min(encoded - started);
                seconds_out = seconds_out.min(thread_seconds()? - encoded);
                assert!(out == chunk, "a chunk came back changed");
            }
            row.add(&Row { plain: chunk.len(), stored: body.len(), seconds_in, seconds_out });
        }
        Ok(row)
    }

    fn encode(
        &mut self,
        way: usize,
        chunk: &[u8],
        hint: Option<&Hint>,
        old: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if way == 0 {
            out.clear();
            out.reserve(zstd_safe::compress_bound(chunk.len()));
            self.zstd.compress(out, chunk, 3).map_err(zstd_safe::get_error_name)?;
            return Ok(());
        }
        let base = (!old.is_empty()).then_some((&ChunkId([0; 32]), old));
        self.encoder.encode(chunk, hint, base, out);
        Ok(())
    }

    fn decode(&mut self, way: usize, body: &[u8], length: usize, old: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        if way == 0 {
            out.clear();
            out.reserve(length);
            self.unzstd.decompress(out, body).map_err(zstd_safe::get_error_name)?;
            return Ok(());
        }
        self.decoder.decode(body, (!old.is_empty()).then_some(old), out)?;
        Ok(())
    }
}

impl File {
    fn tensor(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|tensor| &self.bytes[tensor.start..tensor.end])
    }
}

fn open(path: &str) -> Result<File, Failure> {
    let bytes = std::fs::read(path)?;
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    let layout = readers::read(&bytes.as_slice(), name.as_bytes()).ok_or("a file without tensors")?;
    let mut tensors = BTreeMap::new();
    for tensor in layout.tensors {
        let (start, end) = (usize::try_from(tensor.range.start)?, usize::try_from(tensor.range.end)?);
        let class = class(&tensor.name, tensor.dtype).to_string();
        let row = tensor.shape.iter().skip(1).product::<u64>();
        let row = u32::try_from(row).ok().filter(|&row| tensor.shape.len() > 1 && (64..1 << 19).contains(&row));
        tensors.insert(tensor.name, Tensor { class, start, end, dtype: tensor.dtype, row });
    }
    Ok(File { bytes, tensors })
}

fn class(name: &str, dtype: Dtype) -> &str {
    if let Some((class, _)) = name.split_once(" of ") {
        return class;
    }
    let first = name.split('.').next().unwrap_or_default();
    if matches!(first, "adam_m" | "adam_v" | "weights") { first } else { dtype.name() }
}

/// What a backup tells the encoder of such elements.
fn hint(tensor: &Tensor) -> Option<Hint> {
    let (width, kind) = match tensor.dtype {
        Dtype::F64 => (8, NumberKind::F64),
        Dtype::F32 => (4, NumberKind::F32),
        Dtype::F16 => (2, NumberKind::F16),
        Dtype::Bf16 => (2, NumberKind::Bf16),
        Dtype::F8E4m3 => (1, NumberKind::F8E4m3),
        Dtype::F8E5m2 => (1, NumberKind::F8E5m2),
        Dtype::I64 | Dtype::U64 => (8, NumberKind::Integer),
        Dtype::I32 | Dtype::U32 => (4, NumberKind::Integer),
        Dtype::I16 | Dtype::U16 => (2, NumberKind::Integer),
        Dtype::I8 | Dtype::U8 | Dtype::Bool => (1, NumberKind::Integer),
        _ => return None,
    };
    Some(Hint { width, head: 0, kind, row: tensor.row })
}

/// Processor time of this thread so far.
fn thread_seconds() -> Result<f64, Failure> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
