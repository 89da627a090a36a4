//! Weights first: what stands in the target when the weights are said to be complete.

use super::*;
use crate::restore::Overwrite;

/// Looks at the target when the weights are complete.
#[derive(Default)]
struct Watch {
    target: PathBuf,
    seen: Mutex<Vec<BTreeMap<String, String>>>,
}

impl Monitor for Watch {
    fn note(&self, text: &str) {
        assert!(text.starts_with("weights complete"), "{text}");
        self.seen.lock().unwrap().push(look(&self.target));
    }
}

/// A checkpoint as trainers leave them, with larger files among the small ones.
fn checkpoint() -> Made {
    let mut made = Made::new();
    made.push("run", directory());
    made.push_file("run/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", &[b"state", b"of rank 0"]);
    made.push("run/config.json", file("{}"));
    made.push_file("run/model.safetensors", &[b"first", b"second", b"third"]);
    made.push_file("run/mp_rank_00_model_states.pt", &[b"model"]);
    made.push("run/optimizer", directory());
    made.push("run/optimizer/latest", symlink("part"));
    made.push_file("run/optimizer/part", &[b"moments"]);
    made.push("run/optimizer.pt", linked(file("linked"), 7));
    made.push("run/rng_state_0.pth", file("random"));
    made.push("run/saved", directory());
    made.push("run/saved/weights.bin", linked(file("linked"), 7));
    made.push("run/scheduler.pt", file("schedule"));
    made
}

const LATE: [&str; 4] = [
    "run/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "run/optimizer/part",
    "run/rng_state_0.pth",
    "run/scheduler.pt",
];

/// Restores in either order; gives how both ended and what was seen when the weights were complete.
fn both(from: &str, prepare: impl Fn(&Place), options: RestoreOptions) -> (Vec<BTreeMap<String, String>>, Place) {
    let mut ends = Vec::new();
    for weights_first in [false, true] {
        let place = Place::new();
        prepare(&place);
        let watch = Watch { target: place.path("target"), ..Watch::default() };
        let options = RestoreOptions {
            target: place.path("target"),
            from: raw_key(from),
            threads: 2,
            weights_first,
            ..options.clone()
        };
        let report = restore_from(&checkpoint(), &options, &watch).unwrap();
        assert_eq!((report.problems, report.weights_duration.is_some()), (0, weights_first));
        assert!(report.weights_duration.is_none_or(|weights| weights <= report.duration));
        ends.push((place.target(), report.files, report.directories, report.bytes, report.deleted, report.unchanged));
        if weights_first {
            assert_eq!(ends[0], ends[1]);
            return (watch.seen.into_inner().unwrap(), place);
        }
        assert!(watch.seen.into_inner().unwrap().is_empty());
    }
    unreachable!("the second round returns")
}

#[test]
fn weights_are_whole_before_states_begin() {
    let (seen, place) = both("", |_| {}, RestoreOptions::default());
    let [seen] = &seen[..] else { panic!("{} notes", seen.len()) };
    let content = |name: &str| seen.get(name).map(|what| what.split('|').next().unwrap());
    for (name, expected) in [
        ("run/config.json", "file {}"),
        ("run/model.safetensors", "file firstsecondthird"),
        ("run/mp_rank_00_model_states.pt", "file model"),
        ("run/optimizer/latest", "-> part"),
        ("run/saved/weights.bin", "file linked"),
    ] {
        assert_eq!(content(name), Some(expected), "{name}");
    }
    assert!(LATE.iter().all(|name| !seen.contains_key(*name)), "{seen:?}");
    let end = look(&place.path("target"));
    assert!(LATE.iter().all(|name| end.contains_key(*name)));
    // The name that waited is the same file as the one that did not.
    let inode = |name: &str| fs::metadata(place.path("target").join(name)).unwrap().ino();
    assert_eq!(inode("run/optimizer.pt"), inode("run/saved/weights.bin"));
}

#[test]
fn the_other_options_keep_their_meaning() {
    let nothing = |_: &Place| {};
    // Only what lies below the start of the restore tells what a file is for.
    let (seen, _) = both("run/optimizer", nothing, RestoreOptions::default());
    assert!(seen[0].contains_key("part"));
    let (seen, _) = both("run/scheduler.pt", nothing, RestoreOptions::default());
    assert!(!seen[0].contains_key("scheduler.pt"));
    let include = vec!["/run/optimizer".to_owned(), "model.safetensors".to_owned()];
    let (seen, _) = both("", nothing, RestoreOptions { include, ..RestoreOptions::default() });
    assert!(seen[0].contains_key("run/model.safetensors") && !seen[0].contains_key("run/optimizer/part"));

    let strays = |place: &Place| {
        fs::create_dir_all(place.path("target/run/optimizer")).unwrap();
        fs::write(place.path("target/run/optimizer/part"), "old").unwrap();
        fs::write(place.path("target/run/optimizer/stray"), "stray").unwrap();
        fs::write(place.path("target/run/optimizer.bak"), "stray").unwrap();
    };
    let (seen, place) = both("", strays, RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!(seen[0]["run/optimizer/part"].split('|').next(), Some("file old"), "it waits where it stands");
    assert!(!place.path("target/run/optimizer.bak").exists());
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        both("", strays, RestoreOptions { overwrite, ..RestoreOptions::default() });
    }
}

#[test]
fn a_dry_run_lists_as_ever() {
    let list = |weights_first| {
        let place = Place::new();
        let options = RestoreOptions { dry_run: true, weights_first, ..RestoreOptions::default() };
        let (report, heard) = place.run(&checkpoint(), options);
        assert!(heard.notes.into_inner().unwrap().is_empty());
        report.unwrap().actions
    };
    assert_eq!(list(true), list(false));
}

/// A safetensors file with weights between moments, in chunks that end where the tensors do not.
fn mixed() -> (Vec<u8>, usize) {
    let names = ["adam_m.w", "adam_v.w", "weights.b", "weights.w"];
    let tensor_bytes = 512 * 1024;
    let infos: Vec<String> = (0..names.len())
        .map(|at| {
            let (begin, end) = (at * tensor_bytes, (at + 1) * tensor_bytes);
            format!(r#""{}":{{"dtype":"U8","shape":[{tensor_bytes}],"data_offsets":[{begin},{end}]}}"#, names[at])
        })
        .collect();
    let header = format!("{{{}}}", infos.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let data = bytes.len();
    // No two chunks may be equal.
    bytes.extend((0..names.len() * tensor_bytes / 4).flat_map(|number| (number as u32).to_le_bytes()));
    (bytes, data)
}

/// Counts what was written of the mixed file when the weights are complete.
#[derive(Default)]
struct Progressed(Mutex<(u64, Option<u64>)>);

impl Monitor for Progressed {
    fn progress(&self, progress: crate::monitor::Progress) {
        let mut seen = self.0.lock().unwrap();
        seen.0 = seen.0.max(progress.bytes_done);
    }

    fn note(&self, _: &str) {
        let mut seen = self.0.lock().unwrap();
        seen.1 = Some(seen.0);
    }
}

#[test]
fn weights_of_a_mixed_file_are_written_first() {
    let (bytes, data) = mixed();
    let mut made = Made::new();
    let pieces: Vec<&[u8]> = bytes.chunks(100_000).collect();
    made.push_file("checkpoint.safetensors", &pieces);
    made.push_file("model.safetensors", &[b"no header"]);
    let place = Place::new();
    let heard = Progressed::default();
    let options =
        RestoreOptions { target: place.path("target"), threads: 2, weights_first: true, ..RestoreOptions::default() };
    assert_eq!(restore_from(&made, &options, &heard).unwrap().problems, 0);
    assert!(fs::read(place.path("target/checkpoint.safetensors")).unwrap() == bytes);
    // The chunk with the header waits if it holds state alone; that with the last of adam_v and the first weights does not.
    let state = data..data + 2 * 512 * 1024;
    let is_late = |at: usize| at < state.end && (at + 100_000).min(bytes.len()) <= state.end;
    let early: usize =
        (0..bytes.len()).step_by(100_000).filter(|at| !is_late(*at)).map(|at| bytes.len().min(at + 100_000) - at).sum();
    let (_, at_the_note) = heard.0.into_inner().unwrap();
    assert_eq!(at_the_note, Some(early as u64 + 9));
}

#[test]
fn weights_that_are_lost_are_not_called_complete() {
    let mut made = checkpoint();
    made.missing.push(ChunkId(*blake3::hash(b"second").as_bytes()));
    let options = RestoreOptions { weights_first: true, ..RestoreOptions::default() };
    let (report, heard) = Place::new().run(&made, options);
    let notes = heard.notes.lock().unwrap();
    assert!(report.unwrap().problems == 1 && notes[0].contains("but for what the problems"), "{notes:?}");
}
