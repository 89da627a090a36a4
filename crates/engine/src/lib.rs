//! Seawall's engine: the stored format, chunking, codecs, encryption, the index, the commit log, and the verbs on them.
//!
//! Start reading at [`mod@backup`]: it is the main path from walking a source to the commit. The engine is a
//! synchronous library: it reads no environment variable, no home directory and no terminal; progress and per-file
//! problems leave it only through [`monitor::Monitor`].
//!
//! Each row imports only rows below it: verbs, repo, stages, store, pure (see ARCHITECTURE.md).

#![cfg_attr(test, allow(clippy::unwrap_used))]

// Verbs.
pub mod audit;
pub mod backup;
pub mod browse;
pub mod diff;
pub mod forget;
pub mod keys;
pub mod prune;
pub mod reindex;
pub mod repair;
pub mod restore;
pub mod tensors;
pub mod undelete;
pub mod verify;

// Repository: the one commit point and the look-ups.
pub mod repo;

// Stages: CPU or file system, never a store.
pub mod stages;

// Bytes by name.
pub mod store;

// Pure: no file system, no threads, no clock.
pub mod buffer;
pub mod chunker;
pub mod clock;
pub mod codec;
pub mod crypto;
pub mod entry;
pub mod error;
pub mod format;
pub mod ids;
pub mod monitor;
pub mod readers;
pub mod rules;
pub mod simulation;
pub mod statistics;
pub mod units;
mod vectors;
