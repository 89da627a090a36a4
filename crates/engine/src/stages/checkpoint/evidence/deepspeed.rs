//! DeepSpeed: `mp_rank_*_model_states.pt` and `[bf16_]zero_pp_rank_*_mp_rank_*_optim_states.pt` in a directory that `latest`
//! names. Its marker is that tracker, in the run's directory, or in the checkpoint where a Trainer wrote it.

use std::path::Path;

use super::super::listing::{Listing, Seen};
use super::super::tracker::{self, Says, Tracker};
use super::super::{Layout, names};
use super::Scene;

const MODEL_STATES: &str = "_model_states.pt";
/// How the names of optimizer states end.
pub(in super::super) const OPTIM_STATES: &str = "_optim_states.pt";

/// Whether a file belongs to one.
pub(in super::super) fn is_part(file: &Seen) -> bool {
    file.name().ends_with(MODEL_STATES) || file.name().ends_with(OPTIM_STATES)
}

/// Whether these are a whole grid of states, as far as names tell.
pub(in super::super) fn is_whole(listing: &Listing) -> bool {
    let has_model = listing.files().any(|file| file.name().ends_with(MODEL_STATES));
    has_model && names::ranks(listing.files().map(Seen::text)).lack.is_none()
}

/// What lacks in any directory with states.
pub(super) fn lack(scene: &Scene, layout: Layout) -> Option<String> {
    let mut parts = scene.listing.files().filter(|file| is_part(file)).peekable();
    let nested = parts.peek().and_then(|part| part.path.parent()).filter(|parent| *parent != Path::new(""));
    if parts.peek().is_none() {
        return (layout == Layout::DeepSpeed).then(|| format!("no *{MODEL_STATES} is there"));
    }
    if !parts.any(|part| part.name().ends_with(MODEL_STATES)) {
        return Some(format!("no *{MODEL_STATES} is there"));
    }
    let own = nested?.components().next()?.as_os_str().to_str()?;
    // A Trainer's checkpoint: the tracker is in it, and names the one directory with states.
    match Tracker::read(scene.path, tracker::DEEPSPEED).says {
        Says::Name(tag) if tag == own => None,
        Says::Name(tag) => Some(format!("{} names {tag}, but {own} is there", tracker::DEEPSPEED)),
        _ if names::directory(own).is_none() => None,
        Says::Missing => Some(format!("{} is not there", tracker::DEEPSPEED)),
        _ => Some(format!("{} is empty or can't be read", tracker::DEEPSPEED)),
    }
}
