//! Hostile .npy, .fvecs, .bvecs and .ivecs. The body is `tests/targets/import.rs`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    targets::import::check(input);
});
