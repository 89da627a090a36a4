//! Sources against seawall's own places: repository, scratch folders, cache.
//!
//! A repository inside a source would be backed up into itself, each run what the run before stored. What this program
//! chose itself (the default repository, scratch folders, the cache) it leaves out by itself and says so; a repository
//! that the user placed there is refused, with the option that leaves it out.
//!
//! Paths are compared as resolved and as bytes: that is how a walk names what it finds. Keys and recovery kits
//! are not looked at: they are small, and in the repository they are as secret as everything else.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use seawall_engine::error::{Error, Result};
use seawall_engine::stages::exclude::{ExactPlace, Excludes};

use super::sources::literal_pattern;
use crate::kit::shell_quoted;
use crate::run::Run;
use crate::scratch;

/// A place of seawall's own, never worth a backup.
pub struct OwnPlace {
    what: &'static str,
    path: PathBuf,
    /// True where `path` is the beginning of names.
    beginning: bool,
}

impl OwnPlace {
    /// A repository.
    #[must_use]
    pub fn repository(path: &Path) -> Self {
        Self { what: "the repository", path: path.to_owned(), beginning: false }
    }

    /// The scratch folders in a directory: this run's, and those of runs that were killed.
    #[must_use]
    pub fn scratch(parent: &Path) -> Self {
        Self { what: "scratch folders", path: parent.join(scratch::PREFIX), beginning: true }
    }

    /// The local cache, if there is one.
    #[must_use]
    pub fn cache(run: &Run) -> Option<Self> {
        run.settings.cache.clone().map(|path| Self { what: "the cache", path, beginning: false })
    }
}

/// Refuses a repository that lies inside a source, or a source inside of it: each run would back up what the run
/// before stored. It may lie there if it is left out by a pattern, or by `--one-file-system` on another file system.
///
/// # Errors
/// [`Error::Usage`] naming both, and the pattern that would do.
pub fn refuse(repository: &Path, sources: &[PathBuf], excludes: &Excludes, one_file_system: bool) -> Result<()> {
    let place = resolved(repository)?;
    for source in sources {
        let real = resolved(source)?;
        if real.starts_with(&place) {
            return Err(Error::Usage(format!(
                "the source {} lies inside the repository {}: choose other paths",
                source.display(),
                place.display()
            )));
        }
        if place.starts_with(&real)
            && !is_left_out(&place, &real, excludes)
            && !(one_file_system && is_elsewhere(&place, &real))
        {
            return Err(Error::Usage(inside(&place, source)));
        }
    }
    Ok(())
}

fn inside(place: &Path, source: &Path) -> String {
    let way_out = literal_pattern(place)
        .map(|pattern| format!(", or leave it out with --exclude {}", shell_quoted(&format!("{pattern}/"))));
    format!(
        "the repository {} would lie inside the source {}: choose a place outside of what is protected, best on another \
         disk{}",
        place.display(),
        source.display(),
        way_out.unwrap_or_default()
    )
}

/// Those of seawall's own directories that lie inside a source. A note names each.
///
/// # Errors
/// When a path can't be resolved.
pub fn leave_out(run: &Run, own: &[OwnPlace], sources: &[PathBuf]) -> Result<Vec<ExactPlace>> {
    let sources = sources.iter().map(|source| resolved(source)).collect::<Result<Vec<PathBuf>>>()?;
    let mut left_out = Vec::new();
    for place in own {
        let real = resolved(&place.path)?;
        if sources.iter().any(|source| real.starts_with(source) && real != *source) {
            let ending = if place.beginning { "*/" } else { "/" };
            run.output.note(&format!("left out: {}{ending} ({})", real.display(), place.what));
            left_out.push(ExactPlace { path: real.into_os_string().into_vec(), beginning: place.beginning });
        }
    }
    Ok(left_out)
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

/// Where a path is, or would be: the part that exists is resolved, the rest appended.
///
/// # Errors
/// When the existing part can't be resolved.
fn resolved(path: &Path) -> Result<PathBuf> {
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::commands::sources::SelectionArguments;

    #[test]
    fn overlaps_are_seen_through_links_and_missing_ends() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["data/inner", "data2", "backup"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        symlink(root.join("data/inner"), root.join("link")).unwrap();
        let overlap = |place: &str, source: &str, excludes: &Excludes| {
            refuse(&root.join(place), &[root.join(source)], excludes, false).map_err(|error| error.code())
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
            let excludes = selection.excludes(Vec::new()).unwrap();
            assert_eq!(overlap("data/inner/repo", "data", &excludes).is_ok(), allowed, "{pattern}");
        }
    }

    #[test]
    fn overlaps_are_seen_in_names_that_are_not_utf8() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(at(b"data\xff/inner")).unwrap();
        symlink(at(b"data\xff"), at(b"link\xfe")).unwrap();
        let check = |place: &[u8], source: &[u8], excludes: &Excludes| {
            refuse(&at(place), &[at(source)], excludes, false).map_err(|error| error.code())
        };
        for (place, source, expected) in [
            (&b"data\xff/new\xfd/repo"[..], &b"data\xff"[..], Err("usage")),
            (b"link\xfe/repo", b"data\xff", Err("usage")),
            (b"data\xff", b"data\xff/inner", Err("usage")),
            // Lossy, these two are one text.
            (b"data\xfe/repo", b"data\xff", Ok(())),
        ] {
            assert_eq!(check(place, source, &Excludes::default()), expected, "{place:?} in {source:?}");
        }
        let path = at(b"data\xff/new\xfd").into_os_string().into_vec();
        let left_out = vec![ExactPlace { path, beginning: false }];
        let excludes = SelectionArguments::default().excludes(left_out).unwrap();
        assert_eq!(check(b"data\xff/new\xfd/repo", b"data\xff", &excludes), Ok(()));
        assert_eq!(check(b"data\xff/new\xfc/repo", b"data\xff", &excludes), Err("usage"));
    }
}
