//! libFuzzer entry of the target `models` (crates/engine/tests/fuzz/targets.rs).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall_fuzz::run("models", data));
