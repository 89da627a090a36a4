//! What the names of files and directories say: the step, that something is still being written, and which ranks wrote.
//!
//! Pure. Frameworks agree on no names, so these are the habits of those that are met: a word such as `step`, `iter` or
//! `checkpoint` before a number, `mp_rank_00` and the like for ranks, `.tmp` for what is not finished.
//!
//! Invariant: a name that says nothing gives nothing; no number is guessed from a name such as `model-00001-of-00004`.

use std::collections::{BTreeMap, BTreeSet};

/// What a name says of the checkpoint that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub step: u64,
    /// A word says that the number is a step; a name of digits alone may be anything.
    pub sure: bool,
    /// The name is one that is given until the last byte is written.
    pub temporary: bool,
}

/// Words before the number of a step, the most telling first.
const WORDS: [&str; 8] = ["step", "iteration", "iter", "updates", "update", "checkpoint", "ckpt", "epoch"];
/// Those of them that do not say what their numbers are: `checkpoint_EPOCH_UPDATE`.
const COUNTING_WORDS: [&str; 2] = ["checkpoint", "ckpt"];
/// Endings of files that hold weights or states, and tell themselves whether they are whole; of `.distcp`, `.metadata` tells.
const ENDINGS: [&str; 6] = [".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz"];
/// What Orbax puts behind the name of a directory until it is finished, with or without a number.
pub(super) const ORBAX_TEMPORARY: &str = ".orbax-checkpoint-tmp";
const TEMPORARY_ENDINGS: [&str; 7] = [".temp", ".part", ".partial", ".incomplete", ".writing", "_tmp", "-tmp"];
const TEMPORARY_BEGINNINGS: [&str; 5] = ["tmp-", "tmp_", ".tmp-", ".tmp_", ".tmp."];
/// Longer numbers are no steps: 10^18 fits 64 bits.
const DIGITS_MAX: usize = 18;

/// Of those what has its end in its front, by a header: it is as long as it should be before it is all written, where the
/// length is set first.
const HEADED: [&str; 1] = [".safetensors"];
/// How many letters and digits `tempfile` puts behind `.tmp`, for safetensors among others.
const TEMPORARY_LETTERS: usize = 6;

/// What the name of a directory says.
pub(super) fn directory(name: &str) -> Option<Named> {
    let (stem, temporary) = without_temporary(name);
    named(stem, temporary)
}

/// What the name of a single file says, if it is of a kind that holds weights.
pub(super) fn file(name: &str) -> Option<Named> {
    let (stem, temporary) = without_temporary(name);
    let ending = ENDINGS.iter().find(|ending| stem.ends_with(**ending))?;
    named(&stem[..stem.len() - ending.len()], temporary).filter(|named| named.sure)
}

/// Whether a file of this name holds weights or states.
pub(super) fn holds_numbers(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file of this name may have its full length before its numbers.
pub(super) fn is_headed(name: &str) -> bool {
    HEADED.iter().any(|ending| name.ends_with(ending))
}

/// Whether a name below a checkpoint is one of something unfinished.
pub(super) fn is_temporary(path: &str) -> bool {
    path.split('/').any(|name| without_temporary(name).1)
}

/// The name without what marks it as unfinished, and whether it was.
fn without_temporary(name: &str) -> (&str, bool) {
    let ends = |at: &usize| *at > 0 && !name[at + 4..].starts_with(|c: char| c.is_ascii_alphabetic());
    if let Some(at) = name.find(ORBAX_TEMPORARY).or_else(|| name.find(".tmp").filter(ends)) {
        return (&name[..at], true);
    }
    let is_random =
        |rest: &&str| rest.len() == TEMPORARY_LETTERS && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if name.strip_prefix(".tmp").filter(is_random).is_some() {
        return ("", true);
    }
    let ending = TEMPORARY_ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
    let beginning = TEMPORARY_BEGINNINGS.iter().find_map(|beginning| name.strip_prefix(beginning));
    ending.or(beginning).map_or((name, false), |stem| (stem, true))
}

fn named(stem: &str, temporary: bool) -> Option<Named> {
    if let Some(step) = number(stem) {
        return Some(Named { step, sure: false, temporary });
    }
    let lower = stem.to_ascii_lowercase();
    let step = WORDS.iter().find_map(|word| step_behind(&lower, word))?;
    Some(Named { step, sure: true, temporary })
}

/// The number behind the last place of `word` that has one: `step-100`, `global_step100`, `epoch=1-step=200`. Of several
/// numbers at the end, as in `checkpoint_3_1500`, the last; where a word follows, as in `checkpoint_1_500-shard0`, only behind
/// a word that says of none of them what it is.
fn step_behind(name: &str, word: &str) -> Option<u64> {
    name.rmatch_indices(word).find_map(|(at, _)| {
        if name[..at].ends_with(|before: char| before.is_ascii_alphabetic()) {
            return None;
        }
        let rest = name[at + word.len()..].trim_start_matches(['-', '_', '=', '.', ':', ' ']);
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (first, behind) = rest.split_at(digits);
        let ends = !behind.starts_with(|c: char| c.is_ascii_alphanumeric());
        let is_part = behind.get(1..).is_some_and(|behind| behind.starts_with("of"));
        let all_numbers = behind.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '_'));
        match all_numbers {
            _ if !ends || is_part => None,
            true => number(behind.rsplit(['-', '_']).next().unwrap_or(first)).or_else(|| number(first)),
            false if COUNTING_WORDS.contains(&word) => number(last_before_word(&rest[..digits], behind)),
            false => number(first),
        }
    })
}

/// The last of numbers joined by `_`, of which `behind` holds all but the first, where `-` or `.` and no number follow them; else
/// the first.
fn last_before_word<'n>(first: &'n str, behind: &'n str) -> &'n str {
    let run = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len();
    let (run, after) = behind.split_at(run);
    let is_word = after.strip_prefix(['-', '.']).is_some_and(|word| word.starts_with(|c: char| !c.is_ascii_digit()));
    let are_numbers = run.strip_prefix('_').is_some_and(|run| run.split('_').all(|digits| number(digits).is_some()));
    match is_word && are_numbers {
        true => run.rsplit('_').next().unwrap_or(first),
        false => first,
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.len() <= DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// Words before the number of a rank. Further numbers may follow, each behind `_`.
const RANK_WORDS: [&str; 3] = ["rank_", "rng_state_", "random_states_"];
const WORLD_WORD: &str = "world_size_";
/// Ways to share work, before `rank_`: `zero_pp_rank_0_mp_rank_00`. What else has a rank, as a LoRA file, is no grid.
const SHARED_WAYS: [&str; 13] =
    ["mp", "pp", "tp", "dp", "ep", "cp", "sp", "expp", "edp", "etp", "expert", "parallel", "global"];
/// What a rank writes, where the name begins with nothing but that: `optim_rank_0.pt`.
const SHARED_STATES: [&str; 11] = [
    "model",
    "optim",
    "optimizer",
    "scheduler",
    "extra_state",
    "state",
    "states",
    "shard",
    "checkpoint",
    "ckpt",
    "local",
];

/// The numbers of ranks in a name, and the pieces of text around them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranked<'n> {
    pieces: Vec<&'n str>,
    digits: Vec<&'n str>,
}

impl<'n> Ranked<'n> {
    fn of(name: &'n str) -> Option<Self> {
        let (mut pieces, mut digits, mut begin) = (Vec::new(), Vec::new(), 0);
        while let Some(mut at) = next_rank(name, begin) {
            loop {
                let rest = &name[at..];
                let length = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                pieces.push(&name[begin..at]);
                digits.push(&rest[..length]);
                begin = at + length;
                let more =
                    name[begin..].strip_prefix('_').is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit()));
                if !more {
                    break;
                }
                at = begin + 1;
            }
        }
        pieces.push(&name[begin..]);
        (!digits.is_empty()).then_some(Self { pieces, digits })
    }

    fn numbers(&self) -> Option<Vec<u64>> {
        self.digits.iter().map(|digits| number(digits)).collect()
    }

    /// The name with other numbers, written as wide as here.
    fn with(&self, numbers: &[u64]) -> String {
        let mut name = String::new();
        for ((piece, digits), number) in self.pieces.iter().zip(&self.digits).zip(numbers) {
            let width = if digits.starts_with('0') { digits.len() } else { 0 };
            name.push_str(&format!("{piece}{number:0width$}"));
        }
        name + self.pieces.last().copied().unwrap_or_default()
    }
}

/// Where the next number of a rank begins.
fn next_rank(name: &str, from: usize) -> Option<usize> {
    let places = RANK_WORDS.iter().flat_map(|word| name[from..].match_indices(word));
    let is_rank = |at: usize, word: &str| word != RANK_WORDS[0] || counts_ranks(&name[..at]);
    let ends = places.map(|(at, word)| (from + at, word)).filter(|&(at, word)| is_rank(at, word));
    ends.map(|(at, word)| at + word.len()).filter(|&end| name[end..].starts_with(|c: char| c.is_ascii_digit())).min()
}

/// Whether a number behind `rank_` is that of a rank, by what is before it.
fn counts_ranks(before: &str) -> bool {
    let before = before.rsplit('/').next().unwrap_or(before);
    let stem = before.trim_end_matches(['_', '-', '.']);
    let last = stem.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or(stem);
    let of_world = stem.rsplit_once(WORLD_WORD).is_some_and(|(_, size)| number(size).is_some());
    stem.is_empty() || of_world || SHARED_WAYS.contains(&last) || SHARED_STATES.contains(&stem)
}

/// What the names of a checkpoint's files say of the ranks that wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ranks {
    /// How many there are, if names tell.
    pub count: Option<u64>,
    /// What is missing among them, in words.
    pub lack: Option<String>,
}

/// Looks through paths relative to the checkpoint. Files of one pattern must make a whole grid from 0 on; patterns that
/// count the same ranks must agree, and so must a `world_size_N` in a name.
pub(super) fn ranks<'n>(names: impl Iterator<Item = &'n str>) -> Ranks {
    let mut groups: BTreeMap<Vec<&str>, (Ranked, BTreeSet<Vec<u64>>)> = BTreeMap::new();
    for ranked in names.filter_map(Ranked::of) {
        let Some(numbers) = ranked.numbers() else { continue };
        let group = groups.entry(ranked.pieces.clone()).or_insert_with(|| (ranked, BTreeSet::new()));
        group.1.insert(numbers);
    }
    let mut found = Ranks::default();
    let mut lengths: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for (example, numbers) in groups.values() {
        let world = world_size(example);
        let mut dimensions = dimensions(numbers);
        if let (Some(world), [dimension]) = (world, &mut dimensions[..]) {
            *dimension = world.max(*dimension);
        }
        let missing =
            first_missing(numbers, &dimensions).map(|missing| format!("{} is missing", example.with(&missing)));
        let differing = differing(example, &dimensions, &mut lengths);
        found.lack = found.lack.or(missing).or(differing);
        let product = dimensions.iter().try_fold(1_u64, |product, &dimension| product.checked_mul(dimension));
        found.count = found.count.max(world.or(product));
    }
    found
}

/// The N of `world_size_N`.
fn world_size(ranked: &Ranked) -> Option<u64> {
    let piece = ranked.pieces.iter().find_map(|piece| piece.split_once(WORLD_WORD))?.1;
    number(&piece[..piece.len() - piece.trim_start_matches(|c: char| c.is_ascii_digit()).len()])
}

/// How many ranks there are in each place, if they are numbered from 0.
fn dimensions(numbers: &BTreeSet<Vec<u64>>) -> Vec<u64> {
    let places = numbers.first().map_or(0, Vec::len);
    let highest = |place: usize| numbers.iter().map(|numbers| numbers[place]).max().unwrap_or(0);
    (0..places).map(|place| highest(place).saturating_add(1)).collect()
}

/// The first combination that is not there. Ends after as many steps as there are files, as one of those is missing then.
fn first_missing(numbers: &BTreeSet<Vec<u64>>, dimensions: &[u64]) -> Option<Vec<u64>> {
    let mut wanted = vec![0; dimensions.len()];
    for present in numbers {
        if *present != wanted {
            return Some(wanted);
        }
        let mut place = dimensions.len();
        while place > 0 {
            place -= 1;
            wanted[place] += 1;
            if wanted[place] < dimensions[place] {
                break;
            }
            if place == 0 {
                return None;
            }
            wanted[place] = 0;
        }
    }
    Some(wanted)
}

/// Tells where another pattern counts more or fewer of the same ranks, as 2 `mp_rank` here and 1 there.
fn differing(example: &Ranked, dimensions: &[u64], lengths: &mut BTreeMap<String, (u64, String)>) -> Option<String> {
    let shown = example.digits.first().map(|_| example.with(&vec![0; dimensions.len()]))?;
    let mut label = "";
    for (place, (piece, &length)) in example.pieces.iter().zip(dimensions).enumerate() {
        let own = piece.rsplit('/').next().unwrap_or(piece).trim_matches('_');
        label = if own.is_empty() { label } else { own };
        let key = if own.is_empty() { format!("{label} {place}") } else { label.to_owned() };
        let (before, other) = lengths.entry(key).or_insert_with(|| (length, shown.clone()));
        if *before != length {
            return Some(format!("{before} ranks as in {other}, but {length} as in {shown}"));
        }
    }
    None
}

/// The rank in the name of a part of torch's distributed checkpoints, `__RANK_NUMBER.distcp`.
pub(super) fn distcp_rank(name: &str) -> Option<u64> {
    let (rank, _) = name.strip_suffix(".distcp")?.strip_prefix("__")?.split_once('_')?;
    number(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_names_of_directories() {
        for (name, expected) in [
            ("checkpoint-500", Some((500, true, false))),
            ("step-000100", Some((100, true, false))),
            ("step_7", Some((7, true, false))),
            ("global_step1000", Some((1000, true, false))),
            ("iter_0000250", Some((250, true, false))),
            ("epoch=3-step=1200", Some((1200, true, false))),
            ("checkpoint_3_1500", Some((1500, true, false))),
            ("checkpoint_3_1500-best", Some((1500, true, false))),
            ("checkpoint-epoch_4", Some((4, true, false))),
            ("run-step2", Some((2, true, false))),
            ("100", Some((100, false, false))),
            ("100.orbax-checkpoint-tmp-1723", Some((100, false, true))),
            ("7.orbax-checkpoint-tmp", Some((7, false, true))),
            ("tmp-checkpoint-500", Some((500, true, true))),
            ("checkpoint-500.tmp-17", Some((500, true, true))),
            (".tmp_step-3", Some((3, true, true))),
            ("step-9.incomplete", Some((9, true, true))),
            ("step-3.tmpl", Some((3, true, false))),
            ("step100k", None),
            ("timestep_5", None),
            ("step-1-of-4", None),
            ("step-99999999999999999999", None),
            ("checkpoints", None),
            ("model", None),
            ("", None),
        ] {
            let found = directory(name).map(|named| (named.step, named.sure, named.temporary));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn names_of_what_is_unfinished() {
        for (name, expected) in [
            ("model.safetensors", false),
            (".tmpAb3dE9", true),
            ("shards/.tmp0x1y2Z", true),
            (".tmpAb3dE", false),
            (".tmpAb3dE97", false),
            (".tmp-17", true),
            ("tmpAb3dE9", false),
            (".tmpAb3d_9", false),
            ("model.safetensors.tmpAb3dE9", false),
            ("model.safetensors.tmp", true),
        ] {
            assert_eq!(is_temporary(name), expected, "{name}");
        }
    }

    #[test]
    fn steps_in_names_of_files() {
        for (name, expected) in [
            ("step-000100.safetensors", Some((100, false))),
            ("checkpoint_100.pt", Some((100, false))),
            ("epoch=1-step=200.ckpt", Some((200, false))),
            ("model_step5-loss0.31.pth", Some((5, false))),
            ("checkpoint_1_500.pt", Some((500, false))),
            ("checkpoint_1_500-shard0.pt", Some((500, false))),
            ("ckpt_1_2_500.best.pt", Some((500, false))),
            ("checkpoint_7-shard0.pt", Some((7, false))),
            ("checkpoint_1_500_best.pt", Some((1, false))),
            ("checkpoint_7_0.31.pt", Some((7, false))),
            ("checkpoint_7__-best.pt", Some((7, false))),
            ("step_5_500-shard0.pt", Some((5, false))),
            ("step-8.safetensors.tmp", Some((8, true))),
            ("model-00001-of-00003.safetensors", None),
            ("rng_state_0.pth", None),
            ("mp_rank_00_model_states.pt", None),
            ("step-100.json", None),
            ("100.pt", None),
            ("last.ckpt", None),
        ] {
            assert_eq!(file(name).map(|named| (named.step, named.temporary)), expected, "{name}");
        }
    }

    #[test]
    fn ranks_are_counted_and_gaps_named() {
        for (names, count, lack) in [
            (&["rng_state_0.pth", "rng_state_1.pth"][..], Some(2), None),
            (&["rng_state_1.pth"], Some(2), Some("rng_state_0.pth is missing")),
            (&["rng_state.pth", "model.safetensors"], None, None),
            (&["zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"], Some(1), None),
            (
                &["zero_pp_rank_0_mp_rank_00_o.pt", "zero_pp_rank_1_mp_rank_01_o.pt", "zero_pp_rank_1_mp_rank_00_o.pt"],
                Some(4),
                Some("zero_pp_rank_0_mp_rank_01_o.pt is missing"),
            ),
            (
                &["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_o.pt", "zero_pp_rank_0_mp_rank_01_o.pt"],
                Some(2),
                Some("1 ranks as in mp_rank_00_model_states.pt, but 2 as in zero_pp_rank_0_mp_rank_00_o.pt"),
            ),
            (
                &["mp_rank_00_000/m.pt", "mp_rank_01_000/m.pt", "mp_rank_00_001/m.pt"],
                Some(4),
                Some("mp_rank_01_001/m.pt is missing"),
            ),
            (&["tp_rank_00_pp_rank_000/m.pt", "tp_rank_01_pp_rank_000/m.pt"], Some(2), None),
            (&["model_world_size_2_rank_0.pt"], Some(2), Some("model_world_size_2_rank_1.pt is missing")),
            (&["actor/model_world_size_2_rank_0.pt", "actor/model_world_size_2_rank_1.pt"], Some(2), None),
            (&["rank_999999999999999999.pt"], Some(1_000_000_000_000_000_000), Some("rank_0.pt is missing")),
            (&["optim_rank_1.pt"], Some(2), Some("optim_rank_0.pt is missing")),
            (&["lora_rank_16.safetensors", "adapter/low_rank_8.pt", "rank_0.pt"], Some(1), None),
        ] {
            let found = ranks(names.iter().copied());
            assert_eq!((found.count, found.lack.as_deref()), (count, lack), "{names:?}");
        }
        assert_eq!(
            (distcp_rank("__3_0.distcp"), distcp_rank("__x_0.distcp"), distcp_rank("3.distcp")),
            (Some(3), None, None)
        );
    }
}
