//! Forgetting checkpoints of training runs by step and metric, with snapshots labelled by hand; and what each choice stores,
//! held against what a prune then leaves.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::prune::noise;
use crate::world::World;

/// Takes `path` as step `step` of a run, with these labels besides.
fn checkpoint(world: &World, path: &str, run: &str, step: &str, labels: &[&str]) {
    let (run, step) = (format!("checkpoint.run={run}"), format!("checkpoint.step={step}"));
    let mut arguments = vec!["backup", path, "--label", &run, "--label", &step];
    arguments.extend(labels.iter().flat_map(|label| ["--label", label]));
    world.open_ok(arguments);
}

/// Steps of all live snapshots, oldest first; a dash for one without.
fn steps(world: &World) -> String {
    let lines = world.open(["--json", "snapshots"]).expect(0).json();
    let step = |snapshot: &Value| {
        let labels = snapshot["labels"].as_array().cloned().unwrap_or_default();
        let step = labels.iter().find(|label| label[0] == "checkpoint.step");
        step.and_then(|label| label[1].as_str()).unwrap_or("-").to_owned()
    };
    lines.iter().filter(|line| line["type"] == "snapshot").map(step).collect::<Vec<_>>().join(" ")
}

/// Steps 1000 to 8000 of one run, each in a directory of its own, with a loss on the even thousands; and one snapshot of
/// no run.
fn world() -> World {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    for (step, loss) in (1..).zip([None, Some("0.9"), None, Some("0.2"), None, Some("0.3"), None, Some("0.4")]) {
        let path = format!("run/step-{step}000");
        world.write(&format!("{path}/weights"), format!("weights of {step}").as_bytes());
        let label = loss.map(|loss| format!("loss={loss}"));
        let labels: Vec<&str> = label.iter().map(String::as_str).collect();
        checkpoint(&world, &path, "llama", &format!("{step}000"), &labels);
    }
    world
}

const LOSS: [&str; 5] = ["--run-best", "2", "--metric", "loss", "--lower-is-better"];

#[test]
fn steps_and_metrics_say_what_stays() {
    let world = world();
    let all = "- 1000 2000 3000 4000 5000 6000 7000 8000";
    // Options, what stays, and some of the reasons.
    let table: [(&[&str], &str, &[&str]); 5] = [
        (&["--run-last", "3"], "- 6000 7000 8000", &["of no run", "last steps"]),
        (&["--run-steps-every", "4000"], "- 1000 4000 8000", &["every 4000 steps: first from 0"]),
        (&LOSS, "- 4000 6000 8000", &["best loss 0.2", "newest of its group"]),
        (&["--run-log-spaced"], "- 1000 5000 7000 8000", &["log-spaced: first of 2048 before"]),
        (&["--keep-last", "1", "--run-steps-every", "8000"], "- 1000 8000", &["last, every 8000 steps: 8000"]),
    ];
    for (options, stays, reasons) in table {
        let arguments = ["forget", "--dry-run"].iter().chain(options).copied();
        let shown = world.open_ok(arguments.clone());
        for reason in reasons {
            assert!(shown.contains(reason), "{options:?}: {shown}");
        }
        assert!(shown.lines().next().unwrap().contains("STEP"), "{shown}");
        let lines = world.open(arguments.chain(["--json"])).expect(0).json();
        let kept = lines.iter().filter(|line| line["type"] == "decision" && line["keep"] == true);
        let kept: Vec<&str> = kept.map(|line| line["step"].as_str().unwrap_or("-")).collect();
        assert_eq!(kept.join(" "), stays, "{options:?}");
        assert_eq!(steps(&world), all, "a dry run changes nothing");
    }
    world.open_ok(["forget", "--run-last", "1"].into_iter().chain(LOSS));
    assert_eq!(steps(&world), "- 4000 6000 8000");
    assert!(world.open_ok(["log", "show"]).contains("run-last 1 run-best 2 metric loss lower-is-better"));
    // More come, and go in their turn; another run of the same host is a group of its own.
    checkpoint(&world, "run/step-1000", "other", "1", &[]);
    checkpoint(&world, "run/step-1000", "llama", "9000", &["loss=0.1"]);
    world.open_ok(["forget", "--run-last", "1"].into_iter().chain(LOSS));
    assert_eq!(steps(&world), "- 4000 1 9000");
}

#[test]
fn what_can_not_be_judged_stays_with_a_warning_and_incomplete_ones_go() {
    let world = World::with_repository();
    for (step, label) in
        [("1", "checkpoint.state=complete"), ("two", "a=b"), ("3", "checkpoint.state=incomplete"), ("4", "a=b")]
    {
        checkpoint(&world, "data", "r", step, &[label]);
    }
    let metric = ["forget", "--run-best", "1", "--metric", "los", "--lower-is-better", "--dry-run"];
    let mistaken = world.open(metric).expect(0);
    assert!(mistaken.stderr.contains("none of its group has los"), "{}", mistaken.stderr);
    assert!(mistaken.stdout.contains("1 snapshot would be forgotten, 3 kept"), "{}", mistaken.stdout);
    let ended = world.open(["forget", "--run-last", "1"]).expect(0);
    assert!(
        ended.stderr.contains("warning: 1 snapshot stays") && ended.stderr.contains("\"two\" is no number"),
        "{}",
        ended.stderr
    );
    assert_eq!(steps(&world), "two 4");
}

#[test]
fn halves_of_a_rule_are_wrong_usage() {
    let world = World::with_repository();
    for arguments in [
        &["--run-best", "2"][..],
        &["--run-best", "2", "--metric", "loss"],
        &["--run-best", "2", "--lower-is-better"],
        &["--run-best", "2", "--metric", "loss", "--lower-is-better", "--higher-is-better"],
        &["--metric", "loss", "--keep-last", "1"],
        &["--higher-is-better", "--keep-last", "1"],
        &["--run-steps-every", "0"],
        &["--run-last", "few"],
        &["--run-last", "0"],
        &["--run-last", "1", "--sizes"],
        &["latest", "--run-last", "1"],
    ] {
        world.open(["forget"].into_iter().chain(arguments.iter().copied())).expect(2);
    }
}

/// Lines of sizes by what would be kept.
fn sizes(world: &World, options: &[&str]) -> BTreeMap<String, Value> {
    let arguments = ["forget", "--dry-run", "--sizes", "--json"].iter().chain(options).copied();
    let lines = world.open(arguments).expect(0).json();
    let sizes = lines.into_iter().filter(|line| line["type"] == "size");
    sizes.map(|line| (line["kept"].as_str().unwrap().to_owned(), line)).collect()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} in {value}"))
}

/// Bytes of packs in the store.
fn pack_bytes(world: &World) -> u64 {
    let summary = world.open(["stats", "--json"]).expect(0).summary();
    let packs = summary["objects"].as_array().unwrap().iter().find(|objects| objects["kind"] == "packs").unwrap();
    number(packs, "bytes")
}

/// A run whose weights change a little with each step, so that later steps are encoded against the first.
fn changing() -> World {
    let world = World::with_repository();
    let mut weights = noise(7, 4 << 20);
    for step in 1..=4 {
        for (place, byte) in noise(100 + step, 200).into_iter().enumerate() {
            weights[place * 20_000] ^= byte | 1;
        }
        world.write("data/weights", &weights);
        let loss = format!("loss=0.{step}");
        checkpoint(&world, "data", "r", &step.to_string(), &[&loss]);
    }
    world
}

#[test]
fn sizes_are_what_a_prune_leaves() {
    // Options, and the line of the choice that they are; each choice is then carried out.
    let best = ["--run-best", "1", "--metric", "loss", "--higher-is-better"];
    for options in
        [&["--run-last", "1"][..], &["--run-steps-every", "2"], &["--run-last", "2", "--run-steps-every", "4"], &best]
    {
        let world = changing();
        let before = pack_bytes(&world);
        let sizes = sizes(&world, options);
        let (now, then) = (&sizes["now"], &sizes["by all rules"]);
        assert_eq!((number(now, "snapshots"), number(now, "base_bytes"), number(now, "missing_chunks")), (4, 0, 0));
        assert!(number(then, "stored_bytes") < number(now, "stored_bytes"), "{sizes:?}");
        assert_eq!(number(then, "freed_bytes"), number(now, "stored_bytes") - number(then, "stored_bytes"));
        // What of the first is a base stays without it.
        let has_first = options.contains(&"--run-steps-every");
        assert!(has_first || number(then, "base_bytes") > 3 << 20, "{sizes:?}");
        world.open_ok(["forget"].iter().chain(options).copied());
        let planned = world.open(["prune", "--dry-run", "--json"]).expect(0).summary();
        assert_eq!(number(&planned["planned"], "bytes"), number(now, "stored_bytes"));
        assert_eq!(number(&planned["planned"], "needed_bytes"), number(then, "stored_bytes"), "{options:?}");
        // What is stored anew without its base takes another size.
        world.open_ok(["prune", "--window", "0", "--max-unused", "0%", "--no-rebase"]);
        let left = world.open(["prune", "--dry-run", "--json"]).expect(0).summary();
        assert_eq!(number(&left["planned"], "bytes"), number(then, "stored_bytes"), "{options:?}");
        // A pack has a header and a list of its blobs besides: under a hundredth here.
        let freed = before - pack_bytes(&world);
        assert!(freed.abs_diff(number(then, "freed_bytes")) < before / 100, "{freed} of {sizes:?}");
        world.open_ok(["verify", "--read-data"]);
    }
}

#[test]
fn each_rule_is_weighed_alone_and_names_too() {
    let world = changing();
    let together = sizes(&world, &["--run-last", "1", "--run-steps-every", "2", "--keep-tag", "x"]);
    let names: Vec<&str> = together.keys().map(String::as_str).collect();
    let expected = ["by all rules", "by keep-tag x alone", "by run-last 1 alone", "by run-steps-every 2 alone", "now"];
    assert_eq!(names, expected);
    let snapshots = |name: &str| number(&together[name], "snapshots");
    assert_eq!(expected.map(snapshots), [3, 1, 1, 3, 4]);
    let alone = sizes(&world, &["--run-last", "1"]);
    assert_eq!(
        number(&alone["by all rules"], "stored_bytes"),
        number(&together["by run-last 1 alone"], "stored_bytes")
    );
    let shown = world.open_ok(["forget", "--run-last", "1", "--run-log-spaced", "--dry-run", "--sizes"]);
    for text in ["ONLY AS BASES", "now ", "by all rules ", "by run-log-spaced alone "] {
        assert!(shown.contains(text), "{shown}");
    }
    let named = sizes(&world, &["latest"]);
    assert_eq!(number(&named["without these"], "snapshots"), 3);
    assert!(number(&named["without these"], "freed_bytes") > 0, "{named:?}");
}
