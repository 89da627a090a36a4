//! `cargo xtask tidy`: the house rules that neither the compiler nor clippy checks. It is a test too.
//!
//! A rule is a function from the project's files (or from cargo's metadata) to findings, so each is tested with small
//! bad inputs. A rule never changes a file. Files are those that git tracks or would track.
//!
//!     source     the files, and Rust text with comments and literals blanked
//!     lengths    files, functions, the `//!` at the top
//!     imports    which row of the engine may import which; crate edges; where `unsafe` may stand
//!     words      names and words that the project does not use
//!     packages   number, names and licences of the dependencies
//!     page       docs/format.md against the format module; links between pages

mod imports;
mod lengths;
mod packages;
mod page;
mod source;
mod words;

use std::path::Path;

use anyhow::Result;

pub use source::Source;

/// One thing that is against a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File, relative to the project's root.
    pub path: String,
    /// Line from 1; 0 where the whole file is meant.
    pub line: usize,
    /// What is wrong, and where it helps, what to do.
    pub what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

/// Checks the project at `root`, prints findings; `false` when there are any.
pub fn run(root: &Path) -> Result<bool> {
    let sources = source::load(root)?;
    for note in lengths::long_functions(&sources) {
        println!("note: {}:{}: {}", note.path, note.line, note.what);
    }
    let findings = check(root, &sources)?;
    for finding in &findings {
        println!("{}:{}: {}", finding.path, finding.line, finding.what);
    }
    println!("tidy: {} files, {} findings", sources.len(), findings.len());
    Ok(findings.is_empty())
}

fn check(root: &Path, sources: &[Source]) -> Result<Vec<Finding>> {
    let metadata = packages::metadata(root)?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
    let mut findings = lengths::check(sources);
    findings.extend(imports::check(sources));
    findings.extend(imports::crate_edges(&metadata));
    findings.extend(words::check(sources));
    findings.extend(packages::check_lock(&lock));
    findings.extend(packages::check_licences(&metadata));
    findings.extend(page::check_format(sources));
    findings.extend(page::check_links(root, sources));
    findings.sort();
    findings.dedup();
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surroundings::project_root;

    #[test]
    fn the_project_is_tidy() {
        let root = project_root().unwrap();
        let sources = source::load(&root).unwrap();
        let findings = check(&root, &sources).unwrap();
        assert!(findings.is_empty(), "{findings:#?}");
    }
}
