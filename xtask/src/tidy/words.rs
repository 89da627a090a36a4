//! Names and words that the project does not use.
//!
//! In code: `src` and `dst` (say source and target), modules that only say that they are used in several places, and
//! notes to do something later without the number of an issue. In every text: paths of the machine it was written on.
//! Patterns are put together from pieces, so that this file passes its own rule.

use super::source::is_word;
use super::{Finding, Source};

/// Parts of identifiers that have a full word instead.
const SHORT: [(&str, &str); 2] = [("src", "source"), ("dst", "target")];
/// File and module names that say nothing.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "manager", "misc"];
/// A promise without an issue is forgotten.
const PROMISES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Beginnings of absolute paths that exist only where somebody builds.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];

/// All findings about words.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().filter(|source| source.path != "Cargo.lock").flat_map(check_one).collect()
}

fn check_one(source: &Source) -> Vec<Finding> {
    let mut findings = check_name(source);
    for (at, word) in source.words() {
        let parts = word.split('_').map(str::to_ascii_lowercase);
        for (short, full) in parts.filter_map(|part| SHORT.iter().find(|(short, _)| *short == part)) {
            findings.push(Finding::new(
                &source.path,
                source.line_of(at),
                format!("`{word}`: write {full}, not {short}"),
            ));
        }
    }
    for (number, line) in source.text.lines().enumerate() {
        let what = promise(line).or_else(|| machine_path(line));
        findings.extend(what.map(|what| Finding::new(&source.path, number + 1, what)));
    }
    findings
}

fn check_name(source: &Source) -> Vec<Finding> {
    let parts = source.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    let file = parts.filter(|part| EMPTY_NAMES.contains(part)).map(str::to_owned);
    let mut found: Vec<_> = file.map(|name| (0, name)).collect();
    let words: Vec<_> = source.words().collect();
    for pair in words.windows(2) {
        if pair[0].1 == "mod" && EMPTY_NAMES.contains(&pair[1].1) {
            found.push((source.line_of(pair[0].0), pair[1].1.to_owned()));
        }
    }
    let finding =
        |(line, name)| Finding::new(&source.path, line, format!("`{name}` says nothing: name it by its noun"));
    found.into_iter().map(finding).collect()
}

fn promise(line: &str) -> Option<String> {
    for word in PROMISES {
        for (at, _) in line.match_indices(word) {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            let whole = !before.ends_with(is_word) && !after.starts_with(is_word);
            if whole && !after.starts_with("(#") {
                return Some(format!("{word} without the number of an issue: {word}(#12), or do it"));
            }
        }
    }
    None
}

/// A path of one machine in this line. A name of one letter, or a wildcard, below the directory is an example.
fn machine_path(line: &str) -> Option<String> {
    let relative = |before: &str| before.ends_with(|c: char| is_word(c) || ".-~*}>".contains(c));
    let example = |after: &str| after.chars().take_while(|&c| is_word(c)).count() < 2;
    MACHINE_PATHS.iter().find_map(|path| {
        let mut places = line.match_indices(path);
        let found = places.any(|(at, _)| !relative(&line[..at]) && !example(&line[at + path.len()..]));
        found.then(|| format!("`{path}…` is a path of one machine"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_where_they_stand() {
        let [promise, ..] = PROMISES;
        let [work, _, home, _] = MACHINE_PATHS;
        // File, text, how many findings.
        let table = [
            ("a.rs", "let src = 1;".to_owned(), 1),
            ("a.rs", "fn copy(dst_path: &Path) {}".into(), 1),
            ("a.rs", "let text = \"crates/engine/src\"; // src".into(), 0),
            ("a.rs", "let source = srcset;".into(), 0),
            ("a.md", "copy src to dst".into(), 0),
            ("crates/utils.rs", String::new(), 1),
            ("crates/common/mod.rs", String::new(), 1),
            ("a.rs", "mod helpers;".into(), 1),
            ("a.rs", format!("// {promise}: later"), 1),
            ("a.py", format!("# {promise}(#7): later"), 0),
            ("a.rs", format!("let {promise}S = 1;"), 0),
            ("a.md", format!("see `{work}main`"), 1),
            ("a.md", format!("see {home}me"), 1),
            ("a.md", format!("see {home}u/x and {home}*/y"), 0),
            ("a.md", format!("see target{work}main and ~{work}x"), 0),
        ];
        for (path, text, count) in table {
            let found = check(&[Source::new(path, text.clone())]);
            assert_eq!(found.len(), count, "{path}: {text}: {found:?}");
        }
    }
}
