//! The stored format, version 1: every object of docs/format.md, to bytes and back. One file an object.
//!
//! Nothing here reads or writes a store, looks at a clock or decides what should exist; the repository does. Encoders
//! write only what the decoders accept. Decoders take bytes from outside: they return [`crate::error::Damaged`], never
//! panic, and never allocate more than a small multiple of what they were given.

mod act;
mod cbor;
mod entry;
pub(crate) mod fixed;
mod key_text;
pub mod log;
pub mod marker;
pub mod names;
pub mod node;
pub mod pack;
pub mod parity;
pub mod segment;
pub mod session;
pub mod slot;
pub mod snapshot;
pub mod tensor_table;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
