//! The sources of one walk, resolved and merged into a tree of names.
//!
//! Each source is made absolute and its parent directory canonical; the last component is not followed. Where it is a
//! symbolic link, both the link and the real path behind it become sources: who names a link means the data, and the link
//! belongs to it. A link whose target can't be found is a source by itself, and a problem: the data is not there. Duplicates and nested sources merge, because they are places in one tree.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::entry::TreeKey;
use crate::error::{Error, Result};
use crate::monitor::Problem;

/// A name on the way to a source, or a source itself.
#[derive(Debug, Default)]
pub(super) struct SourceNode {
    /// Named by the user: walked whole, and no exclude applies to it.
    pub source: bool,
    /// Names below that lead to further sources.
    children: BTreeMap<CString, SourceNode>,
}

impl SourceNode {
    /// The child of that name, if it leads to a source.
    pub(super) fn child(&self, name: &CStr) -> Option<&Self> {
        self.children.get(name)
    }

    /// The names below that lead to sources.
    pub(super) fn names(&self) -> impl Iterator<Item = &CStr> {
        self.children.keys().map(CString::as_c_str)
    }

    /// True if a source lies below.
    pub(super) fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    fn insert(&mut self, key: &TreeKey) {
        let mut node = self;
        for component in key.components() {
            let name = CString::new(component).expect("a tree key's component holds no NUL");
            node = node.children.entry(name).or_default();
        }
        node.source = true;
    }
}

/// All sources of a walk.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The root directory's node.
    pub root: SourceNode,
    /// Resolved sources, sorted, each once.
    pub keys: Vec<TreeKey>,
    /// Sources that could not be resolved.
    pub problems: Vec<Problem>,
}

impl Sources {
    /// Resolves the paths. A source that does not exist is a problem; that none exists is an error.
    pub(super) fn resolve(paths: &[PathBuf]) -> Result<Self> {
        let mut sources = Self::default();
        let mut failure = Error::Usage("no source was named".to_owned());
        for path in paths {
            match real_paths(path) {
                Ok(found) => {
                    sources.keys.extend(found.paths.iter().filter_map(|path| TreeKey::from_path(path)));
                    if let Some(error) = found.behind {
                        let what = format!("is a link, and what it leads to cannot be found: {error}");
                        sources.problems.push(Problem::path(path, "unreadable", what));
                    }
                }
                Err(error) => {
                    // Why not `missing`: that code is for stored objects, and means damage.
                    let what = format!("cannot find the source: {error}");
                    sources.problems.push(Problem::path(path, "unreadable", what));
                    failure = Error::file(path, "cannot find the source", error);
                }
            }
        }
        if sources.keys.is_empty() {
            return Err(failure);
        }
        sources.keys.sort_unstable();
        sources.keys.dedup();
        for key in &sources.keys {
            sources.root.insert(key);
        }
        Ok(sources)
    }
}

/// A source as it lies in the file system.
struct Resolved {
    /// The path with its parents resolved, and, where it is a symbolic link, what it leads to.
    paths: Vec<PathBuf>,
    /// Why what a link leads to can't be found.
    behind: Option<io::Error>,
}

fn real_paths(path: &Path) -> io::Result<Resolved> {
    let absolute = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        // The root, or a path that ends in `..`.
        return Ok(Resolved { paths: vec![fs::canonicalize(&absolute)?], behind: None });
    };
    let place = fs::canonicalize(parent)?.join(name);
    let mut found = Resolved { paths: Vec::new(), behind: None };
    if fs::symlink_metadata(&place)?.is_symlink() {
        match fs::canonicalize(&place) {
            Ok(target) => found.paths.push(target),
            Err(error) => found.behind = Some(error),
        }
    }
    found.paths.push(place);
    Ok(found)
}
