//! Lengths of files and functions, and the `//!` that a file opens with.
//!
//! A function's length counts every line from `fn` to its closing brace. Over 100 lines is a finding, over 70 a note:
//! the aim is under 30.

use super::{Finding, Source};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 100;
const FUNCTION_LINES_NOTED: usize = 70;

/// Files and functions that are too long, and files without a header.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            let what = format!("{lines} lines; a file has at most {FILE_LINES_MAX}: split it by noun");
            findings.push(Finding::new(&source.path, 0, what));
        }
        if !source.text.starts_with("//!") {
            let what = "does not open with `//!`: what it does, what it does not, its invariants";
            findings.push(Finding::new(&source.path, 1, what));
        }
        findings.extend(functions_over(source, FUNCTION_LINES_MAX));
    }
    findings
}

/// Functions that are allowed but long.
pub fn long_functions(sources: &[Source]) -> Vec<Finding> {
    let rust = sources.iter().filter(|source| source.is_rust());
    rust.flat_map(|source| functions_over(source, FUNCTION_LINES_NOTED)).collect()
}

fn functions_over(source: &Source, lines_max: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut words = source.words().peekable();
    while let Some((at, word)) = words.next() {
        let (true, Some(&(name_at, name))) = (word == "fn", words.peek()) else { continue };
        let Some(end) = body_end(&source.code[name_at..]) else { continue };
        let first = source.line_of(at);
        let lines = source.line_of(name_at + end) - first + 1;
        if lines > lines_max {
            findings.push(Finding::new(&source.path, first, format!("fn {name} has {lines} lines")));
        }
    }
    findings
}

/// Where the body ends whose signature `code` begins with; none for a declaration or a function pointer type.
fn body_end(code: &str) -> Option<usize> {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' => curly += 1,
            b'}' => curly -= 1,
            b';' if round == 0 && curly == 0 => return None,
            _ => {}
        }
        if round < 0 || curly < 0 {
            return None;
        }
        if byte == b'}' && curly == 0 && round == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: String) -> Vec<String> {
        check(&[Source::new(path, text)]).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_long_function_is_found_and_a_long_table_is_not() {
        let body = "    let _ = 1;\n".repeat(99);
        assert_eq!(findings("a.rs", format!("//! A.\nfn f() {{\n{body}}}\n")), ["fn f has 101 lines"]);
        assert!(findings("a.rs", format!("//! A.\nfn f() {{\n{}}}\n", "    g();\n".repeat(98))).is_empty());
        let table = "    \"fn {\",\n".repeat(300);
        assert!(findings("a.rs", format!("//! A.\nconst T: [&str; 300] = [\n{table}];\nfn f() {{}}\n")).is_empty());
    }

    #[test]
    fn declarations_and_function_types_have_no_body() {
        let text = format!("//! A.\ntrait T {{\n    fn f(&self, g: fn(u8) -> [u8; 2]);\n{}}}\n", "\n".repeat(200));
        assert!(findings("a.rs", text).is_empty());
    }

    #[test]
    fn a_long_file_and_a_missing_header_are_found() {
        let found = findings("a.rs", "\n".repeat(801));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(findings("a.md", "\n".repeat(801)).is_empty());
    }

    #[test]
    fn seventy_lines_are_noted() {
        let text = format!("//! A.\nfn f() {{\n{}}}\n", "\n".repeat(69));
        assert_eq!(long_functions(&[Source::new("a.rs", text)]).len(), 1);
    }
}
