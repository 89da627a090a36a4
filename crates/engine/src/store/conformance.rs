//! store/conformance.
