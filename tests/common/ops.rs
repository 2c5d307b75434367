//! The interpreter of random operations: a script against a store and its model.
//!
//! [`super::script`] makes operations of arbitrary bytes, [`super::world`] does them to a store on a
//! [`super::disk`] and to a [`super::model`], and compares. proptest and the fuzzer both come in here.

use super::script::decode;
use super::world::{Plant, Seen, Stop, World};

/// Runs the script of `bytes`; an error says where store and model disagreed.
pub(crate) fn run(bytes: &[u8], plant: Plant) -> Result<Seen, String> {
    run_with(bytes, plant, 1)
}

/// The same, where only one of so many operations is followed by a look at the whole store, and the last.
fn run_with(bytes: &[u8], plant: Plant, inspect_every: u8) -> Result<Seen, String> {
    let script = decode(bytes);
    let settings = script.settings.clone();
    let begun = World::new(script.settings, plant);
    let mut world = begun.map_err(|stop: Stop| format!("at the beginning: {stop:?}"))?;
    world.inspect_every = inspect_every;
    for (i, operation) in script.operations.iter().enumerate() {
        world.run(operation).map_err(|what| {
            format!("{what}\n  at operation {i}: {operation:?}\n  of a store with {settings:?}")
        })?;
    }
    world.finish().map_err(|what| format!("{what}\n  at the end, of a store with {settings:?}"))?;
    Ok(world.seen.into_inner())
}

/// Looking at everything after each commit takes a fuzzer more time than all else. What a commit breaks is there to be seen
/// at the next look, at the latest after the last operation, and kept readers and the operations themselves are compared each time.
const FUZZED_INSPECT_EVERY: u8 = 4;

pub(crate) fn run_as_fuzzed(bytes: &[u8]) -> Result<Seen, String> {
    run_with(bytes, Plant::Nothing, FUZZED_INSPECT_EVERY)
}

/// The same for the fuzzer: a disagreement is a panic.
pub(crate) fn check(bytes: &[u8]) {
    if let Err(what) = run_as_fuzzed(bytes) {
        panic!("{what}");
    }
}
