//! format/mod.
