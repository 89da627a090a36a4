//! Writing into a file system, beneath one directory and nowhere else.
//!
//! [`Directory`] is an open handle; everything below it is reached one checked [`Name`] at a time, and no symbolic link
//! is ever followed, so a path never has to be resolved and a hostile tree can't lead out. [`Ladder`] keeps the
//! handles from the target's root down to the present directory with a bounded number of descriptors. [`TargetFile`]
//! writes one regular file, in any order of its pieces and from several threads, a large one past the page cache. [`special`] makes everything that is
//! neither file nor directory, [`metadata`] puts owner, mode, attributes, flags and times on, [`remove`] deletes trees,
//! [`temporary`] names what is not complete yet.
//!
//! This stage knows no store and no repository: the restore verb feeds it. Trouble with one path comes back as an
//! `io::Error` or as a list of [`metadata::Losses`]; the caller reports it.

mod direct;
mod directory;
mod file;
mod ladder;
pub mod metadata;
pub mod remove;
pub mod special;
pub mod temporary;

pub use direct::Scratch;
pub use directory::{Directory, Identity, Inherits, Listing, Name, Obstacle, Standing};
pub use file::{FilePlan, OpenFiles, TargetFile};
pub use ladder::Ladder;
