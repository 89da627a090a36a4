//! What `backup` and `protect` share: which files are taken, how a snapshot is labelled, and the checks on sources.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use seawall_engine::error::{Error, Result};
use seawall_engine::stages::exclude::{ExcludeOptions, Excludes};

use crate::quantities::parse_size;

/// Which files are taken.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What is taken")]
pub struct SelectionArguments {
    /// Leave out what matches: NAME at any depth, /ABSOLUTE/PATH, `*`, `**`, NAME/ directories only, !PATTERN takes again
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,

    /// Leave out what matches, small and capital letters being equal
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,

    /// Leave out what matches a line of this file; empty lines and lines with # do not count
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
    /// Compiles the excludes. `also` are patterns of what is left out without being asked for.
    ///
    /// # Errors
    /// When a pattern file can't be read or a pattern makes no sense.
    pub fn excludes(&self, also: &[String]) -> Result<Excludes> {
        let pattern_files = self
            .exclude_file
            .iter()
            .map(|path| {
                std::fs::read_to_string(path).map_err(|error| Error::file(path, "cannot read the exclude file", error))
            })
            .collect::<Result<Vec<String>>>()?;
        let mut patterns = self.exclude.clone();
        patterns.extend_from_slice(also);
        Excludes::new(ExcludeOptions {
            patterns,
            patterns_ignore_case: self.iexclude.clone(),
            pattern_files,
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

/// The sources as absolute paths that exist. Symbolic links at the end are kept; the walk knows what to do with them.
///
/// # Errors
/// When a path does not exist or can't be looked at.
pub fn existing(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths
        .iter()
        .map(|path| {
            std::fs::symlink_metadata(path).map_err(|error| Error::file(path, "cannot protect this", error))?;
            std::path::absolute(path).map_err(|error| Error::file(path, "cannot make this path absolute", error))
        })
        .collect()
}

/// Where a path is, or would be: the part that exists is resolved, the rest appended.
///
/// # Errors
/// When the existing part can't be resolved.
pub fn resolved(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|error| Error::file(path, "cannot make this path absolute", error))?;
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(ancestor).expect("an ancestor is a prefix");
                return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::file(ancestor, "cannot resolve this path", error)),
        }
    }
    Ok(path)
}

/// Refuses a repository that lies inside a source, or a source inside of it: each run would back up what the run
/// before stored. It may lie there if it is left out by a pattern, or by `--one-file-system` on another file system.
///
/// # Errors
/// [`Error::Usage`] naming both.
pub fn refuse_overlap(
    what: &str,
    place: &Path,
    sources: &[PathBuf],
    excludes: &Excludes,
    one_file_system: bool,
) -> Result<()> {
    let place = resolved(place)?;
    for source in sources {
        let real = resolved(source)?;
        if place.starts_with(&real)
            && !is_left_out(&place, &real, excludes)
            && !(one_file_system && is_elsewhere(&place, &real))
        {
            return Err(Error::Usage(format!(
                "{what} {} would lie inside the source {}: choose a place outside of what is protected, best on \
                 another disk, or leave it out with --exclude",
                place.display(),
                source.display()
            )));
        }
        if real.starts_with(&place) {
            return Err(Error::Usage(format!(
                "the source {} lies inside {what} {}: choose other paths",
                source.display(),
                place.display()
            )));
        }
    }
    Ok(())
}

/// True if a pattern keeps the walk from coming from `source` down to `place`.
fn is_left_out(place: &Path, source: &Path, excludes: &Excludes) -> bool {
    place
        .ancestors()
        .take_while(|ancestor| *ancestor != source)
        .filter_map(|ancestor| ancestor.as_os_str().as_bytes().strip_prefix(b"/"))
        .any(|path| excludes.is_excluded(path, true))
}

fn is_elsewhere(place: &Path, source: &Path) -> bool {
    let device = |path: &Path| {
        let existing = path.ancestors().find_map(|ancestor| std::fs::symlink_metadata(ancestor).ok());
        existing.map(|metadata| metadata.dev())
    };
    device(place) != device(source)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn overlaps_are_seen_through_links_and_missing_ends() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["data/inner", "data2", "backup"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        symlink(root.join("data/inner"), root.join("link")).unwrap();
        let overlap = |place: &str, source: &str, excludes: &Excludes| {
            refuse_overlap("the repository", &root.join(place), &[root.join(source)], excludes, false)
                .map_err(|error| error.code())
        };
        let check = |place: &str, source: &str| overlap(place, source, &Excludes::default());
        for (place, source) in [
            ("data/repo", "data"),
            ("data", "data"),
            ("data/new/deep/repo", "data"),
            ("link/repo", "data"),
            ("data/inner/repo", "link"),
            ("backup", "backup/x"),
            ("backup/../data/repo", "data"),
        ] {
            assert_eq!(check(place, source), Err("usage"), "{place} in {source}");
        }
        for (place, source) in [("backup/repo", "data"), ("data2", "data"), ("data", "data2"), ("new/repo", "data")] {
            assert_eq!(check(place, source), Ok(()), "{place} in {source}");
        }
        for (pattern, allowed) in [("repo", true), ("/data/inner", false), ("**/inner/", true), ("repository", false)] {
            let selection = SelectionArguments { exclude: vec![pattern.to_owned()], ..SelectionArguments::default() };
            let excludes = selection.excludes(&[]).unwrap();
            assert_eq!(overlap("data/inner/repo", "data", &excludes).is_ok(), allowed, "{pattern}");
        }
    }

    #[test]
    fn labels_have_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_label("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }

    #[test]
    fn a_literal_pattern_matches_its_path_only() {
        let selection = SelectionArguments::default();
        let excludes = selection.excludes(&[literal_pattern(Path::new(r"/x/[a]*{b}?!\c")).unwrap()]).unwrap();
        assert!(excludes.is_excluded(br"x/[a]*{b}?!\c", true));
        assert!(!excludes.is_excluded(br"x/ab", true));
        assert!(!excludes.is_excluded(br"x/[a]X{b}?!\c", true));
    }

    #[test]
    fn a_missing_exclude_file_or_source_is_named() {
        let selection =
            SelectionArguments { exclude_file: vec!["/no/such/file".into()], ..SelectionArguments::default() };
        assert!(selection.excludes(&[]).unwrap_err().to_string().contains("/no/such/file"));
        assert!(existing(&["/no/such/source".into()]).unwrap_err().to_string().contains("/no/such/source"));
    }
}
