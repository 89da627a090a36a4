//! The engine's tests from outside, in one binary.

#![allow(clippy::unwrap_used, missing_docs)]

mod beside;
mod browse;
mod checkpoints;
mod compare;
mod concurrency;
mod crash;
mod damage;
mod endings;
mod fidelity;
mod floods;
mod forget;
mod hand;
mod healing;
mod hostile;
mod leftovers;
mod members;
mod misled;
mod model;
mod old_repositories;
mod parity;
mod place;
mod properties;
mod prune;
mod repair;
mod resume;
mod rotation;
mod roundtrip;
mod session;
mod steady;
mod substitution;
mod tree_nodes;
mod undecided;
mod writers;
