//! How it breaks: a mistake that is let through or half carried out, an exit code that scripts relied on, a message that
//! does not say what is wrong or advises what leads nowhere.

use super::*;

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
