//! Random sequences of every verb, against a model of sorted maps and brute force.
//!
//! The worry is the sequence nobody thought of: an upsert after a training after a removal that emptied
//! a block, a reader kept over a rename, a bulk load resumed after a failed disk. It would show as an
//! answer that differs from brute force, an invariant that `verify` misses, a kept reader that changes, a
//! commit lost or half there after a fault, or a panic. The interpreter (`common/`) is the fuzzer's too.
//!
//! `PROPTEST_CASES` sets the number of cases, `PROPTEST_RNG_SEED` other ones.

#![allow(clippy::panic, clippy::unwrap_used)]

mod common;

use common::world::{Plant, Seen};
use common::{ops, script};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use std::cell::RefCell;
use std::fs;
use std::path::Path;

/// A script in the form that shrinks well: settings, and the bytes of each operation.
fn scripts() -> impl Strategy<Value = (Vec<u8>, Vec<Vec<u8>>)> {
    let bytes = |len: std::ops::Range<usize>| proptest::collection::vec(any::<u8>(), len);
    (bytes(0..script::SETTINGS + 1), proptest::collection::vec(bytes(1..64), 0..48))
}

/// Runs random scripts until one fails; what all of them did, or why the smallest failing one fails.
fn run(config: Config, plant: Plant) -> Result<(Seen, u32), String> {
    let mut config = Config { failure_persistence: None, ..config };
    if matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(2);
    }
    let total = RefCell::new((Seen::new(), 0));
    let done = TestRunner::new(config).run(&scripts(), |(settings, operations)| {
        let seen = ops::run(&script::encode(&settings, &operations), plant).map_err(TestCaseError::fail)?;
        let mut total = total.borrow_mut();
        seen.into_iter().for_each(|(what, n)| *total.0.entry(what).or_default() += n);
        total.1 += 1;
        Ok(())
    });
    match done {
        Ok(()) => Ok(total.into_inner()),
        Err(TestError::Fail(why, (settings, operations))) => {
            Err(format!("{why}\n  bytes: {settings:?} {operations:?}"))
        }
        Err(e) => Err(e.to_string()),
    }
}

#[test]
fn store_and_model_agree() {
    let (seen, cases) = run(Config::default(), Plant::Nothing).unwrap_or_else(|why| panic!("{why}"));
    println!("operations: {cases} cases, 0 failures");
    for ((what, how), n) in &seen {
        println!("  {n:>8} {what}: {how}");
    }
    // Shorter runs than the default's 256 cases need not have seen everything.
    if cases >= 256 {
        all_was_tried(&seen, accepted().chain(HAPPENED));
    }
}

/// Calls that must be accepted now and then.
const ACCEPTED: [&str; 45] = [
    "abort",
    "add",
    "add_codes",
    "add_preassigned",
    "add_with_ids",
    "add_with_keys",
    "backup",
    "bulk_load add",
    "bulk_load finish",
    "clear",
    "commit",
    "compact",
    "compute_residual_n",
    "copy_subset_to",
    "create_index",
    "decode",
    "discard_load",
    "drop_index",
    "encode",
    "flush",
    "import_model",
    "open",
    "range_search_batch",
    "range_search_preassigned",
    "range_search_slots",
    "reconstruct",
    "remove_ids",
    "remove_keys",
    "rename_index",
    "renumber",
    "reopen",
    "repair",
    "search_and_return_codes",
    "search_batch",
    "search_into",
    "search_preassigned",
    "search_slots",
    "set_search_defaults",
    "stats",
    "train",
    "train_stored",
    "update_vectors",
    "update_with_keys",
    "upsert",
    "upsert_with_keys",
];

/// What else must happen.
const HAPPENED: [(&str, &str); 16] = [
    ("after a fault", "another commit"),
    ("after a fault", "last commit"),
    ("answer", "compared as a part"),
    ("answer", "compared with brute force"),
    ("bulk_load", "resumed"),
    ("commit", "failed"),
    ("copied", "by id"),
    ("copied", "by list"),
    ("copied", "by rank"),
    ("copied", "by remainder"),
    ("copied", "lists in parts"),
    ("copied", "whole"),
    ("fault", "struck"),
    ("kept reader", "compared"),
    ("reopen", "failed"),
    ("reopen while read", "refused"),
];

/// A comparison of what never happens would be no comparison.
fn all_was_tried(seen: &Seen, what: impl IntoIterator<Item = (&'static str, &'static str)>) {
    for what in what {
        assert!(seen.contains_key(&what), "{what:?} never happened: the operations have become too poor");
    }
}

fn accepted() -> impl Iterator<Item = (&'static str, &'static str)> {
    ACCEPTED.into_iter().map(|verb| (verb, "accepted"))
}

/// The kept seeds of the fuzzer: what it does with them, and whatever it found. None in the published package.
#[test]
fn kept_seeds_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/ops");
    let Ok(files) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let mut seen = Seen::new();
    for path in &paths {
        let done = ops::run_as_fuzzed(&fs::read(path).unwrap());
        let done = done.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        done.into_iter().for_each(|(what, n)| *seen.entry(what).or_default() += n);
    }
    println!("{} seeds", paths.len());
    all_was_tried(&seen, accepted());
}

/// The comparison has teeth: whatever the model gets wrong on purpose is noticed as a fault of the store
/// would be.
#[test]
fn planted_faults_are_noticed() {
    for plant in [
        Plant::ForgetRemoval,
        Plant::ForgetUpdate,
        Plant::BelieveAbort,
        Plant::NewestForReaders,
        Plant::LoseCommit,
        Plant::TiesByLargerId,
        Plant::RadiusIncluded,
        Plant::IgnoreSelector,
        Plant::EveryList,
        Plant::CopyMore,
    ] {
        let config = Config { cases: 2048, max_shrink_iters: 0, ..Config::default() };
        assert!(run(config, plant).is_err(), "{plant:?} was not noticed");
    }
}
