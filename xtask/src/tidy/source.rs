//! The project's text files, and Rust text with comments and literals blanked.
//!
//! `code` has the same length and the same line breaks as `text`, so a place found in one is a place in the other; what
//! was a comment or stood inside a string, byte string or character literal is spaces. The scanner knows nested
//! comments, escapes, raw strings and lifetimes; it is no parser, and does not have to be: rustc reads the same files.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// A text file of the project.
pub struct Source {
    /// Path relative to the project's root, with slashes.
    pub path: String,
    /// What the file holds.
    pub text: String,
    /// For a Rust file: `text` with comments and literals blanked. Else empty.
    pub code: String,
}

impl Source {
    /// A file with this path and text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") { blank(&text) } else { String::new() };
        Self { path, text, code }
    }

    /// Whether this is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The line, from 1, of a byte offset.
    pub fn line_of(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
    }

    /// The words of the code, each with its offset: identifiers, keywords and numbers.
    pub fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut rest = 0;
        std::iter::from_fn(move || {
            let start = rest + self.code[rest..].find(is_word)?;
            let length = self.code[start..].find(|c| !is_word(c)).unwrap_or(self.code.len() - start);
            rest = start + length;
            Some((start, &self.code[start..rest]))
        })
    }
}

/// Whether `c` may stand in an identifier.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// All text files that git tracks or would track, in order of their paths.
pub fn load(root: &Path) -> Result<Vec<Source>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let names = process::capture(Command::new("git").current_dir(root).args(list))?;
    let mut names: Vec<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let mut sources = Vec::new();
    for name in names {
        let file = root.join(name);
        if !file.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue; // Deleted but not yet committed, or a link.
        }
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source::new(name, text));
        }
    }
    Ok(sources)
}

/// `text` with comments and the insides of literals replaced by spaces, line breaks kept.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let length = blank_length(bytes, at);
        for byte in &mut code[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length.max(1);
    }
    // Why lossless here: whole literals and comments are blanked, so no character is cut in two.
    String::from_utf8(code).expect("blanking replaces whole characters")
}

/// How many bytes from `at` on belong to a comment or literal that begins there; 0 for code.
fn blank_length(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => comment_length(rest),
        [b'"', ..] => 1 + quoted_length(&rest[1..], b'"'),
        [b'\'', ..] => character_length(rest),
        [b'r' | b'b' | b'c', ..] if !after_word => prefixed_length(rest),
        _ => 0,
    }
}

fn comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length up to and including the closing quote, with escapes.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character literal's length, or 0 for a lifetime.
fn character_length(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return 1 + quoted_length(&rest[1..], b'\'');
    }
    // One character of up to four bytes, then the quote; a lifetime has no quote there.
    let width = rest[1..].iter().skip(1).take_while(|&&b| b & 0xC0 == 0x80).count() + 1;
    if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
}

/// r"", r#""#, b"", br"", b'', c"", cr"": the length of the literal, or 0 for an identifier.
fn prefixed_length(rest: &[u8]) -> usize {
    let letters = rest.iter().take(2).take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
    let hashes = rest[letters..].iter().take_while(|&&b| b == b'#').count();
    let raw = rest[letters - 1] == b'r';
    match rest.get(letters + hashes) {
        Some(b'"') if raw => {
            let open = letters + hashes + 1;
            let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let inside = rest[open..].windows(close.len()).position(|window| window == close);
            inside.map_or(rest.len(), |length| open + length + close.len())
        }
        Some(b'"') if hashes == 0 => letters + 1 + quoted_length(&rest[letters + 1..], b'"'),
        Some(b'\'') if hashes == 0 && letters == 1 && rest[0] == b'b' => 1 + character_length(&rest[1..]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let table = [
            ("let a = 1; // TWO", "let a = 1;       "),
            ("/* A /* B */ C */ d", "                  d"),
            (r#"f("x\"Y", z)"#, "f(      , z)"),
            ("f(r#\"A\"B\"#, c)", "f(        , c)"),
            (r"f(b'\'', 'X', b'Y')", "f(     ,    ,     )"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("let bar = r#fn;", "let bar = r#fn;"),
            ("'é' x", "     x"),
        ];
        for (text, code) in table {
            assert_eq!(blank(text), code, "{text}");
        }
    }

    #[test]
    fn lines_and_words_are_found() {
        let source = Source::new("a.rs", "fn f() {\n    g_1(\"h\");\n}\n");
        let words: Vec<_> = source.words().map(|(at, word)| (source.line_of(at), word)).collect();
        assert_eq!(words, [(1, "fn"), (1, "f"), (2, "g_1")]);
    }
}
