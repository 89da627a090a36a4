//! repo/mod.
