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
//! The cases run in processes of their own, one for each of the campaign's threads, because redb may panic while it cleans
//! up after a panic, or follow damaged pages without end, and then there is no catching.
//!
//! Counts, seed and threads by the environment: see `campaign/`. More of the same in a release build:
//! `VELLUM_CAMPAIGN_CASES=250000 VELLUM_CAMPAIGN_THREADS=2 cargo test --release --all-features --test damage -- --nocapture flipped`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod campaign;
mod common;

use campaign::Random;
use common::disk::Disk;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use std::{env, thread};
use vellum::{IdSelector, IndexReader, IndexSpec, IndexWriter, Metric, Observer, Result, Rows, SearchParams};
use vellum::{Store, TrainParams};

const DIM: usize = 12;
const PAGE: usize = 4096;
/// Enough for sealed blocks and tails in each list, several pages of each column, and a tree of redb's with branches.
const ROWS: usize = 600;
const KEYS: usize = 150;

/// Small whole components: distances are exact.
fn vectors(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 0);
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
    let data = vectors(ROWS, 3);
    let train = |writer: &mut IndexWriter<'_>| {
        writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
    };
    let mut writer = txn.index("data").unwrap();
    writer.add(rows(&data)).unwrap();
    train(&mut writer);
    drop(writer);
    let mut writer = txn.index("keyed").unwrap();
    let keys: Vec<String> = (0..KEYS).map(|i| format!("key {i}")).collect();
    writer.add_with_keys(&keys, rows(&data[..KEYS * DIM])).unwrap();
    train(&mut writer);
    drop(writer);
    txn.commit().unwrap();
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("data").unwrap();
    writer.remove_ids(&IdSelector::range(100..180)).unwrap();
    writer.add(rows(&vectors(40, 7))).unwrap();
    drop(writer);
    txn.commit().unwrap();
    let before = disk.image();
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("data").unwrap();
    writer.add(rows(&vectors(2, 7))).unwrap();
    // Most stay in their lists: what is left of the old vectors there only a list's digest can tell.
    let mut moved = data[..20 * DIM].to_vec();
    moved.iter_mut().step_by(DIM).for_each(|component| *component += 1.0);
    writer.update_vectors(&(0..20).collect::<Vec<u64>>(), rows(&moved)).unwrap();
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
    writer.add(rows(&vectors(80, 5)))?;
    writer.upsert(&[3, 500, 5000], rows(&vectors(3, 6)))?;
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
            let params = everything().selector(IdSelector::batch((0..150).map(|i| i * 3)));
            Ok(format!("{:?}", reader.search(&vectors(1, 15), 20, &params)?))
        },
    },
    Question { name: "ids", absence: false, ask: |reader| Ok(format!("{:?}", reader.ids()?)) },
    Question {
        name: "contains",
        absence: true,
        ask: |reader| {
            let there: Result<Vec<bool>> = (0..ROWS as u64 + 50).map(|id| reader.contains(id)).collect();
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
            let keys: Result<Vec<_>> = (0..KEYS as u64).map(|id| reader.key(id)).collect();
            Ok(format!("{:?}", keys?))
        },
    },
    Question {
        name: "id_of_key",
        absence: true,
        ask: |reader| {
            let ids: Result<Vec<_>> =
                (0..KEYS).map(|id| reader.id_of_key(format!("key {id}").as_bytes())).collect();
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
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or("", |location| location.file());
        // A panic of vellum's own is a failure even where a guard against redb's caught it.
        if place.starts_with("src/") || place.contains("/vellum/src/") {
            OURS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(info.to_string());
        }
        PANIC.with(|panic| *panic.borrow_mut() = info.to_string());
    }));
}

/// Panics in vellum's code since they were last taken.
static OURS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn caught<T>(call: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| PANIC.with(|panic| panic.borrow().clone()))
}

// ---- a case ----

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

/// One damaged store: opened, asked, verified, written to if `writes`, asked again, closed.
fn judge(
    image: &[u8],
    late: Option<&[u8]>,
    (stale, writes): (bool, bool),
    before: &Answers,
    after: &Answers,
) -> Outcome {
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
    if writes {
        say("WRITING");
        match caught(|| write(&store)) {
            Ok(Ok(())) => {
                outcome.written = true;
                outcome.ask(&store, after, true);
            }
            Ok(Err(_)) => outcome.errors += 1,
            Err(panic) => outcome.failures.push(format!("write: {panic}")),
        }
    }
    if let Err(panic) = caught(|| drop(store)) {
        outcome.failures.push(format!("close: {panic}"));
    }
    let ours = std::mem::take(&mut *OURS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    outcome.failures.extend(ours.into_iter().map(|panic| format!("behind a guard: {panic}")));
    outcome
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Bit,
    Zeroed,
    Twice,
    Swapped,
    Noise,
    /// A page of the commit before: a write that the medium lost.
    Stale,
    CutOff,
}

const PAGES: [Harm; 6] = [Harm::Zeroed, Harm::Twice, Harm::Swapped, Harm::Noise, Harm::Stale, Harm::CutOff];

impl Harm {
    /// A sound page in another's place: what it holds may be an earlier state of a column, and `verify` must tell.
    fn may_be_sound(self) -> bool {
        matches!(self, Harm::Twice | Harm::Swapped | Harm::Stale)
    }

    /// Harms `image` somewhere on the pages that are read.
    fn inflict(self, image: &mut Vec<u8>, reference: &Reference, random: &mut Random) {
        let pages = &reference.pages;
        let mut page = || pages[random.below(pages.len() as u64) as usize] as usize * PAGE;
        let (p, q) = (page(), page());
        match self {
            Harm::Bit => {
                let bit = random.below(PAGE as u64 * 8) as usize;
                image[p + bit / 8] ^= 1 << (bit % 8);
            }
            Harm::Zeroed => image[p..p + PAGE].fill(0),
            Harm::Twice => image.copy_within(p..p + PAGE, q),
            Harm::Swapped => (0..PAGE).for_each(|i| image.swap(p + i, q + i)),
            Harm::Noise => image[p..p + PAGE].iter_mut().for_each(|byte| *byte = random.below(256) as u8),
            Harm::Stale => {
                let changed = &reference.changed;
                let p = changed[random.below(changed.len() as u64) as usize] as usize * PAGE;
                image[p..p + PAGE].copy_from_slice(&reference.earlier[p..p + PAGE]);
            }
            Harm::CutOff => image.truncate(p + random.below(PAGE as u64) as usize),
        }
    }
}

/// A whole store, and what it answers.
struct Reference {
    image: Vec<u8>,
    /// The same one commit earlier.
    earlier: Vec<u8>,
    /// The pages that are read.
    pages: Vec<u64>,
    /// Those of them that were different.
    changed: Vec<u64>,
    /// The answers before and after `write`.
    before: Answers,
    after: Answers,
}

fn reference() -> Reference {
    let (image, earlier) = build();
    let disk = disk_of(&image);
    disk.trace();
    let store = open(&disk).unwrap();
    let before = answers(&store);
    write(&store).unwrap();
    let pages: Vec<u64> =
        disk.trace().into_iter().filter(|page| (*page as usize + 1) * PAGE <= image.len()).collect();
    let after = answers(&store);
    assert_ne!(before, after);
    let at = |bytes: &[u8], page: u64| {
        bytes.get(page as usize * PAGE..(page as usize + 1) * PAGE).map(<[u8]>::to_vec)
    };
    let differs = |page: &u64| at(&earlier, *page).is_some_and(|was| Some(was) != at(&image, *page));
    let changed: Vec<u64> = pages.iter().copied().filter(differs).collect();
    assert!(changed.len() > 5, "the last commit changed {} pages", changed.len());
    Reference { image, earlier, pages, changed, before, after }
}

fn run_case(reference: &Reference, kinds: &[Harm], random: &mut Random) -> (Harm, Outcome) {
    let harm = kinds[random.below(kinds.len() as u64) as usize];
    let mut damaged = reference.image.clone();
    harm.inflict(&mut damaged, reference, random);
    // Under the feet of a store that is open, where the medium has not just lost its end.
    let late = random.one_in(3) && damaged.len() == reference.image.len();
    let how = (harm.may_be_sound(), random.one_in(4));
    let (before, after) = (&reference.before, &reference.after);
    let outcome = match late {
        true => judge(&reference.image, Some(&damaged), how, before, after),
        false => judge(&damaged, None, how, before, after),
    };
    (harm, outcome)
}

// ---- the process that does the cases ----

/// Reads numbers of cases and says what came of each.
#[test]
#[ignore = "the child process of the campaign"]
fn child() {
    let kinds = match &*env::var("VELLUM_DAMAGE_KINDS").unwrap() {
        "Bit" => &[Harm::Bit][..],
        _ => &PAGES,
    };
    #[cfg(feature = "fuzz-internals")]
    if env::var("VELLUM_DAMAGE_PLANT").as_deref() == Ok("PayloadChecksum") {
        vellum::fuzzing::plant(vellum::fuzzing::Plant::PayloadChecksum);
    }
    let reference = reference();
    note_panics();
    say("READY");
    for case in std::io::stdin().lines() {
        let case: u64 = case.unwrap().parse().unwrap();
        let (harm, outcome) = run_case(&reference, kinds, &mut Random::new(campaign::seed(), case));
        outcome.failures.iter().for_each(|what| say(&format!("FAILURE {}", what.replace('\n', " "))));
        let flags = [outcome.errors > 0, outcome.hidden > 0, outcome.written].map(u8::from);
        say(&format!("ENDED {} {} {} {harm:?}", flags[0], flags[1], flags[2]));
    }
}

/// A line for the parent, past the test harness.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

// ---- the campaign ----

/// What came of all cases.
#[derive(Debug, Default)]
struct Tally {
    /// Cases in which redb panicked twice while writing, which ends the process.
    aborted: AtomicU64,
    /// Cases in which it followed its pages without end, which ends it too.
    overflowed: AtomicU64,
    errors: AtomicU64,
    hidden: AtomicU64,
    written: AtomicU64,
    kinds: Mutex<BTreeSet<String>>,
}

/// A process that does cases until it dies of one.
struct Worker {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    overflow: thread::JoinHandle<bool>,
}

impl Worker {
    fn start(kinds: &str, plant: &str) -> Worker {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env("VELLUM_DAMAGE_KINDS", kinds)
            .env("VELLUM_DAMAGE_PLANT", plant)
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let input = child.stdin.take().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut complaints = BufReader::new(child.stderr.take().unwrap());
        let overflow = thread::spawn(move || {
            let mut text = Vec::new();
            complaints.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).contains("has overflowed its stack")
        });
        thread::spawn(move || out.lines().map_while(|line| line.ok()).try_for_each(|line| send.send(line)));
        let mut worker = Worker { child, input, lines, overflow };
        while worker.line().as_deref() != Some("READY") {}
        worker
    }

    /// The next line; `None` at the end. No limit on speed: two minutes without a word are a hang.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(Duration::from_secs(120)) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.child.kill().unwrap();
                panic!("it hangs");
            }
        }
    }

    /// Does a case; `false` if the process died of it, as it may.
    fn case(&mut self, case: u64, tally: &Tally) -> std::result::Result<bool, String> {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        let (mut failures, mut writing) = (Vec::new(), false);
        writeln!(self.input, "{case}").map_err(|e| e.to_string())?;
        while let Some(line) = self.line() {
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("WRITING", _) => writing = true,
                ("FAILURE", what) => failures.push(what.to_string()),
                ("ENDED", flags) => {
                    let flags: Vec<&str> = flags.split(' ').collect();
                    let counters = [&tally.errors, &tally.hidden, &tally.written];
                    counters.iter().zip(&flags).for_each(|(counter, n)| _ = add(counter, n.parse().unwrap()));
                    tally.kinds.lock().unwrap().insert(flags[3].into());
                    return if failures.is_empty() { Ok(true) } else { Err(failures.join("; ")) };
                }
                _ => {}
            }
        }
        self.child.wait().map_err(|e| e.to_string())?;
        let overflow = std::mem::replace(&mut self.overflow, thread::spawn(|| false));
        // A page of redb's tree in the place of one above it: redb follows it without end.
        match (overflow.join().unwrap(), writing) {
            (true, _) => add(&tally.overflowed, 1),
            (false, true) => add(&tally.aborted, 1),
            (false, false) => return Err("the process died while it only read".into()),
        };
        Ok(false)
    }
}

/// The workers of a campaign that have nothing to do.
fn run(
    name: &'static str,
    kinds: &str,
    plant: &str,
    cases: Option<u64>,
    default: u64,
) -> (campaign::Outcome, Tally) {
    let (tally, idle) = (Tally::default(), Mutex::new(Vec::new()));
    let case = |number: u64, _: &mut Random| {
        let worker = idle.lock().unwrap().pop();
        let mut worker = worker.unwrap_or_else(|| Worker::start(kinds, plant));
        let done = worker.case(number, &tally);
        if done == Ok(true) || done.is_err() && worker.child.try_wait().unwrap().is_none() {
            idle.lock().unwrap().push(worker);
        }
        done.map(|_| ())
    };
    let outcome = match cases {
        Some(cases) => campaign::run_exactly(name, cases, case),
        None => campaign::run(name, default, case),
    };
    for mut worker in idle.into_inner().unwrap() {
        drop(worker.input);
        worker.child.wait().unwrap();
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "  {} noticed by an error, {} only by verify, {} written to; redb ended {} by two panics, {} by its recursion",
        get(&tally.errors),
        get(&tally.hidden),
        get(&tally.written),
        get(&tally.aborted),
        get(&tally.overflowed)
    );
    (outcome, tally)
}

fn expect_error_or_the_same(name: &'static str, kinds: &str, default: u64, each: usize) {
    let (outcome, tally) = run(name, kinds, "", None, default);
    outcome.expect_clean();
    let (cases, errors) = (outcome.cases, tally.errors.into_inner());
    assert_eq!(tally.aborted.into_inner(), 0, "cases ended the process by two panics");
    let overflowed = tally.overflowed.into_inner();
    assert!(overflowed <= 2 + cases / 500, "{overflowed} of {cases} cases ended the process by a recursion");
    if cases >= default {
        assert!(errors > cases / 6, "most damage is never read: {errors} of {cases}");
        assert_eq!(tally.kinds.into_inner().unwrap().len(), each);
    }
}

#[test]
fn flipped_bits_give_an_error_or_the_same_answer() {
    expect_error_or_the_same("flipped bits", "Bit", 400, 1);
}

#[test]
fn damaged_pages_give_an_error_or_the_same_answer() {
    expect_error_or_the_same("damaged pages", "Pages", 300, PAGES.len());
}

/// Where a table cannot be walked at all, whoever comes after it is not told so twice: `verify` once took the rows for counted.
#[test]
fn a_page_of_zeros_anywhere_is_no_panic_of_ours() {
    note_panics();
    let reference = reference();
    let failures = |page: u64| {
        let mut image = reference.image.clone();
        image[page as usize * PAGE..][..PAGE].fill(0);
        judge(&image, None, (false, false), &reference.before, &reference.after).failures
    };
    let failed: Vec<_> = reference
        .pages
        .iter()
        .map(|&page| (page, failures(page)))
        .filter(|(_, what)| !what.is_empty())
        .collect();
    let _ = std::panic::take_hook();
    assert!(failed.is_empty(), "{failed:?}");
}

/// The campaign has teeth: without the checksums of payloads, or the digests of lists, it fails.
#[cfg(feature = "fuzz-internals")]
#[test]
fn planted_faults_are_noticed() {
    run("flipped bits, checksums ignored", "Bit", "PayloadChecksum", Some(60), 0).0.expect_caught();
}

/// The comparison has teeth: a store that went back to an earlier commit answers without any error, and
/// otherwise.
#[test]
fn a_wrong_answer_would_be_noticed() {
    let Reference { image, before, after, .. } = reference();
    let (_, earlier) = build();
    let outcome = judge(&earlier, None, (false, true), &before, &after);
    assert!(outcome.failures.len() > 5 && outcome.errors == 0, "{outcome:?}");
    assert!(judge(&image, None, (false, true), &before, &after).failures.is_empty());
}
