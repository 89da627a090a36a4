//! What `backup` and `protect` share: which files are taken, how a snapshot is labelled, and which sources exist.
//!
//! Whether sources and seawall's own files get into each other's way is looked at in `overlap`.

use std::path::{Path, PathBuf};

use seawall_engine::error::{Error, Result};
use seawall_engine::stages::exclude::{ExactPlace, ExcludeOptions, Excludes};

use crate::quantities::parse_size;

/// Which files are taken.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What is taken")]
pub struct SelectionArguments {
    /// Leave out what matches: NAME or SOME/NAMES at any depth, /ABSOLUTE/PATH, ./PATH from the working directory, `*`
    /// (not over a slash), `**` (any depth), NAME/ for directories only, !PATTERN to take again
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// Leave out what matches, small and capital letters being equal
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,

    /// Leave out what matches a line of this file; empty lines and lines that begin with # do not count
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,

    /// Leave out the content of directories that hold NAME (or NAME:TEXT, a file that begins with TEXT)
    #[arg(long, value_name = "NAME[:TEXT]")]
    pub exclude_if_present: Vec<String>,

    /// Leave out the content of directories marked as caches by a CACHEDIR.TAG
    #[arg(long)]
    pub exclude_caches: bool,

    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub exclude_larger_than: Option<u64>,

    /// Stay on the file systems that the named paths are on
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
}

impl SelectionArguments {
    /// Compiles the excludes. `also` are directories that are left out without being asked for.
    ///
    /// # Errors
    /// When a pattern file can't be read or a pattern makes no sense.
    pub fn excludes(&self, also: Vec<ExactPlace>) -> Result<Excludes> {
        let pattern_files = self
            .exclude_file
            .iter()
            .map(|path| {
                std::fs::read_to_string(path).map_err(|error| Error::file(path, "cannot read the exclude file", error))
            })
            .collect::<Result<Vec<String>>>()?;
        let lines = |content: &String| from_here(content.lines()).map(|lines| lines.join("\n"));
        Excludes::new(ExcludeOptions {
            patterns: from_here(&self.exclude)?,
            patterns_ignore_case: from_here(&self.iexclude)?,
            pattern_files: pattern_files.iter().map(lines).collect::<Result<_>>()?,
            places: also,
            if_present: self.exclude_if_present.clone(),
            cachedir_tag: self.exclude_caches,
            larger_than: self.exclude_larger_than,
        })
    }
}

/// How a snapshot is labelled.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What is recorded")]
pub struct LabelArguments {
    /// Host name to record [this machine's]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,

    /// A tag to record; may be given several times
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,

    /// A label to record, as KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: write KEY=VALUE")),
    }
}

/// Patterns with a leading `./` (behind a `!`, if there is one) made absolute: it stands for the working directory.
///
/// # Errors
/// When the working directory is needed and can't be known or written as a pattern.
pub fn from_here<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Vec<String>> {
    let resolve = |pattern: P| {
        let (mark, body) = pattern.as_ref().strip_prefix('!').map_or(("", pattern.as_ref()), |body| ("!", body));
        match body.strip_prefix("./") {
            Some(rest) => Ok(format!("{mark}{}/{}", working_directory()?, rest.trim_start_matches('/'))),
            None => Ok(pattern.as_ref().to_owned()),
        }
    };
    patterns.into_iter().map(resolve).collect()
}

/// As a pattern, without a slash at the end.
fn working_directory() -> Result<String> {
    let here = std::env::current_dir().map_err(|error| Error::file(".", "cannot tell the working directory", error))?;
    let pattern = literal_pattern(&here)
        .ok_or_else(|| Error::Usage("a pattern that begins with ./ needs a working directory in UTF-8".to_owned()))?;
    Ok(pattern.trim_end_matches('/').to_owned())
}

/// A pattern that matches exactly this path; `None` where it can't be written as text.
#[must_use]
pub fn literal_pattern(path: &Path) -> Option<String> {
    let mut pattern = String::new();
    for character in path.to_str()?.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    Some(pattern)
}

/// The sources as absolute paths. Symbolic links at the end are kept; the walk knows what to do with them. As long as
/// one exists, it also tells of those that do not, as problems.
///
/// # Errors
/// When none exists or can be looked at.
pub fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = paths.is_empty();
    let mut failure = None;
    for path in paths {
        match std::fs::symlink_metadata(path) {
            Ok(_) => found = true,
            Err(error) => failure = failure.or(Some(Error::file(path, "cannot protect this", error))),
        }
    }
    if let Some(failure) = failure.filter(|_| !found) {
        return Err(failure);
    }
    let whole = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| Error::file(path, "cannot make this path absolute", error))
    };
    paths.iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_label("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }

    #[test]
    fn a_literal_pattern_matches_its_path_only() {
        let exclude = vec![literal_pattern(Path::new(r"/x/[a]*{b}?!\c")).unwrap()];
        let excludes = SelectionArguments { exclude, ..SelectionArguments::default() }.excludes(Vec::new()).unwrap();
        assert!(excludes.is_excluded(br"x/[a]*{b}?!\c", true));
        assert!(!excludes.is_excluded(br"x/ab", true));
        assert!(!excludes.is_excluded(br"x/[a]X{b}?!\c", true));
    }

    #[test]
    fn a_leading_dot_is_the_working_directory() {
        let here = literal_pattern(&std::env::current_dir().unwrap()).unwrap();
        let resolved = from_here(["./a/*.o", "!./b/", ".//c", "a/./b", "x", "/y", ".z"]).unwrap();
        let expected = [&format!("{here}/a/*.o"), &format!("!{here}/b/"), &format!("{here}/c")];
        assert_eq!(resolved[..3].iter().collect::<Vec<_>>(), expected);
        assert_eq!(resolved[3..], ["a/./b", "x", "/y", ".z"]);
    }

    #[test]
    fn a_missing_exclude_file_or_source_is_named() {
        let selection =
            SelectionArguments { exclude_file: vec!["/no/such/file".into()], ..SelectionArguments::default() };
        assert!(selection.excludes(Vec::new()).unwrap_err().to_string().contains("/no/such/file"));
        assert!(absolute(&["/no/such/source".into()]).unwrap_err().to_string().contains("/no/such/source"));
        assert_eq!(absolute(&["/no/such/source".into(), "/".into()]).unwrap().len(), 2);
    }
}
