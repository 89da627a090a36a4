//! store/local.
