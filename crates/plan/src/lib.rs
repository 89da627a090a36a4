//! Seawall's pure decisions: plain data in, plain data out.
//!
//! A decision about what to keep, when to run or what to recover first is worth most when it can be tested without a
//! repository, a network and a clock. So this crate has no input or output, never asks for the time, imports nothing of
//! the project and has no dependency; `cargo xtask tidy` checks that. Callers gather the facts and carry out the answers.
//!
//! - [`retention`]: which snapshots to keep, and the reason for each;
//! - [`calendar`]: days, ISO weeks and months from milliseconds;
//! - [`risk`]: what a disaster now would cost a training run.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod calendar;
pub mod retention;
pub mod risk;
