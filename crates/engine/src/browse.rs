//! browse.
