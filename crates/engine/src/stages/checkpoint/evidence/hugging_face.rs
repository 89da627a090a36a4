//! Hugging Face: the Trainer's `checkpoint-N` (`trainer_state.json` is written last), Accelerate's states
//! (`random_states_0.pkl` last), and other directories with a model (`config.json` and weights, no marker).
//!
//! Shards are listed in `*.index.json`, which may be written before them; each shard's own header tells its size.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::super::json::{Found, number_in_object};
use super::super::listing::Seen;
use super::super::names;
use super::{Marked, Scene, Written, deepspeed, distcp};
use crate::units::MIB;

const STATE: &str = "trainer_state.json";
/// What only the Trainer writes.
const ARGUMENTS: &str = "training_args.bin";
/// Accelerate's last file of rank 0.
const RANDOM_OF_FIRST: &str = "random_states_0.pkl";
const INDEX_ENDING: &str = ".index.json";
/// States hold the log of the whole run.
const STATE_BYTES_MAX: u64 = 512 * MIB as u64;
const INDEX_BYTES_MAX: u64 = 256 * MIB as u64;
/// Beginnings of files that hold numbers and no weights.
const NO_WEIGHTS: [&str; 6] = ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states"];
const SHARDS_MAX: u64 = 1 << 16;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn is_direct(file: &Seen) -> bool {
    file.text() == file.name()
}

fn is_weights(file: &Seen) -> bool {
    let name = file.name();
    names::holds_numbers(name) && !NO_WEIGHTS.iter().any(|other| name.starts_with(other))
}

/// Whether the Trainer would name a checkpoint so.
fn is_trainers(scene: &Scene) -> bool {
    scene.step.is_some_and(|step| scene.name == format!("checkpoint-{step}"))
}

/// Whether the names are those of the Trainer, Accelerate or `save_pretrained`.
pub(super) fn is_it(scene: &Scene) -> bool {
    let is_trainers = is_trainers(scene);
    let mut direct = scene.listing.files().filter(|file| is_direct(file));
    direct.any(|file| {
        let name = file.name();
        matches!(name, STATE | "config.json" | "adapter_config.json" | ARGUMENTS)
            || name.starts_with("random_states_")
            || name.ends_with(INDEX_ENDING)
            || (is_trainers && names::holds_numbers(name))
    })
}

/// The Trainer's or Accelerate's last file. Other directories, with a model of `save_pretrained`, have no marker.
pub(super) fn marked(scene: &Scene) -> Marked {
    let last =
        scene.listing.files().filter(|file| file.name().starts_with("random_states_")).map(|file| file.mtime).max();
    let Some(state) = scene.direct(STATE) else {
        let needs_state = is_trainers(scene) || (scene.step.is_some() && scene.direct(ARGUMENTS).is_some());
        return match last {
            None if needs_state => Err(format!("{STATE} is not there")),
            last => has_weights(scene, last),
        };
    };
    let bytes = scene.read(state, STATE_BYTES_MAX)?;
    match (number_in_object(&bytes, "global_step"), scene.step) {
        (Found::Torn, _) => Err(format!("{STATE} is torn")),
        (Found::Number(said), Some(step)) if said != step && is_trainers(scene) => {
            Err(format!("{STATE} is of step {said}"))
        }
        _ => has_weights(scene, Some(state.mtime)),
    }
}

fn has_weights(scene: &Scene, marked: Option<crate::clock::Timestamp>) -> Marked {
    let has = |file: &Seen| is_weights(file) || deepspeed::is_part(file) || distcp::is_part(file);
    if scene.listing.files().any(has) { Ok(marked) } else { Err("no weights are there".to_owned()) }
}

/// Whether weights or optimizer states were written long after the marker, and other numbers before it.
///
/// Why not states of random numbers: older Trainers write them after their marker, each rank by itself.
pub(super) fn overwritten(scene: &Scene) -> Option<String> {
    // Why that of rank 0: the others write nothing else, and so before it.
    let marker = scene.direct(STATE).or_else(|| scene.direct(RANDOM_OF_FIRST))?;
    let counts = |file: &&Seen| is_weights(file) || file.name().starts_with("optimizer");
    let numbers = || scene.listing.files().filter(|file| names::holds_numbers(file.name()));
    let is_old = |file: &&Seen| file.mtime <= marker.mtime;
    let old = Written::of(numbers().filter(is_old))?;
    let new = Written::of(numbers().filter(counts))?;
    let all = Written { oldest: old.oldest, ..new };
    all.is_of_another_save(marker.mtime).then(|| {
        format!(
            "{} is newer than {shown}, others are older: it was overwritten in part (if it was not, touch {shown})",
            all.last,
            shown = marker.text()
        )
    })
}

/// What lacks by an index, or by names such as `model-00001-of-00003.safetensors`.
pub(super) fn lack(scene: &Scene) -> Option<String> {
    let mut indexes = scene.listing.files().filter(|file| file.name().ends_with(INDEX_ENDING));
    indexes.find_map(|index| index_lack(scene, index).err()).or_else(|| shards_lack(scene))
}

fn index_lack(scene: &Scene, file: &Seen) -> Result<(), String> {
    let bytes = scene.read(file, INDEX_BYTES_MAX)?;
    let shown = file.text();
    // Why: other libraries have files of that ending without shards.
    if number_in_object(&bytes, "") == Found::Torn {
        return Err(format!("{shown} is torn"));
    }
    let Ok(index) = serde_json::from_slice::<Index>(&bytes) else { return Ok(()) };
    let directory = file.path.parent().unwrap_or(Path::new(""));
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    let missing =
        shards.into_iter().map(|shard| directory.join(shard)).find(|shard| scene.listing.file(shard).is_none());
    missing.map_or(Ok(()), |shard| Err(format!("{} is missing: {shown} lists it", shard.display())))
}

/// A shard's name in its parts: what comes before the number, how many there are as written, and the ending.
fn shard(path: &str) -> Option<(&str, &str, &str)> {
    let (stem, ending) = path.rsplit_once('.')?;
    let (before, of) = stem.rsplit_once("-of-")?;
    let (prefix, number) = before.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(of) && matches!(ending, "safetensors" | "bin")).then_some((prefix, of, ending))
}

fn shards_lack(scene: &Scene) -> Option<String> {
    let rows: BTreeSet<(&str, &str, &str)> = scene.listing.files().filter_map(|file| shard(file.text())).collect();
    rows.into_iter().find_map(|(prefix, of, ending)| {
        let (count, width) = (of.parse::<u64>().ok()?, of.len());
        let mut names = (1..=count.min(SHARDS_MAX)).map(|number| format!("{prefix}-{number:0width$}-of-{of}.{ending}"));
        let index = format!("{prefix}.{ending}{INDEX_ENDING}");
        let missing = names.find(|name| scene.listing.file(name).is_none());
        let no_index = (count > 1 && scene.listing.file(&index).is_none()).then(|| format!("{index} is not there"));
        missing.map(|name| format!("{name} is missing")).or(no_index)
    })
}
