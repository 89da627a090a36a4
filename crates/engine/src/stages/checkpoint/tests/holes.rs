//! Files that have their full length, and holes where nothing was written yet.

use super::*;

/// A safetensors file of one tensor, of which only the header and what `written` says lie on the disk.
fn begun(path: PathBuf, written: std::ops::Range<u64>) {
    use std::os::unix::fs::FileExt;
    let header = r#"{"w":{"dtype":"F32","shape":[1048576],"data_offsets":[0,4194304]}}"#;
    write(path.clone(), [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat());
    let file = fs::File::options().write(true).open(path).unwrap();
    let start = 8 + header.len() as u64;
    file.set_len(start + 4_194_304).unwrap();
    let bytes = vec![7; (written.end - written.start) as usize];
    file.write_all_at(&bytes, start + written.start).unwrap();
}

fn is_written(states: &[State], file: &str) -> bool {
    matches!(states, [State::Writing(why)] if why.starts_with(&format!("{file} has a hole at byte ")))
}

#[test]
fn a_hole_without_a_marker_must_rest_for_long() {
    let lone: fn(&Path) = |run| begun(run.join("step-100.safetensors"), 0..2_000_000);
    let middle: fn(&Path) = |run| begun(run.join("step-100/model.safetensors"), 3_000_000..4_194_304);
    for (build, file) in [(lone, "step-100.safetensors"), (middle, "model.safetensors")] {
        let mut bench = Bench::new(build);
        for seconds in [0, 11, 31, 599] {
            let states = bench.states(seconds);
            assert!(is_written(&states, file), "{seconds} s: {states:?}");
        }
        assert_eq!(bench.states(601), [State::Complete], "{file}");
    }
}

#[test]
fn a_hole_that_is_filled_does_not_count() {
    let mut bench = Bench::new(|run| begun(run.join("step-100.safetensors"), 0..2_000_000));
    assert!(is_written(&bench.states(0), "step-100.safetensors"));
    begun(bench.run().join("step-100.safetensors"), 0..4_194_304);
    assert_eq!(bench.states(5), [State::Settling]);
    assert_eq!(bench.states(16), [State::Complete]);
}

/// Copies may have holes in place of zeros, and markers come last.
#[test]
fn a_hole_in_what_is_old_or_marked_does_not_count() {
    let mut old = Bench::new(|run| {
        begun(run.join("step-100.safetensors"), 0..2_000_000);
        touch(run.join("step-100.safetensors"), 1_700_000_000);
    });
    // Why so late: a file's time of change is always now.
    old.wall.seconds += 3_600;
    assert_eq!(old.states(0), [State::Settling]);
    assert_eq!(old.states(1), [State::Complete]);
    let mut marked = Bench::new(|run| {
        trainer(&run.join("checkpoint-100"));
        begun(run.join("checkpoint-100/optimizer.safetensors"), 0..1000);
        touch(run.join("checkpoint-100/optimizer.safetensors"), 1_700_000_000);
    });
    assert_eq!(marked.states(0), [State::Settling]);
    assert_eq!(marked.states(2), [State::Complete]);
}

/// However long somebody is ready to wait: a hole counts for ten minutes, and nothing overflows.
#[test]
fn patience_without_end() {
    let folder = tempfile::tempdir().unwrap();
    begun(folder.path().join("step-100.safetensors"), 0..2_000_000);
    let pace = Pace { settle: Duration::MAX, patience: Duration::MAX };
    let mut scanner = Scanner::new(&[folder.path().to_path_buf()], pace).unwrap();
    let (begin, wall) = (monotonic(), Timestamp::now());
    for (seconds, is_hole) in [(0, true), (599, true), (601, false)] {
        let look = scanner.look(begin + Duration::from_secs(seconds), wall, &|_| false);
        let states: Vec<State> = look.checkpoints.into_iter().map(|checkpoint| checkpoint.state).collect();
        assert_eq!(is_written(&states, "step-100.safetensors"), is_hole, "{seconds} s: {states:?}");
    }
}
