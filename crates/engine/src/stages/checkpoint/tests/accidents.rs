//! What accidents leave that looks whole by one look alone: checkpoints overwritten in part, written anew under an old tracker,
//! without their data; and ordinary saves that look a little like them.

use super::*;

/// When an ordinary save wrote its files, and then its marker, in Unix seconds; and when another save came.
const FILES: u64 = 990;
const MARKER: u64 = 1000;
const LATER: u64 = 5000;

/// All files below a directory were written then.
fn written(directory: &Path, seconds: u64) {
    for item in fs::read_dir(directory).unwrap() {
        let path = item.unwrap().path();
        match path.is_dir() {
            true => written(&path, seconds),
            false => touch(path, seconds),
        }
    }
}

fn trainer_saved(run: &Path) {
    trainer(&run.join("checkpoint-100"));
    written(run, FILES);
    touch(run.join("checkpoint-100/trainer_state.json"), MARKER);
}

fn trainer_with_deepspeed_saved(run: &Path) {
    trainer_with_deepspeed(run);
    written(run, FILES);
    touch(run.join("checkpoint-100/trainer_state.json"), MARKER);
}

fn accelerate_saved(run: &Path) {
    let directory = run.join("checkpoint_100");
    write(directory.join("model.safetensors"), fixture("model.safetensors"));
    write(directory.join("optimizer.bin"), fixture("model.pt"));
    write(directory.join("random_states_0.pkl"), "x");
    write(directory.join("random_states_1.pkl"), "x");
    written(run, FILES);
    touch(directory.join("random_states_0.pkl"), MARKER);
}

/// Parts of that time.
fn dcp_saved(run: &Path, parts: u64) {
    dcp(&run.join("step-100"));
    written(run, parts);
    touch(run.join("step-100/.metadata"), MARKER);
}

fn deepspeed_saved(run: &Path) {
    deepspeed(run);
    written(run, FILES);
    touch(run.join("latest"), MARKER);
}

fn megatron_saved(run: &Path) {
    megatron_legacy(run);
    written(run, FILES);
    touch(run.join("latest_checkpointed_iteration.txt"), MARKER);
}

#[test]
fn what_was_overwritten_in_part_is_told() {
    check(
        Layout::HuggingFace,
        Some(2),
        trainer_saved,
        &[
            (
                "killed before the optimizer",
                |run| touch(run.join("checkpoint-100/model-00001-of-00002.safetensors"), LATER),
                "model-00001-of-00002.safetensors is newer than trainer_state.json, others are older: it was overwritten in part (if it was not, touch trainer_state.json)",
            ),
            (
                "killed before the states of random numbers",
                |run| {
                    let directory = run.join("checkpoint-100");
                    written(&directory, LATER);
                    touch(directory.join("trainer_state.json"), MARKER);
                    touch(directory.join("rng_state_0.pth"), FILES);
                    touch(directory.join("optimizer.pt"), LATER + 1);
                },
                "optimizer.pt is newer than trainer_state.json, others are older: it was overwritten in part (if it was not, touch trainer_state.json)",
            ),
        ],
    );
    check(
        Layout::HuggingFace,
        Some(2),
        trainer_with_deepspeed_saved,
        &[(
            "one rank of two",
            |run| {
                touch(run.join("checkpoint-100/global_step100/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), LATER)
            },
            "global_step100/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt is newer than trainer_state.json, others are older: it was overwritten in part (if it was not, touch trainer_state.json)",
        )],
    );
    check(
        Layout::HuggingFace,
        Some(2),
        accelerate_saved,
        &[(
            "killed before the optimizer, when rank 1 had written all that it writes",
            |run| {
                touch(run.join("checkpoint_100/model.safetensors"), LATER);
                touch(run.join("checkpoint_100/random_states_1.pkl"), LATER);
            },
            "model.safetensors is newer than random_states_0.pkl, others are older: it was overwritten in part (if it was not, touch random_states_0.pkl)",
        )],
    );
    check(
        Layout::Dcp,
        Some(2),
        |run| dcp_saved(run, MARKER - 60),
        &[(
            "one part, later than the save took",
            |run| touch(run.join("step-100/__1_0.distcp"), MARKER + 61),
            "__1_0.distcp is newer than .metadata, others are older: it was overwritten in part (of a mere copy, touch .metadata)",
        )],
    );
    check(
        Layout::DeepSpeed,
        Some(2),
        deepspeed_saved,
        &[(
            "one rank of two",
            |run| touch(run.join("global_step100/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), LATER),
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt is newer than latest: it was written anew and is not committed (of a mere copy, touch latest)",
        )],
    );
    check(
        Layout::Megatron,
        Some(4),
        megatron_saved,
        &[(
            "two ranks of four",
            |run| {
                touch(run.join("iter_0000100/mp_rank_00_000/model_optim_rng.pt"), LATER);
                touch(run.join("iter_0000100/mp_rank_00_001/model_optim_rng.pt"), LATER + 1);
            },
            "mp_rank_00_001/model_optim_rng.pt is newer than latest_checkpointed_iteration.txt: it was written anew and is not committed (of a mere copy, touch latest_checkpointed_iteration.txt)",
        )],
    );
}

/// What is uncommon about a save, and how it is made.
type Save = (&'static str, fn(&Path));

#[test]
fn ordinary_saves_that_end_after_their_marker_are_complete() {
    let saves: [Save; 9] = [
        ("the clock of a host of DCP is ahead, and all parts were written at once", |run| {
            dcp_saved(run, MARKER);
            touch(run.join("step-100/__1_0.distcp"), MARKER + 9);
        }),
        ("a host of DCP is done later after the marker than clocks differ, and the save took as long", |run| {
            dcp_saved(run, MARKER - 60);
            touch(run.join("step-100/__1_0.distcp"), MARKER + 60);
        }),
        ("all parts of DCP are copied much later than the marker", |run| {
            dcp_saved(run, LATER);
            touch(run.join("step-100/__1_0.distcp"), LATER + 60);
        }),
        ("states of random numbers long after the Trainer's marker", |run| {
            trainer_saved(run);
            touch(run.join("checkpoint-100/rng_state_1.pth"), LATER);
        }),
        ("clocks differ by two seconds", |run| {
            trainer_saved(run);
            written(&run.join("checkpoint-100"), MARKER);
            touch(run.join("checkpoint-100/optimizer.pt"), MARKER + 2);
        }),
        ("rank 0 of DeepSpeed is done before the others", |run| {
            deepspeed_saved(run);
            let late = "global_step100/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt";
            touch(run.join(late), MARKER + (MARKER - FILES));
        }),
        ("all weights written anew, and the marker", |run| {
            trainer_saved(run);
            touch(run.join("checkpoint-100/optimizer.pt"), LATER);
            touch(run.join("checkpoint-100/trainer_state.json"), LATER);
        }),
        ("another rank of Accelerate is done long before", |run| {
            accelerate_saved(run);
            touch(run.join("checkpoint_100/random_states_1.pkl"), 10);
        }),
        ("files with a rank that is none of a grid", |run| {
            trainer_saved(run);
            write(run.join("checkpoint-100/lora_rank_16.safetensors"), fixture("model.safetensors"));
            touch(run.join("checkpoint-100/lora_rank_16.safetensors"), FILES);
        }),
    ];
    for (what, save) in saves {
        let mut bench = Bench::new(save);
        bench.look(0);
        assert_eq!(bench.states(11), [State::Complete], "{what}");
    }
}

/// A run that went back to an earlier step in the same folder, and died while it wrote steps that the old tracker is beyond.
#[test]
fn an_old_tracker_vouches_for_nothing_that_is_newer() {
    let states = |directory: PathBuf, optimizers: u64, seconds| {
        write(directory.join("mp_rank_00_model_states.pt"), fixture("model.pt"));
        for rank in 0..optimizers {
            let name = format!("zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
            write(directory.join(name), fixture("model.pt"));
        }
        written(&directory, seconds);
    };
    let mut bench = Bench::new(|run| {
        states(run.join("global_step600"), 0, LATER);
        states(run.join("global_step700"), 2, LATER);
        states(run.join("global_step800"), 4, FILES);
        states(run.join("global_step1000"), 4, FILES);
        write(run.join("latest"), "global_step1000");
        touch(run.join("latest"), MARKER);
    });
    let newer = |file: &str, tracker: &str| {
        let why = format!("{file} is newer than {tracker}: it was written anew and is not committed");
        State::Incomplete(format!("{why} (of a mere copy, touch {tracker})"))
    };
    bench.look(0);
    let model = "mp_rank_00_model_states.pt";
    let whole = [State::Complete, State::Complete];
    let torn = [newer(model, "latest"), newer(model, "latest")];
    assert_eq!(bench.states(31), [&torn[..], &whole].concat());
    // Of a copy without times, after the tracker was touched: what lacks all of one kind is still told.
    touch(bench.run().join("latest"), LATER);
    let lacks = State::Incomplete("no *_optim_states.pt is there, and other steps have them".to_owned());
    assert_eq!(bench.states(32), [&[lacks, State::Complete][..], &whole].concat());
    // Nor does an old tracker that is torn, or one on a step that was removed.
    for said in ["", "global_step900"] {
        write(bench.run().join("latest"), said);
        touch(bench.run().join("latest"), MARKER);
        assert_eq!(bench.states(33)[..2], torn, "{said}");
    }

    let mut bench = Bench::new(|run| {
        for rank in ["00", "01", "02", "03"] {
            write(run.join(format!("iter_0000300/mp_rank_{rank}/model_optim_rng.pt")), fixture("model.pt"));
        }
        written(run, FILES);
        for rank in ["00", "01"] {
            write(run.join(format!("iter_0000100/mp_rank_{rank}/model_optim_rng.pt")), fixture("model.pt"));
        }
        written(&run.join("iter_0000100"), LATER);
        write(run.join("latest_checkpointed_iteration.txt"), "300");
        touch(run.join("latest_checkpointed_iteration.txt"), MARKER);
    });
    bench.look(0);
    let torn = newer("mp_rank_00/model_optim_rng.pt", "latest_checkpointed_iteration.txt");
    assert_eq!(bench.states(31), [torn, State::Complete]);
}

#[test]
fn a_run_without_a_tracker_of_deepspeed() {
    let mut bench = Bench::new(|run| {
        deepspeed_states(&run.join("global_step100"));
        deepspeed_states(&run.join("global_step200"));
    });
    assert_eq!(bench.states(0), [State::Settling, State::Settling]);
    assert_eq!(bench.states(2), [State::Settling, State::Settling], "nothing says that it is finished");
    assert_eq!(bench.states(10), [State::Complete, State::Complete]);
    let rank = "global_step200/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt";
    remove(bench.run().join(rank));
    bench.look(11);
    let fewer = State::Incomplete("1 ranks wrote it, and 2 another step; no latest tells".to_owned());
    assert_eq!(bench.states(50), [State::Complete, fewer]);
    // Nobody knows of a single step whether its tracker is yet to come.
    fs::remove_dir_all(bench.run().join("global_step200")).unwrap();
    assert_eq!(bench.states(60), [State::Incomplete("latest is not there".to_owned())]);
}

#[test]
fn tags_beside_steps_of_deepspeed() {
    let mut bench = Bench::new(|run| {
        deepspeed_saved(run);
        deepspeed_states(&run.join("best"));
        written(&run.join("best"), MARKER + 10);
        write(run.join("latest"), "best");
        touch(run.join("latest"), MARKER + 20);
    });
    bench.look(0);
    assert_eq!(bench.states(31), [State::Complete, State::Complete], "saved behind the step");
    for said in ["global_step100", "global_step100/"] {
        write(bench.run().join("latest"), said);
        touch(bench.run().join("latest"), MARKER + 20);
        assert_eq!(bench.states(32), [State::Complete, State::Complete], "{said}");
    }
    // The step came after it, or the tag is not whole.
    write(bench.run().join("latest"), "best");
    touch(bench.run().join("latest"), MARKER + 20);
    let not_this = State::Incomplete("latest names best, not this one".to_owned());
    written(&bench.run().join("global_step100"), LATER);
    bench.look(33);
    assert_eq!(bench.states(70)[1], not_this);
    written(&bench.run().join("global_step100"), FILES);
    remove(bench.run().join("best/mp_rank_00_model_states.pt"));
    bench.look(80);
    assert_eq!(bench.states(120)[1], not_this);
}

/// A store that TensorStore wrote: its manifest names its data file.
#[test]
fn data_files_of_orbax_are_looked_up() {
    const DATA: &str = "100/default/d/a2c3837a83032321722f587c7c62005d";
    check(
        Layout::Orbax,
        None,
        |run| {
            write(run.join("100/default/manifest.ocdbt"), fixture("ocdbt/manifest.ocdbt"));
            write(run.join(DATA), fixture("ocdbt/d/a2c3837a83032321722f587c7c62005d"));
            write(run.join("100/_CHECKPOINT_METADATA"), r#"{"commit_timestamp_nsecs": 1795000000000000000}"#);
        },
        &[(
            "another file in its place",
            |run| fs::rename(run.join(DATA), run.join("100/default/d/00000000000000000000000000000000")).unwrap(),
            "default/d/a2c3837a83032321722f587c7c62005d is missing: default/manifest.ocdbt names it",
        )],
    );
}

#[test]
fn links_that_lead_out_are_told() {
    let elsewhere = tempfile::tempdir().unwrap();
    dcp(&elsewhere.path().join("step-7"));
    let mut bench = Bench::new(|run| {
        dcp(&run.join("a/step-100"));
        for (target, link) in [
            (Path::new("step-100"), "a/latest"),
            (Path::new("nowhere"), "a/best"),
            (elsewhere.path(), "b"),
            (&elsewhere.path().join("step-7"), "a/step-7"),
            (&elsewhere.path().join("step-7/.metadata"), "a/notes"),
        ] {
            std::os::unix::fs::symlink(target, run.join(link)).unwrap();
        }
    });
    let look = bench.scanner.look(bench.begin, bench.wall, &|_| false);
    let run = bench.run().canonicalize().unwrap();
    assert_eq!(look.links, [run.join("a/step-7"), run.join("b")]);
    assert_eq!((look.checkpoints.len(), look.trouble.len()), (1, 0));
}

#[test]
fn hostile_metadata_leads_nowhere() {
    // The names in a real file, replaced by ones of equal length.
    let hostile = |name: &[u8; 13]| {
        let mut bytes = torch_file("ranks/metadata");
        let places: Vec<usize> = bytes
            .windows(13)
            .enumerate()
            .filter(|(_, it)| *it == b"__0_0.distcp\x94" || *it == b"__1_0.distcp\x94")
            .map(|it| it.0)
            .collect();
        assert!(!places.is_empty());
        places.iter().for_each(|&at| bytes[at..at + 13].copy_from_slice(name));
        bytes
    };
    for name in [b"/etc/passwd0\x94", b"../../secret\x94", b"./../.././..\x94"] {
        let mut bench = Bench::new(|run| {
            dcp(&run.join("step-100"));
            write(run.join("step-100/.metadata"), hostile(name));
        });
        let states = bench.states(0);
        assert!(
            matches!(&states[..], [State::Writing(why)] if why.contains("which is no file beside it")),
            "{states:?}"
        );
    }
}

/// A run went on from 100, had left a part of 300 behind, wrote over 200, and was killed in it. Whatever the tracker says then
/// but 200, that is not whole.
#[test]
fn a_step_that_was_written_over_in_part_is_not_taken_under_a_torn_or_a_later_tracker() {
    const MODEL: &str = "mp_rank_00_model_states.pt";
    let rank = |rank: u32| format!("bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
    for (said, later) in [
        ("", None),
        ("global_", None),
        ("global_step250", None),
        ("global_step100", None),
        ("global_step400", Some(400)),
        ("global_step200", None),
    ] {
        let mut bench = Bench::new(|_| {});
        let run = bench.run();
        let save = |step: u64, ranks: &[u32], at: u64| {
            let directory = run.join(format!("global_step{step}"));
            for name in [MODEL.to_owned()].into_iter().chain(ranks.iter().map(|&number| rank(number))) {
                write(directory.join(&name), fixture("model.pt"));
                touch(directory.join(&name), at);
            }
        };
        save(100, &[0, 1, 2], 1000);
        save(200, &[0, 1, 2], 2000);
        save(300, &[0], 3000);
        save(200, &[0], 9000);
        later.into_iter().for_each(|step| save(step, &[0, 1, 2], 10_000));
        write(run.join("latest"), said);
        touch(run.join("latest"), if said == "global_step200" { 2000 } else { 10_001 });
        let states = named_states(&mut bench, 0);
        assert_eq!(states["global_step100"], State::Complete, "{said:?}");
        assert!(matches!(states["global_step200"], State::Incomplete(_)), "{said:?}: {states:?}");
        // Told to be whole, by times as a copy has them.
        for name in [MODEL.to_owned(), rank(0), rank(1), rank(2)] {
            touch(run.join("global_step200").join(name), 9000);
        }
        write(run.join("latest"), if later.is_some() { said } else { "global_step200" });
        touch(run.join("latest"), 10_001);
        assert_eq!(named_states(&mut bench, 200)["global_step200"], State::Complete, "{said:?}");
    }
}

/// The states of checkpoints by name, long after they were first seen so.
fn named_states(bench: &mut Bench, from: u64) -> std::collections::BTreeMap<String, State> {
    bench.look(from);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    bench.look(from + 100).into_iter().map(|checkpoint| (name(&checkpoint.path), checkpoint.state)).collect()
}

/// What a killed rotation, or a person, took from a step in the midst of a run; not of a run that begins or ceases to keep it.
#[test]
fn a_trainers_step_without_the_optimizer_that_its_neighbours_have_is_not_complete() {
    let reason = || State::Incomplete("no optimizer* is there, and the steps before and after have one".to_owned());
    for (without, refused) in [(vec![], None), (vec![1], Some(1)), (vec![0], None), (vec![2], None), (vec![0, 1], None)]
    {
        let mut bench = Bench::new(|run| {
            for step in [100, 200, 1000] {
                let directory = run.join(format!("checkpoint-{step}"));
                trainer(&directory);
                write(directory.join("trainer_state.json"), format!(r#"{{"global_step": {step}}}"#));
            }
            for at in &without {
                fs::remove_file(run.join(format!("checkpoint-{}/optimizer.pt", [100, 200, 1000][*at]))).unwrap();
            }
        });
        bench.look(0);
        let mut expected = vec![State::Complete; 3];
        if let Some(at) = refused {
            expected[at] = reason();
        }
        assert_eq!(bench.states(31), expected, "{without:?}");
    }
}
