//! How far tensors move between checkpoints, which injected faults are told, and how fast statistics are computed.
//!
//! `cargo run --release --example tensor_drift -- [--all] OLD NEW [NEWER...]`. For each pair of neighbours: the largest
//! figures by class of tensor, and with `--all` each tensor's. Then faults are put into the tensors of the newest file, one
//! at a time, and held against the one before: how many are told, by kind. Then GB/s of one thread's processor time.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use seawall_engine::format::tensor_table::encode;
use seawall_engine::readers::{self, Dtype, Layout, Tensor};
use seawall_engine::statistics::Statistics;
use seawall_engine::statistics::builder::TableBuilder;
use seawall_engine::statistics::compare::{ELEMENTS_MIN, breaks, rows};
use seawall_engine::statistics::table::TensorTable;
use seawall_engine::units::MIB;

type Failure = Box<dyn Error>;

struct Checkpoint {
    name: String,
    bytes: Vec<u8>,
    layout: Layout,
    table: TensorTable,
}

fn main() -> Result<(), Failure> {
    let (options, files): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|it| it.starts_with("--"));
    let all = options.iter().any(|option| option == "--all");
    let mut before: Option<Checkpoint> = None;
    for file in &files {
        let now = open(Path::new(file))?;
        println!("{}: a table of {} tensors in {} bytes", now.name, now.table.tensors.len(), encode(&now.table).len());
        if let Some(before) = &before {
            drifts(before, &now, all);
            if Some(file) == files.last() {
                faults(before, &now);
            }
        }
        before = Some(now);
    }
    speed(&before.ok_or("checkpoint files are needed")?)
}

fn open(path: &Path) -> Result<Checkpoint, Failure> {
    let bytes = std::fs::read(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let layout = readers::read(&bytes.as_slice(), name.as_bytes()).ok_or("a file without tensors")?;
    let builder = TableBuilder::new(&layout);
    for (number, chunk) in bytes.chunks(MIB).enumerate() {
        builder.add((number * MIB) as u64, chunk);
    }
    Ok(Checkpoint { name, bytes, table: builder.finish(), layout })
}

fn class(name: &str) -> &str {
    if name.contains("adam_") { name.split('.').next().unwrap_or(name) } else { "weights" }
}

/// Largest change of the norm, distance, magnitude factor and share of new zeros, each with the tensor's name.
type Largest<'a> = [(f64, &'a str); 4];

fn drifts(old: &Checkpoint, new: &Checkpoint, all: bool) {
    println!("{} -> {}", old.name, new.name);
    let mut classes: BTreeMap<&str, Largest<'_>> = BTreeMap::new();
    for row in rows(Some(&old.table), &new.table) {
        for what in &row.findings {
            println!("  FOUND {}: {what}", row.name);
        }
        let (Some(drift), Some(old), Some(new)) = (row.drift, row.old, row.new) else { continue };
        let (Some(old), Some(new)) = (&old.statistics, &new.statistics) else { continue };
        let norm = drift.norm.map_or(0.0, |change| (1.0 + change).ln().abs().exp());
        let magnitude = new.magnitude().unwrap_or(0.0) / old.magnitude().unwrap_or(0.0);
        let zeros = new.zeros.saturating_sub(old.zeros) as f64 / new.elements.max(1) as f64;
        let figures = [norm, drift.distance.unwrap_or(0.0), magnitude, zeros];
        if all {
            println!("  {:>9} {figures:9.4?} {}", new.elements, row.name);
        }
        let largest = classes.entry(class(row.name)).or_insert([(0.0, ""); 4]);
        for (largest, figure) in largest.iter_mut().zip(figures) {
            if figure.is_finite() && figure > largest.0 && new.elements >= ELEMENTS_MIN {
                *largest = (figure, row.name);
            }
        }
    }
    for (class, largest) in classes {
        for (figure, (value, name)) in ["norm factor", "binades", "magnitude factor", "new zeros"].iter().zip(largest) {
            println!("  {class:<8} {figure:<16} {value:>9.4}  {name}");
        }
    }
}

/// Changes a tensor's bytes; gives false where the fault does not apply.
type Fault = fn(&mut [u8], usize, &[u8]) -> bool;

fn flip(bytes: &mut [u8], width: usize, bit: u32) -> bool {
    let element = bytes.len() / width / 2 * width;
    bytes[element + bit as usize / 8] ^= 1 << (bit % 8);
    true
}

fn zero(bytes: &mut [u8], width: usize, share: usize) -> bool {
    let length = bytes.len() / width / share * width;
    bytes[..length].fill(0);
    length > 0
}

/// Bits are counted from the top of an element: 1 is the highest of the exponent.
const FAULTS: [(&str, Fault); 12] = [
    ("exponent bit 1 flipped", |bytes, width, _| flip(bytes, width, 8 * width as u32 - 2)),
    ("exponent bit 3 flipped", |bytes, width, _| flip(bytes, width, 8 * width as u32 - 4)),
    ("exponent bit 4 flipped", |bytes, width, _| flip(bytes, width, 8 * width as u32 - 5)),
    ("exponent bit 6 flipped", |bytes, width, _| flip(bytes, width, 8 * width as u32 - 7)),
    ("sign flipped", |bytes, width, _| flip(bytes, width, 8 * width as u32 - 1)),
    ("a NaN", |bytes, width, _| {
        let element = bytes.len() / width / 2 * width;
        bytes[element..element + width].fill(0xff);
        true
    }),
    ("1/2 zeros", |bytes, width, _| zero(bytes, width, 2)),
    ("1/16 zeros", |bytes, width, _| zero(bytes, width, 16)),
    ("1/128 zeros", |bytes, width, _| zero(bytes, width, 128)),
    ("1/16 noise", |bytes, width, _| {
        let length = bytes.len() / width / 16 * width;
        let noise = (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8);
        bytes.iter_mut().zip(noise).for_each(|(byte, noise)| *byte = noise);
        length > 0
    }),
    ("shifted by a byte", |bytes, _, _| {
        bytes.rotate_left(1);
        true
    }),
    ("another tensor of its shape", |bytes, _, other| {
        bytes.copy_from_slice(other);
        !other.is_empty()
    }),
];

/// How often a fault was told, and as what.
#[derive(Default)]
struct Told {
    found: u32,
    tried: u32,
    kinds: BTreeMap<&'static str, u32>,
}

fn bytes_of<'a>(file: &'a Checkpoint, tensor: &Tensor) -> &'a [u8] {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    &file.bytes[place(tensor.range.start)..place(tensor.range.end)]
}

fn faults(old: &Checkpoint, new: &Checkpoint) {
    println!("faults in {}, held against {}: told / tried", new.name, old.name);
    let mut told: BTreeMap<(usize, &str), Told> = BTreeMap::new();
    let mut next: BTreeMap<(&str, Vec<u64>), usize> = BTreeMap::new();
    for (place, tensor) in new.layout.tensors.iter().enumerate() {
        let Some(before) = old.table.tensors.iter().find(|record| record.tensor.name == tensor.name) else { continue };
        let Some(before) = before.statistics.as_ref().filter(|before| before.elements >= ELEMENTS_MIN) else {
            continue;
        };
        let class = class(&tensor.name);
        let other = next.insert((class, tensor.shape.clone()), place).map(|other| &new.layout.tensors[other]);
        let width = usize::try_from(tensor.dtype.width()).unwrap_or(1);
        for (number, (_, fault)) in FAULTS.iter().enumerate() {
            let other = other.map_or(&[][..], |other| bytes_of(new, other));
            if number + 1 == FAULTS.len() && other.is_empty() {
                continue;
            }
            let mut bytes = bytes_of(new, tensor).to_vec();
            if !fault(&mut bytes, width, other) {
                continue;
            }
            let Some(broken) = Statistics::of(tensor.dtype, &bytes) else { continue };
            let told = told.entry((number, class)).or_default();
            let breaks = breaks(&tensor.name, tensor.dtype, before, &broken);
            told.found += u32::from(!breaks.is_empty());
            told.tried += 1;
            breaks.iter().for_each(|what| *told.kinds.entry(what.code()).or_default() += 1);
        }
    }
    for ((number, class), Told { found, tried, kinds }) in told {
        println!("  {:<28} {class:<8} {found:>4} / {tried:<4} {kinds:?}", FAULTS[number].0);
    }
}

fn speed(file: &Checkpoint) -> Result<(), Failure> {
    println!("GB/s of {} as", file.name);
    let bytes = &file.bytes[..file.bytes.len() / (16 * MIB) * (16 * MIB)];
    let tensors = &file.layout.tensors;
    let own = tensors.iter().max_by_key(|tensor| tensor.range.end - tensor.range.start).map(|tensor| tensor.dtype);
    let kinds = [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::F64, Dtype::F8E4m3, Dtype::I64, Dtype::I32];
    for dtype in own.into_iter().chain(kinds) {
        let mut best = 0.0_f64;
        for _ in 0..3 {
            let started = thread_seconds()?;
            let mut sum = Statistics::default();
            for chunk in bytes.chunks(MIB) {
                sum.merge(&Statistics::of(dtype, chunk).unwrap_or_default());
            }
            assert!(sum.elements > 0, "nothing was counted");
            best = best.max(bytes.len() as f64 / 1e9 / (thread_seconds()? - started));
        }
        let note = if Some(dtype) == own { " (what it holds)" } else { "" };
        println!("  {:<8} {best:6.2}{note}", dtype.name());
    }
    Ok(())
}

/// Processor time of this thread so far.
fn thread_seconds() -> Result<f64, Failure> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
