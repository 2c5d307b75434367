//! Hostile store files, whole or a sound store with changed values. The body is `tests/targets/open.rs`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Err(what) = targets::open::check(input) {
        eprintln!("{what}");
        std::process::abort();
    }
});
