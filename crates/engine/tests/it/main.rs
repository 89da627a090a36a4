//! The engine's tests from outside, in one binary.

#![allow(clippy::unwrap_used, missing_docs)]

mod beside;
mod browse;
mod compare;
mod concurrency;
mod crash;
mod damage;
mod endings;
mod fidelity;
mod floods;
mod forget;
mod healing;
mod leftovers;
mod members;
mod model;
mod old_repositories;
mod place;
mod properties;
mod prune;
mod resume;
mod roundtrip;
mod session;
mod substitution;
mod tree_nodes;
mod writers;
