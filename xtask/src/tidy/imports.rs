//! Who may import whom: the rows inside the engine, the crates, and the one place for `unsafe`.
//!
//! A row imports only rows below it (ARCHITECTURE.md): verbs, repository, stages, store, pure. Nothing imports a verb.
//! Stages work on bytes and the file system and never see a store. Pure modules know no file system and no threads.
//! The pure crate `seawall-plan` depends on nothing at all, and uses of `std` only what computes.
//! Every path that begins with `crate::`, or with enough `super::` to reach the root, counts: in `use` lines and inline.

use serde_json::Value;

use super::source::is_word;
use super::{Finding, Source};

const ENGINE: &str = "crates/engine/src/";
const UNSAFE_ALLOWED: &str = "crates/engine/src/repo/map.rs";

/// Rows of the engine, highest first.
const ROWS: [(&str, &[&str]); 5] = [
    (
        "verbs",
        &[
            "backup", "restore", "verify", "forget", "keys", "audit", "prune", "repair", "reindex", "undelete", "copy",
            "diff", "browse", "tensors",
        ],
    ),
    ("repository", &["repo"]),
    ("stages", &["stages"]),
    ("store", &["store"]),
    (
        "pure",
        &[
            "format",
            "rules",
            "readers",
            "buffer",
            "chunker",
            "codec",
            "crypto",
            "ids",
            "units",
            "clock",
            "error",
            "entry",
            "monitor",
            "simulation",
            "statistics",
            "vectors",
        ],
    ),
];

/// Imports that break the rows on purpose, each with its reason.
const EXCEPTIONS: [(&str, &str, &str); 1] = [("error", "store", "the engine's error wraps the store's")];

/// What a pure module must not name, `clock` and [`ASKS_SYSTEM`] apart.
const NOT_PURE: [&str; 6] = ["std::fs", "std::thread", "std::net", "std::process", "rustix::", "crossbeam_channel"];

/// Modules that ask the system for one thing: `crypto` for randomness.
const ASKS_SYSTEM: [(&str, &str); 1] = [("crypto", "rustix::")];

/// The crate of pure decisions: where it lies, its name, and what it must not name besides [`NOT_PURE`].
const PLAN: (&str, &str) = ("crates/plan/src/", "seawall-plan");
const NOT_PLAIN: [&str; 5] = ["std::io", "std::env", "std::time", "std::sync", "std::path"];

/// Edges between crates that architecture allows; a crate that is missing here may depend on no crate of ours.
const EDGES: [(&str, &[&str]); 4] = [
    ("seawall", &["seawall-engine", "seawall-stores", "seawall-plan", "seawall-server"]),
    ("seawall-stores", &["seawall-engine"]),
    ("seawall-server", &["seawall-engine", "seawall-stores", "seawall-plan"]),
    ("seawall-python", &["seawall-engine", "seawall-stores"]),
];

/// The engine's rows, the purity of `seawall-plan`, and the place of `unsafe`.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        findings.extend(check_unsafe(source));
        if let Some(place) = source.path.strip_prefix(ENGINE) {
            findings.extend(check_rows(source, place));
        }
        if source.path.starts_with(PLAN.0) {
            findings.extend(check_plan(source));
        }
    }
    findings
}

fn check_rows(source: &Source, place: &str) -> Vec<Finding> {
    let module = place.split('/').next().unwrap_or(place).trim_end_matches(".rs");
    if module == "lib" {
        return Vec::new();
    }
    let Some(row) = row_of(module) else {
        return vec![Finding::new(&source.path, 0, format!("module `{module}` has no row in {}", file!()))];
    };
    let mut findings = Vec::new();
    for (at, target) in imports(&source.code, place) {
        if let Some(why) = forbidden(module, row, &target) {
            findings.push(Finding::new(&source.path, source.line_of(at), why));
        }
    }
    if ROWS[row].0 == "pure" && module != "clock" {
        for name in NOT_PURE.into_iter().filter(|name| !ASKS_SYSTEM.contains(&(module, name))) {
            if let Some(at) = source.code.find(name).filter(|&at| !in_tests(source, at)) {
                findings.push(Finding::new(&source.path, source.line_of(at), format!("a pure module uses {name}")));
            }
        }
    }
    findings
}

/// What a file of the crate of pure decisions names and may not; its tests are no exception.
fn check_plan(source: &Source) -> Vec<Finding> {
    let named = |name: &&str| source.code.match_indices(*name).next().map(|(at, _)| at);
    let found = NOT_PURE.iter().chain(&NOT_PLAIN).filter_map(|name| Some((name, named(name)?)));
    let group = source.code.find("use std::{").map(|at| (&"a group of std, which hides what it names", at));
    let finding =
        |(name, at): (&&str, usize)| Finding::new(&source.path, source.line_of(at), format!("{} uses {name}", PLAN.1));
    found.chain(group).map(finding).collect()
}

/// Why `module` of row `row` may not import `target`; none when it may.
fn forbidden(module: &str, row: usize, target: &str) -> Option<String> {
    let below = row_of(target)?;
    if target == module || EXCEPTIONS.iter().any(|(from, to, _)| (*from, *to) == (module, target)) {
        return None;
    }
    let (name, other) = (ROWS[row].0, ROWS[below].0);
    if other == "verbs" {
        return Some(format!("imports `{target}`: nothing imports a verb"));
    }
    if name == "stages" && other == "store" {
        return Some("a stage never sees a store".to_owned());
    }
    let allowed = below > row || (below == row && name == "pure");
    (!allowed).then(|| format!("`{module}` ({name}) imports `{target}` ({other}), which is not below it"))
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|(_, modules)| modules.contains(&module))
}

/// Whether an offset lies below the file's `#[cfg(test)]` module, which is last by our rules, or in a file of tests.
fn in_tests(source: &Source, at: usize) -> bool {
    source.path.ends_with("/tests.rs") || source.code.find("#[cfg(test)]").is_some_and(|begin| begin < at)
}

/// The top-level modules that code imports, each with the offset of the path.
fn imports(code: &str, place: &str) -> Vec<(usize, String)> {
    let depth = place.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with([':', '_', '$'])) {
        if !code[..at].ends_with(is_word) {
            found.extend(first_names(&code[at + "crate::".len()..]).into_iter().map(|name| (at, name)));
        }
    }
    // `super::` chains that are long enough to reach the crate's root.
    let root = "super::".repeat(depth);
    for (at, _) in code.match_indices(&root).filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        let rest = code[at..].trim_start_matches("super::");
        found.extend(first_names(rest).into_iter().filter(|name| row_of(name).is_some()).map(|name| (at, name)));
    }
    found
}

/// The first components of the path, or of every path of the group, that `rest` begins with.
fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|&c| is_word(c)).collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(word(&group[start..]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(word(&group[start..]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

fn check_unsafe(source: &Source) -> Option<Finding> {
    let mut words = source.words();
    let (at, _) = words.find(|(_, word)| matches!(*word, "unsafe" | "unsafe_code"))?;
    let allowed = source.path == UNSAFE_ALLOWED;
    (!allowed).then(|| Finding::new(&source.path, source.line_of(at), format!("unsafe belongs in {UNSAFE_ALLOWED}")))
}

/// Dependencies between our own crates, read from `cargo metadata`.
pub fn crate_edges(metadata: &Value) -> Vec<Finding> {
    let empty = Vec::new();
    let list = |value: &Value, key: &str| value[key].as_array().unwrap_or(&empty).clone();
    let mut findings = Vec::new();
    for package in list(metadata, "packages").iter().filter(|package| package["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or_default();
        let allowed = EDGES.iter().find(|(from, _)| *from == name).map_or(&[][..], |(_, to)| to);
        for dependency in &list(package, "dependencies") {
            let target = dependency["name"].as_str().unwrap_or_default();
            let ours = dependency["path"].is_string();
            if (ours || name == PLAN.1) && !allowed.contains(&target) {
                findings.push(Finding::new("Cargo.toml", 0, format!("{name} may not depend on {target}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&[Source::new(path, text)]).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn rows_import_downwards_only() {
        // Path inside the engine, code, how many findings.
        let table = [
            ("backup.rs", "use crate::repo::Repository;", 0),
            ("backup.rs", "use crate::restore::Plan;", 1),
            ("backup.rs", "fn f() { super::restore::g(); }", 1),
            ("backup.rs", "mod tests { use super::*; fn f() { super::backup(); } }", 0),
            ("repo/log.rs", "use crate::backup;", 1),
            ("repo/log.rs", "use crate::{ids::SnapshotId, stages::seal};", 0),
            ("stages/walk.rs", "use crate::{entry::{Entry, Kind}, repo::Repository};", 1),
            ("stages/pack.rs", "use crate::store::Store;", 1),
            ("stages/pack.rs", "use super::super::repo::Log;", 1),
            ("stages/pack.rs", "use super::read::Piece;", 0),
            ("store/local.rs", "fn f() -> crate::repo::Log { g() }", 1),
            ("store/local.rs", "// use crate::repo::Log;", 0),
            ("format/pack.rs", "use crate::crypto::blob::PackCipher;", 0),
            ("format/pack.rs", "use crate::store::Store;", 1),
            ("format/pack.rs", "use std::fs::File;", 1),
            ("format/pack.rs", "#[cfg(test)]\nmod tests { use std::fs::File; }", 0),
            ("error.rs", "use crate::store::StoreError;", 0),
            ("mystery.rs", "", 1),
            ("lib.rs", "pub use crate::backup::backup;", 0),
        ];
        for (place, code, count) in table {
            let found = findings(&format!("{ENGINE}{place}"), code);
            assert_eq!(found.len(), count, "{place}: {code}: {found:?}");
        }
    }

    #[test]
    fn the_pure_crate_only_computes() {
        let table = [
            ("use std::collections::BTreeMap;\nuse std::{\n    fmt,\n};", 1),
            ("use std::fmt;\nuse std::str::FromStr;", 0),
            ("fn f() { std::time::SystemTime::now(); }", 1),
            ("use std::fs::File;\nuse std::io::Read;", 2),
            ("// std::fs\nconst A: &str = \"std::io\";", 0),
            ("#[cfg(test)]\nmod tests { use std::thread; }", 1),
        ];
        for (code, count) in table {
            let found = findings("crates/plan/src/retention/mod.rs", code);
            assert_eq!(found.len(), count, "{code}: {found:?}");
        }
    }

    #[test]
    fn unsafe_has_one_place() {
        assert_eq!(findings("crates/cli/src/a.rs", "unsafe { f() }").len(), 1);
        assert_eq!(findings("crates/cli/src/a.rs", "#![allow(unsafe_code)]").len(), 1);
        assert!(findings(UNSAFE_ALLOWED, "unsafe { f() }").is_empty());
        assert!(findings("crates/cli/src/a.rs", "// unsafe").is_empty());
    }

    #[test]
    fn crates_depend_as_drawn() {
        let package = |name: &str, target: &str| {
            json!({"packages": [{"name": name, "source": null, "dependencies": [
                {"name": target, "path": "/p"}, {"name": "serde", "path": null}]}]})
        };
        assert!(crate_edges(&package("seawall", "seawall-engine")).is_empty());
        assert_eq!(crate_edges(&package("seawall-engine", "seawall-plan")).len(), 1);
        assert_eq!(crate_edges(&package("xtask", "seawall-engine")).len(), 1);
        assert_eq!(crate_edges(&package("seawall-plan", "seawall-engine")).len(), 2, "nor serde");
    }
}
