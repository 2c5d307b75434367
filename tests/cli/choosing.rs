//! How it breaks: an index that chooses by itself does not say what, or a wanted recall is searched with other settings than
//! were measured, or than are shown.

use super::*;

#[test]
fn info_tells_what_an_automatic_index_chose() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("s").to_str().unwrap().to_string();
    let base = sample("sift-10k.base.npy");
    let info = |index: &str| {
        let (text, object) = (ok(&["info", &store, index]), json(&["info", &store, index]));
        let object = object["indexes"][0].clone();
        if let Some(what) = object["auto"]["what"].as_str() {
            assert!(text.contains(&format!("automatic     {what}\n")), "{text}");
        }
        (text, object)
    };
    ok(&["create", &store, "auto", "--spec", "Auto", "--metric", "l2", "--dim", "128"]);
    ok(&["add", &store, "auto", "--data", &base]);
    let (_, few) = info("auto");
    // 42 lists of 1,024 rows.
    let brute =
        "brute force over 10000 vectors: lists pay from 43008 on; the add that reaches them makes 725";
    let expected = serde_json::json!({
        "what": brute, "expected": null, "lists": null, "next_rows": 43_008, "next_lists": 725,
        "by_itself": true, "due": false,
    });
    assert_eq!((&few["auto"], &few["trained"]), (&expected, &false.into()));

    // Trained at once, it has as many lists as it has rows for: 39 each.
    ok(&["train", &store, "auto"]);
    let (_, lists) = info("auto");
    assert_eq!((&lists["auto"]["lists"], &lists["lists"]), (&256.into(), &256.into()));
    assert!(lists["spec"].as_str().unwrap().starts_with("Auto(IVF256,"), "{lists}");
    let what = lists["auto"]["what"].as_str().unwrap();
    assert!(what.starts_with("256 lists for 10000 vectors: more pay from 43008 on"), "{what}");
    let reader = Store::open(&store).unwrap().begin_read().unwrap().index("auto").unwrap();
    assert_eq!(reader.auto().unwrap().to_string(), what);
    drop(reader);

    ok(&["create", &store, "many", "--spec", "Auto1000000", "--metric", "l2", "--dim", "128"]);
    let (_, many) = info("many");
    let facts = ["expected", "next_rows", "next_lists"].map(|fact| many["auto"][fact].as_u64());
    assert_eq!(facts, [Some(1_000_000), Some(136_500), Some(3_500)]);
    // Another index chose nothing.
    ok(&["create", &store, "plain", "--spec", "IVF4,Flat", "--metric", "l2", "--dim", "128"]);
    let (text, plain) = info("plain");
    assert!(plain["auto"].is_null() && !text.contains("automatic"), "{text}");
}

/// The lines that `bench` prints.
fn bench(store: &str, index: &str, more: &[&str]) -> Vec<Value> {
    let (queries, truth) = (sample("sift-10k.query.npy"), sample("sift-10k.truth.npy"));
    let args = ["bench", store, index, "--queries", &queries, "--truth", &truth, "--seconds", "0"];
    ok(&[&args[..], more].concat()).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_wanted_recall_is_searched_with_what_was_measured() {
    let sift = Sift::build(&[]);
    let (store, queries) = (sift.store(), sample("sift-10k.query.npy"));
    let (base, kept) = (sample("sift-10k.base.npy"), "IVF50,Nibble2,RU8");
    ok(&["build", &store, "kept", "--spec", kept, "--metric", "l2", "--data", &base]);
    let search = ["--queries", &queries, "-k", "10", "--out-ids"];
    let found = |index: &str, more: &[&str]| {
        let out = sift.path("wanted.npy");
        ok(&[&["search", &store, index], &search[..], &[&out], more].concat());
        numbers(&out)
    };
    for index in ["sift", "kept"] {
        let wanted = ["search", &store, index, "--queries", &queries, "--target-recall", "0.9"];
        // Training has measured already.
        ok(&wanted);
        let known = json(&["info", &store, index]);
        assert_eq!(known["indexes"][0]["calibration"]["source"], "training", "{known}");

        let measured = json(&["calibrate", &store, index, "-k", "1,10", "--most", "400"]);
        assert_eq!((&measured["index"], &measured["rows"]), (&index.into(), &10_000.into()));
        assert!((1..=400).contains(&measured["queries"].as_u64().unwrap()));
        let points = measured["settings"].as_array().unwrap();
        let of_ten: Vec<&Value> = points.iter().filter(|point| point["k"] == 10).collect();
        assert_eq!((points.len(), of_ten.len()), (8, 4));
        let nprobes: Vec<_> = of_ten.iter().map(|point| point["nprobe"].as_u64()).collect();
        assert!(nprobes.is_sorted() && nprobes[0] < nprobes[3], "{nprobes:?}");
        for point in of_ten.iter().filter(|point| point["nprobe"].is_u64()) {
            let (recall, nprobe) = (point["recall"].to_string(), point["nprobe"].to_string());
            let rerank = point["rerank"].to_string();
            assert_eq!(point["rerank"].is_u64(), index == "kept");
            let rerank: &[&str] = if index == "kept" { &["--rerank", &rerank] } else { &[] };
            let by_hand = [&["--nprobe", &nprobe], rerank].concat();
            assert_eq!(found(index, &["--target-recall", &recall]), found(index, &by_hand), "{index}");
            let (wanted, by_hand) =
                (bench(&store, index, &["--target-recall", &recall]), bench(&store, index, &by_hand));
            assert_eq!(wanted[0]["target_recall"], point["recall"]);
            for fact in ["nprobe", "rerank", "recall"] {
                assert_eq!(wanted[0][fact], by_hand[0][fact], "{index} {recall}");
            }
            // 200 queries that calibrating did not see.
            let (recall, reached) =
                (point["recall"].as_f64().unwrap(), wanted[0]["recall"].as_f64().unwrap());
            assert!(reached > recall - 0.03, "{index}: {reached}, wanted {recall}");
        }
        // Nobody asked about 100 neighbours.
        let beyond = [&wanted[..], &["-k", "100"]].concat();
        assert!(fails(&beyond, 1).contains("100"));
        // Measured again with queries of a file, in words.
        let text = ok(&["calibrate", &store, index, "-k", "5", "--queries", &queries]);
        assert!(text.contains("recall") && text.contains("measured with 200 queries"), "{text}");
        fails(&[&wanted[..], &["-k", "10"]].concat(), 1);
        ok(&[&wanted[..], &["-k", "5"]].concat());
        // Another training, other lists, measured again.
        ok(&["train", &store, index]);
        ok(&wanted);
    }
    // Searching everything needs no measuring.
    ok(&["build", &store, "all", "--spec", "Flat", "--metric", "l2", "--data", &base]);
    assert!(fails(&["calibrate", &store, "none"], 1).contains("none"));
}
