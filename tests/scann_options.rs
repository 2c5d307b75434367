//! Worry: an option that is taken and does nothing, or that is forgotten when the file is opened again.
//!
//! Noticed by what each option is for, computed here from its definition: second lists by their cost, lists by the nearest
//! centroid, dimensions by the variance they explain, errors of codes and kept rows; and by opening what was built and making
//! it again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::BTreeSet;
use support::*;
use vellum::*;

const DIM: usize = 8;

fn open(store: &Store, index: &str) -> IndexReader<'static> {
    store.begin_read().unwrap().index(index).unwrap()
}

/// Rows of length 1.
fn units(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut data = reals(n, dim, seed);
    for row in data.chunks_exact_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    data
}

fn queries_of(data: &[f32], dim: usize) -> Vec<Vec<f32>> {
    data.chunks_exact(dim).map(<[f32]>::to_vec).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// All options at once: in the specification, in the training, in the file, and again when it is indexed again.
#[test]
fn options_are_kept_with_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.vellum");
    let data = units(400, DIM, 1);
    let queries = queries_of(&units(9, DIM, 2), DIM);
    let tree = Tree {
        num_leaves: 10,
        num_leaves_to_search: 4,
        soar: true,
        soar_lambda: 0.75,
        avq: Some(2.0),
        min_partition_size: 7,
        training_sample_size: 300,
        ..Tree::default()
    };
    let ah = ScoreAh { training_sample_size: 350, training_iterations: 3, ..ScoreAh::default() };
    let builder = Retriever::builder().tree(tree).score_ah(ah).reorder(40, Quantize::Int8);
    let retriever = builder.reorder_threshold(0.2).pca_significance(0.7, 0.9).create(&path).unwrap();
    retriever.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
    let spec = retriever.reader().unwrap().spec().clone();
    let text = spec.to_string();
    assert!(text.starts_with("PCA") && text.contains("IVF10_SOAR0.75_AVQ2,PQ"), "{text}");
    assert!(text.ends_with("fsr,RSQ8_aq0.2"), "{text}");
    assert_eq!((spec.spill_strength(), spec.avq(), spec.kept_threshold()), (0.75, Some(2.0), Some(0.2)));
    let training = retriever.reader().unwrap().training().unwrap().unwrap();
    assert_eq!((training.code_rows, training.code_iterations), (Some(350), Some(3)));
    assert_eq!((training.sample_rows, training.clustering.min_cluster_rows), (Some(350), 7));
    assert_eq!(training.clustering.max_points_per_centroid, 30);
    assert_eq!(training.clustering.spherical, Some(false));
    assert_sound(retriever.store(), retriever.name());
    let (answers, config) = (retriever.retrieve(&queries, None).unwrap(), retriever.config().unwrap());
    for line in ["soar_lambda 0.75", "avq 2", "min_partition_size 7", "reordering_threshold 0.2"] {
        assert!(config.lines().any(|own| own == line), "{line} in {config}");
    }
    drop(retriever);
    let store = Store::open(&path).unwrap();
    let reopened = Retriever::open(&store, "retriever").unwrap();
    assert_eq!(reopened.retrieve(&queries, None).unwrap(), answers);
    reopened.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
    assert_eq!(reopened.retrieve(&queries, None).unwrap(), answers);
    assert_eq!((reopened.config().unwrap(), reopened.reader().unwrap().spec()), (config, &spec));
}

/// By the definition, in f64, and for rows that are added after the file was opened again, too.
#[test]
fn second_lists_are_those_of_the_strength_that_was_said() {
    let mut seconds = Vec::new();
    for (text, lambda) in [("IVF12_SOAR0,Flat", 0.0), ("IVF12_SOAR,Flat", 1.5), ("IVF12_SOAR6,Flat", 6.0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.vellum");
        let data = reals(300, DIM, 3);
        {
            let store = Store::create(&path).unwrap();
            create(&store, "i", &spec(text, DIM, Metric::L2));
            change(&store, "i", |index| {
                train(index, rows(&data, DIM));
                index.add(rows(&data, DIM).slice(0..150)).unwrap();
            });
        }
        let store = Store::open(&path).unwrap();
        change(&store, "i", |index| index.add(rows(&data, DIM).slice(150..300)).unwrap());
        assert_sound(&store, "i");
        let reader = open(&store, "i");
        let centroids = reader.centroids().unwrap();
        let mut found = vec![BTreeSet::new(); 300];
        for list in 0..12u32 {
            for id in reader.list(list).unwrap().0 {
                found[id as usize].insert(list);
            }
        }
        for (row, lists) in rows(&data, DIM).iter().zip(&found) {
            let distance = |list: u32| squared(row, centroids.row(list as usize));
            let first = (0..12).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap();
            let residual: Vec<f32> =
                row.iter().zip(centroids.row(first as usize)).map(|(x, c)| x - c).collect();
            let cost = |list: u32| {
                let away: Vec<f32> =
                    row.iter().zip(centroids.row(list as usize)).map(|(x, c)| x - c).collect();
                distance(list) + lambda * dot(&residual, &away).powi(2) / dot(&residual, &residual)
            };
            let others = (0..12).filter(|list| *list != first);
            let second = others.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap();
            assert_eq!(*lists, [first, second].into(), "{text}");
        }
        seconds.push(found);
    }
    assert!(seconds[0] != seconds[1] && seconds[1] != seconds[2]);
}

/// Rows stand with the centroid that is nearest by L2, queries go by product, and nothing is lost on the way.
#[test]
fn anisotropic_centroids_have_the_rows_that_are_near() {
    for metric in [Metric::InnerProduct, Metric::Cosine] {
        let store = memory();
        create(&store, "i", &spec("IVF12_AVQ2.5,Flat", DIM, metric));
        create(&store, "means", &spec("IVF12,Flat", DIM, metric));
        let data = reals(600, DIM, 4);
        let mut oracle = Oracle::new(metric, Stored::F32);
        for index in ["i", "means"] {
            change(&store, index, |index| {
                train(index, rows(&data, DIM));
                index.add(rows(&data, DIM)).unwrap();
            });
        }
        oracle.put_all(0..600, rows(&data, DIM));
        assert_sound(&store, "i");
        let reader = open(&store, "i");
        let centroids = reader.centroids().unwrap();
        let of_length_1 = |rows: Rows<'_>| rows.iter().all(|c| (dot(c, c) - 1.0).abs() < 1e-5);
        assert!(!of_length_1(centroids) && of_length_1(open(&store, "means").centroids().unwrap()));
        for list in 0..12u32 {
            for id in reader.list(list).unwrap().0 {
                let (row, own) =
                    (&oracle.vectors[&id], squared(&oracle.vectors[&id], centroids.row(list as usize)));
                let least = centroids.iter().map(|c| squared(row, c)).fold(f64::INFINITY, f64::min);
                assert!(own <= least + 1e-5, "{metric}, row {id}: {own}, {least}");
            }
        }
        for query in rows(&reals(20, DIM, 5), DIM).iter() {
            assert_close(
                &reader.search(query, 20, &everywhere()).unwrap(),
                &oracle.all(query),
                metric,
                "all",
            );
            let (probes, best) = (reader.probe(rows(query, DIM), 1).unwrap(), |list: usize| {
                let norm = if metric == Metric::Cosine { dot(query, query).sqrt() } else { 1.0 };
                dot(query, centroids.row(list)) / norm
            });
            let most = (0..12).map(best).fold(f64::NEG_INFINITY, f64::max);
            assert!(best(probes.lists(0)[0] as usize) >= most - 1e-5, "{metric}");
        }
        // More rows, by the same rule, when lists are made anew.
        let report = change(&store, "i", |index| {
            let params =
                MaintainParams { list_entries: Some(20.0), split_beyond: 1.5, ..MaintainParams::default() };
            index.maintain(&params, &mut Observer::none()).unwrap()
        });
        assert!(report.split > 0 && report.lists > 12, "{report:?}");
        assert_sound(&store, "i");
        assert_eq!(open(&store, "i").spec().avq(), Some(2.5));
    }
}

/// The products of rows with themselves, which are 1, from rows that are kept in two bytes or one.
#[test]
fn rows_that_are_rounded_with_a_threshold_score_large_products_better() {
    let (n, dim) = (500, 32);
    let data = units(n, dim, 6);
    for quantize in [Quantize::Bfloat16, Quantize::Int8] {
        let error = |threshold: Option<f32>| {
            let builder =
                Retriever::builder().num_leaves(4).num_leaves_to_search(4).reorder(n, quantize).k(1);
            let builder = threshold.into_iter().fold(builder, RetrieverBuilder::reorder_threshold);
            let retriever = builder.in_memory().unwrap();
            retriever.index(rows(&data, dim), Identifiers::RowNumbers).unwrap();
            assert_sound(retriever.store(), retriever.name());
            let answers = retriever.retrieve(&queries_of(&data[..100 * dim], dim), None).unwrap();
            answers.iter().map(|hits| f64::from(hits[0].score - 1.0).powi(2)).sum::<f64>()
        };
        let (plain, shaped) = (error(None), error(Some(0.5)));
        assert!(shaped < 0.5 * plain, "{quantize:?}: {shaped}, {plain}");
    }
    let refused = |builder: RetrieverBuilder| {
        let index = |retriever: Retriever| retriever.index(rows(&data, dim), Identifiers::RowNumbers);
        builder.num_leaves(4).in_memory().and_then(index).unwrap_err()
    };
    let builder = || Retriever::builder().reorder(9, Quantize::Int8).reorder_threshold(0.2);
    assert!(matches!(refused(builder().distance_measure(Metric::L2)), Error::Spec { .. }));
    assert!(matches!(refused(builder().reorder(9, Quantize::Float32)), Error::Spec { .. }));
    assert!(matches!(refused(builder().score_brute_force(Quantize::Bfloat16)), Error::Spec { .. }));
    let avq = Tree { avq: Some(2.0), num_leaves: 4, ..Tree::default() };
    assert!(matches!(
        refused(Retriever::builder().tree(avq).distance_measure(Metric::L2)),
        Error::Spec { .. }
    ));
}

/// More rows and more iterations make better points, and codes without points refuse both.
#[test]
fn codes_are_trained_as_long_as_they_are_told() {
    let data = reals(1500, DIM, 7);
    let store = memory();
    let error = |text: &str, code_rows: Option<usize>, code_iterations: Option<usize>| {
        create(&store, "i", &spec(text, DIM, Metric::L2));
        let params = TrainParams { code_rows, code_iterations, ..TrainParams::default() };
        change(&store, "i", |index| {
            index.train(rows(&data, DIM), &params, &mut Observer::none()).unwrap();
            index.add(rows(&data, DIM)).unwrap();
        });
        let reader = open(&store, "i");
        let mut as_trained = params;
        // What was left open is decided: for L2, centroids are means.
        as_trained.clustering.spherical = Some(false);
        assert_eq!(reader.training().unwrap().unwrap(), as_trained);
        let decoded = reader.reconstruct_batch(&(0..1500).collect::<Vec<_>>()).unwrap();
        drop(reader);
        let txn = store.begin_write().unwrap();
        txn.drop_index("i").unwrap();
        txn.commit().unwrap();
        squared(&decoded, &data)
    };
    for text in ["IVF1,PQ2x6np", "IVF1,PQ2x4fs"] {
        let (short, long) = (error(text, Some(1500), Some(1)), error(text, Some(1500), Some(20)));
        assert!(long < 0.97 * short, "{text}: {long} after 20, {short} after 1 iteration");
        let few = error(text, Some(70), None);
        assert!(long < 0.95 * few, "{text}: {long} of 1,500, {few} of 70 rows");
        assert_eq!(error(text, None, None).to_bits(), error(text, None, Some(25)).to_bits());
    }
    let refused = |text: &str, params: TrainParams| {
        create(&store, text, &spec(text, DIM, Metric::L2));
        change(&store, text, |index| {
            index.train(rows(&data, DIM), &params, &mut Observer::none()).unwrap_err()
        })
    };
    let (code_rows, code_iterations) = (Some(100), Some(3));
    for (text, params, expected) in [
        ("IVF2,Flat", TrainParams { code_rows, ..TrainParams::default() }, "code_rows"),
        ("IVF3,PQ2", TrainParams { code_rows: Some(0), ..TrainParams::default() }, "code_rows"),
        ("IVF2,SQ8", TrainParams { code_iterations, ..TrainParams::default() }, "code_iterations"),
    ] {
        let error = refused(text, params);
        assert!(matches!(error, Error::Parameter { name, .. } if name == expected), "{text}: {error:?}");
    }
}

/// Three heaps and three rows far from everything, each with a centroid to begin with.
#[test]
fn clusters_of_too_few_rows_are_given_up() {
    let mut data = reals(300, 2, 8);
    let heaps = [[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]];
    data.chunks_exact_mut(2).enumerate().for_each(|(i, row)| {
        (row[0], row[1]) = (row[0] + heaps[i % 3][0], row[1] + heaps[i % 3][1]);
    });
    let far = [50.0f32, 50.0, -50.0, 50.0, 50.0, -50.0];
    data.extend(far);
    let initial: Vec<f32> = heaps.iter().flatten().copied().chain(far).collect();
    // How far each of the far rows is from a centroid.
    let distances = |min_cluster_rows: usize| -> Vec<f64> {
        let params = ClusteringParams { min_cluster_rows, niter: 1, ..ClusteringParams::default() };
        let initial = Some(rows(&initial, 2));
        let found = kmeans(rows(&data, 2), 6, Metric::L2, &params, initial, &mut Observer::none()).unwrap();
        assert_eq!(found.iterations[0].splits, if min_cluster_rows > 1 { 3 } else { 0 });
        let nearest =
            |row| found.centroids.chunks_exact(2).map(|c| squared(row, c)).fold(f64::INFINITY, f64::min);
        far.chunks_exact(2).map(nearest).collect()
    };
    assert_eq!(distances(1), [0.0; 3]);
    assert!(distances(20).iter().all(|distance| *distance > 1000.0));
    // No more than the mean can be asked for.
    assert_eq!(distances(1000), distances(50));
}

/// A builder with another parameter.
type Change = fn(RetrieverBuilder) -> RetrieverBuilder;

/// Three components of eight have nearly all the variance, then all have.
#[test]
fn vectors_say_how_many_components_are_enough() {
    let mut narrow = reals(300, DIM, 9);
    narrow.chunks_exact_mut(DIM).for_each(|row| row[3..].iter_mut().for_each(|x| *x *= 0.01));
    let wide = reals(300, DIM, 10);
    let kinds: [(&str, Change); 2] =
        [("PCA", |b| b.pca_significance(0.95, 1.0)), ("Trunc", |b| b.truncate_significance(0.95))];
    for (name, change) in kinds {
        let builder = change(Retriever::builder().num_leaves(2).num_leaves_to_search(2));
        let retriever =
            builder.distance_measure(Metric::L2).reorder(50, Quantize::Float32).in_memory().unwrap();
        let text = |retriever: &Retriever| retriever.reader().unwrap().spec().to_string();
        retriever.index(rows(&narrow, DIM), Identifiers::RowNumbers).unwrap();
        let by_rows = text(&retriever);
        assert!(by_rows.starts_with(&format!("{name}3,")), "{by_rows}");
        let answers = retriever.retrieve(&queries_of(&narrow[..80], DIM), None).unwrap();
        assert!(answers.iter().enumerate().all(|(i, hits)| hits[0].identifier.as_u64() == Some(i as u64)));
        let batches = narrow.chunks(70 * DIM).map(|rows| Ok(rows.to_vec()));
        retriever.index_from_iter(DIM, batches).unwrap();
        assert_eq!(text(&retriever), by_rows);
        assert_sound(retriever.store(), retriever.name());
        let ids: Vec<u64> = (300..600).collect();
        retriever.upsert(&ids[..], rows(&wide, DIM)).unwrap();
        assert_eq!(text(&retriever), by_rows, "a change is no training");
        retriever.rebalance().unwrap();
        assert_ne!(text(&retriever), by_rows, "{name}");
        assert_sound(retriever.store(), retriever.name());
    }
    let few = Retriever::builder().num_leaves(2).pca_significance(1.0, 0.25).in_memory().unwrap();
    few.index(rows(&wide, DIM), Identifiers::RowNumbers).unwrap();
    assert!(few.reader().unwrap().spec().to_string().starts_with("PCA2,"));
}

/// Vectors come to one place, more than lists were made for: after so many changes the lists are seen to, in the transaction
/// of the change, and all is found.
#[test]
fn a_tree_that_grows_is_seen_to() {
    for growth in [Growth::Vectors(200), Growth::Fraction(0.5)] {
        let tree = Tree {
            num_leaves: 8,
            num_leaves_to_search: 8,
            incremental_threshold: Some(growth),
            ..Tree::default()
        };
        let builder = Retriever::builder().tree(tree).distance_measure(Metric::L2);
        let retriever = builder.reorder(5000, Quantize::Float32).in_memory().unwrap();
        let data = integers(400, DIM, 100, 11);
        let mut oracle = Oracle::new(Metric::L2, Stored::F32);
        retriever.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
        oracle.put_all(0..400, rows(&data, DIM));
        let lists = || retriever.reader().unwrap().nlist();
        let mut seen = vec![lists()];
        for batch in 0..6u64 {
            let near = integers(100, DIM, 8, 12 + batch);
            let ids: Vec<u64> = (0..100).map(|i| 1000 + 100 * batch + i).collect();
            assert_eq!(retriever.upsert(&ids[..], rows(&near, DIM)).unwrap(), 100);
            oracle.put_all(ids, rows(&near, DIM));
            seen.push(lists());
            assert_sound(retriever.store(), retriever.name());
            let reader = retriever.reader().unwrap();
            for query in rows(&integers(5, DIM, 100, batch), DIM).iter() {
                let found = reader.search(query, 20, &SearchParams::new()).unwrap();
                assert_same(&found, &oracle.all(query)[..20], "all lists, still");
            }
            assert!(retriever.is_exact().unwrap());
        }
        assert_eq!(seen[..2], [8, 8], "{growth:?}: not yet");
        assert!(seen[2] > 8 && seen[6] > seen[2], "{growth:?}: {seen:?}");
        let gone: Vec<u64> = (1000..1600).collect();
        assert_eq!(retriever.delete(&gone[..]).unwrap(), 600);
        gone.iter().for_each(|id| drop(oracle.vectors.remove(id)));
        assert!(lists() < seen[6], "{growth:?}: dissolved");
        // By hand, and back to what was asked for.
        let params = MaintainParams { list_entries: Some(10.0), ..MaintainParams::default() };
        assert!(retriever.maintain(&params).unwrap().lists > 8);
        assert!(retriever.is_exact().unwrap());
        retriever.rebalance().unwrap();
        assert_eq!(lists(), 8);
        assert_sound(retriever.store(), retriever.name());
        let query = integers(1, DIM, 100, 99);
        let reader = retriever.reader().unwrap();
        assert_same(
            &reader.search(&query, 20, &SearchParams::new()).unwrap(),
            &oracle.all(&query)[..20],
            "at last",
        );
    }
}

/// From brute force to lists, more lists, and back, without being asked.
#[test]
fn an_autopilot_that_is_online_chooses_by_itself() {
    // 42 lists of 200 rows: from 8,400 rows on there are lists.
    let dim = 656;
    let seeds = reals(13_000, 4, 13);
    let of_seed = |s: &[f32]| -> Vec<f32> {
        (0..dim).map(|i| s[i % 4] + (i / 4 % 7) as f32 * s[(i + 1) % 4]).collect()
    };
    let part = |from: usize, to: usize| -> Vec<f32> {
        seeds[4 * from..4 * to].chunks_exact(4).flat_map(of_seed).collect()
    };
    let builder = Retriever::builder().autopilot(Quantize::Float32).distance_measure(Metric::L2);
    let retriever = builder.autopilot_mode(AutopilotMode::OnlineIncremental).in_memory().unwrap();
    let lists = || retriever.reader().unwrap().spec().nlist();
    retriever.index(rows(&part(0, 100), dim), Identifiers::RowNumbers).unwrap();
    assert_eq!(lists(), None);
    let add = |from: usize, to: usize| {
        let ids: Vec<u64> = (from as u64..to as u64).collect();
        retriever.upsert(&ids[..], rows(&part(from, to), dim)).unwrap();
    };
    add(100, 8_400);
    assert_eq!(lists(), Some(42));
    let before: Vec<Vec<f32>> = queries_of(retriever.reader().unwrap().centroids().unwrap().as_slice(), dim);
    add(8_400, 12_000);
    assert_eq!(lists(), Some(42), "less than half as many");
    add(12_000, 13_000);
    assert_ne!(lists(), None);
    let after = retriever.reader().unwrap();
    // Lists that were neither split nor dissolved are what they were.
    let kept = after.centroids().unwrap().iter().filter(|c| before.iter().any(|b| b == c)).count();
    assert!(kept > 10 && after.nlist() > 42, "{kept} of 42 kept, {} now", after.nlist());
    drop(after);
    assert_sound(retriever.store(), retriever.name());
    retriever.delete((100..13_000u64).collect::<Vec<_>>()).unwrap();
    assert_eq!((lists(), retriever.len().unwrap()), (None, 100));
}

/// An upper tree: how many leaves it has is in the specification, how many are searched in every search.
#[test]
fn leaves_are_found_by_way_of_an_upper_tree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.vellum");
    let data = reals(900, DIM, 16);
    let queries = queries_of(&reals(20, DIM, 17), DIM);
    let builder = |upper, leaves| {
        let tree = Tree { num_leaves: 40, num_leaves_to_search: leaves, ..Tree::default() };
        let builder = Retriever::builder().distance_measure(Metric::L2).tree(tree).upper_tree(upper);
        builder.score_brute_force(Quantize::Float32)
    };
    let two = UpperTree { num_leaves: 6, num_leaves_to_search: Some(2) };
    let retriever = builder(two, 40).create(&path).unwrap();
    retriever.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
    let check = |retriever: &Retriever| {
        let reader = retriever.reader().unwrap();
        assert_eq!(reader.spec().coarse(), Coarse::Tree(6));
        assert!(!retriever.is_exact().unwrap(), "all leaves, but of two upper ones");
        let found = retriever.retrieve(&queries, None).unwrap();
        let mut missed = 0;
        for (query, found) in queries.iter().zip(&found) {
            let params = nprobe(40).quantizer_params(QuantizerParams::SuperClusters(2));
            let expected = reader.search(query, 10, &params).unwrap();
            let ids: Vec<Identifier> = expected.iter().map(|hit| hit.id.into()).collect();
            assert_eq!(found.iter().map(|hit| hit.identifier.clone()).collect::<Vec<_>>(), ids);
            assert_eq!(retriever.retrieve_one(query, None).unwrap(), *found);
            // A search that says more, or all, is taken at its word.
            let exact = SearchParams::new().quantizer_params(QuantizerParams::Exact);
            let all = retriever.search(query, 10, &exact).unwrap();
            let brute = reader.search(query, 10, &everywhere()).unwrap();
            assert!(all.iter().zip(&brute).all(|(a, b)| a.score.to_bits() == b.distance.to_bits()));
            missed += usize::from(all != *found);
        }
        assert!(missed > 0, "two of six have any effect");
        found
    };
    let found = check(&retriever);
    let config = retriever.config().unwrap();
    for line in ["upper_num_leaves 6", "upper_num_leaves_to_search 2"] {
        assert!(config.lines().any(|own| own == line), "{line} in {config}");
    }
    assert_sound(retriever.store(), retriever.name());
    drop(retriever);
    let store = Store::open(&path).unwrap();
    let reopened = Retriever::open(&store, "retriever").unwrap();
    assert_eq!(check(&reopened), found);
    reopened.rebalance().unwrap();
    check(&reopened);
    // Without a word of how many are searched, all leaves are all vectors; so are all upper leaves.
    for to_search in [None, Some(6), Some(100)] {
        let all =
            builder(UpperTree { num_leaves: 6, num_leaves_to_search: to_search }, 40).in_memory().unwrap();
        all.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
        assert!(all.is_exact().unwrap());
        let reader = all.reader().unwrap();
        let brute = reader.search_batch(rows(&queries.concat(), DIM), 10, &everywhere()).unwrap();
        for (found, brute) in all.retrieve(&queries, None).unwrap().iter().zip(&brute) {
            assert!(found.iter().zip(brute).all(|(a, b)| a.score.to_bits() == b.distance.to_bits()));
        }
    }
    for (wrong, word) in [
        (UpperTree { num_leaves: 0, num_leaves_to_search: None }, "0 leaves"),
        (UpperTree { num_leaves: 41, num_leaves_to_search: None }, "41 leaves"),
        (UpperTree { num_leaves: 4, num_leaves_to_search: Some(0) }, "0 leaves to search"),
    ] {
        match builder(wrong, 10).in_memory() {
            Err(Error::Parameter { name: "upper_tree", what }) => assert!(what.contains(word), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    let avq = Tree { avq: Some(2.0), upper: Some(two), ..Tree::default() };
    let refused = Retriever::builder().tree(avq).in_memory();
    assert!(matches!(refused, Err(Error::Parameter { name: "upper_tree", .. })));
}

/// `spherical`: said or left to the measure, and what cosine cannot do is refused when it is said.
#[test]
fn spherical_is_as_it_was_said() {
    let data = reals(300, DIM, 18);
    let unit = |measure, spherical| -> Result<bool> {
        let tree = Tree { num_leaves: 6, spherical, ..Tree::default() };
        let retriever = Retriever::builder().distance_measure(measure).tree(tree).in_memory()?;
        retriever.index(rows(&data, DIM), Identifiers::RowNumbers)?;
        let reader = retriever.reader()?;
        let norms = reader.centroids().unwrap().iter().map(|c| dot(c, c)).collect::<Vec<_>>();
        Ok(norms.iter().all(|norm| (norm - 1.0).abs() < 1e-5))
    };
    for (measure, spherical, expected) in [
        (Metric::InnerProduct, None, true),
        (Metric::InnerProduct, Some(true), true),
        (Metric::InnerProduct, Some(false), false),
        (Metric::L2, None, false),
        (Metric::L2, Some(true), true),
        (Metric::Cosine, None, true),
    ] {
        assert_eq!(unit(measure, spherical).unwrap(), expected, "{measure} {spherical:?}");
    }
    let refused = unit(Metric::Cosine, Some(false));
    assert!(matches!(refused, Err(Error::Parameter { name: "spherical", .. })));
}

#[test]
fn batches_and_threads_do_not_matter() {
    let data = reals(200, DIM, 14);
    let queries = queries_of(&reals(25, DIM, 15), DIM);
    let retriever = Retriever::builder().num_leaves(5).in_memory().unwrap();
    retriever.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
    let params = SearchParams::new().nprobe(3);
    let answers = retriever.search_batched_parallel(&queries, 6, &params).unwrap();
    for batch in [1, 7, 25, 1000] {
        assert_eq!(retriever.search_batched_parallel_by(&queries, 6, &params, batch).unwrap(), answers);
    }
    let refused = retriever.search_batched_parallel_by(&queries, 6, &params, 0);
    assert!(matches!(refused, Err(Error::Parameter { name: "batch_size", .. })));
    for threads in [1, 3] {
        let own = Retriever::open(retriever.store(), "retriever").unwrap().with_threads(threads).unwrap();
        assert_eq!(own.search_batched_parallel(&queries, 6, &params).unwrap(), answers);
        own.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
        assert_eq!(own.search_batched(&queries, 6, &params).unwrap(), answers);
    }
    let refused = Retriever::open(retriever.store(), "retriever").unwrap().with_threads(0);
    assert!(matches!(refused, Err(Error::Parameter { name: "threads", .. })));
}
