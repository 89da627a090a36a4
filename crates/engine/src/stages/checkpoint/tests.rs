//! Real directory trees of every layout: whole, being written, and torn in each way, with the reason that has to be told.

mod accidents;
mod holes;
mod large;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::clock::monotonic;

/// A file that another library wrote.
fn fixture(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers").join(name)).unwrap()
}

fn write(path: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn cut(path: PathBuf) {
    let bytes = fs::read(&path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 10]).unwrap();
}

fn remove(path: PathBuf) {
    fs::remove_file(path).unwrap();
}

fn touch(path: PathBuf, seconds: u64) {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// A file of a checkpoint that torch wrote.
fn torch_file(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/checkpoints").join(name)).unwrap()
}

/// A checkpoint of one process, saved in the way of that name.
fn dcp_alone(directory: &Path, way: &str) {
    write(directory.join("__0_0.distcp"), torch_file(&format!("{way}/__0_0.distcp")));
    write(directory.join(".metadata"), torch_file(&format!("{way}/metadata")));
}

fn dcp(directory: &Path) {
    write(directory.join("__1_0.distcp"), torch_file("ranks/__1_0.distcp"));
    dcp_alone(directory, "ranks");
}

/// Changes the bytes of a file.
fn edit(path: PathBuf, act: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(&path).unwrap();
    act(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn megatron(run: &Path) {
    let directory = run.join("iter_0000100");
    dcp(&directory);
    write(directory.join("common.pt"), fixture("model.pt"));
    write(directory.join("metadata.json"), r#"{"sharded_backend": "torch_dist", "sharded_backend_version": 1}"#);
    write(run.join("latest_checkpointed_iteration.txt"), "100");
}

fn megatron_legacy(run: &Path) {
    for rank in ["00_000", "00_001", "01_000", "01_001"] {
        write(run.join(format!("iter_0000100/mp_rank_{rank}/model_optim_rng.pt")), fixture("model.pt"));
    }
    write(run.join("latest_checkpointed_iteration.txt"), "100");
}

fn deepspeed_states(directory: &Path) {
    for name in ["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"] {
        write(directory.join(name), fixture("model.pt"));
    }
    write(directory.join("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"), fixture("model.pt"));
}

fn deepspeed(run: &Path) {
    deepspeed_states(&run.join("global_step100"));
    write(run.join("latest"), "global_step100");
}

fn orbax(directory: &Path) {
    let manifest = crate::readers::ocdbt::example(0x0cdb_3a2a, &[1; 50]);
    write(directory.join("default/manifest.ocdbt"), manifest);
    write(directory.join("default/_METADATA"), "{}");
    write(directory.join("default/ocdbt.process_0/d/0"), "data");
    write(directory.join("default/ocdbt.process_1/d/0"), "data");
    write(
        directory.join("_CHECKPOINT_METADATA"),
        r#"{"item_handlers": {}, "commit_timestamp_nsecs": 1795000000000000000}"#,
    );
}

fn trainer(directory: &Path) {
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        write(directory.join(name), fixture("model.safetensors"));
    }
    let map = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    write(directory.join("model.safetensors.index.json"), map);
    write(directory.join("config.json"), "{}");
    write(directory.join("optimizer.pt"), fixture("model.pt"));
    write(directory.join("rng_state_0.pth"), fixture("model.pt"));
    write(directory.join("rng_state_1.pth"), fixture("model.pt"));
    write(directory.join("trainer_state.json"), r#"{"global_step": 100, "log_history": [{"loss": NaN}]}"#);
}

fn trainer_with_deepspeed(run: &Path) {
    let directory = run.join("checkpoint-100");
    write(directory.join("config.json"), "{}");
    deepspeed_states(&directory.join("global_step100"));
    write(directory.join("latest"), "global_step100");
    write(directory.join("trainer_state.json"), r#"{"global_step": 100}"#);
}

fn model(directory: &Path) {
    write(directory.join("config.json"), "{}");
    write(directory.join("model.safetensors"), fixture("model.safetensors"));
}

/// One run in a folder, looked at by a scanner whose clocks the test moves.
struct Bench {
    folder: tempfile::TempDir,
    scanner: Scanner,
    begin: Instant,
    wall: Timestamp,
}

const PACE: Pace = Pace { settle: Duration::from_secs(1), patience: Duration::from_secs(30) };

impl Bench {
    fn new(build: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        build(folder.path());
        let scanner = Scanner::new(&[folder.path().to_path_buf()], PACE).unwrap();
        Self { folder, scanner, begin: monotonic(), wall: Timestamp::now() }
    }

    fn run(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }

    /// A look so many seconds after the beginning.
    fn look(&mut self, seconds: u64) -> Vec<Checkpoint> {
        let wall = Timestamp { seconds: self.wall.seconds + seconds.cast_signed(), ..self.wall };
        let look = self.scanner.look(self.begin + Duration::from_secs(seconds), wall, &|_| false);
        assert_eq!(look.trouble, []);
        look.checkpoints
    }

    fn states(&mut self, seconds: u64) -> Vec<State> {
        self.look(seconds).into_iter().map(|checkpoint| checkpoint.state).collect()
    }
}

type Fault = (&'static str, fn(&Path), &'static str);

/// Builds a run, and for each fault one with it: the whole one is complete at the second look, each other one is being
/// written at first, and incomplete when nothing has moved for long, for the reason expected.
fn check(layout: Layout, world_size: Option<u64>, build: fn(&Path), faults: &[Fault]) {
    let mut whole = Bench::new(build);
    let first = whole.look(0);
    assert!(matches!(&first[..], [one] if one.state == State::Settling), "{layout:?}: {first:?}");
    let second = whole.look(11);
    let [one] = &second[..] else { panic!("{layout:?}: {second:?}") };
    assert_eq!((one.state.clone(), one.layout, one.step), (State::Complete, layout, Some(100)), "{layout:?}");
    assert_eq!((one.world_size, one.run.as_path()), (world_size, whole.run().canonicalize().unwrap().as_path()));
    for (what, fault, reason) in faults {
        let mut torn = Bench::new(|run| {
            build(run);
            fault(run);
        });
        let reason = (*reason).to_owned();
        assert_eq!(torn.states(0), [State::Writing(reason.clone())], "{layout:?}, {what}");
        assert_eq!(torn.states(11), [State::Writing(reason.clone())], "{layout:?}, {what}");
        assert_eq!(torn.states(31), [State::Incomplete(reason)], "{layout:?}, {what}");
    }
}

#[test]
fn distributed_checkpoints() {
    check(
        Layout::Dcp,
        Some(2),
        |run| dcp(&run.join("step-100")),
        &[
            ("no metadata", |run| remove(run.join("step-100/.metadata")), ".metadata is not there"),
            (
                "torn metadata",
                |run| cut(run.join("step-100/.metadata")),
                ".metadata is torn, or not of a distributed checkpoint",
            ),
            (
                "empty metadata",
                |run| write(run.join("step-100/.metadata"), ""),
                ".metadata is torn, or not of a distributed checkpoint",
            ),
            (
                "a part is missing",
                |run| remove(run.join("step-100/__1_0.distcp")),
                "__1_0.distcp is missing: .metadata lists it",
            ),
            (
                "a part is short",
                |run| cut(run.join("step-100/__0_0.distcp")),
                "__0_0.distcp has 1631 bytes, .metadata lists parts of it up to 1641",
            ),
            (
                "metadata being written",
                |run| write(run.join("step-100/.metadata.tmp"), "x"),
                ".metadata.tmp is there: it is being written",
            ),
            (
                "overwritten in part",
                |run| {
                    touch(run.join("step-100/.metadata"), 1000);
                    touch(run.join("step-100/__0_0.distcp"), 985);
                    touch(run.join("step-100/__1_0.distcp"), 1016);
                },
                "__1_0.distcp is newer than .metadata, others are older: it was overwritten in part (of a mere copy, touch .metadata)",
            ),
            (
                "a hole of the same length, and a newer .metadata",
                |run| {
                    edit(run.join("step-100/__1_0.distcp"), |bytes| bytes.fill(0));
                    touch(run.join("step-100/.metadata"), 4_000_000_000);
                },
                "__1_0.distcp: zeros are at 0, where a piece is listed (in .metadata)",
            ),
            (
                "a hole within",
                |run| edit(run.join("step-100/__1_0.distcp"), |bytes| bytes[1000..4096].fill(0)),
                "__1_0.distcp: what begins at 0 does not end at 1261, as is listed (in .metadata)",
            ),
            (
                "a hole at the end",
                |run| edit(run.join("step-100/__1_0.distcp"), |bytes| bytes[7000..].fill(0)),
                "__1_0.distcp: what begins at 6056 does not end at 7633, as is listed (in .metadata)",
            ),
            (
                "all parts written anew, and the old .metadata",
                |run| {
                    for part in ["step-100/__0_0.distcp", "step-100/__1_0.distcp"] {
                        write(run.join(part), torch_file("no_dist/__0_0.distcp"));
                        touch(run.join(part), 1010);
                    }
                    touch(run.join("step-100/.metadata"), 1000);
                },
                "__0_0.distcp: what begins at 0 does not end at 1641, as is listed (in .metadata)",
            ),
            (
                "pieces elsewhere",
                |run| edit(run.join("step-100/__1_0.distcp"), |bytes| drop(bytes.splice(..1261, [7; 1261]))),
                "__1_0.distcp: no piece begins at 0, where one is listed (in .metadata)",
            ),
            (
                "a piece more than the old .metadata knows",
                |run| edit(run.join("step-100/__1_0.distcp"), |bytes| bytes.extend_from_within(..1261)),
                "__1_0.distcp: it goes on behind its last piece (in .metadata)",
            ),
            (
                "no file, but a link out",
                |run| {
                    fs::rename(run.join("step-100/__1_0.distcp"), run.join("elsewhere")).unwrap();
                    std::os::unix::fs::symlink("../elsewhere", run.join("step-100/__1_0.distcp")).unwrap();
                },
                "__1_0.distcp is missing: .metadata lists it",
            ),
            (
                "nothing yet",
                |run| {
                    fs::remove_dir_all(run.join("step-100")).unwrap();
                    fs::create_dir(run.join("step-100")).unwrap();
                },
                "nothing is in it yet",
            ),
        ],
    );
}

#[test]
fn distributed_checkpoints_in_all_ways_to_save() {
    for way in ["asynchronous", "no_dist"] {
        let mut bench = Bench::new(|run| dcp_alone(&run.join("step-100"), way));
        bench.look(0);
        assert_eq!(bench.states(1), [State::Complete], "{way}");
    }
    check(
        Layout::Dcp,
        Some(1),
        |run| dcp_alone(&run.join("step-100"), "safetensors"),
        &[
            (
                "cut behind the pieces' ends",
                |run| cut(run.join("step-100/__0_0.distcp")),
                "__0_0.distcp: the header at 1261 says 1989 bytes, it has 1979 (in .metadata)",
            ),
            (
                "a hole",
                |run| edit(run.join("step-100/__0_0.distcp"), |bytes| bytes[1261..].fill(0)),
                "__0_0.distcp: zeros are at 1261, where a piece is listed (in .metadata)",
            ),
        ],
    );
    check(
        Layout::Dcp,
        Some(1),
        |run| dcp_alone(&run.join("step-100"), "extension"),
        &[(
            "a hole",
            |run| edit(run.join("step-100/__0_0.distcp"), |bytes| bytes[2594..].fill(0)),
            "__0_0.distcp: zeros are at 2594, where a piece is listed (in .metadata)",
        )],
    );
}

#[test]
fn distributed_checkpoints_in_parts() {
    let build = |run: &Path| {
        dcp(&run.join("step-100/model"));
        dcp(&run.join("step-100/optimizer"));
    };
    check(
        Layout::Dcp,
        Some(2),
        build,
        &[
            ("one of two", |run| remove(run.join("step-100/optimizer/.metadata")), "optimizer/.metadata is not there"),
            (
                "a part of one",
                |run| remove(run.join("step-100/model/__0_0.distcp")),
                "model/__0_0.distcp is missing: model/.metadata lists it",
            ),
        ],
    );
}

#[test]
fn megatron_checkpoints() {
    check(
        Layout::Megatron,
        Some(2),
        megatron,
        &[
            ("no metadata.json", |run| remove(run.join("iter_0000100/metadata.json")), "metadata.json is not there"),
            ("torn metadata.json", |run| cut(run.join("iter_0000100/metadata.json")), "metadata.json is torn"),
            ("no .metadata", |run| remove(run.join("iter_0000100/.metadata")), ".metadata is not there"),
            (
                "a short part",
                |run| cut(run.join("iter_0000100/__1_0.distcp")),
                "__1_0.distcp has 7623 bytes, .metadata lists parts of it up to 7633",
            ),
            (
                "a torn common.pt",
                |run| cut(run.join("iter_0000100/common.pt")),
                "common.pt: it has no directory at its end: it is cut short, or still being written",
            ),
            (
                "a file of the list is gone",
                |run| {
                    let list = r#"{"algorithm": "sha256", "files": {"common.pt": "00", "__9_0.distcp": "00"}}"#;
                    write(run.join("iter_0000100/integrity.json"), list);
                },
                "__9_0.distcp is missing: integrity.json lists it",
            ),
            (
                "a torn list",
                |run| write(run.join("iter_0000100/integrity.json"), r#"{"algorithm": "sha256", "files": {"#),
                "integrity.json is torn",
            ),
            (
                "no tracker",
                |run| remove(run.join("latest_checkpointed_iteration.txt")),
                "latest_checkpointed_iteration.txt is not there",
            ),
            (
                "torn tracker",
                |run| write(run.join("latest_checkpointed_iteration.txt"), ""),
                "latest_checkpointed_iteration.txt is empty: it was torn",
            ),
            (
                "old tracker",
                |run| write(run.join("latest_checkpointed_iteration.txt"), "50"),
                "latest_checkpointed_iteration.txt names 50: this one is not committed",
            ),
            (
                "tracker of what is not there",
                |run| write(run.join("latest_checkpointed_iteration.txt"), "150"),
                "latest_checkpointed_iteration.txt names 150, which is not there",
            ),
        ],
    );
    check(
        Layout::Megatron,
        Some(4),
        megatron_legacy,
        &[
            (
                "a gap",
                |run| fs::remove_dir_all(run.join("iter_0000100/mp_rank_00_001")).unwrap(),
                "mp_rank_00_001/model_optim_rng.pt is missing",
            ),
            (
                "a torn rank",
                |run| cut(run.join("iter_0000100/mp_rank_01_000/model_optim_rng.pt")),
                "mp_rank_01_000/model_optim_rng.pt: it has no directory at its end: it is cut short, or still being written",
            ),
            (
                "no tracker",
                |run| remove(run.join("latest_checkpointed_iteration.txt")),
                "latest_checkpointed_iteration.txt is not there",
            ),
        ],
    );
}

#[test]
fn deepspeed_checkpoints() {
    check(
        Layout::DeepSpeed,
        Some(2),
        deepspeed,
        &[
            ("no latest", |run| remove(run.join("latest")), "latest is not there"),
            ("torn latest", |run| write(run.join("latest"), ""), "latest is empty: it was torn"),
            (
                "latest on the step before",
                |run| write(run.join("latest"), "global_step50"),
                "latest names global_step50: this one is not committed",
            ),
            (
                "latest on nothing",
                |run| write(run.join("latest"), "global_step900"),
                "latest names global_step900, which is not there",
            ),
            (
                "no model states",
                |run| remove(run.join("global_step100/mp_rank_00_model_states.pt")),
                "no *_model_states.pt is there",
            ),
            (
                "a rank is missing",
                |run| remove(run.join("global_step100/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")),
                "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt is missing",
            ),
            (
                "a torn rank",
                |run| cut(run.join("global_step100/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt")),
                "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt: it has no directory at its end: it is cut short, or still being written",
            ),
            (
                "an empty rank",
                |run| write(run.join("global_step100/mp_rank_00_model_states.pt"), ""),
                "mp_rank_00_model_states.pt: it is empty",
            ),
        ],
    );
}

#[test]
fn orbax_checkpoints() {
    check(
        Layout::Orbax,
        Some(2),
        |run| orbax(&run.join("100")),
        &[
            (
                "temporary name",
                |run| fs::rename(run.join("100"), run.join("100.orbax-checkpoint-tmp-17")).unwrap(),
                "it still has its temporary name",
            ),
            (
                "an item with a temporary name",
                |run| fs::create_dir(run.join("100/state.orbax-checkpoint-tmp-18")).unwrap(),
                "state.orbax-checkpoint-tmp-18 is there: it is being written",
            ),
            (
                "no metadata",
                |run| remove(run.join("100/_CHECKPOINT_METADATA")),
                "neither _CHECKPOINT_METADATA nor commit_success.txt is there",
            ),
            (
                "not committed",
                |run| {
                    write(
                        run.join("100/_CHECKPOINT_METADATA"),
                        r#"{"init_timestamp_nsecs": 1, "commit_timestamp_nsecs": null}"#,
                    )
                },
                "_CHECKPOINT_METADATA has no commit time",
            ),
            ("torn metadata", |run| cut(run.join("100/_CHECKPOINT_METADATA")), "_CHECKPOINT_METADATA is torn"),
            ("torn manifest", |run| cut(run.join("100/default/manifest.ocdbt")), "default/manifest.ocdbt is torn"),
            (
                "no data",
                |run| ["0", "1"].iter().for_each(|it| remove(run.join(format!("100/default/ocdbt.process_{it}/d/0")))),
                "no data file is beside default/manifest.ocdbt",
            ),
        ],
    );
    let without_rename = |run: &Path| {
        orbax(&run.join("100"));
        remove(run.join("100/_CHECKPOINT_METADATA"));
        write(run.join("100/commit_success.txt"), "Checkpoint commit was successful");
    };
    check(Layout::Orbax, Some(2), without_rename, &[]);
}

#[test]
fn hugging_face_checkpoints() {
    check(
        Layout::HuggingFace,
        Some(2),
        |run| trainer(&run.join("checkpoint-100")),
        &[
            (
                "no state",
                |run| remove(run.join("checkpoint-100/trainer_state.json")),
                "trainer_state.json is not there",
            ),
            ("torn state", |run| cut(run.join("checkpoint-100/trainer_state.json")), "trainer_state.json is torn"),
            (
                "the state of another step",
                |run| write(run.join("checkpoint-100/trainer_state.json"), r#"{"global_step": 90}"#),
                "trainer_state.json is of step 90",
            ),
            (
                "a shard is missing",
                |run| remove(run.join("checkpoint-100/model-00002-of-00002.safetensors")),
                "model-00002-of-00002.safetensors is missing: model.safetensors.index.json lists it",
            ),
            (
                "a shard is cut",
                |run| cut(run.join("checkpoint-100/model-00001-of-00002.safetensors")),
                "model-00001-of-00002.safetensors: its header says 1180 bytes, it has 1170",
            ),
            (
                "no index",
                |run| remove(run.join("checkpoint-100/model.safetensors.index.json")),
                "model.safetensors.index.json is not there",
            ),
            (
                "torn index",
                |run| cut(run.join("checkpoint-100/model.safetensors.index.json")),
                "model.safetensors.index.json is torn",
            ),
            (
                "a rank is missing",
                |run| remove(run.join("checkpoint-100/rng_state_0.pth")),
                "rng_state_0.pth is missing",
            ),
            (
                "zeros after a power cut",
                |run| write(run.join("checkpoint-100/optimizer.pt"), [0; 4096]),
                "optimizer.pt: it begins with zeros",
            ),
            (
                "the staging directory",
                |run| fs::rename(run.join("checkpoint-100"), run.join("tmp-checkpoint-100")).unwrap(),
                "it still has its temporary name",
            ),
            (
                "a link to a cache",
                |run| {
                    write(run.join("cache/blob"), "bytes");
                    std::os::unix::fs::symlink("../cache/blob", run.join("checkpoint-100/tokenizer.json")).unwrap();
                },
                "tokenizer.json is a link that leads out of it: what it names would not be stored",
            ),
        ],
    );
    check(
        Layout::HuggingFace,
        Some(2),
        trainer_with_deepspeed,
        &[
            ("no latest", |run| remove(run.join("checkpoint-100/latest")), "latest is not there"),
            ("torn latest", |run| write(run.join("checkpoint-100/latest"), ""), "latest is empty or can't be read"),
            (
                "latest of another step",
                |run| write(run.join("checkpoint-100/latest"), "global_step90"),
                "latest names global_step90, but global_step100 is there",
            ),
        ],
    );
}

#[test]
fn plain_files_and_directories() {
    check(
        Layout::Plain,
        None,
        |run| write(run.join("step-000100.safetensors"), fixture("model.safetensors")),
        &[
            (
                "cut",
                |run| cut(run.join("step-000100.safetensors")),
                "step-000100.safetensors: its header says 1180 bytes, it has 1170",
            ),
            (
                "temporary name",
                |run| fs::rename(run.join("step-000100.safetensors"), run.join("step-000100.safetensors.tmp")).unwrap(),
                "it still has its temporary name",
            ),
            ("empty", |run| write(run.join("step-000100.safetensors"), ""), "step-000100.safetensors: it is empty"),
        ],
    );
    check(
        Layout::Plain,
        None,
        |run| write(run.join("checkpoint_100.pt"), fixture("model.pt")),
        &[
            (
                "cut",
                |run| cut(run.join("checkpoint_100.pt")),
                "checkpoint_100.pt: it has no directory at its end: it is cut short, or still being written",
            ),
            (
                "of a format that does not tell",
                |run| write(run.join("checkpoint_100.pt"), b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."),
                "its format does not tell whether it is whole",
            ),
        ],
    );
    check(
        Layout::Plain,
        None,
        |run| write(run.join("step-100/weights.safetensors"), fixture("model.safetensors")),
        &[(
            "cut",
            |run| cut(run.join("step-100/weights.safetensors")),
            "weights.safetensors: its header says 1180 bytes, it has 1170",
        )],
    );
}

#[test]
fn a_model_is_a_checkpoint_without_a_step() {
    let mut bench = Bench::new(|run| model(&run.join("bert")));
    bench.look(0);
    let found = bench.look(11);
    assert_eq!((found.len(), found[0].step, found[0].layout), (1, None, Layout::HuggingFace));
    assert_eq!(found[0].state, State::Complete);
}

#[test]
fn what_has_no_marker_must_rest_longer() {
    // A directory of plain files, a file with a header, one with an end, a Trainer's checkpoint: at rest for 2 and for 10 seconds.
    let mut bench = Bench::new(|run| {
        write(run.join("step-1/weights.safetensors"), fixture("model.safetensors"));
        write(run.join("step-2.safetensors"), fixture("model.safetensors"));
        write(run.join("step-3.pt"), fixture("model.pt"));
        trainer(&run.join("checkpoint-100"));
    });
    bench.look(0);
    assert_eq!(bench.states(0), vec![State::Settling; 4], "no time has passed");
    assert_eq!(bench.states(2), [State::Settling, State::Settling, State::Complete, State::Complete]);
    assert_eq!(bench.states(10), vec![State::Complete; 4]);
}

#[test]
fn a_change_begins_the_wait_anew() {
    let mut bench = Bench::new(|run| dcp(&run.join("step-100")));
    bench.look(0);
    write(bench.run().join("step-100/notes.txt"), "more");
    assert_eq!(bench.states(5), [State::Settling]);
    assert_eq!(bench.states(6), [State::Complete]);
    let complete = bench.look(7).remove(0);
    complete.still_the_same().unwrap();
    cut(bench.run().join("step-100/__0_0.distcp"));
    let error = complete.still_the_same().unwrap_err();
    assert!(error.to_string().contains("step-100/__0_0.distcp"), "{error}");
    assert!(matches!(&bench.states(8)[..], [State::Writing(_)]));
    assert!(matches!(&bench.states(37)[..], [State::Writing(_)]), "seen to change 29 seconds ago");
    assert!(matches!(&bench.states(38)[..], [State::Incomplete(_)]));
    fs::remove_dir_all(bench.run().join("step-100")).unwrap();
    assert_eq!(bench.states(39), []);
    assert!(complete.still_the_same().is_err());
}

#[test]
fn times_of_another_machine_do_not_keep_it_waiting() {
    let mut bench = Bench::new(|run| write(run.join("step-100/.metadata"), "torn"));
    bench.wall.seconds -= 3600;
    assert!(matches!(&bench.states(0)[..], [State::Writing(_)]));
    assert!(matches!(&bench.states(31)[..], [State::Incomplete(_)]));
    let mut old = Bench::new(|run| write(run.join("step-100/.metadata"), "torn"));
    old.wall.seconds += 3600;
    assert!(matches!(&old.states(0)[..], [State::Incomplete(_)]), "nothing changed for an hour");
}

#[test]
fn steps_before_a_torn_tracker_stay_complete() {
    let mut bench = Bench::new(|run| {
        deepspeed(run);
        deepspeed_states(&run.join("global_step200"));
    });
    bench.look(0);
    let reason = "latest names global_step100: this one is not committed".to_owned();
    assert_eq!(bench.states(31), [State::Complete, State::Incomplete(reason)]);
    write(bench.run().join("latest"), "");
    let reason = "latest is empty: it was torn".to_owned();
    assert_eq!(bench.states(33), [State::Complete, State::Incomplete(reason)]);
    write(bench.run().join("latest"), "global_step200");
    assert_eq!(bench.states(35), [State::Complete, State::Complete]);
}

#[test]
fn what_is_known_is_not_opened() {
    let mut bench = Bench::new(|run| dcp(&run.join("step-100")));
    let known = bench.look(0).remove(0).fingerprint;
    let path = bench.run().join("step-100/__0_0.distcp");
    let (begin, wall) = (bench.begin, bench.wall);
    let mut look =
        || bench.scanner.look(begin, wall, &|checkpoint| checkpoint.fingerprint == known).checkpoints.remove(0);
    assert_eq!(look().state, State::Known);
    cut(path);
    assert!(matches!(look().state, State::Writing(_)), "another size is another checkpoint");
}
