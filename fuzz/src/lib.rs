//! Hands libFuzzer's bytes to the targets that the engine's tests share.

#[path = "../../crates/engine/tests/fuzz/targets.rs"]
pub mod targets;

/// Runs one target.
///
/// # Panics
/// When the target finds something wrong, or there is none of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    (target.run)(data);
}
