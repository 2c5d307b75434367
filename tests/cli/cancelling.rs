//! How it breaks: a cancelled command that leaves half of its work, or says that it left nothing.

use super::*;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;

/// A `.npy` file of u8 zeros that takes no space on disk.
fn write_zeros(path: &str, rows: u64, dim: u64) {
    let mut dict = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    dict.extend(std::iter::repeat_n(' ', 117 - dict.len()));
    dict.push('\n');
    let mut file = File::create(path).unwrap();
    file.write_all(b"\x93NUMPY\x01\x00\x76\x00").unwrap();
    file.write_all(dict.as_bytes()).unwrap();
    file.set_len(128 + rows * dim).unwrap();
}

/// Starts a command that reports its progress in lines, interrupts it when a line satisfies `when`, and waits for
/// its end: the exit code and the rest of standard error.
fn interrupted(args: &[&str], when: impl Fn(&str) -> bool) -> (Option<i32>, String) {
    let mut child = command(&[args, &["--progress-lines"]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !when(&line) {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it ended before it was interrupted");
    }
    interrupt(&child);
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    (child.wait().unwrap().code(), rest)
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn before_the_first_commit_nothing_is_left() {
    let sift = Sift::build(&[]);
    // Far too much to be sampled before the signal arrives.
    write_zeros(&sift.path("zeros.npy"), 1 << 36, 1);
    let (new, zeros) = (sift.path("new.vellum"), sift.path("zeros.npy"));
    for (store, index) in [(&new, "a"), (&sift.store(), "b")] {
        let args = ["build", store, index, "--spec", "IVF64,Flat", "--metric", "l2", "--data", &zeros];
        let (code, errors) = interrupted(&args, |line| line.starts_with("sample"));
        assert_eq!(code, Some(130), "{errors}");
        assert!(errors.contains("cancelled: the store is as it was"), "{errors}");
    }
    assert!(!Path::new(&new).exists());
    assert_eq!(json(&["info", &sift.store()])["indexes"].as_array().unwrap().len(), 1);
    assert_eq!(json(&["verify", &sift.store()])["problems"], 0);
}

#[test]
fn whether_training_was_cancelled_or_done_the_store_is_whole() {
    let sift = Sift::build(&[]);
    let (store, base) = (sift.store(), sample("sift-10k.base.npy"));
    let args = ["build", &store, "more", "--spec", "IVF1000,Flat", "--metric", "l2", "--niter", "1000000000"];
    let (code, errors) =
        interrupted(&[&args[..], &["--data", &base]].concat(), |line| line.starts_with("train"));
    let info = json(&["info", &store]);
    let indexes = info["indexes"].as_array().unwrap();
    match code {
        Some(130) => assert_eq!(indexes.len(), 1, "{errors}"),
        // k-means ended before the signal arrived.
        Some(0) => assert_eq!(indexes.len(), 2),
        other => panic!("{other:?}: {errors}"),
    }
    assert_eq!(json(&["verify", &store])["problems"], 0);
}

#[test]
fn whether_removal_was_cancelled_or_done_the_store_is_whole() {
    let sift = Sift::build(&[]);
    let store = sift.store();
    let (code, errors) =
        interrupted(&["remove", &store, "sift", "--ids", "0-8999"], |line| line.starts_with("remove"));
    let rows = &json(&["info", &store, "sift"])["indexes"][0]["rows"];
    match code {
        Some(130) => assert_eq!(*rows, 10_000, "{errors}"),
        // It ended before the signal arrived.
        Some(0) => assert_eq!(*rows, 1000),
        other => panic!("{other:?}: {errors}"),
    }
    assert_eq!(json(&["verify", &store])["problems"], 0);
}

#[test]
fn an_add_is_all_or_nothing() {
    let sift = Sift::build(&[]);
    write_zeros(&sift.path("zeros.npy"), 1 << 34, 128);
    let (store, zeros) = (sift.store(), sift.path("zeros.npy"));
    let done = |line: &str| line.starts_with("add") && !line.starts_with("add 0/");
    let (code, errors) = interrupted(&["add", &store, "sift", "--data", &zeros], done);
    assert_eq!(code, Some(130), "{errors}");
    assert_eq!(json(&["info", &store, "sift"])["indexes"][0]["rows"], 10_000);
    assert_eq!(json(&["verify", &store])["problems"], 0);
}

#[test]
fn a_bulk_load_goes_on_where_it_stopped_or_is_discarded() {
    let sift = Sift::build(&[]);
    write_zeros(&sift.path("zeros.npy"), 1 << 34, 128);
    let (store, zeros) = (sift.store(), sift.path("zeros.npy"));
    let args = ["build", &store, "zeros", "--spec", "Flat", "--metric", "l2", "--data", &zeros];
    let loaded = |line: &str| {
        let done = line.strip_prefix("add ").and_then(|rest| rest.split('/').next());
        done.is_some_and(|done| done.parse::<u64>().unwrap() > 200_000)
    };
    let (code, errors) = interrupted(&args, loaded);
    assert_eq!(code, Some(130), "{errors}");
    assert!(errors.contains("rows are loaded") && errors.contains("--resume"), "{errors}");

    // It says so until it is resumed, and the other index does not mind.
    let queries = sample("sift-10k.query.npy");
    let message = fails(&["search", &store, "zeros", "--queries", &queries], 1);
    assert!(message.contains("stopped after") && message.contains("--discard"), "{message}");
    fails(&["add", &store, "zeros", "--data", &zeros], 1);
    assert_eq!(sift.search("1", "100").len(), 200);
    let rows: u64 =
        message.split("stopped after ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(rows > 0);

    // The same file, only that this one ends.
    let end = sift.path("end.npy");
    write_zeros(&end, rows + 1000, 128);
    let resumed = json(&["add", &store, "zeros", "--data", &end, "--resume"]);
    assert_eq!(resumed["rows"], rows + 1000);
    assert_eq!(json(&["verify", &store])["problems"], 0);

    ok(&["create", &store, "more", "--spec", "Flat", "--metric", "l2", "--dim", "128"]);
    let (code, errors) = interrupted(&["add", &store, "more", "--data", &zeros, "--bulk"], loaded);
    assert_eq!(code, Some(130), "{errors}");
    assert!(ok(&["info", &store]).contains("unfinished"));
    assert!(json(&["add", &store, "more", "--discard"])["discarded"].as_u64().unwrap() > 0);
    assert_eq!(json(&["info", &store, "more"])["indexes"][0]["rows"], 0);
    assert_eq!(json(&["verify", &store])["problems"], 0);
}
