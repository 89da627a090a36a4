//! BF16 weights and their FP32 masters in other files of one checkpoint: the weights cost their names, whatever the files'
//! order, also where the masters lie one behind the other in a flat tensor; and so for the next checkpoint.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use seawall_engine::backup::BackupOptions;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::TreeKey;
use seawall_engine::forget::forget;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::keys;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::MIB;

use crate::place::{Place, noise, options, paths};
use crate::prune::{run as prune_with, thorough};
use crate::tensor_files::{Tensor, assert_kept, bf16, file, put, run, run_with, stepped, weights};

/// A parameter: name, rows, columns; a vector where there is one row. Its numbers depend on its name.
type Parameter = (&'static str, usize, usize);

/// A small model: matrices, long and short vectors. Norms are all ones, so their beginnings are alike.
const MODEL: [Parameter; 9] = [
    ("embed", 1000, 700),
    ("0.norm", 1, 700),
    ("0.up", 700, 600),
    ("0.bias", 1, 3),
    ("0.down", 600, 700),
    ("1.norm", 1, 700),
    ("1.up", 700, 600),
    ("1.scale", 1, 50_000),
    ("head", 401, 999),
];

/// The model's FP32 numbers after so many steps.
fn masters(step: u64) -> Vec<Vec<u8>> {
    let numbers = |(seed, (name, rows, columns)): (u64, Parameter)| {
        let first = match name.ends_with("norm") {
            true => 1_f32.to_le_bytes().repeat(rows * columns),
            false => weights(seed, rows * columns),
        };
        if step == 0 { first } else { stepped(&first, 100 * step + seed) }
    };
    (1..).zip(MODEL).map(numbers).collect()
}

fn shape((_, rows, columns): Parameter) -> Vec<u64> {
    if rows == 1 { vec![columns as u64] } else { vec![rows as u64, columns as u64] }
}

/// The weights as BF16.
fn model(masters: &[Vec<u8>]) -> Vec<u8> {
    let casts: Vec<Vec<u8>> = masters.iter().map(|master| bf16(master)).collect();
    let tensors: Vec<Tensor<'_>> =
        MODEL.iter().zip(&casts).map(|(parameter, cast)| (parameter.0, "BF16", shape(*parameter), &cast[..])).collect();
    file(&tensors, "model")
}

/// Masters and moments, by parameter.
fn optimizer(masters: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let moments: Vec<Vec<u8>> = (seed..).zip(masters).map(|(seed, master)| weights(seed, master.len() / 4)).collect();
    let named = |prefix: &str| MODEL.map(|(name, ..)| format!("{prefix}.{name}"));
    let names = [named("exp_avg"), named("master")].concat();
    let numbers = names.iter().zip(MODEL.iter().cycle()).zip(moments.iter().chain(masters));
    let tensors: Vec<Tensor<'_>> =
        numbers.map(|((name, parameter), bytes)| (&name[..], "F32", shape(*parameter), &bytes[..])).collect();
    file(&tensors, "optimizer")
}

/// Masters and moments of a rank of several, as DeepSpeed has them: two groups, each one behind the other in another order
/// than the model's, padded at the end.
fn flat(masters: &[Vec<u8>], seed: u64, rank: usize, ranks: usize) -> Vec<u8> {
    let groups = [&[0_usize, 2, 4, 6, 8][..], &[7, 5, 3, 1]].map(|group| {
        let mut all: Vec<u8> = group.iter().flat_map(|&at| masters[at].clone()).collect();
        all.resize(all.len().next_multiple_of(4 * 64 * ranks), 0);
        let length = all.len() / ranks;
        all[rank * length..(rank + 1) * length].to_vec()
    });
    let moments = [0, 1].map(|group| weights(seed + 10 * rank as u64 + group as u64, groups[group].len() / 4));
    let elements = |bytes: &[u8]| vec![bytes.len() as u64 / 4];
    file(
        &[
            ("state.0.exp_avg", "F32", elements(&moments[0]), &moments[0]),
            ("state.1.exp_avg", "F32", elements(&moments[1]), &moments[1]),
            ("single_partition_of_fp32_groups.0", "F32", elements(&groups[0]), &groups[0]),
            ("single_partition_of_fp32_groups.1", "F32", elements(&groups[1]), &groups[1]),
        ],
        "flat",
    )
}

/// The files of an optimizer: names and bytes, of the masters and a seed for the moments.
type OptimizerFiles = fn(&[Vec<u8>], u64) -> Vec<(String, Vec<u8>)>;

/// A way to lay out a checkpoint: folder by step, name of the model's file, files of the optimizer.
struct Form {
    name: &'static str,
    folder: fn(u64) -> String,
    model: &'static str,
    optimizer: OptimizerFiles,
}

const FORMS: [Form; 4] = [
    Form {
        name: "by parameter",
        folder: |step| format!("checkpoint-{step}"),
        model: "model.safetensors",
        optimizer: |masters, seed| vec![("optimizer.safetensors".into(), optimizer(masters, seed))],
    },
    Form {
        name: "by parameter, in a folder beside",
        folder: |step| format!("checkpoint-{step}"),
        model: "model/weights.safetensors",
        optimizer: |masters, seed| vec![("optimizer/state.safetensors".into(), optimizer(masters, seed))],
    },
    Form {
        name: "flat",
        folder: |step| format!("global_step{step}"),
        model: "mp_rank_00_model_states.pt",
        optimizer: |masters, seed| {
            vec![("zero_pp_rank_0_mp_rank_00_optim_states.pt".into(), flat(masters, seed, 0, 1))]
        },
    },
    Form {
        name: "flat, of three ranks",
        folder: |step| format!("checkpoint-{step}/global_step{step}"),
        model: "mp_rank_00_model_states.pt",
        optimizer: |masters, seed| {
            // Ranks whose names are not in the order of their numbers.
            let name = |rank: usize| format!("zero_pp_rank_{}_mp_rank_00_optim_states.pt", rank + 8);
            (0..3).map(|rank| (name(rank), flat(masters, seed, rank, 3))).collect()
        },
    },
];

impl Form {
    /// Writes a checkpoint below `root`, with or without its model; gives the lengths of model and optimizer.
    fn write(&self, root: &Path, step: u64, has_model: bool) -> (f64, f64) {
        let masters = masters(step);
        let folder = root.join((self.folder)(step + 100));
        let (model, optimizer) = (model(&masters), (self.optimizer)(&masters, 1000 + step));
        if has_model {
            put(&folder.join(self.model), &model);
        }
        optimizer.iter().for_each(|(name, bytes)| put(&folder.join(name), bytes));
        (model.len() as f64, optimizer.iter().map(|(_, bytes)| bytes.len() as f64).sum())
    }
}

/// What a checkpoint takes with its model beyond what it takes without, as a share of the model: the first; the next in a
/// backup of its own, and in the same.
#[test]
fn weights_beside_their_masters_in_other_files_cost_their_names() {
    for form in &FORMS {
        let takes = [false, true].map(|has_model| {
            let (place, repository) = Place::new();
            let lengths = form.write(&place.source(), 0, has_model);
            let first = run(&repository, &place.source());
            form.write(&place.source(), 1, has_model);
            let repository = place.open(true);
            let second = run(&repository, &place.source());
            let (other, repository) = Place::new();
            form.write(&other.source(), 0, has_model);
            form.write(&other.source(), 1, has_model);
            let both = run_with(&repository, BackupOptions { threads: 1, ..options(paths(&other.source())) });
            if has_model {
                assert_kept(&place.open(false), &second, &place.source());
                assert_kept(&repository, &both, &other.source());
            }
            (lengths.0, [first, second, both].map(|report| report.bytes_stored as f64))
        });
        let [(_, without), (length, with)] = takes;
        let [first, second, both] = [0, 1, 2].map(|at| (with[at] - without[at]) / length);
        println!("{}: {first:.4} {second:.4} {both:.4}", form.name);
        // Of several ranks, the pieces that lie in two of their files are no casts.
        let limit = if form.name.contains("ranks") { 0.25 } else { 0.03 };
        assert!(first < limit, "{}: {first} of the model", form.name);
        assert!(second < 0.10 && both < 0.10 + limit, "{}: {second} and {both} of the model", form.name);
    }
}

/// Names that differ in digits only are read in order, also where that is not the order of the walk.
#[test]
fn masters_and_casts_of_like_names_do_not_wait_for_each_other() {
    let masters = masters(0);
    for threads in [1, 3] {
        let (place, repository) = Place::new();
        let files = [("1.pt", model(&masters)), ("2.pt", optimizer(&masters, 9)), ("other.bin", noise(3, 5 * MIB))];
        for (name, bytes) in &files {
            put(&place.source().join(name), bytes);
        }
        let report = run_with(&repository, BackupOptions { threads, ..options(paths(&place.source())) });
        let alone = 0.87 * files[1].1.len() as f64 + (5 * MIB) as f64;
        assert!((report.bytes_stored as f64) < alone, "{} of {alone}", report.bytes_stored);
        assert_kept(&repository, &report, &place.source());
    }
}

/// Who may not read data stores the next checkpoint's weights against the old masters all the same: these lie on the disk, and
/// are cut as the new ones are.
#[test]
fn a_member_stores_the_next_weights_against_the_old_masters() {
    for form in [&FORMS[0], &FORMS[2]] {
        let takes = [Role::Owner, Role::Member].map(|role| {
            let directory = tempfile::tempdir().unwrap();
            let (owner, member) = (Unlock::KeyFile(Secret32::random()), Unlock::KeyFile(Secret32::random()));
            let store = Arc::new(MemoryStore::new());
            let repository = Repository::init(store.clone(), &[(owner.clone(), "owner".into())], None).unwrap();
            keys::add(&repository, Role::Member, &member.lock().unwrap(), "host").unwrap();
            let unlock = if role == Role::Owner { &owner } else { &member };
            let open = |unlock| Repository::open(store.clone(), unlock, Some(directory.path().join("cache"))).unwrap();
            let source = directory.path().join("source");
            [0, 1].map(|step| {
                form.write(&source, step, true);
                let report = run(&open(unlock), &source);
                assert_kept(&open(&owner), &report, &source);
                report.bytes_stored as f64
            })
        });
        let [owner, member] = takes;
        assert!(member[0] < 1.01 * owner[0] && member[1] < 1.01 * owner[1], "{}: {takes:?}", form.name);
    }
}

/// The weights come first, or alone, though their masters lie in the optimizer's file.
#[test]
fn weights_are_restored_first_and_alone() {
    let (place, repository) = Place::new();
    FORMS[2].write(&place.source(), 0, true);
    let root = run(&repository, &place.source()).snapshot.unwrap().root;
    let folder = place.source().join((FORMS[2].folder)(100));
    for (number, (weights_first, include)) in
        [(true, vec![]), (false, vec!["*_model_states.pt".to_owned()])].into_iter().enumerate()
    {
        let target = place.directory.path().join(format!("target-{number}"));
        let is_all = include.is_empty();
        let from = TreeKey::from_path(&folder).unwrap();
        let options =
            RestoreOptions { from, target: target.clone(), include, weights_first, ..RestoreOptions::default() };
        let report = restore(&place.open(false), &root, &options, &Silent).unwrap();
        assert_eq!(report.problems, 0);
        let model = FORMS[2].model;
        assert_eq!(fs::read(target.join(model)).unwrap(), fs::read(folder.join(model)).unwrap());
        assert_eq!(fs::read_dir(&target).unwrap().count(), if is_all { 2 } else { 1 });
    }
}

/// Bytes of all packs.
fn packs(place: &Place) -> f64 {
    let mut stack = vec![place.directory.path().join("repository/pack")];
    let mut bytes = 0;
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { stack.push(entry.path()) } else { bytes += metadata.len() }
        }
    }
    bytes as f64
}

/// Masters that nothing but casts or later checkpoints needs go with a prune.
#[test]
fn masters_that_only_casts_need_are_not_kept_for_them() {
    let form = &FORMS[0];
    for keeps_only_weights in [true, false] {
        let (place, repository) = Place::new();
        let (model, optimizer) = form.write(&place.source(), 0, true);
        let folder = place.source().join((form.folder)(100));
        let first = run(&repository, &place.source());
        if keeps_only_weights {
            fs::remove_file(folder.join("optimizer.safetensors")).unwrap();
        } else {
            form.write(&place.source(), 1, true);
            run(&place.open(true), &place.source());
            fs::remove_dir_all(&folder).unwrap();
        }
        let later = run(&place.open(true), &place.source());
        let owner = place.open(false);
        let others = owner.snapshots().into_iter().map(|snapshot| snapshot.record.id);
        let last = later.snapshot.as_ref().unwrap().id;
        let forgotten: Vec<_> = others.filter(|id| *id != last).collect();
        assert!(forgotten.contains(&first.snapshot.unwrap().id));
        forget(&owner, &forgotten, "test").unwrap();
        for _ in 0..2 {
            prune_with(&place.open(false), &thorough()).unwrap();
        }
        let share = packs(&place) / if keeps_only_weights { model } else { optimizer };
        assert!(share < if keeps_only_weights { 0.75 } else { 1.0 }, "{keeps_only_weights}: {share}");
        assert_kept(&place.open(false), &later, &place.source());
    }
}
