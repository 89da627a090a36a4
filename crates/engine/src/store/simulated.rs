//! store/simulated.
