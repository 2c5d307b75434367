//! Strings as specifications and forms of reranking. The body is `tests/targets/spec.rs`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &str| {
    targets::spec::check(input);
});
