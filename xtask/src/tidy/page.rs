//! Pages against what they describe: docs/format.md against the engine, links against files.
//!
//! Every magic that the page names occurs in the engine and every magic of the engine is on the page; the same for the
//! numbers of codecs and for the acts, whose number is their place in the list of names.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Finding, Source};

const PAGE: &str = "docs/format.md";
const ENGINE: &str = "crates/engine/src/";
const CODECS: &str = "crates/engine/src/codec/mod.rs";
const ACTS: &str = "crates/engine/src/format/act.rs";

/// docs/format.md names what the engine writes, and nothing else.
pub fn check_format(sources: &[Source]) -> Vec<Finding> {
    let Some(page) = sources.iter().find(|source| source.path == PAGE) else {
        return vec![Finding::new(PAGE, 0, "the page of the stored format is missing")];
    };
    let engine = sources.iter().filter(|source| source.path.starts_with(ENGINE) && source.is_rust());
    let written: BTreeSet<String> = engine.flat_map(|source| magics(&source.text)).collect();
    let mut findings = differences("magic", &magics(&page.text), &written);
    let file = |path: &str| sources.iter().find(|source| source.path == path);
    match file(CODECS).and_then(codec_numbers) {
        Some(numbers) => findings.extend(differences("codec", &table(&page.text, "| codec |", 1), &numbers)),
        None => findings.push(Finding::new(CODECS, 0, format!("no `pub mod id` with the numbers of {PAGE}"))),
    }
    match file(ACTS).and_then(act_names) {
        Some(names) => findings.extend(differences("act", &table(&page.text, "| act |", 2), &names)),
        None => findings.push(Finding::new(ACTS, 0, format!("no `ACT_NAMES` with the acts of {PAGE}"))),
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

/// The first cells of each row, joined, of the table that begins with this head.
fn table(page: &str, head: &str, cells: usize) -> BTreeSet<String> {
    let rows = page.lines().skip_while(|line| !line.starts_with(head)).skip(2).take_while(|line| line.starts_with('|'));
    let first = |row: &str| row.split('|').skip(1).take(cells).map(str::trim).collect::<Vec<_>>().join(" ");
    rows.map(first).collect()
}

/// The values of the constants in `pub mod id`.
fn codec_numbers(source: &Source) -> Option<BTreeSet<String>> {
    let block = &source.code[source.code.find("pub mod id ")?..];
    let block = &block[..block.find("\n}")?];
    let values = block.split("const ").skip(1).filter_map(|rest| {
        let (_, value) = rest.split_once('=')?;
        Some(value.split(';').next()?.trim().to_owned())
    });
    Some(values.collect())
}

/// The strings in `ACT_NAMES`, each after its place.
fn act_names(source: &Source) -> Option<BTreeSet<String>> {
    let begin = source.code.find("ACT_NAMES: ")?;
    let list = &source.text[begin..begin + source.code[begin..].find("];")?];
    let names = list.split('"').skip(1).step_by(2).enumerate();
    Some(names.map(|(number, name)| format!("{number} {name}")).collect())
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

    const IDS: &str = "pub mod id {\n    /// Raw.\n    pub const RAW: u8 = 0;\n    pub const ZSTD: u8 = 1;\n}\n";
    const NAMES: &str = "const ACT_NAMES: [&str; 2] =\n    [\"INIT\", \"COMMIT\"];\n";

    fn findings(page: &str, code: &str) -> Vec<String> {
        let sources = [Source::new(PAGE, page), Source::new(CODECS, IDS), Source::new(ACTS, format!("{NAMES}{code}"))];
        check_format(&sources).into_iter().map(|finding| finding.what).collect()
    }

    fn page(magics: &str, codecs: &str) -> String {
        let acts = "| act | name | fields |\n|---|---|---|\n| 0 | INIT | - |\n| 1 | COMMIT | - |\n";
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
        let other_act = page("`SWPACK01`", codecs).replace("COMMIT", "FORGET");
        assert_eq!(findings(&other_act, code).len(), 2, "one is missing, one is unknown");
    }

    #[test]
    fn dead_links_are_found() {
        let root = crate::surroundings::project_root().unwrap();
        let text = "[a](../Cargo.toml) [b](nowhere.md) [c](https://example.org/x) [d](#here)\n```\n[e](gone.md)\n```\n";
        let found = check_links(&root, &[Source::new("docs/x.md", text)]);
        assert_eq!(found, [Finding::new("docs/x.md", 1, "dead link: nowhere.md")]);
    }
}
