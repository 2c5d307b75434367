//! Hostile models, imported and used. The body is `tests/targets/model.rs`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    targets::model::check(input);
});
