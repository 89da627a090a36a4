//! Checkpoints as units, and `watch`: which are kept, which are told of, and that a torn one never is.
//!
//! Writers and readers of a test wait for each other's files and lines of output, never for time to pass.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::world::{World, ended};

/// A file that another library wrote.
fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers").join(name)).unwrap()
}

pub fn repository() -> World {
    let world = World::new();
    world.ok(["init", "-r", "repo", "--key-file", "seawall.key"]);
    world
}

/// The parts of a Trainer's checkpoint in the order in which they are written.
pub fn parts(step: u64) -> Vec<(String, Vec<u8>)> {
    let map = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let part = |name: &str, bytes: Vec<u8>| (format!("runs/a/checkpoint-{step}/{name}"), bytes);
    vec![
        part("config.json", b"{}".to_vec()),
        part("model.safetensors.index.json", map.as_bytes().to_vec()),
        part("model-00001-of-00002.safetensors", fixture("model.safetensors")),
        part("model-00002-of-00002.safetensors", fixture("model.safetensors")),
        part("optimizer.pt", fixture("model.pt")),
        part("rng_state_0.pth", fixture("model.pt")),
        part("rng_state_1.pth", fixture("model.pt")),
        part("trainer_state.json", format!("{{\"global_step\": {step}}}").into_bytes()),
    ]
}

pub fn write_checkpoint(world: &World, step: u64) {
    parts(step).iter().for_each(|(name, bytes)| world.write(name, bytes));
}

pub fn snapshots(world: &World) -> Vec<Value> {
    let lines = world.open(["snapshots", "--json"]).expect(0).json();
    lines.into_iter().filter(|line| line["type"] == "snapshot").collect()
}

fn label<'s>(snapshot: &'s Value, name: &str) -> Option<&'s str> {
    let labels = snapshot["labels"].as_array().unwrap();
    labels.iter().find(|label| label[0] == name)?[1].as_str()
}

fn of_state<'l>(lines: &'l [Value], state: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["type"] == "checkpoint" && line["state"] == state).collect()
}

/// All files of a checkpoint come back as they are.
pub fn assert_restores(world: &World, snapshot: &Value, step: u64) {
    let target = format!("back-{step}");
    let place =
        format!("{}:{}", snapshot["id"].as_str().unwrap(), world.path(format!("runs/a/checkpoint-{step}")).display());
    world.open_ok(["restore", &place, "--target", &target]);
    for (name, _) in parts(step) {
        let restored = world.path(&target).join(name.rsplit('/').next().unwrap());
        assert!(std::fs::read(restored).unwrap() == std::fs::read(world.path(&name)).unwrap(), "{name}");
    }
    std::fs::remove_dir_all(world.path(&target)).unwrap();
}

const TAKE: [&str; 6] = ["backup", "--checkpoints", "runs", "--settle", "50ms", "--wait"];

/// One `backup --checkpoints`.
fn take(world: &World, more: &[&str]) -> super::world::Ended {
    world.open(TAKE.into_iter().chain(["0"]).chain(["--json"]).chain(more.iter().copied()))
}

#[test]
fn complete_checkpoints_become_snapshots_and_torn_ones_are_told() {
    let world = repository();
    write_checkpoint(&world, 200);
    write_checkpoint(&world, 100);
    write_checkpoint(&world, 300);
    std::fs::remove_file(world.path("runs/a/checkpoint-300/trainer_state.json")).unwrap();
    let first = take(&world, &["--label", "loss=0.31"]).expect(3);
    let lines = first.json();
    assert_eq!(
        of_state(&lines, "durable").iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [100, 200]
    );
    let left: Vec<&Value> = of_state(&lines, "incomplete").into_iter().chain(of_state(&lines, "writing")).collect();
    assert_eq!((left.len(), left[0]["reason"].as_str()), (1, Some("trainer_state.json is not there")));
    let summary = first.summary();
    assert_eq!((summary["durable"].as_u64(), summary["incomplete"].as_u64()), (Some(2), Some(1)));

    let kept = snapshots(&world);
    let run = world.path("runs/a");
    for (snapshot, step) in kept.iter().zip([100, 200]) {
        for (name, expected) in [
            ("checkpoint.run", run.to_str().unwrap()),
            ("checkpoint.step", &step.to_string()),
            ("checkpoint.layout", "hugging-face"),
            ("checkpoint.world-size", "2"),
            ("checkpoint.state", "complete"),
            ("loss", "0.31"),
        ] {
            assert_eq!(label(snapshot, name), Some(expected), "{name} of step {step}");
        }
        assert_eq!(snapshot["paths"][0]["path"], run.join(format!("checkpoint-{step}")).to_str().unwrap());
        assert_restores(&world, snapshot, step);
    }
    assert_eq!(kept[1]["parent"], kept[0]["id"], "the step before");

    // Nothing new: nothing is taken again.
    let second = take(&world, &[]).expect(3).summary();
    assert_eq!((second["durable"].as_u64(), second["known"].as_u64()), (Some(0), Some(2)));

    // By force, with the reason; once.
    for durable in [1, 0] {
        let forced = take(&world, &["--force-incomplete"]).expect(3).summary();
        assert_eq!(forced["durable"].as_u64(), Some(durable));
    }
    let forced = snapshots(&world).pop().unwrap();
    assert_eq!(label(&forced, "checkpoint.state"), Some("incomplete"));
    assert_eq!(label(&forced, "checkpoint.reason"), Some("trainer_state.json is not there"));

    // Finished, and one written anew under its old step.
    write_checkpoint(&world, 300);
    world.write("runs/a/checkpoint-200/optimizer.pt", &fixture("protocol4.pt"));
    let third = take(&world, &[]).expect(0);
    assert_eq!(
        of_state(&third.json(), "durable").iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [200, 300]
    );
    let all = snapshots(&world);
    assert_eq!(all[3]["parent"], kept[1]["id"], "the same step as it was before");
    assert_restores(&world, &all[3], 200);
    assert_eq!(take(&world, &[]).expect(0).summary()["known"].as_u64(), Some(3));

    // What was forgotten is not taken again because it still lies there.
    world.open_ok(["forget", all[0]["id"].as_str().unwrap()]);
    assert_eq!(take(&world, &[]).expect(0).summary()["durable"].as_u64(), Some(0));
}

/// Files of a step, those of them that a deletion which was killed took away, and the reason to be told.
type HalfDeleted = (Vec<(String, Vec<u8>)>, Vec<String>, &'static str);

/// One for each layout whose evidence does not ask for what has gone.
fn half_deleted() -> [HalfDeleted; 3] {
    let part = |name: String| (name, fixture("model.pt"));
    let optimizer = |rank| format!("runs/a/global_step100/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
    let rank = |rank| format!("runs/a/iter_0000100/mp_rank_0{rank}/model_optim_rng.pt");
    let tracker = |name: &str, bytes: &str| (format!("runs/a/{name}"), bytes.as_bytes().to_vec());
    let states = part("runs/a/global_step100/mp_rank_00_model_states.pt".to_owned());
    let deepspeed = (0..4).map(|rank| part(optimizer(rank))).chain([states, tracker("latest", "global_step100")]);
    let megatron = (0..4).map(|it| part(rank(it))).chain([tracker("latest_checkpointed_iteration.txt", "100")]);
    [
        (parts(100), vec!["runs/a/checkpoint-100/optimizer.pt".to_owned()], "1 file that snapshot S has is gone"),
        (deepspeed.collect(), (2..4).map(optimizer).collect(), "2 files that snapshot S has are gone"),
        (megatron.collect(), (2..4).map(rank).collect(), "2 files that snapshot S has are gone"),
    ]
}

/// A rotation that is killed leaves what asks for nothing that is gone: fewer ranks, no optimizer.
#[test]
fn what_is_left_of_a_kept_checkpoint_is_not_taken() {
    for (files, gone, reason) in half_deleted() {
        let world = repository();
        files.iter().for_each(|(name, bytes)| world.write(name, bytes));
        assert_eq!(take(&world, &[]).expect(0).summary()["durable"].as_u64(), Some(1));
        for name in &gone {
            std::fs::remove_file(world.path(name)).unwrap();
            let _ = std::fs::remove_dir(world.path(name).parent().unwrap());
        }
        let kept = snapshots(&world);
        let reason = reason.replace('S', &kept[0]["id"].as_str().unwrap()[..8]) + ": it is being deleted";
        for forgotten in [false, true] {
            if forgotten {
                world.open_ok(["forget", kept[0]["id"].as_str().unwrap()]);
            }
            let ended = take(&world, &[]).expect(3);
            let left: Vec<Value> = of_state(&ended.json(), "incomplete").into_iter().cloned().collect();
            assert_eq!((left.len(), left[0]["reason"].as_str()), (1, Some(&*reason)), "{left:?}");
            assert_eq!(ended.summary()["durable"].as_u64(), Some(0));
        }
        // By fewer ranks, and written anew since: another checkpoint, and no remainder.
        let later = std::time::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000);
        for (name, _) in files.iter().filter(|(name, _)| !gone.contains(name)) {
            std::fs::File::options().write(true).open(world.path(name)).unwrap().set_modified(later).unwrap();
        }
        assert_eq!(take(&world, &[]).expect(0).summary()["durable"].as_u64(), Some(1), "{gone:?}");
    }
}

#[test]
fn arguments_that_do_not_fit_and_directories_without_checkpoints() {
    let world = repository();
    write_checkpoint(&world, 100);
    let dry = take(&world, &["--dry-run"]).expect(0);
    assert_eq!(of_state(&dry.json(), "would-be-kept").len(), 1);
    assert_eq!(snapshots(&world).len(), 0);
    for wrong in [
        &["backup", "--checkpoints", "runs", "--exclude", "*.pt"][..],
        &["backup", "--checkpoints"],
        &["backup", "runs", "--force-incomplete"],
        &["backup", "runs", "--wait", "1s"],
        &["watch"],
        &["watch", "runs", "--interval", "often"],
    ] {
        world.open(wrong.iter().copied()).expect(2);
    }
    std::fs::create_dir(world.path("empty")).unwrap();
    world.open(["backup", "--checkpoints", "empty"]).expect(3);
    world.open(["backup", "--checkpoints", "missing"]).expect(1);
    // A repository in a checkpoint, and a checkpoint in a repository.
    world.write("repo/step-7/model.safetensors", &fixture("model.safetensors"));
    world.open(["backup", "--checkpoints", "repo/step-7", "--settle", "20ms"]).expect(2);
}

/// A `watch` that runs beside the test.
pub struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Watch {
    pub fn start(world: &World, more: &[&str]) -> Self {
        let fixed = ["-r", "repo", "--key-file", "seawall.key", "--json", "watch", "runs", "--settle", "50ms"];
        Self::spawn(world.command(fixed.iter().chain(more)))
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that fits; none of the lines before it may say that something is durable, unless wanted.
    pub fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended before {what}")).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if fits(&line) {
                return line;
            }
            assert!(line["state"] != "durable", "waiting for {what}: {line}");
        }
    }

    /// So many further scans, in which nothing became durable.
    pub fn scans(&mut self, count: usize) {
        for _ in 0..count {
            self.wait_for("a scan", |line| line["type"] == "scan");
        }
    }

    pub fn durable(&mut self, step: u64) -> Value {
        self.wait_for("a durable step", |line| line["state"] == "durable" && line["step"] == step)
    }

    /// Ends it as an init system does; gives its summary.
    pub fn terminate(self) -> Value {
        self.end(Signal::SIGTERM)
    }

    /// Tells it to end; gives its summary. It ends well, with 0: to be told so is how a watch ends.
    fn end(mut self, signal: Signal) -> Value {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        let summary = self.wait_for("the summary", |line| line["type"] == "summary");
        assert!(self.child.wait().unwrap().success());
        summary
    }
}

impl Drop for Watch {
    /// A test that failed leaves nothing running.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_keeps_a_slowly_written_checkpoint_only_when_it_is_finished() {
    for more in [&["--interval", "100ms", "--no-inotify"][..], &["--interval", "1h"]] {
        let world = repository();
        std::fs::create_dir_all(world.path("runs/a")).unwrap();
        let mut watch = Watch::start(&world, more);
        watch.scans(1);
        // Each part is there by half for at least one whole scan, then whole for another.
        for (name, bytes) in &parts(100) {
            world.write(name, &bytes[..bytes.len() / 2]);
            watch.scans(2);
            if name.ends_with("trainer_state.json") {
                assert_eq!(snapshots(&world).len(), 0);
            }
            world.write(name, bytes);
            if !name.ends_with("trainer_state.json") {
                watch.scans(2);
            }
        }
        let line = watch.durable(100);
        assert_eq!(line["layout"], "hugging-face");
        assert!(line["durable_seconds"].as_f64().unwrap() >= 0.0);
        let rpo = watch.wait_for("the state of the run", |line| line["type"] == "rpo");
        assert_eq!((rpo["durable_step"].as_u64(), rpo["steps_at_risk"].as_u64()), (Some(100), Some(0)));
        let summary = watch.terminate();
        assert_eq!((summary["code"].as_str(), summary["durable"].as_u64()), (Some("ok"), Some(1)));
        let kept = snapshots(&world);
        assert_eq!(kept.len(), 1);
        assert_restores(&world, &kept[0], 100);
    }
}

#[test]
fn a_watch_that_was_killed_goes_on() {
    let world = repository();
    write_checkpoint(&world, 100);
    let mut watch = Watch::start(&world, &["--interval", "100ms"]);
    watch.durable(100);
    watch.child.kill().unwrap();
    watch.child.wait().unwrap();
    write_checkpoint(&world, 200);
    let mut again = Watch::start(&world, &["--interval", "100ms", "--gpus", "8"]);
    again.durable(200);
    let rpo = again.wait_for("the state of the run", |line| line["type"] == "rpo");
    assert_eq!(rpo["durable"].as_u64(), Some(2));
    let (age, hours) = (rpo["age_seconds"].as_f64().unwrap(), rpo["gpu_hours_at_risk"].as_f64().unwrap());
    assert!((hours - age * 8.0 / 3600.0).abs() < 1e-9, "{rpo}");
    assert_eq!(again.terminate()["durable"].as_u64(), Some(1), "what the killed one had committed is not taken again");
    assert_eq!(snapshots(&world).len(), 2);
    world.open_ok(["verify", "--read-data"]);
}

/// Ctrl-C while it waits, and while a checkpoint is half there: what was committed stays, and the next watch goes on from there.
#[test]
fn an_interrupted_watch_ends_well_and_the_next_goes_on() {
    let world = repository();
    write_checkpoint(&world, 100);
    let mut watch = Watch::start(&world, &["--interval", "1h"]);
    watch.durable(100);
    let half = parts(200);
    half[..4].iter().for_each(|(name, bytes)| world.write(name, bytes));
    watch.wait_for("the half checkpoint", |line| line["type"] == "scan" && line["checkpoints"] == 2);
    let summary = watch.end(Signal::SIGINT);
    assert_eq!((summary["code"].as_str(), summary["durable"].as_u64()), (Some("ok"), Some(1)), "{summary}");
    let kept = snapshots(&world);
    assert_eq!(kept.len(), 1);
    assert_restores(&world, &kept[0], 100);
    write_checkpoint(&world, 200);
    let mut again = Watch::start(&world, &["--interval", "100ms"]);
    again.durable(200);
    assert_eq!(again.end(Signal::SIGINT)["durable"].as_u64(), Some(1));
    assert_eq!(snapshots(&world).len(), 2);
    world.open_ok(["verify", "--read-data"]);
}

#[test]
fn a_watch_waits_for_directories_that_come_later_and_tells_metrics() {
    let world = repository();
    let mut watch = Watch::start(&world, &["--interval", "50ms", "--metrics", "seawall.prom"]);
    watch.wait_for("that nothing is there", |line| line["type"] == "problem");
    write_checkpoint(&world, 100);
    watch.durable(100);
    watch.wait_for("the state of the run", |line| line["type"] == "rpo" && line["durable"] == 1);
    watch.wait_for("the state written after it", |line| line["type"] == "rpo" && line["durable"] == 1);
    let text = std::fs::read_to_string(world.path("seawall.prom")).unwrap();
    let run = world.path("runs/a");
    for line in
        ["step", "newest_step", "steps_at_risk", "age_seconds", "gpu_hours_at_risk", "durable_seconds", "durable_total"]
    {
        let name = format!("seawall_checkpoint_{line}{{run=\"{}\"}} ", run.display());
        assert!(text.contains(&name), "{name} is not in\n{text}");
    }
    watch.terminate();
}

#[test]
fn one_scan_for_cron() {
    let world = repository();
    write_checkpoint(&world, 100);
    write_checkpoint(&world, 200);
    std::fs::write(world.path("runs/a/checkpoint-200/optimizer.pt"), b"").unwrap();
    let scan = || world.open(["watch", "runs", "--once", "--settle", "50ms", "--json"]);
    let first = scan().expect(3);
    let lines = first.json();
    assert_eq!((of_state(&lines, "durable").len(), of_state(&lines, "writing").len()), (1, 1), "{lines:?}");
    write_checkpoint(&world, 200);
    let second = scan().expect(0);
    assert_eq!(of_state(&second.json(), "durable").len(), 1);
    assert_eq!(scan().expect(0).summary()["durable"].as_u64(), Some(0));
    assert_eq!(snapshots(&world).len(), 2);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_run_that_cant_be_listed_is_a_problem_and_a_link_is_noted() {
    let world = repository();
    write_checkpoint(&world, 100);
    std::fs::create_dir_all(world.path("runs/shut/checkpoint-7")).unwrap();
    std::fs::create_dir_all(world.path("fast/checkpoint-8")).unwrap();
    symlink(world.path("fast"), world.path("runs/fast")).unwrap();
    symlink("checkpoint-100", world.path("runs/a/latest")).unwrap();
    let command = |more: &[&str]| {
        world.command(
            ["-r", "repo", "--key-file", "seawall.key"].iter().chain(more).chain(["--settle", "50ms", "--json"].iter()),
        )
    };
    let mut commands =
        [command(&["backup", "--checkpoints", "runs", "--wait", "0"]), command(&["watch", "runs", "--once"])];
    if !commands.iter_mut().all(|command| world.become_ordinary(command)) {
        println!("skipped: running as root and no user to become");
        return;
    }
    let shut = world.path("runs/shut");
    set_mode(&shut, 0o000);
    let ends = commands.map(|mut command| ended(command.output().unwrap()));
    set_mode(&shut, 0o700);
    for (ended, durable) in ends.into_iter().zip([1, 0]) {
        let ended = ended.expect(3);
        let lines = ended.json();
        let problems: Vec<&Value> = lines.iter().filter(|line| line["type"] == "problem").collect();
        assert_eq!(problems.len(), 1, "{lines:?}");
        assert_eq!(problems[0]["subject"], shut.to_str().unwrap());
        assert!(problems[0]["what"].as_str().unwrap().contains("Permission denied"), "{}", problems[0]);
        let notes: Vec<&str> =
            lines.iter().filter(|line| line["type"] == "note").filter_map(|line| line["text"].as_str()).collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with(world.path("runs/fast").to_str().unwrap()), "{notes:?}");
        assert_eq!(ended.summary()["durable"], durable);
    }
}

#[test]
fn a_checkpoint_that_cant_be_read_is_tried_again_and_kept_when_it_can() {
    let world = repository();
    write_checkpoint(&world, 100);
    world.write("runs/a/checkpoint-100/dataloader.state", b"state");
    let fixed = ["-r", "repo", "--key-file", "seawall.key", "--json", "watch", "runs", "--settle", "50ms"];
    let mut command = world.command(fixed.iter().chain(&["--interval", "50ms"]));
    if !world.become_ordinary(&mut command) {
        println!("skipped: running as root and no user to become");
        return;
    }
    let state = world.path("runs/a/checkpoint-100/dataloader.state");
    set_mode(&state, 0o000);
    let mut watch = Watch::spawn(command);
    for times in 1..=3 {
        let line = watch.wait_for("a failure", |line| line["state"] == "discarded");
        assert_eq!(line["failures"], times, "{line}");
        assert!(line["next_seconds"].as_f64().unwrap() <= 0.5, "{line}");
    }
    // Its names, sizes and times of modification stay as they are.
    set_mode(&state, 0o600);
    let scans = std::cell::Cell::new(0);
    watch.wait_for("a durable step", |line| {
        scans.set(scans.get() + u32::from(line["type"] == "scan"));
        assert!(scans.get() < 500, "it was given up");
        line["state"] == "durable"
    });
    let summary = watch.terminate();
    assert_eq!(summary["durable"], 1, "{summary}");
}

/// Longer than what is in flight, so that the reading is not over when the first pack lies there.
const LARGE_BYTES: usize = 192 << 20;
/// A watch that reads so slowly.
const SLOWLY: [&str; 6] = ["--interval", "100ms", "--memory", "32MiB", "--threads", "1"];

/// Writes a file that no format rules out and that does not compress into a checkpoint; gives its name and bytes.
fn write_large(world: &World, step: u64) -> (String, Vec<u8>) {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ step;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let bytes: Vec<u8> = (0..LARGE_BYTES / 8).flat_map(|_| random()).collect();
    let name = format!("runs/a/checkpoint-{step}/dataloader.state");
    world.write(&name, &bytes);
    (name, bytes)
}

/// How many packs lie in the repository.
fn packs(world: &World) -> usize {
    let count = |path: PathBuf| std::fs::read_dir(path).map_or(0, Iterator::count);
    let sessions = std::fs::read_dir(world.path("repo/pack")).into_iter().flatten().flatten();
    sessions.map(|session| count(session.path())).sum()
}

fn wait_for_a_pack(world: &World) {
    let before = packs(world);
    while packs(world) == before {
        std::thread::yield_now();
    }
}

fn assert_stored(world: &World, name: &str, bytes: &[u8]) {
    let place = format!("latest:{}", world.path(name).display());
    let stored = world.command(["-r", "repo", "--key-file", "seawall.key", "cat", &place]).output().unwrap().stdout;
    assert!(stored == bytes, "{name}");
}

#[test]
fn a_watch_that_is_killed_while_it_reads_goes_on() {
    let world = repository();
    write_checkpoint(&world, 100);
    let (name, bytes) = write_large(&world, 100);
    let mut watch = Watch::start(&world, &SLOWLY);
    wait_for_a_pack(&world);
    watch.child.kill().unwrap();
    watch.child.wait().unwrap();
    assert_eq!(snapshots(&world).len(), 0);
    let mut again = Watch::start(&world, &SLOWLY);
    again.durable(100);
    again.terminate();
    let kept = snapshots(&world);
    assert_eq!(kept.len(), 1);
    assert!(kept[0]["bytes_stored"].as_u64().unwrap() < LARGE_BYTES as u64, "it adopts what was stored: {}", kept[0]);
    assert_stored(&world, &name, &bytes);
}

#[test]
fn a_checkpoint_that_changes_while_it_is_read_is_discarded_and_taken_again() {
    let world = repository();
    write_checkpoint(&world, 100);
    let (name, mut bytes) = write_large(&world, 100);
    let mut watch = Watch::start(&world, &SLOWLY);
    let pid = Pid::from_raw(watch.child.id().cast_signed());
    wait_for_a_pack(&world);
    kill(pid, Signal::SIGSTOP).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    world.write(&name, &bytes);
    kill(pid, Signal::SIGCONT).unwrap();
    let line = watch.wait_for("the discarded attempt", |line| line["state"] == "discarded");
    assert!(line["reason"].as_str().unwrap().contains("checkpoint-100"), "{line}");
    watch.durable(100);
    let summary = watch.terminate();
    assert_eq!((summary["durable"].as_u64(), summary["discarded"].as_u64()), (Some(1), Some(1)));
    let kept = snapshots(&world);
    assert_eq!(kept.len(), 1, "nothing was committed of the torn attempt");
    // What the first attempt had stored served the second.
    assert!(kept[0]["bytes_stored"].as_u64().unwrap() < (LARGE_BYTES - (2 << 20)) as u64, "{}", kept[0]);
    assert_stored(&world, &name, &bytes);
}

/// A key that may only add copies a checkpoint's labels onto a snapshot of junk. Only what this key's own member or an owner
/// signed makes a checkpoint known, and durable.
#[test]
fn labels_that_another_member_copied_make_nothing_known() {
    let world = repository();
    world.open_ok(["key", "add", "--role", "member", "--label", "evil", "--new-key-file", "evil.key"]);
    world.open_ok(["key", "add", "--role", "member", "--label", "victim", "--new-key-file", "victim.key"]);
    write_checkpoint(&world, 100);
    // What the fingerprint of the files is, the victim's own snapshot tells.
    let host = ["--host", "victim"];
    take(&world, &host).expect(0);
    let own = snapshots(&world).pop().unwrap();
    world.open_ok(["forget", own["id"].as_str().unwrap()]);
    world.open_ok(["prune", "--window", "0"]);
    world.write("junk", b"junk");
    let mut forged = vec!["-r", "repo", "--key-file", "evil.key", "backup", "junk", "--host", "victim"];
    let labels: Vec<String> = own["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|label| format!("{}={}", label[0].as_str().unwrap(), label[1].as_str().unwrap()))
        .collect();
    forged.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
    world.run(forged).expect(0);

    for (key, more) in [("victim.key", &["watch", "runs", "--once", "--settle", "50ms"][..]), ("seawall.key", &[])] {
        let command = if more.is_empty() { &TAKE[..5] } else { more };
        let fixed = ["-r", "repo", "--key-file", key, "--json"];
        let ended = world.run(fixed.iter().chain(command).chain(&host)).expect(0);
        let lines = ended.json();
        assert_eq!(of_state(&lines, "durable").len(), 1, "{key}: {}", ended.stdout);
        for rpo in lines.iter().filter(|line| line["type"] == "rpo" && line["durable"] != 0) {
            assert_eq!(rpo["durable"], 1, "{key}: the forged one does not count");
        }
        // Of the same key, it is known now.
        let again = world.run(fixed.iter().chain(command).chain(&host)).expect(0);
        assert_eq!(of_state(&again.json(), "durable").len(), 0, "{key}");
    }
    let place = format!("latest:{}", world.path("runs/a/checkpoint-100").display());
    world.open_ok(["restore", &place, "--target", "back"]);
    assert!(std::fs::read(world.path("back/optimizer.pt")).unwrap() == fixture("model.pt"));
}

/// A checkpoint with a file besides that is stored in a pack of its own; the others are short, or shared with other steps.
fn write_with_noise(world: &World, step: u64) {
    write_checkpoint(world, step);
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ step;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let bytes: Vec<u8> = (0..300_000).map(|_| random()).collect();
    world.write(&format!("runs/a/checkpoint-{step}/dataloader.state"), &bytes);
}

/// The longest pack that is not among `others`.
fn longest_pack(world: &World, others: &[PathBuf]) -> PathBuf {
    let all = every_pack(world).into_iter().filter(|pack| !others.contains(pack));
    all.max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap()
}

fn every_pack(world: &World) -> Vec<PathBuf> {
    let below = |path: PathBuf| std::fs::read_dir(path).unwrap().map(|item| item.unwrap().path());
    below(world.path("repo/pack")).flat_map(below).collect()
}

/// What is left after a repair does not count: neither as known, nor before a whole one.
#[test]
fn a_checkpoint_of_which_a_repair_left_a_part_is_taken_again() {
    let world = repository();
    write_with_noise(&world, 100);
    take(&world, &[]).expect(0);
    let first = snapshots(&world).pop().unwrap();
    std::fs::remove_file(longest_pack(&world, &[])).unwrap();
    world.open(["verify"]).expect(13);
    world.open_ok(["repair", "--drop", "--yes"]);
    let repaired = snapshots(&world).pop().unwrap();
    assert_eq!(label(&repaired, "checkpoint.state"), Some("incomplete"));
    assert!(repaired["files"].as_u64() < first["files"].as_u64());

    assert_eq!(take(&world, &[]).expect(0).summary()["durable"].as_u64(), Some(1));
    assert_eq!(take(&world, &[]).expect(0).summary()["known"].as_u64(), Some(1));
    world.open_ok(["forget", "--run-last", "1"]);
    let left = snapshots(&world);
    assert!(left.iter().any(|snapshot| snapshot["files"] == first["files"]), "{left:?}");
    assert_restores(&world, left.iter().find(|snapshot| snapshot["files"] == first["files"]).unwrap(), 100);
}

/// What `verify` found damaged is not known and not durable until it is taken again. A key that can read trees sees which
/// checkpoints are hit; to one that only adds, all older ones may be.
#[test]
fn a_damaged_checkpoint_does_not_count_until_it_is_taken_again() {
    for (key, hit, rest) in [("seawall.key", 1, 1), ("host.key", 2, 0)] {
        let world = repository();
        world.open_ok(["key", "add", "--role", "member", "--label", "host", "--new-key-file", "host.key"]);
        let run = |arguments: &[&str]| {
            world.run(["-r", "repo", "--key-file", key, "--json"].iter().chain(arguments)).expect(0)
        };
        let taken = || {
            let summary = run(&[&TAKE[..5], &["--wait", "0"]].concat()).summary();
            (summary["durable"].as_u64().unwrap(), summary["known"].as_u64().unwrap())
        };
        write_with_noise(&world, 100);
        assert_eq!(taken(), (1, 0));
        let before = every_pack(&world);
        write_with_noise(&world, 200);
        assert_eq!(taken(), (1, 1));
        std::fs::remove_file(longest_pack(&world, &before)).unwrap();
        assert_eq!(taken(), (0, 2), "nobody knows yet");
        world.open(["verify"]).expect(13);

        // Nothing is on the disk that could be taken: the watch says what does not count.
        std::fs::rename(world.path("runs/a"), world.path("away")).unwrap();
        let watched = run(&["watch", "runs", "--once", "--settle", "50ms"]);
        let rpo = watched.json().into_iter().find(|line| line["type"] == "rpo").unwrap();
        assert_eq!((rpo["damaged"].as_u64(), rpo["durable"].as_u64()), (Some(hit), Some(rest)), "{key}: {rpo}");
        let shown = world.run(["-r", "repo", "--key-file", key, "watch", "runs", "--once"]).expect(0).stdout;
        assert!(shown.contains("not count: damage was found since"), "{key}: {shown}");
        std::fs::rename(world.path("away"), world.path("runs/a")).unwrap();

        assert_eq!(taken(), (hit, rest), "{key}");
        assert_eq!(taken(), (0, 2), "{key}: healed");
        let watched = run(&["watch", "runs", "--once", "--settle", "50ms"]);
        let rpo = watched.json().into_iter().find(|line| line["type"] == "rpo").unwrap();
        assert_eq!((rpo["damaged"].as_u64(), rpo["durable_step"].as_u64()), (Some(0), Some(200)), "{key}: {rpo}");
        world.open_ok(["verify", "--read-data"]);
        assert_restores(&world, &snapshots(&world).pop().unwrap(), 200);
    }
}

/// `watch` too takes it again.
#[test]
fn a_watch_heals_a_damaged_checkpoint() {
    let world = repository();
    write_with_noise(&world, 100);
    take(&world, &[]).expect(0);
    std::fs::remove_file(longest_pack(&world, &[])).unwrap();
    world.open(["verify"]).expect(13);
    let mut watch = Watch::start(&world, &["--interval", "100ms"]);
    watch.durable(100);
    let summary = watch.terminate();
    assert_eq!(summary["durable"].as_u64(), Some(1));
    world.open_ok(["verify", "--read-data"]);
}
