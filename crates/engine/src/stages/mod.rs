//! The stages of the main path that touch the CPU or a file system, never a store.

pub mod exclude;
pub mod metadata;
pub mod read;
pub mod target;
pub mod walk;
