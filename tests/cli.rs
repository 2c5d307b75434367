//! The command line from end to end, over the sample of real vectors: how it breaks is an answer that
//! differs from the library's, an exit code or a flag that scripts relied on, advice that leads nowhere, or a
//! cancelled command that leaves half of its work.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
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

#[test]
fn answers_in_files_are_the_librarys_and_exact_with_every_list() {
    let sift = Sift::build(&[]);
    let (queries, dim) = vectors(&sample("sift-10k.query.npy"));
    let queries = Rows::new(&queries, dim).unwrap();
    let (ids, distances) = (sift.path("ids.npy"), sift.path("distances.npy"));
    for nprobe in ["3", "100"] {
        let query_file = sample("sift-10k.query.npy");
        let args = ["search", &sift.store(), "sift", "--queries", &query_file, "-k", "7", "--nprobe", nprobe];
        ok(&[&args[..], &["--out-ids", &ids, "--out-distances", &distances]].concat());
        let store = Store::open(sift.store()).unwrap();
        let reader = store.begin_read().unwrap().index("sift").unwrap();
        let params = SearchParams::new().nprobe(nprobe.parse().unwrap());
        let expected: Vec<_> = reader.search_batch(queries, 7, &params).unwrap().concat();
        assert_eq!(numbers(&ids), expected.iter().map(|n| n.id as i64).collect::<Vec<_>>());
        assert_eq!(vectors(&distances).0, expected.iter().map(|n| n.distance).collect::<Vec<_>>());
    }
    let truth: Vec<_> =
        numbers(&sample("sift-10k.truth.npy")).chunks(100).flat_map(|t| t[..7].to_vec()).collect();
    assert_eq!(numbers(&ids), truth);
}

#[test]
fn bench_prints_the_line_that_scripts_read() {
    let sift = Sift::build(&[]);
    let (queries, truth) = (sample("sift-10k.query.npy"), sample("sift-10k.truth.npy"));
    let args = ["bench", &sift.store(), "sift", "--queries", &queries, "--truth", &truth];
    let args = [&args[..], &["-k", "10", "--nprobe", "1,8,100", "--seconds", "0"]].concat();
    for (more, threads) in [(&[][..], 1), (&["--single"], 1), (&["--single", "--threads", "2"], 2)] {
        let text = ok(&[&args, more].concat());
        let points: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(points.iter().map(|p| p["nprobe"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 8, 100]);
        for point in &points {
            let keys: Vec<_> = point.as_object().unwrap().keys().collect();
            assert_eq!(keys.len(), 7, "{keys:?}");
            assert!(point["rerank"].is_null());
            assert_eq!(point["threads"], threads);
            assert!(point["qps"].as_f64().unwrap() > 0.0);
            assert!(point["p50_us"].as_f64().unwrap() <= point["p99_us"].as_f64().unwrap());
        }
        let recall: Vec<f64> = points.iter().map(|p| p["recall"].as_f64().unwrap()).collect();
        assert!(recall.is_sorted() && recall[0] > 0.2 && recall[1] > 0.8, "{recall:?}");
        assert_eq!(recall[2], 1.0);
    }
    let refused = fails(&[&args[..], &["--rerank", "20"]].concat(), 2);
    assert!(refused.contains("keeps no vectors"), "{refused}");
}

#[test]
fn bench_with_rerank_has_a_point_for_each_pair() {
    let sift = Sift::build(&[]);
    let (base, store) = (sample("sift-10k.base.npy"), sift.store());
    ok(&["build", &store, "kept", "--spec", "IVF100,SQbf16,RFlat", "--metric", "l2", "--data", &base]);
    let (queries, truth) = (sample("sift-10k.query.npy"), sample("sift-10k.truth.npy"));
    let args = ["bench", &store, "kept", "--queries", &queries, "--truth", &truth];
    let text = ok(&[&args[..], &["--nprobe", "100", "--rerank", "10,100", "--seconds", "0"]].concat());
    let points: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(points.iter().map(|p| p["rerank"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 100]);
    assert!(points[0]["recall"].as_f64() <= points[1]["recall"].as_f64());
    // A bound among them, and numbers stay numbers.
    let reranks = ["--rerank", "10,bound:0,bound:2.5,100"];
    let text = ok(&[&args[..], &["--nprobe", "8", "--seconds", "0"], &reranks].concat());
    let points: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let printed: Vec<_> = points.iter().map(|p| p["rerank"].clone()).collect();
    assert_eq!(printed, [10.into(), "bound:0".into(), "bound:2.5".into(), Value::from(100)]);
    let answers = |rerank: &str| {
        let args =
            ["search", &store, "kept", "--queries", &queries, "--nprobe", "8", "--json", "--rerank", rerank];
        serde_json::from_str::<Value>(&ok(&args)).unwrap()["results"].clone()
    };
    assert_eq!(answers("bound:1e9"), answers("60"));
    for wrong in ["0", "bound", "bound:-1", "bound:nan", "bound:inf", "10,", "bounds:3"] {
        let refused = fails(&[&args[..], &["--nprobe", "8", "--rerank", wrong]].concat(), 2);
        assert!(refused.contains("bound:Z"), "{refused}");
    }
}

/// A file of bytes is kept as bytes where the specification leaves it open and the metric leaves the bytes alone.
#[test]
fn bytes_are_kept_as_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let bytes = sample("sift-10k.base.npy");
    write_f32(&path("floats.npy"), &vectors(&bytes).0[..128 * 500], 128);
    for (index, spec, metric, data, kept) in [
        ("a", "IVF20,Nibble", "l2", &bytes, "IVF20,Nibble2,RU8"),
        ("b", "IVF20,Nibble", "cosine", &bytes, "IVF20,Nibble2,RSQ8+Flat"),
        ("c", "IVF20,Nibble", "l2", &path("floats.npy"), "IVF20,Nibble2,RSQ8+Flat"),
        ("d", "IVF20,Nibble,RSQ8", "l2", &bytes, "IVF20,Nibble2,RSQ8"),
    ] {
        ok(&["build", &path("s"), index, "--spec", spec, "--metric", metric, "--data", data]);
        let store = Store::open(path("s")).unwrap();
        assert_eq!(store.begin_read().unwrap().index(index).unwrap().spec().to_string(), kept);
    }
    let refused =
        fails(&["create", &path("s"), "e", "--spec", "IVF20,Flat,RSQ8", "--metric", "l2", "--dim", "128"], 2);
    assert!(refused.contains("more exact"), "{refused}");
}

#[test]
fn ids_from_a_file_are_the_ids_found_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    write_u64(&path("ids.npy"), (0..10_000).map(|row| 1_000_000 - 3 * row));
    let (base, queries) = (sample("sift-10k.base.npy"), sample("sift-10k.query.npy"));
    let args = ["build", &path("s"), "i", "--spec", "Flat", "--metric", "l2", "--data", &base];
    ok(&[&args[..], &["--ids", &path("ids.npy")]].concat());
    let found = path("found.npy");
    ok(&["search", &path("s"), "i", "--queries", &queries, "-k", "1", "--out-ids", &found]);
    let nearest: Vec<i64> =
        numbers(&sample("sift-10k.truth.npy")).chunks(100).map(|t| 1_000_000 - 3 * t[0]).collect();
    // Where the two nearest are equally near, the lower id wins: here that is the higher row.
    let differ = numbers(&found).iter().zip(&nearest).filter(|(a, b)| a != b).count();
    assert!(differ <= 2, "{differ}");
    ok(&["export", &path("s"), "i", "--out", &path("out.npy"), "--out-ids", &path("out-ids.npy")]);
    let ids = numbers(&path("out-ids.npy"));
    assert!(ids.is_sorted() && ids.len() == 10_000);
    let (exported, dim) = vectors(&path("out.npy"));
    let (original, _) = vectors(&base);
    for (id, row) in ids.iter().zip(exported.chunks(dim)) {
        let row_of_id = ((1_000_000 - id) / 3) as usize;
        assert_eq!(row, &original[row_of_id * dim..][..dim], "id {id}");
    }
}

/// Keys in a text file come back as what search shows and what export writes, in the order of the rows.
#[test]
fn keys_from_a_file_are_the_keys_found_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let data: Vec<f32> = (0..60).map(|v| v as f32).collect();
    write_f32(&path("base.npy"), &data, 2);
    write_f32(&path("query.npy"), &data[20..24], 2);
    let lines = |from: usize, to: usize| (from..to).map(|i| format!("clé {i}\n")).collect::<String>();
    fs::write(path("keys.txt"), lines(0, 30)).unwrap();
    for spec in ["Flat", "IVF3,SQfp16,RFlat"] {
        let args = ["build", &path("s"), "i", "--spec", spec, "--metric", "l2", "--data", &path("base.npy")];
        let built = json(&[&args[..], &["--keys", &path("keys.txt")]].concat());
        let stages: Vec<_> =
            built["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
        assert!(stages.ends_with(&["add", "compact"]) && built["rows"] == 30, "{built}");
        let search = ["search", &path("s"), "i", "--queries", &path("query.npy"), "-k", "2", "--nprobe", "3"];
        let found = json(&search);
        assert_eq!(
            found["results"][1],
            serde_json::json!([{"id": 11, "key": "clé 11", "distance": 0.0}, {"id": 10, "key": "clé 10", "distance": 8.0}])
        );
        let text = ok(&search);
        assert!(text.contains("key") && text.contains("clé 11") && !text.contains(" id"), "{text}");
        ok(&["export", &path("s"), "i", "--out", &path("out.npy"), "--out-keys", &path("out.txt")]);
        assert_eq!(fs::read_to_string(path("out.txt")).unwrap(), lines(0, 30));
        assert_eq!(vectors(&path("out.npy")).0, data);
        // More of them; the same again is refused as a whole.
        fs::write(path("more.txt"), lines(30, 60).replace('\n', "\r\n")).unwrap();
        let add = ["add", &path("s"), "i", "--data", &path("base.npy"), "--keys", &path("more.txt")];
        assert_eq!(json(&add)["rows"], 60);
        assert!(fails(&add, 1).contains("key \"clé 30\" is already there"));
        ok(&["export", &path("s"), "i", "--out", &path("out.npy"), "--out-keys", &path("out.txt")]);
        assert_eq!(fs::read_to_string(path("out.txt")).unwrap(), lines(0, 60));
        assert_eq!(json(&["verify", &path("s")])["problems"], 0);
        fs::remove_file(path("s")).unwrap();
    }
    // An index created to have keys takes them, and nothing else; one that has none takes none.
    ok(&["create", &path("s"), "i", "--spec", "Flat", "--metric", "l2", "--dim", "2", "--keyed"]);
    ok(&["create", &path("s"), "j", "--spec", "Flat", "--metric", "l2", "--dim", "2"]);
    let add = |index: &str, more: &[&str], code: i32| {
        let (store, base) = (path("s"), path("base.npy"));
        fails(&[&["add", &store, index, "--data", &base][..], more].concat(), code)
    };
    assert!(add("i", &[], 1).contains("keys"));
    assert!(add("j", &["--keys", &path("keys.txt")], 1).contains("integer ids"));
    add("i", &["--keys", &path("keys.txt"), "--bulk"], 2);
    add("i", &["--keys", &path("keys.txt"), "--ids", &path("keys.txt")], 2);
    let out = ["export", &path("s"), "j", "--out", &path("out.npy"), "--out-keys", &path("out.txt")];
    assert!(fails(&out, 2).contains("no keys"));
    // Files that are no keys, and what a failed build leaves: nothing.
    fs::remove_file(path("s")).unwrap();
    for (bytes, says) in [
        (lines(0, 29).into_bytes(), "29 keys"),
        (lines(0, 30).replace("clé 7\n", "\n").into_bytes(), "line 8: a key"),
        ([lines(0, 29).as_bytes(), b"\xff\n"].concat(), "line 30"),
        (lines(0, 30).replace("clé 7\n", "clé 8\n").into_bytes(), "clé 8"),
    ] {
        fs::write(path("bad.txt"), bytes).unwrap();
        let args =
            ["build", &path("s"), "i", "--spec", "Flat", "--metric", "l2", "--data", &path("base.npy")];
        let message = fails(&[&args[..], &["--keys", &path("bad.txt")]].concat(), 1);
        assert!(message.contains(says), "{message}");
        assert!(!Path::new(&path("s")).exists());
    }
}

/// Centroids from a file are where training begins, or what it leaves alone.
#[test]
fn centroids_from_a_file() {
    let sift = Sift::build(&[]);
    let (base, dim) = vectors(&sample("sift-10k.base.npy"));
    write_f32(&sift.path("first.npy"), &base[..10 * dim], dim);
    let (store, first, data) = (sift.store(), sift.path("first.npy"), sample("sift-10k.base.npy"));
    ok(&[
        "build",
        &store,
        "frozen",
        "--spec",
        "IVF10,Flat",
        "--metric",
        "l2",
        "--data",
        &data,
        "--initial-centroids",
        &first,
        "--frozen",
    ]);
    ok(&["train", &store, "sift", "--initial-centroids", &first, "--frozen"]);
    let open = vellum::Store::open(&store).unwrap();
    for index in ["frozen", "sift"] {
        let reader = open.begin_read().unwrap().index(index).unwrap();
        assert_eq!(reader.centroids().unwrap().as_slice()[..10 * dim], base[..10 * dim], "{index}");
        assert!(reader.training().unwrap().unwrap().clustering.frozen_centroids);
    }
    drop(open);
    assert!(fails(&["train", &store, "sift", "--frozen"], 2).contains("--initial-centroids"));
    let few = fails(&["train", &store, "frozen", "--initial-centroids", &data], 1);
    assert!(few.contains("10000 initial centroids, 10 to be trained"), "{few}");
}

#[test]
fn removed_is_gone_and_updated_is_found() {
    let sift = Sift::build(&[]);
    let (store, queries) = (sift.store(), sample("sift-10k.query.npy"));
    assert_eq!(json(&["remove", &store, "sift", "--ids", "1,2,5-9,2,99999"])["removed"], 7);
    write_u64(&sift.path("gone.npy"), 100..200);
    let removed = json(&["remove", &store, "sift", "--ids-file", &sift.path("gone.npy")]);
    assert_eq!((&removed["removed"], &removed["rows"]), (&100.into(), &9893.into()));
    let gone = |id: &i64| matches!(id, 1 | 2 | 5..=9 | 100..200);
    assert!(!sift.search("50", "100").iter().any(gone));

    write_u64(&sift.path("ids.npy"), 1000..1200);
    assert_eq!(
        json(&["update", &store, "sift", "--ids-file", &sift.path("ids.npy"), "--data", &queries])["updated"],
        200
    );
    assert_eq!(sift.search("1", "100"), (1000..1200).collect::<Vec<_>>());
    // An id that is not there: nothing is updated.
    write_u64(&sift.path("ids.npy"), 1..201);
    let args = ["update", &store, "sift", "--ids-file", &sift.path("ids.npy"), "--data", &queries];
    assert!(fails(&args, 1).contains("id 1 is not there"));
    assert_eq!(sift.search("1", "100"), (1000..1200).collect::<Vec<_>>());
    assert_eq!(json(&["verify", &store])["problems"], 0);
}

#[test]
fn fewer_than_k_are_padded() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    write_f32(&path("base.npy"), &[0.0, 0.0, 3.0, 4.0], 2);
    write_f32(&path("query.npy"), &[0.0, 0.0], 2);
    ok(&["build", &path("s"), "i", "--spec", "Flat", "--metric", "l2", "--data", &path("base.npy")]);
    let args = ["search", &path("s"), "i", "--queries", &path("query.npy"), "-k", "4"];
    ok(&[&args[..], &["--out-ids", &path("ids.npy"), "--out-distances", &path("d.npy")]].concat());
    assert_eq!(numbers(&path("ids.npy")), [0, 1, -1, -1]);
    let distances = vectors(&path("d.npy")).0;
    assert_eq!(distances[..2], [0.0, 25.0]);
    assert!(distances[2].is_nan() && distances[3].is_nan());
    let found = json(&args);
    assert_eq!(
        found["results"],
        serde_json::json!([[{"id": 0, "distance": 0.0}, {"id": 1, "distance": 25.0}]])
    );
}

#[test]
fn create_train_and_add_make_what_build_makes() {
    let sift = Sift::build(&[]);
    let (base, other) = (sample("sift-10k.base.npy"), sift.path("other.vellum"));
    ok(&["create", &other, "sift", "--spec", "IVF100,Flat", "--metric", "l2", "--dim", "128"]);
    ok(&["train", &other, "sift", "--data", &base]);
    let added = json(&["add", &other, "sift", "--data", &base]);
    assert_eq!(
        (&added["added"], &added["first_id"], &added["rows"]),
        (&10_000.into(), &0.into(), &10_000.into())
    );
    let found = sift.search("10", "5");
    fs::rename(&other, sift.store()).unwrap();
    assert_eq!(sift.search("10", "5"), found);
    // Once more, with ids that follow; then trained on what is there.
    assert_eq!(json(&["add", &sift.store(), "sift", "--data", &base])["first_id"], 10_000);
    assert!(fails(&["add", &sift.store(), "sift", "--data", &base, "--bulk"], 2).contains("empty index"));
    let trained = json(&["train", &sift.store(), "sift", "--train-size", "5000"]);
    assert_eq!((&trained["rows"], &trained["nlist"]), (&20_000.into(), &100.into()));
    assert_eq!(json(&["verify", &sift.store(), "sift"])["problems"], 0);
    // Every vector is there twice now: the two nearest are a row and its copy.
    for two in sift.search("2", "100").chunks(2) {
        assert_eq!(two[1] - two[0], 10_000);
    }
}

#[test]
fn each_format_of_the_same_vectors_builds_the_same_index() {
    let sift = Sift::build(&[]);
    let (base, dim) = vectors(&sample("sift-10k.base.npy"));
    let prefixed = |bytes: &dyn Fn(f32) -> Vec<u8>| -> Vec<u8> {
        let row = |row: &[f32]| {
            [(dim as i32).to_le_bytes().to_vec(), row.iter().flat_map(|&v| bytes(v)).collect()].concat()
        };
        base.chunks(dim).flat_map(row).collect()
    };
    fs::write(sift.path("base.bvecs"), prefixed(&|v| vec![v as u8])).unwrap();
    fs::write(sift.path("base.fvecs"), prefixed(&|v| v.to_le_bytes().to_vec())).unwrap();
    fs::write(sift.path("base.ivecs"), prefixed(&|v| (v as i32).to_le_bytes().to_vec())).unwrap();
    let expected = sift.search("10", "5");
    for name in ["base.bvecs", "base.fvecs", "base.ivecs"] {
        fs::remove_file(sift.store()).unwrap();
        let (store, data) = (sift.store(), sift.path(name));
        ok(&["build", &store, "sift", "--spec", "IVF100,Flat", "--metric", "l2", "--data", &data]);
        assert_eq!(sift.search("10", "5"), expected, "{name}");
    }
}

#[test]
fn half_precision_text_by_inner_product() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let [base, queries, truth] =
        ["base", "query", "truth"].map(|part| sample(&format!("text-2k.{part}.npy")));
    for (index, metric, spec) in [("a", "ip", "Flat"), ("b", "cosine", "IVF20,Flat")] {
        ok(&["build", &path("s"), index, "--spec", spec, "--metric", metric, "--data", &base]);
        let args = ["bench", &path("s"), index, "--queries", &queries, "--truth", &truth];
        let line = ok(&[&args[..], &["--nprobe", "20", "--seconds", "0"]].concat());
        let recall = serde_json::from_str::<Value>(&line).unwrap()["recall"].as_f64().unwrap();
        // Inner product and cosine differ by the 6e-5 to which the vectors have length 1.
        assert!(recall >= 0.99, "{metric}: {recall}");
    }
    assert_eq!(json(&["info", &path("s")])["indexes"].as_array().unwrap().len(), 2);
}

#[test]
fn every_command_speaks_json() {
    let sift = Sift::build(&[]);
    let (store, base, queries) = (sift.store(), sample("sift-10k.base.npy"), sample("sift-10k.query.npy"));
    let other = sift.path("other.vellum");
    let created = json(&["create", &other, "x", "--spec", "IVF10,Flat", "--metric", "cosine", "--dim", "8"]);
    assert_eq!((&created["spec"], &created["metric"]), (&"IVF10,Flat".into(), &"cosine".into()));
    let built = json(&["build", &other, "sift", "--spec", "IVF10,Flat", "--metric", "l2", "--data", &base]);
    let stages: Vec<_> =
        built["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["sample", "train", "add", "compact"]);
    assert!(built["stages"][2]["file_bytes"].as_u64().unwrap() > 5_120_000);
    assert_eq!(
        json(&["search", &store, "sift", "--queries", &queries])["results"].as_array().unwrap().len(),
        200
    );
    let info = json(&["info", &store, "sift"]);
    assert_eq!(info["indexes"][0]["rows"], 10_000);
    assert_eq!(json(&["info", &other])["indexes"].as_array().unwrap().len(), 2);
    assert_eq!(json(&["verify", &store])["problems"], 0);
    json(&["repair", &store, "sift"]);
    assert!(json(&["compact", &store])["after_bytes"].as_u64().unwrap() > 5_120_000);
    let copy = sift.path("copy.vellum");
    assert_eq!(json(&["backup", &store, &copy])["rows"], 10_000);
    let expected = sift.search("10", "5");
    fs::rename(&copy, &store).unwrap();
    assert_eq!(sift.search("10", "5"), expected);
    assert_eq!(json(&["export", &store, "sift", "--out", &sift.path("out.npy")])["rows"], 10_000);
    // A failure is an object too.
    let output = run(&["info", &sift.path("none"), "--json"]);
    let failure: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &failure["exit_code"]), (Some(1), &1.into()));
    assert!(failure["error"].is_string() && failure["advice"].is_string() && output.stderr.is_empty());
}

#[test]
fn what_people_read() {
    let sift = Sift::build(&[]);
    let (store, queries) = (sift.store(), sample("sift-10k.query.npy"));
    let nearest = numbers(&sample("sift-10k.truth.npy"))[0].to_string();
    let text =
        ok(&["search", &store, "sift", "--queries", &queries, "--nprobe", "100", "-k", "3", "--show", "2"]);
    assert_eq!(text.lines().count(), 1 + 2 * 3 + 2, "{text}");
    assert!(text.lines().nth(1).unwrap().contains(&nearest), "{text}");
    for words in
        [&["info", &store][..], &["info", &store, "sift"], &["verify", &store], &["repair", &store, "sift"]]
    {
        assert!(ok(words).contains("10,000"), "{words:?}");
    }
    let help = ok(&["--help"]);
    for command in [
        "demo", "build", "create", "train", "add", "search", "bench", "remove", "update", "info", "verify",
        "repair", "compact", "backup", "export",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        ok(&[command, "--help"]);
    }
    assert!(help.contains("130"));
}

/// Breaks if a dropped or renamed index is still found, or another one suffers.
#[test]
fn indexes_are_renamed_and_dropped() {
    let sift = Sift::build(&[]);
    let store = sift.store();
    ok(&["create", &store, "other", "--spec", "Flat", "--metric", "l2", "--dim", "4"]);
    assert_eq!(json(&["rename", &store, "other", "another"])["index"], "another");
    fails(&["rename", &store, "another", "sift"], 1);
    assert_eq!(json(&["drop", &store, "another"])["dropped"], "another");
    fails(&["drop", &store, "another"], 1);
    ok(&["verify", &store]);
    assert_eq!(sift.search("1", "8").len(), 200);
}

#[test]
fn the_demo_needs_no_argument() {
    let text = ok(&["demo"]);
    for words in ["recall", "queries/s", "Remove", "Update", "reopen", "Verify"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let record = json(&["demo"]);
    assert_eq!(
        (&record["rows"], &record["removed"], &record["problems"]),
        (&10_000.into(), &1000.into(), &0.into())
    );
    let points = record["points"].as_array().unwrap();
    assert_eq!(points.last().unwrap()["recall"], 1.0);
    // Of 128 lists of real vectors, 16 hold nearly all of the ten nearest.
    assert!(record["recall_after_remove"].as_f64().unwrap() > 0.9);
}

#[test]
fn wrong_files_are_named() {
    let sift = Sift::build(&[]);
    let (store, base) = (sift.store(), sample("sift-10k.base.npy"));
    let whole = fs::read(&base).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(sift.path(name), bytes).unwrap();
        sift.path(name)
    };
    let header = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&whole[10..128]).replacen(from, to, 1);
        [&whole[..10], text.trim_end().as_bytes(), &vec![b' '; 118 - text.trim_end().len()], &whole[128..]]
            .concat()
    };
    let cases = [
        (sift.path("none.npy"), "no such file"),
        (file("empty.npy", b""), "does not begin like"),
        (file("text.txt", b"1 2 3\n"), "neither .npy nor"),
        (file("cut.npy", &whole[..1000]), "cut off at 1000"),
        (file("long.npy", &[&whole[..], b"x"].concat()), "1280129 bytes"),
        (file("fortran.npy", &header("False", "True")), "Fortran"),
        (
            file("huge.npy", &header("(10000, 128)", "(99999999999999999, 999999)")),
            "more than a file can hold",
        ),
        (file("negative.npy", &header("(10000, 128)", "(-1, 128)")), "negative"),
        (file("zero.npy", &header("(10000, 128)", "(10000, 0)")), "0 components"),
        (file("big.npy", &header("|u1", ">f4")), "big-endian"),
        (file("double.npy", &header("|u1", "<f8")), "float64"),
        (file("dim.fvecs", &(-5i32).to_le_bytes()), "-5 components"),
    ];
    for (path, expected) in cases {
        let message = fails(&["add", &store, "sift", "--data", &path], 1);
        assert!(message.contains(expected) && message.contains(&path), "{expected}: {message}");
        fails(&["build", &sift.path("new"), "i", "--spec", "Flat", "--metric", "l2", "--data", &path], 1);
        assert!(!Path::new(&sift.path("new")).exists());
        fails(&["search", &store, "sift", "--queries", &path], 1);
        fails(&["remove", &store, "sift", "--ids-file", &path], 1);
    }
    assert_eq!(json(&["info", &store, "sift"])["indexes"][0]["rows"], 10_000);
}

#[test]
fn wrong_vectors_are_named_by_their_row_in_the_file() {
    let sift = Sift::build(&[]);
    let (store, rows) = (sift.store(), 40_000);
    // Row 35,000 lies in the second batch that is read.
    let mut base = vec![1.0; rows * 128];
    base[35_000 * 128 + 5] = f32::NAN;
    write_f32(&sift.path("nan.npy"), &base, 128);
    ok(&["create", &store, "empty", "--spec", "Flat", "--metric", "l2", "--dim", "128"]);
    let nan = sift.path("nan.npy");
    for args in
        [&["add", &store, "sift", "--data", &nan][..], &["add", &store, "empty", "--data", &nan, "--bulk"]]
    {
        let message = fails(args, 1);
        assert!(message.contains("row 35000, component 5 is NaN"), "{message}");
    }
    assert_eq!(json(&["add", &store, "empty", "--discard"])["index"], "empty");
    assert_eq!(json(&["info", &store, "sift"])["indexes"][0]["rows"], 10_000);
    write_f32(&sift.path("narrow.npy"), &[1.0; 12], 3);
    for args in [["add", "--data"], ["search", "--queries"], ["train", "--data"]] {
        let message = fails(&[args[0], &store, "sift", args[1], &sift.path("narrow.npy")], 1);
        assert!(message.contains("3 components, but the index has 128"), "{message}");
    }
    base.truncate(2 * 128);
    base.fill(0.0);
    write_f32(&sift.path("zero.npy"), &base, 128);
    let args = [
        "build",
        &sift.path("new"),
        "i",
        "--spec",
        "Flat",
        "--metric",
        "cosine",
        "--data",
        &sift.path("zero.npy"),
    ];
    assert!(fails(&args, 1).contains("row 0 is a zero vector"));
}

#[test]
fn wrong_ids_are_refused_and_change_nothing() {
    let sift = Sift::build(&[]);
    let (store, queries) = (sift.store(), sample("sift-10k.query.npy"));
    let ids = sift.path("ids.npy");
    let add = ["add", &store, "sift", "--data", &queries, "--ids", &ids];
    write_u64(&ids, 0..199);
    assert!(fails(&add, 1).contains("199 ids"));
    write_u64(&ids, (20_000..20_199).chain([20_000]));
    assert!(fails(&add, 1).contains("20000 is already there"));
    write_u64(&ids, 9_999..10_199);
    assert!(fails(&add, 1).contains("9999 is already there"));
    let mut negative = NpyWriter::flat(&ids).unwrap();
    negative.append(&[-1i64; 200]).unwrap();
    negative.finish().unwrap();
    assert!(fails(&add, 1).contains("-1"));
    assert!(fails(&["remove", &store, "sift", "--ids-file", &queries], 1).contains("holds u8"));
    fails(&["remove", &store, "sift", "--ids", "5-1"], 2);
    assert_eq!(json(&["remove", &store, "sift", "--ids", "10000-99999999"])["removed"], 0);
    assert_eq!(json(&["info", &store, "sift"])["indexes"][0]["rows"], 10_000);
}

#[test]
fn wrong_stores_and_names_say_what_to_do() {
    let sift = Sift::build(&[]);
    let (store, base, none) = (sift.store(), sample("sift-10k.base.npy"), sift.path("none"));
    let message = fails(&["search", &none, "i", "--queries", &base], 1);
    assert!(message.contains(&format!("vellum build {none} i")), "{message}");
    assert!(!Path::new(&none).exists());
    let message = fails(&["search", &store, "other", "--queries", &base], 1);
    assert!(message.contains("no index `other`") && message.contains("vellum info"), "{message}");
    let again = ["build", &store, "sift", "--spec", "Flat", "--metric", "l2", "--data", &base];
    assert!(fails(&again, 1).contains("vellum add"));
    assert!(
        fails(&["create", &store, "a/b", "--spec", "Flat", "--metric", "l2", "--dim", "3"], 1)
            .contains("a/b")
    );
    assert!(fails(&["backup", &store, &base], 1).contains("exists already"));
    fs::write(&none, "this is no store at all").unwrap();
    assert!(fails(&["info", &none], 1).contains("not a vellum store"));
    assert_eq!(fs::read(&none).unwrap(), b"this is no store at all");
    assert!(fails(&["add", &store, "sift", "--data", &base, "--resume"], 2).contains("no unfinished load"));

    let lists = ["build", &store, "many", "--spec", "IVF20000,Flat", "--metric", "l2", "--data", &base];
    assert!(fails(&lists, 1).contains("fewer lists"));
    assert_eq!(json(&["info", &store])["indexes"].as_array().unwrap().len(), 1);

    let open = Store::open(&store).unwrap();
    let message = fails(&["info", &store], 1);
    assert!(message.contains("open elsewhere") && message.contains("other process"), "{message}");
    drop(open);
    for line in [&["build", &store][..], &["search", &store, "sift"], &["frobnicate"], &[]] {
        fails(line, 2);
    }
}

#[test]
fn bench_refuses_answers_that_do_not_fit() {
    let sift = Sift::build(&[]);
    let (store, queries, truth) = (sift.store(), sample("sift-10k.query.npy"), sample("sift-10k.truth.npy"));
    let bench = |truth: &str, k: &str| {
        fails(
            &["bench", &store, "sift", "--queries", &queries, "--truth", truth, "-k", k, "--nprobe", "1"],
            1,
        )
    };
    assert!(bench(&truth, "101").contains("100 answers"));
    assert!(bench(&sample("text-2k.truth.npy"), "10").contains("60 queries, but there are 200"));
    assert!(bench(&sample("sift-10k.base.npy"), "10").contains("holds u8"));
}

#[test]
fn verify_finds_a_flipped_bit_and_exits_with_3() {
    let sift = Sift::build(&[]);
    let (base, dim) = vectors(&sample("sift-10k.base.npy"));
    let row: Vec<u8> = base[..dim].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut bytes = fs::read(sift.store()).unwrap();
    let at =
        bytes.windows(row.len()).position(|window| window == row).expect("row 0 lies in the file as it is");
    bytes[at + 100] ^= 1;
    fs::write(sift.store(), bytes).unwrap();
    let output = run(&["verify", &sift.store(), "sift"]);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{text}{errors}");
    assert!(errors.contains("vellum repair"), "{errors}");
    let output = run(&["verify", &sift.store(), "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["problems"].as_u64().unwrap() > 0);
}

#[cfg(unix)]
mod cancelling {
    use super::*;
    use std::process::Child;

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
        let args =
            ["build", &store, "more", "--spec", "IVF1000,Flat", "--metric", "l2", "--niter", "1000000000"];
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
}
