//! Statistics of tensors on the command line: listed as they are, and checkpoints held against each other.

use serde_json::{Value, json};

use crate::world::{Ended, World};

/// 20,000 numbers make 80,000 bytes: the file is long enough to be stored with statistics.
const COUNT: usize = 20_000;

/// A safetensors file of FP32 tensors.
fn safetensors(tensors: &[(&str, &[f32])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let info = json!({"dtype": "F32", "shape": [values.len()], "data_offsets": [begin, data.len()]});
        header.insert((*name).to_owned(), info);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// Numbers between 1/64 and 1/4, of both signs, every time the same.
fn weights() -> Vec<f32> {
    let value = |at: usize| ((at * 7919 % 1000) as f32 / 1000.0 * 15.0 + 1.0) / 64.0;
    (0..COUNT).map(|at| if at % 3 == 0 { -value(at) } else { value(at) }).collect()
}

/// The numbers after a step: each a little larger.
fn stepped(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| value * 1.01).collect()
}

/// A world with two checkpoints, each in a backup of its own. In the second one tensor has a NaN, one is zero, one has
/// another shape, one is new, and one of the first is gone.
fn checkpoints() -> (World, String) {
    let world = World::with_repository();
    let good = weights();
    let mut broken = stepped(&good);
    broken[777] = f32::NAN;
    let old: [(&str, &[f32]); 5] =
        [("calm", &good), ("dead", &good), ("gone", &good[..99]), ("hurt", &good), ("shape", &good[..500])];
    let new: [(&str, &[f32]); 5] = [
        ("calm", &stepped(&good)),
        ("dead", &[0.0; COUNT]),
        ("hurt", &broken),
        ("new", &good[..70]),
        ("shape", &good[..400]),
    ];
    world.write("data/step-100/model.safetensors", &safetensors(&old));
    world.open_ok(["backup", "data"]);
    let first = world.open(["snapshots", "--json"]).expect(0).json()[0]["id"].as_str().unwrap().to_owned();
    std::fs::rename(world.path("data/step-100"), world.path("data/step-200")).unwrap();
    world.write("data/step-200/model.safetensors", &safetensors(&new));
    // The backup itself names what broke.
    let ended = world.open(["backup", "data"]).expect(3);
    assert!(ended.stderr.contains("\"hurt\"") && ended.stderr.contains("NaN"), "{}", ended.stderr);
    (world, first)
}

fn place(world: &World, snapshot: &str, path: &str) -> String {
    format!("{snapshot}:{}", world.path("data").join(path).display())
}

fn of_type<'l>(lines: &'l [Value], kind: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

/// The cells of the row that begins with this name.
fn cells<'s>(shown: &'s str, name: &str) -> Vec<&'s str> {
    let row = shown.lines().find(|line| line.split_whitespace().next() == Some(name));
    row.unwrap_or_else(|| panic!("no {name} in\n{shown}")).split_whitespace().collect()
}

#[test]
fn statistics_are_those_of_the_numbers() {
    let world = World::with_repository();
    let mut values = weights();
    (values[5], values[6], values[7], values[8]) = (f32::NAN, f32::INFINITY, 0.0, -0.0);
    let content = safetensors(&[("w", &values), ("zero", &[0.0; 40])]);
    world.write("data/model.safetensors", &content);
    world.write("data/short.safetensors", &safetensors(&[("few", &values[..100])]));
    world.open_ok(["backup", "data"]);
    let place = place(&world, "latest", "");

    let lines = world.open(["tensors", &place, "--json"]).expect(0).json();
    let [whole, zero, few] = of_type(&lines, "tensor")[..] else { panic!("{lines:?}") };
    let found = &whole["statistics"];
    let finite: Vec<f64> = values.iter().filter(|value| value.is_finite()).map(|value| f64::from(*value)).collect();
    let mut exponents = std::collections::BTreeMap::new();
    for value in finite.iter().filter(|value| **value != 0.0) {
        *exponents.entry(value.abs().log2().floor() as i64).or_insert(0_u64) += 1;
    }
    for (field, expected) in [
        ("elements", json!(COUNT)),
        ("nan", json!(1)),
        ("infinite", json!(1)),
        ("zeros", json!(2)),
        ("exponents", json!(exponents.into_iter().collect::<Vec<_>>())),
    ] {
        assert_eq!(found[field], expected, "{field}");
    }
    let bound = |field: &str| found[field].as_f64().unwrap() as f32;
    let expected = values.iter().copied().filter(|value| value.is_finite());
    assert_eq!(bound("minimum"), expected.clone().fold(f32::MAX, f32::min));
    assert_eq!(bound("maximum"), expected.fold(f32::MIN, f32::max));
    let norm = finite.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((found["norm"].as_f64().unwrap() / norm - 1.0).abs() < 1e-12, "{norm} {found}");
    assert_eq!((&zero["statistics"]["zeros"], &zero["statistics"]["exponents"]), (&json!(40), &json!([])));
    assert!(few["name"] == "few" && few["statistics"].is_null(), "{few}");

    let shown = world.open_ok(["tensors", &place]);
    assert!(shown.contains("NOTE"), "{shown}");
    assert!(cells(&shown, "w").ends_with(&["1", "NaN,", "1", "infinite"]), "{shown}");
    assert!(cells(&shown, "zero").ends_with(&["all", "zero"]), "{shown}");
    let shown = world.open_ok(["tensors", &place, "--statistics"]);
    assert_eq!(cells(&shown, "NAME")[3..], ["NAN/INF", "ZEROS", "MIN", "MAX", "NORM"]);
    assert_eq!(cells(&shown, "w")[3..5], ["1/1", "2"], "{shown}");
    let norm_shown: f64 = cells(&shown, "w")[7].parse().unwrap();
    assert!((norm_shown / norm - 1.0).abs() < 1e-3, "{norm} {shown}");
    assert_eq!(cells(&shown, "zero")[3..], ["0/0", "40", "0", "0", "0"], "{shown}");
    assert_eq!(cells(&shown, "few")[3..], ["-"; 5], "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 120), "{shown}");
    world.open(["tensors", &place, "--statistics", "--compare", "latest"]).expect(2);
}

#[test]
fn checkpoints_are_compared() {
    let (world, first) = checkpoints();
    let new = place(&world, "latest", "step-200");
    let old = place(&world, &first, "step-100");
    let ended = world.open(["tensors", &new, "--compare", &old]).expect(3);
    let shown = &ended.stdout;
    let title = shown.lines().next().unwrap();
    assert!(title.ends_with("/step-100/model.safetensors") && title.contains("/step-200/model.safetensors against "));
    let calm = cells(shown, "calm");
    assert_eq!((calm.len(), calm[3]), (5, "+1%"), "{shown}");
    // A hundredth more: two of a hundred numbers come into the next binade.
    assert_eq!(calm[4], "0.02", "{shown}");
    for (name, expected) in [
        ("dead", "WARNING: all elements are zero, and were not"),
        ("hurt", "WARNING: 1 elements are NaN; there was none"),
        ("new", "new"),
        ("gone", "gone"),
        ("shape", "another kind or shape"),
    ] {
        assert!(cells(shown, name).join(" ").ends_with(expected), "{name}: {shown}");
    }
    assert_eq!(cells(shown, "dead")[2..5], ["0", "-100%", "-"], "{shown}");
    let last = "2 warnings; 3 of 6 tensors in 1 file compared, 1 new, 1 gone, 1 of another kind or shape";
    assert_eq!(shown.lines().last().unwrap(), last);

    let lines = world.open(["tensors", &new, "--compare", &old, "--json"]).expect(3).json();
    let drifts = of_type(&lines, "drift");
    let names: Vec<&str> = drifts.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["calm", "dead", "hurt", "new", "shape", "gone"]);
    let found = |line: &Value| {
        let found = line["findings"].as_array().unwrap().iter();
        found.map(|it| (it["finding"].as_str().unwrap().to_owned(), it["is_warning"].as_bool().unwrap())).collect()
    };
    let findings: Vec<Vec<(String, bool)>> = drifts.iter().map(|line| found(line)).collect();
    let one = |code: &str, warning| vec![(code.to_owned(), warning)];
    let expected = [
        vec![],
        one("all-zero", true),
        one("nan", true),
        one("appeared", false),
        one("reshaped", false),
        one("vanished", false),
    ];
    assert_eq!(findings, expected);
    assert!((drifts[0]["norm_change"].as_f64().unwrap() - 0.01).abs() < 1e-5, "{}", drifts[0]);
    assert_eq!((&drifts[2]["before"]["nan"], &drifts[2]["now"]["nan"]), (&json!(0), &json!(1)));
    assert!(drifts[3]["before"].is_null() && drifts[5]["now"].is_null());
    let summary = lines.last().unwrap();
    for (field, expected) in [
        ("warnings", 2),
        ("tensors", 6),
        ("compared", 3),
        ("files", 1),
        ("appeared", 1),
        ("vanished", 1),
        ("reshaped", 1),
    ] {
        assert_eq!(summary[field], expected, "{field}: {summary}");
    }
    assert_eq!(summary["old_snapshot"], first.as_str());
}

/// What is no warning does not end in 3, and `--tensor` chooses.
#[test]
fn only_a_warning_ends_in_3() {
    let (world, first) = checkpoints();
    let new = place(&world, "latest", "step-200/model.safetensors");
    let compared = |names: &[&str]| -> Ended {
        let names = names.iter().flat_map(|name| ["--tensor", *name]);
        world.open(["tensors", &new, "--compare", &first].into_iter().chain(names))
    };
    let calm = compared(&["calm", "new", "gone", "shape"]).expect(0);
    let last = "0 warnings; 1 of 4 tensors in 1 file compared, 1 new, 1 gone, 1 of another kind or shape";
    assert_eq!(calm.stdout.lines().last().unwrap(), last);
    compared(&["dead"]).expect(3);
    let none = compared(&["daed", "hrut*"]).expect(1).stderr;
    assert!(none.contains("no tensor, old or new, has a name as asked for"), "{none}");
    compared(&["hurt"]).expect(3);
    // With itself: a NaN that was there is no news, but is said.
    let itself = world.open(["tensors", &new, "--compare", "latest"]).expect(0).stdout;
    assert_eq!(itself.lines().last().unwrap(), "0 warnings; 5 of 5 tensors in 1 file compared");
    assert_eq!(cells(&itself, "hurt")[3..], ["0%", "0.00", "1", "NaN"], "{itself}");
}

/// Without a path the same one is taken, else the one that differs in digits only, but never one of several.
#[test]
fn the_other_path_is_found() {
    let (world, first) = checkpoints();
    let new = place(&world, "latest", "step-200");
    let summary = world.open(["tensors", &new, "--compare", &first, "--json"]).expect(3).summary();
    assert_eq!(summary["old_path"]["path"], world.path("data/step-100").to_str().unwrap());
    let whole = place(&world, "latest", "");
    let apart = world.open(["tensors", &whole, "--compare", &first]).expect(3).stdout;
    assert!(apart.contains(": the file is gone") && apart.contains(": a new file"), "{apart}");
    assert!(apart.ends_with("1 warning; 0 of 10 tensors in 2 files compared, 5 new, 5 gone\n"), "{apart}");

    let good = weights();
    for step in ["7", "3000"] {
        world.write(&format!("data/step-{step}/model.safetensors"), &safetensors(&[("calm", &good)]));
    }
    let second = world.open(["backup", "data", "--json"]).summary()["snapshot"].as_str().unwrap().to_owned();
    std::fs::rename(world.path("data/step-7"), world.path("data/step-8")).unwrap();
    world.open(["backup", "data"]);
    let eighth = place(&world, "latest", "step-8");
    let several = world.open(["tensors", &eighth, "--compare", &second]).expect(2);
    for step in ["step-7", "step-200", "step-3000"] {
        assert!(several.stderr.contains(step), "{}", several.stderr);
    }
    let none = world.open(["tensors", &place(&world, "latest", "hello.txt"), "--compare", &first]).expect(1);
    assert!(none.stderr.contains("hello.txt") && none.stderr.contains("without statistics"), "{}", none.stderr);
    let kinds = place(&world, "latest", "step-8/model.safetensors");
    world.open(["tensors", &kinds, "--compare", &place(&world, &first, "step-100")]).expect(2);
    world.open(["tensors", &kinds, "--compare", &place(&world, &first, "no-such")]).expect(1);
}

/// A file that has lost its header has no statistics any more: that is told, not passed over.
#[test]
fn a_file_without_statistics_is_told() {
    let world = World::with_repository();
    let good = weights();
    world.write("data/model.safetensors", &safetensors(&[("calm", &good)]));
    world.open_ok(["backup", "data"]);
    let first = world.open(["snapshots", "--json"]).expect(0).json()[0]["id"].as_str().unwrap().to_owned();
    world.write("data/model.safetensors", &vec![1; 80_000]);
    world.open_ok(["backup", "data"]);
    let second = place(&world, "latest", "");
    let ended = world.open(["tensors", &second, "--compare", &first]).expect(3);
    assert!(
        ended.stderr.contains("model.safetensors") && ended.stderr.contains("this one without"),
        "{}",
        ended.stderr
    );
    let back = place(&world, &first, "");
    let ended = world.open(["tensors", &back, "--compare", "latest", "--json"]).expect(0);
    let lines = ended.json();
    let [line] = of_type(&lines, "drift")[..] else { panic!("{lines:?}") };
    assert!(line["before"].is_null() && line["findings"] == json!([]), "{line}");
    assert_eq!(of_type(&lines, "note").len(), 1, "{lines:?}");
    let single = place(&world, "latest", "model.safetensors");
    world.open(["tensors", &single, "--compare", &first]).expect(1);
}
