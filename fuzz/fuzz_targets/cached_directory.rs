//! libFuzzer entry of the target `cached_directory` (crates/engine/tests/fuzz/targets.rs).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall_fuzz::run("cached_directory", data));
