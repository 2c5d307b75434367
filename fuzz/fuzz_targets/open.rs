//! Hostile store files, whole or a sound store with changed values. The body is `tests/targets/open.rs`.
#![no_main]

mod one_thread;
#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(init: one_thread::begin(), |input: &[u8]| {
    if let Err(what) = targets::open::check(input) {
        eprintln!("{what}");
        std::process::abort();
    }
});
