//! Random operations against the model: the interpreter of `tests/operations.rs`, with the fuzzer
//! choosing the bytes.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| common::ops::check(bytes));
