//! Damaged files: an error or the same answer, never a wrong one, never a panic.
//!
//! redb verifies no checksum when it reads, so a flipped bit, a page that went missing, a page in another
//! one's place come through to vellum as bytes, as a missing key, or as a panic inside redb. The campaign
//! damages a store at sampled places that its verbs really read, before it is opened or under its feet, and
//! asks everything again: each verb may fail or must answer as before. Then it writes, and asks again.
//!
//! One thing rests on redb's pages alone: that an id, or a key, is *not* there. A damaged page of the map
//! can hide an id from what looks it up (`contains`, selectors that name ids, `id_of_key`, and a writer that
//! removes or replaces it); it is then for `verify` to notice, and the campaign demands that it does.
//!
//! Another is an earlier version of a column's page in the place of the present one (a write that the medium
//! lost): it is sound in itself, and only `verify` compares the columns with one another. A block's earlier
//! version is noticed by every read, because the directory holds the digest of the list's blocks.
//!
//! `VELLUM_DAMAGE_CASES` sets the number of cases, `VELLUM_DAMAGE_SEED` other ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::disk::Disk;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, thread};
use vellum::{IdSelector, IndexReader, IndexSpec, IndexWriter, Metric, Observer, Result, Rows, SearchParams};
use vellum::{Store, TrainParams};

const DIM: usize = 12;
const PAGE: usize = 4096;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Small whole components: distances are exact.
fn vectors(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..n * DIM).map(|_| random.below(9) as f32 - 4.0).collect()
}

fn rows(data: &[f32]) -> Rows<'_> {
    Rows::new(data, DIM).unwrap()
}

fn open(disk: &Disk) -> Result<Store> {
    let disk = disk.clone();
    Store::builder().cache_bytes(1 << 20).open_backend(move || Ok(disk.handle()))
}

fn disk_of(image: &[u8]) -> Disk {
    let disk = Disk::default();
    disk.restore(image.to_vec());
    disk
}

/// A store of two indexes with freed rows, sealed blocks, tails, kept rows and keys; and the same one commit
/// earlier.
fn build() -> (Vec<u8>, Vec<u8>) {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let txn = store.begin_write().unwrap();
    let spec = |text: &str| text.parse::<IndexSpec>().unwrap().with_dim(DIM).with_metric(Metric::L2);
    txn.create_index("data", &spec("IVF6(IVF2),Flat").with_block_order(0)).unwrap();
    txn.create_index("keyed", &spec("IVF3,SQfp16,RFlat").with_keys(true).with_block_order(0)).unwrap();
    let data = vectors(1200, 3);
    let train = |writer: &mut IndexWriter<'_>| {
        writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
    };
    let mut writer = txn.index("data").unwrap();
    writer.add(rows(&data)).unwrap();
    train(&mut writer);
    drop(writer);
    let mut writer = txn.index("keyed").unwrap();
    let keys: Vec<String> = (0..300).map(|i| format!("key {i}")).collect();
    writer.add_with_keys(&keys, rows(&data[..300 * DIM])).unwrap();
    train(&mut writer);
    drop(writer);
    txn.commit().unwrap();
    let before = disk.image();
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("data").unwrap();
    writer.remove_ids(&IdSelector::range(100..180)).unwrap();
    writer.add(rows(&vectors(40, 7))).unwrap();
    writer.update_vectors(&[1, 5, 700], rows(&vectors(3, 9))).unwrap();
    drop(writer);
    txn.commit().unwrap();
    drop(store);
    (disk.image(), before)
}

/// Changes to a store that may be damaged.
fn write(store: &Store) -> Result<()> {
    let txn = store.begin_write()?;
    let mut writer = txn.index("data")?;
    writer.remove_ids(&IdSelector::range(30..60))?;
    writer.remove_ids(&IdSelector::callback(|id| id % 101 == 0))?;
    writer.add(rows(&vectors(150, 5)))?;
    writer.upsert(&[3, 900, 5000], rows(&vectors(3, 6)))?;
    drop(writer);
    let mut writer = txn.index("keyed")?;
    writer.upsert_with_keys(&["key 1", "key 1000"], rows(&vectors(2, 8)))?;
    writer.remove_keys(&["key 2"])?;
    writer.renumber(&mut Observer::none())?;
    drop(writer);
    txn.commit()
}

// ---- what is asked ----

/// A verb, whether its answer may rest on redb's pages alone, and how it is asked.
struct Question {
    name: &'static str,
    absence: bool,
    ask: fn(&IndexReader<'static>) -> Result<String>,
}

fn everything() -> SearchParams {
    SearchParams::new().nprobe(99)
}

const QUESTIONS: [Question; 12] = [
    Question {
        name: "search",
        absence: false,
        ask: |reader| Ok(format!("{:?}", reader.search(&vectors(1, 11), 20, &everything())?)),
    },
    Question {
        name: "search_batch of two probes",
        absence: false,
        ask: |reader| {
            let found = reader.search_batch(rows(&vectors(5, 12)), 7, &SearchParams::new().nprobe(2))?;
            Ok(format!("{found:?}"))
        },
    },
    Question {
        name: "range_search",
        absence: false,
        ask: |reader| Ok(format!("{:?}", reader.range_search(&vectors(1, 13), 60.0, &everything())?)),
    },
    Question {
        name: "search with a function",
        absence: false,
        ask: |reader| {
            let params = everything().selector(IdSelector::callback(|id| id % 3 == 0));
            Ok(format!("{:?}", reader.search(&vectors(1, 14), 20, &params)?))
        },
    },
    Question {
        name: "search with named ids",
        absence: true,
        ask: |reader| {
            let params = everything().selector(IdSelector::batch((0..200).map(|i| i * 3)));
            Ok(format!("{:?}", reader.search(&vectors(1, 15), 20, &params)?))
        },
    },
    Question { name: "ids", absence: false, ask: |reader| Ok(format!("{:?}", reader.ids()?)) },
    Question {
        name: "contains",
        absence: true,
        ask: |reader| {
            let there: Result<Vec<bool>> = (0..1300).map(|id| reader.contains(id)).collect();
            Ok(format!("{there:?}"))
        },
    },
    Question {
        name: "reconstruct",
        absence: false,
        ask: |reader| {
            let vectors: Result<Vec<_>> =
                reader.ids()?.into_iter().map(|id| reader.reconstruct(id)).collect();
            Ok(format!("{:?}", vectors?))
        },
    },
    Question {
        name: "key",
        absence: true,
        ask: |reader| {
            let keys: Result<Vec<_>> = (0..300).map(|id| reader.key(id)).collect();
            Ok(format!("{:?}", keys?))
        },
    },
    Question {
        name: "id_of_key",
        absence: true,
        ask: |reader| {
            let ids: Result<Vec<_>> =
                (0..300).map(|id| reader.id_of_key(format!("key {id}").as_bytes())).collect();
            Ok(format!("{:?}", ids?))
        },
    },
    Question {
        name: "sizes",
        absence: false,
        ask: |reader| Ok(format!("{:?} {} {}", reader.list_sizes()?, reader.len(), reader.is_trained())),
    },
    Question { name: "stats", absence: false, ask: |reader| Ok(format!("{}", reader.stats()?.rows)) },
];

const INDEXES: [&str; 2] = ["data", "keyed"];

type Answers = BTreeMap<(&'static str, &'static str), String>;

/// The answers of a store that is whole.
fn answers(store: &Store) -> Answers {
    let txn = store.begin_read().unwrap();
    let mut answers = Answers::new();
    for index in INDEXES {
        let reader = txn.index(index).unwrap();
        for question in &QUESTIONS {
            answers.insert((index, question.name), (question.ask)(&reader).unwrap());
        }
        assert!(txn.verify(index, &mut Observer::none()).unwrap().is_ok());
    }
    answers
}

// ---- panics ----

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are caught and reported by the campaign, with their place; nothing is printed meanwhile.
fn note_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Threads of tests have names; rayon's have none.
        match thread::current().name() {
            Some("campaign") | None => PANIC.with(|panic| *panic.borrow_mut() = info.to_string()),
            Some(_) => before(info),
        }
    }));
}

fn caught<T>(call: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| PANIC.with(|panic| panic.borrow().clone()))
}

// ---- the campaign ----

/// What came of one case.
#[derive(Debug, Default)]
struct Outcome {
    failures: Vec<String>,
    errors: usize,
    same: usize,
    hidden: usize,
    written: bool,
}

impl Outcome {
    /// Asks everything and compares; a panic or another answer is a failure. `lenient` where damage may have
    /// hidden an id from a write, or put a page back to an earlier state: then `verify` must notice.
    fn ask(&mut self, store: &Store, expected: &Answers, lenient: bool) {
        for index in INDEXES {
            let opened = caught(|| store.begin_read().and_then(|txn| txn.index(index)));
            let reader = match opened {
                Ok(Ok(reader)) => reader,
                Ok(Err(_)) => {
                    self.errors += 1;
                    continue;
                }
                Err(panic) => {
                    self.failures.push(format!("index: {panic}"));
                    continue;
                }
            };
            for question in &QUESTIONS {
                match caught(|| (question.ask)(&reader)) {
                    Ok(Err(_)) => self.errors += 1,
                    Ok(Ok(answer)) if answer == expected[&(index, question.name)] => self.same += 1,
                    Ok(Ok(_)) if (lenient || question.absence) && self.verify_notices(store, index) => {
                        self.hidden += 1;
                    }
                    Ok(Ok(answer)) => {
                        let expected = &expected[&(index, question.name)];
                        let both = |text: &str| text.chars().take(300).collect::<String>();
                        let (answer, expected) = (both(&answer), both(expected));
                        self.failures.push(format!(
                            "{index}, {}: wrong answer {answer}, expected {expected}",
                            question.name
                        ));
                    }
                    Err(panic) => self.failures.push(format!("{index}, {}: {panic}", question.name)),
                }
            }
        }
    }

    fn verify_notices(&mut self, store: &Store, index: &str) -> bool {
        match caught(|| store.begin_read()?.verify(index, &mut Observer::none())) {
            Ok(Ok(report)) => !report.is_ok(),
            Ok(Err(_)) => true,
            Err(panic) => {
                self.failures.push(format!("verify: {panic}"));
                true
            }
        }
    }
}

/// One damaged store: opened, asked, verified, written to, asked again, closed.
fn judge(image: &[u8], late: Option<&[u8]>, stale: bool, before: &Answers, after: &Answers) -> Outcome {
    let mut outcome = Outcome::default();
    let disk = disk_of(image);
    let store = match caught(|| open(&disk)) {
        Ok(Ok(store)) => store,
        Ok(Err(_)) => {
            outcome.errors += 1;
            return outcome;
        }
        Err(panic) => {
            outcome.failures.push(format!("open: {panic}"));
            return outcome;
        }
    };
    if let Some(late) = late {
        disk.restore(late.to_vec());
    }
    outcome.ask(&store, before, stale);
    for index in INDEXES {
        outcome.verify_notices(&store, index);
    }
    say("WRITING".into());
    match caught(|| write(&store)) {
        Ok(Ok(())) => {
            outcome.written = true;
            outcome.ask(&store, after, true);
        }
        Ok(Err(_)) => outcome.errors += 1,
        Err(panic) => outcome.failures.push(format!("write: {panic}")),
    }
    if let Err(panic) = caught(|| drop(store)) {
        outcome.failures.push(format!("close: {panic}"));
    }
    outcome
}

/// Damages `image` somewhere on the pages that are read; says how.
fn damage(image: &mut Vec<u8>, pages: &[u64], random: &mut Random) -> &'static str {
    let mut page = || pages[random.below(pages.len() as u64) as usize] as usize * PAGE;
    let (p, q) = (page(), page());
    match random.below(10) {
        0..=4 => {
            let bit = random.below(PAGE as u64 * 8) as usize;
            image[p + bit / 8] ^= 1 << (bit % 8);
            "a flipped bit"
        }
        5 => {
            image[p..p + PAGE].fill(0);
            "a zeroed page"
        }
        6 => {
            image.copy_within(p..p + PAGE, q);
            "a page twice"
        }
        7 => {
            (0..PAGE).for_each(|i| image.swap(p + i, q + i));
            "two pages swapped"
        }
        8 => {
            image[p..p + PAGE].iter_mut().for_each(|byte| *byte = random.below(256) as u8);
            "a page of noise"
        }
        _ => {
            image.truncate(p + random.below(PAGE as u64) as usize);
            "a file cut off"
        }
    }
}

/// The image, the pages that are read of it, and the answers before and after `write`.
fn reference() -> (Vec<u8>, Vec<u64>, Answers, Answers) {
    let (image, _) = build();
    let disk = disk_of(&image);
    disk.trace();
    let store = open(&disk).unwrap();
    let before = answers(&store);
    write(&store).unwrap();
    let pages = disk.trace().into_iter().collect();
    let after = answers(&store);
    assert_ne!(before, after);
    (image, pages, before, after)
}

/// Runs the cases in its environment and says what came of each. A process of its own, because redb may
/// panic while it cleans up after a panic, and then there is no catching.
#[test]
#[ignore = "the child process of the campaign"]
fn child() {
    note_panics();
    let number = |name: &str| env::var(name).unwrap().parse::<u64>().unwrap();
    let cases = number("VELLUM_DAMAGE_FROM")..number("VELLUM_DAMAGE_CASES");
    let seed = number("VELLUM_DAMAGE_SEED");
    let run = move || {
        let (image, pages, before, after) = reference();
        for case in cases {
            let mut random = Random(seed.wrapping_add(case).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            random.below(2);
            let mut damaged = image.clone();
            let how = damage(&mut damaged, &pages, &mut random);
            say(format!("CASE {case} {how}"));
            let stale = matches!(how, "a page twice" | "two pages swapped");
            // Under the feet of a store that is open, where the medium has not just lost its end.
            let late = random.below(3) == 0 && damaged.len() == image.len();
            let outcome = match late {
                true => judge(&image, Some(&damaged), stale, &before, &after),
                false => judge(&damaged, None, stale, &before, &after),
            };
            outcome.failures.iter().for_each(|what| say(format!("FAILURE {}", what.replace('\n', " "))));
            let flags = [outcome.errors > 0, outcome.hidden > 0, outcome.written].map(u8::from);
            say(format!("ENDED {} {} {}", flags[0], flags[1], flags[2]));
        }
        say("DONE".into());
    };
    thread::Builder::new().name("campaign".into()).spawn(run).unwrap().join().unwrap();
}

/// A line for the parent, past the test harness.
fn say(line: String) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// What came of all cases.
#[derive(Debug, Default)]
struct Tally {
    failures: Vec<String>,
    /// Cases in which redb panicked twice while writing, or recursed without end: both end the process.
    aborted: u64,
    errors: u64,
    hidden: u64,
    written: u64,
    kinds: BTreeSet<String>,
}

/// Runs a child from case `from` on; where to go on if it died, `None` at the end.
fn run_child(from: u64, cases: u64, seed: u64, tally: &mut Tally) -> Option<u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("VELLUM_DAMAGE_FROM", from.to_string())
        .env("VELLUM_DAMAGE_CASES", cases.to_string())
        .env("VELLUM_DAMAGE_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, lines) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut complaints = BufReader::new(child.stderr.take().unwrap());
    let overflow = thread::spawn(move || {
        let mut text = Vec::new();
        complaints.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).contains("has overflowed its stack")
    });
    thread::spawn(move || out.lines().map_while(|line| line.ok()).try_for_each(|line| send.send(line)));
    let (mut case, mut how, mut writing) = (from, String::new(), false);
    loop {
        // No limit on speed: two minutes without a word are a hang.
        let line = match lines.recv_timeout(Duration::from_secs(120)) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                tally.failures.push(format!("case {case}, {how}: it hangs"));
                break;
            }
        };
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("CASE", rest) => {
                let (number, kind) = rest.split_once(' ').unwrap();
                (case, how, writing) = (number.parse().unwrap(), kind.into(), false);
                tally.kinds.insert(how.clone());
            }
            ("WRITING", _) => writing = true,
            ("FAILURE", what) => tally.failures.push(format!("case {case}, {how}: {what}")),
            ("ENDED", flags) => {
                let flags: Vec<u64> = flags.split(' ').map(|flag| flag.parse().unwrap()).collect();
                tally.errors += flags[0];
                tally.hidden += flags[1];
                tally.written += flags[2];
            }
            ("DONE", _) => {
                assert!(child.wait().unwrap().success());
                return None;
            }
            _ => {}
        }
    }
    child.wait().unwrap();
    // A page of redb's tree in the place of one above it: redb follows it without end.
    if overflow.join().unwrap() || writing {
        tally.aborted += 1;
    } else {
        tally.failures.push(format!("case {case}, {how}: the process died while it only read"));
    }
    Some(case + 1).filter(|next| *next < cases)
}

#[test]
fn damage_gives_an_error_or_the_same_answer() {
    let number = |name: &str, default: u64| env::var(name).map_or(default, |n| n.parse().unwrap());
    let (cases, seed) = (number("VELLUM_DAMAGE_CASES", 1000), number("VELLUM_DAMAGE_SEED", 99));
    let mut tally = Tally::default();
    let mut next = Some(0);
    while let Some(from) = next {
        next = run_child(from, cases, seed, &mut tally);
    }
    let Tally { failures, aborted, errors, hidden, written, kinds } = tally;
    println!(
        "damage: {cases} cases, {} failures; {errors} noticed by an error, {hidden} only by verify, \
         {written} written to, {aborted} ended by redb",
        failures.len()
    );
    let some = failures[..failures.len().min(20)].join("\n");
    assert!(failures.is_empty(), "{} failures:\n{some}", failures.len());
    assert!(aborted <= 2 + cases / 500, "{aborted} of {cases} cases ended the process");
    assert!(errors > cases / 4, "most damage is never read: {errors} of {cases}");
    assert_eq!(kinds.len(), 6);
}

/// The comparison has teeth: a store that went back to an earlier commit answers without any error, and
/// otherwise.
#[test]
fn a_wrong_answer_would_be_noticed() {
    let (image, _, before, after) = reference();
    let (_, earlier) = build();
    let outcome = judge(&earlier, None, false, &before, &after);
    assert!(outcome.failures.len() > 5 && outcome.errors == 0, "{outcome:?}");
    assert!(judge(&image, None, false, &before, &after).failures.is_empty());
}
