//! Files of tensors through whole backups: cut along tensors, encoded against earlier versions under other names, casts
//! stored as names of their masters, lying headers, wrong checksums; every snapshot gives every byte back.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use seawall_engine::backup::{BackupOptions, BackupReport, backup};
use seawall_engine::codec::{Cast, Effort};
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::TreeKey;
use seawall_engine::forget::forget;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::keys;
use seawall_engine::monitor::{Monitor, Problem, Silent};
use seawall_engine::prune::PruneOptions;
use seawall_engine::repo::Repository;
use seawall_engine::statistics::table::TensorTable;
use seawall_engine::store::local::LocalStore;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::{KIB, MIB};

use crate::place::{Place, assert_whole, noise, options, paths, stored_files};
use crate::prune::{run as prune_with, thorough};

/// A tensor: name, kind as safetensors writes it, dimensions, bytes.
pub type Tensor<'a> = (&'a str, &'a str, Vec<u64>, &'a [u8]);

/// A safetensors file.
pub fn file(tensors: &[Tensor<'_>], note: &str) -> Vec<u8> {
    let mut end = 0;
    let fields = tensors.iter().map(|(name, kind, shape, bytes)| {
        let start = end;
        end += bytes.len();
        format!(r#""{name}":{{"dtype":"{kind}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
    });
    let header = format!(r#"{{"__metadata__":{{"note":"{note}"}},{}}}"#, fields.collect::<Vec<_>>().join(","));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    tensors.iter().for_each(|(_, _, _, bytes)| out.extend_from_slice(bytes));
    out
}

/// FP32 numbers as weights are: nearly normal, with every bit of the mantissa in use.
pub fn weights(seed: u64, count: usize) -> Vec<u8> {
    let random = noise(seed, count * 12);
    let number = |bytes: &[u8; 12]| {
        let (sum, rest) = bytes.split_at(8);
        let low = rest.iter().fold(0.0, |low, &byte| (low + f32::from(byte)) / 256.0);
        (sum.iter().map(|&byte| f32::from(byte) - 127.5).sum::<f32>() * 1e-4 + low * 1e-4).to_le_bytes()
    };
    random.as_chunks().0.iter().flat_map(number).collect()
}

/// The same numbers, each a little further.
pub fn stepped(old: &[u8], seed: u64) -> Vec<u8> {
    let random = noise(seed, old.len() / 4);
    let steps = old.as_chunks().0.iter().zip(random);
    steps.flat_map(|(old, step)| (f32::from_le_bytes(*old) * (1.0 + f32::from(step) * 1e-8)).to_le_bytes()).collect()
}

/// The rows of a matrix, made to differ in size.
pub fn scaled(numbers: Vec<u8>) -> Vec<u8> {
    let row = |at: usize| f32::exp2((at / ROW * 37 % 64) as f32 / 8.0);
    let numbers = numbers.as_chunks().0.iter().enumerate();
    numbers.flat_map(|(at, number)| (f32::from_le_bytes(*number) * row(at)).to_le_bytes()).collect()
}

pub fn bf16(fp32: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(Cast::Bf16.apply(fp32, &mut out));
    out
}

const ROW: usize = 1000;

pub fn model(weights: &[u8], bias: &[u8], note: &str) -> Vec<u8> {
    let rows = (weights.len() / 4 / ROW) as u64;
    let bias_shape = vec![(bias.len() / 4) as u64];
    file(&[("w", "F32", vec![rows, ROW as u64], weights), ("b", "F32", bias_shape, bias)], note)
}

pub fn run(repository: &Repository, source: &Path) -> BackupReport {
    run_with(repository, options(paths(source)))
}

pub fn run_with(repository: &Repository, options: BackupOptions) -> BackupReport {
    let report = backup(repository, options, &Silent).unwrap();
    assert_eq!(report.problems, 0);
    report
}

/// The snapshot holds the source's files, byte for byte, and the repository is whole.
pub fn assert_kept(repository: &Repository, report: &BackupReport, source: &Path) {
    let stored = stored_files(repository, report);
    assert!(!stored.is_empty());
    for (path, bytes) in stored {
        assert!(path.starts_with(source) && fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    assert_whole(repository);
}

/// Writes a file, in folders that are made.
pub fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_next_checkpoint_of_a_run_is_stored_against_the_last_under_whatever_name() {
    let first = (weights(1, 1_500_000), weights(2, 384));
    let second = (stepped(&first.0, 3), stepped(&first.1, 4));
    for (old, new) in [
        ("step-000100.safetensors", "step-000120.safetensors"),
        ("step-100/model.safetensors", "step-120/model.safetensors"),
        ("checkpoint-900/model-00001-of-00002.safetensors", "checkpoint-980/model-00001-of-00002.safetensors"),
        ("model.safetensors", "model.safetensors"),
    ] {
        for (both_at_once, first_stays) in [(true, true), (false, true), (false, false)] {
            if both_at_once && old == new {
                continue;
            }
            let (place, repository) = Place::new();
            put(&place.source().join(old), &model(&first.0, &first.1, "at step 100"));
            let what = format!("{old} -> {new}, at once {both_at_once}, stays {first_stays}");
            let before = if both_at_once { 0 } else { run(&repository, &place.source()).bytes_stored };
            if !first_stays {
                fs::remove_file(place.source().join(old)).unwrap();
            }
            let version = model(&second.0, &second.1, "at step 120, and a longer header than before");
            put(&place.source().join(new), &version);
            let repository = place.open(true);
            let report = run(&repository, &place.source());
            let stored = report.bytes_stored;
            let limit = version.len() as f64 * if both_at_once { 0.83 + 0.60 } else { 0.60 };
            assert!((stored as f64) < limit, "{what}: {stored} of {} after {before}", version.len());
            assert_kept(&repository, &report, &place.source());
        }
    }
}

/// Ranks in folders: each is stored against its own last step, and no rank is another's earlier version.
#[test]
fn ranks_in_folders_follow_their_own_steps() {
    let times = |numbers: Vec<u8>, factor: f32| -> Vec<u8> {
        numbers.as_chunks().0.iter().flat_map(|number| (f32::from_le_bytes(*number) * factor).to_le_bytes()).collect()
    };
    let first = [times(weights(1, 400_000), 1.0), times(weights(2, 400_000), 1000.0), times(weights(3, 400_000), 1e-3)];
    let second = [0, 1, 2].map(|rank| stepped(&first[rank], 10 + rank as u64));
    let (place, _) = Place::new();
    for (step, ranks) in [(100, &first), (200, &second)] {
        for (rank, weights) in ranks.iter().enumerate() {
            let file = format!("run/iter_{step:07}/mp_rank_{rank:02}/model.safetensors");
            put(&place.source().join(file), &model(weights, &[0; 4000], ""));
        }
        let (repository, listener) = (place.open(true), Listener::default());
        let report = backup(&repository, options(paths(&place.source())), &listener).unwrap();
        let problems = listener.0.into_inner().unwrap();
        assert!(problems.is_empty(), "step {step}: {problems:?}");
        if step == 200 {
            let share = report.bytes_stored as f64 / (3 * second[0].len()) as f64;
            assert!(share < 0.60, "{share}");
        }
        assert_kept(&repository, &report, &place.source());
    }
}

/// Base and dependant of one session: the base stays as long as the dependant does, whatever is forgotten and pruned.
#[test]
fn a_base_of_the_same_backup_outlives_its_own_snapshot() {
    let (place, _) = Place::new();
    let old = weights(1, 1_500_000);
    let [first, second] = ["step-1.safetensors", "step-2.safetensors"].map(|name| place.source().join(name));
    put(&first, &model(&old, &[1; 400], ""));
    put(&second, &model(&stepped(&old, 2), &[1; 400], ""));
    let both = run(&place.open(true), &place.source());
    assert!((both.bytes_stored as f64) < 6e6 * (0.85 + 0.60), "{}", both.bytes_stored);
    fs::remove_file(&first).unwrap();
    let later = run(&place.open(true), &place.source());
    let owner = place.open(false);
    forget(&owner, &[both.snapshot.unwrap().id], "test").unwrap();
    for _ in 0..2 {
        prune_with(&owner, &PruneOptions { rebase: false, ..thorough() }).unwrap();
        assert_kept(&place.open(false), &later, &place.source());
    }
}

/// A base that has become far away is replaced once later versions are near to each other.
#[test]
fn a_stale_keyframe_is_renewed_where_that_pays() {
    let (place, _) = Place::new();
    let old = weights(1, 1_000_000);
    let far: Vec<u8> = old
        .as_chunks()
        .0
        .iter()
        .zip(noise(2, 1_000_000))
        .flat_map(|(old, step)| (f32::from_le_bytes(*old) * (1.0 + f32::from(step) * 1e-5)).to_le_bytes())
        .collect();
    let versions = [old, far.clone(), stepped(&far, 3), stepped(&far, 4), stepped(&far, 5)];
    let stored = versions.each_ref().map(|weights| {
        put(&place.source().join("model.safetensors"), &model(weights, &[0; 400], ""));
        let repository = place.open(true);
        let report = run(&repository, &place.source());
        assert_kept(&repository, &report, &place.source());
        report.bytes_stored as f64 / weights.len() as f64
    });
    let [first, second, third, fourth, fifth] = stored;
    assert!(first > 0.8 && second < 0.75 && third > 0.8 && fourth < 0.45 && fifth < 0.45, "{stored:?}");
}

#[test]
fn a_renamed_and_reordered_file_has_the_same_chunks() {
    let (place, repository) = Place::new();
    let (left, right) = (weights(1, 700_000), weights(2, 900_000));
    let shape = |bytes: &[u8]| vec![(bytes.len() / 4 / ROW) as u64, ROW as u64];
    let parts = [("left", "F32", shape(&left), &left[..]), ("right", "F32", shape(&right), &right[..])];
    put(&place.source().join("all.safetensors"), &file(&parts, "one file"));
    run(&repository, &place.source());
    fs::remove_file(place.source().join("all.safetensors")).unwrap();
    let [left, (_, kind, shape, bytes)] = parts;
    put(&place.source().join("a.safetensors"), &file(&[("renamed", kind, shape, bytes)], "shard"));
    put(&place.source().join("b.safetensors"), &file(&[left], "shard"));
    let repository = place.open(true);
    let report = run(&repository, &place.source());
    assert!(report.bytes_new < 100 * KIB as u64, "{}", report.bytes_new);
    assert_kept(&repository, &report, &place.source());
}

#[test]
fn bf16_weights_beside_their_masters_cost_a_name_and_later_ones_a_difference() {
    let (place, repository) = Place::new();
    let masters = weights(1, 1_200_000);
    let mixed = |masters: &[u8]| {
        let (cast, shape) = (bf16(masters), vec![1200, 1000]);
        file(&[("model.w", "BF16", shape.clone(), &cast), ("master.w", "F32", shape, masters)], "")
    };
    put(&place.source().join("step-1.safetensors"), &mixed(&masters));
    let first = run(&repository, &place.source());
    let alone = 0.86 * masters.len() as f64;
    assert!((first.bytes_stored as f64) < alone, "{} of {alone}", first.bytes_stored);
    put(&place.source().join("step-2.safetensors"), &mixed(&stepped(&masters, 2)));
    let repository = place.open(true);
    let second = run(&repository, &place.source());
    let limit = 0.60 * masters.len() as f64 + 0.20 * masters.len() as f64 / 2.0;
    assert!((second.bytes_stored as f64) < limit, "{} of {limit}", second.bytes_stored);
    assert_kept(&repository, &second, &place.source());
}

#[test]
fn a_declared_base_is_used_where_no_name_leads_to_it() {
    let base = weights(1, 1_000_000);
    let tuned = model(&stepped(&base, 2), &weights(5, 384), "tuned");
    let stored = [false, true].map(|declared| {
        let (place, repository) = Place::new();
        put(&place.source().join("models/base.safetensors"), &model(&base, &weights(5, 384), ""));
        let root = run(&repository, &place.source()).snapshot.unwrap().root;
        let elsewhere = place.directory.path().join("tuned");
        put(&elsewhere.join("model.safetensors"), &tuned);
        let key = TreeKey::from_path(&place.source().join("models")).unwrap();
        let bases = if declared { vec![(root, key)] } else { Vec::new() };
        // Without a cache, in which the model would be found by its tensors.
        let repository = place.open(false);
        let report = run_with(&repository, BackupOptions { bases, ..options(paths(&elsewhere)) });
        assert_kept(&repository, &report, &elsewhere);
        report.bytes_stored
    });
    assert!(stored[1] * 10 < stored[0] * 8, "{stored:?}");
    let (place, repository) = Place::new();
    put(&place.source().join("text"), b"no tensors");
    let root = run(&repository, &place.source()).snapshot.unwrap().root;
    let nothing = BackupOptions { bases: vec![(root, TreeKey::default())], ..options(paths(&place.source())) };
    assert!(backup(&repository, nothing, &Silent).unwrap_err().to_string().contains("nothing with tensors"));
}

#[test]
fn the_checkpoint_before_goes_before_a_declared_base() {
    let (place, repository) = Place::new();
    let (declared, first) = (weights(7, 1_000_000), weights(2, 1_000_000));
    put(&place.source().join("models/base.safetensors"), &model(&declared, &[1; 400], ""));
    let root = run(&repository, &place.source()).snapshot.unwrap().root;
    let elsewhere = place.directory.path().join("run");
    put(&elsewhere.join("step-1.safetensors"), &model(&first, &[1; 400], ""));
    run(&place.open(true), &elsewhere);
    put(&elsewhere.join("step-2.safetensors"), &model(&stepped(&first, 3), &[1; 400], ""));
    let key = TreeKey::from_path(&place.source().join("models")).unwrap();
    let options = BackupOptions { bases: vec![(root, key)], ..options(paths(&elsewhere)) };
    let report = run_with(&place.open(true), options);
    assert!((report.bytes_stored as f64) < 0.60 * 4e6, "{}", report.bytes_stored);
    assert_kept(&place.open(true), &report, &elsewhere);
}

#[test]
fn a_fine_tune_in_the_same_backup_finds_its_base_by_its_tensors() {
    let (place, repository) = Place::new();
    let base = weights(1, 1_200_000);
    put(&place.source().join("base/model.safetensors"), &model(&base, &weights(5, 384), ""));
    put(&place.source().join("tuned/weights.safetensors"), &model(&stepped(&base, 2), &weights(5, 384), "tuned"));
    let report = run(&repository, &place.source());
    assert!((report.bytes_stored as f64) < 4.8e6 * (0.85 + 0.60), "{}", report.bytes_stored);
    assert_kept(&repository, &report, &place.source());
}

/// A fine-tune in a later backup of another folder, under another name: the client remembers where the model lay. The numbers come
/// from the repository; where the model was forgotten there, or by the client, the fine-tune is stored alone.
#[test]
fn a_fine_tune_finds_the_model_of_an_earlier_backup_by_its_tensors() {
    let base = weights(1, 1_200_000);
    for (is_there, is_known) in [(true, true), (false, true), (true, false)] {
        let (place, repository) = Place::new();
        let (models, tuned) = (place.source().join("models"), place.source().join("tuned"));
        put(&models.join("base/model.safetensors"), &model(&base, &weights(5, 384), ""));
        let first = run(&repository, &models);
        fs::remove_dir_all(&models).unwrap();
        put(&models.join("other.txt"), b"the model is gone");
        run(&place.open(true), &models);
        if !is_there {
            forget(&place.open(true), &[first.snapshot.unwrap().id], "test").unwrap();
            prune_with(&place.open(true), &thorough()).unwrap();
        }
        put(&tuned.join("epoch/weights.safetensors"), &model(&stepped(&base, 2), &weights(5, 384), "tuned"));
        let repository = place.open(is_known);
        let report = run(&repository, &tuned);
        let share = report.bytes_stored as f64 / 4.8e6;
        assert_eq!(share < 0.60, is_there && is_known, "there {is_there}, known {is_known}: {share}");
        assert_kept(&repository, &report, &tuned);
    }
}

/// A fine-tune of a model that only another client backed up, which this one learns from the repository: under another path, and
/// under the same. What was looked at once is in the list, and a member, who may not read, stores it alone.
#[test]
fn a_fine_tune_finds_the_model_that_another_client_backed_up() {
    let base = weights(1, 1_200_000);
    let (place, repository) = Place::new();
    let models = place.source().join("models");
    put(&models.join("base/model.safetensors"), &model(&base, &weights(5, 384), ""));
    put(&models.join("small.safetensors"), &model(&weights(6, 40_000), &weights(7, 384), ""));
    run(&repository, &models);
    fs::remove_dir_all(&models).unwrap();
    let add = |role, label| {
        let unlock = Unlock::KeyFile(Secret32::random());
        keys::add(&place.open(false), role, &unlock.lock().unwrap(), label).unwrap();
        unlock
    };
    // Each client has a cache of its own, and each comes to a repository that has only the first one's model.
    let (reader, member) = (add(Role::Reader, "reader"), add(Role::Member, "member"));
    for (number, unlock, folder, wanted) in
        [(0, &reader, "tuned", true), (1, &reader, "models/base", true), (2, &member, "tuned", false)]
    {
        let tuned = place.source().join(folder);
        let file = tuned.join("model.safetensors");
        put(&file, &model(&stepped(&base, 2 + number), &weights(5, 384), "tuned"));
        let store = LocalStore::open(&place.directory.path().join("repository")).unwrap();
        let cache = place.directory.path().join(format!("cache{number}"));
        let repository = Repository::open(Arc::new(store), unlock, Some(cache)).unwrap();
        let host = format!("host{number}");
        let report = run_with(&repository, BackupOptions { host, ..options(paths(&tuned)) });
        let share = report.bytes_stored as f64 / 4.8e6;
        assert_eq!(share < 0.60, wanted, "client {number}: {share}");
        assert_kept(&place.open(false), &report, &tuned);
        fs::remove_dir_all(place.source()).unwrap();
    }
}

/// A run whose step has one digit more sorts before the step that came before it; it is found, and is the checkpoint before.
#[test]
fn a_step_that_adds_a_digit_finds_the_step_before() {
    let (place, repository) = Place::new();
    let mut step = weights(1, 1_200_000);
    let name = |number: u32| place.source().join(format!("checkpoint-{number}/model.safetensors"));
    for number in [960, 980] {
        put(&name(number), &model(&step, &weights(5, 384), ""));
        run(&repository, &place.source());
        step = stepped(&step, number.into());
    }
    let mut broken = step.clone();
    broken[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    put(&name(1000), &model(&broken, &weights(5, 384), ""));
    let listener = Listener::default();
    let report = backup(&place.open(true), options(paths(&place.source())), &listener).unwrap();
    assert!((report.bytes_stored as f64) < 0.60 * 4.8e6, "{}", report.bytes_stored);
    let problems = listener.0.into_inner().unwrap();
    assert!(problems.iter().any(|problem| problem.what.contains("NaN")), "held against 980: {problems:?}");
    assert_kept(&place.open(true), &report, &place.source());
}

/// A file of as many tensors as it needs for a list of chunks of its own.
fn many(weights: &[u8]) -> Vec<u8> {
    let names: Vec<String> = (0..weights.len() / 80_000).map(|number| format!("w{number:03}")).collect();
    let tensors = names.iter().zip(weights.chunks_exact(80_000));
    let tensors: Vec<Tensor<'_>> = tensors.map(|(name, bytes)| (&name[..], "F32", vec![20_000], bytes)).collect();
    file(&tensors, "")
}

/// Who may not read data has the older numbers from the local disk, as long as they are there.
#[test]
fn a_member_encodes_against_the_local_file() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    let (owner, member) = (Unlock::KeyFile(Secret32::random()), Unlock::KeyFile(Secret32::random()));
    let store = Arc::new(MemoryStore::new());
    let repository = Repository::init(store.clone(), &[(owner.clone(), "owner".into())], None).unwrap();
    keys::add(&repository, Role::Member, &member.lock().unwrap(), "host").unwrap();
    for count in [1_000_000, 3_000_000] {
        let (old, file) = (weights(count as u64, count), source.join(format!("{count}")));
        put(&file.join("step-1.safetensors"), &many(&old));
        let open = |unlock| Repository::open(store.clone(), unlock, Some(directory.path().join("cache"))).unwrap();
        run(&open(&member), &source);
        put(&file.join("step-2.safetensors"), &many(&stepped(&old, 3)));
        let report = run(&open(&member), &source);
        let limit = 0.60 * 4.0 * count as f64;
        assert!((report.bytes_stored as f64) < limit, "{} of {limit}", report.bytes_stored);
        assert_kept(&open(&owner), &report, &source);
        // So has a fine-tune elsewhere, which finds the model by its tensors.
        let elsewhere = directory.path().join(format!("tuned-{count}"));
        put(&elsewhere.join("weights.safetensors"), &many(&stepped(&old, 4)));
        let report = run(&open(&member), &elsewhere);
        assert!((report.bytes_stored as f64) < limit, "elsewhere: {} of {limit}", report.bytes_stored);
        assert_kept(&open(&owner), &report, &elsewhere);
    }
}

/// The rows of a matrix that differ in size: a dense backup sorts by them, alone and against the checkpoint before.
#[test]
fn a_dense_backup_sorts_matrices_by_scale() {
    let step = |old: &[u8], seed| -> Vec<u8> {
        let steps = scaled(weights(seed, old.len() / 4));
        let pairs = old.as_chunks().0.iter().zip(steps.as_chunks().0);
        pairs
            .flat_map(|(old, step)| (f32::from_le_bytes(*old) + f32::from_le_bytes(*step) * 1e-3).to_le_bytes())
            .collect()
    };
    let old = weights(1, 1_500_000);
    let versions = [("m", scaled(weights(3, 1_500_000))), ("w/step-1", old.clone()), ("w/step-2", step(&old, 2))];
    let takes = [Effort::Balanced, Effort::Dense].map(|effort| {
        let (place, _) = Place::new();
        versions.each_ref().map(|(name, numbers)| {
            put(&place.source().join(format!("{name}.safetensors")), &model(numbers, &[1; 400], ""));
            let options = BackupOptions { effort: Some(effort), ..options(paths(&place.source())) };
            let repository = place.open(true);
            let report = run_with(&repository, options);
            assert_kept(&repository, &report, &place.source());
            report.bytes_stored as f64
        })
    });
    let [moment, first, second] = [0, 1, 2].map(|version| takes[1][version] / takes[0][version]);
    assert!(moment < 0.97 && (0.99..1.01).contains(&first) && second < 0.97, "{moment} {first} {second}: {takes:?}");
}

/// Writes over a file when another is about to be read.
struct Overwriting<'a> {
    file: &'a Path,
    before: &'a str,
}

impl Monitor for Overwriting<'_> {
    fn current(&self, path: &Path) {
        if path.ends_with(self.before) {
            fs::write(self.file, noise(9, 1000)).unwrap();
        }
    }
}

/// What the last file held is at hand as long as it fits, also for who may not read it back and no longer finds it on the
/// local disk.
#[test]
fn the_bases_of_short_files_are_kept_for_the_next() {
    let numbers = 1_000_000;
    for (budget_bytes, second_takes) in [(64 * MIB, 0.0..0.60), (8 * MIB, 0.80..1.0)] {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let (owner, member) = (Unlock::KeyFile(Secret32::random()), Unlock::KeyFile(Secret32::random()));
        let store = Arc::new(MemoryStore::new());
        let repository = Repository::init(store.clone(), &[(owner.clone(), "owner".into())], None).unwrap();
        keys::add(&repository, Role::Member, &member.lock().unwrap(), "host").unwrap();
        let first = weights(1, numbers);
        let second = stepped(&first, 2);
        put(&source.join("step-1.safetensors"), &many(&first));
        put(&source.join("step-2.safetensors"), &many(&second));
        let repository = Repository::open(store.clone(), &member, Some(directory.path().join("cache"))).unwrap();
        let options = BackupOptions { threads: 1, budget_bytes, ..options(paths(&source)) };
        let monitor = Overwriting { file: &source.join("step-1.safetensors"), before: "step-2.safetensors" };
        let report = backup(&repository, options, &monitor).unwrap();
        let ratio = report.bytes_stored as f64 / first.len() as f64 - 0.85;
        assert!(second_takes.contains(&ratio), "{ratio} with {budget_bytes} bytes");
        let repository = Repository::open(store, &owner, None).unwrap();
        let stored = stored_files(&repository, &report);
        assert!(stored.values().eq([&many(&first), &many(&second)]));
        assert_whole(&repository);
    }
}

#[derive(Default)]
struct Listener(Mutex<Vec<Problem>>);

impl Monitor for Listener {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem);
    }
}

#[test]
fn what_was_damaged_before_the_backup_is_named_and_kept() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers/model.pt");
    let mut bytes = long_zip(fs::read(fixture).unwrap());
    let layout = seawall_engine::readers::read(&bytes.as_slice(), b"model.pt").unwrap();
    let check = layout.checks.iter().find(|check| check.range.end - check.range.start >= 16).unwrap();
    let (place, _) = Place::new();
    for expected in [0, 1] {
        bytes[usize::try_from(check.range.start).unwrap() + 8] ^= u8::try_from(expected).unwrap();
        put(&place.source().join("model.pt"), &bytes);
        let listener = Listener::default();
        let repository = place.open(true);
        let report = backup(&repository, options(paths(&place.source())), &listener).unwrap();
        let problems = listener.0.into_inner().unwrap();
        assert_eq!((problems.len(), report.problems), (expected, expected as u64), "{problems:?}");
        for problem in &problems {
            assert_eq!(problem.code, "corrupt");
            assert!(problem.what.contains(check.name.as_str()), "{}", problem.what);
        }
        assert_kept(&repository, &report, &place.source());
    }
}

/// A store that TensorStore itself wrote: its manifest (kept in the tree's entry, so short is it) and its data file.
#[test]
fn what_was_damaged_in_a_store_of_tensorstore_is_named_and_kept() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers/ocdbt");
    let (place, _) = Place::new();
    let source = place.source().join("default");
    let data = fs::read_dir(fixture.join("d")).unwrap().next().unwrap().unwrap().path();
    let files = [fixture.join("manifest.ocdbt"), data].map(|path| {
        let target = source.join(path.strip_prefix(&fixture).unwrap());
        (target, fs::read(path).unwrap())
    });
    for (target, bytes) in &files {
        put(target, bytes);
    }
    let node = files[1].1.windows(4).position(|magic| magic == [0x0c, 0xdb, 0x20, 0xde]).unwrap();
    let named = format!("B+tree node at byte {node}");
    for (number, at, expected) in [(0, 20, "manifest at byte 0"), (1, node + 30, &named[..]), (1, 0, "")] {
        let (target, whole) = &files[number];
        for flipped in [0, 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= flipped;
            put(target, &bytes);
            let listener = Listener::default();
            let repository = place.open(true);
            let report = backup(&repository, options(paths(&place.source())), &listener).unwrap();
            let problems = listener.0.into_inner().unwrap();
            let is_told = flipped == 1 && !expected.is_empty();
            assert_eq!(problems.len(), usize::from(is_told), "{problems:?}");
            assert!(problems.iter().all(|problem| problem.code == "corrupt" && problem.what.contains(expected)));
            assert_kept(&repository, &report, &place.source());
        }
        put(target, whole);
    }
}

/// The zip with a comment of 65,000 bytes: shorter files are not looked at for tensors.
fn long_zip(mut zip: Vec<u8>) -> Vec<u8> {
    let end = zip.len();
    assert_eq!(zip[end - 2..], [0, 0], "a zip without a comment");
    zip[end - 2..].copy_from_slice(&65_000_u16.to_le_bytes());
    zip.resize(end + 65_000, 0);
    zip
}

/// What the numbers of each tensor are like is stored with the snapshot, whatever the threads; a sudden NaN is named.
#[test]
fn statistics_are_stored_and_a_break_against_the_last_checkpoint_is_named() {
    let old = weights(1, 1_500_000);
    let mut broken = stepped(&old, 2);
    broken[4_000_000..4_000_004].copy_from_slice(&f32::NAN.to_le_bytes());
    let tables: Vec<Vec<TensorTable>> = [1, 4]
        .map(|threads| {
            let (place, _) = Place::new();
            let steps = [(1, &old, 0), (2, &stepped(&old, 3), 0), (3, &broken, 1), (4, &broken, 0)];
            let tables = steps.map(|(step, weights, expected)| {
                let path = place.source().join(format!("step-{step}.safetensors"));
                put(&path, &model(weights, &[0; 4000], ""));
                let repository = place.open(true);
                let listener = Listener::default();
                let options = BackupOptions { threads, budget_bytes: 256 << 20, ..options(paths(&place.source())) };
                let report = backup(&repository, options, &listener).unwrap();
                let problems = listener.0.into_inner().unwrap();
                assert_eq!(problems.len(), expected, "{problems:?}");
                for problem in &problems {
                    assert_eq!(problem.code, "suspicious");
                    assert!(problem.what.contains("\"w\"") && problem.what.contains("NaN"), "{}", problem.what);
                }
                assert_kept(&repository, &report, &place.source());
                let key = TreeKey::from_path(&path).unwrap();
                let entry = repository.tree(&report.snapshot.unwrap().root).get(&key).unwrap().unwrap();
                repository.tensor_table(&entry).unwrap().unwrap()
            });
            tables.to_vec()
        })
        .to_vec();
    assert_eq!(tables[0], tables[1], "one thread and four");
    let nans = tables[0].iter().map(|table| table.tensors[0].statistics.as_ref().unwrap().nan);
    assert_eq!(nans.collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!(tables[0][0].tensors[1].statistics.as_ref().unwrap().is_all_zero());
}

#[test]
fn a_header_that_lies_costs_no_byte() {
    let (place, _) = Place::new();
    let bytes = weights(1, 300_000);
    let claims = [
        r#"{"a":{"dtype":"F32","shape":[300000],"data_offsets":[0,1200000]}}"#,
        r#"{"a":{"dtype":"BF16","shape":[600000],"data_offsets":[0,1200000]}}"#,
        r#"{"a":{"dtype":"F64","shape":[1,150000],"data_offsets":[0,1200000]}}"#,
        r#"{"a":{"dtype":"F32","shape":[100,1],"data_offsets":[7,407]},"b":{"dtype":"U8","shape":[900000],"data_offsets":[500,900500]}}"#,
        r#"{"a":{"dtype":"BF16","shape":[150000],"data_offsets":[0,300000]},"b":{"dtype":"F32","shape":[150000],"data_offsets":[300000,900000]}}"#,
        r#"{"a":{"dtype":"F32","shape":[250000],"data_offsets":[1000000,2000000]}}"#,
    ];
    for claim in claims {
        // Under one name, so that each is stored against the one before.
        let file = [&(claim.len() as u64).to_le_bytes()[..], claim.as_bytes(), &bytes].concat();
        put(&place.source().join("model.safetensors"), &file);
        let repository = place.open(true);
        let report = run(&repository, &place.source());
        assert_kept(&repository, &report, &place.source());
    }
}
