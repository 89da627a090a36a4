//! Which tensors and files are the state of an optimizer, and not a model: by their names alone.
//!
//! A model is needed first after a loss, and is the smaller part: an Adam optimizer keeps 8 to 12 bytes beside 2 of a
//! weight. Who restores in that order asks here. The answer is a guess that only changes an order: what is not known by
//! name is taken for weights.

use std::collections::HashSet;

/// What a tensor or file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The model, or whatever else is needed to run it.
    Weights,
    /// What only goes on training needs: moments, master weights, schedules, states of random generators.
    State,
}

/// Components of a tensor's name that no model has.
const STATE_PARTS: [&str; 22] = [
    "momentum",
    "momentum_buffer",
    "max_exp_avg_sq",
    "square_avg",
    "grad_avg",
    "acc_delta",
    "adam_m",
    "adam_v",
    "optimizer",
    "optimizers",
    "optim",
    "optim_state",
    "optimizer_state",
    "optimizer_states",
    "optimizer_state_dict",
    "base_optimizer_state",
    "opt_state",
    "fp32_flat_groups",
    "single_partition_of_fp32_groups",
    "lr_scheduler",
    "grad_scaler",
    "rng_state",
];
/// First and second moment under short names. Models have such names too; both of one name they do not have.
const PAIRS: [(&str, &str); 4] = [("m", "v"), ("v", "m"), ("mu", "nu"), ("nu", "mu")];
/// Words of a file's name that tell that it holds state; unless one of [`MODEL_WORDS`] does, too.
const STATE_WORDS: [&str; 8] =
    ["optim", "optimizer", "optimizers", "scheduler", "schedulers", "scaler", "rng", "random"];
const MODEL_WORDS: [&str; 4] = ["model", "models", "weights", "params"];
/// Words of which the name of a folder of state is made.
const FOLDER_WORDS: [&str; 6] = ["optim", "optimizer", "optimizers", "opt", "state", "states"];

/// The role of each of a file's tensors, by the names of all of them.
#[must_use]
pub fn roles(names: &[&str]) -> Vec<Role> {
    let all: HashSet<&str> = names.iter().copied().collect();
    let role = |name: &&str| if is_state(name, &all) { Role::State } else { Role::Weights };
    names.iter().map(role).collect()
}

fn is_state(name: &str, all: &HashSet<&str>) -> bool {
    let is_known = |part: &str| STATE_PARTS.contains(&part) || part.starts_with("exp_avg");
    name.split(['.', '/']).any(is_known) || partners(name).any(|partner| all.contains(partner.as_str()))
}

/// What the other moment would be called, if this name began or ended as that of one.
fn partners(name: &str) -> impl Iterator<Item = String> {
    PAIRS
        .into_iter()
        .flat_map(move |(own, other)| {
            let before = name.strip_prefix(own).filter(|rest| rest.starts_with(['.', '/']));
            let behind = name.strip_suffix(own).filter(|rest| rest.ends_with(['.', '/']));
            [before.map(|rest| format!("{other}{rest}")), behind.map(|rest| format!("{rest}{other}"))]
        })
        .flatten()
}

/// Whether a file is one of state, by its path below the directory that holds the checkpoint: the folders, then the name.
#[must_use]
pub fn is_state_file<'p>(path: impl Iterator<Item = &'p [u8]>) -> bool {
    let path: Vec<String> = path.map(|part| String::from_utf8_lossy(part).to_ascii_lowercase()).collect();
    let Some((name, folders)) = path.split_last() else { return false };
    let words = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect::<Vec<_>>();
    let holds = |list: &[&str]| words(name).iter().any(|word| list.contains(&word.as_str()));
    (holds(&STATE_WORDS) && !holds(&MODEL_WORDS)) || folders.iter().any(|folder| is_state_folder(&words(folder)))
}

/// `optimizer`, `optimizer_0`, `optim_states`: words of optimizers and numbers, and nothing else.
fn is_state_folder(words: &[String]) -> bool {
    let is_number = |word: &String| word.bytes().all(|byte| byte.is_ascii_digit());
    let known = |word: &String| FOLDER_WORDS.contains(&word.as_str());
    words.iter().any(|word| word.starts_with("opt") && known(word))
        && words.iter().all(|word| known(word) || is_number(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_by_name() {
        // Names that come together, and which of them are state.
        for (names, state) in [
            (&["model.layers.0.weight", "lm_head.weight"][..], &[][..]),
            (&["optimizer.state.7.exp_avg", "optimizer.state.7.exp_avg_sq", "model.w"], &[0, 1]),
            (&["exp_avg.layer.0", "state/exp_avg_sq/0", "momentum_buffer", "layer.momentum_buffer.0"], &[0, 1, 2, 3]),
            (&["adam_m.embed.weight", "adam_v.embed.weight", "weights.embed.weight"], &[0, 1]),
            (&["m.w", "v.w", "w", "m.alone"], &[0, 1]),
            (&["w.m", "w.v", "w"], &[0, 1]),
            (&["params/dense/kernel", "opt_state/0/mu/dense/kernel"], &[1]),
            (&["mu/w", "nu/w", "w"], &[0, 1]),
            // Of a picture tower, and of attention.
            (&["v.blk.0.attn_q.weight", "m", "v", "attn.v.weight", "attn.m.weight"], &[]),
            (&["mu.weight", "logvar.weight"], &[]),
            (&["momentum_encoder.weight", "adaptive.weight", "optimal.bias", "dm.w", "dv.w"], &[]),
            (&["fp32_flat_groups.0", "single_partition_of_fp32_groups.1", "base_optimizer_state.0.step"], &[0, 1, 2]),
            (&["", ".", "m."], &[]),
        ] {
            let found: Vec<usize> =
                (0..).zip(roles(names)).filter(|(_, role)| *role == Role::State).map(|(at, _)| at).collect();
            assert_eq!(found, state, "{names:?}");
        }
    }

    #[test]
    fn files_by_name() {
        for (path, state) in [
            ("model.safetensors", false),
            ("optimizer.pt", true),
            ("optimizer.bin", true),
            ("scheduler.pt", true),
            ("rng_state_0.pth", true),
            ("random_states_0.pkl", true),
            ("scaler.pt", true),
            ("mp_rank_00_model_states.pt", false),
            ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", true),
            ("iter_0000100/mp_rank_00/distrib_optim.pt", true),
            ("iter_0000100/mp_rank_00/model_optim_rng.pt", false),
            ("pytorch_model-00001-of-00002.bin", false),
            ("optimizer_0/__0_0.distcp", true),
            ("pytorch_model_fsdp_0/__0_0.distcp", false),
            ("optimizer/.metadata", true),
            ("model/.metadata", false),
            ("optim-study/model.safetensors", false),
            ("state/model.safetensors", false),
            ("optimum.txt", false),
            ("config.json", false),
            ("step-0001.safetensors", false),
        ] {
            assert_eq!(is_state_file(path.split('/').map(str::as_bytes)), state, "{path}");
        }
        assert!(!is_state_file(std::iter::empty()));
    }
}
