//! Worry: wrong input that is half applied, or refused with an error that says something else. A batch
//! whose 900th row holds a NaN must not leave 899 rows behind, and a refusal must not spoil the
//! transaction it happened in.
//!
//! Noticed by giving every public verb every wrong input it can be given: the error must be the documented
//! one with the right values, the index must be in the same state to the bit (ids, vectors, lists, change
//! counter), and the same writer must go on to add and commit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use redb::ReadableDatabase;
use support::*;
use vellum::*;

const DIM: usize = 3;

/// Asserts that a result is an error of a pattern, and shows what it was instead.
macro_rules! refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

/// Runs `wrong` on a lived-in index, between two looks at its state; then proves that the writer still
/// works.
fn nothing_changes(spec_text: &str, metric: Metric, wrong: impl Fn(&mut IndexWriter<'_>)) {
    let data = reals(60, DIM, 51);
    let store = memory();
    create(&store, "i", &spec(spec_text, DIM, metric));
    change(&store, "i", |writer| live_in(writer, rows(&data, DIM)));
    let before = state(&reader(&store, "i"));
    change(&store, "i", |writer| {
        wrong(writer);
        assert!(!writer.is_poisoned());
        assert_eq!(state(&writer.reader()), before, "within the transaction");
    });
    assert_eq!(state(&reader(&store, "i")), before, "after the commit");
    assert_sound(&store, "i");
    change(&store, "i", |writer| {
        wrong(writer);
        let ids = writer.add(rows(&data, DIM).slice(0..1)).unwrap();
        wrong(writer);
        assert!(writer.reader().contains(ids.start).unwrap());
    });
    assert_eq!(reader(&store, "i").len(), before.len() + 1);
    assert_sound(&store, "i");
}

/// Every verb that takes vectors, by ids that are right for it.
fn each_verb_with_rows(
    writer: &mut IndexWriter<'_>,
    data: Rows<'_>,
    check: &mut dyn FnMut(&str, Result<()>),
) {
    let n = data.len();
    let fresh: Vec<u64> = (0..n as u64).map(|i| 900_000 + i).collect();
    let known: Vec<u64> = writer.reader().ids().unwrap().into_iter().take(n).collect();
    check("add", writer.add(data).map(drop));
    check("add_with_ids", writer.add_with_ids(&fresh, data));
    check("upsert", writer.upsert(&fresh, data).map(drop));
    check("upsert of known", writer.upsert(&known, data).map(drop));
    check("update_vectors", writer.update_vectors(&known, data));
    let params = TrainParams::default();
    check("train", writer.train(data, &params, &mut Observer::none()).map(drop));
    let lax =
        TrainParams { clustering: ClusteringParams { check_finite: false, ..Default::default() }, ..params };
    // What the open door then lets in is the worry of tests/clustering.rs.
    if data.as_slice().iter().all(|v| v.abs() < 1e18) {
        check("train, unchecked", writer.train(data, &lax, &mut Observer::none()).map(drop));
    }
    each_search(&writer.reader(), data, check);
}

/// Every verb that takes queries.
fn each_search(reader: &IndexReader<'_>, queries: Rows<'_>, check: &mut dyn FnMut(&str, Result<()>)) {
    let params = everywhere();
    check("search_batch", reader.search_batch(queries, 3, &params).map(drop));
    check("range_search_batch", reader.range_search_batch(queries, 3.0, &params).map(drop));
}

#[test]
fn ragged_data_is_no_rows() {
    refused!(Rows::new(&[1.0; 7], 3), Error::Shape { len: 7, dim: 3 });
    refused!(Rows::new(&[1.0; 7], 0), Error::Shape { len: 7, dim: 0 });
    refused!(Rows::one(&[]), Error::Shape { len: 0, dim: 0 });
}

#[test]
fn wrong_dimension() {
    let data = reals(12, 12, 52);
    for dim in [1, 2, 4, 6, 12] {
        nothing_changes("IVF4,Flat", Metric::L2, |writer| {
            for n in [0, 1, 5] {
                each_verb_with_rows(writer, rows(&data, dim).slice(0..n), &mut |verb, result| match result {
                    Err(Error::Dimension { expected: DIM, got }) if got == dim => {}
                    other => panic!("{verb}: {other:?}"),
                });
            }
            let reader = writer.reader();
            refused!(reader.search(&data[..dim], 3, &everywhere()), Error::Dimension { expected: DIM, got } if got == dim);
            refused!(
                reader.range_search(&data[..dim], 3.0, &everywhere()),
                Error::Dimension { expected: DIM, .. }
            );
            let mut heap = TopK::new(3);
            refused!(
                reader.search_into(&data[..dim], &mut heap, &everywhere()),
                Error::Dimension { expected: DIM, .. }
            );
            assert!(heap.neighbors().is_empty());
            refused!(reader.search(&[], 3, &everywhere()), Error::Dimension { expected: DIM, got: 0 });
        });
    }
}

#[test]
fn nan_and_infinity_at_every_place() {
    let good = reals(9, DIM, 53);
    for metric in METRICS {
        nothing_changes("IVF4,SQbf16,RFlat", metric, |writer| {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in 0..good.len() {
                    let mut bad = good.clone();
                    bad[at] = value;
                    // A later one too: the first is named.
                    if let Some(last) = bad[at + 1..].last_mut() {
                        *last = f32::INFINITY;
                    }
                    let same = |v: f32| v.to_bits() == value.to_bits();
                    each_verb_with_rows(writer, rows(&bad, DIM), &mut |verb, result| match result {
                        Err(Error::NotFinite { row, component, value })
                            if (row, component) == (at / DIM, at % DIM) && same(value) => {}
                        other => panic!("{verb}, component {at}: {other:?}"),
                    });
                }
                let query = [0.5, value, 0.5];
                let reader = writer.reader();
                refused!(
                    reader.search(&query, 3, &everywhere()),
                    Error::NotFinite { row: 0, component: 1, .. }
                );
                refused!(
                    reader.range_search(&query, 1.0, &everywhere()),
                    Error::NotFinite { row: 0, component: 1, .. }
                );
                let mut heap = TopK::new(3);
                refused!(reader.search_into(&query, &mut heap, &everywhere()), Error::NotFinite { .. });
            }
        });
    }
}

#[test]
fn a_zero_vector_has_no_cosine() {
    let mut data = reals(6, DIM, 54);
    data[4 * DIM..5 * DIM].copy_from_slice(&[0.0, -0.0, 0.0]);
    nothing_changes("IVF4,SQfp16,RF16", Metric::Cosine, |writer| {
        each_verb_with_rows(writer, rows(&data, DIM), &mut |verb, result| match result {
            Err(Error::ZeroVector { row: 4 }) => {}
            other => panic!("{verb}: {other:?}"),
        });
        refused!(writer.reader().search(&[0.0; DIM], 3, &everywhere()), Error::ZeroVector { row: 0 });
        refused!(writer.reader().range_search(&[0.0; DIM], 0.5, &everywhere()), Error::ZeroVector { row: 0 });
        let mut heap = TopK::new(3);
        refused!(
            writer.reader().search_into(&[-0.0; DIM], &mut heap, &everywhere()),
            Error::ZeroVector { row: 0 }
        );
    });
    // Elsewhere it is a vector like any other; and the smallest and the largest have a direction.
    for (metric, vector) in [
        (Metric::L2, [0.0; DIM]),
        (Metric::InnerProduct, [0.0; DIM]),
        (Metric::Cosine, [f32::from_bits(1), 0.0, 0.0]),
        (Metric::Cosine, [f32::MAX, -f32::MAX, f32::MAX]),
    ] {
        let store = memory();
        create(&store, "i", &spec("Flat", DIM, metric));
        change(&store, "i", |writer| writer.add(rows(&vector, DIM)).unwrap());
        let found = reader(&store, "i").search(&vector, 1, &everywhere()).unwrap();
        assert_eq!(found[0].id, 0);
        if metric == Metric::Cosine {
            assert!((found[0].distance - 1.0).abs() < 1e-6, "{found:?}");
        }
    }
}

/// Found here: a product that overflowed to NaN was compared with nothing, and its vector missing from the answer of a
/// search for all of them. Such vectors are refused, and so are such queries; up to the limit nobody is lost.
#[test]
fn a_vector_too_long_for_its_distances() {
    let mut data = reals(6, DIM, 56);
    for long in [[6.6e18, 0.0, 0.0], [5e18, -5e18, 1.0], [1e20, 1e38, -1e38], [f32::MAX; DIM]] {
        data[3 * DIM..4 * DIM].copy_from_slice(&long);
        let length = long.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        for metric in [Metric::L2, Metric::InnerProduct] {
            nothing_changes("IVF4,Flat", metric, |writer| {
                each_verb_with_rows(writer, rows(&data, DIM), &mut |verb, result| match result {
                    Err(Error::TooLong { row: 3, norm }) if norm == length => {}
                    other => panic!("{verb}: {other:?}"),
                });
                refused!(writer.reader().search(&long, 3, &everywhere()), Error::TooLong { row: 0, .. });
            });
        }
    }
    for metric in METRICS {
        let longest = |signs: [f32; DIM]| signs.map(|sign| sign * (NORM_MAX / 3f32.sqrt()).next_down());
        let data = [longest([1.0, 1.0, 1.0]), longest([-1.0; DIM]), longest([1.0, -1.0, 1.0])].concat();
        for text in ["Flat", "SQbf16", "IVF2,SQbf16,RFlat"] {
            let store = memory();
            create(&store, "i", &spec(text, DIM, metric));
            change(&store, "i", |writer| {
                if writer.spec().nlist().is_some() {
                    train(writer, rows(&data, DIM));
                }
                writer.add(rows(&data, DIM)).unwrap()
            });
            for (id, query) in rows(&data, DIM).iter().enumerate() {
                let found = reader(&store, "i").search(query, 3, &everywhere().max_codes(0)).unwrap();
                assert_eq!((found.len(), found[0].id), (3, id as u64), "{text} {metric}");
                assert!(found.iter().all(|n| n.distance.is_finite()), "{text} {metric}: {found:?}");
                let radius = if metric == Metric::L2 { f32::MAX } else { f32::MIN };
                let all = reader(&store, "i").range_search(query, radius, &everywhere()).unwrap();
                assert_eq!(bits(&all), bits(&found));
            }
        }
    }
}

#[test]
fn what_half_precision_cannot_hold() {
    // 65,504 is the largest f16; 65,520 is the first that rounds to infinity.
    for text in ["IVF4,SQfp16", "IVF4,Flat,RF16", "IVF4,SQbf16,RF16"] {
        for value in [65_520.0, -65_520.0, 1e6, 1e18] {
            let mut data = reals(5, DIM, 55);
            data[2 * DIM + 1] = value;
            nothing_changes(text, Metric::L2, |writer| {
                let n = 5;
                let fresh: Vec<u64> = (0..n).map(|i| 900_000 + i).collect();
                let known: Vec<u64> = writer.reader().ids().unwrap().into_iter().take(5).collect();
                let data = rows(&data, DIM);
                for result in [
                    writer.add(data).map(drop),
                    writer.add_with_ids(&fresh, data),
                    writer.upsert(&known, data).map(drop),
                    writer.update_vectors(&known, data),
                ] {
                    refused!(result, Error::OutOfRange { row: 2, component: 1, value: v, element: "f16" } if v == value);
                }
            });
        }
    }
    // Whatever is too large for a bf16 is too long for any code. The largest f16 that rounds down is held, and a query
    // has nothing to fit into.
    let store = memory();
    create(&store, "i", &spec("SQfp16", DIM, Metric::L2));
    change(&store, "i", |writer| writer.add(rows(&[65_519.0, -65_504.0, 0.0], DIM)).unwrap());
    assert_eq!(reader(&store, "i").reconstruct(0).unwrap(), [65_504.0, -65_504.0, 0.0]);
    assert_eq!(reader(&store, "i").search(&[1e6, 1e6, 1e6], 1, &everywhere()).unwrap()[0].id, 0);
    assert_sound(&store, "i");
}

#[test]
fn ids_twice_there_already_or_unknown() {
    let data = reals(3, DIM, 56);
    nothing_changes("IVF4,Flat", Metric::L2, |writer| {
        let data = rows(&data, DIM);
        let ids = writer.reader().ids().unwrap();
        let (known, other) = (ids[5], ids[6]);
        // Twice in one batch.
        refused!(writer.add_with_ids(&[900_001, 7, 900_001], data), Error::DuplicateId { id: 900_001 });
        refused!(writer.upsert(&[known, 900_001, known], data), Error::DuplicateId { id } if id == known);
        refused!(writer.update_vectors(&[other, known, other], data), Error::DuplicateId { id } if id == other);
        // There already.
        refused!(writer.add_with_ids(&[900_001, known, 900_002], data), Error::DuplicateId { id } if id == known);
        // 2^64 - 1 stands for "no id".
        refused!(writer.add_with_ids(&[1, u64::MAX, 2], data), Error::InvalidId { .. });
        refused!(writer.upsert(&[known, 2, u64::MAX], data), Error::InvalidId { .. });
        refused!(writer.update_vectors(&[u64::MAX, known, other], data), Error::InvalidId { .. });
        // Not there: none is updated.
        refused!(writer.update_vectors(&[known, 900_003, other], data), Error::UnknownId { id: 900_003 });
        // One more or one less than rows.
        for ids in [&[known, other][..], &[1, 2, 3, 4], &[]] {
            let length =
                |e| matches!(e, Err(Error::Length { what: "ids", expected: 3, got }) if got == ids.len());
            assert!(length(writer.add_with_ids(ids, data)));
            assert!(length(writer.upsert(ids, data).map(drop)));
            assert!(length(writer.update_vectors(ids, data)));
        }
        let reader = writer.reader();
        refused!(reader.reconstruct(900_003), Error::UnknownId { id: 900_003 });
        refused!(reader.reconstruct(u64::MAX), Error::UnknownId { id: u64::MAX });
        refused!(reader.reconstruct_batch(&[known, other, 900_003]), Error::UnknownId { id: 900_003 });
        assert!(!reader.contains(900_003).unwrap() && !reader.contains(u64::MAX).unwrap());
        // To remove what is not there is no error, and no change.
        drop(reader);
        let nobody = IdSelector::Array(vec![900_003, u64::MAX]);
        assert_eq!(writer.remove_ids(&nobody).unwrap(), 0);
    });
}

#[test]
fn parameters_of_a_search() {
    let query = [0.1, 0.2, 0.3];
    nothing_changes("IVF4,Flat", Metric::L2, |writer| {
        let reader = writer.reader();
        let mut heap = TopK::new(0);
        for result in [
            reader.search(&query, 0, &everywhere()).map(drop),
            reader.search_batch(rows(&query, DIM), 0, &everywhere()).map(drop),
            reader.search_batch(rows(&[], DIM), 0, &everywhere()).map(drop),
            reader.search_into(&query, &mut heap, &everywhere()),
        ] {
            refused!(result, Error::Parameter { name: "k", .. });
        }
        let mut heap = TopK::new(3);
        for result in [
            reader.search(&query, 3, &nprobe(0)).map(drop),
            reader.search_batch(rows(&query, DIM), 3, &nprobe(0)).map(drop),
            reader.search_into(&query, &mut heap, &nprobe(0)),
            reader.range_search(&query, 3.0, &nprobe(0)).map(drop),
        ] {
            refused!(result, Error::Parameter { name: "nprobe", .. });
        }
        // Nothing is kept to rerank with.
        for result in [
            reader.search(&query, 3, &everywhere().rerank(10)).map(drop),
            reader.range_search(&query, 3.0, &everywhere().rerank(10)).map(drop),
            writer.reader().search_into(&query, &mut heap, &everywhere().rerank(10)),
            reader.search(&query, 3, &everywhere().rerank(Rerank::Bound(3.0))).map(drop),
            reader.range_search(&query, 3.0, &everywhere().rerank(Rerank::Bound(3.0))).map(drop),
            writer.reader().search_into(&query, &mut heap, &everywhere().rerank(Rerank::Bound(3.0))),
        ] {
            refused!(result, Error::Parameter { name: "rerank", .. });
        }
        // As large as they come is no mistake.
        let all = reader.search(&query, usize::MAX, &everywhere().max_codes(usize::MAX)).unwrap();
        assert_eq!(all.len() as u64, reader.len());
    });
    nothing_changes("IVF4,SQfp16,RFlat", Metric::L2, |writer| {
        let reader = writer.reader();
        refused!(reader.search(&query, 3, &everywhere().rerank(2)), Error::Parameter { name: "rerank", .. });
        refused!(reader.search(&query, 3, &everywhere().rerank(0)), Error::Parameter { name: "rerank", .. });
        assert_eq!(reader.search(&query, 3, &everywhere().rerank(3)).unwrap().len(), 3);
        for z in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e-9] {
            let params = everywhere().rerank(Rerank::Bound(z));
            for result in [
                reader.search(&query, 3, &params).map(drop),
                reader.range_search(&query, 3.0, &params).map(drop),
                reader.search_into(&query, &mut TopK::new(3), &params),
            ] {
                refused!(result, Error::Parameter { name: "rerank", .. });
            }
        }
        for rerank in [usize::MAX.into(), Rerank::Bound(0.0), Rerank::Bound(-0.0), Rerank::Bound(f32::MAX)] {
            let all = reader.search(&query, usize::MAX, &everywhere().rerank(rerank)).unwrap();
            assert_eq!(all.len() as u64, reader.len());
        }
    });
}

#[test]
fn defaults_that_cannot_be_stored() {
    nothing_changes("IVF4,Flat", Metric::L2, |writer| {
        let (too_large, selector) = (1 << 32, IdSelector::All);
        refused!(writer.set_search_defaults(&nprobe(0)), Error::Parameter { name: "nprobe", .. });
        refused!(writer.set_search_defaults(&nprobe(too_large)), Error::Parameter { name: "nprobe", .. });
        refused!(
            writer.set_search_defaults(&SearchParams::new().selector(selector)),
            Error::Parameter { name: "selector", .. }
        );
        refused!(
            writer.set_search_defaults(&SearchParams::new().rerank(10)),
            Error::Parameter { name: "rerank", .. }
        );
        refused!(
            writer.set_search_defaults(&SearchParams::new().rerank(Rerank::Bound(3.0))),
            Error::Parameter { name: "rerank", .. }
        );
    });
    nothing_changes("IVF4,Flat,RFlat", Metric::L2, |writer| {
        let bounds = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e-9].map(Rerank::Bound);
        for rerank in [0.into(), (1usize << 32).into()].into_iter().chain(bounds) {
            refused!(
                writer.set_search_defaults(&SearchParams::new().rerank(rerank)),
                Error::Parameter { name: "rerank", .. }
            );
        }
    });
}

#[test]
fn training_that_cannot_be() {
    let data = reals(30, DIM, 57);
    let clustering = |change: &dyn Fn(&mut ClusteringParams)| {
        let mut params = TrainParams::default();
        change(&mut params.clustering);
        params
    };
    nothing_changes("IVF4,Flat", Metric::L2, |writer| {
        let mut train = |n: usize, params: &TrainParams| {
            writer.train(rows(&data, DIM).slice(0..n), params, &mut Observer::none()).map(drop)
        };
        for n in 0..4 {
            refused!(train(n, &TrainParams::default()), Error::TooFewRows { rows, needed: 4 } if rows == n);
        }
        let few = TrainParams { sample_rows: Some(3), ..Default::default() };
        refused!(train(30, &few), Error::TooFewRows { rows: 3, needed: 4 });
        for (name, params) in [
            ("nredo", clustering(&|c| c.nredo = 0)),
            ("max_points_per_centroid", clustering(&|c| c.max_points_per_centroid = 0)),
            ("early_stop_threshold", clustering(&|c| c.early_stop_threshold = -0.1)),
            ("early_stop_threshold", clustering(&|c| c.early_stop_threshold = f64::NAN)),
            ("afkmc2_chain_length", clustering(&|c| (c.init, c.afkmc2_chain_length) = (Init::AfkMc2, 0))),
        ] {
            refused!(train(30, &params), Error::Parameter { name: n, .. } if n == name);
        }
        let many = clustering(&|c| c.max_points_per_centroid = 0);
        refused!(
            writer.train_stored(&many, &mut Observer::none()),
            Error::Parameter { .. } | Error::TooFewRows { .. }
        );
    });
    let store = memory();
    create(&store, "new", &spec("IVF4,Flat", DIM, Metric::L2));
    change(&store, "new", |writer| {
        let nothing_stored = writer.train_stored(&TrainParams::default(), &mut Observer::none());
        refused!(nothing_stored, Error::TooFewRows { rows: 0, needed: 4 });
        writer.add(rows(&data, DIM).slice(0..3)).unwrap();
        let three = writer.train_stored(&TrainParams::default(), &mut Observer::none());
        refused!(three, Error::TooFewRows { rows: 3, needed: 4 });
        assert!(!writer.reader().is_trained());
    });
    // A flat index has no lists to train.
    nothing_changes("SQfp16", Metric::L2, |writer| {
        let flat = writer.train(rows(&data, DIM), &TrainParams::default(), &mut Observer::none());
        refused!(flat, Error::Spec { text, .. } if text == "SQfp16");
        let flat = writer.train_stored(&TrainParams::default(), &mut Observer::none());
        refused!(flat, Error::Spec { text, .. } if text == "SQfp16");
    });
}

#[test]
fn specifications_that_do_not_fit() {
    let store = memory();
    let txn = store.begin_write().unwrap();
    for (bad, says) in [
        (IndexSpec::flat(0, Metric::L2), "dimension 0"),
        ("IVF16,Flat".parse().unwrap(), "dimension 0"),
        (IndexSpec::flat(DIM_MAX + 1, Metric::L2), "dimension 65516"),
        (IndexSpec::flat(usize::MAX, Metric::L2), "dimension"),
        (IndexSpec::ivf(8, Metric::L2, 0), "0 lists"),
        (IndexSpec::ivf(8, Metric::L2, NLIST_MAX + 1), "16777217 lists"),
        (IndexSpec::ivf(8, Metric::L2, usize::MAX), "lists"),
        (IndexSpec::flat(8, Metric::L2).with_block_order(7), "block order 7"),
        (IndexSpec::flat(8, Metric::L2).with_block_order(255), "block order 255"),
        ("IVF16,PQ3".parse::<IndexSpec>().unwrap().with_dim(8), "8"),
        ("IVF16,PQ3x4fs".parse::<IndexSpec>().unwrap().with_dim(8), "3 equal parts"),
        ("IVF16,PRQ3x2x8".parse::<IndexSpec>().unwrap().with_dim(8), "3 parts"),
        ("PQ4".parse::<IndexSpec>().unwrap().with_dim(8), "takes lists"),
        ("PCA4,IVF16,PQ8".parse::<IndexSpec>().unwrap().with_dim(8), "4"),
        ("IVF16,SH".parse::<IndexSpec>().unwrap().with_dim(8).with_metric(Metric::Cosine), "take l2"),
        ("IVF16,SQ8_direct".parse::<IndexSpec>().unwrap().with_dim(8).with_metric(Metric::Cosine), "cosine"),
    ] {
        refused!(txn.create_index("i", &bad), Error::Spec { what, .. } if what.contains(says));
    }
    for text in
        ["", "flat", "IVF,Flat", "IVF0,Flat", "IVF-1,Flat", "IVF16", "IVF16,PQ", "IVF16,Flat,RFlat,Flat"]
    {
        refused!(text.parse::<IndexSpec>(), Error::Spec { text: t, .. } if t == text);
    }
    refused!("euclid".parse::<Metric>(), Error::Spec { .. });
    assert_eq!(txn.indexes().unwrap(), Vec::<String>::new());
    // The largest of everything fits.
    txn.create_index("large", &IndexSpec::ivf(DIM_MAX / 2, Metric::L2, NLIST_MAX)).unwrap();
    txn.commit().unwrap();
}

#[test]
fn names_that_are_none_and_indexes_that_are_not() {
    let store = memory();
    let flat = IndexSpec::flat(DIM, Metric::L2);
    create(&store, "here", &flat);
    let txn = store.begin_write().unwrap();
    let long = "x".repeat(129);
    for bad in ["", "a/b", "/", "tab\there", "nul\0", "line\n", "vellum", &long] {
        refused!(txn.create_index(bad, &flat), Error::IndexName { name } if name == bad);
        refused!(txn.rename_index("here", bad), Error::IndexName { name } if name == bad);
        refused!(txn.index(bad), Error::UnknownIndex { name } if name == bad);
    }
    for good in ["x", &long[..128], "Straße 9 – β", "a.b:c d"] {
        txn.create_index(good, &flat).unwrap();
        txn.drop_index(good).unwrap();
    }
    refused!(txn.create_index("here", &flat), Error::IndexExists { name } if name == "here");
    refused!(txn.rename_index("here", "here"), Error::IndexExists { name } if name == "here");
    refused!(txn.rename_index("gone", "new"), Error::UnknownIndex { name } if name == "gone");
    refused!(txn.drop_index("gone"), Error::UnknownIndex { name } if name == "gone");
    refused!(txn.index("gone"), Error::UnknownIndex { name } if name == "gone");
    refused!(txn.damaged_index("gone"), Error::UnknownIndex { name } if name == "gone");
    assert_eq!(txn.indexes().unwrap(), ["here"]);
    txn.commit().unwrap();
    let read = store.begin_read().unwrap();
    assert_eq!(read.indexes().unwrap(), ["here"]);
    for bad in ["gone", "", "a/b", "vellum", "here/meta"] {
        refused!(read.index(bad), Error::UnknownIndex { name } if name == bad);
        refused!(read.verify(bad, &mut Observer::none()), Error::UnknownIndex { name } if name == bad);
        refused!(store.bulk_load(bad), Error::UnknownIndex { name } if name == bad);
        refused!(store.discard_load(bad), Error::UnknownIndex { name } if name == bad);
    }
    assert_sound(&store, "here");
}

#[test]
fn keys_where_there_are_integers_and_the_other_way_round() {
    let data = reals(2, DIM, 58);
    nothing_changes("IVF4,Flat", Metric::L2, |writer| {
        let data = rows(&data, DIM);
        refused!(writer.add_with_keys(&["a", "b"], data), Error::IdKind { .. });
        refused!(writer.upsert_with_keys(&["a", "b"], data), Error::IdKind { .. });
        refused!(writer.update_with_keys(&["a", "b"], data), Error::IdKind { .. });
        refused!(writer.remove_keys(&["a", "b"]), Error::IdKind { .. });
        assert_eq!(writer.reader().id_of_key(b"a").unwrap(), None);
        let id = writer.reader().ids().unwrap()[0];
        assert_eq!(writer.reader().key(id).unwrap(), None);
    });
    let store = memory();
    create(&store, "i", &spec("IVF4,Flat", DIM, Metric::L2).with_keys(true));
    change(&store, "i", |writer| writer.add_with_keys(&["a", "b"], rows(&data, DIM)).unwrap());
    let before = state(&reader(&store, "i"));
    change(&store, "i", |writer| {
        let data = rows(&data, DIM);
        refused!(writer.add(data), Error::IdKind { .. });
        refused!(writer.add_with_ids(&[7, 8], data), Error::IdKind { .. });
        refused!(writer.upsert(&[7, 8], data), Error::IdKind { .. });
    });
    refused!(store.bulk_load("i"), Error::IdKind { .. });
    assert_eq!(state(&reader(&store, "i")), before);
    assert_sound(&store, "i");
}

#[test]
fn keys_that_cannot_be() {
    let data = reals(3, DIM, 59);
    let store = memory();
    create(&store, "i", &spec("IVF2,Flat", DIM, Metric::L2).with_keys(true));
    change(&store, "i", |writer| writer.add_with_keys(&["a", "b", "c"], rows(&data, DIM)).unwrap());
    let before = state(&reader(&store, "i"));
    let keys = |store: &Store| -> Vec<Option<Vec<u8>>> {
        (0..3).map(|id| reader(store, "i").key(id).unwrap()).collect()
    };
    let keys_before = keys(&store);
    change(&store, "i", |writer| {
        let (long, longest) = (vec![b'k'; 1025], vec![b'k'; 1024]);
        let three = rows(&data, DIM);
        for bad in [&b""[..], &long] {
            let batch = [&b"x"[..], bad, b"y"];
            refused!(writer.add_with_keys(&batch, three), Error::InvalidId { .. });
            refused!(writer.upsert_with_keys(&batch, three), Error::InvalidId { .. });
            refused!(writer.update_with_keys(&batch, three), Error::InvalidId { .. });
            assert_eq!(writer.remove_keys(&[bad]).unwrap(), 0);
            assert_eq!(writer.reader().id_of_key(bad).unwrap(), None);
        }
        refused!(writer.add_with_keys(&["x", "y", "x"], three), Error::DuplicateKey { key } if key == b"x");
        refused!(writer.upsert_with_keys(&["a", "y", "a"], three), Error::DuplicateKey { key } if key == b"a");
        refused!(writer.update_with_keys(&["b", "a", "b"], three), Error::DuplicateKey { key } if key == b"b");
        refused!(writer.add_with_keys(&["x", "b", "y"], three), Error::DuplicateKey { key } if key == b"b");
        refused!(writer.update_with_keys(&["a", "x", "b"], three), Error::UnknownKey { key } if key == b"x");
        for batch in [&["x", "y"][..], &["x", "y", "z", "w"], &[]] {
            let length =
                |e| matches!(e, Err(Error::Length { what: "keys", expected: 3, got }) if got == batch.len());
            assert!(length(writer.add_with_keys(batch, three).map(drop)));
            assert!(length(writer.upsert_with_keys(batch, three).map(drop)));
            assert!(length(writer.update_with_keys(batch, three)));
        }
        let wrong = reals(3, DIM + 1, 60);
        let wrong = rows(&wrong, DIM + 1);
        refused!(writer.add_with_keys(&["x", "y", "z"], wrong), Error::Dimension { expected: DIM, got: 4 });
        refused!(
            writer.upsert_with_keys(&["a", "y", "z"], wrong),
            Error::Dimension { expected: DIM, got: 4 }
        );
        refused!(
            writer.update_with_keys(&["a", "b", "c"], wrong),
            Error::Dimension { expected: DIM, got: 4 }
        );
        assert_eq!(state(&writer.reader()), before);
        // The longest key fits, and goes again.
        writer.add_with_keys(&[&longest[..]], three.slice(0..1)).unwrap();
        assert_eq!(writer.remove_keys(&[&longest[..]]).unwrap(), 1);
    });
    assert_eq!(keys(&store), keys_before);
    assert_eq!(reader(&store, "i").ids().unwrap(), [0, 1, 2]);
    assert_sound(&store, "i");
}

#[test]
fn two_writers_of_one_index_in_one_transaction() {
    let data = reals(2, DIM, 61);
    let store = memory();
    create(&store, "a", &spec("IVF2,Flat", DIM, Metric::L2));
    create(&store, "b", &spec("Flat", DIM, Metric::L2));
    let txn = store.begin_write().unwrap();
    let mut first = txn.index("a").unwrap();
    first.add(rows(&data, DIM)).unwrap();
    refused!(txn.index("a"), Error::InUse { .. });
    refused!(txn.damaged_index("a"), Error::InUse { .. });
    // Neither can the index go, or its name, while somebody writes to it; and trying changes nothing.
    refused!(txn.drop_index("a"), Error::InUse { .. });
    refused!(txn.rename_index("a", "c"), Error::InUse { .. });
    assert_eq!(txn.indexes().unwrap(), ["a", "b"]);
    let mut other = txn.index("b").unwrap();
    other.add(rows(&data, DIM)).unwrap();
    first.add(rows(&data, DIM)).unwrap();
    drop((first, other));
    // One after the other is fine, and the second sees what the first did.
    assert_eq!(txn.index("a").unwrap().len(), 4);
    txn.commit().unwrap();
    assert_eq!(store.begin_read().unwrap().indexes().unwrap(), ["a", "b"]);
    assert_eq!((reader(&store, "a").len(), reader(&store, "b").len()), (4, 2));
    assert_sound(&store, "a");
    assert_sound(&store, "b");
}

#[test]
fn bulk_loads_where_they_cannot_be() {
    let data = reals(20, DIM, 62);
    let store = memory();
    create(&store, "full", &spec("IVF2,Flat", DIM, Metric::L2));
    change(&store, "full", |writer| writer.add(rows(&data, DIM)).unwrap());
    let before = state(&reader(&store, "full"));
    refused!(store.bulk_load("full"), Error::Parameter { name: "bulk_load", .. });
    refused!(store.discard_load("full"), Error::Parameter { name: "discard_load", .. });
    assert_eq!(state(&reader(&store, "full")), before);

    // While a load is unfinished, readers and writers are refused and told how far it came.
    create(&store, "new", &spec("IVF2,Flat", DIM, Metric::L2));
    refused!(store.discard_load("new"), Error::Parameter { name: "discard_load", .. });
    let load = store.bulk_load("new").unwrap();
    refused!(store.begin_read().unwrap().index("new"), Error::Unfinished { index, rows: 0 } if index == "new");
    let txn = store.begin_write().unwrap();
    refused!(txn.index("new"), Error::Unfinished { index, rows: 0 } if index == "new");
    drop(txn);
    drop(load);
    assert_eq!(store.discard_load("new").unwrap(), 0);
    refused!(store.discard_load("new"), Error::Parameter { name: "discard_load", .. });
    assert!(reader(&store, "new").is_empty());
    assert_sound(&store, "new");
}

/// What is wrong in a load's input leaves the load as it was.
#[test]
fn wrong_rows_in_a_bulk_load() {
    let data = reals(4, DIM, 63);
    let good = rows(&data, DIM);
    let store = in_memory(Store::builder().load_bytes(1));
    create(&store, "i", &spec("IVF2,SQfp16", DIM, Metric::Cosine));
    let mut load = store.bulk_load("i").unwrap();
    load.add_with_ids(&[10, 30, 20, 40], good).unwrap();
    for _ in 0..2 {
        let two_wide = reals(4, 2, 64);
        refused!(load.add(rows(&two_wide, 2)), Error::Dimension { expected: DIM, got: 2 });
        // Rows are counted from the beginning of the load: four are in it.
        refused!(load.add(rows(&[1.0, f32::NAN, 1.0], DIM)), Error::NotFinite { row: 4, component: 1, .. });
        refused!(load.add(rows(&[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], DIM)), Error::ZeroVector { row: 5 });
        refused!(load.add_with_ids(&[1, 2, 3], good), Error::Length { what: "ids", expected: 4, got: 3 });
        refused!(load.add_with_ids(&[1, 2, u64::MAX, 4], good), Error::InvalidId { .. });
        refused!(load.add_with_ids(&[1, 2, 1, 4], good), Error::DuplicateId { id: 1 });
        refused!(load.add_with_ids(&[1, 2, 30, 4], good), Error::DuplicateId { id: 30 });
    }
    // What was refused with its batch may come in a better one.
    load.add_with_ids(&[1, 2, 3, 4], good).unwrap();
    // Interrupted and gone on with, it is the same load and the same count.
    drop(load);
    let mut load = store.bulk_load("i").unwrap();
    refused!(load.add(rows(&[0.0; 3], DIM)), Error::ZeroVector { row: 8 });
    assert_eq!(load.add(good).unwrap(), 41..45);
    load.finish().unwrap();
    assert_eq!(reader(&store, "i").ids().unwrap(), [1, 2, 3, 4, 10, 20, 30, 40, 41, 42, 43, 44]);
    assert_sound(&store, "i");
}

#[test]
fn a_file_that_is_there_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    refused!(Store::open(&path), Error::NotFound { path: p } if p == path);
    assert!(!path.exists(), "a refused opening makes no file");
    let store = Store::create(&path).unwrap();
    refused!(Store::create(&path), Error::Exists { path: p } if p == path);
    refused!(Store::open(&path), Error::Locked);
    refused!(Store::builder().open_or_create(&path), Error::Locked);
    drop(store);
    refused!(Store::create(&path), Error::Exists { .. });
    refused!(Store::create(folder.path().join("no/folder/here")), Error::Io(_));
    refused!(Store::open(folder.path()), Error::Foreign { .. });
    assert!(Store::builder().open_or_create(&path).is_ok());
    // A redb file that is nobody's store.
    let foreign = folder.path().join("other.redb");
    redb::Database::create(&foreign).unwrap().begin_read().unwrap();
    refused!(Store::open(&foreign), Error::Foreign { .. });
}

/// Nothing is no mistake: every verb takes an empty batch and leaves the index as it is.
#[test]
fn empty_batches() {
    let (data, none) = (reals(30, DIM, 67), rows(&[], DIM));
    let no_keys: [&str; 0] = [];
    let store = memory();
    create(&store, "i", &spec("IVF2,SQfp16,RFlat", DIM, Metric::Cosine));
    create(&store, "k", &spec("IVF2,Flat", DIM, Metric::L2).with_keys(true));
    change(&store, "i", |writer| live_in(writer, rows(&data, DIM)));
    let before = reader(&store, "i");
    change(&store, "i", |writer| {
        let next = writer.add(none).unwrap();
        assert!(next.is_empty());
        writer.add_with_ids(&[], none).unwrap();
        assert_eq!(writer.upsert(&[], none).unwrap(), 0);
        writer.update_vectors(&[], none).unwrap();
        assert_eq!(writer.remove_ids(&IdSelector::Array(Vec::new())).unwrap(), 0);
        assert_eq!(writer.add(rows(&data, DIM).slice(0..1)).unwrap().start, next.start);
        writer.remove_ids(&IdSelector::Array(vec![next.start])).unwrap();
    });
    change(&store, "k", |writer| {
        assert!(writer.add_with_keys(&no_keys, none).unwrap().is_empty());
        assert_eq!(writer.upsert_with_keys(&no_keys, none).unwrap(), 0);
        writer.update_with_keys(&no_keys, none).unwrap();
        assert_eq!(writer.remove_keys(&no_keys).unwrap(), 0);
    });
    let after = reader(&store, "i");
    assert_eq!(after.ids().unwrap(), before.ids().unwrap());
    assert_eq!(after.list_sizes().unwrap(), before.list_sizes().unwrap());
    assert!(after.reconstruct_batch(&[]).unwrap().is_empty());
    assert!(after.search_batch(none, 3, &everywhere()).unwrap().is_empty());
    assert!(after.range_search_batch(none, 3.0, &everywhere()).unwrap().is_empty());
    assert_sound(&store, "i");
    assert_sound(&store, "k");
}
