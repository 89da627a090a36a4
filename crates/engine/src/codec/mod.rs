//! codec/mod.
