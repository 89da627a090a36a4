//! The repository: everything that one commit log governs.
//!
//! [`repository::Repository`] opens it; [`log`] replays the log, the only authority on what exists; [`index`] answers
//! where a chunk lies; [`tree`] reads and writes snapshot trees; [`session`] writes packs and segments and commits;
//! [`cache`] keeps hints on the local disk. A wrong or missing hint costs time, never data.

mod admit;
pub mod adopt;
mod bases;
pub mod cache;
pub(crate) mod data_keys;
pub mod directory;
pub mod index;
mod kept;
mod leaning;
pub mod log;
mod map;
pub(crate) mod marks;
mod mend;
pub(crate) mod merge;
pub(crate) mod nodes;
pub(crate) mod object;
mod pack_buffers;
pub(crate) mod pack_list;
pub mod parent;
pub mod place;
mod published;
pub mod reader;
pub mod repository;
pub(crate) mod rings;
pub(crate) mod sectors;
pub mod session;
pub mod stored_file;
mod tables;
pub mod tree;
pub(crate) mod tree_diff;
mod unfinished;

pub(crate) use admit::Candidate;
pub use bases::{Bases, Leanings};
pub use log::{PutBack, tell_put_back};
pub use mend::{MendedPacks, tell_mended};
pub use place::seen_at;
pub use reader::{BlobReader, Fetched};
pub use repository::{Repository, Snapshot};
pub use session::{Committed, Session};
pub use stored_file::StoredFile;
pub use tree::{TreeReader, TreeWriter};
