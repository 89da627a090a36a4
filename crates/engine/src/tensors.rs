//! Tensors: which there are in a snapshot and what each takes in the repository, and some of them brought back alone.
//!
//! find files -> read their layouts -> names that match -> list them, or: pieces to wholes -> header -> fetch -> write
//!
//! [`list`] reads headers, and of the numbers nothing: what they take is in the index. [`extract`] writes one safetensors
//! file and fetches only blobs that the tensors touch, besides those with the headers. A layout is a hint of the file
//! itself ([`crate::readers`]): the bytes of a tensor are those that the snapshot has at its place, each chunk held
//! against its id, but name, dtype and shape are what the file claims. [`compare`] reads neither headers nor numbers: it holds
//! the statistics of two checkpoints against each other that were stored with them.

mod drift;
mod extract;
mod fetch;
mod files;
mod gather;
mod listing;
mod names;
mod new_file;
mod pieces;
mod wholes;

pub use drift::{DriftReport, FileDrift, Side, compare, counterpart};
pub use extract::{ExtractOptions, ExtractReport, Extracted, extract};
pub use files::Place;
pub use listing::{FileTensors, ListOptions, ListReport, Stored, encoding, list};
