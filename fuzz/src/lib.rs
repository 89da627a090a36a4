//! Hands libFuzzer's bytes to the targets that the engine's tests share.

#[path = "../../crates/engine/tests/fuzz/targets.rs"]
mod targets;

/// Runs one target.
///
/// # Panics
/// When the target finds something wrong, or there is none of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    (target.run)(data);
}

/// Every target's name and bytes that it accepts, to begin from.
pub fn all() -> impl Iterator<Item = (&'static str, Vec<Vec<u8>>)> {
    targets::TARGETS.iter().map(|target| (target.name, (target.seeds)()))
}
