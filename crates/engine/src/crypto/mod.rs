//! crypto/mod.
