//! How it breaks: an answer that differs from the library's, a line or a flag that scripts relied on.

use super::*;

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
fn info_tells_how_many_vectors_are_distinct() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let data: Vec<f32> = (0..30).flat_map(|row| [(row % 3) as f32, 1.0]).collect();
    write_f32(&path("rows.npy"), &data, 2);
    ok(&["build", &path("s"), "x", "--spec", "FlatDedup", "--metric", "l2", "--data", &path("rows.npy")]);
    let text = ok(&["info", &path("s"), "x"]);
    assert!(text.contains("distinct      3 of them"), "{text}");
    let info = json(&["info", &path("s"), "x"]);
    assert_eq!((&info["indexes"][0]["rows"], &info["indexes"][0]["twins"]), (&30.into(), &27.into()));
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

/// The profile of a pass: what a query does is known exactly, and its stages take time.
#[test]
fn bench_with_a_profile_tells_what_a_query_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s").to_str().unwrap().to_string();
    let (data, queries, truth) =
        (sample("sift-10k.base.npy"), sample("sift-10k.query.npy"), sample("sift-10k.truth.npy"));
    ok(&["build", &store, "i", "--spec", "IVF16,Nibble2,RU8", "--metric", "l2", "--data", &data, "-q"]);
    let args =
        ["bench", &store, "i", "--queries", &queries, "--truth", &truth, "--nprobe", "16", "--rerank", "50"];
    for single in [&[][..], &["--single"]] {
        let line: Value =
            serde_json::from_str(&ok(&[&args[..], &["--profile", "--seconds", "0"], single].concat()))
                .unwrap();
        assert_eq!((line["lists"].as_f64(), line["entries"].as_f64()), (Some(16.0), Some(10_000.0)));
        assert_eq!(line["reranked"].as_f64(), Some(50.0));
        let stages = line["stages_us"].as_object().unwrap();
        assert!(
            ["prepare", "coarse", "tables", "scan", "rank"].iter().all(|stage| stages.contains_key(*stage))
        );
        assert!(stages["scan"].as_f64().unwrap() > 0.0 && stages["rank"].as_f64().unwrap() > 0.0);
    }
}

/// A build within less memory than the vectors take finds what any build finds, and one that cannot work says so.
#[test]
fn a_build_within_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s").to_str().unwrap().to_string();
    let (data, queries) = (sample("sift-10k.base.npy"), sample("sift-10k.query.npy"));
    let build = |index: &str, memory: &str| {
        let spec = ["--spec", "IVF16,Flat", "--metric", "l2", "--data", &data, "--memory", memory];
        [&["build", &store, index][..], &spec].concat().iter().map(|arg| arg.to_string()).collect::<Vec<_>>()
    };
    let refused = build("no", "30k");
    let message = fails(&refused.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    assert!(message.contains("32,768 bytes"), "{message}");
    let built = build("i", "1M");
    ok(&[&built.iter().map(String::as_str).collect::<Vec<_>>()[..], &["-q"]].concat());
    ok(&["build", &store, "all", "--spec", "IVF16,Flat", "--metric", "l2", "--data", &data, "-q"]);
    let found = |index: &str| {
        let out = folder.path().join(index).to_str().unwrap().to_string();
        ok(&[
            "search",
            &store,
            index,
            "--queries",
            &queries,
            "-k",
            "10",
            "--nprobe",
            "16",
            "--out-ids",
            &out,
            "-q",
        ]);
        fs::read(out).unwrap()
    };
    assert!(found("i") == found("all"));
}
