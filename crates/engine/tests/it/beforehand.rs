//! What was damaged before a backup is named by it, and kept as it is: by the checksums of short archives, and by the list of
//! SHA-256 that Megatron writes beside its files.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use seawall_engine::backup::{BackupReport, backup};
use seawall_engine::monitor::{Monitor, Problem};

use crate::place::{Place, assert_whole, noise, options, paths, stored_files};
use crate::tensors::fixtures;

#[derive(Default)]
struct Listener(Mutex<Vec<Problem>>);

impl Monitor for Listener {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem);
    }
}

/// Backs the source up, finds every byte again, and gives the problems.
fn problems(place: &Place) -> Vec<Problem> {
    let listener = Listener::default();
    let repository = place.open(true);
    let report: BackupReport = backup(&repository, options(paths(&place.source())), &listener).unwrap();
    for (path, bytes) in stored_files(&repository, &report) {
        assert!(fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    assert_whole(&repository);
    let problems = listener.0.into_inner().unwrap();
    assert_eq!(report.problems, problems.len() as u64);
    problems
}

/// Archives of a few KiB, as schedulers and random numbers have them: one that lies in the tree's entry, and one that does not.
#[test]
fn short_archives_are_held_against_their_checksums() {
    for fixture in ["protocol4.pt", "big.pt", "arrays.npz"] {
        let mut bytes = fs::read(fixtures().join(fixture)).unwrap();
        let layout = seawall_engine::readers::read(&bytes.as_slice(), fixture.as_bytes()).unwrap();
        let check = layout.checks.iter().find(|check| check.range.end - check.range.start >= 16).unwrap();
        let (place, _) = Place::new();
        for (number, flipped) in [(0, 0), (1, 1)] {
            bytes[usize::try_from(check.range.start).unwrap() + 8] ^= flipped;
            fs::write(place.source().join(format!("{number}-{fixture}")), &bytes).unwrap();
            let problems = problems(&place);
            assert_eq!(problems.len(), number, "{fixture}: {problems:?}");
            for problem in &problems {
                assert_eq!(problem.code, "corrupt");
                assert!(problem.what.contains(check.name.as_str()) && problem.subject.contains("1-"), "{problem:?}");
            }
        }
    }
}

/// The text that Megatron's own functions write, with digests that another program computed (`sha256sum`).
fn list(files: &[(&str, &str)]) -> String {
    let files: Vec<String> = files.iter().map(|(name, digest)| format!("    \"{name}\": \"{digest}\"")).collect();
    format!("{{\n  \"algorithm\": \"sha256\",\n  \"files\": {{\n{}\n  }}\n}}", files.join(",\n"))
}

/// Short files, long ones, one with a hole, and one whose parts are read in another order: each is right, and wrong with one bit flipped.
#[test]
fn files_are_held_against_the_list_beside_them() {
    let (place, _) = Place::new();
    let step = place.source().join("iter_0000100");
    fs::create_dir(&step).unwrap();
    let sparse = {
        let mut bytes = vec![0; 3 << 20];
        bytes[..5000].copy_from_slice(&noise(1, 5000));
        bytes[(2 << 20)..].copy_from_slice(&noise(2, 1 << 20));
        bytes
    };
    let files: [(&str, Vec<u8>); 4] = [
        ("metadata.json", b"{\"sharded_backend\": \"torch_dist\"}".to_vec()),
        ("common.pt", fs::read(fixtures().join("model.pt")).unwrap()),
        ("__0_0.distcp", sparse),
        ("casts.safetensors", casts()),
    ];
    for (name, bytes) in &files {
        write_sparse(&step.join(name), bytes);
    }
    fs::write(step.join("besides.pt"), b"the list does not name it").unwrap();
    let digests: Vec<(&str, String)> = files.iter().map(|(name, _)| (*name, sha256sum(&step.join(name)))).collect();
    let named: Vec<(&str, &str)> = digests.iter().map(|(name, digest)| (*name, digest.as_str())).collect();
    fs::write(step.join("integrity.json"), list(&named)).unwrap();
    assert_eq!(problems(&place), []);
    for (name, bytes) in &files {
        let mut wrong = bytes.clone();
        let last = wrong.len() - 20;
        wrong[last] ^= 1;
        write_sparse(&step.join(name), &wrong);
        let problems = problems(&place);
        let sums: Vec<&Problem> = problems.iter().filter(|problem| problem.what.contains("integrity.json")).collect();
        assert_eq!(sums.len(), 1, "{name}: {problems:?}");
        assert!(sums[0].code == "corrupt" && sums[0].subject.ends_with(name), "{:?}", sums[0]);
        write_sparse(&step.join(name), bytes);
    }
    // The same files under a name that is no iteration's have no such list.
    fs::rename(&step, place.source().join("iteration")).unwrap();
    fs::write(place.source().join("iteration/__0_0.distcp"), noise(3, 100_000)).unwrap();
    assert_eq!(problems(&place), []);
}

/// BF16 numbers and the FP32 ones that they may be casts of, which are read first.
fn casts() -> Vec<u8> {
    let header = r#"{"w":{"dtype":"BF16","shape":[500000],"data_offsets":[0,1000000]},
        "master":{"dtype":"F32","shape":[500000],"data_offsets":[1000000,3000000]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &noise(4, 3_000_000)].concat()
}

fn write_sparse(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, piece) in bytes.chunks(1 << 16).enumerate() {
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(piece, (number << 16) as u64).unwrap();
        }
    }
}

fn sha256sum(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// One record of a TFRecord file.
fn record(data: &[u8]) -> Vec<u8> {
    use seawall_engine::readers::CheckKind;
    use seawall_engine::readers::crc::Checksum;
    let sum = |bytes: &[u8]| {
        let mut checksum = Checksum::new(CheckKind::MaskedCrc32c);
        checksum.update(bytes);
        checksum.value().to_le_bytes()
    };
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &sum(&length), data, &sum(data)].concat()
}

/// Of every length, and under names that say nothing of records.
#[test]
fn records_that_are_cut_off_or_begin_wrong_are_named() {
    for bytes in [100, 5_000, 300_000] {
        let whole = [record(&noise(1, bytes)), record(&noise(2, bytes))].concat();
        let cut = &whole[..whole.len() - 20];
        let (mut first, mut second) = (whole.clone(), whole.clone());
        first[2] ^= 1;
        second[whole.len() - 30] ^= 1;
        let mut packed = vec![0x1f, 0x8b, 8];
        packed.extend(noise(3, bytes));
        let (place, _) = Place::new();
        let files: [(&str, &[u8], &str); 8] = [
            ("train.tfrecord-00000-of-00002", &whole, ""),
            ("train-00000-of-00002", &whole, ""),
            ("packed.tfrecord", &packed, ""),
            ("events.out.tfevents.1700000000.host", cut, ""),
            ("cut.tfrecord", cut, "record 1, inside which the file ends"),
            ("cut-00000-of-00001", cut, "record 1, inside which the file ends"),
            ("first.tfrecord", &first, "the length of record 0"),
            ("second-00000-of-00001", &second, "\"record 1\""),
        ];
        files.iter().for_each(|(name, bytes, _)| fs::write(place.source().join(name), bytes).unwrap());
        let problems = problems(&place);
        for (name, _, expected) in files {
            let found: Vec<&Problem> = problems.iter().filter(|problem| problem.subject.ends_with(name)).collect();
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{name}, {bytes}: {found:?}");
            assert!(found.iter().all(|found| found.code == "corrupt" && found.what.contains(expected)), "{found:?}");
        }
    }
}

/// What a crash or a damaged file system leaves is often a hole in place of what was written.
#[test]
fn a_part_that_became_a_hole_is_named() {
    let mut zeros = noise(3, 400_000);
    zeros[100_000..300_000].fill(0);
    let sound = [record(&noise(1, 1000)), record(&zeros), record(&noise(2, 1000))].concat();
    let mut lost = [record(&noise(1, 1000)), record(&noise(3, 400_000)), record(&noise(2, 1000))].concat();
    lost[150_000..250_000].fill(0);
    let (place, _) = Place::new();
    write_sparse(&place.source().join("sound.tfrecord"), &sound);
    assert_eq!(problems(&place), []);
    write_sparse(&place.source().join("lost.tfrecord"), &lost);
    let problems = problems(&place);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].code, "corrupt");
    assert!(problems[0].what.contains("record 1") && problems[0].subject.contains("lost"), "{problems:?}");
}
