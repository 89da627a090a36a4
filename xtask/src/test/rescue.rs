//! The independent reader: tools/rescue.py, written from docs/format.md alone, must restore what the product stored.
//!
//! It gets its few Python packages in an environment of its own below target/. First its own tests run, against
//! repositories that Python wrote. Then a small tree with the awkward cases goes through two backups by the built
//! program; the reader restores the newest, and rsync compares with the tree.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Counts, Outcome};
use crate::process;
use crate::surroundings::{find_program, target_directory};

/// Runs the reader's own tests, then the round trip.
pub fn run(root: &Path, counts: &mut Counts) -> Result<Outcome> {
    if find_program("python3").is_none() {
        return Ok(Outcome::Skipped("python3 is not installed".into()));
    }
    let python = environment(root)?;
    let own = ["-m", "unittest", "discover", "-s", "tools"];
    if !process::watch(Command::new(&python).current_dir(root).args(own), &mut |line| counts.read(line))? {
        return Ok(Outcome::Failed);
    }
    let build = ["build", "--quiet", "--locked", "--package", "seawall"];
    process::run(Command::new("cargo").current_dir(root).args(build))?;
    let seawall = target_directory(root)?.join("debug/seawall");
    let place = root.join("target/rescue");
    if place.exists() {
        fs::remove_dir_all(&place).context("cannot remove the last run's files")?;
    }
    fs::create_dir_all(&place).context("cannot make a place for the round trip")?;
    round_trip(root, &seawall, &python, &place)?;
    Ok(Outcome::Passed)
}

/// Python with what tools/requirements.txt names.
fn environment(root: &Path) -> Result<PathBuf> {
    let directory = root.join("target/rescue-python");
    let python = directory.join("bin/python");
    if !python.exists() {
        process::run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
    }
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    process::run(Command::new(&python).args(quiet).arg(root.join("tools/requirements.txt")))?;
    Ok(python)
}

fn round_trip(root: &Path, binary: &Path, python: &Path, place: &Path) -> Result<()> {
    let tree = place.join("tree");
    make_tree(&tree).context("cannot make the tree")?;
    let seawall = |command: &str| {
        let mut process = Command::new(binary);
        process.env("SEAWALL_CACHE_DIR", place.join("cache")).arg(command);
        process.arg("--repository").arg(place.join("repository")).arg("--key-file").arg(place.join("key"));
        process
    };
    process::run(&mut seawall("init"))?;
    process::run(seawall("backup").arg("--quiet").arg(&tree))?;
    change_tree(&tree).context("cannot change the tree")?;
    process::run(seawall("backup").arg("--quiet").arg(&tree))?;

    let restored = place.join("restored");
    let reader = root.join("tools/rescue.py");
    let mut rescue = Command::new(python);
    rescue.arg(reader).arg("-r").arg(place.join("repository")).arg("--key-file").arg(place.join("key"));
    process::run(rescue.args(["restore", "latest", "--target"]).arg(&restored))?;
    same(&tree, &restored.join(tree.strip_prefix("/").context("the tree has an absolute path")?))
}

/// Awkward cases that a reader in any language can restore without being root.
fn make_tree(tree: &Path) -> std::io::Result<()> {
    fs::create_dir_all(tree.join("deep/er/still"))?;
    fs::create_dir(tree.join("empty directory"))?;
    fs::write(tree.join("empty"), b"")?;
    fs::write(tree.join("small"), b"small enough to lie in its entry\n")?;
    fs::write(tree.join("deep/er/still/zeros"), vec![0; 3 << 20])?;
    fs::write(tree.join("deep/noise"), noise(5 << 20))?;
    fs::write(tree.join("deep/lines"), lines(60_000))?;
    fs::write(tree.join("weights"), weights(0.0))?;
    fs::write(tree.join(std::ffi::OsStr::from_bytes(b"not UTF-8 \xFF\xFE")), b"a name is bytes")?;
    fs::hard_link(tree.join("small"), tree.join("deep/second name"))?;
    symlink("../small", tree.join("deep/link"))?;
    symlink("nowhere", tree.join("dangling"))?;
    fs::File::create(tree.join("sparse"))?.set_len(64 << 20)?;
    fs::set_permissions(tree.join("deep/noise"), fs::Permissions::from_mode(0o4750))
}

/// The second version: an edit inside a big file and a step of training (both stored against the old version), a file
/// gone, a file new.
fn change_tree(tree: &Path) -> std::io::Result<()> {
    let text = lines(60_000).replace("line 31415 ", "this line was edited ");
    fs::write(tree.join("deep/lines"), text)?;
    fs::write(tree.join("weights"), weights(1e-4))?;
    fs::remove_file(tree.join("empty"))?;
    fs::write(tree.join("new"), noise(100_000))
}

/// Bytes that no compressor shortens: a linear congruential generator (Knuth's MMIX constants), its top byte.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// FP32 numbers of many sizes, each moved by a share of `step`.
fn weights(step: f32) -> Vec<u8> {
    let weight = |bytes: &[u8; 8]| {
        let fraction = |bytes: &[u8]| bytes.iter().fold(0.0, |sum, &byte| (sum + f32::from(byte)) / 256.0);
        let (size, rest) = bytes.split_at(4);
        fraction(size).powi(3) - fraction(size) / 4.0 + step * fraction(rest)
    };
    noise(8 * 200_000).as_chunks().0.iter().flat_map(|bytes| weight(bytes).to_le_bytes()).collect()
}

fn lines(count: usize) -> String {
    (0..count).map(|number| format!("line {number} of a text that is worth compressing {}\n", number % 97)).collect()
}

/// Compares content and metadata with rsync, which shares no code with either side.
fn same(tree: &Path, restored: &Path) -> Result<()> {
    let options = ["-aHAXn", "--checksum", "--delete", "--itemize-changes"];
    let with_slash = |path: &Path| format!("{}/", path.display());
    let differences =
        process::capture(Command::new("rsync").args(options).arg(with_slash(tree)).arg(with_slash(restored)))?;
    if differences.trim().is_empty() {
        return Ok(());
    }
    bail!("the independent reader restored something else:\n{differences}")
}
