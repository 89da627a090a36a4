//! Where are checkpoints below a directory? A checkpoint is a directory, or a single file in a flat run directory.
//!
//! Found by names alone, so that a look at a run costs a few listings: whether what was found is a checkpoint, and
//! whether it is finished, is asked later. What lies in a checkpoint is not looked through for others; a directory beside
//! steps that is no step itself is. Links are not followed: `latest` often is one, and leads to what is found anyway; what
//! leads elsewhere is named. What can't be listed is named with the reason; only what has vanished is passed over in silence.

use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use super::names::{self, Named};

/// Directories without a checkpoint that are looked through below one root, at most.
const DIRECTORIES_MAX: usize = 10_000;
/// So deep below the root.
const DEPTH_MAX: usize = 4;

/// What may be a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub path: PathBuf,
    pub named: Option<Named>,
    pub is_file: bool,
}

struct Child {
    name: OsString,
    kind: FileType,
}

impl Child {
    fn text(&self) -> &str {
        self.name.to_str().unwrap_or_default()
    }
}

/// What a search found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In ascending order of paths.
    pub candidates: Vec<Candidate>,
    /// The directories without a checkpoint that were looked through: where others may appear.
    pub directories: Vec<PathBuf>,
    /// Directories below the root that can't be listed, and why.
    pub trouble: Vec<(PathBuf, String)>,
    /// Links that may lead to checkpoints and were not followed, wherever they lead.
    pub links: Vec<PathBuf>,
}

/// All candidates at or below `root`.
///
/// # Errors
/// When `root` can't be listed, or there are too many directories below it.
pub(super) fn candidates(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let metadata = fs::symlink_metadata(root)?;
    if metadata.is_dir() {
        found.descend(root, 0)?;
    } else if metadata.is_file() {
        let name = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        found.candidates.push(Candidate { path: root.to_path_buf(), named: names::file(name), is_file: true });
    }
    found.candidates.sort_unstable_by(|left, right| left.path.cmp(&right.path));
    Ok(found)
}

impl Found {
    fn descend(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        if self.directories.len() >= DIRECTORIES_MAX {
            let what =
                format!("more than {DIRECTORIES_MAX} directories without a checkpoint: name the run's directory");
            return Err(io::Error::other(what));
        }
        let children = match children(directory) {
            Ok(children) => children,
            Err(error) if depth == 0 => return Err(error),
            // Rotated away since the directory above was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                self.trouble.push((directory.to_path_buf(), format!("cannot be looked through: {error}")));
                return Ok(());
            }
        };
        let named = directory.file_name().and_then(|name| names::directory(name.to_str()?));
        if is_checkpoint(directory, named, &children) {
            self.candidates.push(Candidate { path: directory.to_path_buf(), named, is_file: false });
            return Ok(());
        }
        self.directories.push(directory.to_path_buf());
        for child in children {
            let path = directory.join(&child.name);
            let named = names::directory(child.text());
            let hidden = child.text().starts_with('.') && !named.is_some_and(|named| named.temporary);
            if child.kind.is_dir() && depth < DEPTH_MAX && !hidden {
                self.descend(&path, depth + 1)?;
            } else if child.kind.is_file()
                && let Some(named) = names::file(child.text())
            {
                self.candidates.push(Candidate { path, named: Some(named), is_file: true });
            } else if child.kind.is_symlink() && !hidden && may_lead_to_checkpoints(&path, child.text()) {
                self.links.push(path);
            }
        }
        Ok(())
    }
}

/// Whether a link leads to a directory, or has the name of a file that would be a checkpoint. One that leads nowhere does
/// not; of one that can't be followed nobody knows.
fn may_lead_to_checkpoints(link: &Path, name: &str) -> bool {
    match fs::metadata(link) {
        Ok(target) => target.is_dir() || (target.is_file() && names::file(name).is_some()),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn children(directory: &Path) -> io::Result<Vec<Child>> {
    let mut children = Vec::new();
    for item in fs::read_dir(directory)? {
        let item = item?;
        let kind = match item.file_type() {
            Ok(kind) => kind,
            // Why: one name that went must not hide the others.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        children.push(Child { name: item.file_name(), kind });
    }
    children.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    Ok(children)
}

/// Whether a directory is one checkpoint, rather than a run that holds several.
fn is_checkpoint(directory: &Path, named: Option<Named>, children: &[Child]) -> bool {
    let steps: Vec<&Child> = children
        .iter()
        .filter(|child| child.kind.is_dir() && names::directory(child.text()).is_some_and(|inner| inner.sure))
        .collect();
    match named {
        // Why the inner ones: a Trainer's checkpoint has DeepSpeed's `global_step100` in it, and a run may be called `step2`.
        Some(named) if named.sure => {
            let is_deepspeed = |step: &&Child| step.text().starts_with("global_step");
            steps.is_empty() || (steps.iter().all(is_deepspeed) && (has_config(children) || holds_weights(children)))
        }
        _ if !steps.is_empty() => false,
        Some(named) => named.temporary || is_marked(children) || has_item(directory, children),
        None => is_marked(children) || (holds_weights(children) && has_config(children)),
    }
}

/// Whether names in a directory are those that only checkpoints have.
fn is_marked(children: &[Child]) -> bool {
    children.iter().map(Child::text).any(|name| {
        matches!(
            name,
            ".metadata"
                | ".metadata.tmp"
                | "_CHECKPOINT_METADATA"
                | "commit_success.txt"
                | "manifest.ocdbt"
                | "_METADATA"
                | "trainer_state.json"
        ) || name.ends_with(".distcp")
            || name.ends_with("_model_states.pt")
            || name.ends_with("_optim_states.pt")
            // Why no step: an item of a checkpoint, and not a checkpoint of a run.
            || (name.contains(names::ORBAX_TEMPORARY) && names::directory(name).is_none())
            || name.starts_with("mp_rank_")
    })
}

/// Whether a directory below is an item of an Orbax checkpoint.
fn has_item(directory: &Path, children: &[Child]) -> bool {
    let holds = |child: &Child, name: &str| directory.join(&child.name).join(name).exists();
    let mut directories = children.iter().filter(|child| child.kind.is_dir());
    directories.any(|child| holds(child, "_METADATA") || holds(child, "manifest.ocdbt"))
}

fn has_config(children: &[Child]) -> bool {
    children.iter().any(|child| matches!(child.text(), "config.json" | "adapter_config.json"))
}

/// Whether there are weights, or their index.
fn holds_weights(children: &[Child]) -> bool {
    let endings = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"];
    children.iter().any(|child| child.kind.is_file() && endings.iter().any(|ending| child.text().ends_with(ending)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checkpoints among these files (directories where they end in a slash), relative to the root `runs`.
    fn found(files: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("runs");
        fs::create_dir(&root).unwrap();
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(if file.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
            if !file.ends_with('/') {
                fs::write(path, b"x").unwrap();
            }
        }
        let relative = |candidate: Candidate| candidate.path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        candidates(&root).unwrap().candidates.into_iter().map(relative).collect()
    }

    #[test]
    fn runs_and_their_checkpoints() {
        for (files, expected) in [
            (&["step-1/.metadata", "step-2/x.distcp", "latest.txt"][..], &["step-1", "step-2"][..]),
            (&["a/checkpoint-5/config.json", "b/checkpoint-7/"], &["a/checkpoint-5", "b/checkpoint-7"]),
            (&["model.safetensors", "config.json", "checkpoint-5/config.json"], &["checkpoint-5"]),
            (&["config.json", "model.safetensors"], &[""]),
            (&["bert/config.json", "bert/model.safetensors", "notes/config.json"], &["bert"]),
            (&["checkpoint-5/config.json", "checkpoint-5/global_step5/x.pt"], &["checkpoint-5"]),
            (&["step2/checkpoint-5/config.json", "step2/config.json"], &["step2/checkpoint-5"]),
            (&["latest", "global_step5/x.pt", "zero_to_fp32.py"], &["global_step5"]),
            (
                &["5/default/_METADATA", "6.orbax-checkpoint-tmp-3/", "2024/photos/1.jpg"],
                &["5", "6.orbax-checkpoint-tmp-3"],
            ),
            (
                &["step-1.safetensors", "step-2.safetensors.tmp", "notes.txt"],
                &["step-1.safetensors", "step-2.safetensors.tmp"],
            ),
            (&["iter_0000010/mp_rank_00/model_optim_rng.pt"], &["iter_0000010"]),
            (&[".cache/step-1/.metadata", ".tmp-checkpoint-3/x.pt"], &[".tmp-checkpoint-3"]),
            (&["a/b/c/d/step-1/.metadata"], &[]),
            (&["notes.txt"], &[]),
        ] {
            assert_eq!(found(files), expected, "{files:?}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("step-1")).unwrap();
        std::os::unix::fs::symlink("step-1", folder.path().join("step-2")).unwrap();
        let found = candidates(folder.path()).unwrap();
        assert_eq!(found.directories, [folder.path()]);
        let paths: Vec<PathBuf> = found.candidates.into_iter().map(|candidate| candidate.path).collect();
        assert_eq!(paths, [folder.path().join("step-1")]);
        assert_eq!(found.links, [folder.path().join("step-2")]);
    }

    /// As root a mode keeps nobody out, but a path that is too long does.
    #[test]
    fn what_cant_be_listed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut root = folder.path().to_path_buf();
        while root.as_os_str().len() < 3850 {
            root.push("r".repeat(200));
        }
        fs::create_dir_all(root.join("a/closed run/step-1")).unwrap();
        fs::create_dir_all(root.join("open run/step-2")).unwrap();
        let long = root.join("a".repeat(4090 - root.as_os_str().len() - 1));
        fs::rename(root.join("a"), &long).unwrap();
        let found = candidates(&root).unwrap();
        let paths: Vec<PathBuf> = found.candidates.into_iter().map(|candidate| candidate.path).collect();
        assert_eq!(paths, [root.join("open run/step-2")]);
        let [(path, why)] = &found.trouble[..] else { panic!("{:?}", found.trouble) };
        assert!(*path == long.join("closed run") && why.contains("cannot be looked through"), "{why}");
    }
}
