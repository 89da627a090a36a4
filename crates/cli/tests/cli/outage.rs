//! `watch` while the store, or the metrics' directory, is in trouble: what a disaster would cost now is told all the same.
//!
//! The repository is a real one; for a while other things lie in the place of its directories, which stops root too.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use super::checkpoints::{Watch, assert_restores, parts, repository, snapshots, write_checkpoint};
use super::world::World;

const FAST: [&str; 4] = ["--interval", "100ms", "--metrics", "seawall.prom"];

/// A directory of the repository that another thing lies in the place of.
struct Gone {
    place: PathBuf,
}

impl Gone {
    /// Puts something there. At no moment nothing is: a writer would make the directory.
    fn behind(world: &World, name: &str, put: impl FnOnce(&Path, &str)) -> Self {
        let gone = Self { place: world.path(format!("repo/{name}")) };
        put(&gone.away(), name);
        gone.exchange();
        gone
    }

    fn away(&self) -> PathBuf {
        self.place.with_extension("away")
    }

    fn exchange(&self) {
        renameat_with(CWD, &self.place, CWD, self.away(), RenameFlags::EXCHANGE).unwrap();
    }

    fn come_back(self) {
        self.exchange();
        std::fs::remove_file(self.away()).unwrap();
    }
}

/// What cannot be written to.
fn file(place: &Path, _: &str) {
    std::fs::write(place, "no directory").unwrap();
}

/// What cannot be read either, and does not look as if nothing were there.
fn circle(place: &Path, name: &str) {
    symlink(name, place).unwrap();
}

/// A complete checkpoint comes by its name being given, as some libraries do it.
fn appear(world: &World, step: u64) {
    let hidden = format!("hidden-{step}");
    for (name, bytes) in parts(step) {
        world.write(&name.replace("runs/a", &hidden), &bytes);
    }
    let name = format!("checkpoint-{step}");
    std::fs::rename(world.path(hidden).join(&name), world.path("runs/a").join(&name)).unwrap();
}

/// The next state of the run.
fn rpo(watch: &mut Watch) -> Value {
    watch.wait_for("the state of the run", |line| line["type"] == "rpo")
}

/// A number in the file of metrics.
fn metric(world: &World, name: &str) -> f64 {
    let text = std::fs::read_to_string(world.path("seawall.prom")).unwrap();
    let name = format!("seawall_checkpoint_{name}");
    let line = text.lines().find(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Ages rise, and so does the time of the last scan.
fn assert_goes_on(world: &World, watch: &mut Watch) {
    let names = ["age_seconds", "scan_timestamp_seconds"];
    let (before, first) = (rpo(watch), names.map(|name| metric(world, name)));
    watch.scans(2);
    let (after, second) = (rpo(watch), names.map(|name| metric(world, name)));
    assert!(after["age_seconds"].as_f64() > before["age_seconds"].as_f64(), "{before} {after}");
    assert!(first[0] < second[0] && first[1] < second[1], "{first:?} {second:?}");
}

#[test]
fn a_watch_tells_what_is_at_risk_while_the_store_cant_be_written() {
    let world = repository();
    write_checkpoint(&world, 100);
    let mut watch = Watch::start(&world, &FAST);
    watch.durable(100);
    rpo(&mut watch);
    assert_goes_on(&world, &mut watch);
    assert!(metric(&world, "store_trouble") == 0.0);

    let gone = ["log", "pack"].map(|name| Gone::behind(&world, name, file));
    appear(&world, 200);
    // Each attempt waits for longer than the one before.
    for times in 1..=3 {
        let line = watch.wait_for("an attempt", |line| line["state"] == "delayed");
        assert_eq!((line["step"].as_u64(), line["failures"].as_u64()), (Some(200), Some(times)), "{line}");
        assert_eq!(line["next_seconds"].as_f64(), Some([0.1, 0.2, 0.4][usize::try_from(times).unwrap() - 1]), "{line}");
        if times == 1 {
            watch.wait_for("that there is trouble", |line| line["type"] == "scan" && line["store_trouble"] == true);
            let problem = watch.wait_for("the problem", |line| line["type"] == "problem");
            assert_eq!(problem["problem"], "unwritable", "{problem}");
        }
        let state = rpo(&mut watch);
        assert_eq!(
            (state["durable_step"].as_u64(), state["steps_at_risk"].as_u64()),
            (Some(100), Some(100)),
            "{state}"
        );
    }
    watch.wait_for("a scan", |line| {
        assert!(line["type"] != "problem" && line["type"] != "note", "it was told: {line}");
        line["type"] == "scan"
    });
    assert_goes_on(&world, &mut watch);
    assert!(metric(&world, "store_trouble") == 1.0 && metric(&world, "steps_at_risk") == 100.0);
    // What is incomplete is told too.
    std::fs::create_dir(world.path("runs/a/checkpoint-300")).unwrap();
    watch.wait_for("another checkpoint", |line| line["state"] == "writing" && line["step"] == 300);
    std::fs::remove_dir(world.path("runs/a/checkpoint-300")).unwrap();

    gone.into_iter().for_each(Gone::come_back);
    watch.wait_for("a durable step", |line| {
        assert!(line["type"] != "note", "nothing was stored that could be taken over: {line}");
        line["state"] == "durable" && line["step"] == 200
    });
    assert_eq!(rpo(&mut watch)["steps_at_risk"], 0);
    watch.wait_for("that it is over", |line| {
        line["type"] == "note" && line["text"] == "the trouble with the store is over"
    });
    assert!(metric(&world, "store_trouble") == 0.0);
    assert_eq!(watch.terminate()["problems"], 1);
    let kept = snapshots(&world);
    assert_eq!(kept.len(), 2);
    kept.iter().zip([100, 200]).for_each(|(snapshot, step)| assert_restores(&world, snapshot, step));
    world.open_ok(["verify", "--read-data"]);
}

#[test]
fn a_watch_tells_what_is_at_risk_while_the_log_cant_be_read() {
    let world = repository();
    write_checkpoint(&world, 100);
    let mut watch = Watch::start(&world, &FAST);
    watch.durable(100);
    for (step, durable) in [(200, 100), (300, 200)] {
        let gone = Gone::behind(&world, "log", circle);
        let problem = watch.wait_for("the problem", |line| line["type"] == "problem");
        assert_eq!(problem["problem"], "unreadable", "told of each time anew: {problem}");
        appear(&world, step);
        watch.wait_for("a step at risk", |line| {
            assert!(line["type"] != "problem", "it was told: {line}");
            line["type"] == "rpo" && line["steps_at_risk"] == 100 && line["durable_step"] == durable
        });
        assert_goes_on(&world, &mut watch);
        assert!(metric(&world, "store_trouble") == 1.0 && metric(&world, "newest_step") == step as f64);
        gone.come_back();
        watch.durable(step);
    }
    assert_eq!(watch.terminate()["problems"], 2);
    assert_eq!(snapshots(&world).len(), 3);
    world.open_ok(["verify", "--read-data"]);
}

#[test]
fn metrics_that_cant_be_written_are_told_once() {
    let world = repository();
    write_checkpoint(&world, 100);
    world.write("metrics", b"no directory");
    let mut watch = Watch::start(&world, &["--interval", "50ms", "--metrics", "metrics/seawall.prom"]);
    let problem = watch.wait_for("the problem", |line| line["type"] == "problem");
    assert_eq!(problem["problem"], "unwritable", "{problem}");
    watch.durable(100);
    for _ in 0..20 {
        watch.wait_for("a scan", |line| {
            assert!(line["type"] != "problem", "it was told: {line}");
            line["type"] == "scan"
        });
    }
    assert_eq!(watch.terminate()["problems"], 1);
}
