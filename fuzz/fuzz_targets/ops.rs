//! Random operations against the model: the interpreter of `tests/operations.rs`, with the fuzzer
//! choosing the bytes.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
mod one_thread;

libfuzzer_sys::fuzz_target!(init: one_thread::begin(), |bytes: &[u8]| common::ops::check(bytes));
