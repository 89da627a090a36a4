//! The dependencies: how many, which never, under which licences.
//!
//! Cargo.lock is counted as it is, with every platform. Licences are read from `cargo metadata` for the packages that
//! are built on this platform; it needs no network once they were fetched. deny.toml says the same to cargo-deny.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;
use crate::process;

const PACKAGES_MAX: usize = 549;
/// One TLS stack, one cryptographic library.
const NEVER: [&str; 5] = ["openssl", "openssl-sys", "native-tls", "ring", "rsa"];

/// `cargo metadata` of the workspace, with the dependencies of this platform.
pub fn metadata(root: &Path) -> Result<Value> {
    let host = process::capture(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform", host.trim()];
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let text = process::capture(Command::new(cargo).current_dir(root).args(arguments))?;
    serde_json::from_str(&text).context("cannot read cargo metadata")
}

/// Number and names of the packages in Cargo.lock.
pub fn check_lock(lock: &str) -> Vec<Finding> {
    let names = || lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let mut findings = Vec::new();
    let count = names().count();
    if count > PACKAGES_MAX {
        findings.push(Finding::new("Cargo.lock", 0, format!("{count} packages; at most {PACKAGES_MAX}")));
    }
    for name in names().filter(|name| NEVER.contains(name)) {
        findings.push(Finding::new("Cargo.lock", 0, format!("{name} is never built here")));
    }
    findings
}

/// Packages whose licence leaves no way around the GPL or the MPL, or that tell none.
pub fn check_licences(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if is_allowed(licence) => {}
            Some(licence) => findings.push(Finding::new("Cargo.lock", 0, format!("{name} is under {licence}"))),
            None => findings.push(Finding::new("Cargo.lock", 0, format!("{name} names no licence"))),
        }
    }
    findings
}

/// Whether an SPDX expression can be met without the GPL or MPL families.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words) -> bool {
    let mut met = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words);
    }
    met
}

fn all_of(words: &mut Words) -> bool {
    let mut met = one(words);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words);
    }
    met
}

fn one(words: &mut Words) -> bool {
    let Some(word) = words.next() else { return false };
    if word == "(" {
        let met = any_of(words);
        words.next_if_eq(&")");
        return met;
    }
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    !word.contains("GPL") && !word.contains("MPL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn licences_are_judged_by_their_alternatives() {
        let table = [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("MIT OR LGPL-2.1-or-later", true),
            ("(MIT OR GPL-3.0-only) AND Unicode-3.0", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-3.0-only", false),
            ("MPL-2.0", false),
            ("MIT AND MPL-2.0", false),
            ("(GPL-2.0 OR AGPL-3.0) AND MIT", false),
            ("", false),
        ];
        for (licence, allowed) in table {
            assert_eq!(is_allowed(licence), allowed, "{licence}");
        }
        let packages = json!({"packages": [{"name": "a", "license": null}, {"name": "b", "license": "MPL-2.0"}]});
        assert_eq!(check_licences(&packages).len(), 2);
    }

    #[test]
    fn the_lock_is_counted_and_searched() {
        let package = |name: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\n");
        assert!(check_lock(&package("serde").repeat(549)).is_empty());
        assert_eq!(check_lock(&package("serde").repeat(550)).len(), 1);
        assert_eq!(check_lock(&package("ring")).len(), 1);
        assert!(check_lock(&package("ring-buffer")).is_empty());
    }
}
