//! store/memory.
