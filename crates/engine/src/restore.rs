//! Restore: from a snapshot's tree back into a file system, beneath one directory.
//!
//! walk the tree -> plan files -> fetch ranges of packs -> open, decode -> write -> links, directories -> flags
//!
//! Pass 1 ([`write`]) walks the tree in key order, makes directories (open to nobody else yet) and everything small,
//! and plans the content of files; worker threads ([`fetch`]) read packs in long ranges, in order of place, and
//! write. Pass 2 ([`finish`]) walks again: second names of hard links, and each directory's own metadata once nothing
//! in it changes any more. Pass 3, only where needed, puts on append-only and immutable. With `weights_first` pass 1 is two
//! ([`order`]): models, then the states of optimizers.
//!
//! Nothing outside the target is written, whatever the tree says: see [`crate::stages::target`]. Trouble with one path
//! is a problem in the report; a full disk ends the run. Memory is bounded by the budget; only the first names of hard
//! links are remembered.

mod clear;
mod cursor;
mod fetch;
mod finish;
mod guard;
mod order;
mod origin;
mod run;
mod selection;
mod write;

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::entry::TreeKey;
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::monitor::{Monitor, Phase};
use crate::repo::{Repository, tell_mended};
pub use crate::stages::target::metadata::OwnerBy;
use crate::stages::target::{Directory, Obstacle};
pub use guard::Guarded;
use origin::{FromRepository, Origin};
use run::Run;

/// What happens where something stands already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// What stands there stays as it is.
    Never,
    /// A regular file of the same size and modification time keeps its content and gets its metadata; everything else
    /// is replaced. A directory is never replaced by something else, nor the reverse: that is a problem.
    #[default]
    IfChanged,
    /// Everything is replaced, a directory in the place of a file with all that it holds.
    Always,
}

/// What to restore, whereto and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Path inside the snapshot; the root is everything. Of a directory, the content goes directly into the target and
    /// the directory's own metadata onto it; anything else goes into the target under its own name.
    pub from: TreeKey,
    /// The directory to restore into; made where it is missing. Links in this path are followed, but for `in_place`.
    pub target: PathBuf,
    /// The target comes from the snapshot and not from the user: an absolute path, in which no link is followed. Who owns a
    /// directory on the way could lead the restore anywhere.
    pub in_place: bool,
    /// What is neither removed nor written to, with all that it holds: the repository, its cache, keys.
    pub guarded: Vec<Guarded>,
    /// Patterns (as in [`crate::stages::exclude::ExcludeOptions`]) on paths in the snapshot: if there are any, only what
    /// matches and what lies below it is restored, with the directories above it.
    pub include: Vec<String>,
    /// Patterns of what is left out, with all below it. It is not deleted either.
    pub exclude: Vec<String>,
    /// What happens where something stands already.
    pub overwrite: Overwrite,
    /// Remove what the snapshot does not have from the directories that are restored whole.
    pub delete: bool,
    /// Change nothing, only say what would be done.
    pub dry_run: bool,
    /// By what owners are found here.
    pub owner: OwnerBy,
    /// Bytes that may be in flight.
    pub budget_bytes: usize,
    /// Threads that fetch, decode and write; 0 for as many as there are processors.
    pub threads: usize,
    /// Return only when everything is on the disk. Without it a power cut soon afterwards may leave files with the right
    /// size and time but without content, which a later [`Overwrite::IfChanged`] takes for unchanged.
    pub sync: bool,
    /// Begin with the files of optimizers' states ([`crate::readers::is_state_file`]) only when everything else is in its
    /// place and on the disk.
    pub weights_first: bool,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            from: TreeKey::default(),
            target: PathBuf::new(),
            in_place: false,
            guarded: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            overwrite: Overwrite::default(),
            delete: false,
            dry_run: false,
            owner: OwnerBy::default(),
            budget_bytes: 256 << 20,
            threads: 0,
            sync: false,
            weights_first: false,
        }
    }
}

/// What a dry run would do to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Make it.
    Create,
    /// Replace it.
    Update,
    /// Remove it.
    Delete,
}

/// One thing that a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// What.
    pub act: Act,
    /// To which path of the snapshot (for [`Act::Delete`]: to which path it would have).
    pub path: PathBuf,
}

/// What was done; of a dry run, what would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Regular files written, further names of hard links among them.
    pub files: u64,
    /// Directories made or brought into their state.
    pub directories: u64,
    /// Links, pipes, sockets and devices made.
    pub others: u64,
    /// Plain bytes of content written (of a dry run: size of the files).
    pub bytes: u64,
    /// Files and others that stood there with the same content.
    pub unchanged: u64,
    /// Left as they were because of [`Overwrite::Never`].
    pub skipped: u64,
    /// Removed.
    pub deleted: u64,
    /// What a dry run would do, in order; at most [`ACTIONS_MAX`].
    pub actions: Vec<Action>,
    /// How many actions there were in all.
    pub actions_total: u64,
    /// Problems told to the monitor.
    pub problems: u64,
    /// How long it took.
    pub duration: Duration,
    /// With [`RestoreOptions::weights_first`], how long it took until everything but optimizers' states was in its place and on
    /// the disk.
    pub weights_duration: Option<Duration>,
}

/// A dry run lists no more actions than this; it counts them all.
pub const ACTIONS_MAX: usize = 10_000;

/// Restores from the tree `root`.
///
/// # Errors
/// When the tree can't be read, the target can't be made, its disk is full, or nothing is at the path asked for.
/// Trouble with one path is no error but a problem, told to the monitor and counted in the report.
pub fn restore(
    repository: &Repository,
    root: &ChunkId,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<RestoreReport> {
    let origin = FromRepository::new(repository, root, options.budget_bytes / 4);
    let mut report = restore_from(&origin, options, monitor)?;
    report.problems += tell_mended(&repository.mended_packs(), &mut |problem| monitor.problem(problem));
    Ok(report)
}

fn restore_from(origin: &dyn Origin, options: &RestoreOptions, monitor: &dyn Monitor) -> Result<RestoreReport> {
    let started = clock::monotonic();
    let run = Run::new(origin, options, monitor)?;
    run.guard.refuse_target(&options.target)?;
    let target = open_target(options)?;
    monitor.phase(Phase::Restoring);
    if let Some(target) = &target {
        run.note_space(target);
    }
    let written = write::write(&run, target.clone())?;
    if let Some(target) = target.filter(|_| !options.dry_run) {
        monitor.phase(Phase::Finishing);
        finish::finish(&run, &target, &written)?;
        if written.locks {
            finish::lock(&run, &target, &written)?;
        }
        if options.sync || !tells_of_failures(target.handle()) {
            rustix::fs::syncfs(target.handle()).map_err(|error| Error::file(&options.target, "cannot sync", error))?;
        }
    }
    Ok(run.into_report(started.elapsed()))
}

/// True for file systems of this machine, on which a write that succeeded finds room. Elsewhere (NFS, SMB, FUSE and whatever
/// is not known here) the server may refuse later what the page cache took, and only a sync or a close is told.
fn tells_of_failures(handle: BorrowedFd<'_>) -> bool {
    // From linux/magic.h: ext4, XFS, btrfs, tmpfs, overlayfs, F2FS, bcachefs; and ZFS.
    const LOCAL: [u32; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1];
    rustix::fs::fstatfs(handle).is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|kind| LOCAL.contains(&kind)))
}

/// The target; `None` in a dry run where it does not exist yet.
fn open_target(options: &RestoreOptions) -> Result<Option<Arc<Directory>>> {
    let target = &options.target;
    if options.in_place {
        return open_in_place(target, !options.dry_run);
    }
    if options.dry_run && !target.exists() {
        return Ok(None);
    }
    if !options.dry_run {
        std::fs::create_dir_all(target).map_err(|error| Error::file(target, "cannot make the target", error))?;
    }
    let directory =
        Directory::open_root(target).map_err(|error| Error::file(target, "cannot open the target", error))?;
    Ok(Some(Arc::new(directory)))
}

fn open_in_place(target: &Path, make: bool) -> Result<Option<Arc<Directory>>> {
    let opened = Directory::open_without_links(target, make).map_err(|Obstacle { place, link, error }| {
        if link {
            Error::Usage(format!(
                "{}: a symbolic link stands where the snapshot has a directory, and a restore in place follows none; if it \
                 leads where you want, name that directory as the target (--target)",
                place.display()
            ))
        } else {
            Error::file(place, "cannot open the target", error)
        }
    })?;
    Ok(opened.map(Arc::new))
}
