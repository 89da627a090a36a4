//! The commands, one file each. The doc comment of a command's `Arguments` is its help and its manual page.
//!
//! A command checks its arguments, calls one verb of the engine, says what came of it on the output that it is given,
//! and ends in an `Outcome`: an exit code and the fields of the JSON summary. `sources` holds what several
//! commands share.

pub mod above;
pub mod backup;
pub mod cat;
pub mod completions;
pub mod diff;
pub mod find;
pub mod forget;
pub mod hold;
pub mod init;
pub mod key;
pub mod log;
pub mod ls;
pub mod man;
pub mod overlap;
pub mod protect;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod snapshots;
pub mod sources;
pub mod stats;
pub mod tensors;
pub mod undelete;
pub mod verify;
pub mod watch;
