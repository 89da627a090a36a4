//! Excludes: which names a walk leaves out.
//!
//! Patterns are gitignore-like globs, matched on bytes against the absolute path; the last one that matches decides.
//! Markers leave out the content of a directory that holds a certain file (CACHEDIR.TAG, or any name that the user
//! gives), but keep the directory and the marker. A limit leaves out large files.
//!
//! What is excluded is not descended into, so a `!` pattern cannot bring back a name below an excluded directory.
//! Sources that the user names are never excluded; the walk sees to that.

use std::ffi::{CStr, CString};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::OFlags;
use rustix::io::{Errno, read};

use super::walk::{Directory, Stat, StatKind, open_quietly};
use crate::error::{Error, Result};

/// A directory to exclude whatever bytes its name is made of, which a pattern can't do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactPlace {
    /// Its absolute path.
    pub path: Vec<u8>,
    /// True if `path` is only the beginning of its name, and of others to be excluded.
    pub beginning: bool,
}

impl ExactPlace {
    fn holds(&self, path: &[u8]) -> bool {
        let own = self.path.strip_prefix(b"/").unwrap_or(&self.path);
        path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || (self.beginning && !rest.contains(&b'/')))
    }
}

/// What to exclude, as the user says it.
#[derive(Debug, Clone, Default)]
pub struct ExcludeOptions {
    /// Patterns. One that begins with `/` or `**` matches the whole absolute path; any other, a name or names joined by
    /// `/`, matches at any depth. `*` and `?` stop at `/`, `**` does not, `?` is one byte, `[a-z]` and `{a,b}` are alternatives, `\`
    /// takes the next character as it is. A `/` at the end restricts to directories; a `!` in front includes again.
    pub patterns: Vec<String>,
    /// Patterns that take small and capital ASCII letters as equal; they come after `patterns`.
    pub patterns_ignore_case: Vec<String>,
    /// Contents of pattern files: a pattern a line; empty lines and lines that begin with `#` do not count, spaces at the
    /// end neither. They come last.
    pub pattern_files: Vec<String>,
    /// Directories, exactly. No `!` pattern includes them again.
    pub places: Vec<ExactPlace>,
    /// Markers: `NAME`, or `NAME:HEADER` where the file must begin with those bytes.
    pub if_present: Vec<String>,
    /// Honour CACHEDIR.TAG files with their signature (<https://bford.info/cachedir/>).
    pub cachedir_tag: bool,
    /// Exclude regular files of more than so many bytes.
    pub larger_than: Option<u64>,
}

/// Compiled excludes. The default excludes nothing.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    globs: GlobSet,
    /// Beside each glob, what it means when it matches.
    rules: Vec<Rule>,
    places: Vec<ExactPlace>,
    markers: Vec<Marker>,
    larger_than: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    includes: bool,
    directories_only: bool,
}

/// A file whose presence excludes what lies beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    name: CString,
    header: Vec<u8>,
}

const CACHEDIR_TAG: &CStr = c"CACHEDIR.TAG";
const CACHEDIR_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

impl Excludes {
    /// Compiles the options.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the pattern or marker that makes no sense.
    pub fn new(options: ExcludeOptions) -> Result<Self> {
        let mut globs = GlobSetBuilder::new();
        let mut rules = Vec::new();
        let from_files = options.pattern_files.iter().flat_map(|content| pattern_lines(content));
        let sensitive = options.patterns.iter().map(|pattern| (pattern.as_str(), false));
        let insensitive = options.patterns_ignore_case.iter().map(|pattern| (pattern.as_str(), true));
        for (pattern, ignore_case) in sensitive.chain(insensitive).chain(from_files.map(|line| (line, false))) {
            let (rule, glob) = parse_pattern(pattern)?;
            let glob = GlobBuilder::new(&glob)
                .literal_separator(true)
                .backslash_escape(true)
                .case_insensitive(ignore_case)
                .build()
                .map_err(|error| bad_pattern(pattern, error.kind()))?;
            globs.add(glob);
            rules.push(rule);
        }
        let globs = globs.build().map_err(|error| Error::Usage(format!("exclude patterns: {error}")))?;
        let mut markers = options.if_present.iter().map(|text| parse_marker(text)).collect::<Result<Vec<_>>>()?;
        if options.cachedir_tag {
            markers.push(Marker { name: CACHEDIR_TAG.to_owned(), header: CACHEDIR_SIGNATURE.to_vec() });
        }
        Ok(Self { globs, rules, places: options.places, markers, larger_than: options.larger_than })
    }

    /// True if there are patterns or places at all.
    #[must_use]
    pub fn has_patterns(&self) -> bool {
        !self.rules.is_empty() || !self.places.is_empty()
    }

    /// Whether the patterns or places exclude a path: absolute, in bytes, without the leading slash. Only the path itself is
    /// looked at, not the directories above it.
    #[must_use]
    pub fn is_excluded(&self, path: &[u8], directory: bool) -> bool {
        if directory && self.places.iter().any(|place| place.holds(path)) {
            return true;
        }
        let matching = self.globs.matches_candidate(&Candidate::from_bytes(path));
        let applies = |rule: &&Rule| directory || !rule.directories_only;
        matching.iter().rev().map(|&place| &self.rules[place]).find(applies).is_some_and(|rule| !rule.includes)
    }

    /// Whether a regular file is over the limit.
    #[must_use]
    pub fn is_too_large(&self, stat: &Stat) -> bool {
        stat.kind == StatKind::File && self.larger_than.is_some_and(|limit| stat.size > limit)
    }

    /// The markers.
    #[must_use]
    pub fn markers(&self) -> &[Marker] {
        &self.markers
    }
}

impl Marker {
    /// Name of the marking file.
    #[must_use]
    pub fn name(&self) -> &CStr {
        &self.name
    }

    /// Whether the marker, known to be a name in `directory`, begins with the header. One that cannot be read does not
    /// count.
    pub(crate) fn is_met_in(&self, directory: &Directory) -> bool {
        self.header.is_empty() || self.begins_with_header(directory).unwrap_or(false)
    }

    fn begins_with_header(&self, directory: &Directory) -> Result<bool, Errno> {
        let file = open_quietly(directory, &self.name, OFlags::RDONLY)?;
        let mut content = vec![0; self.header.len()];
        let mut filled = 0;
        while filled < content.len() {
            match read(&file, &mut content[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(content[..filled] == self.header)
    }
}

fn bad_pattern(pattern: &str, why: impl std::fmt::Display) -> Error {
    Error::Usage(format!("exclude pattern {pattern:?}: {why}"))
}

fn pattern_lines(content: &str) -> impl Iterator<Item = &str> {
    content.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Splits a pattern into what it does and the glob over whole paths.
fn parse_pattern(pattern: &str) -> Result<(Rule, String)> {
    let (includes, rest) = pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest));
    let body = rest.trim_end_matches('/');
    let directories_only = body.len() < rest.len();
    let anchored = body.starts_with('/') || body.starts_with("**");
    let body = body.trim_start_matches('/');
    if body.is_empty() {
        return Err(bad_pattern(pattern, "it names nothing"));
    }
    let glob = if anchored { body.to_owned() } else { format!("**/{body}") };
    Ok((Rule { includes, directories_only }, glob))
}

fn parse_marker(text: &str) -> Result<Marker> {
    let (name, header) = text.split_once(':').unwrap_or((text, ""));
    if matches!(name, "" | "." | "..") || name.contains('/') {
        return Err(Error::Usage(format!("exclude marker {text:?}: it must begin with a file name")));
    }
    let name = CString::new(name).map_err(|_| Error::Usage(format!("exclude marker {text:?}: NUL in the name")))?;
    Ok(Marker { name, header: header.as_bytes().to_vec() })
}

#[cfg(test)]
mod tests;
