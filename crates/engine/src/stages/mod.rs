//! The stages of the main path that touch the CPU or a file system, never a store.

pub mod checkpoint;
pub mod exclude;
#[cfg(test)]
mod fixture;
pub mod metadata;
pub mod read;
pub mod target;
pub mod walk;
