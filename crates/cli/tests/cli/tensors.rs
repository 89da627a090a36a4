//! Tensors on the command line: listed, restored alone, and models before the states of optimizers.

use serde_json::Value;

use crate::world::World;

/// A safetensors file of tensors of bytes.
fn safetensors(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let info = serde_json::json!({"dtype": "U8", "shape": [bytes.len()], "data_offsets": [begin, data.len()]});
        header.insert((*name).to_owned(), info);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A world with a checkpoint in `data/run`, backed up. Gives how it is called.
fn checkpoint() -> (World, String) {
    let world = World::with_repository();
    let (norm, zeros) = ([7; 3000], [0; 200_000]);
    world.write("data/run/model.safetensors", &safetensors(&[("layer.0.norm", &norm), ("layer.0.w", &zeros)]));
    world.write("data/run/optimizer.pt", &[1; 5000]);
    world.open_ok(["backup", "data"]);
    let place = format!("latest:{}", world.path("data/run").display());
    (world, place)
}

#[test]
fn tensors_are_listed() {
    let (world, place) = checkpoint();
    let shown = world.open_ok(["tensors", &place]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].ends_with("/run/model.safetensors") && lines[1].starts_with("NAME"), "{shown}");
    assert!(lines[2].starts_with("layer.0.norm  u8     [3000]"), "{shown}");
    assert!(lines[3].contains("195 KiB") && lines[3].contains("constant"), "{shown}");
    assert!(lines.last().unwrap().starts_with("2 tensors in 1 file: "), "{shown}");

    let lines = world.open(["tensors", &place, "--tensor", "*.w", "--json"]).expect(0).json();
    let tensors: Vec<&Value> = lines.iter().filter(|line| line["type"] == "tensor").collect();
    let [tensor] = tensors[..] else { panic!("{lines:?}") };
    for (field, expected) in [
        ("name", serde_json::json!("layer.0.w")),
        ("dtype", serde_json::json!("u8")),
        ("shape", serde_json::json!([200_000])),
        ("bytes", serde_json::json!(200_000)),
        ("view", serde_json::json!("own")),
        ("with_base", serde_json::json!(0)),
        ("bases", serde_json::json!([])),
    ] {
        assert_eq!(tensor[field], expected, "{tensor}");
    }
    assert!(tensor["stored_bytes"].as_u64().unwrap() < 20_000 && tensor["chunks"].as_u64().unwrap() > 0, "{tensor}");
    let summary = lines.last().unwrap();
    assert_eq!((summary["tensors"].as_u64(), summary["files"].as_u64()), (Some(1), Some(1)), "{summary}");

    let unknown = world.open(["tensors", &format!("{place}/optimizer.pt")]).expect(1);
    assert!(unknown.stderr.contains("optimizer.pt"), "{}", unknown.stderr);
    world.open(["tensors", &place, "--tensor", "[a"]).expect(2);
    for more in [&[][..], &["--statistics"], &["--json"]] {
        let wanted = ["tensors", &place, "--tensor", "*.w", "--tensor", "layer.0.typo"];
        let ended = world.open(wanted.into_iter().chain(more.iter().copied())).expect(1);
        // Errors are on standard output with --json.
        let told = ended.stdout.clone() + &ended.stderr;
        assert!(ended.stdout.contains("layer.0.w") && told.contains("no tensor is named layer.0.typo"), "{ended:?}");
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers/views").join(name))
        .unwrap()
}

/// Parts of a distributed checkpoint have the names that `.metadata` gives them; tied, transposed ones and views with holes are
/// restored as torch itself writes them in order.
#[test]
fn parts_and_views_have_the_names_that_their_program_gave_them() {
    let world = World::with_repository();
    for name in ["step/.metadata", "step/__0_0.distcp", "model.pt"] {
        world.write(&format!("data/{name}"), &fixture(name));
    }
    world.open_ok(["backup", "data"]);
    let place = format!("latest:{}", world.path("data/step").display());
    let names = ["conv", "embed.weight", "head.transposed", "head.weight", "holes", "turned"];
    let lines = world.open(["tensors", &place, "--json"]).expect(0).json();
    let mut found: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, names);
    let shown = world.open_ok(["tensors", &place]);
    assert!(names.iter().all(|name| shown.lines().any(|line| line.starts_with(name))), "{shown}");
    assert!(shown.contains("transposed") && !shown.contains("__0_0  "), "{shown}");

    for (from, expected) in [("step", "step.expected"), ("model.pt", "model.pt.expected")] {
        let place = format!("latest:{}", world.path(format!("data/{from}")).display());
        world.open_ok(["restore", &place, "--tensor", "*", "--target", &format!("{from}.safetensors")]);
        let made = std::fs::read(world.path(format!("{from}.safetensors"))).unwrap();
        assert!(made == fixture(expected), "{from}");
    }
    let model = format!("latest:{}", world.path("data/model.pt").display());
    let shown = world.open_ok(["tensors", &model, "--tensor", "head.weight"]);
    assert!(shown.contains("[24, 10] shares its numbers"), "{shown}");
}

#[test]
fn tensors_are_restored_alone() {
    let (world, place) = checkpoint();
    let dry = ["restore", &place, "--tensor", "*.norm", "--target", "one.safetensors", "--dry-run"];
    let shown = world.open_ok(dry);
    assert!(shown.lines().next().unwrap().starts_with("layer.0.norm  u8  [3000]"), "{shown}");
    assert!(!world.path("one.safetensors").exists());

    let summary = world
        .open(["restore", &place, "--tensor", "*.norm", "--target", "one.safetensors", "--json"])
        .expect(0)
        .summary();
    assert_eq!((summary["tensors"].as_u64(), summary["bytes"].as_u64()), (Some(1), Some(3000)), "{summary}");
    assert!(summary["blobs"].as_u64().unwrap() >= 2 && summary["bytes_fetched"].as_u64().is_some(), "{summary}");
    let made = std::fs::read(world.path("one.safetensors")).unwrap();
    assert_eq!(
        (made.len() as u64, &made[made.len() - 3000..]),
        (summary["file_bytes"].as_u64().unwrap(), &[7; 3000][..])
    );
    assert_eq!(made.len() % 8, 3000 % 8);

    let again = ["restore", &place, "--tensor", "*", "--target", "one.safetensors"];
    let refused = world.open(again).expect(1);
    assert!(refused.stderr.contains("stands there"), "{}", refused.stderr);
    assert_eq!(std::fs::read(world.path("one.safetensors")).unwrap(), made);
    world.open_ok(again.into_iter().chain(["--overwrite", "always"]));
    assert!(std::fs::read(world.path("one.safetensors")).unwrap().len() > 203_000);

    let missing = world.open(["restore", &place, "--tensor", "no.such", "--target", "two.safetensors"]).expect(1);
    assert!(missing.stderr.contains("no.such"), "{}", missing.stderr);
    for wrong in [&["--in-place"][..], &["--target", "x", "--delete"], &["--target", "x", "--include", "a"], &[]] {
        let arguments = ["restore", &place, "--tensor", "*"].into_iter().chain(wrong.iter().copied());
        world.open(arguments).expect(2);
    }
    assert!(!world.path("two.safetensors").exists() && !world.path("x").exists());
}

#[test]
fn weights_come_first() {
    let (world, place) = checkpoint();
    let ended = world.open(["restore", &place, "--target", "out", "--weights-first"]).expect(0);
    assert!(ended.stderr.contains("weights complete after"), "{}", ended.stderr);
    assert_eq!(std::fs::read(world.path("out/optimizer.pt")).unwrap(), [1; 5000]);
    let summary = world.open(["restore", &place, "--target", "new", "--weights-first", "--json"]).expect(0).summary();
    let seconds = |field: &str| summary[field].as_f64().unwrap();
    assert!(seconds("weights_seconds") <= seconds("seconds"), "{summary}");
    let without = world.open(["restore", &place, "--target", "other", "--json"]).expect(0).summary();
    assert!(without["weights_seconds"].is_null(), "{without}");
}

#[test]
fn ranges_of_a_file() {
    let (world, _) = checkpoint();
    world.write("data/digits", b"0123456789");
    world.open_ok(["backup", "data"]);
    let file = format!("latest:{}", world.path("data/digits").display());
    for (range, expected) in [("0-3", "0123"), ("4-", "456789"), ("-3", "789"), ("8-100", "89"), ("-100", "0123456789")]
    {
        assert_eq!(world.open_ok(["cat", &file, "--range", range]), expected, "{range}");
    }
    let beyond = world.open(["cat", &file, "--range", "10-"]).expect(2);
    assert!(beyond.stderr.contains("10 bytes") && beyond.stdout.is_empty(), "{}", beyond.stderr);
    world.open(["cat", &file, "--range", "3"]).expect(2);
}
