//! Pages against what they describe: docs/format.md against the engine, links against files.
//!
//! Every magic that the page names occurs in the engine and every magic of the engine is on the page; the same for the
//! numbers of codecs and acts.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Finding, Source};

const PAGE: &str = "docs/format.md";
const ENGINE: &str = "crates/engine/src/";
/// Tables of the page whose numbers are constants of the engine: head of the table, file of the constants, module.
const TABLES: [(&str, &str, &str); 2] = [
    ("| codec | name |", "crates/engine/src/codec/mod.rs", "pub mod id "),
    ("| act | name |", "crates/engine/src/format/log.rs", "mod act "),
];

/// docs/format.md names what the engine writes, and nothing else.
pub fn check_format(sources: &[Source]) -> Vec<Finding> {
    let Some(page) = sources.iter().find(|source| source.path == PAGE) else {
        return vec![Finding::new(PAGE, 0, "the page of the stored format is missing")];
    };
    let engine = sources.iter().filter(|source| source.path.starts_with(ENGINE) && source.is_rust());
    let written: BTreeSet<String> = engine.flat_map(|source| magics(&source.text)).collect();
    let mut findings = differences("magic", &magics(&page.text), &written);
    for (head, path, module) in TABLES {
        let constants = sources.iter().find(|source| source.path == path).and_then(|source| constants(source, module));
        match constants {
            Some(constants) => findings.extend(differences(head, &table_numbers(&page.text, head), &constants)),
            None => findings.push(Finding::new(path, 0, format!("no `{module}` with the numbers of {PAGE}"))),
        }
    }
    findings
}

fn differences(what: &str, on_page: &BTreeSet<String>, in_code: &BTreeSet<String>) -> Vec<Finding> {
    let missing = on_page.difference(in_code).map(|name| format!("{what} {name} is not in the engine"));
    let unknown = in_code.difference(on_page).map(|name| format!("{what} {name} is not on the page"));
    missing.chain(unknown).map(|what| Finding::new(PAGE, 0, what)).collect()
}

/// `SWBL`, `SWPACK01` and their like, between quotes or backquotes.
fn magics(text: &str) -> BTreeSet<String> {
    let is_magic = |word: &&str| {
        let upper = |text: &str| text.bytes().all(|byte| byte.is_ascii_uppercase());
        word.starts_with("SW")
            && ((word.len() == 4 && upper(word))
                || (word.len() == 8 && upper(&word[..6]) && word[6..].bytes().all(|byte| byte.is_ascii_digit())))
    };
    text.split(['`', '"']).filter(is_magic).map(str::to_owned).collect()
}

/// The numbers in the first column of the table with this head.
fn table_numbers(page: &str, head: &str) -> BTreeSet<String> {
    let rows = page.lines().skip_while(|line| !line.starts_with(head)).skip(2).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('|').nth(1)).map(|number| number.trim().to_owned()).collect()
}

/// The values of the integer constants in a module of one file.
fn constants(source: &Source, module: &str) -> Option<BTreeSet<String>> {
    let begin = source.code.find(module)?;
    let block = &source.code[begin..];
    let block = &block[..block.find("\n}").or_else(|| block.find('}'))?];
    let values = block.split("const ").skip(1).filter_map(|rest| {
        let (_, value) = rest.split_once('=')?;
        Some(value.split(';').next()?.trim().to_owned())
    });
    Some(values.filter(|value| value.parse::<u64>().is_ok()).collect())
}

/// Relative links of Markdown pages lead to files that exist.
pub fn check_links(root: &Path, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".md")) {
        let directory = root.join(&source.path).parent().map(Path::to_path_buf).unwrap_or_default();
        for (line, link) in links(&source.text) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains(':') && !directory.join(file).exists() {
                findings.push(Finding::new(&source.path, line, format!("dead link: {link}")));
            }
        }
    }
    findings
}

/// The targets of inline links, each with its line; code blocks have none.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            if let Some(link) = line[at + 2..].split([')', ' ']).next() {
                found.push((number + 1, link));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: &str = "pub mod id {\n    /// Raw.\n    pub const RAW: u8 = 0;\n    pub const ZSTD: u8 = 1;\n}\n";
    const ACTS: &str = "mod act {\n    pub const INIT: u8 = 0;\n}\nconst OTHER: u8 = 9;\n";

    fn findings(page: &str, code: &str) -> Vec<String> {
        let sources = [
            Source::new(PAGE, page),
            Source::new("crates/engine/src/codec/mod.rs", CODES),
            Source::new("crates/engine/src/format/log.rs", format!("{ACTS}{code}")),
        ];
        check_format(&sources).into_iter().map(|finding| finding.what).collect()
    }

    fn page(magics: &str, codecs: &str) -> String {
        let acts = "| act | name | fields |\n|---|---|---|\n| 0 | INIT | - |\n";
        format!("Magic {magics}.\n\n| codec | name | payload |\n|---|---|---|\n{codecs}\nText.\n\n{acts}")
    }

    #[test]
    fn the_page_and_the_engine_name_the_same() {
        let codecs = "| 0 | raw | x |\n| 1 | zstd | x |\n";
        let code = "const MAGIC: &[u8; 8] = b\"SWPACK01\";";
        assert!(findings(&page("`SWPACK01`", codecs), code).is_empty());
        assert_eq!(findings(&page("`SWPACK01` `SWBL`", codecs), code), ["magic SWBL is not in the engine"]);
        assert_eq!(findings(&page("", codecs), code), ["magic SWPACK01 is not on the page"]);
        assert_eq!(findings(&page("`SWPACK01`", "| 0 | raw | x |\n"), code).len(), 1);
        assert_eq!(findings(&page("`SWPACK01`", &format!("{codecs}| 2 | new | x |\n")), code).len(), 1);
    }

    #[test]
    fn dead_links_are_found() {
        let root = crate::surroundings::project_root().unwrap();
        let text = "[a](../Cargo.toml) [b](nowhere.md) [c](https://example.org/x) [d](#here)\n```\n[e](gone.md)\n```\n";
        let found = check_links(&root, &[Source::new("docs/x.md", text)]);
        assert_eq!(found, [Finding::new("docs/x.md", 1, "dead link: nowhere.md")]);
    }
}
