//! Megatron: `iter_0000100` with `mp_rank_*/model_optim_rng.pt` (legacy), or with distributed parts, `common.pt` and
//! `metadata.json`, which is written last. Where it was told to, it writes `integrity.json` behind that, which names every file with its
//! SHA-256. The run's tracker, `latest_checkpointed_iteration.txt`, is asked elsewhere.

use std::collections::BTreeMap;

use super::super::json::{Found, number_in_object};
use super::super::listing::Seen;
use super::{Marked, Scene, distcp};
use crate::units::MIB;

const METADATA: &str = "metadata.json";
const COMMON: &str = "common.pt";
const INTEGRITY: &str = "integrity.json";
const METADATA_BYTES_MAX: u64 = 64 * MIB as u64;
/// Files of the legacy layout, one of each for every rank.
const RANK_FILES: [&str; 3] = ["model_optim_rng.pt", "distrib_optim.pt", "model_rng.pt"];

/// Whether one rank wrote it in the legacy layout.
pub(in super::super) fn is_rank_file(file: &Seen) -> bool {
    file.text().contains("rank_") && RANK_FILES.contains(&file.name())
}

fn is_distributed(scene: &Scene) -> bool {
    scene.direct(COMMON).is_some() || scene.direct(METADATA).is_some() || scene.listing.files().any(distcp::is_part)
}

/// Whether the names are Megatron's.
pub(super) fn is_it(scene: &Scene) -> bool {
    let digits = scene.name.strip_prefix("iter_").map(|digits| digits.bytes().take_while(u8::is_ascii_digit).count());
    let is_iteration = digits.is_some_and(|digits| digits >= 7);
    scene.listing.files().any(is_rank_file)
        || (scene.direct(METADATA).is_some() && scene.listing.files().any(distcp::is_part))
        || (is_iteration && scene.listing.files().next().is_some())
}

/// `metadata.json` of the distributed form; the legacy one has no marker of its own.
pub(super) fn marked(scene: &Scene) -> Marked {
    if !is_distributed(scene) {
        let has_ranks = scene.listing.files().any(is_rank_file);
        return if has_ranks { Ok(None) } else { Err(format!("no mp_rank_*/{} is there", RANK_FILES[0])) };
    }
    let metadata = scene.direct(METADATA).ok_or_else(|| format!("{METADATA} is not there"))?;
    let bytes = scene.read(metadata, METADATA_BYTES_MAX)?;
    match number_in_object(&bytes, "") {
        Found::Torn => Err(format!("{METADATA} is torn")),
        _ => Ok(Some(metadata.mtime)),
    }
}

/// What `integrity.json` says of the files in the checkpoint itself.
#[derive(serde::Deserialize)]
struct Integrity {
    files: BTreeMap<String, serde::de::IgnoredAny>,
}

/// What lacks by `integrity.json`. Whether the files are what it says is found when they are read.
pub(super) fn lack(scene: &Scene) -> Option<String> {
    let list = scene.direct(INTEGRITY)?;
    let bytes = match scene.read(list, METADATA_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(why) => return Some(why),
    };
    if number_in_object(&bytes, "") == Found::Torn {
        return Some(format!("{INTEGRITY} is torn"));
    }
    let Integrity { files } = serde_json::from_slice(&bytes).ok()?;
    let missing = files.into_keys().find(|name| scene.direct(name).is_none())?;
    Some(format!("{missing} is missing: {INTEGRITY} lists it"))
}
