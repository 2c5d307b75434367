//! The command line from end to end, over the sample of real vectors: one file for each way it may break, and here what
//! they share, which is running commands and making files for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
#[cfg(unix)]
mod cancelling;
mod choosing;
mod refusals;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use vellum::files::{NpyWriter, NumberReader, VectorReader};
use vellum::{Rows, SearchParams, Store};

fn sample(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).to_str().unwrap().into()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vellum"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Standard output of a command that succeeds.
fn ok(args: &[&str]) -> String {
    let output = run(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
    assert!(errors.is_empty(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The JSON object of a command that succeeds.
fn json(args: &[&str]) -> Value {
    let text = ok(&[args, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The message of a command that fails with `code`.
fn fails(args: &[&str], code: i32) -> String {
    let output = run(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

fn vectors(path: &str) -> (Vec<f32>, usize) {
    let mut reader = VectorReader::open(path).unwrap();
    (reader.next_batch(usize::MAX).unwrap().unwrap(), reader.dim())
}

fn numbers(path: &str) -> Vec<i64> {
    NumberReader::open(path).unwrap().next_batch(usize::MAX).unwrap().unwrap()
}

/// A folder with a store of the SIFT sample in 100 lists, index `sift`.
struct Sift {
    folder: TempDir,
}

impl Sift {
    fn build(more: &[&str]) -> Sift {
        let sift = Sift { folder: tempfile::tempdir().unwrap() };
        let (store, base) = (sift.store(), sample("sift-10k.base.npy"));
        let args = ["build", &store, "sift", "--spec", "IVF100,Flat", "--metric", "l2", "--data", &base];
        ok(&[&args, more].concat());
        sift
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    fn store(&self) -> String {
        self.path("sift.vellum")
    }

    /// The ids that `search` finds, `k` a query.
    fn search(&self, k: &str, nprobe: &str) -> Vec<i64> {
        let (out, queries) = (self.path("found.npy"), sample("sift-10k.query.npy"));
        let args = ["search", &self.store(), "sift", "--queries", &queries, "-k", k];
        ok(&[&args[..], &["--nprobe", nprobe, "--out-ids", &out]].concat());
        numbers(&out)
    }
}

fn write_u64(path: &str, ids: impl IntoIterator<Item = u64>) {
    let mut writer = NpyWriter::flat(path).unwrap();
    writer.append(&ids.into_iter().collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
}

fn write_f32(path: &str, rows: &[f32], dim: usize) {
    let mut writer = NpyWriter::table(path, dim).unwrap();
    writer.append(rows).unwrap();
    writer.finish().unwrap();
}
