//! What all campaigns share: a seed, a number of cases, and the one line that says what came of them.
//!
//! A case is made of its number and the seed alone, so that a failing one can be run again by itself. By environment:
//! `VELLUM_CAMPAIGN_CASES` (how many, instead of the small number that CI runs), `VELLUM_CAMPAIGN_SECONDS` (no new case
//! after so many), `VELLUM_CAMPAIGN_SEED`, `VELLUM_CAMPAIGN_CASE` (this one alone), `VELLUM_CAMPAIGN_THREADS` (1 by default).

#![allow(dead_code)] // each campaign takes what it needs of this

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Failures that are kept with their text.
const TOLD: usize = 5;

/// A case's own source of chance (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, case: u64) -> Self {
        let mut random = Random(seed);
        random.0 = random.next() ^ case.wrapping_mul(0xD1B5_4A32_D192_ED03);
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn rows(&mut self, rows: usize, dim: usize) -> Vec<f32> {
        (0..rows * dim).map(|_| self.unit()).collect()
    }
}

/// What came of a campaign.
pub struct Outcome {
    name: &'static str,
    pub cases: u64,
    pub failures: u64,
    told: Vec<String>,
}

impl Outcome {
    /// For a campaign that is meant to find nothing.
    pub fn expect_clean(&self) {
        assert!(self.cases > 0, "{}: no case was run", self.name);
        assert!(self.failures == 0, "{}: {} failures\n{}", self.name, self.failures, self.told.join("\n"));
    }

    /// For the test of the test: with a fault planted, the campaign must fail.
    pub fn expect_caught(&self) {
        assert!(
            self.failures > 0,
            "{}: the planted fault was not noticed in {} cases",
            self.name,
            self.cases
        );
    }
}

/// Runs case after case, `cases` of them unless the environment says otherwise; a panic is a failure. Prints the line.
pub fn run(
    name: &'static str,
    cases: u64,
    case: impl Fn(u64, &mut Random) -> Result<(), String> + Sync,
) -> Outcome {
    let only = number("VELLUM_CAMPAIGN_CASE");
    let first = only.unwrap_or(0);
    let last = only.map_or(number("VELLUM_CAMPAIGN_CASES").unwrap_or(cases), |case| case + 1);
    go(name, first..last, &case)
}

/// The same over exactly these cases, whatever the environment says: for planted faults, and where the cases are all there are.
pub fn run_exactly(
    name: &'static str,
    cases: u64,
    case: impl Fn(u64, &mut Random) -> Result<(), String> + Sync,
) -> Outcome {
    go(name, 0..cases, &case)
}

fn go(
    name: &'static str,
    cases: std::ops::Range<u64>,
    case: &(impl Fn(u64, &mut Random) -> Result<(), String> + Sync),
) -> Outcome {
    let seed = seed();
    let began = Instant::now();
    let end = number("VELLUM_CAMPAIGN_SECONDS").map(|seconds| began + Duration::from_secs(seconds));
    let (next, done, failures) = (AtomicU64::new(cases.start), AtomicU64::new(0), AtomicU64::new(0));
    let told = Mutex::new(Vec::new());
    let work = || {
        while end.is_none_or(|end| Instant::now() < end) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= cases.end {
                break;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| case(number, &mut Random::new(seed, number))));
            done.fetch_add(1, Ordering::Relaxed);
            let what = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(what)) => what,
                Err(panic) => format!("panic: {}", message(&*panic)),
            };
            failures.fetch_add(1, Ordering::Relaxed);
            let mut told = told.lock().unwrap();
            if told.len() < TOLD {
                told.push(format!("  case {number} of seed {seed}: {what}"));
            }
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> =
            (1..number("VELLUM_CAMPAIGN_THREADS").unwrap_or(1)).map(|_| scope.spawn(work)).collect();
        work();
        others.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let outcome = Outcome {
        name,
        cases: done.into_inner(),
        failures: failures.into_inner(),
        told: told.into_inner().unwrap(),
    };
    let (cases, failures, seconds) = (outcome.cases, outcome.failures, began.elapsed().as_secs_f64());
    println!("{name}: {cases} cases, {failures} failures (seed {seed}, {seconds:.1} s)");
    outcome
}

pub fn seed() -> u64 {
    number("VELLUM_CAMPAIGN_SEED").unwrap_or(1)
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}
