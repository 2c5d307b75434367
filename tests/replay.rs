//! The kept seeds of all fuzz targets, fed to them once more, by any compiler and without a fuzzer.
//!
//! Worry: an input that once broke something breaks it again, and nobody fuzzes long enough to see. Files named `found-…`
//! are such inputs. The targets notice: a panic of ours, an answer of one that `verify` found whole and that is not.
//! And that seeds go stale: a corpus that does not get past the doors any more tests nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod campaign;
#[path = "support/encodings.rs"]
mod encodings;
mod targets;

use campaign::Random;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs};

/// `VELLUM_REPLAY_CORPUS` names another folder of folders: what a fuzzer kept, to measure the lines that it reaches.
fn folder(target: &str) -> PathBuf {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    env::var_os("VELLUM_REPLAY_CORPUS").map_or(seeds, PathBuf::from).join(target)
}

/// First seeds, made of real stores, models and values each time, since what they are made of may change.
fn made(target: &str) -> Vec<Vec<u8>> {
    match target {
        "block" => vellum::fuzzing::seeds(),
        "model" => (0..targets::stores::SPECS.len()).filter_map(targets::model::seed).collect(),
        "open" => targets::open::seeds(),
        _ => Vec::new(),
    }
}

/// The kept seeds of a target by name; none in the published package, which has no fuzz targets.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(files) = fs::read_dir(folder(target)) else { return Vec::new() };
    let paths = files.map(|file| file.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> = paths.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

/// Feeds all seeds of a target; a part of them must be believed.
fn replay(target: &'static str, one_in: usize, check: impl Fn(&[u8]) -> bool) {
    let made = made(target).into_iter().enumerate().map(|(i, seed)| (format!("made-{i:03}"), seed));
    let seeds: Vec<_> = made.chain(kept(target)).collect();
    // `VELLUM_REPLAY` names the target, or a seed.
    let only = env::var("VELLUM_REPLAY").unwrap_or_default();
    let chosen: Vec<_> = seeds.iter().filter(|(name, _)| target == only || name.contains(&only)).collect();
    let mut believed = 0;
    for (name, seed) in &chosen {
        if !only.is_empty() {
            println!("{target}/{name}");
        }
        believed += usize::from(check(seed));
    }
    println!("{target}: {} seeds, {believed} believed", chosen.len());
    let others = !only.is_empty() || env::var_os("VELLUM_REPLAY_CORPUS").is_some();
    assert!(believed * one_in >= seeds.len() || others, "{target}: the seeds are stale");
}

#[test]
fn kept_seeds_do_no_harm() {
    let _one = ONE_AT_A_TIME.lock().unwrap();
    replay("spec", 3, |input| std::str::from_utf8(input).is_ok_and(targets::spec::check));
    replay("import", 3, targets::import::check);
    replay("block", 4, targets::block::check);
    replay("model", 4, targets::model::check);
    replay("open", 2, |input| targets::open::check(input).unwrap_or_else(|what| panic!("{what}")));
}

/// Cases of each target that are changed seeds: what CI does for the fuzzer, by chance alone.
#[test]
fn changed_seeds_do_no_harm() {
    let cases: [(&'static str, &'static str, u64, Check); 4] = [
        ("hostile imports", "import", 4_000, |input| Ok(targets::import::check(input))),
        ("hostile values", "block", 4_000, |input| Ok(targets::block::check(input))),
        ("hostile models", "model", 300, |input| Ok(targets::model::check(input))),
        ("hostile stores", "open", 300, targets::open::check),
    ];
    let chosen = |target: &str| env::var("VELLUM_REPLAY").map_or(true, |only| only == target);
    let _one = ONE_AT_A_TIME.lock().unwrap();
    for (name, target, count, check) in cases.into_iter().filter(|(_, target, ..)| chosen(target)) {
        let mut seeds = made(target);
        seeds.extend(kept(target).into_iter().map(|(_, seed)| seed));
        if seeds.is_empty() {
            continue;
        }
        let believed = AtomicU64::new(0);
        let case = |_, random: &mut Random| {
            let input = changed(&seeds, random);
            believed.fetch_add(u64::from(check(&input)?), Ordering::Relaxed);
            Ok(())
        };
        let outcome = campaign::run(name, count, case);
        println!("  {} believed", believed.into_inner());
        outcome.expect_clean();
    }
}

type Check = fn(&[u8]) -> Result<bool, String>;

/// The target `open` has a panic hook for the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A seed with a few bytes changed, put in, taken out, or edits of another behind it.
fn changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| seeds[random.below(seeds.len() as u64) as usize].clone();
    let mut bytes = pick(random);
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 if at + 4 <= bytes.len() => {
                let word = [u32::MAX, 1 << 31, 0, 0x7F80_0000, 0x7F7F_FFFF, random.next() as u32];
                bytes[at..at + 4].copy_from_slice(&word[random.below(6) as usize].to_le_bytes());
            }
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.next() as u8),
            _ => {
                // An edit of a store: what is done, to which table of which index, with what.
                let len = 8 + random.below(8) as usize;
                bytes.extend((0..len).map(|_| random.next() as u8));
            }
        }
    }
    bytes
}

// ---- memory ----

/// What a hostile file of 100 bytes may take beyond what the process takes anyway.
const HOSTILE_KIB: u64 = 64 << 10;

/// Files of at most 100 bytes that promise very much: heads of each format with great numbers in the place of each of
/// theirs, as a store, as a model, and as an import.
fn small_hostile_files() -> Vec<Vec<u8>> {
    let npy = |shape: &str, kind: &str| {
        let head = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes()].concat()
    };
    let mut files = vec![
        npy("(4000000000, 1000000)", "<f4"),
        npy("(18446744073709551615, 1)", "<f4"),
        npy("(1, 4294967295)", "|u1"),
        npy("(4294967296, 4294967296)", "<i8"),
        [b"\x93NUMPY\x02\x00", &u32::MAX.to_le_bytes()[..], b"{'descr'"].concat(),
    ];
    for dim in [1, 100, 65_536, 1 << 24, i32::MAX as u32, u32::MAX] {
        files.push([&dim.to_le_bytes()[..], &[1; 96]].concat());
    }
    let redb = [b"redb\x1A\x0A\xA9\x0D\x0A".to_vec(), vec![0; 91]].concat();
    let model = [b"vellum.m\x01\x00\x00\x00".to_vec(), vec![0; 88]].concat();
    for base in [redb, model] {
        for at in 8..96 {
            for number in [[0xFF; 4], [0, 0, 0, 0x7F], [0, 0, 0, 1]] {
                let mut file = base.clone();
                file[at..at + 4].copy_from_slice(&number);
                files.push(file);
            }
        }
    }
    files
}

/// Does the work in the environment's limit of address space, if there is one, and says how much it had taken before.
#[test]
#[ignore = "the child process of the test below"]
fn small_files_child() {
    let hostile = env::var("VELLUM_HOSTILE").is_ok();
    let files = if hostile { small_hostile_files() } else { vec![vec![0; 100]] };
    for file in &files {
        for format in 0..5 {
            targets::import::check(&[&[format][..], file].concat());
        }
        targets::open::check(&[&[targets::open::WHOLE_FILE][..], file].concat()).unwrap();
        targets::model::check(&[&[0, 1][..], file].concat());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    println!("\nPEAK {}", peak.trim().trim_end_matches(" kB"));
}

/// Under a limit of address space, since memory that is asked for and never touched counts, too.
#[cfg(target_os = "linux")]
#[test]
fn a_hostile_file_of_100_bytes_stays_under_64_mib() {
    let child = |script: &str, hostile: bool| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, "sh"]).arg(env::current_exe().unwrap());
        if hostile {
            command.env("VELLUM_HOSTILE", "1");
        }
        command.env("RAYON_NUM_THREADS", "1").env("MALLOC_ARENA_MAX", "1");
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let peak =
            text.lines().find_map(|line| line.strip_prefix("PEAK ")).map(|kib| kib.parse::<u64>().unwrap());
        peak.filter(|_| out.status.success()).unwrap_or_else(|| {
            panic!("{text}\n{}", String::from_utf8_lossy(&out.stderr));
        })
    };
    let run = "exec \"$1\" small_files_child --exact --ignored --nocapture --test-threads=1";
    let usual = child(run, false);
    let limit = usual + HOSTILE_KIB;
    let peak = child(&format!("ulimit -v {limit}; {run}"), true);
    println!("hostile files of 100 bytes: {} KiB more than a harmless one", peak.saturating_sub(usual));
}

/// Hostile models and values are those of every kind of code.
#[test]
fn every_encoding_has_a_store() {
    use vellum::{Encoding, IndexSpec};
    let kind = |encoding: Encoding| {
        let form = match encoding {
            Encoding::Additive(form) => {
                Some((form.kind(), form.to_string().starts_with('P'), form.fast_scan()))
            }
            _ => None,
        };
        (std::mem::discriminant(&encoding), form)
    };
    let stored: Vec<_> = (0..targets::stores::SPECS.len())
        .map(|number| kind(targets::stores::spec(number).encoding()))
        .collect();
    for code in encodings::ENCODINGS {
        let spec: IndexSpec = format!("IVF2,{code}").parse().unwrap();
        assert!(stored.contains(&kind(spec.encoding())), "no store of {code}");
    }
}

/// Writes first seeds, made of real stores, models and values; the fuzzer finds others.
#[test]
#[ignore = "writes into the folder `fuzz/seeds`"]
fn make_seeds() {
    let write = |target: &str, name: String, bytes: &[u8]| {
        fs::create_dir_all(folder(target)).unwrap();
        fs::write(folder(target).join(name), bytes).unwrap();
    };
    for target in ["block", "model", "open"] {
        for (i, seed) in made(target).iter().enumerate() {
            write(target, format!("made-{i:03}"), seed);
        }
    }
    for (name, number) in [("empty", None), ("flat", Some(0)), ("keyed", Some(5))] {
        let file = targets::open::file_of(number);
        write("open", format!("file-{name}"), &[&[targets::open::WHOLE_FILE][..], &file].concat());
    }
}
