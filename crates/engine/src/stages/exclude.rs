//! exclude.
