//! libFuzzer entry of the target `log_entry` (crates/engine/tests/fuzz/targets.rs).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall_fuzz::run("log_entry", data));
