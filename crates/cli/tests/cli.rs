//! The command line, driven as a user drives it: the real binary, real directories, exit codes and output.
//!
//! Each part of the contract has a file: `exits` (the table of exit codes), `keys` (every way to give a key), `json`
//! (shapes that scripts rest on), `checkpoints` (and `watch`), `outage` (`watch` while the store is in trouble), `forget`, `prune` (freeing space), `repair` (parity, and what is left to do about damage),
//! `roles` (keys and what they may), `runs` (what to keep of training runs, and what that stores), `flow` (back up, look,
//! restore), `tensors` (what files of AI hold), `drift` (checkpoints compared), `protect` (the main job), `kill` and `crash` (kill -9 and SIGSTOP at random
//! instants), `full` (file systems without room), `pipes` (nobody reads the output), `restore` (what it must not take, where it must not go). Nothing here looks inside the program; what needs
//! that is tested beside the code.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "cli/checkpoints.rs"]
mod checkpoints;
#[path = "cli/crash.rs"]
mod crash;
#[path = "cli/drift.rs"]
mod drift;
#[path = "cli/exits.rs"]
mod exits;
#[path = "cli/flow.rs"]
mod flow;
#[path = "cli/forget.rs"]
mod forget;
#[path = "cli/full.rs"]
mod full;
#[path = "cli/holes.rs"]
mod holes;
#[path = "cli/json.rs"]
mod json;
#[path = "cli/keys.rs"]
mod keys;
#[path = "cli/kill.rs"]
mod kill;
#[path = "cli/outage.rs"]
mod outage;
#[path = "cli/pipes.rs"]
mod pipes;
#[path = "cli/protect.rs"]
mod protect;
#[path = "cli/prune.rs"]
mod prune;
#[path = "cli/repair.rs"]
mod repair;
#[path = "cli/restore.rs"]
mod restore;
#[path = "cli/roles.rs"]
mod roles;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/tensors.rs"]
mod tensors;
#[path = "cli/world.rs"]
mod world;
#[path = "cli/yard.rs"]
mod yard;
