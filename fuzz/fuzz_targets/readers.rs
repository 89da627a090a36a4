//! libFuzzer entry of the target `readers` (crates/engine/tests/fuzz/targets.rs).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall_fuzz::run("readers", data));
