//! Hostile values of tables, straight into what decodes them. The body is `tests/targets/block.rs`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    targets::block::check(input);
});
